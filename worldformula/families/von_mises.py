"""The von Mises distribution of an angle, the Normal of the circle; independent over the axes of an event.

    log p(x) = κ·(cos(x - loc) - 1) - log 2π·Ĩ_0(κ),          Ĩ_j(κ) = e^(-κ)·I_j(κ)
    H        = κ·(1 - A(κ)) + log 2π·Ĩ_0(κ),                  A = I_1/I_0
    KL(q‖p)  = log Ĩ_0(κ_p)/Ĩ_0(κ_q) + (κ_p - κ_q)·(1 - A(κ_q)) + 2·κ_p·A(κ_q)·sin² ½(loc_q - loc_p)

each summed over the event. Samples invert the distribution function at uniform noise and carry the implicit gradient
(Figurnov et al., arXiv 1805.08498). The density is periodic; a sample lies within π of loc and is *not* wrapped to one
turn, as a jump at its end would bias the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from worldformula.errors import HeadError, NoClosedFormError
from worldformula.families.base import (
    Family,
    Parameter,
    Params,
    Shape,
    has_tensor,
    require_same,
    shape_of,
    total,
    uniform,
    widen,
)
from worldformula.families.closed import register_kl
from worldformula.families.domains import FINITE_FROM_0, REAL, Domain
from worldformula.families.special import (
    dtype_of,
    implicit,
    inside,
    log,
    positive,
    precise,
    precise_value,
    require_floor,
    rounded,
    summed,
)
from worldformula.families.writing import Sign

LOG_2PI = math.log(2.0 * math.pi)
NODES = 32  # of the quadrature of the distribution function
NEWTON_STEPS = 8


@dataclass(frozen=True)
class VonMisesFamily(Family):
    """von Mises with parameters ``loc``, in radians, and ``concentration`` κ (0 is uniform on the circle).

    Of a head, κ = softplus(·) + ``min_concentration``.
    """

    min_concentration: float = 0.0

    name: ClassVar[str] = "von_mises"
    symbol: ClassVar[Sign] = Sign("VonMises", r"\mathrm{vM}")
    parameters: ClassVar[tuple[str, ...]] = ("loc", "concentration")
    reparametrised: ClassVar[bool] = True
    estimator: ClassVar[str | None] = "reparametrised"
    gradients: ClassVar[tuple[str, ...]] = ("reparametrised",)
    values: ClassVar[Domain | None] = REAL
    domains: ClassVar[Mapping[str, Domain]] = MappingProxyType({"concentration": FINITE_FROM_0})

    def check_settings(self) -> None:
        """As every family."""
        require_floor(self, "min_concentration", self.min_concentration)

    def constrain(self, pieces: tuple[Tensor, ...], names: Sequence[str], shape: Shape | None) -> tuple[Tensor, ...]:
        """softplus(·) + min_concentration for κ; loc as it is."""
        return pieces if names[-1] == "loc" else (*pieces[:-1], positive(pieces[-1], self.min_concentration))

    def convert(self, name: str, value: Parameter, shape: Shape | None) -> Parameter:
        """A concentration that is a number must not be negative."""
        if name == "concentration" and isinstance(value, float) and not value >= 0.0:
            raise HeadError(f"von_mises: concentration must not be negative, got {value}.")
        return value

    def constants(self, shape: Shape) -> dict[str, Parameter]:
        """loc 0, concentration 1, as numbers."""
        return {"loc": 0.0, "concentration": 1.0}

    def noise(
        self, shape: Shape, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Uniform noise in [0, 1)."""
        return uniform(shape, dtype, device, generator)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """loc + the quantile of the noise, in [loc - π, loc + π], in the parameters' dtype."""
        loc, concentration = params
        return loc + _quantile(widen((concentration,))[0], noise).to(dtype_of(params, noise))

    def mode(self, params: Params) -> Parameter:
        """loc."""
        return params[0]

    def mean(self, params: Params) -> Parameter:
        """loc: the mean of the samples, which lie around it, and the direction of the mean on the circle."""
        return params[0]

    def variance(self, params: Params) -> Parameter:
        """None in closed form, of an angle within π of loc; the spread on the circle is another number."""
        raise NoClosedFormError(
            "von_mises: the variance of an angle has no closed form. Take that of samples; the spread on the circle is "
            "1 - I_1(κ)/I_0(κ)."
        )

    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """The log-density of angles in radians, of any turn, summed over the last ``rank`` axes."""
        loc, concentration = precise(params)
        half = (0.5 * (precise_value(self, params, value) - loc)).sin()  # cos d - 1 = -2·sin² d/2, without cancellation
        each = -2.0 * concentration * half * half - log(_bessel(concentration)[0]) - LOG_2PI
        return rounded(total(each, rank), value, *params)

    def entropy(self, params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """The entropy, summed over the last ``rank`` axes."""
        wide = precise(params)
        i0, i1 = _bessel(wide[1])
        each = wide[1] * (1.0 - i1 / i0) + log(i0) + LOG_2PI
        return rounded(summed(self, each, wide, rank, shape), *params)

    def kl(self, q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """`kl_von_mises`."""
        return kl_von_mises(q_params, p_params, rank, shape)


von_mises = VonMisesFamily()


@register_kl(VonMisesFamily, VonMisesFamily)
def kl_von_mises(q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
    """KL between von Mises distributions in nats, summed over the last ``rank`` axes."""
    if has_tensor(q_params) and has_tensor(p_params):
        require_same(von_mises, "q", shape_of(q_params), shape_of(p_params))
    q, p = precise(q_params), precise(p_params)
    (q0, q1), (p0, _) = _bessel(q[1]), _bessel(p[1])
    turn, share = 0.5 * (q[0] - p[0]), q1 / q0
    half = turn.sin() if isinstance(turn, Tensor) else math.sin(turn)
    each = log(p0) - log(q0) + (p[1] - q[1]) * (1.0 - share) + 2.0 * p[1] * share * half * half
    return rounded(summed(von_mises, each, (*q, *p), rank, shape), *q_params, *p_params)


def _bessel(x: Parameter) -> tuple[Parameter, Parameter]:
    """e^(-x)·I_0(x) and e^(-x)·I_1(x), for x >= 0."""
    if isinstance(x, Tensor):
        x = x + 1e-30  # torch takes the slope of the even e^(-|x|) at 0, which is not the one from above
        return torch.special.i0e(x), torch.special.i1e(x)
    n = 40 + 8 * int(math.sqrt(x))  # the mean of a periodic function over even steps: exact to rounding
    cosines = [math.cos(2.0 * math.pi * k / n) for k in range(n)]
    weights = [math.exp(x * (c - 1.0)) / n for c in cosines]
    return math.fsum(weights), math.fsum(w * c for w, c in zip(weights, cosines, strict=True))


# ------------------------------------------------------------------------------------------------ quantiles


def _quantile(concentration: Parameter, noise: Tensor) -> Tensor:
    """The angle, around 0, whose distribution function is ``noise``; with the implicit gradient by κ, in float64.

    By symmetry the half [0, π] does. Its density falls, so Newton is monotone on the mass of [0, x] below the median,
    and on the logarithm of the mass of [x, π] above.
    """
    kappa = concentration.detach().double() if isinstance(concentration, Tensor) else noise.new_full(
        (), concentration, dtype=torch.float64
    )  # fmt: skip
    centred = 2.0 * inside(noise).double() - 1.0
    share, bessel = centred.abs(), torch.special.i0e(kappa)
    mass = math.pi * bessel
    x = torch.minimum(share * math.pi, torch.special.erfinv(share) * (2.0 / kappa.clamp_min(1e-9)).sqrt())
    for _ in range(NEWTON_STEPS):
        inner, _ = _integrals(kappa, x)
        density = (kappa * (x.cos() - 1.0)).exp()
        outer = (mass - inner).clamp_min(1e-300)
        rest = (1.0 - share) * mass
        step = torch.where(share < 0.5, share * mass - inner, outer * (outer / rest).log()) / density.clamp_min(1e-300)
        x = torch.minimum((x + step).clamp_min(0.0), share * math.pi)
    if not (isinstance(concentration, Tensor) and torch.is_grad_enabled()):
        return torch.copysign(x, centred)
    _, by_kappa = _integrals(kappa, x)
    by_kappa = by_kappa - share * math.pi * (torch.special.i1e(kappa) - bessel)  # of the mass of [0, x] less its share
    slope = -by_kappa / (kappa * (x.cos() - 1.0)).exp()
    sign = torch.sign(centred)
    return implicit(sign * x, sign * slope, concentration.double())


def _integrals(kappa: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """∫ e^(κ·(cos t - 1)) dt over [0, x] and its derivative by κ, by Fejér's first rule."""
    k = torch.arange(NODES, dtype=x.dtype, device=x.device)
    angle = (k + 0.5) * (math.pi / NODES)
    j = torch.arange(1, NODES // 2 + 1, dtype=x.dtype, device=x.device).unsqueeze(-1)
    weight = (1.0 - 2.0 * ((2.0 * j * angle).cos() / (4.0 * j * j - 1.0)).sum(0)) / NODES  # of the interval [0, 1]
    fall = (x.unsqueeze(-1) * (0.5 - 0.5 * angle.cos())).cos() - 1.0
    terms = weight * (kappa.unsqueeze(-1) * fall).exp()
    return x * terms.sum(-1), x * (terms * fall).sum(-1)
