"""Every planner of the catalogue on whatever imagines: a simulator written by hand, and worlds of several kinds.

What it says that its plan costs is reckoned again: of the simulator in NumPy, of a world by dreams of one step each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from worldformula.catalogue import find, names
from worldformula.errors import ConfigError
from worldformula.formula import Deterministic
from worldformula.planner import ActionSet, Named, Planner, Space, Task
from worldformula.planners.cem import CEM
from worldformula.score import Score
from worldformula.world import PriorDynamics, State, World
from worldformula.worlds import jepa, latent_jepa, lewm, rssm

B = 2
GOAL = np.array([0.7, -0.4])
PLANNERS = [name for name in names("planners") if name not in ("hierarchy", "minimax")]  # of levels, of an adversary
KINDS = ("numbers", "choice")


class Swing:
    """A damped point that turns as it goes: torch alone, no formula, no noise."""

    actions = ("a",)

    def initial(self, batch: int, **_: Any) -> State:
        return State({"s": torch.zeros(batch, 2), "v": torch.zeros(batch, 2)})

    def imagine(self, start: Any, policy: Any = None, *, actions: Any = None, horizon: Any = None, **_: Any) -> State:
        told = actions["a"] if isinstance(actions, dict) else actions
        s, v, way = start["s"], start["v"], [(start["s"], start["v"])]
        for a in told.unbind(1):
            v = 0.8 * v + 0.2 * a[:, :2] + 0.1 * torch.stack((-s[:, 1], s[:, 0]), -1)
            s = s + v
            way.append((s, v))
        return State({"s": torch.stack([w[0] for w in way], 1), "v": torch.stack([w[1] for w in way], 1), "a": told}, 2)

    def decode(self, states: Any, heads: Any = None, **_: Any) -> dict[str, Tensor]:
        return {}


def by_hand(start: np.ndarray, actions: np.ndarray) -> float:
    """What the swing costs, in NumPy."""
    s, v, total = start.copy(), np.zeros(2), 0.0
    for a in actions:
        v = 0.8 * v + 0.2 * a[:2] + 0.1 * np.array([-s[1], s[0]])
        s = s + v
        total += ((s - GOAL) ** 2).sum()
    return total


def planner_of(name: str, kind: str) -> tuple[Planner, Space]:
    """The planner at its smallest, and actions that it may search; skips what says that it searches others."""
    system = find(name)
    if system.acts and kind not in system.acts:
        pytest.skip(f"{name} searches {', '.join(system.acts)}")
    return system.build(system.sizes("tiny")), {"a": ActionSet(2 if kind == "numbers" else 3, kind)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PLANNERS)
def test_a_simulator_by_hand(name: str, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    planner, space = planner_of(name, kind)
    start = torch.tensor([[0.0, 0.0], [0.5, 0.5]])
    task = Task(lambda states, _: (states["s"] - torch.tensor(GOAL).float()).square().sum(-1))
    plan = planner.plan(Swing(), task, {"s": start, "v": torch.zeros(B, 2)}, space=space)
    acts = plan.actions["a"].double().numpy()
    assert space["a"].holds(plan.actions["a"])
    for b in range(B):
        assert plan.cost[b].item() == pytest.approx(by_hand(start[b].double().numpy(), acts[b]), rel=1e-4)
    rng, shape = np.random.default_rng(0), (100, acts.shape[1])
    blind = rng.uniform(-1, 1, (*shape, 2)) if kind == "numbers" else np.eye(3)[rng.integers(3, size=shape)]
    for b in range(B):
        assert plan.cost[b].item() < np.mean([by_hand(start[b].double().numpy(), own) for own in blind])
    assert plan.calls >= acts.shape[1]
    assert capsys.readouterr() == ("", "")  # a search says nothing by itself


def worlds() -> dict[str, World]:
    torch.manual_seed(0)
    sizes = rssm.Sizes(deter=16, hidden=8, classes=4, groups=4, blocks=1, depth=2, units=8)
    seen = {"vector": (3,)}
    return {
        "rssm": rssm.build(rssm.RSSMConfig(sizes, free_nats=0.01), seen, 3),
        "jepa": jepa.build(jepa.JEPAConfig(latent=6, units=16), seen, 3),
        "lewm": lewm.build(lewm.LeWMConfig(latent=6, units=16), seen, 3),
        "latent_jepa": latent_jepa.build(latent_jepa.LatentJEPAConfig(latent=6, units=16, codes=2), seen, 3),
    }


WORLDS = worlds()


def stepwise(world: World, start: State, actions: Named, variable: str, goal: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_t ‖s_t − goal‖², each step a dream of its own from the state that the one before ended in; and s_0, s_1, …"""
    state, total, path = start, torch.zeros(B), [start[variable]]
    for t in range(actions["a"].shape[1]):
        dream = State(world.imagine(state, actions={"a": actions["a"][:, t : t + 1]}, deterministic=True), 2)
        state = dream.last()
        state = state.only(k for k in state if k not in world.actions)
        total = total + (state[variable] - goal).flatten(1).square().sum(-1)
        path.append(state[variable])
    return total, torch.stack(path, 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PLANNERS)
@pytest.mark.parametrize("which", WORLDS)
def test_a_world(which: str, name: str, kind: str) -> None:
    planner, _ = planner_of(name, kind)
    world, space = WORLDS[which], {"a": ActionSet(3, kind)}
    variable = {"rssm": "h", "latent_jepa": "s"}.get(which, "z")
    torch.manual_seed(1)
    steps = {"x": torch.randn(B, 4, 3), "a": torch.rand(B, 4, 3), "first": torch.zeros(B, 4)}
    start = world.filter(steps, deterministic=True).last()
    goal = world.filter({**steps, "x": torch.randn(B, 4, 3)}, deterministic=True).last()[variable]
    task = Task(lambda states, _: (states[variable] - states["goal"]).flatten(2).square().sum(-1), given={"goal": goal})
    if (which, name) == ("lewm", "grasp"):  # it keeps the last three latents in a network, where no search can step in
        with pytest.raises(ConfigError, match=r"keeps a past of its own(.|\n)*write Gradient\("):
            planner.plan(world, task, start, space=space)
        return
    plan = planner.plan(world, task, start, space=space)
    assert space["a"].holds(plan.actions["a"])
    begin = start.only(k for k in start if k not in world.actions)
    cost, path = stepwise(world, begin, plan.actions, variable, goal)
    torch.testing.assert_close(plan.cost, cost, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(plan.states[variable], path, rtol=1e-3, atol=1e-4)


class Walled(PriorDynamics):
    """A prior that stops at a wall, by what it imagines alone."""

    def imagine(self, *given: Any, **options: Any) -> State:
        return stopped(super().imagine(*given, **options))


class Around:
    """The same around another dynamics, whose other methods it has."""

    def __init__(self, inner: PriorDynamics) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def imagine(self, *given: Any, **options: Any) -> State:
        return stopped(self.inner.imagine(*given, **options))


def stopped(dream: State) -> State:
    return State({**dream, "h": dream["h"].clamp(-1, 1)}, 2)


@pytest.mark.parametrize("kind", [Walled, lambda prior: Around(PriorDynamics(prior))], ids=["subclass", "around"])
def test_what_imagines_something_of_its_own_is_asked_by_that_each_time(kind: Any) -> None:
    """A wall at 1, and a goal at 3: each of six steps costs (3 - 1)². It was 19 from the second call on, without it."""
    dynamics = kind(Deterministic("h_t = f(h_{t-1}, a_{t-1})", lambda h, a: h + a, shape=1))
    task, space = Task(lambda states, _: (states["h"][..., 0] - 3).square()), {"a": ActionSet(1)}
    start, generators = {"h": torch.zeros(1, 1)}, [torch.Generator().manual_seed(0)]
    score = Score(dynamics, task, start, space, 6, generators)
    for _ in range(3):
        assert score({"a": torch.ones(1, 2, 6, 1)}).tolist() == [[24.0, 24.0]]
    plan = CEM(horizon=6).plan(dynamics, task, start, space=space)
    assert plan.cost.item() >= 24.0
    assert plan.states["h"].abs().max().item() <= 1.0
