"""Measures flows and shortcuts on three Gaussians of the plane: draws in few calls, and the density of the ODE."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor

from worldformula.data.rings import three
from worldformula.fitting import fit
from worldformula.metrics.sliced import sliced_wasserstein
from worldformula.models import flow_matching, shortcut
from worldformula.models.flow_matching import FlowMatching
from worldformula.models.shortcut import Shortcut

ROWS, DRAWS, SCORED = 50_000, 16_384, 2000
CALLS = (1, 2, 4, 16, 64)


def measure(seed: int) -> dict[str, float]:
    """Trains a flow, one with optimal pairs, one on the first one's own draws, and a shortcut, each for 3000 updates.

    Returns:
        ``fm_1`` … ``fm_64``: sliced W₂ of the flow's draws by Euler in so many calls, in standard deviations of the
        data; ``midpoint_4``: by two steps of the midpoint method; ``optimal_1``, ``reflow_1``, ``shortcut_1`` … of the
        others; ``fresh``: of data; ``gaussian``: of one Gaussian with their mean and covariance. ``nll``, ``nll_half``:
        −log p of the flow by 64 and 32 steps of Heun, ``exact`` of the density itself. ``claims``: how many of the six
        of the card hold.
    """
    torch.manual_seed(seed)
    points = torch.from_numpy(three().sample(ROWS, seed))
    with ExitStack() as averages:
        found = trained(points, seed, averages)
    held = (
        found["fm_1"] >= 0.8,
        found["optimal_1"] <= 0.15,
        found["shortcut_1"] <= 0.15,
        found["midpoint_4"] <= 0.12,
        abs(found["nll"] - found["exact"]) <= 0.05,
        abs(found["nll"] - found["nll_half"]) <= 0.02,
    )
    return {"claims": float(sum(held)), **found}


def trained(points: Tensor, seed: int, averages: ExitStack) -> dict[str, float]:
    """All but the claims; the weights are the moving averages as long as ``averages`` is open."""
    truth = three()
    test, scale = torch.from_numpy(truth.sample(DRAWS, seed + 5000)), float(points.std())

    def far(x: Tensor) -> float:
        return sliced_wasserstein(x, test) / scale

    def learns(model: FlowMatching | Shortcut, rows: dict[str, Tensor]) -> None:
        history = fit(model, rows, seed=seed, progress=False, **flow_matching.SYSTEM.fits["plane"])
        averages.enter_context(history.averaged())

    model = flow_matching.build(flow_matching.plane())
    learns(model, {"x": points})
    found = {f"fm_{n}": far(model.generate(DRAWS, seed=seed, steps=n, solver="euler")["x"]) for n in CALLS}
    found["midpoint_4"] = far(model.generate(DRAWS, seed=seed, steps=2, solver="midpoint")["x"])
    scored = test[:SCORED]
    found["nll"] = -float(model.log_prob(scored, steps=64).mean())
    found["nll_half"] = -float(model.log_prob(scored, steps=32).mean())
    found["exact"] = -float(truth.log_prob(scored.numpy()).mean())

    optimal = flow_matching.build(replace(flow_matching.plane(), coupling="optimal"))
    again = flow_matching.build(replace(flow_matching.plane(), coupling="given"))
    learns(optimal, {"x": points})
    learns(again, model.pairs(ROWS, seed=seed))
    for name, other in (("optimal_1", optimal), ("reflow_1", again)):
        found[name] = far(other.generate(DRAWS, seed=seed, steps=1, solver="euler")["x"])
    short = shortcut.build(shortcut.plane())
    learns(short, {"x": points})
    found |= {f"shortcut_{n}": far(short.generate(DRAWS, seed=seed, steps=n)["x"]) for n in CALLS}

    found["fresh"] = far(torch.from_numpy(truth.sample(DRAWS, seed + 6000)))
    normal = torch.distributions.MultivariateNormal(points.mean(0), torch.cov(points.T))
    found["gaussian"] = far(normal.sample((DRAWS,)))
    return found
