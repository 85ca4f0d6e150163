"""Model-free peers of the board: algorithms of stable-baselines3 and sb3-contrib on the same environments.

    pip install 'worldformula[bench]'

Each takes the numbers that our agents see, side by side (choices as one-hots), and acts in [-1, 1] or by an index.
Settings are the library's own defaults but where `SETTINGS` says otherwise.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from worldformula.envs import Actions, Rows, make
from worldformula.envs.columns import Column
from worldformula.errors import ConfigError, SpaceError
from worldformula.run.config import EnvConfig
from worldformula.run.contract import AgentState

if TYPE_CHECKING:
    from benchmarks.board import Watch

ALGORITHMS = {
    "sac": ("stable_baselines3", "SAC", "MlpPolicy"),
    "ppo": ("stable_baselines3", "PPO", "MlpPolicy"),
    "qrdqn": ("sb3_contrib", "QRDQN", "MlpPolicy"),
    "ppo_lstm": ("sb3_contrib", "RecurrentPPO", "MlpLstmPolicy"),
}
ENDLESS = 100_000_000  # steps; the watch ends a run
SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("sac", "pendulum"): {"learning_rate": 1e-3},  # as rl-baselines3-zoo has it for Pendulum-v1
    ("qrdqn", "repeat_first"): {"exploration_fraction": 1_500 / ENDLESS},  # a share of the whole, which has no end here
}


def side_by_side(rows: Mapping[str, Any], columns: Mapping[str, Column]) -> NDArray[np.float32]:
    """Rows ``[N, ...]`` by key as one vector ``[N, n]``: numbers as they are, choices as one-hots."""
    parts = []
    for key, column in columns.items():
        value = np.asarray(rows[key])
        flat = value.reshape(len(value), -1)
        if column.kind == "discrete":
            hot = [
                np.eye(n)[flat[:, i] - s] for i, (s, n) in enumerate(zip(column.starts, column.classes, strict=True))
            ]
            flat = np.concatenate(hot, -1)
        parts.append(flat.astype(np.float32))
    return np.concatenate(parts, -1)


class Plain(gymnasium.Env[NDArray[np.float32], Any]):
    """An environment of ours as one box of numbers with one action.

    Raises:
        SpaceError: it has pictures, or several actions.
    """

    def __init__(self, env: EnvConfig) -> None:
        options = {k: v for k, v in env.options().items() if k not in ("log_info", "timeout")}
        self._env = make(env.id, **options)
        columns = self._env.observations
        if any(column.kind == "image" for column in columns.values()) or len(self._env.actions) > 1:
            raise SpaceError(f"the model-free peers read numbers and give one action; {env.id} has pictures or several")
        ((_, spec),) = self._env.actions.items()
        width = sum(column.width for column in columns.values())
        self.observation_space = spaces.Box(-np.inf, np.inf, (width,), np.float32)
        if spec.kind == "continuous":
            self.action_space: Any = spaces.Box(-1.0, 1.0, (spec.size,), np.float32)
        elif spec.kind == "discrete":
            self.action_space = spaces.Discrete(spec.size)
        else:
            raise SpaceError(f"the model-free peers give numbers or one choice; {env.id} takes {spec.kind}")

    def _seen(self, row: Mapping[str, Any]) -> NDArray[np.float32]:
        return side_by_side({key: np.asarray(value)[None] for key, value in row.items()}, self._env.observations)[0]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begins an episode."""
        row, _ = self._env.reset(seed=seed)
        return self._seen(row), {}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Acts; what the environment says beside is left out."""
        row, reward, terminated, truncated, _ = self._env.step(np.asarray(action))
        return self._seen(row), reward, terminated, truncated, {}


class Player:
    """A model of stable-baselines3 that acts in rows of experience."""

    def __init__(self, model: Any, columns: Mapping[str, Column]) -> None:
        self._model, self._columns = model, columns

    def initial(self, num: int) -> AgentState:
        """Nothing yet: the model makes its own zeros."""
        return {}

    def act(self, rows: Rows, state: AgentState, explore: bool = True) -> tuple[Actions, AgentState]:
        """Actions at rows ``[num, ...]``, by the mode of the policy unless it explores."""
        memory = tuple(value.numpy() for value in state.values()) or None
        actions, memory = self._model.predict(
            side_by_side(rows, self._columns), state=memory, episode_start=rows["is_first"], deterministic=not explore
        )
        return actions, {str(i): torch.as_tensor(value) for i, value in enumerate(memory or ())}


def learn(name: str, env: EnvConfig, seed: int, watch: Watch, changes: Mapping[str, Any]) -> dict[str, Any]:
    """One run, looked at by the watch, which ends it.

    Raises:
        ImportError: the library is not installed.
        ConfigError: no algorithm of that name.
    """
    if name not in ALGORITHMS:
        raise ConfigError(f"no peer is called {name!r}: {', '.join(ALGORITHMS)}")
    package, algorithm, policy = ALGORITHMS[name]
    callbacks = importlib.import_module("stable_baselines3.common.callbacks")
    made = getattr(importlib.import_module(package), algorithm)
    bare = Plain(env)
    model = made(policy, bare, seed=seed, device="cpu", verbose=0, **changes)
    player = Player(model, cast("Any", bare)._env.observations)

    class Looking(callbacks.BaseCallback):  # type: ignore[misc, name-defined]
        def _on_step(self) -> bool:
            steps = self.num_timesteps * env.action_repeat
            over = watch.spent(steps)
            if over or watch.due(steps):
                watch.look(steps, player)
            return not over

    watch.start()
    model.learn(total_timesteps=ENDLESS, callback=Looking())
    weights = sum(p.numel() for p in model.policy.parameters() if p.requires_grad)
    return {"weights": weights, "version": importlib.import_module(package).__version__}
