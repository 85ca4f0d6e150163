"""Measures latent diffusion on grey digits: one decoder, fed by the prior, by a mixture of Gaussians, by diffusion."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from worldformula.data import load
from worldformula.metrics import likelihood
from worldformula.metrics.frechet import digit_features, frechet
from worldformula.models.ldm import LDM, Stage, build, stage_one, tiny
from worldformula.training.fit import fit

SAMPLES, EPOCHS, STEPS, BATCH, GUIDANCE = 720, 120, 6000, 128, 1.0


def measure(seed: int) -> dict[str, float]:
    """Train both stages on 1437 digits; 720 means of p(x|z) each against the 360 test digits.

    Returns:
        ``ratio``: FD-32 of the diffusion over that of the mixture, infinite where the mixture does not beat the prior;
        ``fd``, ``fd_mixture`` (20 Gaussians on the codes), ``fd_prior`` (N(0, I)): the three; ``fd_ddim``: in 20 steps;
        ``told``: share of pictures that a classifier reads as the digit that the text names; ``guided``: the same with
        guidance 1; ``reconstructed``: FD-32 of the test digits through the VAE, no floor for samples.
    """
    torch.manual_seed(seed)
    data = load("digits-grey")
    rows, test = torch.from_numpy(data.train["x"]), torch.from_numpy(data.test["x"])
    labels = torch.from_numpy(data.train["y"])
    reader = digit_features(rows, labels)
    stage = stage_one(tiny())
    fit(stage.loss, {"x": rows}, steps=EPOCHS * len(rows) // 64, batch=64, seed=seed)
    model = build(tiny(), stage)
    model.calibrate(rows)
    history = fit(
        model.loss, {"x": rows, "c": model.named(labels)}, steps=STEPS, batch=BATCH, schedule="cosine", ema=0.995,
        clip=1.0, seed=seed,
    )  # fmt: skip
    classes = torch.arange(SAMPLES) % 10
    named = model.named(classes)
    with history.averaged():
        plain, short = (pictures(model, named, seed, steps=k) for k in (None, 20))
        guided = pictures(model, named, seed, guidance=GUIDANCE)

    def distance(x: Tensor) -> float:
        return frechet(reader.features(x), reader.features(test))

    mixture = distance(from_mixture(stage, rows, seed))
    prior = distance(stage.generate(SAMPLES, seed=seed, mean=True)["x"])
    found = distance(plain)
    return {
        "ratio": found / mixture if mixture < prior else math.inf,
        "fd": found,
        "fd_mixture": mixture,
        "fd_prior": prior,
        "fd_ddim": distance(short),
        "told": reader.accuracy(plain, classes),
        "guided": reader.accuracy(guided, classes),
        "reconstructed": distance(stage.reconstruct(x=test)["x"]),
    }


def pictures(model: LDM, c: Tensor, seed: int, steps: int | None = None, guidance: float = 0.0) -> Tensor:
    """Means of p(x|z) for texts."""
    return model.generate(len(c), seed=seed, mean=True, steps=steps, guidance=guidance, c=c)["x"]


def from_mixture(stage: Stage, rows: Tensor, seed: int) -> Tensor:
    """Means of p(x|z) for codes of a mixture of 20 Gaussians that was fitted to the codes of the training digits."""
    codes = stage.latents(x=rows, deterministic=False, seed=seed)["z"]
    fitted = likelihood.fit_gaussian_mixture(codes.double().numpy(), 20, seed=seed)
    return stage.render(z=torch.from_numpy(fitted.sample(SAMPLES)[0]).float())["x"]
