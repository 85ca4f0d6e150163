"""``python -m worldformula.envs.reference``: floors and references of every environment of this package.

Prints what a random policy and what the environment's own controller score, and writes
``benchmarks/results/env_floors.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from worldformula.envs.factory import ids
from worldformula.envs.returns import random_policy_return, reference_return


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m worldformula.envs.reference", description=__doc__)
    parser.add_argument("ids", nargs="*", help="environments; all of this package by default")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/env_floors.json"))
    options = parser.parse_args(arguments)
    scores = {}
    for id in options.ids or ids():
        floor = random_policy_return(id, options.episodes, options.seed)
        best = reference_return(id, options.episodes, options.seed)
        scores[id] = {"random": asdict(floor), "reference": asdict(best)}
        print(f"{id:20s} random {floor!s:28s} reference {best}", flush=True)  # noqa: T201 (a command prints)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "command": "python -m worldformula.envs.reference",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "seed": options.seed,
        "error": "standard error of the mean",
        "scores": scores,
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written to {options.out}")  # noqa: T201 (a command prints)


if __name__ == "__main__":
    main()
