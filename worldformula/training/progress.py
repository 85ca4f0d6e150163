"""How far a fit has come: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldformula.training.minimise import Fitting

LINE_EVERY = 5.0  # seconds between two plain lines


class Progress:
    """Shows a `Fitting`, inside a ``with`` block: ``fitting.advance(steps, show=progress)``.

    Args:
        steps: updates of the whole fit.
        first: updates that were made before.
    """

    def __init__(self, steps: int, first: int = 0) -> None:
        self._steps, self._first = steps, first
        self._began = self._line = time.perf_counter()
        self._bar: Any = None
        self._of: Fitting | None = None
        self._told: tuple[Fitting, int] | None = None  # of whom and when the last line was

    def __enter__(self) -> Progress:
        if sys.stdout.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as Bar

            bar = self._bar = Bar(BarColumn(40), MofNCompleteColumn(), TextColumn("{task.description}"))
            bar.add_task("", total=self._steps)
            bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, fitting: Fitting) -> None:
        """Shows where it is."""
        now = time.perf_counter()
        if self._of is not fitting:
            if self._of is not None:  # one before it has ended
                self._first, self._began = 0, now
            self._of, self._steps = fitting, fitting.config.steps
        parts = [*([fitting.name] if fitting.name else []), *self._parts(fitting, now)]
        done = fitting.step >= self._steps
        if self._bar is not None:
            self._bar.update(0, completed=fitting.step, total=self._steps, description=" · ".join(parts))
        elif (done or now - self._line >= LINE_EVERY) and self._told != (fitting, fitting.step):
            self._line, self._told = now, (fitting, fitting.step)
            print(" | ".join([f"step {fitting.step:,}/{self._steps:,}", *parts]), flush=True)  # noqa: T201

    def _parts(self, fitting: Fitting, now: float) -> list[str]:
        """The latest losses, the speed, and the time left."""
        row = fitting.history.rows[-1] if fitting.history.rows else {}
        names = [n for n in row if n == "loss" or (n.startswith("loss/") and n[5:] in fitting.players)]
        parts = [f"{n} {row[n]:.4g}" for n in names]
        if fitting.step > self._first and now > self._began:
            speed = (fitting.step - self._first) / (now - self._began)
            pace = f"{speed:,.0f} steps/s" if speed >= 2 else f"{duration(1 / speed)} per step"
            parts += [pace, f"{duration((self._steps - fitting.step) / speed)} left"]
        return parts


def duration(seconds: float) -> str:
    """``0.3 s``, ``45 s``, ``12 min``, ``3.5 h``, ``2.1 days``.

    >>> duration(0.26), duration(45), duration(750), duration(12600), duration(180000)
    ('0.3 s', '45 s', '12 min', '3.5 h', '2.1 days')
    """
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
