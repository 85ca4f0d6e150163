"""Families of `torch.distributions` beyond the five of the spine: quantiles, gradients, pairs of KL, factors."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

import worldformula as wf
from worldformula.errors import ConfigError, FormulaError, HeadError
from worldformula.families import (
    BinomialFamily,
    MultinomialFamily,
    UniformFamily,
    beta,
    dirichlet,
    gamma,
    geometric,
    kl_pair,
    laplace,
    log_normal,
    multinomial,
    negative_binomial,
    normal,
    poisson,
    student_t,
    tanh_normal,
    truncated_normal,
    uniform,
    von_mises,
)
from worldformula.families.beta import BetaFamily
from worldformula.families.gamma import GammaFamily
from worldformula.families.special import digamma, log_gamma_quantile, poisson_quantile
from worldformula.families.student_t import StudentTFamily
from worldformula.families.truncated_normal import TruncatedNormalFamily
from worldformula.testing import check_family

DOUBLE = torch.float64
CASES = [
    (laplace, (2, 3)),
    (laplace, ()),
    (log_normal, (2, 3)),
    (student_t, (2, 3)),
    (tanh_normal, (2, 3)),
    (truncated_normal, (2, 3)),
    (TruncatedNormalFamily(low=-2.0, high=0.5, min_scale=0.1), ()),
    (StudentTFamily(min_df=3.0, min_scale=0.1), ()),
    (beta, (2, 3)),
    (beta, ()),
    (gamma, ()),
    (GammaFamily(min_concentration=1.0, min_rate=0.1), (2, 3)),
    (dirichlet, (2, 3)),
    (uniform, ()),
    (von_mises, (2, 3)),
    (poisson, ()),
    (negative_binomial, (2, 3)),
    (geometric, (2, 3)),
    (geometric, ()),
    (BinomialFamily(total_count=6), (2, 3)),
    (BinomialFamily(total_count=1), ()),
    (MultinomialFamily(total_count=5), (4,)),
    (MultinomialFamily(total_count=3), (2, 3)),
]


def double(*values):
    return tuple(torch.tensor(v, dtype=DOUBLE) for v in values)


@pytest.mark.parametrize(("family", "shape"), CASES, ids=str)
def test_laws(family, shape):
    check_family(family, shape, seed=3)


# ------------------------------------------------------------------------------------------- SciPy


A, B, X = np.array([0.3, 2.5, 40.0]), np.array([1.7, 0.6, 3.0]), np.array([0.2, 0.5, 0.9])
COUNTS = np.array([0.0, 3.0, 12.0])


@pytest.mark.parametrize(
    ("family", "params", "reference", "value"),
    [
        (laplace, (A, B), scipy.stats.laplace(A, B), X),
        (log_normal, (A, B), scipy.stats.lognorm(B, scale=np.exp(A)), X),
        (student_t, (A + 1, A, B), scipy.stats.t(A + 1, A, B), X),
        (beta, (A, B), scipy.stats.beta(A, B), X),
        (gamma, (A, B), scipy.stats.gamma(A, scale=1 / B), X),
        (uniform, (-A, B), scipy.stats.uniform(-A, A + B), X),
        (von_mises, (A, B), scipy.stats.vonmises(B, loc=A), X),
        (von_mises, (A, 1e3 * B), scipy.stats.vonmises(1e3 * B, loc=A), A + 0.03 * X),
        (poisson, (A,), scipy.stats.poisson(A), COUNTS),
        (negative_binomial, (A, B), scipy.stats.nbinom(A, scipy.special.expit(-B)), COUNTS),
        (geometric, (B - 2,), scipy.stats.geom(scipy.special.expit(B - 2), loc=-1), COUNTS),
        (BinomialFamily(total_count=12), (B - 2,), scipy.stats.binom(12, scipy.special.expit(B - 2)), COUNTS),
    ],
    ids=lambda v: getattr(v, "name", ""),
)
def test_density_entropy_and_mean_are_those_of_scipy(family, params, reference, value):
    params = double(*params)
    log_density = getattr(reference, "logpmf" if hasattr(reference.dist, "logpmf") else "logpdf")(value)
    assert family.log_prob(params, *double(value), 0).numpy() == pytest.approx(log_density, rel=1e-9, abs=1e-9)
    if family not in (poisson, negative_binomial):
        assert family.entropy(params, 0).numpy() == pytest.approx(reference.entropy(), rel=1e-9, abs=1e-9)
    if family is not von_mises:
        assert family.mean(params).numpy() == pytest.approx(reference.mean(), rel=1e-12)


def test_a_squashed_normal_is_that_of_torch_and_its_mode_the_top_of_its_density():
    loc, scale = double([-3.0, -0.2, 0.0, 0.4, 2.0, 5.0], [0.1, 0.3, 0.6, 0.9, 2.0, 5.0])
    theirs = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(loc, scale), torch.distributions.TanhTransform(cache_size=1)
    )
    noise = torch.randn(6, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    value = tanh_normal.sample((loc, scale), noise)
    inside = value.abs() < 1 - 1e-9
    assert inside.sum() >= 4
    got, expected = tanh_normal.log_prob((loc, scale), value, 0), theirs.log_prob(value)
    assert got[inside].numpy() == pytest.approx(expected[inside].numpy(), rel=1e-6)
    u = np.linspace(-60, 60, 2_000_001)
    for m, s, mode in zip(loc.tolist(), scale.tolist(), tanh_normal.mode((loc, scale)).tolist(), strict=True):
        top = scipy.stats.norm.logpdf(u, m, s) - 2 * (np.log(2) - np.abs(u) - np.log1p(np.exp(-2 * np.abs(u))))
        assert mode == pytest.approx(np.tanh(u[top.argmax()]), abs=1e-4)
    assert tanh_normal.mode((0.0, 0.5)) == pytest.approx(0.0, abs=1e-6)  # one top in the middle
    with pytest.raises(FormulaError, match="no closed form"):
        tanh_normal.mean((loc, scale))


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize(("loc", "scale"), [(0.0, 1.0), (6.0, 0.5), (-3.0, 4.0)])
def test_a_squashed_normal_keeps_its_digits_close_to_the_ends(dtype, loc, scale):
    """Values as close to 1 as the type knows, in 50 digits; an end itself is scored as the nearest one inside."""
    step = torch.finfo(dtype).eps / 2
    x = torch.tensor([0.0, 1.0 - 100 * step, 1.0 - step, -1.0 + 3 * step, 1.0], dtype=dtype)
    params = [torch.full((5,), v, dtype=dtype, requires_grad=True) for v in (loc, scale)]
    found = tanh_normal.log_prob(tuple(params), x, 0)
    slopes = torch.autograd.grad(found.sum(), params)
    with mpmath.workdps(50):
        for place, value in enumerate(torch.where(x.abs() == 1, 1 - step, x).tolist()):
            y = mpmath.mpf(value)
            z = (mpmath.atanh(y) - loc) / scale
            expected = -z * z / 2 - mpmath.log(scale) - mpmath.log(2 * mpmath.pi) / 2 - mpmath.log(1 - y * y)
            assert found[place].item() == pytest.approx(float(expected), rel=2e-6 if dtype is torch.float32 else 1e-13)
            by_hand = [float(z / scale), float((z * z - 1) / scale)]
            assert [s[place].item() for s in slopes] == pytest.approx(by_hand, rel=1e-5, abs=1e-6)


def test_a_truncated_normal_is_that_of_scipy():
    m, s, x = np.array([0.3, -1.2, 2.5, 0.0]), np.array([1.7, 0.6, 3.0, 0.1]), np.array([0.2, -0.9, 0.999, -0.3])
    params, reference = double(m, s), scipy.stats.truncnorm((-1 - m) / s, (1 - m) / s, m, s)
    assert truncated_normal.log_prob(params, *double(x), 0).numpy() == pytest.approx(reference.logpdf(x), rel=1e-9)
    assert truncated_normal.entropy(params, 0).numpy() == pytest.approx(reference.entropy(), rel=1e-9)
    assert truncated_normal.mean(params).numpy() == pytest.approx(reference.mean(), rel=1e-9, abs=1e-12)
    with pytest.raises(ConfigError, match="low below high"):
        TruncatedNormalFamily(low=1.0, high=0.0)


@pytest.mark.parametrize(("m", "s"), [(0.3, 1.2), (-5.0, 0.5), (8.0, 2.0)])
@pytest.mark.parametrize(("low", "high"), [(0.0, math.inf), (-math.inf, 1.0), (-math.inf, math.inf)])
def test_a_normal_that_is_cut_at_one_end_or_at_none(low, high, m, s):
    """Entropy, mean and density in 40 digits, and their gradient by differences."""
    mpmath.mp.dps = 40
    x = min(max(m + 0.1 * s, low + 0.01), high - 0.01)

    def whole(loc, scale):
        a, b = (mpmath.mpf(-60 if end == -math.inf else 60) if math.isinf(end) else (end - loc) / scale
                for end in (low, high))  # fmt: skip
        z = mpmath.ncdf(-a) - mpmath.ncdf(-b) if a > 0 else mpmath.ncdf(b) - mpmath.ncdf(a)
        entropy = mpmath.log(mpmath.sqrt(2 * mpmath.pi * mpmath.e) * scale * z)
        entropy += (a * mpmath.npdf(a) - b * mpmath.npdf(b)) / (2 * z)
        mean = loc + scale * (mpmath.npdf(a) - mpmath.npdf(b)) / z
        return entropy + mean + mpmath.log(mpmath.npdf((x - loc) / scale) / scale / z)

    family = TruncatedNormalFamily(low=low, high=high)
    params = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (m, s)]
    found = family.entropy(params, 0) + family.mean(params)
    found = found + family.log_prob(params, torch.tensor(x, dtype=torch.float64), 0)
    at, h = (mpmath.mpf(m), mpmath.mpf(s)), mpmath.mpf(10) ** -12
    by_hand = [whole(at[0] + h, at[1]) - whole(at[0] - h, at[1]), whole(at[0], at[1] + h) - whole(at[0], at[1] - h)]
    assert found.item() == pytest.approx(float(whole(*at)), rel=1e-11)
    slopes = torch.autograd.grad(found, params)
    assert [g.item() for g in slopes] == pytest.approx([float(d / 2 / h) for d in by_hand], rel=1e-9, abs=1e-12)


def test_what_is_infinite_and_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="low < high, both finite"):
        wf.TwoHot("p(x|y)", torch.nn.Linear(2, 11), bins=11, low=-math.inf, high=1.0)
    for given in ({"loc": math.inf, "scale": 1.0}, {"loc": 0.0, "scale": math.inf}):
        with pytest.raises(FormulaError, match="finite"):
            wf.TruncatedNormal("p(x)", shape=1, **given).log_prob(x=torch.zeros(1))


def test_between_infinite_ends_there_is_no_middle():
    with pytest.raises(ConfigError, match="write loc=, scale="):
        TruncatedNormalFamily(low=0.0, high=math.inf).constants((2,))


@pytest.mark.parametrize("loc", [-30.0, -1.5, 0.0, 0.7, 30.0])
def test_samples_of_a_truncated_normal_are_quantiles_also_far_outside(loc):
    u, scale = np.linspace(0.01, 0.99, 25), 0.8
    reference = scipy.stats.truncnorm((-1 - loc) / scale, (1 - loc) / scale, loc, scale)
    found = truncated_normal.sample((torch.full((25,), loc, dtype=DOUBLE), scale), *double(u)).numpy()
    assert found == pytest.approx(reference.ppf(u), rel=1e-6, abs=1e-9)
    params = torch.full((25,), loc, dtype=DOUBLE, requires_grad=True)
    (gradient,) = torch.autograd.grad(truncated_normal.sample((params, scale), *double(u)).sum(), params)
    step = 1e-4
    up, down = (
        scipy.stats.truncnorm((-1 - m) / scale, (1 - m) / scale, m, scale).ppf(u) for m in (loc + step, loc - step)
    )
    assert gradient.numpy() == pytest.approx((up - down) / (2 * step), rel=1e-3, abs=1e-6)
    assert truncated_normal.mode((loc, scale)) == min(max(loc, -1), 1)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_gamma_samples_are_quantiles(dtype):
    rng = np.random.default_rng(0)
    shape, u = torch.tensor(10 ** rng.uniform(-3, 5, 4000)).to(dtype), torch.tensor(rng.uniform(1e-6, 1 - 1e-6, 4000))
    u = u.to(dtype)
    got = log_gamma_quantile(shape, u).double().exp().numpy()
    expected = scipy.special.gammaincinv(shape.double().numpy(), u.double().numpy())
    seen = expected > 1e-300
    assert seen.mean() > 0.7
    assert got[seen] == pytest.approx(expected[seen], rel=1e-9 if dtype is DOUBLE else 1e-4)


def test_poisson_samples_are_quantiles():
    rng = np.random.default_rng(0)
    rate, u = 10 ** rng.uniform(-3, 7, 4000), rng.uniform(0, 1, 4000)
    u[:2] = 0.0, 1.0 - 2.0**-53
    got = poisson_quantile(*double(rate, u)).numpy()
    assert np.array_equal(got[2:], scipy.stats.poisson.ppf(u, rate)[2:])
    assert np.isfinite(got).all()
    assert got[0] <= rate[0]


def test_von_mises_samples_are_quantiles():
    rng = np.random.default_rng(0)
    kappa, u = 10 ** rng.uniform(-3, 1, 1000), rng.uniform(1e-5, 1 - 1e-5, 1000)
    got = von_mises.sample(double(np.zeros(1000), kappa), *double(u)).numpy()
    assert got == pytest.approx(scipy.stats.vonmises.ppf(u, kappa), abs=1e-5)
    kappa = 10 ** rng.uniform(3, 6, 1000)  # a Normal of variance 1/κ, to 1/κ
    got = von_mises.sample(double(np.zeros(1000), kappa), *double(u)).numpy()
    assert got * np.sqrt(kappa) == pytest.approx(scipy.stats.norm.ppf(u), abs=2e-2)


@pytest.mark.parametrize(
    ("family", "params", "reference"),
    [
        (student_t, (2.5, 0.3, 1.7), scipy.stats.t(2.5, 0.3, 1.7)),
        (beta, (0.4, 1.5), scipy.stats.beta(0.4, 1.5)),
        (negative_binomial, (2.5, 1.0), scipy.stats.nbinom(2.5, scipy.special.expit(-1.0))),
        (geometric, (-1.5,), scipy.stats.geom(scipy.special.expit(-1.5), loc=-1)),
        (BinomialFamily(total_count=9), (0.7,), scipy.stats.binom(9, scipy.special.expit(0.7))),
    ],
    ids=lambda v: getattr(v, "name", ""),
)
def test_samples_follow_the_distribution(family, params, reference):
    noise = family.noise(family.noise_shape((40_000,), ()), dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    values = family.sample(double(*params), noise).numpy()
    for share in (0.01, 0.1, 0.5, 0.9, 0.99):
        threshold = reference.ppf(share)
        expected = reference.cdf(threshold)
        assert (values <= threshold).mean() == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 4e4) ** 0.5)


def test_digamma_of_a_number():
    for x in (1e-3, 0.5, 1.0, 3.7, 9.999, 10.0, 1e5):
        assert digamma(x) == pytest.approx(scipy.special.digamma(x), rel=1e-13)


# ------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("concentration", [0.05, 0.7, 3.0, 500.0])
def test_implicit_gradient_of_a_gamma_sample_is_the_slope_of_its_quantile(concentration):
    u = np.linspace(0.01, 0.99, 25)
    a = torch.full((25,), concentration, dtype=DOUBLE, requires_grad=True)
    sample = gamma.sample((a, torch.ones(25, dtype=DOUBLE)), *double(u))
    (gradient,) = torch.autograd.grad(sample.sum(), a)
    h = 1e-4 * concentration
    up, down = (scipy.special.gammaincinv(concentration + s * h, u) for s in (1, -1))
    assert gradient.numpy() == pytest.approx((up - down) / (2 * h), rel=1e-4)
    theirs = torch._standard_gamma_grad(a.detach(), sample.detach())
    assert gradient.numpy() == pytest.approx(theirs.numpy(), rel=2e-3)


def test_gradient_of_a_von_mises_sample_is_the_slope_of_its_quantile():
    u, kappa = np.linspace(0.01, 0.99, 25), np.geomspace(0.05, 200, 25)
    k = torch.tensor(kappa, requires_grad=True)
    (gradient,) = torch.autograd.grad(von_mises.sample((0.0, k), *double(u)).sum(), k)
    up, down = (von_mises.sample((0.0, torch.tensor(kappa * (1 + s))), *double(u)).numpy() for s in (1e-5, -1e-5))
    assert gradient.numpy() == pytest.approx((up - down) / (2e-5 * kappa), rel=1e-5, abs=1e-9)


MOMENTS = {  # d/dparams of the second moment E x², by the closed form
    beta: ((2.0, 3.0), lambda a, b: a * (a + 1) / ((a + b) * (a + b + 1))),
    gamma: ((0.8, 1.5), lambda a, b: a * (a + 1) / b**2),
    student_t: ((9.0, 0.4, 1.2), lambda df, loc, scale: loc**2 + scale**2 * df / (df - 2)),
    laplace: ((0.3, 0.8), lambda loc, scale: loc**2 + 2 * scale**2),
    log_normal: ((0.1, 0.3), lambda loc, scale: torch.exp(2 * loc + 2 * scale**2)),
    uniform: ((-0.5, 1.5), lambda low, high: (low**2 + low * high + high**2) / 3),
}


@pytest.mark.parametrize("family", list(MOMENTS), ids=str)
def test_pathwise_gradient_is_that_of_the_expectation(family):
    values, moment = MOMENTS[family]
    n, params = 40_000, tuple(torch.tensor(v, dtype=DOUBLE, requires_grad=True) for v in values)
    expected = torch.autograd.grad(moment(*params), params)
    each = tuple(p.detach().expand(n).clone().requires_grad_() for p in params)
    noise = family.noise(family.noise_shape((n,), ()), dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    found = torch.autograd.grad((family.sample(each, noise) ** 2).sum(), each)
    for want, got in zip(expected, found, strict=True):
        assert got.mean().item() == pytest.approx(want.item(), abs=4 * got.std().item() / n**0.5)


def test_dirichlet_gradient_is_that_of_the_expectation():
    a = torch.tensor([0.6, 1.5, 3.0], dtype=DOUBLE, requires_grad=True)
    weight = torch.tensor([1.0, -2.0, 0.5], dtype=DOUBLE)
    (expected,) = torch.autograd.grad((a / a.sum() * weight).sum(), a)
    each = a.detach().expand(40_000, 3).clone().requires_grad_()
    noise = dirichlet.noise((40_000, 3), dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    (found,) = torch.autograd.grad((dirichlet.sample((each,), noise) * weight).sum(), each)
    error = 4 * found.std(0) / 40_000**0.5
    assert ((found.mean(0) - expected).abs() <= error).all()


def test_tiny_concentrations_stay_inside_the_support():
    tiny = torch.full((5000,), 0.01)
    value = beta.sample((tiny, tiny), beta.noise(beta.noise_shape((5000,), ())))
    assert ((value > 0) & (value < 1)).all()
    assert torch.isfinite(beta.log_prob((tiny, tiny), value, 0)).all()
    assert (value < 0.5).float().mean().item() == pytest.approx(0.5, abs=0.03)
    corner = dirichlet.sample((tiny.reshape(-1, 5),), dirichlet.noise((1000, 5)))
    assert (corner > 0).all()
    assert torch.allclose(corner.sum(-1), torch.ones(1000))
    assert (gamma.sample((tiny, tiny), gamma.noise((5000,))) > 0).all()
    ends = torch.tensor([0.0, 1.0 - 2.0**-24])  # of torch.rand
    assert torch.isfinite(gamma.sample((torch.tensor(0.5), 1.0), ends)).all()


# ------------------------------------------------------------------------------------------- pairs of KL


def cover(head):
    """A uniform that covers the unit interval."""
    return -torch.rand_like(head[..., :1]).expand(-1, 3) - 0.1, 1.1 + torch.rand_like(head[..., 3:])


PAIRS = [
    (laplace, normal, "Laplace", "Normal"),
    (uniform, normal, "Uniform", "Normal"),
    (gamma, normal, "Gamma", "Normal"),
    (beta, normal, "Beta", "Normal"),
    (normal, laplace, "Normal", "Laplace"),
    (beta, uniform, "Beta", "Uniform"),
]


@pytest.mark.parametrize(("q", "p", "q_name", "p_name"), PAIRS)
def test_kl_of_two_families_is_that_of_torch(q, p, q_name, p_name):
    torch.manual_seed(0)
    heads = [torch.randn(2, 6, dtype=DOUBLE) for _ in range(2)]
    ours = q.params(heads[0], (3,)), cover(heads[1]) if p is uniform else p.params(heads[1], (3,))
    ours = tuple(tuple(t.detach().requires_grad_() for t in params) for params in ours)
    build = [getattr(torch.distributions, name) for name in (q_name, p_name)]
    closed, leaves = kl_pair(q, p), [*ours[0], *ours[1]]
    expected = torch.distributions.kl_divergence(build[0](*ours[0]), build[1](*ours[1])).sum(-1)
    found = closed(*ours, 1)
    assert torch.allclose(found, expected, rtol=1e-10)
    pairs = zip(torch.autograd.grad(found.sum(), leaves), torch.autograd.grad(expected.sum(), leaves), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-8, atol=1e-10) for a, b in pairs)
    numbers = tuple(tuple(t[0, 0].item() for t in params) for params in ours)
    three = closed(tuple(t[0, 0].expand(3) for t in ours[0]), numbers[1], 1)
    assert closed(*numbers, 1, (3,)) == pytest.approx(three.item())


def test_kl_of_uniforms_is_finite_inside_and_infinite_outside():
    q = double([0.0, 0.0], [1.0, 1.0])
    p = double([-1.0, 0.5], [3.0, 2.0])
    assert uniform.kl(q, p, 0).tolist() == [pytest.approx(math.log(4)), math.inf]
    assert uniform.kl((0.0, 1.0), (-1.0, 3.0), 1, (2,)) == pytest.approx(2 * math.log(4))
    assert uniform.kl((0.0, 1.0), (0.5, 3.0), 1, (2,)) == math.inf
    assert kl_pair(beta, uniform)(double(2.0, 3.0), double(0.1, 1.0), 0).item() == math.inf
    assert uniform.log_prob(double(0.0, 2.0), *double(2.5), 0).item() == -math.inf


# ------------------------------------------------------------------------------------------- modes, heads, errors


def test_modes():
    a, b = double([3.0, 0.5, 2.0, 0.5, 1.0], [2.0, 2.0, 0.5, 0.6, 1.0])
    assert beta.mode((a, b)).tolist() == pytest.approx([2 / 3, 0.0, 1.0, 0.0, 0.5])
    assert [beta.mode((x, y)) for x, y in zip(a.tolist(), b.tolist(), strict=True)] == beta.mode((a, b)).tolist()
    assert gamma.mode(double([0.5, 3.0], [2.0, 2.0])).tolist() == [0.0, 1.0]
    assert dirichlet.mode(double([[3.0, 1.0, 2.0]]))[0].tolist() == pytest.approx([2 / 3, 0.0, 1 / 3])
    assert dirichlet.mode(double([[0.3, 0.1, 0.2]]))[0].tolist() == [1.0, 0.0, 0.0]
    assert poisson.mode(double(3.7)).item() == poisson.mode((3.7,)) == 3.0
    assert negative_binomial.mode(double(4.0, 0.5)).item() == math.floor(3 * math.exp(0.5))
    assert log_normal.mode((0.5, 0.3)) == pytest.approx(math.exp(0.41))
    (logits,) = MultinomialFamily(total_count=5).params({"probs": torch.tensor([0.45, 0.35, 0.2])}, (3,))
    assert MultinomialFamily(total_count=5).mode((logits,)).tolist() == [2.0, 2.0, 1.0]


def test_a_uniform_with_one_end_fixed_takes_its_width_from_the_head():
    head = torch.randn(5, 4)
    width = torch.nn.functional.softplus(head) + 1e-3
    low, high = uniform.params(head, (4,), {"low": -1.0})
    assert low == -1.0
    assert torch.equal(high, -1.0 + width)
    assert torch.equal(uniform.params(head, (4,), {"high": 1.0})[0], 1.0 - width)
    assert uniform.head_width((4,), {"low": 0.0}) == 4


def test_counts_take_integers():
    rate = torch.tensor([0.5, 2.0])
    counts = torch.tensor([1, 3])
    assert torch.equal(poisson.log_prob((rate,), counts, 1), poisson.log_prob((rate,), counts.float(), 1))


@pytest.mark.parametrize(
    ("family", "head", "shape", "fixed", "words"),
    [
        (laplace, None, (4,), {"scale": 0.0}, ["positive", "0.0"]),
        (gamma, None, (4,), {"rate": -1.0}, ["rate", "positive"]),
        (student_t, None, (4,), {"df": 0.0}, ["df", "positive"]),
        (beta, None, (4,), {"alpha": 0.0}, ["alpha", "positive"]),
        (beta, {"alpha": 1.0, "concentration1": 1.0}, (4,), {}, ["'alpha' and 'concentration1' are names of one"]),
        (dirichlet, None, (), {}, ["vector", "shape=K"]),
        (multinomial, torch.zeros(5, 4), (), {}, ["class axis"]),
        (multinomial, {"probs": 0.5}, None, {}, ["declare shape=K"]),
        (uniform, None, (4,), {"low": 2.0}, ["low=2.0", "high=1.0"]),
        (von_mises, None, (4,), {"concentration": -1.0}, ["negative"]),
        (negative_binomial, None, (4,), {"probs": 1.0}, ["between 0 and 1"]),
        (poisson, torch.zeros(5, 3), (4,), {}, ["4 features"]),
    ],
)
def test_head_errors_say_what_to_do(family, head, shape, fixed, words):
    with pytest.raises(HeadError) as found:
        family.params(head, shape, fixed)
    assert all(word in str(found.value) for word in words), str(found.value)


@pytest.mark.parametrize(
    "build",
    [
        lambda: BetaFamily(min_concentration=-1.0),
        lambda: StudentTFamily(min_df=-1.0),
        lambda: UniformFamily(min_width=math.nan),
        lambda: MultinomialFamily(total_count=0),
    ],
)
def test_impossible_options(build):
    with pytest.raises(ConfigError):
        build()


def test_questions_without_an_answer_are_errors():
    with pytest.raises(FormulaError, match="Estimate it"):
        poisson.entropy((torch.ones(3),), 1)
    with pytest.raises(FormulaError, match="Estimate it"):
        student_t.kl(student_t.params(torch.zeros(9), (3,)), student_t.params(torch.zeros(9), (3,)), 1)
    with pytest.raises(FormulaError, match="no mean"):
        student_t.mean((1.0, 0.0, 1.0))
    assert torch.isnan(student_t.mean(double([1.0], [0.0], [1.0]))).all()
    with pytest.raises(FormulaError, match="at least 1"):
        dirichlet.log_prob((torch.ones(3),), torch.ones(3) / 3, 0)


# ------------------------------------------------------------------------------------------- factors


def test_d1_multinomial_total_count():
    p = wf.Multinomial("p(x)", shape=4, total_count=5)
    assert p.sample(sample_shape=(100,), seed=0).sum(-1).tolist() == [5.0] * 100
    q = wf.Multinomial("q(x|z)", torch.nn.Linear(3, 8), shape=(2, 4), total_count=5)
    counts = q.sample(z=torch.randn(10, 3), sample_shape=(6,), seed=0)
    assert counts.shape == (6, 10, 2, 4)
    assert torch.equal(counts.sum(-1), torch.full((6, 10, 2), 5.0))
    certain = wf.Multinomial("p(x)", shape=3, total_count=7, probs=torch.tensor([0.0, 1.0, 0.0]))
    assert certain.sample(seed=0).tolist() == [0.0, 7.0, 0.0]


FACTORS = {
    wf.Laplace: 6, wf.TanhNormal: 6, wf.TruncatedNormal: 6, wf.StudentT: 9, wf.LogNormal: 6, wf.Beta: 6, wf.Gamma: 6,
    wf.Dirichlet: 3, wf.Uniform: 6,
    wf.VonMises: 6, wf.Poisson: 3, wf.NegativeBinomial: 6, wf.Multinomial: 3,
    wf.Geometric: 3, wf.Binomial: 3,
}  # fmt: skip


@pytest.mark.parametrize("factor", list(FACTORS), ids=lambda f: f.__name__)
def test_every_factor_trains_in_a_formula(factor):
    torch.manual_seed(0)
    q = factor("q(z|x)", torch.nn.Linear(5, FACTORS[factor]), shape=3)
    p = wf.Normal("p(x|z)", torch.nn.Linear(3, 5), shape=5, scale=1.0)
    how = {} if q.family.reparametrised else {"gradient": "score"}
    loss = (-wf.E(q, wf.log(p), **how)).mean()
    loss(x=torch.randn(4, 5)).value.backward()
    assert all(torch.isfinite(w.grad).all() and w.grad.abs().sum() > 0 for w in q.parameters())


@pytest.mark.parametrize("factor", list(FACTORS), ids=lambda f: f.__name__)
def test_every_standard_factor_samples(factor):
    p = factor("p(z)", shape=3)
    value = p.sample(sample_shape=(7, 2), seed=0)
    assert value.shape == (7, 2, 3)
    assert p.log_prob(z=value).shape == (7, 2)


def test_a_kl_of_two_families_in_a_formula():
    q = wf.Laplace("q(z|x)", torch.nn.Linear(5, 6), shape=3)
    p = wf.Normal("p(z)", shape=3)
    x = torch.randn(4, 5)
    ours = torch.distributions.Laplace(*q.params(x))
    expected = torch.distributions.kl_divergence(ours, torch.distributions.Normal(0.0, 1.0)).sum(-1).mean()
    assert torch.allclose(wf.KL(q, p).mean()(x=x).value, expected)


def test_the_mode_of_a_constant_beta_has_the_shape_of_a_sample():
    p = wf.Beta("p(z)", shape=3)
    f = wf.Normal("p(x|z)", torch.nn.Linear(3, 5), shape=5, scale=1.0)
    loss = wf.E(p, wf.log(f)).mean()
    x = torch.randn(4, 5)
    expected = f.log_prob(x=x, z=torch.full((4, 3), 0.5)).mean()
    assert torch.allclose(loss(x=x, deterministic=True).value, expected)


@pytest.mark.parametrize(
    ("factor", "given"),
    [
        (wf.Gamma, {"rate": 0.0}),
        (wf.StudentT, {"df": -1.0}),
        (wf.Beta, {"alpha": 0.0}),
        (wf.Poisson, {"rate": float("nan")}),
        (wf.Uniform, {"low": -math.inf}),
    ],
)
def test_impossible_numbers_are_refused_where_they_are_written(factor, given):
    with pytest.raises(FormulaError, match=next(iter(given))):
        factor("p(z)", shape=3, **given)
