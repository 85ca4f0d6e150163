"""A notebook, executed without a screen and without a network: what each cell shows, by type and by content."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.formula.test_mathml import read

ROOT = Path(__file__).parents[2]
HTML, LATEX, SVG, TEXT = "text/html", "text/latex", "image/svg+xml", "text/plain"
SETUP = """
import torch
from torch import nn
from worldformula import KL, Bernoulli, Deterministic, E, Normal, Sum, World, log
from worldformula.data import load

prior = Normal("p(z)", shape=2)
encode = Normal("q(z|x)", nn.Linear(4, 4), shape=2)
decode = Bernoulli("p(x|z)", nn.Linear(2, 4))
loss = (KL(encode, prior) - E(encode, log(decode))).mean()
core = Deterministic("h_t = f(h_{t-1})", nn.Linear(3, 3), shape=3)
head = Normal("p(x_t|h_t)", nn.Linear(3, 8), shape=4)
steps = Sum("t", E(core, -log(head))).mean()
rate = KL(Normal("q(z)", loc=1.0, scale=1.0, shape=4), Normal("p(z)", shape=4))
"""
CELLS = {
    "loss": "loss",
    "code": "loss.code",
    "picture": "loss.graph()",
    "explanation": "loss.explain()",
    "factor": "encode",
    "product": "prior * decode",
    "world": "World(prior=core, posterior=core, heads=[head], loss=steps)",
    "result": "rate.mean()()",
    "data": "load('sprites')",
    "nested": "{'loss': loss, 'out': rate.mean()()}",
    "run": "exec(loss.code, {}); print(loss.code, type(str(loss.code)), len(loss.code.splitlines()), sep='|')",
    "error": "loss(y=torch.zeros(1, 4))",
}
Shown = dict[str, Any]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Shown]:
    """The output of every cell: a result by type, ``{"stream": text}``, or an error."""
    cells = [nbformat.v4.new_code_cell(source) for source in (SETUP, *CELLS.values())]
    notebook = nbformat.v4.new_notebook(cells=cells)
    with pytest.MonkeyPatch.context() as environment:
        for variable in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
            environment.setenv(variable, str(tmp_path_factory.mktemp(variable.lower())))
        environment.setenv("OMP_NUM_THREADS", "1")
        where = {"metadata": {"path": str(ROOT)}}
        client = NotebookClient(notebook, kernel_name="python3", timeout=120, resources=where, allow_errors=True)
        client.execute()
    nbformat.validate(notebook)
    setup, *rest = notebook.cells
    assert setup.outputs == [], setup.outputs
    found = {}
    for name, cell in zip(CELLS, rest, strict=True):
        (output,) = cell.outputs
        found[name] = (
            {"error": output} if output.output_type == "error" else output.get("data") or {"stream": output.text}
        )
    return found


def rows(markup: str) -> list[list[str]]:
    return [[read(ET.tostring(cell, encoding="unicode")) for cell in row] for row in ET.fromstring(markup).iter("tr")]


@pytest.mark.parametrize(
    ("name", "types"),
    [
        ("loss", {TEXT, HTML, LATEX}),
        ("factor", {TEXT, HTML, LATEX}),
        ("product", {TEXT, HTML, LATEX}),
        ("code", {TEXT, HTML}),
        ("explanation", {TEXT, HTML}),
        ("picture", {TEXT, HTML, SVG}),
        ("world", {TEXT, HTML}),
        ("result", {TEXT, HTML}),
        ("data", {TEXT, HTML}),
        ("nested", {TEXT}),
    ],
)
def test_a_result_has_these_types(shown: Mapping[str, Shown], name: str, types: set[str]) -> None:
    assert set(shown[name]) == types


def test_all_html_is_well_formed_and_fetches_nothing(shown: Mapping[str, Shown]) -> None:
    checked = 0
    for bundle in shown.values():
        for kind in {HTML, SVG} & set(bundle):
            ET.fromstring(bundle[kind])
            checked += 1
            assert not re.search(r"https?:(?!//www\.w3\.org/2000/svg)|<script|<link|<img|\bsrc=|url\(", bundle[kind])
    assert checked == 10


def test_plain_texts_are_short_and_hold_no_arrays(shown: Mapping[str, Shown]) -> None:
    for name, bundle in shown.items():
        if name not in ("code", "run", "error"):
            assert len(bundle[TEXT]) < 500
            assert not re.search(r"tensor\(|array\(|object at 0x", bundle[TEXT])


def test_a_loss_shows_its_formula(shown: Mapping[str, Shown]) -> None:
    (mathematics,) = ET.fromstring(shown["loss"][HTML]).iter("math")
    markup = ET.tostring(mathematics, encoding="unicode")
    assert read(markup) == "mean(DKL[q(z∣x)∥p(z)]−𝔼q(z∣x)[logp(x∣z)])"
    assert shown["loss"][LATEX].startswith("$\\displaystyle \\operatorname{mean}")
    assert shown["loss"][TEXT] == "<Expression mean(KL(q(z|x) ‖ p(z)) - E_{q(z|x)}[log p(x|z)])>"


def test_code_is_coloured_and_the_same(shown: Mapping[str, Shown]) -> None:
    text = shown["code"][TEXT]
    assert text.startswith("import torch\n")
    assert "".join(ET.fromstring(shown["code"][HTML]).itertext()) == text
    assert len(ET.fromstring(shown["code"][HTML]).findall("span")) > 10
    printed, kind, count = shown["run"]["stream"].rsplit("|", 2)
    assert (printed, kind, int(count)) == (text, "<class 'str'>", len(text.splitlines()))


def test_a_picture_is_drawn(shown: Mapping[str, Shown]) -> None:
    picture = ET.fromstring(shown["picture"][SVG])
    labels = {"".join(text.itertext()) for text in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert labels == {"x", "z", "N"}
    assert shown["picture"][SVG] in shown["picture"][HTML]
    assert shown["picture"][TEXT] == "<Picture Graphical model: z latent, x observed>"


def test_an_explanation_is_a_table(shown: Mapping[str, Shown]) -> None:
    assert rows(shown["explanation"][HTML]) == [
        ["term", "estimator", "gradient"],
        ["DKL[q(z∣x)∥p(z)]", "closedform(normal,normal)", "exact"],
        ["𝔼q(z∣x)[…]", "MonteCarlo,1sharedsample", "reparametrised"],
        ["logp(x∣z)", "exact,atthevaluesitisgiven", "exact"],
    ]
    assert shown["explanation"][TEXT].splitlines()[-1] == "draws: z from q(z|x), once per call"


def test_factors_products_and_worlds(shown: Mapping[str, Shown]) -> None:
    assert read(shown["factor"][HTML]).replace("\u202f", "") == "q(z∣x)Normalofshape[2];network:Linear,20weights"
    assert rows(shown["product"][HTML])[1:] == [
        ["p(z)", "Normal", "[2]", ""],
        ["p(x∣z)", "Bernoulli", "", "Linear,12weights"],
    ]
    assert rows(shown["world"][HTML]) == [
        ["prior", "ht=f(ht−1)"],
        ["posterior", "ht=f(ht−1)"],
        ["headx", "p(xt∣ht)"],
        ["loss", "mean(∑t𝔼ht=f(ht−1)[−logp(xt∣ht)])"],
    ]


def test_a_result_shows_its_numbers(shown: Mapping[str, Shown]) -> None:
    assert rows(shown["result"][HTML]) == [["value", "2.0000"], ["DKL[q(z)∥p(z)]", "2.0000"]]  # 4 · ½ (1 − 0)²


def test_a_data_set_shows_shapes(shown: Mapping[str, Shown]) -> None:
    assert rows(shown["data"][HTML])[1:] == [["x", "[256]", "float32"], ["factors", "[4]", "int64"]]


def test_an_error_keeps_its_table(shown: Mapping[str, Shown]) -> None:
    error = shown["error"]["error"]
    assert error.ename == "UnknownVariableError"
    bare = [re.sub(r"\x1b\[[\d;]*m", "", line) for part in error.traceback for line in part.splitlines()]
    assert "\n".join(bare).endswith(
        "UnknownVariableError: the formula has no input 'y'.\n"
        "  variable | declared by | needed by      | got\n"
        "  x        | data        | q(z|x), p(x|z) | missing"
    )
