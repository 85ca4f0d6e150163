"""Log-densities at the ends of what parameters and values may be, against mpmath on the numbers as they were rounded.

Value and gradient by every parameter, in float64, float32 and bfloat16: half precision is computed in float32 at least,
so only its gradient, which has the parameters' type, is coarser.
"""

from __future__ import annotations

from collections.abc import Callable

import mpmath as mp
import pytest
import torch

from worldformula.families import (
    bernoulli,
    beta,
    gamma,
    geometric,
    laplace,
    log_normal,
    negative_binomial,
    normal,
    poisson,
    relaxed_bernoulli,
    student_t,
    uniform,
    von_mises,
)
from worldformula.families.binomial import BinomialFamily

mp.mp.dps = 50
VALUE = {torch.float64: 1e-13, torch.float32: 3e-6, torch.bfloat16: 3e-6}
SLOPE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.bfloat16: 1e-2}
FLOOR = 1e-2  # a gradient that is smaller is compared with this


def logistic(x):
    return 1 / (1 + mp.exp(-x))


REFERENCE: dict[object, Callable] = {
    normal: lambda x, m, s: -(((x - m) / s) ** 2) / 2 - mp.log(s) - mp.log(2 * mp.pi) / 2,
    laplace: lambda x, m, s: -abs(x - m) / s - mp.log(2 * s),
    log_normal: lambda x, m, s: -(((mp.log(x) - m) / s) ** 2) / 2 - mp.log(s * x) - mp.log(2 * mp.pi) / 2,
    student_t: lambda x, v, m, s: (
        mp.loggamma((v + 1) / 2)
        - mp.loggamma(v / 2)
        - mp.log(mp.pi * v) / 2
        - mp.log(s)
        - (v + 1) / 2 * mp.log1p(((x - m) / s) ** 2 / v)
    ),
    beta: lambda x, a, b: (
        (a - 1) * mp.log(x) + (b - 1) * mp.log1p(-x) - mp.loggamma(a) - mp.loggamma(b) + mp.loggamma(a + b)
    ),
    gamma: lambda x, a, b: a * mp.log(b) + (a - 1) * mp.log(x) - b * x - mp.loggamma(a),
    uniform: lambda x, low, high: -mp.log(high - low),
    von_mises: lambda x, m, k: k * mp.cos(x - m) - mp.log(2 * mp.pi * mp.besseli(0, k)),
    poisson: lambda x, r: x * mp.log(r) - r - mp.loggamma(x + 1),
    negative_binomial: lambda x, r, t: (
        mp.loggamma(r + x) - mp.loggamma(r) - mp.loggamma(x + 1) + r * mp.log(logistic(-t)) + x * mp.log(logistic(t))
    ),
    bernoulli: lambda x, t: x * mp.log(logistic(t)) + (1 - x) * mp.log(logistic(-t)),
    relaxed_bernoulli: lambda x, t: (
        t - mp.log(x / (1 - x)) - 2 * mp.log1p(mp.exp(t - mp.log(x / (1 - x)))) - mp.log(x) - mp.log(1 - x)
    ),
}

# family, parameters, value, and how exact float64 is where terms as large as the parameters remain
CASES = [
    (normal, (0.0, 1.0), 1e4, 1),
    (normal, (1e4, 2.0**-7), 1e4, 1),
    (normal, (-3.0, 1e-6), -3.0, 1),
    (normal, (0.0, 1e6), 5.0, 1),
    (laplace, (0.5, 1e-6), 0.5, 1),
    (laplace, (0.0, 3.0), -1e5, 1),
    (log_normal, (0.0, 1.0), 1e-30, 1),
    (log_normal, (2.0, 1e-2), 7.5, 10),
    (log_normal, (0.0, 8.0), 1e30, 1),
    *((student_t, (df, 0.0, 1.0), x, 100) for df in (1e4, 1e6, 1e8) for x in (0.0, 3.0, 100.0)),
    (student_t, (0.1, 0.0, 2.0), 1e30, 1),
    (student_t, (0.1, 0.5, 1e-3), 0.5, 1),
    (student_t, (4.0, 0.5, 1.0), 1e19, 1),
    (student_t, (17.0, 0.5, 1.0), -2.0, 10),
    (beta, (1e6, 1e6), 0.5, 1e4),
    (beta, (3e7, 7e7), 0.3, 1e6),
    (beta, (1e-2, 1e-2), 1e-30, 1),
    (beta, (1e-3, 1e5), 1e-7, 1e2),
    (beta, (2.0, 1e8), 1e-8, 1e6),
    (beta, (9.5, 11.5), 0.375, 10),
    (gamma, (1e6, 1e3), 1e3, 1e4),
    (gamma, (1e-2, 1.0), 1e-30, 1),
    (gamma, (1e4, 1e-4), 1e8, 1e3),
    (gamma, (0.5, 1e8), 1e-9, 1),
    (uniform, (-1e-3, 1e-3), 0.0, 1),
    (uniform, (-1e30, 1e30), 0.0, 1),
    (uniform, (2.0, 2.0625), 2.03125, 1),
    (von_mises, (0.5, 1e-6), 2.0, 1),
    (von_mises, (0.0, 1e4), 0.0078125, 1e2),
    (von_mises, (0.0, 1e6), 0.001953125, 1e4),
    (von_mises, (3.0, 50.0), -3.0, 10),
    (poisson, (1e-30,), 0.0, 1),
    (poisson, (1e-30,), 3.0, 1),
    (poisson, (1e6,), 1e6, 1e4),
    (poisson, (0.25,), 2e4, 1e2),
    (negative_binomial, (1e6, -12.0), 3.0, 1e3),
    (negative_binomial, (1e6, 0.0), 1e6, 1e5),
    (negative_binomial, (1e-2, 3.0), 0.0, 1),
    (negative_binomial, (1e-2, 3.0), 2000.0, 1e2),
    (bernoulli, (80.0,), 1.0, 1),
    (bernoulli, (80.0,), 0.0, 1),
    (bernoulli, (-300.0,), 0.25, 1),
    (relaxed_bernoulli, (20.0,), 0.5, 1),
    (relaxed_bernoulli, (-2.0,), 1e-6, 10),
]


@pytest.mark.parametrize("dtype", list(VALUE), ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize(("family", "params", "value", "slack"), CASES, ids=lambda v: getattr(v, "name", str(v)))
def test_log_density_and_its_gradient(family, params, value, slack, dtype):
    leaves = [torch.tensor(p, dtype=dtype, requires_grad=True) for p in params]
    x = torch.tensor(value, dtype=dtype)
    got = family.log_prob(tuple(leaves), x, 0)
    assert got.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
    exact, at = [mp.mpf(p.item()) for p in leaves], mp.mpf(x.item())
    expected = REFERENCE[family](at, *exact)
    slack = slack if dtype is torch.float64 else 1
    assert abs(got.item() - expected) <= slack * VALUE[dtype] * (1 + abs(expected))
    found = torch.autograd.grad(got, leaves, allow_unused=True)
    for i, gradient in enumerate(found):
        if gradient is None:  # Uniform's ends appear in the width alone; nothing else may be left out
            raise AssertionError(family.parameters[i])
        if family is laplace and at == exact[0]:
            continue  # the corner has no slope by loc
        want = mp.diff(lambda p, i=i: REFERENCE[family](at, *exact[:i], p, *exact[i + 1 :]), exact[i])
        assert abs(gradient.item() - want) <= slack * SLOPE[dtype] * (FLOOR + abs(want)), family.parameters[i]


INFINITE = [
    (poisson, (0.0,), 0.0, 0.0),
    (poisson, (0.0,), 2.0, -mp.inf),
    (log_normal, (0.0, 1.0), 0.0, -mp.inf),
    (log_normal, (0.0, 1.0), -1.0, -mp.inf),
    (uniform, (0.0, 1.0), 1.5, -mp.inf),
    (geometric, (0.3,), -1.0, -mp.inf),
    (geometric, (-1e4,), 0.0, -1e4),
    (von_mises, (0.0, 0.0), 2.0, -mp.log(2 * mp.pi)),
    (bernoulli, (mp.inf,), 1.0, 0.0),
    (bernoulli, (-mp.inf,), 0.0, 0.0),
    (beta, (1.0, 3.0), 0.0, mp.log(3)),
    (gamma, (1.0, 2.0), 0.0, mp.log(2)),
]


@pytest.mark.parametrize(("family", "params", "value", "expected"), INFINITE, ids=lambda v: getattr(v, "name", str(v)))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_at_the_edge(family, params, value, expected, dtype):
    leaves = tuple(torch.tensor(float(p), dtype=dtype) for p in params)
    if family is bernoulli:  # a network's infinite logit is a fault, one that is written down is a certainty
        leaves = bernoulli.params(None, (), {"logits": leaves[0]})
    got = family.log_prob(leaves, torch.tensor(value, dtype=dtype), 0).item()
    assert got == float(expected) or abs(got - expected) < 1e-6


def test_an_impossible_coin_has_a_number_for_log_0_and_no_nan_in_its_gradient():
    logits = torch.tensor([float("inf"), float("-inf")], requires_grad=True)
    params = bernoulli.params(None, (2,), {"logits": logits})
    density = bernoulli.log_prob(params, torch.tensor([0.0, 1.0]), 0)
    assert density.tolist() == [-(2.0**115)] * 2
    assert bernoulli.entropy(params, 1).item() == 0.0
    assert torch.isfinite(torch.autograd.grad(bernoulli.entropy(params, 1), logits)[0]).all()


def test_a_rate_that_underflows_has_a_finite_gradient_where_nothing_is_counted():
    head = torch.tensor([-110.0], requires_grad=True)
    density = poisson.log_prob(poisson.params(head, (1,)), torch.zeros(1), 1)
    assert density.item() == 0.0
    assert torch.autograd.grad(density, head)[0].isfinite().all()


@pytest.mark.parametrize("number", [True, False], ids=["number", "tensor"])
@pytest.mark.parametrize(("a", "b"), [(-1e4, -1e4), (-1e4, -1.1e4), (-800.0, -801.0), (-690.0, -710.0), (0.5, -1e4)])
def test_waiting_that_hardly_ends_has_its_entropy_and_divergence(a, b, number):
    """1 − p is 1 in float64 here, so that a mean of ∞ meets a logarithm of 0."""
    mp.mp.dps = 6000
    p, q = (1 / (1 + mp.exp(-mp.mpf(x))) for x in (a, b))
    entropy = -mp.log(p) - (1 - p) / p * mp.log1p(-p)
    divergence = mp.log(p) - mp.log(q) + (1 - p) / p * (mp.log1p(-p) - mp.log1p(-q))
    mp.mp.dps = 50
    first, second = ((x if number else torch.tensor([x], dtype=torch.float64, requires_grad=True),) for x in (a, b))
    assert _plain(geometric.entropy(first, 1, (1,))) == pytest.approx(float(entropy), rel=1e-12)
    assert _plain(geometric.kl(first, second, 1, (1,))) == pytest.approx(float(divergence), rel=1e-10, abs=1e-10)
    if not number:
        (slope,) = torch.autograd.grad(geometric.entropy(first, 1), first)
        h = 1e-3  # of log-odds; the entropy is 1 − l far below, and smooth
        known = float((_wait(mp.mpf(a) + h) - _wait(mp.mpf(a) - h)) / (2 * h))
        assert slope.item() == pytest.approx(known, rel=1e-6)


def _plain(value):
    return value.item() if isinstance(value, torch.Tensor) else value


def _wait(logit):
    with mp.workdps(6000):
        p = 1 / (1 + mp.exp(-logit))
        return -mp.log(p) - (1 - p) / p * mp.log1p(-p)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_counts_of_what_hardly_ends_are_counts(dtype):
    """Never NaN, and never below 0, which no distribution of counts holds."""
    for logit in (-1e4, -800.0, -100.0, 1e4):
        for params in ((logit,), (torch.full((3,), logit, dtype=dtype),)):
            drawn = geometric.sample(params, torch.tensor([0.0, 0.5, 0.99], dtype=dtype))
            assert drawn.isfinite().all()
            assert (drawn >= 0).all()
            assert drawn[0] == 0
            assert (drawn[1] == 0) == (logit > 0)


def test_a_number_far_below_is_no_overflow_of_a_mean():
    for logit, mean in ((-1e4, 0.0), (1e4, 7.0), (-800.0, 0.0)):
        family = BinomialFamily(total_count=7)
        assert family.mean((logit,)) == mean
        assert family.mode((logit,)) == mean


def test_the_slope_of_a_uniform_angle_by_its_concentration():
    kappa = torch.zeros((), dtype=torch.float64, requires_grad=True)
    density = von_mises.log_prob((0.0, kappa), torch.tensor(0.7, dtype=torch.float64), 0)
    assert torch.autograd.grad(density, kappa)[0].item() == pytest.approx(float(mp.cos(0.7)), rel=1e-12)


def test_integer_counts_are_computed_as_exactly_as_their_parameters():
    rate, count = torch.tensor(7.3, dtype=torch.float64), torch.tensor(20000)
    expected = REFERENCE[poisson](mp.mpf(20000), mp.mpf(7.3))
    assert abs(poisson.log_prob((rate,), count, 0).item() - expected) < 1e-9
    loc, seen = torch.tensor([0.5], dtype=torch.float64), torch.tensor([3], dtype=torch.uint8)
    assert abs(normal.log_prob((loc, 1.0), seen, 1).item() - REFERENCE[normal](3, mp.mpf(0.5), mp.mpf(1))) < 1e-14
    square = normal.log_prob((0.0, 1.0), torch.tensor([200], dtype=torch.uint8), 1)  # 200² does not fit into 8 bits
    assert abs(square.item() - REFERENCE[normal](200, 0, 1)) < 1e-2


# ------------------------------------------------------------------------------------------- samples


def test_samples_stay_finite_and_inside():
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        df, loc = torch.full((50_000,), 0.1, dtype=dtype), torch.zeros(50_000, dtype=dtype)
        params = (df, loc, loc + 2.0)
        noise = student_t.noise((50_000, 2), dtype=dtype, generator=generator)
        sample = student_t.sample(params, noise)
        assert torch.isfinite(sample).all()
        assert torch.isfinite(student_t.log_prob(params, sample, 0)).all()
        low = torch.randn(50_000, generator=generator).to(dtype)
        high = low + torch.rand(50_000, generator=generator).to(dtype) + 0.1
        inside = uniform.sample((low, high), uniform.noise((50_000,), dtype=dtype, generator=generator))
        assert torch.isfinite(uniform.log_prob((low, high), inside, 0)).all()


def test_the_far_tail_of_a_sample_has_the_right_weight():
    df = torch.full((100_000,), 0.1)
    noise = student_t.noise((100_000, 2), generator=torch.Generator().manual_seed(0))
    sample = student_t.sample((df, 0.0, 1.0), noise).double()
    for threshold in (1e5, 1e15, 1e25):
        x = mp.mpf(threshold)  # P(|T| > x), by the incomplete Beta function of df/(df + x²)
        share = float(mp.betainc(mp.mpf("0.05"), 0.5, 0, mp.mpf("0.1") / (mp.mpf("0.1") + x * x), regularized=True))
        assert (sample.abs() > threshold).double().mean().item() == pytest.approx(share, abs=4 * (share / 1e5) ** 0.5)
