"""Perception: from rows of experience to the variables of a formula, the same in training and in acting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldformula.agent import acts
from worldformula.envs.actions import Actions, ActionSpec, mask_name
from worldformula.envs.columns import Column
from worldformula.errors import ConfigError, MissingInputError, ShapeError, table
from worldformula.nets.classes import one_hots
from worldformula.wording import numbered
from worldformula.world import MASK, World

WHITE = torch.tensor(255.0)  # a tensor, as a number of Python would be made one at every row


class Perception:
    """Reads rows ``[N, ...]`` or sequences ``[B, T, ...]`` into tensors by variable, and writes actions back.

    names: observation key -> variable (``{"image": "x"}``). discount: γ of the continuation target
    ``c = (1 − terminal)·γ``, so that imagination needs no discount of its own (Hafner et al. 2025; γ = 1 − 1/333).
    columns: what the observations are. actions: what the agent gives, by name, or the only one. reward, proceed, reset:
    the variables of reward and continuation, None where the world has no such variable, and of flags. allowed: the
    variables of masks that the world predicts, by that of the action. unit: what rewards are divided by. bounded: their
    tanh is learnt.

    Attributes:
        acts: the actions as variables of the world.
    """

    def __init__(
        self,
        names: Mapping[str, str],
        discount: float,
        columns: Mapping[str, Column],
        actions: ActionSpec | Mapping[str, ActionSpec],
        *,
        reward: str | None = "r",
        proceed: str | None = "c",
        reset: str = "first",
        allowed: Mapping[str, str] | None = None,
        bounded: bool = False,
        unit: float = 1.0,
    ) -> None:
        self.bounded, self.unit = bounded, unit
        self.names, self.discount = dict(names), discount
        self.columns, self.actions = dict(columns), acts.named(actions)
        self.acts = acts.acts_of(self.actions)
        self.reward, self.proceed, self.reset = reward, proceed, reset
        self.allowed = dict(allowed or {})

    @classmethod
    def of(
        cls,
        world: World,
        discount: float,
        columns: Mapping[str, Column],
        actions: ActionSpec | Mapping[str, ActionSpec],
        *,
        bounded: bool = False,
        unit: float = 1.0,
    ) -> Perception:
        """What a world reads: its observations, its actions, what its roles "reward" and "continue" predict, its flags.

        Raises:
            ConfigError: an observation of the world that is no column, other actions than the world's, or a world that
                goes on from one episode into the next.
        """
        if unknown := [key for key in world.observations if key not in columns]:
            raise ConfigError(f"the world observes {unknown[0]!r}, and the columns are {', '.join(columns)}")
        if world.reset_name is None:
            raise ConfigError(
                "the world of an agent begins anew with each episode: expected a loss with flags of the first rows, "
                "Sum('t', ..., reset='first')"
            )
        predicted = world.predicted
        allowed = {role.removeprefix(MASK): word for role, word in predicted.items() if role.startswith(MASK)}
        found = cls(
            world.observations, discount, columns, actions, reward=predicted.get("reward"),
            proceed=predicted.get("continue"), reset=world.reset_name, allowed=allowed, bounded=bounded,
            unit=unit,
        )  # fmt: skip
        if sorted(own := [act.variable for act in found.acts]) != sorted(world.actions):
            raise ConfigError(
                f"expected a world with the actions {', '.join(own)} (a where there is one, else a_1, a_2, …, one for "
                f"each choice), got one with {', '.join(world.actions) or 'none'}"
            )
        return found

    def observe(self, rows: Mapping[str, NDArray[Any]], device: torch.device) -> dict[str, Tensor]:
        """Observations and the flags of the reset: images as [0, 1], classes as one-hots, vectors as they are."""
        if missing := [key for key in (*self.names, "is_first") if key not in rows]:
            shown = table(("column", "got"), [(key, key in rows) for key in (*self.names, "is_first")])
            raise MissingInputError(f"perception needs the column {missing[0]!r} of the rows\n{shown}")
        if not np.ndim(rows["is_first"]):
            raise ShapeError(
                "expected rows [N, …] of N streams, got a single row; write {key: row[key][None] for key in row}"
            )
        found = {word: encoded(rows[key], self.columns[key], device, key) for key, word in self.names.items()}
        found[self.reset] = _moved(rows["is_first"], device)
        return found

    def rewards(self, received: Tensor) -> Tensor:
        """Rewards as they are learnt."""
        scaled = received if self.unit == 1.0 else received / self.unit
        return torch.tanh(scaled) if self.bounded else scaled

    def of_kind(self, kind: str) -> dict[str, str]:
        """The observations whose column is of a kind: key -> variable."""
        return {key: word for key, word in self.names.items() if self.columns[key].kind == kind}

    def numbers(self) -> list[str]:
        """A name for every observed number, in the order of the variables; no pictures, no classes."""
        found = [(key, self.columns[key].width) for key in self.names if self.columns[key].kind in ("vector", "flag")]
        return [name for key, width in found for name in numbered(key, width)]

    def learn(self, batch: Mapping[str, NDArray[Any]], device: torch.device) -> dict[str, Tensor]:
        """Everything that a loss reads: observations, flags, actions, reward, continuation, and what was allowed."""
        terminal = torch.as_tensor(batch["is_terminal"], device=device).float()
        taken = acts.encoded(self.acts, batch, device)
        going = ~torch.as_tensor(batch["is_last"], device=device)[..., None]
        for act in self.acts:  # nothing is executed at the last row: no class, where numbers are zero already
            if act.kind == "choice":
                taken[act.variable] = taken[act.variable] * going
        found = self.observe(batch, device) | taken
        if self.reward is not None:
            reward = torch.as_tensor(np.ascontiguousarray(batch["reward"]), device=device).float()
            found[self.reward] = self.rewards(reward)
        if self.proceed is not None:
            found[self.proceed] = (1 - terminal) * self.discount
        masks = self.masks(batch, device)
        if missing := [act for act in self.acts if act.variable in self.allowed and act.variable not in masks]:
            column = mask_name(missing[0].action)
            raise MissingInputError(f"perception needs the column {column!r} of the rows, got {', '.join(batch)}")
        return found | {word: masks[action].float() for action, word in self.allowed.items()}

    def before(self, batch: Mapping[str, NDArray[Any]], device: torch.device) -> dict[str, Tensor]:
        """The actions of the rows before sequences, ``start/<column>``, ``[B, A]`` by variable."""
        columns = {key.removeprefix("start/"): value for key, value in batch.items() if key.startswith("start/")}
        return acts.encoded(self.acts, columns, device)

    def act(self, actions: Mapping[str, Tensor]) -> Actions:
        """What an agent chose, ``[N, A]`` by variable, as columns by action: numbers, indices of one-hots, booleans."""
        return acts.chosen(self.acts, actions)

    def masks(self, rows: Mapping[str, NDArray[Any]], device: torch.device) -> dict[str, Tensor]:
        """Which choices are allowed at rows ``[N, ...]``, booleans by variable, where a column says so."""
        return acts.masks(self.acts, rows, device)


def encoded(column: NDArray[Any], kind: Column, device: torch.device, name: str = "the column") -> Tensor:
    """A column ``[..., *shape]`` as float32 for networks: ``[..., H, W, C]`` for a picture, else ``[..., width]``.

    Pictures become [0, 1] by their declared range, classes one-hot (elements side by side), anything else the numbers
    themselves.

    Raises:
        SpaceError: a number that names no class.
    """
    moved = _moved(column, device)
    lead = moved.shape[: moved.ndim - len(kind.shape)]
    if kind.kind == "image":
        if (kind.low, kind.high) == (0, 255):
            return moved.float().div_(WHITE)
        return (moved.float() - kind.low) / (kind.high - kind.low)
    if kind.kind != "discrete":
        return (moved if moved.ndim == len(lead) + 1 else moved.reshape(*lead, -1)).float()
    return one_hots(moved.reshape(*lead, -1), kind.classes, kind.starts, name)


def _moved(column: NDArray[Any], device: torch.device) -> Tensor:
    """A column on a device; where that is this one, in the memory that it has."""
    given = np.ascontiguousarray(column)
    return torch.from_numpy(given) if device.type == "cpu" else torch.as_tensor(given, device=device)
