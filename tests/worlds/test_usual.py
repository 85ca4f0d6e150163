"""Actions along the axes of what was seen: quantiles at −1 and 1, laws, and what is refused."""

import numpy as np
import pytest
import torch
from torch import nn

from worldformula.errors import ConfigError, ShapeError
from worldformula.formula import Deterministic, Normal
from worldformula.planner import ActionSet, Task
from worldformula.planners.cem import CEM
from worldformula.testing import check_dynamics
from worldformula.world import PriorDynamics, State
from worldformula.world.usual import Usual


class Add(nn.Module):
    def forward(self, s, u):
        return s + u


class Drift(nn.Module):
    def forward(self, s, u):
        return torch.cat((s + u, torch.full_like(s, float(np.log(np.expm1(0.1))))), -1)  # softplus of it is .1


class ByHand:
    """A simulator that draws nothing."""

    actions = ("u",)

    def initial(self, batch, **_):
        return State({"s": torch.zeros(batch, 2)})

    def imagine(self, start, policy=None, *, actions=None, horizon=None, given=None, **_):
        way = torch.cat((start["s"][:, None], start["s"][:, None] + actions["u"].cumsum(1)), 1)
        return State({"s": way, "u": actions["u"]}, 2)

    def decode(self, states, heads=None):
        return {}


PLANE = PriorDynamics(Deterministic("s_t = f(s_{t-1}, u_{t-1})", Add(), shape=2))
TURN = np.array([[0.6, 0.8], [-0.8, 0.6]])


def seen(count=20_001):
    """Uniform along two turned axes, of lengths 3 and 0.5, around (1, 2)."""
    rng = np.random.default_rng(0)
    along = rng.uniform(-1, 1, (count, 2)) * np.array([3.0, 0.5])
    return {"u": torch.from_numpy(along @ TURN + np.array([1.0, 2.0])).float()}


def test_the_ends_are_quantiles_along_the_principal_axes():
    own = Usual.of(PLANE, seen(), share=0.05)
    corners = own.meant("u", torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])).numpy()
    np.testing.assert_allclose(corners[0], [1.0, 2.0], atol=0.05)
    along = np.abs((corners[1:] - corners[0]) @ TURN.T)
    # Nine tenths of a uniform law lie within .9 of its half-length; axes come with the smallest variance first.
    np.testing.assert_allclose(along, [[0.0, 0.45], [2.7, 0.0]], atol=0.06)


def test_laws_and_what_a_dream_does():
    own = Usual.of(PLANE, seen())
    check_dynamics(own, {"u": torch.rand(3, 2, 2) * 2 - 1})
    start, v = {"s": torch.zeros(1, 2)}, torch.rand(1, 4, 2)
    dream = own.imagine(start, actions=v)
    np.testing.assert_allclose(dream["s"][0, -1], own.meant("u", v).sum(1)[0], atol=1e-5)
    assert torch.equal(dream["u"], v)
    assert own.duration is None


def test_samples_share_their_noise_however_actions_are_told():
    """A law of s' = s + u + ε: with the noise of one draw every dream differs by its actions alone, as by hand."""
    drifts = PriorDynamics(Normal("p(s_t|s_{t-1}, u_{t-1})", Drift(), shape=2))
    own = Usual.of(drifts, seen())
    start, v = {"s": torch.zeros(1, 2)}, torch.rand(1, 3, 2)
    noise = own.dream_noise(start, {"u": v}, torch.Generator().manual_seed(0))
    same = drifts.dream_noise(start, {"u": torch.zeros(1, 3, 2)}, torch.Generator().manual_seed(0))
    assert torch.equal(noise["s"], same["s"])
    dream = own.imagine(start, actions=v, noise=noise)
    by_hand = (own.meant("u", v) + 0.1 * noise["s"]).cumsum(1)
    np.testing.assert_allclose(dream["s"][:, 1:], by_hand, atol=1e-5)
    task = Task(lambda states, _: states["s"].square().sum(-1), samples=4, risk=1.0)
    plan = CEM(3, 8, 4, 2).plan(own, task, start, space={"u": ActionSet(2)})
    assert plan.cost.isfinite().all()
    with pytest.raises(ConfigError, match="has no dream_noise.*samples=0"):
        CEM(3, 8, 4, 2).plan(Usual(ByHand(), {}, {}), task, start, space={"u": ActionSet(2)})


def test_refused():
    with pytest.raises(ConfigError, match="expected the actions u and a share"):
        Usual.of(PLANE, {"v": torch.rand(4, 2)})
    with pytest.raises(ConfigError, match="a share in"):
        Usual.of(PLANE, seen(), share=0.5)
    with pytest.raises(ShapeError, match=r"actions \[K, A\] of K ≥ 2, got \[1, 2\]"):
        Usual.of(PLANE, {"u": torch.rand(1, 2)})
    with pytest.raises(ConfigError, match="a policy acts in the dynamics itself"):
        Usual.of(PLANE, seen()).imagine(
            {"s": torch.zeros(1, 2)}, Normal("π(u_t|s_t)", nn.Linear(2, 4), shape=2), horizon=2
        )
