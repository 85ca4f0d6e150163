"""Score models: with the true score of a Gaussian, loss, samples and likelihood have closed forms."""

import math

import pytest
import torch
from torch import nn

from worldformula.models.score_sde import SYSTEM, Sizes, build, tiny

SPREAD = 1.5


class Perfect(nn.Module):
    """∇ log N(0, (SPREAD² + σ²) I)."""

    def forward(self, x, sigma):
        return -x / (SPREAD**2 + sigma**2)


class Worse(Perfect):
    """Too long by a fifth."""

    def forward(self, x, sigma):
        return 1.2 * super().forward(x, sigma)


@pytest.fixture(scope="module")
def perfect():
    return build(Sizes(features=2, largest=30.0), Perfect())


def test_what_it_prints():
    text = str(build(tiny()).loss)
    assert r"\left\| \sigma \, s + \epsilon \right\|^{2}" in text
    assert r"p(l),\, \sigma = \mathrm{exp}(l),\, p(\epsilon)" in text


@pytest.mark.slow
@pytest.mark.parametrize("exact", [True, False])
def test_the_likelihood_of_the_ode_is_that_of_the_blurred_gaussian(perfect, exact):
    x = torch.randn(3000 if not exact else 6, 2, generator=torch.Generator().manual_seed(0)) * SPREAD
    variance = SPREAD**2 + 0.01**2
    truth = -0.5 * x.square().sum(-1) / variance - math.log(2 * math.pi * variance)
    found = perfect.log_prob(x, steps=160, exact=exact, generator=torch.Generator().manual_seed(1))
    assert (found - truth).mean().abs() < 0.02
    assert not exact or (found - truth).abs().max() < 0.02


@pytest.mark.parametrize("corrector", [None, 0.16])
def test_samples_of_ode_and_sde_have_the_spread_of_the_data(perfect, corrector):
    x = perfect.generate(4000, seed=0, steps=150, corrector=corrector)["x"]
    assert x.mean(0).abs().max() < 0.1
    assert x.std(0).tolist() == pytest.approx([SPREAD, SPREAD], rel=0.05)
    assert torch.equal(x, perfect.generate(4000, seed=0, steps=150, corrector=corrector)["x"])


def test_the_loss_is_least_at_the_true_score():
    """At the optimum E‖σs + ε‖² = D · E[v²/(v² + σ²)], the share of ε that x̃ does not tell."""
    model = build(tiny())
    x = SPREAD * torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0))
    sigma = torch.logspace(math.log10(0.01), math.log10(8.0), 4001)
    best = 2 * (SPREAD**2 / (SPREAD**2 + sigma**2)).mean().item()
    noise = model.loss.noise(x=x, generator=torch.Generator().manual_seed(1))
    found = build_with(Perfect())(x=x, noise=noise).value.item()
    assert found == pytest.approx(best, abs=0.02)
    assert build_with(Worse())(x=x, noise=noise).value.item() > found


def build_with(net):
    """The loss around another network."""
    return build(tiny(), net).loss


def test_a_step_lowers_the_loss_and_code_is_the_interpreter():
    torch.manual_seed(0)
    model = SYSTEM.build(tiny())
    x = torch.randn(64, 2)
    noise = model.loss.noise(x=x)
    before = model.loss(x=x, noise=noise).value
    assert torch.allclose(before, model.loss.interpret(x=x, noise=noise).value)
    before.backward()
    torch.optim.Adam(model.loss.parameters(), lr=1e-3).step()
    assert model.loss(x=x, noise=noise).value < before
