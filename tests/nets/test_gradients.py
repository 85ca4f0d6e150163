"""Gradients that are written out, against finite differences; weights whose gradients wait for a loop; parts."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

from worldformula import Deterministic, E, Normal, Sum, log
from worldformula.families.one_hot import one_hot
from worldformula.families.two_hot import TwoHotFamily
from worldformula.gradients import PART, in_parts, one_loop, parts
from worldformula.nets.gates import gated
from worldformula.nets.gru import BlockGRU
from worldformula.nets.layers import Linear, RMSNorm

N, D, S, A, H, BLOCKS = 3, 6, 5, 2, 3, 2


def core() -> BlockGRU:
    torch.manual_seed(1)
    net = BlockGRU(D, S, A, H, BLOCKS).double()
    for p in net.parameters():
        nn.init.normal_(p, std=0.5)
    return net


def given(*shapes: tuple[int, ...]) -> list[Tensor]:
    torch.manual_seed(2)
    return [(0.4 * torch.randn(*shape, dtype=torch.float64)).requires_grad_() for shape in shapes]


def by_weights(net: nn.Module) -> Any:
    """The network as a function of its inputs and weights."""
    names = [name for name, _ in net.named_parameters()]

    def call(*values: Tensor) -> Tensor:
        weights = dict(zip(names, values[len(values) - len(names) :], strict=True))
        return torch.func.functional_call(net, weights, values[: len(values) - len(names)])

    return call


def test_the_gradients_of_a_core_are_those_of_finite_differences_and_so_are_theirs() -> None:
    net = core()
    values = (*given((N, D), (N, S), (N, A)), *net.parameters())
    assert torch.autograd.gradcheck(by_weights(net), values, fast_mode=True)
    net.read_a.requires_grad_(False)
    few = (*given((1, D), (1, S), (1, A)), *net.parameters())
    assert torch.autograd.gradgradcheck(by_weights(net), few, fast_mode=True)


def test_the_gradients_of_gates() -> None:
    h, gates = given((N, D), (N, 3 * D))
    assert torch.autograd.gradcheck(gated, (h, gates))
    assert torch.autograd.gradgradcheck(gated, (h, gates))
    r, k, v = gates.detach().numpy().reshape(N, 3, D).swapaxes(0, 1)
    u = 1 / (1 + np.exp(1 - v))
    expected = u * np.tanh(k / (1 + np.exp(-r))) + (1 - u) * h.detach().numpy()
    np.testing.assert_allclose(gated(h, gates).detach(), expected, rtol=1e-12)


def test_the_gradients_of_gradients_of_a_norm_whose_input_was_made_with_its_scale() -> None:
    torch.manual_seed(0)
    norm, (x,) = RMSNorm(4).double(), given((2, 4))

    def twice(x: Tensor, scale: Tensor) -> Tensor:
        once = torch.func.functional_call(norm, {"scale": scale}, (x,))
        return torch.func.functional_call(norm, {"scale": scale}, (once,))

    assert torch.autograd.gradgradcheck(twice, (x, norm.scale))


def test_weights_that_a_loop_uses_have_the_gradient_of_all_its_steps() -> None:
    net = core()
    values = (*given((N, D), (N, 4, S), (N, 4, A)), *net.parameters())

    def steps(h: Tensor, z: Tensor, a: Tensor, *weights: Tensor) -> Tensor:
        with one_loop():
            for t in range(4):
                h = by_weights(net)(h, z[:, t], a[:, t], *weights)
        return h

    assert torch.autograd.gradcheck(steps, values, fast_mode=True)


def test_gradients_of_a_loop_are_taken_twice_in_parts_and_of_gradients() -> None:
    net = core()
    h, z, a = given((N, D), (N, S), (N, A))

    def rolled() -> Tensor:
        x = h
        with one_loop():
            for _ in range(3):
                x = net(x, z, a)
        return x.square().sum()

    weights = list(net.parameters())
    value = rolled()
    first = torch.autograd.grad(value, weights, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(value, weights, retain_graph=True), first)
    torch.testing.assert_close(torch.autograd.grad(value, [net.shared], retain_graph=True)[0], first[0])
    (of_h,) = torch.autograd.grad(value, [h], retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(value, weights, retain_graph=True), first)
    again = torch.autograd.grad(rolled(), [h, *weights], create_graph=True)
    torch.testing.assert_close(again, (of_h, *first))
    (second,) = torch.autograd.grad(again[0].square().sum(), [net.shared])
    step = 1e-5 * torch.ones_like(second)
    found = []
    for sign in (1, -1):
        with torch.no_grad():
            net.shared += sign * step
        found.append(torch.autograd.grad(rolled(), [h])[0].square().sum())
        with torch.no_grad():
            net.shared -= sign * step
    torch.testing.assert_close((second * step).sum(), (found[0] - found[1]) / 2, rtol=1e-5, atol=0)


def test_a_weight_that_was_changed_before_its_gradient_is_noticed() -> None:
    net = core()
    value = net(*given((N, D), (N, S), (N, A))).sum()
    with torch.no_grad():
        net.gates.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()
    for frozen in (False, True):  # the gradient by an input alone passes no weight
        h, z, a = given((N, D), (N, S), (N, A))
        net = core().requires_grad_(not frozen)
        value = net(h, z, a).sum()
        with torch.no_grad():
            net.gates.weight.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(value, h)


def test_weights_that_are_frozen_at_some_steps_of_a_loop_learn_from_the_others() -> None:
    net = core()
    h, z, a = (x.detach() for x in given((N, D), (N, S), (N, A)))

    def steps(net: BlockGRU, twin: BlockGRU | None, learns: tuple[bool, ...]) -> Tensor:
        x = h
        with one_loop():
            for learnt in learns:
                whose = net if learnt or twin is None else twin
                x = whose.requires_grad_(learnt)(x, z, a)
        net.requires_grad_()
        return torch.autograd.grad(x.square().sum(), net.shared)[0]

    for learns in ((False, True), (True, False)):
        other = core()
        torch.testing.assert_close(steps(net, None, learns), steps(net, other, learns))


def test_loops_of_two_threads_over_the_same_weights_are_two() -> None:
    net = core()
    h, z, a = (x.detach() for x in given((N, D), (N, S), (N, A)))
    both, done = threading.Barrier(2), dict[int, Tensor]()

    def learn(scale: int) -> None:
        with one_loop():
            both.wait(20)  # the loops of both are open
            x = net(net(scale * h, z, a), z, a)
            both.wait(20)
        done[scale] = torch.autograd.grad(x.square().sum(), net.shared)[0]

    threads = [threading.Thread(target=learn, args=(scale,)) for scale in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for scale in (1, 2):
        alone = net(net(scale * h, z, a), z, a).square().sum()  # no loop: each use has its own
        torch.testing.assert_close(done[scale], torch.autograd.grad(alone, net.shared)[0])


@pytest.mark.parametrize("again", [False, True])
def test_steps_of_a_loop_that_are_computed_again_for_their_gradient(again: bool) -> None:
    net, twin = core(), core()
    h, z, a = given((N, D), (N, S), (N, A))
    x = y = h
    with one_loop():
        for _ in range(3):
            x = checkpoint(net, x, z, a, use_reentrant=again)
    for _ in range(3):
        y = twin(y, z, a)
    for value in (x, y):
        value.square().sum().backward()
    for found, expected in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad)


def test_several_gradients_at_once_are_each_alone() -> None:
    net, norm, family = core(), RMSNorm(D).double(), TwoHotFamily(7)
    h, z, a, logits = given((N, D), (N, S), (N, A), (N, 7))
    x = norm(net(net(h, z, a), z, a))
    given_, directions = (h, net.shared, net.gates.bias, norm.scale), torch.eye(N * D).double().view(-1, N, D)[:3]
    found = torch.autograd.grad(x, given_, directions, retain_graph=True, is_grads_batched=True)
    for i, direction in enumerate(directions):
        alone = torch.autograd.grad(x, given_, direction, retain_graph=True)
        torch.testing.assert_close(tuple(f[i] for f in found), alone)
    value, eye = family.log_prob((logits,), torch.tensor([0.3, -4.0, 9.0]).double(), 0), torch.eye(N).double()
    (rows,) = torch.autograd.grad(value, logits, eye, retain_graph=True, is_grads_batched=True)
    each = torch.stack([torch.autograd.grad(value, logits, row, retain_graph=True)[0] for row in eye])
    torch.testing.assert_close(rows, each)


def test_hooks_and_other_layers_of_a_core_are_called() -> None:
    net, seen = core(), list[Tensor]()
    h, z, a = (x.detach() for x in given((N, D), (N, S), (N, A)))
    expected = net(h, z, a)
    handle = net.read_z.register_forward_hook(lambda *call: seen.append(call[-1]))
    torch.testing.assert_close(net(h, z, a), expected)
    torch.testing.assert_close(seen[0], z @ net.read_z.weight.T + net.read_z.bias)
    handle.remove()
    prune.remove(prune.identity(net.read_z, "weight"), "weight")  # leaves the weight behind the bias
    torch.testing.assert_close(net(h, z, a), expected)
    own = net.gates.forward
    net.gates.forward = lambda x: 0 * own(x)  # type: ignore[method-assign]
    c, u = 0.0, 1 / (1 + np.e)
    torch.testing.assert_close(net(h, z, a), u * c + (1 - u) * h)
    del net.gates.forward

    class Doubled(Linear):
        def forward(self, *x: Tensor) -> Tensor:
            return 2 * super().forward(*x)

    twice = Doubled(S, H).double()
    twice.load_state_dict(net.read_z.state_dict())
    net.read_z = twice
    found = net(h, z, a)
    with torch.no_grad():
        torch.testing.assert_close(net(h, z, a), found)
        twice.weight.mul_(2)
        twice.bias.mul_(2)
        net.read_z = Linear(S, H).double()
        net.read_z.load_state_dict(twice.state_dict())
    torch.testing.assert_close(net(h, z, a), found)


def test_a_sum_over_time_has_the_gradients_of_its_steps_by_hand() -> None:
    torch.manual_seed(0)
    net, head = core(), Linear(D, 2).double()
    step = E(Deterministic("h_t = f(h_{t-1}, x_t)", _Read(net), shape=D), -log(Normal("p(y_t|h_t)", head, scale=1.0)))
    loss = Sum("t", step, reset="first").mean()
    x, y = torch.randn(N, 4, S + A, dtype=torch.float64), torch.randn(N, 4, 2, dtype=torch.float64)
    first = torch.tensor([[False, False, True, False]] * 2 + [[True, False, False, False]])
    for _ in range(2):  # the first call of a formula is looked at
        found = torch.autograd.grad(loss(x=x, y=y, first=first).value, list(net.parameters()))
        h, total = torch.zeros(N, D, dtype=torch.float64), torch.zeros(N, dtype=torch.float64)
        for t in range(4):
            h = net._layers(torch.where(first[:, t, None], 0.0, h), x[:, t, :S], x[:, t, S:].clamp(-1, 1))
            total = total + 0.5 * (y[:, t] - head(h)).square().sum(-1)
        expected = torch.autograd.grad(total.mean(), list(net.parameters()))
        torch.testing.assert_close(found, expected)


class _Read(nn.Module):
    """The core on one input, which it takes apart; within ±1 a cut action is a clamped one, but for its gradient."""

    def __init__(self, net: BlockGRU) -> None:
        super().__init__()
        self.net = net

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        return self.net(h, x[:, :S], x[:, S:].clamp(-1, 1))


@pytest.mark.parametrize("spacing", ["symexp", "linear"])
def test_the_gradients_of_a_two_hot_density(spacing: Any) -> None:
    family = TwoHotFamily(bins=7, low=-2.0, high=2.0, spacing=spacing)
    (logits,) = given((4, 3, 7))
    value = torch.tensor([[0.3, -5.0, 1.1], [9.0, 0.01, -0.6], [1.7, -1.2, 0.0], [-0.2, 2.0, 0.9]], dtype=torch.float64)
    value.requires_grad_()
    inside = value.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: family.log_prob((x,), inside, 0), (logits,))
    assert torch.autograd.gradgradcheck(lambda x: family.log_prob((x,), value.detach(), 1), (logits,))
    moved = torch.tensor([0.31, -0.77, 1.13], dtype=torch.float64, requires_grad=True)  # between bins
    assert torch.autograd.gradcheck(lambda v: family.log_prob((logits[0],), v, 0), (moved,))


def test_two_hots_of_so_many_rows_that_they_go_in_parts() -> None:
    torch.manual_seed(0)
    family, rows = TwoHotFamily(), 2 * PART // 255 + 7
    logits = torch.randn(rows, 255).requires_grad_()
    value, weights = 100 * torch.randn(rows), torch.randn(rows)
    (found,) = torch.autograd.grad((family.log_prob((logits,), value, 0) * weights).sum(), logits)
    index, weight = family.neighbours(value)
    exact = logits.detach().double()
    target = torch.zeros_like(exact)
    target[torch.arange(rows), index] = 1 - weight.double()
    target[torch.arange(rows), index + 1] += weight.double()
    expected = weights.double()[:, None] * (target - exact.softmax(-1))
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)
    log_prob = (target * exact.log_softmax(-1)).sum(-1)
    torch.testing.assert_close(family.log_prob((logits,), value, 0).double(), log_prob, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        mean = family.mean((logits,))
        grid = family.value_of(torch.arange(255), torch.float64)
        torch.testing.assert_close(mean.double(), (exact.softmax(-1) * grid).sum(-1), rtol=1e-4, atol=100.0)


def test_a_layer_of_so_many_rows_that_it_goes_in_parts() -> None:
    torch.manual_seed(0)
    layer, rows = Linear(3, 50), 2 * PART // 50 + 3
    nn.init.normal_(layer.bias)
    x, g = torch.randn(rows, 3).requires_grad_(), torch.randn(rows, 50)
    w, b = layer.weight.detach().double(), layer.bias.detach().double()
    found = layer(x)
    torch.testing.assert_close(found.double(), x.detach().double() @ w.T + b, rtol=1e-5, atol=1e-5)
    of_x, of_w, of_b = torch.autograd.grad(found, (x, layer.weight, layer.bias), g)
    torch.testing.assert_close(of_x.double(), g.double() @ w, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(of_w.double(), g.double().T @ x.detach().double(), rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(of_b.double(), g.double().sum(0), rtol=1e-3, atol=1e-2)
    layer.requires_grad_(False)
    assert not layer(x.detach()).requires_grad
    (only_x,) = torch.autograd.grad(layer(x), x, g)
    torch.testing.assert_close(only_x, of_x)


def test_parts_are_all_rows_in_their_order() -> None:
    x, y = torch.arange(PART + 5.0).unsqueeze(1), torch.arange(PART + 5)
    cut = list(parts(x, y))
    assert len(cut) == 2
    assert torch.equal(torch.cat([b for _, b in cut]), y)
    with torch.no_grad():
        assert torch.equal(in_parts(lambda a, b: a[:, 0] + b, x, y), 2 * torch.arange(PART + 5.0))
        assert in_parts(lambda a: a.sum(-1), x[:0]).shape == (0,)


def test_one_hots_of_many_rows_with_ties_and_nan() -> None:
    torch.manual_seed(0)
    scores = torch.randn(1 << 13, 4)
    expected = np.eye(4, dtype=np.float32)[scores.numpy().argmax(-1)]
    noise = torch.zeros_like(scores)
    assert np.array_equal(one_hot.sample((scores,), noise).numpy(), expected)
    scores[5], expected[5] = torch.tensor([1.0, 3.0, 3.0, 0.0]), (0, 1, 0, 0)
    assert np.array_equal(one_hot.sample((scores,), noise).numpy(), expected)
    scores[9], expected[9] = torch.tensor([1.0, 3.0, torch.nan, 0.0]), (0, 0, 1, 0)
    with torch.no_grad():
        assert np.array_equal(one_hot.sample((scores,), noise).numpy(), expected)
