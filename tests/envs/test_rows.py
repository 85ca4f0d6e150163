"""Rows of experience: who belongs to which row. Reference: an environment that counts."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from tests.envs.counting import NOWHERE, Counting, register
from worldformula.data.replay import Replay
from worldformula.envs import ActionSpec, Envs, make
from worldformula.errors import ConfigError, NonFiniteError, SpaceError


def play(envs, steps, seed=0, episode=0):
    """Rows and actions [steps, N, …] of random play."""
    rng, rows = np.random.default_rng(seed), envs.reset(episode)
    found = []
    for _ in range(steps):
        action = envs.action.random(rng, envs.num)
        found.append({**rows, "action": action})
        rows = envs.step(action)
    return {key: np.stack([row[key] for row in found]) for key in found[0]}


def test_the_action_of_row_t_leads_to_row_t_plus_1():
    rows = play(Envs(register(), 3, seed=1), 40)
    step, arrived_by, episode = np.moveaxis(rows["vector"], -1, 0)
    chosen, inside = rows["action"], ~rows["is_last"][:-1]
    assert (arrived_by[1:][inside] == chosen[:-1][inside]).all()
    assert (step[1:][inside] == step[:-1][inside] + 1).all()
    assert (episode[1:][inside] == episode[:-1][inside]).all()


def test_a_reward_belongs_to_the_arriving_step():
    rows = play(Envs(register(), 2), 30)
    step, arrived_by, _ = np.moveaxis(rows["vector"], -1, 0)
    assert (rows["reward"] == np.where(rows["is_first"], 0.0, 10.0 * step + arrived_by)).all()


def test_after_an_end_comes_the_reset_observation():
    rows = play(Envs(register(), 2), 30)
    step, arrived_by, episode = np.moveaxis(rows["vector"], -1, 0)
    assert (rows["is_first"] == (step == 0)).all()
    assert (rows["is_last"] == (step == 5)).all()
    assert (rows["is_first"][1:] == rows["is_last"][:-1]).all()
    assert (arrived_by[rows["is_first"]] == NOWHERE).all()
    assert (episode[1:] - episode[:-1] == rows["is_first"][1:]).all()


def test_terminated_is_not_truncated():
    terminated = play(Envs(register(), 1, ends="terminated"), 20)
    truncated = play(Envs(register(), 1, ends="truncated"), 20)
    limited = play(Envs(register(), 1, length=100, max_steps=5), 20)
    assert (terminated["is_terminal"] == terminated["is_last"]).all()
    assert terminated["is_last"].sum() == truncated["is_last"].sum() == limited["is_last"].sum() == 3
    assert not truncated["is_terminal"].any()
    assert not limited["is_terminal"].any()


def test_rows_and_actions_keep_their_places_in_the_replay():
    envs = Envs(register(), 2)
    replay = Replay(200, envs.row_spec, streams=2)
    rng, rows = np.random.default_rng(3), envs.reset()
    for _ in range(60):
        action = envs.action.random(rng, 2)
        replay.add(rows, action)
        rows = envs.step(action)
    batch = replay.sample(64, 9)
    arrived_by, inside = batch["vector"][..., 1], ~batch["is_last"][:, :-1]
    assert (arrived_by[:, 1:][inside] == batch["action"][:, :-1][inside]).all()
    assert (batch["action"][batch["is_last"]] == 0).all()


def test_what_follows_a_reset_depends_on_seed_episode_and_actions_alone():
    busy, fresh = Envs("cartpole_swingup", 2, seed=7), Envs("cartpole_swingup", 2, seed=7)
    play(busy, 300, seed=5)  # crosses the end of an episode, so its generators have moved on
    one, two = play(busy, 300, episode=3), play(fresh, 300, episode=3)
    assert all((one[key] == two[key]).all() for key in one)
    other_episode, other_seed = play(busy, 2, episode=4), play(Envs("cartpole_swingup", 2, seed=8), 2, episode=3)
    assert (other_episode["vector"] != two["vector"][:2]).any()
    assert (other_seed["vector"] != two["vector"][:2]).any()
    assert (two["vector"][0, 0] != two["vector"][0, 1]).any()


def test_a_streams_result_does_not_depend_on_the_number_of_streams():
    few, many = Envs("pendulum", 2, seed=3), Envs("pendulum", 5, seed=3)
    assert (few.reset(1)["vector"] == many.reset(1)["vector"][:2]).all()


def test_only_complete_episodes_are_counted():
    envs = Envs(register(), 2)
    envs.reset()
    right = np.array([1, 2])
    for _ in range(3):
        envs.step(right)
        assert envs.finished == []
    envs.reset(1)  # abandons two episodes after three steps
    ended = []
    for _ in range(12):
        envs.step(right)
        ended += envs.finished
    returns = [(e.stream, e.score, e.length) for e in ended]
    assert returns == [(0, 155.0, 5), (1, 160.0, 5)] * 2


def test_actions_are_checked():
    envs = Envs("pendulum", 2)
    envs.reset()
    with pytest.raises(SpaceError, match=r"1 number from -1 to 1, of shape \[N, 1\], got float32 \(2,\)"):
        envs.step(np.zeros(2, np.float32))
    with pytest.raises(NonFiniteError, match="stream 1"):
        envs.step(np.array([[0.0], [np.nan]], np.float32))
    with pytest.raises(ConfigError, match="at least one"):
        Envs("pendulum", 0)


def test_actions_are_rescaled_and_clipped():
    env = make("pendulum")
    for given, torque in ((0.5, 1.0), (-1.0, -2.0), (3.0, 2.0)):
        env.reset(seed=0)
        env.step(np.array([given], np.float32))
        assert env.unwrapped.last_u == pytest.approx(torque)


def test_repeated_actions_sum_their_rewards_and_stop_at_the_end():
    env = make(register(), action_repeat=3)
    env.reset(seed=0)
    choose = np.array(2)
    _, reward, terminated, _, _ = env.step(choose)
    assert (reward, terminated) == (10 + 20 + 30 + 3 * 2, False)
    observation, reward, terminated, _, _ = env.step(choose)
    assert (reward, terminated, observation["vector"][0]) == (40 + 50 + 2 * 2, True, 5)
    with pytest.raises(ConfigError, match="at least 1"):
        make(register(), action_repeat=0)


def test_the_limit_counts_steps_before_the_repetition():
    env = make("cartpole_swingup", action_repeat=2, max_steps=7)
    env.reset(seed=0)
    ends = [env.step(np.zeros(1, np.float32))[3] for _ in range(4)]
    assert ends == [False, False, False, True]


def test_not_finite_values_name_key_step_and_environment():
    class Broken(Counting):
        def step(self, action):
            observation, reward, *rest = super().step(action)
            observation[1] = np.nan if self.step_number == 2 else 0.0
            return observation, np.inf if self.step_number == 1 and action == 3 else reward, *rest

    gymnasium.register("tests/Broken-v0", entry_point=Broken)
    envs = Envs("tests/Broken-v0", 1)
    left, right = np.array([0]), np.array([3])
    envs.reset()
    envs.step(left)
    with pytest.raises(NonFiniteError, match=r"observation of tests/Broken-v0 at step 2 of the episode is not finite"):
        envs.step(left)
    envs.reset()
    with pytest.raises(NonFiniteError, match="the reward of tests/Broken-v0 at step 1 of the episode is not finite"):
        envs.step(right)


def test_random_actions_follow_the_description():
    rng = np.random.default_rng(0)
    choices = ActionSpec("discrete", 3).random(rng, 600)
    assert choices.shape == (600,)
    assert np.abs(np.bincount(choices) / 600 - 1 / 3).max() < 0.08  # 4 standard errors
    numbers = ActionSpec("continuous", 2).random(rng, 600)
    assert numbers.dtype == np.float32
    assert -1.0 <= numbers.min() < -0.9
    assert 0.9 < numbers.max() <= 1.0


def test_infos_that_differ_between_streams_stop_nobody():
    class Various(Counting):
        def step(self, action):
            *answer, _ = super().step(action)
            odd = [1.0, None, "text", np.zeros(2), np.zeros(3), {"a": 1}][(self.step_number + int(action)) % 6]
            return *answer, {"odd": odd, "choices": np.zeros(1 + int(action)), "same": np.full(2, self.step_number)}

    gymnasium.registry.pop("tests/Various-v0", None)
    gymnasium.register("tests/Various-v0", entry_point=Various)
    envs = Envs("tests/Various-v0", 3)
    rows = play(envs, 20)
    assert rows["vector"].shape == (20, 3, 3)
    assert envs.info["same"].shape == (3, 2)
