"""Dynamics made of formulas: a prior, which imagines, and heads, which say what is seen.

dream = PriorDynamics(prior=core * prior, heads=[image]).imagine(start, actions=...)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from worldformula.display import grouped
from worldformula.errors import FormulaError, ShapeError, table
from worldformula.formula.code.out import Out
from worldformula.formula.code.rollout import Rollout, carry_of, clock_of, require
from worldformula.formula.expressions.expression import Expression
from worldformula.formula.expressions.sums import Initial, Sum
from worldformula.formula.factors.joint import Factor, Joint
from worldformula.formula.plan.histories import held, lags, memories, refuse_ahead
from worldformula.formula.plan.plan import Plan
from worldformula.formula.print.notebook import parts_html
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.networks import register_networks
from worldformula.formula.syntax.nodes import Expectation, Number
from worldformula.world import heads as predicted
from worldformula.world.arrivals import Arrivals, Arrive
from worldformula.world.conditions import held as held_values
from worldformula.world.conditions import no_time, read_by, throughout
from worldformula.world.contract import Actions, head_of
from worldformula.world.policies import acting, first_action, followed, read_masks
from worldformula.world.recent import Recent
from worldformula.world.setting import Setting, first
from worldformula.world.state import State, Values


class PriorDynamics(nn.Module):
    """A `Dynamics` of a product of factors, without a posterior: a simulator of formulas, or one level of a `World`.

    Args:
        prior: the factors that lead from a step to the next, such as h_t = f(h_{t-1}, z_{t-1}, a_{t-1}) and p(z_t|h_t).
            A series that they read at t−1 and do not declare is an action.
        heads: factors over states, by name; of a list, the name of a head is its variable.
        roles: which head is the "reward", which says "continue", which is "mask/a", what is allowed of the choice a,
            and what else somebody looks for, by role.
        initial: what a sequence begins with, as of `Sum`; zeros otherwise.
        index: the index of time.
        duration: the variable that says how many steps of time a step took, where the prior jumps; dreams hold it.

    A state holds what goes from step to step, and what else the heads read.
    """

    _imagine: Rollout
    _setting: Setting
    _policies: Recent[tuple[int, ...], tuple[Joint, Rollout]]
    _masks: dict[str, Factor]
    _chosen: dict[tuple[str, ...], Rollout]
    _arrivals: Arrivals

    def __init__(
        self,
        prior: Joint | Factor,
        heads: predicted.Given = (),
        *,
        roles: Mapping[str, str] | None = None,
        initial: Initial | None = None,
        index: str = "t",
        duration: str | None = None,
        within: Setting | None = None,
    ) -> None:
        super().__init__()
        self.prior, self.heads = joint(prior), predicted.by_name(heads)
        self.roles = predicted.checked_roles(roles, self.heads)
        self.duration = predicted.checked_duration(duration, self.prior.factors)
        own = (*self.prior.factors, *self.heads.values())
        if within is None:
            nothing = Expression(Expectation(self.prior.uses, Number(0)))
            clock = clock_of(Sum(index, nothing, initial=initial).node)
            older = lags(clock.index, self.prior.factors, self.heads.values())
            within = Setting(clock, own, older, memories(self.prior.factors, (), self.heads.values()))
        register_networks(self, own, within.clock.initial)
        ours = {k: f for k, f in within.memories.items() if any(f is known for known in self.prior.factors)}
        # Out of the module tree: it holds the same networks, which must appear once in the state_dict.
        self.__dict__["_setting"] = Setting(within.clock, within.known, within.lags, ours)
        self.__dict__["_imagine"] = self._rollout(self.prior)
        self.__dict__["_arrivals"] = Arrivals(
            self.imagine, self._imagine, self.carried, self.actions, self.duration, plain=not self.conditions
        )
        self.__dict__["_policies"], self.__dict__["_chosen"] = Recent(), {}
        known = {*self.plan.carries, *self.actions, *(v.key for f in self.prior.factors for v in f.variables)}
        predicted.check_read(self.heads.values(), {*known, self.plan.counter, *self.conditions}, self.plan.carries)
        self.__dict__["_masks"] = predicted.allowing(self.roles, self.heads, self.actions)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_policies": Recent(), "_chosen": {}}

    def __repr__(self) -> str:
        return f"<PriorDynamics {self.prior}; heads {', '.join(map(str, self.heads.values()))}>"

    def _repr_html_(self) -> str:
        heads = {f"head {name}": head for name, head in self.heads.items()}
        return parts_html({"prior": self.prior, **heads}, self.told(self.parameters()))

    @property
    def start_given(self) -> bool:
        """Whether it says what a sequence begins with."""
        return self._setting.clock.initial is not None or bool(self._setting.clock.begin)

    def told(self, weights: Iterable[nn.Parameter]) -> str:
        """State, actions and size in words."""
        shapes = self.plan.shapes
        state = ", ".join(f"{key} {list(shapes[key]) if key in shapes else ''}".strip() for key in self.carried)
        count = grouped(sum(p.numel() for p in weights if not is_lazy(p)))
        return f"state: {state}; action: {', '.join(self.actions) or 'none'}; {count} weights"

    @property
    def plan(self) -> Plan:
        """What one step does."""
        return self._imagine.program.plan

    @cached_property
    def carried(self) -> tuple[str, ...]:
        """The variables of a state: those that go from step to step, then what else the heads read."""
        read = (held(c) for head in self.heads.values() for c in head.conditions)
        older = (held(v) for v in self._setting.lags)
        more = (k for k in read if k not in self.actions and k not in self.conditions)
        return tuple(dict.fromkeys((*self._imagine.carried, *more, *older)))

    @property
    def memory(self) -> tuple[str, ...]:
        """What else a state holds: what networks keep of the past that they read, behind the last step."""
        return tuple(self._imagine.memories)

    @cached_property
    def actions(self) -> tuple[str, ...]:
        """The series that the prior reads at t−1 and does not declare itself."""
        return tuple(key for key in self.plan.shifts if key not in self.plan.lags)

    @cached_property
    def choices(self) -> tuple[str, ...]:
        """What the prior draws; a dream may be given it as it is given actions, and a planner may search for it.

        Not what a factor draws that remembers its past: it would not know of what is chosen.
        """
        own = [f for f in self.prior.factors if f.family and all(f is not g for g in self._setting.memories.values())]
        return tuple(f.variable.key for f in own)

    @cached_property
    def conditions(self) -> tuple[str, ...]:
        """What prior and heads read that has no time, such as a goal y: it is held through a dream."""
        return read_by(self.plan, self.heads.values())

    @property
    def action(self) -> str:
        """The variable of the action, where there is one."""
        if len(self.actions) != 1:
            found = ", ".join(self.actions) or "none"
            raise FormulaError(f"expected one action series at t-1 in the prior {self.prior}, found: {found}")
        return self.actions[0]

    def head_of(self, role: str) -> str:
        """The name of the head with this role; an error says what to write where there is none."""
        return head_of(self, role)

    # --------------------------------------------------------------------------------------------------------- imagine

    def initial(
        self, batch: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None, **options: Any
    ) -> State:
        """The state before the first step, without actions: what a sequence begins with, zeros unless it is said.

        A start that a factor draws, p(z_0), is drawn; ``options`` are those of `Joint.sample`: ``seed``, ``generator``,
        ``noise``, ``deterministic``. One that reads the first row, x_1, is not known before it: NaN, which a step with
        the reset flag replaces.

        Raises:
            FormulaError: a start reads data, and no ``reset=`` says where a sequence begins; `World.filter` begins
                there.
        """
        return first(self._setting, self.carried, [self.plan], batch, device, dtype, options)

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
        """Roll the prior forward from ``start`` ``[N, ...]``; other leading axes, such as ``[B, T]``, stay as they are.

        With ``policy``, a factor such as π(a_t|h_t,z_t), or a product of one factor for each action: ``horizon``
        steps; returns the states with the start first, ``[N, horizon + 1, ...]``, and the actions drawn at each of
        them by name. A policy that reads a mask, π(a_t|h_t,M_t), reads what the head with the role "mask/a" allows:
        what is more probable than ½, and at least the most probable choice; the states then hold it too.
        With ``actions`` ``[N, H, ...]`` by name (the tensor itself where there is one), the first taken at the start:
        states ``[N, H + 1, ...]`` and those actions. `choices` may stand among them, which are then not drawn: the
        first is the value one step behind the start. A prior without an action needs ``horizon`` alone. ``given`` are
        conditions without time, such as a goal y of π(a_t|h_t,y), ``[N, ...]``: held through the dream, whose states
        show them; a start may hold them too. ``options`` are those of a call, and numbers, ``tau=1.2`` of a ``Symbol``.

        Raises:
            TimeError: the prior reads a whole series, ``z_{1:T}``, which is known once the dream is over.
        """
        refuse_ahead("imagine", self.plan)
        wanted = (*self.carried, *self.memory)
        require("imagine: the start lacks", wanted, start, "carried", "pass a state of filter, observe or initial")
        lead = self._lead({k: start[k] for k in self.carried})
        names = self.conditions if policy is None else read_by(self.plan, self.heads.values(), policy)
        values = held_values(names, self.plan, start, given or {}, options, lead) if names or given else {}
        start = State(
            {k: start[k] for k in wanted} | no_time(self.duration, self.plan, self.carried, start, lead), len(lead)
        )
        if len(lead) != 1 and self.memory:
            raise ShapeError(
                f"imagine: the prior reads a history, so a dream begins at one state a row, [N, ...]; this start has "
                f"the leading axes {list(lead)}\ntake the last state, states.last()"
            )
        series = None if actions is None else followed(actions, lead, self.actions, self.choices, self.prior)
        if len(lead) != 1:
            flat = None if series is None else {k: v.reshape(-1, *v.shape[len(lead) :]) for k, v in series.items()}
            whole = (start | values).flat()
            return self.imagine(whole, policy, actions=flat, horizon=horizon, **options).unflat(lead)
        acts = bool(self.actions)
        if (series is None and acts == (policy is None)) or (policy is not None and series is not None):
            expected = "imagine(start, policy, horizon=...) or imagine(start, actions=...)"
            raise FormulaError(
                f"expected {expected if acts else 'imagine(start, horizon=...): the prior has no action'}"
            )
        if series is not None:
            dream = self._follow(start, series, values, options)
        elif horizon is None or horizon < 1:
            raise FormulaError(f"expected horizon= of at least 1, got {horizon}")
        elif policy is None:
            own, begin = _read(self._imagine, values), carry_of(self._imagine, start)
            dream = _joined(start, self._imagine(start=begin, horizon=horizon, **own, **options))
        else:
            dream = self._act(start, policy, horizon, values, options)
        return throughout(dream, values) if values else dream

    def arrivals(self, start: Values, **options: Any) -> Arrive:
        """What gives, of actions ``[N, H, ...]`` by name, the states ``[N, H, ...]`` that `imagine` arrives at from a
        start ``[N, ...]``, without the start, the actions and memories: what a search asks again and again. ``options``
        as there. It is for as long as neither the start nor an option changes.
        """
        return self._arrivals(start, options)

    def dream_noise(
        self, start: Values, actions: Mapping[str, Tensor], generator: torch.Generator | None = None, **numbers: Any
    ) -> dict[str, Tensor]:
        """The noise that `imagine` would draw from a start ``[N, ...]`` under actions ``[N, H, ...]``: by variable,
        ``[N, H, ...]``. Given as ``noise=``, dreams under other actions share it.
        """
        rollout = self._without(actions)
        begin = carry_of(rollout, {**start, **{key: actions[key][:, 0] for key in self.actions}})
        own = _read(rollout, {**actions, **{k: start[k] for k in self.conditions if k in start}})
        return rollout.program.noise({**own, **numbers, "start": begin}, generator) if rollout.product.uses else {}

    def log_prob_of(self, dream: Values, actions: Mapping[str, Tensor]) -> Tensor:
        """Σ log p of the `choices` among the actions ``[N, H, ...]`` of a dream, each at its step: ``[N, H]``.

        Raises:
            FormulaError: the law of one reads what a state does not hold.
        """
        like = next(iter(actions.values()))
        found = torch.zeros(like.shape[:2], device=like.device)
        for key in (k for k in self.choices if k in actions):
            factor = next(f for f in self.prior.factors if f.variable.key == key)
            read = [self._along(dream, actions, variable, factor) for variable in factor.conditions]
            own = factor.density(actions[key].flatten(0, 1), [v.flatten(0, 1) for v in read])
            found = found.to(own) + own.view(found.shape)
        return found

    def _along(self, dream: Values, actions: Mapping[str, Tensor], variable: Variable, factor: Factor) -> Tensor:
        """What a factor reads at the steps of a dream, ``[N, H, ...]``."""
        H = next(iter(actions.values())).shape[1]
        key, before = variable.key, variable.offset == -1
        if key in actions and (before if key in self.actions else not variable.offset):
            return actions[key]
        if key in dream and variable.offset in (0, -1) and not variable.past:
            series: Tensor = dream[key]
            return series[:, :H] if before else series[:, 1 : H + 1]
        raise FormulaError(
            f"{factor} reads {variable}, and a dream does not hold it\nlet the prior carry it, so that a state does"
        )

    def rollout(self, policy: Factor | Joint) -> Rollout:
        """The compiled rollout of the prior with a policy; one is kept for the same factors."""
        product = joint(policy)
        key = tuple(id(factor) for factor in product.factors)

        def made() -> tuple[Joint, Rollout]:
            allowed = Joint.of(*read_masks(policy, self._masks)) if self._masks else Joint()
            return product, self._rollout(self.prior * allowed * product)  # held, so that its identity is no other's

        return self._policies.found(key, made)[1]

    def _rollout(self, product: Joint) -> Rollout:
        own = self._setting
        clock = own.clock
        return Rollout(product, clock.index, None, own.known, clock.initial, own.memories, own.lags)

    def _act(
        self, start: State, policy: Factor | Joint, horizon: int, values: Mapping[str, Tensor],
        options: Mapping[str, Any],
    ) -> State:  # fmt: skip
        """The actions at the start, then the prior with the policy as further factors."""
        options = dict(options)
        allowed = read_masks(policy, self._masks)
        known = (*start, *values, *(f.variable.key for f in allowed))
        factors = (*allowed, *acting(policy, self.actions, known))
        noise = options.get("noise")
        if noise is not None:  # that of an action covers the start as well: [N, horizon + 1, ...]
            options["noise"] = {k: v[:, 1:] if k in self.actions else v for k, v in noise.items()}
            noise = {k: v[:, 0] for k, v in noise.items() if k in self.actions}
        if options.get("seed") is not None:  # one stream of random numbers for the first actions and the rest
            like = next(iter(start.values()))
            options["generator"] = torch.Generator(like.device).manual_seed(options.pop("seed"))
        begin = first_action(factors, start | values, options, noise)
        begin = begin.only(k for k in begin if k not in values)
        rollout = self.rollout(policy)
        own = _read(rollout, values)
        return _joined(begin, rollout(start=carry_of(rollout, begin), horizon=horizon, **own, **options))

    def _follow(
        self, start: State, actions: Mapping[str, Tensor], values: Mapping[str, Tensor], options: Mapping[str, Any]
    ) -> State:
        """The prior under given actions, and choices."""
        # Step t reads the action of t-1; the last is not read.
        series = {k: torch.cat((v[:, 1:], v[:, -1:]), 1) if k in self.actions else v for k, v in actions.items()}
        begin = start | {k: actions[k][:, 0] for k in self.actions}
        if len(actions) == len(self.actions):
            own = _read(self._imagine, values)
            out = self._imagine(**series, start=carry_of(self._imagine, begin), **own, **options)
            return _joined(start, out) | actions
        rollout, chosen = self._without(actions), {k: v for k, v in actions.items() if k not in self.actions}
        own, rest = _read(rollout, {**series, **values}), State(axes=2)
        if rollout.product.uses:
            out = rollout(**own, start=carry_of(rollout, begin), **options)
            rest = _joined(start.only(k for k in start if k not in chosen), out)
        kept = {k: torch.cat((start[k].unsqueeze(1), v), 1) for k, v in chosen.items() if k in start}
        return rest | kept | {k: actions[k] for k in self.actions}

    def _without(self, actions: Mapping[str, Tensor]) -> Rollout:
        """The rollout of the prior without the factors of what is chosen; one is kept for the same choices."""
        key = tuple(k for k in self.choices if k in actions)
        if key not in self._chosen:
            self._chosen[key] = self._rollout(Joint.of(*(f for f in self.prior.factors if f.variable.key not in key)))
        return self._chosen[key] if key else self._imagine

    def _lead(self, state: Values) -> tuple[int, ...]:
        """The leading axes of a state, which all its tensors share."""
        leads = {tuple(v.shape[: v.ndim - self.rank(k)]) for k, v in state.items()}
        if len(leads) > 1:
            shown = table(("variable", "declared", "got"), [(k, "[N, ...]", list(v.shape)) for k, v in state.items()])
            raise ShapeError(f"the start has different batch shapes\n{shown}")
        return leads.pop()

    # ---------------------------------------------------------------------------------------------------------- decode

    def decode(
        self, states: Values, heads: Iterable[str] | None = None, **numbers: float | Tensor
    ) -> dict[str, Tensor]:
        """The mean of every head (or those named) at states ``[..., event]``: ``{"x": [..., H, W, C], "r": [...]}``.

        Of a Categorical, probabilities ``[..., K]``. ``numbers`` are what heads take, by the names of their Symbols.
        """
        return predicted.decode(self.heads, states, heads, numbers, self.rank)

    def rank(self, key: str) -> int:
        """How many event axes a variable of the state has."""
        return self.plan.ranks.get(key, 1)


def joint(product: Joint | Factor) -> Joint:
    """A product, also of a single factor."""
    return product if isinstance(product, Joint) else Joint() * product


def _read(rollout: Rollout, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the values that a rollout reads."""
    return {k: v for k, v in values.items() if k in rollout.program.inputs}


def _joined(begin: State, out: Out) -> State:
    """The start, then the steps; the memories behind the last."""
    samples = out.samples
    series = {k: torch.cat((v.unsqueeze(1), samples[k]), 1) for k, v in begin.series.items()}
    return State(series | (out.value or {}), 2)
