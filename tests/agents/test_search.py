"""Mode-2 inside an agent: choices stay choices, plans go on within an episode, explore, and depend on nobody else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch

from worldformula.agent.configurator import Configuration
from worldformula.agent.imagination import ImaginationAgent
from worldformula.agent.terms import Effort
from worldformula.agents import dreamer_v3
from worldformula.envs import ActionSpec, Column
from worldformula.envs.actions import by_name
from worldformula.errors import ConfigError
from worldformula.planner import Plan, Planner
from worldformula.planners.cem import CEM
from worldformula.planners.lagrangian import Lagrangian
from worldformula.planners.mppi import MPPI
from worldformula.world import State

COLUMNS = {"vector": Column("vector", (4,), "float32")}
SPECS = {
    "force": ActionSpec("continuous", 2),
    "dice": ActionSpec("multi_discrete", 5, (2, 3)),
    "lamps": ActionSpec("flags", 2),
}
N = 3
CHEAP = CEM(horizon=3, candidates=20, elites=4, iterations=2)


def agent_of(actions: Any, planner: Planner = CHEAP, noise: float = 0.3) -> ImaginationAgent:
    agent = dreamer_v3.build(dreamer_v3.tiny(), COLUMNS, actions, seed=0)
    torch.nn.init.normal_(agent.world.heads["r"].net.head.weight)  # at zero, as initialised, every plan costs the same
    agent.configure(Configuration(planner=planner, noise=noise))
    return agent


def rows(
    t: int, first: Sequence[bool] = (False,) * N, rows_of: slice = slice(None), **more: Any
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(t)
    found = {"vector": rng.normal(size=(N, 4)).astype(np.float32), "is_first": np.array(first), **more}
    return {k: v[rows_of] for k, v in found.items()}


@dataclass(frozen=True)
class Watched(Planner):
    """CEM that keeps what it was given."""

    given: list[dict[str, Any]] = field(default_factory=list)

    def plan(self, dynamics: Any, task: Any, state: Any, **options: Any) -> Plan:
        found = CHEAP.plan(dynamics, task, state, **options)
        self.given.append({**options, "found": found})
        return found


def test_a_discrete_agent_plans_choices_and_remembers_what_it_chose() -> None:
    agent = agent_of(ActionSpec("discrete", 3))
    state = agent.initial(N)
    for t, explore in enumerate((False, True, True)):
        action, state = agent.act(rows(t, [t == 0] * N), state, explore=explore)
        assert action.dtype == np.int64
        assert ((action >= 0) & (action < 3)).all()
        assert torch.equal(state["a"], torch.eye(3)[torch.from_numpy(action)])


@pytest.mark.parametrize("planner", [CHEAP, MPPI(candidates=20, elites=4, iterations=2)], ids=["cem", "mppi"])
def test_a_policy_proposes_numbers_choices_and_flags_of_each_episode_by_itself(planner: Planner) -> None:
    agent = agent_of(SPECS)
    agent.configure(Configuration(planner=planner, proposals=5, value=True))
    assert agent.search is not None
    seen = State(agent.world.initial(N)) | {"h": torch.randn(N, 128)}
    task = agent.task()
    own = [torch.Generator().manual_seed(b) for b in range(N)]
    found = agent.search._proposed(agent.world, task, seen, own)
    one = torch.tensor([1])
    alone = agent.search._proposed(agent.world, task, seen.select(one), [torch.Generator().manual_seed(1)])
    assert found is not None
    assert alone is not None
    for name, space in agent.search.space.items():
        assert found[name].shape == (N, 5, 3, space.size)
        assert space.holds(found[name])
        torch.testing.assert_close(found[name][1:2], alone[name])
    state = agent.initial(N)
    for t in range(3):
        actions, state = agent.act(rows(t, [t == 0] * N), state, explore=t > 0)
        assert by_name(actions, SPECS).keys() == SPECS.keys()


def test_several_actions_are_planned_together() -> None:
    agent = agent_of(SPECS)
    state = agent.initial(N)
    for t, explore in enumerate((False, True)):
        actions, state = agent.act(rows(t, [t == 0] * N), state, explore=explore)
        stored = by_name(actions, SPECS)
        assert stored.keys() == SPECS.keys()
        assert (np.abs(actions["force"]) <= 1).all()
        assert torch.equal(state["a_2"], torch.eye(2)[torch.from_numpy(actions["dice"][:, 0])])


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_no_mask_is_broken_with_or_without_exploration(noise: float) -> None:
    agent = agent_of(SPECS, noise=noise)
    mask = np.tile([True, False, False, True, True], (N, 1))
    state, seen = agent.initial(N), set()
    for t in range(12):
        actions, state = agent.act(rows(t, [t == 0] * N, **{"mask/dice": mask}), state)
        assert (actions["dice"][:, 0] == 0).all()
        seen |= set(actions["dice"][:, 1].tolist())
    assert 0 not in seen
    if noise:
        assert seen == {1, 2}


def test_a_plan_goes_on_from_the_last_one_and_an_episode_begins_cold() -> None:
    planner = Watched()
    agent = agent_of(ActionSpec("continuous", 2), planner)
    _, state = agent.act(rows(0, [True] * N), agent.initial(N), explore=False)
    _, state = agent.act(rows(1, [False, True, False]), state, explore=False)
    one, two = planner.given
    assert one["warm"] is None
    warm, last = two["warm"]["a"], one["found"].shifted()["a"]
    assert torch.equal(warm[[0, 2]], last[[0, 2]])
    assert warm[1].isnan().all()
    assert torch.equal(state["plan/a"], two["found"].shifted()["a"])
    assert state["plan_count"].tolist() == [2, 1, 2]


def test_exploration_moves_actions_by_the_noise_that_was_asked_for() -> None:
    quiet = Watched()
    agent = agent_of(ActionSpec("continuous", 2), quiet, noise=0.0)
    torch.manual_seed(0)
    action, _ = agent.act(rows(0, [True] * N), agent.initial(N))
    assert np.array_equal(action, quiet.given[-1]["found"].first["a"].numpy())
    loud = Watched()
    agent = agent_of(ActionSpec("continuous", 2), loud, noise=0.1)
    state, moved = agent.initial(N), []
    for t in range(60):
        action, state = agent.act(rows(t, [t == 0] * N), state)
        planned = loud.given[-1]["found"].first["a"].numpy()
        moved.append((action - planned)[np.abs(planned) < 0.4])
    deviation = np.concatenate(moved)
    assert len(deviation) > 10
    assert deviation.std() == pytest.approx(0.1, rel=4 / (2 * len(deviation)) ** 0.5)
    action, _ = agent.act(rows(0, [True] * N), agent.initial(N), explore=False)
    assert np.array_equal(action, loud.given[-1]["found"].first["a"].numpy()), "only where it explores"


def test_an_episode_is_planned_alike_whoever_is_beside_it_and_again_after_a_resume() -> None:
    agent = agent_of(ActionSpec("continuous", 2))
    torch.manual_seed(0)
    _, state = agent.act(rows(0, [True] * N), agent.initial(N), explore=False)
    kept = {k: v.clone() for k, v in state.items()}  # what a checkpoint holds
    together, _ = agent.act(rows(1), state, explore=False)
    torch.manual_seed(7)  # the global generator has nothing to say within an episode
    again, _ = agent.act(rows(1), kept, explore=False)
    assert np.array_equal(together, again)
    alone, _ = agent.act(rows(1, rows_of=slice(1, 2)), State(kept).select(torch.tensor([1])), explore=False)
    np.testing.assert_allclose(alone, together[1:2], atol=1e-5)


def test_another_planner_within_an_episode_begins_cold_and_a_weight_of_nothing_is_refused() -> None:
    agent = agent_of(ActionSpec("continuous", 2))
    _, state = agent.act(rows(0, [True] * N), agent.initial(N))
    agent.configure(Configuration(planner=CEM(horizon=5, candidates=20, elites=4, iterations=1)))
    _, state = agent.act(rows(1), state)
    assert state["plan/a"].shape == (N, 5, 2)
    agent.configure(Configuration())
    _, state = agent.act(rows(2), state)
    assert "plan/a" not in state
    with pytest.raises(ConfigError, match="no term of this cost is called 'rewards'; these are: reward. Did you mean"):
        agent.configure(Configuration({"rewards": 2.0}))


def test_a_limit_of_no_term_is_told_when_it_is_configured() -> None:
    agent = agent_of(SPECS["force"])
    before = agent.configuration
    wrong = Configuration(planner=Lagrangian(CEM(3, 8, 2, 1)), limits={"efort": 0.2})
    with pytest.raises(ConfigError, match="limits: no term of this cost is called 'efort'"):
        agent.configure(wrong)
    assert agent.configuration is before


def test_an_agent_keeps_to_the_limits_of_its_configuration() -> None:
    """What actions take may not exceed 0.2, which a plan for the reward alone does; each stream by itself."""
    agent = agent_of(SPECS["force"])
    agent.cost = replace(agent.cost, intrinsic={"effort": Effort()})
    agent.configure(Configuration(weights={"effort": 0.0}, planner=CHEAP))
    free, _ = agent.act(rows(0, (True,) * N), agent.initial(N), explore=False)
    assert (np.square(free).sum(-1) > 0.2).any()
    search = Lagrangian(CEM(horizon=3, candidates=100, elites=10, iterations=4), tolerance=0.01)
    agent.configure(Configuration(planner=search, limits={"effort": 0.2}))
    state = agent.initial(N)
    for t in range(3):
        acted, state = agent.act(rows(t, (t == 0,) * N), state, explore=False)
        assert (np.square(acted).sum(-1) <= 0.2101).all()
