"""Networks of PlaNet and of Dreamer v1 and v2: cells and convolutions by hand, counts of layers, what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError, ShapeError
from worldformula.nets.actor import SquashedActor, TruncatedActor
from worldformula.nets.plain import Core, NormCell, Plain, ResetCell, gru_cell
from worldformula.nets.strided import Bits, StridedDecoder, StridedEncoder, stages

N, X, H = 3, 4, 5


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def sigma(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def arrays(net: nn.Module) -> dict[str, np.ndarray]:
    """Random weights, as arrays."""
    with torch.no_grad():
        for i, p in enumerate(net.double().parameters()):
            p.copy_(drawn(*p.shape) + 0.1 * i)
    return {name: p.detach().numpy() for name, p in net.named_parameters()}


def test_the_cell_of_planet_resets_before_the_matrix() -> None:
    cell, x, h = ResetCell(X, H), drawn(N, X), drawn(N, H)
    assert (cell.gates.bias == 1).all()
    w = arrays(cell)
    r, u = np.split(sigma(np.hstack((x, h)) @ w["gates.weight"].T + w["gates.bias"]), 2, 1)
    c = np.tanh(np.hstack((x, r * h.numpy())) @ w["candidate.weight"].T + w["candidate.bias"])
    np.testing.assert_allclose(cell(x, h).detach(), u * h.numpy() + (1 - u) * c, rtol=1e-12)
    assert count(cell) == 3 * (X + H) * H + 3 * H


def test_the_cell_of_dreamer_v2_normalises_all_gates_together() -> None:
    cell, x, h = NormCell(X, H), drawn(N, X), drawn(N, H)
    w = arrays(cell)
    parts = np.hstack((x, h)) @ w["gates.weight"].T + w["gates.bias"]
    parts = (parts - parts.mean(1, keepdims=True)) / np.sqrt(parts.var(1, keepdims=True) + 1e-3)
    r, c, u = np.split(parts * w["norm.weight"] + w["norm.bias"], 3, 1)
    u = sigma(u - 1)
    expected = u * np.tanh(sigma(r) * c) + (1 - u) * h.numpy()
    np.testing.assert_allclose(cell(x, h).detach(), expected, rtol=1e-12)


def test_the_cell_of_dreamer_v1_begins_with_orthogonal_matrices_and_two_biases() -> None:
    cell = gru_cell(X, H)
    for part in cell.weight_hh.detach().chunk(3):
        torch.testing.assert_close(part @ part.T, torch.eye(H), rtol=0, atol=1e-5)
    assert not cell.bias_ih.any()
    assert not cell.bias_hh.any()
    assert count(cell) == 3 * (X + H) * H + 6 * H


def test_dense_layers_flatten_join_and_stop_where_they_are_told() -> None:
    net = Plain(7, 2, 6, 2)
    z, h = torch.randn(N, 2, 2, requires_grad=True), torch.randn(N, 3, requires_grad=True)
    assert net(h, z).shape == (N, 2)
    net(h, z).sum().backward()
    assert z.grad is not None
    still = Plain(7, 2, 6, 2, stopped=True)
    found = torch.autograd.grad(still(h, z).sum(), [z, *still.parameters()], allow_unused=True)
    assert found[0] is None
    assert all(g is not None for g in found[1:])
    limit = math.sqrt(6 / (7 + 6))  # Glorot
    first = net.layers[0].weight
    assert 0.8 * limit < first.abs().max() <= limit
    with pytest.raises(ShapeError, match="Plain expected inputs of 7 numbers"):
        net(h)
    with pytest.raises(ConfigError, match="a cell of block, keras, norm"):
        Core(5, 3, 2, 6, "lstm")  # type: ignore[arg-type]


@pytest.mark.parametrize(("size", "width"), [(16, 2 * 2 * 8), (32, 2 * 2 * 16), (64, 2 * 2 * 32), (128, 2 * 2 * 64)])
def test_strided_networks_halve_to_two_by_two_and_back(size: int, width: int) -> None:
    encoder, decoder = StridedEncoder(size, 3, 4), StridedDecoder(9, size, 3, 4)
    x = torch.rand(2, size, size, 3)
    token = encoder(x)
    assert token.shape == (2, encoder.width) == (2, width)
    y = (x - 0.5).permute(0, 3, 1, 2)
    for layer in encoder.layers[::2]:
        y = torch.relu(nn.functional.conv2d(y, layer.weight, layer.bias, stride=2))
    torch.testing.assert_close(token, y.permute(0, 2, 3, 1).flatten(1))
    assert decoder(torch.randn(2, 9)).shape == (2, size, size, 3)
    with torch.no_grad():
        decoder.layers[-1].weight.zero_()
    assert (decoder(torch.randn(2, 9)) == 0.5).all()  # in the units of the images
    with pytest.raises(ShapeError, match=rf"expected \[N, {size}, {size}, 3\] \(channels last\)"):
        encoder(x[:, 1:])


def test_the_published_image_networks_have_these_many_weights() -> None:
    """Kernels of 4 and 5, 5, 6, 6, of 32 channels at first: the layer list of the authors' code, by arithmetic."""
    pairs = [(3, 32), (32, 64), (64, 128), (128, 256)]
    assert count(StridedEncoder(64, 3, 32)) == sum(16 * i * o + o for i, o in pairs) == 690_144
    back = [(1024, 128, 5), (128, 64, 5), (64, 32, 6), (32, 3, 6)]
    expected = 230 * 1024 + 1024 + sum(k * k * i * o + o for i, o, k in back)
    assert count(StridedDecoder(230, 64, 3, 32)) == expected == 3_795_555


@pytest.mark.parametrize("size", [0, 8, 48, 100])
def test_other_sizes_are_refused_with_the_nearest(size: int) -> None:
    with pytest.raises(ConfigError, match=rf"pictures of 16, 32, 64 or 128 pixels, got {size}\..+--set env.size="):
        stages(size)


@pytest.mark.parametrize("bits", [1, 5, 8])
def test_bits_keep_the_upper_bits_of_every_colour_and_add_noise_of_one_step(bits: int) -> None:
    colours = np.arange(256)
    x = torch.as_tensor(colours, dtype=torch.uint8).float().div(255)
    u = torch.rand(256, generator=torch.Generator().manual_seed(0))
    expected = (colours >> (8 - bits)) / 2**bits
    got = Bits(bits)(x, u)
    np.testing.assert_allclose(got - u / 2**bits, expected, atol=1e-6)
    with pytest.raises(ConfigError, match="bits of a colour between 1 and 8"):
        Bits(0)


def test_the_actors_begin_as_published_and_stop_the_gradient() -> None:
    h = torch.randn(N, 6, requires_grad=True)
    for net, spread in ((SquashedActor(6, 2, 8), 5.0001), (TruncatedActor(6, 2, 8), 1.1)):
        with torch.no_grad():
            net.mlp.head.weight.zero_()
        found = net(h)
        torch.testing.assert_close(found["scale"], torch.full((N, 2), spread), rtol=1e-5, atol=0)
        assert not found["loc"].any()
        with torch.no_grad():
            net.mlp.head.weight.normal_(std=50.0)
        limit = 5 if isinstance(net, SquashedActor) else 1
        assert limit * 0.99 < net(h)["loc"].abs().max() <= limit
        assert torch.autograd.grad(net(h)["loc"].sum(), h, allow_unused=True)[0] is None
