"""A distance between values: the axioms of one, arithmetic by hand, and that it can bend around a wall."""

import math

import pytest
import torch

from worldformula.nets.separation import Separation, Waves


def test_waves_by_hand():
    found = Waves((1, 2))(torch.tensor([[0.25, 0.5]])).tolist()[0]
    r = math.sqrt(0.5)
    assert found == pytest.approx([-0.5, 0, r, 1, 1, 0, r, 0, 0, -1], abs=1e-6)


def test_it_is_a_distance():
    torch.manual_seed(0)
    net = Separation(3, 16, (32,), (1, 4), unit=7.0)
    a, b, c = torch.rand(3, 200, 3)
    assert (net(a, a) == 0).all()
    torch.testing.assert_close(net(a, b), net(b, a))
    assert (net(a, c) <= net(a, b) + net(b, c) + 1e-5).all()
    assert net(a, b).min() > 0
    assert net(a, b).shape == (200,)


def test_it_is_the_mean_difference_of_what_the_network_says():
    torch.manual_seed(0)
    net = Separation(2, 5, (8,), unit=3.0)
    a, b = torch.rand(2, 4, 2)
    by_hand = [3 * sum(abs(x - y) for x, y in zip(p, q, strict=True)) / 5
               for p, q in zip(net.phi(2 * a - 1).tolist(), net.phi(2 * b - 1).tolist(), strict=True)]  # fmt: skip
    assert net(a, b).tolist() == pytest.approx(by_hand, rel=1e-5)
