"""Log-densities of vectors where parameters are extreme, against mpmath on the numbers as they were rounded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import mpmath as mp
import pytest
import torch

from worldformula.families import (
    DiscretisedLogisticFamily,
    ExpertsFamily,
    MixtureFamily,
    MultinomialFamily,
    RelaxedOneHotFamily,
    TwoHotFamily,
    categorical,
    dirichlet,
    kl_pair,
    low_rank_normal,
    multivariate_normal,
    normal,
    one_hot,
)

mp.mp.dps = 40
VALUE = {torch.float64: 1e-13, torch.float32: 5e-6, torch.bfloat16: 5e-6}
SLOPE = {torch.float64: 1e-9, torch.float32: 5e-5, torch.bfloat16: 2e-2}
FLOOR = 1e-2  # a gradient that is smaller is compared with this
NAMES = ["float64", "float32", "bfloat16"]
lg = mp.loggamma

THOUSAND = MultinomialFamily(total_count=1000)
COLD = RelaxedOneHotFamily(temperature=0.125)
GRID = TwoHotFamily(bins=5, low=-4.0, high=4.0)
LEVELS = DiscretisedLogisticFamily(components=2, levels=256)
MIXTURE, ELEMENTS = (MixtureFamily(component=normal, components=2, factored=e) for e in (False, True))
EXPERTS = ExpertsFamily(component=normal, components=2)


def softmax(z):
    top = max(z)
    total = mp.fsum(mp.exp(t - top) for t in z)
    return [t - top - mp.log(total) for t in z]


def gauss(x, m, s):
    return -(((x - m) / s) ** 2) / 2 - mp.log(s) - mp.log(2 * mp.pi) / 2


def logsumexp(z):
    top = max(z)
    return top + mp.log(mp.fsum(mp.exp(t - top) for t in z))


def covariance_density(x, loc, sigma):
    d = mp.matrix([a - b for a, b in zip(x, loc, strict=True)])
    square = (d.T * mp.lu_solve(sigma, d))[0]
    return -(square + mp.log(mp.det(sigma)) + len(x) * mp.log(2 * mp.pi)) / 2


def full(x, loc, tril):
    lower = mp.matrix(tril)
    return covariance_density(x, loc, lower * lower.T)


def low_rank(x, loc, factor, diagonal):
    w = mp.matrix(factor)
    return covariance_density(x, loc, w * w.T + mp.diag(diagonal))


def two_hot_score(x, logits):
    y = [mp.mpf(-4) + 2 * k for k in range(5)]
    bins = [mp.sign(t) * mp.expm1(abs(t)) for t in y]
    k = next(i for i in range(4) if bins[i] <= x <= bins[i + 1])
    share = (x - bins[k]) / (bins[k + 1] - bins[k])
    z = softmax(logits)
    return (1 - share) * z[k] + share * z[k + 1]


def level_score(x, logits, loc, log_scale):
    half, centre = mp.mpf(1) / 255, 2 * x / 255 - 1

    def cdf(edge, m, s):
        return 1 / (1 + mp.exp(-(edge - m) / mp.exp(s)))

    found = []
    for z, m, s in zip(logits, loc, log_scale, strict=True):
        upper = 1 if x == 255 else cdf(centre + half, m, s)
        lower = 0 if x == 0 else cdf(centre - half, m, s)
        found.append(z + mp.log(upper - lower))
    return logsumexp(found)


def relaxed(x, logits):
    t, k = mp.mpf(1) / 8, len(x)
    score = [z - t * mp.log(v) for z, v in zip(logits, x, strict=True)]
    whole = mp.fsum(s - mp.log(v) for s, v in zip(score, x, strict=True))
    return lg(k) + (k - 1) * mp.log(t) + whole - k * logsumexp(score)


def mixture(x, weights, loc, scale):
    rows = zip(weights, loc, scale, strict=True)
    return logsumexp([w + mp.fsum(map(gauss, x, m, s)) for w, m, s in rows])


def mixture_of_elements(x, weights, loc, scale):
    rows = zip(x, weights, loc, scale, strict=True)
    return mp.fsum(logsumexp([z + gauss(v, a, b) for z, a, b in zip(w, m, s, strict=True)]) for v, w, m, s in rows)


# family, event axes, parameters, value, density of the value given the parameters, slack of float64
CASES: list[tuple] = [
    (dirichlet, 1, [[1e6, 2e6, 1e6]], [0.25, 0.5, 0.25], lambda x, a: (
        lg(mp.fsum(a)) + mp.fsum((k - 1) * mp.log(v) - lg(k) for k, v in zip(a, x, strict=True))), 1e6),
    (dirichlet, 1, [[0.01, 0.01, 3.0]], [2.0**-60, 2.0**-40, 1.0], lambda x, a: (
        lg(mp.fsum(a)) + mp.fsum((k - 1) * mp.log(v) - lg(k) for k, v in zip(a, x, strict=True))), 10),
    (categorical, 0, [[-700.0, -1e-8, -40.0]], 0, lambda x, z: z[int(x)], 1),
    (one_hot, 1, [[-700.0, -1e-8, -40.0]], [1.0, 0.0, 0.0], lambda x, z: mp.fsum(map(mp.fmul, x, z)), 1),
    (THOUSAND, 1, [[-0.5, -40.0, -2.0]], [700.0, 0.0, 300.0], lambda x, z: (
        lg(1001) - mp.fsum(lg(v + 1) for v in x) + mp.fsum(map(mp.fmul, x, softmax(z)))), 1e3),
    (COLD, 1, [[-0.5, -8.0, -2.0]], [0.75, 2.0**-30, 0.25], relaxed, 10),
    (GRID, 0, [[30.0, 0.0, -30.0, 1.0, 2.0]], 0.75, two_hot_score, 10),
    (GRID, 0, [[30.0, 0.0, -30.0, 1.0, 2.0]], -50.0, two_hot_score, 10),
    (LEVELS, 0, [[0.0, -3.0], [0.5, -0.25], [-6.5, -2.0]], 191.0, level_score, 1e2),
    (LEVELS, 0, [[0.0, -3.0], [0.5, -0.25], [-6.5, -2.0]], 0.0, level_score, 1e2),
    (LEVELS, 0, [[0.0, -3.0], [0.5, -0.25], [2.0, -2.0]], 255.0, level_score, 1e2),
    (multivariate_normal, 1, [[0.0, 1.0], [[1e-3, 0.0], [5.0, 2e3]]], [3e-3, 4.0], full, 10),
    (multivariate_normal, 1, [[0.0, 1.0], [[1.0, 0.0], [0.9990234375, 0.03125]]], [2.0, -1.0], full, 1e3),
    (low_rank_normal, 1, [[0.0, 1.0], [[1.0], [-2.0]], [1e-2, 30.0]], [0.5, -1.0], low_rank, 1e2),
    (low_rank_normal, 1, [[0.0, 1.0], [[1e-4], [1e-4]], [1e4, 1e-4]], [50.0, 1.0], low_rank, 1e2),
    (MIXTURE, 1, [[-50.0, -1e-8], [[0.0, 0.0], [40.0, 40.0]], [[1.0, 1.0], [1.0, 0.5]]], [0.5, 0.5], mixture, 1e2),
    (EXPERTS, 1, [[-0.7, -0.7], [[0.0, 0.0], [40.0, 40.0]], [[1.0, 1.0], [9.0, 0.5]]], [0.5, 0.5], mixture, 1e2),
    (ELEMENTS, 1, [[[-50.0, -1e-8], [-0.7, -0.7]], [[0.0, 40.0], [0.0, 0.0]], [[1.0, 1.0], [1e-3, 1e3]]], [0.5, 0.0],
     mixture_of_elements, 1e2),
]  # fmt: skip


def numbers(x):
    return [numbers(v) for v in x] if isinstance(x, list) else mp.mpf(x)


def replaced(x, place, value):
    if not place:
        return value
    return [replaced(v, place[1:], value) if i == place[0] else v for i, v in enumerate(x)]


def varied(function, params, i, place, value):
    """The function where one element of one parameter has another value."""
    return function(*params[:i], replaced(params[i], place, value), *params[i + 1 :])


def slopes(found: torch.Tensor, leaves: list[torch.Tensor], function: Callable, tolerance: float) -> None:
    """Autograd's derivatives by every element that is not a structural 0 of a triangle are those of the function."""
    exact = [numbers(leaf.tolist()) for leaf in leaves]
    gradients = torch.autograd.grad(found, leaves, allow_unused=True)
    for i, (leaf, gradient) in enumerate(zip(leaves, gradients, strict=True)):
        for place in torch.ones_like(leaf).nonzero().tolist():
            if leaf.ndim > 1 and leaf[tuple(place)] == 0.0 and place[-1] > place[-2]:
                continue
            at = mp.mpf(leaf[tuple(place)].item())
            want = mp.diff(partial(varied, function, exact, i, place), at)
            got = 0.0 if gradient is None else gradient[tuple(place)].item()
            assert abs(got - want) <= tolerance * (FLOOR + abs(want)), (i, place, got, float(want))


@pytest.mark.parametrize("dtype", list(VALUE), ids=NAMES)
@pytest.mark.parametrize(
    ("family", "rank", "params", "value", "reference", "slack"), CASES, ids=lambda v: getattr(v, "name", "")
)
def test_log_density_and_its_gradient(family, rank, params, value, reference, slack, dtype):
    leaves = [torch.tensor(p, dtype=dtype, requires_grad=True) for p in params]
    x = torch.tensor(value) if isinstance(value, int) else torch.tensor(value, dtype=dtype)
    got = family.log_prob(tuple(leaves), x, rank)
    assert got.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
    at, slack = numbers(x.tolist()), slack if dtype is torch.float64 else 1
    expected = reference(at, *(numbers(leaf.tolist()) for leaf in leaves))
    assert abs(got.item() - expected) <= slack * VALUE[dtype] * (1 + abs(expected)), (got.item(), float(expected))
    slopes(got, leaves, lambda *p: reference(at, *p), slack * SLOPE[dtype])


# ------------------------------------------------------------------------------------------- KLs of unlike covariances


def kl_of(sigma_q, loc_q, sigma_p, loc_p):
    d = mp.matrix([a - b for a, b in zip(loc_p, loc_q, strict=True)])
    inverse = sigma_p**-1
    trace = mp.fsum((inverse * sigma_q)[i, i] for i in range(len(d)))
    return (trace + (d.T * inverse * d)[0] - len(d) + mp.log(mp.det(sigma_p) / mp.det(sigma_q))) / 2


def sigma_of(params):
    """Location and covariance of a diagonal, low-rank or full Normal."""
    if len(params) == 3:
        w = mp.matrix(params[1])
        return params[0], w * w.T + mp.diag(params[2])
    if isinstance(params[1][0], list):
        lower = mp.matrix(params[1])
        return params[0], lower * lower.T
    return params[0], mp.diag([s**2 for s in params[1]])


DIAGONAL = [[0.5, -1.0], [0.25, 3.0]]
FACTORED = [[1.0, 1.0], [[1.0], [-2.0]], [0.125, 4.0]]
TRIANGLE = [[0.0, 2.0], [[0.5, 0.0], [3.0, 1.5]]]


@pytest.mark.parametrize("dtype", list(VALUE), ids=NAMES)
@pytest.mark.parametrize(
    ("q", "ours", "p", "theirs"),
    [
        (multivariate_normal, TRIANGLE, normal, DIAGONAL),
        (low_rank_normal, FACTORED, normal, DIAGONAL),
        (low_rank_normal, FACTORED, multivariate_normal, TRIANGLE),
        (multivariate_normal, TRIANGLE, low_rank_normal, FACTORED),
        (normal, DIAGONAL, multivariate_normal, TRIANGLE),
        (normal, DIAGONAL, low_rank_normal, FACTORED),
    ],
    ids=lambda v: getattr(v, "name", ""),
)
def test_kl_of_unlike_covariances(q, ours, p, theirs, dtype):
    leaves = [torch.tensor(x, dtype=dtype, requires_grad=True) for x in (*ours, *theirs)]

    def function(*args):
        (loc_q, sigma_q), (loc_p, sigma_p) = sigma_of(args[: len(ours)]), sigma_of(args[len(ours) :])
        return kl_of(sigma_q, loc_q, sigma_p, loc_p)

    found = kl_pair(q, p)(tuple(leaves[: len(ours)]), tuple(leaves[len(ours) :]), 1)
    expected = function(*(numbers(leaf.tolist()) for leaf in leaves))
    assert abs(found.item() - expected) <= 10 * VALUE[dtype] * (1 + abs(expected))
    slopes(found, leaves, function, 10 * SLOPE[dtype])
    rows = kl_pair(q, p)(tuple(x.expand(4, 2, *x.shape) for x in leaves[: len(ours)]), tuple(
        x.expand(4, 2, *x.shape) for x in leaves[len(ours) :]), 2)  # fmt: skip
    assert rows.shape == (4,)
    assert rows[0].item() == pytest.approx(2 * found.item(), rel=1e-5)


STANDARD = {
    normal: (torch.zeros(3).double(), torch.ones(3).double()),
    multivariate_normal: (torch.zeros(3).double(), torch.eye(3).double()),
    low_rank_normal: (torch.zeros(3).double(), torch.zeros(3, 1).double(), torch.ones(3).double()),
}


@pytest.mark.parametrize(("q", "p"), [(q, p) for q in STANDARD for p in STANDARD if q is not p])
def test_numbers_in_the_place_of_tensors_change_nothing(q, p):
    torch.manual_seed(0)
    ours, theirs = (f.params(torch.randn(f.head_width((3,)), dtype=torch.float64), (3,)) for f in (q, p))
    plain_q, plain_p = (f.params(None, (3,)) for f in (q, p))
    like_q, like_p = STANDARD[q], STANDARD[p]
    kl = kl_pair(q, p)
    assert kl(ours, plain_p, 1).item() == pytest.approx(kl(ours, like_p, 1).item(), rel=1e-12)
    assert kl(plain_q, theirs, 1).item() == pytest.approx(kl(like_q, theirs, 1).item(), rel=1e-12)
    assert kl(plain_q, plain_p, 1, (3,)) == pytest.approx(0.0, abs=1e-6)
