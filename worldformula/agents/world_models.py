"""World Models (Ha & Schmidhuber 2018, NeurIPS; arXiv:1803.10122): V sees, M remembers and predicts, C acts.

    V    mean_B[ max(KL[q(z|x) ‖ p(z)], ½ Z) + Σ (x − x̂)² ]              models/vae
    M    h_t, c_t = lstm(h_{t-1}, c_{t-1}, z_{t-1}, a_{t-1}),  p(z_t|h_t), p(l_t|h_t)      worlds/mdn_rnn
    C    a_t = W [z_t, h_t] + b, squashed; CMA-ES on the returns of dreams at temperature τ

`chain` is what is published: experience at random, V, M, C, each a run of its own that goes on after a kill. As an
agent of ``worldformula train`` it is the paper's iterative variant: C acts, V and M learn what it meets, and C evolves.

Deviations            paper                      here                       why
experience            random networks            random actions             no scale of a network to choose
where C evolves       CarRacing: the true world  the dream                  one way; as VizDoom
actions of a choice   thresholds of one number   the largest of n           any number of choices
evaluation            z drawn                    z at its mean              an evaluation that repeats
noise of dreams       each its own               shared by candidates       they differ by what they do alone
fitness               the mean, best kept        the search's middle acts   no second evaluation
data of `chain`       read from the disk         windows in memory          as many as fit
V of numbers          none                       a perceptron               the same agent on sensors
`tiny`                –                          small                      see cards/world_models.toml
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from worldformula.agent.acts import acts_of, named
from worldformula.agent.controller import Dreams
from worldformula.agent.evolving import C, EvolvingAgent, M, V
from worldformula.agent.stages import Stage
from worldformula.catalogue import System
from worldformula.envs.actions import ActionSpec
from worldformula.envs.columns import Column
from worldformula.errors import ConfigError
from worldformula.models import vae
from worldformula.nets.strided import stages
from worldformula.run.config import EnvConfig, RunConfig
from worldformula.run.interact import Interact
from worldformula.run.phases import Phase, Phases
from worldformula.run.play import Randomly
from worldformula.worlds import mdn_rnn

Sees = Literal["z", "h", "zh", "zhc"]
READ = {"z": ("z",), "h": ("h",), "zh": ("z", "h"), "zhc": ("z", "h", "c")}


@dataclass(frozen=True)
class WorldModelsConfig:
    """Everything that defines the agent; the defaults are those of VizDoom."""

    latent: int = 64
    """Numbers Z of a code."""
    depth: int = 32
    """Channels of the first stage of V."""
    deviation: float = math.sqrt(0.5)
    """Of V's pictures around what it makes of a code: √½ is the paper's squared error, less shows smaller things."""
    hidden: int = 512
    """Cells of M's LSTM."""
    components: int = 5
    """Of each mixture of M."""
    sees: Sees = "zhc"
    """What C reads: the code, M's output, M's cells."""
    bias: bool = False
    """Whether C has a bias for each output."""
    reward: bool = False
    """Whether M predicts the reward, which C then earns in dreams; otherwise a step that it lives is worth 1."""
    collect: int = 5_000_000
    """Steps at random, of `chain`."""
    v_steps: int = 100_000
    """Steps of V, of `chain`."""
    m_steps: int = 40_000
    """Steps of M, of `chain`; 0 leaves M as it began, a control."""
    generations: int = 1800
    """Generations of C, of `chain`."""
    frames: int = 100
    """Rows of a batch of V, of `chain`."""
    batch: int = 100
    """Sequences of a batch of M."""
    length: int = 500
    """Rows of a sequence."""
    lr_v: float = 1e-4
    """Learning rate of V."""
    lr_m: float = 1e-3
    """Learning rate of M."""
    clip: float = 1.0
    """The largest element of a gradient of M."""
    dreams: Dreams = field(default_factory=Dreams)
    """How C evolves."""
    train_ratio: float = 500.0
    """Replayed rows per action, in the iterative variant."""
    prefill: int = 5000
    """Environment steps at random before that learns."""

    def __post_init__(self) -> None:
        widths = (self.latent, self.depth, self.hidden, self.components)
        if min(*widths, self.collect, self.generations, self.frames, self.batch) < 1 or self.length < 2:
            raise ConfigError(
                "expected latent, depth, hidden, components, collect, generations, frames and batch ≥ 1 and length ≥ "
                f"2, got {', '.join(map(str, widths))}, {self.collect}, {self.generations}, {self.frames}, "
                f"{self.batch} and {self.length}"
            )
        if min(self.lr_v, self.lr_m, self.clip, self.train_ratio, self.deviation) <= 0 or self.sees not in READ:
            raise ConfigError(
                f"expected lr_v, lr_m, clip, train_ratio and deviation > 0 and sees of {', '.join(READ)}, got "
                f"{self.lr_v}, {self.lr_m}, {self.clip}, {self.train_ratio}, {self.deviation} and {self.sees!r}"
            )
        if min(self.v_steps, self.m_steps, self.prefill) < 0:
            raise ConfigError(
                f"expected v_steps, m_steps and prefill ≥ 0, got {self.v_steps}, {self.m_steps} and {self.prefill}"
            )


def paper() -> WorldModelsConfig:
    """VizDoom's."""
    return WorldModelsConfig()


def car_racing() -> WorldModelsConfig:
    """CarRacing's V, M and C; C evolves in dreams of M's reward, where the paper's did in the true world."""
    return WorldModelsConfig(
        latent=32, hidden=256, sees="zh", bias=True, reward=True, length=1000, dreams=Dreams(horizon=1000, tau=1.0)
    )  # fmt: skip


def tiny() -> WorldModelsConfig:
    """Small pictures on two CPU cores in minutes."""
    return WorldModelsConfig(
        latent=32, depth=8, deviation=0.05, hidden=128, sees="zh", bias=True, collect=20_000, v_steps=4000,
        m_steps=3000, generations=40, frames=64, batch=16, length=64, lr_v=1e-3, lr_m=2e-3, train_ratio=128.0,
        prefill=2000,
        dreams=Dreams(population=32, rollouts=8, horizon=300),
    )  # fmt: skip


def build(
    config: WorldModelsConfig, columns: Mapping[str, Column], actions: ActionSpec | Mapping[str, ActionSpec],
    seed: int = 0,
) -> EvolvingAgent:  # fmt: skip
    """The agent for these observations (key -> column) and actions: by name, or the only one."""
    torch.manual_seed(seed)
    width = sum(act.size for act in acts_of(named(actions)))
    sizes = mdn_rnn.Sizes(config.latent, width, config.hidden, config.components, reward=config.reward)
    memory = mdn_rnn.build(sizes)
    return EvolvingAgent(
        config, vae.build(vision(config, columns)), memory, mdn_rnn.tempered(memory), READ[config.sees], columns,
        actions, dreams=config.dreams, rates=(config.lr_v, config.lr_m), clip=config.clip, bias=config.bias, seed=seed,
    )  # fmt: skip


def vision(config: WorldModelsConfig, columns: Mapping[str, Column]) -> vae.Sizes:
    """V for these columns: convolutions of one picture, a perceptron of anything else."""
    shapes = [tuple(column.encoded) for column in columns.values()]
    pixels, deviation = sum(math.prod(shape) for shape in shapes), config.deviation
    column = next(iter(columns.values()))
    if len(shapes) > 1 or column.kind != "image":
        return vae.Sizes(pixels, config.latent, (16 * config.depth,), nn.ReLU, deviation=deviation, free=0.5)
    height, wide, channels = shapes[0]
    hidden = tuple(config.depth * 2**i for i in range(stages(height)))
    return vae.Sizes(
        pixels, config.latent, hidden, nn.ReLU, deviation=deviation, picture=(height, wide, channels), strided=True,
        free=0.5,
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------- what is published


def chain(
    config: WorldModelsConfig, env: EnvConfig, folder: str | Path, *, seed: int = 0, say: Callable[[str], None] = print
) -> Phases:
    """Experience, V, M and C as `Phases`: ``chain(tiny(), EnvConfig("cartpole", pixels=True), "runs/pole").run()``.

    What it gives: ``data``, windows of the experience, and ``agent``, which acts. Killed, the same call goes on.
    """
    run = RunConfig(
        "world_models", "tiny", env, config, config.collect, seed, capacity=config.collect + env.num, eval_episodes=0,
        tensorboard=False, checkpoint_every=max(1, config.collect // 4),
    )  # fmt: skip

    def windows(collected: Interact) -> dict[str, Any]:
        count = max(config.batch, 2 * config.collect // config.length)
        return dict(collected.replay.sample(count, config.length, "any"))

    def learner(part: str, steps: int) -> Callable[..., Stage]:
        def make(_: Any, given: Mapping[str, Any]) -> Stage:
            collected: Interact = given["run"]
            agent = build(config, collected.envs.observations, collected.envs.actions, seed)
            if "agent" in given:
                agent.restore(given["agent"])
            return Stage(agent, part, steps, given["data"], config.frames)

        return make

    def made(stage: Stage) -> dict[str, Any]:
        return stage.agent.checkpoint()

    return Phases(
        [
            Phase("collect", lambda f, _: Interact(run, _random, f, say=say), {"run": lambda t: t, "data": windows}),
            Phase("see", learner(V, config.v_steps), {"agent": made}, takes=("run", "data")),
            Phase("remember", learner(M, config.m_steps), {"agent": made}, takes=("run", "data", "agent")),
            Phase("act", learner(C, config.generations), {"agent": lambda s: s.agent}, takes=("run", "data", "agent")),
        ],
        folder,
        say=say,
    )


def _random(_: Any, __: Mapping[str, Column], actions: Mapping[str, ActionSpec], ___: int) -> Any:
    return Randomly(actions)


SYSTEM = System(
    name="world_models",
    kind="agents",
    paper="Ha & Schmidhuber 2018, NeurIPS; arXiv:1803.10122",
    bibtex=mdn_rnn.SYSTEM.bibtex,
    presets={"paper": paper, "car_racing": car_racing, "tiny": tiny},
    build=build,
    summary="A VAE sees, an LSTM predicts its codes, and a linear controller evolves in the dreams of both.",
)
