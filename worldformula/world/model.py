"""The contract of a world model: prior, posterior, heads and loss, written as formulas; filter, imagine, decode follow.

world = World(prior=core * prior, posterior=embed * core * post, heads=[image, reward], loss=loss)
states = world.filter(batch)                        # q, [B, T, ...]
dream  = world.imagine(state, policy, horizon=15)   # p, with π(a_t|h_t,z_t) as one more factor
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from worldformula.display import grouped
from worldformula.errors import FormulaError, ShapeError, UnknownVariableError, near, table
from worldformula.formula.code.program import Out
from worldformula.formula.code.rollout import Rollout, carry_of, clock_of, require, starts
from worldformula.formula.expressions.expression import Expression
from worldformula.formula.factors.joint import Factor, Joint
from worldformula.formula.plan.histories import held, lags, memories, refuse_ahead
from worldformula.formula.print.notebook import parts_html
from worldformula.formula.syntax.constants import Constants, start_of
from worldformula.formula.syntax.networks import register_networks
from worldformula.formula.syntax.nodes import factors as factors_of
from worldformula.nets.causal import Causal
from worldformula.world.state import State, Values

ROOM = 64  # positions that the memory of a new state has room for; it grows where more come


class World(nn.Module):
    """A model through time. A `State` holds named tensors: what the prior carries from step to step and what the
    heads read, ``{"h": ..., "z": ...}``.

    ``prior`` and ``posterior`` are products that both declare the variables of a state; what the posterior carries, the
    prior carries too (a summary of observations by ``Deterministic("b_t = keep(b_{t-1})", nn.Identity())``). ``heads``
    are factors over states; ``loss`` is a plain expression, which may have networks of its own. The
    networks are registered once, whatever number of formulas shares them. Where the prior or the posterior reads a
    history, ``z_{<t}``, a state also holds what their networks keep of it, a `Memory` of the last step: ``z_cache``.
    Where something reads further back than one step, or a head back at all, it holds the older values too: ``z_m1`` is
    z one step before the state's own.
    """

    loss: Expression
    _filter: Rollout
    _go_on: Rollout
    _imagine: Rollout
    _policies: dict[int, tuple[Factor, Rollout]]
    _factors: tuple[Factor, ...]
    _memories: dict[str, Factor]
    _lags: tuple[Any, ...]
    _start: Constants | None

    def __init__(
        self, *, prior: Joint | Factor, posterior: Joint | Factor, heads: Iterable[Factor], loss: Expression
    ) -> None:
        super().__init__()
        self.prior, self.posterior = _joint(prior), _joint(posterior)
        self.heads = {head.variable.key: head for head in heads}
        factors = (*self.posterior.factors, *self.prior.factors, *self.heads.values())
        clock = clock_of(loss.node)
        self.index, self.reset_name = clock.index, clock.reset
        register_networks(self, [*factors, *factors_of(loss.node)], clock.initial)
        # Kept out of the module tree: they hold the same networks, which must appear once in the state_dict.
        self.__dict__["loss"] = loss
        self.__dict__["_factors"] = factors
        self.__dict__["_start"] = clock.initial
        self.__dict__["_memories"] = kept = memories(self.prior.factors, self.posterior.factors, self.heads.values())
        ours = {key: f for key, f in kept.items() if any(f is known for known in self.prior.factors)}
        self.__dict__["_lags"] = older = lags(
            clock.index, (*self.prior.factors, *self.posterior.factors), self.heads.values()
        )
        self.__dict__["_filter"] = Rollout(
            self.posterior, clock.index, clock.reset, factors, clock.initial, kept, older, clock.begin
        )
        # Without resets a start is of the first step alone: what goes on from a state needs none.
        once = bool(clock.begin) and clock.reset is None
        self.__dict__["_go_on"] = (
            Rollout(self.posterior, clock.index, None, factors, clock.initial, kept, older) if once else self._filter
        )
        self.__dict__["_imagine"] = Rollout(self.prior, clock.index, None, factors, clock.initial, ours, older)
        self.__dict__["_policies"] = {}
        self._check()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_policies": {}}

    def __repr__(self) -> str:
        heads = ", ".join(map(str, self.heads.values()))
        return f"<World prior {self.prior}; posterior {self.posterior}; heads {heads}>"

    def _repr_html_(self) -> str:
        heads = {f"head {name}": head for name, head in self.heads.items()}
        shapes = self._imagine.program.plan.shapes
        state = ", ".join(f"{key} {list(shapes[key]) if key in shapes else ''}".strip() for key in self.carried)
        count = grouped(sum(p.numel() for p in self.parameters() if not is_lazy(p)))
        said = f"state: {state}; action: {', '.join(self.shifted) or 'none'}; {count} weights"
        return parts_html({"prior": self.prior, "posterior": self.posterior, **heads, "loss": self.loss}, said)

    @cached_property
    def carried(self) -> tuple[str, ...]:
        """The variables of a state: those that go from step to step, then what else the heads read."""
        read = (held(c) for head in self.heads.values() for c in head.conditions)
        older = (held(v) for v in self._lags)
        return tuple(dict.fromkeys((*self._imagine.carried, *(k for k in read if k not in self.shifted), *older)))

    @property
    def memory(self) -> tuple[str, ...]:
        """What else a state holds: what networks keep of the past that they read, behind the last step."""
        return tuple(self._memories)

    @cached_property
    def shifted(self) -> tuple[str, ...]:
        """The series that the prior reads at t−1 and does not declare itself: the action, where there is one."""
        plan = self._imagine.program.plan
        return tuple(key for key in plan.shifts if key not in plan.lags)

    @property
    def action(self) -> str:
        """The variable of the action."""
        if len(self.shifted) != 1:
            found = ", ".join(self.shifted) or "none"
            raise FormulaError(f"expected one action series at t-1 in the prior {self.prior}, found: {found}")
        return self.shifted[0]

    # ---------------------------------------------------------------------------------------------------------- filter

    def filter(self, batch: Mapping[str, Tensor], start: Values | None = None, **options: Any) -> State:
        """States of the posterior along the data: ``[B, T, ...]`` for series ``[B, T, ...]``.

        ``batch`` may hold more series than the posterior reads. ``start`` is the state before the first step, with the
        last action under its own name. ``options`` are those of a call, ``seed``, ``generator``, ``noise`` and
        ``deterministic``, and the numbers that the posterior takes: ``tau=1.0`` of a ``Symbol``. A memory has its last
        value only: `State.last` gives the state that `observe` and `imagine` go on from.
        """
        rollout = self._filter if start is None else self._go_on
        wanted = [k for k, op in rollout.program.plan.inputs.items() if op.kind != "symbol"]
        if missing := ", ".join(k + "=..." for k in wanted if k not in batch):
            require("filter needs", wanted, batch, "series [B, T, ...]", f"pass {missing} in the batch")
        start = None if start is None else carry_of(rollout, start)
        out = rollout(**{k: batch[k] for k in wanted}, start=start, **options)
        samples = out.samples
        return State({k: samples[k] for k in self.carried} | (out.value or {}), 2)

    def noise(
        self, batch: Mapping[str, Tensor], generator: torch.Generator | None = None, **numbers: float | Tensor
    ) -> dict[str, Tensor]:
        """The noise that `filter` would draw for this batch and these numbers, by variable: ``noise=`` of a call."""
        inputs = {**batch, **numbers}
        return self._filter.program.noise({k: inputs[k] for k in self._filter.program.inputs}, generator)

    def observe(self, observation: Mapping[str, Tensor], state: Values, **options: Any) -> State:
        """One step of the filter: ``observation`` and flags ``[B, ...]``, ``state`` with the last action; new state.

        Raises:
            TimeError: the posterior reads a whole series, ``x_{1:T}``, of which one step knows the past alone.
        """
        refuse_ahead("observe", self._go_on.program.plan)
        wanted = (*self.carried, *self.memory, *self.shifted)
        require("observe: the state lacks", wanted, state, "state", "add the action taken in it under its own name")
        series = {k: v.unsqueeze(1) for k, v in observation.items()}
        # The filter reads these series at t−1, which is the start; the value of this step is never read.
        inputs = self._go_on.program.inputs
        series |= {k: state[k].unsqueeze(1) for k in self._go_on.program.plan.shifts if k in state and k in inputs}
        return self.filter(series, start=state, **options).last()

    def initial(
        self, batch: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None, **options: Any
    ) -> State:
        """The state before the first step, without the action: what the loss starts from, zeros unless it says so.

        A start that a factor draws, p(z_0), is drawn; ``options`` are those of `Joint.sample`: ``seed``, ``generator``,
        ``noise``, ``deterministic``. One that reads the first row, x_1, is not known before it: NaN, which a step with
        the reset flag replaces.

        Raises:
            FormulaError: a start reads data, and no ``reset=`` says where a sequence begins; `filter` begins there.
        """
        shapes, found = self._imagine.program.plan.shapes, State()
        begun = starts(self._filter.clock, batch, options)
        for key in self.carried:
            given = start_of(self._start, key)
            if key in self._imagine.program.plan.lags and key not in shapes and given is None:
                raise FormulaError(
                    f"initial: {key} is an older value of data, whose size no factor of the world declares\n"
                    f"begin with filter, or give a factor of the world the shape, e.g. the policy as one of its heads"
                )
            zeros = torch.zeros(
                batch, *shapes.get(key, () if given is None else given.shape), device=device, dtype=dtype
            )
            given = begun.get(key, given)
            found[key] = zeros if given is None else given.to(zeros).expand_as(zeros)
        for key, factor in self._memories.items():
            assert isinstance(factor.net, Causal)
            found[key] = factor.net.cache(batch, ROOM, device, dtype)
        return found

    # --------------------------------------------------------------------------------------------------------- imagine

    def imagine(
        self,
        start: Values,
        policy: Factor | None = None,
        *,
        actions: Tensor | None = None,
        horizon: int | None = None,
        **options: Any,
    ) -> State:
        """Roll the prior forward from ``start`` ``[N, ...]``; other leading axes, such as ``[B, T]``, stay as they are.

        With ``policy``, a factor such as π(a_t|h_t,z_t): ``horizon`` steps; returns the states with the start first,
        ``[N, horizon + 1, ...]``, and the action drawn at each of them under its own name. With ``actions``
        ``[N, H, ...]``, the first taken at the start: states ``[N, H + 1, ...]`` and those actions. A prior without an
        action needs ``horizon`` alone. ``options`` are those of a call, and the numbers that the prior and the policy
        take: ``tau=1.2`` of a ``Symbol``.

        Raises:
            TimeError: the prior reads a whole series, ``z_{1:T}``, which is known once the dream is over.
        """
        refuse_ahead("imagine", self._imagine.program.plan)
        wanted = (*self.carried, *self._imagine.memories)
        require("imagine: the start lacks", wanted, start, "carried", "pass a state of filter, observe or initial")
        lead = self._lead({k: start[k] for k in self.carried})
        start = State({k: start[k] for k in wanted}, len(lead))
        if len(lead) != 1 and self._imagine.memories:
            raise ShapeError(
                f"imagine: the prior reads a history, so a dream begins at one state a row, [N, ...]; this start has "
                f"the leading axes {list(lead)}\ntake the last state, states.last()"
            )
        if actions is not None:
            self._check_actions(actions, lead)
        if len(lead) != 1:
            actions = None if actions is None else actions.reshape(-1, *actions.shape[len(lead) :])
            return self.imagine(start.flat(), policy, actions=actions, horizon=horizon, **options).unflat(lead)
        acts = bool(self.shifted)
        if acts == (policy is None and actions is None) or (policy is not None and actions is not None):
            expected = "imagine(start, policy, horizon=...) or imagine(start, actions=...)"
            raise FormulaError(
                f"expected {expected if acts else 'imagine(start, horizon=...): the prior has no action'}"
            )
        if actions is not None:
            return self._follow(start, actions, options)
        if horizon is None or horizon < 1:
            raise FormulaError(f"expected horizon= of at least 1, got {horizon}")
        if policy is None:
            begin = carry_of(self._imagine, start)
            return self._joined(start, self._imagine(start=begin, horizon=horizon, **options))
        return self._act(start, policy, horizon, options)

    def rollout(self, policy: Factor) -> Rollout:
        """The compiled rollout of the prior with a policy; one is kept per policy object."""
        if id(policy) not in self._policies:
            known = (self._factors, self._start, self._imagine.memories, self._lags)
            rollout = Rollout(self.prior * policy, self.index, None, *known)
            self._policies[id(policy)] = (policy, rollout)
        return self._policies[id(policy)][1]

    def _act(self, start: State, policy: Factor, horizon: int, options: Mapping[str, Any]) -> State:
        """The action at the start, then the prior with the policy as one more factor."""
        key, options = self.action, dict(options)
        if not isinstance(policy, Factor):
            given = ",".join(f"{k}_t" for k in self.carried)
            raise FormulaError(
                f"expected the policy as a factor, got {type(policy).__name__}; "
                f"write Normal('π({key}_t|{given})', net, shape=...), or OneHot(...) for discrete actions"
            )
        unknown = [c for c in policy.conditions if held(c) not in start or c.several]
        if policy.variable.key != key or unknown:
            rows = [(c, policy, "not in a state" if c in unknown else "carried") for c in policy.conditions]
            raise FormulaError(
                f"expected a policy over {key} given variables of the state ({', '.join(start)}), got {policy}\n"
                + table(("variable", "declared by", "got"), rows)
            )
        noise = options.get("noise")
        if noise is not None:  # that of the action covers the start as well: [N, horizon + 1, ...]
            options["noise"], noise = {**noise, key: noise[key][:, 1:]}, noise[key][:, 0]
        if options.get("seed") is not None:  # one stream of random numbers for the first action and the rest
            like = next(iter(start.values()))
            options["generator"] = torch.Generator(like.device).manual_seed(options.pop("seed"))
        seen, modes = [start[held(c)] for c in policy.conditions], bool(options.get("deterministic", False))
        begin = start | {key: self._policy_at(policy, options).draw(seen, (), options.get("generator"), noise, modes)}
        rollout = self.rollout(policy)
        return self._joined(begin, rollout(start=carry_of(rollout, begin), horizon=horizon, **options))

    def _policy_at(self, policy: Factor, options: Mapping[str, Any]) -> Factor:
        """The policy with its numbers of the call."""
        return policy.for_call({v.key: options[v.key] for v in policy.symbols if v.key in options})[0]

    def _follow(self, start: State, actions: Tensor, options: Mapping[str, Any]) -> State:
        """The prior under given actions."""
        key = self.action
        series = torch.cat((actions[:, 1:], actions[:, -1:]), 1)  # step t reads the action of t-1; the last is not read
        begin = carry_of(self._imagine, start | {key: actions[:, 0]})
        return self._joined(start, self._imagine(**{key: series}, start=begin, **options)) | {key: actions}

    def _lead(self, state: Values) -> tuple[int, ...]:
        """The leading axes of a state, which all its tensors share."""
        leads = {k: tuple(v.shape[: v.ndim - self._rank(k)]) for k, v in state.items()}
        if len(set(leads.values())) > 1:
            rows = [(k, "[N, ...]", list(v.shape)) for k, v in state.items()]
            raise ShapeError("the start has different batch shapes\n" + table(("variable", "declared", "got"), rows))
        return next(iter(leads.values()))

    @staticmethod
    def _check_actions(actions: Tensor, lead: tuple[int, ...]) -> None:
        """``[*lead, H, ...]`` with at least one step."""
        axes = len(lead)
        if actions.ndim <= axes or tuple(actions.shape[:axes]) != lead or actions.shape[axes] < 1:
            rows = [("actions", f"[{', '.join(map(str, lead))}{', ' if lead else ''}H ≥ 1, ...]", list(actions.shape))]
            raise ShapeError(
                "imagine: the actions do not fit the start\n" + table(("variable", "expected", "got"), rows)
            )

    @staticmethod
    def _joined(begin: State, out: Out) -> State:
        """The start, then the steps; the memories behind the last."""
        samples = out.samples
        series = {k: torch.cat((v.unsqueeze(1), samples[k]), 1) for k, v in begin.series.items()}
        return State(series | (out.value or {}), 2)

    # ---------------------------------------------------------------------------------------------------------- decode

    def decode(
        self, states: Values, heads: Iterable[str] | None = None, **numbers: float | Tensor
    ) -> dict[str, Tensor]:
        """The mean of every head (or those named) at states ``[..., event]``: ``{"x": [..., H, W, C], "r": [...]}``.

        ``numbers`` are those that the heads take, by the names of their Symbols.
        """
        found = {}
        for name in self.heads if heads is None else heads:
            if name not in self.heads:
                known = ", ".join(self.heads)
                raise UnknownVariableError(f"no head predicts {name!r}; these are: {known}.{near(name, self.heads)}")
            head = self.heads[name]
            require(f"decode: {head} needs", map(held, head.conditions), states, "state", "pass states of filter")
            values = [states[held(c)] for c in head.conditions]
            lead = values[0].shape[: values[0].ndim - self._rank(head.conditions[0].key)]
            flat = [v.reshape(-1, *v.shape[len(lead) :]) for v in values]
            own, _ = head.for_call({v.key: numbers[v.key] for v in head.symbols if v.key in numbers})
            value = own.head(*flat) if own.family is None else own.family.mean(own.params(*flat, batch=1))
            mean = torch.as_tensor(value)
            found[name] = mean.reshape(*lead, *mean.shape[1:])
        return found

    def _rank(self, key: str) -> int:
        """How many event axes a variable of the state has."""
        return self._imagine.program.plan.ranks.get(key, 1)

    def _check(self) -> None:
        """The prior carries what the posterior carries, and both declare all that a state holds."""
        filtered, imagined = self._filter.carried, self._imagine.carried
        declared = [{v.key for f in p.factors for v in f.variables} for p in (self.prior, self.posterior)]
        of = self._imagine.program.plan.lags
        if not (set(filtered) <= set(imagined) and {of.get(k, k) for k in imagined} <= declared[1]):
            rows = [(k, k in imagined, k in filtered) for k in sorted({*filtered, *imagined})]
            shown = table(("variable", "prior", "posterior"), rows)
            raise FormulaError(
                f"prior and posterior carry different variables\n{shown}\nread the same z_{{t-1}} in both"
            )
        known = {*imagined, *self.shifted, *(declared[0] & declared[1]), self._imagine.program.plan.counter}
        for head in self.heads.values():
            if unknown := [c for c in head.conditions if c.key not in known or c.several]:
                needed = [(c, head, "not carried" if c in unknown else "carried") for c in head.conditions]
                raise FormulaError(
                    f"the head {head} reads what a state does not hold\n"
                    + table(("variable", "needed by", "got"), needed)
                    + f"\na state holds what goes from step to step: {', '.join(imagined)}"
                )


def _joint(product: Joint | Factor) -> Joint:
    return product if isinstance(product, Joint) else Joint() * product
