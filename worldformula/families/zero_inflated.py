"""Counts with more zeros than their family has: a zero for sure with probability π, else a count of the family.

    p(0) = π + (1 - π)·p_0(0),    p(n) = (1 - π)·p_0(n),    mean (1 - π)·m,    variance (1 - π)·(v + π·m²)

of the count's density p_0, mean m and variance v; independent over the axes of an event (Lambert 1992,
*Technometrics* 34). π is the gate, σ(``gate_logits``). A sample draws the gate and the count, and has no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from worldformula.errors import ConfigError
from worldformula.families.base import Family, Parameter, Params, Shape, has_tensor, shape_of, total, uniform
from worldformula.families.binomial import BinomialFamily
from worldformula.families.domains import COUNT, UNIT, Domain
from worldformula.families.poisson import poisson
from worldformula.families.special import as_logits, precise, precise_value, rounded, sigmoid
from worldformula.families.writing import Sign


@dataclass(frozen=True)
class ZeroInflatedFamily(Family):
    """Counts of the family ``base`` under a gate: ``gate_logits`` (or ``gate``), and the parameters of the base.

    base: a family of counts of single elements: Poisson, NegativeBinomial, Geometric, Binomial.
    """

    base: Family = poisson

    name: ClassVar[str] = "zero_inflated"
    symbol: ClassVar[Sign] = Sign("ZeroInflated", r"\mathrm{ZI}")
    parameters: ClassVar[tuple[str, ...]] = ("gate_logits",)
    gradients: ClassVar[tuple[str, ...]] = ("score",)

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = self.base.values is COUNT or isinstance(self.base, BinomialFamily)
        if not counts or isinstance(self.base, ZeroInflatedFamily):
            raise ConfigError(f"zero_inflated: expected a family of counts, such as Poisson, got {self.base.name}.")
        settings = {  # of the class in other families; here they follow from the base
            "parameters": ("gate_logits", *self.base.parameters),
            "alternatives": {"gate": "gate_logits", **self.base.alternatives},
        }
        for name, value in settings.items():
            object.__setattr__(self, name, value)

    @property
    def values(self) -> Domain | None:  # type: ignore[override]
        """As of the base."""
        return self.base.values

    @property
    def domains(self) -> Mapping[str, Domain]:  # type: ignore[override]
        """Those of the gate and of the base."""
        return {"gate": UNIT, **self.base.domains}

    # ---------------------------------------------------------------------------------------------------- parameters

    def constrain(self, pieces: tuple[Tensor, ...], names: Sequence[str], shape: Shape | None) -> tuple[Tensor, ...]:
        """The gate's logits as they are; the rest as the base has it."""
        gate = names[0] == "gate_logits"
        rest = self.base.constrain(pieces[gate:], names[gate:], shape) if len(names) > gate else ()
        return (*pieces[:gate], *rest)

    def convert(self, name: str, value: Parameter, shape: Shape | None) -> Parameter:
        """``gate`` into logits, a tensor clamped by one epsilon; the rest as the base has it."""
        if self.alternatives.get(name, name) == "gate_logits":
            return as_logits(self, name, value)
        return self.base.convert(name, value, shape)

    def constants(self, shape: Shape) -> dict[str, Parameter]:
        """A gate of ½ and the base's, as numbers."""
        return {"gate_logits": 0.0, **self.base.constants(shape)}

    def wrong_parameters(self, given: Mapping[str, Parameter]) -> str | None:
        """As every family, and what the base says of its own."""
        own = {name: value for name, value in given.items() if self.alternatives.get(name, name) == "gate_logits"}
        rest = {name: value for name, value in given.items() if name not in own}
        return super().wrong_parameters(own) or self.base.wrong_parameters(rest)

    def _count(self, params: Params) -> Params:
        """The parameters of the base, seen with all axes of an element."""
        full = shape_of(params)
        return tuple(p.expand(full) if isinstance(p, Tensor) else p for p in params[1:])

    # ------------------------------------------------------------------------------------------------------ sampling

    def noise_shape(self, batch: Shape, shape: Shape, params: Params | None = None) -> Shape:
        """One number for the gate of an element, and the base's noise behind it, on one last axis."""
        return (*batch, *shape, 1 + math.prod(self.base.noise_shape((), ())))

    def noise(
        self, shape: Shape, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Uniform noise first on the last axis, noise of the base behind it."""
        gate = uniform((*shape[:-1], 1), dtype, device, generator)
        rest = self.base.noise((*shape[:-1], shape[-1] - 1), dtype=dtype, device=device, generator=generator)
        return torch.cat((gate, rest.to(gate.dtype)), -1)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """0 where the noise lies below the gate, else a count of the base. No gradient."""
        closed = noise[..., 0] < sigmoid(params[0].detach() if isinstance(params[0], Tensor) else params[0])
        lead = tuple(noise.shape[:-1])
        count = self.base.sample(params[1:], noise[..., 1:].reshape(self.base.noise_shape(lead, ())))
        return torch.where(closed, torch.zeros_like(count), count)

    def support_size(self, shape: Shape | None) -> int | None:
        """As of the base."""
        return self.base.support_size(shape)

    def support(self, shape: Shape) -> Tensor:
        """As of the base."""
        return self.base.support(shape)

    def mode(self, params: Params) -> Parameter:
        """0, or the base's where that is more probable."""
        like = torch.empty(shape_of(params), dtype=None if has_tensor(params) else torch.float64)
        first = next((p for p in params if isinstance(p, Tensor)), like)
        mode = torch.as_tensor(self.base.mode(params[1:]), dtype=first.dtype, device=first.device).expand(like.shape)
        zero = self.log_prob(params, torch.zeros_like(mode), 0) >= self.log_prob(params, mode, 0)
        found = torch.where(zero, 0.0, mode)
        return found if has_tensor(params) else found.item()

    def mean(self, params: Params) -> Parameter:
        """(1 - π)·m."""
        return sigmoid(-params[0]) * self.base.mean(params[1:])

    def variance(self, params: Params) -> Parameter:
        """(1 - π)·(v + π·m²)."""
        gate, *rest = params
        mean = self.base.mean(tuple(rest))
        return sigmoid(-gate) * (self.base.variance(tuple(rest)) + sigmoid(gate) * mean * mean)

    # ----------------------------------------------------------------------------------------------------- densities

    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """The log-probability of counts, summed over the last ``rank`` axes."""
        (gate,) = precise(params[:1])
        x = precise_value(self, params, value)
        gate = gate if isinstance(gate, Tensor) else torch.full_like(x, gate)
        counted = F.logsigmoid(-gate) + self.base.log_prob(precise(self._count(params)), x, 0)
        each = torch.where(x == 0.0, torch.logaddexp(F.logsigmoid(gate), counted), counted)
        return rounded(total(each, rank), value, *params)

    def wrong_value(self, value: Tensor, rank: int, params: Params | None = None) -> str | None:
        """As of the base."""
        return self.base.wrong_value(value, rank, None if params is None else self._count(params))


zero_inflated = ZeroInflatedFamily()
