"""Interact: act, remember, learn, write down; a task for `worldformula.run.run.Run`.

One turn: the agent acts at the present rows, the rows and actions enter the replay, the environments step, and the
agent learns as often as its train ratio says (the fraction that is left is carried), or as another driver has it
(`worldformula.run.drive`). A checkpoint changes nothing: every episode has a seed of its own, and a checkpoint holds
the actions of the episodes that it cuts through. A resumed run plays them again, compares the rows with a fingerprint,
and on the same CPU ends with the same bits. Where an environment does not repeat itself, that episode is cut and told.

An environment that raises an error or gives NaN is made anew and begins the next episode; that is counted and told too.
What acts without learning (no `update`) fills the replay alone.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldformula.data.replay import Replay
from worldformula.envs import Envs, Episode
from worldformula.errors import (
    CheckpointError,
    ConfigError,
    NonFiniteError,
    RobotError,
    RunFolderError,
    WorldformulaError,
)
from worldformula.run import transfer
from worldformula.run.alarm import Alarm
from worldformula.run.checks import alone, possible, settled
from worldformula.run.config import FIXED, FREE_ON_RESUME, RunConfig, deliberate
from worldformula.run.contract import Agent, Batch, Build, Learning, Recalling, Recollecting, Surprised, Write
from worldformula.run.counters import Counters, Result, means
from worldformula.run.drive import driver, environments
from worldformula.run.evaluate import Evaluation, tried
from worldformula.run.folder import RunFolder, writing
from worldformula.run.kinds import settings_of
from worldformula.run.play import Turn
from worldformula.run.run import Run, agree, kept
from worldformula.training import checkpoint, devices, settings
from worldformula.training.seeding import derived, rng_state, seed_everything, set_rng_state

NOT_FINITE = (
    "Expected finite numbers. The last checkpoint is from before; look at the terms of the loss in metrics.jsonl, "
    "lower the learning rate, or check the environment's observations and rewards."
)
SHOW_EVERY = 0.25  # seconds between two calls of `show`
FAILURES_TOLD = 5  # failures of environments that are told one by one
CHECKPOINTED = "checkpointed"  # a file in the replay: from the first checkpoint on, its rows are worth keeping
EVALUATION = 1  # what `derived` seeds are for


class Interact:
    """An agent in environments: a new run, or going on where its last checkpoint is. ``Interact(…).run()``.

    Args:
        config: what to run. In a folder that holds a run already, it must be that run's configuration, except for
            the settings in `FREE_ON_RESUME`.
        build: ``build(config.agent, observations, actions, seed)`` makes the agent.
        folder: the run folder.
        show: called a few times per second with the task itself, for a progress display.
        say: called with a line of text where something needs saying: print, or a logger's ``warning``.
        resume_with: ``key=value`` texts: settings that shall change as the run goes on.

    Attributes:
        count: how far it is.
        resumes_at: the step that it will go on from, if the newest checkpoint is a good one; 0 for a new run.
        latest: the numbers of the latest update, by name.
        evaluation: the latest evaluation.

    Raises:
        RunFolderError: the folder cannot be written, or holds a run of another configuration.
        CheckpointError: there are checkpoints, and none can be read or none fits.
        ConfigError: settings that contradict each other.
    """

    kind = "interact"

    def __init__(
        self, config: RunConfig, build: Build, folder: str | Path | RunFolder, *,
        show: Callable[[Interact], None] = lambda _: None, say: Callable[[str], None] = print,
        resume_with: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.folder = folder if isinstance(folder, RunFolder) else RunFolder(folder)
        self.folder.free()
        steps = kept(self.folder)
        stored = self.folder.config() if steps and self.folder.exists else {}
        threads = config.threads or int(stored.get("threads", 0)) or torch.get_num_threads()
        self.asked = dataclasses.replace(config, threads=threads)
        agree(self.folder, self)
        self.config, self.changed = deliberate(self.asked, resume_with, FIXED)
        self.every, self.tensorboard = self.config.checkpoint_every, self.config.tensorboard
        self.threads: int | None = self.config.threads
        torch.set_num_threads(self.config.threads)
        self.device = devices.choose(self.config.device)
        self.build, self.show, self.say, self.alarm = build, show, say, Alarm(say)
        self.count = Counters()
        self.resumes_at = steps[-1] if steps else 0
        self.latest: dict[str, float] = {}
        self.evaluation: Evaluation | None = None
        settled(self.config)
        self.envs = environments(self.config)
        alone(self.config, self.envs)
        if any(key.startswith("agent.") for key in self.changed):
            transfer.same_sizes(build, self.asked, self.config, self.envs, self.changed)
        seed_everything(self.config.seed)
        self.agent = self.fresh_agent()
        possible(self.config, self.agent, self.resumes_at, say)
        self.driver = driver(self.config, self.envs, self.agent, build, self.device)
        transfer.same_words("" if steps else self.config.init, self.envs.vocabulary)
        transfer.prepare(self.agent, "" if steps else self.config.init, self.config.freeze, say)
        if self.config.compile and isinstance(self.agent, torch.nn.Module) and devices.compiles(say):
            self.agent.compile()
        self._sums: dict[str, float] = {}
        self._summed = 0
        self._finished: list[Episode] = []
        self._known, self._shown = 0, 0.0  # failures of this process's environments that were told; when it was shown
        self._halted: RobotError | None = None

    def fresh_agent(self) -> Agent:
        """An agent as a new run starts with, on the device of the run."""
        agent = self.build(self.config.agent, self.envs.observations, self.envs.actions, self.config.seed)
        if isinstance(agent, Learning):
            agent.to(self.device)
        return agent

    @property
    def recalling(self) -> Recalling | None:
        """The agent, where its sequences go on from latents that the replay keeps."""
        return self.agent if isinstance(self.agent, Recalling) and self.agent.latents else None

    @property
    def replay_bytes(self) -> int:
        """What the replay takes on disk once it is full."""
        sizes = (math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in self.envs.row_spec.values())
        return int(self.config.capacity * sum(sizes))

    def new_replay(self) -> Replay:
        """The replay of this run, in its folder. Its slack outlives two checkpoint intervals of reset-heavy rows."""
        config = self.config
        turns = config.checkpoint_every // config.env.action_repeat + 2 * config.env.num
        with writing(self.folder.path):
            return Replay(
                config.capacity,
                self.envs.row_spec,
                streams=config.env.num, directory=self.folder.replay, slack=4 * turns, seed=config.seed,
                latents=recalling.latents if (recalling := self.recalling) else None,
                online=bool(getattr(config.agent, "online", False)),
                mixture=getattr(config.agent, "mixture", None),
            )  # fmt: skip

    # ----------------------------------------------------------------------------------------------------- as a task

    @property
    def step(self) -> int:
        """Environment steps so far."""
        return self.count.steps

    @property
    def goal(self) -> int:
        """Environment steps of the whole run."""
        return int(self.config.steps)

    def written(self) -> Mapping[str, Any]:
        """As in ``config.json``."""
        return settings.to_dict(self.config)

    def differences(self, stored: Mapping[str, Any]) -> Mapping[str, tuple[Any, Any]]:
        """Against the settings of the folder; what was changed deliberately is none."""
        try:
            before = settings.from_dict(self.asked, settings_of(stored))
        except ConfigError as error:
            raise RunFolderError(
                f"{self.folder.config_file} does not fit this version of {self.asked.model}: {error}"
            ) from error
        return {k: v for k, v in settings.differences(before, self.asked).items() if k not in FREE_ON_RESUME}

    def resume_hint(self) -> str:
        """The command; that of `worldformula demo` goes on in the same way."""
        return shlex.join(["worldformula", "train", "--run", str(self.folder.path)])

    def run(self) -> Result:
        """Runs to the end of `config.steps`; returns at once what a finished run reached.

        Raises:
            NonFiniteError: a loss, an action, an observation or a reward is NaN or infinite. See `Run.go`.
        """
        started = time.perf_counter()
        Run(self, self.folder, say=self.say, changed=self.changed).go()
        self.show(self)
        self.envs.close()
        return Result(self.folder.path, self.count, self.evaluation, time.perf_counter() - started)

    def advance(self, until: int, write: Write, asked: Callable[[], bool]) -> None:
        """Turns, until there were so many steps; the last one of a run is logged and evaluated."""
        while self.count.steps < until and not asked():
            before = self.count.steps
            try:
                taken = sum(self._turn(turn) for turn in self.driver.turns())
            except RobotError as error:
                self._halted = error
                return
            if isinstance(self.agent, Learning):
                self._learn(taken)
            if self._passed(before, self.config.log_every):
                self._log(write)
            if self.config.eval_episodes and self._passed(before, self.config.eval_every):
                write(self.count.steps, self.test())
            if time.perf_counter() - self._shown > SHOW_EVERY and self.count.steps < self.config.steps:
                self.show(self)
                self._shown = time.perf_counter()
        if self.count.steps >= self.config.steps:
            self.driver.halt()
            if self._summed or self._finished:
                self._log(write)
            if self.config.eval_episodes and self.count.evaluated != self.count.steps:
                try:
                    write(self.count.steps, self.test())
                except RobotError as error:
                    self._halted = error

    def _passed(self, before: int, every: int) -> bool:
        return bool(every) and self.count.steps // every > before // every

    def _turn(self, turn: Turn) -> int:
        """Remembers a turn; the actions that it took."""
        latents = recalling.stored(turn.state) if (recalling := self.recalling) else None
        self.replay.add(turn.rows, self.envs.stored(turn.actions), latents)
        if isinstance(self.agent, Recollecting):
            self.agent.recollect(turn.rows, turn.state)
        taken = int((~turn.after["is_first"]).sum())  # in the other streams this turn was a reset
        self.count.steps += taken * self.config.env.action_repeat
        for episode in self.envs.finished:
            self._finished.append(episode)
            self.count.ended(episode.score)
        if len(self.envs.failures) > self._known:
            self._failed()
        return taken

    def _failed(self) -> None:
        """Counts the failures of this turn, and tells of the first few."""
        found = self.envs.failures
        self.count.failures += len(found) - self._known
        self._known = len(found)
        if self.count.failures <= FAILURES_TOLD:
            last = found[-1]
            more = "; further ones are counted only" if self.count.failures == FAILURES_TOLD else ""
            self.say(
                f"warning: stream {last.stream}, action {last.step + 1} of its episode {last.episode}: {last.reason} "
                f"The environment was made anew with a fresh seed ({self.count.failures} so far{more})"
            )

    def _learn(self, taken: int) -> None:
        learning = self.agent.config
        rows_per_stream = len(self.replay) // self.config.env.num
        context = int(self.recalling is not None)
        ready = self.count.steps >= learning.prefill and rows_per_stream >= learning.length + context
        self.count.debt += self.driver.owed(taken) if ready else 0.0
        while self.count.debt >= 1:
            self.count.debt -= 1
            self.latest = self._update(self.replay.sample(learning.batch, learning.length, context=context))
            for name, value in self.latest.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
            self._summed += 1
            self.count.updates += 1
        self.driver.learnt(taken, self.count.updates)

    def _update(self, batch: Batch) -> dict[str, float]:
        """One update, whose terms are checked at once: from the next one on all of them would be NaN."""
        where = f"at update {self.count.updates + 1:,}, step {self.count.steps:,}"
        try:
            if (recalling := self.recalling) is None:
                metrics = self.agent.update(batch)
            else:
                metrics, latents = recalling.learn(batch)
                self.replay.write(batch, latents)
            self.replay.reviewed(batch, self.agent.surprise if isinstance(self.agent, Surprised) else None)
            found = {name: float(value) for name, value in metrics.items()}
        except (RuntimeError, ValueError, IndexError) as error:  # some networks stumble over NaN before a loss shows it
            if isinstance(error, WorldformulaError) or all(p.isfinite().all() for p in self.agent.parameters()):
                raise
            raise NonFiniteError(f"the agent's weights are not finite {where}. {NOT_FINITE}") from error
        if bad := [name for name, value in found.items() if not math.isfinite(value)]:
            more = f" (and so are {', '.join(bad[1:])})" if bad[1:] else ""
            raise NonFiniteError(f"{bad[0]} is {found[bad[0]]} {where}{more}. {NOT_FINITE}")
        return found

    # ------------------------------------------------------------------------------------------------- writing down

    def _log(self, write: Write) -> None:
        """Means since the last log."""
        values: dict[str, float] = {"updates": self.count.updates, "episodes": self.count.episodes}
        values |= means(self._finished)
        if self.count.failures:
            values["env/failures"] = self.count.failures
        values |= self.driver.metrics()
        values |= {name: total / self._summed for name, total in self._sums.items()}
        self._sums, self._summed, self._finished = {}, 0, []
        write(self.count.steps, values)

    def test(self) -> dict[str, float]:
        """An evaluation."""
        config = self.config
        seed = derived(config.seed, EVALUATION)  # the same episodes each time, so that evaluations compare
        robot = self.envs if isinstance(self.envs, Envs) and self.envs.real else None
        self.evaluation = tried(self.say, self.agent, config.env, episodes=config.eval_episodes, seed=seed, on=robot)
        if robot is not None:
            self.driver.halt()
        self.count.evaluated = self.count.steps
        best = self.evaluation is not None and config.eval_every and self.count.better(self.evaluation.mean)
        if best and isinstance(self.agent, Learning):
            checkpoint.save(self.folder.best, self.step, {"agent": self.agent.checkpoint()}, keep=1)
        told = self.alarm.watched(self.agent, self.replay, self.step, ended=self.step >= self.goal)
        return {**(self.evaluation.metrics() if self.evaluation else {}), **told}

    # ------------------------------------------------------------------------------------------------ checkpoints

    def state(self) -> dict[str, Any]:
        """Everything that decides how the run goes on; taking it changes nothing."""
        self.replay.flush()
        return {
            "count": dataclasses.asdict(self.count),
            "evaluation": dataclasses.asdict(self.evaluation) if self.evaluation else None,
            "sums": {"sums": self._sums, "summed": self._summed},
            "finished": [dataclasses.asdict(episode) for episode in self._finished],
            "agent": self.agent.checkpoint() if isinstance(self.agent, Learning) else {},
            **self.driver.state(),
            "replay": self.replay.state(),
            "rng": rng_state(),
        }

    def kept(self) -> None:
        """From now on the rows are worth keeping.

        Raises:
            RobotError: the robot does not go on; what was learnt until then is safe.
        """
        self.replay.checkpointed()
        (self.folder.replay / CHECKPOINTED).touch()
        if self._halted is not None:
            why, self._halted = self._halted, None
            raise RobotError(
                f"{why}. The run was stored at step {self.step:,}; go on with {self.resume_hint()}"
            ) from why

    def halt(self) -> None:
        """Nobody acts any more: a robot is paused."""
        self.driver.halt()

    def begin(self) -> None:
        """A new replay. What a run left behind that never reached a checkpoint is removed.

        Raises:
            RunFolderError: the folder held checkpoints once. Experience is not deleted because they were lost.
        """
        if (self.folder.replay / CHECKPOINTED).exists():
            raise RunFolderError(
                f"{self.folder.path} has lost its checkpoints, and its replay holds the experience of a run: nothing "
                f"is deleted. Bring back {self.folder.checkpoints}, take another folder with --run, or delete "
                f"{self.folder.path} yourself."
            )
        for left in (self.folder.replay, self.folder.tensorboard, self.folder.best):
            shutil.rmtree(left, ignore_errors=True)
        self.replay = self.new_replay()
        self.driver.begin()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint: the running episodes are played again."""
        self.replay = self.new_replay()
        if isinstance(self.agent, Learning):
            self.agent.restore(state["agent"])
        if missing := [key for key in ("envs", "acting", "sums", "finished") if key not in state]:
            raise CheckpointError(
                f"the checkpoint is of an earlier version: it lacks {', '.join(missing)}; start a new run"
            )
        self.replay.restore(state["replay"])
        known = {field.name for field in dataclasses.fields(Counters)}
        self.count = Counters(**{key: value for key, value in state["count"].items() if key in known})
        self.evaluation = Evaluation(**state["evaluation"]) if state["evaluation"] else None
        self._sums, self._summed = dict(state["sums"]["sums"]), int(state["sums"]["summed"])
        self._finished = [Episode(**episode) for episode in state["finished"]]
        set_rng_state(state["rng"])
        cut = self.driver.restore(state)
        self._known = len(self.envs.failures)
        if cut:
            self.count.cut += len(cut)
            self.say(
                f"warning: {self.config.env.id} did not repeat itself when its episodes were played again: those of "
                f"{len(cut)} of {self.config.env.num} streams are cut at step {self.count.steps} "
                f"({self.count.cut} so far)"
            )
