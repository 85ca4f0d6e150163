"""The catalogue: every system that the package ships, found by listing folders.

A catalogue folder (`models`, `worlds`, `planners`, `agents`) holds one paper or one method per file. Each file ends in
``SYSTEM = System(...)``, whose name is the name of the file. There is no list to keep: a new file is found the moment
it exists. Names are known without importing a file; it is imported only when its system is asked for.

>>> "vae" in names("models")
True
>>> find("vae").kind
'models'
>>> find("vea")
Traceback (most recent call last):
worldformula.errors.CatalogueError: no system is called 'vea'. Did you mean 'vae'...
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from worldformula.display import stack, tabular, title
from worldformula.errors import CatalogueError, near

KINDS = ("models", "worlds", "planners", "agents")


@dataclass(frozen=True)
class System:
    """One published system, as its catalogue file describes it.

    Attributes:
        name: the name of the file, as on the command line: ``"dreamer_v3"``.
        kind: the catalogue folder, one of `KINDS`.
        paper: author, year and where to find it: ``"Kingma & Welling 2013, arXiv:1312.6114"``.
        bibtex: the entry to cite.
        presets: name -> function that returns the sizes: ``paper``, ``official``, ``tiny`` as far as they exist.
        build: sizes -> the system (a model, a world, a planner, an agent).
        summary: one sentence.
        runs: name of a preset -> settings of a run that belong to it, as of ``--set``: ``("env.num=16",)``.
        fits: name of a preset -> settings of a fit that belong to it, ``{"steps": 2300, "batch": 64}``: what a fit from
            the command line begins with, and what the cards of a model train by. Under ``before`` those of what is
            trained before it, by name, ``{"stage": {"steps": 2700}}``.
        data: the data set of this package that its settings are made for: digits, of a model, where none is named;
            of a world its user's own episodes.
        acts: the kinds of actions that an agent takes: numbers in [−1, 1], choices, flags.
        counted: name of a preset -> how many parameters the authors' code counts of an agent that observes 24
            numbers and gives 6, those of the task walker-walk, where that is known.
        agent: of a world that reads what another network makes, the agent that trains both.
        reads: observations that an agent cannot be without, an example column of each by its key.
        env: an environment of this package that it is shown in.
    """

    name: str
    kind: str
    paper: str
    bibtex: str
    presets: Mapping[str, Callable[[], Any]]
    build: Callable[..., Any]
    summary: str
    runs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    data: str = ""
    acts: tuple[str, ...] = ("numbers", "choice", "flags")
    counted: Mapping[str, int] = field(default_factory=dict)
    agent: str = ""
    reads: Mapping[str, Any] = field(default_factory=dict)
    env: str = "pendulum"

    def sizes(self, preset: str) -> Any:
        """The sizes of one preset; raises CatalogueError with the near misses."""
        if preset not in self.presets:
            known = ", ".join(self.presets) or "none"
            raise CatalogueError(f"{self.name} has no preset {preset!r}.{near(preset, self.presets)} It has: {known}.")
        return self.presets[preset]()

    def __str__(self) -> str:
        return self.name

    def _repr_html_(self) -> str:
        rows = [("paper", self.paper), ("presets", ", ".join(self.presets)), ("kind", self.kind)]
        return stack(title(self.name, self.summary), tabular(("", ""), rows))


def names(kind: str) -> list[str]:
    """The names of all systems of one kind, sorted, without importing them. Files that start with ``_`` are none."""
    if kind not in KINDS:
        raise CatalogueError(f"no catalogue is called {kind!r}.{near(kind, KINDS)} There are: {', '.join(KINDS)}.")
    folder = importlib.import_module(f"worldformula.{kind}")
    return sorted(module.name for module in pkgutil.iter_modules(folder.__path__) if not module.name.startswith("_"))


def discover(kind: str) -> list[System]:
    """All systems of one kind, sorted by name; imports their files one at a time."""
    return [_load(kind, name) for name in names(kind)]


def find(name: str, kind: str = "") -> System:
    """The system of this name, of whatever kind; ``dreamer-v3`` finds ``dreamer_v3``. Imports its file alone.

    ``kind`` is what somebody is looking for: of a name that is not there, systems of that kind alone are told.
    """
    wanted = name.replace("-", "_").lower()
    known = {system: kind for kind in KINDS for system in names(kind)}
    if wanted not in known:
        told = [kind] if kind else KINDS
        listing = "; ".join(f"{each}: {', '.join(names(each)) or 'none'}" for each in told)
        close = near(wanted, [own for own, its in known.items() if its in told])
        raise CatalogueError(f"no system is called {name!r}.{close} There are {listing}.")
    return _load(known[wanted], wanted)


def _load(kind: str, name: str) -> System:
    path = f"worldformula.{kind}.{name}"
    system = getattr(importlib.import_module(path), "SYSTEM", None)
    if not isinstance(system, System):
        raise CatalogueError(f"{path} is a catalogue file: expected `SYSTEM = System(...)` at its end, got {system!r}.")
    if (system.kind, system.name) != (kind, name):
        raise CatalogueError(
            f"{path}: expected SYSTEM with name={name!r}, kind={kind!r} as the file says, "
            f"got name={system.name!r}, kind={system.kind!r}."
        )
    return system
