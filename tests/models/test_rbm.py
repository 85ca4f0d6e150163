"""RBM: energies and Z by enumeration, the gradient of a long chain, persistent chains, refusals."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from worldformula.errors import ConfigError, UnnormalisedError
from worldformula.models.rbm import SYSTEM, Sizes, build, tiny
from worldformula.training.chains import Chains
from worldformula.training.fit import fit

EVERY = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)))


def shaken(hidden=3, steps=1, scale=1.0):
    torch.manual_seed(0)
    model = build(Sizes(visible=4, hidden=hidden, steps=steps))
    for weight in model.loss.parameters():
        torch.nn.init.normal_(weight, std=scale)
    return model


def test_free_energy_and_z_are_sums_over_all_states():
    model = shaken()
    units = model.units
    hidden = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)))
    joint = EVERY @ units.weight @ hidden.T + (EVERY @ units.visible)[:, None] + hidden @ units.hidden
    assert torch.allclose(-units(EVERY), joint.logsumexp(-1), atol=1e-5)
    assert model.log_z("exact") == pytest.approx(joint.logsumexp((0, 1)).item(), abs=1e-5)
    assert model.log_z("ais", torch.Generator().manual_seed(0)) == pytest.approx(model.log_z("exact"), abs=0.05)
    assert model.log_prob(EVERY, "exact").exp().sum().item() == pytest.approx(1.0, abs=1e-6)


def test_the_loss_has_the_gradient_of_the_likelihood_where_chains_start_at_the_model():
    """v_0 drawn from p itself: the chain stays there, so the gradient is that of −log p exactly, up to its noise."""
    model = shaken(scale=0.7)
    data = EVERY[torch.tensor([1, 3, 3, 7, 15])]
    rows = 200_000
    index = torch.multinomial(model.log_prob(EVERY, "exact").exp().float(), rows, replacement=True)
    model.loss(v=data.repeat(rows // 5, 1), v_0=EVERY[index], seed=0).value.backward()
    found = model.units.weight.grad.clone()
    model.loss.zero_grad()
    units = model.units
    nll = (units(data) + (-units(EVERY)).logsumexp(0)).mean()
    nll.backward()
    assert (found - units.weight.grad).abs().max() < 0.01


def test_what_it_prints_and_code_is_the_interpreter():
    model = shaken(steps=2)
    assert r"\mathrm{CD}_{k=2,\, \mathrm{start}=v_{0}}\left[ p(v) \right]" in str(model.loss)
    data = {"v": EVERY, "v_0": EVERY.flip(0)}
    noise = model.loss.noise(**data)
    assert torch.equal(model.loss(**data, noise=noise).value, model.loss.interpret(**data, noise=noise).value)
    assert torch.equal(model.given({"x": EVERY})["v_0"], EVERY)


def test_persistent_chains_learn_a_density():
    torch.manual_seed(0)
    model = build(Sizes(visible=4, hidden=6, steps=2))
    data = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]]).repeat(64, 1)
    chains = Chains("v", "v_0", lambda n: torch.rand(n, 4).round(), size=128)
    before = -model.log_prob(data, "exact").mean()
    fit(model.loss, {"v": data}, steps=300, batch=128, lr=0.03, schedule="cosine", inputs=chains, callback=chains.keep)
    after = -model.log_prob(data, "exact").mean()
    assert before > 2.7  # 4 log 2: four coins
    assert after < 2.2  # 2 log 2 = 1.39 is the least
    drawn = model.generate(400, seed=0, sweeps=200)["x"]
    assert (drawn[:, 0] == drawn[:, 1]).float().mean() > 0.7


def test_chains_keep_the_ends_of_their_rows_alone():
    chains = Chains("x", "x_0", lambda n: torch.zeros(n, 2), size=10, restart=0.0)
    given = chains({"x": torch.ones(4, 2)})
    assert torch.equal(given["x_0"], torch.zeros(4, 2))

    chains.keep(1, SimpleNamespace(samples={"x_model": torch.full((4, 2), 7.0)}))
    assert (chains.states == 7).all(-1).sum() == 4
    with pytest.raises(ConfigError, match="at least as many"):
        chains({"x": torch.ones(11, 2)})
    with pytest.raises(ConfigError, match="restart in"):
        Chains("x", "x_0", torch.zeros, size=3, restart=1.0)


def test_the_density_is_refused_without_an_estimator():
    model = build(tiny())
    with pytest.raises(UnnormalisedError):
        model.density.log_prob(v=torch.zeros(1, 64))
    with pytest.raises(ConfigError, match="'exact' or 'ais'"):
        model.log_z("guess")
    assert set(SYSTEM.presets) == {"paper", "tiny"}
