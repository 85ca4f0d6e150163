"""What an agent recollects of its costs: states with the intrinsic cost of each, from which a critic learns.

    memory = Recollection()
    memory.write(states, costs)                                        # [B, T, ...], [B, T]: T steps of B episodes
    fit(critic.loss, lambda: memory.returns(256, discount=0.97), batch=256, steps=5000)

What came k steps after a state is known of the same episode alone. A later state of an episode may be taken for its
goal (`Hindsight`; Andrychowicz et al. 2017, arXiv:1707.01495): what was done then led there, whatever it was for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from worldformula.agent.terms import Measure
from worldformula.errors import ConfigError, NonFiniteError, ShapeError, table
from worldformula.world import State

if TYPE_CHECKING:
    from worldformula.learners.critics import MemoryCritic


@dataclass(frozen=True)
class Hindsight:
    """Goals that were reached, and what it cost until then.

    Attributes:
        cost: ``states [N, K, ...] -> [N, K]`` that hold the goal: an intrinsic term such as `Distance`.
        of: the variable whose later value is the goal.
        goal: what the goal is called.
        ahead: how many steps later it was reached, on average of a geometric law (cut where the episode ends).
        others: the share of goals that are a state of any episode instead, which may never have been reached.
        reached: a cost of at most this says that the goal is reached, and that nothing comes after it.

    Raises:
        ConfigError: ahead below 1, or a share outside [0, 1).
    """

    cost: Measure
    of: str
    goal: str = "goal"
    ahead: float = 50.0
    others: float = 0.0
    reached: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.ahead < math.inf or not 0 <= self.others < 1 or math.isnan(self.reached):
            raise ConfigError(
                "expected a finite ahead ≥ 1, others in [0, 1) and reached as a number, got "
                f"{self.ahead}, {self.others} and {self.reached}"
            )


@dataclass(frozen=True)
class Recollects:
    """How an agent recollects its costs, and what its critics learn from at every update.

    Attributes:
        episode: C, how many steps of the running episode its acting state holds; of a longer one the oldest are gone.
        capacity: how many steps of ended episodes are kept; the oldest episodes go first, whole.
        batch: states that a critic learns from at once.
        discount: γ.
        steps: n of transitions.
        goals: in hindsight, whose costs are then asked anew.

    Raises:
        ConfigError: sizes below 1 (below 2 of the episode), or a capacity that holds no episode.
    """

    episode: int = 1000
    capacity: int = 50_000
    batch: int = 256
    discount: float = 0.97
    steps: int = 1
    goals: Hindsight | None = None

    def __post_init__(self) -> None:
        if self.episode < 2 or min(self.batch, self.steps) < 1 or self.capacity < self.episode:
            raise ConfigError(
                "expected episode ≥ 2, batch and steps ≥ 1 and a capacity that holds an episode, got "
                f"{self.episode}, {self.batch}, {self.steps} and {self.capacity}"
            )
        _check_discount(self.discount)


def kept_by(own: Recollects | None, critics: Mapping[str, MemoryCritic]) -> tuple[tuple[str, ...], int]:
    """Which variables of the running episode have to be kept for these critics, and of how many steps.

    Raises:
        ConfigError: there are critics, and nobody recollects.
    """
    if own is None:
        if critics:
            name = next(iter(critics))
            raise ConfigError(f"{name} learns from what the agent recollects: expected recollects=Recollects(...)")
        return (), 0
    goals = () if own.goals is None else (own.goals.of,)
    return tuple(dict.fromkeys((*(n for critic in critics.values() for n in critic.features), *goals))), own.episode


class Recollection:
    """States ``s_t`` of episodes, with their intrinsic costs ``IC_t``, where they are known when they are written.

    ``capacity`` is how many steps are kept; the oldest episodes are forgotten first, whole.

    Draws are of torch's generator, or of the one that is given, and states are drawn uniformly among those that have as
    many steps after them as are asked for.
    """

    def __init__(self, capacity: int | None = None) -> None:
        if capacity is not None and capacity < 1:
            raise ConfigError(f"expected a capacity of at least 1 step, got {capacity}")
        self.capacity = capacity
        self._episodes: list[dict[str, Tensor]] = []
        self._rows: tuple[dict[str, Tensor], Tensor] | None = None
        self._known: dict[int, Tensor] = {}  # rows with so many steps after them

    def __len__(self) -> int:
        """How many steps are kept."""
        return sum(len(next(iter(episode.values()))) for episode in self._episodes)

    def write(self, states: State, costs: Tensor | None = None) -> None:
        """Keeps the states ``[B, T, ...]`` of B episodes, without their graph, and their costs ``[B, T]``.

        Raises:
            ShapeError: states of one step, costs of another shape; other variables than were kept before.
            ConfigError: an episode longer than the capacity; a variable called "cost".
            NonFiniteError: a cost, or a number of a state, that is NaN or infinite.
        """
        whole = State(states, getattr(states, "axes", 2)).series
        B, T = lead = whole.lead if whole.axes == 2 else (0, 0)
        if not B or (costs is not None and tuple(costs.shape) != tuple(lead)):
            rows = [(k, "[B, T, ...]", list(v.shape)) for k, v in whole.items()]
            rows += [] if costs is None else [("costs", "[B, T]", list(costs.shape))]
            raise ShapeError("expected steps of episodes\n" + table(("variable", "expected", "got"), rows))
        if "cost" in whole:
            raise _taken("cost")
        if costs is not None and not bool(costs.isfinite().all()):
            b, t = (~costs.isfinite()).nonzero()[0].tolist()
            raise NonFiniteError(
                f"the cost of step {t} of episode {b} is {costs[b, t].item()}: expected finite numbers, of which a "
                f"critic learns what is to come; of what must not be, write a large one"
            )
        if wrong := [k for k, v in whole.items() if v.is_floating_point() and not bool(v.isfinite().all())]:
            raise NonFiniteError(f"the states hold NaN or infinity in {wrong[0]}: expected finite numbers")
        if self.capacity is not None and self.capacity < T:
            raise ConfigError(f"capacity={self.capacity}: expected at least the {T} steps of an episode")
        kept = {**whole, **({} if costs is None else {"cost": costs})}
        if self._episodes and kept.keys() != self._episodes[0].keys():
            raise ShapeError(f"expected {', '.join(self._episodes[0])} as before, got {', '.join(kept)}")
        self._episodes += [{k: v[b].detach().clone() for k, v in kept.items()} for b in range(B)]
        while self.capacity is not None and len(self) > self.capacity:
            del self._episodes[0]
        self._rows, self._known = None, {}

    def write_pieces(self, states: State, costs: Tensor, first: Tensor) -> None:
        """`write` of sequences ``[B, T, ...]`` that may hold several episodes: each piece between two first rows,
        flags ``[B, T]``, by itself. Pieces of one step, after which nothing comes, are left out.
        """
        whole, T = State(states, 2).series, first.shape[1]
        for b, flags in enumerate(first[:, 1:].cpu()):
            cuts = [0, *(flags.nonzero()[:, 0] + 1).tolist(), T]
            for begin, end in pairwise(cuts):
                if end - begin > 1:
                    piece = {name: value[b : b + 1, begin:end] for name, value in whole.items()}
                    self.write(State(piece, 2), costs[b : b + 1, begin:end])

    def state_dict(self) -> dict[str, Tensor]:
        """All steps one behind the other, ``[N, ...]`` by name, and how long each episode is, "lengths"."""
        if not self._episodes:
            return {}
        lengths = torch.tensor([len(next(iter(episode.values()))) for episode in self._episodes])
        return {**self._all()[0], "lengths": lengths}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Keeps what `state_dict` gave, and nothing else."""
        rows = {name: value for name, value in state.items() if name != "lengths"}
        parts = {name: value.split(state["lengths"].tolist()) for name, value in rows.items()}
        count = len(state["lengths"]) if state else 0
        self._episodes = [{name: part[i].clone() for name, part in parts.items()} for i in range(count)]
        self._rows, self._known = None, {}

    # ------------------------------------------------------------------------------------------------------------ read

    def pairs(self, batch: int, delta: int, *, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """``(s_τ, IC_{τ+δ})``: the states ``[batch, ...]`` and "y" ``[batch]`` (LeCun 2022).

        Raises:
            ConfigError: a negative δ, or more steps than an episode has.
        """
        if not isinstance(delta, Integral) or delta < 0:
            raise ConfigError(f"δ is how many steps later a cost came: expected delta ≥ 0, a whole number, got {delta}")
        rows, at = self._drawn(batch, delta, generator)
        return _beside(self._states(rows, at), {"y": self._costs(rows)[at + delta]})

    def returns(
        self, batch: int, *, discount: float, goals: Hindsight | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """States and "y" ``= Σ_{k ≥ 1} γ^{k−1} IC_{τ+k}``, to the end of the episode, or until the goal is reached.

        Raises:
            ConfigError: goals of other episodes, of which nobody knows how long they take.
        """
        if goals is not None and goals.others:
            raise ConfigError(
                "others > 0: a return ends at its goal, and those were not reached; learn from transitions"
            )
        _check_discount(discount)
        rows, at = self._drawn(batch, 1, generator)
        left = self._left[at]
        goal, ahead = self._goals(rows, at, goals, generator)
        steps = left if goals is None else ahead
        costs, going = self._follow(rows, at, int(steps.max()), goals, goal)
        k = torch.arange(1, costs.shape[1] + 1, device=at.device)
        weight = discount ** (k - 1).to(costs) * before(going) * (k <= steps[:, None])
        found = _beside(self._states(rows, at), {"y": (weight * costs).sum(1)})
        return found if goals is None else _beside(found, {goals.goal: goal})

    def transitions(
        self, batch: int, *, discount: float, steps: int = 1, lam: float = 1.0, goals: Hindsight | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """States, what their next n steps cost, "c" ``= Σ_{k ≤ n} γ^{k−1} IC_{τ+k}``, the states ``<name>_prime`` that
        they lead to, and how much counts after these, "d": γ^n, or 0 where the goal is reached before.

        n is ``steps``, or with λ < 1 drawn, n − 1 ~ Geometric(1 − λ), and at most that: the λ-return is the mean over
        such n (Sutton & Barto 2018, eq. 12.2).
        """
        if not 0 <= lam <= 1 or not isinstance(steps, Integral) or steps < 1:
            raise ConfigError(f"expected whole steps ≥ 1 and lam in [0, 1], got {steps} and {lam}")
        _check_discount(discount)
        rows, at = self._drawn(batch, steps, generator)
        goal, _ = self._goals(rows, at, goals, generator)
        drawn = torch.full((batch,), steps) if lam == 1 else _geometric(batch, 1 - lam, generator).clamp(max=steps)
        n = drawn.to(at.device)
        costs, going = self._follow(rows, at, steps, goals, goal)
        k = torch.arange(1, steps + 1, device=at.device)
        alive = before(going)
        c = (discount ** (k - 1).to(costs) * alive * costs * (k <= n[:, None])).sum(1)
        onward = (going.cumprod(1)).gather(1, n[:, None] - 1).squeeze(1)
        later = {f"{name}_prime": value for name, value in self._states(rows, at + n).items()}
        found = _beside(self._states(rows, at), {**later, "c": c, "d": discount ** n.to(costs) * onward})
        return found if goals is None else _beside(found, {goals.goal: goal})

    # ----------------------------------------------------------------------------------------------------------- parts

    @property
    def _left(self) -> Tensor:
        """How many steps of the episode come after each row."""
        return self._all()[1]

    def _all(self) -> tuple[dict[str, Tensor], Tensor]:
        """All steps one behind the other."""
        if not self._episodes:
            raise ConfigError("nothing has been written yet: memory.write(states, costs)")
        if self._rows is None:
            names, lengths = self._episodes[0], [len(next(iter(e.values()))) for e in self._episodes]
            rows = {name: torch.cat([episode[name] for episode in self._episodes]) for name in names}
            device = next(iter(rows.values())).device
            self._rows = rows, torch.cat([torch.arange(length - 1, -1, -1, device=device) for length in lengths])
        return self._rows

    def _drawn(self, batch: int, steps: int, generator: torch.Generator | None) -> tuple[dict[str, Tensor], Tensor]:
        """All rows, and the numbers of some that have so many steps after them."""
        rows, left = self._all()
        if steps not in self._known:
            self._known[steps] = (left >= steps).nonzero()[:, 0]
        known = self._known[steps]
        if not len(known):
            raise ConfigError(
                f"no episode has {steps} steps after any of its states; the longest has {int(left.max())}"
            )
        return rows, known[torch.randint(len(known), (batch,), generator=generator).to(known.device)]

    def _states(self, rows: dict[str, Tensor], at: Tensor) -> dict[str, Tensor]:
        return {name: value[at] for name, value in rows.items() if name != "cost"}

    def _costs(self, rows: dict[str, Tensor]) -> Tensor:
        if "cost" not in rows:
            raise ConfigError("no costs have been written: memory.write(states, costs), or say goals=Hindsight(...)")
        return rows["cost"]

    def _goals(
        self, rows: dict[str, Tensor], at: Tensor, goals: Hindsight | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """A goal for each row, and how many steps later it was reached."""
        if goals is None:
            return at, at
        batch = len(at)
        ahead = torch.minimum(_geometric(batch, 1 / goals.ahead, generator).to(at.device), self._left[at])
        there = at + ahead
        if goals.others:
            other = torch.randint(len(self._left), (batch,), generator=generator).to(at.device)
            there = torch.where(torch.rand(batch, generator=generator).to(at.device) < goals.others, other, there)
        return rows[goals.of][there], ahead

    def _follow(
        self, rows: dict[str, Tensor], at: Tensor, steps: int, goals: Hindsight | None, goal: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The costs of the next steps ``[N, K]``, and whether the episode goes on after each, 1 or 0."""
        k = torch.arange(1, steps + 1, device=at.device)
        index = at[:, None] + torch.minimum(k, self._left[at][:, None])  # behind the end: its last row, not counted
        if goals is None:
            costs = self._costs(rows)[index]
            return costs, torch.ones_like(costs)
        held = goal.unsqueeze(1).expand(-1, steps, *goal.shape[1:])
        with torch.no_grad():
            costs = goals.cost(State({**self._states(rows, index), goals.goal: held}, 2))
        return costs, (costs > goals.reached).to(costs)


def _beside(states: dict[str, Tensor], more: dict[str, Tensor]) -> dict[str, Tensor]:
    """States, and what else a batch holds.

    Raises:
        ConfigError: a state has a variable of such a name.
    """
    if twice := [name for name in more if name in states]:
        raise _taken(twice[0])
    return {**states, **more}


def _taken(name: str) -> ConfigError:
    return ConfigError(
        f"the states have a variable {name!r}, and a batch holds something else by that name\n"
        f"write it under another name, or leave it out: memory.write(states.only(...), costs)"
    )


def _check_discount(discount: float) -> None:
    if not 0 <= discount <= 1:
        raise ConfigError(f"expected a discount from 0 to 1, got {discount}")


def before(going: Tensor) -> Tensor:
    """Whether an episode has gone on until each of K steps ``[N, K]``: the product of what is before it."""
    return torch.cat((torch.ones_like(going[:, :1]), going[:, :-1]), 1).cumprod(1)


def _geometric(count: int, stop: float, generator: torch.Generator | None) -> Tensor:
    """Whole numbers from 1, ``[count]``: how many trials until the first that succeeds with probability ``stop``."""
    if stop >= 1:
        return torch.ones(count, dtype=torch.long)
    drawn = torch.rand(count, generator=generator, dtype=torch.float64)
    return 1 + (torch.log1p(-drawn) / torch.log(torch.tensor(1 - stop, dtype=torch.float64))).long()
