"""Numbers at the ends: infinite, larger than PyTorch's whole numbers, and numbers of the call alone."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal as Gauss

from tests.formula.defects.both import PATHS, refused, run
from worldformula import (
    E,
    Normal,
    RelaxedBernoulli,
    Symbol,
    Value,
    clamp,
    exp,
    log,
    maximum,
    minimum,
    norm2,
    softplus,
    total,
)
from worldformula.errors import FormulaError, ShapeError

INF = math.inf
A = torch.tensor([-2.0, 0.5, 3.0])
INFINITE = {
    "lower bound": (lambda a: clamp(a, -INF, 1.0), A.clamp(max=1.0)),
    "upper bound": (lambda a: clamp(a, -1.0, INF), A.clamp(min=-1.0)),
    "bound beside a Symbol": (lambda a: clamp(a, Symbol("low"), INF), A.clamp(min=0.25)),
    "maximum": (lambda a: maximum(a, -INF), A),
    "maximum, first": (lambda a: maximum(-INF, a), A),
    "minimum": (lambda a: minimum(a, INF), A),
    "sum": (lambda a: a + INF, A + INF),
    "difference": (lambda a: a - (-INF), A + INF),
    "product": (lambda a: -INF * a, A * -INF),
    "ratio": (lambda a: a / INF, torch.tensor([-0.0, 0.0, 0.0])),
    "power": (lambda a: abs(a) ** -INF, A.abs() ** -INF),
    "scale": (lambda a: log(Normal("p(a)", shape=(), scale=INF)), torch.full((3,), -INF)),
    "scale beside a head": (
        lambda a: log(Normal("p(a|b)", lambda b: b[:, None], shape=(), scale=INF)),
        torch.full((3,), -INF),
    ),
    "location": (lambda a: log(Normal("p(a)", shape=(), loc=-INF)), torch.full((3,), -INF)),
}


@PATHS
@pytest.mark.parametrize("case", INFINITE)
def test_infinite_numbers_run_as_they_are_written(case, path):
    build, right = INFINITE[case]
    loss = build(Value("a"))
    given = {"a": A, "low": 0.25, "b": A}
    found = run(loss, path, **{key: given[key] for key in loss.program.inputs}).value
    torch.testing.assert_close(found, right)


@PATHS
def test_a_setting_may_be_infinite(path):
    """All draws of a relaxed bit at an infinite temperature are 1/2, and so is what a formula reads of them."""
    q = RelaxedBernoulli("q(b)", shape=2, logits=torch.zeros(2), temperature=INF)
    found = run(E(q, total(Value("b", shape=2)) + Value("a")), path, a=A, seed=0).value
    torch.testing.assert_close(found, A + 1.0)


@PATHS
def test_an_infinite_number_beside_a_variable_of_that_name(path):
    found = run(maximum(Value("inf"), -INF) + clamp(Value("float"), 0.0, INF), path, inf=A, float=A).value
    torch.testing.assert_close(found, A + A.clamp(min=0.0))


def test_what_is_no_number_is_refused():
    for wrong in (math.nan, 10**400):
        with refused("number", error=FormulaError):
            _ = Value("a") * wrong
        with refused("bounds", error=FormulaError):
            clamp(Value("a"), wrong, None)


LARGE = {
    "product": (lambda a: a * 10**30, A * 1e30),
    "sum": (lambda a: 2**64 + a, A + 2.0**64),
    "exponent": (lambda a: abs(a) ** (10**30), torch.tensor([INF, 0.0, INF])),
    "bounds": (lambda a: clamp(a, -(10**30), 10**30), A),
    "bound": (lambda a: minimum(a, -(10**30)), torch.full((3,), -1e30)),
}


@PATHS
@pytest.mark.parametrize("case", LARGE)
def test_whole_numbers_may_be_larger_than_those_of_torch(case, path):
    build, right = LARGE[case]
    torch.testing.assert_close(run(build(Value("a")), path, a=A).value, right)


# --------------------------------------------------------------------------------------------- numbers of the call


@PATHS
@pytest.mark.parametrize("two", [2, 2.0, np.int64(2), np.float32(2.0), torch.tensor(2), torch.tensor(2.0)])
def test_a_number_of_the_call_may_be_of_any_kind(two, path):
    y = torch.tensor([1.0, 2.0])
    found = run((softplus(Symbol("s")) + exp(Symbol("s"))) * Value("y") + Symbol("s") ** 2, path, y=y, s=two).value
    torch.testing.assert_close(found, (math.log1p(math.exp(2.0)) + math.exp(2.0)) * y + 4)
    p = Normal("p(y)", shape=(), scale=Symbol("s"))
    torch.testing.assert_close(run(log(p), path, y=y, s=two).value, Gauss(0.0, 2.0).log_prob(y))
    torch.testing.assert_close(p.log_prob(y=y, s=two), Gauss(0.0, 2.0).log_prob(y))


@PATHS
def test_a_number_of_the_call_may_be_large(path):
    found = run(Symbol("s") * Value("a"), path, a=A, s=2**70).value
    torch.testing.assert_close(found, A * 2.0**70)


@PATHS
@pytest.mark.parametrize("wrong", [True, 1j, torch.tensor(True), torch.tensor(1j), 10**400, torch.ones(2), "2"])
def test_what_is_no_real_number_of_the_call_is_refused(wrong, path):
    with refused("s:", "one number for the whole call", error=ShapeError):
        run(Symbol("s") * Value("a"), path, a=A, s=wrong)
    with refused("s:", "one number for the whole call", error=ShapeError):
        Normal("p(a)", shape=(), scale=Symbol("s")).log_prob(a=A, s=wrong)


@PATHS
@pytest.mark.parametrize("s", [3, 3.0, torch.tensor(3.0)])
def test_reductions_of_numbers_of_the_call(s, path):
    a = Symbol("a")
    for loss, right in (
        (a.mean(), 3.0), (a.sum(), 3.0), ((2 * a).mean(), 6.0), (total(a), 3.0), (norm2(a), 9.0), (norm2(-a) * 2, 18.0)
    ):  # fmt: skip
        assert float(run(loss, path, a=s).value) == right
    y = torch.tensor([1.0, 2.0])
    assert float(run(a.mean() + Value("y").mean(), path, a=s, y=y).value) == 4.5


@PATHS
@pytest.mark.parametrize(
    ("build", "s"), [(lambda s: Value("a") + 1 / s, 0), (lambda s: Value("a") + s**400, 10.0)], ids=["ratio", "power"]
)
def test_numbers_of_the_call_that_cannot_be_computed_with_are_refused(build, s, path):
    with refused("numbers", "s ", error=FormulaError):
        run(build(Symbol("s")), path, a=A, s=s)
