"""Interleaved timing: all contenders take turns, so that a change of the machine's load meets all of them."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def options(doc: str | None, result: Path, *, rounds: int, seeded: bool = False) -> argparse.ArgumentParser:
    """What a benchmark takes: how many rounds, where the result is written, and a seed where it has one."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=_rounds, default=rounds)
    if seeded:
        parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=result)
    return parser


def _rounds(text: str) -> int:
    """At least one."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return int(text)


def interleave(
    steps: Mapping[str, Callable[[], object]], reference: str, rounds: int = 30, seconds: float = 0.05, warmup: int = 5
) -> dict[str, dict[str, Any]]:
    """Time every contender in turn and compare each with `reference`.

    A round runs each contender about `seconds` long, starting with another one each time. Time is CPU time of this
    process: other processes on the machine do not count.

    Returns:
        per contender: ``ms`` (median over rounds, per step), ``ms_min``, ``ratio`` (median over rounds of its time
        divided by the reference's time in the same round), ``ratio_iqr`` and ``steps`` per round.
    """
    counts = {name: _calibrate(step, seconds, warmup) for name, step in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps)
    for i in range(rounds):
        for name in order[i % len(order) :] + order[: i % len(order)]:
            times[name].append(_measure(steps[name], counts[name]))
    return {name: _summary(times[name], times[reference], counts[name]) for name in steps}


def _calibrate(step: Callable[[], object], seconds: float, warmup: int) -> int:
    for _ in range(warmup):
        step()
    return max(1, round(seconds / _measure(step, 3)))


def _measure(step: Callable[[], object], count: int) -> float:
    start = time.process_time()
    for _ in range(count):
        step()
    return (time.process_time() - start) / count


def _summary(times: list[float], reference: list[float], count: int) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(times, reference, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else 3 * ratios  # one round has no spread
    return {
        "ms": round(1e3 * statistics.median(times), 4),
        "ms_min": round(1e3 * min(times), 4),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_iqr": [round(low, 3), round(high, 3)],
        "steps": count,
    }


def show(title: str, results: Mapping[str, Mapping[str, Any]]) -> None:
    """One line per contender."""
    print(title)
    for name, row in results.items():
        low, high = row["ratio_iqr"]
        print(f"  {name:14} {row['ms']:9.3f} ms  x {row['ratio']:.3f}  (quartiles {low:.3f} to {high:.3f})", flush=True)
