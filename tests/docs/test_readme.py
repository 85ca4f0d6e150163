"""The README is executed: its Python blocks in order, and what it says they print is what they print."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import summary

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def session() -> dict[str, Any]:
    """The names that the README's Python leaves behind, and both of its losses."""
    scope: dict[str, Any] = {}
    vae, others, world = [block for block in blocks("python") if "import" in block]
    exec(vae, scope)
    scope["vae"] = scope["loss"]
    exec(others, scope)
    exec(world, scope)
    return scope


def test_the_printed_formula_is_the_one_that_is_shown(session: dict[str, Any]) -> None:
    assert blocks("math")[0].strip() == str(session["vae"])


def test_the_emitted_code_is_the_one_that_is_shown(session: dict[str, Any]) -> None:
    shown = [block for block in blocks("python") if block.lstrip().startswith("def formula")]
    assert len(shown) == 1
    assert shown[0].strip() in session["vae"].code


@pytest.mark.parametrize("name", ["beta_vae", "iwae", "dreg", "rloo"])
def test_the_other_formulas_have_a_value_and_a_gradient(session: dict[str, Any], name: str) -> None:
    loss = session[name]
    given = {key: 4.0 if key == "beta" else torch.rand(4, 784) for key in loss.program.inputs}
    loss(**given).value.backward()
    assert all(p.grad.abs().sum() > 0 for p in loss.parameters() if p.grad is not None)
    assert any(p.grad is not None for p in loss.parameters())


def test_the_world_model_has_the_shapes_that_the_comments_promise(session: dict[str, Any]) -> None:
    assert session["states"]["h"].shape == (4, 16, 64)
    assert session["images"].shape == (4, 16, 784)


def test_what_runs_where_is_as_described(session: dict[str, Any]) -> None:
    *_, body = session["loss"].code.split('"""')
    before, rest = body.split("# in the loop", 1)
    loop, after = rest.split("# after the loop", 1)
    places = (before, loop, after)
    names = ("enc", "f", "q_z_given_h_e", "p_z_given_h", "p_x_given_h_z", "p_r_given_h_z")
    found = {name: [bool(re.search(rf"\b{name}\(", part)) for part in places].index(True) for name in names}
    assert list(found.values()) == [0, 1, 1, 2, 2, 2]


def test_every_local_link_leads_somewhere() -> None:
    root = Path(__file__).parents[2]
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (root / link).exists()] == []


def test_the_numbers_are_those_of_the_result_files() -> None:
    between = README.partition(summary.BEGIN)[2].partition(summary.END)[0]
    assert between.strip() == summary.table().strip(), "run: python -m benchmarks.summary --write"


def test_the_page_of_results_is_that_of_the_cards_and_the_result_files() -> None:
    kept = summary.PAGE.read_text(encoding="utf-8")
    assert kept == summary.page(), "run: python -m benchmarks.summary --write"


def test_every_file_of_the_map_exists() -> None:
    root = Path(__file__).parents[2]
    rows = [row.split("|") for row in (root / "docs/map.md").read_text().replace("\\|", " ").splitlines()[4:]]
    files = [(row[2].strip(" `"), name) for row in rows for name in re.findall(r"`([\w/]+\.\w+)`", row[3])]
    assert len(files) > 30
    assert [pair for pair in files if not (root / pair[0] / pair[1]).exists()] == []
