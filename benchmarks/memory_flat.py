"""Memory of a long run: 200,000 environment steps of eight streams, an update for every 64 of them.

    python -m benchmarks.memory_flat [--steps 200000] [--json benchmarks/results/memory_flat.json]

A DreamerV3 `tiny` on the pendulum's three numbers, as `worldformula train` runs it: replay in files, log, checkpoints,
evaluations. Resident memory is read a few times per second. A replay that fills is no leak: it has room for a tenth of
the run (and, in its files, for the rows of four intervals between checkpoints), and only what comes after a fifth of
the run is compared, when every place was written. Growth is the mean of the last tenth over that of the first tenth
behind the warm-up. Exit code 1 at 2 % or more.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch

from worldformula import catalogue
from worldformula.cards.run import machine, write_json
from worldformula.run.config import EnvConfig, RunConfig
from worldformula.run.interact import Interact
from worldformula.training.settings import override

RESULT = Path(__file__).parent / "results" / "memory_flat.json"
STREAMS, BATCH, LENGTH, STEPS_PER_UPDATE = 8, 8, 16, 64
WARM, CAPACITY, PART = 0.2, 0.1, 0.1  # shares of the run
ALLOWED = 0.02
KINDS = ("VmRSS", "RssAnon", "RssFile")
Sample = tuple[int, dict[str, int]]


def resident() -> dict[str, int]:
    """Bytes of this process in memory: all, those of its own, and mapped pages of files (Linux)."""
    status = Path("/proc/self/status").read_text()
    return {kind: int(status.split(f"{kind}:")[1].split()[0]) * 1024 for kind in KINDS}


def settings(steps: int) -> RunConfig:
    """The run."""
    system = catalogue.find("dreamer_v3")
    rows = {"capacity": int(CAPACITY * steps), "checkpoint_every": steps // 100, "log_every": steps // 100}
    tests = {"eval_every": steps // 8, "eval_episodes": 2}
    config = RunConfig(
        system.name, "tiny", EnvConfig("pendulum", num=STREAMS), system.sizes("tiny"), steps, threads=1, **rows, **tests
    )
    ratio = BATCH * LENGTH / STEPS_PER_UPDATE
    return override(
        config, [f"agent.batch={BATCH}", f"agent.length={LENGTH}", f"agent.train_ratio={ratio}", "agent.prefill=1000"]
    )


def measure(steps: int, folder: Path) -> tuple[list[Sample], int]:
    """Runs; memory by step, and the number of updates."""
    samples: list[Sample] = []

    def read(run: Interact) -> None:
        samples.append((run.count.steps, resident()))
        if len(samples) % 100 == 0:
            print(f"{run.count.steps:,} steps, {samples[-1][1]['VmRSS'] / 1e6:.1f} MB", flush=True)

    run = Interact(settings(steps), catalogue.find("dreamer_v3").build, folder, show=read)
    run.run()
    return samples, run.count.updates


def mean(samples: Sequence[Sample], kind: str, begin: float, end: float) -> float:
    """Of the samples between two steps."""
    return fmean(held[kind] for step, held in samples if begin <= step <= end)


def main() -> int:
    """Measures and writes; 1 if memory grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--json", type=Path, default=RESULT)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    began, steps = time.process_time(), asked.steps
    with tempfile.TemporaryDirectory() as folder:
        samples, updates = measure(steps, Path(folder) / "run")
    first, last = ((share * steps, (share + PART) * steps) for share in (WARM, 1 - PART))
    found = {kind: {"first": mean(samples, kind, *first), "last": mean(samples, kind, *last)} for kind in KINDS}
    growth = {kind: round(v["last"] / v["first"] - 1, 5) for kind, v in found.items()}
    every = max(1, len(samples) // 60)
    record = {
        "benchmark": "memory_flat", "seed": 0, **machine(), "steps": steps, "streams": STREAMS, "updates": updates,
        "replay_capacity_rows": int(CAPACITY * steps), "warm_up_steps": int(WARM * steps),
        "cpu_seconds": round(time.process_time() - began), "samples_read": len(samples),
        "mean_bytes": {kind: {part: round(value) for part, value in v.items()} for kind, v in found.items()},
        "growth": growth, "allowed": ALLOWED, "passed": growth["VmRSS"] < ALLOWED,
        "bytes_by_step": [[step, held["VmRSS"]] for step, held in samples[::every]],
    }  # fmt: skip
    write_json(asked.json, record)
    print(f"growth after the warm-up: {', '.join(f'{kind} {100 * value:+.2f} %' for kind, value in growth.items())}")
    return 0 if record["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
