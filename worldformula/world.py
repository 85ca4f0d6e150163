"""The contract of a world model: prior, posterior, heads and loss, written as formulas; filter, imagine, decode follow.

world = World(prior=core * prior, posterior=embed * core * post, heads=[image, reward], loss=loss)
states = world.filter(batch)                        # q, [B, T, ...]
dream  = world.imagine(state, policy, horizon=15)   # p, with π(a_t|h_t,z_t) as one more factor
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from worldformula.errors import FormulaError, MissingInputError, table
from worldformula.formula.emit import register_networks
from worldformula.formula.expression import Expression
from worldformula.formula.factors import Factor, Joint
from worldformula.formula.nodes import OverTime, children
from worldformula.formula.rollout import Rollout

State = dict[str, Tensor]


class World(nn.Module):
    """A model through time. A state is a dict of named tensors: what the formula carries, ``{"h": ..., "z": ...}``.

    ``prior`` and ``posterior`` are products that declare the same carried variables; ``heads`` are factors over states;
    ``loss`` is a plain expression. The networks are registered once, whatever number of formulas shares them.
    """

    loss: Expression

    def __init__(
        self, *, prior: Joint | Factor, posterior: Joint | Factor, heads: Iterable[Factor], loss: Expression
    ) -> None:
        super().__init__()
        self.prior, self.posterior, self.heads = _joint(prior), _joint(posterior), _Heads(heads)
        everything = (*self.posterior.factors, *self.prior.factors, *self.heads.values())
        register_networks(self, list(everything))
        clock = _clock(loss)
        # Kept out of the module tree: they hold the same networks, which must appear once in the state_dict.
        self.__dict__["loss"] = loss
        self.__dict__["_filter"] = Rollout(self.posterior, clock.index, clock.reset, everything)
        self.__dict__["_imagine"] = Rollout(self.prior, clock.index, None, everything)
        self.__dict__["_policies"] = dict[int, tuple[Factor, Rollout]]()
        self.reset_name = clock.reset
        self._check()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_policies": {}}

    @property
    def carried(self) -> tuple[str, ...]:
        """The variables of a state."""
        return self.__dict__["_imagine"].carried

    @property
    def action(self) -> str:
        """The variable of the action: what the prior reads at t−1 and does not declare itself."""
        shifts = self.__dict__["_imagine"].program.plan.shifts
        if len(shifts) != 1:
            raise FormulaError(
                f"expected one action series at t-1 in the prior {self.prior}, found: {', '.join(shifts) or 'none'}"
            )
        return shifts[0]

    # ---------------------------------------------------------------------------------------------------------- filter

    def filter(self, batch: Mapping[str, Tensor], start: State | None = None, **options: Any) -> State:
        """States of the posterior along the data: ``[B, T, ...]`` for series ``[B, T, ...]``.

        ``batch`` may hold more series than the posterior reads. ``start`` is a state, with the last action under its
        own name. ``options`` are those of a call: ``seed``, ``generator``, ``noise``, ``deterministic``.
        """
        rollout: Rollout = self.__dict__["_filter"]
        wanted = rollout.program.inputs
        if missing := [k for k in wanted if k not in batch]:
            rows = [(k, "series [B, T, ...]", "given" if k in batch else "missing") for k in wanted]
            raise MissingInputError(
                f"filter needs {', '.join(missing)}\n" + table(("variable", "declared", "got"), rows)
            )
        samples = rollout(**{k: batch[k] for k in wanted}, start=start, **options).samples
        return {k: samples[k] for k in self.carried}

    def observe(self, observation: Mapping[str, Tensor], state: State, **options: Any) -> State:
        """One step of the filter: ``observation`` and flags ``[B, ...]``, ``state`` with the last action; a new state."""
        series = {k: v.unsqueeze(1) for k, v in observation.items()} | {self.action: state[self.action].unsqueeze(1)}
        return {k: v[:, 0] for k, v in self.filter(series, start=state, **options).items()}

    def initial(self, batch: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None) -> State:
        """The state before the first step: zeros."""
        shapes = self.__dict__["_imagine"].program.plan.shapes
        return {k: torch.zeros(batch, *shapes[k], device=device, dtype=dtype) for k in self.carried}

    # --------------------------------------------------------------------------------------------------------- imagine

    def imagine(
        self,
        start: State,
        policy: Factor | None = None,
        *,
        actions: Tensor | None = None,
        horizon: int | None = None,
        **options: Any,
    ) -> State:
        """Roll the prior forward from ``start`` ``[N, ...]``.

        With ``policy``, a factor such as π(a_t|h_t,z_t): ``horizon`` steps; returns the states with the start first,
        ``[N, horizon + 1, ...]``, and the action drawn at each of them under its own name. With ``actions``
        ``[N, H, ...]``, the first taken at the start: states ``[N, H + 1, ...]`` and those actions.
        """
        start = {k: start[k] for k in self.carried}
        if (policy is None) == (actions is None):
            raise FormulaError("expected imagine(start, policy, horizon=...) or imagine(start, actions=...)")
        if actions is not None:
            return self._imagine_actions(start, actions, options)
        if policy is None or horizon is None or horizon < 1:
            raise FormulaError(f"expected horizon= of at least 1, got {horizon}")
        key = self.action
        if policy.variable.key != key:
            raise FormulaError(f"expected a policy over {key}, got {policy}")
        conditions = {c.key: start[c.key] for c in policy.conditions}
        generator = options.get("generator")
        first = policy.sample(generator=generator, deterministic=options.get("deterministic", False), **conditions)
        rollout = self.rollout(policy)
        samples = rollout(start={**start, key: first}, horizon=horizon, **options).samples
        begin = {**start, key: first}
        return {k: torch.cat((begin[k].unsqueeze(1), samples[k]), 1) for k in begin}

    def rollout(self, policy: Factor) -> Rollout:
        """The compiled rollout of the prior with a policy; one is kept per policy object."""
        found: dict[int, tuple[Factor, Rollout]] = self.__dict__["_policies"]
        if id(policy) not in found:
            shapes = (*self.posterior.factors, *self.prior.factors)
            found[id(policy)] = (policy, Rollout(self.prior * policy, "t", None, shapes))
        return found[id(policy)][1]

    def _imagine_actions(self, start: State, actions: Tensor, options: Mapping[str, Any]) -> State:
        key = self.action
        later = torch.cat(
            (actions[:, 1:], actions[:, -1:]), 1
        )  # the series at t-1 is what matters; its last is never read
        rollout: Rollout = self.__dict__["_imagine"]
        samples = rollout(**{key: later}, start={**start, key: actions[:, 0]}, **options).samples
        return {k: torch.cat((v.unsqueeze(1), samples[k]), 1) for k, v in start.items()} | {key: actions}

    def decode(self, states: Mapping[str, Tensor], heads: Iterable[str] | None = None) -> dict[str, Tensor]:
        """The mean of every head (or those named) at states ``[..., event]``: ``{"x": [..., H, W, C], "r": [...]}``."""
        names = list(self.heads) if heads is None else list(heads)
        found = {}
        for name in names:
            head = self.heads[name]
            values = [states[c.key] for c in head.conditions]
            rank = self._rank(head.conditions[0].key)
            lead = values[0].shape[: values[0].ndim - rank]
            flat = [v.reshape(-1, *v.shape[len(lead) :]) for v in values]
            assert head.family is not None
            mean = head.family.mean(head.params(*flat))
            found[name] = mean.unflatten(0, lead) if isinstance(mean, Tensor) else torch.as_tensor(mean)
        return found

    def _rank(self, key: str) -> int:
        shapes = self.__dict__["_imagine"].program.plan.shapes
        return len(shapes[key]) if key in shapes else 1

    def _check(self) -> None:
        """Prior and posterior carry the same variables, and every head reads what a state holds."""
        filtered, imagined = self.__dict__["_filter"].carried, self.carried
        if set(filtered) != set(imagined):
            rows = [(k, k in imagined, k in filtered) for k in sorted({*filtered, *imagined})]
            raise FormulaError(
                "prior and posterior carry different variables\n" + table(("variable", "prior", "posterior"), rows)
            )


def _joint(product: Joint | Factor) -> Joint:
    return product if isinstance(product, Joint) else Joint() * product


def _clock(loss: Expression) -> OverTime:
    """The sum over time of a loss."""
    waiting = [loss.node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, OverTime):
            return node
        waiting += children(node)
    raise FormulaError("expected a loss over time, e.g. Sum('t', step, reset='first').mean()")


class _Heads(dict[str, Factor]):
    """The heads by the variable that they predict."""

    def __init__(self, heads: Iterable[Factor]) -> None:
        super().__init__({head.variable.key: head for head in heads})
