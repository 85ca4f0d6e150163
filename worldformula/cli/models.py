"""``worldformula models``: lists the catalogue, or shows one system of it."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import fill, indent, shorten
from typing import Annotated, Any

import torch
import tyro

from worldformula import cards, catalogue
from worldformula.catalogue import System
from worldformula.cli.many import DEFAULT_PRESET, option
from worldformula.envs import ActionSpec, Column, Envs
from worldformula.errors import ConfigError, SpaceError, table
from worldformula.formula.expressions.expression import Expression
from worldformula.formula.syntax.text import text
from worldformula.model.config import start
from worldformula.model.run import build, suitable
from worldformula.training import settings
from worldformula.training.game import losses
from worldformula.training.objective import Objective
from worldformula.training.optimiser import trainable

NUMBERS = ActionSpec("continuous", 6)
SPACES = {  # what the sizes of agents are compared by, with six numbers as an action
    "24 numbers": {key: Column("vector", (n,), "float32") for key, n in (("angles", 14), ("height", 1), ("speed", 9))},
    "a picture of 64 × 64": {"image": Column("image", (64, 64, 3), "uint8")},
}

USES = {
    "models": "of data without time; worldformula fit NAME --data DATA",
    "worlds": "through time; worldformula fit NAME --data episodes.npz",
    "planners": "search in a world; worldformula plan RUN --planner NAME",
    "agents": "act and learn; worldformula train NAME --env ENV",
}


@dataclass(frozen=True)
class Models:
    """List every system of the catalogue, or show one of them.

    For example: worldformula models vae

    The list says what each is; --full also paper, file, presets, and what was measured last.
    Of one system you see the formula, as text and as LaTeX, its sizes, how many numbers it learns, its card, and the
    command that trains it.
    """

    name: Annotated[str | None, tyro.conf.Positional, option("NAME", "all")] = None
    """A system, e.g. vae, rssm or dreamer_v3."""
    kind: Annotated[str | None, option("KIND", "all")] = None
    """models, worlds, planners or agents."""
    preset: Annotated[str | None, option("NAME", DEFAULT_PRESET)] = None
    """Of the system that is shown, a preset that gives the sizes."""
    full: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Of the list: all that is known of each."""

    def run(self) -> int:
        """Lists, or shows."""
        if self.name is None:
            if self.preset is not None:
                raise ConfigError("--preset is for one system: worldformula models NAME --preset NAME")
            for kind in catalogue.KINDS if self.kind is None else (self.kind,):
                for line in listing(kind, self.full):
                    print(line)
            if not self.full:
                print("One of them: worldformula models NAME. Papers, files, results: --full")
            return 0
        if self.kind is not None or self.full:
            word = "--kind" if self.kind is not None else "--full"
            raise ConfigError(f"{word} is for the list; leave it out to show one system")
        for line in shown(catalogue.find(self.name), self.preset):
            print(line)
        return 0


def listing(kind: str, full: bool) -> Iterator[str]:
    """The systems of a kind: a line each that fits the terminal, or all that is known."""
    found = catalogue.discover(kind)
    if full:
        for system in found:
            yield from about(system)
        return
    yield f"{kind}: {USES[kind]}"
    wide = max(len(name) for name in catalogue.names(kind))
    for system in found:
        yield f"  {system.name:{wide}}  {shorten(system.summary, width() - wide - 4, placeholder=' …')}"
    yield ""


def width() -> int:
    """Columns of the terminal; elsewhere lines are whole, for grep."""
    return max(shutil.get_terminal_size().columns, 40) if sys.stdout.isatty() else sys.maxsize


def about(system: System) -> Iterator[str]:
    """Name and presets, then summary, paper, file, and what was measured last."""
    from worldformula.cards.results import latest

    own = [card for card in map(cards.load, cards.names()) if card.covers(system.name)]
    yield f"{system.name} ({system.kind}; presets: {', '.join(system.presets)})"
    for line in (
        system.summary,
        system.paper,
        f"worldformula/{system.kind}/{system.name}.py",
        *(str(latest(card) or f"not measured: {card.command}") for card in own),
        *([] if own else ["no card"]),
    ):
        yield fill(line, width(), initial_indent="    ", subsequent_indent="      ", break_long_words=False)


def shown(system: System, preset: str | None = None) -> Iterator[str]:
    """All of one system, with the sizes of a preset: by default ``tiny``, else its first."""
    yield from about(system)
    if not system.presets:
        return
    preset = preset or (DEFAULT_PRESET if DEFAULT_PRESET in system.presets else next(iter(system.presets)))
    sizes = system.sizes(preset)
    made = _made(system, preset, sizes)
    formulas = _losses(getattr(made, "loss", None))
    for who, loss in formulas.items():
        yield f"\nformula{f' of {who}' if who else ''}"
        yield f"    {text(loss.node)}"
    for who, loss in formulas.items():
        yield f"\nLaTeX{f' of {who}' if who else ''}"
        yield indent(loss.latex_lines(), "    ")
    counted = "" if made is None else f": {_weights(made):,} parameters"
    yield f"\npreset {preset}{counted}"
    for setting in settings.leaves(sizes if dataclasses.is_dataclass(sizes) else system.build(sizes)):
        yield f"    {setting.key}={settings.written(setting.value)}" + (f"    {setting.doc}" if setting.doc else "")
    if system.kind == "agents":
        yield ""
        yield from table(("parameters of each preset", *SPACES, "authors' code"), weighed(system)).splitlines()
    if command := _command(system, preset):
        yield f"\nto {'plan with' if system.kind == 'planners' else 'train'} it\n    {command}"


def _made(system: System, preset: str, sizes: Any) -> Any:
    """The system: an agent in an environment of this package, a world for numbers; None of a planner."""
    if system.agent:  # of what another network makes, which no data set has
        return system.build(sizes)
    if system.kind in ("models", "worlds"):
        return build(start(system.name, preset, ""))
    if system.kind == "agents":
        envs = Envs(system.env, 1)
        with torch.device("meta"):  # the largest presets are shown on a laptop
            return system.build(sizes, envs.observations, envs.actions)
    return None


def weighed(system: System) -> Iterator[tuple[str, str, str, str]]:
    """Of every preset of an agent how many numbers it learns, by `SPACES`, and what is published of the first; a dash
    stands for what it cannot observe. Nothing is allocated for it.
    """
    for preset in system.presets:
        found = []
        for columns in SPACES.values():
            try:
                with torch.device("meta"):
                    found.append(
                        f"{_weights(system.build(system.sizes(preset), {**columns, **system.reads}, NUMBERS)):,}"
                    )
            except SpaceError:
                found.append("–")
        known = system.counted.get(preset)
        yield preset, found[0], found[1], "–" if known is None else f"{known:,}"


def _losses(loss: Any) -> dict[str, Expression]:
    """What is minimised, by name; nameless where it is one."""
    if isinstance(loss, Objective):
        return {name: term for name, term in loss.terms.items() if isinstance(term, Expression)}
    return {} if loss is None else losses(loss)


def _weights(made: Any) -> int:
    """How many numbers it learns."""
    return trainable((made if isinstance(made, torch.nn.Module) else made.loss).parameters())


def _command(system: System, preset: str) -> str:
    """What trains it, or plans with it, from the command line; empty where nothing does."""
    chosen = "" if preset == DEFAULT_PRESET else f" --preset {preset}"
    match system.kind:
        case "models":
            sets = suitable(system.name, preset)
            return f"worldformula fit {system.name} --data {sets[0]}{chosen}" if sets else ""
        case "worlds" if system.agent:
            return _command(catalogue.find(system.agent), preset)
        case "worlds":
            return f"worldformula fit {system.name} --data episodes.npz{chosen}"
        case "agents":
            return f"worldformula train --model {system.name} --env {system.env} --run runs/{system.name}{chosen}"
        case "planners":
            return f"worldformula plan runs/first --planner {system.name}{chosen}"
    return ""
