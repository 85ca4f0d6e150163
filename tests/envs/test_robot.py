"""A robot as an environment: ticks, delays and losses by arithmetic, silence, NaN, pauses, a life without resets."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from worldformula.envs import Envs, make, random_policy_return, reference_return
from worldformula.envs.pendulum_noreset import Rod
from worldformula.envs.pendulum_noreset import make as pendulum
from worldformula.envs.robot import Reading, RobotEnv, RobotInterface, Simulated, WallClock
from worldformula.envs.simulated import Link, SimulatedRobot
from worldformula.errors import ConfigError, RobotError

CALM = {"jitter": 0.0, "loss": 0.0, "noise": 0.0}


class Counter:
    """A body that counts its ticks and adds up its commands."""

    rate = 50.0
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self) -> None:
        self.state = np.zeros(2)

    def begin(self, rng: np.random.Generator) -> None:
        self.state = np.zeros(2)

    def advance(self, command: Any, rng: np.random.Generator) -> None:
        self.state = self.state + np.array([1.0, command[0]])

    def observe(self, rng: np.random.Generator) -> Any:
        return self.state.astype(np.float32)

    def reward(self) -> float:
        return float(self.state[1])

    def truth(self) -> dict[str, Any]:
        return {"counted": self.state.copy()}

    def draw(self, states: Any) -> Any:
        return np.zeros((len(states), 8, 8, 3), np.uint8)


def counter(**link: Any) -> RobotEnv:
    every = {"sensor_delay": 0, "actuation_delay": 0, "jitter": 0.0, "loss": 0.0, **link}
    return RobotEnv(SimulatedRobot(Counter(), Link(**every)), patience=5)


def driven(env: RobotEnv, commands: list[float]) -> list[tuple[float, float]]:
    """The observations that arrive, the first one included."""
    seen = [env.reset(seed=0)[0]]
    seen += [env.step(np.array([u], np.float32))[0] for u in commands]
    return [(float(ticks), float(total)) for ticks, total in seen]


def test_without_a_link_every_command_works_at_once_and_every_tick_is_read():
    assert driven(counter(), [0.5, 0.25, -1.0]) == [(0, 0), (1, 0.5), (2, 0.75), (3, -0.25)]


@pytest.mark.parametrize(("sensor", "ticks"), [(1, [0, 0, 1, 2, 3]), (2, [0, 0, 0, 1, 2])])
def test_a_sensor_delay_shows_an_older_tick(sensor, ticks):
    assert [row[0] for row in driven(counter(sensor_delay=sensor), [0.0] * 4)] == ticks


def test_an_actuation_delay_lets_the_command_before_hold():
    """Commands 1, 1, 0, 0 that work two ticks later: the sum stands at 0 after two ticks, at 2 after four."""
    assert [row[1] for row in driven(counter(actuation_delay=2), [1.0, 1.0, 0.0, 0.0, 0.0])] == [0, 0, 0, 1, 2, 2]


def test_smoothing_is_an_average_of_the_command_and_what_was_before():
    """½ of 1, then ½·½ + ½·1 = ¾, then ½·¾ + ½·0 = ⅜; sums ½, 1¼, 1⅝."""
    assert [row[1] for row in driven(counter(smooth=0.5), [1.0, 1.0, 0.0])] == [0, 0.5, 1.25, 1.625]


def test_commands_keep_to_the_limits_of_the_motors():
    assert driven(counter(), [7.0])[-1] == (1, 1.0)


def test_where_every_reading_is_lost_the_robot_is_silent_and_paused():
    env = counter(loss=1.0)
    env.reset(seed=0)
    for silent in range(1, 6):
        observation, *_, info = env.step(np.ones(1, np.float32))
        assert observation.tolist() == [0, 0]
        assert (info["silent"], info["age"]) == (silent, silent)
    with pytest.raises(RobotError, match="no reading for 6 ticks, until tick 6. The robot was paused"):
        env.step(np.ones(1, np.float32))
    assert env.robot.paused


def test_losses_and_late_readings_are_as_frequent_as_they_are_said_to_be():
    env = counter(loss=0.2, jitter=0.3)
    env.patience = 50
    env.reset(seed=3)
    ages = [env.step(np.zeros(1, np.float32))[-1]["age"] for _ in range(4000)]
    fresh = float(np.mean(np.array(ages) == 0))  # of this tick: neither lost nor late
    assert fresh == pytest.approx(0.8 * 0.7, abs=4 * math.sqrt(0.56 * 0.44 / 4000))


def test_a_reading_that_was_overtaken_is_never_read():
    robot = SimulatedRobot(Counter(), Link(0, 0, 0.0, 0.0))
    robot.switch_on(np.random.default_rng(0))
    robot._sent = [(2, Reading(np.zeros(2), 0.0, 7)), (1, Reading(np.zeros(2), 0.0, 8))]
    robot.ticks = 1
    assert robot.read().tick == 8
    robot.ticks = 2
    assert robot.read() is None


def test_a_pause_empties_the_motors_and_the_next_command_goes_on():
    env = counter(actuation_delay=1)
    driven(env, [1.0, 1.0])
    env.robot.pause()
    env.robot.tick(env.np_random)
    assert env.robot.moves.tolist() == [0]
    env.step(np.ones(1, np.float32))
    env.step(np.ones(1, np.float32))
    assert env.robot.moves.tolist() == [1]


def test_after_an_emergency_stop_commands_do_not_count_until_it_is_released():
    env = counter()
    driven(env, [1.0])
    env.robot.stop()
    assert env.step(np.ones(1, np.float32))[0].tolist() == [2, 1]
    env.robot.release()
    assert env.step(np.ones(1, np.float32))[0].tolist() == [3, 2]


class Odd(SimulatedRobot):
    """Says what is no number at its third tick, or raises."""

    wrong: Any = math.nan

    def read(self) -> Reading | None:
        found = super().read()
        if found is None or found.tick != 3:
            return found
        if isinstance(self.wrong, Exception):
            raise self.wrong
        if self.wrong == "observation":
            return Reading(np.array([0.0, np.inf], np.float32), 0.0, 3)
        return Reading(found.observation, self.wrong, 3)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (math.nan, "the reward of tick 3 is nan"),
        (-math.inf, "the reward of tick 3 is -inf"),
        ("observation", "the observation of tick 3 is not finite"),
        (OSError("cable"), "failed at read, tick 3: OSError: cable"),
    ],
)
def test_what_is_no_number_is_refused_with_its_tick_and_the_robot_is_paused(wrong, said):
    robot = Odd(Counter(), Link(0, 0, 0.0, 0.0))
    robot.wrong = wrong
    env = RobotEnv(robot)
    env.reset(seed=0)
    env.step(np.ones(1, np.float32))
    env.step(np.ones(1, np.float32))
    with pytest.raises(RobotError, match=said):
        env.step(np.ones(1, np.float32))
    assert robot.paused
    assert env.reading.tick == 2


def test_a_reset_moves_nothing_and_takes_no_time():
    env = make("pendulum_noreset").unwrapped
    env.reset(seed=0)
    for _ in range(30):
        observation, *_ = env.step(np.array([2.0], np.float32))
    state = env.robot.body.state.copy()
    again, info = env.reset(seed=1)
    assert (again == observation).all()
    assert (env.robot.body.state == state).all()
    assert env.ticks == 30
    assert info["age"] == env.ticks - env.reading.tick


def test_the_pendulum_moves_by_arithmetic():
    """From θ = 0.5, θ̇ = 1 under u = 2: θ̇ = 1 + (15 sin 0.5 + 6)/20, θ = 0.5 + θ̇/20; the reward is of there."""
    env = pendulum(sensor_delay=0, actuation_delay=0, **CALM)
    env.reset(seed=0)
    env.robot.body.state = np.array([0.5, 1.0, 0.0, 0.0])
    observation, reward, *_ = env.step(np.array([2.0], np.float32))
    speed = 1 + (15 * math.sin(0.5) + 6) / 20
    theta = 0.5 + speed / 20
    assert observation == pytest.approx([math.cos(theta), math.sin(theta), speed], rel=1e-6)
    assert reward == pytest.approx(-(theta**2 + 0.1 * speed**2 + 0.001 * 4), rel=1e-9)


def test_the_reward_of_more_than_a_turn_is_that_of_the_angle_left():
    rod = pendulum(**CALM).robot.body
    rod.state = np.array([2 * math.pi + 0.3, 0.0, 0.0, 0.0])
    assert rod.reward() == pytest.approx(-0.09, rel=1e-9)


def test_worn_motors_and_fading_light_come_over_the_ticks_that_were_said():
    """Half of the drift at tick 15 of 10 … 20: gain 1 − 0.5 · 0.4 = 0.8, light 1 − 0.5 · 0.6 = 0.7."""
    options = {"wear": 0.4, "fade": 0.6, "drift_from": 10, "drift_ticks": 10}
    rod, plain = (pendulum(actuation_delay=0, **CALM, **o).robot.body for o in (options, {}))
    rng = np.random.default_rng(0)
    rod.state = np.array([0.0, 0.0, 0.0, 15.0])
    rod.advance(np.array([2.0]), rng)
    assert rod.state[1] == pytest.approx(3 * 0.8 * 2 / 20)
    states = np.array([[1.0, 0.0, 0.0, ticks] for ticks in (0, 10, 15, 20, 99)])
    frames, bright = rod.draw(states), plain.draw(states).astype(float)
    for frame, light in zip(frames, (1.0, 1.0, 0.7, 0.4, 0.4), strict=True):
        assert np.abs(frame - light * bright[0]).max() <= 1


def test_pushes_come_as_often_as_said_from_the_tick_said_to_both_sides():
    rod = pendulum(pushes=0.25, push=3.0, push_from=100, **CALM).robot.body
    rng, kicks = np.random.default_rng(1), []
    for tick in range(4000):
        rod.state = np.array([0.0, 0.0, 0.0, float(tick)])
        rod.advance(np.zeros(1), rng)
        kicks.append(rod.state[1])
    early, late = np.array(kicks[:100]), np.array(kicks[100:])
    assert not early.any()
    assert {abs(kick) for kick in late} == {0.0, 3.0}
    assert np.mean(late != 0) == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 3900))
    assert abs(late.sum()) < 4 * 3 * math.sqrt(0.25 * 3900)


def test_noise_is_a_part_of_the_range():
    rod, rng = pendulum(noise=0.05).robot.body, np.random.default_rng(0)
    rod.state = np.zeros(4)
    seen = np.array([rod.observe(rng) for _ in range(4000)])
    assert seen.std(0) == pytest.approx([0.05, 0.05, 0.4], rel=0.06)


@pytest.mark.slow
def test_its_controller_stands_well_above_random_play():
    assert random_policy_return("pendulum_noreset", 20).mean < -800
    assert reference_return("pendulum_noreset", 20).mean > -40


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="delays ≥ 0"):
        Link(sensor_delay=-1)
    with pytest.raises(ConfigError, match="jitter and loss"):
        Link(loss=1.5)
    with pytest.raises(ConfigError, match="wear in"):
        pendulum(wear=1.2)


def test_both_robots_answer_to_the_protocol():
    assert isinstance(pendulum().robot, RobotInterface)
    assert isinstance(pendulum().robot, Simulated)
    assert isinstance(Rod.rate, float)


def test_a_life_goes_on_bit_for_bit_from_the_middle_of_a_later_episode():
    """As a run that resumes does: other environments, the state of the first ones, the same actions."""
    envs, rng = Envs("pendulum_noreset", 2, seed=5, max_steps=40, pushes=0.1), np.random.default_rng(0)
    envs.reset()
    for _ in range(100):
        rows = envs.step(envs.random(rng))
    state = envs.state()
    actions = [envs.random(rng) for _ in range(60)]
    wanted = [envs.step(action) for action in actions]
    other = Envs("pendulum_noreset", 2, seed=5, max_steps=40, pushes=0.1)
    found, cut = other.restore(state)
    assert cut == []
    assert all((found[key] == rows[key]).all() for key in rows)
    for action, row in zip(actions, wanted, strict=True):
        again = other.step(action)
        assert all((again[key] == row[key]).all() for key in row)


class Real:
    """A driver that is not simulated: it answers at once, and remembers what it was told."""

    rate = 100.0
    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self) -> None:
        self.told: list[float] = []
        self.reads = 0

    def read(self) -> Reading | None:
        self.reads += 1
        return Reading(np.zeros(1, np.float32), 0.0, self.reads)

    def command(self, action: Any) -> None:
        self.told.append(float(action[0]))

    def pause(self) -> None:
        self.told.append(math.inf)

    def stop(self) -> None:
        self.told.append(-math.inf)


def real() -> RobotEnv:
    return RobotEnv(Real())


class Says(Real):
    """Answers something else from its third reading on."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def read(self) -> Any:
        if self.reads < 2:
            return super().read()
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


ZERO = np.zeros(1, np.float32)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((ZERO, 0.0, 3), r"read\(\) gave \(array.*expected a Reading, or None"),
        (Reading(ZERO, None, 3), "the reward of tick 3 is None; expected one finite number"),  # type: ignore[arg-type]
        (Reading(ZERO, "1", 3), "the reward of tick 3 is '1'"),  # type: ignore[arg-type]
        (Reading(ZERO, np.zeros(2), 3), "the reward of tick 3 is array"),  # type: ignore[arg-type]
        (Reading(ZERO, 0.0, "x"), "the tick of a reading is 'x'"),  # type: ignore[arg-type]
        (Reading(None, 0.0, 3), "the observation of tick 3 is not what its space declares"),
        (Reading("x", 0.0, 3), "the observation of tick 3 is not what its space declares"),
        (Reading({"a": {"b": 1.0}}, 0.0, 3), "the observation of tick 3 is not what its space declares"),
        (Reading(np.zeros(3, np.float32), 0.0, 3), "the shape differs"),
        (SystemExit("driver quits"), "failed at read, tick 2: SystemExit: driver quits"),
    ],
)
def test_what_is_no_reading_pauses_the_robot(answer: Any, said: str) -> None:
    env = RobotEnv(Says(answer))
    env.reset()
    env.step(ZERO)
    with pytest.raises(RobotError, match=said):
        env.step(ZERO)
    assert env.robot.told == [0.0, 0.0, math.inf]


def test_a_missing_part_of_an_observation_pauses_the_robot() -> None:
    robot = Says(Reading({"place": ZERO}, 0.0, 3))
    env = RobotEnv(robot)
    env.reset()
    env.step(ZERO)
    env.observation_space = spaces.Dict({"place": robot.observation_space, "speed": robot.observation_space})
    with pytest.raises(RobotError, match="the speed of tick 3 is missing"):
        env.step(ZERO)
    assert robot.told[-1] == math.inf


def test_what_was_done_is_never_done_again_on_a_real_robot():
    id = f"{__name__}:real"
    envs = Envs(id, 1, max_steps=50)
    envs.reset()
    for _ in range(5):
        envs.step(np.ones((1, 1), np.float32))
    other = Envs(id, 1, max_steps=50)
    rows, cut = other.restore(envs.state())
    assert cut == [0]
    assert rows["is_first"].all()
    assert other._streams[0].env.unwrapped.robot.told == []
    assert other._streams[0].episode == 1


def test_a_closed_environment_pauses_its_robot():
    env = real()
    env.reset()
    env.close()
    assert env.robot.told == [math.inf]


def test_ticks_of_the_wall_clock_lie_on_a_grid_and_late_ones_are_counted():
    clock = WallClock(100.0)
    begin = time.perf_counter()
    assert clock.wait() == 1
    first, grid = clock.woke, clock._next
    assert 0.01 <= first - begin < 1.0
    time.sleep(0.035)  # three ticks pass meanwhile, at least
    passed = clock.wait()
    assert passed >= 4
    assert clock.woke >= grid + passed * 0.01
    assert clock._next - grid == pytest.approx(passed * 0.01)
