"""What searches by the gradient of the cost share: where they start, their slopes, and Adam for each candidate."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from worldformula.candidates import Pool
from worldformula.errors import ConfigError
from worldformula.planner import Named, Space


def check_numbers(space: Space) -> None:
    """Actions are numbers.

    Raises:
        ConfigError: one is not.
    """
    if other := [name for name, own in space.items() if own.kind != "numbers"]:
        raise ConfigError(
            f"{other[0]!r} is of kind {space[other[0]].kind}, and gradients lead between its values: expected "
            "numbers; cem, icem and mppi search among choices and flags"
        )


def starts(pool: Pool, count: int) -> dict[str, Tensor]:
    """The last plan or zeros, draws around it, so many in all, and what was proposed: ``[B, N, H, A]`` by name."""
    last, drawn = pool.middle(), pool.draw(count - 1) if count > 1 else {}
    return {name: torch.cat([part[name] for part in (last, drawn, pool.given) if part], 1) for name in pool.space}


def slopes(total: Tensor, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of costs ``[B, N]`` with regard to each of these, by name; 0 where a cost or a gradient is not finite.

    Raises:
        ConfigError: the costs depend on none.
    """
    if not total.requires_grad:
        raise ConfigError(
            "the cost has no gradient with regard to the actions: expected dynamics and a task that are "
            "differentiable; cem, icem and mppi need none"
        )
    found = torch.autograd.grad(total.nan_to_num(0.0, 0.0, 0.0).sum(), tuple(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(value) if slope is None else slope.nan_to_num(0.0, 0.0, 0.0)
        for (name, value), slope in zip(leaves.items(), found, strict=True)
    }


def rolled(pool: Pool, drawn: Named) -> dict[str, Tensor]:
    """The slopes of candidates ``[B, N, H, A]`` through their whole dreams; and they are tried."""
    with torch.enable_grad():
        leaves = {name: value.detach().requires_grad_() for name, value in drawn.items()}
        total, states = pool.score.dreamt(leaves)
        found = slopes(total, leaves)
    pool.keep(drawn, total.detach(), states=None if states is None else states.detach())
    return found


class Adam:
    """Kingma & Ba 2015, on tensors by name: the gradient's running mean over the root of that of its square. Elements
    do not know of each other, so a plan does not depend on what else is in the batch.
    """

    def __init__(self, like: Named, lr: float) -> None:
        self.lr, self.count = lr, 0
        self.mean = {name: torch.zeros_like(value) for name, value in like.items()}
        self.square = {name: torch.zeros_like(value) for name, value in like.items()}

    def __call__(self, values: Named, found: Named) -> dict[str, Tensor]:
        """The values one step further down, by their slopes."""
        self.count += 1
        after = {}
        for name, value in values.items():
            self.mean[name] = self.mean[name].lerp(found[name], 0.1)
            self.square[name] = self.square[name].lerp(found[name].square(), 0.001)
            mean, square = self.mean[name] / (1 - 0.9**self.count), self.square[name] / (1 - 0.999**self.count)
            after[name] = value - self.lr * mean / (square.sqrt() + 1e-8)
        return after
