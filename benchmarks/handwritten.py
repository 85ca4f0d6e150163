"""What an expert writes by hand in plain PyTorch: the reference of the tests and the yardstick of the benchmarks.

Nothing here knows the formula language. Networks and noise are arguments, so that a formula over the same networks must
give the same number and the same gradients.

Axes: B batch, T time, D deterministic state, G groups of K classes, E encoder output, A action.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Net = Callable[..., Tensor]


def vae_loss(encoder: Net, decoder: Net, x: Tensor, noise: Tensor) -> Tensor:
    """-ELBO of a VAE with Bernoulli pixels, mean over the batch (Kingma & Welling 2013, eq. 3 and appendix B).

    encoder: x [B, X] -> [B, 2Z], the location and softplus⁻¹ of the scale. decoder: z [B, Z] -> logits [B, X].
    noise: [B, Z], standard normal.
    """
    loc, raw = encoder(x).chunk(2, -1)
    scale = F.softplus(raw)
    z = loc + scale * noise
    nll = F.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
    kl = 0.5 * (scale * scale + loc * loc - 1.0 - 2.0 * scale.log()).sum()
    return (kl + nll) / len(x)


@dataclass(frozen=True)
class RSSM:
    """The networks of a recurrent state-space model; every one works on a batch of rows [N, …].

    encoder: image -> e [N, E]. core: h [N, D], z [N, G, K], a [N, A] -> h' [N, D]. prior: h -> logits [N, G·K].
    posterior: h, e -> logits [N, G·K]. decoder: h, z -> mean of the image. reward: h, z -> logits [N, bins].
    """

    encoder: Net
    core: Net
    prior: Net
    posterior: Net
    decoder: Net
    reward: Net
    deter: int
    groups: int
    classes: int
    scale: float = 1.0
    unimix: float = 0.01


@dataclass(frozen=True)
class Batch:
    """Sequences. image [B, T, …], reward [B, T], action [B, T, A], first [B, T] (1 where an episode starts)."""

    image: Tensor
    reward: Tensor
    action: Tensor
    first: Tensor


def rssm_loss(parts: RSSM, batch: Batch, gumbel: Tensor) -> Tensor:
    """DreamerV3's world-model loss, sum over time and mean over the batch, time-batched by hand.

    The encoder runs on all B·T images before the loop; prior, decoder and reward run on all B·T states after it. Only
    core and posterior run step by step (Hafner et al. 2023, eqs. 4-5). gumbel: [B, T, G, K].
    """
    B, T = batch.first.shape
    G, K = parts.groups, parts.classes
    embedded = parts.encoder(batch.image.flatten(0, 1)).unflatten(0, (B, T)).unbind(1)
    keep = (1.0 - batch.first).unsqueeze(-1)
    before = torch.cat((torch.zeros_like(batch.action[:, :1]), batch.action[:, :-1]), 1) * keep
    h = keep.new_zeros(B, parts.deter)
    z = keep.new_zeros(B, G, K)
    hs, zs, posteriors = [], [], []
    for e, a, k, noise in zip(embedded, before.unbind(1), keep.unbind(1), gumbel.unbind(1), strict=True):
        h = parts.core(h * k, z * k.unsqueeze(-1), a)
        posterior = log_mix(parts.posterior(h, e).view(B, G, K), parts.unimix)
        z = draw(posterior, noise)
        hs.append(h)
        zs.append(z)
        posteriors.append(posterior)
    h, z = torch.stack(hs, 1).flatten(0, 1), torch.stack(zs, 1).flatten(0, 1)
    prior = log_mix(parts.prior(h).view(B * T, G, K), parts.unimix)
    losses = _step_loss(parts, h, z, torch.stack(posteriors, 1).flatten(0, 1), prior, batch.image.flatten(0, 1),
                        batch.reward.flatten())  # fmt: skip
    return losses.view(B, T).sum(1).mean()


def rssm_loss_in_loop(parts: RSSM, batch: Batch, gumbel: Tensor) -> Tensor:
    """The same number with every network inside the loop, as the formula reads."""
    B, T = batch.first.shape
    G, K = parts.groups, parts.classes
    h = gumbel.new_zeros(B, parts.deter)
    z = gumbel.new_zeros(B, G, K)
    a = torch.zeros_like(batch.action[:, 0])
    loss = gumbel.new_zeros(B)
    for t in range(T):
        keep = (1.0 - batch.first[:, t]).unsqueeze(-1)
        h = parts.core(h * keep, z * keep.unsqueeze(-1), a * keep)
        prior = log_mix(parts.prior(h).view(B, G, K), parts.unimix)
        posterior = log_mix(parts.posterior(h, parts.encoder(batch.image[:, t])).view(B, G, K), parts.unimix)
        z = draw(posterior, gumbel[:, t])
        loss = loss + _step_loss(parts, h, z, posterior, prior, batch.image[:, t], batch.reward[:, t])
        a = batch.action[:, t]
    return loss.mean()


def _step_loss(parts: RSSM, h: Tensor, z: Tensor, q: Tensor, p: Tensor, image: Tensor, reward: Tensor) -> Tensor:
    """max(KL[sg q ‖ p], 1) + 0.1 max(KL[q ‖ sg p], 1) - log p(image|h, z) - log p(reward|h, z), per row [N]."""
    dynamics = kl_classes(q.detach(), p).clamp(min=1.0)
    representation = kl_classes(q, p.detach()).clamp(min=1.0)
    error = (image - parts.decoder(h, z).view_as(image)).square().flatten(1).sum(1)
    constant = image[0].numel() * (math.log(parts.scale) + 0.5 * math.log(2.0 * math.pi))
    image_nll = error * (0.5 / parts.scale**2) + constant
    return dynamics + 0.1 * representation + image_nll + two_hot_nll(parts.reward(h, z), reward)


def log_mix(logits: Tensor, unimix: float) -> Tensor:
    """Log-probabilities [..., K] of the softmax, mixed with a share `unimix` of the uniform distribution."""
    return ((1.0 - unimix) * logits.softmax(-1) + unimix / logits.shape[-1]).log()


def draw(log_probs: Tensor, gumbel: Tensor) -> Tensor:
    """One-hot sample [..., K] whose gradient is that of the probabilities (straight-through)."""
    hard = F.one_hot((log_probs.detach() + gumbel).argmax(-1), log_probs.shape[-1]).to(log_probs.dtype)
    probs = log_probs.exp()
    return hard + (probs - probs.detach())


def kl_classes(q: Tensor, p: Tensor) -> Tensor:
    """KL between independent groups of classes, from log-probabilities [N, G, K] to nats [N]."""
    return (q.exp() * (q - p)).sum((-2, -1))


def two_hot_nll(logits: Tensor, value: Tensor, low: float = -20.0, high: float = 20.0) -> Tensor:
    """Cross-entropy [N] of logits [N, bins] with the two-hot code of value [N] on symexp-spaced bins."""
    y = torch.linspace(low, high, logits.shape[-1], dtype=logits.dtype, device=logits.device)
    bins = y.sign() * y.abs().expm1()
    above = torch.searchsorted(bins, value.contiguous()).clamp(1, len(bins) - 1)
    lower, upper = bins[above - 1], bins[above]
    weight = ((value - lower) / (upper - lower)).clamp(0.0, 1.0)
    log_probs = logits.log_softmax(-1)
    below_log = log_probs.gather(-1, (above - 1).unsqueeze(-1)).squeeze(-1)
    above_log = log_probs.gather(-1, above.unsqueeze(-1)).squeeze(-1)
    return -((1.0 - weight) * below_log + weight * above_log)
