from __future__ import annotations

import math

import pytest
import torch

from worldformula.nets.actor import ContinuousActor, DiscreteActor


def test_continuous_actor_bounds_mean_and_deviation() -> None:
    net = ContinuousActor(3, 2, units=8)
    torch.nn.init.zeros_(net.mlp.head.weight)
    with torch.no_grad():
        net.mlp.head.bias.copy_(torch.tensor([0.5, -30.0, 0.0, 30.0]))
    head = net(torch.randn(4, 1), torch.randn(4, 2))
    torch.testing.assert_close(head["loc"][0], torch.tensor([math.tanh(0.5), -1.0]))
    assert head["scale"][0].tolist() == pytest.approx([0.892717, 1.0], abs=1e-6)
    with torch.no_grad():
        net.mlp.head.bias.fill_(-30.0)
    assert net(torch.randn(4, 3))["scale"][0].tolist() == pytest.approx([0.1, 0.1], abs=1e-6)


def test_actors_start_almost_indifferent() -> None:
    torch.manual_seed(0)
    features = torch.randn(100, 40)
    head = ContinuousActor(40, 6, units=64)(features)
    assert head["loc"].abs().max() < 0.05
    torch.testing.assert_close(head["scale"], torch.full((100, 6), 0.892717), atol=5e-3, rtol=0)
    logits = DiscreteActor(40, 6, units=64)(features)
    assert logits.shape == (100, 6)
    assert 0 < logits.abs().max() < 0.05
