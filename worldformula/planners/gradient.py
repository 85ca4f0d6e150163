"""Planning by gradient: actions climb down the cost through the world, from several starts.

LeCun 2022 (section 3.1.2, Mode-2); Henaff, Whitney & LeCun 2017 (arXiv:1705.07177).

    a ← clip(a − Adam(∇_a J(a)), −1, 1)   of each start apart                         the plan: the best sequence seen

Starts are the proposals, the last plan or zeros, and draws around it. The gradient goes through all steps of the dream;
the weights of the world get none. Adam keeps its running means by start, so a plan does not depend on what else is in
the batch.

Deviations        peers                        here                            why
what is done      the last iterate, or a mean  the best sequence seen          a step may make it worse
start             one                          ``candidates``                  costs have many valleys
stopping          after all iterations, or     where no episode gains 1 % in   calls are what a plan costs
                  early                        ``patience`` iterations
choices, flags    a softmax of numbers         refused                         what is executed is what was scored
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from worldformula.candidates import Pool, Sampling, check_sizes
from worldformula.catalogue import System
from worldformula.descent import Adam, check_numbers, rolled, starts
from worldformula.errors import ConfigError
from worldformula.planner import Plan, Space

GAIN = 0.01  # what an iteration has to gain, of the cost, to be worth its while


@final
@dataclass(frozen=True)
class Gradient(Sampling):
    """The search; see the module for the method."""

    horizon: int = 12
    """Steps of a plan."""
    candidates: int = 8
    """Starts, proposals beside them."""
    iterations: int = 30
    """Steps of descent."""
    lr: float = 0.1
    """Adam's learning rate."""
    std: float = 0.5
    """Deviation of the starts around the last plan."""
    patience: int = 0
    """An episode that has not gained 1 % in so many iterations is left as it is; 0 does them all."""

    def __post_init__(self) -> None:
        check_sizes(self, self.candidates, 1, self.horizon, self.iterations)
        if min(self.lr, self.std) <= 0 or self.patience < 0:
            raise ConfigError(f"expected lr and std > 0, patience ≥ 0, got {self.lr}, {self.std} and {self.patience}")

    @property
    def climbs(self) -> bool:
        """It does."""
        return True

    def check_space(self, space: Space) -> None:
        """Raises `ConfigError` for actions that are no numbers."""
        check_numbers(space)

    def search(self, pool: Pool) -> Plan:
        """The result is the best sequence seen in any iteration."""
        drawn = starts(pool, self.candidates)
        adam = Adam(drawn, self.lr)
        done: Tensor | None = None
        counted: Tensor | None = None  # of what is done that it was dreamt, and is again beside others
        for _ in range(self.iterations):
            moved = {name: value.clamp(-1, 1) for name, value in adam(drawn, rolled(pool, drawn)).items()}
            counted = self._counted(pool, counted, done)
            stay = None if done is None else done[:, None, None, None]
            drawn = moved if stay is None else {k: torch.where(stay, drawn[k], v) for k, v in moved.items()}
            settled = self._settled(pool)  # by episode: others in the batch take none further
            done = settled if done is None else done if settled is None else done | settled
            if done is not None and bool(done.all()):
                break
        pool.try_(drawn, 1)
        self._counted(pool, counted, done)
        return pool.plan()

    def _counted(self, pool: Pool, before: Tensor | None, done: Tensor | None) -> Tensor | None:
        """What is dreamt again is not discarded again: how often that is depends on the others in the batch."""
        if before is not None:
            pool.costs[-1] = pool.costs[-1].masked_fill(before[:, None], 0.0)
        return done

    def _settled(self, pool: Pool) -> Tensor | None:
        """Which episodes have not gained, ``[B]``; None where it is too early to say."""
        if not self.patience or len(pool.trace) <= self.patience:
            return None
        before, now = pool.trace[-1 - self.patience], pool.trace[-1]
        return before - now <= GAIN * before.abs()


def paper() -> dict[str, Any]:
    """As joint-embedding worlds are planned with: 100 starts and 30 steps, at a rate of 0.1."""
    return {"horizon": 5, "candidates": 100, "iterations": 30}


def tiny() -> dict[str, Any]:
    """Milliseconds on a CPU."""
    return {"horizon": 12, "candidates": 8, "iterations": 20}


def build(sizes: dict[str, Any]) -> Gradient:
    """The planner."""
    return Gradient(**sizes)


SYSTEM = System(
    name="gradient",
    kind="planners",
    paper="LeCun 2022, openreview.net/forum?id=BZ5a1r-kVsf; Henaff, Whitney & LeCun 2017, arXiv:1705.07177",
    bibtex="""@article{henaff2017planning, title={Model-based planning with discrete and continuous actions},
  author={Henaff, Mikael and Whitney, William F. and LeCun, Yann}, journal={arXiv:1705.07177}, year={2017}}""",
    presets={"paper": paper, "tiny": tiny},
    build=build,
    summary="Gradients of the cost through the imagined steps, from several starts; actions are numbers.",
    acts=("numbers",),
)
