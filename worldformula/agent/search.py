"""Actor, Mode-2: a planner that searches at every row, from where the last plan of the same episode went on.

What an episode needs lies in the acting state, so a run that resumes plans as one that was never interrupted: the last
plan, the seed of the episode's random numbers, and how many plans it has made. Each plan draws from a generator made of
the latter two, whatever else is in the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from worldformula.errors import ConfigError
from worldformula.formula import Factor, Joint
from worldformula.planner import Named, Plan, Planner, Space, Task
from worldformula.training.seeding import derived
from worldformula.world import Dynamics, State, Values
from worldformula.world.contract import Kind

SEED, COUNT, PLAN = "plan_seed", "plan_count", "plan/"
"""Keys of an acting state: the seed of each stream's episode, its number of plans, and its last plan by action."""


@dataclass(frozen=True)
class Search:
    """Mode-2.

    Attributes:
        planner: what searches.
        space: the set of each action.
        noise: of an agent that explores: the deviation of what is added to numbers, and the probability that a choice
            or a flag is drawn anew (PlaNet adds 0.3). "plan" is the deviation that a plan says of its numbers, and no
            choice is drawn anew: TD-MPC2.
        warm: begin each search where the last plan of the episode went on; PlaNet begins anew.
        policy: whose sequences are candidates too.
        proposals: how many of them, each drawn in the dream that it leads through.
    """

    planner: Planner
    space: Space
    noise: float | Literal["plan"] = 0.3
    warm: bool = True
    policy: Factor | Joint | None = None
    proposals: int = 0

    @torch.no_grad()
    def act(
        self, dynamics: Dynamics, task: Task, seen: State, kept: Values, begins: Tensor, *,
        explore: bool, masks: Mapping[str, Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:  # fmt: skip
        """Actions ``[N, size]`` by name at a state ``[N, ...]``, and what the next act is to be given as ``kept``.

        ``begins`` says which streams are at the first row of an episode, ``[N]``: they forget what was kept.
        """
        new = torch.randint(2**62, begins.shape)  # of the global generator, whatever begins, so that counts agree
        begins = begins.cpu()
        seeds = torch.where(begins, new, kept[SEED].cpu()) if SEED in kept else new
        counts = torch.where(begins, 0, kept[COUNT].cpu()) if SEED in kept else torch.zeros_like(new)
        device = next(iter(seen.series.values())).device
        own = [
            torch.Generator(device).manual_seed(derived(seed, count))
            for seed, count in zip(seeds.tolist(), counts.tolist(), strict=True)
        ]
        sizes = self.planner.horizons(self.space) if self.warm else {}
        warm = {name: kept[PLAN + name] for name in sizes if PLAN + name in kept}
        if warm.keys() != sizes.keys() or any(sizes[k] not in (None, v.shape[1]) for k, v in warm.items()):
            warm = {}  # another planner was configured within the episode
        if warm:
            warm = {k: v.masked_fill(begins.to(v.device)[:, None, None], torch.nan) for k, v in warm.items()}
        found = self.planner.plan(
            dynamics, task, seen, space=self.space, generators=own, warm=warm or None,
            proposals=self._proposed(dynamics, task, seen, own), mask=masks or None,
        )  # fmt: skip
        actions = self._explored(found, own, masks or {}) if explore else found.first
        after = {PLAN + name: value for name, value in found.shifted().items()} if self.warm else {}
        return actions, {SEED: seeds.to(device), COUNT: (counts + 1).to(device), **after}

    def _proposed(self, dynamics: Dynamics, task: Task, seen: State, own: list[torch.Generator]) -> Named | None:
        """What the policy would do, ``[B, P, H, size]`` by name: each episode's draws from its own generator."""
        if self.policy is None or not self.proposals:
            return None
        steps = getattr(self.planner, "horizon", None)
        if steps is None:
            raise ConfigError(f"proposals={self.proposals} need a planner with a horizon, got {self.planner}")
        found: dict[str, list[Tensor]] = {name: [] for name in self.space}
        for b, generator in enumerate(own):
            start = seen.select(torch.tensor([b], device=next(iter(seen.series.values())).device))
            start = State({key: value for key, value in start.items() if key not in self.space})
            dream = dynamics.imagine(
                start.repeat(self.proposals), self.policy, horizon=max(steps - 1, 1), generator=generator,
                **task.numbers,
            )  # fmt: skip
            for name, sequences in found.items():
                sequences.append(self.space[name].inside(dream[name][:, :steps]))
        return {name: torch.stack(rows) for name, rows in found.items()}

    def _explored(self, plan: Plan, own: list[torch.Generator], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The actions with noise, each episode from its own generator; choices stay among those that are allowed."""
        found = {}
        for name, value in plan.first.items():
            kind, noise = self.space[name].kind, self._noise(name, value, plan)
            allowed = masks.get(name, torch.ones_like(value, dtype=torch.bool))
            rows = zip(noise, value, own, allowed, strict=True)
            found[name] = torch.stack([self._disturbed(kind, *row) for row in rows])
        return found

    def _noise(self, name: str, action: Tensor, plan: Plan) -> Tensor:
        """How much the actions ``[B, size]`` are disturbed, ``[B, size]``."""
        if self.noise != "plan":
            return torch.full_like(action, self.noise)
        if self.space[name].kind != "numbers":
            return torch.zeros_like(action)
        if plan.spread is None:
            raise ConfigError(
                f"noise='plan': a plan of {type(self.planner).__name__} says no deviation of its actions; write a "
                f"number"
            )
        return plan.spread[name]

    def _disturbed(
        self, kind: Kind, noise: Tensor, action: Tensor, generator: torch.Generator, allowed: Tensor
    ) -> Tensor:
        """The action ``[size]`` of one episode with noise."""
        device = action.device
        if kind == "numbers":
            drawn = torch.randn(action.shape, generator=generator, dtype=action.dtype, device=device)
            return (action + noise * drawn).clamp(-1, 1)
        scores = torch.rand(len(action) + 1, generator=generator, dtype=action.dtype, device=device)
        if scores[0] >= noise[0]:
            return action
        if kind == "flags":
            return (scores[1:] < 0.5).to(action)
        return torch.nn.functional.one_hot(scores[1:].masked_fill(~allowed, -1).argmax(), len(action)).to(action)
