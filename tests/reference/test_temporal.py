"""The formulas of the temporal benchmark are the hand-written losses: same networks, same noise, same gradients."""

import pytest
import torch

from benchmarks import handwritten_temporal as hand
from benchmarks import temporal

B, T = 3, 6


def case(name):
    """Networks, the formula, its data, and the hand-written loss of a noise."""
    torch.manual_seed(0)
    x = torch.rand(B, T, temporal.FRAME if name == "td_vae" else temporal.X, dtype=torch.double).bernoulli()
    nets = getattr(temporal, f"{name}_networks")().double()
    by_hand = {
        "dmm": lambda noise: hand.dmm_loss(nets, x, noise["z"]),
        "vrnn": lambda noise: hand.vrnn_loss(nets, x, noise["z"], temporal.H),
        "td_vae": lambda noise: hand.td_vae_loss(nets, x, noise, temporal.H),
    }[name]
    return nets, getattr(temporal, name)(nets), {"x": x}, by_hand


@pytest.mark.parametrize("name", ["dmm", "vrnn", "td_vae"])
def test_formula_and_hand_agree(name):
    nets, formula, data, by_hand = case(name)
    noise = formula.noise(**data)
    found, expected = formula(**data, noise=noise).value, by_hand(noise)
    torch.testing.assert_close(found, expected)
    weights = list(nets.parameters())
    torch.testing.assert_close(torch.autograd.grad(found, weights), torch.autograd.grad(expected, weights))
