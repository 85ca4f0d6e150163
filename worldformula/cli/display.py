"""What a run shows while it works: a live table on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from worldformula.run.interact import Interact
from worldformula.training.progress import duration

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

LINE_EVERY = 5.0  # seconds between two plain lines
SHORT = 12  # characters of a name that fits into a plain line


class Display:
    """Shows a `Interact`; to be given as its ``show`` inside a ``with`` block.

    Attributes:
        expected: seconds that the run was estimated to take; used until learning has begun and its speed is known.
    """

    def __init__(self) -> None:
        self.expected: float | None = None
        self._line = time.perf_counter()
        self._start: Moment | None = None
        self._learning: Moment | None = None
        self._live: Live | None = None

    def __enter__(self) -> Display:
        if sys.stdout.isatty():
            from rich.live import Live

            live = self._live = Live(refresh_per_second=4)
            live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, loop: Interact) -> None:
        """Shows the present state of the loop."""
        now = time.perf_counter()
        if self._start is None:
            self._start = Moment(now, loop.count.steps)
        if self._learning is None and loop.latest:
            self._learning = Moment(now, loop.count.steps)
        done = loop.count.steps >= loop.config.steps
        if self._live is not None:
            self._live.update(_panel(loop, self._status(loop, now, losses(loop))))
        elif done or now - self._line >= LINE_EVERY:
            self._line = now
            terms = {name: value for name, value in losses(loop).items() if len(name) <= SHORT}
            print(" | ".join(f"{name} {value}" for name, value in self._status(loop, now, terms).items()), flush=True)

    def _status(self, loop: Interact, now: float, terms: dict[str, float]) -> dict[str, str]:
        count = loop.count
        since = [moment for moment in (self._learning, self._start) if moment is not None]
        speed = next((s for s in (moment.speed(now, count.steps) for moment in since) if s), 0.0)
        status = {"step": f"{count.steps:,}/{loop.config.steps:,}"}
        if count.mean_return is not None and count.last_return is not None:
            status["return"] = f"{count.mean_return:.1f} (last {count.last_return:.1f}, {count.episodes} episodes)"
        status["updates"] = (
            f"{count.updates:,}" if count.updates else f"0 (collecting {loop.agent.config.prefill:,} steps)"
        )
        if count.failures:
            status["failures"] = f"{count.failures:,}"
        status |= {name: f"{value:.3g}" for name, value in terms.items()}
        status |= {"steps/s": f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}", "left": self._left(loop, now, speed)}
        return status

    def _left(self, loop: Interact, now: float, speed: float) -> str:
        """Collecting is much faster than learning, so its speed says nothing about the rest of the run."""
        if loop.count.steps >= loop.config.steps:
            return "0 s"
        if self._learning is not None and speed:
            return duration((loop.config.steps - loop.count.steps) / speed)
        if self.expected is None or self._start is None:
            return "?"
        return duration(max(0.0, self.expected - (now - self._start.seconds)))


@dataclass(frozen=True)
class Moment:
    """A time and the environment steps taken until then."""

    seconds: float
    steps: int

    def speed(self, now: float, steps: int) -> float:
        """Steps per second since."""
        return (steps - self.steps) / (now - self.seconds) if now > self.seconds else 0.0


def losses(loop: Interact) -> dict[str, float]:
    """The terms of the latest loss, without ``loss/``; or else whatever the agent reports."""
    named = {name.removeprefix("loss/"): value for name, value in loop.latest.items() if "loss" in name.lower()}
    return dict(named or loop.latest)


def _panel(loop: Interact, status: dict[str, str]) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    for name, value in status.items():
        grid.add_row(f"[bold]{name}[/bold]", value)
    panel = Table.grid()
    panel.add_row(ProgressBar(total=loop.config.steps, completed=loop.count.steps, width=60))
    panel.add_row(grid)
    return panel
