"""What a run is: one frozen dataclass that `config.json` repeats in full."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from worldformula.errors import ConfigError


@dataclass(frozen=True)
class EnvConfig:
    """The environments of a run."""

    id: str
    """A name that `worldformula envs` lists, or any Gymnasium id."""
    num: int = 4
    """How many copies are stepped together."""
    pixels: bool = False
    """Observe pictures of the environment instead of its own vector."""
    size: int | None = None
    """Edge of the pictures in pixels; none is 32, for Atari 64. Pictures of an environment's own keep their size."""
    action_repeat: int = 1
    """Environment steps per action; their rewards add up."""
    max_steps: int | None = None
    """Truncate episodes after this many environment steps; none keeps the environment's own limit."""

    def __post_init__(self) -> None:
        _at_least(self, num=1, action_repeat=1)
        for name, least in (("size", 8), ("max_steps", 1)):
            if getattr(self, name) is not None:
                _at_least(self, **{name: least})

    def options(self) -> dict[str, Any]:
        """The keyword arguments of `worldformula.envs.make`."""
        return {name: getattr(self, name) for name in ("pixels", "size", "action_repeat", "max_steps")}


MOST_THREADS = 1024  # torch starts as many as it is told, until the system has none left


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run. Two runs with equal configurations on one CPU end with the same bits."""

    model: str
    """The system, as `worldformula models` lists it."""
    preset: str
    """The preset of the system that `agent` started from."""
    env: EnvConfig
    agent: Any
    """The system's own settings: the dataclass of its preset."""
    steps: int = 20_000
    """Environment steps (actions × action_repeat) of the whole run."""
    seed: int = 0
    """Where all randomness comes from."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    threads: int = 1
    """CPU threads of torch. One is safe: more threads help small networks little, and beside other busy processes they
    wait for each other. 0 takes torch's own choice and stores it, because it decides the last bits."""
    capacity: int = 1_000_000
    """Rows that the replay holds, all streams together."""
    checkpoint_every: int = 5_000
    """Environment steps between checkpoints; at each, all environments start a new episode."""
    log_every: int = 500
    """Environment steps between the lines of metrics.jsonl."""
    eval_every: int = 0
    """Environment steps between evaluations; 0 evaluates at the end alone."""
    eval_episodes: int = 20
    """Episodes per evaluation; 0 switches evaluation off."""
    tensorboard: bool = True
    """Write TensorBoard events too, where TensorBoard is installed."""

    def __post_init__(self) -> None:
        _at_least(self, steps=1, seed=0, threads=0, capacity=1, checkpoint_every=1, log_every=1)
        _at_least(self, eval_every=0, eval_episodes=0)
        if self.threads > MOST_THREADS:
            raise ConfigError(f"threads expects a whole number of at most {MOST_THREADS}, got {self.threads}")


FREE_ON_RESUME = ("steps", "device")
"""Settings that may change when a run goes on: how long it shall be, and where it runs."""


def _at_least(config: object, **limits: int) -> None:
    for name, least in limits.items():
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(f"{name} expects a whole number of at least {least}, got {value!r}")
