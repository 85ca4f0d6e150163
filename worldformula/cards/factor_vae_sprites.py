"""Measures FactorVAE on mini-sprites: the mutual information gap beside VAEs, a rotated and an unrotated oracle."""

from __future__ import annotations

import torch
from torch import Tensor

from worldformula import KL, Bernoulli, E, Normal, Symbol, log
from worldformula.data.sprites import sprites
from worldformula.metrics.disentangle import controls, mig
from worldformula.models.factor_vae import build, tiny
from worldformula.nets.perceptron import Perceptron
from worldformula.training.fit import fit
from worldformula.training.schedules import linear

STEPS, BATCH = 4000, 64


def measure(seed: int) -> dict[str, float]:
    """All 768 sprites; the codes are the means of q(z|x).

    Returns:
        ``gain``: MIG less the larger of that of the VAE (β = 1) plus 0.1 and of the rotated oracle (mean of 10
        rotations), where the reconstruction costs less than that of β = 4; −1 elsewhere. ``mig``, ``mig_1``, ``mig_4``,
        ``rotated``, ``oracle``; the cross-entropies ``cost``, ``cost_1``, ``cost_4`` of the reconstructions, in nats,
        less the entropy of the pixels, which no model can avoid.
    """
    data = sprites()
    x, factors = torch.from_numpy(data.images), data.factors
    torch.manual_seed(seed)
    model = build(tiny())
    fit(model.loss, {"x": x}, steps=STEPS, batch=2 * BATCH, lr=1e-3, seed=seed, inputs=model.given,
        symbols=model.symbols)  # fmt: skip
    found = {"mig": mig(model.codes(x).numpy(), factors), "cost": cost(x, model.reconstruct(x=x)["x"])}
    for beta in (1.0, 4.0):
        codes, pictures = beta_vae(x, beta, seed)
        found |= {f"mig_{beta:g}": mig(codes.numpy(), factors), f"cost_{beta:g}": cost(x, pictures)}
    rotations = [mig(controls(factors, i)["rotated"], factors) for i in range(10)]
    found |= {"rotated": sum(rotations) / len(rotations), "oracle": mig(controls(factors)["oracle"], factors)}
    gain = found["mig"] - max(found["mig_1"] + 0.1, found["rotated"])
    return {"gain": gain if found["cost"] < found["cost_4"] else -1.0, **found}


def beta_vae(x: Tensor, beta: float, seed: int) -> tuple[Tensor, Tensor]:
    """Codes and reconstructions of a β-VAE with the same networks, warm-up and steps."""
    torch.manual_seed(seed)
    sizes = tiny()
    prior = Normal("p(z)", shape=sizes.latent)
    encode = Normal("q(z|x)", Perceptron(sizes.pixels, 2 * sizes.latent, sizes.hidden, sizes.activation),
                    shape=sizes.latent)  # fmt: skip
    decode = Bernoulli("p(x|z)", Perceptron(sizes.latent, sizes.pixels, sizes.hidden, sizes.activation),
                       shape=sizes.pixels)  # fmt: skip
    loss = (Symbol("beta") * KL(encode, prior) - E(encode, log(decode))).mean()
    weight = linear(1.0, beta, sizes.warm_up) if beta != 1 else 1.0
    fit(loss, {"x": x}, steps=STEPS, batch=BATCH, lr=1e-3, seed=seed, symbols={"beta": weight})
    with torch.no_grad():
        codes = encode.sample(x=x, deterministic=True)
        return codes, decode.net(codes).sigmoid()  # type: ignore[misc]


def cost(x: Tensor, pictures: Tensor) -> float:
    """Cross-entropy of the pixels under a reconstruction less their own entropy, nats per picture."""
    terms = torch.nn.functional.binary_cross_entropy(pictures, x, reduction="none")
    own = torch.nn.functional.binary_cross_entropy(x, x, reduction="none")
    return float((terms - own).sum(-1).mean())
