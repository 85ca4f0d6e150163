"""Measures latents at a fork: does z say which branch it was, and nothing else?

No `worldformula fit` trains it so: steps grow and shrink along one cycle, and codes are annealed.

python -m worldformula.cards.fork SEED [two none eight gaussian free]      prints what a seed's worlds reach
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from worldformula.envs.fork import LANE, Fork, drive
from worldformula.formula import Factor
from worldformula.metrics.cluster import normalised_information
from worldformula.metrics.roc import auroc
from worldformula.training.fit import fit
from worldformula.training.seeding import continued
from worldformula.world import World
from worldformula.worlds import latent_jepa
from worldformula.worlds.latent_jepa import LatentJEPAConfig

EPISODES, HELD_OUT, STEPS, WINDOW, BATCH, UPDATES, RATE = 1_024, 1_024, 8, 4, 64, 800, 3e-3
COLD, WARM, COOLED = 60.0, 1.0, 0.6  # β of codes: at the end, at the start, and the share of the updates until then
TINY = latent_jepa.tiny()
WORLDS = {
    "two": replace(TINY, anneals=True),
    "none": replace(TINY, z="none"),
    "eight": replace(TINY, codes=8, anneals=True),
    "gaussian": replace(TINY, z="normal", codes=4),
    "free": replace(TINY, z="normal", codes=16, price=1e-6),  # as wide as the latent, and as good as free
}


@dataclass(frozen=True)
class Drives:
    """Pictures ``[N, T, 32, 32, 3]`` in [0, 1], where the car is, ``[N, T, 2]`` (y, x), shades of trees, actions."""

    pictures: Tensor
    places: Tensor
    trees: Tensor
    actions: Tensor

    @classmethod
    def of(cls, seed: int, episodes: int) -> Drives:
        """Data of the fork."""
        places, trees, actions = drive(seed, episodes, STEPS)
        found = seen(places.reshape(-1, 2), trees.reshape(-1, trees.shape[-1]))
        found = found.view(episodes, STEPS, *found.shape[1:])
        return cls(found, torch.from_numpy(places).float(), torch.from_numpy(trees).float(), torch.from_numpy(actions))


def seen(places: np.ndarray, trees: np.ndarray) -> Tensor:
    """Pictures ``[N, 32, 32, 3]`` in [0, 1] of cars at ``[N, 2]`` (y, x)."""
    states = np.concatenate((places, np.zeros_like(places), trees), -1)
    return torch.from_numpy(Fork().batch_render(states)).float() / 255


def train(config: LatentJEPAConfig, data: Drives, seed: int) -> World:
    """The world model's loss alone, by Adam; β of codes grows by a factor with every update."""
    torch.manual_seed(seed)
    world = latent_jepa.build(config, {"image": (32, 32, 3)}, 2)
    optimiser = torch.optim.Adam(world.loss.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=UPDATES)
    rng, noise, first = np.random.default_rng(seed), continued(), torch.zeros(BATCH, WINDOW, dtype=torch.bool)
    first[:, 0] = True

    def windows() -> dict[str, Tensor]:
        rows = torch.from_numpy(rng.integers(0, len(data.pictures), BATCH))[:, None]
        steps = torch.from_numpy(rng.integers(0, STEPS - WINDOW + 1, BATCH))[:, None] + torch.arange(WINDOW)
        return {"x": data.pictures[rows, steps], "a": data.actions[rows, steps], "first": first}

    fit(
        world.loss, windows, batch=BATCH, steps=UPDATES, seed=seed, optimizer=optimiser,
        inputs=lambda rows: {**rows, "generator": noise}, callback=lambda *_: schedule.step(),
        symbols={"beta": lambda i: WARM * (COLD / WARM) ** min(1, i / (COOLED * UPDATES))} if config.anneals else {},
    )  # fmt: skip
    return world.eval()


@dataclass(frozen=True)
class Crossing:
    """The steps at which cars of held-out episodes come to the fork: latents before ``s`` and behind it ``after``, of a
    picture of a car in the middle of nowhere ``middle``, actions ``a``, x ``[N]``, and the mean shade of the trees.
    """

    s: Tensor
    a: Tensor
    after: Tensor
    middle: Tensor
    x: Tensor
    shade: Tensor

    @classmethod
    def of(cls, world: World, data: Drives, seed: int) -> Crossing:
        """Of all episodes."""
        encode = world.posterior.factors[0].net
        assert encode is not None
        rows = torch.arange(len(data.places))
        at = (data.places[..., 1] != 0).float().argmax(1)
        there = data.places[rows, at]
        nowhere = np.stack((there[:, 0].numpy(), np.zeros(len(rows))), -1)
        trees = np.random.default_rng(seed).uniform(size=(len(rows), data.trees.shape[-1]))
        return cls(
            encode(data.pictures[rows, at - 1]),
            data.actions[rows, at - 1],
            encode(data.pictures[rows, at]),
            encode(seen(nowhere, trees)),
            there[:, 1],
            data.trees[rows, at].mean(-1),
        )


def evaluate(config: LatentJEPAConfig, world: World, data: Drives, held_out: Drives, seed: int) -> dict[str, float]:
    """What a world knows of the fork; distances in units of that of a branch from the middle, squared.

    Returns:
        ``near``: of the predicted x, z drawn from its prior, to the nearest branch; ``best``: of the best of all codes,
        or of two draws, to the true x; ``auroc`` of F(true) against F(middle); where there is a z, ``nmi`` with the
        branch, ``bits`` of its prior at the fork and ``bits_before`` in front of it, and ``texture``, how often z tells
        whether the trees are brighter than the median (½ by chance); ``probe``, R² of x in the latents.
    """
    with torch.no_grad():
        at = Crossing.of(world, held_out, seed)
        encode = world.posterior.factors[0].net
        assert encode is not None
        known = encode(data.pictures[:256].flatten(0, 1))
        solution = _fitted(known, data.places[:256].flatten(0, 1)[:, 1:])
        found = {"probe": _r2(_applied(known, solution)[:, 0], data.places[:256].flatten(0, 1)[:, 1])}
        guesses = _predicted(config, world, at, seed)  # [K, N, D]
        x = _applied(guesses, solution)[..., 0]
        drawn = x[0] if config.z != "codes" else x.gather(0, _drawn(world, at, seed)[None])[0]
        found["near"] = float(((drawn.abs() - LANE) ** 2).mean()) / LANE**2
        found["best"] = float(((x - at.x) ** 2).min(0).values.mean()) / LANE**2
    fits = latent_jepa.energy(config, world)
    good, bad = (fits(s=at.s, a=at.a, y=y).value.detach() for y in (at.after, at.middle))
    found["auroc"] = auroc(bad, good)
    if config.z != "none":
        with torch.no_grad():
            label, feature = _said(config, world, at)
            found["nmi"] = normalised_information(label.numpy(), (at.x > 0).numpy())
            found["bits"], found["bits_before"] = _bits(world, at.s, at.a), _bits(world, *_before(world, held_out))
            found["texture"] = _told(feature, at.shade > at.shade.median())
    return found


def _predicted(config: LatentJEPAConfig, world: World, at: Crossing, seed: int) -> Tensor:
    """Latents behind the fork: of every code, or of two draws, ``[K, N, D]``."""
    start = {"s": at.s}
    if config.z == "codes":
        codes = torch.eye(config.codes)
        return torch.stack(
            [
                world.imagine(start, actions={"a": at.a[:, None], "z": z.expand(len(at.s), 1, -1)})["s"][:, 1]
                for z in codes
            ]
        )
    draws = 1 if config.z == "none" else 2
    return torch.stack([world.imagine(start, actions=at.a[:, None], seed=seed + i)["s"][:, 1] for i in range(draws)])


def _law(world: World) -> Factor:
    return next(f for f in world.dynamics.prior.factors if f.family is not None)


def _drawn(world: World, at: Crossing, seed: int) -> Tensor:
    """Which code the prior draws, ``[N]``."""
    return _law(world).sample(s=at.s, a=at.a, seed=seed).argmax(-1)


def _said(config: LatentJEPAConfig, world: World, at: Crossing) -> tuple[Tensor, Tensor]:
    """What z was at the fork: a label ``[N]``, and its numbers ``[N, k]``. Of a Normal the mode of q, whose label is
    the side of its first principal component.
    """
    if config.z == "codes":
        code = torch.eye(config.codes)
        guesses = _predicted(config, world, at, 0)
        cost = (guesses - at.after).square().mean(-1) - config.price * _logs(world, at, code)
        return cost.argmin(0), code[cost.argmin(0)]
    post = next(m for name, m in world.loss.named_children() if name.startswith("q_z"))
    mean = post(at.s, at.a, at.after)[:, : config.codes]
    centred = mean - mean.mean(0)
    first = torch.linalg.svd(centred, full_matrices=False).Vh[0]
    return (centred @ first > 0).long(), mean


def _logs(world: World, at: Crossing, codes: Tensor) -> Tensor:
    law = _law(world)
    return torch.stack([law.log_prob(z=z.expand(len(at.s), -1), s=at.s, a=at.a) for z in codes])


def _before(world: World, data: Drives) -> tuple[Tensor, Tensor]:
    """Latents and actions of the first step."""
    encode = world.posterior.factors[0].net
    assert encode is not None
    return encode(data.pictures[:, 0]), data.actions[:, 0]


def _bits(world: World, s: Tensor, a: Tensor) -> float:
    """Entropy of the prior of codes, in bits; of a Normal its KL to that of the first step is not of one unit: NaN."""
    law = _law(world)
    if law.family is None or law.family.name != "one_hot":
        return float("nan")
    p = law.params(s, a)[0].softmax(-1)
    return float(-(p * p.clamp_min(1e-12).log2()).sum(-1).mean())


def _told(feature: Tensor, bright: Tensor) -> float:
    """How often a linear guess from z is right: fitted on one half, scored on the other."""
    half = len(feature) // 2
    target = bright.float() * 2 - 1
    solution = _fitted(feature[:half], target[:half, None])
    return float(((_applied(feature[half:], solution)[:, 0] > 0) == bright[half:]).float().mean())


def _fitted(x: Tensor, y: Tensor) -> Tensor:
    """Ridge regression with an intercept."""
    wide = torch.cat((x, torch.ones_like(x[:, :1])), 1).double()
    found: Tensor = torch.linalg.solve(wide.T @ wide + 1e-3 * torch.eye(wide.shape[1]), wide.T @ y.double())
    return found.float()


def _applied(x: Tensor, solution: Tensor) -> Tensor:
    return x @ solution[:-1] + solution[-1]


def _r2(guess: Tensor, truth: Tensor) -> float:
    return 1 - float((guess - truth).square().mean() / truth.var(correction=0))


CLAIMS: dict[str, Callable[[Mapping[str, float]], bool]] = {
    "two codes are the two branches": lambda m: m["nmi_two"] >= 0.9,
    "the best of two codes is the true branch": lambda m: m["best_two"] <= 0.05,
    "without a latent the middle is foretold": lambda m: abs(m["best_none"] - 1) <= 0.1 and m["near_none"] >= 0.8,
    "the impossible middle has more energy": lambda m: m["auroc_two"] >= 0.95,
    "the trees are not in z": lambda m: abs(m["texture_two"] - 0.5) <= 0.08,
}
"""What has to hold of every seed; distances in units of δ², so that the mean of two branches is 1 away from either."""


def opened(found: Mapping[str, float]) -> float:
    """How far a wide and free z makes the impossible possible: what it takes from the AUROC of two codes."""
    return found["auroc_two"] - found["auroc_free"]


def measure(seed: int) -> dict[str, float]:
    """All worlds of the card on the same data.

    Returns:
        ``claims``, how many of the five hold, ``opened``, and what `evaluate` says of every world.
    """
    data, held_out = Drives.of(seed, EPISODES), Drives.of(seed + 10_000, HELD_OUT)
    found: dict[str, float] = {}
    for name, config in WORLDS.items():
        world = train(config, data, seed)
        told = evaluate(config, world, data, held_out, seed)
        found |= {f"{key}_{name}": value for key, value in told.items() if not math.isnan(value)}
    return {"claims": float(sum(claim(found) for claim in CLAIMS.values())), "opened": opened(found), **found}


def main(arguments: Sequence[str] | None = None) -> None:
    """What the worlds of a seed reach."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seed", type=int)
    parser.add_argument("worlds", nargs="*", default=list(WORLDS))
    given = parser.parse_args(arguments)
    data, held_out = Drives.of(given.seed, EPISODES), Drives.of(given.seed + 10_000, HELD_OUT)
    for name in given.worlds:
        world = train(WORLDS[name], data, given.seed)
        found = evaluate(WORLDS[name], world, data, held_out, given.seed)
        print(f"{name:10s}", "  ".join(f"{k} {v:.3f}" for k, v in found.items()), flush=True)


if __name__ == "__main__":
    main()
