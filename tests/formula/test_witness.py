"""Random formulas against a third witness, which shares no code with the library: a slice of `full`.

What is known to be wrong today is named in `soil.AWAITED` and asked for as soon as its name is taken out there.
"""

import ast
import random
from pathlib import Path

import pytest
import torch

from tests.formula.examine import Fault, call_of, examine
from tests.formula.full import grow, kind_of
from tests.formula.half import examine_half
from tests.formula.oddities_of_calls import ODDITIES
from tests.formula.pairs import EVENTS, KINDS, examine_pair
from tests.formula.soil import AWAITED, FEATURES
from tests.formula.spec import Clock, Draw, Inner, Least, Num, Op, Stop, walk

STATIC, TEMPORAL, PARTS = 240, 80, 4
UNLIKE = {frozenset(pair) for pair in (("Bernoulli", "OneHot"), ("Bernoulli", "Categorical"))}  # supports


# A quarter of them runs with every change, the rest with the slow tests.
EACH = [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, PARTS))]


def share(count, part):
    return range(count * part // PARTS, count * (part + 1) // PARTS)


@pytest.mark.parametrize("kind", ["static", "temporal"])
@pytest.mark.parametrize("part", EACH)
def test_formulas_are_worth_what_the_witness_says(kind, part):
    for seed in share(STATIC if kind == "static" else TEMPORAL, part):
        got = kind_of(grow(kind, seed))
        assert got is None or got[0] == "refused", f"{kind}, seed {seed}: {got}"


def test_least_and_free_energies_are_worth_what_the_witness_says():
    """Where formulas have no other feature that is rare."""
    found = [grow("static", seed, ("least energies",)) for seed in range(400)]
    found = [g for g in found if any(isinstance(n, Least) for n in walk(g.node))]
    assert {n.beta is None for g in found for n in walk(g.node) if isinstance(n, Least)} == {True, False}
    assert len(found) > 12
    for grown in found:
        got = kind_of(grown)
        assert got is None or got[0] == "refused", got


@pytest.mark.parametrize("name", ODDITIES)
def test_oddities_are_right_or_refused(name):
    if name in AWAITED:
        pytest.skip("awaited: soil.AWAITED names it")
    for seed in range(6):
        ODDITIES[name](random.Random(seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("event", EVENTS)
def test_pairs_of_families_are_right_or_refused(kind, event):
    refused, families = 0, EVENTS[event]
    for q in families:
        for p in families:
            if "unlike supports" in AWAITED and frozenset((q, p)) in UNLIKE:
                continue
            refused += examine_pair(kind, q, p, event, seed=len(q) % 2)
    assert refused < len(families) ** 2


@pytest.mark.skipif("half precision" in AWAITED, reason="awaited: soil.AWAITED names it")
def test_half_precision_sums_in_single():
    for seed in range(60):
        examine_half(seed)


def test_the_grower_uses_all_that_it_may():
    """Every feature that is not awaited, and every kind of node."""
    grown = [
        grow(kind, seed, share=0.3) for kind, seeds in (("static", 150), ("temporal", 60)) for seed in range(seeds)
    ]
    assert set().union(*(g.used for g in grown)) == set(FEATURES) - AWAITED
    nodes = [node for g in grown for node in walk(g.node)]
    assert {type(n).__name__ for n in nodes} == {
        "Batch", "Clock", "Det", "Dist", "Draw", "Ent", "Event", "Experts", "Fn", "Gap", "Inner", "Label", "Least",
        "Logp", "Minus", "Num", "Op", "Rat", "Stop", "Stopped", "Var",
    }  # fmt: skip
    assert {d.family for d in nodes if type(d).__name__ == "Dist"} >= {
        "Normal", "Laplace", "StudentT", "MultivariateNormal", "Mixture", "Bernoulli", "Categorical", "OneHot",
        "Poisson", "NegativeBinomial", "Gamma", "LogNormal", "Beta", "Uniform", "Dirichlet",
        "TanhNormal", "TruncatedNormal",
    }  # fmt: skip
    draws, clocks = ([n for n in nodes if isinstance(n, kind)] for kind in (Draw, Clock))
    assert {d.how for d in draws} == {None, "score", "exact", "straight-through"}
    assert {d.samples for d in draws} == {None, 2, 3}
    assert all(any(getattr(c, name) for c in clocks) for name in ("reset", "mask", "until", "burn_in", "initial"))
    assert any(isinstance(n, Inner) for n in nodes)


def test_no_name_is_awaited_that_nothing_has():
    rest = {"gradient of the first call", "unlike supports", "half precision"}
    assert set(FEATURES) | set(ODDITIES) | rest >= AWAITED


@pytest.mark.parametrize("kind", ["static", "temporal"])
def test_a_millionth_and_a_lost_gradient_are_seen(kind):
    """The comparison can fail: the witness is given another formula than the library."""
    lost = 0
    for seed in range(12):
        grown = grow(kind, seed, ())
        with pytest.raises(Fault, match="witness, value"):
            examine(grown, seen=Op("+", grown.node, Num(1e-5)))
        weights = grown.materials.parameters()
        expression = examine(grown)
        call = call_of(expression, grown)
        noise = expression.noise(**call, generator=torch.Generator().manual_seed(3))
        value = expression(**call, noise=noise).value.sum()
        if value.requires_grad and any(g is not None and g.abs().max() > 1e-3 for g in gradients(value, weights)):
            lost += 1
            with pytest.raises(Fault, match="witness, gradient"):
                examine(grown, seen=Stop(grown.node))
    assert lost > 4


def gradients(value, weights):
    return torch.autograd.grad(value, list(weights.values()), allow_unused=True)


@pytest.mark.parametrize("name", ["spec", "witness", "witness_families"])
def test_the_witness_imports_nothing_of_the_library(name):
    source = (Path(__file__).parent / f"{name}.py").read_text()
    nodes = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Import | ast.ImportFrom)]
    names = {n.module if isinstance(n, ast.ImportFrom) else a.name for n in nodes for a in n.names}
    ours = {"tests.formula.spec", "tests.formula.witness_families"}
    assert {n.split(".")[0] for n in names - ours} <= {"torch", "dataclasses", "re", "math", "itertools"}
