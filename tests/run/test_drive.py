"""Acting at the ticks of a virtual clock: which weights act when, equality with turns, robots that fall silent."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from tests.agent.systems.toy import Toy, ToyAgent
from tests.envs.test_robot import Odd, Real, Says, real
from tests.run.test_interact import assert_same_run, final
from worldformula.envs.pendulum_noreset import make
from worldformula.envs.robot import Reading, RobotEnv
from worldformula.errors import ConfigError, RobotError
from worldformula.run.config import DriveConfig, EnvConfig, RunConfig
from worldformula.run.interact import Interact
from worldformula.run.run import Run


class Shared(ToyAgent):
    """The toy agent, which can act with another's weights."""

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: value.detach().clone() for name, value in self.state_dict().items()}

    def take_over(self, weights: Mapping[str, torch.Tensor]) -> None:
        self.load_state_dict(dict(weights))


def config(clock: str = "virtual", steps: int = 240, **changes: Any) -> RunConfig:
    """7 / 20 updates a tick, as of the toy's train ratio."""
    drive = DriveConfig(clock, updates=7 / 20, sync=changes.pop("sync", 1), lag=changes.pop("lag", 0))
    every: dict[str, Any] = {"capacity": 150, "checkpoint_every": 60, "log_every": 70, "eval_episodes": 0}
    env = changes.pop("env", EnvConfig("pendulum_noreset", num=1, max_steps=23))
    return RunConfig("toy", "tiny", env, Toy(), steps, drive=drive, tensorboard=False, **every | changes)


def run(folder: Path, given: RunConfig, kind: Any = Shared) -> Interact:
    task = Interact(given, kind, folder, say=lambda _: None)
    task.run()
    return task


def rows(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted((folder / "replay").glob("*.bin")))


def test_without_a_lag_a_tick_is_a_turn(tmp_path: Path) -> None:
    """The same experience, the same weights and the same log as where acting and learning take turns."""
    run(tmp_path / "turns", config("none"))
    run(tmp_path / "ticks", config("virtual"))
    one, two = final(tmp_path / "turns"), final(tmp_path / "ticks")
    assert rows(tmp_path / "turns") == rows(tmp_path / "ticks")
    assert (tmp_path / "turns/metrics.jsonl").read_bytes() == (tmp_path / "ticks/metrics.jsonl").read_bytes()
    assert one["count"] == two["count"]
    assert one["count"]["updates"] == pytest.approx(200 * 7 / 20, abs=2)
    for name, value in one["agent"]["weights"].items():
        assert torch.equal(value, two["agent"]["weights"][name])


UNIT = 100_000


class Counts(Shared):
    """Its one weight counts its updates, and its action tells which weight it acted with, up to a hundred thousand."""

    seen: list[tuple[int, int]]

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.register_buffer("count", torch.zeros(()))

    def act(self, rows: Any, state: Any, explore: bool = True) -> Any:
        action, state = super().act(rows, state, explore)
        return np.full_like(action, float(self.count) / UNIT), state

    def update(self, batch: Any) -> Any:
        self.count += 1
        return super().update(batch)


@pytest.mark.parametrize(("sync", "lag"), [(1, 0), (1, 3), (5, 0), (4, 2), (3, 7)])
def test_the_actor_has_the_weights_that_were_handed_over_lag_ticks_ago(tmp_path: Path, sync: int, lag: int) -> None:
    """One update a tick from tick 40 on: weights of tick m · sync act in the ticks after m · sync + lag."""
    given = config(sync=sync, lag=lag, steps=120, env=EnvConfig("pendulum_noreset", num=1, max_steps=1000))
    given = dataclasses.replace(given, drive=dataclasses.replace(given.drive, updates=1.0))
    task = run(tmp_path / "run", given, Counts)
    acted = [round(UNIT * float(a)) for a in task.replay._columns["action"][0, :120, 0]]
    made = [max(0, tick - 39) for tick in range(121)]  # updates once so many ticks have passed
    for tick in range(120):  # of the action after so many ticks
        handed = (tick - lag) // sync * sync
        assert acted[tick] == (made[handed] if handed > 0 else 0), tick


def test_an_agent_that_cannot_hand_over_its_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot hand over its weights"):
        run(tmp_path / "run", config(), ToyAgent)


@pytest.mark.parametrize("setting", [{"sync": 0}, {"lag": -1}, {"updates": 0.0}])
def test_impossible_settings_are_refused(setting: Any) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        DriveConfig("virtual", **setting)


class Killed(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("turn", [75, 130, 215])
def test_interrupted_it_ends_as_if_it_had_not_been(tmp_path: Path, turn: int) -> None:
    """In a later pseudo-episode, with weights on their way."""
    given = config(sync=3, lag=8)
    run(tmp_path / "whole", given)

    class Fragile(Interact):
        turned = 0

        def _turn(self, made: Any) -> int:
            self.turned += 1
            if self.turned == turn:
                raise Killed
            return super()._turn(made)

    with pytest.raises(Killed):
        Fragile(given, Shared, tmp_path / "killed", say=lambda _: None).run()
    said: list[str] = []
    Interact(given, Shared, tmp_path / "killed", say=said.append).run()
    assert said == []
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    assert rows(tmp_path / "whole") == rows(tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="uses fork")
def test_killed_three_times_a_dreamer_on_a_robot_ends_with_the_same_bits() -> None:
    """SIGKILL at random moments; weights, optimisers, log and replay are compared byte by byte."""
    command = [sys.executable, "-m", "benchmarks.kills", "--kills", "3", "--only", "robot"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "robot: 3 kills, 0 differences" in done.stdout


def silent() -> RobotEnv:
    """Its readings are lost from tick 100 on."""
    env = make(patience=5)
    robot: Any = env.robot
    tick = robot.tick

    def deaf(rng: Any) -> None:
        tick(rng)
        if robot.ticks > 100:
            robot._sent = []

    robot.tick = deaf
    return env


def test_a_robot_that_does_not_answer_ends_the_run_with_a_checkpoint(tmp_path: Path) -> None:
    given = config(env=EnvConfig(f"{__name__}:silent", num=1, max_steps=1000))
    with pytest.raises(RobotError, match=r"no reading for 6 ticks.*stored at step 10\d; go on with .*train --run"):
        run(tmp_path / "run", given)
    state = final(tmp_path / "run")
    assert 100 <= state["count"]["steps"] <= 107
    assert state["count"]["updates"] == pytest.approx((state["count"]["steps"] - 40) * 7 / 20, abs=2)


def odd() -> RobotEnv:
    """Its reward is NaN at tick 3."""
    env = make()
    env.robot.__class__ = Odd
    return env


def test_a_reward_that_is_nan_ends_the_run_and_never_enters_the_replay(tmp_path: Path) -> None:
    given = config(env=EnvConfig(f"{__name__}:odd", num=1, max_steps=1000))
    with pytest.raises(RobotError, match="the reward of tick 3 is nan"):
        run(tmp_path / "run", given)
    task = Interact(given, Shared, tmp_path / "run", say=lambda _: None)
    Run(task, task.folder).open()
    stored = task.replay._columns["reward"][0, : task.count.steps]
    assert task.count.steps == 3
    assert not np.isnan(stored).any()
    assert math.isfinite(float(stored.sum()))


TOLD: list[Any] = []


def noted() -> RobotEnv:
    """A robot that is not simulated, whose commands can be read in the end."""
    env = real()
    env.robot.told = TOLD
    return env


def test_a_robot_that_is_not_simulated_has_no_virtual_clock(tmp_path: Path) -> None:
    given = config(env=EnvConfig(f"{__name__}:noted", num=1, max_steps=50))
    with pytest.raises(ConfigError, match="passes by itself: set drive.clock=wall"):
        Interact(given, Shared, tmp_path / "run", say=lambda _: None)


MADE: list[Any] = []


def says() -> RobotEnv:
    """A robot whose observations have another shape than it declared, from its third reading on."""
    MADE.append(Says(Reading(np.zeros(3, np.float32), 0.0, 3)))
    return RobotEnv(MADE[-1])


class Broken(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Fails at its third step, by itself."""

    def step(self, action: Any) -> Any:
        MADE.append(self.unwrapped.robot)  # type: ignore[attr-defined]
        if len(MADE) == 3:
            raise ValueError("sums went wrong")
        return super().step(action)


def broken() -> Any:
    return Broken(real())


@pytest.mark.parametrize(
    ("robot", "step", "said"), [("says", 1, "the shape differs"), ("broken", 2, "ValueError: sums went wrong")]
)
def test_a_real_robot_that_fails_in_turn_ends_the_run_and_is_not_made_anew(
    tmp_path: Path, robot: str, step: int, said: str
) -> None:
    MADE.clear()
    given = config("none", env=EnvConfig(f"{__name__}:{robot}", num=1, max_steps=50))
    with pytest.raises(RobotError, match=rf"{said}.*paused.*stored at step {step}; go on with"):
        run(tmp_path / "run", given)
    assert final(tmp_path / "run")["count"]["steps"] == step
    assert len({id(made) for made in MADE}) == 1
    assert MADE[0].told[-1] == math.inf


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"eval_episodes": 2}, "needs env.max_steps, such as --set env.max_steps=200.*eval_episodes=0"),
        ({"eval_episodes": 2, "eval_every": 20, "max_steps": 50}, "set eval_every=0"),
        ({"num": 2}, r"expected one stream \(env.num=1"),
        pytest.param({"timeout": 5.0}, "leave env.timeout out", marks=pytest.mark.slow),
    ],
)
def test_what_a_real_robot_cannot_do_is_refused(tmp_path: Path, changes: Any, said: str) -> None:
    env = {key: changes.pop(key) for key in ("max_steps", "num", "timeout") if key in changes}
    given = config("none", env=EnvConfig(f"{__name__}:noted", **{"num": 1, **env}), **changes)
    TOLD.clear()
    with pytest.raises(ConfigError, match=said):
        Interact(given, Shared, tmp_path / "run", say=lambda _: None)
    assert [word for word in TOLD if word != math.inf] == []


def test_a_real_robot_is_evaluated_by_the_driver_that_is_there(tmp_path: Path) -> None:
    """60 commands of the training, and 2 · 10 of the evaluation, to one driver."""
    MADE.clear()
    given = config("none", 60, env=EnvConfig(f"{__name__}:counted", num=1, max_steps=10), eval_episodes=2)
    task = run(tmp_path / "run", given)
    assert task.evaluation is not None
    assert task.evaluation.lengths == (10, 10)
    assert len(MADE) == 1
    assert len([word for word in MADE[0].told if word != math.inf]) == 80
    assert MADE[0].told[-1] == math.inf


def test_a_real_robot_that_fails_in_the_last_evaluation_is_told_after_a_checkpoint(tmp_path: Path) -> None:
    MADE.clear()
    given = config("none", 60, env=EnvConfig(f"{__name__}:counted", num=1, max_steps=10), eval_episodes=2)
    task = Interact(given, Shared, tmp_path / "run", say=lambda _: None, show=lambda _: None)
    MADE[0].command = fails_after(65, MADE[0].command)
    with pytest.raises(RobotError, match=r"failed at command.*cable.*stored at step 60; go on with"):
        task.run()
    assert final(tmp_path / "run")["count"]["steps"] == 60
    assert MADE[0].told[-1] == math.inf


def fails_after(times: int, command: Any) -> Any:
    left = iter(range(times))

    def checked(action: Any) -> None:
        if next(left, None) is None:
            raise OSError("cable")
        command(action)

    return checked


def counted() -> RobotEnv:
    MADE.append(Real())
    MADE[-1].rate = 1000.0
    return RobotEnv(MADE[-1])


@pytest.mark.parametrize("stops", [None, 30])
def test_a_robot_is_paused_when_the_run_ends_or_is_interrupted(tmp_path: Path, stops: int | None) -> None:
    def show(run: Interact) -> None:
        if stops and run.count.steps >= stops:
            raise KeyboardInterrupt

    TOLD.clear()
    steps = 60 if stops is None else 400
    given = config("none", steps, env=EnvConfig(f"{__name__}:noted", num=1, max_steps=50))
    task = Interact(given, Shared, tmp_path / "run", say=lambda _: None, show=show)
    if stops is None:
        task.run()
    else:
        with pytest.raises(KeyboardInterrupt):
            task.run()
    assert math.inf in TOLD
    assert all(word == math.inf for word in TOLD[TOLD.index(math.inf) :])
