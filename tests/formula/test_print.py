"""Print is meaning: formulas that differ never print alike, and numbers print as the field writes them."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.formula.test_mathml import read
from worldformula import KL, Bernoulli, Deterministic, E, Mean, Normal, Sum, Value, log, norm2
from worldformula.errors import near
from worldformula.formula.print.latex import latex
from worldformula.formula.print.mathml import mathml
from worldformula.formula.syntax.names import read_header
from worldformula.formula.syntax.nodes import Binary, Log, Negative, Number, OverBatch, OverTime, StopGradient, Use
from worldformula.formula.syntax.text import text

Q, P = Normal("q(z|x)", torch.nn.Linear(3, 4), shape=2), Normal("p(z)", shape=2)
KL_ = KL(Q, P)
LOG = Log((Use(P),))
CORE = Deterministic("h_t = f(h_{t-1}, a_t)", torch.add, shape=2)
STEP = E(CORE, log(Normal("p(h_t)", shape=2)))


def build(tree):
    """A nested tuple such as ("*", "log", 2) as a node: equal tuples are equal formulas."""
    match tree:
        case "log":
            return LOG
        case "kl":
            return KL_.node
        case int() | float():
            return Number(tree)
        case ("neg", body):
            return Negative(build(body))
        case ("sg", body):
            return StopGradient(build(body))
        case ("over", body):
            return OverBatch("sum", build(body))
        case (("sum" | "mean") as how, reset, body):
            return OverTime(how, "t", build(body), reset)
        case (op, left, right):
            return Binary(op, build(left), build(right))
    raise AssertionError(tree)


OPS = ["+", "-", "*", "/"]


def grown(trees):
    yield from trees
    yield from product(OPS, trees, trees)
    yield from (("neg", t) for t in trees)
    yield from (("sum", None, t) for t in trees)


@pytest.mark.parametrize("show", [text, latex])
def test_all_small_formulas_print_differently(show):
    seen = {}
    for tree in grown(list(grown(["log", "kl", 2, -2]))):
        assert seen.setdefault(show(build(tree)), tree) == tree


def branches(children):
    return st.one_of(
        st.tuples(st.sampled_from([*OPS, "max", "min"]), children, children),
        st.tuples(st.sampled_from(["neg", "sg", "over"]), children),
        st.tuples(st.sampled_from(["sum", "mean"]), st.sampled_from([None, "first", "is_first"]), children),
    )


TREES = st.recursive(st.sampled_from(["log", "kl", 2, -2, 2.0, 1e-5, -0.0]), branches, max_leaves=6)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(TREES, min_size=10, max_size=30, unique_by=repr))
def test_formulas_that_differ_never_have_equal_text(trees):
    assert len({text(build(tree)) for tree in trees}) == len(trees)


@pytest.mark.parametrize(
    ("number", "tex", "shown"),
    [
        (1e-5, "10^{-5}", "10−5"),
        (-1e-5, "-10^{-5}", "−10−5"),
        (2.5e-7, r"2.5 \times 10^{-7}", "2.5×10−7"),
        (1e20, "10^{20}", "1020"),
        (float("inf"), r"\infty", "∞"),
        (float("-inf"), r"-\infty", "−∞"),
        (0.1, "0.1", "0.1"),
    ],
)
def test_numbers_print_as_the_field_writes_them(number, tex, shown):
    assert latex(Number(number)) == tex
    assert read(mathml(Number(number))) == shown
    assert "1e" not in (number * KL_ if number > 0 else KL_ + number).latex


def test_the_log_in_a_product_ends_where_it_ends():
    assert repr(log(P) * KL_) == "<Expression (log p(z)) * KL(q(z|x) ‖ p(z))>"
    assert (log(P) * KL_).latex.startswith(r"\left( \log p(z) \right) \, D")
    assert repr(KL_ * log(P)) == "<Expression KL(q(z|x) ‖ p(z)) * log p(z)>"
    assert repr(2 * log(P) * KL_) == "<Expression (2 * log p(z)) * KL(q(z|x) ‖ p(z))>"
    assert read(mathml((log(P) * KL_).node)) == "(logp(z))DKL[q(z∣x)∥p(z)]"


def test_digits_side_by_side_have_a_dot_between():
    assert (KL_ * 2 * 3).latex.endswith(r"\cdot 2 \cdot 3")
    assert r"\, 2" not in (KL_ * 2).latex


def test_a_sum_over_time_shows_what_restarts_it_and_where_it_begins():
    plain, cut = Sum("t", STEP), Sum("t", STEP, reset="is_first")
    begun = Sum("t", STEP, reset="is_first", initial={"h": torch.zeros(2)})
    assert repr(plain).startswith("<Expression Σ_t E")
    assert repr(cut).startswith("<Expression Σ_{t; reset=is_first} E")
    assert repr(begun).startswith("<Expression Σ_{t; reset=is_first; initial=h} E")
    assert cut.latex.startswith(r"\sum_{t;\, \mathrm{reset}=\mathrm{is\_first}} ")
    assert begun.latex.startswith(r"\sum_{t;\, \mathrm{reset}=\mathrm{is\_first};\, \mathrm{initial}=h} ")
    assert Mean("t", STEP, reset="first").latex.startswith(r"\operatorname{mean}_{t;\, \mathrm{reset}=")
    assert read(mathml(cut.node)).startswith("∑t;reset=is_first𝔼")
    for show in (repr, lambda f: f.latex, lambda f: mathml(f.node)):
        assert len({show(f) for f in (plain, cut, begun)}) == 3


def test_mathml_names_the_estimator_as_latex_does():
    coin = Bernoulli("q(c|x)", torch.nn.Linear(3, 2), shape=2)
    assert read(mathml(E(coin, log(coin), gradient="score").node)).startswith("𝔼q(c∣x)score[")


@pytest.mark.parametrize("letter", ["θ", "λ", "Ω"])
def test_a_greek_command_and_its_letter_are_one_variable(letter):
    command = {"θ": r"\theta", "λ": r"\lambda", "Ω": r"\Omega"}[letter]
    ours, theirs = read_header(f"q({command}|x)"), read_header(f"p({letter})")
    assert ours.variables == theirs.variables
    assert theirs.variables[0].key == command[1:]
    kl = KL(Normal(f"q({command}|x)", torch.nn.Linear(3, 4), shape=2), Normal(f"p({letter})", shape=2))
    assert kl(x=torch.zeros(5, 3)).value.shape == (5,)


def test_a_near_miss_may_differ_in_case():
    assert near("CartPole", ["cartpole", "pendulum"]) == " Did you mean 'cartpole'?"
    assert near("X", ["x"]) == " Did you mean 'x'?"
    assert near("normal", ["Normal"]) == " Did you mean 'Normal'?"


def test_a_greek_letter_of_a_function_prints_as_greek():
    f = Deterministic("e = ε_θ(x)", nn.Linear(2, 2), shape=2)
    assert str(E(f, norm2(Value("e")))).startswith(r"\mathbb{E}_{e = \epsilon_{\theta}(x)}")
