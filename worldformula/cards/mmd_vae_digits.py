"""Measures a WAE-MMD beside a VAE: how far the aggregate posterior is from the prior, and what is reconstructed."""

from __future__ import annotations

import torch
from torch import Tensor

from worldformula import KL, MMD, E, Expression, log
from worldformula.data.digits import digits
from worldformula.models.mmd_vae import MMDVAE, SYSTEM, build, tiny
from worldformula.training.fit import fit


def measure(seed: int) -> dict[str, float]:
    """The same networks trained three ways on 1437 binary digits; all numbers are of the 360 test digits.

    Returns:
        ``claims``: how many of these hold: the MMD² of q(z) and p(z) is a tenth or less of that of the auto-encoder
        without MMD; training lowers it to half or less; the reconstruction costs at most 2 nats more than the VAE's.
        ``mmd`` and ``nats`` (−E_q[log p(x|z)]) of the three, and ``mmd_start``; 1000 times the MMD².
    """
    data = digits(binarise=True)
    x, test = torch.from_numpy(data.train_x), torch.from_numpy(data.test_x)
    found: dict[str, float] = {}
    for name in ("wae", "vae", "ae"):
        torch.manual_seed(seed)
        model = build(tiny())
        reconstruction = -E(model.encode, log(model.decode))
        losses: dict[str, Expression] = {
            "wae": model.loss,
            "vae": (KL(model.encode, model.prior) + reconstruction).mean(),
            "ae": reconstruction.mean(),
        }
        if name == "wae":
            found["mmd_start"] = discrepancy(model, test)
        fit(losses[name], {"x": x}, seed=seed, **SYSTEM.fits["tiny"])
        with torch.no_grad():
            found[f"nats_{name}"] = sum(float(reconstruction.mean()(x=test).value) for _ in range(20)) / 20
        found[f"mmd_{name}"] = discrepancy(model, test)
    return {"claims": float(claims(found)), **found}


def claims(found: dict[str, float]) -> int:
    """How many of the three statements hold."""
    return sum((
        found["mmd_wae"] <= 0.1 * found["mmd_ae"],
        found["mmd_wae"] <= 0.5 * found["mmd_start"],
        found["nats_wae"] <= found["nats_vae"] + 2.0,
    ))  # fmt: skip


@torch.no_grad()
def discrepancy(model: MMDVAE, x: Tensor, rounds: int = 50) -> float:
    """1000 times the unbiased MMD² of the draws of q(z|x) for all rows and as many of p(z), mean over rounds."""
    gap = MMD(model.encode, model.prior, kernel="imq", scale=(0.5, 1.0, 2.0))
    return 1000 * sum(float(gap(x=x, seed=i).value) for i in range(rounds)) / rounds
