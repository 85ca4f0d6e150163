"""Variances of all families: SciPy's, in 60 digits far out, or refused in words."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch import nn

import worldformula as wf
from worldformula.errors import FormulaError
from worldformula.families import (
    BinomialFamily,
    CategoricalFamily,
    MixtureFamily,
    MultinomialFamily,
    TwoHotFamily,
    bernoulli,
    beta,
    discover,
    gamma,
    geometric,
    laplace,
    log_normal,
    multivariate_normal,
    negative_binomial,
    normal,
    one_hot,
    poisson,
    student_t,
    truncated_normal,
    uniform,
)
from worldformula.families.truncated_normal import TruncatedNormalFamily

DOUBLE = torch.float64
A, B = np.array([0.3, 2.5, 40.0]), np.array([1.7, 0.6, 3.0])
NONE = ("categorical", "logistic_normal", "relaxed_bernoulli", "relaxed_one_hot", "tanh_normal", "von_mises")


def double(*values):
    return tuple(torch.tensor(v, dtype=DOUBLE) for v in values)


@pytest.mark.parametrize(
    ("family", "params", "reference"),
    [
        (normal, (A, B), scipy.stats.norm(A, B)),
        (laplace, (A, B), scipy.stats.laplace(A, B)),
        (log_normal, (-A, B), scipy.stats.lognorm(B, scale=np.exp(-A))),
        (student_t, (A + 2, A, B), scipy.stats.t(A + 2, A, B)),
        (beta, (A, B), scipy.stats.beta(A, B)),
        (gamma, (A, B), scipy.stats.gamma(A, scale=1 / B)),
        (uniform, (-A, B), scipy.stats.uniform(-A, A + B)),
        (poisson, (A,), scipy.stats.poisson(A)),
        (bernoulli, (B - 2,), scipy.stats.bernoulli(scipy.special.expit(B - 2))),
        (negative_binomial, (A, B), scipy.stats.nbinom(A, scipy.special.expit(-B))),
        (geometric, (B - 2,), scipy.stats.geom(scipy.special.expit(B - 2), loc=-1)),
        (BinomialFamily(total_count=12), (B - 2,), scipy.stats.binom(12, scipy.special.expit(B - 2))),
        (truncated_normal, (A - 1, B), scipy.stats.truncnorm(-A / B, (2 - A) / B, A - 1, B)),
    ],
    ids=lambda v: getattr(v, "name", ""),
)
def test_variances_are_those_of_scipy_of_tensors_and_of_numbers(family, params, reference):
    assert family.variance(double(*params)).numpy() == pytest.approx(reference.var(), rel=1e-9)
    for place, expected in enumerate(np.broadcast_to(reference.var(), 3)):
        found = family.variance(tuple(float(p[place]) for p in params))
        assert isinstance(found, float)
        assert found == pytest.approx(float(expected), rel=1e-9)


def test_variances_of_classes_counts_bins_and_vectors():
    probs = np.array([0.5, 0.2, 0.3])
    expected = probs * (1 - probs)
    logits = torch.tensor(probs).log()
    assert one_hot.variance((logits,)).numpy() == pytest.approx(expected)
    assert MultinomialFamily(total_count=7).variance((logits,)).numpy() == pytest.approx(7 * expected)
    bins = TwoHotFamily(bins=3, low=-1.0, high=3.0)
    values = np.sign([-1, 1, 3]) * np.expm1(np.abs([-1.0, 1, 3]))
    assert bins.variance((logits,)).item() == pytest.approx(probs @ values**2 - (probs @ values) ** 2)
    assert bins.variance((0.0,)) == pytest.approx(values.var())
    lower = torch.tensor([[2.0, 0.0], [-1.0, 3.0]])
    assert multivariate_normal.variance((torch.zeros(2), lower)).tolist() == [4.0, 10.0]
    low_rank = wf.LowRankNormal("p(z)", shape=2, loc=0.0, cov_factor=torch.tensor([[1.0], [2.0]]), cov_diag=0.5)
    assert low_rank.variance().tolist() == [1.5, 4.5]
    grey = wf.DiscretisedLogistic("p(x)", torch.zeros(6), components=1, levels=5, shape=2)
    levels = grey.family.support(()) if grey.family.support_size(()) else torch.arange(5.0)
    shares = torch.stack([grey.log_prob(x=torch.full((2,), v)) / 2 for v in levels.tolist()]).exp()
    spread = (shares * levels**2).sum() - (shares * levels).sum() ** 2
    assert grey.variance().tolist() == pytest.approx([spread.item()] * 2, rel=1e-5)


@pytest.mark.parametrize(("m", "s"), [(-1000.0, 1.0), (30.0, 0.5), (0.2, 1e4), (0.2, 1e-3), (-3.0, 2.0)])
def test_the_variance_of_a_truncated_normal_keeps_its_digits_far_out_and_in_narrow_pieces(m, s):
    with mpmath.workdps(60):

        def moment(k, loc, scale):
            top = min(max(loc, -1), 1)
            return mpmath.quad(
                lambda x: (x - top) ** k * mpmath.exp((((top - loc) / scale) ** 2 - ((x - loc) / scale) ** 2) / 2),
                sorted({-1, 1, *(min(max(top + sign * d, -1), 1) for sign in (-1, 1) for d in
                                 (scale, 8 * scale, 60 * scale, scale**2 / max(abs(top - loc), scale),
                                  60 * scale**2 / max(abs(top - loc), scale)))}),
            )  # fmt: skip

        def whole(loc, scale):
            zero, one, two = (moment(k, mpmath.mpf(loc), mpmath.mpf(scale)) for k in range(3))
            return two / zero - (one / zero) ** 2

        expected = float(whole(m, s))
        step = mpmath.mpf(10) ** -15
        slopes = [
            float((whole(m + step, s) - whole(m - step, s)) / (2 * step)),
            float((whole(m, s + step) - whole(m, s - step)) / (2 * step)),
        ]
    params = tuple(torch.tensor(v, dtype=DOUBLE, requires_grad=True) for v in (m, s))
    found = truncated_normal.variance(params)
    assert found.item() == pytest.approx(expected, rel=1e-10)
    got = [g.item() for g in torch.autograd.grad(found, params)]
    assert got == pytest.approx(slopes, rel=1e-7, abs=1e-13)
    one_end = TruncatedNormalFamily(low=0.0, high=math.inf).variance((m, s)) if m > -20 else None
    if one_end is not None:
        assert one_end == pytest.approx(scipy.stats.truncnorm(-m / s, np.inf, m, s).var(), rel=1e-6)


def test_the_variance_of_a_mixture_has_that_of_the_means_in_it():
    weights, loc, scale = double(
        [0.2, 0.5, 0.3], [[-1.0, 2.0], [0.5, 0.0], [4.0, -3.0]], [[1.0, 0.1], [2.0, 3.0], [0.5, 1.0]]
    )
    mixture = MixtureFamily(component=normal, components=3)
    params = mixture.params({"weights": weights, "loc": loc, "scale": scale}, (2,))
    mean = (weights[:, None] * loc).sum(0)
    expected = (weights[:, None] * (scale**2 + loc**2)).sum(0) - mean**2
    torch.testing.assert_close(mixture.variance(params), expected)
    q = [wf.Normal(f"q(z|{name})", nn.Linear(1, 4), shape=2) for name in "xy"]
    x, y = torch.ones(1, 1), torch.zeros(1, 1)
    loc, scale = (torch.stack(t) for t in zip(q[0].params(x), q[1].params(y), strict=True))
    expected = (scale**2 + loc**2).mean(0) - loc.mean(0) ** 2
    torch.testing.assert_close(wf.MoE(q).variance(x=x, y=y), expected)


def test_heavy_tails_have_an_infinite_variance_or_none():
    found = student_t.variance(double([0.5, 1.5, 2.0, 4.0], [0.0] * 4, [3.0] * 4)).tolist()
    assert math.isnan(found[0])
    assert found[1:] == [math.inf, math.inf, 18.0]
    assert student_t.variance((1.5, 0.0, 1.0)) == math.inf
    with pytest.raises(FormulaError, match="no variance for df=0.5"):
        student_t.variance((0.5, 0.0, 1.0))
    df = torch.tensor([1.5, 3.0], dtype=DOUBLE, requires_grad=True)
    (slope,) = torch.autograd.grad(student_t.variance((df, 0.0, 1.0))[1], df)
    assert slope.tolist() == [0.0, -2.0]  # of df/(df - 2)


@pytest.mark.parametrize("family", list(discover().values()), ids=str)
def test_every_family_tells_its_variance_or_why_not(family):
    family = CategoricalFamily(classes=5) if family.name == "categorical" else family
    shape = (4,) * family.default_rank
    params = family.params(torch.randn(3, family.head_width(shape)), shape)
    if family.name in NONE:
        with pytest.raises(FormulaError, match="no variance|no closed form"):
            family.variance(params)
    else:
        found = family.variance(params)
        assert found.shape == (3, *shape)
        assert found.dtype is torch.float32
        assert not (found < 0).any()


def test_factors_tell_mean_and_variance_with_batch_and_event():
    p = wf.Normal("p(x|z)", nn.Linear(3, 4), shape=4, scale=0.5)
    z = torch.randn(6, 3)
    torch.testing.assert_close(p.mean(z=z), p.net(z))
    assert p.variance(z=z).tolist() == [[0.25] * 4] * 6
    assert wf.Gamma("p(x)", shape=2, concentration=3.0, rate=2.0).variance().tolist() == [0.75, 0.75]
    assert wf.Normal("p(y)", shape=2, scale=wf.Symbol("sigma")).variance(sigma=3.0).tolist() == [9.0, 9.0]
    with pytest.raises(FormulaError, match=r"p\(w\): tanh_normal: the mean has no closed form"):
        wf.TanhNormal("p(w)", shape=2).mean()
    assert wf.Dirichlet("p(w)", shape=3).mean().tolist() == pytest.approx([1 / 3] * 3)
    assert wf.Dirichlet("p(w)", shape=3).variance().tolist() == pytest.approx([1 / 18] * 3)
    assert wf.VonMisesFisher("p(w)", shape=5).variance().tolist() == pytest.approx([1 / 5] * 5)
    assert wf.MultivariateNormal("p(w)", shape=2).variance().tolist() == [1.0, 1.0]
    with pytest.raises(FormulaError, match="an unnormalised density has no mean"):
        wf.Gibbs("p(x)", nn.Sequential(nn.Linear(4, 1), nn.Flatten(-2)), shape=4).mean()
    with pytest.raises(FormulaError, match="data has no variance"):
        wf.Data("p_data(x)", shape=2).variance()
    with pytest.raises(FormulaError, match="a deterministic factor has no mean"):
        wf.Deterministic("h = f(x)", nn.Linear(2, 2), shape=2).mean(x=torch.zeros(2))
    with pytest.raises(FormulaError, match=r"by name.*\nwrite mean\(x=...\)"):
        p.mean(z)
