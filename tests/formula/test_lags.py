"""Steps further back than one, ``z_{t-2}``: of what is carried, of data, of iterations; against loops by hand."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal as Gauss

from tests.formula.defects.both import PATHS, refused, run
from worldformula import KL, Deterministic, E, Normal, Sum, Value, World, log, norm2
from worldformula.errors import FormulaError, TimeError, UnknownVariableError
from worldformula.nets.window import WindowMLP
from worldformula.testing import check_world

B, T, X = 4, 7, 2


def flags():
    first = torch.zeros(B, T)
    first[1, 3], first[2, 1], first[2, 2], first[3, 0] = 1, 1, 1, 1
    return first


class Second(nn.Module):
    """z_t = a z_{t-1} + b z_{t-2} + u_{t-2}."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(1.2)), nn.Parameter(torch.tensor(-0.5))

    def forward(self, one, two, push):
        return self.a * one + self.b * two + push


def second(net, **clock):
    core = Deterministic("z_t = f(z_{t-1},z_{t-2},u_{t-2})", net, shape=X)
    return Sum("t", E(core, log(Normal("p(x_t|z_t)", lambda z: z, shape=X, scale=1.0))), **clock)


def second_by_hand(net, x, u, first=None, start=None):
    zeros = {"z": torch.zeros(X), "z_m1": torch.zeros(X)} | (start or {})
    before = [zeros["z"].expand(B, X), zeros["z_m1"].expand(B, X)]  # z_{t-1}, z_{t-2}
    push = [torch.zeros(B, X)] * 2
    total = 0.0
    for t in range(x.shape[1]):
        if first is not None:
            cut = first[:, t, None] == 1
            before = [torch.where(cut, zeros[k], v) for k, v in zip(("z", "z_m1"), before, strict=True)]
            push = [torch.where(cut, 0.0, v) for v in push]
        z = net.a * before[0] + net.b * before[1] + push[1]
        total = total + Gauss(z, 1.0).log_prob(x[:, t]).sum(-1)
        before, push = [z, before[0]], [u[:, t], push[0]]
    return total


@PATHS
@pytest.mark.parametrize("reset", [None, "first"])
@pytest.mark.parametrize("started", [False, True])
def test_second_order_dynamics_in_value_and_gradient(reset, started, path):
    net = Second()
    start = {"z": nn.Parameter(torch.tensor([1.0, -2.0])), "z_m1": torch.tensor([0.5, 3.0])} if started else None
    loss = second(net, reset=reset, initial=start)
    x, u = torch.randn(B, T, X), torch.randn(B, T, X)
    found = run(loss, path, x=x, u=u, **({"first": flags()} if reset else {})).value
    expected = second_by_hand(net, x, u, flags() if reset else None, start)
    torch.testing.assert_close(found, expected)
    weights = [net.a, net.b, *([start["z"]] if start else [])]
    for got, right in zip(*(torch.autograd.grad(v.sum(), weights) for v in (found, expected)), strict=True):
        torch.testing.assert_close(got, right)


@PATHS
@pytest.mark.parametrize("cut", [1, 2, 4])
def test_chunks_that_go_on_from_the_last_are_one_sequence(cut, path):
    loss = second(Second(), reset="first")
    data = {"x": torch.randn(B, T, X), "u": torch.randn(B, T, X), "first": flags()}
    whole = loss(**data)
    head = run(loss, path, **{k: v[:, :cut] for k, v in data.items()})
    assert set(head.last) == {"z", "z_m1", "u", "u_m1"}
    tail = run(loss, path, **{k: v[:, cut:] for k, v in data.items()}, start=head.last)
    torch.testing.assert_close(head.value + tail.value, whole.value)
    for key, value in whole.last.items():
        torch.testing.assert_close(tail.last[key], value)


def test_what_a_state_keeps_is_the_value_so_many_steps_before():
    out = second(Second())(x=torch.randn(B, T, X), u=(u := torch.randn(B, T, X)))
    torch.testing.assert_close(out.samples["z_m1"][:, 1:], out.samples["z"][:, :-1])
    torch.testing.assert_close(out.last["u_m1"], u[:, -2])


@PATHS
def test_an_autoregression_of_order_three_in_value_and_gradient(path):
    class Three(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([0.5, -0.3, 0.2]))

        def forward(self, *x):
            return sum(w * v for w, v in zip(self.w, x, strict=True))

    net, x = Three(), torch.randn(B, T, X)
    loss = Sum("t", log(Normal("p(x_t|x_{t-1},x_{t-2},x_{t-3})", net, shape=X, scale=1.0)))
    padded = torch.cat((torch.zeros(B, 3, X), x), 1)
    mean = sum(net.w[k - 1] * padded[:, 3 - k : 3 - k + T] for k in (1, 2, 3))
    expected = Gauss(mean, 1.0).log_prob(x).sum((1, 2))
    found = run(loss, path, x=x).value
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(v.sum(), [net.w])[0] for v in (found, expected)))


def test_data_of_earlier_steps_need_no_loop():
    loss = Sum("t", log(Normal("p(x_t|x_{t-3})", lambda x: x, shape=X, scale=1.0)))
    assert "for t in" not in loss.code
    prior, q = (
        Normal("p(z_t|z_{t-2})", lambda z: z, shape=X, scale=1.0),
        Normal("q(z_t|x_t)", nn.Linear(X, 2 * X), shape=X),
    )
    assert "for t in" not in Sum("t", E(q, KL(q, prior))).code  # a series that is shifted twice


@PATHS
def test_a_prior_of_the_second_order_beside_a_posterior_that_reads_the_step_alone(path):
    net = nn.Linear(X, X)
    prior, q = Normal("p(z_t|z_{t-2})", net, shape=X, scale=1.0), Normal("q(z_t|x_t)", lambda x: x, shape=X, scale=1.0)
    loss = Sum("t", E(q, KL(q, prior)), reset="first")
    x, noise, first = torch.randn(B, T, X), torch.randn(B, T, X), flags()
    found = run(loss, path, x=x, first=first, noise={"z": noise}).value
    expected, one, two = 0.0, torch.zeros(B, X), torch.zeros(B, X)
    for t in range(T):
        keep = 1 - first[:, t, None]
        one, two = one * keep, two * keep
        expected = expected + torch.distributions.kl_divergence(Gauss(x[:, t], 1.0), Gauss(net(two), 1.0)).sum(-1)
        one, two = x[:, t] + noise[:, t], one
    torch.testing.assert_close(found, expected)


@PATHS
def test_a_value_further_back_stands_in_a_formula(path):
    acceleration = Value("x_t", shape=X) - 2 * Value("x_{t-1}", shape=X) + Value("x_{t-2}", shape=X)
    x = torch.randn(B, T, X)
    padded = torch.cat((torch.zeros(B, 2, X), x), 1)
    found = run(Sum("t", norm2(acceleration)), path, x=x).value
    torch.testing.assert_close(found, (padded[:, 2:] - 2 * padded[:, 1:-1] + padded[:, :-2]).square().sum((1, 2)))


@PATHS
def test_iterations_read_further_back(path):
    core = Deterministic("c_l = f(c_{l-1},c_{l-2},x)", lambda a, b, x: a + b + x, shape=X)
    loss = Sum("l", E(core, norm2(Value("c_l"))), steps=5)
    x, expected = torch.randn(B, X), 0.0
    one, two = torch.zeros(B, X), torch.zeros(B, X)
    for _ in range(5):
        one, two = one + two + x, one
        expected = expected + one.square().sum(-1)
    torch.testing.assert_close(run(loss, path, x=x).value, expected)


@PATHS
def test_iterations_read_earlier_entries_of_data(path):
    p = Normal("p(x_l|x_{l-1},x_{l-2})", lambda a, b: a - 0.5 * b, shape=X, scale=1.0)
    x = torch.randn(B, 5, X)
    padded = torch.cat((torch.zeros(B, 2, X), x), 1)
    expected = Gauss(padded[:, 1:-1] - 0.5 * padded[:, :-2], 1.0).log_prob(x).sum((1, 2))
    torch.testing.assert_close(run(Sum("l", log(p), steps=5), path, x=x).value, expected)


def world(head="p(x_t|z_t)", posterior="q(z_t|z_{t-1},z_{t-2},x_t)", action="a_{t-1}", shape=None):
    class Net(nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.layers = nn.Linear(inputs, outputs)

        def forward(self, *conditions):
            return self.layers(torch.cat(conditions, -1))

    prior = Normal(f"p(z_t|z_{{t-1}},z_{{t-3}},{action})", Net(3 * X, 2 * X), shape=X)
    q = Normal(posterior, Net(X * (posterior.count(",") + 1), 2 * X), shape=X)
    decode = Normal(head, Net(X * (head.count(",") + 1), X), shape=X, scale=1.0)
    heads = [decode, *([] if shape is None else [Normal("p(a_t|z_t)", Net(X, 2 * X), shape=shape)])]
    loss = Sum("t", E(q, KL(q, prior) - sum(log(head) for head in heads)), reset="first").mean()
    return World(prior=prior, posterior=q, heads=heads, loss=loss)


def batch():
    return {"x": torch.randn(B, T, X), "a": torch.randn(B, T, X), "first": torch.zeros(B, T)}


@pytest.mark.parametrize("posterior", ["q(z_t|z_{t-1},z_{t-2},x_t)", "q(z_t|x_t)"])
@pytest.mark.parametrize("head", ["p(x_t|z_t)", "p(x_t|z_t,z_{t-1})"])
def test_a_world_whose_prior_goes_three_steps_back_keeps_the_laws(head, posterior):
    check_world(made := world(head, posterior), batch())
    assert set(made.carried) == {"z", "z_m1", "z_m2"}


def test_a_world_remembers_older_actions():
    made, data = world(action="a_{t-2}"), batch()
    states = made.filter(data, deterministic=True)
    torch.testing.assert_close(states["a_m1"][:, 1:], data["a"][:, :-1])
    state = {k: v[:, 2] for k, v in states.items()}
    dream = made.imagine(state, actions=data["a"][:, 2:5], deterministic=True)
    history, actions = [states["z"][:, t] for t in range(3)], data["a"]
    for t in range(3, 6):  # the mean of the prior, by hand
        net = made.prior.factors[0].net.layers
        history.append(net(torch.cat((history[t - 1], history[t - 3], actions[:, t - 2]), -1))[:, :X])
    torch.testing.assert_close(dream["z"], torch.stack(history[2:], 1))
    with refused("a_m1", "size", error=FormulaError):
        made.initial(B)
    check_world(world(action="a_{t-2}", shape=X), batch())


def test_a_head_and_a_policy_of_the_step_before_read_the_step_before():
    made, data = world("p(x_t|z_{t-1})"), batch()
    states = made.filter(data, seed=0)
    net = made.heads["x"].net.layers
    torch.testing.assert_close(made.decode(states)["x"], net(torch.cat((torch.zeros(B, 1, X), states["z"][:, :-1]), 1)))
    policy = Normal("p(a_t|z_{t-1})", lambda z: z, shape=X, scale=1.0)
    dream = made.imagine({k: v[:, 3] for k, v in states.items()}, policy, horizon=2, deterministic=True)
    torch.testing.assert_close(dream["a"][:, 0], states["z"][:, 2])
    torch.testing.assert_close(dream["a"][:, 1:], dream["z"][:, :-1])


def test_what_cannot_be_read_is_refused_in_words():
    with refused("x_{t+1}", "ahead", error=TimeError):
        Normal("p(x_t|x_{t+1})", lambda x: x, shape=X, scale=1.0)
    with refused("x_{t+1}", "ahead", error=TimeError):
        Sum("t", Value("x_{t+1}") * log(Normal("p(x_t)", shape=X)))(x=torch.randn(B, T, X))
    with refused("z_m2", "z_m1", error=UnknownVariableError):
        second(Second(), initial={"z_m2": torch.zeros(X)})
    taken = Normal("p(x_t|x_{t-2},x_{m1,t})", lambda a, b: a + b, shape=X, scale=1.0)
    with refused("x_m1", "rename", error=FormulaError):
        Sum("t", log(taken))(x=torch.randn(B, T, X), x_m1=torch.randn(B, T, X))


def test_they_print_and_are_read_back():
    from tests.formula.reader import read, same
    from worldformula.formula.syntax.text import text

    begin = {"z": torch.zeros(X), "z_m1": torch.ones(X)}
    loss = second(Second(), reset="first", initial=begin) + Sum("t", Value("u_{t-2}"), reset="first")
    assert same(read(text(loss.node), loss.node), loss.node)
    assert "z_{t-2}" in loss.latex
    assert "<mo>−</mo><mn>2</mn>" in loss._repr_html_()
    assert loss.graph()


def test_older_values_have_the_names_that_the_reference_says():
    """At a step z_prev and z_m2; between steps z and z_m1; histories in the code alone."""
    p = Normal("p(z_t|z_{t-1},z_{t-2})", lambda a, b: a + 10 * b, shape=X, scale=1.0)
    one, two, z = torch.full((B, X), 1.0), torch.full((B, X), 2.0), torch.randn(B, X)
    expected = Gauss(1.0 + 20.0, 1.0).log_prob(z).sum(-1)
    alone = log(p)
    assert set(alone.program.inputs) == {"z", "z_prev", "z_m2"}
    torch.testing.assert_close(alone(z=z, z_prev=one, z_m2=two).value, expected)
    torch.testing.assert_close(p.log_prob(z=z, z_prev=one, z_m2=two), expected)
    assert str(p.rename(z_prev="a", z_m2="b")) == "p(z_t|a_{t-1},b_{t-2})"
    loss = Sum("t", log(p))
    assert "p_z_given_z_prev_z_m2" in loss.code or "(z_prev, z_m2)" in loss.code
    assert set(loss(z=torch.randn(B, T, X)).last) == {"z", "z_m1"}
    torch.testing.assert_close(loss(z=z[:, None], start={"z": one, "z_m1": two}).value, expected)
    u = [f"u_t = f(z_{{{past}}})" for past in ("<t", "\\le t", "t-1:t")]
    names = [Deterministic(header, WindowMLP(X, X, context=2), shape=X).conditions[0].identifier for header in u]
    assert names == ["z_past", "z_so_far", "z_window"]


class Newton(nn.Module):
    """x_t = x_{t-1} + Δt v_t; v_t = v_{t-1} + Δt (A x_{t-1} + B v_{t-1} + C u_{t-1}), Δt v_{t-1} = x_{t-1} − x_{t-2}"""

    def __init__(self, size, step):
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(0.3 * torch.randn(size)) for _ in range(3))
        self.step = step

    def forward(self, one, two, push):
        v = (one - two) / self.step
        return one + self.step * (v + self.step * (self.a * one + self.b * v + self.c * push))


@PATHS
def test_newtonian_dynamics_of_a_latent(path):
    """The transition of NewtonianVAE (Jaques et al. 2021, arXiv:2006.01959), of the second order in the position."""
    newton, encode, decode, D = Newton(X, 0.5), nn.Linear(3, 2 * X), nn.Linear(X, 3), 0.5
    q = Normal("q(x_t|i_t)", encode, shape=X)
    prior = Normal("p(x_t|x_{t-1},x_{t-2},u_{t-1})", newton, shape=X, scale=0.1)
    image = Normal("p(i_t|x_t)", decode, shape=3, scale=1.0)
    loss = Sum("t", E(q, KL(q, prior) - log(image)), reset="first")
    assert "for t in" not in loss.code  # the posterior reads the image alone, so all steps run at once
    i, u, first, noise = torch.randn(B, T, 3), torch.randn(B, T, X), flags(), torch.randn(B, T, X)
    one, two, push, expected = *[torch.zeros(B, X)] * 3, 0.0
    for t in range(T):
        one, two, push = (v * (1 - first[:, t, None]) for v in (one, two, push))
        v = (one - two) / D
        ahead = one + D * (v + D * (newton.a * one + newton.b * v + newton.c * push))
        loc, raw = encode(i[:, t]).chunk(2, -1)
        scale = nn.functional.softplus(raw)
        now = loc + scale * noise[:, t]
        expected = expected + torch.distributions.kl_divergence(Gauss(loc, scale), Gauss(ahead, 0.1)).sum(-1)
        expected = expected - Gauss(decode(now), 1.0).log_prob(i[:, t]).sum(-1)
        one, two, push = now, one, u[:, t]
    found = run(loss, path, i=i, u=u, first=first, noise={"x": noise}).value
    torch.testing.assert_close(found, expected)
    weights = [*newton.parameters(), *encode.parameters(), *decode.parameters()]
    for got, right in zip(*(torch.autograd.grad(v.sum(), weights) for v in (found, expected)), strict=True):
        torch.testing.assert_close(got, right)
    dream = World(prior=prior, posterior=q, heads=[image], loss=loss.mean())
    start = dream.filter({"i": i, "u": u, "first": first}, deterministic=True)
    begin = start.last()
    ahead = dream.imagine(begin, actions=u[:, :2], deterministic=True)["x"]
    torch.testing.assert_close(ahead[:, 1], newton(begin["x"], begin["x_m1"], u[:, 0]))
    torch.testing.assert_close(ahead[:, 2], newton(ahead[:, 1], begin["x"], u[:, 1]))
