"""Who learns what in how many minutes: our agents beside model-free peers, at equal steps and equal CPU seconds.

    python -m benchmarks.agents [--tasks pendulum] [--agents sac tdmpc2] [--seeds 1 2 3] [--steps N | --minutes M]
    python -m benchmarks.agents --write

A run is written into the result file when it ends, and one that is there is not made again, so the board fills over
many short sittings; one of our own agents that was interrupted goes on from its checkpoint. A peer that is not there is
said and left out. ``--write`` draws docs/board.md from the file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import board, board_page, model_free
from benchmarks.board import Book, Budget, Published, Settings, Task, Watch
from worldformula import catalogue
from worldformula.errors import ConfigError, WorldformulaError, near
from worldformula.run.config import EnvConfig, RunConfig
from worldformula.run.contract import Build
from worldformula.run.interact import Interact
from worldformula.run.run import Run
from worldformula.training.settings import defaults, override, to_dict

RUNS = Path("runs/board")
SEEDS = (1, 2, 3)
OURS = ("dreamer_v3", "tdmpc2")
CAPACITY, ENDLESS = 200_000, 10_000_000
ZOO = "rl-baselines3-zoo, benchmark.md, one run"
DMC = "mean of seeds, result files of the TD-MPC2, SimbaV2 and MR.Q repositories"

TASKS = {
    task.name: task
    for task in (
        Task(
            "pendulum", "Pendulum swing-up from three numbers", EnvConfig("Pendulum-v1"), ("sac", "ppo", *OURS),
            20_000, 5.0, 2_000, published=(
                Published(-156.995, "SAC", 20_000, ZOO), Published(-152.099, "DDPG", 20_000, ZOO),
                Published(-172.225, "PPO", 100_000, ZOO),
            ), ceiling=-156.995, changes={"tdmpc2": ("behaviour.discount=0.975",)},
            note="TD-MPC2's γ is 1 − 5/T, as its authors have it, for T = 200.",
        ),
        Task(
            "pendulum_pixels", "Pendulum swing-up from 32 × 32 pixels",
            EnvConfig("pendulum", pixels=True, size=32, action_repeat=2), ("dreamer_v3",), 12_000, 20.0, 2_000,
            ceiling=-152.4,
            note="The demo's task. The ceiling is an energy controller on the true state. No peer here reads pictures.",
        ),
        Task(
            "cartpole_swingup", "Cart-pole swing-up of the DeepMind Control Suite, from its numbers",
            EnvConfig("dm_control/cartpole-swingup-v0", action_repeat=2), ("sac", *OURS), 30_000, 10.0, 3_000, 4,
            published=(
                Published(861, "SAC", 100_000, DMC), Published(839, "TD-MPC2", 100_000, DMC),
                Published(677, "DreamerV3, runs of TD-MPC2's authors", 100_000, DMC),
                Published(472, "DreamerV3, its authors' training returns", 100_000, "score files of its repository"),
            ), ceiling=861.0,
            note="All published values are those of 100 000 steps: more than three times this budget.",
            asked=5, by=OURS,
        ),
        Task(
            "repeat_first", "RepeatFirst of POPGym (Easy): the first card's suit, 51 steps long",
            EnvConfig("popgym-RepeatFirstEasy-v0"), ("ppo", "ppo_lstm", "qrdqn", "dreamer_v3"), 15_000, 10.0, 1_500,
            60, published=(Published(-0.498, "random", None, "POPGym, table of floors"),), ceiling=1.0,
            changes={"dreamer_v3": ("length=64", "batch=8", "context=1")},
            note="1 is every answer right. Without memory the mean of many episodes cannot pass −0.4994. By settings "
            "of its own, and from answers worth 1, DreamerV3 learns it: `repeat_first` in [results](results.md).",
        ),
        Task(
            "walker_walk", "Walker, walk, of the DeepMind Control Suite, from its numbers",
            EnvConfig("dm_control/walker-walk-v0", action_repeat=2), ("sac", *OURS), 30_000, 10.0, 3_000, 4,
            published=(
                Published(962, "TD-MPC2", 100_000, DMC), Published(449, "SAC", 100_000, DMC),
                Published(630, "DreamerV3, runs of TD-MPC2's authors", 100_000, DMC),
            ), ceiling=962.0,
        ),
        Task(
            "door_key", "MiniGrid DoorKey 5 × 5, as flat numbers",
            EnvConfig("MiniGrid-DoorKey-5x5-v0", wrap=("minigrid.wrappers:FlatObsWrapper",)), ("ppo", "dreamer_v3"),
            50_000, 20.0, 5_000, 20, published=(Published(0.964, "PPO", 100_000, ZOO),), ceiling=0.964,
        ),
        Task(
            "home_hint", "A bin that opens in one of three ways, and a sentence that says which",
            EnvConfig("home_dynamics", args=("hint=true", "again=true", "room=3")), ("ppo", "ppo_lstm"),
            120_000, 20.0, 12_000, 200, ceiling=1.0,
            note="Share of the bins that are opened; at random .102, by who does not read .346. Dynalang opens 1.00 "
            "after as many rows, most of them somebody else's play: `dynalang_hint` in [results](results.md).",
        ),
    )
}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- our agents


class Watched(Interact):
    """A run whose evaluations are the looks of a watch; its checkpoints hold the curve."""

    def __init__(self, watch: Watch, config: RunConfig, build: Build, folder: Path) -> None:
        self.watch = watch
        super().__init__(config, build, folder)

    def test(self) -> dict[str, float]:
        """A look."""
        self.evaluation = self.watch.look(self.count.steps, self.agent)
        self.count.evaluated = self.count.steps
        return self.evaluation.metrics()

    def begin(self) -> None:
        """From now on time counts."""
        super().begin()
        self.watch.start()

    def state(self) -> dict[str, Any]:
        """With the curve."""
        return {**super().state(), "watch": self.watch.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """With the curve."""
        super().restore(state)
        self.watch.restore(state["watch"])


def config(task: Task, agent: str, seed: int) -> RunConfig:
    """The run of one of our agents: its preset ``tiny`` with the task's changes; it ends when its budget is spent."""
    system = catalogue.find(agent)
    settings = override(system.sizes("tiny"), task.changes.get(agent, ()))
    return RunConfig(
        system.name, "tiny", task.env, settings, ENDLESS, seed, capacity=CAPACITY, checkpoint_every=task.every,
        log_every=task.every, eval_every=task.every, eval_episodes=task.episodes, tensorboard=False,
    )  # fmt: skip


def ours(task: Task, agent: str, seed: int, watch: Watch, folder: Path) -> dict[str, Any]:
    """One run, from where its folder stands."""
    asked = config(task, agent, seed)
    asked = replace(asked, steps=watch.budget.steps or ENDLESS)
    run = Watched(watch, asked, catalogue.find(agent).build, folder)
    try:
        Run(run, run.folder).go(lambda: watch.spent(run.count.steps))
    except KeyboardInterrupt:
        if not watch.spent(run.count.steps):
            raise
    finally:
        run.envs.close()
    if not watch.points or not watch.budget.spent(*watch.points[-1][:2]):
        run.test()  # the last turn came behind the last look
    return {"updates": run.count.updates, "weights": sum(p.numel() for p in run.agent.parameters())}


def settings_of(task: Task, agent: str) -> Settings:
    """Everything that decides a run beside its seed and its budget."""
    looks = {"every": task.every, "episodes": task.episodes}
    if agent in model_free.ALGORITHMS:
        values = {"env": to_dict(task.env), "peer": model_free.SETTINGS.get((agent, task.name), {}), **looks}
        return Settings(values, defaults(task.env, "env."))
    asked = replace(config(task, agent, 0), seed=0)
    return Settings({"run": to_dict(asked), **looks}, defaults(asked, "run."))


def learn(task: Task, agent: str, seed: int, watch: Watch, folder: Path) -> dict[str, Any]:
    """A run of whoever it is; what a row says beside its curve."""
    if agent in model_free.ALGORITHMS:
        changes = model_free.SETTINGS.get((agent, task.name), {})
        return {"changes": changes, **model_free.learn(agent, task.env, seed, watch, changes)}
    return {"changes": task.changes.get(agent, ()), **ours(task, agent, seed, watch, folder)}


# ---------------------------------------------------------------------------------------------------------- the filling

Learn = Callable[[Task, str, int, Watch, Path], dict[str, Any]]


@dataclass
class Filling:
    """Runs what a book lacks.

    Args:
        book: where rows go.
        runs: folders of runs that go on.
        learn: one run.
        watch: what looks at it.
        say: called with lines of text.
    """

    book: Book
    runs: Path = RUNS
    learn: Learn = learn
    watch: Callable[[Task, int, Budget], Watch] = Watch
    say: Callable[[str], None] = print

    def fill(self, task: Task, agents: Sequence[str], seeds: Sequence[int], budget: Budget) -> int:
        """Every agent and seed of a task that is not there yet; how many failed.

        What is not installed is said and left out; what fails is said, and the others go on.
        """
        failed = 0
        try:
            self.book.floor(task)
        except ConfigError as error:
            self.say(f"{task.name}: left out: {error}")
            return 0
        for seed in seeds:
            for agent in agents:
                failed += self._one(task, agent, seed, budget)
        return failed

    def _one(self, task: Task, agent: str, seed: int, budget: Budget) -> int:
        settings = settings_of(task, agent)
        name = f"{task.name}, {agent}, seed {seed}"
        if self.book.covered(task.name, agent, seed, settings, budget) is not None:
            self.say(f"{name}: there already")
            return 0
        self.say(f"{name}: {budget}")
        folder = self.runs / task.name / f"{agent}-{settings.digest}" / f"seed-{seed}"
        watch = self.watch(task, seed, budget)
        try:
            more = self.learn(task, agent, seed, watch, folder)
        except ImportError as error:
            self.say(f"{name}: left out, {error}; pip install 'worldformula[bench]'")
            return 0
        except (WorldformulaError, RuntimeError, ValueError) as error:
            self.say(f"{name}: FAILED: {error}")
            return 1
        self.book.add(board.row(task, agent, settings, watch, **more), settings)
        return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Fills, or draws the page; 1 where a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--agents", nargs="+", help="by default those of each task")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--steps", type=int, help="environment steps; by default those of each task")
    budget.add_argument("--minutes", type=float, help="CPU minutes of acting and learning, instead of steps")
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument("--json", type=Path, default=board.RESULT)
    parser.add_argument("--write", action="store_true", help="draw docs/board.md")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    book = Book(asked.json)
    if asked.write:
        board_page.write(book, list(TASKS.values()))
        return 0
    filling, failed = Filling(book, asked.runs), 0
    board.commit()  # that of the code that is loaded now
    for name in asked.tasks:
        if name not in TASKS:
            raise ConfigError(f"no task is called {name!r}.{near(name, TASKS)} There are: {', '.join(TASKS)}")
        task = TASKS[name]
        steps = None if asked.minutes else asked.steps or task.steps
        failed += filling.fill(task, asked.agents or task.agents, asked.seeds, Budget(steps, asked.minutes))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
