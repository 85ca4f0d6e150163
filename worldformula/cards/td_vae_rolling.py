"""Measures TD-VAE on rolling digits: prediction by jumps, and whether the belief knows where the digit is going."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from worldformula.data.rolling import WIDTH, rolling
from worldformula.metrics.probe import Split, logistic_accuracy
from worldformula.training.fit import fit
from worldformula.training.source import Batch
from worldformula.world import State, World
from worldformula.worlds.td_vae import SYSTEM, build, tiny

AFTER = 7  # predictions start from the belief at this step


def measure(seed: int) -> dict[str, float]:
    """Train on the sequences of 1437 digits, test on those of 360 others.

    Returns:
        Wrong pixels of 96 in one sampled prediction from the belief at t = 7: ``jump_k`` by one jump of k steps,
        ``steps_k`` by k jumps of 1, ``jumps_8`` by two of 4; ``blank`` and ``copy_k``, the floors, on the same
        frames. ``direction_t``: how often a linear classifier reads the direction off the belief at t. ``saved``: what
        one jump of 4 saves of the wrong pixels of four jumps of 1.
    """
    torch.manual_seed(seed)
    world = build(tiny())
    train(world, seed)
    data = {part: series(test=part == "test") for part in ("train", "test")}
    with torch.no_grad():
        states = {part: world.filter(given, seed=seed) for part, (given, _) in data.items()}
    frames, beliefs = data["test"][0]["x"], {part: found["b"] for part, found in states.items()}
    start = states["test"].at(AFTER)
    found = {f"jump_{k}": wrong(world, start, [k], frames, seed) for k in (1, 2, 4)}
    found |= {f"steps_{k}": wrong(world, start, [1] * k, frames, seed) for k in (2, 4)}
    found["jumps_8"] = wrong(world, start, [4, 4], frames, seed)
    found |= {f"copy_{k}": errors(frames[:, AFTER], frames[:, AFTER + k]) for k in (1, 2, 4)}
    found["blank"] = errors(torch.zeros_like(frames[:, 0]), frames[:, AFTER + 4])
    found |= {f"direction_{t}": direction(beliefs, data, t) for t in (0, 1, 7)}
    return found | {"saved": found["steps_4"] - found["jump_4"]}


def train(world: World, seed: int) -> None:
    """On the sequences, rolled to a random first column."""
    given, _ = series(test=False)

    def turned(batch: Batch) -> Batch:
        x = torch.unflatten(batch["x"], -1, (-1, WIDTH))
        return {"x": x.roll(int(torch.randint(WIDTH, ())), -1).flatten(-2), "first": batch["first"]}

    fit(world.loss, given, seed=seed, inputs=turned, **SYSTEM.fits["tiny"])


def series(*, test: bool) -> tuple[dict[str, Tensor], Tensor]:
    """x [N, 16, 96] with no reset but the first, and the direction [N] of each sequence."""
    found = rolling(test=test)
    x = torch.from_numpy(found.frames).flatten(2)
    return {"x": x, "first": torch.zeros(x.shape[:2], dtype=torch.bool)}, torch.from_numpy(found.direction)


def wrong(world: World, start: State, jumps: list[int], frames: Tensor, seed: int) -> float:
    """Wrong pixels after these jumps, one after the other."""
    sizes = F.one_hot(torch.tensor(jumps) - 1, tiny().jump).float()
    with torch.no_grad():
        dream = world.imagine(start, actions=sizes.expand(len(frames), -1, -1), seed=seed)
        shown = world.decode(dream.last())["x"]
    return errors((shown > 0.5).float(), frames[:, AFTER + sum(jumps)])


def errors(shown: Tensor, frames: Tensor) -> float:
    """Pixels that differ, a mean over frames."""
    return float((shown != frames).float().sum(-1).mean())


def direction(beliefs: dict[str, Tensor], data: dict[str, tuple[dict[str, Tensor], Tensor]], t: int) -> float:
    """Accuracy of a linear classifier of the direction from the belief at t, on test sequences."""
    parts = [x for part in ("train", "test") for x in (beliefs[part][:, t].numpy(), data[part][1].numpy())]
    return logistic_accuracy(Split(*parts))
