"""Sizes of a model from its data: how many numbers a row has, how many classes, how many levels.

The names of the fields are the contract: a model whose ``Sizes`` has ``pixels`` gets the numbers of a row of ``x``
there. What the user sets wins, and what no rule names stays as the preset has it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from typing import Any

import numpy as np

from worldformula.data import DataSet

WIDTHS = ("pixels", "features", "visible", "inputs")
CLASSES = ("classes", "condition")
LOOSE = 0.5  # deviation of numbers around what a decoder makes of them, where columns have about deviation 1


def inferred(sizes: Any, data: DataSet, given: Collection[str] = ()) -> list[str]:
    """``key=value`` texts that fit ``sizes`` to data, as far as they differ; ``given`` keys are left alone.

    WIDTHS        numbers of a row of x
    documents     rows of x, of a loss that is about all of them; the array may be called c there, as counts of words
    side          height of a square picture of one channel; height and width, of any
    side, camera  of several square pictures of a row, and numbers of each one's camera v
    picture       height, width and channels, where the preset has convolutions
    shape         of a row, where it has as many axes as that of the preset; or its numbers
    CLASSES       of y, where the preset has labels
    levels        of whole numbers x, where the preset has levels; 0 of other numbers, where features may be any
    length        numbers of a row, of a model of series
    deviation     of the decoder, where x leaves [0, 1] and the preset has bits
    """
    have = {field.name: getattr(sizes, field.name) for field in dataclasses.fields(sizes)}
    x = data.train.get("c" if "documents" in have and "c" in data.train else "x")
    if x is None:
        return []
    width, whole = math.prod(x.shape[1:]), x.dtype.kind in "iu"
    found: dict[str, Any] = {name: width for name in WIDTHS if name in have} | {"documents": len(x)}
    if len(data.shape) == 2 and {"height", "width"} <= have.keys():
        found |= {"height": data.shape[0], "width": data.shape[1]}
    if len(data.shape) == 2 and data.shape[0] == data.shape[1]:
        found["side"] = data.shape[0]
    if len(data.shape) == 4 and data.shape[1] == data.shape[2] and "camera" in have and "v" in data.train:
        found |= {"side": data.shape[1], "camera": data.train["v"].shape[-1]}
    if have.get("picture") is not None and len(data.shape) in (2, 3):
        found["picture"] = (*data.shape, 1)[:3]
    if "shape" in have:
        found["shape"] = data.shape if len(data.shape) == len(have["shape"]) else (width,)
    if classes := _classes(data):
        found |= {name: classes for name in CLASSES if have.get(name)}
    if have.get("levels"):
        found |= {"levels": _top(data, "x")} if whole else {"levels": 0} if "features" in have else {}
    if {"length", "levels"} <= have.keys():  # of a model of series; elsewhere it may be that of a text
        found["length"] = width
    if "deviation" in have and have["deviation"] is None and not data.alphabet and not _bits(x):
        found["deviation"] = LOOSE
    changed = {k: v for k, v in found.items() if k in have and k not in given and have[k] != v}
    return [f"sizes.{k}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for k, v in changed.items()]


def _classes(data: DataSet) -> int:
    """Of a label; the width of a vector y; 0 without."""
    y = data.train.get("y")
    if y is None:
        return 0
    return _top(data, "y") if y.ndim == 1 and y.dtype.kind in "iu" else math.prod(y.shape[1:])


def _top(data: DataSet, name: str) -> int:
    return 1 + int(max(part[name].max() for part in (data.train, data.test)))


def _bits(x: np.ndarray[Any, Any]) -> bool:
    return bool(x.min() >= 0 and x.max() <= 1)
