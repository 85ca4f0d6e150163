"""What happened in a fit: rows of numbers, their curves, and the weights that were best on validation data."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from worldformula.charts import STYLE, Series, line_chart
from worldformula.display import decimals, note, stack, tabular
from worldformula.errors import ConfigError, near
from worldformula.formula.code.out import Out
from worldformula.formula.expressions.expression import Expression
from worldformula.training.average import Average
from worldformula.training.game import Game


@dataclass(frozen=True)
class Chart:
    """A drawing as ``<svg>``: notebooks show it, `save` writes it."""

    svg: str

    def _repr_svg_(self) -> str:
        head, bracket, rest = self.svg.partition(">")
        return f'{head} xmlns="http://www.w3.org/2000/svg"{bracket}<style>{STYLE}</style>{rest}'

    def save(self, path: str | Path) -> Path:
        """Writes a file that browsers and drawing programs open; returns its path."""
        Path(path).write_text(self._repr_svg_(), encoding="utf-8")
        return Path(path)


@dataclass(frozen=True)
class Best:
    """The lowest value on validation data: at which step, how low, and the weights (the averaged ones with ``ema``)."""

    step: int
    value: float
    weights: Mapping[str, Tensor]
    loss: Expression | Game

    def restore(self) -> None:
        """Puts these weights into the networks."""
        self.loss.load_state_dict(self.weights)


@dataclass
class History:
    """What happened, a row of numbers per interval: the means over five of its steps, evenly spaced.

    ``{"step": 50, "loss": 17.3, "loss/KL(q(z|x) ‖ p(z))": 5.1, ...}``; of a game, ``loss/d`` and ``d/log p(y|x)``. A
    symbol that changes has its column, ``symbol/beta``.

    Attributes:
        rows: one dict per interval.
        seconds: spent in the loop.
        average: the moving average of the weights, where ``ema`` was asked for.
        best: the weights of the lowest value on validation data, where there were any; see `Best`.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    average: Average | None = None
    best: Best | None = None

    def __getitem__(self, name: str) -> list[float]:
        """One column, from the rows that have it."""
        return [row[name] for row in self.rows if name in row]

    def note(self, step: int, found: Mapping[str, float]) -> None:
        """Numbers of a step, which join its row where it has one."""
        if self.rows and self.rows[-1]["step"] == step:
            self.rows[-1].update(found)
        else:
            self.rows.append({"step": step, **found})

    def __repr__(self) -> str:
        if not self.rows:
            return "<History, no rows>"
        first, last = self.rows[0], self.rows[-1]
        ends = ", ".join(f"{name} {first.get(name, math.nan):.5g} to {last[name]:.5g}" for name in last)
        return f"<History of {len(self.rows)} rows in {self.seconds:.1f} s, {ends}>"

    def _repr_html_(self) -> str:
        count = min(6, len(self.rows))
        some = [self.rows[round(i * (len(self.rows) - 1) / max(1, count - 1))] for i in range(count)]
        names = [name for name in dict.fromkeys(key for row in some for key in row) if name != "step"]
        header = ["step", *(f"{row['step']:.0f}" for row in some)]
        rows = [(name, *decimals([row.get(name, math.nan) for row in some])) for name in names]
        said = f"{count} of {len(self.rows)} rows, {self.seconds:.1f} s"
        return stack(tabular(header, rows, numbers=range(1, count + 1)), note(said))

    def plot(self, *names: str, log: bool = False, width: int = 860, height: int = 340) -> Chart:
        """Curves of columns against updates, as SVG: shown by notebooks, written by ``.save("curve.svg")``.

        Args:
            names: columns, up to four; by default what is minimised, and its value on validation data.
            log: logarithmic axis, for positive values.
            width: in pixels.
            height: in pixels.

        Raises:
            ConfigError: no row has a column of this name.
        """
        known = list(dict.fromkeys(key for row in self.rows for key in row if key != "step"))
        if unknown := [name for name in names if name not in known]:
            raise ConfigError(f"the history has no column {unknown[0]!r}.{near(unknown[0], known)} It has: {known}.")
        values = ["loss"] if "loss" in known else [n for n in known if n.startswith("loss/")]
        shown = names or [n for value in values for n in (value, f"validation/{value}") if n in known]
        series = [
            Series(name, [row["step"] for row in self.rows if name in row], self[name], colour, dots="/" in name)
            for colour, name in enumerate(shown[:4])
        ]
        return Chart(line_chart(series, x_label="updates", width=width, height=height, log=log))

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The networks have their averaged weights inside the block; their own where no ``ema`` was asked for."""
        with contextlib.nullcontext() if self.average is None else self.average.applied():
            yield


def measured(outs: Mapping[str, Out], game: bool = False) -> dict[str, Tensor]:
    """Value and terms by name, without gradient: ``loss``, ``loss/KL(q ‖ p)``; of a game ``loss/d``, ``d/log p``."""
    found: dict[str, Tensor] = {}
    for name, out in outs.items():
        found[f"loss/{name}" if game else "loss"] = out.value.detach()
        prefix = name if game else "loss"
        found |= {f"{prefix}/{text}": term.detach().float().mean() for text, term in out.terms.items()}
    return found
