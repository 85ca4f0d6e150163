r"""Constraints kept by any search: the augmented Lagrangian (Hestenes 1969; Powell 1969; of inequalities Rockafellar
1973).

    minimise J(a) where g_i(a) ≤ 0                           g: what the constraints of the task say, less their limits
    round:    a ← plan of  J + Σ_i (max(0, λ_i + ρ g_i)² − λ_i²) / 2ρ,     the search begins at the last round's plan
              λ_i ← max(0, λ_i + ρ g_i(a)),     ρ ← 10 ρ where the worst of |max(g_i, −λ_i/ρ)| has not come to a quarter

Of all sequences that the rounds have tried, the cheapest one is the plan that exceeds no limit by more than
``tolerance``; where there is none, the one that exceeds them least: the plan then says ``feasible = False`` and by how
much, for each episode. Its multipliers are those of the last round: of what is feasible they come near to those of the
conditions of Karush, Kuhn and Tucker; of what is impossible they grow without end.

Deviations       stable-worldmodel             here                               why
ρ                1 to 10⁴, in every round      1 to 10⁴, where it is needed, by   a multiplier is as rough as ρ times
                                               episode (Nocedal & Wright 17.4)    the search
the plan         the last one                  the best sequence that keeps them  a later round may be worse
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, final

import torch
from torch import Tensor

from worldformula.catalogue import System, find
from worldformula.errors import ConfigError, NonFiniteError
from worldformula.given import allowed, check_fields, like_of, per_episode
from worldformula.planner import Constraint, Named, Plan, Planner, Space, Task
from worldformula.score import Score
from worldformula.world import Dynamics, State, Values

MULTIPLIER, PENALTY = "multiplier/", "penalty"
"""What the dreams of a round are given: λ of each constraint, and ρ."""
ENOUGH = 0.25  # of what the worst constraint was off by: what a round has to leave, for ρ to stay as it is


@final
@dataclass(frozen=True)
class Lagrangian(Planner):
    """The search; see the module for the method. Without constraints it is the planner within, bit by bit."""

    planner: Planner
    """What searches in each round."""
    rounds: int = 5
    """Searches, each with other multipliers."""
    penalty: float = 1.0
    """ρ of the first round."""
    growth: float = 10.0
    """What ρ is multiplied by."""
    most: float = 1e4
    """The largest ρ."""
    tolerance: float = 1e-3
    """By how much a constraint may be exceeded and still counts as kept, in its own unit."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.rounds < 1 or not 0 < self.penalty <= self.most or self.growth < 1 or self.tolerance < 0:
            raise ConfigError(
                "expected rounds ≥ 1, 0 < penalty ≤ most, growth ≥ 1 and tolerance ≥ 0, got "
                f"{self.rounds}, {self.penalty}, {self.most}, {self.growth} and {self.tolerance}"
            )

    @property
    def horizon(self) -> int:
        """Steps of a plan."""
        found: int = getattr(self.planner, "horizon")  # noqa: B009
        return found

    @property
    def climbs(self) -> bool:
        """Whether the planner within does."""
        return self.planner.climbs

    def horizons(self, space: Space) -> dict[str, int | None]:
        """Those of the planner within."""
        return self.planner.horizons(space)

    @torch.no_grad()
    def plan(
        self,
        dynamics: Dynamics,
        task: Task,
        state: Values,
        *,
        space: Space,
        generators: Sequence[torch.Generator] | None = None,
        warm: Named | None = None,
        proposals: Named | None = None,
        mask: Named | None = None,
    ) -> Plan:
        """Search from states ``[B, ...]``; ``trace`` is the cost of the best plan after each round, which rises where
        only a dearer one keeps the constraints. Dreams in which a constraint is NaN are discarded, and counted.

        Raises:
            ConfigError: an adversary, or a hierarchy within, whose levels each need a Lagrangian of their own.
            NonFiniteError: every candidate of a round costs NaN, or its constraints are NaN.
        """
        given: dict[str, Any] = {"space": space, "proposals": proposals, "mask": mask}
        if not task.constraints:
            return self.planner.plan(dynamics, task, state, generators=generators, warm=warm, **given)
        self._check(space)
        first = like_of(state)
        own = per_episode(generators, len(first), first.device)
        before = [g.get_state() for g in own]
        score = Score(dynamics, replace(task, constraints={}), state, space, self.horizon, own)
        best = _Best(len(first), self.horizon, self.tolerance, mask)
        dual = _Dual.start(task, self.horizon, first, self.penalty)
        discarded, calls, trace = None, 0, list[Tensor]()
        for _ in range(self.rounds):
            if task.samples:  # so that the noise of dreams is the same in all rounds, and in what judges them
                for generator, kept in zip(own, before, strict=True):
                    generator.set_state(kept)
            penalised = dual.task(task, best)
            try:
                plan = self.planner.plan(dynamics, penalised, state, generators=own, warm=warm, **given)
            except NonFiniteError as error:
                raise _named(error, penalised, score, best) from None
            judged = score.dreams({k: v.unsqueeze(1) for k, v in plan.actions.items()})
            dual = dual.after(penalised.judged(*judged)[2], self)
            warm, calls = plan.actions, calls + plan.calls + self.horizon * max(task.samples, 1)
            trace.append(best.cost)
            if plan.discarded is not None:
                discarded = plan.discarded if discarded is None else discarded + plan.discarded
        found = score.found(best.actions, best.cost, trace, calls)
        return replace(
            found, spread=plan.spread, discarded=discarded, violation=best.violation,
            feasible=best.violation <= self.tolerance, multipliers=dual.multipliers,
        )  # fmt: skip

    def _check(self, space: Space) -> None:
        if against := [name for name, own in space.items() if own.aim == "max"]:
            raise ConfigError(
                f"{against[0]!r} is an adversary's, aim='max', who would gain by what is to be avoided: expected a "
                f"space without one; Task(..., samples=8, risk=CVaR(0.0)) keeps constraints in the worst of samples"
            )
        if more := [name for name in self.planner.horizons(space) if name not in space]:
            raise ConfigError(
                f"{type(self.planner).__name__} has levels with an action {more[0]!r}: expected a search of one level\n"
                f"write Hierarchy(Lagrangian(low), (Level(..., Lagrangian(high)),)), which tells its levels of "
                f"constraints"
            )


@dataclass(frozen=True)
class _Penalised(Task):
    """A task whose dreams also cost what the augmented Lagrangian adds, by the multipliers that they are given; the
    best of all that it is asked about is kept.
    """

    limits: Mapping[str, Constraint] = field(default_factory=dict)
    best: _Best | None = None

    def of(self, states: State, actions: Named, durations: Tensor | None = None) -> Tensor:
        """As `Task.of`. The samples of a candidate lie side by side, and are added the same: any risk leaves it as it
        is.
        """
        S = max(self.samples, 1)
        total, _, excess = self.judged(states, actions, durations)
        rho = states[PENALTY][::S, 0, None]
        for name, g in excess.items():
            known = states[MULTIPLIER + name][::S, 0, : g.shape[1]]
            more = ((known + rho * g).clamp(min=0).square() - known.square()) / (2 * rho)
            total = total + more.sum(1).repeat_interleave(S)
        return total

    def relaxed(self) -> Task:
        """As `Task.relaxed`; what no dream has led to has not been tried, whatever it would cost."""
        return replace(self, samples=0, risk=0.0, best=None)

    def judged(
        self, states: State, actions: Named, durations: Tensor | None = None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Of dreams, ``[M·S, T, ...]``: what they cost without a penalty, ``[M·S]``; and over the samples of a
        candidate that, ``[M]``, and by how much it exceeds each constraint, ``[M, T]`` or ``[M, 1]``.
        """
        hidden = (PENALTY, *(MULTIPLIER + name for name in self.limits))
        seen, S = State({k: v for k, v in states.items() if k not in hidden}, 2), max(self.samples, 1)
        total = super().of(seen, actions, durations)
        cost, found = self.over(total.view(-1, S)), dict[str, Tensor]()
        for name, constraint in self.limits.items():
            excess = constraint.excess(seen, actions)
            found[name] = self.over(excess.view(-1, S, excess.shape[1]).mT)
        if self.best is not None:
            self.best.see(cost.detach(), found, {k: v[::S].detach() for k, v in actions.items()})
        return total, cost, found


def _named(error: NonFiniteError, task: _Penalised, score: Score, best: _Best) -> NonFiniteError:
    """That no candidate has a cost that is a number, with the constraints that are none either where it was tried."""
    if not best.actions:
        return error
    excess = task.judged(*score.dreams({k: v.unsqueeze(1) for k, v in best.actions.items()}))[2]
    lost = [name for name, g in excess.items() if bool(g.isnan().any())]
    told = f"the constraints {', '.join(lost)} are NaN there, and what has no number for them is discarded"
    return NonFiniteError(f"{error}\n{told}") if lost else error


class _Best:
    """The best of all sequences that a search has tried: ``actions`` ``[B, H, size]`` by name, ``cost`` and
    ``violation`` ``[B]``.
    """

    def __init__(self, batch: int, horizon: int, tolerance: float, mask: Named | None) -> None:
        self.batch, self.horizon, self.tolerance, self.mask = batch, horizon, tolerance, mask
        self.actions: dict[str, Tensor] = {}
        self.cost = self.violation = torch.empty(0)

    def see(self, cost: Tensor, excess: Mapping[str, Tensor], actions: Named) -> None:
        """Candidates ``[B·N, H, size]``; what is forbidden, or no number, comes last, and beginnings do not count."""
        rows = {k: v.unflatten(0, (self.batch, -1)) for k, v in actions.items()}
        if next(iter(rows.values())).shape[2] != self.horizon:
            return
        cost = cost.view(self.batch, -1)
        worst = torch.stack([g.detach().amax(1) for g in excess.values()]).amax(0).clamp(min=0).view_as(cost)
        useless = cost.isnan() | worst.isnan()
        if (inside := allowed(self.mask, {k: v[:, :, 0] for k, v in rows.items()})) is not None:
            useless = useless | ~inside
        cost, worst = cost.masked_fill(useless, torch.nan), worst.masked_fill(useless, torch.inf)
        keeps = worst <= self.tolerance
        rank = torch.where(keeps.any(1, keepdim=True), cost.masked_fill(~keeps, torch.inf), worst).nan_to_num(torch.inf)
        at = rank.argmin(1)
        of = torch.arange(self.batch, device=at.device)
        self._take({k: v[of, at] for k, v in rows.items()}, cost[of, at], worst[of, at])

    def _take(self, actions: Named, cost: Tensor, violation: Tensor) -> None:
        """The better one by episode: what keeps the constraints before what does not, then the cheaper one."""
        if not self.actions:
            self.actions, self.cost, self.violation = dict(actions), cost, violation
            return
        keeps, kept = violation <= self.tolerance, self.violation <= self.tolerance
        new = (keeps & (~kept | (cost < self.cost))) | (~keeps & ~kept & (violation < self.violation))
        self.actions = {k: torch.where(new[:, None, None], v, self.actions[k]) for k, v in actions.items()}
        self.cost, self.violation = torch.where(new, cost, self.cost), torch.where(new, violation, self.violation)


@dataclass(frozen=True)
class _Dual:
    """λ of each constraint, ``[B, H]`` or ``[B, 1]``; ρ ``[B]``; and by how much the last plan was ``off``, ``[B]``."""

    multipliers: dict[str, Tensor]
    penalty: Tensor
    off: Tensor

    @classmethod
    def start(cls, task: Task, horizon: int, like: Tensor, penalty: float) -> _Dual:
        """Of the first round: nothing is known of the constraints."""
        batch = len(like)
        steps = {name: horizon if own.reduce == "each" else 1 for name, own in task.constraints.items()}
        zeros = {name: like.new_zeros(batch, count) for name, count in steps.items()}
        return cls(zeros, like.new_full((batch,), penalty), like.new_full((batch,), torch.inf))

    def task(self, task: Task, best: _Best) -> _Penalised:
        """What a round minimises."""
        told = {MULTIPLIER + name: value for name, value in self.multipliers.items()}
        own = {f.name: getattr(task, f.name) for f in fields(Task)}
        own |= {"given": {**task.given, **told, PENALTY: self.penalty}, "constraints": {}}
        return _Penalised(**own, limits=task.constraints, best=best)

    def after(self, excess: Mapping[str, Tensor], how: Lagrangian) -> _Dual:
        """Of the next round, by what a plan exceeds its limits by; what is no number changes nothing."""
        rho, worst, known = self.penalty[:, None], torch.zeros_like(self.penalty), dict[str, Tensor]()
        for name, old in self.multipliers.items():
            g = excess[name]
            known[name] = torch.where(g.isfinite(), (old + rho * g).clamp(min=0), old)
            worst = torch.maximum(worst, torch.maximum(g, -old / rho).abs().amax(1))
        more = torch.where(worst <= ENOUGH * self.off, self.penalty, (how.growth * self.penalty).clamp(max=how.most))
        return _Dual(known, more, worst)


def paper() -> dict[str, Any]:
    """5 rounds around the search that joint-embedding worlds are planned with: 300 candidates, 30 iterations."""
    return {"horizon": 5, "candidates": 300, "elites": 30, "iterations": 30}


def tiny() -> dict[str, Any]:
    """Milliseconds on a CPU."""
    return {"horizon": 12, "candidates": 200, "elites": 20, "iterations": 6}


def build(sizes: dict[str, Any]) -> Lagrangian:
    """The planner around a cross-entropy search of these sizes."""
    return Lagrangian(find("cem").build(sizes))


SYSTEM = System(
    name="lagrangian",
    kind="planners",
    paper="Hestenes 1969 and Powell 1969; Rockafellar 1973; Nocedal & Wright 2006, section 17.4",
    bibtex="""@article{rockafellar1973multiplier, title={The multiplier method of {H}estenes and {P}owell applied to
  convex programming}, author={Rockafellar, R. Tyrrell}, journal={Journal of Optimization Theory and Applications},
  volume={12}, year={1973}}""",
    presets={"paper": paper, "tiny": tiny},
    build=build,
    summary="Makes any search keep constraints: rounds of it, between which multipliers learn what they cost.",
)
