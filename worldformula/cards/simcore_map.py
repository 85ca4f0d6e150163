"""Measures what SimCore's belief knows of the map, read by a linear probe, with and without overshooting."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from worldformula.data.gridworld import MOVES, SIZE, TILE, GridWorlds, gridworld
from worldformula.training.fit import fit
from worldformula.training.source import Batch
from worldformula.world import World
from worldformula.worlds.simcore import SYSTEM, Sizes, build, tiny

EPISODES, TEST = 6000, 1000
CHUNK = 500  # walks that are filtered at once
PROBED, PENALTY = 2000, 30.0  # training episodes that the probe is fitted on; of ridge on standardised beliefs
HORIZONS = {"overshoot": (1, 8), "one_step": (1,)}

Beliefs = NDArray[np.float64]


def measure(seed: int) -> dict[str, float]:
    """Train with and without overshooting on the same walks; probe both, and the untrained world, on maps of their own.

    Returns:
        Cell accuracy of the map that is read off the belief at the last step of unseen maps: ``overshoot``,
        ``one_step``, ``random`` (the weights that both start from), ``majority`` (the most frequent map, without any
        belief) and ``memory`` (whoever forgets nothing, and guesses what was never in view); the same over the cells
        that were in view before and are not now, as ``remembered_…``. ``margin``: overshoot above the better of
        one_step and random.
    """
    walks = gridworld(EPISODES, seed=1000 + seed)
    held = unseen(gridworld(TEST, seed=2000 + seed), walks)
    data, found = series(walks), dict[str, float]()
    for name, horizons in HORIZONS.items():
        torch.manual_seed(seed)
        world = build(sizes(horizons))
        if not found:
            found |= read("random", world, walks, held)
        fit(world.loss, data, seed=seed, inputs=given, **SYSTEM.fits["tiny"])
        found |= read(name, world, walks, held)
    found |= floors(walks, held)
    return found | {"margin": found["overshoot"] - max(found["one_step"], found["random"])}


def sizes(horizons: tuple[int, ...]) -> Sizes:
    """The preset for light on a map, in two channels; z is small, as little of it cannot be known."""
    return replace(tiny(), pixels=2 * SIZE**2, latent=2, hidden=128, horizons=horizons)


def series(walks: GridWorlds) -> dict[str, Tensor]:
    """x [N, T, 128] and the index of the action [N, T], as small as they can be."""
    light = walks.lit().reshape(*walks.actions.shape, -1).astype(np.uint8)
    return {"x": torch.from_numpy(light), "a": torch.from_numpy(walks.actions)}


def given(batch: Batch) -> Batch:
    """The inputs of the world: actions one-hot, no reset but the first."""
    x, a = batch["x"].float(), F.one_hot(batch["a"], len(MOVES)).float()
    return {"x": x, "a": a, "first": torch.zeros(a.shape[:2], dtype=torch.bool)}


def unseen(walks: GridWorlds, known: GridWorlds) -> GridWorlds:
    """The walks whose map is none of the known ones."""
    maps = {bytes(m) for m in known.maps}
    new = np.array([bytes(m) not in maps for m in walks.maps])
    return walks.rows(new)


def last_beliefs(world: World, walks: GridWorlds) -> Beliefs:
    """The belief [N, H] at the last step of every walk."""
    data = series(walks)
    with torch.no_grad():
        parts = [
            world.filter(given({k: v[at : at + CHUNK] for k, v in data.items()}), seed=0).last()["b"]
            for at in range(0, len(walks.maps), CHUNK)
        ]
    return torch.cat(parts).double().numpy()


def read(name: str, world: World, walks: GridWorlds, held: GridWorlds) -> dict[str, float]:
    """Accuracy of a linear probe of all cells, fitted on beliefs of the training walks."""
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    few = walks.rows(slice(PROBED))
    probe = make_pipeline(StandardScaler(), RidgeClassifier(PENALTY))
    probe.fit(last_beliefs(world, few), few.maps.reshape(PROBED, -1))
    answer = probe.predict(last_beliefs(world, held)).reshape(held.maps.shape)
    return score(name, answer, held)


def floors(walks: GridWorlds, held: GridWorlds) -> dict[str, float]:
    """What no belief, and a perfect one, can say."""
    majority = np.broadcast_to(walks.maps.mean(0) > 0.5, held.maps.shape).astype(np.int64)
    known = tiles_seen(held)
    return score("majority", majority, held) | score("memory", np.where(known, held.maps, majority), held)


def tiles_seen(walks: GridWorlds) -> NDArray[np.bool_]:
    """The cells [N, 8, 8] of tiles that were in view at least in part."""
    tiles = SIZE // TILE
    seen = walks.in_view().any(1).reshape(-1, tiles, TILE, tiles, TILE).any((2, 4))
    return seen.repeat(TILE, 1).repeat(TILE, 2)


def score(name: str, answer: NDArray[np.int64], held: GridWorlds) -> dict[str, float]:
    """Accuracy of answered maps [N, 8, 8], over all cells and over those that only memory knows."""
    right = answer == held.maps
    light = held.in_view()
    remembered = light.any(1) & ~light[:, -1]
    return {name: float(right.mean()), f"remembered_{name}": float(right[remembered].mean())}
