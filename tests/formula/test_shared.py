"""Variables that all rows of a call share: weights, topics, a coin of unknown kind. Witnesses by NumPy and SciPy.

What they say, how they are printed and what is refused stands in `test_shared_words`.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import betaln, expit
from torch import nn

from worldformula import KL, Bernoulli, Beta, Categorical, E, Normal, Sum, Symbol, exp, log, positive, ratio

X = np.array([[0.5, -1.0], [1.5, 0.3], [-0.7, 0.8], [0.2, 2.0], [-1.2, -0.4], [0.9, 0.1]])
Y = np.array([1.0, 1.0, 0.0, 1.0, 0.0, 0.0])
DATA = {"x": torch.tensor(X), "y": torch.tensor(Y)[:, None]}
LOC, SCALE = np.array([0.4, 0.1]), np.array([0.6, 0.7])


def logits(x, w):
    return (x * w).sum(-1, keepdim=True)


def weights():
    """The prior and a posterior of two weights, with learnt parameters, and the likelihood of a row."""
    prior = Normal("p(w)", shape=2, shared=True)
    loc = nn.Parameter(torch.tensor(LOC))
    scale = positive(nn.Parameter(torch.tensor(SCALE)))
    return prior, Normal("q(w)", loc=loc, scale=scale, shape=2, shared=True), Bernoulli("p(y|x,w)", logits, shape=1)


def log_joint(w):
    """log p(y, w | x) of all rows, for weights [..., 2], by NumPy."""
    z = w @ X.T
    likelihood = np.where(Y > 0, np.log(expit(z)), np.log(expit(-z))).sum(-1)
    return likelihood + stats.norm.logpdf(w).sum(-1)


def evidence():
    """log p(y | x) on a grid of weights."""
    axis, step = np.linspace(-8, 8, 801, retstep=True)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1)
    return math.log(np.exp(log_joint(grid)).sum() * step**2)


def quadrature(loc, scale):
    """The ELBO at a Normal posterior, by Gauss and Hermite."""
    nodes, mass = np.polynomial.hermite_e.hermegauss(40)
    grid = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1)
    mass = np.outer(mass, mass) / mass.sum() ** 2
    w = loc + scale * grid
    return (mass * (log_joint(w) - stats.norm.logpdf(w, loc, scale).sum(-1))).sum()


def slopes(step=1e-5):
    """The gradient of the ELBO by location and scale, by differences."""
    found = []
    for i in range(4):
        shift = np.zeros(4)
        shift[i] = step
        ahead, behind = (quadrature(LOC + s * shift[:2], SCALE + s * shift[2:]) for s in (1, -1))
        found.append((ahead - behind) / (2 * step))
    return np.array(found)


def gradients(bound, q, calls):
    """The gradient by location and scale, of every call; the scale is the softplus of what moves."""
    loc, raw = q.constants.loc, q.constants.scale_raw
    found = []
    for seed in range(calls):
        by_loc, by_raw = torch.autograd.grad(bound(**DATA, seed=seed).value, (loc, raw))
        found.append(torch.cat([by_loc, by_raw / torch.sigmoid(raw.detach())]).numpy())
    found = np.array(found)
    return found.mean(0), found.std(0)


def averaged(bound, calls, **given):
    """The mean over calls, and its standard error."""
    found = np.array([bound(**given, seed=seed).value.item() for seed in range(calls)])
    return found.mean(), found.std() / math.sqrt(calls)


def test_elbo_of_logistic_regression_is_that_of_quadrature_and_below_the_evidence():
    prior, q, p = weights()
    mean, error = averaged(E(q, Sum("n", log(p), rows="all"), samples=500) - KL(q, prior), 40, **DATA)
    assert error < 0.02
    assert abs(mean - quadrature(LOC, SCALE)) < 3 * error
    assert quadrature(LOC, SCALE) < evidence()


def test_bounds_of_more_samples_come_nearer_to_the_evidence():
    prior, q, p = weights()
    weight = exp(Sum("n", log(p), rows="all") + log(prior) - log(q))
    means, errors = zip(*(averaged(log(E(q, weight, samples=k)), 200, **DATA) for k in (1, 8, 64)), strict=True)
    truth = evidence()
    assert means[0] < means[1] - 3 * errors[0]
    assert all(mean < truth + 3 * error for mean, error in zip(means, errors, strict=True))
    assert truth - means[1] < (truth - means[0]) / 2
    many = log(E(q, weight, samples=100_000))(**DATA, seed=0).value.item()
    assert abs(many - truth) < 0.01


@pytest.mark.parametrize("gradient", [None, "score"])
def test_gradient_of_the_elbo_is_that_of_quadrature(gradient):
    prior, q, p = weights()
    options = {} if gradient is None else {"gradient": gradient, "baseline": "leave-one-out"}
    elbo = E(q, Sum("n", log(p), rows="all"), samples=500, **options) - KL(q, prior)
    mean, spread = gradients(elbo, q, 30)
    error = spread / math.sqrt(30)
    assert (np.abs(mean - slopes()) < 3.5 * error).all()
    assert (error < 0.05).all()


def test_doubly_reparametrised_gradient_agrees_with_the_plain_one_and_varies_less():
    prior, q, p = weights()
    joint = exp(Sum("n", log(p), rows="all") + log(prior) - log(q))
    plain, doubly = (gradients(log(E(q, joint, how, samples=8)), q, 400) for how in (None, "dreg"))
    error = np.sqrt((plain[1] ** 2 + doubly[1] ** 2) / 400)
    assert (np.abs(plain[0] - doubly[0]) < 3.5 * error).all()
    assert (doubly[1] < plain[1]).all()


def test_a_minibatch_is_unbiased_over_all_minibatches():
    prior, q, p = weights()
    whole = E(q, Sum("n", log(p), rows="all")) - KL(q, prior)
    part = E(q, Sum("n", log(p), rows=6)) - KL(q, prior)
    named = E(q, Sum("n", log(p), rows=Symbol("N"))) - KL(q, prior)
    noise = whole.noise(**DATA)
    full = whole(**DATA, noise=noise).value.item()
    picks = [list(pick) for pick in itertools.combinations(range(6), 2)]
    batches = [{k: v[pick] for k, v in DATA.items()} for pick in picks]
    parts = [part(**batch, noise=noise).value.item() for batch in batches]
    assert len(parts) == 15
    assert np.mean(parts) == pytest.approx(full, abs=1e-12)
    assert max(parts) - min(parts) > 0.1
    assert named(**batches[3], noise=noise, N=6).value.item() == pytest.approx(parts[3], abs=1e-12)
    assert part(**DATA, noise=noise).value.item() == pytest.approx(full, abs=1e-12)


def test_a_conjugate_mean_has_its_evidence_in_every_bound():
    y = np.array([0.3, 1.9, -0.4, 1.1, 0.8])
    width = 2.0
    truth = stats.multivariate_normal.logpdf(y, np.zeros(5), np.eye(5) + width**2 * np.ones((5, 5)))
    precision = 1 / width**2 + len(y)
    prior = Normal("p(m)", shape=1, loc=0.0, scale=width, shared=True)
    loc, scale = (torch.tensor([v], dtype=torch.float64) for v in (y.sum() / precision, precision**-0.5))
    exact = Normal("q(m)", shape=1, loc=loc, scale=scale, shared=True)
    p = Normal("p(y|m)", lambda m: {"loc": m, "scale": torch.ones_like(m)}, shape=1)
    given = {"y": torch.tensor(y)[:, None]}
    rows = Sum("n", log(p), rows="all")
    one = E(exact, rows + log(prior) - log(exact))
    for seed in range(3):
        assert one(**given, seed=seed).value.item() == pytest.approx(truth, abs=1e-10)
    many = log(E(exact, exp(rows + log(prior) - log(exact)), samples=7))
    assert many(**given, seed=0).value.item() == pytest.approx(truth, abs=1e-10)
    mean, error = averaged(E(exact, rows, samples=100) - KL(exact, prior), 40, **given)
    assert abs(mean - truth) < 3 * error < 0.1
    simple = log(E(prior, exp(rows), samples=200_000))
    assert simple(**given, seed=0).value.item() == pytest.approx(truth, abs=0.02)


KINDS, PRIOR, CODE = np.array([0.1, 0.5, 0.8]), np.array([0.2, 0.5, 0.3]), np.array([0.3, -0.2, 0.4])
TOSSES = np.array([1, 1, 0, 1, 1, 1.0])


def coin():
    prior = Categorical("p(k)", probs=torch.tensor(PRIOR), shape=(), classes=3, shared=True)
    q = Categorical("q(k)", logits=nn.Parameter(torch.tensor(CODE)), shape=(), classes=3, shared=True)
    p = Bernoulli("p(y|k)", lambda k: {"probs": torch.tensor(KINDS)[k][..., None]}, shape=1)
    return prior, q, p, {"y": torch.tensor(TOSSES)[:, None]}


def log_tosses():
    return (TOSSES[:, None] * np.log(KINDS) + (1 - TOSSES)[:, None] * np.log(1 - KINDS)).sum(0)


def test_a_coin_of_unknown_kind_is_enumerated():
    prior, _, p, given = coin()
    truth = math.log((PRIOR * np.exp(log_tosses())).sum())
    exact = log(E(prior, exp(Sum("n", log(p), rows="all")), "exact"))
    assert exact(**given).value.item() == pytest.approx(truth, abs=1e-10)
    apart = sum(math.log((PRIOR * np.exp(t * np.log(KINDS) + (1 - t) * np.log(1 - KINDS))).sum()) for t in TOSSES)
    assert abs(truth - apart) > 0.1  # of a coin for each toss


@pytest.mark.parametrize("gradient", ["exact", "score"])
def test_the_gradient_by_what_is_thought_of_a_coin(gradient):
    def elbo(code):
        mass = np.exp(code) / np.exp(code).sum()
        return (mass * (log_tosses() + np.log(PRIOR) - np.log(mass))).sum()

    truth = np.array([(elbo(CODE + d) - elbo(CODE - d)) / 2e-5 for d in np.eye(3) * 1e-5])
    found = []
    for seed in range(1 if gradient == "exact" else 60):
        prior, q, p, given = coin()
        options = {} if gradient == "exact" else {"samples": 200, "baseline": "leave-one-out"}
        body = Sum("n", log(p), rows="all") + log(prior) - log(q)
        out = E(q, body, gradient, **options)(**given, seed=seed)
        out.value.backward()
        found.append(q.constants.logits.grad.numpy())
        if gradient == "exact":
            assert out.value.item() == pytest.approx(elbo(CODE), abs=1e-10)
    found = np.array(found)
    error = 1e-6 if gradient == "exact" else 3.5 * found.std(0) / math.sqrt(len(found))
    assert (np.abs(found.mean(0) - truth) < error).all()


def test_a_coin_of_unknown_bias_is_conjugate():
    prior = Beta("p(b)", shape=1, concentration1=2.0, concentration0=3.0, shared=True)
    after = Beta("q(b)", shape=1, concentration1=7.0, concentration0=4.0, shared=True)
    p = Bernoulli("p(y|b)", lambda b: {"probs": b}, shape=1)
    truth = betaln(7, 4) - betaln(2, 3)
    given = {"y": torch.tensor(TOSSES)[:, None]}
    bound = E(after, Sum("n", log(p), rows="all") + log(prior) - log(after))
    assert bound(**given, seed=3).value.item() == pytest.approx(truth, abs=1e-9)
    simple = log(E(prior, exp(Sum("n", log(p), rows="all")), samples=100_000))
    assert simple(**given, seed=0).value.item() == pytest.approx(truth, abs=0.02)


def test_samples_beside_rows_that_draw_for_themselves_are_those_written_by_hand():
    """log 1/K Σ_k exp(Σ_n log 1/L Σ_l p(x|z,w) p(z) / q(z|x) + log p(w) − log q(w)), with the noise of the call."""
    net = nn.Linear(2, 4).double()
    prior = Normal("p(w)", shape=2, shared=True)
    q = Normal("q(w)", loc=torch.tensor(LOC), scale=torch.tensor(SCALE), shape=2, shared=True)
    z, encode = Normal("p(z)", shape=2), Normal("q(z|x)", net, shape=2)
    p = Normal("p(x|z,w)", lambda z, w: {"loc": z * w, "scale": torch.ones_like(z)}, shape=2)
    local = log(E(encode, ratio(p * z, encode), samples=3))
    bound = log(E(q, exp(Sum("n", local, rows="all") + log(prior) - log(q)), samples=4))
    x = torch.tensor(X)
    noise = bound.noise(x=x)
    out = bound(x=x, noise=noise)
    assert out.samples["w"].shape == (4, 2)
    assert out.samples["z"].shape == (3, 6, 2)

    normal = torch.distributions.Normal
    qw = normal(torch.tensor(LOC), torch.tensor(SCALE))
    w = qw.loc + qw.scale * noise["w"]
    loc, raw = net(x).split(2, -1)
    qz = normal(loc, nn.functional.softplus(raw))
    draws = qz.loc + qz.scale * noise["z"]
    total = torch.zeros(4, dtype=torch.float64)
    for k in range(4):
        inside = normal(draws * w[k], 1).log_prob(x).sum(-1) + normal(0.0, 1.0).log_prob(draws).sum(-1)
        inside = inside - qz.log_prob(draws).sum(-1)
        total[k] = (inside.logsumexp(0) - math.log(3)).sum()
        total[k] += normal(0.0, 1.0).log_prob(w[k]).sum() - qw.log_prob(w[k]).sum()
    by_hand = total.logsumexp(0) - math.log(4)
    assert out.value.item() == pytest.approx(by_hand.item(), abs=1e-10)
    assert bound.interpret(x=x, noise=noise).value.item() == pytest.approx(by_hand.item(), abs=1e-10)
    own = torch.autograd.grad(by_hand, net.weight)[0]
    assert torch.allclose(torch.autograd.grad(out.value, net.weight)[0], own)


def test_one_matrix_moves_every_step_of_every_row():
    """A transition that is drawn once: the same at every step of every sequence."""
    prior = Normal("p(A)", shape=(2, 2), shared=True)
    q = Normal("q(A)", loc=torch.full((2, 2), 0.3), scale=0.2, shape=(2, 2), shared=True)
    move = Normal(
        "p(z_t|z_{t-1},A)", lambda z, A: {"loc": (A @ z[..., None])[..., 0], "scale": torch.ones_like(z)}, shape=2
    )
    encode = Normal("q(z_t|z_{t-1},x_t)", lambda z, x: {"loc": z + x, "scale": torch.full_like(z, 0.5)}, shape=2)
    decode = Normal("p(x_t|z_t)", lambda z: {"loc": z, "scale": torch.ones_like(z)}, shape=2)
    step = E(encode, log(decode) - KL(encode, move))
    elbo = E(q, Sum("n", Sum("t", step), rows=12)) - KL(q, prior)
    x = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    noise = elbo.noise(x=x)
    assert noise["A"].shape == (2, 2)
    out = elbo(x=x, noise=noise)

    normal, kl = torch.distributions.Normal, torch.distributions.kl_divergence
    A = 0.3 + 0.2 * noise["A"]
    z, total = torch.zeros(3, 2), torch.zeros(3)
    for t in range(4):
        before, after = normal(z @ A.T, 1.0), normal(z + x[:, t], 0.5)
        z = after.loc + 0.5 * noise["z"][:, t]
        total = total + normal(z, 1.0).log_prob(x[:, t]).sum(-1) - kl(after, before).sum(-1)
    cost = kl(normal(torch.full((2, 2), 0.3), 0.2), normal(0.0, 1.0)).sum()
    by_hand = 12 / 3 * total.sum() - cost
    assert out.value.item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert elbo.interpret(x=x, noise=noise).value.item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_a_batch_of_one_row_is_that_row():
    prior, q, p = weights()
    elbo = E(q, Sum("n", log(p), rows="all")) - KL(q, prior)
    noise = elbo.noise(**DATA)
    rows = [elbo(x=DATA["x"][[i]], y=DATA["y"][[i]], noise=noise).value for i in range(6)]
    cost = KL(q, prior)().value
    whole = elbo(**DATA, noise=noise).value
    assert (sum(rows) + 5 * cost).item() == pytest.approx(whole.item(), abs=1e-10)
    many = log(E(q, exp(Sum("n", log(p), rows="all")), samples=3))
    assert many(x=DATA["x"][:1], y=DATA["y"][:1], seed=0).value.shape == ()


def test_a_shared_scale_with_a_prior_of_its_own():
    """p(y) with y ~ N(0, s) and s one of two scales: a global that another depends on, by enumeration."""
    kind = Categorical("p(k)", probs=torch.tensor([0.3, 0.7], dtype=torch.float64), shape=(), classes=2, shared=True)
    mean = Normal(
        "p(m|k)", lambda k: {"loc": 2.0 * k[..., None].double(), "scale": torch.ones(1).double()}, shape=1, shared=True
    )
    p = Normal("p(y|m)", lambda m: {"loc": m, "scale": torch.ones_like(m)}, shape=1)
    y = np.array([1.2, 2.5, 0.7])
    each = [stats.multivariate_normal.logpdf(y, np.full(3, loc), np.eye(3) + np.ones((3, 3))) for loc in (0.0, 2.0)]
    truth = math.log(0.3 * math.exp(each[0]) + 0.7 * math.exp(each[1]))
    inner = E(mean, exp(Sum("n", log(p), rows="all")), samples=100_000)
    found = log(E(kind, inner, "exact"))(y=torch.tensor(y)[:, None], seed=0)
    assert found.samples["m"].shape[-1] == 1
    assert found.value.item() == pytest.approx(truth, abs=0.02)


def test_trajectories_that_read_one_of_several_draws():
    """log 1/K Σ_k exp Σ_n Σ_t log p(x_t|z_t^k), with z^k moved by the k-th m, with the noise of the call."""
    mean = Normal("p(m)", shape=2, shared=True)
    follow = Normal("p(z_t|z_{t-1},m)", lambda z, m: {"loc": z / 2 + m, "scale": torch.ones_like(z)}, shape=2)
    frames = Normal("p(x_t|z_t)", lambda z: {"loc": z, "scale": torch.ones_like(z)}, shape=2)
    bound = log(E(mean, exp(Sum("n", Sum("t", E(follow, log(frames), samples=1)), rows="all")), samples=3))
    x = torch.randn(4, 5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noise = bound.noise(x=x)
    assert noise["z"].shape == (3, 4, 5, 2)
    total = torch.zeros(3, dtype=torch.float64)
    for k in range(3):
        z = torch.zeros(4, 2, dtype=torch.float64)
        for t in range(5):
            z = z / 2 + noise["m"][k] + noise["z"][k, :, t]
            total[k] += torch.distributions.Normal(z, 1.0).log_prob(x[:, t]).sum()
    by_hand = total.logsumexp(0) - math.log(3)
    assert bound(x=x, noise=noise).value.item() == pytest.approx(by_hand.item(), abs=1e-9)
    assert bound.interpret(x=x, noise=noise).value.item() == pytest.approx(by_hand.item(), abs=1e-9)
