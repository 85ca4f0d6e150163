"""The information bottleneck: its two terms against torch, the averaged prediction, the noise of the code."""

from dataclasses import replace

import pytest
import torch

from worldformula.cards.vib_sweep import attack, claims
from worldformula.models.vib import SYSTEM, build, paper, tiny

SMALL = replace(tiny(), inputs=6, classes=3, latent=2, hidden=(8,))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def rows(sizes, n=6):
    return {"x": torch.rand(n, sizes.inputs), "y": torch.eye(sizes.classes)[torch.arange(n) % sizes.classes]}


def test_paper_has_the_networks_of_the_paper():
    widths = [tuple(p.shape) for p in build(paper()).loss.parameters() if p.ndim == 2]
    assert widths == [(1024, 784), (1024, 1024), (512, 1024), (10, 256)]


def test_it_prints_the_equation():
    assert build(SMALL).loss.latex == (
        r"\operatorname{mean}\left( \beta \, D_{\mathrm{KL}}\left[ p(z \mid x) \,\|\, r(z) \right] - "
        r"\mathbb{E}_{p(z \mid x)}\left[ \log q(y \mid z) \right] \right)"
    )


def test_value_and_gradient_against_torch():
    model, data = build(SMALL), rows(SMALL)
    noise = model.loss.noise(**data, beta=0.3)
    code = torch.distributions.Normal(*model.encode.params(data["x"]))
    rate = torch.distributions.kl_divergence(code, torch.distributions.Normal(0.0, 1.0)).sum(-1)
    logits = model.classify.head(code.loc + code.scale * noise["z"])
    expected = 0.3 * rate.mean() + torch.nn.functional.cross_entropy(logits, data["y"])
    weights = list(model.loss.parameters())
    wanted = torch.autograd.grad(expected, weights, retain_graph=True)
    for run in (model.loss, model.loss.interpret):
        out = run(**data, noise=noise, beta=0.3)
        torch.testing.assert_close(out.value, expected)
        for got, want in zip(torch.autograd.grad(out.value, weights), wanted, strict=True):
            torch.testing.assert_close(got, want)
    torch.testing.assert_close(model.rate(data["x"]), rate)


def test_the_code_starts_almost_without_noise():
    loc, scale = build(tiny()).encode.params(torch.rand(5, 64))
    assert scale.max() < 0.012
    assert loc.abs().max() > scale.max()


def test_prediction_is_the_mean_of_probabilities_over_draws():
    model, x = build(replace(SMALL, offset=2.0)), rows(SMALL)["x"]
    one, many = model.predict(x, 1, seed=0), model.predict(x, 4000, seed=0)
    assert many.shape == (6, 3)
    torch.testing.assert_close(many.sum(-1), torch.ones(6))
    torch.testing.assert_close(many, model.predict(x, 4000, seed=1), atol=0.02, rtol=0)
    assert not torch.allclose(one, many, atol=0.02)
    at_the_mean = model.classify.head(model.encode.params(x)[0]).softmax(-1)
    assert not torch.allclose(at_the_mean, many, atol=0.005), "the mean of probabilities is not that of the mean code"


@pytest.mark.parametrize("preset", SYSTEM.presets)
def test_every_preset_takes_a_step_that_lowers_its_loss(preset):
    sizes = SYSTEM.sizes(preset)
    model, data = SYSTEM.build(sizes), rows(sizes, 10)
    data |= model.symbols
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-4)
    before = model.loss(**data, seed=0).value
    before.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.loss.parameters())
    optimiser.step()
    assert model.loss(**data, seed=0).value < before


def test_the_attack_lowers_the_true_class_and_stays_close():
    weight = torch.randn(6, 3)
    x, labels = torch.rand(20, 6), torch.randint(3, (20,))

    def predict(x):
        return (x @ weight).softmax(-1)

    moved = attack(predict, x, labels)
    assert (moved - x).abs().max() <= 0.1 + 1e-6
    assert moved.min() >= 0
    assert moved.max() <= 1
    before, after = (predict(v).gather(1, labels[:, None]) for v in (x, moved))
    assert (after < before).all()


def test_claims_are_counted_one_by_one():
    rates = {f"rate_{b:g}": r for b, r in zip((0, 1e-5, 1e-3, 1e-2, 0.1, 1), (900, 400, 40, 15, 7, 0.1), strict=True)}
    good = rates | {"attacked_0": 0.3, "attacked_0.01": 0.5, "nll_0": 0.2, "nll_0.01": 0.1, "accuracy_1": 0.1}
    assert claims(good) == 4
    for broken in ({"rate_1": 8.0}, {"attacked_0.01": 0.39}, {"nll_0.01": 0.3}, {"accuracy_1": 0.4}):
        assert claims(good | broken) == 3
