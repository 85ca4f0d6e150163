r"""GRASP: states of a plan are variables of their own, that dynamics pull together, and that are noisy.

Psenka, Rabbat, Krishnapriyan, LeCun & Bar 2026 (arXiv:2602.00475), Gradient RelAxed Stochastic Planner.

    L(s, a) = J(s, a) + ρ Σ_t ‖F(s̄_t, a_t) − s_{t+1}‖² + γ Σ_t C(F(s̄_t, a_t), a_t)                 s̄: no gradient
    s ← s − η_s ∇_s L + σ_i ξ,  ξ ~ N(0, 1)          a ← clip(a − η_a ∇_a L, −1, 1)          σ_i falls to 0
    every K of these:  a few steps down the cost of whole dreams, and s ← the states of the dream under a
    at the end:        more of those                                            the plan: the best sequence dreamt

All steps of F are taken side by side, and no gradient goes through two of them, nor into the states that F reads, which
a learnt world knows little about beside its data: however long the plan, the slopes are those of a single step. States
that need not follow from the actions at once find ways that no small change of the actions leads to. As nothing flows
back from what comes later, γ pulls every step towards what is cheap. J, C: what the task says of the virtual states,
and of a step, whatever it sums.

Deviations       paper                          here                            why
the goal         s_T = g, ‖F(s̄_t, a_t) − g‖²    the task's costs                a task need not be a goal
steps            gradient descent               Adam, for a and s               costs have scales of their own
s at first       –                              the dream under the start       where constraints hold
σ                constant                       falls to 0 over the iterations  what is found shall be kept
samples          –                              in whole dreams alone           F gives means and modes
the plan         the last one                   the best sequence dreamt        a step may make it worse
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from worldformula.candidates import Pool, Sampling, check_sizes
from worldformula.catalogue import System
from worldformula.descent import Adam, check_numbers, rolled, slopes, starts
from worldformula.errors import ConfigError
from worldformula.planner import Named, Plan, Space, shaped
from worldformula.world import State


@final
@dataclass(frozen=True)
class GRASP(Sampling):
    """The search; see the module for the method."""

    horizon: int = 12
    """Steps of a plan."""
    candidates: int = 8
    """Starts, proposals beside them."""
    iterations: int = 60
    """Steps of descent with virtual states."""
    lr: float = 0.1
    """η_a, Adam's learning rate of actions."""
    state_lr: float = 0.1
    """η_s, that of virtual states."""
    noise: float = 0.1
    """σ, of what is added to virtual states at first; it falls evenly to 0."""
    penalty: float = 1.0
    """ρ, what it costs that a state is not where the dynamics leads to."""
    shaping: float = 0.5
    """γ, weight of what every single step costs."""
    every: int = 10
    """K, after how many steps whole dreams are made."""
    descents: int = 5
    """Steps down the cost of whole dreams, each time."""
    refine: int = 30
    """Such steps at the end."""
    std: float = 0.5
    """Deviation of the starts around the last plan."""

    def __post_init__(self) -> None:
        check_sizes(self, self.candidates, 1, self.horizon, self.iterations)
        if min(self.lr, self.state_lr, self.penalty, self.std) <= 0 or min(self.noise, self.shaping) < 0:
            raise ConfigError(
                "expected lr, state_lr, penalty and std > 0, noise and shaping ≥ 0, got "
                f"{self.lr}, {self.state_lr}, {self.penalty}, {self.std}, {self.noise} and {self.shaping}"
            )
        if self.every < 1 or min(self.descents, self.refine) < 0:
            raise ConfigError(
                f"expected every ≥ 1, descents and refine ≥ 0, got {self.every}, {self.descents} and {self.refine}"
            )

    @property
    def climbs(self) -> bool:
        """It does."""
        return True

    def check_space(self, space: Space) -> None:
        """Raises `ConfigError` for actions that are no numbers."""
        check_numbers(space)

    def search(self, pool: Pool) -> Plan:
        """The result is the best sequence of all whole dreams.

        Raises:
            ConfigError: the dynamics reads a past of its own, which states do not hold.
        """
        drawn = starts(pool, self.candidates)
        lifted, adam = _Lifted(self, pool, drawn), Adam(drawn, self.lr)
        for i in range(1, self.iterations + 1):
            drawn = lifted.descended(drawn, self.noise * (1 - i / self.iterations))
            if i % self.every == 0:
                drawn = _down(pool, drawn, adam, self.descents)
                lifted.dream(drawn)
        drawn = _down(pool, drawn, adam, self.refine)
        pool.try_(drawn, 1)
        plan = pool.plan()
        return replace(plan, calls=plan.calls + lifted.calls)


def _down(pool: Pool, drawn: Named, adam: Adam, steps: int) -> dict[str, Tensor]:
    """Candidates so many steps down the cost of whole dreams."""
    found = dict(drawn)
    for _ in range(steps):
        found = {name: value.clamp(-1, 1) for name, value in adam(found, rolled(pool, found)).items()}
    return found


class _Lifted:
    """Virtual ``states`` of candidates, ``[B·N, H, ...]``, behind each of their steps; ``calls`` of single steps."""

    def __init__(self, how: GRASP, pool: Pool, drawn: Named) -> None:
        self.how, self.pool, self.score, self.calls = how, pool, pool.score, 0
        start = self.score.state
        if memories := [k for k in start if k not in start.series]:
            raise ConfigError(
                f"the dynamics keeps a past of its own, {memories[0]}, which no virtual state holds: expected a world "
                f"that carries what it remembers, h_t = f(h_{{t-1}}, ...)\nwrite Gradient(horizon={how.horizon}), of "
                f"worldformula.planners.gradient, which goes through whole dreams"
            )
        self.batch, self.count = next(iter(drawn.values())).shape[:2]
        self.start = start.repeat(self.count)
        self.dream(drawn)
        held = {*getattr(self.score.dynamics, "conditions", ()), *self.score.task.given}
        held |= {getattr(self.score.dynamics, "duration", None)} - {*getattr(self.score.dynamics, "carried", ())}
        self.free = [k for k, v in self.states.items() if k in start and k not in held and v.is_floating_point()]
        self.adam = Adam(drawn, how.lr), Adam(self.states.only(self.free), how.state_lr)

    def dream(self, drawn: Named) -> None:
        """The virtual states are those of whole dreams, in which the candidates are tried."""
        states, flat, durations = self.score.dreams(drawn)
        total, samples = self.score.over(self.score.task.of(states, flat, durations), drawn), self.score.task.samples
        self.pool.keep(drawn, total, states=None if samples else states)
        one = slice(None, None, max(samples, 1))
        self.states = State({k: v[one] for k, v in states.items() if k not in self.score.task.given}, 2)

    def descended(self, drawn: Named, noise: float) -> dict[str, Tensor]:
        """The candidates one step down L, and the virtual states, with so much noise."""
        with torch.enable_grad():
            acts = {k: v.detach().requires_grad_() for k, v in drawn.items()}
            states = {k: self.states[k].detach().requires_grad_() for k in self.free}
            total = self._relaxed(acts, self.states | states)
            found = slopes(total, {**{f"a/{k}": v for k, v in acts.items()}, **states})
        by_actions, by_states = self.adam
        moved = by_states(self.states.only(self.free), found)
        self.states = self.states | {k: v + noise * self._noise(v) for k, v in moved.items()}
        after = by_actions(drawn, {k: found[f"a/{k}"] for k in drawn})
        return {k: v.clamp(-1, 1) for k, v in after.items()}

    def _relaxed(self, acts: Named, states: State) -> Tensor:
        """L of candidates ``[B, N, H, A]`` and virtual states, ``[B, N]``."""
        task, how = self.score.task.relaxed(), self.how
        flat = {k: v.flatten(0, 1) for k, v in acts.items()}
        led = self._led(flat, states)
        off = [(led[k] - states[k]).square().flatten(2).sum(-1) for k in self.free]
        told = self.score.told(led | states.only(self.free), self.count)
        total = task.of(told, flat, self.score.durations(led)) + how.penalty * sum(off[1:], off[0]).sum(1)
        if how.shaping:
            each = task.each(self.score.told(led, self.count), flat)
            total = total + how.shaping * shaped("cost", each, told.lead, "one per imagined state").sum(1)
        return total.view(self.batch, self.count)

    def _led(self, flat: Named, states: State) -> State:
        """Where each step leads from the virtual state before it, ``[B·N, H, ...]``; no gradient goes into that."""
        steps = self.how.horizon
        before = {
            k: torch.cat((v.unsqueeze(1), states[k][:, :-1].detach()), 1) if k in states
            else v.unsqueeze(1).expand(-1, steps, *v.shape[1:])
            for k, v in self.start.items()
        }  # fmt: skip
        each = State(before, 2).flat()
        single = {k: v.flatten(0, 1).unsqueeze(1) for k, v in flat.items()}
        dynamics, numbers = self.score.dynamics, self.score.task.numbers
        dream = State(dynamics.imagine(each, actions=single, deterministic=True, **numbers), 2)
        self.calls += self.count * steps
        return State({k: v[:, 1] for k, v in dream.series.items() if k not in dynamics.actions}).unflat((-1, steps))

    def _noise(self, like: Tensor) -> Tensor:
        """Unit noise, each episode's from its own generator."""
        shape = (self.count, *like.shape[1:])
        rows = [torch.randn(shape, generator=g, dtype=like.dtype, device=like.device) for g in self.pool.generators]
        return torch.stack(rows).flatten(0, 1)


def paper() -> dict[str, Any]:
    """A plan of fifty steps, as the long ones of the paper; the other sizes are ours."""
    return {"horizon": 50, "candidates": 16, "iterations": 200, "every": 50, "descents": 5, "refine": 20}


def tiny() -> dict[str, Any]:
    """Milliseconds on a CPU."""
    return {"horizon": 12, "candidates": 8, "iterations": 20, "every": 10, "descents": 3, "refine": 10}


def build(sizes: dict[str, Any]) -> GRASP:
    """The planner."""
    return GRASP(**sizes)


SYSTEM = System(
    name="grasp",
    kind="planners",
    paper="Psenka, Rabbat, Krishnapriyan, LeCun & Bar 2026, arXiv:2602.00475",
    bibtex="""@article{psenka2026grasp, title={Parallel stochastic gradient-based planning for world models},
  author={Psenka, Michael and Rabbat, Michael and Krishnapriyan, Aditi and LeCun, Yann and Bar, Amir},
  journal={arXiv:2602.00475}, year={2026}}""",
    presets={"paper": paper, "tiny": tiny},
    build=build,
    summary="States of a plan are noisy variables of their own, pulled together by dynamics; no gradient through time.",
    acts=("numbers",),
)
