"""A world of the catalogue as a `Model` on sequences, so that it is trained as every model is.

Columns of experience become the variables of its loss: what is observed x (of several columns the world's own names),
the action a, the reward r, the continuation (1 − terminal)(1 − 1/333), which most call c, and the flag first.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldformula.catalogue import System
from worldformula.data import DataSet
from worldformula.data.sequences import Windows, observed
from worldformula.errors import ConfigError, MissingInputError, ShapeError, TimeError
from worldformula.formula.expressions.expression import Expression
from worldformula.formula.plan.histories import refuse_ahead
from worldformula.model.contract import Model, Values
from worldformula.nets.classes import one_hots
from worldformula.vocabulary import Vocabulary
from worldformula.world import saying

DISCOUNT = 1 - 1 / 333  # Hafner et al. 2025: the horizon of the continuation target
EPISODES = "Give episodes that have one: --data episodes.npz with arrays action [N, T, …], reward [N, T] and others"
PICTURE = 3  # axes of a picture, the last one its 1, 3 or 4 channels
Columns = dict[str, dict[str, Any]]


def columns_of(found: DataSet) -> Columns:
    """What the columns hold, as JSON: kind (image, vector or classes), shape of a step, number of classes; ``words``
    where these are words; ``zero`` of those that a world has beside the data, whose place zeros take.
    """
    actions = [key for key in found.train if key == "action" or key.startswith("action/")]
    if len(actions) > 1:
        raise ConfigError(f"{found.name}: the worlds of the catalogue read one action, got {', '.join(actions)}")
    own = {key: _column(key, found) for key in (*observed(found.train), *actions)}
    if found.words:
        own = {key: {**column, "classes": len(found.words), "words": list(found.words)} for key, column in own.items()}
    return own | {key: {**column, "zero": True} for key, column in found.zeros.items()}


def _column(key: str, found: DataSet) -> dict[str, Any]:
    array = found.train[key]
    shape = list(array.shape[1:])
    if array.dtype.kind in "iu" and (array.dtype != np.uint8 or len(shape) < 2):
        parts = [part[key] for part in (found.train, found.test)]
        if min(int(part.min()) for part in parts) < 0:
            raise ConfigError(f"{found.name}: {key} holds whole numbers below 0; classes are counted from 0")
        return {"kind": "classes", "shape": shape, "classes": 1 + max(int(part.max()) for part in parts)}
    if len(shape) == PICTURE and shape[-1] in (1, 3, 4):
        return {"kind": "image", "shape": shape, "scale": 255 if array.dtype == np.uint8 else 1}
    return {"kind": "vector", "shape": shape, "scale": 255 if array.dtype == np.uint8 else 1}


def width(column: Mapping[str, Any]) -> int:
    """Numbers of a step of a column as networks read it."""
    return sum(counts(column)) or int(math.prod(column["shape"]))


def counts(column: Mapping[str, Any]) -> tuple[int, ...]:
    """Classes of each number of a step of a column; none of one that holds no classes."""
    classes = column.get("classes", ())
    return tuple(classes) if isinstance(classes, list | tuple) else (classes,) * math.prod(column["shape"])


def encoded(value: Tensor, column: Mapping[str, Any], name: str = "the column") -> Tensor:
    """A column ``[B, T, …]`` as float32: ``[B, T, H, W, C]`` in [0, 1] for a picture, else ``[B, T, width]``."""
    if column["kind"] == "classes":
        flat = value.reshape(*value.shape[:2], -1)
        return one_hots(flat, counts(column), name=name)
    scaled = value.float() / column["scale"] if column["scale"] != 1 else value.float()
    return scaled if column["kind"] == "image" else scaled.reshape(*value.shape[:2], -1)


def is_action(key: str) -> bool:
    """Whether a column holds an action."""
    return key == "action" or key.startswith("action/")


def variables(count: int) -> list[str]:
    """The variables of so many actions: a, or a_1, a_2, …"""
    return ["a"] if count == 1 else [f"a_{i}" for i in range(1, count + 1)]


PLACEHOLDER: Columns = {
    key: {"kind": "vector", "shape": [1], "scale": 1} for key in ("x", "action")
}  # for what does not depend on data, such as the names of coefficients


LARGE = 1e3
"""Beyond it, numbers that nothing scales take the weights of a network with them."""


def fitted(sizes: Any, columns: Columns, rows: Mapping[str, Any], given: Collection[str]) -> list[str]:
    """``key=value`` texts that fit ``sizes`` to columns and to rows of them: ``pixels`` of what is observed,
    ``actions``; ``observed`` numbers, where vectors hold others than those from 0 to 1.

    Raises:
        ConfigError: numbers too large for networks that read them as they are.
    """
    have = {f.name: getattr(sizes, f.name) for f in dataclasses.fields(sizes)}
    acts = [column for key, column in columns.items() if key == "action" or key.startswith("action/")]
    found: dict[str, Any] = {"pixels": sum(map(width, columns.values())) - sum(map(width, acts))}
    if acts:
        found["actions"] = width(acts[0])
    seen = {
        k: rows[k] for k, column in columns.items() if column["kind"] == "vector" and column not in acts and k in rows
    }
    ends = {key: (float(x.min()), float(x.max())) for key, x in seen.items() if x.dtype.kind == "f" and x.size}
    if "observed" in have and any(not 0 <= low <= high <= 1 for low, high in ends.values()):
        found["observed"] = "numbers"
        if far := [key for key, (low, high) in ends.items() if max(-low, high) > LARGE]:
            low, high = ends[far[0]]
            raise ConfigError(
                f"{far[0]} holds numbers from {low:.3g} to {high:.3g}, and this world reads them as they are\n"
                "give them in a unit in which they are around 1, such as (x - x.mean()) / x.std()"
            )
    return [f"sizes.{k}={v}" for k, v in found.items() if k in have and k not in given and have[k] != v]


@dataclass(frozen=True, eq=False)
class ThroughTime(Model):
    """A world, and how columns become the variables of its loss.

    Attributes:
        world: of `worldformula.worlds`.
        loss: the world's.
        columns: as `columns_of` gives them.
        names: column -> variable of what is observed.
    """

    world: Any
    loss: Expression
    columns: Mapping[str, Mapping[str, Any]]
    names: Mapping[str, str]

    @property
    def ahead(self) -> bool:
        """Whether the posterior reads whole series, x_{1:T}: then no window may hold two episodes."""
        try:
            refuse_ahead("a window of two episodes", self.loss.program.plan)
        except TimeError:
            return True
        return False

    @property
    def actions(self) -> str | None:
        """The column of the action."""
        return next((key for key in self.columns if is_action(key)), None)

    @property
    def words(self) -> tuple[str, Vocabulary] | None:
        """The column of words, and what its numbers stand for, where there is one."""
        found = {key: Vocabulary(tuple(c["words"])) for key, c in self.columns.items() if "words" in c}
        return next(iter(found.items()), None)

    def zeros(self, lead: tuple[int, ...]) -> Values:
        """By variable, ``[B, T, …]``: what stands in the place of columns that the data do not have."""
        absent = {key: column for key, column in self.columns.items() if column.get("zero")}
        shapes = {k: tuple(c["shape"]) if c["kind"] == "image" else (width(c),) for k, c in absent.items()}
        acts = [key for key in absent if is_action(key)]
        names = self.world.observations | dict(zip(acts, variables(len(acts)), strict=True))
        return {names[key]: torch.zeros(*lead, *shape) for key, shape in shapes.items()}

    def given(self, rows: Mapping[str, Tensor]) -> Values:
        """Windows ``[B, T, …]`` of columns to the inputs of the loss."""
        found = {word: encoded(rows[key], self.columns[key], key) for key, word in self.names.items() if key in rows}
        if self.actions in rows and self.actions is not None:
            column = self.columns[self.actions]
            found["a"] = encoded(rows[self.actions], column, self.actions)
            if column["kind"] == "classes":  # nothing is executed at the last row: no class
                found["a"] = found["a"] * ~rows["is_last"][..., None]
        found |= {"r": rows["reward"].float(), "first": rows["is_first"]}
        found |= {k: x.to(found["r"].device) for k, x in self.zeros(tuple(rows["is_first"].shape)).items()}
        proceed = self.world.predicted.get("continue", "c")
        found[proceed] = (1 - rows["is_terminal"].float()) * DISCOUNT
        return {name: found[name] for name in self.inputs if name in found}

    def rows(self, arrays: Mapping[str, NDArray[Any]], name: str = "the data") -> Values:
        """Windows as tensors, in the types that they have.

        Raises:
            MissingInputError: the loss reads what the data do not have.
            ShapeError: the loss refuses two windows.
        """
        own = (key for key, column in self.columns.items() if not column.get("zero"))
        needed = (*own, "reward", "is_first", "is_last", "is_terminal")
        if missing := [key for key in needed if key not in arrays]:
            raise MissingInputError(f"{name} has no column {missing[0]!r}; it has {', '.join(arrays)}")
        found = {key: torch.from_numpy(np.ascontiguousarray(arrays[key])) for key in needed}
        probe = self.given({key: value[:2] for key, value in found.items()})
        if lacking := [key for key in self.inputs if key not in probe]:
            said = {"a": "column action"}.get(lacking[0], lacking[0])
            raise MissingInputError(
                f"{name} has no {said}, and this world reads one; it has {', '.join(self.columns)}. {EPISODES}"
            )
        if self.ahead and bool(found["is_first"][:, 1:].any()):
            raise ShapeError(
                f"{name}: this world reads whole series, and windows of {found['is_first'].shape[1]} rows hold parts "
                "of two episodes; set data.length to at most the length of the shortest episode"
            )
        self._try(probe, name)
        return found

    def watched(self, rows: Mapping[str, Tensor], device: torch.device) -> dict[str, float]:
        """How the latents of a joint-embedding world are on these windows, and the perplexity of words where rows hold
        them; of another world nothing is told.
        """
        if not self.world.embeddings and self.words is None:
            return {}
        given = self.given({key: x.to(device) for key, x in rows.items()})
        found: dict[str, float] = self.world.watched(given) if self.world.embeddings else {}
        if self.words is not None:
            key, _ = self.words
            head = saying.head_of(self.world, {k: counts(c) for k, c in self.columns.items() if counts(c)}, key)
            numbers = rows[key].to(device).long()
            found["words/perplexity"] = saying.perplexity(self.world, given, head, numbers, seed=0)
        return found

    def tests(self, data: DataSet, most: int) -> Values:
        """The first windows of the rows to test on, one after the other; errors as those of `rows`."""
        index = Windows(data.test["is_first"], data.window).cut()[:most]
        return self.rows({key: value[index] for key, value in data.test.items()}, data.name)

    def drawn(self, data: DataSet, batch: int) -> Callable[[], Values]:
        """Draws windows ``[batch, T, …]`` of the rows to learn from, which begin anywhere; errors as those of `rows`.

        Where they begin comes from torch's generator, so that a fit that goes on draws what it would have.
        """
        windows = Windows(data.train["is_first"], data.window)
        shown = windows.rows(windows.starts[-2:])  # of the short episodes, where there are any
        read = self.rows({key: value[shown] for key, value in data.train.items()}, data.name)
        columns = {key: torch.from_numpy(np.ascontiguousarray(data.train[key])) for key in read}

        def draw() -> Values:
            begins = windows.starts[torch.randint(len(windows.starts), (batch,)).numpy()]
            index = torch.from_numpy(windows.rows(begins))
            return {key: value[index] for key, value in columns.items()}

        return draw


def built(system: System, sizes: Any, columns: Mapping[str, Mapping[str, Any]]) -> ThroughTime:
    """A world of the catalogue for these columns; one that knows no classes observes them as the numbers of one-hots.

    Raises:
        ConfigError: it does not take what is observed, or lacks an action, or a part of it learns by another loss.
    """
    if system.agent:
        raise ConfigError(
            f"{system.name} reads what another network makes of the data; {system.agent} trains both: "
            f"worldformula train --model {system.agent} --env ... --run runs/first"
        )
    seen = {key: column for key, column in columns.items() if not is_action(key)}
    acts = [column for key, column in columns.items() if is_action(key)]
    action = next(iter(acts), None)
    taken = inspect.signature(system.build).parameters
    if "observations" in taken:
        if action is None:
            raise ConfigError(
                f"{system.name} reads actions, and the data have no column action; they have {', '.join(columns)}. "
                f"{EPISODES}"
            )
        shapes = {k: tuple(c["shape"]) if c["kind"] == "image" else (width(c),) for k, c in seen.items()}
        classes = {k: counts(c) for k, c in seen.items() if c["kind"] == "classes" and "classes" in taken}
        wide: Any = dict(zip(variables(len(acts)), map(width, acts), strict=True)) if len(acts) > 1 else width(action)
        world = system.build(sizes, shapes, wide, **({"classes": classes} if classes else {}))
        if world.further:
            raise ConfigError(
                f"{system.name}: {', '.join(world.further)} would never learn, as it has a loss of its own beside the "
                f"world's, which agents minimise and a fit of data does not\ntake a preset without it, or an agent"
            )
        words = {key: world.observations[key] for key in shapes if key in world.observations}
        return ThroughTime(world, world.loss, columns, {k: w for k, w in words.items() if not seen[k].get("zero")})
    if len(seen) != 1:
        raise ConfigError(
            f"{system.name} observes one column, and the data have {', '.join(seen) or 'none'}; leave out the others "
            "(names of columns that begin with label/ are not observed)"
        )
    world = system.build(sizes)
    return ThroughTime(world, world.loss, columns, dict.fromkeys(seen, "x"))
