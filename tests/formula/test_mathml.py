"""MathML: well formed, exactly as written, and the same symbols whether or not the formula is broken into lines."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from worldformula.formula.factors.independent import Deterministic, Factor, Normal
from worldformula.formula.print.mathml import mathml
from worldformula.formula.syntax.nodes import (
    Binary,
    Divergence,
    Expectation,
    Log,
    Negative,
    Node,
    Number,
    OverBatch,
    OverTime,
    StopGradient,
    Use,
)

CORE = {
    "math",
    "mrow",
    "mi",
    "mn",
    "mo",
    "msub",
    "msup",
    "msubsup",
    "munder",
    "mover",
    "mfrac",
    "mspace",
    "mtable",
    "mtr",
    "mtd",
}


def normal(header: str) -> Factor:
    return Normal(header, nn.Identity(), shape=2)


P, Q, X = Normal("p(z)", shape=2), normal("q(z|x)"), normal("p(x|z)")
CORE_STEP, POST = Deterministic("h_t = f(h_{t-1}, a_{t-1})", nn.Identity()), normal("q(z_t|h_t)")


def read(markup: str) -> str:
    """What a reader sees, without spaces and invisible operators."""
    return re.sub("[\u2061\u2062\\s]", "", "".join(ET.fromstring(markup).itertext()))


CASES: list[tuple[Node, str]] = [
    (Divergence(Use(Q), Use(P)), "DKL[q(z∣x)∥p(z)]"),
    (Divergence(Use(Q, stopped=True), Use(P)), "DKL[sg[q(z∣x)]∥p(z)]"),
    (Log((Use(X),)), "logp(x∣z)"),
    (OverBatch("mean", Expectation((Use(Q),), Log((Use(X),)))), "mean(𝔼q(z∣x)[logp(x∣z)])"),
    (Expectation((Use(CORE_STEP), Use(POST)), Number(1)), "𝔼ht=f(ht−1,at−1),q(zt∣ht)[1]"),
    (OverTime("sum", "t", Binary("+", Number(1), Number(2))), "∑t(1+2)"),
    (OverTime("mean", "t", Number(2)), "meant2"),
    (Binary("max", Divergence(Use(Q), Use(P)), Number(1)), "max(DKL[q(z∣x)∥p(z)],1)"),
    (Binary("-", Number(1), Binary("-", Number(2), Number(3))), "1−(2−3)"),
    (Binary("-", Binary("-", Number(1), Number(2)), Number(3)), "1−2−3"),
    (Binary("*", Binary("+", Number(1), Number(2)), Number(3)), "(1+2)⋅3"),
    (Binary("*", Number(2), Number(3)), "2⋅3"),
    (Negative(Binary("+", Number(1), Number(2))), "−(1+2)"),
    (StopGradient(Number(-0.5)), "sg[−0.5]"),
    (Log((Use(normal(r"p(\hat x_{2,t}|theta, h'_t, z1)")),)), "logp(x^2,t∣θ,ht′,z1)"),
]


@pytest.mark.parametrize(("node", "shown"), CASES, ids=[shown for _, shown in CASES])
def test_each_node_prints_what_was_written(node, shown):
    assert read(mathml(node, width=10_000)) == shown


def test_a_fraction_has_a_numerator_and_a_denominator():
    root = ET.fromstring(mathml(Binary("/", Number(1), Binary("+", Number(2), Number(3)))))
    top, bottom = root.find("mfrac")
    assert ("".join(top.itertext()), "".join(bottom.itertext())) == ("1", "2+3")


def test_one_draw_is_a_subscript_and_several_stand_below():
    assert "<msub><mo" in mathml(Expectation((Use(Q),), Number(1)))
    assert "<munder><mo" in mathml(Expectation((Use(CORE_STEP), Use(POST)), Number(1)))


def test_a_long_sum_has_one_term_per_line():
    terms: Node = Log((Use(X),))
    for _ in range(5):
        terms = Binary("-", terms, Log((Use(X),)))
    rows = ET.fromstring(mathml(OverBatch("mean", Expectation((Use(Q),), terms)), width=30)).findall("mtable/mtr")
    lines = [re.sub(r"[\u2061\s]", "", "".join(row.itertext())) for row in rows]
    assert lines == ["mean(𝔼q(z∣x)[", "logp(x∣z)", *["−logp(x∣z)"] * 4, "−logp(x∣z)])"]
    spaces = [float(row.find("mtd/mrow/mspace").get("width")[:-2]) for row in rows]
    assert spaces[0] < min(spaces[1:])


def nodes() -> st.SearchStrategy[Node]:
    leaves = st.sampled_from([0, 1, 2, 3, 4]).map(
        [Log((Use(X),)), Divergence(Use(Q), Use(P)), Number(2.0), Number(-0.5), Log((Use(X), Use(Q)))].__getitem__
    )

    def grow(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
        return st.one_of(
            st.builds(Binary, st.sampled_from(["+", "-", "*", "/", "max", "min"]), inner, inner),
            st.builds(Negative, inner),
            st.builds(StopGradient, inner),
            st.builds(lambda body: Expectation((Use(Q),), body), inner),
            st.builds(OverBatch, st.sampled_from(["mean", "sum"]), inner),
            st.builds(lambda how, body: OverTime(how, "t", body), st.sampled_from(["sum", "mean"]), inner),
        )

    return st.recursive(leaves, grow, max_leaves=12)


@settings(max_examples=150, deadline=None)
@given(nodes(), st.integers(0, 60))
def test_breaking_lines_changes_no_symbol(node, width):
    broken, whole = mathml(node, width=width), mathml(node, width=10_000)
    assert read(broken) == read(whole)
    assert {element.tag for element in ET.fromstring(broken).iter()} <= CORE


def test_a_node_without_a_rule_is_named():
    class Strange(Node):
        pass

    with pytest.raises(TypeError, match="Strange"):
        mathml(Strange())


def test_brackets_do_not_grow_with_the_list_of_what_is_drawn():
    drawn = (Use(CORE_STEP), Use(POST), Use(normal("q(y_t|z_t,h_t)")), Use(normal("q(w_t|y_t,z_t)")))
    shown = ET.fromstring(mathml(OverBatch("mean", Expectation(drawn, Log((Use(P),)))), width=80))
    assert shown.findall(".//mtable/mtr/mtd")
    round_, square = (next(mo for mo in shown.iter("mo") if mo.text == bracket) for bracket in "([")
    assert round_.get("stretchy") == "false"
    assert square.get("stretchy") == "true"
