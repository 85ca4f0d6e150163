"""Measures a VAE on binarised digits: held-out likelihood beside two floors that are fitted in the same run."""

from __future__ import annotations

import torch
from torch import Tensor

from worldformula.data.digits import digits
from worldformula.metrics import likelihood
from worldformula.models.vae import VAE, build, tiny

EPOCHS, BATCH, DRAWS = 100, 64, 1000


def measure(seed: int) -> dict[str, float]:
    """Train on 1437 digits, test on 360; all numbers are nats per test image.

    Returns:
        ``iwae``: −log p(x) bounded with 1000 importance samples (Burda et al. 2015, arXiv:1509.00519);
        ``neg_elbo``: the loss; ``mixture``: 100 Bernoulli components by EM; ``independent``: one Bernoulli per pixel.
    """
    torch.manual_seed(seed)
    data = digits(binarise=True)
    train, test = torch.from_numpy(data.train_x), torch.from_numpy(data.test_x)
    model = build(tiny())
    fit(model, train)
    with torch.no_grad():
        return {
            "iwae": importance_bound(model, test, DRAWS),
            "neg_elbo": sum(float(model.loss(x=test).value) for _ in range(20)) / 20,
            "mixture": mixture_floor(train, test),
            "independent": mixture_floor(train, test, components=1),
        }


def fit(model: VAE, train: Tensor) -> None:
    """AdamW, 1e-3, weight decay 3e-3, batches of 64."""
    optimiser = torch.optim.AdamW(model.loss.parameters(), lr=1e-3, weight_decay=3e-3, fused=True)
    for _ in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(train)), BATCH):
            optimiser.zero_grad()
            model.loss(x=train[rows]).value.backward()
            optimiser.step()


def importance_bound(model: VAE, x: Tensor, draws: int, chunk: int = 50) -> float:
    """−(1/N) Σ_n log (1/K) Σ_k p(x_n, z_k) / q(z_k|x_n) with K = draws; an upper bound of the negative likelihood."""
    weights = []
    for _ in range(draws // chunk):
        many = x.expand(chunk, *x.shape)
        z = model.encode.sample(x=many)
        joint = model.decode.log_prob(x=many, z=z) + model.prior.log_prob(z=z)
        weights.append(joint - model.encode.log_prob(z=z, x=many))
    return float(-likelihood.importance_bound(torch.cat(weights)).mean())


def mixture_floor(train: Tensor, test: Tensor, components: int = 100, steps: int = 100) -> float:
    """Negative test likelihood of a mixture of Bernoullis, by EM with a Beta(1.1, 1.1) prior on each pixel."""
    return float(-likelihood.bernoulli_mixture(train, test, components, steps=steps).mean())
