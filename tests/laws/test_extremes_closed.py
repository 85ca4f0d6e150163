"""Entropies and KLs at the ends of what parameters may be, against mpmath on the numbers as they were rounded."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import mpmath as mp
import pytest
import scipy.stats
import torch

from worldformula.families import (
    MultinomialFamily,
    bernoulli,
    beta,
    dirichlet,
    gamma,
    kl_pair,
    laplace,
    log_normal,
    normal,
    poisson,
    student_t,
    uniform,
    von_mises,
)

mp.mp.dps = 50
VALUE = {torch.float64: 1e-13, torch.float32: 3e-6, torch.bfloat16: 3e-6}
SLOPE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.bfloat16: 1e-2}
FLOOR = 1e-2  # a gradient that is smaller is compared with this
lg, psi = mp.loggamma, mp.digamma


def lbeta(*a):
    return mp.fsum(map(lg, a)) - lg(mp.fsum(a))


def entropy_dirichlet(*a):
    total = mp.fsum(a)
    return lbeta(*a) + (total - len(a)) * psi(total) - mp.fsum((x - 1) * psi(x) for x in a)


def kl_dirichlet(q, p):
    total = mp.fsum(q)
    return lbeta(*p) - lbeta(*q) + mp.fsum((x - y) * (psi(x) - psi(total)) for x, y in zip(q, p, strict=True))


def bessel_ratio(k):
    return mp.besseli(1, k) / mp.besseli(0, k)


def entropy_multinomial(*logits):
    """Over every vector of counts of three draws."""
    z = [mp.exp(t) for t in logits]
    p = [x / mp.fsum(z) for x in z]
    found = mp.mpf(0)
    for counts in itertools.product(range(4), repeat=len(p)):
        if sum(counts) == 3:
            logs = (
                lg(4)
                - mp.fsum(lg(c + 1) for c in counts)
                + mp.fsum(c * mp.log(x) for c, x in zip(counts, p, strict=True))
            )
            found -= mp.exp(logs) * logs
    return found


ENTROPY: dict[object, Callable] = {
    normal: lambda m, s: mp.log(s) + mp.log(2 * mp.pi * mp.e) / 2,
    laplace: lambda m, s: 1 + mp.log(2 * s),
    log_normal: lambda m, s: m + mp.log(s) + mp.log(2 * mp.pi * mp.e) / 2,
    student_t: lambda v, m, s: (
        (v + 1) / 2 * (psi((v + 1) / 2) - psi(v / 2)) + mp.log(v) / 2 + lbeta(v / 2, mp.mpf(1) / 2) + mp.log(s)
    ),
    beta: entropy_dirichlet,
    gamma: lambda a, b: a - mp.log(b) + lg(a) + (1 - a) * psi(a),
    uniform: lambda low, high: mp.log(high - low),
    von_mises: lambda m, k: -k * bessel_ratio(k) + mp.log(2 * mp.pi * mp.besseli(0, k)),
    bernoulli: lambda t: mp.log1p(mp.exp(-abs(t))) + abs(t) / (1 + mp.exp(abs(t))),
}

ENTROPIES = [
    (normal, (0.0, 1e-12), 1),
    (laplace, (0.0, 1e12), 1),
    (log_normal, (-50.0, 1e-3), 1),
    (student_t, (1e6, 0.0, 1.0), 1e5),
    (student_t, (0.1, 0.0, 1.0), 1),
    (beta, (1e4, 1e4), 1e4),
    (beta, (1e6, 3e6), 1e6),
    (beta, (1e-2, 1e-2), 10),
    (gamma, (1e4, 1.0), 1e4),
    (gamma, (1e6, 1e3), 1e6),
    (gamma, (1e-2, 1e6), 10),
    (uniform, (-1e-6, 1e-6), 1),
    (von_mises, (0.0, 1e-3), 10),
    (von_mises, (0.0, 1e5), 1e5),
    (bernoulli, (60.0,), 1),
    (bernoulli, (-3.0,), 1),
]


def close(got, expected, tolerance):
    assert abs(got - expected) <= tolerance * (1 + abs(expected)), (got, float(expected))


def slopes(found, leaves, function, exact, tolerance):
    """Every derivative of the function, whose arguments are numbers, is that of autograd."""
    for i, gradient in enumerate(torch.autograd.grad(found, leaves, allow_unused=True)):
        want = mp.diff(lambda p, i=i: function(*exact[:i], p, *exact[i + 1 :]), exact[i])
        got = 0.0 if gradient is None else gradient.item()
        assert abs(got - want) <= tolerance * (FLOOR + abs(want)), (i, got, float(want))


@pytest.mark.parametrize("dtype", list(VALUE), ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize(("family", "params", "slack"), ENTROPIES, ids=lambda v: getattr(v, "name", str(v)))
def test_entropy(family, params, slack, dtype):
    leaves = [torch.tensor(p, dtype=dtype, requires_grad=True) for p in params]
    exact = [mp.mpf(p.item()) for p in leaves]
    slack = slack if dtype is torch.float64 else 1
    found = family.entropy(tuple(leaves), 0)
    close(found.item(), ENTROPY[family](*exact), slack * VALUE[dtype])
    slopes(found, leaves, ENTROPY[family], exact, slack * SLOPE[dtype])


@pytest.mark.parametrize("dtype", list(VALUE), ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("values", [(1e4, 2e4, 3e4), (1e6, 1e6, 1.0), (0.01, 0.5, 1e5)])
def test_entropy_and_kl_of_dirichlets(values, dtype):
    q = torch.tensor(values, dtype=dtype, requires_grad=True)
    p = (q.detach() * 1.25).requires_grad_()
    slack = 1e6 if dtype is torch.float64 else 1
    close(dirichlet.entropy((q,), 1).item(), entropy_dirichlet(*map(mp.mpf, q.tolist())), slack * VALUE[dtype])
    expected = kl_dirichlet([mp.mpf(x) for x in q.tolist()], [mp.mpf(x) for x in p.tolist()])
    close(dirichlet.kl((q,), (p,), 1).item(), expected, slack * VALUE[dtype])


def test_entropy_of_multinomials():
    few = MultinomialFamily(total_count=3)
    logits = torch.tensor([0.3, -40.0, 2.0], dtype=torch.float64)
    close(
        few.entropy(few.params({"logits": logits}), 1).item(), entropy_multinomial(*map(mp.mpf, logits.tolist())), 1e-13
    )
    many = MultinomialFamily(total_count=1000)
    expected = scipy.stats.multinomial(1000, [0.2, 0.3, 0.5]).entropy()
    for dtype in (torch.float64, torch.float32):
        found = many.entropy(many.params({"probs": torch.tensor([0.2, 0.3, 0.5], dtype=dtype)}), 1)
        assert found.item() == pytest.approx(expected, abs=1e-8 if dtype is torch.float64 else 2e-6)


KLS: dict[tuple[object, object], Callable] = {
    (normal, normal): lambda m, s, n, t: mp.log(t / s) + (s**2 + (m - n) ** 2) / (2 * t**2) - mp.mpf(1) / 2,
    (laplace, laplace): lambda m, s, n, t: mp.log(t / s) + (s * mp.exp(-abs(m - n) / s) + abs(m - n)) / t - 1,
    (gamma, gamma): lambda a, b, c, d: c * mp.log(b / d) + lg(c) - lg(a) + (a - c) * psi(a) + a * (d / b - 1),
    (beta, beta): lambda a, b, c, d: kl_dirichlet([a, b], [c, d]),
    (poisson, poisson): lambda q, p: q * mp.log(q / p) + p - q,
    (von_mises, von_mises): lambda m, k, n, c: (
        mp.log(mp.besseli(0, c) / mp.besseli(0, k)) + bessel_ratio(k) * (k - c * mp.cos(m - n))
    ),
    (uniform, beta): lambda low, high, a, b: (
        lbeta(a, b)
        - mp.log(high - low)
        - (a - 1) * mp.quad(mp.log, [low, high]) / (high - low)
        - (b - 1) * mp.quad(lambda x: mp.log(1 - x), [low, high]) / (high - low)
    ),
    (bernoulli, bernoulli): lambda t, u: (
        (mp.log1p(mp.exp(-u)) - mp.log1p(mp.exp(-t))) / (1 + mp.exp(-t))
        + (mp.log1p(mp.exp(u)) - mp.log1p(mp.exp(t))) / (1 + mp.exp(t))
    ),
    (bernoulli, poisson): lambda t, r: (
        r - mp.log(r) / (1 + mp.exp(-t)) - mp.log1p(mp.exp(-abs(t))) - abs(t) / (1 + mp.exp(abs(t)))
    ),
}

PAIRS = [
    (normal, (0.0, 1e-6), normal, (1.0, 1.0), 1),
    (laplace, (0.0, 1e-3), laplace, (5.0, 2.0), 1),
    (gamma, (1e6, 1e3), gamma, (1.001e6, 1e3), 1e5),
    (gamma, (1e-2, 1.0), gamma, (3.0, 1e4), 10),
    (beta, (1e6, 1e6), beta, (1.001e6, 1e6), 1e6),
    (beta, (0.5, 0.01), beta, (20.0, 0.3), 1e2),
    (poisson, (1e6,), poisson, (1.0001e6,), 1e3),
    (poisson, (1e-20,), poisson, (3.0,), 1),
    (von_mises, (0.0, 1e5), von_mises, (0.01, 1.001e5), 1e5),
    (von_mises, (0.5, 1e-3), von_mises, (2.0, 4.0), 10),
    (uniform, (0.25, 0.75), beta, (3.0, 0.5), 10),
    (uniform, (0.0, 1.0), beta, (0.5, 0.5), 10),
    (uniform, (0.25, 0.25390625), beta, (40.0, 7.0), 1e5),
    (bernoulli, (1e6,), bernoulli, (0.0,), 1),
    (bernoulli, (-80.0,), bernoulli, (30.0,), 1),
    (bernoulli, (0.5,), bernoulli, (-80.0,), 1),
    (bernoulli, (-30.0,), poisson, (1e-3,), 1),
    (bernoulli, (2.0,), poisson, (40.0,), 1),
]


@pytest.mark.parametrize("dtype", list(VALUE), ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize(("q", "ours", "p", "theirs", "slack"), PAIRS, ids=lambda v: getattr(v, "name", str(v)))
def test_kl(q, ours, p, theirs, slack, dtype):
    leaves = [torch.tensor(x, dtype=dtype, requires_grad=True) for x in (*ours, *theirs)]
    exact, function = [mp.mpf(x.item()) for x in leaves], KLS[q, p]
    slack = slack if dtype is torch.float64 else 1
    found = kl_pair(q, p)(tuple(leaves[: len(ours)]), tuple(leaves[len(ours) :]), 0)
    close(found.item(), function(*exact), slack * VALUE[dtype])
    if not (q is uniform and 0.0 in ours):  # at the ends of [0, 1] the slope by them is infinite
        slopes(found, leaves, function, exact, slack * SLOPE[dtype])


def test_kl_at_the_edge():
    sure = bernoulli.params(None, (2,), {"logits": torch.tensor([float("inf"), float("-inf")])})
    kl = bernoulli.kl(sure, (torch.tensor([1.0, 1.0]),), 0)
    assert kl.tolist() == pytest.approx([float(mp.log1p(mp.exp(-1))), float(mp.log1p(mp.exp(1)))])
    assert bernoulli.kl(sure, sure, 1).item() == 0.0
    zero, two = torch.zeros((), dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)
    assert poisson.kl((zero,), (two,), 0).item() == 2.0
    assert poisson.kl((two,), (zero,), 0).item() == float("inf")
    assert kl_pair(uniform, beta)((-0.5 * two, two), (two, two), 0).item() == float("inf")
    assert kl_pair(uniform, beta)((-0.5, 0.5), (2.0, 2.0), 1, (3,)) == float("inf")
