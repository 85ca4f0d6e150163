"""A robot at its own rate in one process, learning in another: neither waits.

The actor (`worldformula.run.actor`) acts at every tick of the wall clock. This process learns as fast as it can from
the rows that have arrived, and every ``drive.sync`` ticks hands over its weights. A row needs no answer, weights are
exchanged whole or not at all.

What is exact when such a run goes on: weights, optimisers, replay, counters and the log of the checkpoint. What is not:
the rows behind it are lost; the pseudo-episode ends there, and a new one begins with an agent that remembers nothing;
and what is learnt between two rows hangs on the computer. By the virtual clock all of it is exact.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worldformula import errors
from worldformula.envs import Actions, ActionSpec, Column, Episode, Failure
from worldformula.envs.process import START, clean_context
from worldformula.errors import RobotError, WorldformulaError
from worldformula.run.actor import LATENT, Orders, columns_of, serve, spec_of
from worldformula.run.checks import require
from worldformula.run.config import RunConfig
from worldformula.run.contract import Build
from worldformula.run.play import Turn
from worldformula.run.shared import Exchange, Newest, Ring, layout_of
from worldformula.vocabulary import Vocabulary

MINUTES = 10  # of rows that the ring holds, while this process stores a checkpoint or compiles
KEPT = 100_000  # ticks whose times are remembered
SOON = 20.0  # seconds that the actor may take to end
SLACK = 5.0  # seconds beyond the robot's patience that no row may come for: the computer may be busy
LAST = 2.0  # seconds that an actor which hangs has to pause its robot


class Away:
    """Environments that another process acts in: what a run has to know of them.

    Args:
        config: of the run.

    Raises:
        RobotError: its process ended before it had described the robot.
        WorldformulaError: whatever went wrong when the robot was made.
    """

    num = 1

    def __init__(self, config: RunConfig) -> None:
        context = clean_context()
        self.id, self.seed, self.exchange = config.env.id, config.seed, Exchange(context)
        self.pipe, theirs = context.Pipe()
        options = config.env.options()
        args = (theirs, self.exchange, self.id, options, self.seed)
        self.process = context.Process(target=serve, args=args, daemon=True)
        self.process.start()
        theirs.close()
        if not self.pipe.poll(START):
            self.process.kill()
            raise RobotError(f"the process of {self.id} has not made its robot within {START:g} s")
        columns, observations, actions, spec, words, rate, patience, self.real = self.said("answer")
        self.columns: dict[str, Column] = columns
        self.observations: dict[str, Column] = observations
        self.actions: dict[str, ActionSpec] = actions
        self.row_spec: dict[str, tuple[tuple[int, ...], str]] = spec
        self.vocabulary: Vocabulary | None = words
        self.period = config.env.action_repeat / float(rate)
        self.patience = patience / float(rate)
        self.finished: list[Episode] = []
        self.failures: list[Failure] = []

    def said(self, expected: str) -> Any:
        """What the other process says next.

        Raises:
            RobotError: it ended, or its robot does not go on.
            WorldformulaError: another of its errors.
        """
        try:
            kind, found = self.pipe.recv()
        except (EOFError, OSError) as error:
            self.process.join(1.0)
            raise RobotError(
                f"the process that acts on {self.id} ended by itself (exit code {self.process.exitcode})"
            ) from error
        if kind != expected:
            raise getattr(errors, kind, RobotError)(found)
        return found

    def stored(self, actions: Actions) -> dict[str, NDArray[Any]]:
        """The actions of a turn are those that were executed."""
        assert isinstance(actions, dict)
        return actions

    def end(self) -> None:
        """Ends the other process, whatever it is at; it has a moment to pause its robot."""
        self.process.terminate()
        self.process.join(LAST)
        self.process.kill()
        self.process.join()

    def close(self) -> None:
        """Tells the other process to end, which pauses the robot."""
        if self.process.is_alive():
            with contextlib.suppress(OSError):
                self.pipe.send("stop")
            self.process.join(SOON)
            self.process.kill()
        self.process.join()


class Apart:
    """Neither waits.

    Args:
        config: of the run.
        envs: where the other process acts.
        agent: what learns.
        build: makes the agent that acts.
    """

    def __init__(self, config: RunConfig, envs: Away, agent: Any, build: Build) -> None:
        require(agent, config)
        self.config, self.envs, self.agent, self.build = config, envs, agent, build
        self.episode, self.ticks = 0, 0
        self._handed, self._handed_at, self._again, self._learning = 0, 0, False, False
        self.times: list[tuple[float, float, bool]] = []  # of the last ticks: beginning, command, was it taken
        self._limit, self._empty, self._looked = START, 0.0, math.inf  # how long no row may come, and how long none has
        self._ring: Ring | None = None
        self._newest: Newest | None = None
        self._logged = 0

    @property
    def rate(self) -> float:
        """As many as it can make: nobody counts them."""
        return 0.0

    def begin(self) -> None:
        """With the first episode, once turns are asked for: a run that is at its end moves no robot."""

    def _go(self) -> None:
        """Lets the actor begin."""
        latents = getattr(self.agent, "latents", {})
        spec = spec_of(self.envs.row_spec, latents)
        capacity = max(1024, int(60 * MINUTES / self.envs.period))
        weights = self.agent.weights()
        self._ring = Ring(self.envs.exchange, spec, capacity)
        self._newest = Newest(self.envs.exchange, layout_of(weights))
        self._newest.put(weights)
        orders = Orders(
            self.build, self.config.agent, self.config.seed, self.episode, spec, capacity, self._ring.name,
            self._newest.layout, self._newest.name,
        )  # fmt: skip
        self.envs.pipe.send(orders)

    def restore(self, state: Mapping[str, Any]) -> list[int]:
        """Begins with the episode after the one that was cut."""
        self.episode = int(state["envs"]["episodes"][0]) + 1
        return []

    def turns(self) -> Iterator[Turn]:
        """What has arrived."""
        if self._ring is None:
            self._go()
        assert self._ring is not None
        found = self._ring.take()
        if not found and self.envs.pipe.poll():
            found = self._ring.take()  # what it had written before it said that
            yield from map(self._turn, found)
            self.envs.said("over")
            raise RobotError(f"the process that acts on {self.envs.id} ended before the run did")
        if not found:
            self._watch()
            if not self._learning:
                time.sleep(self.envs.period / 4)
        else:
            self._limit, self._empty, self._looked = self.envs.patience + self.envs.period + SLACK, 0.0, math.inf
        yield from map(self._turn, found)

    def _watch(self) -> None:
        """No row was there. An actor says so itself where its robot is silent, but not while the driver hangs.

        Raises:
            RobotError: there has been none for too long.
        """
        now = time.perf_counter()
        self._empty += min(max(0.0, now - self._looked), 1.0)  # this process may have been busy, and then a lock held
        self._looked = now
        if self._empty > self._limit:
            self.envs.end()
            raise RobotError(
                f"nothing has come from {self.envs.id} for {self._empty:.1f} s: its driver seems to hang in "
                "read() or command(). Its process was told to pause the robot and has ended; look whether the robot "
                "holds still"
            )

    def _turn(self, row: dict[str, NDArray[Any]]) -> Turn:
        self.envs.finished = []
        if row["episode/over"]:
            self.envs.finished = [Episode(0, float(row["episode/score"]), int(row["episode/length"]))]
        taken = bool(row["tick/taken"])
        self.episode += not taken
        self.times.append((float(row["tick/woke"]), float(row["tick/commanded"]), taken))
        acted = columns_of(self.envs.actions)
        state = {k.removeprefix(LATENT): torch.from_numpy(v[None]) for k, v in row.items() if k.startswith(LATENT)}
        rows = {key: row[key][None] for key in self.envs.row_spec if key not in acted}
        return Turn(rows, {key: row[key][None] for key in acted}, {"is_first": np.array([not taken])}, state)

    def owed(self, taken: int) -> float:
        """One at once, and then the next."""
        self._learning = True
        return 1.0

    def learnt(self, taken: int, updates: int) -> None:
        """Hands over the weights, where it is time to."""
        assert self._newest is not None
        self.ticks += taken
        due = self.ticks - self._handed_at >= self.config.drive.sync and updates > self._handed
        if due or self._again:
            self._again = not self._newest.put(self.agent.weights() if due else None)
            if due:
                self._handed, self._handed_at = updates, self.ticks

    def metrics(self) -> dict[str, float]:
        """Of the ticks since the last time."""
        since = self.times[self._logged :]
        del self.times[:-KEPT]
        self._logged = len(self.times)
        return jitter(since, self.envs.period)

    def state(self) -> dict[str, Any]:
        """Which episode it was."""
        return {"acting": {}, "envs": {"episodes": [self.episode]}}

    def halt(self) -> None:
        """The other process pauses the robot and ends."""
        self.envs.close()
        for memory in (self._ring, self._newest):
            if memory is not None:
                with contextlib.suppress(WorldformulaError, OSError):
                    memory.close()
        self._ring = self._newest = None


def jitter(times: list[tuple[float, float, bool]], period: float) -> dict[str, float]:
    """How regular ticks were, in parts of their period; nothing where there are less than three.

    ``tick/jitter_p99``: the 99th percentile of the difference between the time from one tick to the next and the
    period; ``tick/latency_p99``: of the time from the beginning of a tick to its command; ``tick/missed``: the share of
    ticks that took more than one and a half periods.
    """
    woke = np.array([begin for begin, _, taken in times if taken])
    if len(woke) < 3:
        return {}
    between = np.diff(woke) / period
    latency = np.array([command - begin for begin, command, taken in times if taken]) / period
    latency = latency[np.isfinite(latency)]
    return {
        "tick/jitter_p99": float(np.nanpercentile(np.abs(between - 1), 99)),
        "tick/latency_p99": float(np.percentile(latency, 99)),
        "tick/missed": float(np.mean(between > 1.5)),
    }
