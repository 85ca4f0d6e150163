"""The result of a call: its value, and by name its terms, samples, and what goes on to the next step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import register_pytree_node

from worldformula.errors import FormulaError
from worldformula.formula.code.bind import Call
from worldformula.formula.plan.plan import Plan
from worldformula.formula.runtime import as_value


@dataclass(init=False, repr=False, eq=False)
class Out:
    """The result of one call.

    ``value`` is what the formula says. ``terms``: printed term -> tensor, reduced as the formula reduces it.
    ``samples``: variable -> tensor, ``[B, T, ...]`` where it has a time index, of K particles ``[K, B, T, ...]``.
    ``last``: what goes on to the next step.
    What asks for the tensors of a result, as data-parallel training and ``vmap`` do, finds these four.
    """

    __slots__ = ("_call", "_plan", "_samples", "_terms", "value")
    value: Any
    _terms: tuple[Any, ...]
    _samples: tuple[Any, ...]

    def __init__(self, value: Any, terms: tuple[Any, ...], samples: tuple[Any, ...], plan: Plan, call: Call) -> None:
        self.value, self._terms, self._samples, self._plan, self._call = value, terms, samples, plan, call

    @property
    def plan(self) -> Plan:
        """What was run."""
        return self._plan

    @property
    def terms(self) -> dict[str, Tensor]:
        """Each named term; no second pass: the values were computed by the call."""
        found = {}
        for title, term, value in zip(self._plan.titles, self._plan.terms, self._terms, strict=True):
            value = as_value(value)
            for reduction in term.reductions:
                how = reduction.removeprefix("time ")
                if how == reduction:
                    value = getattr(value, how)()
                elif isinstance(term.name, str) and (op := self._plan.by_name[term.name]).step:
                    value = getattr(self._series(value, len(op.axes)), how)(len(op.axes) + 1)
                elif how == "sum":
                    value = value * self._call.length
            found[title] = value
        return found

    @property
    def steps(self) -> dict[str, Tensor]:
        """The terms of a sum over time at every step, ``[B, T]``, before anything is reduced."""
        ops = self._plan.by_name
        return {
            title: self._series(value)
            for title, term, value in zip(self._plan.titles, self._plan.terms, self._terms, strict=True)
            if isinstance(term.name, str) and ops[term.name].step and not ops[term.name].axes
        }

    @property
    def samples(self) -> dict[str, Tensor]:
        """Every variable that the formula drew or computed."""
        ops = self._plan.by_name
        return {
            key: self._series(value, len(ops[name].axes)) if ops[name].step else value
            for (key, name), value in zip(self._plan.samples.items(), self._samples, strict=True)
        }

    @property
    def last(self) -> dict[str, Tensor]:
        """The last carry, the last value of every series read at t−1, of what is read further back the older ones,
        ``z_m1``, and the number of the step, ``t``, where it is read: the ``start=`` of the next call.
        """
        samples, plan, ops = self.samples, self._plan, self._plan.by_name
        leads = {key: len(ops[name].axes) for key, name in plan.carries.items()}
        carried = {key: samples[key].select(lead + 1, -1) for key, lead in leads.items()}
        given = {key: self._call.arguments[plan.arguments[key]] for key in plan.shifts if key not in plan.lags}
        kept = (*(key for key in plan.shifts if key in plan.lags), *((plan.counter,) if plan.counter else ()))
        older = {key: samples[key][:, -1] for key in kept}
        return carried | {key: series[:, -1] for key, series in given.items()} | older

    @property
    def ends(self) -> dict[str, Tensor]:
        """The last step of every series among the samples, ``[B, ...]``; of one step it is what was computed."""
        ops, one = self._plan.by_name, self._call.length == 1
        pairs = zip(self._plan.samples.items(), self._samples, strict=True)
        leads = {name: len(ops[name].axes) for name in self._plan.samples.values()}
        return {
            key: v if one and ops[name].step else self._series(v, leads[name]).select(leads[name] + 1, -1)
            for (key, name), v in pairs
        }

    def split(self, plans: Iterable[Plan]) -> list[Out]:
        """The result of `together` as one for each of its formulas, in their order; ``plans`` are their own."""
        samples, found, begin = dict(zip(self._plan.samples, self._samples, strict=True)), list[Out](), 0
        for value, plan in zip(self.value.values(), plans, strict=True):
            terms = self._terms[begin : begin + len(plan.terms)]
            begin += len(plan.terms)
            found.append(Out(value, terms, tuple(samples[key] for key in plan.samples), plan, self._call))
        return found

    def _series(self, value: Tensor, lead: int = 0) -> Tensor:
        """[B·T, ...] -> [B, T, ...]."""
        return torch.unflatten(value, lead, (-1, self._call.length))

    @property
    def titles(self) -> tuple[str, ...]:
        """The names of the terms."""
        return self._plan.titles

    def __repr__(self) -> str:
        values = self.value if isinstance(self.value, Mapping) else {"": self.value}
        shown = [f"{name} {_shown(value)}".strip() for name, value in values.items()]
        return f"<Out {', '.join(shown)}, terms: {', '.join(self.titles)}>"


class _Settled(Out):
    """A result whose tensors are those that something else made of an earlier one's."""

    __slots__ = ("_last", "_parts")

    def __init__(
        self, value: Any, terms: dict[str, Tensor], samples: dict[str, Tensor], last: dict[str, Tensor]
    ) -> None:
        self.value, self._terms, self._samples = value, tuple(terms.values()), tuple(samples.values())
        self._parts, self._last = (terms, samples), last

    @property
    def terms(self) -> dict[str, Tensor]:
        """As they were reduced."""
        return self._parts[0]

    @property
    def samples(self) -> dict[str, Tensor]:
        """As they were drawn."""
        return self._parts[1]

    @property
    def last(self) -> dict[str, Tensor]:
        """As it was carried."""
        return self._last

    @property
    def titles(self) -> tuple[str, ...]:
        """The names of the terms."""
        return tuple(self._parts[0])

    @property
    def steps(self) -> dict[str, Tensor]:
        """None is left.

        Raises:
            FormulaError: always; what made this result took the reduced terms alone.
        """
        raise FormulaError(
            "steps: this result was made of an earlier one's value, terms and samples (by vmap, or data-parallel "
            "training), and its terms are reduced\nread .steps of the result of the formula itself"
        )


def _flat(out: Out) -> tuple[list[Any], None]:
    """Value, terms, samples and last carry: what stands in a result once and for all."""
    return [out.value, out.terms, out.samples, out.last], None


for _kind in (Out, _Settled):
    register_pytree_node(_kind, _flat, lambda parts, _: _Settled(*parts))


def _shown(value: Any) -> str:
    """A number, or the shape of a batch."""
    if not isinstance(value, Tensor):
        return str(value)
    return f"{value.item()}" if value.numel() == 1 and not value.is_meta else f"of shape {list(value.shape)}"
