"""The interpreter: the plan as lowered, one operation and one time step at a time, every shape checked.

It is the debug mode, the equality test of the emitted code, and the source of error messages with a table
*variable | declared | got*.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from worldformula.errors import FormulaError, ShapeError, WorldformulaError, table
from worldformula.families.base import Family, checked
from worldformula.families.given import completed
from worldformula.formula import runtime
from worldformula.formula.code.support import check_numeric, check_value, filled_in
from worldformula.formula.plan.plan import Op, Plan, Ref
from worldformula.formula.plan.rules import RULES, factor_of
from worldformula.formula.syntax.factor import naming
from worldformula.formula.syntax.heads import check_output, outputs, refuse_nothing, refuse_per_row, unread
from worldformula.formula.syntax.kinds import of_other_kind

Env = dict[str, Any]
NETWORKS = ("net", "causal")


def interpret(
    plan: Plan, arguments: Mapping[str, Any], *, deterministic: bool = False
) -> tuple[Any, tuple[Any, ...], tuple[Any, ...]]:
    """Evaluate the plan; arguments and results are those of the emitted function."""
    return _Machine(plan, arguments, deterministic).run()


def diagnose(
    plan: Plan, arguments: Mapping[str, Any], *, deterministic: bool
) -> tuple[WorldformulaError | None, frozenset[str]]:
    """About a call that failed: the error that names the factor and the shapes, or None where the plan itself does not
    fail with one; and the parameters whose network returns a dict instead of one tensor.
    """
    machine = _Machine(plan, arguments, deterministic)
    named: WorldformulaError | None = None
    try:
        with torch.no_grad():
            machine.run()
    except WorldformulaError as error:
        named = error
    except Exception:  # noqa: BLE001  the original error is raised
        named = None
    return named, frozenset(machine.structured)


def noise_drawn(plan: Plan, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """The noise of a call by site, that of sites whose shape only their network tells included."""
    machine = _Machine(plan, arguments, deterministic=False)
    with torch.no_grad():
        machine.run()
    return machine.noise | {s.name: n for s in plan.sites if (n := arguments.get(s.name)) is not None}


class _Machine:
    """Evaluates operations by their rules; ``t`` is the step it is at."""

    def __init__(self, plan: Plan, arguments: Mapping[str, Any], deterministic: bool) -> None:
        self.plan, self.given, self.deterministic = plan, arguments, deterministic
        self.ops = plan.by_name
        symbols = [op for op in plan.ops if op.kind == "symbol"]
        self.numbers = {str(op.variable): arguments[plan.argument(op)] for op in symbols}
        self.once: Env = {}
        self.noise: dict[str, Tensor] = {}  # of the once-per-call sites
        self.history: dict[str, list[Any]] = {}
        self.structured: set[str] = set()
        self.t: int | None = None
        self.keep: Tensor | None = None
        self.carry: Env = {}
        self.caches: Env = {}  # of the networks over a past, by their operation
        self.last: Env = {}  # of the series read at t−1, by the operation that gives them

    def run(self) -> tuple[Any, tuple[Any, ...], tuple[Any, ...]]:
        """Everything, with the values and parameters of distributions held against their sets."""
        with checked():
            return self._run()

    def _run(self) -> tuple[Any, tuple[Any, ...], tuple[Any, ...]]:
        """Once-per-call operations, the walk through time, what waits for it, the walk of the steps that wait for
        that, …
        """
        walks = self._walks()
        for walk in range(1 + max(walks.values(), default=0)):
            here = [op for op in self.plan.ops if walks[op.name] == walk]
            for op in here:
                if not op.step:
                    self.once[op.name] = self.evaluate(op, self.once)
            if any(op.step for op in here):
                self.walk([op for op in here if op.step])
        terms = tuple(self.result(t.name) for t in self.plan.terms)
        samples = tuple(self.result(name) for name in self.plan.samples.values())
        if self.plan.memories:
            return {key: self.caches[name] for key, name in self.plan.memories.items()}, terms, samples
        value = None if self.plan.value is None else runtime.as_value(self.result(self.plan.value))
        return value, terms, samples

    def _walks(self) -> dict[str, int]:
        """Which walk through time an operation belongs to, or how many a once-per-call one waits for. A carry belongs
        to the walk of what it carries, which may stand behind it.
        """
        found: dict[str, int] = {}
        while True:
            before = dict(found)
            for op in self.plan.ops:
                own = 0
                if op.kind == "carry" and op.variable is not None:
                    own = before.get(self.plan.carries[op.variable.key], 0)
                waits = (found[name] + (self.ops[name].step and not op.step) for name in op.reads)
                found[op.name] = max(own, *waits) if op.reads else own
            if found == before:
                return found

    def result(self, ref: Ref) -> Any:
        """A value as the emitted function returns it: step values as [B·T, ...]."""
        if not isinstance(ref, str):
            return ref
        if not self.ops[ref].step:
            return self.once[ref]
        return runtime.stack(self.history[ref], len(self.ops[ref].axes))

    def walk(self, steps: list[Op]) -> None:
        """The loop over time with these operations, step by step, nothing hoisted."""
        here, known = {op.name for op in steps}, dict(self.history)
        flags = self.given[self.plan.arguments[self.plan.reset]] if self.plan.reset else None
        shifts = {op.reads[0]: op.variable.key for op in steps if op.kind == "shift" and op.variable}
        carries = {key: source for key, source in self.plan.carries.items() if source in here}
        self.carry = {key: self.given[f"start_{key}"] for key in carries}
        self.last = {name: self.given[f"start_{key}"] for name, key in shifts.items()}
        for t in range(self.given["T"]):
            self.t, env = t, self.once | {name: values[t] for name, values in known.items()}
            self.keep = None if flags is None else runtime.kept(flags[:, t])
            for op in steps:
                env[op.name] = self.evaluate(op, env)
                self.history.setdefault(op.name, []).append(env[op.name])
            self.carry = {key: env[source] for key, source in carries.items()}
            self.last = {name: env[name] for name in shifts}
        self.t = None

    # ------------------------------------------------------------------------------------------------ one operation

    def evaluate(self, op: Op, env: Env) -> Any:
        """One operation; a failure is told with the factor and the shapes of what it read."""
        args = [] if op.kind in ("over", "series") else [env[a] if isinstance(a, str) else a for a in op.args]
        try:
            with nullcontext() if op.factor is None else naming(op.factor):
                return RULES[op.kind].evaluate(self, op, args)
        except (torch.OutOfMemoryError, WorldformulaError):
            raise
        except ArithmeticError as error:  # of numbers of the call, which Python computes with
            raise FormulaError(
                f"{op.kind} {op.how} of these numbers: {error}\n"
                + self.shapes(op, args)
                + "\ngive the call numbers of which it can be computed"
            ) from error
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            if op.kind in NETWORKS and (other := of_other_kind(factor_of(op), args, error, self._inputs())):
                raise other from error
            if isinstance(error, TypeError) and op.kind in NETWORKS and not factor_of(op).conditions:
                raise ShapeError(unread(factor_of(op), error)) from error
            what = "its network failed" if op.kind in NETWORKS else f"{op.kind} {op.how}".strip() + " failed"
            whose = f"{op.factor}: " if op.factor is not None else ""
            advice = "\nmake the network take these shapes, with one batch" if op.kind in NETWORKS else self._bare(op)
            raise ShapeError(f"{whose}{what}: {error}\n" + self.shapes(op, args) + advice) from error

    def checked(self, op: Op, value: Any, args: list[Any]) -> Any:
        """What a network returned for these values; for a deterministic factor a batch of the declared shape."""
        factor = factor_of(op)
        if factor.family is not None:
            refuse_nothing(factor, value)
            refuse_per_row(factor, value, args)
            return value
        for variable, part in zip(factor.variables, outputs(factor, value), strict=True):
            check_output(factor, variable, part, args, self.plan.shape_of_output(factor, variable), step=op.step)
            check_numeric(self.plan, factor, variable, part)
        return value

    def check_value(self, op: Op, value: Any) -> None:
        """Refuse a value outside the support of its density; what fills rows that do not count is no value."""
        if not filled_in(self.plan, op):
            check_value(self.plan, op, value)

    def family(self, family: Family) -> Family:
        """A family with the numbers of the call in its settings."""
        return completed(family, self.numbers) if family.asked else family

    def compare(self, op: Op, args: list[Any]) -> None:
        """Refuse values of unlike batch shapes."""
        shapes = [(self.plan.label(n), v.shape) for n, v in zip(op.reads, args, strict=True) if v.ndim]
        if len({shape for _, shape in shapes}) > 1:
            raise ShapeError(runtime.batch_table(shapes))

    def _inputs(self) -> dict[str, Any]:
        """What the call was given, by keyword."""
        return {key: self.given.get(self.plan.arguments[key]) for key in self.plan.inputs}

    def _bare(self, op: Op) -> str:
        """Advice about a value whose event axes nobody declares, where that may be why an operation failed."""
        inputs = {read.name: key for key, read in self.plan.inputs.items() if not self.plan.shapes.get(key)}
        if op.kind == "draw" and self.plan.reference is not None and not self.plan.reference[1]:
            inputs, reads = {"reference": self.plan.reference[0]}, ["reference"]
        elif op.kind == "binary" or op.how in ("expected", "log_expected"):
            reads = [a for n in op.reads for a in (n, *(self.ops[n].reads if self.ops[n].kind == "lift" else ()))]
        else:
            return ""
        for name in reads:
            if name in inputs:
                return f"\nif {inputs[name]} has event axes, declare them: Value({inputs[name]!r}, shape=...)"
            factor = self.ops[name].factor if self.ops[name].kind == "net" else None
            if factor is not None and factor.shape is None:
                return f"\nif {factor.variable} has event axes, declare them: shape=... on {factor}"
        return ""

    def shapes(self, op: Op, args: list[Any]) -> str:
        """The table *variable | declared | got* for what an operation read."""
        conditions = op.factor.conditions if op.factor is not None and op.kind in NETWORKS else [None] * len(args)
        rows = []
        for ref, condition, value in zip(op.args, conditions, args, strict=False):
            tensors = [v for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, Tensor)]
            name = str(condition) if condition is not None else self.plan.label(ref)
            shape = self.plan.shapes.get(condition.key) if condition is not None else None
            declared = (
                "-" if condition is None else "undeclared" if shape is None else f"[..., {', '.join(map(str, shape))}]"
            )
            rows.append((name, declared, ", ".join(str(list(v.shape)) for v in tensors) or repr(value)))
        return table(("variable", "declared", "got"), rows)
