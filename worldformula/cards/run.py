"""Measures a card: runs its entry once per seed, prints the numbers beside floor, threshold and published value."""

from __future__ import annotations

import importlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from worldformula.cards import Card, load
from worldformula.errors import CardError, near, table

Measure = Callable[[int], Mapping[str, float]]


def reproduce(name: str, seeds: Sequence[int] | None = None, json_paths: Sequence[str | Path] = ()) -> bool:
    """Measures one card and prints a line per seed; the last line starts with ``PASS`` or ``FAIL``.

    Args:
        name: the card, see `worldformula.cards.names`.
        seeds: instead of the card's own.
        json_paths: also write everything that was measured into these files, each at once or not at all.

    Returns:
        True if every seed reaches the threshold.
    """
    return measure(load(name), seeds, json_paths)


def measure(card: Card, seeds: Sequence[int] | None = None, json_paths: Sequence[str | Path] = ()) -> bool:
    """`reproduce` for a card at hand."""
    chosen = tuple(card.seeds if seeds is None else seeds)
    if not chosen:
        raise CardError(f"card {card.name}: expected at least one seed, got none.")
    entry = resolve(card)
    print(f"{card.name} ({card.system}): {card.claim}", flush=True)
    begin, worked = time.perf_counter(), _cpu()
    with threads(card.threads):
        rows = [_row(card, entry, seed) for seed in chosen]
        environment = machine()
    seconds, worked = time.perf_counter() - begin, _cpu() - worked
    values = [row["metrics"][card.metric] for row in rows]
    passed = all(card.passes(v) for v in values)
    keys = list(rows[0]["metrics"])
    body = [[row["seed"], *(_number(row["metrics"].get(k)) for k in keys), row["seconds"]] for row in rows]
    print(table(["seed", *keys, "seconds"], body))
    if worked > 60 * card.budget_minutes:
        print(f"{worked / 60:.1f} CPU minutes: over the budget of {card.budget_minutes:g}")
    spent = {"seconds": round(seconds, 2), "cpu_seconds": round(worked, 2)}
    result = {"card": asdict(card), "passed": passed, **spent, "rows": rows, **environment}
    for path in json_paths:
        write_json(path, result)
    print(verdict(card, values, seconds), flush=True)
    return passed


def _row(card: Card, entry: Measure, seed: int) -> dict[str, Any]:
    """One seed: measured, checked and shown."""
    start = time.perf_counter()
    metrics = _numbers(card, entry(seed))
    seconds = time.perf_counter() - start
    print(f"  seed {seed}: {card.metric} {_number(metrics[card.metric])} in {seconds:.1f} s", flush=True)
    return {"seed": seed, "seconds": round(seconds, 2), "metrics": metrics}


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Runs torch on `count` threads, and as before afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def verdict(card: Card, values: Sequence[float], seconds: float) -> str:
    """The last line: the worst value decides, and stands beside everything that it must be compared with."""
    worst = card.worst(values)
    sign = "<=" if card.direction == "lower" else ">="
    unit = f" {card.unit}" if card.unit else ""
    return (
        f"{'PASS' if card.passes(worst) else 'FAIL'} {card.name}: {card.metric} {_number(worst)}{unit} "
        f"(worst of {len(values)}, needed {sign} {_number(card.threshold)}) | floor {_number(card.floor)} | "
        f"ceiling {_number(card.ceiling)} | published {_number(card.published)} | {seconds:.1f} s"
    )


def resolve(card: Card) -> Measure:
    """The function that the card's `measure` names, imported now; raises CardError if there is none."""
    module, function = card.measure.split(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ModuleNotFoundError, AttributeError) as error:
        raise CardError(f"card {card.name}: measure = {card.measure!r} cannot be imported: {error}.") from error
    return cast("Measure", found)


def machine() -> dict[str, Any]:
    """What a number depends on besides its seed: date, processor, threads, versions."""
    import numpy as np
    import torch

    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "accelerator": accelerator},
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }


def _cpu() -> float:
    """Processor seconds of this process and of those it waited for: a budget on a machine that others use."""
    return sum(os.times()[:4])


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file at once or not at all: a reader never sees half of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)


def _numbers(card: Card, measured: Mapping[str, float]) -> dict[str, float]:
    if card.metric not in measured:
        hint = near(card.metric, measured)
        raise CardError(f"card {card.name}: {card.measure} returned {', '.join(measured)}, not {card.metric!r}.{hint}")
    return {key: float(value) for key, value in measured.items()}


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
