"""The environments of this package: found by listing the folder, registered with Gymnasium.

A catalogue file of ``worldformula/envs/`` offers a tuple ``ENVIRONMENTS`` of :class:`Entry`. Each entry answers to its
alias (``"cartpole_swingup"``) and to its Gymnasium id (``"worldformula/CartPoleSwingup-v0"``).
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

Controller = Callable[[Mapping[str, NDArray[np.floating]]], Any]
"""From ``info["state"]`` to an action of the environment's own action space."""


@dataclass(frozen=True)
class Entry:
    """One environment of this package.

    Attributes:
        name: the Gymnasium name, ``"CartPoleSwingup"``.
        alias: the short lower-case name, ``"cartpole_swingup"``.
        build: makes the bare environment; takes ``size`` (pixels) and the options of the environment.
        max_steps: steps until the episode is truncated.
        reference: a controller that sees the true state: the best return that we know how to reach.
        options: keyword arguments that belong to this entry.
        factors: factors of variation, each the keyword arguments that vary it: see `worldformula.envs.variation`.
    """

    name: str
    alias: str
    build: Callable[..., gymnasium.Env[Any, Any]]
    max_steps: int
    reference: Controller
    options: Mapping[str, Any] = field(default_factory=dict)
    factors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"worldformula/{self.name}-v0"


@functools.cache
def entries() -> tuple[Entry, ...]:
    """Every environment of this package, sorted by alias; registers them with Gymnasium on the first call."""
    package = importlib.import_module(__package__)
    found: list[Entry] = []
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        found.extend(getattr(importlib.import_module(module.name), "ENVIRONMENTS", ()))
    for entry in found:
        gymnasium.register(
            entry.id, entry_point=entry.build, max_episode_steps=entry.max_steps, kwargs=dict(entry.options)
        )
    return tuple(sorted(found, key=lambda entry: entry.alias))


def find(id: str) -> Entry | None:
    """The entry with this alias or Gymnasium id, or None."""
    return next((entry for entry in entries() if id in (entry.alias, entry.id)), None)
