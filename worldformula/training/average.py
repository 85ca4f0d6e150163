"""The moving average of the weights, which generates better pictures than the weights themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError


class Average:
    """Exponential moving average of a module's parameters; buffers stay as they are.

    After n updates its decay is min(decay, (1 + n) / (10 + n)), so that the first weights are soon forgotten.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ConfigError(f"expected a decay of the average between 0 and 1, such as 0.999, got {decay}")
        self.decay, self.updates = decay, 0
        self._names = [name for name, p in module.named_parameters() if p.requires_grad]
        self._weights: list[Tensor] = [p for p in module.parameters() if p.requires_grad]
        self._means = [p.detach().clone() for p in self._weights]

    @torch.no_grad()
    def update(self) -> None:
        """Takes the present weights in."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._means, self._weights, 1.0 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The module has the averaged weights inside the block, its own afterwards; nothing may train in it."""
        own = [p.detach().clone() for p in self._weights]
        self._put(self._means)
        try:
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        for weight, value in zip(self._weights, values, strict=True):
            weight.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """The averages by name, and how many updates they saw."""
        return {"updates": self.updates, "means": dict(zip(self._names, self._means, strict=True))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts `state_dict` back."""
        self.updates = int(state["updates"])
        with torch.no_grad():
            for name, mean in zip(self._names, self._means, strict=True):
                mean.copy_(state["means"][name])
