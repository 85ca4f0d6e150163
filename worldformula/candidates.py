"""What searches by sampling draw their candidates from: a law for each action, of its kind.

Numbers live in [−1, 1] and come from a Normal per step that is clipped to it, one-hot choices from a table of
probabilities per step, flags from one probability each.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from worldformula.errors import ConfigError
from worldformula.given import allowed, check_fields, check_given, check_space, like_of, per_episode
from worldformula.planner import ActionSet, Named, Plan, Planner, Space, Task, some
from worldformula.score import Score
from worldformula.world import Dynamics, State, Values

Law = tuple[Tensor, ...]
"""What an action is drawn from: mean and deviation ``[B, H, A]`` each, or one table of probabilities ``[B, H, A]``."""


def level(own: ActionSet) -> float:
    """The middle of what an action may be, where nothing is known."""
    return {"numbers": 0.0, "choice": 1 / own.size, "flags": 0.5}[own.kind]


def start(name: str, own: ActionSet, horizon: int, std: float, warm: Named | None, like: Tensor) -> Law:
    """The law of the first candidates, of the batch of ``like``: around the warm start, where an episode has one."""
    shape = (len(like), horizon, own.size)
    middle = torch.full(shape, level(own), dtype=like.dtype, device=like.device)
    if warm is not None and name in warm:
        given = warm[name].to(middle)
        known = ~given.isnan().flatten(1).any(1)[:, None, None]
        middle = torch.where(known, given if own.kind == "numbers" else 0.5 * (middle + given), middle)
    return (middle, torch.full_like(middle, std)) if own.kind == "numbers" else (middle,)


Noise = Callable[[torch.Generator, tuple[int, int, int], Tensor], Tensor]
"""Noise ``[count, H, A]`` of unit deviation, of the generator of an episode, in the type of a tensor."""


def white(generator: torch.Generator, shape: tuple[int, int, int], like: Tensor) -> Tensor:
    """Noise of which each step knows nothing of the others."""
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)


def together(parts: Sequence[Tensor]) -> Tensor:
    """The parts of all episodes, ``[B, ...]``; of one without a copy."""
    return torch.stack(tuple(parts)) if len(parts) > 1 else parts[0].unsqueeze(0)


def draw(
    space: Space, laws: Mapping[str, Law], count: int, generators: Sequence[torch.Generator], noisy: Noise = white
) -> dict[str, Tensor]:
    """Candidates ``[B, count, H, A]`` by name, each episode from its own generator; of numbers with this noise."""
    found = {}
    for name, own in space.items():
        like = laws[name][0]
        if own.kind == "numbers":
            noise = together([noisy(g, (count, *like.shape[1:]), like) for g in generators])
            mean, std = laws[name] if like.shape[0] == 1 else (part.unsqueeze(1) for part in laws[name])
            found[name] = (std * noise).add_(mean).clamp_(-1, 1)
            continue
        shape = (count, *like.shape[1 : 2 if own.kind == "choice" else 3])
        noise = together([torch.rand(shape, generator=g, dtype=like.dtype, device=like.device) for g in generators])
        if own.kind == "flags":
            found[name] = (noise < like.unsqueeze(1)).to(like.dtype)
        else:
            shares = like.cumsum(-1)
            below = (shares / shares[..., -1:])[:, None, :, :-1] <= noise.unsqueeze(-1)  # never an impossible one
            found[name] = torch.nn.functional.one_hot(below.sum(-1), own.size).to(like.dtype)
    return found


def middle(own: ActionSet, law: Law) -> Tensor:
    """The sequence ``[B, H, A]`` that a law is around: the mean, the most probable choice, the likely flags."""
    if own.kind == "numbers":
        return law[0].clamp(-1, 1)
    if own.kind == "flags":
        return (law[0] > 0.5).to(law[0])
    return torch.nn.functional.one_hot(law[0].argmax(-1), own.size).to(law[0])


def within(law: Law, mask: Tensor | None) -> Law:
    """The law in which the first step has no forbidden choice."""
    if mask is None:
        return law
    mask = some(mask)
    inside = law[0][:, 0] * mask
    inside = torch.where(inside.sum(-1, keepdim=True) > 0, inside, mask.to(inside))  # all mass was on what is forbidden
    return (torch.cat(((inside / inside.sum(-1, keepdim=True)).unsqueeze(1), law[0][:, 1:]), 1),)


def chosen(candidates: Named, rows: Tensor) -> dict[str, Tensor]:
    """Candidates ``[B, N, H, A]`` by name at rows ``[B, K]``: ``[B, K, H, A]``."""
    if rows.shape[0] == 1:  # of one episode whole rows are copied
        return {name: value.index_select(1, rows[0]) for name, value in candidates.items()}
    return {
        name: value.gather(1, rows[:, :, None, None].expand(-1, -1, *value.shape[2:]))
        for name, value in candidates.items()
    }


def check_sizes(planner: object, candidates: int, elites: int, horizon: int, iterations: int) -> None:
    """ConfigError for settings with which no search can be made."""
    check_fields(planner)
    if not 1 <= elites <= candidates:
        raise ConfigError(f"expected 1 ≤ elites ≤ candidates, got {elites} and {candidates}")
    if min(horizon, iterations) < 1:
        raise ConfigError("expected horizon and iterations of at least 1")


def seen(numbers: Tensor) -> list[Any] | None:
    """Numbers where they are seen without waiting for them: not where an accelerator computes."""
    found: list[Any] | None = numbers.tolist() if numbers.device.type == "cpu" else None
    return found


class Pool:
    """A search by sampling: the law of each action, and what was tried.

    Attributes:
        laws: what the next candidates are drawn from, by action; a search replaces them.
        given: proposals ``[B, P, H, A]`` by action, nothing where there are none.
        generators: one for each episode.
        best: the best sequence so far, ``[B, H, A]`` by action, of cost ``least``, ``[B]``.
        arrived: the states ``[B, H, ...]`` that it leads to; None where they are not known.
        costs: of all that was tried, ``[B, N]`` each, where NaN is what is discarded.
        lost: episodes ``[B]`` of which the last candidates all cost NaN or ∞; None where there is none.
    """

    def __init__(
        self, dynamics: Dynamics, task: Task, state: Values, *, space: Space, horizon: int, std: float,
        generators: Sequence[torch.Generator] | None = None, warm: Named | None = None,
        proposals: Named | None = None, mask: Named | None = None,
    ) -> None:  # fmt: skip
        first = like_of(state)
        check_space(dynamics, space)
        if against := [name for name, own in space.items() if own.aim == "max"]:
            raise ConfigError(f"{against[0]!r} is an adversary's, aim='max', and this search knows none; minimax does")
        self.space, self.mask = space, mask or {}
        self.generators = per_episode(generators, len(first), first.device)
        check_given("warm", warm, space, (len(first), horizon))
        check_given("proposals", proposals, space, (len(first), None, horizon))
        check_given("mask", mask, space, (len(first),))
        self.given = {} if proposals is None else {name: proposals[name].to(first) for name in space}
        self.score = Score(dynamics, task, state, space, horizon, self.generators)
        self.laws = {name: start(name, space[name], horizon, std, warm, first) for name in space}
        self.best: dict[str, Tensor] = {}
        self.arrived: State | None = None
        self.least, self.trace, self.tried = first.new_zeros(()), list[Tensor](), 0
        self.costs: list[Tensor] = []
        self.lost: Tensor | None = None
        self._least: list[float] | None = None  # the numbers of ``least``, where they are seen
        self._dreamt: State | None = None  # the states of the last candidates, where they are known,
        self._order = torch.empty(0)  # and which of them were the elites, the best first: ``[B, K]``

    @property
    def proposed(self) -> int:
        """How many sequences were proposed."""
        return next(iter(self.given.values())).shape[1] if self.given else 0

    def draw(self, count: int, noisy: Noise = white) -> dict[str, Tensor]:
        """Candidates ``[B, count, H, A]`` by name, whose first step takes no forbidden choice."""
        if self.mask:
            self.laws = {name: within(law, self.mask.get(name)) for name, law in self.laws.items()}
        return draw(self.space, self.laws, count, self.generators, noisy)

    def middle(self) -> dict[str, Tensor]:
        """The sequence that the laws are around, as one candidate, ``[B, 1, H, A]`` by name."""
        laws = {name: within(law, self.mask.get(name)) for name, law in self.laws.items()}
        return {name: middle(own, laws[name]).unsqueeze(1) for name, own in self.space.items()}

    def try_(self, candidates: Named, elites: int) -> tuple[dict[str, Tensor], Tensor]:
        """The best so many of candidates ``[B, N, H, A]``: ``[B, elites, H, A]``, the best one first, and their costs,
        ``[B, elites]``. NaN comes last, and what is forbidden counts as NaN: behind what may be and costs ∞.
        """
        inside = allowed(self.mask, {k: v[:, :, 0] for k, v in candidates.items()}) if self.given else None
        self._dreamt = None  # so that its memory is there for the next dream
        total, states = self.score.dreamt(candidates)
        found = self.keep(candidates, total, elites, inside, states)
        self._dreamt = states
        return found

    def keep(
        self, candidates: Named, total: Tensor, elites: int = 1, inside: Tensor | None = None,
        states: State | None = None,
    ) -> tuple[dict[str, Tensor], Tensor]:  # fmt: skip
        """As `try_`, where it is known what candidates cost, ``[B, N]``, and which may be, and, if it is, which states
        they arrive at, ``[B·N, H, ...]``.
        """
        self.costs.append(total)
        total = total if inside is None else total.masked_fill(~inside, torch.nan)
        cost, order = total.topk(elites, dim=1, largest=False)
        ends, self.lost = seen(cost[:, :: max(elites - 1, 1)]), None  # of the elites the first and the last
        if ends is None or not all(math.isfinite(row[-1]) for row in ends):
            self.lost = ~(cost[:, 0] < torch.inf)
            useless = ~cost.isfinite() & cost[:, :1].isfinite()
            order = torch.where(useless, order[:, :1], order)  # beside what has a cost, what has none shapes no law
        found, self._order = chosen(candidates, order), order
        top = None if states is None else partial(_rows, states, order)
        self._improve(found, cost, None if ends is None else [row[0] for row in ends], top)
        self.trace.append(self.least)
        self.tried += total.shape[1]
        return found, cost

    def _improve(
        self, elites: Named, cost: Tensor, lowest: list[float] | None, top: Callable[[], State] | None
    ) -> None:
        """The better of the best sequences so far and of the first of the elites ``[B, K, H, A]``, of costs ``[B, K]``,
        whose lowest are seen, or not; ``top`` says what states these arrive at.
        """
        before, gains = self._least, None
        if lowest is not None and before is not None:
            gains = [now < then or math.isnan(then) for now, then in zip(lowest, before, strict=True)]
        if not self.best or (gains is not None and all(gains)):
            self.best = {k: v.select(1, 0) for k, v in elites.items()}
            self.least, self._least = cost.select(1, 0), lowest
            self.arrived = None if top is None else top()
        elif gains is None or any(gains):
            new = (cost[:, 0] < self.least) | self.least.isnan()
            self.best = {k: torch.where(new[:, None, None], v[:, 0], self.best[k]) for k, v in elites.items()}
            self.least = torch.where(new, cost[:, 0], self.least)
            self._least = seen(self.least)
            self.arrived = None if top is None or self.arrived is None else _either(new, top(), self.arrived)

    def refit(self, laws: Mapping[str, Law]) -> None:
        """These laws from now on, but of an episode of which no candidate had a cost: nothing is known of where it
        should look, and its law stays as wide as it was.
        """
        if self.lost is not None:
            stay = self.lost[:, None, None]
            laws = {
                name: tuple(torch.where(stay, old, new) for old, new in zip(self.laws[name], law, strict=True))
                for name, law in laws.items()
            }
        self.laws = dict(laws)

    def settle(self, actions: Named, cost: Tensor | None = None, elite: Tensor | None = None) -> None:
        """Take these actions, ``[B, H, A]`` by name, whatever they cost; ``elite`` ``[B, 1]`` says which of the last
        elites that were tried they are.
        """
        self.best, self.arrived = dict(actions), None
        if elite is not None and self._dreamt is not None:
            self.arrived = _rows(self._dreamt, self._order.gather(1, elite))
        if cost is None:
            costs, self.arrived = self.score.dreamt({k: v.unsqueeze(1) for k, v in actions.items()})
            cost, self.tried = costs[:, 0], self.tried + 1
        self.least, self._least = cost, None
        self.trace.append(cost)

    def plan(self) -> Plan:
        """The plan of the best sequence.

        Raises:
            NonFiniteError: no candidate has a cost that is a number.
        """
        horizon, samples = next(iter(self.best.values())).shape[1], max(self.score.task.samples, 1)
        lost = torch.cat(self.costs, 1).isnan().sum(1)
        return self.score.found(self.best, self.least, self.trace, self.tried * horizon * samples, lost, self.arrived)


def _rows(states: State, order: Tensor) -> State:
    """Of states ``[B·N, H, ...]`` those of one candidate of each episode, the first in an order ``[B, K]``."""
    rows = order.select(1, 0)
    if (batch := rows.shape[0]) > 1:
        rows = rows + next(iter(states.values())).shape[0] // batch * torch.arange(batch, device=rows.device)
    return states.select(rows)


def _either(which: Tensor, one: State, other: State) -> State:
    """States ``[B, ...]`` of one where ``which`` ``[B]`` is true, of the other elsewhere."""
    return State(
        {k: torch.where(which.reshape(-1, *(1,) * (v.ndim - 1)), v, other[k]) for k, v in one.items()}, one.axes
    )


class Sampling(Planner):
    """A planner that tries candidates: its search begins with a `Pool`. Fields belong to the final classes.

    Attributes:
        horizon: steps of a plan.
        std: the deviation of the first candidates (numbers); nobody reads it of a search that has none.
    """

    horizon: int
    std: float = 1.0

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
        """Search from states ``[B, ...]``: see `Planner.plan`."""
        self.check_space(space)
        own = {k: v.detach() if isinstance(v, Tensor) else v for k, v in state.items()}
        pool = Pool(
            dynamics, task, own, space=space, horizon=self.horizon, std=self.std, generators=generators, warm=warm,
            proposals=proposals, mask=mask,
        )  # fmt: skip
        return self.search(pool)

    def check_space(self, space: Space) -> None:
        """Raises `ConfigError` for an action that it cannot search among."""

    @abstractmethod
    def search(self, pool: Pool) -> Plan:
        """What it does with a pool, and the plan; nothing keeps a graph unless it asks for one."""
