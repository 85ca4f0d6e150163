"""Measures whether the context of THICK's world changes when a hidden fact does, and whether its jumps foresee it.

The figure of a key corridor picks up a key that it then carries unseen: only the memory can know. The world learns from
play of a controller with random actions between; its gates are then looked at in play that it has not seen. No
`worldformula fit` trains it so: jumps learn by a loss of their own, from what the world infers once it has learnt.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from worldformula.envs.play import play
from worldformula.training.fit import fit
from worldformula.training.schedules import linear
from worldformula.world.jumps import Jumping
from worldformula.world.segments import Segments
from worldformula.worlds import c_rssm

LENGTH, CHUNKS, HELD_OUT, STEPS, BATCH = 4, 1500, 300, 50, 16
CELLS, TILES, CENTRE, KEY, PICKUP, ACTIONS = 25, 7, 12, 4, 4, 6
UPDATES, BETA = 3000, 30.0
JUMPS, ROWS, FAR = 1000, 512, 3
LEAST, MOST = {"recall": 0.95, "precision": 0.6, "probe": 0.98, "place": 0.9, "act": 0.9}, 0.07  # what is asked
Batch = dict[str, Tensor]


def measure(seed: int) -> dict[str, float]:
    """A world learns from play, then its jumps from what that infers; both are scored on other play.

    Returns:
        ``holds``: the smallest of recall/.95, .07/open, precision/.6, probe/.98, place/.9 and act/.9.
        ``recall``: the share of key pick-ups at which a gate opens; ``open``: the share of rows with an open gate;
        ``precision``: how many of these are pick-ups, beside their share of all rows, ``events``; ``probe``: the
        accuracy of a ridge regression from the context to whether the key is carried, beside ``larger``, the share of
        the larger class. Of rows at least three steps before a pick-up that is the next change: ``place`` and ``act``,
        how often the jump says that the figure is on the key, and that it picks up; ``time``, its mean error of the
        steps until then, over that of the best constant.
    """
    training, unseen = (rows_of(2 * seed + i, n) for i, n in enumerate((CHUNKS, HELD_OUT)))
    torch.manual_seed(seed)
    config = replace(c_rssm.thick_tiny(), gates=None)
    world = c_rssm.build(config, {"crop": (CELLS * TILES,)}, ACTIONS, {"crop": (TILES,) * CELLS}, kinds={"a": "choice"})
    assert isinstance(world, Jumping)
    read = {name: training[name] for name in world.loss.program.inputs if name in training}
    warm = {"beta": linear(0.0, BETA, UPDATES)}
    fit(world.loss, read, batch=BATCH, steps=UPDATES, lr=6e-4, clip=100.0, seed=seed, symbols=warm)
    fit(world.jumps, jumps_of(world, training), batch=ROWS, steps=JUMPS, lr=6e-4, clip=100.0, seed=seed)
    samples = inferred(world, unseen)
    found = {**opened(samples, unseen), **foreseen(world, samples, unseen)}
    return {"holds": min(MOST / found["open"], *(found[name] / least for name, least in LEAST.items())), **found}


def rows_of(seed: int, chunks: int) -> Batch:
    """Play as a world reads it: the crop x, actions a, rewards r and flags; ``key`` and ``event`` are for scores."""
    play_ = play("key_corridor", seed, chunks, STEPS, labels=("hidden/key",), events=("pickup_key",), length=LENGTH)
    rows = {name: torch.from_numpy(column) for name, column in play_.items()}
    going = ~rows["is_last"][..., None]
    return {
        "x": one_hot(rows["vector"].flatten(2).long(), TILES).flatten(2).float(),
        "a": one_hot(rows["action"].long().view(chunks, STEPS), ACTIONS).float() * going,
        "r": rows["reward"], "first": rows["is_first"], "key": rows["label/hidden/key"].view(chunks, STEPS),
        "event": rows["event"][..., 0],
    }  # fmt: skip


@torch.no_grad()
def inferred(world: Jumping, rows: Batch) -> Batch:
    """What the world infers of rows, with its own noise: a part of the chunks at once."""
    parts = []
    for start in range(0, len(rows["x"]), 100):
        given = {name: rows[name][start : start + 100] for name in world.loss.program.inputs if name in rows}
        parts.append(world.loss(**given, beta=0.0, seed=start).samples)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def jumps_of(world: Jumping, rows: Batch) -> Batch:
    """The rows behind which there is a change."""
    found = world.beside("jumps", inferred(world, rows), rows, rows.get("terminal"))
    kept = found["m"] > 0
    return {name: x[kept] for name, x in found.items()} | {"m": torch.ones(int(kept.sum()))}


def opened(samples: Batch, rows: Batch) -> dict[str, float]:
    """What the gates have to do with the event, and the context with the fact; nothing is known at a first row."""
    later, open_ = ~rows["first"], (samples["Theta"] > 0).any(-1)
    event = rows["event"][later]
    open_ = open_[later]
    context, key = samples["c"][later].double(), rows["key"][later].double()
    half = len(key) // 2
    x = torch.cat((context, torch.ones(len(key), 1).double()), 1)
    normal = x[:half].T @ x[:half] + 1e-3 * torch.eye(x.shape[1]).double()
    said = x[half:] @ torch.linalg.solve(normal, x[:half].T @ (2 * key[:half] - 1)) > 0
    share = key[half:].mean().item()
    return {
        "recall": (open_ & event).sum().item() / event.sum().item(),
        "open": open_.float().mean().item(),
        "precision": (open_ & event).sum().item() / max(1, int(open_.sum())),
        "events": event.float().mean().item(),
        "probe": (said == (key[half:] > 0.5)).float().mean().item(),
        "larger": max(share, 1 - share),
    }


@torch.no_grad()
def foreseen(world: Jumping, samples: Batch, rows: Batch) -> dict[str, float]:
    """What jumps say of pick-ups that are the next change, and far enough away."""
    found = Segments.of((samples["Theta"] > 0).any(-1), rows["first"])
    ahead = found.known & found.at(rows["event"]) & (found.elapsed >= FAR)
    count = int(ahead.sum())
    if not count:
        return {"place": 0.0, "act": 0.0, "time": 1.0, "ahead": 0.0}
    said = world.foretold.sample(z=samples["z"][ahead], c=samples["c"][ahead], deterministic=True)
    seen = world.own.heads_coarse["k_coarse"].params(said["Y"], samples["c"][ahead])[0]
    steps = found.elapsed[ahead].float()
    constant = max((steps - steps.median()).abs().mean().item(), 1e-6)
    return {
        "place": (seen[:, CENTRE].argmax(-1) == KEY).float().mean().item(),
        "act": (said["B"].argmax(-1) == PICKUP).float().mean().item(),
        "time": (said["n"] - steps).abs().mean().item() / constant,
        "ahead": count,
    }
