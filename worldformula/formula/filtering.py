"""What emitted code calls in a particle filter: weights [K, B] of mean 1, and the particles that are drawn by them."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def ancestors(log_weights: Tensor, points: Tensor, *, how: str, ess: float | None = None) -> Tensor:
    """Which particle each is a copy of: indices [K, B], drawn by the weights of the step before.

    ``points`` [K, B] in [0, 1): for ``multinomial`` independent ones; for ``systematic`` one u a row, of which
    (k + u)/K are made (Douc, Cappé & Moulines 2005, arXiv:cs/0507025). A row whose weights are all alike, or whose
    effective number of particles is not below the share ``ess`` of K, keeps its own. One of weight 0 is never drawn.
    """
    K, known = len(log_weights), log_weights.detach()
    own = torch.arange(K, device=known.device).reshape(-1, *(1,) * (known.ndim - 1)).expand(known.shape)
    if how == "systematic":
        points = (own + points) / K
    sums = known.softmax(0).cumsum(0)
    last = (sums < sums[-1:]).sum(0)  # the last one that has a weight: rounding may put a point behind it
    inside, at = (x.movedim(0, -1).contiguous() for x in (sums, points.to(sums.dtype) * sums[-1:]))
    found = torch.searchsorted(inside, at, right=True).movedim(-1, 0)
    return torch.where(unlike(known, ess), torch.minimum(found, last), own)


def unlike(log_weights: Tensor, ess: float | None) -> Tensor:
    """Whether a row [B] of weights [K, B] of mean 1 is resampled."""
    if ess is None:
        return (log_weights != log_weights[:1]).any(0)
    number = 2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)
    return number < math.log(ess * len(log_weights))


def weights_left(log_weights: Tensor, *, ess: float) -> Tensor:
    """The weights that particles go on with: those that they had, or 1 where they are drawn anew."""
    return torch.where(unlike(log_weights.detach(), ess), 0.0, log_weights)


def log_ancestors(log_weights: Tensor, ancestors: Tensor) -> Tensor:
    """The log-probabilities [K, B] of ancestors, 0 in rows that are not resampled."""
    chosen = log_weights.log_softmax(0).gather(0, ancestors)
    return torch.where(unlike(log_weights.detach(), None), chosen, 0.0)


def taken(value: Tensor, ancestors: Tensor, axis: int) -> Tensor:
    """Every particle of a value as its ancestor was: [K, B, ...] along an axis of samples."""
    if ancestors.ndim == 2:  # whole rows are copied faster than numbers
        K, B = ancestors.shape
        rows = ancestors * B + torch.arange(B, device=ancestors.device)
        return value.flatten(0, 1).index_select(0, rows.flatten()).view(K, B, *value.shape[2:])
    index = ancestors.reshape(ancestors.shape + (1,) * (value.ndim - ancestors.ndim))
    return value.gather(axis, index.expand(value.shape))


def carried_weights(log_weights: Tensor, log_mean: Tensor) -> Tensor:
    """Weights of mean 1; all are 1 where all particles have the weight 0."""
    return torch.where(log_mean == -math.inf, 0.0, log_weights - log_mean)


def running(x: Tensor, B: int, T: int, keep: Tensor | None = None) -> Tensor:
    """[B·T] -> the sums of all steps so far, which begin anew where a sequence restarts."""
    steps = x.view(B, T)
    sums = steps.cumsum(1)
    if keep is not None:
        begun = torch.where(keep, 0, torch.arange(T, device=x.device)).cummax(1).values
        sums = sums - (sums - steps).gather(1, begun)
    return sums.flatten()
