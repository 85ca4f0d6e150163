"""A configurator chooses how deep an agent plans: the same world, by its lowest level alone or from the top down."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from tests.planners.test_hierarchy import HIGH, LOW, corners, two_levels
from worldformula import Deterministic, E, Sum, Value, norm2
from worldformula.agent.configurator import Configuration, Configurator, Habits
from worldformula.agent.imagination import ImaginationAgent
from worldformula.agent.perception import Perception
from worldformula.agent.terms import Distance
from worldformula.envs import ActionSpec, Column
from worldformula.planners.hierarchy import Hierarchy, Level
from worldformula.training.objective import Minimises
from worldformula.world import World

N, GOAL = 3, torch.tensor([[0.8, -0.5]])


class Sight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x


def agent_of(made: World, tasks: Configurator) -> ImaginationAgent:
    columns = {"place": Column("vector", (2,), "float32")}
    return ImaginationAgent(
        None, made, Perception.of(made, 1.0, columns, ActionSpec("continuous", 2)),
        intrinsic={"far": Distance("s", "goal"), "above": Distance("s_2", "goal_2")},
        players={"world": Minimises({"world": 1.0}, moves=[made])}, habits=Habits(tasks("flat")),
    )  # fmt: skip


def test_one_world_is_planned_on_with_and_without_levels() -> None:
    seen = Deterministic("s_t = e(x_t)", Sight(), shape=2)
    above = Deterministic("s_{2,t} = e_2(s_t)", lambda s: 2 * s, shape=2)
    loss = Sum("t", E(seen * above, norm2(Value("s_{2,t}", shape=2))), reset="first").mean()
    levels = dict(two_levels().levels)
    world = World(posterior=seen * above, levels=levels, main="1", loss=loss, observations={"place": "x"})
    top_down = Hierarchy(LOW, (Level.of(world, "2", HIGH, corners()),))
    tasks = Configurator({
        "flat": Configuration({"far": 1.0, "above": 0.0}, LOW, noise=0.0, goal={"goal": GOAL}),
        "deep": Configuration({"far": 0.0, "above": 1.0}, top_down, noise=0.0, goal={"goal_2": 2 * GOAL}),
    })  # fmt: skip
    torch.manual_seed(0)
    agent, ends = agent_of(world, tasks), dict[str, float]()
    before = {k: v.clone() for k, v in agent.state_dict().items()}
    for name in ("flat", "deep", "flat"):
        agent.configure(tasks(name))
        place, state = np.zeros((N, 2), np.float32), agent.initial(N)
        for step in range(12):
            rows = {"place": place, "is_first": np.full(N, step == 0)}
            action, state = agent.act(rows, state, explore=False)
            place = place + np.float32(0.1) * action.astype(np.float32)
        assert ("plan/m" in state) == (name == "deep")  # the plan of the level above is kept within the episode
        ends[name] = float(np.linalg.norm(place - GOAL.numpy(), axis=1).max())
    assert ends["flat"] < 0.05
    assert ends["deep"] < 0.15
    assert all(torch.equal(v, before[k]) for k, v in agent.state_dict().items())
