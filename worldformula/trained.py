"""What was trained, opened again: from its run folder, or from a folder that is kept and passed on.

agent = load("runs/swingup")                 # a model, a world, or an agent to act with
save_pretrained(agent, "swingup")            # safetensors, JSON, and a README with the formula; nothing is executed
agent = from_pretrained("swingup")
player = agent.player(1)                     # holds what the agent remembers
action = player.act(observation)
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from worldformula.errors import CheckpointError, ConfigError, RunFolderError
from worldformula.run.player import Player
from worldformula.run.transfer import DESCRIPTION, PRETRAINED, description, pretrained

if TYPE_CHECKING:
    from worldformula.run.config import EnvConfig

CARD, FORMAT = "README.md", 1


class TrainedAgent:
    """An agent with its weights, ready to act. ``inner`` is the agent itself, with its world, policy and losses.

    Attributes:
        inner: as the catalogue builds it.
        observations: what it observes, by column.
        actions: what it gives, by name.
        env: the environment that it was trained in; None where nobody knows.
        origin: where it comes from, as JSON.
    """

    def __init__(self, inner: Any, observations: Any, actions: Any, env: EnvConfig | None, origin: Any) -> None:
        self.inner, self.env, self.origin = inner, env, origin
        self.observations, self.actions = dict(observations), dict(actions)
        self._player: Player | None = None

    def __repr__(self) -> str:
        where = "" if self.env is None else f" of {self.env.id}"
        takes, gives = ", ".join(self.observations), ", ".join(self.actions)
        return f"<TrainedAgent {type(self.inner).__name__}{where}: observes {takes}; acts by {gives}>"

    def player(self, num: int = 1, *, explore: bool = False) -> Player:
        """Acts in ``num`` streams, from the beginning of their episodes on."""
        return Player(self, num, explore=explore)

    def act(self, observation: Any, *, first: bool = False, mask: Any = None) -> Any:
        """The action at one observation, or at many at once; ``first`` begins an episode. See `Player.act`.

        It remembers what was seen since ``first``; several games at once, or one after another, are better with
        `player`.
        """
        key = next(iter(self.observations))
        value = np.asarray(observation[key] if isinstance(observation, Mapping) and key in observation else observation)
        num = len(value) if value.ndim > len(self.observations[key].shape) else 1
        if first or self._player is None or self._player.num != num:
            self._player = self.player(num)
        return self._player.act(observation, mask=mask)


def load(run: str | Path, device: str = "auto", *, best: bool = False) -> Any:
    """What a run folder, or a folder of `save_pretrained`, holds, with its trained weights.

    Args:
        run: the folder.
        device: auto, cpu, cuda, cuda:N or mps.
        best: of an agent that was evaluated on the way, the weights of the best evaluation instead of the newest.

    Returns:
        A `worldformula.Model`, a `worldformula.World`, or a `TrainedAgent`. Averaged weights where there are any.

    Raises:
        RunFolderError: nothing is there, or a run that knows no recipe for its networks; the message says what to do.
        CheckpointError: there is no checkpoint yet, or none can be read.
    """
    from worldformula.run.folder import RunFolder
    from worldformula.run.kinds import kind_of

    path = Path(run)
    if (path / DESCRIPTION).is_file():
        return from_pretrained(path, device)
    folder = RunFolder(path)
    kind = kind_of(folder.config(), path)
    if kind == "interact":
        return _agent(path, device, best)
    if best:
        raise RunFolderError(f"best=True is of a run of an agent, and {path} is none; fits keep theirs by held=0.1")
    if kind == "fit":
        return _model(path, device)
    if kind == "phases":
        inner = ", ".join(str(path / name) for name in folder.config()["phases"])
        raise RunFolderError(f"{path} is a chain of phases; load one of them: {inner}")
    raise RunFolderError(
        f"{path} is a fit in Python, and only your code knows its networks: build the same loss, then "
        f"loss.load_state_dict(load_latest({str(folder.checkpoints)!r}).state['fit']['weights']), with load_latest of "
        "worldformula.training.checkpoint"
    )


def save_pretrained(thing: Any, folder: str | Path) -> Path:
    """Writes what `load` returned into a folder: ``model.safetensors``, ``worldformula.json`` and a ``README.md`` card.

    Raises:
        ConfigError: it did not come from `load` or `from_pretrained`.
        RunFolderError: the folder holds something else, or cannot be written.
    """
    from safetensors.torch import save_file

    from worldformula.run.folder import writing
    from worldformula.training.checkpoint import digest_of_file

    origin, path = getattr(thing, "origin", None), Path(folder)
    if not isinstance(origin, Mapping):
        raise ConfigError(
            f"a {type(thing).__name__} that was not loaded from a run says nothing about how to build it again: train "
            "it with `worldformula fit` or `train`, and pass what worldformula.load(run) returns"
        )
    with writing(path):
        if path.is_dir() and any(path.iterdir()) and not (path / DESCRIPTION).is_file():
            raise RunFolderError(f"{path} holds other files; choose a new folder")
        path.mkdir(parents=True, exist_ok=True)
        weights = {k: v.detach().cpu().contiguous().clone() for k, v in _networks(thing).state_dict().items()}
        save_file(weights, path / PRETRAINED)
        told = {**origin, "weights_sha256": digest_of_file(path / PRETRAINED)}
        (path / DESCRIPTION).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        (path / CARD).write_text(_card(thing, origin, path.resolve().name), encoding="utf-8")
    return path


def from_pretrained(folder: str | Path, device: str = "auto") -> Any:
    """What `save_pretrained` wrote: a model, a world or an agent, without a run folder, its data or its environment.

    Raises:
        RunFolderError: no such folder, or one of a newer version.
        CatalogueError: this version of the library does not have its system.
        CheckpointError: the weights are missing, damaged, or of another model.
    """
    from worldformula.training.devices import choose

    path = Path(folder)
    try:
        origin = description(path)
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} holds nothing that save_pretrained wrote: {error}") from error
    if origin.get("format") != FORMAT:
        raise RunFolderError(f"{path / DESCRIPTION} is not of format {FORMAT}, which this version reads")
    weights = pretrained(path)
    thing = _built(origin, path)
    try:
        _networks(thing).load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{path / PRETRAINED} does not fit {origin['system']}: {error}") from error
    _networks(thing).to(choose(device)).eval()
    return thing


# ------------------------------------------------------------------------------------------------------------- inside


def _networks(thing: Any) -> torch.nn.Module:
    """The module that holds all weights: of a model or a world its loss, which what it draws with shares."""
    found: torch.nn.Module = thing.inner if isinstance(thing, TrainedAgent) else thing.loss
    return found


def _marked(thing: Any, origin: Mapping[str, Any]) -> Any:
    """With where it comes from; a `Model` is a frozen data class, a `World` a module."""
    object.__setattr__(thing, "origin", dict(origin))
    return thing


def _model(path: Path, device: str) -> Any:
    """Of a fit; its data are not needed."""
    from worldformula.model.config import read
    from worldformula.model.run import build
    from worldformula.model.through_time import ThroughTime
    from worldformula.run.folder import RunFolder
    from worldformula.run.run import checked, newest
    from worldformula.training.devices import choose

    values = json.loads((path / "config.json").read_text(encoding="utf-8"))
    config = read(values, path)
    found, model = newest(RunFolder(path), "worldformula fit …"), build(config)
    with checked(found):
        model.loss.load_state_dict(found.state["fit"]["weights"])
        if (average := found.state["fit"]["average"]) is not None:
            model.loss.load_state_dict(average["means"], strict=False)
    model.loss.to(choose(device)).eval()
    own = {key: values.get(key) for key in ("preset", "changes", "columns", "symbols", "data", "seed", "reading")}
    origin = {"format": FORMAT, "kind": "fit", "system": config.model, "steps": found.step, **own}
    return _marked(model.world if isinstance(model, ThroughTime) else model, origin)


def _agent(path: Path, device: str, best: bool) -> TrainedAgent:
    from worldformula.run.saved import load_agent, open_run
    from worldformula.training import settings

    run = open_run(path, "worldformula.load")
    agent, found, envs = load_agent(run, device, best=best)
    config = run.config
    if isinstance(agent, torch.nn.Module):
        agent.eval()
    origin = {
        "format": FORMAT, "kind": "interact", "system": config.model, "preset": config.preset, "seed": config.seed,
        "steps": found.step, "agent": settings.to_dict(config.agent), "env": settings.to_dict(config.env),
        "observations": {key: _plain(column) for key, column in envs.observations.items()},
        "actions": {key: _plain(spec) for key, spec in envs.actions.items()},
    }  # fmt: skip
    return TrainedAgent(agent, envs.observations, envs.actions, config.env, origin)


def _built(origin: Mapping[str, Any], path: Path) -> Any:
    """New networks, as a description says."""
    from worldformula import catalogue
    from worldformula.envs.actions import ActionSpec
    from worldformula.envs.columns import Column
    from worldformula.model.config import start
    from worldformula.model.run import build
    from worldformula.model.through_time import ThroughTime
    from worldformula.run.config import EnvConfig
    from worldformula.training import settings

    try:
        if origin["kind"] == "fit":
            config = start(origin["system"], origin["preset"], "").changed(origin["changes"])
            model = build(dataclasses.replace(config, columns=origin.get("columns") or {}))
            return _marked(model.world if isinstance(model, ThroughTime) else model, origin)
        system = catalogue.find(origin["system"])
        sizes = settings.from_dict(system.sizes(origin["preset"]), origin["agent"])
        observations = {key: _made(Column, values) for key, values in origin["observations"].items()}
        actions = {key: _made(ActionSpec, values) for key, values in origin["actions"].items()}
        agent = system.build(sizes, observations, actions, int(origin["seed"]))
        return TrainedAgent(
            agent, observations, actions, settings.from_dict(EnvConfig(""), origin["env"]), dict(origin)
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise RunFolderError(f"{path / DESCRIPTION} is damaged, or of another version: {error}") from error


def _plain(spec: Any) -> dict[str, Any]:
    """A data class of numbers as JSON, infinite ones as text; without the environment's own space."""
    values = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec) if field.init}
    values.pop("space", None)
    return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def _made(kind: Any, values: Mapping[str, Any]) -> Any:
    """The data class again."""
    numbers = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
    lists = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return kind(**{key: numbers.get(value, value) if isinstance(value, str) else value for key, value in lists.items()})


def _card(thing: Any, origin: Mapping[str, Any], name: str) -> str:
    """The README: what it is, its formula, how to load it."""
    from worldformula import catalogue
    from worldformula.training.game import titled

    system = catalogue.find(origin["system"])
    networks = _networks(thing)
    weights = sum(p.numel() for p in networks.parameters())
    if isinstance(thing, TrainedAgent):
        world = getattr(thing.inner, "world", None)
        losses = {"What its world learns by": world.loss} if world is not None else {}
    else:
        losses = titled(thing.loss)
    learnt = f"`{origin['env']['id']}`" if origin["kind"] == "interact" else f"`{origin.get('data')}`"
    shown = "\n".join(f"\n## {title}\n\n```math\n{formula}\n```" for title, formula in losses.items())
    return f"""---
library_name: worldformula
tags: [world-models, {origin["system"]}]
---

# {name}

{system.summary} {system.paper}.

- system `{origin["system"]}`, preset `{origin["preset"]}`, {weights:,} weights
- trained on {learnt}, {origin["steps"]:,} steps, seed {origin["seed"]}

```python
import worldformula as wf
trained = wf.from_pretrained({name!r})
```
{shown}

```bibtex
{system.bibtex.strip()}
```
"""
