"""GateL0RD: the published equations by hand, memory that stays to the bit, and where gradients go."""

import numpy as np
import pytest
import torch

from worldformula.errors import ConfigError
from worldformula.nets.gate_l0rd import GateL0RD, GateL0RDCore

N, X, H, Y = 5, 3, 4, 2


def inputs(seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(N, n, generator=g, dtype=dtype) for n in (X, H, H)]


def dense(net, u):
    """The layers of g and r in NumPy, tanh between them."""
    layers = [m for m in net if isinstance(m, torch.nn.Linear)]
    for i, layer in enumerate(layers):
        u = (np.tanh(u) if i else u) @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
    return u


@pytest.mark.parametrize("layers", [1, 3])
def test_the_cell_is_that_of_the_paper(layers):
    torch.manual_seed(0)
    cell, (x, c, noise) = GateL0RD(X, H, Y, layers).double(), inputs()
    y, kept, opened = cell(x, c, noise)
    u = np.concatenate((x, c), 1)
    gate = np.maximum(0, np.tanh(dense(cell.core.gate, u) + noise.numpy()))
    new = gate * np.tanh(dense(cell.core.new, u)) + (1 - gate) * c.numpy()
    v = np.concatenate((x, new), 1)
    told = np.tanh(dense([cell.told], v)) / (1 + np.exp(-dense([cell.shown], v)))
    np.testing.assert_allclose(kept.detach(), new, atol=1e-12)
    np.testing.assert_allclose(y.detach(), told, atol=1e-12)
    np.testing.assert_array_equal(opened.detach(), gate > 0)
    assert 0 < opened.mean() < 1


def test_the_widths_halve_down_to_the_size():
    core = GateL0RDCore(X, H, 3)
    assert [m.out_features for m in core.gate if isinstance(m, torch.nn.Linear)] == [4 * H, 2 * H, H]


@pytest.mark.parametrize("autocast", [False, True])
def test_a_shut_gate_keeps_the_memory_to_the_bit(autocast):
    torch.manual_seed(0)
    core = GateL0RDCore(X, H)
    x, c, noise = inputs(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        kept, opened = core(x, c, noise)
    assert kept.dtype == torch.float32
    assert torch.equal(kept[opened == 0], c[opened == 0])
    assert (kept[opened == 1] != c[opened == 1]).all()
    assert 0 < opened.mean() < 1


def test_the_penalty_reaches_the_gates_that_are_open_as_if_they_were_counted_by_how_far():
    """d mean(Θ) / ds = (1 − tanh² s) / N where tanh s > 0, else 0: the chain of the maximum and the tanh by hand."""
    core, (x, c, noise) = GateL0RDCore(X, H).double(), inputs()
    _, opened = core(x, c, noise)
    opened.sum().backward()
    s = dense(core.gate, np.concatenate((x, c), 1)) + noise.numpy()
    wanted = np.where(s > 0, 1 - np.tanh(s) ** 2, 0).sum(0)
    np.testing.assert_allclose(core.gate[0].bias.grad, wanted, atol=1e-12)
    assert all(p.grad is None for p in core.new.parameters())


def test_shut_gates_pass_the_gradient_of_the_memory_on():
    core, (x, c, noise) = GateL0RDCore(X, H).double(), inputs()
    with torch.no_grad():
        core.gate[0].bias.fill_(-30)
    c.requires_grad_()
    core(x, c, noise)[0].sum().backward()
    assert torch.equal(c.grad, torch.ones_like(c))


def test_refused():
    with pytest.raises(ConfigError, match="size and layers"):
        GateL0RDCore(3, 0)
