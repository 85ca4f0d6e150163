r"""What joint-embedding worlds share: the terms that keep latents from collapsing, beside those that predict them.

    α V_1[z_t] + β C[z_t] + δ ‖z_t − z_{t−k}‖²/D          variance, covariance (VICReg), similarity over k steps
    ω ‖\hat a_t − a_{t−1}‖²/A,   \hat a_t = g(z_{t−1}, z_t)    inverse dynamics, of each action

Bardes, Ponce & LeCun 2022 (arXiv:2105.04906); Sobal et al. 2025 (PLDM, arXiv:2502.14819).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from torch import nn

from worldformula.formula import Covariance, Deterministic, Expression, Factor, Value, Variance, norm2
from worldformula.world.observations import Names


class Weights(Protocol):
    """The weights of these terms, of which 0 leaves a term out."""

    @property
    def deviation(self) -> float:
        """α."""
        ...

    @property
    def covariance(self) -> float:
        """β."""
        ...

    @property
    def similarity(self) -> float:
        """δ."""
        ...

    @property
    def inverse(self) -> float:
        """ω."""
        ...


def apart(
    step: Expression, weights: Weights, word: str, size: int, later: Expression, *, back: int = 1, by_step: bool = True
) -> Expression:
    """A step of a loss with V, C and the similarity of a latent.

    Args:
        step: what they are added to.
        weights: α, β and δ.
        word: the latent, ``"z"`` or ``"z_2"``.
        size: D.
        later: 0 where there is no latent to compare with yet.
        back: k, how many steps ago that was.
        by_step: V and C are of the batch at each step, not of all steps.
    """
    z = Value(Names.at(word), shape=size)
    if weights.deviation:
        step = step + weights.deviation * Variance(z, by_step=by_step)
    if weights.covariance:
        step = step + weights.covariance * Covariance(z, by_step=by_step)
    if weights.similarity:
        before = Value(Names.at(word, f"t-{back}"), shape=size)
        step = step + weights.similarity * later * norm2(z - before) / size
    return step


def acted(
    step: Expression,
    weights: Weights,
    word: str,
    actions: Mapping[str, int],
    later: Expression,
    network: Callable[[int], nn.Module],
) -> tuple[list[Factor], Expression]:
    """The factors of inverse dynamics, one for each action, and a step of a loss with their errors; none where ω is 0.

    ``network`` makes g of two latents for an action of some width.
    """
    draws: list[Factor] = []
    for action, size in actions.items() if weights.inverse else ():
        guess, read = rf"\hat {Names.at(action)}", f"{Names.at(word, 't-1')}, {Names.at(word)}"
        draws.append(Deterministic(f"{guess} = g({read})", network(size), shape=size))
        told = norm2(Value(guess, shape=size) - Value(Names.at(action, "t-1"), shape=size))
        step = step + weights.inverse * later * told / size
    return draws, step
