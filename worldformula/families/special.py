"""Special functions that families share, each for a tensor and for a Python float, and quantiles with a gradient.

A parameter may be a float, so `log`, `lgamma` and their like take both: a closed form is then written once, and is a
float where every parameter is. The quantiles invert a distribution function numerically, in float64, a fixed number
of Newton steps from a good start: a sample is a function of one uniform number that is smooth in the parameters.
"""

from __future__ import annotations

import math
from functools import reduce
from typing import Any, overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldformula.errors import ConfigError, HeadError
from worldformula.families.base import (
    Family,
    Parameter,
    Params,
    Shape,
    has_tensor,
    require_event,
    require_same,
    shape_of,
    total,
)
from worldformula.families.tensors import finite, floating, is_number, wide

HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
NEWTON_STEPS = 4  # of `log_gamma_quantile`: below the rounding of float32 for shapes from 1e-4 to 1e6
GAUSS = {n: tuple(x.tolist() for x in np.polynomial.legendre.leggauss(n)) for n in (44, 88)}  # nodes and weights
SEARCH_STEPS = 20  # halvings of `poisson_quantile`: enough up to rates of 1e9


def log(x: Parameter) -> Parameter:
    """The natural logarithm."""
    return x.log() if isinstance(x, Tensor) else math.log(x)


def exp(x: Parameter) -> Parameter:
    """e to the power of x."""
    return x.exp() if isinstance(x, Tensor) else math.exp(x)


@overload
def sigmoid(x: float) -> float: ...


@overload
def sigmoid(x: Parameter) -> Parameter: ...


def sigmoid(x: Parameter) -> Parameter:
    """1/(1 + e^-x) of a tensor or a number, which overflows nowhere."""
    if isinstance(x, Tensor):
        return x.sigmoid()
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0.0 else math.exp(x) / (1.0 + math.exp(x))


def relu(x: Parameter) -> Parameter:
    """max(x, 0)."""
    return x.clamp_min(0.0) if isinstance(x, Tensor) else max(x, 0.0)


def log1p(x: Parameter) -> Parameter:
    """log(1 + x)."""
    return x.log1p() if isinstance(x, Tensor) else math.log1p(x)


def log1p_less(x: Parameter) -> Parameter:
    """log(1 + x) - x, also where that is about -½·x²: near 0 by the series of 2·artanh x/(2+x)."""
    if not isinstance(x, Tensor):
        r = x / (2.0 + x)
        return _artanh_rest(r * r) * r - r * x if abs(x) < 0.2 else (math.log1p(x) - x if x > -1.0 else -math.inf)
    near = x.abs() < 0.2
    close, far = torch.where(near, x, 0.0), torch.where(near, 0.5, x)
    root = close / (2.0 + close)
    return torch.where(near, _artanh_rest(root * root) * root - root * close, far.log1p() - far)


def _artanh_rest(s: Any) -> Any:
    """2·(artanh r - r)/r, s = r²."""
    return (
        2.0
        * s
        * (1 / 3 + s * (1 / 5 + s * (1 / 7 + s * (1 / 9 + s * (1 / 11 + s * (1 / 13 + s * (1 / 15 + s / 17)))))))
    )


def lgamma(x: Parameter) -> Parameter:
    """log Γ(x)."""
    return x.lgamma() if isinstance(x, Tensor) else math.lgamma(x)


def digamma(x: Parameter) -> Parameter:
    """The derivative of log Γ, for x > 0."""
    if isinstance(x, Tensor):
        return x.digamma()
    result = 0.0
    while x < 10.0:  # ψ(x) = ψ(x + 1) - 1/x, up to where the asymptotic series is exact
        result -= 1.0 / x
        x += 1.0
    s = 1.0 / (x * x)
    series = s * (1 / 12 - s * (1 / 120 - s * (1 / 252 - s * (1 / 240 - s * (1 / 132 - s * (691 / 32760 - s / 12))))))
    return result + math.log(x) - 0.5 / x - series


def log_beta(a: Parameter, b: Parameter) -> Parameter:
    """log B(a, b) = log Γ(a) + log Γ(b) - log Γ(a + b), without the cancellation of that difference.

    With log Γ(x) = (x - ½)·log x - x + ½·log 2π + R(x) the large parts cancel on paper (Didonato and Morris 1992, *ACM
    TOMS* 18, algorithm 708):

        log B(a, b) = (a - ½)·log a/(a+b) + b·log b/(a+b) - ½·log b + ½·log 2π + R(a) + R(b) - R(a+b)
    """
    both = a + b
    logs = (0.5 - a) * log1p(b / a) - b * log1p(a / b) - 0.5 * log(b)
    return logs + HALF_LOG_2PI + (stirling_rest(a) + stirling_rest(b) - stirling_rest(both))


def stirling_rest(x: Parameter) -> Parameter:
    """R(x) = log Γ(x) - (x - ½)·log x + x - ½·log 2π, about 1/12x: by its series for x >= 10, else as it stands."""
    if not isinstance(x, Tensor):
        return _series(x) if x >= 10.0 else math.lgamma(x) - (x - 0.5) * math.log(x) + x - HALF_LOG_2PI
    large, low = x >= 10.0, x.clamp_max(10.0)
    direct = low.lgamma() - (low - 0.5) * low.log() + low - HALF_LOG_2PI
    return torch.where(large, _series(x.clamp_min(10.0)), direct)


def _series(x: Any) -> Any:
    s = 1.0 / (x * x)
    return (
        1 / 12 - s * (1 / 360 - s * (1 / 1260 - s * (1 / 1680 - s * (1 / 1188 - s * (691 / 360360 - s / 156)))))
    ) / x


def precise(params: Params) -> Params:
    """Parameters in float64, for what is a small difference of large terms; as they are where a device has no float64.

    The result goes back by `rounded`.
    """
    return tuple(p.double() if isinstance(p, Tensor) and p.device.type != "mps" else p for p in params)


def precise_value(family: Family, params: Params, value: Tensor) -> Tensor:
    """`matching`, in float64."""
    (found,) = precise((matching(family, params, value),))
    assert isinstance(found, Tensor)
    return found


@overload
def rounded(x: Tensor, *like: object) -> Tensor: ...


@overload
def rounded(x: Parameter, *like: object) -> Parameter: ...


def rounded(x: Parameter, *like: object) -> Parameter:
    """What was computed in float64, in the type, at least float32, of the tensors that it was computed from."""
    types = [wide(p).dtype for p in like if isinstance(p, Tensor) and p.is_floating_point()]
    if not isinstance(x, Tensor) or not types:
        return x
    return x.to(reduce(torch.promote_types, types))


def summed(family: Family, each: Parameter, params: Params, rank: int, shape: Shape | None) -> Parameter:
    """A closed form ``each`` of one element, summed over the last ``rank`` axes that ``params`` have together.

    ``shape``, the event's, is read only where all parameters are floats; the result is then a float.
    """
    if isinstance(each, Tensor):
        full = shape_of(params)
        return total(each if tuple(each.shape) == full else each.expand(full), rank)
    if not has_tensor(params):
        return each * math.prod(require_event(family, shape))
    like, full = next(p for p in params if isinstance(p, Tensor)), shape_of(params)
    return like.new_full(full[: len(full) - rank], each * math.prod(full[len(full) - rank :]))


def implicit(value: Tensor, slope: Tensor, parameter: Tensor) -> Tensor:
    """``value``, a constant to autograd, with the derivative ``slope`` by a parameter."""
    # The bracket is exactly zero.
    return value + slope * (parameter - parameter.detach())


def gauss_rule(count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss and Legendre on [0, 1]."""
    nodes, weights = (torch.tensor(x, dtype=like.dtype, device=like.device) for x in GAUSS[count])
    return 0.5 + 0.5 * nodes, 0.5 * weights


# ------------------------------------------------------------------------------------------------ parameters, values


def dtype_of(params: Params, noise: Tensor) -> torch.dtype:
    """The dtype of a sample: the parameters', or the noise's where all of them are floats."""
    return next((p.dtype for p in params if isinstance(p, Tensor)), noise.dtype)


def require_positive(family: Family, name: str, value: Parameter) -> Parameter:
    """The parameter; raises `HeadError` where it is a number that is not positive."""
    if isinstance(value, float) and not value > 0.0:
        raise HeadError(f"{family.name}: {name} must be positive, got {value}.")
    return value


def require_floor(family: Family, name: str, floor: float) -> None:
    """Raise `ConfigError` where the least value that a head may give, an option of the family, is negative."""
    if not floor >= 0.0:
        raise ConfigError(f"{family.name}: {name} must not be negative, got {floor}.")


def positive(x: Tensor, floor: Parameter) -> Tensor:
    """softplus(x) + floor: a piece of a head as a positive parameter."""
    x = F.softplus(x)
    return x if is_number(floor, 0.0) else x + floor


def as_logits(family: Family, name: str, value: Parameter) -> Parameter:
    """``probs``, or a ``gate``, as logits, a tensor clamped by one epsilon from 0 and 1.

    Infinite logits become the largest finite ones.
    """
    if name not in ("probs", "gate"):
        return finite(value) if isinstance(value, Tensor) else value
    if isinstance(value, Tensor):
        return torch.logit(wide(value), eps=torch.finfo(wide(value).dtype).eps)
    if not 0.0 < value < 1.0:
        raise HeadError(f"{family.name}: {name} as a number must lie strictly between 0 and 1, got {value}.")
    return math.log(value) - math.log1p(-value)


def matching(family: Family, params: Params, value: Tensor) -> Tensor:
    """The value as `wide` floating point; raises `ShapeError` where its shape is not that of the parameters."""
    if has_tensor(params):
        require_same(family, "the value", value.shape, shape_of(params))
    return floating(value, next((p for p in params if isinstance(p, Tensor)), 0.0))


# ------------------------------------------------------------------------------------------------ Gamma quantiles


def log_gamma_quantile(shape: Parameter, noise: Tensor) -> Tensor:
    """log x where P(shape, x) = ``noise``: the log of a Gamma(shape, 1) sample of uniform noise in [0, 1).

    The logarithm, because samples of a small shape underflow. The gradient by the shape is the implicit one,
    ``-∂P/∂shape / density`` (Figurnov et al., *Implicit Reparameterization Gradients*, arXiv 1805.08498), by a central
    difference in float64 whose error is about 1e-8 of the value.
    """
    dtype = torch.promote_types(noise.dtype, shape.dtype) if isinstance(shape, Tensor) else noise.dtype
    a = shape.detach().double() if isinstance(shape, Tensor) else noise.new_full((), shape, dtype=torch.float64)
    y = _solve_log_gamma(a, inside(noise).double())
    if not (isinstance(shape, Tensor) and torch.is_grad_enabled()):
        return y.to(dtype)
    step = 1e-5 * a / (1.0 + a).sqrt()
    below, above = _log_cdf(a - step, y), _log_cdf(a + step, y)
    slope = -(above - below) / (2.0 * step) * (_log_cdf(a, y) - _log_density(a, y)).exp()
    return implicit(y.to(dtype), slope.to(dtype), shape.to(dtype))


def inside(noise: Tensor) -> Tensor:
    """Uniform noise in [0, 1) without its 0: a quarter of an epsilon instead, half the distance of `torch.rand`'s."""
    return noise.detach().clamp_min(0.25 * torch.finfo(noise.dtype).eps)


def _solve_log_gamma(a: Tensor, u: Tensor) -> Tensor:
    """Newton on log P below the median and on log (1 - P) above: both concave in log x, so it cannot run away."""
    upper = u > 0.5
    target = torch.where(upper, torch.log1p(-u), u.log())
    # The start: Wilson and Hilferty (1931); for small shapes a power of x below 1 and an exponential above.
    root = 1.0 - 1.0 / (9.0 * a) + torch.special.ndtri(u) / (3.0 * a.sqrt())
    one = torch.special.gammainc(a, torch.ones_like(a))
    tail = torch.log1p(-torch.log1p(-(u - one).clamp_min(0.0) / (1.0 - one)))
    small = torch.where(u < one, (u.log() - one.log()) / a, tail)
    y = torch.where((a > 1.0) & (root > 0.2), a.log() + 3.0 * root.clamp_min(0.2).log(), small)
    for _ in range(NEWTON_STEPS):
        log_p, log_density = _log_cdf(a, y), _log_density(a, y)
        log_q = torch.log(-torch.expm1(log_p.clamp_max(-1e-16)))
        log_tail = torch.where(upper, log_q, log_p)
        step = (target - log_tail) * (log_tail - log_density).exp()
        y = y + torch.where(upper, -step, step).clamp(-2.0, 2.0)
    return y


def _log_cdf(a: Tensor, y: Tensor) -> Tensor:
    """log P(a, e^y), where e^y may underflow."""
    x = y.exp()
    series = a * y - torch.lgamma(a + 1.0) - x * a / (a + 1.0)
    return torch.where(x < 1e-8, series, torch.special.gammainc(a, x.clamp_min(1e-9)).clamp_min(1e-300).log())


def _log_density(a: Tensor, y: Tensor) -> Tensor:
    """The log-density of y = log x."""
    return a * y - y.exp() - torch.lgamma(a)


# ------------------------------------------------------------------------------------------------ Poisson quantiles


def poisson_quantile(rate: Tensor, noise: Tensor) -> Tensor:
    """The smallest count k with P(X <= k) > ``noise``, in float64: a Poisson sample of uniform noise. No gradient.

    P(X <= k) is the incomplete Gamma function Q(k + 1, rate); Bernstein's bounds of the tails start the halving.
    """
    rate, noise = torch.broadcast_tensors(rate.detach().double(), noise.double())  # type: ignore[no-untyped-call]
    spread = (75.0 * rate).sqrt()
    low = (rate - spread).floor().clamp_min(0.0)
    high = (rate + spread).ceil() + 40.0
    for _ in range(SEARCH_STEPS):
        middle = ((low + high) * 0.5).floor()
        beyond = torch.special.gammaincc(middle + 1.0, rate) > noise
        low, high = torch.where(beyond, low, middle + 1.0), torch.where(beyond, middle, high)
    return high
