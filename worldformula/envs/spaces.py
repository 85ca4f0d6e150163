"""What an environment may observe: each key of its observation space as a typed column, and each value checked.

Pictures are recognised by their range and channels and stay what they are, uint8 or float. Other boxes keep their shape
and their whole numbers; Discrete and MultiDiscrete stay integers, MultiBinary becomes booleans. A value is compared
with what its space declares before anything is done to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from worldformula.envs.columns import PREFIXES, RESERVED, Column
from worldformula.errors import NonFiniteError, SpaceError

_OBSERVATIONS = "Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of these"
SMALLEST_FLOAT_PICTURE = 8  # edges of a float box with fewer pixels: a table of numbers
ROUNDING = 1e-5  # how far beyond a declared bound a float may lie, relative to it


class PictureSpace(spaces.Box):
    """A box that is known to be a picture ``[H, W, C]``, however many channels a stack gave it."""


@dataclass(frozen=True)
class Part:
    """One key of the observation: its declared space, its column, and the way from a checked value to the column."""

    space: Space[Any]
    column: Column
    convert: Callable[[NDArray[Any]], NDArray[Any]]


def observation_parts(space: Space[Any]) -> dict[str, Part]:
    """How each key of an observation is stored.

    A space that is not a Dict gets the key "image" for a picture and "vector" for anything else. A Dict inside a Dict
    is flattened: ``arm/joints``; entries of a Tuple are called by their place: ``0``, ``1``.

    Raises:
        SpaceError: for a space that is not supported; the message says what to wrap.
    """
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        part = _part(space, "the observation")
        return {"image" if part.column.kind == "image" else "vector": part}
    if not space.spaces:
        raise SpaceError(f"the observation space is an empty {type(space).__name__}; expected {_OBSERVATIONS}")
    found = flattened(space)
    taken = [key for key in found if key in RESERVED or key.startswith(PREFIXES)]
    if taken:
        raise SpaceError(
            f"the observation keys {taken} are reserved for the row of experience {RESERVED}; rename them "
            "with gymnasium.wrappers.TransformObservation"
        )
    return {key: _part(value, f"the observation {key!r}") for key, value in found.items()}


def flattened(space: spaces.Dict | spaces.Tuple, prefix: str = "") -> dict[str, Space[Any]]:
    """The leaves of a Dict or Tuple of spaces, by their path: ``{"arm/joints": Box, "1": Discrete}``."""
    inner = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
    found: dict[str, Space[Any]] = {}
    for key, value in inner:
        name = f"{prefix}{key}"
        if isinstance(value, spaces.Dict | spaces.Tuple):
            found |= flattened(value, f"{name}/")
        else:
            found[name] = value
    return found


def leaf(values: Any, path: str) -> Any:
    """The value at a path of `flattened`; raises LookupError or TypeError where there is none."""
    if isinstance(values, Mapping) and path in values:
        return values[path]
    key, slash, rest = path.partition("/")
    inner = values[key] if isinstance(values, Mapping) else values[int(key)]
    return leaf(inner, rest) if slash else inner


def _part(space: Space[Any], name: str) -> Part:
    if isinstance(space, spaces.Box):
        return _box(space, name)
    if isinstance(space, spaces.Discrete):
        n, start = int(space.n), int(space.start)
        return Part(space, Column("discrete", (), "int64", start, start + n - 1, (n,), (start,)), _as("int64"))
    if isinstance(space, spaces.MultiDiscrete):
        sizes, starts = (tuple(int(v) for v in np.asarray(a).reshape(-1)) for a in (space.nvec, space.start))
        last = max(start + n - 1 for start, n in zip(starts, sizes, strict=True))
        column = Column("discrete", tuple(space.shape), "int64", min(starts), last, sizes, starts)
        return Part(space, column, _as("int64"))
    if isinstance(space, spaces.MultiBinary):
        return Part(space, Column("flag", tuple(space.shape), "bool", 0, 1), _as("bool"))
    advice = (
        "leave it out with --set env.keys=… (keys=(…) of make), observe pictures with --pixels, or convert it with "
        "gymnasium.wrappers.TransformObservation"
    )
    raise SpaceError(f"{name} is a {type(space).__name__} space; supported are {_OBSERVATIONS}; {advice}")


def _as(dtype: str) -> Callable[[NDArray[Any]], NDArray[Any]]:
    return lambda value: value.astype(dtype)


def _box(space: spaces.Box, name: str) -> Part:
    dtype = np.dtype(space.dtype)
    if not (np.issubdtype(dtype, np.number) or dtype == np.bool_) or np.issubdtype(dtype, np.complexfloating):
        raise SpaceError(f"{name} has the dtype {dtype}; expected real numbers")
    if not np.prod(space.shape):
        raise SpaceError(f"{name} has the shape {space.shape}, which holds no numbers; leave it out")
    if dtype == np.bool_:
        return Part(space, Column("flag", tuple(space.shape), "bool", 0, 1), _as("bool"))
    low, high = float(np.min(space.low)), float(np.max(space.high))
    low, high = (_bound(value, dtype) for value in (low, high))
    stored = "float32" if np.issubdtype(dtype, np.floating) else dtype.name
    arranged = _picture(space, name, low, high)
    if arranged is None:
        return Part(space, Column("vector", tuple(space.shape), stored, low, high), _as(stored))
    shape, arrange = arranged
    return Part(space, Column("image", shape, stored, low, high), lambda value: arrange(value).astype(stored))


def _bound(value: float, dtype: np.dtype[Any]) -> float:
    """A bound; the largest number of a float type stands for "none", as Gymnasium's own environments write it."""
    if np.issubdtype(dtype, np.floating) and abs(value) >= unbounded(dtype):
        return math.copysign(math.inf, value)
    return value


def unbounded(dtype: Any) -> float:
    """From here on a bound of a float type means "no bound"."""
    return float(np.finfo(dtype).max) / 2 if np.dtype(dtype).itemsize < 8 else float(np.finfo(np.float32).max) / 2


Arranged = tuple[tuple[int, ...], Callable[[NDArray[Any]], NDArray[Any]]]


def _picture(space: spaces.Box, name: str, low: float, high: float) -> Arranged | None:
    """The shape ``(H, W, C)`` of a picture and how a value gets it; None for what is no picture.

    uint8 boxes with two or three axes are pictures, and four axes are a stack of them. So are float boxes with channels
    and at least 8 × 8 pixels. The channels are the last axis, or the first one where that is shorter.
    """
    shape, dtype = tuple(space.shape), np.dtype(space.dtype)
    if isinstance(space, PictureSpace):
        return shape, lambda value: value
    if dtype == np.uint8 and len(shape) == 2:
        return (*shape, 1), lambda value: value[..., None]
    floating = np.issubdtype(dtype, np.floating)
    if len(shape) not in (3, 4) or not (dtype == np.uint8 or floating):
        return None
    if len(shape) == 4:
        frames, height, width, channels = shape
        if channels > 4 or frames >= min(height, width) or (floating and min(height, width) < SMALLEST_FLOAT_PICTURE):
            return None
        arranged: Arranged = (
            (height, width, frames * channels),
            lambda value: np.moveaxis(value, 0, -2).reshape(height, width, frames * channels),
        )
    else:
        first, middle, last = shape
        if last <= 4 or last < min(first, middle):
            arranged = shape, lambda value: value
        elif first <= 4 or first < min(middle, last):
            arranged = (middle, last, first), lambda value: np.moveaxis(value, 0, -1)
        elif floating:
            return None
        else:
            raise SpaceError(
                f"{name} is a picture of shape {shape}; expected (height, width, channels), or channels first, with "
                "fewer channels than rows and columns; rearrange it with gymnasium.wrappers.TransformObservation"
            )
        if floating and min(arranged[0][:2]) < SMALLEST_FLOAT_PICTURE:
            return None
    if not (math.isfinite(low) and math.isfinite(high)):
        raise SpaceError(
            f"{name} has the shape {shape} of a picture, but no range: declare low and high of the Box (0 and 1, say), "
            "or make it a vector with gymnasium.wrappers.FlattenObservation"
        )
    return arranged


# ---------------------------------------------------------------------------------------------------------- values


def checked(
    space: Space[Any], value: Any, name: str, within: tuple[NDArray[Any], NDArray[Any]] | None = None
) -> NDArray[Any]:
    """``value`` as an array, once it is what its space declares.

    Args:
        space: Box, Discrete, MultiDiscrete or MultiBinary.
        value: what came.
        name: of the value, for the message: ``the observation 'speed' of Cart-v0 at step 3 of the episode``.
        within: its `limits`, where they are known already.

    Raises:
        SpaceError: another shape, another kind of number, or outside the declared range.
        NonFiniteError: NaN or infinite.
    """
    try:
        found = np.asarray(value)
    except (ValueError, TypeError):
        found = np.asarray(None)
    wrong = _wrong_kind(space, found)
    if wrong is None and found.shape != tuple(space.shape or ()):
        wrong = f"the shape differs: {found.shape} for {tuple(space.shape or ())}"
    if wrong is None and found.dtype.kind == "f" and not np.isfinite(found).all():
        raise NonFiniteError(
            f"{name} is not finite: {_told(value)}. Expected finite numbers; look for a diverging simulation or a "
            "division by zero in the environment."
        )
    wrong = wrong or _outside(within or limits(space), found)
    if wrong is not None:
        raise SpaceError(
            f"{name} is not what its space declares: expected {_declared(space)}, got {_told(value)}: {wrong}; correct "
            "the environment's observation_space, or what its reset and step return"
        )
    return found


def taken(space: Space[Any], action: Any, what: str = "the action") -> Any:
    """An action as an environment of this package takes it: an array of the space's shape, or a whole number of its
    choices. Numbers beyond the bounds are left as they are: what that means is the environment's own business.

    Raises:
        SpaceError: another shape, no number, or a choice that does not exist.
        NonFiniteError: NaN or infinite, which no wall would stop.
    """
    found = np.asarray(action)
    if isinstance(space, spaces.Discrete):
        first, beyond = int(space.start), int(space.start + space.n)
        if found.size != 1 or found.dtype.kind not in "iu" or not first <= int(found.item()) < beyond:
            raise SpaceError(f"{what}: expected a whole number from {first} to {beyond - 1}, got {_told(action)}")
        return int(found.item())
    if found.shape != space.shape or found.dtype.kind not in "fiub":
        raise SpaceError(f"{what}: expected numbers {list(space.shape or ())}, got {found.dtype} {list(found.shape)}")
    return finite(found, what)


def finite(actions: Any, what: str = "actions") -> NDArray[Any]:
    """The actions ``[..., A]`` as an array.

    Raises:
        NonFiniteError: one is NaN or infinite: it compares with no wall, and what it moves would be lost.
    """
    found = np.asarray(actions)
    if not np.isfinite(found).all():
        wrong = found[~np.isfinite(found).all(-1)] if found.ndim else found[None]
        raise NonFiniteError(f"{what}: expected finite numbers, got {wrong[0].tolist()}")
    return found


def _wrong_kind(space: Space[Any], found: NDArray[Any]) -> str | None:
    """Floats never become whole numbers, numbers never become booleans; whole numbers may stand for floats."""
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return None if found.dtype.kind in "fiu" else f"{found.dtype} for numbers"
    if isinstance(space, spaces.MultiBinary):
        return None if found.dtype.kind in "biu" else f"{found.dtype} for 0 and 1"
    if isinstance(space, spaces.Box) and space.dtype == np.bool_:
        return None if found.dtype.kind == "b" else f"{found.dtype} for booleans"
    return None if found.dtype.kind in "iu" else f"{found.dtype} for whole numbers"


def limits(space: Space[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The smallest and the largest value of each element, with room for rounding where it is a float."""
    if isinstance(space, spaces.Discrete):
        low, high = np.asarray(space.start), np.asarray(space.start + space.n - 1)
    elif isinstance(space, spaces.MultiDiscrete):
        low, high = np.asarray(space.start), np.asarray(space.start) + np.asarray(space.nvec) - 1
    elif isinstance(space, spaces.MultiBinary) or space.dtype == np.bool_:
        low, high = np.asarray(0), np.asarray(1)
    else:
        assert isinstance(space, spaces.Box)
        low, high = space.low, space.high
        if np.issubdtype(space.dtype, np.floating):
            low, high = (bound.astype(np.float64) for bound in (low, high))
            low = low - ROUNDING * np.maximum(1.0, np.abs(low))
            high = high + ROUNDING * np.maximum(1.0, np.abs(high))
    return low, high


def _outside(within: tuple[NDArray[Any], NDArray[Any]], found: NDArray[Any]) -> str | None:
    low, high = within
    inside = (found >= low) & (found <= high)
    if inside.all():
        return None
    bad = found[~inside] if found.ndim else found
    return f"{np.asarray(bad).reshape(-1)[0]} lies outside the declared range"


def _declared(space: Space[Any]) -> str:
    return str(space).replace("\n", " ")[:200]


def _told(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.ndim:
        span = f" from {value.min():g} to {value.max():g}" if value.size and value.dtype.kind in "fiu" else ""
        return f"an array of shape {value.shape}, {value.dtype}{span}"
    return repr(value)[:200]
