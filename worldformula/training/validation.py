"""The value of a loss on data that it does not learn from, and the weights that were best there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from worldformula.training.game import Game
from worldformula.training.history import Best, measured
from worldformula.training.seeding import forked
from worldformula.training.source import Batch, Data, once, readied

if TYPE_CHECKING:
    from worldformula.training.minimise import Fitting


class Validation:
    """Measures a fit on other data: all rows once, the same noise each time, averaged weights where there are any.

    Args:
        fitting: whose loss, inputs and symbols.
        data: of any kind that has an end.
        batch: rows at once.
        names: as in `fit`.
        seed: of the noise.
        called: what stands before the names of the numbers.
        keep: whether the weights of the lowest value are kept.
    """

    def __init__(
        self, fitting: Fitting, data: Data, batch: int, names: Sequence[str], seed: int, *, called: str = "validation",
        keep: bool = True,
    ) -> None:  # fmt: skip
        self.fitting, self.batch, self.names, self.seed = fitting, batch, names, seed
        self.called, self.keep = called, keep
        self.data = readied(data, names)

    def measure(self) -> dict[str, float]:
        """``validation/loss`` and its terms, added to the history; the best weights of one loss are kept."""
        found = self.values()
        self.fitting.history.note(self.fitting.step, found)
        return found

    @torch.no_grad()
    def values(self) -> dict[str, float]:
        """The same numbers, which nobody notes down."""
        fitting, loss = self.fitting, self.fitting.loss
        sums, rows, training = dict[str, Tensor](), 0, loss.training
        loss.eval()
        try:
            with forked(self.seed), fitting.history.averaged():
                for batch in self._batches():
                    given = fitting.given(batch)
                    outs = loss.evaluate(given) if isinstance(loss, Game) else {"loss": loss(**given)}
                    count = len(next(iter(batch.values())))
                    rows += count
                    for name, value in measured(outs, isinstance(loss, Game)).items():
                        sums[name] = sums.get(name, torch.zeros_like(value)) + count * value
                found = {f"{self.called}/{name}": float(value / rows) for name, value in sums.items()}
                if self.keep:
                    self._keep(found)
        finally:
            loss.train(training)
        return found

    def _batches(self) -> Iterator[Batch]:
        return once(self.data, self.batch, self.names, self.fitting.device)

    def _keep(self, found: dict[str, float]) -> None:
        """A game has no one value that says which weights are best."""
        history, loss = self.fitting.history, self.fitting.loss
        value = found.get(f"{self.called}/loss")
        if value is not None and (history.best is None or value < history.best.value):
            weights: dict[str, Any] = {k: v.detach().clone() for k, v in loss.state_dict().items()}
            history.best = Best(self.fitting.step, value, weights, loss)
