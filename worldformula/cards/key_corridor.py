"""Measures whether critics that also learn from jumps find a way sooner: THICK Dreamer beside Dreamer v2.

The figure of a key corridor has to walk away from the door, take the key, which it then carries unseen, come back and
open. Both agents learn online from as many steps.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path

from worldformula import catalogue
from worldformula.run.config import EnvConfig, RunConfig
from worldformula.run.folder import read_metrics
from worldformula.run.interact import Interact
from worldformula.training.settings import override

STEPS, WINDOWS, LENGTH = 30_000, 30, 4
MODELS = ("thick_dreamer", "dreamer_v2")
SAME = ("agent.world.proceed=1", "agent.batch=8", "agent.length=32", "agent.train_ratio=64", "agent.prefill=1000")


def measure(seed: int) -> dict[str, float]:
    """Trains both agents, and takes the mean of their success over all of the training.

    Returns:
        ``margin``: the area under the curve of success of THICK Dreamer less that of Dreamer v2, less both standard
        errors; at 0 these touch. ``area_thick_dreamer`` and ``area_dreamer_v2`` with their ``_error``, ``gain``, the
        difference of areas, and ``late_…``, the success in the last third.
    """
    found = dict[str, float]()
    for model in MODELS:
        found |= {f"{key}_{model}": value for key, value in learnt(model, seed).items()}
    first, second = MODELS
    gain = found[f"area_{first}"] - found[f"area_{second}"]
    errors = found[f"error_{first}"] + found[f"error_{second}"]
    return {"margin": gain - errors, "gain": gain, **found}


def config(model: str, seed: int) -> RunConfig:
    """What either agent runs."""
    system = catalogue.find(model)
    env = EnvConfig("key_corridor", num=4, args=(f"length={LENGTH}",), log_info=("success",))
    every = RunConfig(system.name, "tiny", env, system.sizes("tiny"), STEPS, seed, capacity=2 * STEPS)
    known = [text for text in SAME if not text.startswith("agent.world.proceed") or model == "thick_dreamer"]
    return override(replace(every, log_every=STEPS // WINDOWS, checkpoint_every=STEPS, eval_episodes=0), known)


def learnt(model: str, seed: int) -> dict[str, float]:
    """``area``, ``error`` and ``late`` of an agent."""
    with tempfile.TemporaryDirectory() as folder:
        loop = Interact(config(model, seed), catalogue.find(model).build, Path(folder) / "run", say=_quiet)
        loop.run()
        lines = read_metrics(loop.folder.metrics_file)
    return area([(line["episodes"], line["episode/success"]) for line in lines if "episode/success" in line])


def area(windows: list[tuple[float, float]]) -> dict[str, float]:
    """Of windows of equal length, the number of episodes that had ended until then and the share of those within that
    succeeded: the mean share, its standard error, and the mean of the last third.
    """
    counts = [after - before for (before, _), (after, _) in zip([(0.0, 0.0), *windows], windows, strict=False)]
    shares = [share for _, share in windows]
    spread = sum(p * (1 - p) / max(n, 1.0) for p, n in zip(shares, counts, strict=True))
    last = shares[-max(1, len(shares) // 3) :]
    return {
        "area": sum(shares) / len(shares), "error": math.sqrt(spread) / len(shares), "late": sum(last) / len(last)
    }  # fmt: skip


def _quiet(_: str) -> None:
    return None
