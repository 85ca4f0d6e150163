"""Measures estimators of a joint likelihood on fixed weights, against the integral over two latents."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from worldformula.cards.trimodal_scores import held_out
from worldformula.metrics.likelihood import importance_bound, quadrature
from worldformula.models import mopoe

DRAWS, REPEATS, ROWS, POINTS = 2100, 8, 32, 201


def measure(seed: int) -> dict[str, float]:
    """A MoPoE with two latents and random weights; −log p of 32 test triples, nats per triple, K = 2100, eight repeats.

    Returns:
        ``error``: |stratified − exact| in standard errors of the repeats; ``exact``: quadrature; ``stratified``: 300
        draws of each of seven components, weighed with the mixture; ``poe``: the proposal of published figures;
        ``by_row``: all draws of a row from one component chosen by its place, weighed with the mixture, and
        ``order_by_row``: the largest change of one row's value where the rows come in the opposite order; ``order`` and
        ``batch``: that of the stratified value in the opposite order, and in batches of 8.
    """
    model = fixed(seed)
    test: dict[str, Any] = {name: x[:ROWS] for name, x in held_out()[0].items()}
    turned = {name: x.flip(0) for name, x in test.items()}

    def stratified(k: int, data: dict[str, Any]) -> Tensor:
        return -model.bound(DRAWS, seed=1000 * seed + k, chunk=700, rule="mixture", **data)

    tied = by_row(model, test, seed)
    values = [stratified(k, test) for k in range(REPEATS)]
    repeats = torch.stack([v.mean() for v in values])
    truth = exact(model, test)
    parts = [stratified(0, {n: x[i : i + 8] for n, x in test.items()}) for i in range(0, ROWS, 8)]
    return {
        "error": abs(float(repeats.mean()) - truth) / (float(repeats.std()) / REPEATS**0.5),
        "exact": truth,
        "stratified": float(repeats.mean()),
        "poe": float(-model.bound(DRAWS, seed=seed, chunk=700, rule="PoE", **test).mean()),
        "by_row": float(tied.mean()),
        "order_by_row": float((by_row(model, turned, seed).flip(0) - tied).abs().max()),
        "order": float((stratified(0, turned).flip(0) - values[0]).abs().max()),
        "batch": float((torch.cat(parts) - values[0]).abs().max()),
    }


def fixed(seed: int) -> mopoe.MoPoEVAE:
    """Random weights: experts that lie apart and are wide, so that the weights of draws are bounded."""
    torch.manual_seed(seed)
    wide = tuple(replace(m, scale=0.5) if m.likelihood == "normal" else m for m in mopoe.tiny().modalities)
    model = mopoe.build(replace(mopoe.tiny(), latent=2, modalities=wide))
    with torch.no_grad():
        for decoder in model.decode.factors:
            decoder.net.layers[-1].weight.mul_(3.0)  # type: ignore[union-attr]
        for expert in model.experts:
            last = expert.net.net.layers[-1]  # type: ignore[union-attr]
            last.weight[:2].mul_(10.0)
            last.bias[2:] = 1.5
    return model


@torch.no_grad()
def exact(model: mopoe.MoPoEVAE, test: dict[str, Tensor], points: int = POINTS) -> float:
    """−log p by the trapezoidal rule on [−6, 6]², mean over the rows."""

    def density(z: Tensor) -> Tensor:
        return torch.cat([likelihoods(model, part.float(), test) for part in torch.split(z, 20_000)])

    return float(-quadrature(density, points=points).mean())


def likelihoods(model: mopoe.MoPoEVAE, z: Tensor, test: dict[str, Tensor]) -> Tensor:
    """log p(X_n, z_i) of every row at every latent, ``[I, N]``, as matrix products."""
    total = model.prior.log_prob(z=z)[:, None].double()
    for decoder, modality in zip(model.decode.factors, model.sizes.modalities, strict=True):
        head, x = decoder.head(z).double(), test[modality.name].double()
        if modality.likelihood == "bernoulli":
            total = total + head @ x.T - softplus(head).sum(-1, keepdim=True)
        else:
            width, scale = x.shape[1], modality.scale
            square = head.square().sum(-1, keepdim=True) - 2 * head @ x.T + x.square().sum(-1)
            total = total - 0.5 * square / scale**2 - width * math.log(scale * math.sqrt(2 * math.pi))
    return total


@torch.no_grad()
def by_row(model: mopoe.MoPoEVAE, test: dict[str, Tensor], seed: int) -> Tensor:
    """What others compute, ``[N]``: the first rows draw from the first component, the last rows from the last one, and
    weigh as if from the mixture; by up to the log of their number that may go beyond the likelihood.
    """
    mixture = model.posterior("abc", "mixture")
    generator = torch.Generator().manual_seed(seed)
    values = []
    for q, own in zip(mixture.parts, torch.arange(ROWS).tensor_split(len(mixture.parts)), strict=True):
        data: dict[str, Any] = {name: x[own].expand(DRAWS, len(own), -1) for name, x in test.items()}
        z = q.draw([data[c.key] for c in q.conditions], generator=generator)
        joint = model.prior.log_prob(z=z) + model.decode.log_prob(z=z, **data)
        values.append(importance_bound(joint - mixture.log_prob(z=z, **data)))
    return -torch.cat(values)
