"""Early stopping: the weights at which a loss was lowest on rows that were kept from training."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError


class Best:
    """A callback of `fit` that remembers the best weights, and may end the fit.

    best = Best(model.loss, lambda: float(model.loss(x=held).value), every=50, patience=10)
    fit(model.loss, {"x": rest}, steps=5000, batch=64, callback=best)
    best.restore()

    `fit(..., held=0.1)` makes one of its own, and puts the best weights back by itself.

    Args:
        loss: the module whose weights are kept, in evaluation mode while it is measured.
        measure: what should be low; called without gradient.
        every: updates between two measurements.
        patience: measurements without a new best after which the fit ends; None goes on.

    Attributes:
        value: the lowest measurement.
        step: the update that it belongs to; 0 before the first.
        last: the newest measurement.
    """

    def __init__(
        self, loss: nn.Module, measure: Callable[[], float], *, every: int = 50, patience: int | None = None
    ) -> None:
        if every < 1 or (patience is not None and patience < 1):
            raise ConfigError(f"expected every ≥ 1 and patience ≥ 1 or None, got {every=}, {patience=}")
        self.loss, self.measure, self.every, self.patience = loss, measure, every, patience
        self.value, self.step, self.last = math.inf, 0, math.inf
        self._weights: dict[str, Tensor] = {}

    def __call__(self, step: int, out: Any) -> bool:
        """Measures after every ``every``-th update; True ends the fit."""
        if step % self.every:
            return False
        value = self.last = self._measured()
        if value < self.value:
            self.value, self.step = value, step
            self._weights = copy.deepcopy(self.loss.state_dict())
        return self.patience is not None and step - self.step >= self.patience * self.every

    def _measured(self) -> float:
        training = self.loss.training
        self.loss.eval()
        with torch.no_grad():
            value = self.measure()
        self.loss.train(training)
        return value

    def state_dict(self) -> dict[str, Any]:
        """The best so far."""
        return {"value": self.value, "step": self.step, "weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts `state_dict` back."""
        self.value, self.step, self._weights = state["value"], state["step"], state["weights"]

    def restore(self) -> float:
        """Puts the best weights back; returns the value that they had."""
        if not self._weights:
            raise ConfigError(f"nothing was measured: the fit made fewer than {self.every} updates")
        self.loss.load_state_dict(self._weights)
        return self.value


def held_out(count: int, share: float = 0.1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A random split of ``count`` rows: the numbers of those to learn from, and of the ``share`` kept for `Best`."""
    if not 0.0 < share < 1.0:
        raise ConfigError(f"expected a share between 0 and 1, got {share}")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    cut = count - max(1, round(share * count))
    return order[:cut], order[cut:]
