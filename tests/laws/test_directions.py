"""Directions and shares: von Mises–Fisher on the sphere, the logistic Normal on the simplex."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import nn

import worldformula as wf
from worldformula.errors import FormulaError, HeadError, NoClosedFormError, ShapeError
from worldformula.families import VonMisesFisherFamily, kl_pair, logistic_normal, normal, von_mises_fisher
from worldformula.testing import check_family

DOUBLE = torch.float64
KAPPAS = [0.0, 1e-6, 1e-3, 0.1, 1.0, 3.0, 10.0, 50.0, 200.0, 1e3, 1e4, 1e6]


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        (von_mises_fisher, (2,)),
        pytest.param(VonMisesFisherFamily(min_concentration=1.0), (2, 4), marks=pytest.mark.slow),
        (logistic_normal, (3,)),
        (logistic_normal, (2, 4)),
    ],
    ids=str,
)
def test_laws(family, shape):
    check_family(family, shape, seed=3)


def turned(size, seed=0):
    """A unit vector."""
    loc = np.random.default_rng(seed).normal(size=size)
    return loc / np.linalg.norm(loc)


# ------------------------------------------------------------------------------------------- von Mises–Fisher


def bessel(size, kappa):
    """log of the normaliser e^κ·Z and A = I_(D/2)/I_(D/2-1), in 30 digits."""
    with mpmath.workdps(30):
        half = mpmath.mpf(size) / 2
        if kappa == 0:
            return mpmath.log(2 * mpmath.pi**half / mpmath.gamma(half)), mpmath.mpf(0)
        below, above = mpmath.besseli(half - 1, kappa), mpmath.besseli(half, kappa)
        return half * mpmath.log(2 * mpmath.pi) - (half - 1) * mpmath.log(kappa) + mpmath.log(below), above / below


@pytest.mark.parametrize("size", [2, 3, 4, 8, 17, 128, 512])
def test_normaliser_entropy_moments_and_their_slopes_are_those_of_bessel_functions(size):
    for kappa in KAPPAS:
        log_mass, a = bessel(size, kappa)
        params = torch.tensor(turned(size)), torch.tensor([kappa], dtype=DOUBLE, requires_grad=True)
        x = params[0]  # at the mode
        found, entropy = von_mises_fisher.log_prob(params, x, 1), von_mises_fisher.entropy(params, 1)
        assert found.item() == pytest.approx(float(kappa - log_mass), rel=1e-12, abs=2e-10)
        assert entropy.item() == pytest.approx(float(log_mass - kappa * a), rel=1e-12, abs=2e-10)
        (by_kappa,) = torch.autograd.grad(found, params[1], retain_graph=True)
        assert by_kappa.item() == pytest.approx(float(1 - a), abs=2e-10)
        assert von_mises_fisher.mean(params).detach().numpy() == pytest.approx(float(a) * x.numpy(), abs=1e-10)
        spread = 1 - a**2 - (size - 1) * a / kappa if kappa else mpmath.mpf(1) / size  # Var cos t, the slope of A
        (slope,) = torch.autograd.grad(entropy, params[1])
        assert slope.item() == pytest.approx(float(-kappa * spread), abs=1e-9)
        across = a / kappa if kappa else spread
        expected = float(across) + float(spread - across) * x.numpy() ** 2
        assert von_mises_fisher.variance(params).detach().numpy() == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("size", "kappa"), [(2, 0.7), (3, 4.0), (5, 30.0), (10, 200.0)])
def test_density_entropy_and_moments_are_those_of_scipy(size, kappa):
    loc, rng = turned(size), np.random.default_rng(1)
    reference = scipy.stats.vonmises_fisher(loc, kappa)
    x = rng.normal(size=(6, size))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    params = torch.tensor(loc).expand(6, size), torch.full((6, 1), kappa, dtype=DOUBLE)
    assert von_mises_fisher.log_prob(params, torch.tensor(x), 1).numpy() == pytest.approx(reference.logpdf(x), rel=1e-9)
    assert von_mises_fisher.entropy(params, 1)[0].item() == pytest.approx(reference.entropy(), rel=1e-9)
    drawn = reference.rvs(40_000, random_state=rng)
    noise = von_mises_fisher.noise((40_000, size + 1), dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    ours = von_mises_fisher.sample(tuple(p[:1] for p in params), noise).numpy()
    assert np.linalg.norm(ours, axis=1) == pytest.approx(np.ones(40_000), abs=1e-12)
    for f in (lambda v: v, lambda v: v**2, lambda v: v[:, :1] * v):
        a, b = f(ours), f(drawn)
        error = 4 * np.sqrt((a.var(0) + b.var(0)) / 40_000)
        assert (np.abs(a.mean(0) - b.mean(0)) <= error).all()


def test_angles_are_quantiles_in_three_dimensions_and_in_others():
    u = np.concatenate([np.linspace(1e-7, 1 - 1e-7, 400), [1e-12, 0.5]])
    for kappa in (1e-4, 0.5, 2.6, 4.0, 20.0, 1e3, 1e6):
        cosine = np.log1p(u * np.expm1(-2 * kappa)) / kappa  # less 1: the closed inverse on S²
        assert -2 * np.sin(angles(3, kappa, u) / 2) ** 2 * kappa == pytest.approx(cosine * kappa, abs=1e-9)
    for size, kappa in ((2, 0.3), (2, 5.0), (4, 3.0), (9, 0.0), (64, 40.0), (512, 1000.0)):
        t = np.linspace(0, math.pi, 200_001)
        with np.errstate(divide="ignore"):
            density = np.exp(kappa * (np.cos(t) - 1) + (size - 2) * (np.log(np.sin(t)) - 0) if size > 2 else
                             kappa * (np.cos(t) - 1))  # fmt: skip
        mass = scipy.integrate.cumulative_simpson(np.nan_to_num(density), x=t, initial=0)
        share = np.linspace(0.01, 0.99, 50)
        assert np.interp(angles(size, kappa, share), t, mass / mass[-1]) == pytest.approx(share, abs=1e-7)


def angles(size, kappa, u):
    """The angles from loc of samples at this uniform noise, in float64."""
    loc = torch.eye(size, dtype=DOUBLE)[:1]
    way = torch.eye(size, dtype=DOUBLE)[1:2].expand(len(u), size)
    noise = torch.cat((torch.tensor(scipy.stats.norm.ppf(u))[:, None], way), -1)
    x = von_mises_fisher.sample((loc, torch.full((1, 1), kappa, dtype=DOUBLE)), noise)
    return torch.atan2(x[:, 1], x[:, 0]).numpy()


@pytest.mark.parametrize(("size", "kappa"), [(2, 0.4), (2, 6.0), (3, 1.5), (8, 5.0), (64, 30.0)])
def test_gradient_of_a_sample_is_the_slope_of_its_quantile(size, kappa):
    u = np.linspace(0.01, 0.99, 25)
    k = torch.full((25, 1), kappa, dtype=DOUBLE, requires_grad=True)
    way = torch.eye(size, dtype=DOUBLE)[1:2].expand(25, size)
    first = torch.tensor(scipy.stats.norm.ppf(u))[:, None]
    x = von_mises_fisher.sample((torch.eye(size, dtype=DOUBLE)[:1], k), torch.cat((first, way), -1))
    (gradient,) = torch.autograd.grad(x[:, 0].sum(), k)
    up, down = (np.cos(angles(size, kappa * (1 + s), u)) for s in (1e-5, -1e-5))
    assert gradient[:, 0].numpy() == pytest.approx((up - down) / (2e-5 * kappa), rel=1e-5, abs=1e-9)


def test_pathwise_gradient_is_that_of_the_expectation_by_both_parameters():
    """E (wᵀx)² = wᵀ(across·I + (along - across)·μμᵀ)w, with the moments of Bessel functions."""
    size, n = 4, 60_000
    weight = torch.tensor(turned(size, 5))
    raw, kappa = torch.tensor(turned(size, 2) * 1.7, requires_grad=True), torch.tensor(3.0, dtype=DOUBLE)
    kappa.requires_grad_()

    def second(kappa):
        a = bessel(size, kappa)[1]
        return float(a / kappa), float(1 - (size - 1) * a / kappa)

    across, along = second(3.0)
    step = 1e-5
    (up, down) = second(3.0 + step), second(3.0 - step)
    cosine = (weight @ raw / raw.norm()) ** 2
    expected_loc = torch.autograd.grad((along - across) * cosine, raw)[0]
    change = [(u - d) / (2 * step) for u, d in zip(up, down, strict=True)]
    expected_kappa = change[0] + (change[1] - change[0]) * cosine.item()
    each_raw, each_kappa = raw.detach().expand(n, size).clone(), kappa.detach().expand(n, 1).clone()
    params = von_mises_fisher.params(
        {"loc": each_raw.requires_grad_(), "concentration": each_kappa.requires_grad_()}, (size,)
    )
    noise = von_mises_fisher.noise((n, size + 1), dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    value = (von_mises_fisher.sample(params, noise) @ weight).square().sum()
    by_loc, by_kappa = torch.autograd.grad(value, (each_raw, each_kappa))
    assert (by_loc.mean(0) - expected_loc).abs().le(4 * by_loc.std(0) / n**0.5).all()
    assert by_kappa.mean().item() == pytest.approx(expected_kappa, abs=4 * by_kappa.std().item() / n**0.5)


@pytest.mark.parametrize("size", [2, 3, 16, 512])
def test_kl_is_that_of_bessel_functions_and_from_the_uniform_what_the_entropy_lacks(size):
    q_loc, p_loc = turned(size), turned(size, 1)
    for q_kappa, p_kappa in ((2.0, 30.0), (30.0, 2.0), (0.0, 5.0), (1e4, 1.1e4), (7.0, 0.0)):
        (q_mass, a), (p_mass, _) = bessel(size, q_kappa), bessel(size, p_kappa)
        expected = q_kappa * a - q_mass - p_kappa * a * mpmath.mpf(q_loc @ p_loc) + p_mass
        q, p = ((torch.tensor(m), torch.tensor([k], dtype=DOUBLE)) for m, k in ((q_loc, q_kappa), (p_loc, p_kappa)))
        assert von_mises_fisher.kl(q, p, 1).item() == pytest.approx(float(expected), rel=1e-8, abs=1e-9)
    flat = von_mises_fisher.params(None, (size,))
    area = math.log(2) + size / 2 * math.log(math.pi) - math.lgamma(size / 2)
    assert von_mises_fisher.entropy(flat, 1, (size,)) == pytest.approx(area, abs=1e-9)
    lacking = area - von_mises_fisher.entropy(q, 1).item()
    assert von_mises_fisher.kl(q, flat, 1).item() == pytest.approx(lacking, abs=1e-9)
    assert kl_pair(VonMisesFisherFamily(min_concentration=1.0), von_mises_fisher) is not None


def test_float32_keeps_the_digits_of_a_sharp_direction():
    loc = torch.tensor(turned(5))
    x = loc + 1e-3 * torch.tensor(turned(5, 1))
    x = x / x.norm()
    log_mass, _ = bessel(5, 1e6)
    expected = float(1e6 - log_mass) - 0.5e6 * (x - loc).square().sum().item()
    found = von_mises_fisher.log_prob((loc.float(), torch.tensor([1e6])), x.float(), 1)
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_a_hyperspherical_autoencoder_learns():
    """Davidson et al. 2018, without a picture: directions are told from noisy views of them."""
    torch.manual_seed(100)
    encode = wf.VonMisesFisher("q(z|x)", nn.Linear(6, 4), shape=3)
    decode = wf.Normal("p(x|z)", nn.Linear(3, 6), shape=6, scale=0.2)
    prior = wf.VonMisesFisher("p(z)", shape=3)
    loss = (wf.KL(encode, prior) - wf.E(encode, wf.log(decode))).mean()
    z = nn.functional.normalize(torch.randn(256, 3), dim=-1)
    x = z @ torch.randn(3, 6) + 0.2 * torch.randn(256, 6)
    before = loss(x=x, seed=0).value.item()
    optimiser = torch.optim.Adam(loss.parameters(), 0.03)
    for step in range(150):
        optimiser.zero_grad()
        loss(x=x, seed=step).value.backward()
        optimiser.step()
    assert loss(x=x, seed=0).value.item() < before - 10
    assert torch.equal(loss(x=x, seed=1).value, loss(x=x, seed=1).value)
    torch.testing.assert_close(loss(x=x, seed=1).value, loss.interpret(x=x, seed=1).value)


def test_a_direction_alone_and_a_concentration_for_each_vector():
    p = wf.VonMisesFisher("p(z)", shape=3, loc=torch.tensor([0.0, 3.0, 4.0]), concentration=torch.tensor(2.0))
    assert p.sample(deterministic=True).tolist() == pytest.approx([0.0, 0.6, 0.8])
    assert p.log_prob(z=torch.eye(3)).shape == (3,)
    for wrong, words in (
        ({"loc": torch.ones(3), "concentration": torch.ones(3)}, r"\[\.\.\., 1\]"),
        ({"loc": torch.zeros(3), "concentration": 1.0}, "other than 0"),
        ({"concentration": 1.0}, "around no direction"),
        ({"loc": 1.0, "concentration": 1.0}, "as a vector"),
    ):
        with pytest.raises(FormulaError, match=words):
            wf.VonMisesFisher("p(z)", shape=3, **wrong).sample()
    with pytest.raises(HeadError, match="at least 2 entries"):
        wf.VonMisesFisher("p(z)", shape=1).sample()
    with pytest.raises(FormulaError, match="no mode"):
        wf.VonMisesFisher("p(z)", shape=3).sample(deterministic=True)
    with pytest.raises(ShapeError, match="shape=D"):
        von_mises_fisher.entropy((0.0, 0.0), 0)


@pytest.mark.parametrize("kind", [wf.VonMisesFisher, wf.LogisticNormal])
def test_mixtures_and_experts_of_them_are_the_weighted_densities(kind):
    torch.manual_seed(0)
    one, other = (kind(f"q(z|{name})", nn.Linear(4, 4), shape=3).double() for name in "xy")
    x, y = torch.randn(2, 5, 4, dtype=DOUBLE)
    mixed = wf.MoE([one, other])
    z = mixed.sample(x=x, y=y, seed=0)
    halves = torch.stack((one.log_prob(z=z, x=x), other.log_prob(z=z, y=y)))
    torch.testing.assert_close(mixed.log_prob(z=z, x=x, y=y), halves.logsumexp(0) - math.log(2))
    both = wf.Mixture("p(z|x)", nn.Linear(4, 2 + 2 * 4), components=2, component=kind, shape=3).double()
    logits, heads = both.net(x)[:, :2], both.net(x)[:, 2:].view(5, 2, 4)
    params = one.family.params(heads, (3,))
    parts = one.family.log_prob(params, z[:, None].expand(5, 2, 3), 1)
    torch.testing.assert_close(both.log_prob(z=z, x=x), (logits.log_softmax(-1) + parts).logsumexp(-1))
    assert both.sample(x=x, seed=1).shape == (5, 3)
    scaled = wf.VonMisesFisher("p(z)", shape=3, loc=torch.eye(3)[0], concentration=wf.Symbol("k"))
    assert scaled.log_prob(z=torch.eye(3), k=2.0)[0].item() == pytest.approx(2.0 - float(bessel(3, 2.0)[0]), abs=1e-6)


# ------------------------------------------------------------------------------------------- the logistic Normal


def test_the_density_of_shares_is_that_of_their_log_ratios():
    loc, scale, x = np.array([0.3, -0.8]), np.array([0.7, 1.4]), np.array([0.2, 0.5, 0.3])
    z = np.log(x[:2] / x[2])
    expected = scipy.stats.norm(loc, scale).logpdf(z).sum() - np.log(x).sum()
    params = torch.tensor(loc, requires_grad=True), torch.tensor(scale, requires_grad=True)
    found = logistic_normal.log_prob(params, torch.tensor(x), 1)
    assert found.item() == pytest.approx(expected, abs=1e-12)
    by_loc, by_scale = torch.autograd.grad(found, params)
    assert by_loc.numpy() == pytest.approx((z - loc) / scale**2)
    assert by_scale.numpy() == pytest.approx(((z - loc) ** 2 / scale**2 - 1) / scale)

    middle = (torch.arange(1000, dtype=DOUBLE) + 0.5) / 1000
    points = torch.cartesian_prod(middle, middle)
    points = points[points.sum(-1) < 1.0 - 1e-9]
    whole = torch.cat((points, 1.0 - points.sum(-1, keepdim=True)), -1)
    fixed = tuple(p.detach().expand(len(whole), 2) for p in params)
    assert logistic_normal.log_prob(fixed, whole, 1).exp().sum().item() / 1e6 == pytest.approx(1.0, abs=2e-3)


def test_shares_are_drawn_learnt_and_compared_as_their_normals():
    q = wf.LogisticNormal("q(w|x)", nn.Linear(4, 4), shape=3)
    p = wf.LogisticNormal("p(w)", shape=3)
    x = torch.randn(5, 4)
    divergence = wf.KL(q, p).mean()
    loc, raw = q.net(x).chunk(2, -1)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(loc, nn.functional.softplus(raw)), torch.distributions.Normal(0.0, 1.0)
    )
    torch.testing.assert_close(divergence(x=x).value, expected.sum(-1).mean())
    assert p.log_prob(w=torch.tensor([[1.0, 0.0, 0.0]])).isfinite().all()
    shares = logistic_normal.sample((torch.tensor([200.0, 0.0]), 1.0), torch.zeros(2))
    assert (shares > 0).all()
    assert q.sample(x=x, deterministic=True).sum(-1).tolist() == pytest.approx([1.0] * 5)
    loss = wf.E(q, wf.log(q) - wf.log(p)).mean()
    loss(x=x, seed=0).value.backward()
    assert q.net.weight.grad.abs().sum() > 0
    assert normal.kl((0.0, 2.0), (1.0, 1.0), 1, (2,)) == logistic_normal.kl((0.0, 2.0), (1.0, 1.0), 1, (3,))


def test_what_shares_have_not_is_refused_in_words():
    params = torch.zeros(2, dtype=DOUBLE), torch.ones(2, dtype=DOUBLE)
    for ask in (logistic_normal.mean, logistic_normal.variance, lambda p: logistic_normal.entropy(p, 1)):
        with pytest.raises(NoClosedFormError, match="no closed form"):
            ask(params)
    with pytest.raises(FormulaError, match="Give loc= as a tensor"):
        wf.LogisticNormal("p(w)", shape=3).sample(deterministic=True)
    with pytest.raises(HeadError, match="at least 2 entries"):
        wf.LogisticNormal("p(w)", shape=1).sample()
