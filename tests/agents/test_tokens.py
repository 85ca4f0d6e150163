"""Extra tokens of a configurator: what the world itself is told of a task, with the same weights for all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from worldformula import Deterministic, E, Normal, Sum, World, log
from worldformula.agent.actor import Actor
from worldformula.agent.configurator import Configuration, Habits
from worldformula.agent.imagination import ImaginationAgent
from worldformula.agent.modes import Surprise
from worldformula.agent.perception import Perception
from worldformula.agent.terms import Distance
from worldformula.envs import ActionSpec, Column
from worldformula.errors import ConfigError, MissingInputError, ShapeError
from worldformula.planner import Plan, Planner
from worldformula.planners.cem import CEM
from worldformula.report.planned import planned
from worldformula.training.objective import Minimises

N = 4


class Drift(nn.Module):
    """Where actions and a wind blow to."""

    def forward(self, z: Tensor, a: Tensor, wind: Tensor) -> Tensor:
        return z + 0.2 * (a + wind)


class Sight(nn.Module):
    """A camera that the wind shifts by half of it, which whoever knows the wind undoes."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor, wind: Tensor) -> Tensor:
        return self.scale * x - 0.5 * wind


@dataclass(frozen=True)
class Watched(Planner):
    """CEM that keeps its plans."""

    found: list[Plan] = field(default_factory=list)

    def plan(self, *given: Any, **options: Any) -> Plan:
        self.found.append(CEM(horizon=5, candidates=200, elites=20, iterations=5).plan(*given, **options))
        return self.found[-1]


def agent_of(planner: Planner, **settings: Any) -> ImaginationAgent:
    core = Deterministic("z_t = f(z_{t-1}, a_{t-1}, wind)", Drift(), shape=2)
    embed = Deterministic("z_t = e(x_t, wind)", Sight(), shape=2)
    told = Normal("p(x_t|z_t)", nn.Linear(2, 2), shape=2, scale=1.0)
    loss = Sum("t", E(embed, -log(told)), reset="first").mean()
    world = World(prior=core, posterior=embed, heads=[told], loss=loss, observations={"place": "x"})
    columns, moves = {"place": Column("vector", (2,), "float32")}, ActionSpec("continuous", 2)
    return ImaginationAgent(
        None, world, Perception.of(world, 1.0, columns, moves), intrinsic={"far": Distance("z")},
        players={"world": Minimises({"world": 1.0}, moves=[world])},
        habits=Habits(Configuration({"far": 1.0}, planner, noise=0.0, goal={"goal": torch.zeros(1, 2)}, **settings)),
    )  # fmt: skip


def walk(agent: ImaginationAgent, wind: np.ndarray, steps: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Where points end that begin around the goal, and by how much each next place was not the foretold one."""
    place = np.random.default_rng(0).uniform(-1, 1, (N, 2)).astype(np.float32)
    state, off = agent.initial(N), []
    for step in range(steps):
        rows = {"place": place + 0.5 * wind, "wind": wind, "is_first": np.full(N, step == 0)}
        action, state = agent.act(rows, state, explore=False)
        place = place + np.float32(0.2) * (action + wind).astype(np.float32)
        off.append(np.abs(agent.search.planner.found[-1].states["z"][:, 1].numpy() - place).max())
    return place, np.array(off)


def test_one_world_is_told_of_every_task_and_none_of_its_weights_moves() -> None:
    planner = Watched()
    agent = agent_of(planner)
    before = {k: v.clone() for k, v in agent.state_dict().items()}
    usual = agent.habits.usual
    for wind in ([0.4, 0.0], [-0.2, 0.5]):
        blown = np.broadcast_to(np.array(wind, np.float32), (N, 2))
        for tokens in ({"wind": torch.tensor([wind])}, lambda rows: {"wind": torch.from_numpy(rows["wind"].copy())}):
            agent.configure(Configuration({"far": 1.0}, planner, noise=0.0, goal=usual.goal, tokens=tokens))
            place, off = walk(agent, blown)
            assert off.max() < 1e-5  # every dream is what comes to be
            assert np.linalg.norm(place, axis=1).max() < 0.1
    calm = {"wind": torch.zeros(1, 2)}
    agent.configure(Configuration({"far": 1.0}, planner, noise=0.0, goal=usual.goal, tokens=calm))
    _, off = walk(agent, blown)
    assert off.min() > 0.05  # of another task nothing is right
    assert all(torch.equal(v, before[k]) for k, v in agent.state_dict().items())


def test_each_stream_has_its_own_and_none_is_kept_in_the_acting_state() -> None:
    planner, winds = Watched(), np.random.default_rng(1).uniform(-0.5, 0.5, (N, 2)).astype(np.float32)
    agent = agent_of(planner, tokens=lambda rows: {"wind": torch.from_numpy(rows["wind"])})
    _, off = walk(agent, winds)
    assert off.max() < 1e-5
    rows = {"place": winds, "wind": winds, "is_first": np.ones(N, bool)}
    assert "wind" not in agent.act(rows, agent.initial(N))[1]


def test_a_surprise_is_judged_under_the_token_too() -> None:
    """The doubt dreams one step from the row before, which a world that reads a token cannot do without it."""
    agent = agent_of(Watched(), tokens={"wind": torch.tensor([[0.3, 0.0]])})
    world, seen = agent.world, {"z": torch.tensor([[0.26, 0.0]])}
    before = {"z": torch.zeros(1, 2), "a": torch.ones(1, 2), "wind": torch.tensor([[0.3, 0.0]])}
    much = Surprise("z", 0.1)(world, agent.task(), None, seen, before)
    assert much.item() == pytest.approx(0.5 * 0.2**2, rel=1e-4)  # one of two numbers is .2 from the foretold .26, .2


def test_a_policy_reads_it_at_once() -> None:
    """Mode-1: a policy whose mean is the token itself."""
    agent = agent_of(Watched())
    agent.actor = Actor(Normal("π(a_t|z_t,wind)", Against(), shape=2, scale=0.1), agent.world.actions, {}, 0.0)
    agent.configure(Configuration(tokens={"wind": torch.tensor([[0.4, -0.2]])}))
    rows = {"place": np.zeros((N, 2), np.float32), "is_first": np.ones(N, bool)}
    action, _ = agent.act(rows, agent.initial(N), explore=False)
    np.testing.assert_allclose(action, np.broadcast_to([-0.4, 0.2], (N, 2)), atol=1e-6)


class Against(nn.Module):
    def forward(self, z: Tensor, wind: Tensor) -> Tensor:
        return -wind


def test_a_plan_on_the_page_is_under_the_token_too() -> None:
    wind = torch.tensor([[0.4, -0.2]])
    agent = agent_of(Watched(), tokens={"wind": wind})
    place = np.array([[[0.1, 0.2], [0.3, -0.3]]], np.float32)
    zeros = np.zeros((1, 2), np.float32)
    batch = {"place": place, "action": np.zeros((1, 2, 2), np.float32), "reward": zeros, "is_terminal": zeros > 0}
    batch |= {"is_first": np.array([[True, False]]), "is_last": zeros > 0}
    found = planned(agent, CEM(horizon=4, candidates=200, elites=20, iterations=4), batch)
    z, total = place[0, -1] - 0.5 * wind[0].numpy(), 0.0  # the camera is undone, and the wind goes on blowing
    for action in found.actions["a"]:
        z = z + 0.2 * (action + wind[0].numpy())
        total += float((z**2).sum())
    assert found.total == pytest.approx(total, rel=1e-4)
    assert np.nanmin(found.landscape) >= 0
    truth = agent.open_loop({key: np.repeat(value, 2, 1) for key, value in batch.items()}, context=2)
    # Nothing is done and the wind blows .2 · (.4, −.2) a step, from where the camera was undone; the head is told z.
    weight, bias = (p.detach().numpy() for p in agent.world.heads["x"].net.parameters())
    at = place[0, 0] - 0.5 * wind[0].numpy()
    way = np.stack([at + 0.2 * k * wind[0].numpy() for k in (1, 2)])
    np.testing.assert_allclose(truth["dream"][0, 2:], way @ weight.T + bias, atol=1e-5)


def test_refused() -> None:
    rows = {"place": np.zeros((N, 2), np.float32), "is_first": np.ones(N, bool)}
    for tokens, error, told in (
        ({"gust": torch.zeros(1, 2)}, ConfigError, r"reads 'gust'.*wind(.|\n)*Configuration\(goal="),
        ({"wind": torch.zeros(3, 2)}, ShapeError, r"expected tokens of one row, or of 4"),
        ({"wind": [0.0, 0.0]}, ShapeError, "the token 'wind' is list"),
    ):
        agent = agent_of(Watched(), tokens=tokens)
        with pytest.raises(error, match=told):
            agent.act(rows, agent.initial(N))
    agent = agent_of(Watched())
    with pytest.raises(MissingInputError, match="wind"):
        agent.act(rows, agent.initial(N))
