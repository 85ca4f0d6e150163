"""DDPM: closed forms of the chain, the bound of Gaussian data, samplers with the perfect network, guidance."""

import math

import pytest
import torch
from torch import nn

from worldformula.errors import ConfigError
from worldformula.models.ddpm import SYSTEM, Sizes, build, guidance, tiny
from worldformula.nets.diffusion import Discretised, Schedule, cosine, ddim, guided, linear

STEPS = 10


def betas(T):
    return linear(T, 0.02, 0.4)


class Perfect(nn.Module):
    """E[ε | x_t] of data N(0, I), whose x_t is N(0, I) at every step."""

    def __init__(self):
        super().__init__()
        self.schedule = Schedule(betas(STEPS))

    def forward(self, x, t):
        return (1 - self.schedule.at(self.schedule.alpha_bar, t, x)).sqrt() * x


@pytest.fixture(scope="module")
def gaussian():
    """Data N(0, I): with σ_t² = β_t the chain and its reverse are one joint distribution."""
    sizes = Sizes(features=1, levels=0, steps=STEPS, units=8, blocks=1, schedule=betas, variance="beta")
    return build(sizes, Perfect())


@pytest.mark.parametrize("make", [linear, cosine])
def test_the_chain_is_consistent(make):
    """q(x_s|x_0) followed by the posterior's definition gives back q(x_t|x_0): Bayes' rule in Gaussians."""
    schedule = Schedule(make(50)).double()
    t = torch.arange(2, 51)
    kept, before, beta = schedule.alpha_bar[t], schedule.alpha_bar[t - 1], schedule.beta[t]
    precision = (1 - beta) / beta + 1 / (1 - before)
    assert torch.allclose(schedule.beta_tilde[t], 1 / precision, rtol=1e-3)
    x_t, x_0 = torch.randn(2, 49, 1).double()
    mean = ((1 - beta).sqrt() / beta * x_t[:, 0] + before.sqrt() / (1 - before) * x_0[:, 0]) / precision
    assert torch.allclose(schedule.mean(x_t, x_0, t)[:, 0], mean, rtol=1e-3, atol=1e-4)
    assert torch.allclose(kept, (1 - beta) * before, rtol=1e-4)
    noise = torch.randn(49, 1).double()
    assert torch.allclose(schedule.clean(schedule.diffuse(x_0, t, noise), noise, t), x_0, atol=1e-6)


def test_the_bound_of_gaussian_data_is_their_density(gaussian):
    x = torch.tensor([0.0, 0.5, 2.0]).repeat_interleave(30_000)[:, None]
    found = gaussian.bound(seed=0, x_0=x).view(3, -1)
    truth = -0.5 * torch.tensor([0.0, 0.25, 4.0]) - 0.5 * math.log(2 * math.pi)
    error = found.std(1) / math.sqrt(30_000)
    assert ((found.mean(1) - truth).abs() < 4 * error).all()
    assert error.max() < 0.01


def test_the_formula_with_one_step_a_row_is_the_same_bound(gaussian):
    x = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0))
    assert gaussian.vlb(x_0=x, seed=1).value.item() == pytest.approx(0.5 * math.log(2 * math.pi * math.e), abs=0.02)


def test_simple_loss_of_the_perfect_network(gaussian):
    """E‖ε − E[ε|x_t]‖² = ᾱ_t for N(0, 1), the mean of which is over t."""
    x = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0))
    schedule = Perfect().schedule
    expected = schedule.alpha_bar[1:].mean().item()
    assert gaussian.loss(x_0=x, seed=1).value.item() == pytest.approx(expected, abs=0.01)


def test_samplers_give_the_data_back(gaussian):
    drawn = gaussian.generate(20_000, seed=0)["x_0"]
    assert drawn.mean().abs() < 0.03
    assert drawn.std().item() == pytest.approx(1.0, abs=0.02)
    assert torch.equal(drawn, gaussian.generate(20_000, seed=0)["x_0"])
    chain = Schedule(cosine(1000))

    def perfect(x, t):
        return (1 - chain.at(chain.alpha_bar, t, x)).sqrt() * x

    x = torch.randn(2000, 1)
    assert (ddim(chain, perfect, x, 400) - x).abs().max() < 0.1, "the ODE of N(0, I) stands still"
    with pytest.raises(ConfigError, match="1 to 999 steps"):
        ddim(chain, perfect, x, 1000)


@pytest.mark.parametrize("scale", [0.001, 0.05, 1.0])
def test_discretised_gaussian_adds_up_to_one_and_is_the_mass_of_its_bins(scale):
    class Fixed(nn.Module):
        def forward(self, x):
            return {"loc": x, "scale": torch.full_like(x, scale)}

    net = Discretised(Fixed(), 5).double()
    x = torch.tensor([[-1.3, -0.9, 0.02, 0.3, 0.74, 1.0]]).double()
    mass = net(x).exp()
    assert torch.allclose(mass.sum(-1), torch.ones(1, 6).double(), atol=1e-6)
    edges = torch.tensor([-0.75, -0.25, 0.25, 0.75]).double()
    cdf = torch.special.ndtr((edges - x[..., None]) / scale)
    direct = torch.cat((cdf[..., :1], cdf.diff(dim=-1), 1 - cdf[..., -1:]), -1)
    assert torch.allclose(mass, direct, atol=1e-6)


def test_what_it_prints():
    model = build(tiny())
    assert r"p(t),\, p(\epsilon),\, x_{t} = q(x_{0}, t, \epsilon)" in str(model.loss)
    assert r"\left\| \epsilon - \hat{\epsilon} \right\|^{2}" in str(model.loss)
    assert r"D_{\mathrm{KL}}\left[ q(x_{t-1} \mid x_{t}, x_{0}, t) \,\|\, p(x_{t-1} \mid x_{t}, t) \right]" in str(
        model.vlb
    )
    assert r"y' = \mathrm{hide}(y, k)" in str(build(guidance()).loss)


def small(**more):
    return Sizes(features=4, levels=5, steps=6, units=32, blocks=1, **more)


@pytest.mark.parametrize("classes", [0, 3])
def test_loss_and_bound_run_as_code_and_interpreted(classes):
    torch.manual_seed(0)
    model = build(small(classes=classes))
    data = {"x": torch.randint(5, (32, 4))}
    if classes:
        data["y"] = nn.functional.one_hot(torch.arange(32) % 3, 3).float()
    for loss in (model.loss, model.vlb):
        noise = loss.noise(**data)
        before = loss(**data, noise=noise).value
        assert torch.allclose(before, loss.interpret(**data, noise=noise).value, rtol=1e-4)
        optimiser = torch.optim.Adam(loss.parameters(), lr=1e-3)
        before.backward()
        optimiser.step()
        assert loss(**data, noise=noise).value < before
    given = {"y": data["y"]} if classes else {}
    drawn = model.generate(32, seed=0, steps=3, **given)["x"]
    assert drawn.dtype == torch.int64
    assert model.bound(seed=0, **data).shape == (32,)


def test_hidden_labels_are_zeros_in_their_share_of_the_rows():
    model = build(small(classes=3, unlabelled=0.25))
    y = nn.functional.one_hot(torch.arange(8000) % 3, 3).float()
    hidden = model.loss(x=torch.randint(5, (8000, 4)), y=y, seed=0).samples["y_prime"]
    none = (hidden == 0).all(-1)
    assert none.float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(hidden[~none], y[~none])


def test_guidance_goes_beyond_the_label():
    def net(x, t, y):
        return y.sum(-1, keepdim=True) * torch.ones_like(x)

    x, t, y = torch.zeros(2, 3), torch.ones(2).long(), torch.eye(2)
    assert torch.equal(guided(net, y, 0.0)(x, t), torch.ones(2, 3))
    assert torch.equal(guided(net, y, 1.5)(x, t), 2.5 * torch.ones(2, 3))


def test_wrong_numbers_are_told():
    with pytest.raises(ConfigError, match="between 0 and 1"):
        Schedule(torch.tensor([0.1, 1.0]))
    with pytest.raises(ConfigError, match="variance='posterior'"):
        build(small(variance="learned"))


def test_presets_build():
    assert {"paper", "tiny", "guidance"} == set(SYSTEM.presets)
