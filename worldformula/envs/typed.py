"""The outermost wrapper: observations as typed columns, named actions, masks and labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldformula.envs.actions import MASK, ActionSpec, action_specs, assembled, mask_name
from worldformula.envs.columns import Column
from worldformula.envs.spaces import leaf, observation_parts
from worldformula.errors import SpaceError

Env = gymnasium.Env[Any, Any]
Row = dict[str, NDArray[Any]]


class Typed(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Answers with one array per column; takes one array per named action.

    Args:
        env: whose answers were checked already.
        name: for the messages.
        labels: keys of ``info``, or paths such as ``hidden/door``, that become the columns ``label/<key>``, as float32,
            NaN where they are missing.
        reach: as for `ActionSpec`.

    Attributes:
        columns: what ``reset`` and ``step`` answer, by key: observations, then masks, then labels.
        observations: those of them that an agent observes.
        actions: what ``step`` takes, by name.
    """

    def __init__(
        self,
        env: Env,
        name: str,
        *,
        labels: tuple[str, ...] = (),
        reach: float = 1.0,
    ) -> None:
        super().__init__(env)
        self.name = name
        self.actions: dict[str, ActionSpec] = action_specs(env.action_space, reach)
        space = env.observation_space
        self._mask_key = isinstance(space, spaces.Dict) and MASK in space.spaces
        if isinstance(space, spaces.Dict) and self._mask_key:
            space = spaces.Dict({key: inner for key, inner in space.spaces.items() if key != MASK})
        self._parts = observation_parts(space)
        self._bare = not isinstance(space, spaces.Dict | spaces.Tuple)
        self.observations: dict[str, Column] = {key: part.column for key, part in self._parts.items()}
        self._masked, self._labels = self._probe(labels)
        masks: dict[str, Column] = {mask_name(name): _mask_column(self.actions[name]) for name in self._masked}
        self.actions = {name: replace(spec, masked=name in self._masked) for name, spec in self.actions.items()}
        self.columns = self.observations | masks | {f"label/{key}": column for key, column in self._labels.items()}
        self.observation_space = spaces.Dict({key: _space(column) for key, column in self.columns.items()})
        taken = {action: _space(spec.column) for action, spec in self.actions.items()}
        self.action_space = next(iter(taken.values())) if len(taken) == 1 else spaces.Dict(taken)

    def _probe(self, labels: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, Column]]:
        """The actions that have a mask, and the columns of labels: the first ``info`` shows them, no space does."""
        choices = {action: spec for action, spec in self.actions.items() if spec.mask is not None}
        if not labels and not choices:
            return (), {}
        observation, info = self.env.reset(seed=0)
        given, found = self._given(observation, info), dict[str, Column]()
        several = isinstance(self.env.action_space, spaces.Dict | spaces.Tuple)
        masked = tuple(a for a in choices if given is not None and (not several or _has(given, a)))
        for key in labels:
            label = _label(info, key)
            if label is not None and np.asarray(label).dtype.kind not in "fiub":
                raise SpaceError(f"info[{key!r}] of {self.name} is no label: expected numbers, got {label!r:.100}")
            found[key] = Column("vector", () if label is None else np.shape(label), "float32")
        return masked, found

    def _given(self, observation: Any, info: Mapping[str, Any]) -> Any:
        return observation[MASK] if self._mask_key else info.get(MASK)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Row, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._row(observation, info), info

    def step(self, action: Any) -> tuple[Row, float, bool, bool, dict[str, Any]]:
        """``action``: the single action's array, or one per name, as `by_name` returns them (without streams)."""
        named = action if isinstance(action, Mapping) else {next(iter(self.actions)): action}
        values = {key: self.actions[key].value(value) for key, value in named.items()}
        answer = self.env.step(assembled(self.env.action_space, values))
        observation, reward, terminated, truncated, info = answer
        return self._row(observation, info), float(reward), terminated, truncated, info

    def lasting(self) -> dict[str, Any] | None:
        """What lasts beyond an episode: nothing, but of a robot; None where it cannot be put back."""
        bare: Any = self.unwrapped
        return bare.snapshot() if getattr(bare, "resets", True) is False else {}

    def return_to(self, lasting: Mapping[str, Any]) -> None:
        """Puts the answer of `lasting` back."""
        bare: Any = self.unwrapped
        if getattr(bare, "resets", True) is False:
            bare.return_to(lasting)

    def _row(self, observation: Any, info: Mapping[str, Any]) -> Row:
        row: Row = {}
        for key, part in self._parts.items():
            value = np.asarray(observation if self._bare else leaf(observation, key))
            row[key] = part.convert(value)
        for action in self._masked:
            row[mask_name(action)] = self._mask(action, self._given(observation, info))
        for key, column in self._labels.items():
            label = _label(info, key)
            value = np.asarray(np.full(column.shape, np.nan) if label is None else label, np.float32)
            if value.shape != column.shape:
                raise SpaceError(f"info[{key!r}] of {self.name} changed its shape from {column.shape} to {value.shape}")
            row[f"label/{key}"] = value
        return row

    def _mask(self, action: str, given: Any) -> NDArray[np.bool_]:
        spec, name = self.actions[action], f"the mask of {action!r} of {self.name}"
        if given is None:
            raise SpaceError(f"{name}: info[{MASK!r}] was there at the first reset and is missing now")
        several = isinstance(self.env.action_space, spaces.Dict | spaces.Tuple)
        return spec.allowed(leaf(given, action) if several else given, name)


def _label(info: Mapping[str, Any], key: str) -> Any:
    """What ``info`` says under a key or a path such as ``hidden/door``; None where it says nothing."""
    try:
        return leaf(info, key)
    except (LookupError, TypeError, ValueError):
        return None


def _has(masks: Any, action: str) -> bool:
    try:
        return leaf(masks, action) is not None
    except (LookupError, TypeError, ValueError):
        return False


def _mask_column(spec: ActionSpec) -> Column:
    assert spec.mask is not None
    return spec.mask


def _space(column: Column) -> gymnasium.Space[Any]:
    """The Gymnasium space of a column's values."""
    if column.kind == "flag":
        return spaces.Box(0, 1, column.shape, np.bool_)
    if column.kind == "discrete":
        if not column.shape:
            return spaces.Discrete(column.classes[0], start=column.starts[0])
        sizes, starts = (np.array(values).reshape(column.shape) for values in (column.classes, column.starts))
        return spaces.MultiDiscrete(sizes, start=starts)
    dtype: Any = np.dtype(column.dtype).type
    return spaces.Box(dtype(column.low), dtype(column.high), column.shape, dtype)
