"""DayDreamer whose robot never waits, against one whose robot waits for the learner, at equal time of the robot.

    python -m benchmarks.robot_waits [--only pendulum_noreset sphero_sim] [--seeds 0 1 2] [--json FILE]

`apart`: the virtual clock of `worldformula.run.drive`, half an update an action while the robot moves, weights handed
over every 20 actions that take two to arrive. `waits`: acting and learning in turn at the same updates an action, with
the newest weights; the robot stands still while the learner learns, in a simulation that stands still with it, which
flatters it. A learner is as fast in both: what `apart` learns in a second takes a second of waiting. So when `apart`
has moved for N ticks, `waits` has moved for (N + prefill) / 2 in the same time; both stand here, and equal ticks too.

A score is the mean return of 24 pseudo-episodes, played by modes in lives that training never saw. A row is written
once it is measured, and one that the file holds is not measured again. Intervals are those of the mean over seeds,
95 %, by Student's t, and of differences on one seed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.variants import kept
from worldformula import catalogue
from worldformula.cards.run import machine, write_json
from worldformula.errors import table
from worldformula.metrics.interval import mean
from worldformula.run.config import DriveConfig, EnvConfig, RunConfig
from worldformula.run.evaluate import evaluate
from worldformula.run.interact import Interact
from worldformula.training import devices

RESULT = Path(__file__).parent / "results" / "robot_waits.json"
UPDATES, SYNC, LAG, PREFILL, EPISODES = 0.5, 20, 2, 1_000, 24
ARMS = ("apart", "waits")


@dataclass(frozen=True)
class Robot:
    """Who learns: the environment, its ticks a second, how many an action holds, and the ticks of `apart` at a look."""

    env: str
    rate: int
    repeat: int
    looks: tuple[int, ...]

    def ticks(self, arm: str) -> list[int]:
        """Where an arm is looked at: at equal time, and `waits` at equal ticks too."""
        own = list(self.looks)
        return own if arm == "apart" else sorted({*own, *map(waited, own)})


ROBOTS = {
    robot.env: robot
    for robot in (Robot("pendulum_noreset", 20, 2, (6_000, 8_000)), Robot("sphero_sim", 2, 1, (3_000, 4_000)))
}


def waited(ticks: int) -> int:
    """The ticks that a robot which waits has moved when one that does not has moved for so many: before the prefill's
    end neither waits, and from then on a second of moving costs one of waiting.
    """
    return (ticks + PREFILL) // 2 if ticks > PREFILL else ticks


def config(robot: Robot, arm: str, seed: int, ticks: int) -> RunConfig:
    """A life of so many ticks, from 32 × 32 pixels."""
    system = catalogue.find("daydreamer")
    agent = system.sizes("tiny")
    rows = agent.batch * agent.length
    agent = replace(agent, prefill=PREFILL, train_ratio=UPDATES * rows)
    env = EnvConfig(robot.env, num=1, pixels=True, size=32, action_repeat=robot.repeat)
    drive = DriveConfig("virtual", UPDATES, SYNC, LAG) if arm == "apart" else DriveConfig("none")
    found = RunConfig(system.name, "tiny", env, agent, ticks, seed, drive=drive, capacity=50_000)
    return replace(found, checkpoint_every=10**6, log_every=10**6, eval_episodes=0, tensorboard=False)


def measure(robot: Robot, arm: str, seed: int) -> dict[str, Any]:
    """One life: at every look the ticks, the updates, the return of the policy and its standard error."""
    system, curve, began, looked = catalogue.find("daydreamer"), [], time.process_time(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        for ticks in robot.ticks(arm):  # a run that goes on does so to the bit
            asked = config(robot, arm, seed, ticks)
            life = Interact(asked, system.build, Path(folder) / "run", say=lambda _: None)
            life.run()
            looking = time.process_time()
            score = evaluate(life.agent, replace(asked.env, num=4), episodes=EPISODES, seed=10_000 + seed)
            looked += time.process_time() - looking
            curve.append([ticks, life.count.updates, round(score.mean, 2), round(score.error, 2)])
    return {"curve": curve, "cpu_seconds": round(time.process_time() - began - looked, 1)}


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of every robot and time the returns of `apart`, of `waits` in equal time, and in equal ticks, by seed; the mean
    of each and of their differences on one seed, with intervals where two seeds or more have both.
    """
    held = {(row["env"], row["arm"], row["seed"]): {at[0]: at[2] for at in row["curve"]} for row in rows}
    found = []
    for name in dict.fromkeys(row["env"] for row in rows):
        seeds = sorted(
            {seed for env, _, seed in held if env == name and all((name, arm, seed) in held for arm in ARMS)}
        )
        for ticks in ROBOTS[name].looks if seeds else ():
            apart = [held[name, "apart", seed][ticks] for seed in seeds]
            time_, same = ([held[name, "waits", seed][n] for seed in seeds] for n in (waited(ticks), ticks))
            own: dict[str, Any] = {"env": name, "ticks": ticks, "seeds": seeds, "apart": interval(apart)}
            for what, returns in (("equal_time", time_), ("equal_ticks", same)):
                gains = [a - b for a, b in zip(apart, returns, strict=True)]
                own |= {what: interval(returns), f"over_{what}": interval(gains)}
            found.append({**own, "minutes": round(ticks / ROBOTS[name].rate / 60, 2)})
    return found


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Values, their mean, and where the expectation lies."""
    reach = mean(values) if len(values) > 1 else None
    ends = reach and [round(reach.low, 1), round(reach.high, 1)]
    return {"values": [round(v, 1) for v in values], "mean": round(statistics.fmean(values), 1), "interval": ends}


def main(given: Sequence[str] | None = None) -> None:
    """Measures what the file lacks, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ROBOTS, default=list(ROBOTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path, default=RESULT)
    asked = parser.parse_args(given)
    torch.set_num_threads(1)
    devices.keep_memory()
    settings = {"updates": UPDATES, "sync": SYNC, "lag": LAG, "prefill": PREFILL, "episodes": EPISODES}
    head = {"benchmark": "robot_waits", "time": "CPU time of one process", **settings}
    rows = kept(asked.json, head)
    for name in asked.only:
        for seed in asked.seeds:
            for arm in ARMS:
                if any((row["env"], row["arm"], row["seed"]) == (name, arm, seed) for row in rows):
                    continue
                rows.append({"env": name, "arm": arm, "seed": seed, **measure(ROBOTS[name], arm, seed)})
                print(rows[-1], flush=True)
                write_json(asked.json, {**head, **machine(), "summary": summary(rows), "rows": rows})
    shown = [
        (own["env"], f"{own['minutes']:g}", *(f"{own[what]['mean']:g} {own[what]['interval']}" for what in SHOWN))
        for own in summary(rows)
    ]
    print(table(("robot", "minutes", *(what.replace("_", " ") for what in SHOWN)), shown))


SHOWN = ("apart", "equal_time", "equal_ticks", "over_equal_time", "over_equal_ticks")


if __name__ == "__main__":
    main()
