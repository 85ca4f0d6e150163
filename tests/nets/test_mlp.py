from __future__ import annotations

import math

import pytest
import torch

from worldformula.errors import ShapeError
from worldformula.nets.mlp import MLP, VectorDecoder, VectorEncoder, VectorKey, symlog

INF = math.inf


def test_conditions_are_joined_in_the_order_of_the_call() -> None:
    torch.manual_seed(0)
    net = MLP(3 + 8, 5, units=16, layers=2)
    h, z = torch.randn(4, 3), torch.randn(4, 2, 4)
    expected = net.head(net.trunk(torch.cat([h, z.flatten(1)], -1)))
    torch.testing.assert_close(net(h, z), expected)
    assert (net(h, z) - net(z, h)).abs().max() > 0.05


def test_a_head_with_outscale_zero_is_zero_and_learns() -> None:
    net = MLP(3, 255, units=16, layers=1, outscale=0.0)
    out = net(torch.randn(4, 3))
    assert not out.any()
    out.log_softmax(-1)[:, 3].sum().backward()
    assert net.head.weight.grad is not None
    assert net.head.weight.grad.abs().max() > 0


def test_symlog() -> None:
    torch.testing.assert_close(symlog(torch.tensor([0.0, math.e - 1, 1 - math.e])), torch.tensor([0.0, 1.0, -1.0]))


def test_vector_encoder_squashes_numbers_and_spreads_integers() -> None:
    torch.manual_seed(0)
    net = VectorEncoder([2, VectorKey(2, classes=3), 1], units=8)
    x, i, s = torch.tensor([[math.e - 1, -5.0]]), torch.tensor([[2, 0]]), torch.tensor([0.0])
    read = torch.tensor([[1.0, -math.log(6), 0, 0, 1, 1, 0, 0, 0.0]])
    torch.testing.assert_close(net(x, i, s), net.trunk(read))
    assert len(net.trunk) == 3


def test_a_missing_entry_zeroes_its_whole_key_in_its_row_only() -> None:
    torch.manual_seed(0)
    net = VectorEncoder([2, VectorKey(2, classes=3)], units=8)
    x = torch.tensor([[5.0, -INF], [5.0, 2.0], [5.0, 2.0]])
    i = torch.tensor([[1, 2], [1, -1], [1, 2]])
    a, b, c = math.log(6), math.log(3), 1.0
    read = torch.tensor([[0, 0, 0, c, 0, 0, 0, c], [a, b, 0, 0, 0, 0, 0, 0], [a, b, 0, c, 0, 0, 0, c]])
    out = net(x, i)
    torch.testing.assert_close(out, net.trunk(read))
    out.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_vector_encoder_counts_its_observations() -> None:
    with pytest.raises(ShapeError, match="expected 2 observations, got 1"):
        VectorEncoder([2, 1], units=8)(torch.zeros(1, 2))
    with pytest.raises(ShapeError, match="inputs of 2 numbers"):
        VectorEncoder([2], units=8)(torch.zeros(1, 3))


def test_vector_decoder_reads_the_latent_first() -> None:
    torch.manual_seed(0)
    net = VectorDecoder(deter=3, stoch=8, outputs=5, units=16)
    h, z = torch.randn(4, 3), torch.randn(4, 2, 4)
    torch.testing.assert_close(net(h, z), net.mlp(torch.cat([z.flatten(1), h], -1)))
    assert net(h, z).shape == (4, 5)
