"""What a run is: one frozen dataclass that `config.json` repeats in full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from worldformula.errors import ConfigError
from worldformula.training import settings


@dataclass(frozen=True)
class EnvConfig:
    """The environments of a run."""

    id: str
    """A name that `worldformula envs` lists, any Gymnasium id, or module:ID and module:Class of a module of yours."""
    num: int = 4
    """How many copies are stepped together."""
    pixels: bool = False
    """Observe pictures of the environment instead of its own vector."""
    size: int | None = None
    """Edge of all pictures in pixels; none keeps those of the environment, drawn ones have 32, Atari 64."""
    action_repeat: int = 1
    """Environment steps per action; their rewards add up."""
    max_steps: int | None = None
    """Truncate episodes after this many environment steps; none keeps the environment's own limit."""
    keys: tuple[str, ...] = ()
    """The observations to keep, of those that an environment gives by name; empty keeps all."""
    crop: tuple[int, ...] = ()
    """Top, left, height and width of what is kept of every picture; empty keeps all."""
    grey: bool = False
    """Pictures in grey."""
    stack: int = 1
    """The last so many pictures, as channels of one."""
    reach: float = 1.0
    """What an agent's ±1 means in dimensions of actions without bounds; what is beyond is clipped."""
    args: tuple[str, ...] = ()
    """Arguments of the environment, key=value each; --env-arg adds one."""
    wrap: tuple[str, ...] = ()
    """Wrappers around the environment, module:Wrapper each, the first one innermost; --wrap adds one."""
    labels: tuple[str, ...] = ()
    """Keys of info that are stored beside the observations, as the columns label/<key>; no agent observes them.
    Of latents that nothing decodes, log and alarms say what is read of them."""
    log_info: tuple[str, ...] = ()
    """Keys of info whose value at the last step of an episode is logged as episode/<key>; --log-info adds one."""
    single: bool = False
    """The environment cannot be made twice in one process: one instance serves everything in turn."""
    timeout: float | None = None
    """Seconds that an environment may take for one answer; each then runs in a process of its own, and one that hangs
    is killed and made anew. Such a run is no longer the same to the last bit."""
    floor_episodes: int = 20
    """Episodes of random play that a return is compared with, at most 20,000 actions or a minute; 0 measures none."""

    def __post_init__(self) -> None:
        _at_least(self, num=1, action_repeat=1, stack=1, floor_episodes=0)
        if len(self.crop) not in (0, 4) or self.reach <= 0:
            raise ConfigError(f"expected crop as top, left, height, width and reach > 0, got {self.crop}, {self.reach}")
        if self.timeout is not None and self.timeout <= 0:
            raise ConfigError(f"timeout expects seconds above 0, or none; got {self.timeout}")
        if self.single and (self.num > 1 or self.timeout is not None):
            raise ConfigError(
                "env.single makes one environment in this process: set env.num=1 and no env.timeout, got "
                f"{self.num} and {self.timeout}"
            )
        for name, least in (("size", 8), ("max_steps", 1)):
            if getattr(self, name) is not None:
                _at_least(self, **{name: least})

    def options(self) -> dict[str, Any]:
        """The keyword arguments of `worldformula.envs.Envs`."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("id", "num", "floor_episodes")}


@dataclass(frozen=True)
class DriveConfig:
    """How acting and learning share time."""

    clock: Literal["none", "virtual", "wall"] = "none"
    """none: acting waits for learning, as the train ratio says. wall: a robot is acted on at its own rate by a process
    of its own, while this one learns, and neither waits. virtual: the same order of events without the chance of two
    processes, to the last bit."""
    updates: float = 0.5
    """By the virtual clock, updates in a tick: an action, which with env.action_repeat lasts several of a robot's."""
    sync: int = 20
    """Ticks between two times at which the weights are handed over to the actor."""
    lag: int = 1
    """By the virtual clock, ticks until the actor has them."""

    def __post_init__(self) -> None:
        _at_least(self, sync=1, lag=0)
        if self.updates <= 0:
            raise ConfigError(f"drive.updates expects a number above 0, got {self.updates}")


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
    """Environment steps between checkpoints; how many there are changes nothing."""
    log_every: int = 500
    """Environment steps between the lines of metrics.jsonl."""
    eval_every: int = 0
    """Environment steps between evaluations; 0 evaluates at the end alone."""
    eval_episodes: int = 20
    """Episodes per evaluation; 0 switches evaluation off."""
    compile: bool = False
    """Compile updates with torch.compile: faster ones, after a first one that takes minutes. Changes the last bits."""
    tensorboard: bool = True
    """Write TensorBoard events too, where TensorBoard is installed."""
    init: str = ""
    """Another run, or a folder of save_pretrained, whose weights a new run begins with; --init."""
    freeze: tuple[str, ...] = ()
    """Parts that do not learn, by the names of their weights; --freeze adds one."""
    drive: DriveConfig = field(default_factory=DriveConfig)
    """How acting and learning share time."""

    def __post_init__(self) -> None:
        _at_least(self, steps=1, seed=0, threads=0, capacity=1, checkpoint_every=1, log_every=1)
        _at_least(self, eval_every=0, eval_episodes=0)
        if self.threads > MOST_THREADS:
            raise ConfigError(f"threads expects a whole number of at most {MOST_THREADS}, got {self.threads}")


FREE_ON_RESUME = ("steps", "device")
"""Settings that may change when a run goes on: how long it shall be, and where it runs."""
FIXED = ("model", "preset", "env", "drive.clock", "seed", "capacity", "checkpoint_every", "init", "freeze")
"""Settings that no run of an agent can change: its replay, its episodes and its place in the catalogue hang on them."""


def deliberate(config: Any, texts: Sequence[str], fixed: Sequence[str]) -> tuple[Any, dict[str, tuple[Any, Any]]]:
    """A configuration with ``key=value`` changes for a run that goes on, and each change as (before, now).

    Raises:
        ConfigError: what cannot change, or an unknown setting or an impossible value.
    """
    changed = settings.override(config, texts)
    found = settings.differences(config, changed)
    if found.get("threads", (1, 1))[1] == 0:
        raise ConfigError(
            f"--resume-with threads expects a whole number of at least 1, as the run has {config.threads}; got 0"
        )
    if wrong := [key for key in found if any(key == f or key.startswith(f"{f}.") for f in fixed)]:
        raise ConfigError(
            f"--resume-with cannot change {wrong[0]}: the run was made with {found[wrong[0]][0]!r}. Begin a new run "
            f"with another --run, from these weights if you like: --init. What no run can change: {', '.join(fixed)}"
        )
    return changed, found


def _at_least(config: object, **limits: int) -> None:
    for name, least in limits.items():
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(f"{name} expects a whole number of at least {least}, got {value!r}")
