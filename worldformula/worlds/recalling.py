r"""A world that looks up what it has seen: a short-term memory that it reads while it predicts (LeCun 2022, section 3).

    z_t = e(x_t)                                          z_t [N, D]   what is seen now, as a latent
    K_t, V_t, U_t, N_t, r_t = write(K_{t-1}, …, z_t)     r_t [N, D]   what was stored before under what is like z_t
    \hat z_t = f(z_{t-1}, a_{t-1}, r_{t-1})               the next latent
    mean_t [ −log p(x_t|z_t) − log p(y_t|z_t, r_t) + ‖\hat z_t − sg z_t‖²/D ]

y_t is what has to be known now and may have been seen long ago, such as where a door is. In a dream there is nothing to
see: the memory stays as it is, and is read at every predicted latent. It keeps C pairs, and a new one takes the place
of that which was read least (`worldformula.nets.recall`). An episode begins with an empty memory.

Deviations: the paper proposes such a module and fixes none of its sizes; where it writes, what a pair is and how it is
evicted are choices made here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldformula.catalogue import System
from worldformula.errors import ConfigError
from worldformula.formula import Deterministic, E, Mean, Normal, Value, clamp, log, norm2, sg
from worldformula.nets.perceptron import Perceptron
from worldformula.nets.recall import KeyValue, Remembering
from worldformula.world import World

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
    temperature: float = 0.3
    """τ of reading: a small one reads the nearest."""

    def __post_init__(self) -> None:
        sizes = (self.x, self.a, self.y, self.latent, self.units, self.key, self.capacity)
        if min(sizes) < 1 or self.temperature < 0:
            raise ConfigError(f"expected sizes of at least 1 and temperature ≥ 0, got {sizes} and {self.temperature}")


def small() -> Sizes:
    """For numbers, on one CPU core in minutes."""
    return Sizes()


def tiny() -> Sizes:
    """For tests."""
    return Sizes(x=3, latent=4, units=8, key=3, capacity=3)


# ------------------------------------------------------------------------------------------------------------- networks


class Beside(nn.Module):
    """A perceptron of its conditions side by side, with one hidden layer."""

    def __init__(self, inputs: int, outputs: int, units: int) -> None:
        super().__init__()
        self.net = Perceptron(inputs, outputs, (units,))

    def forward(self, *given: Tensor) -> Tensor:
        """``[N, …]`` each."""
        found: Tensor = self.net(*given)
        return found


# -------------------------------------------------------------------------------------------------------------- formula


def build(sizes: Sizes) -> World:
    """The world model of series x, a and y."""
    D, units = sizes.latent, sizes.units
    memory = KeyValue(D, D, sizes.key, capacity=sizes.capacity, evicts="least used", temperature=sizes.temperature)
    write, read = Remembering(memory, writes=True), Remembering(memory, writes=False)
    ahead = Beside(2 * D + sizes.a, D, units)
    embed = Deterministic("z_t = e(x_t)", Beside(sizes.x, D, units), shape=D)
    stored = Deterministic(f"K_t, V_t, U_t, N_t, r_t = write({MEMORY}, z_t)", write, shape=write.shapes)
    core = Deterministic("z_t = f(z_{t-1}, a_{t-1}, r_{t-1})", ahead, shape=D)
    looked = Deterministic(f"K_t, V_t, U_t, N_t, r_t = read({MEMORY}, z_t)", read, shape=read.shapes)
    foretold = Deterministic(r"\hat z_t = f(z_{t-1}, a_{t-1}, r_{t-1})", ahead, shape=D)
    seen = Normal("p(x_t|z_t)", Beside(D, sizes.x, units), shape=sizes.x, scale=1.0)
    recalled = Normal("p(y_t|z_t,r_t)", Beside(2 * D, sizes.y, units), shape=sizes.y, scale=1.0)
    off = norm2(Value(r"\hat z_t", shape=D) - sg(Value("z_t", shape=D))) / D
    later = clamp(Value("t") - 1, 0, 1)  # 0 where an episode begins, and nothing has been foretold
    step = E(embed * stored * foretold, later * off - log(seen) - log(recalled))
    return World(
        prior=core * looked,
        posterior=embed * stored,
        heads={"x": seen, "y": recalled},
        loss=Mean("t", step, reset="first").mean(),
    )


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
    build=build,
    summary="A world with a short-term memory of keys and values, which it writes as it sees and reads as it predicts.",
)

if __name__ == "__main__":
    _demo()
