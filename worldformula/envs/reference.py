"""``python -m worldformula.envs.reference``: floors and references of every environment of this package.

Prints what a random policy and what the environment's own controller score, and writes them into
``benchmarks/results/env_floors.json``, beside those of other environments that are there. Any id of an installed
package may be named too; it has no controller.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from worldformula.envs import registry
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
    for id in options.ids or ids():
        record(options.out, id, measured(id, options.episodes, options.seed))
    print(f"written to {options.out}")  # noqa: T201 (a command prints)


def measured(id: str, episodes: int, seed: int) -> dict[str, Any]:
    """Floor and reference of one environment, with what they were measured by."""
    floor = random_policy_return(id, episodes, seed, most=2_000 * episodes, seconds=600.0)
    best = reference_return(id, episodes, seed) if registry.find(id) is not None else None
    print(f"{id:28s} random {floor!s:28s} reference {best or 'none'}", flush=True)  # noqa: T201 (a command prints)
    scores = {"random": asdict(floor), "reference": None if best is None else asdict(best)}
    where = {"date": datetime.now(UTC).date().isoformat(), "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    return {**scores, "seed": seed, **where}


def record(file: Path, id: str, scores: Mapping[str, Any]) -> None:
    """Writes the scores of an environment into a file, and leaves what it holds of others."""
    held = json.loads(file.read_text(encoding="utf-8"))["scores"] if file.is_file() else {}
    found = {
        "command": "python -m worldformula.envs.reference",
        "error": "standard error of the mean",
        "scores": dict(sorted({**held, id: scores}.items())),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}")
    part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    part.replace(file)


if __name__ == "__main__":
    main()
