"""``worldformula envs``: lists the environments of the package, or shows one of them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from textwrap import fill
from typing import Annotated

import tyro

from worldformula.cli.many import option
from worldformula.cli.models import width
from worldformula.cli.train import Flag
from worldformula.envs import Envs as Copies
from worldformula.envs import registry
from worldformula.envs.registry import Entry
from worldformula.envs.variation import arguments
from worldformula.report.yardsticks import yardsticks
from worldformula.run.config import EnvConfig


@dataclass(frozen=True)
class Envs:
    """List the environments of this package, or show one of them, or any other that has a Gymnasium id.

    For example: worldformula envs two_rooms

    One of your own is shown as a run would get it, by module:ID or module:Class of the current folder.
    """

    name: Annotated[str | None, tyro.conf.Positional, option("NAME", "all")] = None
    """An environment of the list, or any id that --env takes."""
    scores: Flag = False
    """Measure floor and best known return; of all it takes a while."""

    def run(self) -> int:
        """Lists, or shows."""
        known = {entry.alias: entry for entry in registry.entries()}
        for line in listing(known.values()) if self.name is None else shown(self.name, known.get(self.name)):
            print(line)
        for name in (known if self.name is None else (self.name,)) if self.scores else ():
            print(f"{name}: {yardsticks(EnvConfig(name), seed=0)}")
        return 0


def listing(entries: Iterable[Entry]) -> Iterator[str]:
    """Those of one file together: their names with the steps of an episode, and what they are."""
    alike: dict[str, list[Entry]] = {}
    for entry in entries:
        alike.setdefault(_head(entry), []).append(entry)
    for head, some in alike.items():
        if len({e.max_steps for e in some}) == 1:
            names = f"{', '.join(e.alias for e in some)} ({some[0].max_steps} steps)"
        else:
            names = ", ".join(f"{e.alias} ({e.max_steps} steps)" for e in some)
        yield fill(names, width(), subsequent_indent="  ", break_on_hyphens=False)
        yield fill(head, width(), initial_indent="    ", subsequent_indent="    ")
    yield ""
    yield fill(
        "One of them: worldformula envs NAME. Any id of Gymnasium works too: worldformula envs CartPole-v1", width()
    )


def shown(name: str, entry: Entry | None) -> Iterator[str]:
    """What is observed and done in an environment, and what varies in it; ``entry`` is None of another package's.

    Raises:
        ConfigError: there is none of this name; the message says which are near.
    """
    envs = Copies(name, 1)
    if entry is None:
        yield f"{name} (not of this package)"
    else:
        yield f"{name} ({entry.id}, {entry.max_steps} steps per episode)"
        yield fill(_head(entry), width(), initial_indent="    ", subsequent_indent="    ")
    yield from (f"observes {key}: {column}" for key, column in envs.observations.items())
    yield from (f"acts by {name}: {spec.told}" for name, spec in envs.actions.items())
    envs.close()
    for factor, options in entry.factors.items() if entry else ():
        yield f"varies in {factor}: {' '.join(f'--env-arg {text}' for text in arguments(options))}"
    yield f"\nto train in it\n    worldformula train --env {name} --run runs/{name.rpartition(':')[2]}"


def _head(entry: Entry) -> str:
    """The first paragraph of the file that an environment stands in."""
    return " ".join((inspect.getdoc(inspect.getmodule(entry.build)) or "").partition("\n\n")[0].split())
