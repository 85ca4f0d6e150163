"""The interpreter: the plan as lowered, one operation and one time step at a time, every shape checked.

It is the debug mode, the equality test of the emitted code, and the source of error messages with a table
*variable | declared | got*.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from worldformula import families
from worldformula.errors import HeadError, ShapeError, WorldformulaError, table
from worldformula.families.base import Family, kl_pair, total
from worldformula.formula import runtime
from worldformula.formula.code.lines import METHODS
from worldformula.formula.factors.experts import Experts
from worldformula.formula.plan.plan import Op, Plan, Ref
from worldformula.formula.syntax.factor import Factor, naming
from worldformula.formula.syntax.functions import FUNCTIONS

Env = dict[str, Any]


def interpret(
    plan: Plan, arguments: Mapping[str, Any], *, deterministic: bool = False
) -> tuple[Any, tuple[Any, ...], tuple[Any, ...]]:
    """Evaluate the plan; arguments and results are those of the emitted function."""
    return _Interpreter(plan, arguments, deterministic).run()


def diagnose(
    plan: Plan, arguments: Mapping[str, Any], *, deterministic: bool
) -> tuple[WorldformulaError | None, frozenset[str]]:
    """About a call that failed: the error that names the factor and the shapes, or None where the plan itself does not
    fail with one; and the parameters whose network returns a dict instead of one tensor.
    """
    interpreter = _Interpreter(plan, arguments, deterministic)
    named: WorldformulaError | None = None
    try:
        with torch.no_grad():
            interpreter.run()
    except WorldformulaError as error:
        named = error
    except Exception:  # noqa: BLE001  the original error is raised
        named = None
    return named, frozenset(interpreter.structured)


def noise_drawn(plan: Plan, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """The noise of a call by site, that of sites whose shape only their network tells included."""
    interpreter = _Interpreter(plan, arguments, deterministic=False)
    with torch.no_grad():
        interpreter.run()
    return interpreter.noise | {s.name: n for s in plan.sites if (n := arguments.get(s.name)) is not None}


class _Interpreter:
    def __init__(self, plan: Plan, arguments: Mapping[str, Any], deterministic: bool) -> None:
        self.plan, self.given, self.deterministic = plan, arguments, deterministic
        self.ops = plan.by_name
        self.once: Env = {}
        self.noise: dict[str, Tensor] = {}  # of the once-per-call sites
        self.history: dict[str, list[Any]] = {}
        self.structured: set[str] = set()

    def run(self) -> tuple[Any, tuple[Any, ...], tuple[Any, ...]]:
        """Once-per-call operations, the walk through time, and what waits for it."""
        waiting = self._waiting()
        for op in self.plan.ops:
            if not op.step and op.name not in waiting:
                self.once[op.name] = self.evaluate(op, self.once)
        if any(op.step for op in self.plan.ops):
            self.walk()
        for op in self.plan.ops:
            if not op.step and op.name not in self.once:
                self.once[op.name] = self.evaluate(op, self.once)
        terms = tuple(self.result(t.name) for t in self.plan.terms)
        samples = tuple(self.result(name) for name in self.plan.samples.values())
        return (None if self.plan.value is None else self.result(self.plan.value)), terms, samples

    def _waiting(self) -> set[str]:
        """The once-per-call operations that need the sum over time; one pass, as operations stand behind what they
        read.
        """
        found: set[str] = set()
        for op in self.plan.ops:
            if not op.step and (op.kind == "over" or not found.isdisjoint(op.reads)):
                found.add(op.name)
        return found

    def result(self, ref: Ref) -> Any:
        """A value as the emitted function returns it: step values as [B·T, ...]."""
        if not isinstance(ref, str):
            return ref
        if not self.ops[ref].step:
            return self.once[ref]
        return runtime.stack(self.history[ref], len(self.ops[ref].axes))

    # -------------------------------------------------------------------------------------------------------- time

    def walk(self) -> None:
        """The loop over time, step by step, nothing hoisted."""
        names = self.plan.arguments
        flags = self.given[names[self.plan.reset]] if self.plan.reset else None
        carry = {key: self.given[f"start_{key}"] for key in self.plan.carries}
        last = {key: self.given[f"start_{key}"] for key in self.plan.shifts}
        for t in range(self.given["T"]):
            keep = None if flags is None else runtime.kept(flags[:, t])
            env = dict(self.once)
            for op in self.plan.ops:
                if op.step:
                    env[op.name] = self.step(op, env, t, keep, carry, last)
                    self.history.setdefault(op.name, []).append(env[op.name])
            carry = {key: env[source] for key, source in self.plan.carries.items()}
            last = {key: self.given[names[key]][:, t] for key in self.plan.shifts}

    def step(self, op: Op, env: Env, t: int, keep: Tensor | None, carry: Env, last: Env) -> Any:
        """One operation of step t."""
        key = op.variable.key if op.variable is not None else ""
        names = self.plan.arguments
        match op.kind:
            case "input":
                return self.given[names[key]][:, t]
            case "noise":
                noise = self.given.get(op.name)
                return None if noise is None else noise.select(len(op.axes) + 1, t)
            case "present":
                return self.given[op.name][:, t]
            case "mask":
                return self.given[names[op.how]][:, t]
            case "unroll":
                return env[op.reads[0]].select(len(op.axes) + 1, t)
            case "flags":
                return keep
            case "carry":
                initial = getattr(self.plan.initial, key, None)
                return carry[key] if keep is None else runtime.restart(carry[key], keep, initial)
            case "shift":
                value = last[key].to(self.given[names[key]].dtype)
                return value if keep is None else runtime.restart(value, keep)
            case "repeat":
                return env[op.reads[0]]
        return self.evaluate(op, env)

    # ------------------------------------------------------------------------------------------------ one operation

    def evaluate(self, op: Op, env: Env) -> Any:
        """One operation; a failure is told with the factor and the shapes of what it read."""
        args = [] if op.kind == "over" else [env[a] if isinstance(a, str) else a for a in op.args]
        try:
            with nullcontext() if op.factor is None else naming(op.factor):
                return self.apply(op, args)
        except (torch.OutOfMemoryError, WorldformulaError):
            raise
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            what = "its network failed" if op.kind == "net" else f"{op.kind} {op.how}".strip() + " failed"
            whose = f"{op.factor}: " if op.factor is not None else ""
            advice = "\nmake the network take these shapes, with one batch" if op.kind == "net" else self._bare(op)
            raise ShapeError(f"{whose}{what}: {error}\n" + self.shapes(op, args) + advice) from error

    def _bare(self, op: Op) -> str:
        """Advice about a value whose event axes nobody declares, where that may be why an operation failed."""
        inputs = {read.name: key for key, read in self.plan.inputs.items() if not self.plan.shapes.get(key)}
        if op.kind == "draw" and self.plan.reference is not None and not self.plan.reference[1]:
            inputs, reads = {"reference": self.plan.reference[0]}, ["reference"]
        elif op.kind == "binary":
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
        conditions = op.factor.conditions if op.factor is not None and op.kind == "net" else [None] * len(args)
        rows = []
        for ref, condition, value in zip(op.args, conditions, args, strict=False):
            tensors = [v for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, Tensor)]
            name = str(condition) if condition is not None else self.plan.labels.get(str(ref), str(ref))
            shape = self.plan.shapes.get(condition.key) if condition is not None else None
            declared = (
                "-" if condition is None else "undeclared" if shape is None else f"[..., {', '.join(map(str, shape))}]"
            )
            rows.append((name, declared, ", ".join(str(list(v.shape)) for v in tensors) or repr(value)))
        return table(("variable", "declared", "got"), rows)

    def apply(self, op: Op, args: list[Any]) -> Any:
        """The value of an operation whose arguments are at hand."""
        match op.kind:
            case "input" | "noise":
                return self.given.get(op.name)
            case "whole" | "symbol":
                assert op.variable is not None
                return self.given[self.plan.arguments[op.variable.key]]
            case "stop":
                return runtime.stop(args[0])
            case "same":
                return self._same(op, args)
            case "negative":
                return -args[0]
            case "detach":
                return args[0].detach() if isinstance(args[0], Tensor) else args[0]
            case "batch":
                return getattr(args[0], op.how)()
            case "over":
                return self._over(op)
            case "binary":
                return _binary(op.how, *args)
            case "call":
                assert op.function is not None
                own = () if op.factor is None else (op.factor.net,)
                return op.function(*own, *args, **dict(op.options))
            case "combine":
                return self._combine(op, args)
            case "shares":
                return families.log_shares(args[0])
            case "present":
                return self.given[op.name]
            case "item":
                return args[0][int(op.how)]
            case "group":
                return dict(zip(op.how.split(), args, strict=True))
            case "zeros":
                return runtime.zeros(args[0], args[1], *map(int, re.findall(r"[0-9]+", op.how)))
            case "along":
                has = self.ops[op.reads[0]].axes
                return runtime.along(args[0], *(0 if a in has else self.plan.sizes[a] for a in op.axes))
            case "function" | "event" | "lift" | "samples":
                return self._arithmetic(op, args)
        assert op.factor is not None
        return self._of_factor(op, op.factor, args)

    def _combine(self, op: Op, args: list[Any]) -> Any:
        """The parameters of experts combined."""
        factor = op.factor
        assert isinstance(factor, Experts)
        count = len(factor.parts)
        flags = dict(zip(op.how.split(","), args[count:], strict=True)) if op.how else {}
        present = tuple(flags.get(str(i)) for i in range(count)) if flags else ()
        return factor.combine(*args[:count], present=present, **factor.settings)

    def _over(self, op: Op) -> Tensor:
        """The reduction of the steps."""
        name = op.reads[0]
        if op.how == "last":
            return self.history[name][-1]  # type: ignore[no-any-return]
        if not self.ops[name].axes and not op.options:
            return getattr(torch.stack(self.history[name], 1), op.how)(1)  # type: ignore[no-any-return]
        steps = torch.stack(self.history[name], -1)
        B, T = steps.shape[-2:]
        given = {k: self.given[self.plan.arguments[v]] if isinstance(v, str) else v for k, v in op.options}
        return runtime.counted(steps.flatten(-2), B, T, op.how, **given)

    def _arithmetic(self, op: Op, args: list[Any]) -> Any:
        """Functions of one value, and reductions over event and sample axes."""
        value = args[0]
        if op.kind == "function":
            name, _, limits = op.how.partition(", ")
            given = dict(part.split("=") for part in limits.split(", ")) if limits else {}
            bounds = {k: None if v == "None" else float(v) for k, v in given.items()}
            value = torch.as_tensor(value)
            return value.clamp(**bounds) if name == "clamp" else FUNCTIONS[name].call(value)
        if op.kind == "lift":
            return value[(..., *(None,) * int(op.how))]
        if op.kind == "event":
            how, _, rank = op.how.partition(" ")
            return total(value.square() if how == "norm2" else value, int(rank))
        assert op.axis is not None
        place = self.ops[op.reads[0]].axes.index(op.axis)
        if op.how == "dreg":
            return runtime.dreg(value, place, *args[1:])
        if op.how == "logmeanexp":
            return value.logsumexp(place) - math.log(self.plan.sizes[op.axis])
        return getattr(value, op.how)(place)

    def _of_factor(self, op: Op, factor: Factor, args: list[Any]) -> Any:
        if op.kind == "net":
            return self._output(factor, self._net(op, factor, args))
        family, rank, shape = factor.family, self.plan.rank_of(factor), self.plan.shape_of(factor)
        assert family is not None
        match op.kind:
            case "params":
                if args and not isinstance(args[0], Tensor):
                    self.structured.add(op.name)
                return family.params(args[0] if args else factor.head(), shape, factor.given)
            case "wide":
                return runtime.wide(family, args[0], args[1], rank)
            case "draw":
                return self._draw(op, factor, family, *args)
            case "support":
                assert shape is not None
                return runtime.support(family, rank, shape, *args)
            case "logp":
                return family.log_prob(args[0], args[1], rank)
            case "method":
                return torch.as_tensor(getattr(family, op.how)(args[0], rank, shape))
            case "kl":
                assert op.other is not None
                assert op.other.family is not None
                closed = kl_pair(family, op.other.family)
                assert closed is not None
                return torch.as_tensor(closed(args[0], args[1], rank, shape))
        raise TypeError(f"no interpreter rule for {op.kind}")

    def _net(self, op: Op, factor: Factor, args: list[Any]) -> Any:
        """A network sees one batch axis in place of the sample axes and the batch."""
        net: Any = factor.net
        net = net[int(op.how)] if op.how else net
        folds = len(op.axes) - (not self.plan.batched)
        if folds <= 0:
            return net(*args)
        sizes = (*self.plan.lead(op), *((-1,) if self.plan.batched else ()))
        return runtime.unfold(net(*(runtime.fold(a, folds) for a in args)), *sizes)

    @staticmethod
    def _output(factor: Factor, value: Any) -> Any:
        """What a network returned; for a deterministic factor it must end in the declared shape."""
        if factor.family is not None:
            return value
        count, several = len(factor.variables), isinstance(value, tuple | list)
        if (len(value) != count if several else count > 1) or not (several or isinstance(value, Tensor)):
            expected = "a tensor" if count == 1 else f"a tuple of {count} tensors"
            got = f"{type(value).__name__} of {len(value)}" if several else type(value).__name__
            raise HeadError(
                f"{factor}: expected {expected} from its network, got {got}; a header names all outputs, 'a, b = f(x)'"
            )
        shape = factor.shape
        if shape is None or count > 1:
            return value
        if value.shape[max(value.ndim - len(shape), 0) :] != shape:
            raise HeadError(
                f"{factor}: the network's result does not end in the declared event shape\n"
                + table(("variable", "declared", "got"), [(factor.variable, list(shape), list(value.shape))])
                + "\nchange the network, or shape="
            )
        return value

    def _draw(self, op: Op, factor: Factor, family: Family, params: Any, noise: Any) -> Any:
        new = [0 if a in self.ops[op.reads[0]].axes else self.plan.sizes[a] for a in op.axes]
        if self.deterministic and not factor.unbatched:
            return runtime.along(family.mode(params), *new)
        if self.deterministic:
            return runtime.mode_like(family, params, noise)
        if self.plan.noise_shape(self.ops[str(op.args[1])]) is None:
            lead = [n for n in new if n]
            noise = runtime.noise_for(family, params, self.plan.rank_of(factor), noise, self.given.get("rng"), *lead)
        self.noise[str(op.args[1])] = noise
        draw = getattr(family, METHODS.get(op.how, "sample"))(params, noise)
        return draw.detach() if op.how == "score" and family.reparametrised else draw

    def _same(self, op: Op, args: list[Any]) -> None:
        shapes = [(self.plan.labels.get(n, n), v.shape) for n, v in zip(op.reads, args, strict=True) if v.ndim]
        if len({shape for _, shape in shapes}) > 1:
            raise ShapeError(runtime.batch_table(shapes))


def _binary(how: str, left: Any, right: Any) -> Any:
    match how:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "/":
            return left / right
        case "^":
            return left**right
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return torch.maximum(left, right) if how == "max" else torch.minimum(left, right)
    if not isinstance(left, Tensor) and not isinstance(right, Tensor):
        return max(left, right) if how == "max" else min(left, right)
    tensor, bound = (left, right) if isinstance(left, Tensor) else (right, left)
    return tensor.clamp(min=bound) if how == "max" else tensor.clamp(max=bound)
