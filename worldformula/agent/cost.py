"""Cost: what an agent minimises at a state, Σ uᵢ·intrinsicᵢ (fixed) + Σ vⱼ·criticⱼ (trained) (LeCun 2022, section 3.2).

Dreamer's intrinsic cost is the negated reward head, its critic the negated value; both signs are kept here, so that
planners minimise and actor-critic learners read the reward. A world without a reward has other terms alone: a distance
to a goal, what actions take.

    C(s, a) = Σ_i u_i·intrinsic_i(s, a) + Σ_j v_j·critic_j(s)

Intrinsic terms do not learn: what has weights of its own that do is refused, but for bonuses that an agent learns as
losses of their own (`learns`) and what reads the world. Critics learn, from what a memory says of the intrinsic terms
(`worldformula.learners.critics`). The total is linear in u and v, which are data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Real

import torch
from torch import Tensor, nn

from worldformula.agent.terms import Measure, modules_of, with_steps
from worldformula.errors import ConfigError, near
from worldformula.formula.syntax.hidden import with_functions
from worldformula.planner import Constraint, Named, Task, shaped
from worldformula.world import Dynamics, State, head_of
from worldformula.world.heads import CONTINUE, REWARD

Decode = Callable[[State, Iterable[str]], dict[str, Tensor]]


@dataclass(frozen=True)
class Cost:
    """Intrinsic terms and critics, each ``states [..., event] -> [...]``, with their weights, 1 unless they are given.

    An intrinsic term with ``acts = True`` is asked of states and actions, ``term(states, actions)``, such as `Effort`:
    the actions by name, ``[..., size]``, were taken one step before.
    The negated reward is one of the terms, called "reward", where a head of the dynamics has that role. The weights are
    data, numbers or tensors ``()``: a configurator changes them without retraining anything. ``discount`` is the
    continuation of every step where no head has the role "continue". ``further`` is what a learner multiplies
    continuations by, where they hold no discount themselves: plans that end with a value are discounted by it too.

    Raises:
        ConfigError: a term called "reward", a weight of no term, or that is not one finite number, or an intrinsic term
            with weights that learn.
    """

    dynamics: Dynamics
    intrinsic: Mapping[str, Measure] = field(default_factory=dict)
    critics: Mapping[str, Measure] = field(default_factory=dict)
    weights: Mapping[str, float | Tensor] = field(default_factory=dict)
    discount: float = 1.0
    further: float = 1.0

    def __post_init__(self) -> None:
        own = (*self.intrinsic, *self.critics)
        if taken := [name for name in own if name == REWARD or own.count(name) > 1]:
            raise ConfigError(f"expected terms of a cost with names of their own, got {taken[0]!r} twice")
        known = (*((REWARD,) if self.rewarded else ()), *own)
        for name, term in (*self.intrinsic.items(), *self.critics.items()):
            if not callable(term):
                raise ConfigError(f"{name}: expected a term, states [..., event] -> [...], got {term!r}")
        for name, weight in self.weights.items():
            if name in known:
                _check_weight(name, weight)
            else:
                raise ConfigError(
                    f"no term of this cost is called {name!r}; these are: {', '.join(known) or 'none'}."
                    f"{near(name, known)}"
                )
        world = self._of_world()
        for name, term in self.intrinsic.items():
            if not getattr(term, "learns", False) and _learnt(term, world):
                raise ConfigError(
                    f"{name} is an intrinsic term, which does not learn, and has weights that require a gradient\n"
                    f"write term.requires_grad_(False), or make it a critic: Cost(..., critics={{{name!r}: term}})"
                )

    __deepcopy__ = with_functions  # a critic in a closure would stay that of the first agent, whose weights go on

    @property
    def learnt(self) -> list[nn.Parameter]:
        """The weights of the critics, for whoever trains them: none of an intrinsic term, none of the world."""
        world = self._of_world()
        every = [p for term in self.critics.values() for p in _learnt(term, world)]
        return list({id(p): p for p in every}.values())

    def _of_world(self) -> set[int]:
        """The weights of the dynamics: a term may read a head."""
        return {id(p) for p in self.dynamics.parameters()} if isinstance(self.dynamics, nn.Module) else set()

    @property
    def rewarded(self) -> bool:
        """Whether a head of the dynamics is the reward."""
        return REWARD in getattr(self.dynamics, "roles", {})

    def __call__(self, states: State, actions: Named | None = None) -> Tensor:
        """The total at states ``[..., event]``, lower is better: negated reward and every further term.

        Args:
            states: where it is asked.
            actions: ``[..., size]`` by name, each taken one step before its state. Without them a term of actions reads
                those that the states ``[N, T, ...]`` of a dream hold, taken at each of them, and is 0 at the first.

        Raises:
            FormulaError: no term, and no head that is the reward.
            MissingInputError: a term of actions, and there are none.
        """
        terms = {**self.intrinsic, **self.critics}
        total = None if terms and not self.rewarded else -self._reward(states)
        return self._with(total, terms, states, 1.0, actions)

    def outcome(self, states: State, decode: Decode | None = None) -> tuple[Tensor, Tensor]:
        """Reward (the negated immediate cost) and continuation at states ``[..., event]``: two tensors ``[...]``.

        ``decode`` takes the place of that of the dynamics, for the heads that both need.

        Raises:
            FormulaError: no intrinsic term, and no head that is the reward.
        """
        wanted = [] if self.intrinsic and not self.rewarded else [head_of(self.dynamics, REWARD)]
        proceeds = CONTINUE in getattr(self.dynamics, "roles", {})
        wanted += [head_of(self.dynamics, CONTINUE)] if proceeds else []
        found = (decode or self.dynamics.decode)(states, wanted) if wanted else {}
        first = None if self.intrinsic and not self.rewarded else self._weighed(found[wanted[0]])
        reward = self._with(first, self.intrinsic, states, -1.0)
        return reward, found[wanted[-1]] if proceeds else torch.full_like(reward, self.discount)

    @torch.no_grad()
    def immediate(self, states: State) -> Tensor:
        """IC(s) at states ``[..., event]``: the negated reward and the intrinsic terms, no critic; what a memory keeps.

        Terms of actions, and of steps that arrive, know two states, and are left out.
        """
        alone = {
            name: term
            for name, term in self.intrinsic.items()
            if not getattr(term, "acts", False) and not getattr(term, "arrives", False)
        }
        return self._with(-self._reward(states) if self.rewarded or not alone else None, alone, states, 1.0)

    @torch.no_grad()
    def received(self, states: State, reward: Tensor) -> Tensor:
        """As `outcome`, of replayed states ``[B, T, ...]`` with the reward of the data, ``[B, T]``, and not a head's.

        Without gradient: it is what the data say.
        """
        first = self.weights.get(REWARD, 1.0) * reward if self.rewarded else torch.zeros_like(reward)
        return self._with(first, self.intrinsic, states, -1.0)

    def task(
        self, value: Measure | None = None, *, given: Mapping[str, Tensor] | None = None,
        limits: Mapping[str, float] | None = None,
    ) -> Task:  # fmt: skip
        """What a planner searches by: the total at every state that is reached, weighed by how probably the episode has
        gone on until there.

        With ``value``, what is to come after a state ``[N, ...] -> [N]``, higher is better, dreams are discounted, and
        end with its negation. ``given`` is what terms read beside the states, such as a goal for each episode: see
        `Task.given`, and `Distance` for a term that reads it. A term with a limit is no part of the total, but a
        constraint, which no state may exceed: for the planner `Lagrangian`.

        Raises:
            ConfigError: a term of steps that counts: what a planner is told begins behind the first one; a limit of no
                term.
        """
        if limits:
            return self._limited(value, given, limits)
        for name, term in self.intrinsic.items():
            if getattr(term, "arrives", False) and self.weights.get(name, 1.0):
                raise ConfigError(
                    f"{name} is a cost of steps, and a planner knows the states that it arrives at alone: let a policy "
                    f"learn by it, or plan with Configuration(weights={{{name!r}: 0.0}}, planner=...)"
                )

        def proceed(states: State) -> Tensor:
            name = head_of(self.dynamics, CONTINUE)
            return self.dynamics.decode(states, (name,))[name]

        going = proceed if CONTINUE in getattr(self.dynamics, "roles", {}) else None
        held = dict(given or {})
        if value is None:
            return Task(self, proceed=going, given=held)
        discount = self.further * (self.discount if going is None else 1.0)  # what is predicted to go on has γ inside
        return Task(self, lambda last: -value(last), going, discount, given=held)

    def _limited(
        self, value: Measure | None, given: Mapping[str, Tensor] | None, limits: Mapping[str, float]
    ) -> Task:  # fmt: skip
        terms = {**self.intrinsic, **self.critics}
        if other := [name for name in limits if name not in terms]:
            raise ConfigError(
                f"limits: no term of this cost is called {other[0]!r}; these are: {', '.join(terms) or 'none'}."
                f"{near(other[0], terms)}"
            )
        if not self.rewarded and limits.keys() >= terms.keys():
            raise ConfigError(
                f"limits: every term of this cost has one, {', '.join(limits)}, and nothing is left to minimise\nwrite "
                f"a further term without a limit, such as Effort()"
            )
        rest = replace(
            self,
            intrinsic={k: v for k, v in self.intrinsic.items() if k not in limits},
            critics={k: v for k, v in self.critics.items() if k not in limits},
            weights={k: v for k, v in self.weights.items() if k not in limits},
        )
        task = rest.task(value, given=given)
        return replace(
            task, constraints={k: Constraint(partial(self._asked, terms[k]), most) for k, most in limits.items()}
        )

    def _reward(self, states: State) -> Tensor:
        name = head_of(self.dynamics, REWARD)
        return self._weighed(self.dynamics.decode(states, (name,))[name])

    def _weighed(self, reward: Tensor) -> Tensor:
        weight = self.weights.get(REWARD, 1.0)
        return weight * reward if isinstance(weight, Tensor) or weight else torch.zeros_like(reward)

    def _with(
        self, total: Tensor | None, terms: Mapping[str, Measure], states: State, sign: float,
        actions: Named | None = None,
    ) -> Tensor:  # fmt: skip
        """What there is, and these terms with their weights; a term that weighs nothing is not asked, whatever it would
        say, and whatever it lacks.

        Raises:
            ShapeError: a term that is not one number for each state.
        """
        lead = _lead(states) if total is None else tuple(total.shape)
        for name, measure in terms.items():
            weight = self.weights.get(name, 1.0)
            if not isinstance(weight, Tensor) and not weight:
                continue
            found = self._asked(measure, states, actions)
            lead = tuple(found.shape) if lead is None else lead
            more = sign * weight * shaped(name, found, lead, "a term of one number for each state")
            total = more if total is None else total + more
        if total is not None:
            return total
        like = next((v for v in states.values() if isinstance(v, Tensor) and v.is_floating_point()), torch.zeros(()))
        return like.new_zeros(like.shape[:-1] if lead is None else lead)  # of a mapping without axes, one of event

    def _asked(self, term: Measure, states: State, actions: Named | None = None) -> Tensor:
        if not getattr(term, "acts", False):
            return term(states)
        return with_steps(term, states, actions, self.dynamics.actions)


def _check_weight(name: str, weight: float | Tensor) -> None:
    """Raises `ConfigError` where it is not one finite number."""
    if isinstance(weight, Tensor):
        if weight.ndim:
            raise ConfigError(f"the weight of {name}: expected a number or a tensor [], got {list(weight.shape)}")
    elif not isinstance(weight, Real) or not math.isfinite(weight):
        raise ConfigError(f"the weight of {name}: expected a finite number, got {weight!r}")


def _lead(states: Mapping[str, Tensor]) -> tuple[int, ...] | None:
    """The leading axes of a `State`; of another mapping nobody knows them."""
    axes = getattr(states, "axes", None)
    series = (v for v in states.values() if isinstance(v, Tensor))
    return None if axes is None else max((tuple(v.shape[:axes]) for v in series), default=None)  # actions are fewer


def _learnt(term: Measure, world: set[int]) -> list[nn.Parameter]:
    """The weights of a term that require a gradient, but for those of the world."""
    return [p for m in modules_of(term) for p in m.parameters() if p.requires_grad and id(p) not in world]
