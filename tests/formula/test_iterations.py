"""Iterations that are not time (DRAW), entries of data by iteration, and a slow clock over a fast one."""

import pytest
import torch
from torch import nn

from tests.formula.models import Join
from worldformula import KL, Deterministic, E, Mean, Normal, Sum, log
from worldformula.errors import FormulaError, TimeError

torch.manual_seed(0)
X, H, L, B, K = 4, 3, 3, 5, 6


def agree(loss, **data):
    """Emitted code and interpreter: the same value and gradients on the same noise."""
    noise = loss.noise(**data, generator=torch.Generator().manual_seed(1))
    weights = list(loss.parameters())
    outs = [run(**data, noise=noise) for run in (loss, loss.interpret)]
    grads = [torch.autograd.grad(out.value.sum(), weights, allow_unused=True) for out in outs]
    torch.testing.assert_close(outs[0].value, outs[1].value)
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs)
    return outs[0]


@pytest.fixture
def autoregressive():
    pixel = Normal("p(x_l|h_{l-1})", nn.Linear(H, 2 * X), shape=X)
    core = Deterministic("h_l = f(h_{l-1},x_l)", Join(H + X, H), shape=H)
    return pixel, core


@pytest.mark.parametrize("over", [Sum, Mean])
def test_data_by_iteration_equals_a_loop_by_hand(autoregressive, over):
    pixel, core = autoregressive
    loss = -over("l", E(core, log(pixel)), steps=L).mean()
    x = torch.randn(B, L, X)
    h, total = torch.zeros(B, H), 0.0
    for step in range(L):
        total = total - pixel.log_prob(x=x[:, step], h=h)
        h = core.net(h, x[:, step])
    expected = total.mean() / (L if over is Mean else 1)
    torch.testing.assert_close(agree(loss, x=x).value, expected)


def test_the_last_value_is_read_to_the_right_of_the_sum(autoregressive):
    _, core = autoregressive
    shown = Normal("p(y|h_L)", nn.Linear(H, 2), shape=1)
    loss = (Sum("l", E(core, 0.0 * log(autoregressive[0])), steps=L) - log(shown)).mean()
    x, y = torch.randn(B, L, X), torch.randn(B, 1)
    h = torch.zeros(B, H)
    for step in range(L):
        h = core.net(h, x[:, step])
    torch.testing.assert_close(agree(loss, x=x, y=y).value, -shown.log_prob(y=y, h=h).mean())


def test_a_module_list_holds_one_network_for_each_iteration():
    cores = nn.ModuleList(nn.Linear(H, H) for _ in range(L))
    draw = Normal("q(z_l|h_{l-1})", nn.Linear(H, 2), shape=1)
    core = Deterministic("h_l = f(h_{l-1})", cores, shape=H)
    start = Normal("p(x|h_L)", nn.Linear(H, 2), shape=1)
    loss = (Sum("l", E(draw * core, KL(draw, Normal("p(z_l)", shape=1))), steps=L) - log(start)).mean()
    # Nothing here tells the batch before x is read, which the formula says instead of guessing.
    with pytest.raises(TimeError, match="tells the batch"):
        loss(x=torch.randn(B, 1))
    encode = Deterministic("e = enc(x)", nn.Linear(1, H), shape=H)
    draw = Normal("q(z_l|e,h_{l-1})", Join(2 * H, 2), shape=1)
    loss = (E(encode, Sum("l", E(draw * core, KL(draw, Normal("p(z_l)", shape=1))), steps=L)) - log(start)).mean()
    agree(loss, x=torch.randn(B, 1))
    assert all(p.grad is None or p.grad.abs().sum() > 0 for p in cores.parameters())
    assert {n for n in loss.state_dict() if n.startswith("f.")} == {
        f"f.{i}.{w}" for i in range(L) for w in ("weight", "bias")
    }


def test_a_slow_clock_over_a_fast_one_equals_loops_by_hand():
    slow = Normal("q(z_k|c_{k-1})", nn.Linear(H, 4), shape=2)
    prior = Normal("p(z_k)", shape=2)
    fast = Deterministic("h_l = f(h_{l-1},z_k,x_{k,l})", Join(H + 2 + X, H), shape=H)
    decode = Normal("p(x_{k,l}|h_{l-1},z_k)", Join(H + 2, 2 * X), shape=X)
    up = Deterministic("c_k = g(c_{k-1},h_L)", Join(2 * H, H), shape=H)
    carried = Normal("p(y_k|c_k)", nn.Linear(H, 2), shape=1)
    step = E(slow, KL(slow, prior) - Sum("l", E(fast, log(decode)), steps=L) - E(up, log(carried)))
    loss = Sum("k", step).mean()
    x, y = torch.randn(B, K, L, X), torch.randn(B, K, 1)
    noise = torch.randn(B, K, 2)
    c, total = torch.zeros(B, H), 0.0
    for k in range(K):
        z = slow.sample(c=c, noise=noise[:, k])
        loc, scale = slow.params(c)
        total = total + (0.5 * (loc**2 + scale**2 - 1) - scale.log()).sum(-1)
        h = torch.zeros(B, H)
        for step_l in range(L):
            total = total - decode.log_prob(x=x[:, k, step_l], h=h, z=z)
            h = fast.net(h, z, x[:, k, step_l])
        c = up.net(c, h)
        total = total - carried.log_prob(y=y[:, k], c=c)
    torch.testing.assert_close(loss(x=x, y=y, noise={"z": noise}).value, total.mean())
    agree(loss, x=x, y=y)
    assert r"\sum_{l=1}^{3}" in loss.latex
    assert "x_{k,l}" in loss.latex


@pytest.mark.parametrize("steps", [0, -1, True, 2.5])
def test_steps_are_a_positive_number(autoregressive, steps):
    with pytest.raises(FormulaError, match="positive number of iterations"):
        Sum("l", E(autoregressive[1], log(autoregressive[0])), steps=steps)


def test_two_sums_inside_one_another_have_two_letters(autoregressive):
    pixel, core = autoregressive
    inner = Sum("l", E(core, log(pixel)), steps=2)
    with pytest.raises(TimeError, match="another letter"):
        Sum("l", inner, steps=2).mean()(x=torch.randn(B, 2, X))


def test_a_draw_around_the_iterations_is_not_that_of_each():
    """One z for all of them under the name z_l: the exponential of their sum would be of another model."""
    q, p = Normal("q(z_l|x)", nn.Linear(2, 4), shape=2), Normal("p(z_l)", shape=2)
    with pytest.raises(TimeError, match=r"z_l is drawn around the sum, once for all iterations l\n.*inside"):
        E(q, Sum("l", log(p), steps=3))(x=torch.zeros(2, 2))
    assert Sum("l", E(q, log(p)), steps=3)(x=torch.zeros(2, 2)).value.shape == (2,)
