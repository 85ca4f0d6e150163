"""Measures a masked autoregressive flow on digits with 17 levels, and whether flows are inverses and densities."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from worldformula.data import load
from worldformula.data.rings import moons
from worldformula.fitting import fit
from worldformula.metrics import likelihood
from worldformula.models.flow import SYSTEM, FlowModel, build, maf, plane

INVERSE, INTEGRAL = 1e-4, 0.01


def measure(seed: int) -> dict[str, float]:
    """Train on 1293 digits, stop on 144, test on 360.

    Returns:
        ``bits``: per dimension of the test digits, one dequantisation noise each, infinite where one of the next two
        fails; ``inverse``: largest |x − f⁻¹(f(x))| of u in [0, 1]; ``integral``: of a flow trained on two moons over
        the square [−6, 6]²; ``bits_16``: with 16 noises; ``table``: independent histograms of the pixels.
    """
    torch.manual_seed(seed)
    data = load("digits-17")
    rows, test = torch.from_numpy(data.train["x"]), torch.from_numpy(data.test["x"])
    model = build(maf())
    fit(model, {"x": rows}, seed=seed, progress=False, **SYSTEM.fits["maf"])
    inverse, integral = inverse_error(model, test, seed), plane_integral(seed)
    good = inverse < INVERSE and abs(integral - 1) < INTEGRAL
    table = likelihood.categorical_table(data.train["x"], data.test["x"], 17)
    return {
        "bits": bits(model, test, 1, seed) if good else math.inf,
        "inverse": inverse,
        "integral": integral,
        "bits_16": bits(model, test, 16, seed),
        "table": likelihood.bits_per_dim(float(table.mean()), 64),
    }


def bits(model: FlowModel, x: Tensor, draws: int, seed: int) -> float:
    """Bits per dimension, with this many dequantisation noises a row."""
    return likelihood.bits_per_dim(float(model.bound(draws, seed=seed, x=x).double().mean()), x.shape[1])


@torch.no_grad()
def inverse_error(model: FlowModel, x: Tensor, seed: int) -> float:
    """max |u − f⁻¹(f(u))| of dequantised rows."""
    u = (x + torch.rand(x.shape, generator=torch.Generator().manual_seed(seed))) / model.levels
    transform = model.density.net.flow.transform  # type: ignore[union-attr]
    return float((transform.inverse(transform(u)[0]) - u).abs().max())


def plane_integral(seed: int) -> float:
    """∫ p over a square that holds two moons, of a RealNVP that was trained on them."""
    model = build(plane())
    points = {"x": torch.from_numpy(moons().sample(4000, seed))}
    fit(model, points, seed=seed, progress=False, **SYSTEM.fits["plane"])
    return math.exp(float(likelihood.quadrature(lambda x: model.log_prob(x=x.float()), points=601)))
