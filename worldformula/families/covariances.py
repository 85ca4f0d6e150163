"""Closed KLs between Normals of unlike covariance: diagonal, low-rank and full.

All are ½·(tr(Σ_p⁻¹·Σ_q) + |Δ|² in the metric of p - D + log |Σ_p| - log |Σ_q|), Δ = loc_q - loc_p. Against a diagonal p
only the variances of q count, and its entropy; against p = L·Lᵀ the trace is |L⁻¹·R|² for any root R·Rᵀ of Σ_q.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from worldformula.families.base import (
    Family,
    Parameter,
    Params,
    Shape,
    broadcast,
    has_tensor,
    require_event,
    require_same,
    total,
    wide,
    widen,
)
from worldformula.families.closed import register_kl
from worldformula.families.low_rank_normal import (
    LowRankNormalFamily,
    kl_low_rank_normal,
    log_det,
    low_rank_normal,
    products,
    root_of,
    squared,
)
from worldformula.families.multivariate_normal import MultivariateNormalFamily, multivariate_normal
from worldformula.families.normal import NormalFamily, normal
from worldformula.families.special import precise, rounded

LOG_2PI = math.log(2.0 * math.pi)


@register_kl(MultivariateNormalFamily, NormalFamily)
def kl_multivariate_normal_normal(
    q_params: Params, p_params: Params, rank: int, shape: Shape | None = None
) -> Parameter:
    """KL of a multivariate Normal from a diagonal one, summed over the last ``rank`` axes."""
    loc, scale = widen(q_params)
    variance = scale.square().sum(-1) if isinstance(scale, Tensor) else scale * scale
    return _against_diagonal(multivariate_normal, (loc, variance), q_params, p_params, rank, shape)


@register_kl(LowRankNormalFamily, NormalFamily)
def kl_low_rank_normal_normal(q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
    """KL of a low-rank Normal from a diagonal one, summed over the last ``rank`` axes."""
    loc, factor, diagonal = widen(q_params)
    variance = diagonal + (factor.square().sum(-1) if isinstance(factor, Tensor) else factor * factor)
    return _against_diagonal(low_rank_normal, (loc, variance), q_params, p_params, rank, shape)


def _against_diagonal(
    family: Family, moments: Params, q: Params, p_params: Params, rank: int, shape: Shape | None
) -> Parameter:
    """The cross-entropy of means and variances against a diagonal Normal, less the entropy of q."""
    whole = _whole(family, q, normal, p_params, rank, shape)
    loc, scale = widen(p_params)
    distance = moments[0] - loc
    each = 0.5 * (moments[1] + distance * distance) / (scale * scale)
    each = each + 0.5 * LOG_2PI + (scale.log() if isinstance(scale, Tensor) else math.log(scale))
    event = whole[len(whole) - rank :]
    cross = total(each.expand(whole), rank) if isinstance(each, Tensor) else each * math.prod(event)
    return cross - family.entropy(q, rank, event)


@register_kl(LowRankNormalFamily, MultivariateNormalFamily)
def kl_low_rank_normal_multivariate_normal(
    q_params: Params, p_params: Params, rank: int, shape: Shape | None = None
) -> Parameter:
    """KL of a low-rank Normal from one with a full covariance, summed over the last ``rank`` axes."""
    whole = _whole(low_rank_normal, q_params, multivariate_normal, p_params, rank, shape)
    (loc, factor, diagonal), (p_loc, tril) = widen(q_params), widen(p_params)
    like = next((wide(x) for x in (*q_params, *p_params) if isinstance(x, Tensor)), torch.zeros(()))
    size, eye = whole[-1], torch.eye(whole[-1], dtype=like.dtype, device=like.device)
    spread = torch.as_tensor(diagonal, dtype=like.dtype, device=like.device).sqrt()
    root = eye * (spread.unsqueeze(-1) if spread.ndim else spread)
    if isinstance(factor, Tensor):
        lead = broadcast(tuple(root.shape[:-2]), tuple(factor.shape[:-2]))
        root = torch.cat((root.expand(*lead, size, size), factor.expand(*lead, *factor.shape[-2:])), -1)
    lower = tril if isinstance(tril, Tensor) else eye * tril
    shift = torch.as_tensor(loc - p_loc, dtype=like.dtype, device=like.device).expand(whole)
    both = broadcast(tuple(root.shape[:-2]), whole[:-1])
    columns = torch.cat((root.expand(*both, *root.shape[-2:]), shift.unsqueeze(-1).expand(*both, size, 1)), -1)
    squares: Tensor = torch.linalg.solve_triangular(lower, columns, upper=False)
    logs = lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    cross = 0.5 * (squares.square().sum((-1, -2)) + LOG_2PI * size) + logs
    found = total(cross.expand(whole[:-1]), rank - 1) - low_rank_normal.entropy(q_params, rank, whole[-rank:])
    return found if has_tensor((*q_params, *p_params)) else found.item()


@register_kl(NormalFamily, MultivariateNormalFamily)
def kl_normal_multivariate_normal(
    q_params: Params, p_params: Params, rank: int, shape: Shape | None = None
) -> Parameter:
    """KL of a diagonal Normal from one with a full covariance, summed over the last ``rank`` axes."""
    return kl_low_rank_normal_multivariate_normal(_without_factor(q_params), p_params, rank, shape)


@register_kl(NormalFamily, LowRankNormalFamily)
def kl_normal_low_rank_normal(q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
    """KL of a diagonal Normal from a low-rank one, summed over the last ``rank`` axes."""
    return kl_low_rank_normal(_without_factor(q_params), p_params, rank, shape)


def _without_factor(params: Params) -> Params:
    """A diagonal Normal as a low-rank one."""
    loc, scale = params
    return loc, 0.0, scale * scale


@register_kl(MultivariateNormalFamily, LowRankNormalFamily)
def kl_multivariate_normal_low_rank_normal(
    q_params: Params, p_params: Params, rank: int, shape: Shape | None = None
) -> Parameter:
    """KL of a Normal with a full covariance from a low-rank one, summed over the last ``rank`` axes.

    tr(Σ_p⁻¹·L·Lᵀ) is |d^(-½)·L|² - |C^(-½)·Wᵀ·d⁻¹·L|² with C = 1 + Wᵀ·d⁻¹·W.
    """
    whole = _whole(multivariate_normal, q_params, low_rank_normal, p_params, rank, shape)
    like = next(
        (x for x in precise((*q_params, *p_params)) if isinstance(x, Tensor)), torch.zeros((), dtype=torch.float64)
    )
    loc, factor, diagonal = low_rank_normal._tensors(p_params, like.new_empty(whole))
    q_loc, tril = precise(q_params)
    lower = tril if isinstance(tril, Tensor) else torch.eye(whole[-1], dtype=like.dtype, device=like.device) * tril
    root, scaled = root_of(factor, diagonal), factor / diagonal.unsqueeze(-1)
    inside = torch.linalg.solve_triangular(root, products(scaled, lower), upper=False)
    squares = (lower.square() / diagonal.unsqueeze(-1)).sum((-1, -2)) - inside.square().sum((-1, -2))
    squares = squares + squared(factor, diagonal, root, q_loc - loc)
    cross = 0.5 * (squares + log_det(diagonal, root) + LOG_2PI * whole[-1])
    entropy = multivariate_normal.entropy(precise(q_params), rank, whole[-rank:])
    found = rounded(total(cross.expand(whole[:-1]), rank - 1) - entropy, *q_params, *p_params)
    return found if has_tensor((*q_params, *p_params)) else found.item()


def _whole(q_family: Family, q: Params, p_family: Family, p: Params, rank: int, shape: Shape | None) -> Shape:
    """Batch and event shape of both together; raises `ShapeError` where they differ."""
    known = [sum(f.shapes(x, rank), start=()) for f, x in ((q_family, q), (p_family, p)) if has_tensor(x)]
    if not known:
        return require_event(q_family, shape)
    require_same(q_family, "q", known[0], known[-1])
    return known[0]
