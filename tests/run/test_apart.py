"""Acting and learning in two processes: memory that both share, ticks of the wall clock, robots that end, kills."""

from __future__ import annotations

import dataclasses
import itertools
import math
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.run.test_drive import UNIT, Counts, Shared, config, silent
from tests.run.test_interact import final
from worldformula.envs import random_policy_return
from worldformula.envs.pendulum_noreset import make
from worldformula.envs.process import clean_context
from worldformula.envs.robot import RobotEnv
from worldformula.errors import ConfigError, RobotError
from worldformula.run import apart
from worldformula.run.apart import jitter
from worldformula.run.config import DriveConfig, EnvConfig
from worldformula.run.interact import Interact
from worldformula.run.phases import Phase, Phases
from worldformula.run.shared import Exchange, Newest, Ring, layout_of

SPEC = {"x": ((2,), "float32"), "n": ((), "int64")}


def rings(capacity: int) -> tuple[Ring, Ring]:
    exchange = Exchange(multiprocessing.get_context("spawn"))
    writer = Ring(exchange, SPEC, capacity)
    return writer, Ring(exchange, SPEC, capacity, writer.name)


def close(*memories: Any) -> None:
    for memory in reversed(memories):
        memory.close()


def test_rows_arrive_in_order_and_a_full_ring_takes_none() -> None:
    writer, reader = rings(3)
    assert [writer.put({"x": [n, -n], "n": n}) for n in range(5)] == [True, True, True, False, False]
    assert [int(row["n"]) for row in reader.take()] == [0, 1, 2]
    assert reader.take() == []
    assert [writer.put({"x": [n, -n], "n": n}) for n in (3, 4)] == [True, True]
    found = reader.take()
    assert [row["x"].tolist() for row in found] == [[3, -3], [4, -4]]
    close(writer, reader)


def test_where_a_lock_is_held_nobody_waits_and_nothing_is_lost() -> None:
    writer, reader = rings(8)
    with writer._exchange.rows_lock:
        assert writer.put({"x": [0, 0], "n": 0})
        assert reader.take() == []
    assert reader.take() == []  # the row was written, and is told of with the next one
    writer.put({"x": [1, 1], "n": 1})
    assert [int(row["n"]) for row in reader.take()] == [0, 1]
    close(writer, reader)


def test_weights_are_the_newest_or_none_and_keep_their_types() -> None:
    exchange = Exchange(multiprocessing.get_context("spawn"))
    first = {"w": torch.ones(2, 3), "count": torch.tensor(7)}
    writer = Newest(exchange, layout_of(first))
    reader = Newest(exchange, writer.layout, writer.name)
    assert reader.take() is None
    writer.put(first)
    writer.put({"w": 2 * torch.ones(2, 3), "count": torch.tensor(8)})
    found = reader.take()
    assert found is not None
    assert (found["w"] == 2).all()
    assert (int(found["count"]), found["count"].dtype, found["w"].dtype) == (8, torch.int64, torch.float32)
    assert reader.take() is None
    with exchange.weights_lock:
        assert not writer.put({"w": 3 * torch.ones(2, 3), "count": torch.tensor(9)})
    assert reader.take() is None
    assert writer.put(None)
    assert int(reader.take()["count"]) == 9
    close(writer, reader)


def write(exchange: Exchange, layout: Any, name: str, stop: Any) -> None:
    newest, count = Newest(exchange, layout, name), 0
    while not stop.is_set():
        count += 1
        newest.put({"w": torch.full((50_000,), float(count))})
    newest.close()


def test_nobody_ever_sees_half_of_the_weights() -> None:
    """A writer in another process, as fast as it can; every read is of one update, and never of an older one."""
    context = clean_context()
    exchange, stop = Exchange(context), context.Event()
    layout = layout_of({"w": torch.zeros(50_000)})
    reader = Newest(exchange, layout)
    process = context.Process(target=write, args=(exchange, layout, reader.name, stop))
    process.start()
    seen: list[float] = []
    while len(seen) < 200 and process.is_alive():
        found = reader.take()
        if found is not None:
            assert (found["w"] == found["w"][0]).all()
            seen.append(float(found["w"][0]))
    stop.set()
    process.join()
    assert len(seen) == 200
    assert seen == sorted(set(seen))
    reader.close()


def test_jitter_by_hand() -> None:
    """Ticks of 0.1 s at 0, 0.1, 0.22, 0.3, one of them missed then, 0.5: off by 0, .2, .2 and 1 periods."""
    times = [(at, at + 0.01 * k, True) for k, at in enumerate((0.0, 0.1, 0.22, 0.3, 0.5))]
    found = jitter([*times, (9.0, 9.0, False)], 0.1)
    assert found["tick/jitter_p99"] == pytest.approx(np.percentile([0, 0.2, 0.2, 1.0], 99))
    assert found["tick/latency_p99"] == pytest.approx(np.percentile([0, 0.1, 0.2, 0.3, 0.4], 99))
    assert found["tick/missed"] == 0.25
    assert jitter(times[:2], 0.1) == {}


def walled(steps: int = 100, **changes: Any) -> Any:
    given = config("wall", steps, checkpoint_every=1000, **changes)
    return dataclasses.replace(given, drive=DriveConfig("wall", sync=5))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Interact:
    folder = tmp_path_factory.mktemp("wall") / "run"
    task = Interact(walled(120, env=EnvConfig("pendulum_noreset", num=1, max_steps=25)), Counts, folder)
    task.run()
    return task


def test_neither_waits_for_the_other(done: Interact) -> None:
    """The robot is acted on at its rate, and the learner makes far more updates than there are ticks."""
    woke = [begin for begin, _, taken in done.driver.times if taken and math.isfinite(begin)]
    assert statistics.median(np.diff(woke)) == pytest.approx(0.05, rel=0.1)
    assert 120 <= done.count.steps <= 125
    assert done.count.updates > 2 * done.count.steps


def test_the_actor_gets_newer_and_newer_weights(done: Interact) -> None:
    taken = ~done.replay._columns["is_last"][0, : done.replay._count]
    acted = np.round(UNIT * done.replay._columns["action"][0, : done.replay._count, 0])[taken]
    assert acted[0] == 0
    assert (np.diff(acted) >= 0).all()
    assert len(set(acted.tolist())) >= 5
    assert acted.max() <= min(done.count.updates, UNIT)


def test_its_rows_are_one_life_in_pieces(done: Interact) -> None:
    count = done.replay._count
    first, last = (done.replay._columns[key][0, :count] for key in ("is_first", "is_last"))
    assert np.flatnonzero(first).tolist() == list(range(0, count, 26))
    assert np.flatnonzero(last).tolist() == list(range(25, count, 26))
    assert done.count.episodes == pytest.approx(done.count.steps / 25, abs=1)
    seen = done.replay._columns["vector"][0, :count]
    assert np.abs(np.diff(np.hypot(seen[:, 0], seen[:, 1]))).max() < 0.2
    again = np.flatnonzero(first)[1:]
    assert (seen[again] == seen[again - 1]).all()  # a reset moves nothing


def test_it_goes_on_with_all_that_it_had_and_a_new_episode(done: Interact, tmp_path: Path) -> None:
    folder = done.folder.path
    before = final(folder)
    given = dataclasses.replace(done.config, steps=done.count.steps + 20)
    task = Interact(given, Counts, folder, say=lambda _: None)
    task.run()
    after = final(folder)
    assert after["count"]["steps"] >= before["count"]["steps"] + 20
    assert after["count"]["updates"] > before["count"]["updates"]
    start = before["replay"]["count"]
    assert task.replay._columns["is_first"][0, start]
    assert after["envs"]["episodes"][0] > before["envs"]["episodes"][0]
    assert task.agent.count >= before["count"]["updates"]


def test_a_robot_that_falls_silent_ends_the_run_with_a_checkpoint(tmp_path: Path) -> None:
    assert silent().patience == 5
    given = walled(400, env=EnvConfig("tests.run.test_drive:silent", num=1, max_steps=1000))
    with pytest.raises(RobotError, match=r"no reading for 6 ticks.*stored at step 10\d; go on with"):
        Interact(given, Shared, tmp_path / "run", say=lambda _: None).run()
    assert 100 <= final(tmp_path / "run")["count"]["steps"] <= 107


def hanging(path: str) -> RobotEnv:
    """Its driver waits for ever at its 30th reading."""
    env = noted(path)
    read, count = env.robot.read, itertools.count(1)
    env.robot.read = lambda: time.sleep(1000) if next(count) == 30 else read()  # type: ignore[method-assign]
    return env


@pytest.mark.slow
def test_a_driver_that_hangs_ends_the_run_with_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "SLACK", 0.5)
    env = EnvConfig("tests.run.test_apart:hanging", num=1, max_steps=1000, args=(f"path={tmp_path / 'said'}",))
    task = Interact(walled(400, env=env), Shared, tmp_path / "run", say=lambda _: None)
    with pytest.raises(RobotError, match=r"nothing has come from .* for 1\.\d s.*stored at step 2\d; go on with"):
        task.run()
    assert not task.envs.process.is_alive()
    assert (tmp_path / "said").read_text() == "paused"
    assert 25 <= final(tmp_path / "run")["count"]["steps"] <= 29


class Once:
    """Does something once, when a run has got ten steps far."""

    def __init__(self, do: Any) -> None:
        self.do, self.done = do, False

    def __call__(self, run: Interact) -> None:
        if run.count.steps >= 10 and not self.done:
            self.done = True
            self.do()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="sends a signal")
def test_where_the_actor_is_killed_the_run_is_stored(tmp_path: Path) -> None:
    once = Once(lambda: os.kill(task.envs.process.pid, signal.SIGKILL))
    task = Interact(walled(4000), Shared, tmp_path / "run", say=lambda _: None, show=once)
    with pytest.raises(RobotError, match="ended by itself .exit code -9"):
        task.run()
    assert final(tmp_path / "run")["count"]["steps"] == task.count.steps < 4000


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"env": EnvConfig("pendulum", num=1)}, "pendulum is none"),
        ({"env": EnvConfig("pendulum_noreset", num=2)}, "env.num=1"),
        ({"eval_every": 50, "eval_episodes": 1}, "eval_every=0"),
        ({"env": EnvConfig("pendulum_noreset", num=1, log_info=("age",))}, "log_info"),
    ],
)
def test_what_a_wall_clock_cannot_do_is_refused(tmp_path: Path, changes: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Interact(walled(**changes), Shared, tmp_path / "run", say=lambda _: None)


def test_no_floor_is_measured_with_a_robot_that_is_not_simulated() -> None:
    assert random_policy_return("tests.envs.test_robot:real", 2, max_steps=5).n == 0


@pytest.mark.slow
@pytest.mark.usefixtures("terminal")
def test_in_a_chain_of_phases_too_nobody_acts_once_it_was_interrupted(tmp_path: Path) -> None:
    made: list[Interact] = []

    def collect(folder: Any, _: Any) -> Interact:
        once = Once(lambda: os.kill(os.getpid(), signal.SIGINT))
        made.append(Interact(walled(4000), Shared, folder, say=lambda _: None, show=once))
        return made[-1]

    chain = Phases([Phase("collect", collect)], tmp_path / "chain", say=lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        chain.run()
    assert not made[0].envs.process.is_alive()
    assert final(tmp_path / "chain" / "collect")["count"]["steps"] == made[0].count.steps > 0


def noted(path: str) -> RobotEnv:
    """A robot that writes into a file when it is paused."""
    env = make()
    env.robot.pause = lambda: Path(path).write_text("paused")  # type: ignore[method-assign]
    return env


LEARNER = """
from tests.run.test_apart import *
env = EnvConfig("tests.run.test_apart:noted", num=1, max_steps=1000, args=(sys.argv[1],))
Interact(walled(4000, env=env), Shared, sys.argv[2], show=lambda run: print(run.count.steps, flush=True)).run()
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="sends a signal")
def test_where_the_learner_is_killed_the_robot_is_paused(tmp_path: Path) -> None:
    file = tmp_path / "said"
    command = [sys.executable, "-c", LEARNER, f"path={file}", str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as learner:
        assert learner.stdout is not None
        while int(learner.stdout.readline()) < 20:
            pass
        assert not file.exists()
        learner.kill()
    for _ in range(400):
        if file.exists():
            break
        time.sleep(0.05)
    assert file.read_text() == "paused"
