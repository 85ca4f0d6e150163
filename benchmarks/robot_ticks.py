"""How regular the ticks of a robot are while an agent learns: two processes, an actor without a learner, and turns.

    python -m benchmarks.robot_ticks [--seconds 60] [--json benchmarks/results/robot_ticks.json]

`pendulum_noreset`, 20 ticks a second of the wall clock, DayDreamer `tiny` from the pendulum's numbers. `apart`: the
actor in a process of its own, while the learner's process makes one update after the other. `alone`: the same actor,
and the learner waits for rows that never are enough. `turns`: one process, acting and learning in turn, half an update
a tick, on the same robot in the same time. What is claimed: the 99th percentile of the jitter is below a tenth of the
period, `apart`. The load of the machine stands beside it, and the share of a core that the learner's process got:
whatever else runs there takes part in the ticks.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldformula import catalogue
from worldformula.cards.run import machine, write_json
from worldformula.run.apart import Apart, jitter
from worldformula.run.config import DriveConfig, EnvConfig, RunConfig
from worldformula.run.interact import Interact

RESULT = Path(__file__).parent / "results" / "robot_ticks.json"
RATE, PREFILL, CLAIM = 20, 100, 0.1
SETTLE = 2 * RATE  # ticks at the beginning that do not count: processes import, caches fill


def config(clock: str, ticks: int, prefill: int, *, realtime: bool = False) -> RunConfig:
    """A run of so many ticks behind the prefill."""
    system = catalogue.find("daydreamer")
    agent = replace(system.sizes("tiny"), prefill=prefill)
    env = EnvConfig("pendulum_noreset", num=1, args=(f"realtime={realtime}",))
    drive = DriveConfig(clock, sync=RATE)  # type: ignore[arg-type]
    found = RunConfig(system.name, "tiny", env, agent, ticks, 0, drive=drive, capacity=100_000)
    return replace(found, checkpoint_every=10**6, log_every=10**6, eval_episodes=0, tensorboard=False)


class Timed(Interact):
    """Notes when each turn was there."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.turned: list[float] = []

    def _turn(self, turn: Any) -> int:
        taken = super()._turn(turn)
        if taken:
            self.turned.append(time.perf_counter())
        return taken


def measured(clock: str, seconds: float, *, learns: bool = True) -> dict[str, float]:
    """One run; numbers of the ticks in which it learns, where it does."""
    ticks = int(seconds * RATE)
    steps = PREFILL + SETTLE + ticks
    prefill = PREFILL if learns else steps - 1
    with tempfile.TemporaryDirectory() as folder:
        asked = config(clock, steps, prefill, realtime=clock == "none")
        run = Timed(asked, catalogue.find("daydreamer").build, Path(folder) / "run", say=lambda _: None)
        worked, began = time.process_time(), time.perf_counter()
        run.run()
        worked, took = time.process_time() - worked, time.perf_counter() - began
    if isinstance(run.driver, Apart):
        times = [row for row in run.driver.times if row[2]][PREFILL + SETTLE :]
    else:
        times = [(at, at, True) for at in run.turned[PREFILL + SETTLE :]]
    between = np.diff([begin for begin, *_ in times]) * RATE
    found = jitter(times, 1 / RATE)
    if not isinstance(run.driver, Apart):
        found.pop("tick/latency_p99", None)
    found |= {"jitter_median": float(np.median(np.abs(between - 1))), "jitter_max": float(np.abs(between - 1).max())}
    found |= {"actions": float(len(times)), "updates": float(run.count.updates), "learner_cpu": worked / took}
    return {key.removeprefix("tick/"): round(value, 4) for key, value in found.items()} | {
        "robot_seconds": round(times[-1][0] - times[0][0], 2)
    }


def show(name: str, row: Mapping[str, float]) -> None:
    """One line."""
    parts = ", ".join(f"{key} {value:g}" for key, value in row.items())
    print(f"  {name:6} {parts}", flush=True)


def main() -> None:
    """All three, in one run of the machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("jitter and latency in parts of the period of 50 ms")
    rows, loads = dict[str, Any](), dict[str, Any]()
    for name, options in (("alone", {"learns": False}), ("apart", {}), ("turns", {})):
        before = os.getloadavg()[0]
        rows[name] = measured("none" if name == "turns" else "wall", given.seconds, **options)
        loads[name] = [round(before, 2), round(os.getloadavg()[0], 2)]
        show(name, rows[name])
    holds = rows["apart"]["jitter_p99"] < CLAIM
    print(f"load of {os.cpu_count()} cores before and after: {loads}")
    print(f"apart: jitter_p99 {rows['apart']['jitter_p99']:g} of the period, needed < {CLAIM:g}: {holds}")
    if given.json:
        record = {"benchmark": "robot_ticks", "seconds": given.seconds, "holds": bool(holds), "load": loads}
        write_json(given.json, {**record, "rows": rows, **machine()})


if __name__ == "__main__":
    main()
