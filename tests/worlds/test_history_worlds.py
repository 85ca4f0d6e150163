"""Worlds that read a past: a small GPT, and an MLP over the last three steps; against attention and windows by hand."""

import pytest
import torch
from torch import nn

from tests.formula.models import A, B, Join, X, Z
from worldformula import KL, Deterministic, E, Normal, Sum, log
from worldformula.errors import FormulaError, MissingInputError, ShapeError
from worldformula.nets.transformer import CausalTransformer
from worldformula.nets.window import WindowMLP
from worldformula.planner import ActionSet, Task
from worldformula.planners.cem import CEM
from worldformula.testing import check_world
from worldformula.world import World

T, H = 7, 6


def gpt(**options):
    """The prior attends to all draws and actions; the posterior reads the image alone, so training has no loop."""
    net = CausalTransformer(Z + A, 2 * Z, width=16, heads=2, layers=2, **options)
    prior = Normal("p(z_t|z_{<t}, a_{<t})", net, shape=Z)
    post = Normal("q(z_t|x_t)", Join(X, 2 * Z), shape=Z)
    image = Normal("p(x_t|z_t)", Join(Z, 2 * X), shape=X)
    loss = Sum("t", E(post, KL(post, prior) - log(image)), reset="first").mean()
    return World(prior=prior, posterior=post, heads=[image], loss=loss)


def frames():
    """A summary of the last three draws and actions, in prior and posterior, so that filtering has a loop."""
    core = Deterministic(
        "h_t = f(z_{t-3:t-1}, a_{t-3:t-1})", WindowMLP(Z + A, H, context=3, units=8, layers=1), shape=H
    )
    prior = Normal("p(z_t|h_t)", Join(H, 2 * Z), shape=Z)
    post = Normal("q(z_t|h_t,x_t)", Join(H + X, 2 * Z), shape=Z)
    image = Normal("p(x_t|h_t,z_t)", Join(H + Z, 2 * X), shape=X)
    loss = Sum("t", E(core * post, KL(post, prior) - log(image)), reset="first").mean()
    return World(prior=core * prior, posterior=core * post, heads=[image], loss=loss)


def batch(length=T):
    first = torch.zeros(B, length, dtype=torch.bool)
    first[:, 0], first[1, 3] = True, True
    return {"x": torch.randn(B, length, X), "a": torch.randn(B, length, A), "first": first}


WORLDS = {"gpt": gpt, "gpt with a band": lambda: gpt(window=3), "frames": frames}


@pytest.mark.parametrize("build", WORLDS.values(), ids=WORLDS)
def test_the_laws_of_a_world(build):
    check_world(build(), batch())


@pytest.mark.parametrize("build", WORLDS.values(), ids=WORLDS)
def test_filter_is_observe_step_by_step(build):
    world, data = build(), batch()
    states = world.filter(data, deterministic=True)
    state = world.initial(B) | {"a": torch.zeros(B, A)}
    for t in range(T):
        state = world.observe({"x": data["x"][:, t], "first": data["first"][:, t]}, state, deterministic=True)
        for key in world.carried:
            torch.testing.assert_close(state[key], states[key][:, t], rtol=1e-4, atol=1e-5)
        state |= {"a": data["a"][:, t]}
    actions = torch.randn(B, 3, A)
    wanted, got = (world.imagine(s, actions=actions, deterministic=True)["z"] for s in (states.last(), state))
    torch.testing.assert_close(wanted, got, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("build", WORLDS.values(), ids=WORLDS)
def test_a_rollout_is_one_step_repeated(build):
    world = build()
    start = world.filter(batch(), seed=0).last()
    actions, noise = torch.randn(B, 4, A), torch.randn(B, 4, Z)
    whole, state = world.imagine(start, actions=actions, noise={"z": noise}), start
    for t in range(4):
        step = {"actions": actions[:, t : t + 1], "noise": {"z": noise[:, t : t + 1]}}
        state = world.imagine(state, **step).last()
        torch.testing.assert_close(state["z"], whole["z"][:, t + 1], rtol=1e-4, atol=1e-5)


def test_a_dream_of_the_gpt_is_attention_over_everything_so_far_by_hand():
    """Whole sequences through the network at every step, without a cache."""
    world, data = gpt(), batch()
    net = world.prior.factors[0].net
    data["first"][1, 3] = False
    states, actions = world.filter(data, deterministic=True), torch.randn(B, 4, A)
    dream = world.imagine(states.last(), actions=actions, deterministic=True)
    z, a = states["z"], torch.cat((data["a"][:, :-1], actions), 1)
    for t in range(4):
        inputs = [torch.cat((torch.zeros(B, 1, s.shape[-1]), s), 1) for s in (z, a[:, : T + t])]
        loc = net(*inputs)[:, -1, :Z]
        torch.testing.assert_close(dream["z"][:, t + 1], loc, rtol=1e-4, atol=1e-5)
        z = torch.cat((z, loc.unsqueeze(1)), 1)


def test_training_calls_the_network_once_and_a_dream_once_a_step():
    world, data = gpt(), batch()
    net, calls = world.prior.factors[0].net, []
    net.register_forward_hook(lambda _, args, __: calls.append(args[0].shape[:2]))
    world.loss(**data)
    assert calls == [(B, T)]
    assert "for t in range(T)" not in world.loss.code
    step, sizes = net.step, []
    net.step = lambda cache, *x, reset=None: (sizes.append(x[0].shape[1]), step(cache, *x, reset=reset))[1]
    states = world.filter(data)
    assert sizes == [T]  # a whole batch in one piece
    world.imagine(states.last(), actions=torch.randn(B, 5, A))
    assert sizes == [T, *[1] * 5]


def test_a_policy_dreams_with_the_memory_and_candidates_share_it():
    world, data = gpt(), batch()
    policy = Normal("π(a_t|z_t)", nn.Linear(Z, 2 * A), shape=A)
    start = world.filter(data, deterministic=True).last()
    dream = world.imagine(start, policy, horizon=3, seed=0)
    again = world.imagine(start, actions=dream["a"][:, :3], deterministic=True)
    assert dream["z"].shape == again["z"].shape == (B, 4, Z)
    with torch.no_grad():
        many = start.repeat(5)
        assert many["z_cache"].shared[0].shape[1] == B
        actions = torch.randn(B * 5, 3, A)
        dreams = world.imagine(many, actions=actions, deterministic=True)["z"]
        for n in range(5):
            alone = world.imagine(start, actions=actions.view(B, 5, 3, A)[:, n], deterministic=True)["z"]
            torch.testing.assert_close(dreams.view(B, 5, 4, Z)[:, n], alone, rtol=1e-4, atol=1e-5)


def test_a_planner_searches_over_the_memory():
    """The cost of a plan is that of its dream, and the best plan is no worse than none."""
    world = gpt()
    start = world.filter(batch(), deterministic=True).last()

    task = Task(lambda states, actions: states["z"].square().sum(-1))

    with torch.no_grad():
        planner = CEM(horizon=3, candidates=32, elites=4, iterations=3)
        plan = planner.plan(world, task, start, space={"a": ActionSet(A)})
        dream = world.imagine(start, actions=plan.actions, deterministic=True)["z"][:, 1:]
        idle = world.imagine(start, actions=torch.zeros(B, 3, A), deterministic=True)["z"][:, 1:]
    torch.testing.assert_close(plan.cost, dream.square().sum((1, 2)), rtol=1e-4, atol=1e-5)
    assert (plan.cost < idle.square().sum((1, 2))).all()


def test_a_dream_has_gradients_through_its_memory():
    """The derivative of the last mean by the first action, against the whole sequence without a cache."""
    world, data = gpt(), batch()
    net = world.prior.factors[0].net
    data["first"][1, 3] = False
    states = world.filter(data, deterministic=True)
    z, actions = states["z"].detach(), torch.randn(B, 3, A, requires_grad=True)
    dream = world.imagine(states.last(), actions=actions, deterministic=True)["z"]
    got = torch.autograd.grad(dream[:, -1].sum(), actions)[0]
    a = torch.cat((data["a"][:, :-1], actions), 1)
    for t in range(3):
        inputs = [torch.cat((torch.zeros(B, 1, s.shape[-1]), s), 1) for s in (z, a[:, : T + t])]
        z = torch.cat((z, net(*inputs)[:, -1:, :Z]), 1)
    torch.testing.assert_close(got, torch.autograd.grad(z[:, -1].sum(), actions)[0], rtol=1e-4, atol=1e-5)


def test_what_is_refused():
    world, data = gpt(), batch()
    states = world.filter(data)
    with pytest.raises(MissingInputError, match="imagine: the start lacks z_cache"):
        world.imagine({"z": states["z"][:, -1]}, actions=torch.randn(B, 3, A))
    with pytest.raises(ShapeError) as error:
        world.imagine(states, actions=torch.randn(B, T, 3, A))
    assert str(error.value) == (
        f"imagine: the prior reads a history, so a dream begins at one state a row, [N, ...]; this start has the "
        f"leading axes [{B}, {T}]\ntake the last state, states.last()"
    )
    head = Normal("p(x_t|z_{<t})", CausalTransformer(Z, 2 * X, width=8, heads=1), shape=X)
    with pytest.raises(FormulaError) as error:
        World(prior=world.prior, posterior=world.posterior, heads=[head], loss=world.loss)
    assert str(error.value) == (
        "the head p(x_t|z_{<t}) reads the history z_{<t}, and a state holds single steps\n"
        "write the history as a variable of prior and posterior, u_t = f(z_{<t}), and the head of u_t"
    )
    policy = Normal("π(a_t|z_{<t})", CausalTransformer(Z, 2 * A, width=8, heads=1), shape=A)
    with pytest.raises(FormulaError, match=r"z_\{<t\}.*not in a state"):
        world.imagine(states.last(), policy, horizon=2)
