"""Networks of TD-MPC2 against PyTorch's own layers and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from worldformula.errors import ConfigError, ShapeError
from worldformula.nets.normed import Ensemble, Normed, Regressed, SimNorm, mish, symlog

DOUBLE = torch.float64


def test_simnorm_is_a_softmax_of_each_group() -> None:
    x = np.random.default_rng(0).normal(size=(5, 2, 12))
    found = SimNorm(12, 4)(torch.from_numpy(x)).numpy()
    for first in range(0, 12, 4):
        part = np.exp(x[..., first : first + 4])
        np.testing.assert_allclose(found[..., first : first + 4], part / part.sum(-1, keepdims=True), rtol=1e-12)
    with pytest.raises(ConfigError, match="whole groups of 8, got 12"):
        SimNorm(12)


@pytest.mark.parametrize("simplices", [0, 4])
def test_normed_is_these_layers(simplices: int) -> None:
    net = Normed(3, 8, (5, 6), simplices=simplices).double()
    linear = [m for m in net.layers if isinstance(m, nn.Linear)]
    first = x = torch.randn(7, 3, dtype=DOUBLE)
    for layer, width in zip(linear[:-1], (5, 6), strict=True):
        x = F.mish(F.layer_norm(layer(x), (width,)))
    expected = linear[-1](x)
    if simplices:
        expected = F.layer_norm(expected, (8,)).unflatten(-1, (2, 4)).softmax(-1).flatten(-2)
    torch.testing.assert_close(net(first[:, :1], first[:, 1:]), expected, rtol=1e-12, atol=1e-12)
    assert abs(float(linear[1].weight.detach().std()) - 0.02) < 0.01
    assert all(float(layer.bias.detach().abs().max()) == 0 for layer in linear)


def test_an_ensemble_is_its_members_side_by_side() -> None:
    torch.manual_seed(0)
    net = Ensemble(5, 4, 6, 3, kept=0.75).double()
    assert float(net.weights[2].detach().abs().max()) == 0  # the first values are 0
    for p in net.parameters():
        nn.init.normal_(p)
    z, a = torch.randn(7, 3, dtype=DOUBLE), torch.randn(7, 2, dtype=DOUBLE)
    mask = (torch.rand(7, 3, 6) < 0.75).double()
    plain, masked = net(z, a), net(z, a, mask)
    for k in range(3):
        for given, found in ((torch.full_like(mask, 0.75), plain), (mask, masked)):
            x = torch.cat((z, a), -1)
            for i in range(2):
                x = F.linear(x, net.weights[i][k].T, net.biases[i][k, 0])
                x = x * given[:, k] / 0.75 if i == 0 else x
                x = F.mish(F.layer_norm(x, (6,), net.scales[i][k, 0], net.shifts[i][k, 0]))
            expected = F.linear(x, net.weights[2][k].T, net.biases[2][k, 0])
            torch.testing.assert_close(found[:, k], expected, rtol=1e-10, atol=1e-10)
    with pytest.raises(ShapeError, match="expected inputs of 5 numbers in all, got 3"):
        net(z)


def test_mish_of_a_search_is_that_of_learning() -> None:
    x = torch.cat((torch.linspace(-100, 100, 4001, dtype=DOUBLE), torch.tensor([0.0, 1e-12, -1e-12, 700.0, -745.0])))
    with torch.no_grad():
        fast = mish(x)
    torch.testing.assert_close(fast, F.mish(x), rtol=1e-12, atol=1e-14)
    assert torch.equal(mish(x.requires_grad_()), F.mish(x))


def test_numbers_are_regressed_behind_their_symlog() -> None:
    line = np.linspace(-2, 2, 5)
    logits = np.random.default_rng(0).normal(size=(6, 5))
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    y = (shares * line).sum(-1)
    np.testing.assert_allclose(
        Regressed(5, 2.0)(torch.from_numpy(logits)), np.sign(y) * (np.exp(np.abs(y)) - 1), rtol=1e-12
    )
    x = torch.tensor([-3.0, 0.0, 1e-9, 5.0], dtype=DOUBLE)
    expected = np.sign(x.numpy()) * np.log1p(np.abs(x.numpy()))
    np.testing.assert_allclose(symlog(x).numpy(), expected, rtol=1e-12)
