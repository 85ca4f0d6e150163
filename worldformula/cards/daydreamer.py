"""Measures DayDreamer on a pendulum that nobody resets: light fades, pushes begin; it goes on learning, or does not."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from worldformula import catalogue
from worldformula.run.config import DriveConfig, EnvConfig, RunConfig
from worldformula.run.contract import Acting
from worldformula.run.evaluate import evaluate
from worldformula.run.interact import Interact

LEARN, ADAPT = 12_000, 12_000  # ticks of 0.05 s: ten minutes each
REPEAT = 2  # ticks that a command holds
FADE, PUSHES, MINUTE = 0.6, 0.005, 1_200
EPISODES = 24  # of 200 ticks, in 4 lives
HURT = 100.0  # what the change has to take from the frozen policy's return, or there is nothing to recover from


def config(seed: int = 0, learn: int = LEARN) -> RunConfig:
    """A life of which light and peace end after ``learn`` ticks; to ``learn`` ticks, where the run is halted."""
    system = catalogue.find("daydreamer")
    drive = DriveConfig("virtual", updates=0.5, sync=10, lag=1)
    found = RunConfig(system.name, "tiny", robot(learn, MINUTE), system.sizes("tiny"), learn, seed, drive=drive)
    return replace(found, capacity=50_000, checkpoint_every=3_000, log_every=600, eval_episodes=0, tensorboard=False)


def robot(begins: int, takes: int, num: int = 1) -> EnvConfig:
    """A robot whose light fades from tick ``begins`` on, and which is pushed from then on."""
    args = (f"fade={FADE}", f"pushes={PUSHES}", f"drift_from={begins}", f"push_from={begins}", f"drift_ticks={takes}")
    return EnvConfig("pendulum_noreset", num=num, pixels=True, action_repeat=REPEAT, args=args)


def measure(seed: int, learn: int = LEARN, adapt: int = ADAPT) -> dict[str, float]:
    """Learns, keeps a copy, and goes on learning in the same life while the light fades and pushes come.

    Returns:
        ``before``: return of the copy in 200 calm ticks in full light; ``frozen``: of the copy with the light gone and
        pushes; ``adapted``: of the one that went on learning, there; ``recovered``: what part of the loss it made up
        for, (adapted − frozen) / (before − frozen), NaN where the loss is less than HURT; ``minutes`` of the robot.
    """
    system, asked = catalogue.find("daydreamer"), config(seed, learn)
    with TemporaryDirectory() as folder:
        first = Interact(asked, system.build, Path(folder) / "run", say=lambda _: None)
        first.run()
        frozen = copy.deepcopy(first.agent)
        longer = replace(asked, steps=learn + adapt)
        second = Interact(longer, system.build, Path(folder) / "run", say=lambda _: None)
        second.run()
    found = {
        "before": scored(frozen, calm=True, seed=seed),
        "frozen": scored(frozen, calm=False, seed=seed),
        "adapted": scored(second.agent, calm=False, seed=seed),
    }
    lost = found["before"] - found["frozen"]
    recovered = (found["adapted"] - found["frozen"]) / lost if lost >= HURT else math.nan
    return {**found, "recovered": recovered, "minutes": second.count.steps / MINUTE}


def scored(agent: Acting, *, calm: bool, seed: int) -> float:
    """Mean return of 200 ticks with the policy's mode, in lives that the training never saw."""
    never = 10**9
    env = robot(never if calm else 0, 1, num=4)
    return evaluate(agent, env, episodes=EPISODES, seed=10_000 + seed).mean
