"""VQ-VAE: the nearest code, where gradients go and do not go, moving averages against a loop, starved codes."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from worldformula.cards.vq_vae_digits import components, error, product, usage
from worldformula.errors import ConfigError, FormulaError
from worldformula.models.vq_vae import SYSTEM, Codebook, build, by_loss, tiny

SMALL = replace(tiny(), shape=(6,), positions=2, codes=5, width=3, hidden=(8,), restart=0.0)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def spread(model):
    """Codes and vectors of one size, so that several codes are chosen."""
    with torch.no_grad():
        model.codebook.weight.copy_(0.3 * torch.randn_like(model.codebook.weight))
    return model


def test_the_nearest_code_is_the_nearest():
    book = Codebook(SMALL)
    book.weight.normal_()
    e = torch.randn(7, 2, 3)
    torch.testing.assert_close(book.nearest(e), torch.cdist(e, book.weight.expand(7, 5, 3)).argmin(-1))


@pytest.mark.parametrize("update", ["ema", "loss"])
def test_value_and_gradient_as_the_paper_writes_them(update):
    model = spread(build(replace(SMALL, update=update)))
    model.loss.eval()
    x = 4 * torch.randn(9, 6)
    e = model.encode.factors[0].net(x)
    c = model.codebook.weight[model.codes(x)]
    assert len(model.codes(x).unique()) > 1
    mean = model.decode.net(e + (c - e).detach())
    log_p = torch.distributions.Normal(mean, 0.25).log_prob(x).sum(-1)
    expected = -log_p + 0.25 * (e - c.detach()).square().sum((1, 2))
    if update == "loss":
        expected = expected + (e.detach() - c).square().sum((1, 2))
    weights = list(model.loss.parameters())
    wanted = torch.autograd.grad(expected.mean(), weights)
    for run in (model.loss, model.loss.interpret):
        out = run(x=x)
        torch.testing.assert_close(out.value, expected.mean())
        for got, want in zip(torch.autograd.grad(out.value, weights), wanted, strict=True):
            torch.testing.assert_close(got, want)


def test_the_reconstruction_reaches_the_encoder_but_not_the_codes():
    model = spread(build(replace(SMALL, update="loss", commitment=0.0)))
    x = torch.rand(9, 6)
    (by_codes,) = torch.autograd.grad(model.loss(x=x).value, model.codebook.weight)
    c = model.codebook.weight[model.codes(x)]
    alone = (model.encode.factors[0].net(x).detach() - c).square().sum((1, 2)).mean()
    torch.testing.assert_close(by_codes, torch.autograd.grad(alone, model.codebook.weight)[0])
    encoder = torch.autograd.grad(model.loss(x=x).value, list(model.encode.factors[0].parameters()))
    assert all(g.abs().sum() > 0 for g in encoder), "straight through the choice, without any other term"


def test_moving_averages_against_a_loop():
    book = Codebook(replace(SMALL, decay=0.9))
    book.weight.normal_()
    sums, counts = book.weight.clone(), torch.ones(5)
    for _ in range(4):
        e = torch.randn(8, 2, 3)
        k = book.nearest(e)
        book(e)
        for code in range(5):
            chosen = e[k == code]
            counts[code] = 0.9 * counts[code] + 0.1 * len(chosen)
            sums[code] = 0.9 * sums[code] + 0.1 * chosen.sum(0)
        torch.testing.assert_close(book.count, counts)
        torch.testing.assert_close(book.weight, sums / counts[:, None])


def test_codes_rest_outside_training():
    model = build(SMALL)
    model.loss.eval()
    before = model.codebook.weight.clone()
    model.loss(x=torch.rand(9, 6))
    assert torch.equal(model.codebook.weight, before)
    model.loss.train()
    model.loss(x=torch.rand(9, 6))
    assert not torch.equal(model.codebook.weight, before)
    assert {"nearest.weight", "nearest.count"} <= set(model.loss.state_dict())


def test_a_starved_code_starts_again_where_vectors_are():
    """Far-away codes are never chosen: without a restart they stay there for ever."""
    for restart, used in ((0.5, True), (0.0, False)):
        book = Codebook(replace(SMALL, restart=restart, decay=0.5))
        book.weight.copy_(torch.full((5, 3), 100.0))
        book.weight[0] = 0.0
        for _ in range(20):
            book(torch.randn(40, 2, 3))
        assert (len(book.nearest(torch.randn(400, 2, 3)).unique()) > 3) == used


@pytest.mark.parametrize("preset", SYSTEM.presets)
def test_every_preset_takes_a_step_that_lowers_its_loss(preset):
    sizes = SYSTEM.sizes(preset)
    model, x = SYSTEM.build(sizes), torch.rand(2, *sizes.shape)
    model.loss.eval()
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-4)
    before = model.loss(x=x).value
    before.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.loss.parameters())
    optimiser.step()
    assert model.loss(x=x).value < before
    assert model.codes(x).shape == (2, sizes.positions)


def test_codes_decode_to_the_reconstruction():
    model, x = spread(build(SMALL)), torch.rand(4, 6)
    model.loss.eval()
    torch.testing.assert_close(model.decoded(model.codes(x)), model.reconstruct(x=x)["x"])
    with pytest.raises(FormulaError, match="no prior"):
        model.generate(3)


def test_it_prints_the_equation():
    printed = build(by_loss()).loss.latex
    assert r"\left\| \mathrm{sg}\left[ e \right] - c \right\|^{2}" in printed
    assert r"0.25 \, \left\| e - \mathrm{sg}\left[ c \right] \right\|^{2} - \log p(x \mid z)" in printed


def test_floors_of_the_card_spend_the_bits_they_are_given():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 64)) * np.where(np.arange(64) == 5, 9.0, 0.1)
    one = [error(x, components(x, x, budget, 0)) for budget in (1, 2, 3)]
    assert one[0] > 2 * one[1] > 4 * one[2], "all bits go to the one component that varies"
    kinds = rng.integers(4, size=(300, 4))
    blocks = np.kron(kinds.reshape(-1, 2, 2), np.ones((1, 4, 4))).reshape(300, 64)
    assert error(blocks, product(blocks, blocks, 4, 4, 0)) < 1e-9
    assert error(blocks, product(blocks, blocks, 4, 3, 0)) > 0.1


def test_usage_counts_pairs_and_bits():
    even = torch.stack([torch.arange(8) % 4, torch.zeros(8, dtype=torch.long)], 1)
    used, bits = usage(even, 4)
    assert used == pytest.approx(5 / 8)
    assert bits == pytest.approx(math.log2(4))


@pytest.mark.parametrize("wrong", [{"update": "sgd"}, {"shape": (3, 10, 10)}, {"shape": (2, 2)}])
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(ConfigError, match="expected|divisible"):
        replace(SMALL, **wrong)
