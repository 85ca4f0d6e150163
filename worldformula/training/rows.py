"""Data as users have them, made into columns of tensors or into items that are taken one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from worldformula.data import DataSet
from worldformula.errors import ConfigError, ShapeError


def columns(data: Any, names: Sequence[str]) -> dict[str, Tensor] | None:
    """Whole columns: of a `DataSet` (its training part), arrays by name, one array, a tuple of them, a TensorDataset,
    or a list of rows without tensors (those with tensors are batches). None where data are anything else.

    Raises:
        ShapeError: a dict that holds something else than arrays.
    """
    if isinstance(data, DataSet):
        data = data.train
    if isinstance(data, TensorDataset):
        data = data.tensors
    if isinstance(data, Mapping):
        if not data or not all(_arraylike(value) for value in data.values()):
            raise ShapeError("expected data as a dict of tensors [N, ...], e.g. {'x': torch.from_numpy(images)}")
        return {str(name): tensor(value) for name, value in data.items()}
    if _arraylike(data):
        return {names[0]: tensor(data)}
    if isinstance(data, tuple) and data and all(_arraylike(value) for value in data):
        return {name: tensor(value) for name, value in row(data, names).items()}
    if isinstance(data, list) and data and all(_is_row(item) for item in data):
        return stacked([row(item, names) for item in data])
    return None


def _is_row(item: Any) -> bool:
    """A dict of numbers, lists, pictures; one of tensors is a batch."""
    return isinstance(item, Mapping) and not any(isinstance(value, Tensor) for value in item.values())


class Items:
    """Rows of a Dataset (``len``, ``[i]``), such as one of torch or of Hugging Face, as batches of tensors."""

    def __init__(self, data: Any, names: Sequence[str]) -> None:
        self.data, self.names = data, names

    def __len__(self) -> int:
        return len(self.data)

    def take(self, places: Sequence[int]) -> dict[str, Tensor]:
        """A batch: what is no number or picture (a text, say) is left out."""
        return stacked([row(self.data[i], self.names) for i in places])


def row(item: Any, names: Sequence[str]) -> dict[str, Any]:
    """The values of one row, or of one batch, by name.

    Raises:
        ConfigError: more values than names.
    """
    if isinstance(item, Mapping):
        return {str(name): value for name, value in item.items()}
    values = tuple(item) if isinstance(item, tuple | list) else (item,)
    if len(values) > len(names):
        raise ConfigError(
            f"got {len(values)} values a row and the names {', '.join(names)}; name them all, such as "
            f"names=({', '.join(repr(n) for n in [*names, 'z', 'w', 'v', 'u'][: len(values)])})"
        )
    return dict(zip(names, values, strict=False))


def stacked(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """One tensor per name that is a number, an array or a picture in every row.

    Raises:
        ConfigError: no such name, or rows of different shapes.
    """
    found: dict[str, Tensor] = {}
    for name in rows[0]:
        values = [one.get(name) for one in rows]
        if not all(_numeric(value) for value in values):
            continue
        parts = [tensor(value) for value in values]
        if len({part.shape for part in parts}) > 1:
            raise ConfigError(f"{name} has rows of different shapes, {list(parts[0].shape)} and others; make them one")
        found[name] = torch.stack(parts)
    if not found:
        raise ConfigError(
            f"expected numbers, arrays or pictures in a row, got {', '.join(map(repr, rows[0])) or 'none'}"
        )
    return found


def tensor(value: Any) -> Tensor:
    """Tensors as they are; other floats as float32, pictures in [0, 1], channels last, True and False as 0 and 1."""
    if isinstance(value, Tensor):
        return value
    picture = _picture(value)
    made = torch.from_numpy(np.ascontiguousarray(np.asarray(value)))
    if picture:
        return made.float() / 255
    return made.float() if made.is_floating_point() or made.dtype == torch.bool else made


def _picture(value: Any) -> bool:
    """One of Pillow's."""
    return hasattr(value, "getbands") and hasattr(value, "size")


def _arraylike(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind in "fiub")


def _numeric(value: Any) -> bool:
    if _arraylike(value) or _picture(value) or isinstance(value, bool | int | float | np.number | np.bool_):
        return True
    return isinstance(value, list | tuple) and bool(value) and _list(value)


def _list(value: Any) -> bool:
    """A list of numbers, nested evenly or not at all."""
    try:
        return np.asarray(value).dtype.kind in "fiub"
    except ValueError:
        return False


_NO_ITEMS = (DataLoader, list, tuple, str, bytes)  # a list is one of batches


def is_items(data: Any) -> bool:
    """Whether rows can be taken by number: a Dataset, not a DataLoader."""
    return hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, _NO_ITEMS)
