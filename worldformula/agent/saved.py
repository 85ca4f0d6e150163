"""Opening a run folder again: its configuration, its system, its trained agent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldformula import catalogue
from worldformula.agent.config import EnvConfig, RunConfig
from worldformula.agent.contract import Agent
from worldformula.agent.loop import restore_agent
from worldformula.catalogue import System
from worldformula.envs import Actions, Envs, Rows
from worldformula.errors import CheckpointError, ConfigError, RunFolderError
from worldformula.training import checkpoint, devices, settings
from worldformula.training.run import RunFolder
from worldformula.training.seeding import forked


@dataclass(frozen=True)
class SavedRun:
    """A run folder, read."""

    folder: RunFolder
    config: RunConfig
    system: System


def open_run(path: str | Path) -> SavedRun:
    """The run in a folder.

    Raises:
        RunFolderError: no run is there, or this version of the library cannot read its configuration.
        CatalogueError: this version of the library does not have its system.
    """
    folder = RunFolder(path)
    values = folder.config()
    if "command" in values:
        raise RunFolderError(
            f"{folder.path} holds a run of `{values['command']}`, and no agent: there is nothing to act with. Its page "
            "is report.html there"
        )
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


def load_agent(run: SavedRun, device: str = "auto") -> tuple[Agent, checkpoint.Checkpoint]:
    """The agent as of the newest good checkpoint, on any device that this machine has.

    Raises:
        CheckpointError: there is no checkpoint yet, none can be read, or none fits.
    """
    found = checkpoint.load_latest(run.folder.checkpoints)
    if found is None:
        raise CheckpointError(f"{run.folder.path} has no checkpoint yet; train it first: worldformula train --run …")
    config = run.config
    envs = Envs(config.env.id, 1, **config.env.options())
    agent = run.system.build(config.agent, envs.observations, envs.actions, config.seed)
    envs.close()
    agent.to(devices.choose(device))
    restore_agent(agent, found)
    return agent, found


def record(agent: Agent, env: EnvConfig, *, sequences: int, length: int, seed: int) -> dict[str, NDArray[np.generic]]:
    """Plays, and returns what was seen and done as rows of experience ``[sequences, length, …]``, action included."""
    envs = Envs(env.id, sequences, seed=seed, recover=True, **env.options())
    columns: dict[str, list[NDArray[np.generic]]] = {key: [] for key in envs.row_spec}
    with forked(seed):
        rows, state = envs.reset(0), agent.initial(sequences)
        for _ in range(length):
            actions, state = agent.act(rows, state, explore=False)
            for key, value in {**rows, **executed(envs, rows, actions)}.items():
                columns[key].append(value)
            rows = envs.step(actions)
    envs.close()
    return {key: np.stack(values, axis=1) for key, values in columns.items()}


def executed(envs: Envs, rows: Rows, actions: Actions) -> dict[str, NDArray[np.generic]]:
    """The columns of actions as they are executed at rows; nothing is, where an episode ended."""
    found = envs.stored(actions)
    for column in found.values():
        column[rows["is_last"]] = 0
    return found
