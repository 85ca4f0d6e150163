"""The contract of a world model: prior, posterior, heads and loss, written as formulas; filter, imagine, decode follow.

world = World(prior=core * prior, posterior=embed * core * post, heads=[image, reward], loss=loss)
states = world.filter(batch)                                    # q, [B, T, ...]
dream  = world.imagine(states.last(), policy, horizon=15)       # p, with π(a_t|h_t,z_t) as one more factor
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from worldformula.errors import FormulaError, table
from worldformula.formula.code.rollout import Rollout, carry_of, clock_of
from worldformula.formula.expressions.expression import Expression
from worldformula.formula.factors.joint import Factor, Joint
from worldformula.formula.plan.histories import lags, memories
from worldformula.formula.print.notebook import parts_html
from worldformula.formula.syntax.networks import register_networks
from worldformula.formula.syntax.nodes import factors as factors_of
from worldformula.world import heads as predicted
from worldformula.world.arrivals import Arrive
from worldformula.world.contract import Actions, head_of
from worldformula.world.dynamics import PriorDynamics, joint
from worldformula.world.levels import levels_given, merged, within
from worldformula.world.policies import acting
from worldformula.world.recent import Recent
from worldformula.world.setting import Setting, first
from worldformula.world.state import State, Values
from worldformula.world.stride import Stride, read
from worldformula.world.watch import watched


class World(nn.Module):
    """A model through time: a posterior, which infers states from data, a loss, and what can be imagined from a state.

    Args:
        prior: a product that leads from a step to the next; a series that it reads at t−1 and does not declare is an
            action. The variables of a state are declared by the posterior too, and what the posterior carries, the
            prior carries (a summary of observations by ``Deterministic("b_t = keep(b_{t-1})", nn.Identity())``).
        posterior: a product over the data.
        heads: factors over states, by name; of a list, the name of a head is its variable. Two heads of one variable
            have two names: ``heads={"image": fine, "image_coarse": coarse}``.
        loss: a plain expression with a sum over time, which may have networks of its own.
        roles: which head is the "reward", which says "continue", which is "mask/a", what is allowed of the choice a,
            and what else somebody looks for, by role.
        observations: which variable an observation of an environment is, ``{"image": "x"}``.
        aside: those of them, by their keys, that it keeps for who reads its states, and neither encodes nor predicts.
        duration: the variable that says how many steps of time a step of a dream takes, where the prior jumps.
        embeddings: latents that nothing decodes, from the lowest level up: see `watched`.
        levels: instead of prior, heads and roles: several `PriorDynamics` by name, such as a fine and a coarse one.
            Each carries a part of what the posterior declares, and imagines alone: ``world.levels["fine"].imagine``.
        main: of several levels the one that dreams where none is named: ``world.imagine``, pages, agents.
        further: losses beside its own, by name, of what its loss does not teach, such as how far a level jumps.

    The networks are registered once, whatever number of formulas shares them. A `State` holds what goes from step to
    step and what else the heads read. Where the prior or the posterior reads a history, ``z_{<t}``, it also holds what
    their networks keep of it, a `Memory` of the last step: ``z_cache``. Where something reads further back than one
    step, or a head back at all, it holds the older values too: ``z_m1`` is z one step before the state's own.
    """

    loss: Expression
    further: dict[str, Expression]
    levels: dict[str, PriorDynamics]
    _filter: Rollout
    _go_on: Rollout
    _setting: Setting
    _strides: Recent[tuple[int, ...], tuple[Factor | Joint | None, Stride]]

    def __init__(
        self,
        *,
        posterior: Joint | Factor,
        loss: Expression,
        prior: Joint | Factor | None = None,
        heads: predicted.Given = (),
        roles: Mapping[str, str] | None = None,
        observations: Mapping[str, str] | None = None,
        aside: Iterable[str] = (),
        levels: Mapping[str, PriorDynamics] | None = None,
        duration: str | None = None,
        main: str | None = None,
        further: Mapping[str, Expression] | None = None,
        embeddings: Iterable[str] = (),
    ) -> None:
        super().__init__()
        self.posterior = joint(posterior)
        given, several = levels_given(prior, predicted.by_name(heads), roles, levels, duration), levels is not None
        priors = tuple(dict.fromkeys(f for p, *_ in given.values() for f in joint(p).factors))
        if main is not None and main not in given:
            raise FormulaError(f"main: expected one of the levels {', '.join(map(repr, given))}, got {main!r}")
        self.heads, self.main = merged(given), main if len(given) > 1 else next(iter(given))
        self.roles = {} if self.main is None else dict(given[self.main][2])
        self.observations, self.aside, self.embeddings = dict(observations or {}), tuple(aside), tuple(embeddings)
        factors = (*self.posterior.factors, *priors, *self.heads.values())
        clock = clock_of(loss.node)
        self.index, self.reset_name = clock.index, clock.reset
        beside = [f for term in (further or {}).values() for f in factors_of(term.node)]
        register_networks(self, [*factors, *factors_of(loss.node), *beside], clock.initial)
        kept = memories(priors, self.posterior.factors, self.heads.values())
        older = lags(clock.index, (*priors, *self.posterior.factors), self.heads.values())
        # Kept out of the module tree: they hold the same networks, which must appear once in the state_dict.
        self.__dict__["loss"], self.__dict__["further"] = loss, dict(further or {})
        self.__dict__["_setting"] = own = Setting(clock, factors, older, kept)
        self.__dict__["levels"] = {
            name: PriorDynamics(p, h, roles=r, duration=d, within=within(own, p, h) if several else own)
            for name, (p, h, r, d) in given.items()
        }
        self.__dict__["_filter"] = Rollout(
            self.posterior, clock.index, clock.reset, factors, clock.initial, kept, older, clock.begin
        )
        # Without resets a start is of the first step alone: what goes on from a state needs none.
        once = bool(clock.begin) and clock.reset is None
        self.__dict__["_go_on"] = (
            Rollout(self.posterior, clock.index, None, factors, clock.initial, kept, older) if once else self._filter
        )
        self.__dict__["_strides"] = Recent()
        self._check(several)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_strides": Recent()}

    def __repr__(self) -> str:
        heads = ", ".join(map(str, self.heads.values()))
        priors = "; ".join(f"{name or 'prior'} {level.prior}" for name, level in self.levels.items())
        return f"<World {priors}; posterior {self.posterior}; heads {heads}>"

    def _repr_html_(self) -> str:
        priors = {name or "prior": level.prior for name, level in self.levels.items()}
        heads = {f"head {name}": head for name, head in self.heads.items()}
        said = [level.told(self.parameters()) for level in self.levels.values()]
        return parts_html({**priors, "posterior": self.posterior, **heads, "loss": self.loss}, "; ".join(said))

    def forward(self, *_: Any, **__: Any) -> None:
        """An error: what a world computes has names.

        Raises:
            FormulaError: always.
        """
        raise FormulaError(
            "a world is not called: world.loss(x=...) is what is minimised, and world.filter(batch), observe, imagine "
            "and decode are what it can do"
        )

    # ------------------------------------------------------------------------------------------------------- of levels

    @property
    def dynamics(self) -> PriorDynamics:
        """What can be imagined: the single level, or the main one.

        Raises:
            FormulaError: it has several levels, and none is the main one.
        """
        if self.main is None:
            name = next(iter(self.levels))
            raise FormulaError(
                f"this world imagines at {len(self.levels)} levels, {', '.join(self.levels)}: take one of them, "
                f"world.levels[{name!r}], or make it the main one, World(..., main={name!r})"
            )
        return self.levels[self.main]

    @property
    def prior(self) -> Joint:
        """The prior of the single level, or of the main one."""
        return self.dynamics.prior

    @cached_property
    def carried(self) -> tuple[str, ...]:
        """The variables of a state, at all levels: those that go from step to step, then what else the heads read."""
        every = [key for level in self.levels.values() for key in level.carried]
        return tuple(dict.fromkeys((*every, *self._filter.carried) if len(self.levels) > 1 else every))

    @property
    def memory(self) -> tuple[str, ...]:
        """What else a state holds: what networks keep of the past that they read, behind the last step."""
        return tuple(self._setting.memories)

    @cached_property
    def actions(self) -> tuple[str, ...]:
        """The series that the main level reads at t−1 and does not declare itself; without one, those of all levels."""
        levels = self.levels.values() if self.main is None else (self.dynamics,)
        return tuple(dict.fromkeys(key for level in levels for key in level.actions))

    @property
    def predicted(self) -> dict[str, str]:
        """Which variable is the "reward", says "continue" or is a mask, by role: that of its head."""
        return {role: self.heads[name].variable.key for role, name in self.roles.items()}

    @property
    def duration(self) -> str | None:
        """The variable that says how long a step of a dream takes, at the single level or the main one."""
        return self.dynamics.duration

    @property
    def choices(self) -> tuple[str, ...]:
        """What the prior draws, which a dream may be given: see `PriorDynamics.choices`."""
        return self.dynamics.choices

    @property
    def conditions(self) -> tuple[str, ...]:
        """What has no time, and is held through a dream: see `PriorDynamics.conditions`."""
        return self.dynamics.conditions

    @property
    def action(self) -> str:
        """The variable of the action, where there is one."""
        return self.dynamics.action

    def head_of(self, role: str) -> str:
        """The name of the head with this role; an error says what to write where there is none."""
        _ = self.dynamics  # of several levels one has to be the main one
        return head_of(self, role)

    def beside(
        self, name: str, samples: Mapping[str, Tensor], batch: Mapping[str, Tensor], terminal: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The data of a further loss, of what the loss has drawn of a batch ``[B, T, ...]`` and has read, and of which
        rows end episodes for good.

        Raises:
            FormulaError: a world says by a method of its own what its further losses read.
        """
        raise FormulaError(
            f"{type(self).__name__}.beside does not say what {name!r} reads: expected a method that does"
        )

    # ---------------------------------------------------------------------------------------------------------- filter

    def filter(self, batch: Mapping[str, Tensor], start: Values | None = None, **options: Any) -> State:
        """States of the posterior along the data: ``[B, T, ...]`` for series ``[B, T, ...]``.

        ``batch`` may hold more series than the posterior reads. ``start`` is the state before the first step, with the
        last actions under their own names. ``options`` are those of a call, ``seed``, ``generator``, ``noise`` and
        ``deterministic``, and the numbers that the posterior takes: ``tau=1.0`` of a ``Symbol``. A memory has its last
        value only: `State.last` gives the state that `observe` and `imagine` go on from.
        """
        rollout = self._filter if start is None else self._go_on
        given = read(rollout, batch)
        start = None if start is None else carry_of(rollout, start)
        out = rollout(**given, start=start, **options)
        samples = out.samples
        return State({k: samples[k] for k in self.carried} | (out.value or {}), 2)

    def noise(
        self, batch: Mapping[str, Tensor], generator: torch.Generator | None = None, **numbers: float | Tensor
    ) -> dict[str, Tensor]:
        """The noise that `filter` would draw for this batch and these numbers, by variable: ``noise=`` of a call."""
        inputs = {**batch, **numbers}
        return self._filter.program.noise({k: inputs[k] for k in self._filter.program.inputs}, generator)

    def observe(self, observation: Mapping[str, Tensor], state: Values, **options: Any) -> State:
        """One step of the filter: ``observation`` and flags ``[B, ...]``, ``state`` with the last actions; new state.

        Raises:
            TimeError: the posterior reads a whole series, ``x_{1:T}``, of which one step knows the past alone.
        """
        stride = self._strides.found((), lambda: (None, self._stride(self._go_on)))[1]
        return stride("observe", observation, state, options)

    def act(self, observation: Mapping[str, Tensor], state: Values, policy: Factor | Joint, **options: Any) -> State:
        """`observe`, and the actions that a policy draws in the new state, which has them under their names.

        One function does both, which takes an agent less time than one after the other. The policy is a factor such as
        π(a_t|h_t,z_t), or a product of one for each action.
        """
        key = tuple(map(id, policy.factors if isinstance(policy, Joint) else (policy,)))

        def made() -> tuple[Factor | Joint, Stride]:
            factors, own, clock = acting(policy, self.actions, State(state)), self._setting, self._go_on.clock
            rollout = Rollout(
                self.posterior * Joint.of(*factors), clock.index, clock.reset, own.known, clock.initial, own.memories,
                own.lags, clock.begin,
            )  # fmt: skip
            return policy, self._stride(rollout, self.actions)

        return self._strides.found(key, made)[1]("act", observation, state, options)

    def _stride(self, rollout: Rollout, chosen: tuple[str, ...] = ()) -> Stride:
        return Stride(rollout, self.carried, self.memory, self.actions, chosen)

    def initial(
        self, batch: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None, **options: Any
    ) -> State:
        """The state before the first step, without actions: see `PriorDynamics.initial`; of all levels."""
        plans = [level.plan for level in self.levels.values()]
        plans += [self._filter.program.plan] if len(plans) > 1 else []
        return first(self._setting, self.carried, plans, batch, device, dtype, options)

    def watched(self, batch: Mapping[str, Tensor], labels: Mapping[str, Tensor] | None = None) -> dict[str, float]:
        """How the latents that nothing decodes are: see `worldformula.world.watch.watched`."""
        return watched(self, batch, labels)

    # --------------------------------------------------------------------------------------------------------- imagine

    def imagine(
        self,
        start: Values,
        policy: Factor | Joint | None = None,
        *,
        actions: Actions | None = None,
        horizon: int | None = None,
        given: Mapping[str, Tensor] | None = None,
        **options: Any,
    ) -> State:
        """A dream of the prior: see `PriorDynamics.imagine`; of several levels, of the main one."""
        return self.dynamics.imagine(start, policy, actions=actions, horizon=horizon, given=given, **options)

    def arrivals(self, start: Values, **options: Any) -> Arrive:
        """What gives the states that dreams under given actions arrive at: see `PriorDynamics.arrivals`."""
        return self.dynamics.arrivals(start, **options)

    def dream_noise(
        self, start: Values, actions: Mapping[str, Tensor], generator: torch.Generator | None = None, **numbers: Any
    ) -> dict[str, Tensor]:
        """The noise of a dream under given actions: see `PriorDynamics.dream_noise`."""
        return self.dynamics.dream_noise(start, actions, generator, **numbers)

    def log_prob_of(self, dream: Values, actions: Mapping[str, Tensor]) -> Tensor:
        """How probable what was chosen in a dream is: see `PriorDynamics.log_prob_of`."""
        return self.dynamics.log_prob_of(dream, actions)

    def rollout(self, policy: Factor | Joint) -> Rollout:
        """The compiled rollout of the prior with a policy; one is kept for the same factors."""
        return self.dynamics.rollout(policy)

    def decode(
        self, states: Values, heads: Iterable[str] | None = None, **numbers: float | Tensor
    ) -> dict[str, Tensor]:
        """The mean of every head (or those named) at states ``[..., event]``: ``{"x": [..., H, W, C], "r": [...]}``.

        Of all levels; the heads of one level are decoded by that level. ``numbers`` are those that the heads take, by
        the names of their Symbols.
        """
        return predicted.decode(self.heads, states, heads, numbers, self._rank)

    def _rank(self, key: str) -> int:
        """How many event axes a variable of the state has."""
        return next((r for level in self.levels.values() if (r := level.plan.ranks.get(key)) is not None), 1)

    # ----------------------------------------------------------------------------------------------------------- check

    def _check(self, several: bool) -> None:
        """A prior carries what the posterior declares; that of a single level carries what the posterior carries."""
        declared = {v.key for f in self.posterior.factors for v in f.variables}
        if unknown := [name for name in self.embeddings if name not in declared]:
            shown = ", ".join(sorted(declared))
            raise FormulaError(f"embeddings: the posterior declares {shown}, and not {unknown[0]}")
        for level in self.levels.values():
            filtered, plan = self._filter.carried, level.plan
            missing = {plan.lags.get(k, k) for k in plan.carries} - declared
            if missing or not (several or set(filtered) <= plan.carries.keys()):
                rows = [(k, k in plan.carries, k in filtered) for k in sorted({*filtered, *plan.carries})]
                shown = table(("variable", "prior", "posterior"), rows)
                advice = (
                    f"let the posterior declare {', '.join(sorted(missing))} too"
                    if several
                    else "read the same z_{t-1} in both"
                )
                raise FormulaError(f"prior and posterior carry different variables\n{shown}\n{advice}")
            ours = {v.key for f in level.prior.factors for v in f.variables}
            known = {*plan.carries, *level.actions, *(ours & declared), plan.counter, *level.conditions}
            predicted.check_read(level.heads.values(), known, plan.carries)
