"""What an environment may observe and do, and how it is brought to one form.

Observations become a dictionary of arrays: pictures stay uint8 ``[H, W, C]``; everything else becomes one float32
vector (discrete values one-hot). Actions become one float32 vector: Box actions rescaled to [−1, 1], discrete actions
one-hot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from worldformula.errors import SpaceError

RESERVED = ("reward", "is_first", "is_last", "is_terminal", "action")
"""Names of the other columns of a row of experience: no observation may use them."""

_OBSERVATIONS = "Box, Discrete, MultiDiscrete, MultiBinary, or a flat Dict of these"


@dataclass(frozen=True)
class ActionSpec:
    """The actions of an environment as the agent sees them: float32 vectors of length ``size``.

    Attributes:
        kind: "discrete" (one-hot) or "continuous" (each number in [−1, 1]).
        size: number of choices, or number of dimensions.
    """

    kind: Literal["discrete", "continuous"]
    size: int

    def zeros(self, count: int) -> NDArray[np.float32]:
        """``[count, size]`` zeros: "no action", as stored at the last row of an episode."""
        return np.zeros((count, self.size), np.float32)

    def random(self, rng: np.random.Generator, count: int) -> NDArray[np.float32]:
        """``[count, size]`` uniformly random actions."""
        if self.kind == "discrete":
            return np.eye(self.size, dtype=np.float32)[rng.integers(self.size, size=count)]
        return rng.uniform(-1.0, 1.0, (count, self.size)).astype(np.float32)


@dataclass(frozen=True)
class Part:
    """One key of the observation: its new space and the function that brings a value into it."""

    space: spaces.Box
    convert: Callable[[Any], NDArray[Any]]


def observation_parts(space: Space[Any]) -> dict[str, Part]:
    """How each key of an observation is converted.

    A space that is not a Dict gets the key "image" (uint8 with three axes, or two for grey) or "vector".

    Raises:
        SpaceError: for a space that is not supported; the message says what to wrap.
    """
    if not isinstance(space, spaces.Dict):
        part = _part(space, "the observation")
        return {"image" if part.space.dtype == np.uint8 else "vector": part}
    taken = [key for key in space.spaces if key in RESERVED]
    if taken:
        raise SpaceError(
            f"the observation keys {taken} are reserved for the row of experience {RESERVED}; rename them "
            "with gymnasium.wrappers.TransformObservation"
        )
    if not space.spaces:
        raise SpaceError(f"the observation space is an empty Dict; expected {_OBSERVATIONS}")
    return {key: _part(value, f"the observation {key!r}") for key, value in space.spaces.items()}


def _part(space: Space[Any], name: str) -> Part:
    if isinstance(space, spaces.Box):
        return _image(space, name) if _looks_like_image(space) else _vector(space, name)
    if isinstance(space, spaces.Discrete):
        return _one_hot(np.array([space.n]), np.array([space.start]))
    if isinstance(space, spaces.MultiDiscrete):
        return _one_hot(space.nvec.reshape(-1), np.asarray(space.start).reshape(-1))
    if isinstance(space, spaces.MultiBinary):
        size = int(np.prod(space.shape))
        return Part(spaces.Box(0.0, 1.0, (size,), np.float32), _flat)
    if isinstance(space, spaces.Dict | spaces.Tuple):
        advice = "flatten it with gymnasium.wrappers.FlattenObservation"
    else:
        advice = "convert it with gymnasium.wrappers.TransformObservation"
    raise SpaceError(f"{name} is a {type(space).__name__} space; supported are {_OBSERVATIONS}; {advice}")


def _looks_like_image(space: spaces.Box) -> bool:
    return space.dtype == np.uint8 and len(space.shape) in (2, 3)


def _image(space: spaces.Box, name: str) -> Part:
    height, width, *channels = space.shape
    if channels and channels[0] not in (1, 2, 3, 4):
        hint = "; the channels come first here: move them to the end" if height in (1, 2, 3, 4) else ""
        raise SpaceError(
            f"{name} is a picture of shape {space.shape}; expected (height, width, channels) with 1 to 4 channels"
            f"{hint} with gymnasium.wrappers.TransformObservation"
        )
    shape = (height, width, channels[0] if channels else 1)
    return Part(spaces.Box(0, 255, shape, np.uint8), lambda value: np.asarray(value, np.uint8).reshape(shape))


def _vector(space: spaces.Box, name: str) -> Part:
    if space.dtype is None or not (np.issubdtype(space.dtype, np.number) or space.dtype == np.bool_):
        raise SpaceError(f"{name} has the dtype {space.dtype}; expected numbers")
    if not np.prod(space.shape):
        raise SpaceError(f"{name} has the shape {space.shape}, which holds no numbers; leave it out")
    low, high = (np.asarray(bound, np.float32).reshape(-1) for bound in (space.low, space.high))
    return Part(spaces.Box(low, high, dtype=np.float32), _flat)


def _flat(value: Any) -> NDArray[np.float32]:
    return np.asarray(value, np.float32).reshape(-1)


def _one_hot(sizes: NDArray[Any], start: NDArray[Any]) -> Part:
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]) - start
    total = int(sizes.sum())

    def convert(value: Any) -> NDArray[np.float32]:
        row = np.zeros(total, np.float32)
        row[np.asarray(value).reshape(-1) + offsets] = 1.0
        return row

    return Part(spaces.Box(0.0, 1.0, (total,), np.float32), convert)


def action_spec(space: Space[Any]) -> ActionSpec:
    """The agent's view of an action space.

    Raises:
        SpaceError: for anything but Box and Discrete.
    """
    if isinstance(space, spaces.Discrete):
        return ActionSpec("discrete", int(space.n))
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating) and np.prod(space.shape):
        return ActionSpec("continuous", int(np.prod(space.shape)))
    advice = {
        spaces.MultiDiscrete: "enumerate the combinations as one Discrete space",
        spaces.MultiBinary: "enumerate the combinations as one Discrete space",
        spaces.Dict: "flatten it to one Box or one Discrete space",
        spaces.Tuple: "flatten it to one Box or one Discrete space",
    }.get(type(space), "convert it to floats")
    raise SpaceError(
        f"the action space is {space}; supported are Box (floats) and Discrete; {advice} with "
        "gymnasium.wrappers.TransformAction"
    )


def action_converter(space: Space[Any]) -> Callable[[NDArray[np.float32]], Any]:
    """From the agent's action vector to a value of ``space``: argmax, or rescaling from [−1, 1] to the bounds.

    Dimensions of a Box without finite bounds are passed through unscaled.
    """
    if isinstance(space, spaces.Discrete):
        start = int(space.start)
        return lambda vector: start + int(np.argmax(vector))
    assert isinstance(space, spaces.Box)
    bounded = np.isfinite(space.low) & np.isfinite(space.high)
    low, high = np.where(bounded, space.low, -1.0), np.where(bounded, space.high, 1.0)
    middle, half, shape, dtype = (low + high) / 2.0, (high - low) / 2.0, space.shape, space.dtype

    def convert(vector: NDArray[np.float32]) -> NDArray[Any]:
        value = vector.reshape(shape)
        value = np.where(bounded, np.clip(value, -1.0, 1.0), value)
        return np.clip(middle + half * value, space.low, space.high).astype(dtype)

    return convert


def row_spec(observations: Mapping[str, spaces.Box], action: ActionSpec) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of every column of a row of experience, in the form that ``Replay`` takes."""
    columns = {key: (tuple(space.shape), np.dtype(space.dtype).name) for key, space in observations.items()}
    flags = dict.fromkeys(("is_first", "is_last", "is_terminal"), ((), "bool"))
    return {**columns, "reward": ((), "float32"), **flags, "action": ((action.size,), "float32")}
