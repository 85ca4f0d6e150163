"""Model predictive path integral control: candidates weigh by their value, and the next ones are drawn around them.

Williams, Aldrich & Theodorou 2015 (arXiv:1509.01149); with elites, a policy's proposals and a value at the end as
TD-MPC2 plans (Hansen, Su & Wang 2024, arXiv:2310.16828).

    a_{1:H} ~ N(μ, σ²) and the proposals  →  J of each in imagination  →  w ∝ exp(τ (J − max J)) of the elites
    μ ← Σ w a,   σ² ← Σ w (a − μ)², held between two ends               the plan: an elite, drawn by w

J is the negated cost of a `Task`, whose value is what TD-MPC2 puts behind the last state. Numbers live in [−1, 1];
tables of choices and flags are fitted by the same weights, with ``smoothing`` towards the old table. The next search of
an episode begins with μ one step later, and nothing behind it.

Deviations           MPPI                   TD-MPC2                here                  why
candidates           all weigh              64 elites of 512       the same; `tiny` less –
τ                    divides                multiplies             multiplies            as TD-MPC2
σ                    fixed                  fitted, in [.05, 2]    the same              –
what is done         μ                      an elite by w          as they; `tiny` best  no plan is worse than what
                                                                                         was tried
proposals            –                      in every iteration     the same              –
J that is NaN        –                      0                      last                  0 may be the best of all
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, final

import torch
from torch import Tensor

from worldformula.candidates import Law, Pool, Sampling, check_sizes, chosen, level
from worldformula.catalogue import System
from worldformula.errors import ConfigError
from worldformula.planner import ActionSet, Plan


@final
@dataclass(frozen=True)
class MPPI(Sampling):
    """The search; see the module for the method."""

    horizon: int = 3
    """Steps of a plan."""
    candidates: int = 512
    """Sequences per iteration, proposals among them."""
    elites: int = 64
    """How many of them weigh."""
    iterations: int = 6
    """Rounds of sampling and fitting."""
    temperature: float = 0.5
    """τ, how much better candidates weigh more."""
    least: float = 0.05
    """The smallest deviation of numbers."""
    most: float = 2.0
    """The largest one, with which a search begins."""
    smoothing: float = 0.1
    """Share of the old table in the new one (choices and flags)."""
    answer: Literal["elite", "mean", "best"] = "elite"
    """The plan: an elite drawn by its weight, the mean of the last law (numbers), or the best sequence seen."""

    def __post_init__(self) -> None:
        if self.answer not in ("elite", "mean", "best"):
            raise ConfigError(f"expected answer as 'elite', 'mean' or 'best', got {self.answer!r}")
        check_sizes(self, self.candidates, self.elites, self.horizon, self.iterations)
        if not 0 < self.least <= self.most or self.temperature <= 0 or not 0 <= self.smoothing <= 1:
            raise ConfigError(
                "expected 0 < least ≤ most, temperature > 0 and smoothing in [0, 1], got "
                f"{self.least}, {self.most}, {self.temperature} and {self.smoothing}"
            )

    @property
    def std(self) -> float:  # type: ignore[override]
        """The deviation that a search begins with."""
        return self.most

    def search(self, pool: Pool) -> Plan:
        """The result is as ``answer`` says."""
        if (count := self.candidates - pool.proposed) < 1:
            raise ConfigError(f"candidates={self.candidates}: expected more than the {pool.proposed} proposals")
        for _ in range(self.iterations):
            drawn = pool.draw(count)
            drawn = {name: torch.cat((pool.given[name], v), 1) if pool.given else v for name, v in drawn.items()}
            elites, cost = pool.try_(drawn, self.elites)
            weights = self._weights(cost)
            pool.refit({k: self._fit(pool.space[k], law, elites[k], weights) for k, law in pool.laws.items()})
        numbers = [name for name in pool.space if pool.space[name].kind == "numbers"]
        if self.answer == "elite":
            index = torch.stack([_pick(w, g) for w, g in zip(weights, pool.generators, strict=True)])[:, None]
            pool.settle({k: v[:, 0] for k, v in chosen(elites, index).items()}, cost.gather(1, index)[:, 0], index)
        elif self.answer == "mean":
            pool.settle(pool.best | {name: pool.laws[name][0] for name in numbers})
        ahead = {
            name: torch.cat((law[0][:, 1:], torch.full_like(law[0][:, :1], level(pool.space[name]))), 1)
            for name, law in pool.laws.items()
        }
        return replace(pool.plan(), spread={name: pool.laws[name][1][:, 0] for name in numbers}, next=ahead)

    def _weights(self, cost: Tensor) -> Tensor:
        """Of elites ``[B, E]``, the best first: shares that sum to 1; of NaN none, of as good ones the same."""
        shares = torch.exp(self.temperature * (cost[:, :1] - cost)).nan_to_num(0.0)
        shares = torch.where(cost == cost[:, :1], 1.0, shares)  # ∞ − ∞ is no number
        return shares / shares.sum(1, keepdim=True).clamp(min=torch.finfo(shares.dtype).tiny)

    def _fit(self, own: ActionSet, law: Law, elites: Tensor, weights: Tensor) -> Law:
        shares = weights[:, :, None, None]
        mean = (shares * elites).sum(1)
        if own.kind == "numbers":
            variance = (shares * (elites - mean.unsqueeze(1)).square()).sum(1)
            return mean, variance.sqrt().clamp(self.least, self.most)
        return (self.smoothing * law[0] + (1 - self.smoothing) * mean,)


def _pick(weights: Tensor, generator: torch.Generator) -> Tensor:
    """One index of weights ``[E]``, in proportion to them."""
    drawn = torch.rand((), generator=generator, dtype=weights.dtype, device=weights.device)
    return (weights.cumsum(0) / weights.sum() <= drawn).sum().clamp(max=len(weights) - 1)


def paper() -> dict[str, Any]:
    """TD-MPC2's: 512 candidates, 64 elites, 6 iterations of 3 steps."""
    return {"horizon": 3, "candidates": 512, "elites": 64, "iterations": 6, "answer": "elite"}


def tiny() -> dict[str, Any]:
    """Milliseconds on a CPU."""
    return {"horizon": 3, "candidates": 128, "elites": 16, "iterations": 4, "answer": "best"}


def build(sizes: dict[str, Any]) -> MPPI:
    """The planner."""
    return MPPI(**sizes)


SYSTEM = System(
    name="mppi",
    kind="planners",
    paper="Williams, Aldrich & Theodorou 2015, arXiv:1509.01149; Hansen, Su & Wang 2024, arXiv:2310.16828",
    bibtex="""@article{williams2015mppi, title={Model predictive path integral control using covariance variable
  importance sampling}, author={Williams, Grady and Aldrich, Andrew and Theodorou, Evangelos}, journal={arXiv preprint
  arXiv:1509.01149}, year={2015}}""",
    presets={"paper": paper, "tiny": tiny},
    build=build,
    summary="Path integral control over imagined action sequences: candidates weigh by their value.",
)
