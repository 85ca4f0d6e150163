"""Perception: from rows of experience to the variables of a formula, the same in training and in acting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldformula.errors import MissingInputError, table


class Perception:
    """Reads rows ``[N, ...]`` or sequences ``[B, T, ...]`` into tensors by variable.

    names: observation key -> variable (``{"image": "x"}``). discount: γ of the continuation target
    ``c = (1 − terminal)·γ``, so that imagination needs no discount of its own (Hafner et al. 2025; γ = 1 − 1/333).
    """

    def __init__(self, names: Mapping[str, str], discount: float) -> None:
        self.names, self.discount = dict(names), discount

    def observe(self, rows: Mapping[str, NDArray[Any]], device: torch.device) -> dict[str, Tensor]:
        """Observations and the reset flag: images as [0, 1], vectors as they are, ``first``."""
        if missing := [key for key in (*self.names, "is_first") if key not in rows]:
            shown = table(("column", "got"), [(key, key in rows) for key in (*self.names, "is_first")])
            raise MissingInputError(f"perception needs the column {missing[0]!r} of the rows\n{shown}")
        found = {variable: tensor(rows[key], device) for key, variable in self.names.items()}
        return found | {"first": torch.as_tensor(rows["is_first"], device=device)}

    def learn(self, batch: Mapping[str, NDArray[Any]], device: torch.device) -> dict[str, Tensor]:
        """Everything that a loss reads: observations, ``first``, action ``a``, reward ``r`` and continuation ``c``."""
        terminal = torch.as_tensor(batch["is_terminal"], device=device).float()
        return self.observe(batch, device) | {
            "a": tensor(batch["action"], device),
            "r": tensor(batch["reward"], device),
            "c": (1 - terminal) * self.discount,
        }


def tensor(column: NDArray[Any], device: torch.device) -> Tensor:
    """uint8 as [0, 1]; any other number as float32."""
    moved = torch.as_tensor(np.ascontiguousarray(column), device=device)
    return moved.float().div_(255) if moved.dtype == torch.uint8 else moved.float()
