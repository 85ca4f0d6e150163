"""Acting with what was trained, from plain observations: what the agent remembers, and what it may choose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from worldformula.envs.actions import ActionSpec, mask_name
from worldformula.envs.columns import Column
from worldformula.envs.spaces import leaf
from worldformula.errors import ConfigError, MissingInputError, NonFiniteError, ShapeError, SpaceError


class Trained(Protocol):
    """An agent with what it observes and gives, by name."""

    inner: Any
    observations: dict[str, Column]
    actions: dict[str, ActionSpec]


class Player:
    """Acts with an agent, and holds what it remembers between one observation and the next.

    Args:
        agent: what acts.
        num: how many streams of observations at once.
        explore: sample actions as in training, instead of the policy's mode.
    """

    def __init__(self, agent: Trained, num: int = 1, *, explore: bool = False) -> None:
        if num < 1:
            raise ConfigError(f"expected at least one stream, got num={num}")
        self.agent, self.num, self.explore = agent, num, explore
        self._first = np.ones(num, bool)
        self._state = agent.inner.initial(num)

    def reset(self, *streams: int) -> None:
        """The next observation begins an episode: in these streams, or in all."""
        self._first[list(streams) or slice(None)] = True

    def act(self, observation: Any, *, mask: Any = None) -> Any:
        """The action at an observation.

        Args:
            observation: arrays by column, ``[num, …]``, or of one stream without that axis; a single array where the
                agent observes one column. Rows of `worldformula.envs.Envs` hold the masks too.
            mask: what is allowed, as Gymnasium's ``info["action_mask"]``: zeros and ones ``[choices]``, of a
                MultiDiscrete the choices of all elements or a tuple of them, by name where there are several actions;
                ``[num, choices]`` where the observation has that axis.

        Returns:
            Numbers from −1 to 1 or choices counted from 0, as `worldformula.envs.Envs` takes them: ``[num, …]``, or
            without that axis as the observation. An array, or one per name where there are several actions.

        Raises:
            ShapeError: a column is missing, or has another shape than the agent was trained on.
            SpaceError: a value that the column cannot hold, or a mask that is none.
            NonFiniteError: an observation is NaN or infinite.
            MissingInputError: the agent was trained with masks, and one is missing.
        """
        rows, alone = self._rows(observation)
        rows |= self._masks(observation if isinstance(observation, Mapping) else {}, mask, alone)
        with torch.no_grad():
            actions, self._state = self.agent.inner.act(
                {**rows, "is_first": self._first.copy()}, self._state, explore=self.explore
            )
        self._first[:] = False
        if not alone:
            return actions
        return {k: v[0] for k, v in actions.items()} if isinstance(actions, Mapping) else actions[0]

    def _rows(self, observation: Any) -> tuple[dict[str, NDArray[Any]], bool]:
        columns = self.agent.observations
        if not isinstance(observation, Mapping):
            if len(columns) > 1:
                raise ShapeError(f"expected observations by column, {', '.join(columns)}; got a single array")
            observation = {next(iter(columns)): observation}
        if missing := [key for key in columns if key not in observation]:
            raise ShapeError(f"expected the columns {', '.join(columns)}; {missing[0]} is missing")
        arrays = {key: np.asarray(observation[key]) for key in columns}
        alone = self.num == 1 and all(v.shape == tuple(columns[k].shape) for k, v in arrays.items())
        rows = {key: value[None] if alone else value for key, value in arrays.items()}
        for key, value in rows.items():
            if value.shape != (self.num, *columns[key].shape):
                raise ShapeError(
                    f"expected {key} of shape {(self.num, *columns[key].shape)}"
                    + (f" or {tuple(columns[key].shape)}" if self.num == 1 else "")
                    + f", got {arrays[key].shape}"
                )
        return {key: _stored(key, value, columns[key]) for key, value in rows.items()}, alone

    def _masks(self, observation: Mapping[str, Any], mask: Any, alone: bool) -> dict[str, NDArray[np.bool_]]:
        """What is allowed, by column ``[num, choices]``, of all actions of which it is said."""
        actions = self.agent.actions
        choices = {name: spec for name, spec in actions.items() if spec.mask is not None}
        named = len(actions) > 1 or next(iter(actions)) in (mask if isinstance(mask, Mapping) else ())
        found = {}
        if mask is not None and not choices:
            raise SpaceError("mask: this agent has no action with choices")
        if mask is not None and named and not isinstance(mask, Mapping):
            raise SpaceError(f"expected a mask by action, {{{next(iter(choices))!r}: ...}}, got {str(mask)[:100]}")
        for name, spec in choices.items():
            given = observation.get(mask_name(name))
            if mask is not None:
                given = _at(mask, name) if named else mask
            if given is not None:
                found[mask_name(name)] = self._allowed(spec, given, f"the mask of {name!r}", alone)
            elif spec.masked:
                example = f"{{{name!r}: [...]}}" if len(actions) > 1 else "[...]"
                raise MissingInputError(
                    f"in training rows said which choices of {name!r} are allowed, and nothing says it now: pass what "
                    f"the environment gives, act(observation, mask=info['action_mask']), or {sum(spec.classes)} ones "
                    f"where all are, act(observation, mask={example})"
                )
        return found

    def _allowed(self, spec: ActionSpec, given: Any, name: str, alone: bool) -> NDArray[np.bool_]:
        if alone:
            return spec.allowed(given, name)[None]
        if isinstance(given, tuple):  # of a MultiDiscrete, [num, choices] for each element
            given = np.concatenate([np.asarray(part) for part in given], -1)
        rows = np.asarray(given)
        if rows.shape != (self.num, sum(spec.classes)):
            raise ShapeError(f"{name}: expected the shape {(self.num, sum(spec.classes))}, got {rows.shape}")
        return np.stack([spec.allowed(row, name) for row in rows])


def _at(masks: Any, name: str) -> Any:
    """The mask of an action by its path, or None."""
    try:
        return leaf(masks, name)
    except (LookupError, TypeError, ValueError):
        return None


def _stored(key: str, value: NDArray[Any], column: Column) -> NDArray[Any]:
    """A value in the column's own numbers, once it is certain that none of them changes by that.

    Raises:
        SpaceError: fractions for whole numbers, numbers that the type cannot hold, a class that does not exist.
        NonFiniteError: NaN or infinite.
    """
    if value.dtype.kind not in "biuf":
        raise SpaceError(f"expected {key} as {column}, got values of the type {value.dtype}")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise NonFiniteError(f"{key} is not finite: expected {column}")
    with np.errstate(invalid="ignore"):
        found = value.astype(column.dtype, copy=False)
    whole = column.dtype == "bool" or np.issubdtype(np.dtype(column.dtype), np.integer)
    beyond = column.kind == "discrete" and bool(((value < column.low) | (value > column.high)).any())
    if (whole and not np.array_equal(found, value)) or beyond:
        raise SpaceError(
            f"expected {key} as {column}, got {value.dtype} from {value.min():g} to {value.max():g}; give the numbers "
            "that the environment gave in training"
        )
    return found
