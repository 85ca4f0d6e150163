"""The interpreter: the plan as lowered, one operation and one time step at a time, every shape checked.

It is the debug mode, the equality test of the emitted code, and the source of error messages with a table
*variable | declared | got*.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from worldformula.errors import FormulaError, HeadError, ShapeError, WorldformulaError, table
from worldformula.families.base import kl_pair
from worldformula.formula import runtime
from worldformula.formula.factors import Factor
from worldformula.formula.plan import Op, Plan, Ref

Env = dict[str, Any]


def interpret(plan: Plan, arguments: Mapping[str, Any], *, deterministic: bool = False) -> tuple[Any, tuple[Any, ...], tuple[Any, ...]]:
    """Evaluate the plan; arguments and results are those of the emitted function."""
    return _Interpreter(plan, arguments, deterministic).run()


class _Interpreter:
    def __init__(self, plan: Plan, arguments: Mapping[str, Any], deterministic: bool) -> None:
        self.plan, self.given, self.deterministic = plan, arguments, deterministic
        self.ops = plan.by_name
        self.once: Env = {}
        self.history: dict[str, list[Any]] = {}

    def run(self) -> tuple[Any, tuple[Any, ...], tuple[Any, ...]]:
        late = False
        for op in self.plan.ops:
            if not op.step and not self._waits(op):
                self.once[op.name] = self.evaluate(op, self.once, None)
            late = late or op.step
        if late:
            self.walk()
        for op in self.plan.ops:
            if not op.step and op.name not in self.once:
                self.once[op.name] = self.evaluate(op, self.once, None)
        terms = tuple(self.result(t.name) for t in self.plan.terms)
        samples = tuple(self.result(name) for name in self.plan.samples.values())
        return (None if self.plan.value is None else self.result(self.plan.value)), terms, samples

    def _waits(self, op: Op) -> bool:
        """Whether a once-per-call operation needs the sum over time."""
        return op.kind == "over" or any(not self.ops[a].step and self._waits(self.ops[a]) for a in op.reads)

    def result(self, ref: Ref) -> Any:
        """A value as the emitted function returns it: step values as [B·T, ...]."""
        if not isinstance(ref, str):
            return ref
        return runtime.stack(self.history[ref]) if self.ops[ref].step else self.once[ref]

    # -------------------------------------------------------------------------------------------------------- time

    def walk(self) -> None:
        """The loop over time, step by step, nothing hoisted."""
        series = next((key for key, op in self.plan.inputs.items() if op.step), None)
        T = self.given["T"] if series is None else self.given[series].shape[1]
        flags = self.given[self.plan.reset] if self.plan.reset else None
        carry = {key: self.given[f"start_{key}"] for key in self.plan.carries}
        last = {key: self.given[f"start_{key}"] for key in self.plan.shifts}
        for t in range(T):
            keep = None if flags is None else runtime.kept(flags[:, t], next(iter((*carry.values(), *last.values())), flags.float()))
            env = dict(self.once)
            for op in self.plan.ops:
                if op.step:
                    env[op.name] = self.step(op, env, t, keep, carry, last)
                    self.history.setdefault(op.name, []).append(env[op.name])
            carry = {key: env[source] for key, source in self.plan.carries.items()}
            last = {key: self.given[key][:, t] for key in self.plan.shifts}

    def step(self, op: Op, env: Env, t: int, keep: Tensor | None, carry: Env, last: Env) -> Any:
        match op.kind:
            case "input":
                return self.checked(op, self.given[op.variable.key][:, t])  # type: ignore[union-attr]
            case "noise":
                noise = self.given.get(op.name)
                return None if noise is None else noise[:, t]
            case "flags":
                return keep
            case "carry" | "shift":
                key = op.variable.key  # type: ignore[union-attr]
                value = carry[key] if op.kind == "carry" else last[key].to(self.given[key].dtype)
                initial = getattr(self.plan.initial, key, None) if op.kind == "carry" else None
                return value if keep is None else runtime.restart(value, keep, initial)
            case "repeat":
                return env[op.reads[0]]
        return self.evaluate(op, env, t)

    # ------------------------------------------------------------------------------------------------ one operation

    def evaluate(self, op: Op, env: Env, t: int | None) -> Any:
        """One operation; a failure is told with the factor and the shapes of what it read."""
        args = [] if op.kind == "over" else [env[a] if isinstance(a, str) else a for a in op.args]
        try:
            return self.apply(op, args)
        except WorldformulaError as error:
            if op.factor is None or str(op.factor) in str(error):
                raise
            raise type(error)(f"{op.factor}: {error}") from error
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            if op.factor is None:
                raise ShapeError(f"{op.kind} {op.how}: {error}\n" + self.shapes(op, args)) from error
            what = "its network failed" if op.kind == "net" else f"{op.kind} failed"
            raise ShapeError(f"{op.factor}: {what}: {error}\n" + self.shapes(op, args)) from error

    def shapes(self, op: Op, args: list[Any]) -> str:
        """The table *variable | declared | got* for what an operation read."""
        conditions = op.factor.conditions if op.factor is not None and op.kind == "net" else [None] * len(args)
        rows = []
        for ref, condition, value in zip(op.args, conditions, args, strict=False):
            tensors = [v for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, Tensor)]
            name = str(condition) if condition is not None else str(ref)
            declared = self.plan.shapes.get(condition.key, "undeclared") if condition is not None else "-"
            rows.append((name, declared, ", ".join(str(tuple(v.shape)) for v in tensors) or repr(value)))
        return table(("variable", "declared", "got"), rows)

    def checked(self, op: Op, value: Any) -> Any:
        """An input: a tensor that ends in the declared event shape."""
        variable = op.variable
        assert variable is not None
        declared = self.plan.shapes.get(variable.key)
        if not isinstance(value, Tensor):
            raise ShapeError(f"{variable.key}: expected a tensor, got {type(value).__name__}; write torch.as_tensor(...)")
        if declared is not None and tuple(value.shape[value.ndim - len(declared) :]) != declared:
            rows = [(variable, declared, tuple(value.shape))]
            raise ShapeError(
                f"{variable.key} does not end in the declared event shape\n" + table(("variable", "declared", "got"), rows)
                + "\npass it as batch + event, or change shape= on its factor"
            )
        return value

    def apply(self, op: Op, args: list[Any]) -> Any:
        factor = op.factor
        match op.kind:
            case "input":
                return self.checked(op, self.given[op.variable.key])  # type: ignore[union-attr]
            case "noise":
                return self.given.get(op.name)
            case "net":
                return self._output(factor, factor.net(*args))  # type: ignore[union-attr, arg-type]
            case "params":
                shape = self.plan.shapes.get(factor.variable.key)  # type: ignore[union-attr]
                return factor.family.params(args[0] if args else factor.head(), shape, factor.given)  # type: ignore[union-attr]
            case "stop":
                return runtime.stop(args[0])
            case "draw":
                return self._draw(op, args)
            case "logp":
                rank = self.plan.ranks.get(factor.variable.key, factor.rank)  # type: ignore[union-attr]
                return factor.family.log_prob(self._wide(op.args[0], args[0], args[1], rank), args[1], rank)  # type: ignore[union-attr]
            case "kl":
                return self._kl(op, args)
            case "negative":
                return -args[0]
            case "detach":
                return args[0].detach() if isinstance(args[0], Tensor) else args[0]
            case "batch":
                return getattr(args[0], op.how)()
            case "over":
                values = torch.stack(self.history[op.reads[0]], 1)
                return getattr(values, op.how)(1)
            case "binary":
                return self._binary(op, *args)
        raise TypeError(f"no interpreter rule for {op.kind}")

    def _output(self, factor: Factor, value: Any) -> Any:
        """What a network returned; for a deterministic factor it must end in the declared shape."""
        if factor.family is None and factor.shape is not None and isinstance(value, Tensor):
            if tuple(value.shape[max(value.ndim - len(factor.shape), 0) :]) != factor.shape:
                rows = [(factor.variable, factor.shape, tuple(value.shape))]
                raise HeadError(
                    f"{factor}: the network's result does not end in the declared event shape\n"
                    + table(("variable", "declared", "got"), rows)
                )
        return value

    def _draw(self, op: Op, args: list[Any]) -> Any:
        factor, (params, noise) = op.factor, args
        assert factor is not None and factor.family is not None
        if self.deterministic:
            return factor.family.mode(params)
        noise = runtime.noise_for(factor.family, params, factor.rank, noise, self.given.get("rng"))
        if op.how == "straight-through":
            return factor.family.straight_through(params, noise)  # type: ignore[attr-defined]
        return factor.family.sample(params, noise)

    def source_factor(self, ref: Ref) -> Factor:
        op = self.ops[str(ref)]
        while op.kind != "params":
            op = self.ops[op.reads[0]]
        assert op.factor is not None
        return op.factor

    def _wide(self, ref: Ref, params: Any, like: Any, rank: int) -> Any:
        factor = self.source_factor(ref)
        if factor.net is not None or factor.constants is None:
            return params
        assert factor.family is not None
        return runtime.wide(factor.family, params, like, rank)

    def _kl(self, op: Op, args: list[Any]) -> Any:
        q, p = (self.source_factor(a) for a in op.args)
        assert q.family is not None and p.family is not None
        rank, (left, right) = self.plan.ranks.get(q.variable.key, q.rank), args
        closed = kl_pair(q.family, p.family)
        assert closed is not None
        if q.net is None and p.net is None:
            return torch.as_tensor(closed(left, right, rank, self.plan.shapes.get(q.variable.key)))
        if q.net is not None:
            return closed(left, self._wide(op.args[1], right, left, rank), rank)
        return closed(self._wide(op.args[0], left, right, rank), right, rank)

    def _binary(self, op: Op, left: Any, right: Any) -> Any:
        if isinstance(left, Tensor) and isinstance(right, Tensor) and left.ndim and right.ndim and left.shape != right.shape:
            raise ShapeError(
                f"{op.args[0]} {op.how} {op.args[1]} would broadcast one batch shape into another\n"
                + table(("variable", "declared", "got"), [(op.args[0], "-", tuple(left.shape)), (op.args[1], "-", tuple(right.shape))])
            )
        match op.how:
            case "+":
                return left + right
            case "-":
                return left - right
            case "*":
                return left * right
            case "/":
                return left / right
        pick = torch.maximum if op.how == "max" else torch.minimum
        if isinstance(left, Tensor) and isinstance(right, Tensor):
            return pick(left, right)
        if not isinstance(left, Tensor) and not isinstance(right, Tensor):
            return max(left, right) if op.how == "max" else min(left, right)
        tensor, bound = (left, right) if isinstance(left, Tensor) else (right, left)
        return tensor.clamp(min=bound) if op.how == "max" else tensor.clamp(max=bound)


def broadcast_error(names: list[str], shapes: list[tuple[int, ...]]) -> FormulaError:
    """Terms of one formula whose batch shapes differ."""
    return ShapeError(
        "the terms have different batch shapes, and adding them would broadcast silently\n"
        + table(("variable", "declared", "got"), [(n, "one batch shape", s) for n, s in zip(names, shapes, strict=True)])
        + "\ndeclare the event shape of each variable (shape=), so that log sums the right axes"
    )
