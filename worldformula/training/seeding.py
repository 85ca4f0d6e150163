"""Randomness from one number: seeding every generator, and taking their states along in a checkpoint."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy's global generator and torch on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def derived(seed: int, *path: int) -> int:
    """A new seed below 2⁶³ for one purpose of a run, e.g. ``derived(seed, 1)`` for its evaluation."""
    # The length goes first: to a SeedSequence, (3,) and (3, 0) are the same entropy.
    return int(np.random.SeedSequence((len(path), seed, *path)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def rng_state() -> dict[str, Any]:
    """The states of all global generators, in the types that `worldformula.training.checkpoint` stores."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "python": [version, np.array(words, dtype=np.int64), gauss],
        "numpy": [str(name), np.array(keys, dtype=np.uint32), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Puts the states of `rng_state` back. The CUDA states are used where the number of devices is the same."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(int(w) for w in words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys, position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def continued() -> torch.Generator:
    """A generator that draws what torch's own would draw next, and leaves that where it is."""
    found = torch.Generator()
    found.set_state(torch.get_rng_state())
    return found


@contextlib.contextmanager
def forked(seed: int) -> Iterator[None]:
    """A block with randomness of its own: what follows draws as if the block had not run.

    Evaluation runs in such a block, so that a run that is evaluated more often does not learn differently.
    """
    before = rng_state()
    seed_everything(seed)
    try:
        yield
    finally:
        set_rng_state(before)
