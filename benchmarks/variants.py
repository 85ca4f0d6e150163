"""The agent of the demo with one of its settings changed: what each change costs and earns, row by row.

    python -m benchmarks.variants representations [--steps 6000] [--seeds 0 1 2] [--only barlow ...] [--json FILE]
    python -m benchmarks.variants switches

`representations`: what a state has to tell, in the place of its decoder or beside it. `switches`: what may make data go
further. DreamerV3 `tiny` on the pendulum from 32 × 32 pixels, half as long as the demo, one thread; a score is the mean
return of 50 episodes that training never saw. A row is written once it is measured, and one that the file holds is not
measured again: the command may be stopped at any time, and given anew it goes on. Behind all seeds stands the interval
of 95 % of their mean, by Student's t, which takes them as draws of a normal distribution; `docs/board.md` shows it
once it is recorded. How long an update takes is what `targets_step` measures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from worldformula import catalogue
from worldformula.cards import demo
from worldformula.cards.run import machine, write_json
from worldformula.errors import ConfigError, table
from worldformula.metrics.interval import mean
from worldformula.run.evaluate import evaluate
from worldformula.run.interact import Interact
from worldformula.training import devices, settings
from worldformula.world.embeddings import Target

STEPS = 6_000  # half of the demo
RESULTS = Path(__file__).parent / "results"
REPRESENTATIONS: Mapping[str, Sequence[str]] = {name: [f"agent.world.target={name}"] for name in get_args(Target)}
SWITCHES: Mapping[str, Sequence[str]] = {
    "as it is": [],
    "curious replay": ["agent.mixture.priority=1"],
    "recency": ["agent.mixture.recent=0.5"],
    "harmony": ["agent.world.harmony=true"],
    "resets": ["agent.reset_every=1000"],
    "half the updates": ["agent.train_ratio=64"],
    "twice the updates": ["agent.train_ratio=256"],
}
GROUPS = {"representations": REPRESENTATIONS, "switches": SWITCHES}


def measure(changes: Iterable[str], seed: int, steps: int) -> dict[str, float]:
    """One run of the demo with these settings: its score and standard error, updates, and seconds of the process."""
    asked = settings.override(demo.config(steps, seed), list(changes))
    with tempfile.TemporaryDirectory() as folder:
        loop = Interact(asked, catalogue.find("dreamer_v3").build, Path(folder) / "run", say=lambda _: None)
        began = time.process_time()
        loop.run()
        spent = time.process_time() - began
        score = evaluate(loop.agent, loop.config.env, episodes=demo.EPISODES, seed=10_000 + seed)
    return {
        "return": round(score.mean, 2), "return_error": round(score.error, 2), "updates": loop.agent.updates.count,
        "cpu_seconds": round(spent, 1),
    }  # fmt: skip


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of every change the returns of its seeds, their mean with its interval, and the mean seconds of a run."""
    found = []
    for name in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in rows if row["name"] == name]
        returns = [row["return"] for row in own]
        reach = mean(returns) if len(returns) > 1 else None
        found.append({
            "name": name, "seeds": [row["seed"] for row in own], "returns": returns,
            "mean": round(statistics.fmean(returns), 1),
            "interval": reach and [round(reach.low, 1), round(reach.high, 1)],
            "cpu_seconds": round(statistics.fmean(row["cpu_seconds"] for row in own), 1),
        })  # fmt: skip
    return found


def kept(path: Path, head: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a file of the same runs.

    Raises:
        ConfigError: the file holds rows of other runs.
    """
    if not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    if any(found.get(key) != value for key, value in head.items()):
        held = {key: found.get(key) for key in head}
        raise ConfigError(f"{path} holds rows of {held}, and these would be of {dict(head)}; give another --json")
    rows: list[dict[str, Any]] = found["rows"]
    return rows


def main(given: Sequence[str] | None = None) -> None:
    """Measures what the file lacks, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=None, help="these changes alone")
    parser.add_argument("--json", type=Path, default=None)
    asked = parser.parse_args(given)
    changes = GROUPS[asked.group]
    names = asked.only or list(changes)
    if unknown := [name for name in names if name not in changes]:
        parser.error(f"{unknown[0]!r} is none of {', '.join(changes)}")
    path = asked.json or RESULTS / f"{asked.group}.json"
    torch.set_num_threads(1)
    devices.keep_memory()
    head = {"benchmark": f"variants {asked.group}", "time": "CPU time of one process", "steps": asked.steps}
    rows = kept(path, head)
    for seed in asked.seeds:
        for name in names:
            if any(row["name"] == name and row["seed"] == seed for row in rows):
                continue
            rows.append({"name": name, "seed": seed, **measure(changes[name], seed, asked.steps)})
            print(rows[-1], flush=True)
            write_json(path, {**head, **machine(), "summary": summary(rows), "rows": rows})
    shown = [
        (own["name"], ", ".join(f"{x:.0f}" for x in own["returns"]), own["mean"], own["interval"], own["cpu_seconds"])
        for own in summary(rows)
    ]
    print(table(("change", "return of each seed", "mean", "95 %", "CPU s"), shown))


if __name__ == "__main__":
    main()
