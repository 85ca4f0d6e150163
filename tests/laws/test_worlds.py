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
from worldformula.testing import check_world
from worldformula.world import World

B, T = 2, 4


def data(world, size=(16, 16, 3)):
    """Random series for everything that the loss reads."""
    shapes = {"x": size, "a": (2,), "r": (), "c": ()}
    batch = {k: torch.rand(B, T, *shapes[k]) for k in world.loss.program.inputs if k in shapes}
    batch["first"] = torch.zeros(B, T, dtype=torch.bool)
    batch["first"][0, 2] = True
    return batch


def for_agents(name):
    """Whether a world is built for the observations and actions of an agent."""
    return len(inspect.signature(find(name).build).parameters) > 1


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
    core = Deterministic("h_t = f(h_{t-1}, z_{t-1}, a_{t-1})", Mixed(f, mix), shape=D)
    q, p = Normal("q(z_t|h_t,x_t)", Join(D + X, 2 * Z), shape=Z), Normal("p(z_t|h_t)", Join(D, 2 * Z), shape=Z)
    image = Normal("p(x_t|h_t,z_t)", Join(D + Z, 2 * X), shape=X)
    done = Bernoulli("p(c_t|h_t)", Join(D, 1), shape=())
    terms = log(p) - log(q) + log(image)
    loss = Sum("t", E(core * q, terms if broken == "weights" else terms + log(done)), reset="first").mean()
    return World(prior=core * p, posterior=core * q, heads=[image, done], loss=loss)


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


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        ("batch", r"rows do not see each other: h +\|.+<- broken"),
        ("weights", r"the loss reaches every weight +\|.+<- broken"),
    ],
)
def test_broken_worlds_are_found(broken, law):
    world = small(broken)
    batch = data(world, (X,)) | {"c": torch.rand(B, T)}
    with pytest.raises(AssertionError, match=law):
        check_world(world, batch)
