"""Gibbs factors: densities that are known up to a constant, p(x) ∝ exp(−E(x)).

p = Gibbs("p(x)", energy, shape=2)                       # energy(x) -> [B] or [B, 1]
loss = ContrastiveDivergence(p, steps=20, step_size=0.05).mean()

The log-density and direct draws are refused. What needs the energy alone takes the factor: `Energy`,
`ContrastiveDivergence`, `ScoreMatching`, `GradientPenalty`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from worldformula.errors import FormulaError, UnnormalisedError
from worldformula.formula.factors.independent import Deterministic
from worldformula.formula.factors.joint import Factor
from worldformula.formula.factors.langevin import langevin
from worldformula.formula.syntax.check import check_normalised
from worldformula.formula.syntax.given import Shape, generator_of

__all__ = ["Gibbs"]


class Gibbs(Factor):
    """p(x) ∝ exp(−E(x)), or p(x|y) ∝ exp(−E(x, y)): ``energy`` is called with x and then the conditions.

    It returns one number per row, ``[B]`` or ``[B, 1]``. ``shape`` is the event shape of x.
    """

    unnormalised = True

    def __init__(self, header: str, energy: nn.Module | Callable[..., Tensor], *, shape: Shape = None) -> None:
        if not callable(energy) or isinstance(energy, Tensor | type):
            raise FormulaError(f"{header}: expected an energy network of x, got {type(energy).__name__}")
        super().__init__(header, energy, family=None, shape=shape)

    @property
    def energy(self) -> Deterministic:
        """The energy as a deterministic factor, ``e = E(x)``, whose network is that of this one."""
        known: Deterministic | None = self.__dict__.get("_energy")
        reads = (self.variable, *self.conditions)
        if known is None or known.conditions != reads:
            assert self.net is not None
            known = Deterministic(f"e = E({', '.join(map(str, reads))})", self.net, shape=())
            object.__setattr__(known, "origin", self.origin)
            object.__setattr__(known, "header", replace(known.header, bar=self.header.bar))
            self.__dict__["_energy"] = known
        return known

    def density(self, value: Tensor, conditions: Any) -> NoReturn:
        """Refused: the normalising constant is unknown."""
        check_normalised(self)
        raise UnnormalisedError(str(self))

    def log_prob(self, **values: Any) -> NoReturn:
        """Refused: the normalising constant is unknown."""
        self.density(torch.empty(0), ())

    def sample(  # type: ignore[override]
        self,
        start: Tensor | None = None,
        *,
        steps: int = 0,
        step_size: float = 0.01,
        noise: float | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        **conditions: Tensor,
    ) -> Tensor:
        """The end of Langevin chains that begin at ``start [B, *event]``; nearly a draw where they are long.

        Args:
            start: where the chains begin; there is no draw without it.
            steps: updates x ← x − step_size·∇E(x) + noise·ε.
            step_size: of the gradient.
            noise: deviation of ε; √(2·step_size) by default, for which p(x) is stationary as step_size → 0.
            seed: of this call; otherwise ``generator``, or torch's own.
            generator: where the noise comes from.
            conditions: by variable, ``[B, ...]``.
        """
        if start is None or steps < 1:
            check_normalised(self)
        assert start is not None
        assert self.net is not None
        rng = generator_of(seed, generator, (start, *self.parameters()))
        rest = self.arguments(conditions, self.conditions)
        rank = start.ndim - 1 if self.shape is None else len(self.shape)
        x = start.detach()
        for _ in range(steps):  # one step's noise at a time: chains are long
            drawn = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=rng).unsqueeze(x.ndim - rank)
            x = langevin(self.net, x, drawn, *rest, rank=rank, step_size=step_size, noise_scale=noise)
        return x

    def draw(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: there is no direct draw."""
        self.density(torch.empty(0), ())
