"""Measures estimators of a joint likelihood on fixed weights, against the integral over two latents."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from worldformula.cards.trimodal_scores import held_out, rows, train
from worldformula.data.trimodal import trimodal
from worldformula.metrics.likelihood import importance_bound, quadrature
from worldformula.models import mopoe

STEPS, DRAWS, REPEATS, ROWS = 600, 3500, 8, 64


def measure(seed: int) -> dict[str, float]:
    """A MoPoE with two latents; −log p of 64 test triples, nats per triple, K = 3500, eight repeats.

    Returns:
        ``error``: |stratified − exact| in standard errors of the repeats; ``exact``: quadrature; ``stratified``: 500
        draws of each of seven components, weighed with the mixture; ``poe``: the proposal of published figures;
        ``by_row``: all draws of a row from one component chosen by its place, weighed with that component alone, and
        ``by_row_turned``: the same rows in the opposite order; ``order`` and ``batch``: the largest change of one
        row's stratified value in the opposite order, and in batches of 16.
    """
    torch.manual_seed(seed)
    model = mopoe.build(replace(mopoe.tiny(), latent=2, prior_in="all"))
    train(model, rows(trimodal()), seed, STEPS)
    test: dict[str, Any] = {name: x[:ROWS] for name, x in held_out()[0].items()}
    turned = {name: x.flip(0) for name, x in test.items()}

    def stratified(k: int, data: dict[str, Any]) -> Tensor:
        return -model.bound(DRAWS, seed=1000 * seed + k, rule="mixture", **data)

    repeats = torch.stack([stratified(k, test).mean() for k in range(REPEATS)])
    truth = exact(model, test)
    first = stratified(0, test)
    parts = [stratified(0, {n: x[i : i + 16] for n, x in test.items()}) for i in range(0, ROWS, 16)]
    error = abs(float(repeats.mean()) - truth) / (float(repeats.std()) / REPEATS**0.5)
    return {
        "error": error,
        "exact": truth,
        "stratified": float(repeats.mean()),
        "poe": float(-model.bound(DRAWS, seed=seed, rule="PoE", **test).mean()),
        "by_row": by_row(model, test, seed),
        "by_row_turned": by_row(model, turned, seed),
        "order": float((stratified(0, turned).flip(0) - first).abs().max()),
        "batch": float((torch.cat(parts) - first).abs().max()),
    }


@torch.no_grad()
def exact(model: mopoe.MoPoEVAE, test: dict[str, Tensor]) -> float:
    """−log p by the trapezoidal rule on [−6, 6]², mean over the rows."""

    def density(z: Tensor) -> Tensor:
        latent = z.float()
        many = latent[:, None].expand(-1, ROWS, -1)
        data = {name: x.expand(len(z), *x.shape) for name, x in test.items()}
        return model.decode.log_prob(z=many, **data).double() + model.prior.log_prob(z=latent)[:, None]

    return float(-quadrature(density, points=161).mean())


@torch.no_grad()
def by_row(model: mopoe.MoPoEVAE, test: dict[str, Tensor], seed: int) -> float:
    """What others compute: the first rows use the first component, the last the last; as if it were the whole q."""
    components = model.posterior("abc", "mixture").parts
    generator = torch.Generator().manual_seed(seed)
    values = []
    for place, own in enumerate(torch.arange(ROWS).tensor_split(len(components))):
        q, data = components[place], {name: x[own].expand(DRAWS, len(own), -1) for name, x in test.items()}
        known = {c.key: data[c.key] for c in q.conditions}
        z = q.draw([known[c.key] for c in q.conditions], generator=generator)
        joint = model.prior.log_prob(z=z) + model.decode.log_prob(z=z, **data)
        values.append(importance_bound(joint - q.log_prob(z=z, **known)))
    return float(-torch.cat(values).mean())
