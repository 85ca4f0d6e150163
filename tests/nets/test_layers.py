from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from worldformula.errors import ShapeError
from worldformula.nets.layers import BlockLinear, Dense, Linear, RMSNorm, from_blocks, join, tanh, to_blocks


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


def test_many_numbers_side_by_side_are_multiplied_apart_and_give_what_few_do() -> None:
    torch.manual_seed(0)
    layer = Linear(40, 6).double()
    torch.nn.init.normal_(layer.bias)
    parts = [torch.randn(3000, n, dtype=torch.float64, requires_grad=True) for n in (30, 3, 7)]
    joined = torch.cat([p.detach() for p in parts], -1).requires_grad_()
    expected = joined @ layer.weight.detach().T + layer.bias.detach()
    found = layer(*parts)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(layer(*(p[:2] for p in parts)), expected[:2])
    g = torch.randn_like(found)
    of_parts = torch.autograd.grad(found, [layer.weight, layer.bias, *parts], g)
    torch.testing.assert_close(of_parts[0], g.T @ joined.detach())
    torch.testing.assert_close(of_parts[1], g.sum(0))
    torch.testing.assert_close(torch.cat(of_parts[2:], -1), g @ layer.weight.detach())


@pytest.mark.parametrize("stack", [1, 3])
def test_the_gradients_of_a_norm_are_those_of_its_definition_and_have_gradients(stack: int) -> None:
    torch.manual_seed(0)
    norm = RMSNorm(5, stack).double()
    torch.nn.init.normal_(norm.scale)
    x = (0.02 * torch.randn(4, 3, 5, dtype=torch.float64)).requires_grad_()  # so small that the 1e-4 counts
    weights = torch.randn(4, 3, 5, dtype=torch.float64)

    def by_hand(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return x / torch.sqrt((x**2).sum(-1, keepdim=True) / 5 + 1e-4) * scale

    for first, second in zip(*(_two_gradients(f, x, norm.scale, weights) for f in (_of(norm), by_hand)), strict=True):
        torch.testing.assert_close(first, second)


def _of(norm: RMSNorm) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    return lambda x, scale: norm(x)


def _two_gradients(
    f: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], x: torch.Tensor, scale: torch.Tensor, weights: torch.Tensor
) -> list[torch.Tensor]:
    """Of a weighted sum, and of the squares of these."""
    first = torch.autograd.grad((f(x, scale) * weights).sum(), (x, scale), create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), (x, scale))
    return [*first, *second]


def test_a_norm_under_transforms_of_torch_func() -> None:
    torch.manual_seed(0)
    norm, x = RMSNorm(4).double(), torch.randn(3, 4, dtype=torch.float64)
    torch.nn.init.normal_(norm.scale)

    def loss(scale: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(norm, {"scale": scale}, (row,)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(norm.scale.detach(), x)
    for row, found in zip(x, each, strict=True):
        (expected,) = torch.autograd.grad(norm(row).square().sum(), norm.scale)
        torch.testing.assert_close(found, expected)


def test_tanh_and_its_gradient_everywhere() -> None:
    x = torch.cat((torch.linspace(-12, 12, 1001), torch.tensor([0.0, 1e-6, -90.0, 1e4, -math.inf, math.inf])))
    exact = torch.from_numpy(np.tanh(x.double().numpy()))
    assert (tanh(x).double() - exact).abs().max() < 3e-7
    assert tanh(torch.tensor([0.0])).item() == 0.0
    assert tanh(torch.tensor([math.nan])).isnan()
    inner = x[:-2].double().requires_grad_()
    (gradient,) = torch.autograd.grad(tanh(inner).sum(), inner)
    assert (gradient - (1 - exact[:-2] ** 2)).abs().max() < 1e-14


def test_the_gradient_of_a_norm_is_in_float32_where_it_is_taken_under_autocast() -> None:
    torch.manual_seed(0)
    norm, x = RMSNorm(64), torch.randn(5, 64, requires_grad=True)
    weights = torch.randn(5, 64)
    expected = torch.autograd.grad((norm(x) * weights).sum(), (x, norm.scale))
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad((norm(x) * weights).sum(), (x, norm.scale))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own rules of forward differentiation
def test_a_norm_is_differentiated_forwards() -> None:
    torch.manual_seed(0)
    norm, x, direction = RMSNorm(4).double(), *torch.randn(2, 3, 4, dtype=torch.float64)
    step = 1e-6
    with torch.autograd.forward_ad.dual_level():
        found = norm(torch.autograd.forward_ad.make_dual(x, direction))
        tangent = torch.autograd.forward_ad.unpack_dual(found).tangent
    expected = (norm(x + step * direction) - norm(x - step * direction)) / (2 * step)
    torch.testing.assert_close(tangent, expected, rtol=1e-8, atol=1e-8)
