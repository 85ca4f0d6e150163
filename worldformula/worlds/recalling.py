r"""A world that looks up what it has seen: a short-term memory that it reads while it predicts (LeCun 2022, section 3).

    z_t = e(x_t)                                          z_t [N, D]   what is seen now, as a latent
    K_t, V_t, U_t, N_t, m_t = write(K_{t-1}, …, z_t)     m_t [N, D]   what was stored before under what is like z_t
    \hat z_t = f(z_{t-1}, a_{t-1}, m_{t-1})               the next latent
    mean_t [ −log p(x_t|z_t) − log p(y_t|z_t, m_t) + ‖\hat z_t − sg z_t‖²/D ]

y_t is what has to be known now and may have been seen long ago, such as where a door is; of an agent it is its reward,
and whether the episode goes on. In a dream there is nothing to
see: the memory stays as it is, and is read at every predicted latent. It keeps C pairs, and a new one takes the place
of that which was read least (`worldformula.nets.recall`). An episode begins with an empty memory.

A memory is of use once the right slot is read, and of a sharp read nothing is learnt about the others: reading begins
softly, and sharpens as it learns. And the mean of what several slots say should be right where each of them is: every
network is a perceptron beside a linear map, so that what is seen may lie in z as it is. Figures of both:
worldformula/cards/hidden_door.toml.

Deviations: the paper proposes such a module and fixes none of its sizes; where it writes, what a pair is and how it is
evicted are choices made here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldformula.catalogue import System
from worldformula.errors import ConfigError
from worldformula.formula import Bernoulli, Deterministic, E, Factor, Mean, Normal, Value, clamp, log, norm2, sg
from worldformula.nets.perceptron import Perceptron
from worldformula.nets.recall import KeyValue, Remembering
from worldformula.world import World
from worldformula.world.observations import Names

OWN = {*"zmyKVUN"}  # what the world itself calls so
MEMORY = "K_{t-1}, V_{t-1}, U_{t-1}, N_{t-1}"


@dataclass(frozen=True)
class Sizes:
    """Widths of what is seen, done and recalled, and of the networks."""

    x: int = 5
    """What is seen."""
    a: int = 2
    """What is done."""
    y: int = 2
    """What has to be recalled."""
    latent: int = 32
    """D, the latent state z."""
    units: int = 64
    """The hidden layer of every network."""
    key: int = 8
    """Keys and queries of the memory."""
    capacity: int = 8
    """C, pairs that it keeps."""
    temperature: float = 1.0
    """τ of reading, from which it is learnt: a small one reads the nearest."""

    def __post_init__(self) -> None:
        sizes = (self.x, self.a, self.y, self.latent, self.units, self.key, self.capacity)
        if min(sizes) < 1 or self.temperature <= 0:
            raise ConfigError(f"expected sizes of at least 1 and temperature > 0, got {sizes} and {self.temperature}")


def small() -> Sizes:
    """For numbers, on one CPU core in minutes."""
    return Sizes()


def tiny() -> Sizes:
    """For tests."""
    return Sizes(x=3, latent=4, units=8, key=3, capacity=3)


# ------------------------------------------------------------------------------------------------------------- networks


class Beside(nn.Module):
    """A perceptron of its conditions side by side, with one hidden layer, and a linear map of them beside it."""

    def __init__(self, inputs: int, outputs: int, units: int) -> None:
        super().__init__()
        self.net = Perceptron(inputs, outputs, (units,))
        self.straight = nn.Linear(inputs, outputs, bias=False)

    def forward(self, *given: Tensor) -> Tensor:
        """``[N, …]`` each."""
        found: Tensor = self.net(*given) + self.straight(torch.cat(given, -1))
        return found


# -------------------------------------------------------------------------------------------------------------- formula


def build(
    sizes: Sizes, observations: Mapping[str, tuple[int, ...]] | None = None,
    actions: int | Mapping[str, int] | None = None,
) -> World:  # fmt: skip
    """The world model of series x, a and y, of the widths that ``sizes`` say.

    With ``observations`` (key -> shape, numbers alone) and ``actions`` (the width of a_t, or widths by name, a_1 …) it
    is that of an agent: instead of y it predicts rewards and ends, from what it sees and what it recalls.

    Raises:
        ConfigError: pictures, which it has no encoder for, or names that the memory has.
    """
    D, units = sizes.latent, sizes.units
    words, widths = _read(sizes, observations, actions)
    seen, acted = ", ".join(map(Names.at, words)), ", ".join(Names.at(word, "t-1") for word in widths)
    memory = KeyValue(
        D, D, sizes.key, capacity=sizes.capacity, evicts="least used", temperature=sizes.temperature, sharpens=True
    )
    write, read = Remembering(memory, writes=True), Remembering(memory, writes=False)
    ahead = Beside(2 * D + sum(widths.values()), D, units)
    embed = Deterministic(f"z_t = e({seen})", Beside(sum(words.values()), D, units), shape=D)
    stored = Deterministic(f"K_t, V_t, U_t, N_t, m_t = write({MEMORY}, z_t)", write, shape=write.shapes)
    core = Deterministic(f"z_t = f(z_{{t-1}}, {acted}, m_{{t-1}})", ahead, shape=D)
    looked = Deterministic(f"K_t, V_t, U_t, N_t, m_t = read({MEMORY}, z_t)", read, shape=read.shapes)
    foretold = Deterministic(rf"\hat z_t = f(z_{{t-1}}, {acted}, m_{{t-1}})", ahead, shape=D)
    heads: dict[str, Factor] = {
        word: Normal(f"p({Names.at(word)}|z_t)", Beside(D, width, units), shape=width, scale=1.0)
        for word, width in words.items()
    }
    if observations is None:
        heads["y"] = Normal("p(y_t|z_t,m_t)", Beside(2 * D, sizes.y, units), shape=sizes.y, scale=1.0)
    else:
        heads["r"] = Normal("p(r_t|z_t,m_t)", Beside(2 * D, 1, units), shape=(), scale=1.0)
        heads["c"] = Bernoulli("p(c_t|z_t,m_t)", Beside(2 * D, 1, units), shape=())
    later = clamp(Value("t") - 1, 0, 1)  # 0 where an episode begins, and nothing has been foretold
    step = later * (norm2(Value(r"\hat z_t", shape=D) - sg(Value("z_t", shape=D))) / D)
    for head in heads.values():
        step = step - log(head)
    return World(
        prior=core * looked,
        posterior=embed * stored,
        heads=heads,
        loss=Mean("t", E(embed * stored * foretold, step), reset="first").mean(),
        roles={} if observations is None else {"reward": "r", "continue": "c"},
        observations={} if observations is None else Names.of(observations).all,
    )


def _read(
    sizes: Sizes, observations: Mapping[str, tuple[int, ...]] | None, actions: int | Mapping[str, int] | None
) -> tuple[dict[str, int], dict[str, int]]:
    """What is seen and what is done: widths by variable."""
    widths = dict(actions) if isinstance(actions, Mapping) else {"a": sizes.a if actions is None else actions}
    if observations is None:
        return {"x": sizes.x}, widths
    names = Names.of(observations)
    words = {word: math.prod(observations[key]) for key, word in names.all.items()}
    if names.images:
        raise ConfigError(f"this world reads numbers, and {next(iter(names.images))} is a picture")
    if not widths or min(widths.values()) < 1:
        raise ConfigError(f"expected at least one action dimension, got {actions}")
    if taken := OWN & {*words, *widths}:
        raise ConfigError(f"expected observations of other names than {', '.join(sorted(taken))}")
    return words, widths


def _demo() -> None:
    """Print the formula and the emitted code; take one training step on random numbers."""
    sizes = tiny()
    world, B, T = build(sizes), 4, 6
    print(world.loss, world.loss.code, world.loss.explain(), sep="\n\n")
    batch = {"x": torch.randn(B, T, sizes.x), "a": torch.randn(B, T, sizes.a), "y": torch.randn(B, T, sizes.y)}
    out = world.loss(**batch, first=torch.zeros(B, T, dtype=torch.bool), seed=0)
    out.value.backward()
    print({term: round(value.item(), 3) for term, value in out.terms.items()})


SYSTEM = System(
    name="recalling",
    kind="worlds",
    paper="LeCun 2022, openreview.net/forum?id=BZ5a1r-kVsf",
    bibtex="""@article{lecun2022path, title={A path towards autonomous machine intelligence}, author={LeCun, Yann},
  journal={OpenReview}, year={2022}}""",
    presets={"small": small, "tiny": tiny},
    fits={"small": {"steps": 600, "batch": 64, "lr": 3e-3, "clip": 1.0, "schedule": "cosine"}},
    build=build,
    summary="A world with a short-term memory of keys and values, which it writes as it sees and reads as it predicts.",
)

if __name__ == "__main__":
    _demo()
