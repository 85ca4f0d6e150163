"""Opening a run folder again: its configuration, its system, its trained agent."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldformula import catalogue
from worldformula.catalogue import System
from worldformula.envs import Envs
from worldformula.errors import ConfigError, RunFolderError
from worldformula.run.config import EnvConfig, RunConfig
from worldformula.run.contract import Acting, Agent
from worldformula.run.folder import RunFolder
from worldformula.run.kinds import expect, settings_of
from worldformula.run.play import executed, play
from worldformula.run.run import best as best_of
from worldformula.run.run import checked, newest
from worldformula.training import checkpoint, devices, settings
from worldformula.training.seeding import forked


@dataclass(frozen=True)
class SavedRun:
    """A run folder, read."""

    folder: RunFolder
    config: RunConfig
    system: System


def open_run(path: str | Path, doing: str = "this") -> SavedRun:
    """The run of an agent in a folder.

    Raises:
        RunFolderError: no such run is there, or this version of the library cannot read its configuration.
        CatalogueError: this version of the library does not have its system.
    """
    folder = RunFolder(path)
    values = settings_of(expect(folder, ("interact",), doing))
    try:
        if not isinstance(values["env"], dict) or "id" not in values["env"]:
            raise ConfigError(f"env expects the settings of the environment with its id, got {values['env']!r}")
        for key in ("model", "preset"):
            settings.convert(values[key], str, key)
        system = catalogue.find(values["model"])
        example = RunConfig(values["model"], values["preset"], EnvConfig(""), system.sizes(values["preset"]))
        return SavedRun(folder, settings.from_dict(example, values), system)
    except KeyError as error:
        raise RunFolderError(f"{folder.config_file} is damaged: it lacks {error}") from error
    except ConfigError as error:
        raise RunFolderError(f"{folder.config_file} is not a configuration of this version: {error}") from error


def load_agent(run: SavedRun, device: str = "auto", *, best: bool = False) -> tuple[Agent, checkpoint.Checkpoint, Envs]:
    """The agent as of the newest good checkpoint, or of its ``best`` evaluation on the way, on any device that this
    machine has; and environments like its own.

    Raises:
        CheckpointError: there is no checkpoint yet, none can be read, or none fits.
    """
    found = best_of(run.folder) if best else newest(run.folder, "worldformula train --run …")
    config = run.config
    envs = Envs(config.env.id, 1, **config.env.options())
    agent = run.system.build(config.agent, envs.observations, envs.actions, config.seed)
    envs.close()
    agent.to(devices.choose(device))
    with checked(found):
        agent.restore(found.state["agent"])
    return agent, found, envs


def record(agent: Acting, env: EnvConfig, *, sequences: int, length: int, seed: int) -> dict[str, NDArray[Any]]:
    """Plays, and returns what was seen and done as rows of experience ``[sequences, length, …]``, action included.

    Sequences of an environment that cannot be made twice follow one another.
    """
    num = 1 if env.single else sequences
    envs = Envs(env.id, num, seed=seed, recover=True, **env.options())
    with forked(seed):
        turns = itertools.islice(play(envs, agent, explore=False), length * (sequences // num))
        rows = [executed(envs, turn) for turn in turns]
    envs.close()
    found = {key: np.stack([row[key] for row in rows], axis=1) for key in envs.row_spec}
    return {key: value.reshape(sequences, length, *value.shape[2:]) for key, value in found.items()}
