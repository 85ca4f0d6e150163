"""What a run of a static model is: one frozen dataclass, and `config.json` that repeats it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from worldformula import catalogue
from worldformula.catalogue import System
from worldformula.data import Reading
from worldformula.data.own import located
from worldformula.errors import CatalogueError, ConfigError, RunFolderError, near
from worldformula.run.kinds import settings_of
from worldformula.training import settings
from worldformula.training.config import FitConfig, parted

BARE = ("sizes", "fit", "symbols")  # parts whose keys are written without them
FREE_ON_RESUME = ("fit.steps", "device", "changes")  # of the last one, the sizes tell


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides a run. Two runs with equal configurations on one CPU end with the same bits."""

    model: str
    """The system, as `worldformula models` lists it."""
    preset: str
    """The preset of the system that `sizes` started from."""
    data: str
    """The data set, by its name in `worldformula.data`; or a path, or module:function."""
    sizes: Any
    """The system's own settings: the dataclass of its preset."""
    fit: FitConfig = field(default_factory=FitConfig)
    """How the loss is minimised."""
    before: Mapping[str, FitConfig] = field(default_factory=dict)
    """The same of the models that are trained before this one, by name: ``stage.steps``."""
    reading: Reading = field(default_factory=Reading)
    """How data of one's own are read."""
    symbols: Mapping[str, float] = field(default_factory=dict)
    """Named coefficients of the formula that are held at a number, instead of the model's own."""
    seed: int = 0
    """Where all randomness comes from."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    threads: int = 1
    """CPU threads of torch."""
    checkpoints: int = 10
    """How many checkpoints, evenly spaced; at each the test data are measured too."""
    changes: tuple[str, ...] = ()
    """The ``key=value`` texts that made `sizes` from the preset."""
    init: str = ""
    """Another run, or a folder of save_pretrained, whose weights a new run begins with; --init."""
    freeze: tuple[str, ...] = ()
    """Parts that do not learn, by the names of their weights; --freeze adds one."""
    columns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of a world: what its data hold, by column; see `worldformula.model.through_time.columns_of`."""

    def __post_init__(self) -> None:
        for name, least in (("seed", 0), ("threads", 1), ("checkpoints", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} expects a whole number of at least {least}, got {getattr(self, name)}")

    def changed(self, texts: Iterable[str], symbols: Iterable[str] = ()) -> ModelConfig:
        """A copy with ``key=value`` texts applied: keys of the sizes, of `FitConfig`, of ``data``, of a model
        that is trained ``before``, or the ``symbols`` of the formula.

        A key that two of them have is written in full: ``fit.steps``, ``sizes.steps``; those of data and of models
        before it always are.

        Raises:
            ConfigError: a key that none has (with the near misses), or that two have; or an impossible value.
        """
        known = {
            "sizes": _keys(self.sizes), "fit": _keys(self.fit), "symbols": list(symbols), "data": _keys(self.reading),
            **{name: _keys(how) for name, how in self.before.items()},
        }  # fmt: skip
        groups: dict[str, list[str]] = {kind: [] for kind in known}
        changes = []
        for text in texts:
            key, equals, value = text.partition("=")
            if not equals or not key.strip():
                raise ConfigError(f"expected key=value, got {text!r}; for example: --set lr=3e-4")
            kind, name = _kind(key.strip(), known, {"sizes": self.sizes, "fit": self.fit})
            groups[kind].append(f"{name}={value}")
            changes += [text] if kind == "sizes" else []
        held = {t.partition("=")[0]: settings.convert(t.partition("=")[2], float, t) for t in groups["symbols"]}
        return dataclasses.replace(
            self,
            sizes=settings.override(self.sizes, groups["sizes"]),
            fit=settings.override(self.fit, groups["fit"]),
            before={name: settings.override(how, groups[name]) for name, how in self.before.items()},
            reading=settings.override(self.reading, groups["data"]),
            symbols={**self.symbols, **held},
            changes=(*self.changes, *changes),
        )

    def available(self, symbols: Iterable[str] = ()) -> list[settings.Setting]:
        """Everything that `changed` can change, under the keys that it takes."""
        found = {"sizes": list(settings.leaves(self.sizes)), "fit": list(settings.leaves(self.fit))}
        for name, part in {"data": self.reading, **self.before}.items():
            found[name] = [dataclasses.replace(s, key=f"{name}.{s.key}") for s in settings.leaves(part)]
        found["symbols"] = [settings.Setting(k, float, "", "A coefficient of the formula.") for k in symbols]
        count = Counter(setting.key for group in found.values() for setting in group)
        return [
            dataclasses.replace(setting, key=f"{kind}.{setting.key}" if count[setting.key] > 1 else setting.key)
            for kind, group in found.items()
            for setting in group
        ]

    def to_dict(self) -> dict[str, Any]:
        """As `config.json` holds it; ``sizes`` is there to be read, ``changes`` to be applied again."""
        before = {name: settings.to_dict(how) for name, how in self.before.items()}
        found: dict[str, Any] = _written({**settings.to_dict(self), "before": before})
        return found


def _keys(part: Any) -> list[str]:
    return [setting.key for setting in settings.leaves(part)]


def _kind(key: str, known: Mapping[str, Sequence[str]], held: Mapping[str, Any]) -> tuple[str, str]:
    """Which part a key belongs to, and its name there; ``held`` are the settings that two may mean."""
    kind, _, name = key.partition(".")
    if name in known.get(kind, ()):
        return kind, name
    match [kind for kind, keys in known.items() if key in keys and kind in BARE]:
        case [kind]:
            return kind, key
        case []:
            every = [k if kind in BARE else f"{kind}.{k}" for kind, keys in known.items() for k in keys]
            raise ConfigError(f"unknown setting {key!r}.{near(key, every)} There are: {', '.join(every)}.")
        case several:
            meant = [f"{kind}.{key} ({_meaning(kind, key, held.get(kind))})" for kind in several]
            raise ConfigError(f"{key!r} may mean {len(several)} things: write {' or '.join(meant)}")


def _meaning(kind: str, key: str, part: Any) -> str:
    if part is None:
        return "a coefficient of the formula"
    now = next(setting.value for setting in settings.leaves(part) if setting.key == key)
    return f"of the {'model' if kind == 'sizes' else 'training'}, now {settings.written(now)}"


def start(model: str, preset: str, data: str) -> ModelConfig:
    """The configuration of a new run.

    Raises:
        CatalogueError: no such system or preset, or the system is of another kind.
    """
    system, world = catalogue.find(model), world_of(model)
    if world is None and system.kind != "models":
        known = ", ".join((*catalogue.names("models"), *catalogue.names("worlds")))
        raise CatalogueError(f"{system.name} is one of the {system.kind}; fit expects a model or a world: {known}")
    sizes = system.sizes(preset)
    windows = {} if world is None else {"batch": 16, "clip": 1.0}  # a row is a window of many steps
    own, before = parted({**windows, **system.fits.get(preset, {})})
    later = {name for each in system.fits.values() for name in each.get("before", {})}
    before |= {name: FitConfig(**own) for name in sorted(later - before.keys())}
    own_sizes = sizes.world if system.kind == "agents" else sizes
    return ModelConfig(system.name, preset, located(data), own_sizes, FitConfig(**own), before)


def world_of(name: str) -> System | None:
    """The world that a fit of this name trains: itself, or that of an agent, with the agent's settings of it; None of a
    model, and of an agent whose settings have no world of the catalogue.
    """
    system = catalogue.find(name)
    if system.kind != "agents":
        return system if system.kind == "worlds" else None
    own = getattr(system.sizes(next(iter(system.presets))), "world", None)
    place, _, file = type(own).__module__.rpartition(".")
    return catalogue.find(file) if place.endswith(".worlds") else None


def read(values: Mapping[str, Any], where: object) -> ModelConfig:
    """The configuration that a `config.json` holds.

    Raises:
        RunFolderError: it is that of another version.
    """
    try:
        known = {field.name for field in dataclasses.fields(ModelConfig)}
        if newer := [key for key in settings_of(values) if key not in known]:
            raise ConfigError(f"unknown setting {newer[0]!r}.{near(newer[0], known)}")
        fresh = start(values["model"], values["preset"], values["data"])
        fresh = fresh.changed(values["changes"])
        own = {key: values[key] for key in ("seed", "device", "threads", "checkpoints")}
        fit = settings.from_dict(fresh.fit, values["fit"])
        reading = settings.from_dict(fresh.reading, values.get("reading", {}))
        earlier = values.get("before", {})
        before = {name: settings.from_dict(how, earlier.get(name, {})) for name, how in fresh.before.items()}
        more = {"symbols": dict(values["symbols"]), "columns": values.get("columns", {})}
        more |= {"init": values.get("init", ""), "freeze": tuple(values.get("freeze", ()))}
        return dataclasses.replace(fresh, **own, **more, fit=fit, before=before, reading=reading)
    except (KeyError, TypeError, ConfigError) as error:
        raise RunFolderError(f"{where} is not a configuration of this version: {error}") from error


def deliberate(config: ModelConfig, texts: Iterable[str]) -> tuple[ModelConfig, dict[str, tuple[Any, Any]]]:
    """The configuration of a run that goes on with other settings, and each change as (before, now).

    Raises:
        ConfigError: what cannot change.
    """
    symbols, rest = [t for t in texts if t.partition("=")[0].strip() in config.symbols], list(texts)
    own = [t for t in rest if t.partition("=")[0].strip() in ("checkpoints", "threads")]
    changed = config.changed([t for t in rest if t not in own], [t.partition("=")[0].strip() for t in symbols])
    changed = settings.override(changed, own)
    found = differences(config, changed)
    allowed = ("fit.", "symbols.", "checkpoints", "threads")
    wrong = [
        key
        for key in found
        if not key.startswith(allowed) or key == "fit.held" or (key == "fit.ema" and None in found[key])
    ]  # rows that were held would be learnt from, or an average would begin late
    if wrong:
        raise ConfigError(
            f"--resume-with cannot change {wrong[0]}: the run was made with {found[wrong[0]][0]!r}. Begin a new run "
            "with another --run, from these weights if you like: --init. What a run can change: lr, batch, clip, "
            "schedule, weight_decay, betas, log_every, judge_every, patience, checkpoints, threads, and coefficients "
            "that were set"
        )
    return changed, found


def differences(stored: ModelConfig, wanted: ModelConfig) -> dict[str, tuple[Any, Any]]:
    """What a run cannot change when it goes on, ``{"fit.lr": (1e-3, 1e-4)}``."""
    before, after = (dict(settings.flat(config.to_dict())) for config in (stored, wanted))
    keys = [k for k in dict.fromkeys([*before, *after]) if k not in FREE_ON_RESUME]
    return {k: (before.get(k), after.get(k)) for k in keys if before.get(k) != after.get(k)}


def _written(value: Any) -> Any:
    """What JSON can hold; functions and classes by their names."""
    if isinstance(value, Mapping):
        return {k: _written(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_written(v) for v in value]
    return value if value is None or isinstance(value, bool | int | float | str) else _name(value)


def _name(value: object) -> str:
    return getattr(value, "__name__", str(value))
