"""What an observation of a world of vectors is made of: bits, or numbers with a deviation of their own at each step."""

from __future__ import annotations

from typing import Literal, get_args

from torch import nn

from worldformula.errors import ConfigError
from worldformula.formula import Bernoulli, Factor, Normal
from worldformula.nets.loc_scale import LocScale

Observed = Literal["bits", "numbers"]
"""``bits`` are Bernoulli, ``numbers`` Normal."""
LEAST = 1e-3
"""The smallest deviation of numbers: without one, a value that never changes has a density without bound."""


def check_observed(observed: Observed) -> None:
    """ConfigError unless it is one of the two."""
    if observed not in get_args(Observed):
        raise ConfigError(f"expected observed 'bits' or 'numbers', got {observed!r}")


def outputs(width: int, observed: Observed) -> int:
    """How many numbers a network returns for observations of this width: logits, or locations and deviations."""
    return width if observed == "bits" else 2 * width


def emission(header: str, net: nn.Module, width: int, observed: Observed) -> Factor:
    """p(x_t|...) of a network with so many `outputs`."""
    if observed == "bits":
        return Bernoulli(header, net, shape=width)
    return Normal(header, LocScale(net, floor=LEAST), shape=width)
