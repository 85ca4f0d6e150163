"""When an agent thinks: doubts, the rows that are planned for, and goals of a configuration."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from worldformula.agent.configurator import Configuration, Habits
from worldformula.agent.imagination import ImaginationAgent
from worldformula.agent.modes import Costly, Disagreement, Surprise, Switch
from worldformula.agent.terms import Distance
from worldformula.agents import dreamer_v3
from worldformula.envs import ActionSpec, Column
from worldformula.errors import ConfigError, ShapeError
from worldformula.planner import Plan, Planner
from worldformula.planners.cem import CEM
from worldformula.training.objective import Minimises
from worldformula.world import State

COLUMNS, N = {"vector": Column("vector", (4,), "float32")}, 3
CHEAP = CEM(horizon=3, candidates=20, elites=4, iterations=2)


@dataclass(frozen=True)
class Watched(Planner):
    """CEM that keeps what it was given."""

    given: list[dict[str, Any]] = field(default_factory=list)

    def plan(self, dynamics: Any, task: Any, state: Any, **options: Any) -> Plan:
        found = CHEAP.plan(dynamics, task, state, **options)
        self.given.append({**options, "task": task, "state": state, "found": found})
        return found


@dataclass(frozen=True)
class Told:
    """A doubt that is what the test says, row by row."""

    much: list[float]
    most: float = 0.5

    def __call__(self, *_: Any) -> Tensor:
        return torch.tensor(self.much)


def agent_of() -> ImaginationAgent:
    agent = dreamer_v3.build(dreamer_v3.tiny(), COLUMNS, ActionSpec("continuous", 2), seed=0)
    torch.nn.init.normal_(agent.world.heads["r"].net.head.weight)
    return agent


def rows(t: int, first: bool = False) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(t)
    return {"vector": rng.normal(size=(N, 4)).astype(np.float32), "is_first": np.full(N, first)}


def test_only_rows_with_a_doubt_are_planned_for_and_the_others_do_what_the_policy_does() -> None:
    agent, planner, doubt = agent_of(), Watched(), Told([0.0, 0.9, 0.0])
    agent.configure(Configuration(planner=planner, noise=0.0, switch=Switch((doubt,))))
    _, state = agent.act(rows(0, first=True), agent.initial(N), explore=False)
    assert len(planner.given[-1]["found"].cost) == N  # an episode begins with a plan
    _, state = agent.act(rows(1), state, explore=False)
    plan = planner.given[-1]["found"]
    assert len(plan.cost) == 1
    assert torch.equal(state["a"][1], plan.first["a"][0])
    seen = State({k: state[k] for k in ("h", "z")})
    assert agent.actor is not None
    modes = agent.actor.act(seen, explore=False)["a"]
    assert torch.allclose(state["a"][[0, 2]], modes[[0, 2]], atol=1e-6)
    assert state["plan_count"].tolist() == [1, 2, 1]
    assert state["plan/a"].isnan().flatten(1).any(1).tolist() == [True, False, True]
    doubt.much[:] = [0.9, 0.9, float("nan")]  # what is no number is a doubt
    agent.act(rows(2), state, explore=False)
    assert planner.given[-1]["warm"]["a"].isnan().flatten(1).any(1).tolist() == [True, False, True]
    doubt.much[:] = [0.0] * N
    before = len(planner.given)
    agent.act(rows(3), state, explore=False)
    assert len(planner.given) == before


def test_surprise_is_what_the_world_did_not_foretell() -> None:
    agent = agent_of()
    agent.configure(Configuration(planner=CHEAP, noise=0.0))
    _, before = agent.act(rows(0, first=True), agent.initial(N), explore=False)
    start = State({k: before[k] for k in ("h", "z")})
    foretold = agent.world.imagine(start, actions=before["a"].unsqueeze(1), deterministic=True)["h"][:, 1]
    seen = State({"h": foretold + torch.tensor([[0.0], [0.1], [2.0]]), "z": before["z"]})
    assert agent.actor is not None
    much = Surprise("h", 0.5)(agent.world, agent.task(), agent.actor, seen, before)
    assert much.tolist() == pytest.approx([0.0, 0.01, 4.0], abs=1e-5)


def test_disagreement_and_what_the_policy_would_cost() -> None:
    agent = agent_of()
    seen = agent.world.initial(N)
    assert agent.actor is not None
    critics = (lambda s: s["h"][:, 0] + 1.0, lambda s: s["h"][:, 0] + 3.0, lambda s: s["h"][:, 0] + 5.0)
    much = Disagreement(critics, 1.0)(agent.world, agent.task(), agent.actor, seen, {})
    assert much.tolist() == pytest.approx([(8 / 3) ** 0.5] * N)
    cost = Costly(4, 0.0)(agent.world, agent.task(), agent.actor, seen, {})
    assert agent.learner is not None
    dream = agent.world.imagine(seen, agent.learner.policy, horizon=4, deterministic=True)
    reward = agent.world.decode(dream, ["r"])["r"][:, 1:].double()
    going = agent.world.decode(dream, ["c"])["c"][:, 1:].double()
    alive = torch.cat((torch.ones_like(going[:, :1]), going[:, :-1]), 1).cumprod(1)
    assert cost.detach().double() == pytest.approx(-(reward * alive).sum(1).detach(), rel=1e-3, abs=1e-4)


def test_a_configuration_has_goals_that_terms_of_the_cost_read() -> None:
    built, near = agent_of(), torch.nn.Linear(128, 1)
    moves = Minimises({"world": 1.0}, moves=[built.world], optimiser=torch.optim.Adam)
    agent = ImaginationAgent(
        built.config, built.world, built.perception, players={"world": moves},
        habits=Habits(Configuration(planner=CHEAP)),
        intrinsic={"far": Distance("h", "goal")}, critics={"near": lambda states: near(states["h"]).squeeze(-1)},
    )  # fmt: skip
    assert any(weight is near.weight for weight in agent.parameters())  # a critic is kept with the agent
    no = {"reward": 0.0, "near": 0.0}
    planner, goal = Watched(), torch.randn(1, 128)
    agent.configure(Configuration(no, planner=planner, noise=0.0, goal={"goal": goal}))
    agent.act(rows(0, first=True), agent.initial(N), explore=False)
    plan = planner.given[-1]
    assert torch.equal(plan["task"].given["goal"], goal.expand(N, 128))
    far = (plan["found"].states["h"][:, 1:] - goal).square().sum(-1)
    going = agent.world.decode(plan["found"].states, ["c"])["c"][:, 1:]
    alive = torch.cat((torch.ones_like(going[:, :1]), going[:, :-1]), 1).cumprod(1)
    assert plan["found"].cost == pytest.approx((far * alive).sum(1).detach(), rel=1e-4)

    def shown(given: dict[str, np.ndarray]) -> dict[str, Tensor]:
        return {"goal": torch.full((N, 128), float(given["vector"][0, 0]))}

    agent.configure(Configuration(no, planner=planner, noise=0.0, goal=shown))
    agent.act(rows(5, first=True), agent.initial(N), explore=False)
    assert planner.given[-1]["task"].given["goal"][0, 0].item() == pytest.approx(rows(5)["vector"][0, 0])
    agent.configure(Configuration(no, planner=planner, goal={"goal": torch.zeros(2, 128)}))
    with pytest.raises(ShapeError, match="goals of one row, or of 3"):
        agent.act(rows(0, first=True), agent.initial(N))


def test_a_longer_plan_may_begin_where_only_some_rows_think() -> None:
    agent, doubt = agent_of(), Told([0.0, 0.9, 0.0])
    agent.configure(Configuration(planner=CHEAP, noise=0.0, switch=Switch((doubt,))))
    _, state = agent.act(rows(0, first=True), agent.initial(N), explore=False)
    agent.configure(Configuration(planner=replace(CHEAP, horizon=5), noise=0.0, switch=Switch((doubt,))))
    _, state = agent.act(rows(1), state, explore=False)
    assert state["plan/a"].shape == (N, 5, 2)
    assert state["plan/a"].isnan().flatten(1).any(1).tolist() == [True, False, True]


def test_a_doubt_that_is_not_one_number_a_row_is_refused() -> None:
    """Of critics [N, 1] it would be compared with every other row."""
    agent = agent_of()
    critics = (lambda s: s["h"][:, :1], lambda s: 2 * s["h"][:, :1])
    agent.configure(Configuration(planner=CHEAP, switch=Switch((Disagreement(critics, 1.0),))))
    _, state = agent.act(rows(0, first=True), agent.initial(N))
    with pytest.raises(ShapeError, match=r"one number a row\n(.*\n)?.*Disagreement"):
        agent.act(rows(1), state)


def test_a_copy_of_an_agent_asks_the_networks_of_the_copy_in_functions_too() -> None:
    """An actor that is handed weights is a copy: a critic in a closure is its own, and so are a goal and a doubt."""
    built, near = agent_of(), torch.nn.Linear(128, 1)
    moves = Minimises({"world": 1.0}, moves=[built.world], optimiser=torch.optim.Adam)
    usual = Configuration(planner=CHEAP, goal=lambda rows: {"goal": near.weight.detach()})
    agent = ImaginationAgent(
        built.config, built.world, built.perception, players={"world": moves}, habits=Habits(usual),
        critics={"near": lambda states: near(states["h"]).squeeze(-1)},
    )  # fmt: skip
    other = copy.deepcopy(agent)
    other.take_over({k: v + 1 if k.startswith("judging") else v for k, v in agent.weights().items()})
    state, before = State({"h": torch.ones(N, 128)}), near(torch.ones(128)).item()
    assert agent.cost.critics["near"](state).tolist() == pytest.approx([before] * N)
    assert other.cost.critics["near"](state).tolist() == pytest.approx([before + 129] * N, rel=1e-4)
    assert torch.equal(other.configuration.given(rows(0))["goal"], (near.weight + 1).expand(N, 128))
    assert torch.equal(agent.configuration.given(rows(0))["goal"], near.weight.expand(N, 128))
    doubt = Disagreement((lambda s: near(s["h"]).squeeze(-1), lambda s: 0 * s["h"][:, 0]), 1.0)
    net, copied = copy.deepcopy((near, Configuration(switch=Switch((doubt,)))))
    torch.nn.init.zeros_(net.weight)
    torch.nn.init.constant_(net.bias, 6.0)
    assert copied.switch.doubts[0](None, agent.task(), None, state, {}).tolist() == [3.0] * N


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one doubt"):
        Switch(())
    with pytest.raises(ConfigError, match="at least one step"):
        Costly(0, 1.0)
    with pytest.raises(ConfigError, match="at least two critics"):
        Disagreement((lambda s: s["h"],), 1.0)


def test_doubts_that_cannot_be_had_are_refused() -> None:
    agent = agent_of()
    state = agent.initial(2)
    with pytest.raises(ConfigError, match="surprise: the states hold .*, and not zz"):
        Surprise("zz", 0.1)(agent.world, agent.task(), agent.actor, state, state)
    critic = lambda states: states["h"].sum(-1)  # noqa: E731
    for made in (
        lambda: Surprise("z", float("nan")), lambda: Costly(3, float("nan")),
        lambda: Disagreement((critic, critic), float("nan")),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="a number, got most=nan"):
            made()
    with pytest.raises(ConfigError, match="at least one step, got horizon=2.5"):
        Costly(2.5, 1.0)
