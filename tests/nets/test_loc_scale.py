"""Heads of location and scale: floors, shares, and the learned scale of a prior."""

import pytest
import torch
from torch import nn

from worldformula import Laplace
from worldformula.errors import ConfigError
from worldformula.nets.loc_scale import Learned, LocScale


def test_softplus_has_a_floor():
    net = LocScale(nn.Linear(3, 4))
    with torch.no_grad():
        net.net.bias[2:] = -100.0
    out = net(torch.zeros(5, 3))
    assert {k: tuple(v.shape) for k, v in out.items()} == {"loc": (5, 2), "scale": (5, 2)}
    torch.testing.assert_close(out["scale"], torch.full((5, 2), 1e-3))


def test_softmax_shares_a_total_among_the_latents():
    torch.manual_seed(0)
    out = LocScale(nn.Linear(3, 8), "softmax", floor=0.0)(10 * torch.randn(5, 3))
    torch.testing.assert_close(out["scale"].sum(-1), torch.full((5,), 4.0))
    assert out["scale"].max() > 1.5


def test_a_learned_prior_starts_as_the_standard_one_and_learns_its_scale():
    net = Learned(3)
    prior = Laplace("p(z)", net, shape=3)
    z = torch.randn(6, 3)
    torch.testing.assert_close(prior.log_prob(z=z), Laplace("p(z)", shape=3).log_prob(z=z))
    prior.log_prob(z=z).sum().backward()
    assert net.raw.grad.any()


def test_another_rule_is_refused():
    with pytest.raises(ConfigError, match="'softplus' or 'softmax', got 'exp'"):
        LocScale(nn.Linear(3, 4), "exp")
