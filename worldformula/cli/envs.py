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
from worldformula.errors import ConfigError, near
from worldformula.report.yardsticks import yardsticks
from worldformula.run.config import EnvConfig


@dataclass(frozen=True)
class Envs:
    """List the environments of this package, or show one of them; any other Gymnasium id works too.

    For example: worldformula envs two_rooms
    """

    name: Annotated[str | None, tyro.conf.Positional, option("NAME", "all")] = None
    """An environment of the list."""
    scores: Flag = False
    """Measure floor and best known return; of all it takes a while."""

    def run(self) -> int:
        """Lists, or shows."""
        known = {entry.alias: entry for entry in registry.entries()}
        if self.name is not None and self.name not in known:
            raise ConfigError(f"no environment of this package is called {self.name!r}.{near(self.name, known)}")
        for line in listing(known.values()) if self.name is None else shown(known[self.name]):
            print(line)
        for entry in (known.values() if self.name is None else (known[self.name],)) if self.scores else ():
            print(f"{entry.alias}: {yardsticks(EnvConfig(entry.alias), seed=0)}")
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
    yield fill("One of them: worldformula envs NAME. Any id of Gymnasium works too: --env CartPole-v1", width())


def shown(entry: Entry) -> Iterator[str]:
    """What is observed and done in an environment, and what varies in it."""
    envs = Copies(entry.alias, 1)
    yield f"{entry.alias} ({entry.id}, {entry.max_steps} steps per episode)"
    yield fill(_head(entry), width(), initial_indent="    ", subsequent_indent="    ")
    yield from (f"observes {key}: {column}" for key, column in envs.observations.items())
    yield from (f"acts by {name}: {spec.told}" for name, spec in envs.actions.items())
    envs.close()
    for name, options in entry.factors.items():
        yield f"varies in {name}: {' '.join(f'--env-arg {text}' for text in arguments(options))}"
    yield f"\nto train in it\n    worldformula train --env {entry.alias} --run runs/{entry.alias}"


def _head(entry: Entry) -> str:
    """The first paragraph of the file that an environment stands in."""
    return " ".join((inspect.getdoc(inspect.getmodule(entry.build)) or "").partition("\n\n")[0].split())
