"""What an agent may do: one specification per named action, from the action space of an environment.

An action space that is no Dict and no Tuple is one action, called ``action``, stored in the column ``action``. A Dict
or a Tuple is several, by the path of each leaf: ``move``, ``arm/grip``, ``0``; their columns are ``action/move`` and so
on.
The mask of what is allowed is the column ``mask/move`` (``mask/action`` for a single action).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from worldformula.envs.columns import Column
from worldformula.envs.spaces import flattened, unbounded
from worldformula.errors import NonFiniteError, SpaceError

Actions = NDArray[Any] | Mapping[str, NDArray[Any]]
"""The actions of several streams: an array ``[N, …]`` of the single action, or one per name."""

SINGLE = "action"
MASK = "action_mask"
"""Where Gymnasium's environments put what is allowed: a key of ``info``, or of the observation."""


@dataclass(frozen=True)
class ActionSpec:
    """One action as the agent sees it, and as experience stores it.

    Attributes:
        kind: "continuous": float32 ``[size]``, each number in [−1, 1]; "discrete": one integer from 0 to size − 1;
            "multi_discrete": integers ``[len(classes)]``; "flags": booleans ``[size]``.
        size: how many numbers a network gives: dimensions, or choices (of all elements together).
        classes: choices of each element, of discrete kinds.
        space: the environment's own space; None for a specification that was made by hand.
        reach: in a dimension without bounds, an agent's −1 … 1 executes as −reach … reach; with one bound, from it on
            2·reach far. Everything beyond ±1 is clipped, and the clipped action is the one that is stored.
        masked: whether rows have a column that says which choices are allowed.
    """

    kind: Literal["continuous", "discrete", "multi_discrete", "flags"]
    size: int
    classes: tuple[int, ...] = ()
    space: Space[Any] | None = field(default=None, compare=False)
    reach: float = 1.0
    masked: bool = False
    _scale: tuple[NDArray[np.float64], ...] = field(default=(), init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.kind == "discrete" and not self.classes:
            object.__setattr__(self, "classes", (self.size,))
        if isinstance(self.space, spaces.Box):
            low, high = bounds(self.space, self.reach)
            object.__setattr__(self, "_scale", (low, high, (low + high) / 2.0, (high - low) / 2.0))

    @property
    def column(self) -> Column:
        """The column that stores it."""
        if self.kind == "continuous":
            return Column("vector", (self.size,), "float32", -1, 1)
        if self.kind == "flags":
            return Column("flag", (self.size,), "bool", 0, 1)
        shape = () if self.kind == "discrete" else (len(self.classes),)
        return Column("discrete", shape, "int64", 0, max(self.classes) - 1, self.classes, (0,) * len(self.classes))

    @property
    def widths(self) -> tuple[int, ...]:
        """How wide its variables are in a world: one for every choice of a multi_discrete, else one."""
        return self.classes if self.kind == "multi_discrete" else (self.size,)

    @property
    def mask(self) -> Column | None:
        """The column of its mask, one boolean per choice; None for actions that have no choices."""
        return Column("flag", (sum(self.classes),), "bool", 0, 1) if self.classes else None

    def zeros(self, count: int) -> NDArray[Any]:
        """No action, for ``count`` streams, as stored at the last row of an episode."""
        return np.zeros((count, *self.column.shape), self.column.dtype)

    def random(self, rng: np.random.Generator, count: int, mask: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Uniformly random actions of ``count`` streams; with a mask ``[count, choices]``, among the allowed ones.

        Where a mask allows nothing, the first choice is taken, as Gymnasium does.
        """
        if self.kind == "continuous":
            return rng.uniform(-1.0, 1.0, (count, self.size)).astype(np.float32)
        if self.kind == "flags":
            return rng.integers(2, size=(count, self.size)).astype(np.bool_)
        if mask is None:
            drawn = rng.integers(np.array(self.classes), size=(count, len(self.classes)))
        else:
            ends = np.cumsum(self.classes)
            parts = [mask[:, end - n : end] for n, end in zip(self.classes, ends, strict=True)]
            drawn = np.stack([(rng.random(part.shape) * part).argmax(1) for part in parts], 1)
        return drawn[:, 0] if self.kind == "discrete" else drawn

    def executed(self, actions: Any, name: str = SINGLE) -> NDArray[Any]:
        """What is executed and stored, of actions ``[N, …]``: numbers clipped to [−1, 1], choices checked.

        Raises:
            SpaceError: another shape, another kind of number, or a choice that does not exist.
            NonFiniteError: an action is NaN or infinite.
        """
        found, column = np.asarray(actions), self.column
        shape = f"[{', '.join(map(str, ('N', *column.shape)))}]"
        kinds = {"continuous": "fiu", "flags": "b"}.get(self.kind, "iu")
        if found.shape[1:] != column.shape or found.ndim != 1 + len(column.shape) or found.dtype.kind not in kinds:
            raise SpaceError(
                f"expected {name!r} as {self.told}, of shape {shape}, got {found.dtype} {found.shape}"
                + ("; a one-hot vector is written as its index: argmax(-1)" if self.classes else "")
            )
        if self.kind == "continuous":
            wrong = ~np.isfinite(found).all(1)
            if wrong.any():
                stream = int(np.flatnonzero(wrong)[0])
                raise NonFiniteError(
                    f"the action for stream {stream} is not finite: {name} = {found[stream]}. Expected finite numbers; "
                    "if an agent chose it, its weights have diverged: lower its learning rate."
                )
            return np.clip(found, -1.0, 1.0).astype(np.float32)
        if self.classes and not ((found >= 0) & (found < np.array(self.classes).reshape(column.shape))).all():
            raise SpaceError(f"expected {name!r} as {self.told}, counted from 0; got {found.tolist()}")
        return found.astype(column.dtype)

    @property
    def told(self) -> str:
        """In words: ``2 numbers from -1 to 1``, ``one of 4 choices``."""
        if self.kind == "continuous":
            return f"{self.size} number{'s' * (self.size > 1)} from -1 to 1"
        if self.kind == "flags":
            return f"{self.size} booleans"
        if self.kind == "discrete":
            return f"one of {self.size} choices"
        return f"{len(self.classes)} choices ({' × '.join(map(str, self.classes))})"

    def value(self, action: NDArray[Any]) -> Any:
        """The executed action of one stream in the environment's own space: start added, rescaled to the bounds."""
        space = self.space
        if isinstance(space, spaces.Discrete):
            return int(space.start) + int(action)
        if isinstance(space, spaces.MultiDiscrete):
            return (action.reshape(space.shape) + np.asarray(space.start)).astype(space.dtype)
        if isinstance(space, spaces.MultiBinary):
            return action.reshape(space.shape).astype(space.dtype)
        assert isinstance(space, spaces.Box)
        low, high, middle, half = self._scale
        scaled = middle + half * action.astype(np.float64).reshape(space.shape)
        return np.minimum(np.maximum(scaled, low), high).astype(space.dtype)

    def written(self, value: Any) -> NDArray[Any]:
        """The way back: an action of the environment's own space as an agent gives it, and as it is stored."""
        space, found = self.space, np.asarray(value)
        if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
            found = found - space.start
        elif isinstance(space, spaces.Box):
            *_, middle, half = self._scale
            found = np.clip((found - middle) / half, -1.0, 1.0)
        return found.reshape(self.column.shape).astype(self.column.dtype)

    def allowed(self, given: Any, name: str) -> NDArray[np.bool_]:
        """A mask as Gymnasium writes it (one array, or a tuple of one per element) as booleans ``[choices]``.

        Raises:
            SpaceError: another size, or other numbers than 0 and 1.
        """
        parts = given if isinstance(given, tuple | list) and len(self.classes) > 1 else (given,)
        found = np.concatenate([np.asarray(part).reshape(-1) for part in parts])
        if found.shape != (sum(self.classes),) or found.dtype.kind not in "biuf" or not np.isin(found, (0, 1)).all():
            raise SpaceError(
                f"{name}: expected a mask of {sum(self.classes)} zeros and ones for {self.told}, got {str(given)[:200]}"
            )
        return found.astype(np.bool_)


def bounds(space: spaces.Box, reach: float = 1.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What −1 and 1 of an agent mean in a Box, float64: its bounds, and ``reach`` where it has none."""
    limit = unbounded(space.dtype)
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    below, above = np.abs(low) < limit, np.abs(high) < limit
    least = np.where(below, low, np.where(above, high - 2 * reach, -reach))
    most = np.where(above, high, np.where(below, low + 2 * reach, reach))
    return least, most


def action_specs(space: Space[Any], reach: float = 1.0) -> dict[str, ActionSpec]:
    """The named actions of an action space.

    Raises:
        SpaceError: a space that is not supported.
    """
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        return {SINGLE: _spec(space, "the action space", reach)}
    leaves = flattened(space)
    if not leaves:
        raise SpaceError("the action space is empty; expected at least one action")
    return {name: _spec(value, f"the action {name!r}", reach) for name, value in leaves.items()}


def _spec(space: Space[Any], name: str, reach: float) -> ActionSpec:
    if isinstance(space, spaces.Discrete):
        return ActionSpec("discrete", int(space.n), (int(space.n),), space)
    if isinstance(space, spaces.MultiDiscrete):
        classes = tuple(int(n) for n in np.asarray(space.nvec).reshape(-1))
        return ActionSpec("multi_discrete", sum(classes), classes, space)
    if isinstance(space, spaces.MultiBinary):
        return ActionSpec("flags", math.prod(space.shape), (), space)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating) and np.prod(space.shape):
        return ActionSpec("continuous", math.prod(space.shape), (), space, reach)
    raise SpaceError(
        f"{name} is {space}; supported are Box (floats), Discrete, MultiDiscrete, MultiBinary, and Dict and Tuple of "
        "these; convert it with gymnasium.wrappers.TransformAction"
    )


def columns(specs: Mapping[str, ActionSpec]) -> dict[str, Column]:
    """The columns of named actions."""
    return {column_name(name): spec.column for name, spec in specs.items()}


def assembled(space: Space[Any], values: Mapping[str, Any], path: str = "") -> Any:
    """The values of named actions in the nesting of their space: a dict, a tuple, or the single value."""
    if isinstance(space, spaces.Dict):
        return {key: assembled(inner, values, f"{path}{key}/") for key, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(assembled(inner, values, f"{path}{i}/") for i, inner in enumerate(space.spaces))
    return values[path.rstrip("/") or SINGLE]


def column_name(name: str) -> str:
    """``action`` for the single action, ``action/<name>`` for a named one."""
    return name if name == SINGLE else f"action/{name}"


def mask_name(name: str) -> str:
    """``mask/<name>``."""
    return f"mask/{name}"


def single(
    specs: ActionSpec | Mapping[str, ActionSpec], kinds: tuple[str, ...] = ("continuous", "discrete")
) -> ActionSpec:
    """The only action, for an agent that can give no more.

    Raises:
        SpaceError: there are several, or it is of another kind.
    """
    found = {SINGLE: specs} if isinstance(specs, ActionSpec) else dict(specs)
    if len(found) != 1 or (spec := next(iter(found.values()))).kind not in kinds:
        listed = "; ".join(f"{name}: {spec.told}" for name, spec in found.items())
        raise SpaceError(
            f"this agent gives one action, numbers or one choice; the environment takes {listed}. Join them into one "
            "Box or one Discrete space with gymnasium.wrappers.TransformAction"
        )
    return spec


def by_name(actions: Actions, specs: Mapping[str, ActionSpec]) -> dict[str, NDArray[Any]]:
    """The actions of several streams by name, checked and clipped: what is executed, and what is stored.

    Raises:
        SpaceError: names that do not fit, or a value that does not.
        NonFiniteError: an action is NaN or infinite.
    """
    if not isinstance(actions, Mapping):
        if len(specs) > 1:
            raise SpaceError(f"expected one array per action, by name: {', '.join(specs)}; got a single array")
        actions = {next(iter(specs)): actions}
    if actions.keys() != specs.keys():
        raise SpaceError(f"expected the actions {', '.join(specs)}; got {', '.join(map(str, actions))}")
    return {name: spec.executed(actions[name], name) for name, spec in specs.items()}
