"""The agent that learns in dreams, on a world that is no RSSM: other names, no continuation, no reward."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from tests.formula.models import Join
from tests.worlds.sketches import transformer
from worldformula import KL, Deterministic, E, Normal, Sum, World, log
from worldformula.agent import lessons
from worldformula.agent.configurator import Configuration
from worldformula.agent.cost import Cost
from worldformula.agent.imagination import ImaginationAgent
from worldformula.agent.perception import Perception
from worldformula.agents.dreamer_v3 import DreamerConfig, tiny
from worldformula.envs import ActionSpec, Column, Envs
from worldformula.errors import ConfigError, FormulaError
from worldformula.learners.imagination import ImaginationActorCritic
from worldformula.nets.transformer import CausalTransformer
from worldformula.planners.cem import CEM
from worldformula.testing import check_agent
from worldformula.training.objective import Minimises
from worldformula.training.optimiser import LaProp

N, T, X, A, H, Z = 3, 8, 4, 2, 6, 3
COLUMNS = {"body": Column("vector", (X,), "float32")}
SETTINGS: DreamerConfig = tiny()
CPU = torch.device("cpu")


def world(*, rewarded: bool) -> World:
    core = Deterministic("g_t = f(g_{t-1}, s_{t-1}, a_{t-1})", Join(H + Z + A, H), shape=H)
    prior, post = Normal("p(s_t|g_t)", Join(H, 2 * Z), shape=Z), Normal("q(s_t|g_t,o_t)", Join(H + X, 2 * Z), shape=Z)
    seen = Normal("p(o_t|g_t,s_t)", Join(H + Z, X), shape=X, scale=1.0)
    score = Normal("p(j_t|g_t,s_t)", Join(H + Z, 1), shape=(), scale=1.0)
    step = KL(post, prior) - log(seen)
    return World(
        prior=core * prior,
        posterior=core * post,
        heads={"seen": seen, "score": score} if rewarded else {"seen": seen},
        roles={"reward": "score"} if rewarded else {},
        observations={"body": "o"},
        loss=Sum("t", E(core * post, step - log(score) if rewarded else step), reset="begin").mean(),
    )


def agent_of(made: World) -> ImaginationAgent:
    policy = Normal("π(a_t|g_t,s_t)", Join(H + Z, 2 * A), shape=A)
    learner = ImaginationActorCritic(policy, Join(H + Z, 255))
    weights = {"world": 1.0, "actor": 1.0, "critic": 1.0, "replay": 0.3}
    player = Minimises(weights, [made, policy, learner.critic], partial(LaProp, lr=1e-3, warmup=0))
    return ImaginationAgent(
        SETTINGS, made, Perception.of(made, 0.9, COLUMNS, ActionSpec("continuous", A)), learner,
        players={"agent": player}, horizon=3, late=4,
    )  # fmt: skip


def rows() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    first, last = np.zeros((N, T), bool), np.zeros((N, T), bool)
    first[:, 0], last[0, 3], first[0, 4] = True, True, True
    return {
        "body": rng.normal(size=(N, T, X)).astype(np.float32), "action": np.zeros((N, T, A), np.float32),
        "reward": np.ones((N, T), np.float32), "is_first": first, "is_last": last, "is_terminal": last,
    }  # fmt: skip


def test_it_learns_acts_and_plans_on_a_world_with_names_of_its_own() -> None:
    torch.manual_seed(0)
    agent = agent_of(world(rewarded=True))
    before = {k: v.clone() for k, v in agent.state_dict().items()}
    for _ in range(2):
        found = agent.update(rows())
    assert all(torch.isfinite(torch.as_tensor(v)).all() for v in found.values())
    assert not [k for k, v in agent.state_dict().items() if torch.equal(v, before[k])]
    _, reward, proceed = agent.dream(agent.world.initial(N))
    assert reward.shape == (N, 4)
    torch.testing.assert_close(proceed, torch.full((N, 4), 1 - 1 / 333))
    one = {k: v[:, 0] for k, v in rows().items()}
    agent.configure(Configuration({"reward": 2.0}, CEM(horizon=3, candidates=20, elites=4, iterations=2)))
    action, state = agent.act(one, agent.initial(N))
    assert action.shape == (N, A)
    assert set(state) == {"g", "s", "a", "plan_seed", "plan_count", "plan/a"}


def test_it_learns_by_another_cost_where_there_is_no_reward() -> None:
    torch.manual_seed(0)
    agent = agent_of(world(rewarded=False))
    with pytest.raises(FormulaError, match="no head of this World has the role 'reward'"):
        agent.update(rows())
    agent.cost = Cost(agent.world, {"still": lambda states: states["s"].square().sum(-1)}, discount=0.9)
    found = agent.update(rows())
    assert all(torch.isfinite(torch.as_tensor(v)).all() for v in found.values())
    dream, reward, proceed = agent.dream(agent.world.initial(N))
    torch.testing.assert_close(reward, -dream["s"].square().sum(-1))
    assert (proceed == 0.9).all()


def remembering(*, late: int = 1, context: bool = False, replay: bool = False) -> ImaginationAgent:
    """Dreams over a transformer: what it attends to goes on from the rows into the dream."""
    made = transformer.build(observations={"body": "x"})
    policy = Normal("π(a_t|h_t,z_t)", Join(11, 2 * A), shape=A)
    learner = ImaginationActorCritic(policy, Join(11, 255))
    weights = {"world": 1.0, "actor": 1.0, "critic": 1.0} | ({"replay": 0.3} if replay else {})
    player = Minimises(weights, [made, policy, learner.critic], partial(LaProp, lr=1e-3, warmup=0))
    columns = {"body": Column("vector", (transformer.X,), "float32")}
    return ImaginationAgent(
        SETTINGS, made, Perception.of(made, 0.9, columns, ActionSpec("continuous", A)), learner,
        players={"agent": player}, horizon=3, late=late, context=context,
    )  # fmt: skip


def test_dreams_go_on_from_what_a_world_remembers() -> None:
    torch.manual_seed(0)
    agent, data = remembering(), rows()
    data["body"] = np.repeat(data["body"], 2, 2)[..., : transformer.X]
    data["action"] = np.random.default_rng(1).uniform(-1, 1, (N, T, A)).astype(np.float32)
    before = {k: v.clone() for k, v in agent.state_dict().items()}
    assert all(torch.isfinite(torch.as_tensor(v)).all() for v in agent.update(data).values())
    assert not [k for k, v in agent.state_dict().items() if torch.equal(v, before[k])]

    begin = lessons.remembered(agent, data, torch.Generator().manual_seed(0))
    dream, *_ = agent.dream(begin, torch.Generator().manual_seed(0))
    net = next(m for m in agent.world.modules() if isinstance(m, CausalTransformer))
    filtered = agent.world.filter(agent.perception.learn(data, CPU), generator=torch.Generator().manual_seed(0))
    drawn = torch.cat((filtered["z"], dream["z"][:, 1:-1]), 1).flatten(2)  # of the rows, then of the dream
    acts = torch.cat((torch.as_tensor(data["action"])[:, :-1], dream["a"][:, :-1]), 1)
    first = torch.zeros(N, T + 3, dtype=torch.bool)
    first[:, :T] = torch.as_tensor(data["is_first"])
    past = torch.cat((torch.zeros(N, 1, drawn.shape[2] + A), torch.cat((drawn, acts), -1)), 1)
    whole = net(past.masked_fill(first[..., None], 0.0), reset=first)
    torch.testing.assert_close(dream["h"][:, 1:], whole[:, T:], rtol=1e-4, atol=1e-5)


class Six(gymnasium.Env[Any, Any]):
    """Six random numbers for whatever is done with two forces; episodes of seven steps."""

    observation_space = gymnasium.spaces.Dict({"body": gymnasium.spaces.Box(-9, 9, (6,))})
    action_space = gymnasium.spaces.Box(-1, 1, (A,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.step_count = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.step_count += 1
        return self.observation_space.sample(), float(action.sum()), self.step_count == 7, False, {}


def test_an_agent_whose_world_remembers_keeps_the_laws() -> None:
    if "tests/Six-v0" not in gymnasium.registry:
        gymnasium.register("tests/Six-v0", entry_point=Six)
    torch.manual_seed(0)
    check_agent(remembering(), Envs("tests/Six-v0", 2, seed=0), turns=20)


@pytest.mark.parametrize(("option", "said"), [({"late": 2}, "late=2"), ({"context": True}, "context=True")])
def test_a_world_that_remembers_its_last_step_alone_starts_dreams_there(option: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=f"{said}: the world keeps h_cache of the last step"):
        remembering(**option)
    with pytest.raises(ConfigError, match="a return from the data needs two states"):
        remembering(replay=True)


def test_replayed_rows_are_worth_what_dreams_are_worth() -> None:
    """Weight of the reward and intrinsic terms hold for the data too; they carry no gradient into the states."""
    made = world(rewarded=True)
    states = made.filter({**Perception.of(made, 0.9, COLUMNS, ActionSpec("continuous", A)).learn(rows(), CPU)}, seed=0)
    given = torch.randn(N, T)
    still = {"still": lambda s: s["s"].square().sum(-1)}
    cost = Cost(made, still, weights={"reward": 2.0, "still": 0.5})
    got = cost.received(states, given)
    torch.testing.assert_close(got, 2.0 * given - 0.5 * states["s"].square().sum(-1).detach())
    assert not got.requires_grad
    torch.testing.assert_close(Cost(made).received(states, given), given, rtol=0, atol=0)
    alone = Cost(world(rewarded=False), still)
    torch.testing.assert_close(alone.received(states, given), -states["s"].square().sum(-1).detach())
