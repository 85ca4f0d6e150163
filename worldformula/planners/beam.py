"""Beam search: keep the best few beginnings of a plan, and try every next step behind each (Lowerre 1976).

    the frontier: W beginnings {a_{1:t}}       behind each, every choice of step t + 1
    F = Σ_{1:t+1} C + V(s_{t+1}) + (1/β) Σ −log p(z|s)       the W least stay; of the same state, the least alone

It is for choices and flags: actions, and latent variables that the dynamics draws, which a search may set too. With W
at least k^{H−1}, for k ways to step, it is a search of all; a narrow one takes a share W·k·H / k^H of the calls, and
finds the best plan where its beginnings are among the best W of their length.

``surprise`` is 1/β, what an improbable latent costs: the plan is then for the futures that the dynamics believes in.
``merge`` is how near two states are that count as one; their later costs are taken to be the same, so a cost must not
read what came before.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from worldformula.candidates import Pool, Sampling, chosen
from worldformula.catalogue import System
from worldformula.errors import ConfigError
from worldformula.given import allowed, check_fields, like_of
from worldformula.planner import ActionSet, Named, Plan, Space
from worldformula.score import log_prob
from worldformula.world import State

MOST = 4096  # ways to take one step


@final
@dataclass(frozen=True)
class Beam(Sampling):
    """The search; see the module for the method."""

    horizon: int = 8
    """Steps of a plan."""
    width: int = 8
    """W, beginnings that stay."""
    surprise: float = 0.0
    """1/β, weight of −log p of latents that the search sets."""
    merge: float | None = None
    """The largest distance of states that are one; None keeps all."""

    def __post_init__(self) -> None:
        check_fields(self)
        if min(self.horizon, self.width) < 1 or self.surprise < 0 or (self.merge is not None and self.merge < 0):
            raise ConfigError(
                "expected horizon and width of at least 1, surprise and merge of at least 0, got "
                f"{self.horizon}, {self.width}, {self.surprise} and {self.merge}"
            )

    def check_space(self, space: Space) -> None:
        """Choices and flags.

        Raises:
            ConfigError: an action of numbers, or too many ways to take a step.
        """
        every(space)

    def search(self, pool: Pool) -> Plan:
        """The result is the best plan of those that were kept to the end, or proposed.

        Raises:
            ConfigError: ``surprise``, and dynamics that do not say how probable a latent is.
        """
        options, front = every(pool.space), _Frontier(pool, pool.space)
        for t in range(self.horizon):
            front.widen(t, {name: value.to(like_of(pool.score.state)) for name, value in options.items()}, self)
            front.narrow(self.width, self.merge)
        calls = front.calls
        if pool.given:
            front.join(self)
            calls += pool.proposed * self.horizon * front.samples
        best = front.total.argsort(dim=1, stable=True)[:, :1]  # NaN last, which for argmin is the least
        pool.settle({k: v[:, 0] for k, v in chosen(front.actions, best).items()}, front.cost.gather(1, best)[:, 0])
        return replace(pool.plan(), calls=calls + self.horizon)


class _Frontier:
    """Beginnings of plans: ``actions`` ``[B, W, t, size]`` by name, the states behind them, what they ``cost``, and
    that with what they are ranked by besides, the ``total``, ``[B, W]`` each.
    """

    def __init__(self, pool: Pool, space: Space) -> None:
        self.pool, self.space, self.score = pool, space, pool.score
        if getattr(self.score.dynamics, "duration", None) is not None:
            raise ConfigError("a beam compares plans of as many steps, and here steps take times of their own")
        self.samples, self.calls = max(self.score.task.samples, 1), 0
        self.batch, like = len(pool.generators), like_of(pool.score.state)
        self.last = self.score.state.repeat(self.samples)  # of all episodes, beginnings and samples, in this order
        self.path = State({}, 2)
        self.actions = {name: like.new_zeros(self.batch, 1, 0, own.size) for name, own in space.items()}
        self.cost = self.total = self.odd = self.barred = like.new_zeros(self.batch, 1)

    def widen(self, t: int, options: Named, how: Beam) -> None:
        """Every option behind every beginning."""
        B, W, S, K = self.batch, self.cost.shape[1], self.samples, len(next(iter(options.values())))
        score, whole = self.score, B * W * K * S
        rows = torch.arange(B * W * S).view(B, W, 1, S).expand(-1, -1, K, -1).flatten()
        acts = {
            name: v.view(1, 1, K, 1, -1).expand(B, W, -1, S, -1).reshape(whole, 1, -1) for name, v in options.items()
        }
        noise = {
            key: v[:, None, None, :, t : t + 1].expand(-1, W, K, *(-1,) * (v.ndim - 1)).flatten(0, 3)
            for key, v in (score.noise or {}).items()
        }
        given: dict[str, Any] = {"deterministic": True} if score.noise is None else {"noise": noise}
        dream = State(score.dynamics.imagine(self.last.select(rows), actions=acts, **given, **score.task.numbers), 2)
        self.calls += whole // B
        odd = self.odd.unsqueeze(2).expand(-1, -1, K)
        if how.surprise:
            odd = odd - log_prob(score.dynamics, dream, acts).view(B, W, K, S).mean(-1)
        own = dream.only(k for k in dream if k not in score.dynamics.actions)
        self.last, new = own.last(), State({k: v[:, 1:] for k, v in own.series.items()}, 2)
        self.path = State({k: torch.cat((self.path[k][rows], v), 1) if t else v for k, v in new.items()}, 2)
        before = {name: v.unsqueeze(2).expand(-1, -1, K, -1, -1).flatten(1, 2) for name, v in self.actions.items()}
        after = {name: v.view(B, W * K, S, 1, -1)[:, :, 0] for name, v in acts.items()}
        self.actions = {name: torch.cat((before[name], after[name]), 2) for name in self.space}
        flat = {k: v.unsqueeze(2).expand(-1, -1, S, -1, -1).flatten(0, 2) for k, v in self.actions.items()}
        self.cost = score.task.over(score.task.of(score.told(self.path, W * K * S), flat).view(B, W * K, S))
        self.barred = self.barred.unsqueeze(2).expand(-1, -1, K).flatten(1)
        if not t and (fits := allowed(self.pool.mask, {k: v[:, :, 0] for k, v in self.actions.items()})) is not None:
            self.barred = self.barred.masked_fill(~fits, torch.nan)  # behind what may be and costs ∞
        self.pool.costs.append(self.cost.masked_fill(self.barred.isnan(), 0.0))
        self.cost = self.cost + self.barred
        self.odd = odd.flatten(1)
        self.total = self.cost + how.surprise * self.odd if how.surprise else self.cost

    def narrow(self, width: int, merge: float | None) -> None:
        """The best so many; NaN comes last."""
        order = self.total.argsort(dim=1, stable=True)
        if merge is not None:
            order = self._apart(order, merge)
        keep = order[:, :width]
        rows = (torch.arange(self.batch)[:, None] * self.total.shape[1] + keep).flatten()
        rows = (rows[:, None] * self.samples + torch.arange(self.samples)).flatten()
        self.last, self.path = self.last.select(rows), State({k: v[rows] for k, v in self.path.items()}, 2)
        self.actions = chosen(self.actions, keep)
        parts = self.cost, self.total, self.odd, self.barred
        self.cost, self.total, self.odd, self.barred = (v.gather(1, keep) for v in parts)

    def _apart(self, order: Tensor, merge: float) -> Tensor:
        """The order with those behind all others that are where a better one is."""
        parts = [v for v in self.last.series.values() if v.is_floating_point()]
        place = torch.cat([v.reshape(self.batch, order.shape[1], -1) for v in parts], -1)
        place = place.gather(1, order.unsqueeze(-1).expand_as(place))
        near = torch.cdist(place, place) <= merge
        same = near.tril(-1).any(-1)
        return order.gather(1, same.to(torch.uint8).argsort(dim=1, stable=True))

    def join(self, how: Beam) -> None:
        """What was proposed stands among the plans."""
        given = self.pool.given
        cost = self.score(given)
        self.pool.costs.append(cost)
        if (fits := allowed(self.pool.mask, {k: v[:, :, 0] for k, v in given.items()})) is not None:
            cost = cost.masked_fill(~fits, torch.nan)
        total = cost
        if how.surprise:
            total = cost + how.surprise * self.score.surprise(given)
        self.cost, self.total = torch.cat((self.cost, cost), 1), torch.cat((self.total, total), 1)
        self.actions = {k: torch.cat((v, given[k]), 1) for k, v in self.actions.items()}


def every(space: Space) -> dict[str, Tensor]:
    """All ways to take one step, ``[K, size]`` by name.

    Raises:
        ConfigError: numbers, or more ways than anyone tries.
    """
    if other := [name for name, own in space.items() if own.kind == "numbers"]:
        raise ConfigError(
            f"{other[0]!r} is of numbers, and a beam tries every value of choices and flags\ncem, icem, mppi and "
            f"gradient search among numbers"
        )
    each = [_values(own) for own in space.values()]
    count = 1
    for values in each:
        count *= len(values)
    if count > MOST:
        raise ConfigError(f"expected at most {MOST:,} ways to take a step, got {count:,}")
    rows = torch.tensor(list(itertools.product(*(range(len(v)) for v in each))))
    return {name: values[rows[:, i]] for i, (name, values) in enumerate(zip(space, each, strict=True))}


def _values(own: ActionSet) -> Tensor:
    if own.kind == "choice":
        return torch.eye(own.size)
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=own.size)))


def paper() -> dict[str, Any]:
    """Eight beginnings of eight steps: of two choices a step, 16 leaves of 256."""
    return {"horizon": 8, "width": 8}


def tiny() -> dict[str, Any]:
    """Milliseconds on a CPU."""
    return {"horizon": 4, "width": 8}


def build(sizes: dict[str, Any]) -> Beam:
    """The planner."""
    return Beam(**sizes)


SYSTEM = System(
    name="beam",
    kind="planners",
    paper="Lowerre 1976, The Harpy speech recognition system; LeCun 2022, section 4.10",
    bibtex="""@phdthesis{lowerre1976harpy, title={The Harpy speech recognition system}, author={Lowerre, Bruce T.},
  school={Carnegie Mellon University}, year={1976}}""",
    presets={"paper": paper, "tiny": tiny},
    build=build,
    acts=("choice", "flags"),
    summary="The best few beginnings of a plan, and every next step behind each, over choices, flags and latents.",
)
