"""What a run shows while it works: a live table on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from worldformula.agent.loop import Loop

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

LINE_EVERY = 5.0  # seconds between two plain lines
SHOWN = 6  # terms of the loss


class Display:
    """Shows a `Loop`; to be given as its ``show`` inside a ``with`` block."""

    def __init__(self) -> None:
        self._started = self._line = time.perf_counter()
        self._first: tuple[int, int] | None = None
        self._live: Live | None = None

    def __enter__(self) -> Display:
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, loop: Loop) -> None:
        """Shows the present state of the loop."""
        now = time.perf_counter()
        if self._first is None:
            self._started, self._first = now, (loop.count.steps, loop.count.updates)
        done = loop.count.steps >= loop.config.steps
        if self._live is not None:
            self._live.update(_panel(loop, self._status(loop, now)))
        elif done or now - self._line >= LINE_EVERY:
            self._line = now
            print(" | ".join(f"{name} {value}" for name, value in self._status(loop, now).items()), flush=True)

    def _status(self, loop: Loop, now: float) -> dict[str, str]:
        count, first = loop.count, self._first or (0, 0)
        seconds = max(now - self._started, 1e-9)
        speed = (count.steps - first[0]) / seconds
        left = max(0, loop.config.steps - count.steps)
        status = {"step": f"{count.steps:,}/{loop.config.steps:,}"}
        if count.mean_return is not None and count.last_return is not None:
            status["return"] = f"{count.mean_return:.1f} (last {count.last_return:.1f}, {count.episodes} episodes)"
        status["updates"] = (
            f"{count.updates:,}" if count.updates else f"0 (collecting {loop.agent.config.prefill:,} steps)"
        )
        status |= {name: f"{float(value):.3g}" for name, value in losses(loop)}
        status["steps/s"] = f"{speed:.0f}"
        status["left"] = duration(left / speed) if speed else "?"
        return status


def losses(loop: Loop) -> list[tuple[str, float]]:
    """The first few terms of the latest loss: what has "loss" in its name, or else whatever the agent reports."""
    named = [(name, value) for name, value in loop.latest.items() if "loss" in name.lower()]
    return (named or list(loop.latest.items()))[:SHOWN]


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.5 h``, ``2.1 days``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def _panel(loop: Loop, status: dict[str, str]) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    for name, value in status.items():
        grid.add_row(f"[bold]{name}[/bold]", value)
    return Group(ProgressBar(total=loop.config.steps, completed=loop.count.steps, width=60), grid)
