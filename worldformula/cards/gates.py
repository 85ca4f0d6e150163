"""Measures whether the gates of a GateL0RD memory open at the event that nobody sees, and seldom elsewhere.

A robot that stands still follows a figure from the moment on that the figure was at one place. The memory reads where
both are and what is done; what it keeps has to say whether the robot will move (Gumbsch, Butz & Martius 2021).
No `worldformula fit` trains it so: the memory stands alone, in no world of the catalogue.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldformula.envs.robot_remote import REACH, sequences
from worldformula.formula import Deterministic, E, Expression, Mean, Normal, Symbol, Value, log, total
from worldformula.nets.gate_l0rd import GateL0RDCore
from worldformula.nets.perceptron import Perceptron
from worldformula.training.fit import fit
from worldformula.training.schedules import linear

RADIUS, COUNT, HELD_OUT, BATCH = 0.2, 6400, 1000, 64
MEMORY, UNITS, NOISE, SPREAD = 8, 64, 0.1, 0.2
UPDATES, LAMBDA, RATE = 10_000, 10.0, 3e-3
MOST, LIFT = 0.25, 3.0  # what is asked
Batch = dict[str, Tensor]


class Beside(nn.Module):
    """A perceptron of its inputs side by side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.net = Perceptron(inputs, outputs, (UNITS,))

    def forward(self, *given: Tensor) -> Tensor:
        """``[N, …]`` each, to ``[N, outputs]``."""
        found: Tensor = self.net(torch.cat(given, -1))
        return found


def built() -> Expression:
    """What the memory learns by: −log p(d_t|u_t, c_t) of how both move next, and λ times the share of open gates."""
    noise = Normal("p(ε_t)", shape=MEMORY, loc=0.0, scale=NOISE)
    read = Deterministic("u_t = pre(x_t, a_t)", Beside(6, UNITS), shape=UNITS)
    memory = GateL0RDCore(UNITS, MEMORY)
    context = Deterministic("c_t, Θ_t = memory(u_t, c_{t-1}, ε_t)", memory, shape=[(MEMORY,), (MEMORY,)])
    moves = Normal("p(d_t|u_t,c_t)", Beside(UNITS + MEMORY, 4), shape=4, scale=SPREAD)
    opened = (total(Value("Θ_t")) / MEMORY).named("gates")
    return Mean("t", E(noise * read * context, -log(moves) + Symbol("lambda") * opened)).mean()


def measure(seed: int) -> dict[str, float]:
    """A memory learns from sequences of which half have the event.

    Returns:
        ``holds``: the smaller of .25/open and lift/3. ``open``: the share of rows with a gate open; ``recall``: of rows
        at which control begins, how many have one, and within a row of it (``near``); ``lift``: how much
        likelier an event is where a gate is open, over its share of all rows, ``events``. ``error``: the squared error
        of how the robot moves, on uniform actions, over that of a robot that is said to stand still.
    """
    torch.manual_seed(seed)
    loss = built()
    training, unseen = rows_of(2 * seed, COUNT), rows_of(2 * seed + 1, HELD_OUT)
    read = {name: training[name] for name in ("x", "a", "d")}
    warm = {"lambda": linear(0.0, LAMBDA, UPDATES)}
    fit(loss, read, batch=BATCH, steps=UPDATES, lr=RATE, clip=1.0, seed=seed, schedule="cosine", symbols=warm)
    found = opened(loss, unseen) | {"error": error(loss, rows_of(2 * seed + 1, HELD_OUT, "uniform"))}
    return {"holds": min(MOST / max(found["open"], 1e-6), found["lift"] / LIFT), **found}


def rows_of(seed: int, count: int, actions: str = "biased") -> Batch:
    """Sequences as the memory reads them: places x, actions a, how both move next d, in units of a whole step."""
    found = {k: torch.from_numpy(v) for k, v in sequences(seed, count, radius=RADIUS, actions=actions).items()}
    seen = found["observation"]
    return {
        "x": seen[:, :-1], "a": found["action"][:, :-1], "d": (seen[:, 1:] - seen[:, :-1]) / REACH,
        "event": found["event"][:, :-1],
    }  # fmt: skip


@torch.no_grad()
def opened(loss: Expression, rows: Batch) -> dict[str, float]:
    """What the gates have to do with the event; the first row, at which nothing is known yet, does not count."""
    given = {name: rows[name] for name in ("x", "a", "d")}
    open_ = (loss(**given, **{"lambda": 0.0}, seed=0).samples["Theta"] > 0).any(-1)
    around = open_ | nn.functional.pad(open_, (1, -1)) | nn.functional.pad(open_, (-1, 1))
    event = rows["event"][:, 1:]
    share, recall = float(open_[:, 1:].float().mean()), float(open_[:, 1:][event].float().mean())
    return {
        "open": share, "recall": recall, "near": float(around[:, 1:][event].float().mean()),
        "lift": recall / max(share, 1e-6), "events": float(event.float().mean()),
    }  # fmt: skip


@torch.no_grad()
def error(loss: Expression, rows: Batch) -> float:
    """Of the robot's moves, over that of a robot that stands still."""
    given = {name: rows[name] for name in ("x", "a", "d")}
    made = loss(**given, **{"lambda": 0.0}, seed=0).samples
    moves = dict(loss.named_children())["p_d_given_u_c"]
    said = moves(made["u"].flatten(0, 1), made["c"].flatten(0, 1))[:, 2:]
    true = rows["d"].flatten(0, 1)[:, 2:]
    return float((said - true).square().mean() / true.square().mean())
