"""Perception: from rows of experience to the variables of a formula, the same in training and in acting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldformula.envs.actions import SINGLE, ActionSpec
from worldformula.envs.columns import Column
from worldformula.errors import MissingInputError, ShapeError, table


class Perception:
    """Reads rows ``[N, ...]`` or sequences ``[B, T, ...]`` into tensors by variable, and writes actions back.

    names: observation key -> variable (``{"image": "x"}``). discount: γ of the continuation target
    ``c = (1 − terminal)·γ``, so that imagination needs no discount of its own (Hafner et al. 2025; γ = 1 − 1/333).
    columns: what the observations are. action: what the agent gives.
    """

    def __init__(
        self, names: Mapping[str, str], discount: float, columns: Mapping[str, Column], action: ActionSpec
    ) -> None:
        self.names, self.discount = dict(names), discount
        self.columns, self.action = dict(columns), action

    def observe(self, rows: Mapping[str, NDArray[Any]], device: torch.device) -> dict[str, Tensor]:
        """Observations and the reset flag: images as [0, 1], classes as one-hots, vectors as they are, ``first``."""
        if missing := [key for key in (*self.names, "is_first") if key not in rows]:
            shown = table(("column", "got"), [(key, key in rows) for key in (*self.names, "is_first")])
            raise MissingInputError(f"perception needs the column {missing[0]!r} of the rows\n{shown}")
        if not np.ndim(rows["is_first"]):
            raise ShapeError(
                "expected rows [N, …] of N streams, got a single row; write {key: row[key][None] for key in row}"
            )
        found = {word: encoded(rows[key], self.columns[key], device) for key, word in self.names.items()}
        return found | {"first": torch.as_tensor(rows["is_first"], device=device)}

    def learn(self, batch: Mapping[str, NDArray[Any]], device: torch.device) -> dict[str, Tensor]:
        """Everything that a loss reads: observations, ``first``, action ``a``, reward ``r`` and continuation ``c``."""
        terminal = torch.as_tensor(batch["is_terminal"], device=device).float()
        action = encoded(batch[SINGLE], self.action.column, device)
        if self.action.classes:  # nothing is executed at the last row: no class, where numbers are zero already
            action = action * ~torch.as_tensor(batch["is_last"], device=device)[..., None]
        return self.observe(batch, device) | {
            "a": action,
            "r": torch.as_tensor(np.ascontiguousarray(batch["reward"]), device=device).float(),
            "c": (1 - terminal) * self.discount,
        }

    def act(self, action: Tensor) -> NDArray[Any]:
        """What an agent chose, ``[N, A]``, as the column of its action: numbers, or the index of the one-hot."""
        if self.action.kind == "discrete":
            return action.argmax(-1).cpu().numpy()
        return action.cpu().numpy()


def encoded(column: NDArray[Any], kind: Column, device: torch.device) -> Tensor:
    """A column ``[..., *shape]`` as float32 for networks: ``[..., H, W, C]`` for a picture, else ``[..., width]``.

    Pictures become [0, 1] by their declared range, classes one-hot (elements side by side), anything else the numbers
    themselves.
    """
    moved = torch.as_tensor(np.ascontiguousarray(column), device=device)
    lead = moved.shape[: moved.ndim - len(kind.shape)]
    if kind.kind == "image":
        if (kind.low, kind.high) == (0, 255):
            return moved.float().div_(255)
        return (moved.float() - kind.low) / (kind.high - kind.low)
    if kind.kind != "discrete":
        return moved.reshape(*lead, -1).float()
    flat = moved.reshape(*lead, -1).long()
    parts = [
        torch.nn.functional.one_hot(flat[..., i] - start, n)
        for i, (start, n) in enumerate(zip(kind.starts, kind.classes, strict=True))
    ]
    return torch.cat(parts, -1).float()
