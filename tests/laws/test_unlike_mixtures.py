"""Counts with more zeros, and mixtures of several families: against SciPy, torch and sums by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch import nn

import worldformula as wf
from worldformula.errors import ConfigError, FormulaError, HeadError
from worldformula.families import (
    BinomialFamily,
    UnlikeMixtureFamily,
    ZeroInflatedFamily,
    bernoulli,
    beta,
    dirichlet,
    gamma,
    geometric,
    laplace,
    multivariate_normal,
    negative_binomial,
    normal,
    one_hot,
    poisson,
    student_t,
    truncated_normal,
    von_mises_fisher,
    zero_inflated,
)
from worldformula.testing import check_family

DOUBLE = torch.float64
UNLIKE = UnlikeMixtureFamily(parts=(normal, laplace, student_t))


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        (ZeroInflatedFamily(base=negative_binomial), (3,)),
        (ZeroInflatedFamily(base=geometric), ()),
        (ZeroInflatedFamily(base=BinomialFamily(total_count=6)), (2, 3)),
        (UnlikeMixtureFamily(parts=(normal, laplace)), (3,)),
        (UnlikeMixtureFamily(parts=(normal, truncated_normal, normal), factored=True), (3,)),
        (UnlikeMixtureFamily(parts=(gamma, beta)), ()),
        (UnlikeMixtureFamily(parts=(multivariate_normal, normal)), (3,)),
        (UnlikeMixtureFamily(parts=(zero_inflated, geometric), factored=True), (3,)),
        (UnlikeMixtureFamily(parts=(dirichlet, dirichlet)), (3,)),
    ],
    ids=str,
)
def test_laws(family, shape):
    check_family(family, shape, seed=1)


# ------------------------------------------------------------------------------------------- zeros


@pytest.mark.parametrize(
    ("base", "params", "reference"),
    [
        (poisson, (2.3,), scipy.stats.poisson(2.3)),
        (negative_binomial, (2.5, 0.4), scipy.stats.nbinom(2.5, scipy.special.expit(-0.4))),
        (geometric, (-0.7,), scipy.stats.geom(scipy.special.expit(-0.7), loc=-1)),
        (BinomialFamily(total_count=9), (0.3,), scipy.stats.binom(9, scipy.special.expit(0.3))),
    ],
    ids=lambda v: getattr(v, "name", ""),
)
@pytest.mark.parametrize("gate", [-1.2, 0.8])
def test_zeros_are_added_to_the_counts_of_scipy(base, params, reference, gate):
    family, n = ZeroInflatedFamily(base=base), np.arange(400)
    share = scipy.special.expit(gate)
    mass = (1 - share) * reference.pmf(n) + share * (n == 0)
    given = tuple(torch.tensor(v, dtype=DOUBLE, requires_grad=True) for v in (gate, *params))
    counts = torch.arange(10.0 if base.name == "binomial" else 30.0, dtype=DOUBLE)
    found = family.log_prob(tuple(p.expand(len(counts)) for p in given), counts, 0)
    assert found.detach().exp().numpy() == pytest.approx(mass[: len(counts)], rel=1e-9)
    mean = (n * mass).sum()
    assert family.mean(given).item() == pytest.approx(mean)
    assert family.variance(given).item() == pytest.approx((n**2 * mass).sum() - mean**2)
    assert family.mean((gate, *params)) == pytest.approx(mean)
    assert family.mode(given).item() == family.mode((gate, *params)) == mass.argmax()
    step, weight = 1e-6, np.linspace(-1.0, 2.0, len(counts))
    slopes = torch.autograd.grad((found * torch.tensor(weight)).sum(), given)
    for place, slope in enumerate(slopes):
        moved = []
        for sign in (1, -1):
            at = [v + sign * step * (i == place) for i, v in enumerate((gate, *params))]
            moved.append((family.log_prob(tuple(at), counts, 0).numpy() * weight).sum())
        assert slope.item() == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=1e-5, abs=1e-7)
    noise = family.noise(family.noise_shape((40_000,), ()), dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    drawn = family.sample((gate, *params), noise).numpy()
    for value in range(3):
        assert (drawn == value).mean() == pytest.approx(mass[value], abs=4 * (mass[value] / 4e4) ** 0.5)


def test_a_gate_far_open_or_shut_keeps_everything_finite():
    gate = torch.tensor([-200.0, 200.0, -200.0, 200.0], requires_grad=True)
    rate = torch.tensor([1e-3, 1e-3, 300.0, 300.0], requires_grad=True)
    found = zero_inflated.log_prob((gate, rate), torch.tensor([0.0, 0.0, 3.0, 3.0]), 0)
    expected = [-1e-3, 0.0, *(scipy.stats.poisson(300).logpmf(3) + np.array([0.0, -200.0]))]
    assert found.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert all(g.isfinite().all() for g in torch.autograd.grad(found.sum(), (gate, rate)))


def test_zero_inflated_counts_are_fitted_and_summed_over():
    torch.manual_seed(100)
    p = wf.ZeroInflated("p(n|x)", nn.Linear(1, 3), family=wf.NegativeBinomial, shape=1)
    assert str(wf.log(p).latex).count("p(n \\mid x)")
    x = torch.rand(4000, 1)
    rate = (1.0 + x).exp()
    n = torch.where(torch.rand(4000, 1) < 0.4, 0.0, torch.poisson(rate))
    loss = (-wf.log(p)).mean()
    optimiser = torch.optim.Adam(loss.parameters(), 0.05)
    for _ in range(200):
        optimiser.zero_grad()
        loss(n=n, x=x).value.backward()
        optimiser.step()
    gate = p.params(x)[0].sigmoid().mean().item()
    assert gate == pytest.approx(0.4, abs=0.05)
    torch.testing.assert_close(p.mean(x=x).mean(), (0.6 * rate).mean(), rtol=0.05, atol=0.0)
    q = wf.ZeroInflated("q(n|x)", nn.Linear(1, 2), family=BinomialFamily(total_count=4), shape=1)
    other = wf.Binomial("p(n)", total_count=4, shape=1)
    params = q.params(x[:3])
    mass = torch.stack([q.log_prob(n=torch.full((3, 1), float(k)), x=x[:3]).exp() for k in range(5)])
    assert mass.sum(0).tolist() == pytest.approx([1.0] * 3, abs=1e-5)
    logs = torch.stack([other.log_prob(n=torch.full((3, 1), float(k))) for k in range(5)])
    torch.testing.assert_close(wf.KL(q, other)(x=x[:3]).value, (mass * (mass.log() - logs)).sum(0))
    assert q.family.support_size((1,)) == 5
    assert len(params) == 2


def test_settings_of_what_a_mixture_is_made_of_may_follow_its_class():
    p = wf.ZeroInflated("p(n)", family=wf.Binomial, total_count=4, gate=0.25, probs=0.3, shape=1)
    counts = torch.arange(5.0)[:, None]
    expected = 0.75 * scipy.stats.binom(4, 0.3).pmf(np.arange(5)) + 0.25 * (np.arange(5) == 0)
    np.testing.assert_allclose(p.log_prob(n=counts).exp(), expected, rtol=1e-5)
    head = torch.tensor([0.4, -0.2, 1.0, -3.0, 0.5, -2.0])  # logits, then loc and scale of each
    q = wf.Mixture("p(x|c)", nn.Identity(), components=2, min_scale=wf.Symbol("s"), shape=1)
    softplus = np.logaddexp(0.0, [-3.0, -2.0]) + 0.7
    found = q.log_prob(x=torch.tensor([[0.2]]), c=head[None], s=0.7).exp()
    weights = scipy.special.softmax([0.4, -0.2])
    assert found.item() == pytest.approx((weights * scipy.stats.norm([1.0, 0.5], softplus).pdf(0.2)).sum(), rel=1e-5)
    with pytest.raises(FormulaError, match="zero_inflated has no parameter 'total_count'"):
        wf.ZeroInflated("p(n)", family=wf.Poisson, total_count=4, shape=1)


def test_what_is_no_family_of_counts_gets_no_zeros():
    for wrong in (wf.Normal, wf.Bernoulli, wf.OneHot, zero_inflated):
        with pytest.raises(ConfigError, match="expected a family of counts"):
            wf.ZeroInflated("p(n)", family=wrong, shape=2)
    p = wf.ZeroInflated("p(n)", family=wf.Poisson, shape=2, gate=0.25, rate=2.0)
    assert p.mean().tolist() == [1.5, 1.5]
    with pytest.raises(FormulaError, match="gate= from 0 to 1"):
        wf.ZeroInflated("p(n)", family=wf.Poisson, shape=2, gate=1.25)
    both = wf.ZeroInflated("p(n)", family=wf.Poisson, shape=2, gate=0.25, gate_logits=0.0, rate=2.0)
    with pytest.raises(HeadError, match="'gate' and 'gate_logits' are names of one parameter"):
        both.mean()


# ------------------------------------------------------------------------------------------- several families


def test_density_and_moments_are_the_weighted_ones_of_scipy():
    weights, x = np.array([0.2, 0.5, 0.3]), np.array([-2.0, 0.1, 5.0])
    parts = [scipy.stats.norm(0.5, 2.0), scipy.stats.laplace(-1.0, 0.7), scipy.stats.t(5.0, 2.0, 1.5)]
    given = {
        "weights": torch.tensor(weights), "normal_loc": 0.5, "normal_scale": 2.0, "laplace_loc": -1.0,
        "laplace_scale": 0.7, "student_t_df": 5.0, "student_t_loc": 2.0, "student_t_scale": 1.5,
    }  # fmt: skip
    each = wf.Mixture("p(x)", components=[wf.Normal, wf.Laplace, wf.StudentT], shape=3, factored=True, **given)
    density = sum(w * p.pdf(x) for w, p in zip(weights, parts, strict=True))
    value = torch.tensor(x)
    assert each.log_prob(x=value).item() == pytest.approx(np.log(density).sum())
    whole = wf.Mixture("p(x)", components=[wf.Normal, wf.Laplace, wf.StudentT], shape=3, **given)
    joint = sum(w * p.pdf(x).prod() for w, p in zip(weights, parts, strict=True))
    assert whole.log_prob(x=value).item() == pytest.approx(np.log(joint))
    shares = [w * p.pdf(x).prod() / joint for w, p in zip(weights, parts, strict=True)]
    assert whole.responsibilities(x=value).numpy() == pytest.approx(shares)
    mean = sum(w * p.mean() for w, p in zip(weights, parts, strict=True))
    spread = sum(w * (p.var() + p.mean() ** 2) for w, p in zip(weights, parts, strict=True)) - mean**2
    for factor in (each, whole):
        assert factor.mean().tolist() == pytest.approx([mean] * 3)
        assert factor.variance().tolist() == pytest.approx([spread] * 3)
        assert factor.sample(deterministic=True).tolist() == [-1.0] * 3
        drawn = factor.sample(sample_shape=(40_000,), seed=0)
        for threshold in (-2.0, 0.0, 2.5):
            expected = sum(w * p.cdf(threshold) for w, p in zip(weights, parts, strict=True))
            assert (drawn <= threshold).double().mean(0).tolist() == pytest.approx([expected] * 3, abs=0.01)
    alike = (drawn[:, 0] - drawn[:, 1]).abs() < 1e-9
    assert not alike.any()


def test_parameters_are_named_after_their_part_and_learnt():
    torch.manual_seed(0)
    scale = nn.Parameter(torch.ones(()))
    p = wf.Mixture("p(x|c)", nn.Linear(2, 2 + 4 + 4), components=[wf.Normal, wf.Laplace], shape=2)
    assert p.family.parameters == ("log_weights", "normal_loc", "normal_scale", "laplace_loc", "laplace_scale")
    c, x = torch.randn(5, 2), torch.randn(5, 2)
    logits, a, b = p.net(c).split([2, 4, 4], -1)
    parts = []
    for kind, head in ((torch.distributions.Normal, a), (torch.distributions.Laplace, b)):
        loc, raw = head.chunk(2, -1)
        parts.append(kind(loc, nn.functional.softplus(raw)).log_prob(x).sum(-1))
    expected = (logits.log_softmax(-1) + torch.stack(parts, -1)).logsumexp(-1)
    torch.testing.assert_close(p.log_prob(x=x, c=c), expected)
    loss = (-wf.log(p)).mean()
    torch.testing.assert_close(loss(x=x, c=c).value, loss.interpret(x=x, c=c).value)
    loss(x=x, c=c).value.backward()
    assert p.net.weight.grad.isfinite().all()
    spike = wf.Mixture(
        "p(w)", components=[wf.Normal, wf.Normal], shape=2, log_weights=nn.Parameter(torch.zeros(2)),
        normal_1_scale=wf.positive(scale), normal_2_scale=0.01, normal_1_loc=0.0, normal_2_loc=0.0,
    )  # fmt: skip
    wf.log(spike).mean()(w=x).value.backward()
    assert len(list(spike.parameters())) == 2
    assert all(parameter.grad.abs().sum() > 0 for parameter in spike.parameters())
    with pytest.raises(FormulaError, match="which training would take out of its set"):
        wf.Mixture("p(w)", components=[wf.Normal, wf.Laplace], shape=2, normal_scale=nn.Parameter(torch.ones(2)))


def test_a_value_outside_one_part_counts_for_the_others_alone():
    p = UnlikeMixtureFamily(parts=(normal, gamma))
    params = p.params({"weights": torch.tensor([0.25, 0.75], dtype=DOUBLE), "normal_loc": 0.0, "normal_scale": 1.0,
                       "gamma_concentration": torch.tensor([2.0], dtype=DOUBLE, requires_grad=True),
                       "gamma_rate": 1.0}, (1,))  # fmt: skip
    found = p.log_prob(params, torch.tensor([-1.5], dtype=DOUBLE), 1)
    assert found.item() == pytest.approx(math.log(0.25) + scipy.stats.norm.logpdf(-1.5))
    (slope,) = torch.autograd.grad(found, params[3], allow_unused=True)
    assert slope.tolist() == [0.0]


def test_what_cannot_be_mixed_is_refused():
    for parts, words in (
        ((normal, poisson), "normal has densities, poisson has probabilities"),
        ((von_mises_fisher, normal), "of values of vectors of length 1"),
        ((one_hot, bernoulli), "one measure"),
        ((wf.families.von_mises, normal), "von_mises has densities of angles, normal has densities"),
        ((), "at least 1 component"),
        ((UNLIKE, normal), "mixture of mixtures"),
    ):
        with pytest.raises(ConfigError, match=words):
            UnlikeMixtureFamily(parts=parts)
    with pytest.raises(ConfigError, match="draws a vector as a whole"):
        UnlikeMixtureFamily(parts=(multivariate_normal, normal), factored=True)
    kinds = [wf.Normal, wf.Laplace]
    with pytest.raises(FormulaError, match="component= and temperature= are of a mixture of one kind"):
        wf.Mixture("p(x)", components=kinds, component=wf.Normal, shape=2)
    with pytest.raises(HeadError, match=r"2 \(logits\), 4 \(normal\), 4 \(laplace\)"):
        wf.Mixture("p(x|c)", nn.Linear(1, 9), components=kinds, shape=2).sample(c=torch.zeros(1))
    with pytest.raises(FormulaError, match="Did you mean 'laplace_scale'"):
        wf.Mixture("p(x)", components=kinds, shape=2, laplace_scal=torch.ones(2))
    with pytest.raises(HeadError, match="all parameters are numbers"):
        wf.Mixture("p(x)", components=kinds, shape=2).sample()
    with pytest.raises(FormulaError, match="factor class or a family, got 3"):
        wf.Mixture("p(x)", components=[3, wf.Normal], shape=2)
