"""The laws of a world model, for every world of the catalogue, and for small worlds written here."""

import inspect
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.formula.models import A, D, Join, X, Z
from worldformula import Bernoulli, Deterministic, E, Normal, Sum, log
from worldformula.catalogue import find, names
from worldformula.testing import check_dynamics, check_world
from worldformula.world import PriorDynamics, State, World

B, T = 2, 4


def data(world, size=(16, 16, 3)):
    """Random series for everything that the loss reads, and for every action."""
    shapes = {"x": size, "a": (2,), "r": (), "c": ()}
    batch = {k: torch.rand(B, T, *shapes[k]) for k in world.loss.program.inputs if k in shapes}
    batch["first"] = torch.zeros(B, T, dtype=torch.bool)
    batch["first"][0, 2] = True
    acts = [k for level in world.levels.values() for k in level.actions]
    return batch | {k: torch.rand(B, T, 2) for k in acts if k not in batch}


def for_agents(name):
    """Whether a world is built for the observations and actions of an agent, and for nothing else."""
    given = list(inspect.signature(find(name).build).parameters.values())[1:]
    return bool(given) and given[0].default is inspect.Parameter.empty


@pytest.mark.parametrize("name", [n for n in names("worlds") if for_agents(n)])
def test_every_world_of_an_agent(name):
    system = find(name)
    world = system.build(system.sizes("tiny"), {"image": (16, 16, 3)}, 2)
    check_world(world, data(world))


@pytest.mark.parametrize("name", [n for n in names("worlds") if not for_agents(n)])
def test_every_other_world_is_checked_on_series_of_its_own(name):
    tests = [path.read_text() for path in (Path(__file__).parents[1] / "worlds").glob("test_*.py")]
    imported = re.compile(rf"\bworlds(\.{name}\b| import .*\b{name}\b)")
    assert any("check_world(" in text and imported.search(text) for text in tests)


def small(broken=None):
    """A VRNN with an action; ``broken`` makes one part wrong."""
    mix = (lambda h: h - h.mean(0)) if broken == "batch" else (lambda h: h)
    f = Join(D + Z + A, D)
    if broken == "unused":
        f.never = nn.Parameter(torch.zeros(1))
    core = Deterministic("h_t = f(h_{t-1}, z_{t-1}, a_{t-1})", Mixed(f, mix), shape=D)
    q, p = Normal("q(z_t|h_t,x_t)", Join(D + X, 2 * Z), shape=Z), Normal("p(z_t|h_t)", Join(D, 2 * Z), shape=Z)
    image = Normal("p(x_t|h_t,z_t)", Join(D + Z, 2 * X), shape=X)
    done = Bernoulli("p(c_t|h_t)", Join(D, 1), shape=())
    terms = log(image) - log(q) + (0.0 if broken == "prior" else log(p))
    loss = Sum("t", E(core * q, terms if broken == "probe" else terms + log(done)), reset="first").mean()
    roles = {"reward": "x"} if broken == "reward" else {"continue": "c"}
    return World(prior=core * p, posterior=core * q, heads=[image, done], loss=loss, roles=roles)


class Mixed(nn.Module):
    def __init__(self, net, mix):
        super().__init__()
        self.net, self.mix = net, mix

    def forward(self, *inputs):
        return self.mix(self.net(*inputs))

    def __deepcopy__(self, memo):
        return self


def test_a_small_world_with_an_action():
    world = small()
    check_world(world, data(world, (X,)))


def test_a_world_without_actions_and_flags():
    q, p = Normal("q(z_t|z_{t-1},x_t)", Join(Z + X, 2 * Z), shape=Z), Normal("p(z_t|z_{t-1})", Join(Z, 2 * Z), shape=Z)
    image = Normal("p(x_t|z_t)", Join(Z, 2 * X), shape=X)
    world = World(prior=p, posterior=q, heads=[image], loss=Sum("t", E(q, log(q) - log(p) - log(image))).mean())
    check_world(world, {"x": torch.randn(B, T, X)})


def test_a_head_that_learns_elsewhere_is_no_fault():
    check_world(small("probe"), data(small(), (X,)))


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        ("batch", r"rows do not see each other: h +\|.+<- broken"),
        ("batch", r"dreams do not see each other: h +\|.+<- broken"),
        ("unused", r"the loss reaches every weight +\|.+never.+<- broken"),
        ("prior", r"the losses know the weights of prior and posterior +\|.+p\(z_t\|h_t\).+<- broken"),
        ("reward", r"reward is one number a state +\|.+<- broken"),
    ],
)
def test_broken_worlds_are_found(broken, law):
    world = small(broken)
    batch = data(world, (X,)) | {"c": torch.rand(B, T)}
    with pytest.raises(AssertionError, match=law):
        check_world(world, batch)


def test_two_actions_two_heads_of_one_variable_and_no_reward():
    core = Deterministic("h_t = f(h_{t-1}, z_{t-1}, m_{t-1}, u_{t-1})", Join(D + Z + A + 3, D), shape=D)
    q, p = Normal("q(z_t|h_t,x_t)", Join(D + X, 2 * Z), shape=Z), Normal("p(z_t|h_t)", Join(D, 2 * Z), shape=Z)
    fine, coarse = Normal("p(x_t|h_t,z_t)", Join(D + Z, 2 * X), shape=X), Normal("p(x_t|h_t)", Join(D, 2 * X), shape=X)
    loss = Sum("t", E(core * q, log(q) - log(p) - log(fine) - log(coarse)), reset="first").mean()
    heads = {"image": fine, "image_coarse": coarse}
    world = World(prior=core * p, posterior=core * q, heads=heads, loss=loss)
    first = torch.zeros(B, T)
    first[0, 2] = 1
    x, m, u = torch.randn(B, T, X), torch.randn(B, T, A), torch.randn(B, T, 3)
    check_world(world, {"x": x, "m": m, "u": u, "first": first})


# --------------------------------------------------------------------------------------------------------- pure priors


def prior(mix=lambda h: h, actions="a_{t-1}", width=A, **more):
    core = Deterministic(f"h_t = f(h_{{t-1}}, z_{{t-1}}, {actions})", Mixed(Join(D + Z + width, D), mix), shape=D)
    p = Normal("p(z_t|h_t)", Join(D, 2 * Z), shape=Z)
    return PriorDynamics(core * p, {"x": Normal("p(x_t|h_t,z_t)", Join(D + Z, 2 * X), shape=X)}, **more)


def test_priors_alone():
    check_dynamics(prior(), {"a": torch.randn(B, 2, A)})
    check_dynamics(
        prior(actions="m_{t-1}, u_{t-1}", width=A + 1), {"m": torch.randn(B, 2, A), "u": torch.randn(B, 2, 1)}
    )
    check_dynamics(prior(initial={"z": Normal("p(z_0)", shape=Z)}), {"a": torch.randn(B, 2, A)})
    check_dynamics(PriorDynamics(Normal("p(z_t|z_{t-1})", Join(Z, 2 * Z), shape=Z)))


class Simulator:
    """A point that moves, written by hand; ``broken`` makes one part wrong."""

    actions, heads = ("a",), ("far",)

    def __init__(self, broken=None):
        self.broken = broken

    def initial(self, batch, *, device=None, dtype=None, **options):
        return State({"s": torch.randn(batch, 2, generator=torch.Generator().manual_seed(options["seed"]))})

    def imagine(self, start, policy=None, *, actions=None, horizon=None, **options):
        moves = actions["a"].cumsum(1)
        if self.broken == "clock":
            moves = moves * torch.arange(1, moves.shape[1] + 1)[:, None]
        if self.broken == "rows":
            moves = moves - moves.mean(0)
        s = torch.cat((start["s"][:, None], start["s"][:, None] + moves), 1)
        return {"s": s[:, 1:] if self.broken == "start" else s, "a": actions["a"] * (1 + (self.broken == "actions"))}

    def decode(self, states, heads=None, **numbers):
        return {} if self.broken == "decode" else {"far": states["s"].norm(dim=-1)}


def test_a_simulator_by_hand():
    check_dynamics(Simulator(), {"a": torch.randn(B, 2, 2)})


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        ("clock", r"two steps are one step twice \(actions\): s"),
        ("rows", "dreams do not see each other: s"),
        ("start", "a dream has the start first: s"),
        ("actions", "a dream gives back its actions: a"),
        ("decode", "decode answers for every head"),
    ],
)
def test_broken_simulators_are_found(broken, law):
    with pytest.raises(AssertionError, match=rf"{law} +\|.+<- broken"):
        check_dynamics(Simulator(broken), {"a": torch.randn(B, 2, 2)})


def test_other_actions_and_rows_that_see_each_other_are_found():
    with pytest.raises(AssertionError, match=r"these are its actions +\|.+<- broken"):
        check_dynamics(prior(), {"b": torch.randn(B, 2, A)})
    with pytest.raises(AssertionError, match=r"dreams do not see each other: h +\|.+<- broken"):
        check_dynamics(prior(lambda h: h - h.mean(0)), {"a": torch.randn(B, 2, A)})
