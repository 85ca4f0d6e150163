"""Measures what a world knows of a door that it saw in the first four rows of an episode alone.

Three worlds wander in two rooms, each with a state of another kind: a memory of keys and values, an LSTM, the last
eight rows. Each predicts what it sees, its next state, and where the door is. Then a point walks to a goal in the
other room by the door that it believes in.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from worldformula.cards.rooms import Floats
from worldformula.envs.two_rooms import NEAR, SPEED, Layout, middles, moved, wander, within
from worldformula.formula import Deterministic, E, Factor, Mean, Normal, Value, clamp, log, norm2, sg
from worldformula.metrics.success import wilson
from worldformula.training.fit import fit
from worldformula.world import World
from worldformula.worlds import recalling
from worldformula.worlds.recalling import Beside

EDGE, SEEN, STEPS = 65.0, 4, 40
TRAIN, TEST, HOW = 2000, 100, recalling.SYSTEM.fits["small"]
UPDATES = {"memory": HOW["steps"], "lstm": 1200, "rows": 1200}  # as many processor seconds for the first two
KEPT, UNITS = 8, 64  # rows that are kept, units of the LSTM
PATIENCE, DECIDED = 200, 1.0  # steps of a walk; pixels within which it has come to a point of its way
ERROR, SHARE = 2.0, 0.5  # what the card asks for
Batch = dict[str, Tensor]


class LSTM(nn.Module):
    """h_t, c_t of what is seen."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(inputs, units)

    def forward(self, h: Tensor, c: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """``[N, …]`` each."""
        found: tuple[Tensor, Tensor] = self.cell(x, (h, c))
        return found


class Rows(nn.Module):
    """The last rows side by side, the newest behind the others."""

    def forward(self, kept: Tensor, x: Tensor) -> Tensor:
        """``[N, KEPT · D]``, ``[N, D]``."""
        return torch.cat((kept[:, x.shape[1] :], x), -1)


def walks(seed: int, count: int) -> tuple[list[Layout], Floats, Batch]:
    """Walks in rooms of their own, and the series that a world reads: x is the position, what is seen of the door, and
    whether it is seen.
    """
    layouts, positions, actions = wander(seed, count, STEPS)
    door = torch.from_numpy(np.stack([middles(own)[0] for own in layouts]) / EDGE).float()
    y = door.unsqueeze(1).expand(-1, STEPS, -1).contiguous()
    flag = (torch.arange(STEPS) < SEEN).float().view(1, -1, 1).expand(count, -1, -1)
    x = torch.cat((torch.from_numpy(positions / EDGE).float(), y * flag, flag), -1)
    first = torch.zeros(count, STEPS, dtype=torch.bool)
    return layouts, positions, {"x": x, "a": torch.from_numpy(actions), "y": y, "first": first}


def built(kind: str) -> World:
    """A world whose state is of this kind."""
    if kind == "memory":
        return recalling.build(recalling.small())
    if kind == "lstm":
        cell, ahead, size = LSTM(5, UNITS), LSTM(2, UNITS), UNITS
        state: Factor = Deterministic("h_t, c_t = lstm(h_{t-1}, c_{t-1}, x_t)", cell, shape=[UNITS, UNITS])
        core: Factor = Deterministic("h_t, c_t = f(h_{t-1}, c_{t-1}, a_{t-1})", ahead, shape=[UNITS, UNITS])
        foretold: Factor = Deterministic(
            r"\hat h_t, \hat c_t = f(h_{t-1}, c_{t-1}, a_{t-1})", ahead, shape=[UNITS, UNITS]
        )
    else:
        size = 5 * KEPT
        step = Beside(size + 2, size, UNITS)
        state = Deterministic("h_t = rows(h_{t-1}, x_t)", Rows(), shape=size)
        core = Deterministic("h_t = f(h_{t-1}, a_{t-1})", step, shape=size)
        foretold = Deterministic(r"\hat h_t = f(h_{t-1}, a_{t-1})", step, shape=size)
    seen = Normal("p(x_t|h_t)", Beside(size, 5, UNITS), shape=5, scale=1.0)
    recalled = Normal("p(y_t|h_t)", Beside(size, 2, UNITS), shape=2, scale=1.0)
    off = norm2(Value(r"\hat h_t", shape=size) - sg(Value("h_t", shape=size))) / size
    later = clamp(Value("t") - 1, 0, 1)
    loss = Mean("t", E(state * foretold, later * off - log(seen) - log(recalled)), reset="first").mean()
    return World(prior=core, posterior=state, heads={"x": seen, "y": recalled}, loss=loss)


def measure(seed: int) -> dict[str, float]:
    """Three worlds learn from the same walks.

    Returns:
        ``holds``: the larger of error/2 and (error/better)/0.5, where better is the smaller error of the other two;
        ``memory``, ``lstm`` and ``rows``: the mean distance in pixels between the door and what is said of it at the
        last row; ``mean``: of the mean door of the training walks; ``<name>_success``: the share of walks through the
        believed door that end at the goal, with ``_low`` and ``_high``; ``true_success``: through the true one.
    """
    _, _, training = walks(2 * seed, TRAIN)
    layouts, positions, held_out = walks(2 * seed + 1, TEST)
    truth, found = held_out["y"][:, -1], dict[str, float]()
    beliefs = {"mean": training["y"][:, -1].mean(0).expand(TEST, -1), "true": truth}
    for name, updates in UPDATES.items():
        torch.manual_seed(seed)
        world = built(name)
        fit(world.loss, training, seed=seed, **{**HOW, "steps": updates})
        with torch.no_grad():
            last = world.filter({k: v for k, v in held_out.items() if k != "y"}).last()
            beliefs[name] = world.decode(last, ["y"])["y"]
    for name, said in beliefs.items():
        if name != "true":
            found[name] = float((said - truth).norm(dim=-1).mean()) * EDGE
        share = wilson(arrived(layouts, positions[:, -1], said.double().numpy() * EDGE, seed), TEST)
        found |= {f"{name}_success": share.value, f"{name}_low": share.low, f"{name}_high": share.high}
    better = min(found["lstm"], found["rows"])
    return {"holds": max(found["memory"] / ERROR, found["memory"] / better / SHARE), **found}


def arrived(layouts: list[Layout], starts: Floats, doors: Floats, seed: int) -> int:
    """How many walks end at a goal in the other room: to the believed door, through it, and to the goal."""
    rng, hits = np.random.default_rng(seed), 0
    for layout, start, door in zip(layouts, starts, doors, strict=True):
        left = start[0] < layout.rooms[0][1]
        goal, side = within(rng, layout.rooms[1 if left else 0]), np.array([-4.0 if left else 4.0, 0.0])
        way: list[Floats] = [door + side, door - side, goal]
        at = start
        for _ in range(PATIENCE):
            while len(way) > 1 and np.linalg.norm(way[0] - at) < DECIDED:
                del way[0]
            far = way[0] - at
            at = moved(layout.walls, at, far / max(SPEED, float(np.linalg.norm(far))))
        hits += bool(np.linalg.norm(at - goal) <= NEAR)
    return hits
