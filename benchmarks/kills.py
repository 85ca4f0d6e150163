"""Kills runs of every kind at random moments (SIGKILL), lets them go on, and compares with one that was left alone.

    python -m benchmarks.kills                   20 kills of each subject; minutes
    python -m benchmarks.kills --kills 2 --only world --only phases
    python -m benchmarks.kills --json benchmarks/results/kills.json      keeps what was found, after every kill

A subject runs once undisturbed. Then, for every kill, it runs in a new folder until a moment that is drawn evenly over
the time that the first one took from its first checkpoint on (of every fourth kill: until its first checkpoint), is
killed there, and goes on to its end in a new process. The last checkpoints must be equal to the last byte: weights,
optimisers, random numbers, the files of the replay, and the log. Exit code 1 if one is not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from worldformula import Normal, catalogue, log
from worldformula.agents.world_models import chain
from worldformula.cards.run import machine, write_json
from worldformula.data import sequences
from worldformula.data.own import Reading
from worldformula.fitting import task
from worldformula.model.config import start
from worldformula.model.run import ModelRun, sized
from worldformula.run.config import DriveConfig, EnvConfig, RunConfig
from worldformula.run.interact import Interact
from worldformula.run.phases import Phase, Phases
from worldformula.training import checkpoint
from worldformula.training.settings import override

TICK = 0.02  # seconds between two looks at a folder
AGENT = ["agent.batch=2", "agent.length=6", "agent.prefill=16", "agent.train_ratio=4"]
DREAMS = ["agent.imag_last=3"]
WORLDS = {"thick_dreamer": "key_corridor", "dynalang": "home_dynamics"}
"""Where an agent acts, if not on a pendulum: symbols and a context that changes, words that are read."""
SEARCH = [f"agent.planner.{text}" for text in ("horizon=4", "candidates=20", "elites=4", "iterations=2")]


def agent_config(*, pixels: bool, steps: int = 100, model: str = "dreamer_v3") -> RunConfig:
    """An agent of the catalogue, `tiny`, tinier."""
    system = catalogue.find(model)
    env = EnvConfig(WORLDS.get(model, "pendulum"), num=2, pixels=pixels, size=16 if pixels else None, max_steps=25)
    every = {"capacity": 400, "checkpoint_every": 10, "log_every": 10, "eval_episodes": 1, "tensorboard": False}
    searches = {"planet": [], "tdmpc2": ["agent.proposals=3"], "thick_planet": ["agent.codes.simulations=6"]}
    own = [*SEARCH, *searches[model]] if model in searches else DREAMS
    return override(RunConfig(system.name, "tiny", env, system.sizes("tiny"), steps, **every), [*AGENT, *own])


def interact(folder: Path, *, pixels: bool, model: str = "dreamer_v3") -> None:
    """An agent in environments."""
    config = agent_config(pixels=pixels, model=model)
    Interact(config, catalogue.find(model).build, folder, say=_quiet).run()


def robot(folder: Path) -> None:
    """An agent on a robot that nobody resets, by a virtual clock: weights are on their way when it is killed."""
    env = EnvConfig("pendulum_noreset", num=1, max_steps=25, args=("pushes=0.1",))
    drive = DriveConfig("virtual", updates=0.4, sync=3, lag=7)
    config = replace(agent_config(pixels=False, model="daydreamer"), env=env, drive=drive)
    Interact(config, catalogue.find("daydreamer").build, folder, say=_quiet).run()


def evolving(folder: Path) -> None:
    """World Models: experience, V, M, and C that evolves in dreams, a run each."""
    small = [
        "latent=4", "depth=2", "hidden=8", "collect=120", "v_steps=60", "m_steps=40", "generations=20", "frames=8",
        "batch=4", "length=8", "dreams.population=4", "dreams.rollouts=2", "dreams.horizon=20",
    ]  # fmt: skip
    config = override(catalogue.find("world_models").sizes("tiny"), small)
    chain(config, EnvConfig("dodge", num=2, pixels=True, size=16, max_steps=25), folder, say=_quiet).run()


def model(folder: Path) -> None:
    """A VAE on sprites, with an average of its weights."""
    config = start("vae", "tiny", "sprites").changed(["steps=300", "batch=32", "ema=0.9", "pixels=256", "hidden=32"])
    ModelRun(config, folder).run()


def world(folder: Path) -> None:
    """An RSSM on walks of random length."""
    rng = np.random.default_rng(0)
    action = rng.normal(size=(16, 12, 1)).astype(np.float32)
    walks = {"place": action.cumsum(1), "action": action, "lengths": rng.integers(6, 13, 16)}
    found = sequences.sequences("walks", sequences.episodes(walks), Reading(length=6), "Random walks.")
    config = sized(start("rssm", "tiny", "walks").changed(["steps=40", "batch=4"]), found)
    ModelRun(config, folder, data=found).run()


def phases(folder: Path) -> None:
    """Collect with an agent, then fit a line, then one to the first one's answers."""

    def line(seed: int) -> Any:
        torch.manual_seed(seed)
        return -log(Normal("p(y|x)", nn.Linear(3, 1), scale=1.0)).mean()

    def rows(run: Interact) -> Any:
        drawn = run.replay.sample(64, 1)
        return {"x": torch.from_numpy(drawn["vector"][:, 0]), "y": torch.from_numpy(drawn["reward"])}

    def answers(folder: Any, had: Any) -> Any:
        with torch.no_grad():
            y = had["line"](had["rows"]["x"])
        return task(line(1), {"x": had["rows"]["x"], "y": y}, folder, steps=400, batch=8)

    def collect(at: Any, _: Any) -> Any:
        return Interact(agent_config(pixels=False, steps=50), catalogue.find("dreamer_v3").build, at, say=_quiet)

    found = {"line": lambda t: next(m for m in t.fitting.loss.modules() if isinstance(m, nn.Linear))}
    one, two = Phase("collect", collect, {"rows": rows}), Phase("answers", answers, takes=("rows", "line"))
    fit = Phase("line", lambda at, had: task(line(0), had["rows"], at, steps=400, batch=8), found, ("rows",))
    Phases([one, fit, two], folder, say=_quiet).run()


SUBJECTS: dict[str, Callable[[Path], None]] = {
    "agent": lambda folder: interact(folder, pixels=False),
    "pixels": lambda folder: interact(folder, pixels=True),
    **{name: partial(interact, pixels=True, model=name) for name in ("planet", "dreamer_v1", "dreamer_v2")},
    **{
        name: partial(interact, pixels=False, model=name)
        for name in ("tdmpc2", "plan2explore", "thick_dreamer", "thick_planet", "dynalang")
    },
    "world_models": evolving,
    "robot": robot,
    "model": model,
    "world": world,
    "phases": phases,
}


def _quiet(_: str) -> None:
    return None


def child(name: str, folder: Path) -> int:
    """The subject in a process of its own; its number."""
    if pid := os.fork():
        return pid
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        SUBJECTS[name](folder)
        os._exit(0)
    finally:
        os._exit(1)


def stored(folder: Path) -> int:
    """How many checkpoints lie in a folder and those one below it."""
    return sum(len(checkpoint.steps_in(c)) for c in (folder / "checkpoints", *folder.glob("*/checkpoints")))


def running(pid: int) -> bool:
    """Whether a child has not ended; it is not waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def finished(name: str, folder: Path) -> tuple[float, float]:
    """Runs it to its end; the seconds until its first checkpoint was seen, and all."""
    began, first, pid = time.perf_counter(), 0.0, child(name, folder)
    while running(pid):
        if not first and stored(folder):
            first = time.perf_counter() - began
        time.sleep(TICK)
    _, status = os.waitpid(pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        sys.exit(f"{name} failed with {code} in {folder}")
    return first, time.perf_counter() - began


def killed(name: str, folder: Path, after: float, *, late: bool) -> bool:
    """Runs it, and kills it after so many seconds, counted from its first checkpoint on; whether it was running."""
    pid = child(name, folder)
    while late and running(pid) and not stored(folder):
        time.sleep(TICK)
    time.sleep(after)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def last_bytes(folder: Path) -> dict[str, bytes]:
    """The newest checkpoint, the log and the rows of the replay of every run in a folder."""
    found = {}
    for config in sorted(folder.rglob("config.json")):
        at = config.parent
        newest = checkpoint.steps_in(at / "checkpoints")[-1]
        files = (newest / checkpoint.TENSORS, newest / checkpoint.TREE, at / "metrics.jsonl")
        rows = sorted((at / "replay").glob("*.bin"))
        found |= {f"{at.relative_to(folder)}/{file.name}": file.read_bytes() for file in (*files, *rows)}
    return found


def unlike(one: bytes, two: bytes | None) -> int:
    """How many bytes differ; what one of them alone has, counts."""
    if two is None:
        return len(one)
    short = min(len(one), len(two))
    first, second = (np.frombuffer(part[:short], np.uint8) for part in (one, two))
    return int((first != second).sum()) + abs(len(one) - len(two))


def trial(name: str, folder: Path, kills: int, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Kills and goes on; after every kill, what was found so far."""
    (first, seconds), found = finished(name, folder / "whole"), list[dict[str, Any]]()
    whole = last_bytes(folder / "whole")
    for number in range(kills):
        late, tries = number % 4 != 3, 0
        after = rng.uniform(0.02, 0.98) * (seconds - first if late else first)
        while not killed(name, at := folder / f"killed-{number}-{tries}", after, late=late):
            after, tries = 0.8 * after, tries + 1  # others use the machine too
        kept = stored(at)
        finished(name, at)
        parts = last_bytes(at)
        differs = {file: count for file in whole if (count := unlike(whole[file], parts.get(file)))}
        found.append({"after": round(after + late * first, 2), "checkpoints": kept, "differs": differs})
        print(f"  {name}: killed after {found[-1]['after']} of {seconds:.2f} s, {kept} checkpoints; differs: {differs}")
        shutil.rmtree(at)
        size = sum(map(len, whole.values()))
        yield {"kills": len(found), "seconds": round(seconds, 2), "files": len(whole), "bytes": size, "found": found}


def main() -> int:
    """Every subject; 1 if anything differed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=SUBJECTS)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    record = json.loads(given.json.read_text()) if given.json and given.json.is_file() else {"subjects": {}}
    if "subjects" not in record:
        sys.exit(f"{given.json} is no record of kills; name another file")
    wrong = 0
    for name in given.only or SUBJECTS:
        differences = 0
        with tempfile.TemporaryDirectory() as folder:
            SUBJECTS[name](Path(folder) / "warm")  # what is imported late is imported here, and not in every child
            for row in trial(name, Path(folder), given.kills, random.Random(given.seed)):  # noqa: S311 (no secret)
                differences = sum(len(kill["differs"]) for kill in row["found"])
                record = {"benchmark": "kills", "seed": given.seed, **machine(), "subjects": record["subjects"]}
                record["subjects"][name] = row
                if given.json:
                    write_json(given.json, record)
        print(f"{name}: {given.kills} kills, {differences} differences", flush=True)
        wrong += differences
    print("every run ended with the same bits" if not wrong else f"{wrong} files differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
