"""Measures latent diffusion on grey digits: one decoder, fed by the prior, by a mixture of Gaussians, by diffusion."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from worldformula.data import load
from worldformula.fitting import fit
from worldformula.metrics import likelihood
from worldformula.metrics.frechet import digit_features, frechet
from worldformula.model import Model
from worldformula.models.ldm import LDM, SYSTEM, build, tiny

SAMPLES, SETS = 720, 5
SHORT, GUIDANCE = 50, 1.0  # steps of DDIM; weight of the text


def measure(seed: int) -> dict[str, float]:
    """Train both stages on 1437 digits; 720 means of p(x|z) each against the 360 test digits, mean of five such sets.

    Returns:
        ``ratio``: FD-32 of the diffusion over that of the mixture, infinite where the mixture does not beat the prior;
        ``fd`` (50 steps of DDIM), ``fd_mixture`` (20 Gaussians on the codes), ``fd_prior`` (N(0, I)): the three;
        ``fd_ancestral``: of all 100 steps; ``fd_train``: of the training digits themselves; ``told``: share of pictures
        that a classifier reads as the digit that the text names; ``guided``: the same with guidance 1;
        ``reconstructed``: FD-32 of the test digits through the VAE, no floor for samples.
    """
    torch.manual_seed(seed)
    data = load("digits-grey")
    rows, test = torch.from_numpy(data.train["x"]), torch.from_numpy(data.test["x"])
    labels = torch.from_numpy(data.train["y"])
    reader = digit_features(rows, labels)
    model = build(tiny())
    history = fit(model, {"x": rows, "y": labels}, seed=seed, progress=False, **SYSTEM.fits["tiny"])
    stage = model.stage
    classes = torch.arange(SAMPLES) % 10
    named = model.named(classes)
    draws = range(seed, seed + SETS)
    with history.averaged():
        plain = [pictures(model, named, draw, steps=SHORT) for draw in draws]
        ancestral = [pictures(model, named, draw) for draw in draws]
        guided = pictures(model, named, seed, steps=SHORT, guidance=GUIDANCE)

    def distance(*sets: Tensor) -> float:
        return sum(frechet(reader.features(x), reader.features(test)) for x in sets) / len(sets)

    mixture = distance(*(from_mixture(stage, rows, draw) for draw in draws))
    prior = distance(*(stage.generate(SAMPLES, seed=draw, mean=True)["x"] for draw in draws))
    found = distance(*plain)
    return {
        "ratio": found / mixture if mixture < prior else math.inf,
        "fd": found,
        "fd_mixture": mixture,
        "fd_prior": prior,
        "fd_ancestral": distance(*ancestral),
        "fd_train": distance(rows),
        "told": reader.accuracy(plain[0], classes),
        "guided": reader.accuracy(guided, classes),
        "reconstructed": distance(stage.reconstruct(x=test)["x"]),
    }


def pictures(model: LDM, c: Tensor, seed: int, steps: int | None = None, guidance: float = 0.0) -> Tensor:
    """Means of p(x|z) for texts."""
    return model.generate(len(c), seed=seed, mean=True, steps=steps, guidance=guidance, c=c)["x"]


def from_mixture(stage: Model, rows: Tensor, seed: int) -> Tensor:
    """Means of p(x|z) for codes of a mixture of 20 Gaussians that was fitted to the codes of the training digits."""
    codes = stage.latents(x=rows, deterministic=False, seed=seed)["z"]
    fitted = likelihood.fit_gaussian_mixture(codes.double().numpy(), 20, seed=seed)
    return stage.render(z=torch.from_numpy(fitted.sample(SAMPLES)[0]).float())["x"]
