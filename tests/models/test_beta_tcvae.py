"""β-TCVAE: estimates of q(z) against closed forms and against all rows at once, the decomposition, the printed loss."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from worldformula.cards.turned_sprites import excess
from worldformula.errors import ConfigError, ShapeError
from worldformula.models.beta_tcvae import SYSTEM, Aggregate, build, tiny

SMALL = replace(tiny(), pixels=7, latent=2, hidden=(8,), decoder=(8,), rows=50)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def gaussian(rows, correlation, noise=0.6):
    """Posterior means with a correlation, so that q(z) is close to a Normal; its total correlation in closed form."""
    cov = torch.tensor([[1.0, correlation], [correlation, 1.0]])
    m = torch.randn(rows, 2) @ torch.linalg.cholesky(cov).T
    s = torch.full_like(m, noise)
    joint = cov + noise**2 * torch.eye(2)
    closed = 0.5 * (joint.diagonal().log().sum() - joint.logdet()).item()
    return m, s, m + s * torch.randn_like(m), closed


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_total_correlation_of_gaussians(correlation):
    """Independent coordinates have none; an estimate that shuffles all columns alike would find none anywhere."""
    m, s, z, closed = gaussian(1500, correlation)
    joint, product = Aggregate(1500, weighted=False)(z, m, s)
    assert (joint - product).mean().item() == pytest.approx(closed, abs=0.03)


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_the_weighted_estimate_is_off_by_what_is_known(correlation):
    """On the whole training set its weights are 1/N² instead of 1/N: log N is missing in log q(z) and log q(z_j)."""
    m, s, z, closed = gaussian(1500, correlation)
    joint, product = Aggregate(1500, weighted=True)(z, m, s)
    assert (joint - product).mean().item() == pytest.approx(closed + math.log(1500), abs=0.03)


def test_all_rows_at_once_are_the_mixture_itself():
    m, s, z, _ = gaussian(40, 0.5)
    mixture = torch.distributions.Normal(m, s).log_prob(z[:, None])
    joint, product = Aggregate(40, weighted=False)(z, m, s)
    torch.testing.assert_close(joint, mixture.sum(-1).logsumexp(1) - math.log(40))
    torch.testing.assert_close(product, (mixture.logsumexp(1) - math.log(40)).sum(-1))


def test_the_stratified_estimate_is_unbiased_for_every_row():
    """The mean of q̂(z) over all batches that contain a row is q(z) of all rows."""
    m, s, z, _ = gaussian(6, 0.5)
    exact = Aggregate(6, weighted=False)(z, m, s)[0].exp()
    found = [[] for _ in range(6)]
    for rows in itertools.combinations(range(6), 3):
        picked = list(rows)
        values = Aggregate(6, weighted=False)(z[picked], m[picked], s[picked])[0].exp()
        for row, value in zip(picked, values, strict=True):
            found[row].append(value)
    torch.testing.assert_close(torch.stack([torch.stack(values).mean() for values in found]), exact)


def test_the_own_row_is_on_the_diagonal():
    """A known defect of other implementations: the weight of the own row in the first column."""
    weights = Aggregate(100, weighted=False).log_weights(5, torch.zeros(())).exp()
    torch.testing.assert_close(weights.diagonal(), torch.full((5,), 0.01))
    torch.testing.assert_close(weights.sum(1), torch.ones(5))
    torch.testing.assert_close(weights, weights.T)


def test_it_prints_the_decomposition():
    printed = build(SMALL).loss.latex
    assert r"\mathrm{MI} + \beta \, \mathrm{TC} + \mathrm{DWKL} - \log p(x \mid z)" in printed
    plain = build(replace(SMALL, objective="beta_vae")).loss.latex
    assert r"\beta \, D_{\mathrm{KL}}\left[ q(z \mid m, s) \,\|\, p(z) \right] - \log p(x \mid z)" in plain


@pytest.mark.parametrize("objective", ["stratified", "weighted"])
def test_without_extra_weight_it_is_the_elbo(objective):
    """The estimates cancel at β = 1, draw by draw; with β = 4 they do not."""
    model, x = build(replace(SMALL, objective=objective)), torch.rand(9, 7)
    noise = model.loss.noise(x=x, beta=1.0)
    m, s = model.encode.factors[0].net(x)
    z = m + s * noise["z"]
    logits = model.decode.net(z)
    bce = torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
    q, p = torch.distributions.Normal(m, s), torch.distributions.Normal(0.0, 1.0)
    elbo = (bce + (q.log_prob(z) - p.log_prob(z)).sum(-1)).mean()
    torch.testing.assert_close(model.loss(x=x, beta=1.0, noise=noise).value, elbo)
    a, b = Aggregate(50, weighted=objective == "weighted")(z, m, s)
    expected = elbo + 3 * (a - b).mean()
    weights = list(model.loss.parameters())
    wanted = torch.autograd.grad(expected, weights)
    for run in (model.loss, model.loss.interpret):
        out = run(x=x, beta=4.0, noise=noise)
        torch.testing.assert_close(out.value, expected)
        for got, want in zip(torch.autograd.grad(out.value, weights), wanted, strict=True):
            torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


def test_the_control_multiplies_the_whole_kl():
    model, x = build(replace(SMALL, objective="beta_vae")), torch.rand(9, 7)
    one, two, three = (model.loss(x=x, beta=b, seed=0).value for b in (1.0, 2.0, 3.0))
    torch.testing.assert_close(two - one, three - two)
    m, s = model.encode.factors[0].net(x)
    kl = torch.distributions.kl_divergence(torch.distributions.Normal(m, s), torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(two - one, kl.sum(-1).mean())


@pytest.mark.parametrize("preset", ["tiny", "beta_vae"])
def test_a_step_lowers_the_loss(preset):
    sizes = SYSTEM.sizes(preset)
    model, x = SYSTEM.build(sizes), torch.rand(16, sizes.pixels)
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-3)
    before = model.loss(x=x, beta=sizes.beta, seed=0).value
    before.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.loss.parameters())
    optimiser.step()
    assert model.loss(x=x, beta=sizes.beta, seed=0).value < before


def test_codes_are_means_and_paper_sizes_are_its_own():
    model, x = build(SMALL), torch.rand(4, 7)
    torch.testing.assert_close(model.codes(x), model.encode.factors[0].net(x)[0])
    assert model.generate(3, seed=0)["x"].shape == (3, 7)
    assert [SYSTEM.sizes("paper").beta, SYSTEM.sizes("paper").rows] == [6.0, 737_280]
    assert model.symbols["beta"](0) == 1.0
    assert model.symbols["beta"](1500) == 6.0


def test_cost_is_zero_for_a_perfect_decoder():
    model, x = build(SMALL), torch.full((4, 7), 0.3)
    with torch.no_grad():
        model.decode.net.head.weight.zero_()
        model.decode.net.head.bias.fill_(math.log(0.3 / 0.7))
    assert excess(x, model.reconstruct(x=x)["x"]) == pytest.approx(0.0, abs=1e-5)


def test_what_is_refused():
    with pytest.raises(ConfigError, match="stratified"):
        replace(SMALL, objective="stratify")
    with pytest.raises(ConfigError, match="rows="):
        replace(SMALL, rows=1)
    with pytest.raises(ShapeError, match="two rows or more"):
        build(SMALL).loss(x=torch.rand(1, 7), beta=1.0)
