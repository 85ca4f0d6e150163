"""M2: the sum over classes against a loop, what its gradients reach, and what the model offers."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import one_hot

from worldformula.errors import MissingInputError
from worldformula.models.m2 import SYSTEM, build, paper, tiny

SMALL = replace(tiny(), pixels=9, classes=3, latent=2, hidden=(8,), classifier=(8,), dropout=0.0)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def batch(sizes, n=6):
    y = one_hot(torch.randint(sizes.classes, (n,)), sizes.classes).float()
    return {"x": torch.rand(n, sizes.pixels).round(), "y": y, "x_prime": torch.rand(n, sizes.pixels).round(), "w": 1.0}


def test_paper_has_the_networks_of_the_paper():
    sizes = paper()
    widths = [tuple(p.shape) for p in build(sizes).loss.parameters() if p.ndim == 2]
    assert widths == [(500, 794), (100, 500), (500, 60), (784, 500), (500, 784), (10, 500)]
    assert sizes.alpha == 0.1


def test_it_prints_the_equations():
    printed = build(SMALL).loss.latex
    assert r"\mathbb{E}^{\mathrm{exact}}_{q(y' \mid x')}\left[ D_{\mathrm{KL}}" in printed
    assert r"- \log p(y') + \log q(y' \mid x')" in printed
    assert printed.endswith(r"- 10.0 \, \operatorname{mean}\left( \log q(y \mid x) \right)")


def test_the_value_is_a_loop_over_classes():
    model, rows = build(SMALL), batch(SMALL)
    noise = model.loss.noise(**rows)

    def bound(x, y, eps):
        loc, scale = model.encode.factors[1].params(x, y)
        kl = 0.5 * (loc**2 + scale**2 - 1 - 2 * scale.log()).sum(-1)
        return kl - model.decode.log_prob(x=x, y=y, z=loc + scale * eps) + math.log(SMALL.classes)

    log_q = model.classify.net(rows["x_prime"]).log_softmax(-1)
    unlabelled = 0.0
    for k in range(SMALL.classes):
        y = one_hot(torch.full((6,), k), SMALL.classes).float()
        unlabelled = unlabelled + log_q[:, k].exp() * (bound(rows["x_prime"], y, noise["z_prime"][k]) + log_q[:, k])
    labels = (model.classify.net(rows["x"]).log_softmax(-1) * rows["y"]).sum(-1)
    expected = bound(rows["x"], rows["y"], noise["z"]).mean() + unlabelled.mean() - SMALL.alpha * labels.mean()
    weights = list(model.loss.parameters())
    wanted = torch.autograd.grad(expected, weights)
    for out in (model.loss(**rows, noise=noise), model.loss.interpret(**rows, noise=noise)):
        torch.testing.assert_close(out.value, expected)
        for got, want in zip(torch.autograd.grad(out.value, weights), wanted, strict=True):
            torch.testing.assert_close(got, want)


def test_rows_without_labels_teach_the_classifier():
    """The whole point: without α and labels, the gradient of the bound still reaches q(y|x)."""
    model = build(replace(SMALL, alpha=0.0))
    model.loss(**batch(SMALL)).value.backward()
    assert all(p.grad.abs().sum() > 0 for p in model.classify.parameters())


@pytest.mark.parametrize("preset", SYSTEM.presets)
def test_every_preset_takes_a_step_that_lowers_its_loss(preset):
    sizes = SYSTEM.sizes(preset)
    model, rows = SYSTEM.build(sizes), batch(sizes)
    model.loss.eval()
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-3)
    before = model.loss(**rows, seed=0).value
    before.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.loss.parameters())
    optimiser.step()
    assert model.loss(**rows, seed=0).value < before


def test_warm_up_starts_with_the_labels_alone():
    assert build(tiny()).symbols["w"](0) == 0.0
    assert build(tiny()).symbols["w"](500) == 1.0
    assert build(replace(tiny(), warm_up=0)).symbols["w"] == 1.0


def test_draws_bounds_and_labelled_data():
    model, rows = build(SMALL), batch(SMALL)
    assert {k: tuple(v.shape) for k, v in model.generate(4, seed=0).items()} == {"y": (4, 3), "z": (4, 2), "x": (4, 9)}
    assert model.bound(7, seed=0, x=rows["x"]).shape == (6,)
    assert set(model.latents(x=rows["x"])) == {"y", "z"}
    data = model.rows({"x": rows["x"].numpy().reshape(6, 3, 3), "y": rows["y"].argmax(-1).numpy()})
    assert {k: tuple(v.shape) for k, v in model.given(data).items()} == {"x": (6, 9), "y": (6, 3), "x_prime": (6, 9)}
    with pytest.raises(MissingInputError, match="y"):
        model.rows({"x": rows["x"].numpy()})


def test_the_bound_sums_the_label_out():
    """One latent and three classes: the marginal by quadrature over z and a sum over y."""
    model = build(replace(SMALL, latent=1, pixels=4))
    model.loss.double()
    with torch.no_grad():
        model.encode.factors[1].net.layers[-1].bias[1] = 1.0  # wider than p(z|x,y), so that the weights are bounded
    x = torch.rand(2, 4, dtype=torch.float64).round()
    z = torch.linspace(-8, 8, 801, dtype=torch.float64)[:, None]
    parts = []
    for k in range(3):
        y = torch.eye(3, dtype=torch.float64)[k].expand(801, 3)
        logits = model.decode.net(y, z)[:, None]
        log_x = -torch.nn.functional.binary_cross_entropy_with_logits(
            logits.expand(-1, 2, -1), x.expand(801, 2, 4), reduction="none"
        ).sum(-1)
        parts.append(log_x - 0.5 * z**2 - 0.5 * math.log(2 * math.pi) - math.log(3))
    exact = torch.stack(parts).logsumexp((0, 1)) + math.log(0.02)
    torch.testing.assert_close(model.bound(20_000, seed=0, chunk=5000, x=x), exact, atol=0.02, rtol=0)


def test_accuracy_counts_the_modes():
    model = build(SMALL)
    x = torch.rand(50, 9).round()
    y = model.classify.net(x).argmax(-1)
    assert model.accuracy(x, y) == 1.0
    assert model.accuracy(x, (y + 1) % 3) == 0.0
