"""Cross-entropy method: sample action sequences, keep the best, fit the next distribution to them, repeat.

Rubinstein 1999; for latent dynamics PlaNet (Hafner et al. 2019, arXiv:1811.04551, algorithm 2).

    a_{1:H} ~ N(μ, σ²)  →  cost of each in imagination  →  (μ, σ) ← mean and deviation of the elites

Numbers live in [−1, 1]. One-hot choices come from a table of probabilities per step, fitted to the elites with
``smoothing`` towards the old table, flags from one probability each. Of several actions each has a law of its own.

Deviations        PlaNet                 here                        why
candidates        1000, 10 iterations    200, 6 (`tiny`)             milliseconds on a CPU; `paper` has PlaNet's
warm start        none                   shifted plan, if given      asked for by callers, off by default
what is done      the last mean          the best sequence seen      no plan is worse than what was tried; `paper` has
                                                                     the mean, of choices and flags the best
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor

from worldformula.candidates import Law, Pool, Sampling, check_sizes
from worldformula.catalogue import System
from worldformula.errors import ConfigError
from worldformula.planner import ActionSet, Plan


@final
@dataclass(frozen=True)
class CEM(Sampling):
    """The search; see the module for the method."""

    horizon: int = 12
    """Steps of a plan."""
    candidates: int = 200
    """Sequences per iteration."""
    elites: int = 20
    """How many of them the next distribution is fitted to."""
    iterations: int = 6
    """Rounds of sampling and fitting."""
    std: float = 1.0
    """Deviation at the start (numbers)."""
    smoothing: float = 0.1
    """Share of the old table in the new one (choices and flags)."""
    answer: Literal["best", "mean"] = "best"
    """The plan: the best sequence seen, or the mean of the last elites, as PlaNet acts (numbers)."""

    def __post_init__(self) -> None:
        if self.answer not in ("best", "mean"):
            raise ConfigError(f"expected answer as 'best' or 'mean', got {self.answer!r}")
        check_sizes(self, self.candidates, self.elites, self.horizon, self.iterations)
        if self.std <= 0 or not 0 <= self.smoothing <= 1:
            raise ConfigError(f"expected std > 0 and smoothing in [0, 1], got {self.std} and {self.smoothing}")

    def search(self, pool: Pool) -> Plan:
        """The result is the best sequence seen in any iteration, or the last mean."""
        for i in range(self.iterations):
            drawn = pool.draw(self.candidates)
            if pool.given and i == 0:
                drawn = {name: torch.cat((value, pool.given[name]), 1) for name, value in drawn.items()}
            elites, _ = pool.try_(drawn, self.elites)
            pool.refit({name: self._fit(pool.space[name], law, elites[name]) for name, law in pool.laws.items()})
        if self.answer == "mean":
            numbers = [name for name, own in pool.space.items() if own.kind == "numbers"]
            pool.settle(pool.best | {name: pool.laws[name][0] for name in numbers})
        return pool.plan()

    def _fit(self, own: ActionSet, law: Law, elites: Tensor) -> Law:
        if own.kind == "numbers":
            return elites.mean(1), elites.var(1, correction=0).add_(1e-6).sqrt_()
        return (self.smoothing * law[0] + (1 - self.smoothing) * elites.mean(1),)


def paper() -> dict[str, Any]:
    """PlaNet's search: 1000 candidates, 10 iterations, 100 elites, horizon 12; it acts by the last mean."""
    return {"horizon": 12, "candidates": 1000, "elites": 100, "iterations": 10, "answer": "mean"}


def tiny() -> dict[str, Any]:
    """Milliseconds on a CPU."""
    return {"horizon": 12, "candidates": 200, "elites": 20, "iterations": 6}


def build(sizes: dict[str, Any]) -> CEM:
    """The planner."""
    return CEM(**sizes)


SYSTEM = System(
    name="cem",
    kind="planners",
    paper="Rubinstein 1999, Methodology and Computing in Applied Probability 1; Hafner et al. 2019, arXiv:1811.04551",
    bibtex="""@inproceedings{hafner2019planet, title={Learning latent dynamics for planning from pixels},
  author={Hafner, Danijar and Lillicrap, Timothy and Fischer, Ian and Villegas, Ruben and Ha, David and Lee, Honglak
  and Davidson, James}, booktitle={ICML}, year={2019}}""",
    presets={"paper": paper, "tiny": tiny},
    build=build,
    summary="Cross-entropy method over imagined action sequences.",
)
