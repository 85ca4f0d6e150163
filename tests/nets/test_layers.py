from __future__ import annotations

import math

import pytest
import torch

from worldformula.errors import ShapeError
from worldformula.nets.layers import BlockLinear, Dense, Linear, RMSNorm, from_blocks, join, to_blocks


def test_weights_are_truncated_at_two_deviations_and_have_variance_one_over_fan_in() -> None:
    torch.manual_seed(0)
    layer = Linear(400, 1000)
    sigma = 1.1368 / math.sqrt(400)
    assert layer.weight.abs().max().item() <= 2 * sigma
    assert layer.weight.abs().max().item() > 1.95 * sigma
    assert layer.weight.std().item() == pytest.approx(1 / math.sqrt(400), rel=5e-3)
    assert not layer.bias.any()


def test_outscale_multiplies_the_weights_and_zero_gives_zero() -> None:
    torch.manual_seed(0)
    assert Linear(100, 1000, outscale=0.01).weight.std().item() == pytest.approx(0.001, rel=1e-2)
    assert not Linear(100, 10, outscale=0.0).weight.any()


def test_block_linear_is_scaled_by_the_total_input_width() -> None:
    torch.manual_seed(0)
    layer = BlockLinear(512, 4096, blocks=8)
    assert layer.weight.std().item() == pytest.approx(1 / math.sqrt(512), rel=1e-2)


def test_block_linear_equals_a_block_diagonal_matrix() -> None:
    torch.manual_seed(0)
    layer = BlockLinear(12, 8, blocks=4).double()
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(5, 12, dtype=torch.float64)
    expected = x @ torch.block_diag(*layer.weight) + layer.bias.flatten()
    torch.testing.assert_close(from_blocks(layer(to_blocks(x, 4))), expected)


def test_block_linear_refuses_widths_that_do_not_divide() -> None:
    with pytest.raises(ShapeError, match="8 blocks, got 100 -> 64"):
        BlockLinear(100, 64, 8)


def test_rms_norm_against_its_definition() -> None:
    norm = RMSNorm(3).double()
    with torch.no_grad():
        norm.scale.copy_(torch.tensor([1.0, 2.0, 3.0]))
    x = torch.tensor([[3.0, 0.0, -4.0]], dtype=torch.float64)
    root = math.sqrt(25 / 3 + 1e-4)
    torch.testing.assert_close(norm(x), torch.tensor([[3 / root, 0.0, -12 / root]], dtype=torch.float64))
    tiny = torch.full((1, 3), 1e-3, dtype=torch.float64)  # mean square 1e-6: the 1e-4 of eps decides
    assert norm(tiny)[0, 0].item() == pytest.approx(1e-3 / math.sqrt(1.01e-4))


def test_rms_norm_computes_half_precision_in_float32() -> None:
    x = torch.full((1, 4), 300.0, dtype=torch.float16)  # the square overflows float16
    y = RMSNorm(4).half()(x)
    assert y.dtype == torch.float16
    torch.testing.assert_close(y, torch.ones_like(y), atol=1e-3, rtol=0)


def test_stacked_norms_equal_separate_norms() -> None:
    torch.manual_seed(0)
    stacked, x = RMSNorm(4, stack=2), torch.randn(5, 2, 4)
    torch.nn.init.normal_(stacked.scale)
    for i in range(2):
        single = RMSNorm(4)
        single.scale.data = stacked.scale.data[i]
        torch.testing.assert_close(stacked(x)[:, i], single(x[:, i]))


def test_dense_is_linear_norm_silu_in_this_order() -> None:
    torch.manual_seed(0)
    layer, x = Dense(6, 4), torch.randn(3, 6)
    y = layer.linear(x)
    y = y / torch.sqrt((y**2).mean(-1, keepdim=True) + 1e-4)
    torch.testing.assert_close(layer(x), y * torch.sigmoid(y))


def test_join_flattens_events_and_names_a_wrong_width() -> None:
    h, z, r = torch.zeros(2, 3), torch.ones(2, 2, 2), torch.full((2,), 5.0)
    assert join((h, z, r), 8, "net")[0].tolist() == [0, 0, 0, 1, 1, 1, 1, 5]
    with pytest.raises(ShapeError, match=r"net expected inputs of 7 numbers in all, got 3 \+ 4 \+ 1 = 8"):
        join((h, z, r), 7, "net")
