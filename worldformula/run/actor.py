"""The process that acts on a robot at its rate, with the newest weights that there are. It waits for nobody.

In a tick it takes the reading, decides, commands, and writes a row into a ring. Weights are looked for once a tick and
never waited for. It ends, and pauses the robot, when it is told to, when the learner's process is gone, and when the
robot does not go on.
"""

from __future__ import annotations

import gc
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from worldformula.envs import Envs, Rows
from worldformula.envs.actions import column_name
from worldformula.envs.robot import RobotEnv, WallClock
from worldformula.errors import ConfigError, RobotError, WorldformulaError
from worldformula.run.contract import Build
from worldformula.run.shared import Exchange, Newest, Ring, Spec
from worldformula.training.seeding import derived

TOLD: Mapping[str, tuple[tuple[int, ...], str]] = {
    "tick/woke": ((), "float64"), "tick/commanded": ((), "float64"), "tick/late": ((), "int64"),
    "tick/taken": ((), "bool"), "episode/over": ((), "bool"), "episode/score": ((), "float64"),
    "episode/length": ((), "int64"),
}  # fmt: skip
"""What a row tells besides experience: when the tick began and its command was given, in seconds of the machine's
clock; how many ticks were missed before the next; whether an action was taken; the episode that ended behind it."""
LATENT = "latent/"
ACTING = 3  # what `derived` seeds are for; 1 is the evaluation, 2 the report


@dataclass(frozen=True)
class Orders:
    """What the actor is told before it begins.

    Attributes:
        build, config: make the agent, with the seed of the run.
        seed: of the run.
        episode: the first one.
        spec, capacity, rows: of the ring.
        layout, weights: of the weights.
    """

    build: Build
    config: Any
    seed: int
    episode: int
    spec: Spec
    capacity: int
    rows: str
    layout: tuple[tuple[str, tuple[int, ...], str], ...]
    weights: str


def serve(pipe: Connection, exchange: Exchange, id: str, options: dict[str, Any], seed: int) -> None:
    """The process: describes the robot, waits for its orders, acts until it is told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the learner, which then ends this process
    signal.signal(signal.SIGTERM, _leave)  # where the robot's driver hangs: it is woken, and paused
    torch.set_num_threads(1)
    envs = None
    try:
        envs = Envs(id, 1, seed=seed, **options)
        robot = envs.bare[0]
        if not isinstance(robot, RobotEnv):
            raise ConfigError(
                f"drive.clock=wall acts on a robot, and {id} is none: expected worldformula.envs.robot.RobotEnv, or "
                "drive.clock=virtual"
            )
        described = (envs.columns, envs.observations, envs.actions, envs.row_spec, envs.vocabulary)
        pipe.send(("answer", (*described, robot.robot.rate, robot.patience, robot.real)))
        orders = pipe.recv()
        if isinstance(orders, Orders):
            act(pipe, exchange, envs, orders, robot.keep_time())
        pipe.send(("over", ""))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the learner is gone, and nobody listens
    except WorldformulaError as error:
        pipe.send((type(error).__name__, str(error)))
    except Exception as error:  # noqa: BLE001 - whatever it is, the run has to be stored, and the robot paused
        pipe.send((RobotError.__name__, f"acting failed: {type(error).__name__}: {error}. The robot was paused"))
    finally:
        if envs is not None:
            envs.close()


def _leave(number: int, _: Any) -> None:
    raise SystemExit(number)


def act(pipe: Connection, exchange: Exchange, envs: Envs, orders: Orders, clock: WallClock) -> None:
    """Acts until there is a message in the pipe.

    Raises:
        RobotError: the robot does not go on, or nobody fetches rows any more.
        EOFError: the learner is gone.
    """
    agent: Any = orders.build(orders.config, envs.observations, envs.actions, orders.seed)
    ring = Ring(exchange, orders.spec, orders.capacity, orders.rows)
    newest = Newest(exchange, orders.layout, orders.weights)
    torch.manual_seed(derived(orders.seed, ACTING, orders.episode))
    keeps = [key.removeprefix(LATENT) for key in orders.spec if key.startswith(LATENT)]
    rows, state = envs.reset(orders.episode), agent.initial(1)
    gc.freeze()  # what was imported is not looked through for garbage any more
    try:
        while not pipe.poll():
            if (weights := newest.take()) is not None:
                agent.take_over(weights)
            woke = clock.woke
            actions, state = agent.act(rows, state, explore=True)
            stored, commanded = envs.stored(actions), time.perf_counter()
            after = envs.step(actions)
            row = {**{key: value[0] for key, value in {**rows, **stored}.items()}, **_told(envs, after)}
            row |= {"tick/woke": woke, "tick/commanded": commanded}
            if keeps:
                row |= {LATENT + key: value[0] for key, value in agent.stored(state).items()}
            if not ring.put(row):
                raise RobotError(
                    f"the learner has fetched no rows for {orders.capacity:,} ticks, and more cannot be kept. The "
                    "robot was paused"
                )
            rows = after
        pipe.recv()
    finally:
        ring.close()
        newest.close()


def _told(envs: Envs, after: Rows) -> dict[str, Any]:
    """What a row tells of the step behind it."""
    over = envs.finished[0] if envs.finished else None
    return {
        "tick/late": envs.infos[0].get("late", 0), "tick/taken": not after["is_first"][0],
        "episode/over": over is not None, "episode/score": over.score if over else 0.0,
        "episode/length": over.length if over else 0,
    }  # fmt: skip


def spec_of(row_spec: Spec, latents: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[tuple[int, ...], str]]:
    """The columns of the ring."""
    kept = {LATENT + name: (tuple(shape), np.dtype(np.float32).str) for name, shape in latents.items()}
    return {**row_spec, **kept, **TOLD}


def columns_of(actions: Mapping[str, Any]) -> list[str]:
    """The columns of the actions."""
    return [column_name(name) for name in actions]
