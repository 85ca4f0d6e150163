"""Options from a file, and one run per seed."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import tyro

from worldformula.errors import ConfigError, near, table
from worldformula.run.folder import RunFolder
from worldformula.training import settings

DEFAULT_PRESET = "tiny"


def option(metavar: str, default: str, **more: Any) -> Any:
    """How an option is shown whose default is decided later, by the run folder."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})", **more)


@dataclass(frozen=True, kw_only=True)
class Trains:
    """What both commands that train in a folder take, behind options of their own."""

    preset: Annotated[str | None, option("NAME", DEFAULT_PRESET)] = None
    """A preset of the system."""
    seed: Annotated[str | None, option("N", "0")] = None
    """Where all randomness comes from."""
    seeds: Annotated[str | None, option("S,S,…", "one run")] = None
    """Several runs, e.g. 1,2,3: a folder seed-S each inside the run folder, and a table of what they reached."""
    device: Annotated[str | None, option("NAME", "auto")] = None
    """auto, cpu, cuda, cuda:N or mps."""
    settings: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(name="set", metavar="KEY=VALUE")] = ()
    """Any setting, e.g. --set latent=8 --set lr=3e-4 of a fit, --set env.num=8 of an agent. All of them are listed by
    worldformula fit NAME --help and worldformula train --help"""
    config_file: Annotated[Path | None, tyro.conf.arg(name="config", metavar="FILE")] = None
    """These options from a TOML or JSON file: steps = 5000 and the like, and a group [set]. What is written on the
    command line wins."""
    resume_with: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """A setting that shall change as the run goes on, e.g. --resume-with lr=1e-4 of a fit, agent.lr=1e-4 of an agent;
    config.json lists them all."""
    init: Annotated[Path | None, option("RUN", "new weights")] = None
    """Another run (or a folder of save_pretrained) whose weights a new run begins with."""
    freeze: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME")] = ()
    """A part that does not learn, by the name of its weights, e.g. q_z_given_x or world; may be given several times."""

    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print what was reached, and warnings, alone: nothing at the start and on the way."""

    in_file: ClassVar[Mapping[str, str]]
    """What --config may hold -> the field."""

    def folder(self) -> Path:
        """The run folder."""
        raise NotImplementedError

    def one(self) -> dict[str, float]:
        """One run; what it reached."""
        raise NotImplementedError

    def run(self) -> int:
        """Trains: with the options of its file, once or for each seed."""
        if self.config_file is not None:
            return from_file(self, self.config_file).run()
        if self.seeds is not None:
            return sweep(self, self.seeds)
        self.one()
        return 0


def from_file(asked: Trains, path: Path) -> Trains:
    """The command with the options of a file behind those that were given.

    Args:
        asked: what was given.
        path: TOML, or JSON.

    Raises:
        ConfigError: it cannot be read, or holds an option that there is not.
    """
    options = asked.in_file
    try:
        text = path.read_text(encoding="utf-8")
        as_json = path.suffix == ".json"
        found: Any = json.loads(text, object_pairs_hook=_once) if as_json else tomllib.loads(text)
    except FileNotFoundError as error:
        raise ConfigError(f"--config {path}: there is no such file") from error
    except (OSError, ValueError) as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise ConfigError(f"--config {path} cannot be read as {kind}: {error}") from error
    if not isinstance(found, Mapping):
        raise ConfigError(f"--config {path}: expected options by name, got {type(found).__name__}")
    if wrong := [key for key in found if key not in options and key != "set"]:
        known = ", ".join((*options, "set"))
        raise ConfigError(f"--config {path}: no option {wrong[0]!r}.{near(wrong[0], options)} There are: {known}.")
    if not isinstance(found.get("set", {}), Mapping):
        raise ConfigError(f"--config {path}: expected a group [set], got {found['set']!r}")
    texts = tuple(f"{key}={settings.written(value)}" for key, value in settings.flat(found.get("set", {})))
    changes: dict[str, Any] = {"config_file": None, "settings": (*texts, *asked.settings)}
    for key, value in dict[str, Any](found).items():
        if key != "set" and getattr(asked, options[key]) in (None, False, ()):
            changes[options[key]] = given = _given(key, value, getattr(asked, options[key]))
            opposite = f"no_{options[key]}"
            changes |= {opposite: True} if given is False and hasattr(asked, opposite) else {}
    return dataclasses.replace(asked, **changes)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys are there once, as TOML asks it of its own; Python would take the last one."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in found if keys.count(key) > 1)!r} is there twice")
    return found


def _given(key: str, value: Any, default: Any) -> Any:
    """A value of a file as the command line would have given it."""
    if isinstance(default, tuple):
        pairs = [f"{k}={settings.written(v)}" for k, v in value.items()] if isinstance(value, Mapping) else None
        return tuple(pairs or map(settings.written, value if isinstance(value, list) else [value]))
    if isinstance(default, bool):
        return settings.convert(value, bool, f"--config: {key}")
    return Path(str(value)) if key in ("run", "init") else settings.written(value)


def sweep(asked: Trains, seeds: str) -> int:
    """A run per seed, and a table of what each reached. With ``resume`` those go on that there are, others begin.

    Raises:
        ConfigError: no seeds, one of them twice, or another seed beside them.
    """
    chosen = settings.convert(seeds, tuple[int, ...], "seeds")
    if not chosen or len(set(chosen)) != len(chosen) or min(chosen) < 0:
        raise ConfigError(f"--seeds expects different whole numbers of at least 0, e.g. 1,2,3; got {seeds!r}")
    if asked.seed is not None:
        raise ConfigError("got both --seed and --seeds; write one of them")
    if twice := [text for text in asked.settings if text.partition("=")[0].strip() == "seed"]:
        raise ConfigError(f"got both --seeds and --set {twice[0]}, which would be the seed of every run; write one")
    folder, reached = asked.folder(), dict[int, dict[str, float]]()
    begun = [seed for seed in chosen if RunFolder(folder / f"seed-{seed}").exists]
    for seed in chosen:
        more: dict[str, Any] = {"seeds": None, "seed": str(seed), "out": folder / f"seed-{seed}"}
        more |= {"resume": False} if begun and seed not in begun else {}
        reached[seed] = dataclasses.replace(asked, **more).one()
    names = list(next(iter(reached.values())))
    rows = [(str(seed), *(f"{found[name]:.5g}" for name in names)) for seed, found in reached.items()]
    if len(chosen) > 1:
        values = np.array([[found[name] for name in names] for found in reached.values()])
        error = values.std(0, ddof=1) / len(chosen) ** 0.5
        pairs = zip(values.mean(0), error, strict=True)
        rows.append(("mean ± standard error", *(f"{mean:.5g} ± {wide:.2g}" for mean, wide in pairs)))
    text = table(("seed", *names), rows)
    (folder / "seeds.txt").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0
