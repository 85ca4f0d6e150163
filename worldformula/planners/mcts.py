r"""Monte Carlo tree search over choices, with Gumbel's root: a tree of beginnings of plans, and random ends.

Danihelka, Guez, Schrittwieser & Silver 2022 (Gumbel MuZero, ICLR); Coulom 2006 for the tree and its random ends.

    root:    m choices of the largest g + log p, g ~ Gumbel; by sequential halving the better half goes on, ranked by
             g + log p + σ(q̂),     σ(q̂) = (c_visit + max_a N) c_scale q̂
    inside:  argmax_a π'(a) − N(a) / (1 + Σ N),     π' = softmax(log p + σ(q̂)),  q̂ of what was not tried: the node's own
    a visit: the choices on the way, random ones behind, the whole dreamt and scored; its cost goes to all on the way

q̂ is the negated mean cost, of all that an episode has seen scaled to [0, 1]. p is uniform, or what masks leave of it.
The choices may be actions, or latent variables that the dynamics draws; ``surprise`` is what an improbable latent
costs, times −log p(z|s), so that no plan counts on what was never seen. All choices of the root that are still in the
race take their visits side by side.

Deviations       Gumbel MuZero                 here                              why
a visit          one step, and a value there   a whole dream from the root       a task is of whole dreams: samples,
                                                                                 risk, values at the end, memories
p                a network's                   uniform                           a policy's sequences are proposals
the plan         the choice of the root        the best sequence seen, or that   as the other searches
                                               of the root's choice
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, final

import torch
from torch import Tensor

from worldformula.candidates import Pool, Sampling
from worldformula.catalogue import System
from worldformula.errors import ConfigError
from worldformula.given import allowed, check_fields
from worldformula.planner import Named, Plan, Space, some


@final
@dataclass(frozen=True)
class MCTS(Sampling):
    """The search; see the module for the method."""

    horizon: int = 8
    """Steps of a plan."""
    simulations: int = 64
    """Visits, about so many."""
    considered: int = 16
    """m, choices of the first step that are in the race."""
    visit: float = 50.0
    """c_visit."""
    scale: float = 1.0
    """c_scale."""
    surprise: float = 0.0
    """Weight of −log p of a latent that the search sets."""
    answer: Literal["best", "root"] = "best"
    """The plan: the best sequence seen, or the best behind the choice that the root ends with."""

    def __post_init__(self) -> None:
        check_fields(self)
        if min(self.horizon, self.simulations, self.considered) < 1 or self.answer not in ("best", "root"):
            raise ConfigError(
                "expected horizon, simulations and considered of at least 1, answer as 'best' or 'root', got "
                f"{self.horizon}, {self.simulations}, {self.considered} and {self.answer!r}"
            )
        if min(self.visit, self.scale, self.surprise) < 0:
            raise ConfigError(
                f"expected visit, scale and surprise ≥ 0, got {self.visit}, {self.scale} and {self.surprise}"
            )

    def check_space(self, space: Space) -> None:
        """One choice.

        Raises:
            ConfigError: another action, or several.
        """
        if len(space) != 1 or next(iter(space.values())).kind != "choice":
            told = ", ".join(f"{name} of kind {own.kind}" for name, own in space.items())
            kinds = {own.kind for own in space.values()}
            other = (
                "cem, icem, mppi and gradient search among numbers"
                if kinds == {"numbers"}
                else (
                    "cem, icem and mppi search among several"
                    if "numbers" in kinds
                    else "beam and cem search among several"
                )
            )
            raise ConfigError(f"a tree branches by one choice, got {told}\n{other}")

    def search(self, pool: Pool) -> Plan:
        """The result is as ``answer`` says.

        Raises:
            ConfigError: ``surprise``, and dynamics that do not say how probable a latent is.
        """
        tree = _Tree(self, pool)
        for more in (pool.given, pool.middle()):
            if more:
                inside = allowed(pool.mask, {name: value[:, :, 0] for name, value in more.items()})
                pool.keep(more, tree.cost(more), inside=inside)
        alive = tree.first(self.considered)
        rounds = max(1, math.ceil(math.log2(alive.shape[1])))
        for _ in range(rounds):
            for _ in range(max(1, self.simulations // (rounds * alive.shape[1]))):
                tree.visit(alive)
            alive = tree.better(alive, (alive.shape[1] + 1) // 2)
        if self.answer == "root":
            pool.settle(*tree.behind(alive[:, 0]))
        if not self.surprise:
            return pool.plan()
        asked = pool.tried
        pool.settle(pool.best)  # what it costs, without the surprise
        found = pool.plan()
        return replace(found, calls=found.calls + asked * self.horizon)


class _Tree:
    """Beginnings of plans of B episodes: nodes with visits, those of no finite cost (lost), sums of costs and children
    by choice, ``[B, M, A]`` each; the root is node 0.
    """

    def __init__(self, how: MCTS, pool: Pool) -> None:
        self.how, self.pool = how, pool
        ((self.name, own),) = pool.space.items()
        law = pool.laws[self.name][0]
        B, self.size = len(law), own.size
        mask = pool.mask.get(self.name)
        self.allowed = torch.ones(B, own.size, dtype=torch.bool, device=law.device) if mask is None else some(mask)
        noise = self._random(own.size).clamp_min(torch.finfo(law.dtype).tiny)
        self.gumbel = (-(-noise.log()).log()).masked_fill(~self.allowed, -torch.inf)
        self.visits, self.sums, self.lost = (law.new_zeros(B, 1, own.size) for _ in range(3))
        self.children = torch.full((B, 1, own.size), -1, dtype=torch.long, device=law.device)
        self.low, self.high = law.new_full((B, 1), torch.inf), law.new_full((B, 1), -torch.inf)
        self.seen: list[tuple[Tensor, Tensor]] = []  # choices [B, m, H] and costs [B, m] of all visits

    def _random(self, *shape: int) -> Tensor:
        """Uniform numbers ``[B, *shape]``, each episode's from its own generator."""
        like = self.pool.laws[self.name][0]
        rows = [torch.rand(shape, generator=g, dtype=like.dtype, device=like.device) for g in self.pool.generators]
        return torch.stack(rows)

    def cost(self, drawn: Named) -> Tensor:
        """What sequences ``[B, m, H, A]`` are ranked by, ``[B, m]``."""
        found = self.pool.score(drawn)
        return found + self.how.surprise * self.pool.score.surprise(drawn) if self.how.surprise else found

    def first(self, count: int) -> Tensor:
        """The choices ``[B, m]`` that the race begins with; where fewer are allowed, the best of them again."""
        found = self.gumbel.topk(min(count, self.size)).indices
        return torch.where(self.allowed.gather(1, found), found, found[:, :1])

    def better(self, alive: Tensor, count: int) -> Tensor:
        """So many of the choices ``[B, m]`` that are in the race."""
        score = self.gumbel + self._worth(torch.zeros_like(alive[:, :1]))[:, 0]
        return alive.gather(1, score.gather(1, alive).topk(count).indices)

    def behind(self, choice: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The best sequence that begins with a choice ``[B]``, as actions, and its cost."""
        ends, costs = (torch.cat(parts, 1) for parts in zip(*self.seen, strict=True))
        own = torch.where(ends[:, :, 0] == choice[:, None], costs, torch.inf).nan_to_num(torch.inf)
        best = own.argmin(1)
        rows = torch.arange(len(best), device=best.device)
        return {self.name: self._kinds(ends[rows, best])}, costs[rows, best]

    def visit(self, alive: Tensor) -> None:
        """One visit behind each of the choices ``[B, m]``, which lie in parts of the tree of their own."""
        (B, m), H = alive.shape, self.how.horizon
        ends = (self._random(m, H) * self.size).long().clamp_max(self.size - 1)
        node, walking = torch.zeros_like(alive), torch.ones_like(alive, dtype=torch.bool)
        fresh = self.visits.shape[1] + torch.arange(m, device=alive.device).expand(B, m)
        self._grow(m)
        way: list[tuple[Tensor, Tensor]] = []
        for t in range(H):
            inside = alive if t == 0 else self._inside(node)
            ends[:, :, t] = torch.where(walking, inside, ends[:, :, t])
            at = node * self.size + ends[:, :, t]
            way.append((at, walking))
            child = self.children.flatten(1).gather(1, at)
            new = torch.where(walking & (child < 0), fresh, child)
            self.children = self.children.flatten(1).scatter(1, at, new).view_as(self.children)
            walking = walking & (child >= 0)
            node = torch.where(walking, child, node)
        drawn = {self.name: self._kinds(ends)}
        total = self.cost(drawn)
        self.pool.keep(drawn, total)
        self.seen.append((ends, total))
        self._back(way, total)

    def _kinds(self, choices: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(choices, self.size).to(self.visits.dtype)

    def _grow(self, count: int) -> None:
        """So many nodes more."""
        for name, empty in (("visits", 0.0), ("sums", 0.0), ("lost", 0.0), ("children", -1)):
            old: Tensor = getattr(self, name)
            setattr(self, name, torch.cat((old, old.new_full((len(old), count, self.size), empty)), 1))

    def _back(self, way: list[tuple[Tensor, Tensor]], total: Tensor) -> None:
        """What visits cost, ``[B, m]``, to all on their ways."""
        known = total.isfinite()
        self.low = torch.minimum(self.low, total.masked_fill(~known, torch.inf).amin(1, keepdim=True))
        self.high = torch.maximum(self.high, total.masked_fill(~known, -torch.inf).amax(1, keepdim=True))
        cost = torch.where(known, total, 0.0)
        for at, walking in way:
            one = walking.to(cost)
            self.visits = self.visits.flatten(1).scatter_add(1, at, one).view_as(self.visits)
            self.lost = self.lost.flatten(1).scatter_add(1, at, one * ~known).view_as(self.lost)
            self.sums = self.sums.flatten(1).scatter_add(1, at, one * cost).view_as(self.sums)

    def _of(self, values: Tensor, node: Tensor) -> Tensor:
        """Of ``[B, M, A]`` those at nodes ``[B, m]``: ``[B, m, A]``."""
        return values.gather(1, node.unsqueeze(2).expand(-1, -1, self.size))

    def _worth(self, node: Tensor) -> Tensor:
        """σ(q̂) of the choices at nodes ``[B, m]``: ``[B, m, A]``. Lost visits cost the worst that has been seen by now:
        what was the worst at their time may be the best of all.
        """
        worst = torch.where(self.high.isfinite(), self.high, 0.0).unsqueeze(2)
        visits, sums = self._of(self.visits, node), self._of(self.sums, node) + worst * self._of(self.lost, node)
        own = sums.sum(-1, keepdim=True) / visits.sum(-1, keepdim=True).clamp_min(1)
        mean = torch.where(visits > 0, sums / visits.clamp_min(1), own)
        width = (self.high - self.low).unsqueeze(2)
        shares = torch.where(width > 0, (self.high.unsqueeze(2) - mean) / width, 0.0)
        return (self.how.visit + visits.amax(-1, keepdim=True)) * self.how.scale * shares

    def _inside(self, node: Tensor) -> Tensor:
        """The choice at nodes ``[B, m]`` below the root."""
        visits = self._of(self.visits, node)
        return (self._worth(node).softmax(-1) - visits / (1 + visits.sum(-1, keepdim=True))).argmax(-1)


def paper() -> dict[str, Any]:
    """As the paper plays Go and chess with few visits: 32, of 16 choices."""
    return {"simulations": 32, "considered": 16}


def tiny() -> dict[str, Any]:
    """Milliseconds on a CPU."""
    return {"horizon": 6, "simulations": 48, "considered": 8}


def build(sizes: dict[str, Any]) -> MCTS:
    """The planner."""
    return MCTS(**sizes)


SYSTEM = System(
    name="mcts",
    kind="planners",
    paper="Danihelka, Guez, Schrittwieser & Silver 2022, ICLR (Gumbel MuZero)",
    bibtex="""@inproceedings{danihelka2022gumbel, title={Policy improvement by planning with Gumbel}, author={Danihelka,
  Ivo and Guez, Arthur and Schrittwieser, Julian and Silver, David}, booktitle={ICLR}, year={2022}}""",
    presets={"paper": paper, "tiny": tiny},
    build=build,
    summary="A tree of choices with Gumbel's root and random ends, for actions or latent codes that are choices.",
    acts=("choice",),
)
