"""The von Mises–Fisher distribution of a direction, the Normal of the sphere: unit vectors over an event's last axis.

    log p(x) = κ·(μᵀx - 1) - log Z(κ),          Z(κ) = |S^(D-2)|·∫ e^(κ·(cos t - 1))·sin^(D-2) t dt over [0, π]
    H        = κ·(1 - A) + log Z(κ),            A = E cos t
    KL(q‖p)  = (κ_p - κ_q)·(1 - A_q) + ½·κ_p·A_q·|μ_q - μ_p|² + log Z(κ_p) - log Z(κ_q)

t is the angle to μ, an integral over which Gauss's rule does to rounding for every κ and D, so that no Bessel function
is needed: e^κ·Z = (2π)^(D/2)·κ^(1-D/2)·I_(D/2-1)(κ). A sample turns μ by an angle that inverts the distribution
function at one number, towards a direction that Normal noise chooses, and carries the implicit gradient by κ
(Davidson et al. 2018, arXiv 1804.00891, reject; Figurnov et al. 2018, arXiv 1805.08498, is the gradient). κ = 0 is the
uniform distribution, which is the standard one here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from worldformula.errors import FormulaError, HeadError, ShapeError
from worldformula.families.base import (
    NOTHING,
    Family,
    Parameter,
    Params,
    Shape,
    has_tensor,
    require_event,
    require_same,
    shape_of,
    split_vectors,
    total,
    wide,
)
from worldformula.families.closed import register_kl
from worldformula.families.domains import DIRECTION, FINITE_FROM_0, Domain
from worldformula.families.special import (
    dtype_of,
    gauss_rule,
    implicit,
    positive,
    precise,
    precise_value,
    require_floor,
    rounded,
)
from worldformula.families.writing import Sign

WHOLE, PART = 88, 44  # nodes of the rule over all angles, and over those between a quantile and an end
WINDOW = 18.0  # standard deviations of the angle around its mode; less than 1e-17 of the mass lies outside
NEWTON_STEPS = 6  # to rounding for every size and κ


@dataclass(frozen=True)
class VonMisesFisherFamily(Family):
    """von Mises–Fisher with ``loc`` μ ``[..., D]``, a direction, and ``concentration`` κ ``[..., 1]`` of each vector.

    A head gives D numbers, whose direction is μ, and one for κ = softplus(·) + ``min_concentration``. A ``loc`` that is
    given by name is brought to length 1 too.
    """

    min_concentration: float = 0.0

    name: ClassVar[str] = "von_mises_fisher"
    symbol: ClassVar[Sign] = Sign("vMF", r"\mathrm{vMF}")
    parameters: ClassVar[tuple[str, ...]] = ("loc", "concentration")
    reparametrised: ClassVar[bool] = True
    estimator: ClassVar[str | None] = "reparametrised"
    gradients: ClassVar[tuple[str, ...]] = ("reparametrised",)
    joint: ClassVar[int | None] = 1
    values: ClassVar[Domain | None] = DIRECTION
    domains: ClassVar[Mapping[str, Domain]] = MappingProxyType({"concentration": FINITE_FROM_0})

    def check_settings(self) -> None:
        """As every family."""
        require_floor(self, "min_concentration", self.min_concentration)

    # ---------------------------------------------------------------------------------------------------- parameters

    def params(
        self, head: Tensor | Mapping[str, Parameter] | None, shape: Shape | None = None,
        fixed: Mapping[str, Parameter] = NOTHING,
    ) -> Params:  # fmt: skip
        """As every family; an event's last axis has the D ≥ 2 entries of a vector."""
        if shape is not None and (not shape or shape[-1] < 2):
            raise HeadError(f"{self.name}: an event is a vector of at least 2 entries. Declare shape=D, got {shape}.")
        loc, concentration = super().params(head, shape, fixed)
        if not isinstance(loc, Tensor) and (isinstance(concentration, Tensor) or concentration != 0.0):
            raise HeadError(f"{self.name}: a concentration around no direction. Give loc= as a vector, or leave both.")
        return loc, concentration

    def split(self, head: Tensor, shape: Shape | None, names: Sequence[str]) -> tuple[Tensor, ...]:
        """A head ``[..., *event[:-1], D + 1]``, or flat."""
        return split_vectors(self.name, head, shape, names, self._width)

    @staticmethod
    def _width(name: str, size: int) -> int:
        return size if name == "loc" else 1

    def constrain(self, pieces: tuple[Tensor, ...], names: Sequence[str], shape: Shape | None) -> tuple[Tensor, ...]:
        """The direction of loc; softplus(·) + min_concentration."""
        return tuple(
            F.normalize(wide(piece), dim=-1).to(piece.dtype)
            if name == "loc"
            else positive(piece, self.min_concentration)
            for name, piece in zip(names, pieces, strict=True)
        )

    def convert(self, name: str, value: Parameter, shape: Shape | None) -> Parameter:
        """loc at length 1; κ with one last axis, and as a number of at least 0."""
        if name == "loc":
            if not isinstance(value, Tensor) and value != 0.0:
                raise HeadError(f"{self.name}: expected loc= as a vector [..., D], got {value}.")
            return F.normalize(wide(value), dim=-1).to(value.dtype) if isinstance(value, Tensor) else value
        if not isinstance(value, Tensor):
            if not value >= 0.0:
                raise HeadError(f"{self.name}: concentration must not be negative, got {value}.")
            return value
        if value.ndim and value.shape[-1] != 1:
            raise HeadError(
                f"{self.name}: concentration is one number for each vector, [..., 1], got {list(value.shape)}. Give it "
                f"a last axis of 1: concentration[..., None]."
            )
        return value if value.ndim else value.expand((1,) * (len(shape) if shape else 1))

    def wrong_parameters(self, given: Mapping[str, Parameter]) -> str | None:
        """As every family; a vector of zeros has no direction."""
        loc = given.get("loc")
        if isinstance(loc, Tensor) and loc.ndim and loc.device.type != "meta" and bool((loc == 0.0).all(-1).any()):
            return "expected loc= other than 0, whose direction counts, got a vector of zeros"
        return super().wrong_parameters(given)

    def constants(self, shape: Shape) -> dict[str, Parameter]:
        """The uniform distribution: both 0, as numbers."""
        return {"loc": 0.0, "concentration": 0.0}

    def head_width(self, shape: Shape, fixed: Mapping[str, Parameter] = NOTHING) -> int | None:
        """prod(shape[:-1])·(D + 1)."""
        return math.prod(shape[:-1]) * sum(self._width(n, shape[-1]) for n in self.parameters if n not in fixed)

    # ------------------------------------------------------------------------------------------------------ sampling

    def noise_shape(self, batch: Shape, shape: Shape, params: Params | None = None) -> Shape:
        """One number for the angle of a vector and D for the way, on the last axis."""
        return (*batch, *shape[:-1], shape[-1] + 1)

    def noise(
        self, shape: Shape, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Standard normal noise."""
        return torch.randn(shape, dtype=dtype, device=device, generator=generator)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """μ·cos t + v·sin t, where v is the normal noise without its part along μ, at length 1."""
        loc, concentration = precise(params)
        (noise64,) = precise((noise,))
        assert isinstance(noise64, Tensor)
        way = noise64[..., 1:]
        if not isinstance(loc, Tensor):  # uniform
            return F.normalize(way, dim=-1).to(dtype_of(params, noise))
        angle = _quantile(concentration, torch.special.ndtr(noise64[..., :1]), loc.shape[-1] - 2)
        way = F.normalize(way - (way * loc).sum(-1, keepdim=True) * loc, dim=-1)
        return F.normalize(loc * angle.cos() + way * angle.sin(), dim=-1).to(dtype_of(params, noise))

    def mode(self, params: Params) -> Parameter:
        """μ."""
        if not isinstance(params[0], Tensor):
            raise FormulaError(f"{self.name}: the uniform distribution has no mode. Sample it.")
        return params[0]

    def mean(self, params: Params) -> Parameter:
        """A·μ, which lies inside of the sphere."""
        loc, concentration = precise(params)
        if not isinstance(loc, Tensor):
            return 0.0
        return rounded(loc * (1.0 - _moments(concentration, loc.shape[-1])[0]).unsqueeze(-1), *params)

    def variance(self, params: Params) -> Parameter:
        """Of each entry: E sin²t/(D - 1) across μ, Var cos t along it."""
        loc, concentration = precise(params)
        if not isinstance(loc, Tensor):
            raise FormulaError(f"{self.name}: the variance of the uniform distribution is 1/D, and D is unknown here.")
        less, sin2 = (x.unsqueeze(-1) for x in _moments(concentration, loc.shape[-1]))
        across = sin2 / (loc.shape[-1] - 1)
        return rounded(across + (less * (2.0 - less) - sin2 - across) * loc.square(), *params)

    # ----------------------------------------------------------------------------------------------------- densities

    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """The log-density over the sphere of each vector, summed over the last ``rank`` axes, the vector's included."""
        self._require_vector(rank)
        loc, concentration = precise(params)
        x = precise_value(self, params, value)
        apart = 0.5 * (x - loc).square().sum(-1)  # 1 - μᵀx of unit vectors, which rounding of their length leaves alone
        each = -apart * _scalar(concentration) - _log_mass(concentration, x.shape[-1])
        return rounded(total(each, rank - 1), value, *params)

    def entropy(self, params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """The entropy over the sphere, summed over the last ``rank`` axes, the vector's own included."""
        self._require_vector(rank)
        whole = shape_of(params) if has_tensor(params) else require_event(self, shape)
        (_, concentration), size = precise(params), whole[-1]
        each = _scalar(concentration) * _moments(concentration, size)[0] + _log_mass(concentration, size)
        found = rounded(total(each.expand(whole[:-1]), rank - 1), *params)
        return found if has_tensor(params) else found.item()

    def kl(self, q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """`kl_von_mises_fisher`."""
        return kl_von_mises_fisher(q_params, p_params, rank, shape)

    def _require_vector(self, rank: int) -> None:
        if rank < 1:
            raise ShapeError(f"{self.name}: an event is a vector, with at least one axis; declare shape=D, got ().")


von_mises_fisher = VonMisesFisherFamily()


@register_kl(VonMisesFisherFamily, VonMisesFisherFamily)
def kl_von_mises_fisher(q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
    """KL between von Mises–Fisher distributions in nats, summed over the last ``rank`` axes."""
    von_mises_fisher._require_vector(rank)
    if has_tensor(q_params) and has_tensor(p_params):
        require_same(von_mises_fisher, "q", shape_of(q_params), shape_of(p_params))
    both = (*q_params, *p_params)
    whole = shape_of(both) if has_tensor(both) else require_event(von_mises_fisher, shape)
    (q_loc, q_kappa), (p_loc, p_kappa) = precise(q_params), precise(p_params)
    less = _moments(q_kappa, whole[-1])[0]
    each = (_scalar(p_kappa) - _scalar(q_kappa)) * less + _log_mass(p_kappa, whole[-1]) - _log_mass(q_kappa, whole[-1])
    if isinstance(p_loc, Tensor) and isinstance(q_loc, Tensor):
        each = each + 0.5 * _scalar(p_kappa) * (1.0 - less) * (q_loc - p_loc).square().sum(-1)
    elif isinstance(p_loc, Tensor):  # around the centre, from which each direction is 1 away
        each = each + _scalar(p_kappa) * (1.0 - less)
    found = rounded(total(each.expand(whole[:-1]), rank - 1), *both)
    return found if has_tensor(both) else found.item()


# ------------------------------------------------------------------------------------------------ angles


def _scalar(concentration: Parameter) -> Tensor:
    """κ of each vector, without the last axis, along which it is the same where it was filled in."""
    if isinstance(concentration, Tensor):
        return concentration[..., 0]
    return torch.tensor(concentration, dtype=torch.float64)


def _window(kappa: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the angle with the density e^(κ·cos t)·sinⁿ t: the mode, the root of its curvature, and where its mass is."""
    both = n + (n * n + 4.0 * kappa.square()).sqrt() + 1e-30
    cos = 2.0 * kappa / both
    mode = torch.atan2((2.0 * n / both).sqrt(), cos)
    sharp = (kappa * cos + 0.5 * both).clamp_min(1e-3).sqrt()
    return mode, sharp, (mode - WINDOW / sharp).clamp_min(0.0), (mode + WINDOW / sharp).clamp_max(math.pi)


def _log_density(kappa: Tensor, t: Tensor, n: int) -> Tensor:
    """log e^(κ·(cos t - 1))·sinⁿ t."""
    return torch.xlogy(n, t.sin()) - 2.0 * kappa * (0.5 * t).sin().square()


def _nodes(concentration: Parameter, size: int) -> tuple[Tensor, Tensor]:
    """Angles, on a new last axis, and the logs of their parts of ∫ e^(κ·(cos t - 1))·sin^(D-2) t dt.

    What they are depends on κ, the integral does not depend on what they are; so only the density has a gradient.
    """
    kappa = _scalar(concentration)
    _, _, low, high = _window(kappa.detach(), size - 2)
    nodes, weights = gauss_rule(WHOLE, kappa)
    wide = (high - low).unsqueeze(-1)
    t = low.unsqueeze(-1) + wide * nodes
    return t, _log_density(kappa.unsqueeze(-1), t, size - 2) + (wide * weights).log()


def _log_mass(concentration: Parameter, size: int) -> Tensor:
    """log Z(κ) of each vector of ``size`` entries."""
    half = 0.5 * (size - 1)
    sphere = math.log(2.0) + half * math.log(math.pi) - math.lgamma(half)  # |S^(D-2)|
    return _nodes(concentration, size)[1].logsumexp(-1) + sphere


def _moments(concentration: Parameter, size: int) -> tuple[Tensor, Tensor]:
    """E[1 - cos t] and E[sin² t]."""
    t, logs = _nodes(concentration, size)
    shares = logs.softmax(-1)
    return (shares * 2.0 * (0.5 * t).sin().square()).sum(-1), (shares * t.sin().square()).sum(-1)


def _quantile(concentration: Parameter, noise: Tensor, n: int) -> Tensor:
    """The angle whose distribution function is ``noise``, with the implicit gradient by κ.

    Newton on the log of the mass between the angle and the nearer end, by the log of their distance, of which it is
    about linear far out; between bounds that close in.
    """
    given = concentration[..., :1] if isinstance(concentration, Tensor) else noise.new_full((), concentration)
    kappa, u = torch.broadcast_tensors(given.detach(), noise)  # type: ignore[no-untyped-call]
    mode, sharp, low, high = _window(kappa, n)

    def parts(start: Tensor, end: Tensor, count: int = PART) -> tuple[Tensor, Tensor]:
        """Angles from start to end, on a new last axis, and their parts of the mass, less a common factor."""
        nodes, weights = gauss_rule(count, u)
        t = start.unsqueeze(-1) + (end - start).unsqueeze(-1) * nodes
        logs = _log_density(kappa.unsqueeze(-1), t, n) - highest.unsqueeze(-1)
        return t, logs.exp() * weights * (end - start).abs().unsqueeze(-1)

    highest = _log_density(kappa, mode, n)
    whole_t, whole = parts(low, high, WHOLE)
    mass, below = whole.sum(-1), u < 0.5
    target, end = torch.where(below, u, 1.0 - u) * mass, torch.where(below, low, high)
    slack, least, most = 1e-9 * (high - low), low, high
    power = (2.0 * torch.where(below, u, 1.0 - u)).pow(1.0 / (n + 1))  # as the mass near an end, sinⁿ t, has it
    far = torch.where(below, power * torch.maximum(mode, 0.5 / sharp), math.pi - power * (math.pi - mode))
    t = mode + torch.special.ndtri(u) / sharp
    if n == 0:  # half a von Mises, of which only the side above 0 counts
        t = far = torch.minimum(torch.special.erfinv(u) * 2.0 / sharp, math.pi * u)
    t = torch.where(below, torch.maximum(t, far), torch.minimum(t, far)).clamp(0.0, math.pi)
    t = torch.minimum(torch.maximum(t, low), high)
    for _ in range(NEWTON_STEPS):
        found = parts(end, t)[1].sum(-1).clamp_min(1e-300)
        beyond = torch.where(below, found > target, found < target)
        least, most = torch.where(beyond, least, t), torch.where(beyond, t, most)
        density = (_log_density(kappa, t, n) - highest).exp().clamp_min(1e-300)
        near = torch.where(below, t, math.pi - t).clamp_min(1e-300)
        near = near * (found * (target / found).log() / (density * near)).clamp(-2.0, 2.0).exp()
        new = torch.where(below, near, math.pi - near)
        held = (new >= least - slack) & (new <= most + slack)
        t = torch.where(held, torch.minimum(torch.maximum(new, least), most), 0.5 * (least + most))
    if not (isinstance(concentration, Tensor) and torch.is_grad_enabled()):
        return t
    less = (whole * 2.0 * (0.5 * whole_t).sin().square()).sum(-1) / mass
    at, part = parts(end, t)
    change = (part * (less.unsqueeze(-1) - 2.0 * (0.5 * at).sin().square())).sum(-1)
    slope = torch.where(below, -change, change) / (_log_density(kappa, t, n) - highest).exp().clamp_min(1e-300)
    return implicit(t, slope, given)
