"""What a column of experience holds: its kind, shape, dtype, range, and classes where it is discrete."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["image", "vector", "discrete", "flag"]

FLAGS = ("is_first", "is_last", "is_terminal")
RESERVED = ("reward", *FLAGS, "action", "valid")
"""Names of the other columns of a row of experience: no observation may use them."""

PREFIXES = ("action/", "mask/", "label/")
"""Named actions, masks of allowed actions, labels from ``info``: no observation may begin so."""


@dataclass(frozen=True)
class Column:
    """One column of experience as it is stored: the environment's own numbers, never rescaled, never one-hot.

    Attributes:
        kind: "image" ``[H, W, C]``, "vector" (any numbers), "discrete" (integers that name classes), "flag" (booleans).
        shape: of one value, without streams and time; ``()`` for a single number.
        dtype: NumPy's name.
        low: the smallest number that was declared (−inf where none was).
        high: the largest one.
        classes: of each element of a discrete column, in C order; the first class is the number ``starts[i]``.
        starts: see classes.

    >>> Column("image", (64, 64, 3), "uint8", 0, 255).width
    12288
    >>> Column("discrete", (2,), "int64", 0, 4, classes=(3, 5), starts=(0, 0)).width
    8
    """

    kind: Kind
    shape: tuple[int, ...]
    dtype: str
    low: float = -math.inf
    high: float = math.inf
    classes: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """How many numbers a network reads: the classes of discrete columns, the elements of others."""
        return sum(self.classes) if self.kind == "discrete" else math.prod(self.shape)

    @property
    def encoded(self) -> tuple[int, ...]:
        """The shape that a network reads: pictures as they are, everything else as one axis."""
        return self.shape if self.kind == "image" else (self.width,)

    @property
    def spec(self) -> tuple[tuple[int, ...], str]:
        """Shape and dtype, as ``Replay`` takes them."""
        return self.shape, self.dtype

    def __str__(self) -> str:
        """``image (64, 64, 3) uint8 0…255``."""
        span = f" {self.low:g}…{self.high:g}" if math.isfinite(self.low) and math.isfinite(self.high) else ""
        classes = " × ".join(map(str, self.classes)) if len(self.classes) < 5 else f"{len(self.classes)} × …"
        what = f" of {classes} classes" if self.classes else span
        return f"{self.kind} {self.shape} {self.dtype}{what}"


def row_spec(
    observations: Mapping[str, Column], actions: Mapping[str, Column]
) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of every column of a row of experience, in the form that ``Replay`` takes.

    Args:
        observations: observation keys, masks and labels.
        actions: by column, ``"action"`` or ``"action/<name>"``.
    """
    flags: dict[str, tuple[tuple[int, ...], str]] = dict.fromkeys(FLAGS, ((), "bool"))
    spec = {key: column.spec for key, column in observations.items()}
    return {**spec, "reward": ((), "float32"), **flags, **{key: column.spec for key, column in actions.items()}}
