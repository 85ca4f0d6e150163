"""Models through time as an expert writes them by hand in plain PyTorch, time-batched: what reads data only runs before
the loop on all B·T rows, what no later step reads runs behind it. Nothing here knows the formula language.

Networks and noise are arguments; a network of a Normal returns location and softplus⁻¹ of the scale, [N, 2 Z].
Axes: B batch, T time, Z latent, H recurrent state, D longest jump.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

Net = Callable[..., Tensor]
Nets = Mapping[str, Net]


def dmm_loss(nets: Nets, x: Tensor, noise: Tensor) -> Tensor:
    """-ELBO of a deep Markov model with Bernoulli pixels, mean over the batch (Krishnan et al. 2017, eq. 6).

    encode: x [B, T, X] -> h [B, T, H]. posterior: h, z -> [N, 2 Z]. prior: z -> [N, 2 Z]. decoder: z -> logits [N, X].
    noise: [B, T, Z].
    """
    B, T = x.shape[:2]
    z = noise.new_zeros(B, noise.shape[-1])
    before, drawn, locs, scales = [], [], [], []
    for h, e in zip(nets["encode"](x).unbind(1), noise.unbind(1), strict=True):
        before.append(z)
        loc, scale = normal(nets["posterior"](h, z))
        z = loc + scale * e
        drawn.append(z)
        locs.append(loc)
        scales.append(scale)
    z_prev, z, loc, scale = (torch.stack(s, 1).flatten(0, 1) for s in (before, drawn, locs, scales))
    kl = kl_normal(loc, scale, *normal(nets["prior"](z_prev)))
    logits = nets["decoder"](z)
    nll = F.binary_cross_entropy_with_logits(logits, x.flatten(0, 1), reduction="none").sum(-1)
    return (kl + nll).view(B, T).sum(1).mean()


def vrnn_loss(nets: Nets, x: Tensor, noise: Tensor, width: int) -> Tensor:
    """-ELBO of a VRNN with Bernoulli pixels, mean over the batch (Chung et al. 2015, eq. 10).

    phi_x, phi_z: features. posterior: features, h -> [N, 2 Z]. prior: h -> [N, 2 Z]. decoder: features of z, h ->
    logits. core: features of x, of z, h [N, H] -> h'. noise: [B, T, Z]. width: H.
    """
    B, T = x.shape[:2]
    h = noise.new_zeros(B, width)
    before, features, locs, scales = [], [], [], []
    seen = nets["phi_x"](x.flatten(0, 1)).unflatten(0, (B, T)).unbind(1)
    for e, eps in zip(seen, noise.unbind(1), strict=True):
        before.append(h)
        loc, scale = normal(nets["posterior"](e, h))
        feature = nets["phi_z"](loc + scale * eps)
        h = nets["core"](e, feature, h)
        features.append(feature)
        locs.append(loc)
        scales.append(scale)
    h_prev, feature, loc, scale = (torch.stack(s, 1).flatten(0, 1) for s in (before, features, locs, scales))
    kl = kl_normal(loc, scale, *normal(nets["prior"](h_prev)))
    logits = nets["decoder"](feature, h_prev)
    nll = F.binary_cross_entropy_with_logits(logits, x.flatten(0, 1), reduction="none").sum(-1)
    return (kl + nll).view(B, T).sum(1).mean()


def td_vae_loss(nets: Nets, x: Tensor, noise: Mapping[str, Tensor], width: int) -> Tensor:
    """TD-VAE with one random jump back from every step behind the first D, mean over steps and batch (Gregor et al.
    2019, eq. 8; one latent layer).

    enc: x -> features. core: h [N, H], features -> h'. belief: h -> [N, 2 Z]. smooth: z, h', h, δ -> [N, 2 Z].
    jump: z', δ -> [N, 2 Z]. decoder: z -> logits. noise: delta [B, T, D] (Gumbel), z and z_prime [B, T, Z].
    """
    B, T = x.shape[:2]
    D = noise["delta"].shape[-1]
    delta = F.one_hot(noise["delta"].flatten(0, 1).argmax(-1), D).to(x.dtype)
    h = x.new_zeros(B, width)
    beliefs = []
    for e in nets["enc"](x.flatten(0, 1)).unflatten(0, (B, T)).unbind(1):
        h = nets["core"](h, e)
        beliefs.append(h)
    series = torch.stack(beliefs, 1)
    padded = F.pad(series, (0, 0, D, 0))
    window = torch.stack([padded[:, D - k : D - k + T] for k in range(1, D + 1)], 2).flatten(0, 1)  # [B·T, D, H]
    now, past = series.flatten(0, 1), (window * delta.unsqueeze(-1)).sum(1)
    loc, scale = normal(nets["belief"](now))
    z = loc + scale * noise["z"].flatten(0, 1)
    loc_q, scale_q = normal(nets["smooth"](z, past, now, delta))
    before = loc_q + scale_q * noise["z_prime"].flatten(0, 1)
    kl = kl_normal(loc_q, scale_q, *normal(nets["belief"](past)))
    ratio = log_normal(z, loc, scale) - log_normal(z, *normal(nets["jump"](before, delta)))
    nll = F.binary_cross_entropy_with_logits(nets["decoder"](z), x.flatten(0, 1), reduction="none").sum(-1)
    return (kl + ratio + nll).view(B, T)[:, D:].mean()


def normal(head: Tensor) -> tuple[Tensor, Tensor]:
    """Location and scale from a head [N, 2 Z]."""
    loc, raw = head.chunk(2, -1)
    return loc, F.softplus(raw)


def kl_normal(loc: Tensor, scale: Tensor, prior_loc: Tensor, prior_scale: Tensor) -> Tensor:
    """KL of two diagonal Normals, in nats per row."""
    ratio, shift = scale / prior_scale, (loc - prior_loc) / prior_scale
    return (0.5 * (ratio.square() + shift.square() - 1) - ratio.log()).sum(-1)


def log_normal(value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Log-density of a diagonal Normal, in nats per row."""
    return (-0.5 * ((value - loc) / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)
