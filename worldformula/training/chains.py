"""A buffer of chains that go on from one update to the next: persistent contrastive divergence, replay for Langevin."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from worldformula.errors import ConfigError
from worldformula.formula.code.out import Out


class Chains:
    """Where the chains of a `ContrastiveDivergence` begin, and where their ends are kept.

    chains = Chains("x", "x_0", lambda n: torch.rand(n, 2), size=10_000, restart=0.05)
    fit(loss, {"x": data}, ..., inputs=chains, callback=chains.keep)

    Tieleman 2008 for binary units: as many chains as rows, none restarted. Du & Mordatch 2019 (arXiv:1903.08689): a
    buffer of 10 000, five in a hundred of a batch restarted. What is drawn comes from torch's generator.

    Args:
        variable: of the energy; its ends are read from ``out.samples["x_model"]``.
        start: the input of the loss that the chains begin at.
        fresh: makes n new starts ``[n, ...]``.
        size: of the buffer; at least the rows of a batch.
        restart: share of a batch that begins anew.

    Attributes:
        states: the buffer ``[size, ...]``.
    """

    def __init__(
        self, variable: str, start: str, fresh: Callable[[int], Tensor], *, size: int, restart: float = 0.0
    ) -> None:
        if size < 1 or not 0.0 <= restart < 1.0:
            raise ConfigError(f"Chains: expected size ≥ 1 and restart in [0, 1), got {size=}, {restart=}")
        self.variable, self.start, self.fresh, self.restart = variable, start, fresh, restart
        self.states = fresh(size)
        self._rows = torch.arange(0)

    def __call__(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The batch with the starts of its chains."""
        rows = len(next(iter(batch.values())))
        if rows > len(self.states):
            raise ConfigError(
                f"Chains: a batch of {rows} rows needs a buffer of at least as many, got {len(self.states)}: raise its "
                "size, or take smaller batches"
            )
        self._rows = torch.randperm(len(self.states))[:rows]
        starts = self.states[self._rows]
        if self.restart:
            anew = torch.rand(rows) < self.restart
            starts[anew] = self.fresh(int(anew.sum()))
        return {**batch, self.start: starts}

    def keep(self, step: int, out: Out) -> None:
        """The callback: the ends of the chains replace their starts."""
        self.states[self._rows] = out.samples[f"{self.variable}_model"].detach()

    def state_dict(self) -> dict[str, Tensor]:
        """The buffer."""
        return {"states": self.states}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Puts it back."""
        self.states = state["states"].to(self.states.device)
