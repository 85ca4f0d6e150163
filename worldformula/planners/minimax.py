"""Minimax: the plan whose worst case is least, against an adversary that sets latent variables (LeCun 2022, 4.10).

    min_a max_z  F(a, z) − λ R(z)                       R(z) = −Σ_t log p(z_t|…), what the dynamics says of z

Actions of the aim "min" are searched by another planner; each of its candidates costs what the worst known sequence of
the adversary's, of the aim "max", makes of it. All sequences are known where they are choices and flags, and few. Else
they are found one by one (McMahan, Gordon & Blum 2003, best responses of one side): plan against those known, reply to
the plan by max_z F − λR, add the reply, and plan again. Of all plans the one with the least worst reply is kept.

Both commit to whole sequences: the adversary knows the plan, and the plan does not answer. With λ = 0 the adversary may
do what the dynamics holds for impossible; a large λ leaves it the most probable latents alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from worldformula import catalogue
from worldformula.candidates import chosen, draw, level, within
from worldformula.catalogue import System
from worldformula.errors import ConfigError
from worldformula.given import allowed, check_fields, check_given, like_of, of_space, per_episode
from worldformula.planner import ActionSet, CVaR, Named, Plan, Planner, Space, Task
from worldformula.score import Score
from worldformula.world import Dynamics, State, Values


@final
@dataclass(frozen=True)
class Minimax(Planner):
    """The search; see the module for the method."""

    planner: Planner
    """Searches for the actions."""
    reply: Planner
    """Searches for the adversary's sequences, where these are not all known; of the same horizon."""
    price: float = 0.0
    """λ, what an improbable latent costs the adversary."""
    most: int = 256
    """How many sequences are listed; beyond, they are found as replies."""
    rounds: int = 4
    """Replies that are found."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.price < 0 or min(self.most, self.rounds) < 1:
            raise ConfigError(
                f"expected price ≥ 0, most and rounds ≥ 1, got {self.price}, {self.most} and {self.rounds}"
            )

    @property
    def climbs(self) -> bool:
        """Whether either search does."""
        return self.planner.climbs or self.reply.climbs

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
        """Search from states ``[B, ...]``; ``actions`` of the plan are those of both, ``cost`` is F of them, without R.
        Masks hold for both; what is warm or proposed of the adversary's is known from the start.

        Raises:
            ConfigError: ``warm``, ``proposals`` or ``mask`` of an action that is in no space; a task with samples,
                whose draws and an adversary would be two worst cases in one, or with a guide; or dynamics that do not
                say how probable a latent is, with a price.
        """
        theirs = {name: replace(own, aim="min") for name, own in space.items() if own.aim == "max"}
        ours = {name: own for name, own in space.items() if own.aim == "min"}
        for what, told in (("warm", warm), ("proposals", proposals), ("mask", mask)):
            if other := [name for name in told or () if name not in space]:
                raise ConfigError(f"{what}: the space has no {other[0]!r}; it has {', '.join(space)}")
        given, their = (
            {"warm": of_space(warm, own), "proposals": of_space(proposals, own), "mask": of_space(mask, own)}
            for own in (ours, theirs)
        )
        if not theirs:
            return self.planner.plan(dynamics, task, state, space=ours, generators=generators, **given)
        if task.samples:
            raise ConfigError(f"samples={task.samples}: an adversary sets what else would be drawn; write samples=0")
        if task.guide is not None:
            raise ConfigError("guide: an adversary replies to costs alone; write what leads the search into the cost")
        if self.price and (task.reduce == "last" or task.discount < 1 or task.proceed is not None):
            raise ConfigError("a price is paid at every step alike; write a task that sums its costs, undiscounted")
        game = _Game(self, dynamics, task, State(state), ours, theirs, generators, their)
        worst = game.like.new_full((game.batch,), torch.inf)
        best, states = dict[str, Tensor](), 0
        for _ in range(1 if game.complete else self.rounds):
            plan = game.planned(given)
            reply, value = game.listed(plan) if game.complete else game.replied(plan)
            new = (value < worst)[:, None, None]
            best = {k: torch.where(new, v, best[k]) if best else v for k, v in {**plan.actions, **reply}.items()}
            worst = torch.where(value < worst, value, worst)  # a reply that is no number is none
            game.known = {k: torch.cat((v, reply[k].unsqueeze(1)), 1) for k, v in game.known.items()}
            states += plan.calls
        cost = game.score({k: v.unsqueeze(1) for k, v in best.items()})[:, 0]
        return game.score.found(best, cost, (cost,), states + game.calls)


class _Game:
    """Who sets what, and what of the adversary is ``known``: sequences ``[B, M, H, size]`` by name, all of them where
    the list is ``complete``.
    """

    def __init__(
        self, how: Minimax, dynamics: Dynamics, task: Task, state: State, ours: Space, theirs: Space,
        generators: Sequence[torch.Generator] | None, their: Mapping[str, Named | None],
    ) -> None:  # fmt: skip
        self.how, self.dynamics, self.task, self.state = how, dynamics, task, state
        self.ours, self.theirs, self.calls = ours, theirs, 0
        self.like = like_of(state)
        self.batch = len(self.like)
        self.generators = per_episode(generators, self.batch, self.like.device)
        horizon = getattr(how.planner, "horizon", None)
        if not isinstance(horizon, int):
            raise ConfigError(f"{type(how.planner).__name__} says no horizon, which its adversary shares")
        self.score = Score(dynamics, task, state, {**ours, **theirs}, horizon, self.generators)
        ways = [_values(own) for own in theirs.values()]
        count = 1 if all(len(v) for v in ways) else how.most + 1
        for values in ways:
            count *= max(len(values), 1) ** horizon
        self.complete = count <= how.most
        self.warm, self.mask = their["warm"], their["mask"]
        check_given("warm", self.warm, theirs, (self.batch, horizon))
        check_given("proposals", their["proposals"], theirs, (self.batch, None, horizon))
        check_given("mask", self.mask, theirs, (self.batch,))
        self.known = self._permitted(self._all(ways, horizon) if self.complete else self._some(horizon, their))

    def _all(self, ways: Sequence[Tensor], horizon: int) -> dict[str, Tensor]:
        steps = [torch.tensor(list(itertools.product(range(len(v)), repeat=horizon))) for v in ways]
        rows = torch.tensor(list(itertools.product(*(range(len(s)) for s in steps))))
        found = {name: v[s[rows[:, i]]] for i, (name, v, s) in enumerate(zip(self.theirs, ways, steps, strict=True))}
        return {k: v.to(self.like).expand(self.batch, *v.shape) for k, v in found.items()}

    def _some(self, horizon: int, their: Mapping[str, Named | None]) -> dict[str, Tensor]:
        """Two sequences that are drawn uniformly, as somewhere to begin; what was proposed, and the warm ones."""
        wide = {k: self.like.new_full((self.batch, horizon, own.size), level(own)) for k, own in self.theirs.items()}
        mask = self.mask or {}
        laws = {k: within((v,), mask[k]) if k in mask else (v, v + 1) for k, v in wide.items()}
        found = draw(self.theirs, laws, 2, self.generators)
        if (proposed := their["proposals"]) is not None:
            found = {k: torch.cat((v, proposed[k].to(v)), 1) for k, v in found.items()}
        if self.warm is not None:
            last = {k: self.warm[k].unsqueeze(1).to(v) if k in self.warm else v[:, :1] for k, v in found.items()}
            new = torch.stack([v.isnan().flatten(1).any(1) for v in last.values()]).any(0)[:, None, None, None]
            found = {k: torch.cat((v, torch.where(new, v[:, :1], last[k])), 1) for k, v in found.items()}
        return found

    def _permitted(self, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sequences ``[B, M, H, size]``, those with a forbidden first choice replaced by the episode's first other."""
        inside = allowed(self.mask, {k: v[:, :, 0] for k, v in known.items()})
        if inside is None:
            return dict(known)
        own = torch.arange(inside.shape[1], device=inside.device).expand_as(inside)
        return chosen(known, torch.where(inside, own, inside.byte().argmax(1, keepdim=True)))

    def planned(self, given: Mapping[str, Any]) -> Plan:
        """The best plan against what is known."""
        count = next(iter(self.known.values())).shape[1]
        known = self.known if count > 1 else {k: v.expand(-1, 2, -1, -1) for k, v in self.known.items()}
        other = _Other(self.dynamics, known, self.how.price)
        task = replace(self.task, cost=other.costing(self.task), samples=max(count, 2), risk=CVaR(0.0))
        return self.how.planner.plan(
            other, task, self._numbered(), space=self.ours, generators=self.generators, **given
        )

    def listed(self, plan: Plan) -> tuple[dict[str, Tensor], Tensor]:
        """The worst of all sequences for a plan, and F − λR of it, ``[B]``."""
        count = next(iter(self.known.values())).shape[1]
        acts = {k: v.unsqueeze(1).expand(-1, count, -1, -1) for k, v in plan.actions.items()} | self.known
        value = self.score(acts)
        if self.how.price:
            flat = {k: v.flatten(0, 1) for k, v in acts.items()}
            start = self.score.state.repeat(count)
            dream = State(self.dynamics.imagine(start, actions=flat, deterministic=True, **self.task.numbers), 2)
            value = value + self.how.price * _log_prob(self.dynamics, dream, flat).sum(1).view(value.shape)
        self.calls += count * self.score.horizon
        worst = value.argmax(1)
        rows = torch.arange(self.batch, device=worst.device)
        return {k: v[rows, worst] for k, v in self.known.items()}, value[rows, worst]

    def replied(self, plan: Plan) -> tuple[dict[str, Tensor], Tensor]:
        """The reply that is found to a plan, and F − λR of it, ``[B]``."""
        other, own = (
            _Other(self.dynamics, {k: v.unsqueeze(1) for k, v in plan.actions.items()}, self.how.price),
            self.task,
        )
        value = own.value
        task = replace(
            own, cost=other.costing(own, -1.0), value=None if value is None else lambda states: -value(states)
        )
        found = self.how.reply.plan(
            other, task, self._numbered(), space=self.theirs, generators=self.generators, warm=self.warm, mask=self.mask
        )
        self.calls += found.calls
        return found.actions, -found.cost

    def _numbered(self) -> State:
        """The states, with the number of each episode, by which what the other side does is found."""
        number = torch.arange(self.batch, device=self.like.device).to(self.like)
        return self.state | {NUMBER: number, STEP: torch.zeros_like(number)}


NUMBER, STEP, ODD, DONE = "episode_number", "step_number", "improbable", "other_"  # what a dream holds besides


class _Other:
    """Dynamics in which the other side is known: M sequences for each episode, ``[B, M, H, size]`` by name; dreams with
    noise take one for each sample, others the first.
    """

    def __init__(self, dynamics: Dynamics, known: Mapping[str, Tensor], price: float) -> None:
        self.own, self.known, self.price = dynamics, known, price
        self.actions = tuple(k for k in dynamics.actions if k not in known)
        self.choices = tuple(k for k in getattr(dynamics, "choices", ()) if k not in known)
        self.prior, self.duration = getattr(dynamics, "prior", None), getattr(dynamics, "duration", None)

    def dream_noise(self, start: Values, actions: Named, generator: object = None, **_: Any) -> dict[str, Tensor]:
        """The sequences of an episode, in the place of noise."""
        return {k: v[int(start[NUMBER].flatten()[0])] for k, v in self.known.items()}

    def initial(self, batch: int, **options: Any) -> State:
        """As the dynamics."""
        return self.own.initial(batch, **options)

    def decode(self, states: Values, heads: Iterable[str] | None = None, **numbers: Any) -> dict[str, Tensor]:
        """As the dynamics."""
        return self.own.decode(states, heads, **numbers)

    def imagine(
        self, start: Values, policy: Any = None, *, actions: Any = None, noise: Named | None = None, **numbers: Any
    ) -> State:
        """The dream under both, which holds what the other did and how improbable that was."""
        which, begins, count = start[NUMBER].flatten().long(), start[STEP].flatten(), _steps(actions)
        at = int(begins[0])
        if bool((begins != at).any()):
            raise ConfigError(
                "this search asks for steps of a plan apart from one another, as grasp does, and an adversary replies "
                "to whole plans\nwrite Minimax(Gradient(...), ...), of worldformula.planners.gradient"
            )
        other = dict(noise) if noise is not None else {k: v[which, 0, at : at + count] for k, v in self.known.items()}
        begin = State({k: v for k, v in start.items() if k not in (NUMBER, STEP, ODD) and not k.startswith(DONE)})
        numbers.pop("deterministic", None)
        both = {**actions, **other}
        dream = State(self.own.imagine(begin, actions=both, deterministic=True, **numbers), 2)
        told = {DONE + k: torch.cat((torch.zeros_like(v[:, :1]), v), 1) for k, v in other.items()}
        told[NUMBER] = start[NUMBER].reshape(-1, 1).expand(-1, count + 1)
        told[STEP] = (at + torch.arange(count + 1)).to(told[NUMBER]).expand_as(told[NUMBER])
        if self.price:
            odd = -_log_prob(self.own, dream, both)
            told[ODD] = torch.cat((torch.zeros_like(odd[:, :1]), odd), 1)
        theirs = self.known.keys() & set(self.own.actions)  # of which a dream has one less than of states
        return dream.only(k for k in dream if k not in theirs) | told

    def costing(self, task: Task, sign: float = 1.0) -> Callable[[State, Named], Tensor]:
        """The cost of a step, of both: F − λR, or with the sign −1 what it is to the adversary."""

        def cost(states: State, actions: Named) -> Tensor:
            other = {k: states[DONE + k] for k in self.known}
            hidden = (NUMBER, STEP, ODD)
            seen = State({k: v for k, v in states.items() if k not in hidden and not k.startswith(DONE)}, 2)
            found = task.cost(seen, {**actions, **other})
            return sign * (found - self.price * states[ODD] if self.price else found)

        return cost


def _log_prob(dynamics: Dynamics, dream: State, actions: Named) -> Tensor:
    """log p of what was chosen at each step of dreams, ``[N, H]``."""
    of = getattr(dynamics, "log_prob_of", None)
    if of is None:
        raise ConfigError(
            f"{type(dynamics).__name__} has no log_prob_of(dream, actions), which says how probable a latent is; set "
            f"price=0, or write it as PriorDynamics.log_prob_of"
        )
    found: Tensor = of(dream, actions)
    return found


def _steps(actions: Named) -> int:
    return next(iter(actions.values())).shape[1]


def _values(own: ActionSet) -> Tensor:
    """All values of a choice or of flags, ``[k, size]``; of numbers none."""
    if own.kind == "numbers" or (own.kind == "flags" and own.size > 12):
        return torch.zeros(0, own.size)
    if own.kind == "choice":
        return torch.eye(own.size)
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=own.size)))


def tiny() -> dict[str, Any]:
    """CEM for the actions and for replies, four steps."""
    return {"horizon": 4, "candidates": 64, "elites": 8, "iterations": 4}


def build(sizes: dict[str, Any]) -> Minimax:
    """The planner, of two searches of these sizes."""
    search = catalogue.find("cem").build(sizes)
    return Minimax(search, search)


SYSTEM = System(
    name="minimax",
    kind="planners",
    paper="LeCun 2022, openreview.net/forum?id=BZ5a1r-kVsf; McMahan, Gordon & Blum 2003, ICML",
    bibtex="""@inproceedings{mcmahan2003planning, title={Planning in the presence of cost functions controlled by an
  adversary}, author={McMahan, H. Brendan and Gordon, Geoffrey J. and Blum, Avrim}, booktitle={ICML}, year={2003}}""",
    presets={"tiny": tiny},
    build=build,
    summary="The plan whose worst case is least, where an adversary sets latents that improbability may cost it.",
)
