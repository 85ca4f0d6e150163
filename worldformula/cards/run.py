"""Measures a card: runs its entry once per seed, prints the numbers beside floor, threshold and published value."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import cast

from worldformula.cards import Card, load
from worldformula.cards.condition import shown
from worldformula.cards.files import machine, write_json
from worldformula.cards.rows import Row, Rows
from worldformula.errors import CardError, near, table

__all__ = ["machine", "measure", "reproduce", "resolve", "threads", "verdict", "write_json"]
Measure = Callable[[int], Mapping[str, float]]


def reproduce(
    name: str, seeds: Sequence[int] | None = None, json_paths: Sequence[str | Path] = (), *,
    rows: str | Path | None = None, again: bool = False, quiet: bool = False,
) -> bool:  # fmt: skip
    """Measures one card and prints a line per seed; the last line starts with ``PASS`` or ``FAIL``.

    Args:
        name: the card, see `worldformula.cards.names`.
        seeds: instead of the card's own.
        json_paths: also write everything that was measured into these files, each at once or not at all.
        rows: a folder for the row of every seed, written when the seed ends; what lies there and still holds (see
            `worldformula.cards.rows`) is not measured again. None keeps nothing.
        again: measure what lies there too.
        quiet: print the table and the verdict alone, and nothing that a measuring file prints.

    Returns:
        True if all conditions of the card hold.
    """
    return measure(load(name), seeds, json_paths, rows=rows, again=again, quiet=quiet)


def measure(
    card: Card, seeds: Sequence[int] | None = None, json_paths: Sequence[str | Path] = (), *,
    rows: str | Path | None = None, again: bool = False, quiet: bool = False,
) -> bool:  # fmt: skip
    """`reproduce` for a card at hand."""
    chosen = tuple(card.seeds if seeds is None else seeds)
    if not chosen:
        raise CardError(f"card {card.name}: expected at least one seed, got none.")
    if twice := sorted({seed for seed in chosen if chosen.count(seed) > 1}):
        raise CardError(
            f"card {card.name}: expected each seed once, got {', '.join(map(str, twice))} more than once. The same "
            f"number again says nothing new, and would narrow the interval of a mean."
        )
    entry = resolve(card)
    kept = Rows(rows, card)
    with threads(card.threads), contextlib.redirect_stdout(io.StringIO()) if quiet else contextlib.nullcontext():
        print(f"{card.name} ({card.system}): {card.claim}", flush=True)
        found = [_row(card, entry, seed, kept, again=again) for seed in chosen]
        about = {**machine(), "date": max(row.date for row in found)}
    keys = list(found[0].metrics)
    body = [[row.seed, *(_number(row.metrics.get(k)) for k in keys), row.seconds] for row in found]
    print(table(["seed", *keys, "seconds"], body))
    seconds, worked = sum(row.seconds for row in found), sum(row.cpu_seconds for row in found)
    if worked > 60 * card.budget_minutes:
        print(f"{worked / 60:.1f} CPU minutes: over the budget of {card.budget_minutes:g}")
    passed = card.holds([row.metrics for row in found])
    spent = {"seconds": round(seconds, 2), "cpu_seconds": round(worked, 2)}
    told = {key: value for key, value in asdict(card).items() if key != "notes"}  # they come to tell of this result
    result = {"card": told, "passed": passed, **spent, "rows": [asdict(row) for row in found], **about}
    for path in json_paths:
        write_json(path, result)
    print(*verdict(card, [row.metrics for row in found], seconds), sep="\n", flush=True)
    return passed


def _row(card: Card, entry: Measure, seed: int, kept: Rows, *, again: bool) -> Row:
    """One seed: kept from before, or measured, checked, written and shown."""
    from worldformula.training.seeding import forked

    row, why = kept.find(seed)
    lacks = [c.metric for c in card.all_conditions if row is not None and c.metric not in row.metrics]
    if row is not None and not again and not lacks:
        value = _number(row.metrics[card.metric])
        print(f"  seed {seed}: {card.metric} {value}, kept from {row.date}: its code is unchanged", flush=True)
        return row
    why = (
        f", measured again: {'as asked' if again and row is not None else f'kept without {lacks[0]}' if lacks else why}"
        if row is not None or why
        else ""
    )
    start, worked = time.perf_counter(), _cpu()
    with forked(seed):  # global generators too: no seed sees how many ran before it
        metrics = _numbers(card, entry(seed))
    seconds, worked = time.perf_counter() - start, _cpu() - worked
    row = Row(seed, metrics, round(seconds, 2), round(worked, 2), machine()["date"])
    kept.keep(row)
    print(f"  seed {seed}: {card.metric} {_number(metrics[card.metric])} in {seconds:.1f} s{why}", flush=True)
    return row


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


def verdict(card: Card, rows: Sequence[Mapping[str, float]], seconds: float) -> list[str]:
    """The last lines: further conditions, then what decides, beside everything that it must be compared with."""
    lines = []
    for condition in card.conditions:
        values = [row[condition.metric] for row in rows]
        lines.append(f"  {'holds' if condition.judge(values).passed else 'fails'}: {shown(condition, values)}")
    decided = shown(card, [row[card.metric] for row in rows], card.unit)
    lines.append(
        f"{'PASS' if card.holds(rows) else 'FAIL'} {card.name}: {decided} | floor {_number(card.floor)} | "
        f"ceiling {_number(card.ceiling)} | published {_number(card.published)} | {seconds:.1f} s"
    )
    return lines


def resolve(card: Card) -> Measure:
    """The function that the card's `measure` names, imported now; raises CardError if there is none."""
    module, function = card.measure.split(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ModuleNotFoundError, AttributeError) as error:
        raise CardError(f"card {card.name}: measure = {card.measure!r} cannot be imported: {error}.") from error
    return cast("Measure", found)


def _cpu() -> float:
    """Processor seconds of this process and of those it waited for: a budget on a machine that others use."""
    return sum(os.times()[:4])


def _numbers(card: Card, measured: Mapping[str, float]) -> dict[str, float]:
    for metric in (condition.metric for condition in card.all_conditions):
        if metric not in measured:
            hint = near(metric, measured)
            raise CardError(f"card {card.name}: {card.measure} returned {', '.join(measured)}, not {metric!r}.{hint}")
    return {key: float(value) for key, value in measured.items()}


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
