"""What families write otherwise for ``torch.compile``: held against arithmetic of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldformula.families import one_hot, two_hot


@pytest.mark.parametrize("classes", [3, 8, 70])
def test_a_compiled_draw_takes_the_first_of_the_largest(classes: int) -> None:
    rng = np.random.default_rng(0)
    scores = torch.as_tensor(rng.integers(0, 4, (200, classes)), dtype=torch.float32)  # with many ties
    scores[::50, 1] = torch.nan
    drawn = torch.compile(one_hot.mode, backend="eager", fullgraph=True)((scores,))
    assert isinstance(drawn, torch.Tensor)
    assert np.array_equal(drawn.numpy(), np.eye(classes, dtype=np.float32)[scores.numpy().argmax(-1)])


def test_a_compiled_density_between_two_bins_is_their_cross_entropy() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(40, 255))
    bins = np.sign(grid := np.linspace(-20, 20, 255)) * np.expm1(np.abs(grid))
    values = np.concatenate((rng.normal(size=30) * 3, bins[[0, 3, 127, 254]], [1e10, -1e10, 0.1, 1, -1, 10]))
    place = np.clip(np.searchsorted(bins, values, side="right") - 1, 0, 253)
    weight = np.clip((values - bins[place]) / (bins[place + 1] - bins[place]), 0, 1)
    target = np.zeros((40, 255))
    np.add.at(target, (np.arange(40), place), 1 - weight)
    np.add.at(target, (np.arange(40), place + 1), weight)
    shares = np.exp(logits - np.logaddexp.reduce(logits, -1, keepdims=True))

    given = torch.tensor(logits, requires_grad=True)
    density = torch.compile(two_hot.log_prob, backend="eager", fullgraph=True)((given,), torch.tensor(values), 0)
    np.testing.assert_allclose(density.detach(), (target * np.log(shares)).sum(-1), rtol=1e-9)
    density.sum().backward()
    np.testing.assert_allclose(given.grad, target - shares, atol=1e-9)
