r"""Scales of the parts of a world's loss that are learnt with it (HarmonyDream; Ma et al. 2024, arXiv:2310.00344).

    for i of reward, observation, divergence:    e^{−s_i} L_i + log(1 + e^{s_i}),    s_i = 0 in the beginning

The rectified form of the paper: the least is at L = e^{2s} / (1 + e^s), so that a large loss weighs 1/L and counts as
1, and a small one weighs 1/√L and counts as √L. A scale is a weight like any other, and the world's optimiser moves it.
It cannot serve a loss below 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from worldformula.formula import Deterministic, Expression, Factor, Normal, Value, exp, log, softplus

REWARD, OBSERVATION, DIVERGENCE = 1, 2, 3


class Scales(nn.Module):
    """s_1, s_2 and s_3, for every row alike."""

    def __init__(self) -> None:
        super().__init__()
        self.s = nn.ParameterList(nn.Parameter(torch.zeros(())) for _ in range(3))

    def forward(self, rows: Tensor) -> tuple[Tensor, ...]:
        """``[N]`` each; of what is given only the rows are counted."""
        return tuple(s.expand(len(rows)) for s in self.s)


def scales(flags: str) -> Deterministic:
    """What the loss draws first; ``flags`` is the variable of the first rows."""
    names = ", ".join(map(_name, (REWARD, OBSERVATION, DIVERGENCE)))
    return Deterministic(f"{names} = scales({flags}_t)", Scales(), shape=[(), (), ()])


def weighed(which: int, loss: Expression) -> Expression:
    """``e^{−s} L``."""
    return exp(-Value(_name(which))) * loss


def price(which: int) -> Expression:
    """``log(1 + e^s)``, what a small weight costs."""
    return softplus(Value(_name(which)))


def harmonised(
    dynamics: tuple[float, Expression], representation: tuple[float, Expression], reward: Factor,
    scored: Sequence[Factor],
) -> Expression:  # fmt: skip
    """Reward, reconstruction and divergences by scales that are learnt; the divergences, each with its weight, by
    their shares, and the price of their scale with that of the first.

    Of a Normal the squared error alone is scaled: its constant would be a part of the loss that nothing can lessen.
    """
    (first, dyn), (second, rep) = dynamics, representation
    whole, error = first + second, None
    for factor in scored:
        one = -log(factor)
        if isinstance(factor, Normal):
            one = one - 0.5 * math.log(math.pi) * math.prod(factor.shape or ())
        error = one if error is None else error + one
    assert error is not None
    step = (first / whole) * (weighed(DIVERGENCE, dyn) + price(DIVERGENCE)) + (second / whole) * weighed(
        DIVERGENCE, rep
    )
    step = step + weighed(OBSERVATION, error) + price(OBSERVATION)
    return step + weighed(REWARD, -log(reward)) + price(REWARD)


def _name(which: int) -> str:
    return rf"\hat s_{{{which},t}}"
