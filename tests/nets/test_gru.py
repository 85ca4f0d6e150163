from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from worldformula.errors import ShapeError
from worldformula.nets.gru import BlockGRU

D, G, K, A, H, BLOCKS = 16, 3, 4, 2, 5, 8


def core() -> BlockGRU:
    torch.manual_seed(1)
    net = BlockGRU(D, G * K, A, H, BLOCKS).double()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return net


def inputs(n: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.randn(n, *s, dtype=torch.float64) for s in ((D,), (G, K), (A,)))  # type: ignore[return-value]


def norm(x: Tensor, scale: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).mean() + 1e-4) * scale


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def reference(net: BlockGRU, h: Tensor, z: Tensor, a: Tensor) -> Tensor:
    """One row, block by block, from the layer list: the input is repeated and joined with each block's slice."""
    a = a / a.abs().clamp(min=1)
    reads = (net.read_h, h), (net.read_z, z.flatten()), (net.read_a, a)
    read = torch.cat([silu(norm(f(x), net.read_norm.scale[i])) for i, (f, x) in enumerate(reads)])
    w = D // BLOCKS
    hidden = []
    for g in range(BLOCKS):
        own = slice(g * w, (g + 1) * w)
        matrix = torch.cat([net.shared[:, own], net.own.weight[g]])
        hidden.append(torch.cat([read, h[own]]) @ matrix + net.own.bias[g, 0])
    x = silu(norm(torch.cat(hidden), net.norm.scale))
    new = []
    for g in range(BLOCKS):
        own = slice(g * w, (g + 1) * w)
        out = x[own] @ net.gates.weight[g] + net.gates.bias[g, 0]
        reset, cand, update = out[:w], out[w : 2 * w], out[2 * w :]
        c = torch.tanh(torch.sigmoid(reset) * cand)
        u = torch.sigmoid(update - 1)
        new.append(u * c + (1 - u) * h[own])
    return torch.cat(new)


def test_equals_the_layer_list_with_gates_split_inside_blocks() -> None:
    net = core()
    h, z, a = inputs()
    a = 3 * a
    expected = torch.stack([reference(net, *row) for row in zip(h, z, a, strict=True)])
    torch.testing.assert_close(net(h, z, a), expected)
    torch.testing.assert_close(net(h, z.flatten(1), a), expected)


def test_zero_preactivations_keep_most_of_the_state() -> None:
    net = BlockGRU(D, G * K, A, H, BLOCKS).double()
    torch.nn.init.zeros_(net.gates.weight)
    h, z, a = inputs()
    torch.testing.assert_close(net(h, z, a), 0.7310585786 * h)
    assert 1 / (1 + math.exp(1)) == pytest.approx(0.268941, abs=1e-6)


def test_initial_weights_use_the_fan_in_of_the_whole_layer() -> None:
    torch.manual_seed(0)
    net = BlockGRU(512, 128, 6, 64)
    whole = 1 / math.sqrt(512 + 8 * 3 * 64)
    assert net.own.weight.std().item() == pytest.approx(whole, rel=0.02)
    assert net.shared.std().item() == pytest.approx(whole, rel=0.02)
    assert net.gates.weight.std().item() == pytest.approx(1 / math.sqrt(512), rel=0.02)


def test_large_actions_are_cut_and_the_divisor_has_no_gradient() -> None:
    net = core()
    h, z, _ = inputs(1)
    big = torch.tensor([[4.0, 0.5]], dtype=torch.float64, requires_grad=True)
    unit = torch.tensor([[1.0, 0.5]], dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(net(h, z, big), net(h, z, unit))
    (of_big,) = torch.autograd.grad(net(h, z, big).sum(), big)
    (of_unit,) = torch.autograd.grad(net(h, z, unit).sum(), unit)
    torch.testing.assert_close(of_big, of_unit / torch.tensor([4.0, 1.0], dtype=torch.float64))


def test_wrong_widths_name_the_input() -> None:
    net = BlockGRU(D, G * K, A, H)
    with pytest.raises(ShapeError, match=r"BlockGRU\.a expected inputs of 2"):
        net(torch.zeros(1, D), torch.zeros(1, G, K), torch.zeros(1, 3))


def test_vmap_over_weights_and_compile() -> None:
    net = core()
    h, z, a = inputs()
    params = {k: torch.stack([v, 2 * v]) for k, v in net.named_parameters()}
    out = torch.func.vmap(lambda p: torch.func.functional_call(net, p, (h, z, a)))(params)
    torch.testing.assert_close(out[0], net(h, z, a))
    torch.testing.assert_close(torch.compile(net, fullgraph=True, backend="eager")(h, z, a), net(h, z, a))
