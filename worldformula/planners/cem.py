"""Cross-entropy method: sample action sequences, keep the best, fit the next distribution to them, repeat.

Rubinstein 1999; for latent dynamics PlaNet (Hafner et al. 2019, arXiv:1811.04551, algorithm 2).

    a_{1:H} ~ N(μ, σ²)  →  cost of each in imagination  →  (μ, σ) ← mean and deviation of the elites

Continuous actions live in [−1, 1]. One-hot actions (``discrete=True``) come from a table of probabilities per step,
fitted to the elites with ``smoothing`` towards the old table.

Deviations        PlaNet                 here                        why
candidates        1000, 10 iterations    200, 6 (`tiny`)             milliseconds on a CPU; `paper` has PlaNet's
warm start        none                   shifted plan, if given      asked for by callers, off by default
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from worldformula.catalogue import System
from worldformula.errors import ConfigError
from worldformula.planner import Plan, Planner, StateCost, per_episode, rollout_cost
from worldformula.world import Values, World


@final
@dataclass(frozen=True)
class CEM(Planner):
    """The search; see the module for the method."""

    actions: int
    """Width of an action."""
    discrete: bool = False
    """One-hot actions instead of numbers in [−1, 1]."""
    horizon: int = 12
    """Steps of a plan."""
    candidates: int = 200
    """Sequences per iteration."""
    elites: int = 20
    """How many of them the next distribution is fitted to."""
    iterations: int = 6
    """Rounds of sampling and fitting."""
    std: float = 1.0
    """Deviation at the start (continuous)."""
    smoothing: float = 0.1
    """Share of the old table in the new one (discrete)."""

    def __post_init__(self) -> None:
        if not 1 <= self.elites <= self.candidates:
            raise ConfigError(f"expected 1 ≤ elites ≤ candidates, got {self.elites} and {self.candidates}")
        if min(self.actions, self.horizon, self.iterations) < 1:
            raise ConfigError("expected actions, horizon and iterations of at least 1")

    @torch.no_grad()
    def plan(
        self,
        world: World,
        cost: StateCost,
        state: Values,
        *,
        generators: Sequence[torch.Generator] | None = None,
        warm: Tensor | None = None,
    ) -> Plan:
        """Search from states ``[B, ...]``; the result is the best sequence seen in any iteration."""
        first = next(iter(state.values()))
        own = per_episode(generators, len(first), first.device)
        law = self._start(len(first), warm, first)
        best, least, trace = None, None, list[Tensor]()
        for _ in range(self.iterations):
            drawn = self._draw(law, own)
            total = rollout_cost(world, cost, state, drawn)
            order = total.topk(self.elites, dim=1, largest=False).indices
            elites = drawn.gather(1, order[:, :, None, None].expand(-1, -1, *drawn.shape[2:]))
            law = self._fit(law, elites)
            lowest = total.gather(1, order[:, :1])[:, 0]
            if best is None or least is None:
                best, least = elites[:, 0], lowest
            else:
                better = lowest < least
                best = torch.where(better[:, None, None], elites[:, 0], best)
                least = torch.where(better, lowest, least)
            trace.append(least)
        assert best is not None
        assert least is not None
        return Plan(best, least, tuple(trace), self.iterations * self.candidates * self.horizon)

    # The law of the candidates is (mean, deviation) [B, H, A] each, or one table of probabilities [B, H, A].

    def _start(self, batch: int, warm: Tensor | None, like: Tensor) -> tuple[Tensor, ...]:
        shape = (batch, self.horizon, self.actions)
        if warm is not None and tuple(warm.shape) != shape:
            raise ConfigError(f"warm: expected actions of shape {shape}, got {tuple(warm.shape)}")
        if self.discrete:
            uniform = torch.full(shape, 1 / self.actions, dtype=like.dtype, device=like.device)
            return (uniform if warm is None else 0.5 * (uniform + warm),)
        mean = torch.zeros(shape, dtype=like.dtype, device=like.device) if warm is None else warm
        return mean, torch.full_like(mean, self.std)

    def _draw(self, law: tuple[Tensor, ...], generators: Sequence[torch.Generator]) -> Tensor:
        """Candidates ``[B, N, H, A]``, each episode from its own generator."""
        shape = (self.candidates, self.horizon, self.actions)
        like = law[0]
        if self.discrete:
            uniform = [torch.rand(shape[:2], generator=g, dtype=like.dtype, device=like.device) for g in generators]
            below = law[0].cumsum(-1)[:, None, :, :-1] <= torch.stack(uniform).unsqueeze(-1)
            return torch.nn.functional.one_hot(below.sum(-1), self.actions).to(like.dtype)
        noise = torch.stack([torch.randn(shape, generator=g, dtype=like.dtype, device=like.device) for g in generators])
        return (law[0].unsqueeze(1) + law[1].unsqueeze(1) * noise).clamp(-1, 1)

    def _fit(self, law: tuple[Tensor, ...], elites: Tensor) -> tuple[Tensor, ...]:
        if self.discrete:
            return (self.smoothing * law[0] + (1 - self.smoothing) * elites.mean(1),)
        return elites.mean(1), (elites.var(1, correction=0) + 1e-6).sqrt()


def paper() -> dict[str, int]:
    """PlaNet's search: 1000 candidates, 10 iterations, 100 elites, horizon 12."""
    return {"horizon": 12, "candidates": 1000, "elites": 100, "iterations": 10}


def tiny() -> dict[str, int]:
    """Milliseconds on a CPU."""
    return {"horizon": 12, "candidates": 200, "elites": 20, "iterations": 6}


def build(sizes: dict[str, int], actions: int, *, discrete: bool = False) -> CEM:
    """The planner for actions of this width."""
    return CEM(actions, discrete, **sizes)


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
