"""DayDreamer (Wu, Escontrela, Hafner, Goldberg & Abbeel 2022, CoRL; arXiv:2206.14176): Dreamer on robots.

    actor     a process that acts at the robot's rate with the newest weights that it has, and waits for nobody
    learner   a process that learns from the replay all the time, and waits for nobody               run/drive.py
    world     h_t = f(h_{t-1}, z_{t-1}, a_{t-1}),  0.8 KL(sg q ‖ p) + 0.2 KL(q ‖ sg p) without free nats
    behaviour actor and critic in dreams of 15 steps, γ = 0.995                         learners/imagination

The agent is DreamerV3, whose forerunner the paper's was, with what the paper has otherwise, as far as settings say it.
It acts with the weights of some time ago: ``drive.sync`` and ``drive.lag``, in ticks of the robot.

Deviations            paper              official code      here                 why
two processes         yes                yes                `tiny` virtual       the same bits each time
weights, period       –                  20 s               `paper` 40 ticks,    20 s at 2 Hz (ball, arms),
                                                            `official` 400       20 s at 20 Hz (legs)
discount              0.95 or 0.995      0.998, robots      0.995                what is said of robots twice
                                         0.995
KL scale              –                  held at 3.5 nats   1                    no controller
core, layers          –                  GRU, LayerNorm     DreamerV3's          one world model to maintain
first state           –                  learnt             zeros                as DreamerV3
rewards, critic       –                  symlog, squared    two-hot              as DreamerV3
actor of numbers      through the dream  through the dream  REINFORCE            as DreamerV3
advantage             –                  by mean and std    by percentiles       as DreamerV3
entropy               –                  held at a target   fixed η              no controller
slow critic           every 100          every 100          0.02 every update    as DreamerV3
optimiser             Adam               Adam, ε 10⁻⁶,      LaProp               as DreamerV3
                                         decay 10⁻²
prefill               –                  1000 to 5000       `paper` 1000         Sphero's; `official` legs'
`tiny`                –                  –                  small, faster rates  see cards/daydreamer.toml
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from worldformula import catalogue
from worldformula.catalogue import System
from worldformula.envs.actions import ActionSpec
from worldformula.envs.columns import Column
from worldformula.nets.sizes import Sizes

BASE = "dreamer_v3"
HORIZON = 200.0  # 1 / (1 − 0.995)


def configured(preset: str, sizes: Sizes | None = None, **changes: Any) -> Any:
    """DreamerV3's settings with the paper's balance of divergences and its discount, and these changes."""
    base = catalogue.find(BASE).sizes(preset)
    world = replace(base.world, dynamics=0.8, representation=0.2, free_nats=0.0)
    world = world if sizes is None else replace(world, sizes=sizes)
    return replace(base, world=world, behaviour=replace(base.behaviour, horizon=HORIZON), **changes)


def paper() -> Any:
    """The ball and the arms: 512 units everywhere, 32 sequences of 32 rows."""
    sizes = Sizes(deter=512, hidden=512, classes=32, depth=32, units=512, blocks=1)
    return configured(
        "paper", sizes, batch=32, length=32, prefill=1000, lr=1e-4, unimix=0.1, layers=4, context=0, online=False
    )


def official() -> Any:
    """The default of the authors' code, and the prefill of its legs: 1024 units."""
    sizes = Sizes(deter=1024, hidden=1024, classes=32, depth=64, units=1024, blocks=1)
    return configured(
        "paper", sizes, batch=32, length=32, prefill=5000, lr=1e-4, unimix=0.1, layers=4, context=0, online=False
    )


def tiny() -> Any:
    """On two CPU cores: DreamerV3's `tiny`, with its horizon and its free nats, for a robot of 20 ticks a second."""
    return catalogue.find(BASE).sizes("tiny")


def build(
    config: Any, columns: Mapping[str, Column], actions: ActionSpec | Mapping[str, ActionSpec], seed: int = 0
) -> Any:
    """The agent for these observations (key -> column) and actions: `ActionSpec` by name, or the only one."""
    return catalogue.find(BASE).build(config, columns, actions, seed)


WALL = ("env.num=1", "drive.clock=wall")

SYSTEM = System(
    name="daydreamer",
    kind="agents",
    paper="Wu, Escontrela, Hafner, Goldberg & Abbeel 2022, CoRL; arXiv:2206.14176",
    bibtex="""@inproceedings{wu2022daydreamer, title={{DayDreamer}: World models for physical robot learning},
  author={Wu, Philipp and Escontrela, Alejandro and Hafner, Danijar and Goldberg, Ken and Abbeel, Pieter},
  booktitle={CoRL}, year={2022}}""",
    presets={"paper": paper, "official": official, "tiny": tiny},
    build=build,
    summary="Dreamer on a robot: one process acts at the robot's rate, another learns, and neither waits.",
    runs={
        "paper": (*WALL, "drive.sync=40"),
        "official": (*WALL, "drive.sync=400"),
        "tiny": ("env.num=1", "drive.clock=virtual", "drive.updates=0.5", "drive.sync=20", "drive.lag=2"),
    },
)
