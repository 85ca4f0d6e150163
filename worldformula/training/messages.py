"""Mixtures that are fitted apart and tell each other what they see of one hidden cause.

Neuro-SERKET, arXiv:1910.08918. A module is a mixture with log-weights and evidence log p(data|k). It concludes
log p(k|data) by itself, or with the message of another module; `translated` makes a conclusion such a message.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot


class Gaussians(NamedTuple):
    """Log-weights ``[K]``, means ``[K, Z]`` and Cholesky factors of the covariances ``[K, Z, Z]``."""

    weight: Tensor
    mean: Tensor
    factor: Tensor

    def evidence(self, z: Tensor) -> Tensor:
        """log N(z; μ_k, Σ_k) of ``[N, Z]``: ``[N, K]``."""
        away = torch.linalg.solve_triangular(self.factor, (z[:, None] - self.mean).transpose(0, 1).mT, upper=False)
        scale = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) + 0.5 * z.shape[1] * math.log(2 * math.pi)
        return -0.5 * away.square().sum(-2).T - scale


class Topics(NamedTuple):
    """Log-weights ``[K]`` and log-probabilities of words ``[K, W]``."""

    weight: Tensor
    words: Tensor

    def evidence(self, counts: Tensor) -> Tensor:
        """Σ_w c_w log φ_kw of ``[N, W]``: ``[N, K]``."""
        return counts @ self.words.T


Module = TypeVar("Module", Gaussians, Topics)


def gaussians(z: Tensor, share: Tensor, shrink: float = 0.2) -> Gaussians:
    """The M-step from data ``[N, Z]``; covariances are shrunk to half the mean variance of the data."""
    count = share.sum(0) + 1.0
    mean = (share.T @ z) / count[:, None]
    away = z[:, None] - mean
    covariance = torch.einsum("nk,nki,nkj->kij", share, away, away) / count[:, None, None]
    target = torch.eye(z.shape[1]) * z.var(0).mean() * 0.5
    return Gaussians(
        (count / count.sum()).log(), mean, torch.linalg.cholesky((1 - shrink) * covariance + shrink * target)
    )


def topics(counts: Tensor, share: Tensor, pseudo: float = 0.1) -> Topics:
    """The M-step under Dirichlet priors of ``pseudo`` counts."""
    total = share.T @ counts + pseudo
    count = share.sum(0) + 1.0
    return Topics((count / count.sum()).log(), (total / total.sum(-1, keepdim=True)).log())


def expect(module: Module, data: Tensor, message: Tensor | None = None) -> Tensor:
    """Log-posteriors ``[N, K]`` of the hidden cause, with what another module says of it, ``[N, K]``."""
    joint = module.weight + module.evidence(data) + (0.0 if message is None else message)
    return joint.log_softmax(-1)


def maximise(
    step: Callable[[Tensor, Tensor], Module],
    data: Tensor,
    share: Tensor,
    message: Tensor | None = None,
    times: int = 50,
) -> Module:
    """EM from responsibilities ``[N, K]``."""
    module = step(data, share)
    for _ in range(times):
        module = step(data, expect(module, data, message).exp())
    return module


def restarted(step: Callable[[Tensor, Tensor], Module], data: Tensor, clusters: int, times: int = 12) -> Module:
    """The best of several EMs by likelihood; each begins with rows that lie far apart as centres."""
    best: tuple[float, Module] | None = None
    for _ in range(times):
        module = maximise(step, data, far_apart(data, clusters))
        score = float((module.weight + module.evidence(data)).logsumexp(-1).mean())
        if best is None or score > best[0]:
            best = score, module
    assert best is not None
    return best[1]


def far_apart(data: Tensor, clusters: int) -> Tensor:
    """Responsibilities of the nearest of K rows that are drawn with odds of their squared distance (k-means++)."""
    centre = data[torch.randint(len(data), (1,))]
    for _ in range(clusters - 1):
        distance = torch.cdist(data, centre).min(-1).values.square() + 1e-6
        centre = torch.cat((centre, data[torch.multinomial(distance, 1)]))
    return one_hot(torch.cdist(data, centre).argmin(-1), clusters).float()


def translated(said: Tensor, ours: Tensor, smooth: float = 0.01) -> Tensor:
    """What a module says of its clusters, as log-probabilities of another's: ``[N, K]`` to ``[N, J]``.

    Args:
        said: log-posteriors of the sender without what the receiver told it.
        ours: log-posteriors of the receiver, for the table p(j|k) of how the two go together.
        smooth: probability that the message is about nothing.
    """
    table = said.exp().T @ ours.exp() + 0.1
    message = said.exp() @ (table / table.sum(-1, keepdim=True))
    message = message / ours.exp().mean(0).clamp_min(1e-3)  # what the receiver's own weights say is no news
    message = message / message.sum(-1, keepdim=True)
    return ((1 - smooth) * message + smooth / message.shape[-1]).log()
