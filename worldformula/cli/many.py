"""Options from a file, and one run per seed."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldformula.errors import ConfigError, near, table
from worldformula.training import settings

if TYPE_CHECKING:
    from worldformula.cli.fit import Fit

NAMES: Mapping[str, str] = {"model": "name", "run": "out"}  # how the command line calls them, and how `Fit` does


def from_file(asked: Fit, path: Path) -> Fit:
    """The command with the options of a file behind those that were given.

    Raises:
        ConfigError: it cannot be read, or holds an option that there is not.
    """
    try:
        text = path.read_text(encoding="utf-8")
        found: Any = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise ConfigError(f"--config {path} cannot be read as {kind}: {error}") from error
    if not isinstance(found, Mapping):
        raise ConfigError(f"--config {path}: expected options by name, got {type(found).__name__}")
    options = ["model", "data", "preset", "steps", "batch", "seed", "seeds", "device", "run", "resume", "set"]
    if wrong := [key for key in found if key not in options]:
        known = ", ".join(options)
        raise ConfigError(f"--config {path}: no option {wrong[0]!r}.{near(wrong[0], options)} There are: {known}.")
    if not isinstance(found.get("set", {}), Mapping):
        raise ConfigError(f"--config {path}: expected a group [set], got {found['set']!r}")
    texts = tuple(f"{key}={_text(value)}" for key, value in _flat(found.get("set", {})))
    changes: dict[str, Any] = {"config_file": None, "settings": (*texts, *asked.settings)}
    for key, value in dict[str, Any](found).items():
        name = NAMES.get(key) or key
        if key == "set" or getattr(asked, name) not in (None, False):
            continue
        changes[name] = value if isinstance(value, bool) else Path(str(value)) if key == "run" else _text(value)
    return dataclasses.replace(asked, **changes)


def sweep(asked: Fit, seeds: str) -> int:
    """A run per seed, and a table of what each reached.

    Raises:
        ConfigError: no seeds, one of them twice, or --seed beside them.
    """
    chosen = settings.convert(seeds, tuple[int, ...], "seeds")
    if not chosen or len(set(chosen)) != len(chosen) or min(chosen) < 0:
        raise ConfigError(f"--seeds expects different whole numbers of at least 0, e.g. 1,2,3; got {seeds!r}")
    if asked.seed is not None:
        raise ConfigError("got both --seed and --seeds; write one of them")
    folder, reached = asked.folder(), dict[int, dict[str, float]]()
    for seed in chosen:
        one = dataclasses.replace(asked, seeds=None, seed=str(seed), out=folder / f"seed-{seed}")
        reached[seed] = one.one()
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


def _flat(group: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested groups under dotted keys: [set.data] resize = 32."""
    found: list[tuple[str, Any]] = []
    for key, value in group.items():
        found += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return found


def _text(value: Any) -> str:
    """A value as the command line has it."""
    if isinstance(value, list | tuple):
        return ",".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else "none" if value is None else str(value)
