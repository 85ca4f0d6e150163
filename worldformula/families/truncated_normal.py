"""The Normal distribution that is held between two ends, low < x < high; independent over the axes of an event.

    log p(x) = log N(x; loc, scale²) − log Z,    Z = Φ(b) − Φ(a),  a = (low − loc)/scale,  b = (high − loc)/scale
    H        = log scale + ½·log 2πe + log Z + (a·φ(a) − b·φ(b)) / 2Z

each summed over the event; mean loc + scale·(φ(a) − φ(b))/Z. A sample is loc + scale·Φ⁻¹(Φ(a) + u·Z) of uniform u, and
differentiable. With loc on the wrong side of an end, all is computed in the lower tail, where Φ keeps its digits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from worldformula.errors import ConfigError
from worldformula.families.base import Parameter, Params, Shape, total, uniform
from worldformula.families.domains import REAL, Domain, told
from worldformula.families.loc_scale import LocScaleFamily
from worldformula.families.special import (
    HALF_LOG_2PI,
    dtype_of,
    gauss_rule,
    inside,
    precise,
    precise_value,
    rounded,
    summed,
)
from worldformula.families.writing import Sign

SPREAD = Domain("greater than 0 and finite", lambda x: (x > 0) & x.isfinite())
DEPTH = 40.0  # by which the log-density is below its top where an integral over it ends
NOTHING = 40.0  # deviations from the middle: Φ(-40) is 4e-350


@dataclass(frozen=True)
class TruncatedNormalFamily(LocScaleFamily):
    """Normal between ``low`` and ``high`` with parameters ``loc`` and ``scale`` of the Normal that is cut.

    Of a head, scale = softplus(·) + ``min_scale``.
    """

    low: float = -1.0
    high: float = 1.0

    name: ClassVar[str] = "truncated_normal"
    symbol: ClassVar[Sign] = Sign("TruncatedNormal", r"\mathrm{TruncatedNormal}")
    domains: ClassVar[Mapping[str, Domain]] = MappingProxyType({"loc": REAL, "scale": SPREAD})

    def check_settings(self) -> None:
        """As every family; low is below high."""
        super().check_settings()
        if not self.low < self.high:
            raise ConfigError(f"truncated_normal: expected low below high, got {self.low} and {self.high}")

    @property
    def _ends_known(self) -> bool:
        """Whether both ends are numbers, and none is given by the call."""
        return isinstance(self.low, int | float) and isinstance(self.high, int | float)

    def constants(self, shape: Shape) -> dict[str, Parameter]:
        """loc in the middle, scale half the width, as numbers.

        Raises:
            ConfigError: the call gives an end, or one is infinite, so that neither is known.
        """
        if not self._ends_known:
            raise ConfigError(
                "truncated_normal: the call gives an end, and loc and scale hang on it: write loc=, scale="
            )
        if not math.isfinite(self.high - self.low):
            raise ConfigError(
                f"truncated_normal: between {self.low:g} and {self.high:g} there is no middle: write loc=, scale="
            )
        return {"loc": 0.5 * (self.low + self.high), "scale": 0.5 * (self.high - self.low)}

    def noise(
        self, shape: Shape, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Uniform noise in [0, 1)."""
        return uniform(shape, dtype, device, generator)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """loc + scale·Φ⁻¹(Φ(a) + u·Z), between the ends."""
        cut = _Cut.of(self, params)
        u = inside(noise).double()
        u = torch.where(cut.turned, 1.0 - u, u)
        # Φ(a) + u·Z by its logarithm, so that a far tail does not vanish.
        level = torch.logaddexp(cut.lower, torch.log(u) + cut.mass)
        z = torch.where(cut.turned, -1.0, 1.0) * _quantile(level)
        return (cut.loc + cut.scale * z).clamp(min=self.low).clamp(max=self.high).to(dtype_of(params, noise))

    def mode(self, params: Params) -> Parameter:
        """loc, or the end that is nearest to it."""
        loc = params[0]
        if isinstance(loc, Tensor):
            return loc.clamp(min=self.low).clamp(max=self.high) + 0.0 * params[1]
        return min(max(loc, self.low), self.high)

    def mean(self, params: Params) -> Parameter:
        """loc + scale·(φ(a) − φ(b))/Z."""
        cut = _Cut.of(self, params)
        tilt = (cut.near.exp() - cut.far.exp()) * torch.where(cut.turned, -1.0, 1.0)
        return _as_given(cut.loc + cut.scale * tilt, params)

    def variance(self, params: Params) -> Parameter:
        """∫ (x - mean)²·p(x) dx by Gauss's rule, which keeps the digits of a narrow piece and of a far tail."""
        loc, scale = (torch.as_tensor(p, dtype=torch.float64) for p in precise(params))
        low, high = (_near(end, loc, scale) for end in (self.low, self.high))
        top = ((torch.minimum(torch.maximum(loc, low), high) - loc) / scale).detach()
        reach = 2.0 * DEPTH / ((top.square() + 2.0 * DEPTH).sqrt() + top.abs())
        low = torch.maximum(low, (loc + scale * (top - reach)).detach()).unsqueeze(-1)
        high = torch.minimum(high, (loc + scale * (top + reach)).detach()).unsqueeze(-1)
        nodes, weights = gauss_rule(88, loc)
        x = low + (high - low) * nodes
        z = (x - loc.unsqueeze(-1)) / scale.unsqueeze(-1)
        shares = (weights.log() - 0.5 * z.square()).softmax(-1)
        apart = x - (shares * x).sum(-1, keepdim=True)
        return _as_given((shares * apart.square()).sum(-1), params)

    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """The log-density, summed over the last ``rank`` axes; -∞ where the value lies outside."""
        cut = _Cut.of(self, params)
        x = precise_value(self, params, value)
        z = (x - cut.loc) / cut.scale
        each = 0.5 * z * z + cut.scale.log() + HALF_LOG_2PI + cut.mass
        outside = (x < self.low) | (x > self.high)
        return rounded(-total(torch.where(outside, math.inf, each), rank), value, *params)

    def wrong_value(self, value: Tensor, rank: int, params: Params | None = None) -> str | None:
        """A value beyond an end."""
        if not self._ends_known:
            return None  # an end that the call gives: what lies beyond it has the density 0
        between = Domain(f"between {self.low:g} and {self.high:g}", lambda x: (x >= self.low) & (x <= self.high))
        fault = told(between, value, missing=True)
        return None if fault is None else f"truncated_normal: expected a value {fault}"

    def entropy(self, params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """The entropy, summed over the last ``rank`` axes."""
        cut = _Cut.of(self, params)
        bent = 0.5 * (cut.a * cut.near.exp() - cut.b * cut.far.exp())
        each = _as_given(cut.scale.log() + 0.5 + HALF_LOG_2PI + cut.mass + bent, params)
        return rounded(summed(self, each, precise(params), rank, shape), *params)


def _near(end: Parameter, loc: Tensor, scale: Tensor) -> Tensor:
    """An end; an infinite one where nothing is left behind it in float64, as its gradient would be NaN."""
    given = torch.as_tensor(end, dtype=torch.float64, device=loc.device)
    return torch.where(given.isinf(), (loc + given.sign() * NOTHING * scale).detach(), given)


@dataclass(frozen=True)
class _Cut:
    """What the ends cut off, in float64, mirrored where loc lies below the middle: a < b, and Φ(a) is not near 1.

    near, far: log φ(a)/Z and log φ(b)/Z. lower: log Φ(a). mass: log Z. turned: where it was mirrored.
    """

    loc: Tensor
    scale: Tensor
    a: Tensor
    b: Tensor
    lower: Tensor
    mass: Tensor
    near: Tensor
    far: Tensor
    turned: Tensor

    @classmethod
    def of(cls, family: TruncatedNormalFamily, params: Params) -> _Cut:
        loc, scale = (torch.as_tensor(p, dtype=torch.float64) for p in precise(params))
        turned = loc < 0.5 * (family.low + family.high)
        low, high = (_near(end, loc, scale) for end in (family.low, family.high))
        below, above = (low - loc) / scale, (high - loc) / scale
        a, b = torch.where(turned, -above, below), torch.where(turned, -below, above)
        lower, upper = _log_cdf(a), _log_cdf(b)
        mass = upper + torch.log(-torch.expm1(lower - upper))
        near, far = (-0.5 * end.square() - HALF_LOG_2PI - mass for end in (a, b))
        return cls(loc, scale, a, b, lower, mass, near, far, turned)


def _log_cdf(z: Tensor) -> Tensor:
    """log Φ(z), also far below 0."""
    low = z.clamp_max(0.0)
    below = torch.log(0.5 * torch.special.erfcx(low * -math.sqrt(0.5))) - 0.5 * low.square()
    return torch.where(z < 0.0, below, torch.log1p(-0.5 * torch.erfc(z.clamp_min(0.0) * math.sqrt(0.5))))


def _quantile(level: Tensor) -> Tensor:
    """z where log Φ(z) = ``level``."""
    found: Tensor = torch.special.ndtri(level.exp().clamp(1e-300, 1.0 - 1e-16))
    return found


def _as_given(x: Tensor, params: Params) -> Parameter:
    """A number where all parameters are numbers, else in their type."""
    return rounded(x, *params) if any(isinstance(p, Tensor) for p in params) else float(x)


truncated_normal = TruncatedNormalFamily()
