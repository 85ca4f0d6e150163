"""Whole series of what a formula computes or draws: where they run, what they equal, what they may not lead to."""

import pytest
import torch
from torch import nn

from tests.formula.models import B, D, Join, T, X, Z, gradients
from worldformula import Bernoulli, Deterministic, E, Normal, Sum, Value, log, sg
from worldformula.errors import TimeError
from worldformula.world import World

GAMMA, LAMBDA = 0.9, 0.8


def returns(r, v, c):
    """λ-returns [B, T] of series, from the last step backwards."""
    found = [v[:, -1]]
    for t in range(r.shape[1] - 2, -1, -1):
        ahead = (1 - LAMBDA) * v[:, t + 1] + LAMBDA * found[-1]
        found.append(r[:, t + 1] + GAMMA * c[:, t + 1] * ahead)
    return torch.stack(found[::-1], 1)


def number(last=None):
    """A network from D features to one number a row."""
    return nn.Sequential(nn.Linear(D, 1), nn.Flatten(0), *([last] if last else []))


def critic():
    """A critic that learns from λ-returns of what the loop makes."""
    core = Deterministic("h_t = f(h_{t-1}, a_t)", Join(D + 2, D), shape=D)
    heads = [
        Deterministic(f"{name}_t = {name}(h_t)", net, shape=())
        for name, net in (("r", number()), ("v", number()), ("c", number(nn.Sigmoid())))
    ]
    target = Deterministic("R_t = lam(r_{1:T}, v_{1:T}, c_{1:T})", returns, shape=())
    q = core * heads[0] * heads[1] * heads[2] * target
    loss = Sum("t", E(q, (Value("R_t") - Value("v_t")) ** 2), reset="first").mean().double()
    return loss, [core, *heads]


def moves(length=T):
    first = torch.zeros(B, length)
    first[1, 2] = 1
    return {"a": torch.randn(B, length, 2, dtype=torch.float64), "first": first}


def test_lambda_returns_inside_the_sum_equal_those_by_hand_in_value_and_gradient():
    loss, (core, *heads) = critic()
    data = moves()
    h, states = torch.zeros(B, D, dtype=torch.float64), []
    for t in range(T):
        h = core.net(h * (data["first"][:, t, None] == 0), data["a"][:, t])
        states.append(h)
    r, v, c = (torch.stack([head.net(h) for h in states], 1) for head in heads)
    expected = ((returns(r, v, c) - v) ** 2).sum(1).mean()
    by_hand = gradients(expected, loss)
    for run in (loss, loss.interpret):
        out = run(**data)
        torch.testing.assert_close(out.value, expected)
        torch.testing.assert_close(out.samples["R"], returns(r, v, c))
        torch.testing.assert_close(gradients(out.value, loss), by_hand)


def test_a_series_of_the_loop_is_read_behind_it_and_one_of_data_before_it():
    after = critic()[0].code.split("# after the loop")[1]
    assert "R_series = function_1(r_series, v_series, c_series)" in after
    assert "R = flat(R_series)" in after
    before = smoother()[0].code.split("# in the loop")[0]
    assert "b_series = self.back(e_series)" in before


class Backward(nn.Module):
    """[B, T, D] to what the steps behind each one hold, [B, T, D]."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(D, D, batch_first=True)

    def forward(self, e):
        return self.rnn(e.flip(1))[0].flip(1)


def smoother():
    """A posterior that reads what a network makes of the whole series of embeddings."""
    embed = Deterministic("e_t = enc(x_t)", Join(X, D), shape=D)
    back = Deterministic("b_t = back(e_{1:T})", Backward(), shape=D)
    q = Normal("q(z_t|z_{t-1},b_t)", Join(Z + D, 2 * Z), shape=Z)
    decode = Normal("p(x_t|z_t)", Join(Z, 2 * X), shape=X)
    loss = Sum("t", E(embed * back * q, -log(decode) + log(q))).mean().double()
    return loss, embed, back, q, decode


def test_a_series_of_data_feeds_the_loop():
    loss, embed, back, q, decode = smoother()
    x, noise = (torch.randn(B, T, n, dtype=torch.float64) for n in (X, Z))
    b = back.net(torch.stack([embed.net(x[:, t]) for t in range(T)], 1))
    z, total = torch.zeros(B, Z, dtype=torch.float64), 0.0
    for t in range(T):
        mean, scale = q.params(z, b[:, t])
        z = mean + scale * noise[:, t]
        total = total - decode.log_prob(x=x[:, t], z=z) + torch.distributions.Normal(mean, scale).log_prob(z).sum(-1)
    by_hand = gradients(total.mean(), loss)
    for run in (loss, loss.interpret):
        out = run(x=x, noise={"z": noise})
        torch.testing.assert_close(out.value, total.mean())
        torch.testing.assert_close(gradients(out.value, loss), by_hand)


def test_a_series_to_the_right_of_the_sum_and_several_samples():
    x, y, noise = torch.randn(B, T, X).double(), torch.randint(2, (B,)).double(), torch.randn(3, B, T, Z).double()
    q, decode = Normal("q(z_t|x_t)", Join(X, 2 * Z), shape=Z), Normal("p(x_t|z_t)", Join(Z, 2 * X), shape=X)
    label = Bernoulli("p(y|h_{1:T})", nn.Sequential(nn.Flatten(), nn.Linear(T * D, 1)), shape=())
    core = Deterministic("h_t = f(h_{t-1}, x_t)", Join(D + X, D), shape=D)
    told = (Sum("t", E(core, 0.0 * Value("s_t"))) - log(label)).mean().double()
    h, states = torch.zeros(B, D).double(), []
    for t in range(T):
        h = core.net(h, x[:, t])
        states.append(h)
    logits = label.net(torch.stack(states, 1)).squeeze(1)
    expected = nn.functional.binary_cross_entropy_with_logits(logits, y)
    for run in (told, told.interpret):
        torch.testing.assert_close(run(x=x, y=y, s=torch.zeros(B, T).double()).value, expected)

    smooth = Deterministic("s_t = mean(z_{1:T})", lambda z: z.cumsum(1), shape=Z)
    read = Normal("p(x_t|s_t)", Join(Z, 2 * X), shape=X)
    several = Sum("t", E(q * smooth, -log(read) - log(decode), samples=3)).mean().double()
    mean, scale = q.params(x.flatten(0, 1))
    z = (mean + scale * noise.flatten(1, 2)).unflatten(1, (B, T))
    s = z.cumsum(2)
    total = 0.0
    for factor, value in ((read, s), (decode, z)):
        loc, spread = (p.unflatten(0, (3, B, T)) for p in factor.params(value.flatten(0, 2)))
        total = total - torch.distributions.Normal(loc, spread).log_prob(x).sum(-1)
    expected = total.mean(0).sum(1).mean()
    for run in (several, several.interpret):
        torch.testing.assert_close(run(x=x, noise={"z": noise}).value, expected)


def test_series_of_series_and_of_several_outputs():
    """What waits for what waits for the loop."""
    core = Deterministic("h_t = f(h_{t-1}, x_t)", Join(D + X, D), shape=D)
    both = Deterministic("u_t, w_t = pair(h_{1:T})", lambda h: (h.flip(1), h.cumsum(1)), shape=(D, D))
    last = Deterministic("y_t = diff(u_{1:T}, w_{1:T})", lambda u, w: (u - w).mean(-1), shape=())
    loss = Sum("t", E(core * both * last, Value("y_t") ** 2)).mean().double()
    x = torch.randn(B, T, X).double()
    h, states = torch.zeros(B, D).double(), []
    for t in range(T):
        h = core.net(h, x[:, t])
        states.append(h)
    h = torch.stack(states, 1)
    y = (h.flip(1) - h.cumsum(1)).mean(-1)
    for run in (loss, loss.interpret):
        out = run(x=x)
        torch.testing.assert_close(out.value, (y**2).sum(1).mean())
        torch.testing.assert_close(out.samples["w"], h.cumsum(1))


def test_a_stopped_series_gives_a_value_without_a_gradient():
    core = Deterministic("h_t = f(h_{t-1}, x_t)", Join(D + X, D), shape=D)
    target = Deterministic("R_t = end(h_{1:T})", lambda h: h.sum(-1).flip(1), shape=())
    x = torch.randn(B, T, X)
    free = Sum("t", E(core * target, Value("R_t"))).mean()(x=x).value
    stopped = Sum("t", E(core * target, sg(Value("R_t")))).mean()(x=x).value
    assert free.requires_grad
    assert not stopped.requires_grad
    torch.testing.assert_close(free.detach(), stopped)


def test_a_series_that_leads_to_the_next_step_is_refused():
    core = Deterministic("h_t = f(h_{t-1}, u_t)", Join(2 * D, D), shape=D)
    first = Deterministic("g_t = g(g_{t-1}, x_t)", Join(D + X, D), shape=D)
    ahead = Deterministic("u_t = net(g_{1:T})", lambda g: g, shape=D)
    loss = Sum("t", E(first * ahead * core, Value("y_t")))
    with pytest.raises(TimeError) as error:
        loss(x=torch.randn(B, T, X), y=torch.zeros(B, T))
    assert str(error.value) == (
        "h_t = f(h_{t-1},u_t) leads to the next step, and it reads g_{1:T}, which is known behind the loop only\n"
        "read the step before, a series that is made of data alone, or what is known at a step"
    )


def test_a_network_that_mixes_rows_cannot_wait_for_the_loop():
    core = Deterministic("h_t = f(h_{t-1}, x_t)", Join(D + X, D), shape=D)
    ahead = Deterministic("u_t = net(h_{1:T})", lambda h: h.flip(1), shape=D)
    head = Normal("p(x_t|u_t)", nn.Sequential(nn.BatchNorm1d(D), nn.Linear(D, 2 * X)), shape=X)
    with pytest.raises(TimeError) as error:
        Sum("t", E(core * ahead, -log(head)))(x=torch.randn(B, T, X))
    assert str(error.value) == (
        "p(x_t|u_t) depends on its batch, so it stays in the loop, and it reads h_{1:T}, which is known behind the "
        "loop only\nread the step before, a series that is made of data alone, or what is known at a step"
    )


def test_a_network_reads_whole_series_or_single_steps():
    core = Deterministic("h_t = f(h_{t-1}, x_t)", Join(D + X, D), shape=D)
    mixed = Deterministic("u_t = net(x_{1:T}, h_t)", lambda x, h: h, shape=D)
    with pytest.raises(TimeError) as error:
        Sum("t", E(core * mixed, Value("y_t")))(x=torch.randn(B, T, X), y=torch.zeros(B, T))
    assert str(error.value) == (
        "u_t = net(x_{1:T},h_t) reads a whole series and h_t, the value of one step; write h_{1:T} for all its steps, "
        "or two factors: one that reads the series, and one that reads its result at t"
    )


def test_a_series_is_read_where_its_variable_is_drawn_or_to_the_right_of_it():
    core = Deterministic("h_t = f(h_{t-1}, x_t)", Join(D + X, D), shape=D)
    label = Bernoulli("p(y|h_{1:T})", nn.Linear(D, 1), shape=())
    inside = Sum("t", E(core, Value("s_t")) - log(label))
    data = {"x": torch.randn(B, T, X), "y": torch.zeros(B), "s": torch.zeros(B, T)}
    with pytest.raises(TimeError, match=r"^p\(y\|h_\{1:T\}\) reads h_\{1:T\} outside the E that draws h_t; put the"):
        inside(**data)


def world(**changes):
    """A world whose posterior reads the whole series of its embeddings, or whose prior that of its draws."""
    embed = Deterministic("e_t = enc(x_t)", Join(X, D), shape=D)
    back = Deterministic("b_t = back(e_{1:T})", Backward(), shape=D)
    q = Normal("q(z_t|z_{t-1},b_t)", Join(Z + D, 2 * Z), shape=Z)
    prior, decode = Normal("p(z_t|z_{t-1})", Join(Z, 2 * Z), shape=Z), Normal("p(x_t|z_t)", Join(Z, 2 * X), shape=X)
    ahead = Deterministic("b_t = far(z_{1:T})", lambda z: z.flip(1).repeat(1, 1, 3)[..., :D], shape=D)
    step = E(embed * back * q, log(q) - log(prior) - log(decode))
    prior = prior * ahead if changes else prior
    return World(prior=prior, posterior=embed * back * q, heads=[decode], loss=Sum("t", step).mean())


def test_observe_and_imagine_refuse_to_look_ahead_and_filter_smooths():
    smoothing, x = world(), torch.randn(B, T, X)
    states = smoothing.filter({"x": x})
    assert states["z"].shape == (B, T, Z)
    with pytest.raises(TimeError) as error:
        smoothing.observe({"x": x[:, 0]}, smoothing.initial(B))
    assert str(error.value) == (
        "observe: b_t = back(e_{1:T}) reads e_{1:T}, which looks ahead: its later steps are not known yet\n"
        "read the step before, and give whole sequences to filter"
    )
    assert smoothing.imagine(smoothing.initial(B), horizon=3)["z"].shape == (B, 4, Z)
    with pytest.raises(TimeError, match=r"^imagine: b_t = far\(z_\{1:T\}\) reads z_\{1:T\}, which looks ahead"):
        world(ahead=True).imagine(smoothing.initial(B), horizon=3)
