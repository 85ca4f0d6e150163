"""From the arguments to a command, and from errors to one message and an exit code."""

from __future__ import annotations

import dataclasses
import itertools
import os
import platform
import sys
from collections.abc import Callable, Iterable, Sequence

import torch
import tyro

import worldformula
from worldformula import catalogue
from worldformula.cli import commands, train
from worldformula.cli.completion import Completion
from worldformula.cli.data import Data
from worldformula.cli.envs import Envs
from worldformula.cli.fit import Fit
from worldformula.cli.many import DEFAULT_PRESET
from worldformula.cli.models import Models
from worldformula.errors import ConfigError, WorldformulaError, near
from worldformula.model.config import start
from worldformula.model.run import build
from worldformula.training import settings

COMMANDS: dict[str, Callable[..., commands.Command]] = {
    "demo": train.Demo,
    "fit": Fit,
    "train": train.Train,
    "eval": commands.Eval,
    "dream": commands.Dream,
    "plan": commands.Plan,
    "report": commands.Report,
    "models": Models,
    "envs": Envs,
    "data": Data,
    "reproduce": commands.Reproduce,
    "completion": Completion,
}
ABOUT = """World models, written as formulas.

Begin with: worldformula demo

Every command answers to --help. An error is one message and the exit code 1; --debug shows its traceback, --version the
version. Tab completion: source <(worldformula completion bash), or zsh."""
SYSTEMS = ("models", "worlds", "agents")  # what can be trained
INTERRUPTED = 130  # what a shell expects after Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0, 1 after an error, 2 for wrong arguments, 130 after Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [word for word in given if word != "--debug"] or ["--help"]
    if given == ["--version"]:
        print(f"worldformula {worldformula.__version__}, torch {torch.__version__}, Python {platform.python_version()}")
        return 0
    try:
        code = _parse(given).run()
        sys.stdout.flush()
        return code
    except SystemExit as leaving:  # tyro has printed its help (0) or what is wrong (2)
        return leaving.code if isinstance(leaving.code, int) else 0 if leaving.code is None else 2
    except BrokenPipeError:  # `worldformula … | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it leaves
        return 1
    except (WorldformulaError, OSError) as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"\n{interrupt or 'interrupted'}", file=sys.stderr)
        return INTERRUPTED


def _parse(given: list[str]) -> commands.Command:
    if not given[0].startswith("-") and given[0] not in COMMANDS:
        raise ConfigError(f"no command is called {given[0]!r}.{near(given[0], COMMANDS)} See worldformula --help.")
    try:
        return tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="worldformula", description=ABOUT, args=given)
    except ImportError as error:  # completion for a further shell needs a further package
        raise ConfigError(str(error)) from error
    except SystemExit as leaving:
        if leaving.code == 0 and given[0] == "train":
            print(settings_help(given))
        if leaving.code == 0 and given[0] == "fit" and _system(given) is not None:
            print(sizes_help(given))
        raise


def settings_help(given: Sequence[str]) -> str:
    """Every key that ``train --set`` takes, with its default and its meaning, for the model and preset in ``given``."""
    model = _option(given, "--model") or _system(given) or train.DEFAULT_MODEL
    preset = _option(given, "--preset") or DEFAULT_PRESET
    config = train.new(model, preset, _option(given, "--env") or "ID")
    return _listed(model, preset, [s for s in settings.leaves(config) if s.key not in ("model", "preset")])


def sizes_help(given: Sequence[str]) -> str:
    """Every key that ``fit NAME --set`` takes, for the model and preset in ``given``."""
    preset = _option(given, "--preset") or DEFAULT_PRESET
    config = start(_system(given) or "", preset, "")
    return _listed(config.model, preset, config.available(build(config).coefficients))


def _listed(model: str, preset: str, found: Iterable[settings.Setting]) -> str:
    lines = [f"settings for --set KEY=VALUE ({model}, preset {preset}):"]
    for setting in found:
        lines.append(f"  {setting.key}={settings.written(setting.value)}  ({settings.type_name(setting.type)})")
        lines += [f"      {setting.doc}"] if setting.doc else []
    return "\n".join(lines)


def _system(given: Sequence[str]) -> str | None:
    """The system that is named without an option: the word behind the command, or a later one that is no value."""
    if len(given) > 1 and not given[1].startswith("-"):
        return given[1]
    known = {name for kind in SYSTEMS for name in catalogue.names(kind)}
    fields = [field for kind in (train.Train, Fit) for field in dataclasses.fields(kind)]
    flags = {"--help", "-h", *(f"--{field.name.replace('_', '-')}" for field in fields if field.default is False)}
    pairs = itertools.pairwise(given)
    return next(
        (w for before, w in pairs if w in known and (before in flags or before[:1] != "-" or "=" in before)), None
    )


def _option(given: Sequence[str], name: str) -> str | None:
    """The value after an option, in either way of writing it."""
    for word, following in zip(given, [*given[1:], ""], strict=True):
        if word == name and following:
            return following
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None
