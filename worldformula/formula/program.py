"""A program: what an expression runs. The plan, its passes, the emitted functions, and the result of a call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from worldformula.errors import WorldformulaError
from worldformula.formula.bind import Binder, Call
from worldformula.formula.emit import Emitted, emit, networks
from worldformula.formula.interpret import interpret, noise_drawn
from worldformula.formula.passes import PASSES
from worldformula.formula.plan import Plan, verify

QUICK = Call({}, 0, False)  # stands for the call that `Binder.quick` prepares, which has no time and no option


class Out:
    """The result of one call.

    ``value`` is what the formula says. ``terms``: printed term -> tensor, reduced as the formula reduces it.
    ``samples``: variable -> tensor, ``[B, T, ...]`` where it has a time index. ``last``: what goes on to the next step.
    """

    __slots__ = ("_call", "_plan", "_samples", "_terms", "value")

    def __init__(self, value: Any, terms: tuple[Any, ...], samples: tuple[Any, ...], plan: Plan, call: Call) -> None:
        self.value, self._terms, self._samples, self._plan, self._call = value, terms, samples, plan, call

    @property
    def terms(self) -> dict[str, Tensor]:
        """Each named term; no second pass: the values were computed by the call."""
        found = {}
        for term, value in zip(self._plan.terms, self._terms, strict=True):
            value = torch.as_tensor(value)
            for reduction in term.reductions:
                how = reduction.removeprefix("time ")
                if how == reduction:
                    value = getattr(value, how)()
                elif isinstance(term.name, str) and self._plan.by_name[term.name].step:
                    value = getattr(self._series(value), how)(1)
                elif how == "sum":
                    value = value * self._call.length
            found[term.text] = value
        return found

    @property
    def samples(self) -> dict[str, Tensor]:
        """Every variable that the formula drew or computed."""
        ops = self._plan.by_name
        return {
            key: self._series(value) if ops[name].step else value
            for (key, name), value in zip(self._plan.samples.items(), self._samples, strict=True)
        }

    @property
    def last(self) -> dict[str, Tensor]:
        """The last carry, and the last value of every series read at t−1: the ``start=`` of the next call."""
        samples, plan = self.samples, self._plan
        carried = {key: samples[key][:, -1] for key in plan.carries}
        return carried | {key: self._call.arguments[plan.arguments[key]][:, -1] for key in plan.shifts}

    def _series(self, value: Tensor) -> Tensor:
        """[B·T, ...] -> [B, T, ...]."""
        return torch.unflatten(value, 0, (-1, self._call.length))

    def __repr__(self) -> str:
        value = self.value.item() if isinstance(self.value, Tensor) and self.value.numel() == 1 else self.value
        return f"<Out {value}, terms: {', '.join(t.text for t in self._plan.terms)}>"


class Program:
    """The plan of a formula with its emitted functions, made at first use and never copied or saved."""

    def __init__(self, plan: Plan, title: str) -> None:
        self.raw, self.title = verify(plan, "lowered"), title
        self.plan = plan
        for step in PASSES:
            self.plan = verify(step(self.plan), step.__name__)
        self.binder = Binder(self.plan)
        self.options: dict[str, Any] | None = None
        self._functions: dict[bool, Emitted] = {}
        self._calls: dict[bool, Any] = {}
        self._quick = False  # whether the emitted function is there and takes the arguments of `Binder.quick`

    @property
    def inputs(self) -> tuple[str, ...]:
        """The keywords of a call."""
        return tuple(self.plan.inputs)

    def function(self, owner: nn.Module, deterministic: bool) -> Emitted:
        """The emitted function, for sampling or for means and modes."""
        if deterministic not in self._functions:
            emitted = emit(self.plan, networks(owner), self.title, deterministic=deterministic)
            call = emitted.call if self.options is None else torch.compile(emitted.call, **self.options)
            self._calls[deterministic], self._functions[deterministic] = call, emitted
            self._quick = self._quick or (not deterministic and emitted.arguments == self.binder.order)
        return self._functions[deterministic]

    def compile(self, options: dict[str, Any]) -> None:
        """From now on, run the emitted functions through ``torch.compile``."""
        self.options, self._functions, self._calls, self._quick = options, {}, {}, False

    # ---------------------------------------------------------------------------------------------------------- run

    def run(self, owner: nn.Module, given: dict[str, Any]) -> Out:
        """Evaluate the formula by its emitted code."""
        values = self.binder.quick(given) if self._quick else None
        call = QUICK
        if values is None:
            call = self.binder.bind(given)
            values = [call.arguments[name] for name in self.function(owner, call.deterministic).arguments]
        try:
            value, terms, samples = self._calls[call.deterministic](owner, *values)
        except (WorldformulaError, RuntimeError, TypeError, ValueError, IndexError) as error:
            named = self.diagnosis(self.binder.bind(given) if call is QUICK else call)
            if named is None:
                raise
            raise named from error
        return Out(value, terms, samples, self.plan, call)

    def interpret(self, given: dict[str, Any]) -> Out:
        """Evaluate the formula node by node, with shape checks."""
        call = self.binder.bind(given)
        value, terms, samples = interpret(self.raw, call.arguments, deterministic=call.deterministic)
        return Out(value, terms, samples, self.raw, call)

    def diagnosis(self, call: Call) -> WorldformulaError | None:
        """What the interpreter, which names the factor and the shapes, says about a call that failed."""
        try:
            with torch.no_grad():
                interpret(self.raw, call.arguments, deterministic=call.deterministic)
        except WorldformulaError as error:
            return error
        except Exception:  # noqa: BLE001  the original error is raised
            return None
        return None

    def noise(self, given: Mapping[str, Any], generator: torch.Generator | None) -> dict[str, Tensor]:
        """The noise that a call with these inputs would draw, by variable."""
        call = self.binder.bind({**given, "generator": generator})
        found = call.arguments
        if any(found[site.name] is None for site in self.binder.sites):
            found = noise_drawn(self.raw, found)
        return {site.key: found[site.name] for site in self.binder.sites}
