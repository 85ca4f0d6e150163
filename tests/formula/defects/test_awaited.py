"""Faults for whose sake the grower left something out, such as what is made of numbers alone."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal as Gauss
from torch.distributions import kl_divergence

from tests.formula.defects.both import PATHS, run
from worldformula import (
    KL,
    CrossEntropy,
    Entropy,
    Normal,
    PoE,
    Renyi,
    Symbol,
    Value,
    log,
    norm2,
    sg,
    sigmoid,
    softplus,
)

Z = 2


@PATHS
def test_a_divergence_of_numbers_alone_is_as_precise_as_the_data(path):
    loss = KL(Normal("q(z)", shape=2, loc=-0.5, scale=1.5), Normal("p(z)", shape=2, loc=-0.165, scale=0.5))
    right = 2 * (math.log(0.5 / 1.5) + (1.5**2 + 0.335**2) / (2 * 0.5**2) - 0.5)
    x = torch.randn(3, dtype=torch.float64)
    found = run(loss + Value("x", shape=()), path, x=x).value
    torch.testing.assert_close(found, x + right, rtol=1e-12, atol=1e-12)


@PATHS
@pytest.mark.parametrize(
    ("operator", "right"),
    [
        (KL, kl_divergence),
        (CrossEntropy, lambda q, p: kl_divergence(q, p) + q.entropy()),
        (lambda q, p: Entropy(q), lambda q, p: q.entropy()),
        (lambda q, p: Renyi(p, q, 0.5), lambda q, p: renyi(p, q, 0.5)),
    ],
    ids=["KL", "cross-entropy", "entropy", "Renyi"],
)
def test_operators_on_numbers_alone_and_their_terms_are_as_precise_as_the_data(operator, right, path):
    loss = operator(Normal("q(z)", shape=2, loc=-0.5, scale=1.5), Normal("p(z)", shape=2, loc=-0.165, scale=0.5))
    q, p = (Gauss(*(torch.tensor(v, dtype=torch.float64) for v in given)) for given in ((-0.5, 1.5), (-0.165, 0.5)))
    x = torch.randn(3, dtype=torch.float64)
    out = run(loss + Value("x", shape=()), path, x=x)
    expected = 2 * right(q, p)
    torch.testing.assert_close(out.value, x + expected, rtol=1e-12, atol=1e-12)
    (term,) = out.terms.values()
    torch.testing.assert_close(term.double(), expected, rtol=1e-12, atol=1e-12)


def renyi(q, p, alpha):
    """Of two Normals (van Erven & Harremoës 2014, eq. 10)."""
    mixed = alpha * p.variance + (1 - alpha) * q.variance
    shift = 0.5 * alpha * (q.loc - p.loc) ** 2 / mixed
    return shift + (mixed.sqrt() / (q.scale ** (1 - alpha) * p.scale**alpha)).log() / (1 - alpha)


@PATHS
def test_a_function_of_a_number_of_the_call_is_as_precise_as_the_data(path):
    y = torch.tensor([1.0, 2.0], dtype=torch.float64)
    found = run(sigmoid(Symbol("omega")) * Value("y", shape=()), path, y=y, omega=0.7).value
    torch.testing.assert_close(found, y / (1 + math.exp(-0.7)), rtol=1e-12, atol=1e-12)


@PATHS
def test_a_function_of_a_whole_number_of_the_call(path):
    found = run(softplus(Symbol("omega")) * norm2(Value("y", shape=2)), path, y=torch.ones(3, 2), omega=2).value
    torch.testing.assert_close(found, torch.full((3,), 2 * math.log1p(math.exp(2.0))))


@PATHS
def test_a_number_as_the_scale_of_an_expert_that_some_rows_lack(path):
    first, second = nn.Linear(3, Z).double(), nn.Linear(1, 2 * Z).double()
    parts = [Normal("p(z)", shape=Z), Normal("r(z|x)", first, shape=Z, scale=0.511), Normal("s(z|y)", second, shape=Z)]
    x, y, z = (torch.randn(4, n, dtype=torch.float64) for n in (3, 1, Z))
    has = torch.tensor([True, False, True, False])
    loc, raw = second(y).chunk(2, -1)
    each = torch.where(has[:, None], torch.tensor(0.511**-2, dtype=torch.float64), 0.0)
    weight = 1 + each + nn.functional.softplus(raw) ** -2
    mean = (first(x) * each + loc * nn.functional.softplus(raw) ** -2) / weight
    found = run(log(PoE(parts)), path, x=x, y=y, z=z, present={"x": has}).value
    torch.testing.assert_close(found, Gauss(mean, weight**-0.5).log_prob(z).sum(-1), rtol=1e-11, atol=1e-11)


@PATHS
@pytest.mark.parametrize(("left", "right"), [(True, False), (False, True), (True, True)])
def test_what_is_stopped_of_numbers_alone_has_its_event_too(path, left, right):
    """KL(N(.3, 1.5²) ‖ N(0, 1)) of two elements, by hand; a number of the call has no gradient where it is stopped."""
    q, p = Normal("q(u)", shape=2, loc=0.3, scale=1.5), Normal("p(u)", shape=2)
    by_hand = 2 * (-math.log(1.5) + 0.5 * (1.5**2 + 0.3**2 - 1))
    sides = sg(q) if left else q, sg(p) if right else p
    assert run(KL(*sides), path).value.item() == pytest.approx(by_hand, rel=1e-12)
    entropy = 2 * (0.5 * math.log(2 * math.pi * math.e) + math.log(1.5))
    assert run(CrossEntropy(*sides), path).value.item() == pytest.approx(by_hand + entropy, rel=1e-12)
    given = Normal("q(u)", shape=2, loc=0.3, scale=Symbol("s"))
    s = torch.tensor(1.5, requires_grad=True)
    value = run(KL(sg(given), p), path, s=s).value
    assert value.item() == pytest.approx(by_hand, rel=1e-6)
    assert not value.requires_grad
