"""Memory in an agent: what its world stores and what it recollects lie in the acting state, and go on exactly."""

from __future__ import annotations

import copy
import dataclasses
from itertools import islice

import numpy as np
import pytest
import torch

from tests.agent.recollecting import Recollecting, build
from worldformula.agent.memory import COST, COUNT, KEPT, ShortTermMemory
from worldformula.agent.recollection import Hindsight, Recollection, Recollects
from worldformula.envs import Envs
from worldformula.errors import CheckpointError, ConfigError
from worldformula.run.config import EnvConfig, RunConfig
from worldformula.run.interact import Interact
from worldformula.run.play import play
from worldformula.testing import check_agent
from worldformula.training import checkpoint
from worldformula.world import State

CPU = torch.device("cpu")


def agent_and_envs(num=3, steps=12, **changes):
    envs = Envs("pendulum", num, max_steps=steps)
    return build(Recollecting(**changes), envs.observations, envs.actions, 0), envs


@pytest.mark.parametrize("learns", ["returns", "transitions"])
def test_it_keeps_the_laws_of_agents(learns):
    agent, envs = agent_and_envs(learns=learns)
    check_agent(agent, envs, turns=16)


def test_the_acting_state_holds_the_pairs_of_the_world_and_a_first_row_empties_them():
    agent, envs = agent_and_envs(num=2)
    turns = list(islice(play(envs, agent), 14))
    written = [int(turn.state["N"][0].max()) for turn in turns]
    assert written == [*range(1, 14), 1]  # 13 rows of an episode of 12 actions, then the next one
    assert turns[5].state["K"].shape == (2, 3, 4)


def test_an_episode_that_ends_is_recollected_with_the_costs_that_were_met():
    agent, envs = agent_and_envs(num=2)
    seen = []
    for turn in islice(play(envs, agent), 27):
        agent.recollect(turn.rows, turn.state)
        seen.append((turn.rows["is_first"].copy(), turn.state["z"].clone()))
        with torch.no_grad():
            reward = agent.world.decode(State({k: turn.state[k] for k in agent.world.carried}), ["r"])["r"]
        seen[-1] += (turn.state["z"][:, 0].square() - reward,)
    assert len(agent.recollection) == 2 * 2 * 13
    rows = agent.recollection.state_dict()
    assert rows["lengths"].tolist() == [13, 13, 13, 13]
    for stream, place in ((0, 0), (1, 13)):
        assert torch.equal(rows["z"][place : place + 13], torch.stack([z[stream] for _, z, _ in seen[:13]]))
        torch.testing.assert_close(rows["cost"][place : place + 13], torch.stack([c[stream] for *_, c in seen[:13]]))


def test_of_a_longer_episode_the_oldest_steps_are_gone_and_of_many_episodes_the_oldest():
    agent, envs = agent_and_envs(num=1, episode=5, capacity=12)
    z = []
    for turn in islice(play(envs, agent), 13):
        agent.recollect(turn.rows, turn.state)
        z.append(turn.state["z"][0])
    assert torch.equal(agent.recollection.state_dict()["z"], torch.stack(z[-5:]))
    for turn in islice(play(envs, agent), 26):
        agent.recollect(turn.rows, turn.state)
    assert agent.recollection.state_dict()["lengths"].tolist() == [5, 5]


def test_evaluations_leave_no_trace_and_the_ring_is_no_other_streams_business():
    agent, envs = agent_and_envs(num=3)
    for turn in islice(play(envs, agent, explore=False), 20):
        state = turn.state
    assert len(agent.recollection) == 0
    before = copy.deepcopy(dict(state))
    seen, costs, begins = state.only(agent.world.carried), torch.arange(3.0), torch.tensor([False, True, False])
    kept = agent.memory.keep(seen, costs, state, begins)
    assert all(torch.equal(before[key], state[key]) for key in before)
    one = torch.tensor([1])
    alone = agent.memory.keep(seen.select(one), costs[1:2], state.select(one), begins[1:2])
    assert all(torch.equal(kept[key][1:2], value) for key, value in alone.items())
    assert kept[KEPT + COUNT].tolist() == [int(state[KEPT + COUNT][0]) + 1, 1, int(state[KEPT + COUNT][2]) + 1]
    assert agent.memory.episode(kept, 1)[1].tolist() == [[1.0]]


def test_the_critic_learns_what_was_recollected():
    """A value of returns on states whose costs are known: the held-out error falls."""
    agent, envs = agent_and_envs(num=2, lr=1e-2)
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(30, 13, 6, generator=draw)
    agent.recollection.write(State({"z": z[:20]}, 2), z[:20, :, 0].abs().cumsum(1))
    other = Recollection()
    other.write(State({"z": z[20:]}, 2), z[20:, :, 0].abs().cumsum(1))
    given = other.returns(200, discount=0.9, generator=draw)
    critic = agent.cost.critics["ahead"]
    batch = {key: np.stack([turn.rows[key] for turn in islice(play(envs, agent), 6)], 1) for key in envs.reset(0)}
    batch["action"] = np.zeros((2, 6, 1), np.float32)
    error = [float(critic.loss(**given).value.detach())]
    for _ in range(150):
        agent.update(batch)
    error.append(float(critic.loss(**given).value.detach()))
    assert error[1] < 0.6 * error[0]


def run(folder, steps):
    env = EnvConfig("pendulum", num=2, max_steps=12)
    config = RunConfig(
        "recollecting", "tiny", env, Recollecting("transitions"), steps=steps, eval_every=50, eval_episodes=2,
        checkpoint_every=40, capacity=500, tensorboard=False,
    )  # fmt: skip
    Interact(config, build, folder, say=lambda _: None).run()
    found = checkpoint.load_latest(folder / "checkpoints")
    assert found is not None
    return found


def test_a_run_that_goes_on_recollects_and_ends_with_the_same_bits(tmp_path):
    whole = run(tmp_path / "whole", 120)
    assert len(whole.state["agent"]["recollection"]["lengths"]) == 8  # four episodes of 13 rows in each stream
    assert len([key for key in whole.state["acting"] if key.startswith(KEPT)]) == 3
    run(tmp_path / "parts", 55)  # in the middle of an episode
    again = run(tmp_path / "parts", 120)
    # weights, optimisers, acting states, replay, recollection; the log has an evaluation more, at step 55
    assert (again.path / checkpoint.TENSORS).read_bytes() == (whole.path / checkpoint.TENSORS).read_bytes()


def test_a_critic_that_nobody_feeds_and_impossible_sizes_are_refused():
    agent, _ = agent_and_envs()
    with pytest.raises(ConfigError, match="ahead learns from what the agent recollects"):
        type(agent)(
            agent.config, agent.world, agent.perception, players=agent.objective.players,
            critics={"ahead": agent.cost.critics["ahead"]}, habits=agent.habits,
        )  # fmt: skip
    with pytest.raises(ConfigError, match="a capacity that holds an episode, got 100, 256, 1 and 50"):
        Recollects(100, 50)
    with pytest.raises(ConfigError, match="keeps what the world carries"):
        ShortTermMemory(agent.world, {"a": 1}, ["nothing"], 3)
    with pytest.raises(ConfigError, match="the acting state holds no episode"):
        agent.memory.episode({}, 0)
    state = agent.checkpoint()
    with pytest.raises(CheckpointError, match="of another agent or size"):
        agent.restore({key: value for key, value in state.items() if key != "recollection"})


def test_pieces_between_first_rows_are_episodes_of_their_own():
    memory, z = Recollection(), torch.arange(12.0).view(2, 6, 1)
    first = torch.tensor([[False, False, True, True, False, False], [True, False, False, False, False, True]])
    memory.write_pieces(State({"z": z}, 2), z[..., 0], first)
    found = memory.state_dict()
    assert found["lengths"].tolist() == [2, 3, 5]  # pieces of one step are left out
    assert found["z"][:, 0].tolist() == [0, 1, 3, 4, 5, 6, 7, 8, 9, 10]
    again = Recollection()
    again.load_state_dict(found)
    one, other = (m.pairs(9, 1, generator=torch.Generator().manual_seed(1)) for m in (memory, again))
    assert all(torch.equal(one[key], other[key]) for key in one)
    again.load_state_dict(Recollection().state_dict())
    assert len(again) == 0


def test_hindsight_keeps_the_variable_of_its_goals_too():
    agent, _ = agent_and_envs()
    goals = Hindsight(lambda states: (states["z"] - states["goal"]).square().sum(-1), of="m")
    own = dataclasses.replace(agent.recollects, goals=goals)
    made = type(agent)(
        agent.config, agent.world, agent.perception, players=agent.objective.players, habits=agent.habits,
        critics={"ahead": agent.cost.critics["ahead"]}, recollects=own,
    )  # fmt: skip
    assert made.memory.keeps == ("z", "m")
    assert made.initial(2)[KEPT + "m"].shape == (2, 30, 6)
    assert made.initial(2)[KEPT + COST].shape == (2, 30)
