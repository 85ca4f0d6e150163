"""Measures bounds of long sequences: a deep Markov model of a noisy clock, scored by particles, beside the exact
likelihood of the process.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldformula.training.fit import fit
from worldformula.world import World
from worldformula.world.bounds import Bound, weighed
from worldformula.worlds import dmm

TRAIN, TEST, SHORT, LONG, STEPS, PARTICLES = 1000, 100, 40, 200, 300, 64
SPEED, MOVE, SHARP, BITS, GRID = 0.3, 0.3, 3.0, 8, 256


def measure(seed: int) -> dict[str, float]:
    """Train by the ELBO on 1000 sequences of 40 steps, score 100 of 200; nats per test sequence but for ``share``.

    Returns:
        ``share``: how far the bound of a filter lies above the −log p(x) of the process, of how far that of whole
        trajectories does; ``fivo`` and ``iwae``: −log p(x) of the model by either, of 64 particles; ``neg_elbo``: by
        one draw; ``exact``: of the process itself; ``independent``: one Bernoulli for each bit.
    """
    rng = np.random.default_rng(seed)
    train, test = clock(TRAIN, SHORT, rng), clock(TEST, LONG, rng)
    torch.manual_seed(seed)
    world = dmm.build(replace(dmm.tiny(), inference="left"))
    history = fit(
        world.loss, series(train), steps=STEPS, batch=32, lr=5e-3, clip=10.0, schedule="cosine", ema=0.99, seed=seed
    )
    kinds: tuple[Bound, ...] = ("fivo", "iwae")
    with torch.no_grad(), history.averaged():
        found: dict[str, float] = {kind: bound(world, kind, test) for kind in kinds}
        found["neg_elbo"] = float(world.loss(**series(test), seed=0).value)
    exact, probs = float(-log_likelihood(test).mean()), train.mean((0, 1))
    independent = -np.log(np.where(test > 0, probs, 1 - probs)).sum((1, 2)).mean()
    share = (found["fivo"] - exact) / (found["iwae"] - exact)
    return {"share": share, **found, "exact": exact, "independent": float(independent)}


def bound(world: World, kind: Bound, x: NDArray[np.float32]) -> float:
    """−log p(x) of a sequence, bounded by particles."""
    post, prior = (next(f for f in p.factors if f.variable.key == "z") for p in (world.posterior, world.prior))
    p, start = world.heads["x"] * prior, {"z": world.get_parameter("initial_state.z")}
    formula = weighed(kind, world.posterior, p, post, PARTICLES, reset="first", initial=start)
    return -float(formula(**series(x), seed=0).value.mean())


def series(x: NDArray[np.float32]) -> dict[str, Tensor]:
    """Bits [N, T, 8] as what the world reads, without a reset."""
    return {"x": torch.from_numpy(x), "first": torch.zeros(x.shape[:2], dtype=torch.bool)}


# ------------------------------------------------------------------------------------------------------- the process


def clock(count: int, length: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Bits ``[count, length, 8]`` of eight readers of a hand that turns and trembles; each looks in one direction."""
    phase, bits = rng.uniform(0, 2 * np.pi, count), []
    for _ in range(length):
        phase = phase + SPEED + MOVE * rng.standard_normal(count)
        bits.append(rng.random((count, BITS)) < _read(phase))
    return np.stack(bits, 1).astype(np.float32)


def _read(phase: NDArray[np.float64]) -> NDArray[np.float64]:
    """The probability of each bit: ``[N]`` to ``[N, 8]``."""
    directions = np.arange(BITS) * 2 * np.pi / BITS
    found: NDArray[np.float64] = 1 / (1 + np.exp(-SHARP * np.cos(phase[:, None] - directions)))
    return found


def log_likelihood(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """log p(x) of every sequence, by the forward algorithm over a grid of phases."""
    grid = np.arange(GRID) * 2 * np.pi / GRID
    step = (grid - grid[:, None] - SPEED + np.pi) % (2 * np.pi) - np.pi
    turn = np.sum([np.exp(-0.5 * ((step + 2 * np.pi * k) / MOVE) ** 2) for k in (-1, 0, 1)], 0)
    turn /= turn.sum(1, keepdims=True)
    probs, belief, total = _read(grid), np.full((len(x), GRID), 1 / GRID), np.zeros(len(x))
    for seen in x.transpose(1, 0, 2):
        belief = (belief @ turn) * np.exp(seen @ np.log(probs).T + (1 - seen) @ np.log(1 - probs).T)
        share = belief.sum(1)
        total += np.log(share)
        belief /= share[:, None]
    return total
