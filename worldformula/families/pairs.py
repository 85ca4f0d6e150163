"""Closed KLs between two different families; `worldformula.families.base.kl_pair` finds them.

Of a q against a Normal p only the entropy and two moments count:

    KL(q‖N(μ, σ²)) = ½·log 2πσ² + (var_q + (mean_q - μ)²)/2σ² - H(q)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from worldformula.families.base import Family, Parameter, Params, Shape, has_tensor, require_same, shape_of, widen
from worldformula.families.bernoulli import BernoulliFamily, bernoulli
from worldformula.families.beta import BetaFamily, beta
from worldformula.families.closed import register_kl
from worldformula.families.gamma import GammaFamily, gamma
from worldformula.families.laplace import LaplaceFamily, laplace
from worldformula.families.normal import NormalFamily, normal
from worldformula.families.poisson import PoissonFamily
from worldformula.families.special import exp, log, log_beta, precise, rounded, summed
from worldformula.families.uniform import UniformFamily, uniform

HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


def _less_entropy(
    family: Family, cross: Parameter, q: Params, p: Params, rank: int, shape: Shape | None
) -> Parameter:  # fmt: skip
    """The cross-entropy ``cross`` of one element, summed over the event, minus the entropy of q."""
    if has_tensor(q) and has_tensor(p):
        require_same(family, "q", shape_of(q), shape_of(p))
    full = shape_of((*q, *p))
    event = full[len(full) - rank :] if has_tensor((*q, *p)) else shape
    return summed(family, cross, (*q, *p), rank, shape) - family.entropy(q, rank, event)


def _in_normal(mean: Parameter, variance: Parameter, p: Params) -> Parameter:
    """The cross-entropy of one element against a Normal, from the moments of q."""
    loc, scale = p
    distance = mean - loc
    return HALF_LOG_2PI + log(scale) + 0.5 * (variance + distance * distance) / (scale * scale)


@register_kl(LaplaceFamily, NormalFamily)
def kl_laplace_normal(q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
    """KL of a Laplace from a Normal, summed over the last ``rank`` axes."""
    q, p = widen(q_params), widen(p_params)
    return _less_entropy(laplace, _in_normal(q[0], 2.0 * q[1] * q[1], p), q, p, rank, shape)


@register_kl(UniformFamily, NormalFamily)
def kl_uniform_normal(q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
    """KL of a uniform from a Normal, summed over the last ``rank`` axes."""
    q, p = widen(q_params), widen(p_params)
    width = q[1] - q[0]
    return _less_entropy(uniform, _in_normal(uniform.mean(q), width * width / 12.0, p), q, p, rank, shape)


@register_kl(GammaFamily, NormalFamily)
def kl_gamma_normal(q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
    """KL of a Gamma from a Normal, summed over the last ``rank`` axes."""
    q, p = widen(q_params), widen(p_params)
    return _less_entropy(gamma, _in_normal(gamma.mean(q), q[0] / (q[1] * q[1]), p), q, p, rank, shape)


@register_kl(BetaFamily, NormalFamily)
def kl_beta_normal(q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
    """KL of a Beta from a Normal, summed over the last ``rank`` axes."""
    q, p = widen(q_params), widen(p_params)
    both = q[0] + q[1]
    variance = q[0] * q[1] / (both * both * (both + 1.0))
    return _less_entropy(beta, _in_normal(beta.mean(q), variance, p), q, p, rank, shape)


@register_kl(BetaFamily, UniformFamily)
def kl_beta_uniform(q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
    """KL of a Beta from a uniform, summed over the last ``rank`` axes; ∞ where p does not cover [0, 1]."""
    q, p = widen(q_params), widen(p_params)
    low, high = p
    cross: Parameter = log(high - low)
    outside = (low > 0.0) | (high < 1.0)
    if isinstance(outside, Tensor):
        cross = torch.where(outside, math.inf, cross)
    elif outside:
        cross = math.inf
    return _less_entropy(beta, cross, q, p, rank, shape)


@register_kl(NormalFamily, LaplaceFamily)
def kl_normal_laplace(q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
    """KL of a Normal from a Laplace, by the mean distance ``E|x - loc_p|``, summed over the last ``rank`` axes."""
    (loc, scale), (p_loc, p_scale) = q, p = widen(q_params), widen(p_params)
    shift = (loc - p_loc) / scale
    erf = torch.erf(shift * math.sqrt(0.5)) if isinstance(shift, Tensor) else math.erf(shift * math.sqrt(0.5))
    distance = scale * (math.sqrt(2.0 / math.pi) * exp(-0.5 * shift * shift) + shift * erf)
    return _less_entropy(normal, distance / p_scale + log(2.0 * p_scale), q, p, rank, shape)


@register_kl(UniformFamily, BetaFamily)
def kl_uniform_beta(q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
    """KL of a uniform from a Beta, summed over the last ``rank`` axes; ∞ where q reaches beyond [0, 1]."""
    (low, high), (a, b) = q, p = precise(q_params), precise(p_params)
    cross = log_beta(a, b) - (a - 1.0) * _mean_log(low, high) - (b - 1.0) * _mean_log(1.0 - high, 1.0 - low)
    outside = (low < 0.0) | (high > 1.0)
    if isinstance(outside, Tensor):
        cross = torch.where(outside, math.inf, cross)
    elif outside:
        cross = math.inf
    return rounded(_less_entropy(uniform, cross, q, p, rank, shape), *q_params, *p_params)


def _mean_log(low: Parameter, high: Parameter) -> Parameter:
    """E log x of a uniform on [low, high] in [0, 1]: (h·log h - l·log l)/(h - l) - 1."""
    if not (isinstance(low, Tensor) or isinstance(high, Tensor)):
        ends = [x * math.log(x) if x > 0.0 else 0.0 for x in (low, high)]
        return (ends[1] - ends[0]) / (high - low) - 1.0
    parts = []
    for x in map(torch.as_tensor, (low, high)):
        inside = x > 0.0
        parts.append(torch.where(inside, x * torch.where(inside, x, 1.0).log(), 0.0))
    return (parts[1] - parts[0]) / (high - low) - 1.0


@register_kl(BernoulliFamily, PoissonFamily)
def kl_bernoulli_poisson(q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
    """KL of a Bernoulli from a Poisson, λ - σ(l)·log λ - H[q], summed over the last ``rank`` axes."""
    q, p = widen(q_params), widen(p_params)
    (rate,) = p
    return _less_entropy(bernoulli, rate - bernoulli.mean(q) * log(rate), q, p, rank, shape)
