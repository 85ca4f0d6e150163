"""What a notebook shows, without a notebook: texts that stay texts, well-formed HTML, tables, quiet data sets."""

from __future__ import annotations

import copy
import dataclasses
import html
import importlib
import json
import math
import pickle
import pkgutil
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import worldformula.data
from tests.formula.models import rssm, sequences, vae
from tests.formula.test_mathml import read
from worldformula import (
    KL,
    Autoregressive,
    Bernoulli,
    Deterministic,
    E,
    Flow,
    Game,
    Mixture,
    Normal,
    OneHot,
    Player,
    PoE,
    Sum,
    World,
    log,
    together,
)
from worldformula.catalogue import find, names
from worldformula.data import load
from worldformula.data.base import Arrays
from worldformula.display import _TOKENS, Display, Picture, Source, Table, Written, decimals, highlighted
from worldformula.formula.graph.graph import graph
from worldformula.formula.print.notebook import parts_html
from worldformula.nets.coupling import RealNVP
from worldformula.nets.masked import MaskedMLP
from worldformula.training.fit import History, fit

GOLDEN = Path(__file__).parents[1] / "golden"


def rows(markup: str) -> list[list[str]]:
    """The cells of all tables, as a reader sees them."""
    return [[read(ET.tostring(cell, encoding="unicode")) for cell in row] for row in ET.fromstring(markup).iter("tr")]


def words(markup: str) -> str:
    """All text, with single spaces."""
    return " ".join(" ".join(ET.fromstring(markup).itertext()).split())


# ------------------------------------------------------------------------------------------------ texts that stay texts


def test_code_explanation_and_picture_are_texts() -> None:
    loss = vae()
    for shown, kind in ((loss.code, Source), (loss.explain(), Table), (loss.graph(), Picture)):
        assert isinstance(shown, kind)
        assert isinstance(shown, str)
        assert type(str(shown)) is str
        assert type(shown + "") is str
        assert shown == str(shown)
        assert {shown: 1}[str(shown)] == 1
        assert json.loads(json.dumps([shown])) == [str(shown)]
        assert shown.splitlines() == str(shown).splitlines()
    scope: dict[str, object] = {}
    exec(loss.code, scope)
    assert callable(scope["formula"])


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))])
def test_a_copy_shows_the_same(again) -> None:
    table = Table(("a", "b"), [("x<y", 1), (Written("p", "<b>p</b>"), 2)], ["below"])
    for shown in (table, Written("p", "<b>p</b>"), Source("x = 1"), Picture("<svg/>")):
        other = again(shown)
        assert (type(other), str(other), other._repr_html_()) == (type(shown), str(shown), shown._repr_html_())


def test_plain_text_in_a_notebook_has_its_lines_and_a_picture_says_what_it_is() -> None:
    class Printer:
        def __init__(self) -> None:
            self.out = ""

        def text(self, text: str) -> None:
            self.out += text

        def break_(self) -> None:
            self.out += "\n"

    def plain(shown: Display) -> str:
        printer = Printer()
        shown._repr_pretty_(printer, cycle=False)
        return printer.out

    loss = vae()
    assert plain(loss.explain()) == str(loss.explain())
    assert plain(loss.code) == str(loss.code)
    prime = Normal("p(z')", shape=2)
    assert plain(log(prime).graph()) == "<Picture Graphical model: z' observed>"
    assert plain(Picture("<svg/>")) == "<Picture of 6 characters>"


# ------------------------------------------------------------------------------------------------------------- the code


@pytest.mark.parametrize("name", ["small_vae", "small_rssm", "m2", "rbm"])
def test_colours_change_no_character(name: str) -> None:
    source = (GOLDEN / f"{name}.py").read_text(encoding="utf-8")
    shown = highlighted(source)
    assert html.unescape(re.sub(r"<[^>]*>", "", shown)) == source
    ET.fromstring(f"<pre>{shown}</pre>")
    assert re.search(
        r'<span style="color:var\(--jp-mirror-editor-keyword-color,#\w{6}\);font-weight:600">return</span>', shown
    )
    assert re.search(r'<span style="color:var\(--jp-mirror-editor-def-color,#\w{6}\)">formula</span>', shown)


@pytest.mark.parametrize("source", ["", "\n\n", "  x", "x = '<&>'  # a < b", "no python at ]]"])
def test_any_text_can_be_coloured(source: str) -> None:
    assert html.unescape(re.sub(r"<[^>]*>", "", highlighted(source))) == source


@pytest.mark.parametrize("ground", [1.0, 0.0056], ids=["white", "JupyterLab's dark #111"])
def test_colours_of_code_can_be_read(ground: float) -> None:
    for _, _, colour, _ in _TOKENS:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]  # relative luminance, WCAG 2
        assert (max(light, ground) + 0.05) / (min(light, ground) + 0.05) > 4, colour


# ------------------------------------------------------------------------------------------------- formulas and factors


def test_a_formula_is_mathematics_and_latex() -> None:
    z = Normal("p(z)", shape=2)
    q, p = Normal("q(z|x)", nn.Linear(3, 4)), Bernoulli("p(x|z)", nn.Linear(2, 3))
    loss = (KL(q, z) - E(q, log(p))).mean()
    assert read(loss._repr_html_()) == "mean(DKL[q(z∣x)∥p(z)]−𝔼q(z∣x)[logp(x∣z)])"
    assert loss._repr_latex_() == f"$\\displaystyle {loss.latex}$"
    assert len(ET.fromstring(rssm()._repr_html_()).findall(".//mtr")) > 3


FACTORS = [
    (lambda: Normal("q(z|x)", nn.Linear(3, 4), shape=2), "q(z∣x)", "Normal of shape [2]; network: Linear, 16 weights"),
    (lambda: Normal("p(z)", shape=(2, 3)), "p(z)", "Normal of shape [2, 3]"),
    (lambda: Normal("q(z|x)", nn.LazyLinear(4)), "q(z∣x)", "Normal; network: LazyLinear, weights not made yet"),
    (lambda: Deterministic("h = f(x)", torch.tanh), "h=f(x)", "Deterministic; network: tanh"),
    (
        lambda: PoE([Normal("p(z)", shape=2), Normal("q(z|x)", nn.Linear(3, 4), shape=2)]),
        "q(z∣x)∝p(z)q(z∣x)",
        "PoE of shape [2]",
    ),
    (
        lambda: Mixture("p(v|h)", nn.Linear(4, 25), components=5, shape=2),
        "p(v∣h)=∑k=15wk(h)pk(v∣h)",
        "Mixture of shape [2]; network: Linear, 125 weights",
    ),
    (
        lambda: Autoregressive("p(x)", MaskedMLP(4), family=Bernoulli, shape=4),
        "p(x)=∏ip(xi∣x<i)",
        None,
    ),
    (lambda: Flow("p(x|c)", RealNVP(2, context=3), shape=2), "p(x∣c)=p0(f(x;c))|det∂f(x;c)∂x|", None),
]


def test_the_parts_of_a_variable_with_a_time_have_one_subscript_each() -> None:
    series = Autoregressive("p(x_t|h_t)", MaskedMLP(4, context=3), family=Bernoulli, shape=4)
    assert series.latex == r"p(x_{t} \mid h_{t}) = \prod_{i} p({x_{t}}_{i} \mid {x_{t}}_{<i}, h_{t})"
    assert "p(xti∣xt<i,ht)" in read(series._repr_html_())


@pytest.mark.parametrize(("make", "formula", "said"), FACTORS, ids=[f for _, f, _ in FACTORS])
def test_a_factor_is_one_line(make, formula: str, said: str | None) -> None:
    shown = make()._repr_html_()
    (mathematics,) = ET.fromstring(shown).iter("math")
    assert read(ET.tostring(mathematics, encoding="unicode")) == formula.replace(" ", "")
    text = words(shown).replace("\u202f", "")
    assert "_FlowNetwork" not in text
    assert said is None or text.endswith(said)


def test_a_product_says_what_it_factorises_into_and_lists_its_factors() -> None:
    joint = Normal("p(z)", shape=2) * Bernoulli("p(x|z)", nn.Linear(2, 3))
    shown = joint._repr_html_()
    assert read(ET.tostring(next(ET.fromstring(shown).iter("math")), encoding="unicode")) == "p(z,x)=p(z)p(x∣z)"
    assert rows(shown) == [
        ["factor", "distribution", "shape", "network"],
        ["p(z)", "Normal", "[2]", ""],
        ["p(x∣z)", "Bernoulli", "", "Linear,9weights"],
    ]
    assert "p(x)=∫p(z)p(x∣z)dz" in read(joint.marginal("z")._repr_html_())


def test_functions_stand_behind_the_densities_that_read_them() -> None:
    post = Deterministic("h = f(x)", nn.Linear(3, 2)) * Normal("q(z|h)", nn.Linear(2, 4))
    shown = post._repr_html_()
    assert read(ET.tostring(next(ET.fromstring(shown).iter("math")), encoding="unicode")) == "q(z∣x)=q(z∣h),h=f(x)"


# ------------------------------------------------------------------------------------------------------ results, tables


def test_a_result_is_a_table_of_its_value_and_terms() -> None:
    q, p = Normal("q(z)", loc=1.0, scale=1.0, shape=4), Normal("p(z)", shape=4)  # KL = 4 · ½
    rate, energy = KL(q, p), E(q, log(Normal("p(z)", loc=0.0, scale=1.0, shape=4)), samples=2).mean()
    assert rows((2 * rate).mean()()._repr_html_()) == [["value", "4.0000"], ["DKL[q(z)∥p(z)]", "2.0000"]]
    shown = energy(noise={"z": torch.zeros(2, 4)})._repr_html_()  # z = 1, four times −½ − ½ log 2π
    assert rows(shown)[0] == ["value", f"−{2 + 2 * math.log(2 * math.pi):.4f}"]
    assert words(shown).endswith("samples: z [2, 4]")


def test_of_a_batch_the_mean_is_shown_and_called_so() -> None:
    values = torch.tensor([[0.0, 0.0], [2.0, 2.0]])
    out = log(Normal("p(x)", shape=2))(x=values)  # −½ Σ x² − log 2π: the mean over the rows is −2 − log 2π
    mean = f"−{2 + math.log(2 * math.pi):.4f}"
    assert rows(out._repr_html_()) == [["value", mean, "meanof[2]"], ["logp(x)", mean, "meanof[2]"]]
    assert repr(out) == "<Out of shape [2], terms: log p(x)>"


def test_two_terms_of_one_text_and_two_values_keep_apart() -> None:
    p = Normal("p(x)", shape=1)
    one = log(p).mean()
    twice = (log(p) + 2 * log(Normal("p(x)", shape=1, scale=2.0))).mean()(x=torch.zeros(1, 1))
    assert [row[0] for row in rows(twice._repr_html_())] == ["value", "logp(x)", "logp(x)(2)"]
    both = together(a=one, b=2 * one)(x=torch.zeros(1, 1))
    half = math.log(2 * math.pi) / 2
    assert rows(both._repr_html_())[:2] == [["a", f"−{half:.4f}"], ["b", f"−{2 * half:.4f}"]]
    assert re.fullmatch(r"<Out a -0\.9189\d*, b -1\.8378\d*, terms: log p\(x\), log p\(x\) \(2\)>", repr(both))


def test_named_terms_are_shown_by_their_names() -> None:
    rate = KL(Normal("q(z)", loc=1.0, scale=1.0, shape=4), Normal("p(z)", shape=4)).named("rate")
    assert rows(rate.mean()()._repr_html_()) == [["value", "2.0000"], ["rate", "2.0000"]]


@pytest.mark.parametrize(
    "values", [[25.31, -4.5], [13743.8, 0.517], [1e-9, 1.0], [0.0, 3.0], [1e12, 1e-12], [123456789.0, -0.5]], ids=str
)
def test_numbers_of_a_column_keep_three_digits(values: list[float]) -> None:
    shown = decimals(values)
    assert [float(s.replace("−", "-")) for s in shown] == pytest.approx(values, rel=5e-3)
    assert decimals([math.inf, -math.inf, math.nan]) == ["inf", "−inf", "nan"]


def test_an_explanation_is_a_table_with_what_is_drawn_below() -> None:
    explained = vae().explain()
    assert rows(explained._repr_html_())[0] == ["term", "estimator", "gradient"]
    assert [row[1:] for row in rows(explained._repr_html_())[1:]] == [
        [cell.replace(" ", "") for cell in line.split(" | ")[1:]]
        for line in str(explained).splitlines()[1:]
        if " | " in line
    ]
    assert words(explained._repr_html_()).endswith(str(explained).splitlines()[-1])
    staged = vae().explain(stages=True)
    assert "--- hoist_before\n" in staged
    assert "--- hoist_before\n" in "".join(ET.fromstring(staged._repr_html_()).itertext())


def test_a_graph_is_drawn_in_the_colour_of_the_page() -> None:
    drawn = vae().graph()
    assert drawn._repr_svg_() == str(drawn)
    svg = ET.fromstring(drawn._repr_html_())[0]
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"
    assert graph(vae())._repr_html_() == drawn._repr_html_()


# ------------------------------------------------------------------------------- worlds, models, games, data, histories


def world() -> World:
    core = Deterministic("h_t = f(h_{t-1}, z_{t-1}, a_{t-1})", Joined(3 + 2 + 1, 3), shape=3)
    prior, post = OneHot("p(z_t|h_t)", nn.Linear(3, 2), shape=2), OneHot("q(z_t|h_t,x_t)", Joined(3 + 4, 2), shape=2)
    head = Normal("p(x_t|h_t,z_t)", Joined(3 + 2, 8), shape=4)
    loss = Sum("t", E(core * post, KL(post, prior) - log(head))).mean()
    return World(prior=core * prior, posterior=core * post, heads=[head], loss=loss)


class Joined(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, outputs)

    def forward(self, *conditions):
        return self.layer(torch.cat(conditions, -1))


def test_a_world_is_a_table_of_its_formulas() -> None:
    shown = world()
    found = rows(shown._repr_html_())
    assert [row[0] for row in found if len(row) == 2] == ["prior", "posterior", "headx", "loss"]
    assert found[0][1] == "p(zt∣ht),ht=f(ht−1,zt−1,at−1)"
    # 6·3+3, 3·2+2, 7·2+2, 5·8+8
    assert words(shown._repr_html_()).endswith("state: h [3], z [2]; action: a; 93 weights")
    assert repr(shown).count("\n") == 0
    assert "p(x_t|h_t,z_t)" in repr(shown)


def test_models_games_and_systems_are_tables() -> None:
    model = find("vae").build(find("vae").sizes("tiny"))
    assert [row[0] for row in rows(model._repr_html_())] == ["prior", "encode", "decode", "loss"]
    q, p = Normal("q(z|x)", nn.Linear(3, 4), shape=2), Normal("p(z|y)", nn.Linear(3, 4), shape=2)
    game = Game(a=Player(KL(q, p).mean(), moves=[q]), b=Player((-KL(q, p)).mean(), moves=[p]))
    assert [row[0] for row in rows(game._repr_html_())] == ["lossofa", "lossofb"]
    assert "\n" not in repr(game)
    gan = find("gan").build(find("gan").sizes("tiny"))
    assert [row[0] for row in rows(gan._repr_html_()) if len(row) == 2][-2:] == ["lossofd", "lossofg"]
    assert rows(find("vae")._repr_html_())[0] == ["paper", find("vae").paper.replace(" ", "")]


def test_what_is_no_formula_is_said_briefly() -> None:
    parts = {"beta": 0.5, "w": torch.zeros(30, 2), "net": nn.Linear(2, 3), "f": torch.tanh, "long": np.zeros(99)}
    said = "beta: 0.5; w: [30, 2]; net: Linear; f: tanh; long: ndarray"
    assert words(parts_html({"p": Normal("p(z)", shape=2), **parts})).endswith(said)


@pytest.mark.parametrize("name", names("models"))
def test_every_model_of_the_catalogue_is_a_table_without_arrays(name: str) -> None:
    model = find(name).build(find(name).sizes("tiny"))
    shown = ET.fromstring(model._repr_html_())
    assert [row for row in shown.iter("tr") if "loss" in row[0].text]
    for said in ["".join(row[-1].itertext()) for row in shown.iter("tr")] + [shown[-1].text or ""]:
        assert not re.search(r"tensor\(|array\(|\(0\): |object at 0x|<function", said)


def test_a_history_is_a_table_of_a_few_of_its_rows() -> None:
    p = Normal("p(x)", torch.nn.Parameter(torch.zeros(1, 4)), shape=2)
    history = fit(-log(p).mean(), {"x": torch.zeros(8, 2)}, steps=30, batch=4, log_every=1)
    found = rows(history._repr_html_())
    assert found[0][0] == "step"
    assert (found[0][1], found[0][-1], len(found[0])) == ("1", "30", 7)
    assert float(found[1][1].replace("−", "-")) == pytest.approx(history["loss"][0], rel=1e-3)
    assert len(repr(history)) < 300
    assert "step 1 to 30" in repr(history)
    assert repr(History()) == "<History, no rows>"
    ET.fromstring(History()._repr_html_())


def test_a_data_set_says_shapes_and_no_numbers() -> None:
    data = load("sprites")
    assert repr(data) == "<DataSet sprites, 640 rows to learn from, 128 unseen: x [256] float32, factors [4] int64>"
    assert rows(data._repr_html_()) == [
        ["array", "shapeofarow", "type"],
        ["x", "[256]", "float32"],
        ["factors", "[4]", "int64"],
    ]
    assert words(data._repr_html_()).endswith("640 rows to learn from, 128 unseen; x is 16 × 16")


def holders() -> list[type]:
    """Every dataclass of the data folder with an array among its fields."""
    arrays = re.compile(r"\b(Array|Floats|Integers|Double|NDArray)\b")
    modules = [
        importlib.import_module(m.name) for m in pkgutil.iter_modules(worldformula.data.__path__, "worldformula.data.")
    ]
    found = {
        v for module in modules for v in vars(module).values() if isinstance(v, type) and dataclasses.is_dataclass(v)
    }
    return sorted(
        (v for v in found if any(arrays.search(str(f.type)) for f in dataclasses.fields(v))), key=lambda v: v.__name__
    )


@pytest.mark.parametrize("kind", holders(), ids=lambda v: v.__name__)
def test_what_holds_arrays_prints_none(kind: type) -> None:
    assert issubclass(kind, Arrays)
    if kind is worldformula.data.DataSet:
        return
    made = kind(**{f.name: np.zeros((1000, 2), np.float32) for f in dataclasses.fields(kind)})
    shown = repr(made)
    assert shown.startswith(f"<{kind.__name__} ")
    assert shown.count("[1000, 2] float32") == len(dataclasses.fields(kind))
    assert len(rows(made._repr_html_())) == 1 + len(dataclasses.fields(kind))


def test_the_arrays_of_the_data_folder_are_found() -> None:
    assert {"DataSet", "Digits", "Density", "Recogniser"} <= {kind.__name__ for kind in holders()}


def test_nothing_that_is_shown_is_fetched_and_all_of_it_is_well_formed() -> None:
    loss, series = rssm(), rssm()(**sequences())
    for shown in (loss, loss.code, loss.explain(), loss.graph(), series, world(), load("ring"), find("rssm")):
        markup = shown._repr_html_().replace("http://www.w3.org/2000/svg", "")
        ET.fromstring(markup)
        assert not re.search(r"https?:|<script|<link|<img|\bsrc=|url\(|@import", markup)
        assert "tensor(" not in markup
        assert "array(" not in markup
