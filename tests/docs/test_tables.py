"""The code in the tables of the pages runs, and prints what stands beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import worldformula
from tests.docs import fences

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [DOCS / "tutorials/09_from_pixyz.md", DOCS / "language.md"]
TEXTS = {path: path.read_text(encoding="utf-8") for path in PAGES}
ROWS = [pytest.param(path, row, id=f"{path.stem}:{row.line + 1}") for path in PAGES for row in fences.rows(TEXTS[path])]


@pytest.fixture(scope="module")
def sessions() -> dict[Path, dict[str, Any]]:
    found = {}
    for path, text in TEXTS.items():
        torch.manual_seed(0)
        found[path] = fences.session(path)
        for block in fences.blocks(text):
            fences.run(block, found[path], path.name)
    return found


@pytest.mark.parametrize(("path", "row"), ROWS)
def test_the_code_of_a_row_runs_and_prints_what_is_shown(
    path: Path, row: fences.Row, sessions: dict[Path, dict[str, Any]]
) -> None:
    if row.prints:
        (source,) = fences.code(row.cells[-2])
        assert row.cells[-1] == fences.printed(source, sessions[path])
    elif row.last in ("worldformula", "written"):
        for source in fences.code(row.cells[-1]):
            eval(source, sessions[path])


def test_the_page_for_pixyz_has_every_feature_of_its_list() -> None:
    named = re.findall(r"^\| ([FL]\d+) \|", TEXTS[PAGES[0]], flags=re.MULTILINE)
    assert named == [f"F{i}" for i in range(1, 20)] + [f"L{i}" for i in range(1, 14)]


def test_the_reference_has_every_public_name() -> None:
    prose = re.sub(r"^```.*?^```$|\$`[^`]+`\$", "", TEXTS[PAGES[1]], flags=re.MULTILINE | re.DOTALL)
    spans = " ".join(fences.code(prose))
    assert [name for name in worldformula.__all__ if not re.search(rf"\b{name}\b", spans)] == []
