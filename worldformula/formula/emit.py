"""From the plan to PyTorch source, and from the source to a function whose lines tracebacks can show."""

from __future__ import annotations

import itertools
import linecache
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from worldformula import families
from worldformula.families.base import Family, kl_pair
from worldformula.formula import runtime
from worldformula.formula.factors import Factor
from worldformula.formula.plan import Op, Plan, Ref

RUNTIME = ("flat", "steps", "stack", "kept", "shift", "restart", "repeat", "wide", "stop", "noise_for")
INLINE = ("net", "binary", "negative", "detach", "batch", "over")


@dataclass(frozen=True)
class Emitted:
    """A function ``f(self, **arguments) -> (value, terms, samples)`` and the source it was made from."""

    source: str
    arguments: tuple[str, ...]
    call: Callable[..., tuple[Any, tuple[Any, ...], tuple[Any, ...]]]


_SERIAL = itertools.count()


def emit(plan: Plan, networks: Mapping[int, str], title: str, *, deterministic: bool = False) -> Emitted:
    """Write the function of a plan. ``networks`` maps ``id(network)`` to its attribute of the expression."""
    writer = _Writer(plan, networks, deterministic)
    source = writer.write(title)
    filename = f"<formula {next(_SERIAL)}: {title[:60]}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    scope: dict[str, Any] = {"torch": torch, **{name: getattr(runtime, name) for name in RUNTIME}, **writer.globals}
    exec(compile(source, filename, "exec"), scope)  # noqa: S102  the source was written by the lines above
    return Emitted(source, tuple(writer.arguments()), scope["formula"])


class _Writer:
    def __init__(self, plan: Plan, networks: Mapping[int, str], deterministic: bool) -> None:
        self.plan, self.networks, self.deterministic = plan, networks, deterministic
        self.ops = plan.by_name
        self.globals: dict[str, Any] = {}
        self.names: dict[Family, str] = {}
        self.used: dict[str, list[str]] = {}
        for op in plan.ops:
            for arg in op.reads:
                self.used.setdefault(arg, []).append(op.name)
        shown = [t.name for t in plan.terms if isinstance(t.name, str)] + list(plan.samples.values())
        self.outputs = {*shown, *([plan.value] if isinstance(plan.value, str) else []), *plan.carries.values()}
        self.in_loop = False

    # ------------------------------------------------------------------------------------------------- the function

    def arguments(self) -> list[str]:
        names = [*self.plan.inputs, *(["T"] if self.plan.free_running else [])]
        names += [f"start_{key}" for key in (*self.plan.carries, *self.plan.shifts)]
        if not self.deterministic:
            names += [op.name for op in self.plan.sites]
            names += ["rng"] if any(self.noise_shape(op) is None for op in self.plan.sites) else []
        return names

    def write(self, title: str) -> str:
        late = self._after_time()
        first = [op for op in self.plan.ops if not op.step and op.name not in late]
        body = self.lines(first)
        if self.plan.index is not None:
            body += self.time_lines()
        body += self.lines([op for op in self.plan.ops if op.name in late])
        value = self.ref(self.plan.value) if self.plan.value is not None else "None"
        terms = self._tuple(self.ref(t.name) for t in self.plan.terms)
        samples = self._tuple(self.ref(name) for name in self.plan.samples.values())
        head = [f"def formula(self, {', '.join(self.arguments())}):", f'    """{title}"""'.replace("\\", "\\\\")]
        source = "\n".join([*head, *(f"    {line}" if line else "" for line in body), f"    return {value}, {terms}, {samples}"])
        return "\n".join([*self.preamble(), "", "", source, ""])

    @staticmethod
    def _tuple(items: Any) -> str:
        items = list(items)
        return f"({', '.join(items)}{',' if len(items) == 1 else ''})"

    def preamble(self) -> list[str]:
        plain = [n for f, n in self.names.items() if n == f.name and f == getattr(families, n, None)]
        chosen = {n: f for f, n in self.names.items() if n not in plain}
        imported = sorted({*plain, *(type(f).__name__ for f in chosen.values())})
        lines = [f"from worldformula.families import {', '.join(imported)}"] if imported else []
        return ["import torch", *lines, *([""] if chosen else []), *(f"{n} = {f!r}" for n, f in chosen.items())]

    def _after_time(self) -> set[str]:
        """The once-per-call operations that wait for the sum over time."""
        late: set[str] = set()
        for op in self.plan.ops:
            if not op.step and (op.kind == "over" or any(a in late for a in op.reads)):
                late.add(op.name)
        return late

    # ------------------------------------------------------------------------------------------------------- time

    def time_lines(self) -> list[str]:
        stage = self.plan.stages
        before = [op for op in self.plan.ops if stage[op.name] == "before"]
        loop = [op for op in self.plan.ops if stage[op.name] == "loop"]
        after = [op for op in self.plan.ops if stage[op.name] == "after"]
        series = next((name for name, op in self.plan.inputs.items() if op.step), None)
        lines = [f"B, T = {series}.shape[:2]"] if series else [f"B = start_{next(iter(self.plan.carries))}.shape[0]"]
        written = self.lines(before)
        lines += ["# before the loop: needs data only, all steps at once", *written] if written else []
        if loop:
            inside = {a for op in loop for a in self._reads(op)} | {s for s in self.plan.carries.values()}
            flags = [op.name for op in before if op.kind == "flags"]
            skipped = ("flags", "noise") if self.deterministic else ("flags",)
            sliced = [op for op in before if op.name in inside and op.kind not in skipped]
            if self.plan.carries and flags:
                lines.append(f"{flags[0]}_s = {flags[0]}.unbind(1)")
            for op in sliced:
                is_noise = op.kind == "noise"
                lines.append(f"{op.name}_s = " + (f"{op.name}.unbind(1)" if is_noise else f"steps({op.name}, B)"))
            lines += self.loop_lines(loop, stage)
        if after:
            lines += ["# after the loop: all steps at once", *self.lines(after)]
        return lines

    def _reads(self, op: Op) -> tuple[str, ...]:
        """What a line reads, networks that are written inside it included."""
        return tuple(r for a in op.reads for r in ((a, *self._reads(self.ops[a])) if self.inlined(a) else (a,)))

    def loop_lines(self, loop: list[Op], stage: Mapping[str, str]) -> list[str]:
        outside = [op.name for op in loop if op.kind != "carry" and self._needed_outside(op)]
        lines = [f"{', '.join(f'{n}_s' for n in outside)} = {', '.join('[]' for _ in outside)}"] if outside else []
        lines.append("# in the loop: from carry to carry")
        for key, source in self.plan.carries.items():
            lines.append(f"{self._carry(source, stage)} = start_{key}")
        lines.append("for t in range(T):")
        self.in_loop = True
        body = self.lines(loop)
        body += [f"{self._carry(s, stage)} = {s}_s[t]" for s in self.plan.carries.values() if stage[s] != "loop"]
        self.in_loop = False
        body += [f"{name}_s.append({name})" for name in outside]
        lines += [f"    {line}" for line in body]
        return lines + [f"{name} = stack({name}_s)" for name in outside]

    @staticmethod
    def _carry(source: str, stage: Mapping[str, str]) -> str:
        return source if stage[source] == "loop" else f"{source}_carry"

    def _needed_outside(self, op: Op) -> bool:
        stage = self.plan.stages
        shown = {t.name for t in self.plan.terms} | set(self.plan.samples.values())
        return op.name in shown or any(stage[user] != "loop" for user in self.used.get(op.name, ()))

    # ------------------------------------------------------------------------------------------------------ one line

    def lines(self, ops: list[Op]) -> list[str]:
        written = []
        for op in ops:
            if self.inlined(op.name):
                continue
            expression = self.expression(op)
            if expression is not None and expression != op.name:
                line = f"{op.name} = {expression}"
                header = op.factor if op.kind in ("net", "params") else None
                written.append(f"{line:<72}  # {header}" if header is not None else line)
        return written

    def inlined(self, name: str) -> bool:
        """Whether an operation is written inside its only user's line."""
        op = self.ops[name]
        users = self.used.get(name, [])
        if op.kind not in INLINE or len(users) != 1 or name in self.outputs:
            return False
        user = self.ops[users[0]]
        if op.kind == "net":
            return user.kind == "params" and self.plan.stages[name] == self.plan.stages[user.name]
        return self.plan.stages[name] == self.plan.stages[user.name] and user.kind in (*INLINE, "over")

    def ref(self, ref: Ref, tight: bool = False) -> str:
        """An argument as written in a line: a number, a name, one step of a series, or an inlined expression."""
        if not isinstance(ref, str):
            return repr(ref)
        if self.inlined(ref):
            shown = self.expression(self.ops[ref])
            assert shown is not None
            inner = self.ops[ref]
            loose = inner.kind == "negative" or (inner.kind == "binary" and inner.how in "+-*/")
            return f"({shown})" if tight and loose else shown
        if self.in_loop and self.plan.stages[ref] == "before":
            return f"{ref}_s[t]"
        return ref

    def family(self, family: Family) -> str:
        if family not in self.names:
            name = family.name
            while name in self.names.values():
                name += "_"
            self.names[family], self.globals[name] = name, family
        return self.names[family]

    def network(self, net: Any) -> str:
        if id(net) in self.networks:
            return f"self.{self.networks[id(net)]}"
        name = next((n for n, v in self.globals.items() if v is net), None)
        if name is None:
            name = f"function_{sum(1 for n in self.globals if n.startswith('function_')) + 1}"
            self.globals[name] = net
        return name

    def source_factor(self, params: Ref) -> Factor:
        """The factor whose parameters an argument holds."""
        op = self.ops[str(params)]
        while op.kind != "params":
            op = self.ops[op.reads[0]]
        assert op.factor is not None
        return op.factor

    def noise_shape(self, op: Op) -> tuple[int, ...] | None:
        """The event part of a site's noise shape, or None where the variable's shape is not declared."""
        assert op.factor is not None and op.factor.family is not None and op.variable is not None
        shape = self.plan.shapes.get(op.variable.key)
        known = op.step or reference(self.plan) is not None
        return None if shape is None or not known else op.factor.family.noise_shape((), shape)

    def expression(self, op: Op) -> str | None:
        """The right-hand side of an operation; None where nothing is to be written."""
        factor, args = op.factor, [self.ref(a) for a in op.args]
        match op.kind:
            case "input" | "noise":
                if op.kind == "noise" or not op.step:
                    return None
                return f"flat({op.name})"
            case "flags":
                return f"kept({op.how}, {self._like()})"
            case "shift":
                keep = next((o.name for o in self.plan.ops if o.kind == "flags"), None)
                key = op.variable.key  # type: ignore[union-attr]
                return f"flat(shift({args[0]}.unflatten(0, (B, T)), start_{key}, {keep}))"
            case "carry":
                return self._carry_expression(op)
            case "repeat":
                return f"repeat({args[0]}, T)"
            case "net":
                return f"{self.network(factor.net)}({', '.join(args)})"  # type: ignore[union-attr]
            case "params":
                return self._params(op)
            case "stop":
                return f"stop({args[0]})"
            case "draw":
                return self._draw(op)
            case "logp":
                return self._log_prob(op)
            case "kl":
                return self._kl(op)
            case "negative":
                return f"-{self.ref(op.args[0], tight=True)}"
            case "detach":
                return f"{self.ref(op.args[0], tight=True)}.detach()"
            case "batch":
                return f"{self.ref(op.args[0], tight=True)}.{op.how}()"
            case "over":
                return f"{self.ref(op.args[0], tight=True)}.unflatten(0, (B, T)).{op.how}(1)"
            case "binary":
                return self._binary(op)
        raise TypeError(f"no code rule for {op.kind}")

    def _like(self) -> str:
        inputs = [n for n, op in self.plan.inputs.items() if op.kind == "input"]
        starts = [f"start_{key}" for key in (*self.plan.carries, *self.plan.shifts)]
        return (starts or inputs)[0]

    def _carry_expression(self, op: Op) -> str:
        key = op.variable.key  # type: ignore[union-attr]
        source = self._carry(self.plan.carries[key], self.plan.stages)
        if self.plan.reset is None:
            return source
        initial = f", self.initial.{key}" if self.plan.initial is not None and hasattr(self.plan.initial, key) else ""
        flags = next(o.name for o in self.plan.ops if o.kind == "flags")
        return f"restart({source}, {flags}_s[t]{initial})"

    def _params(self, op: Op) -> str:
        factor = op.factor
        assert factor is not None and factor.family is not None
        if factor.net is None and factor.constants is None:
            return repr(factor.family.params(None, factor.shape, factor.fixed))
        head = self.ref(op.args[0]) if op.args else "None"
        given: dict[str, str] = {k: repr(v) for k, v in factor.fixed.items()}
        if factor.constants is not None:
            path = self.network(factor.constants)
            for name in [*dict(factor.constants.named_parameters()), *dict(factor.constants.named_buffers())]:
                if name == "head":
                    head = f"{path}.head"
                else:
                    given[name] = f"{path}.{name}"
        fixed = ", {" + ", ".join(f"{k!r}: {v}" for k, v in given.items()) + "}" if given else ""
        shape = self.plan.shapes.get(factor.variable.key)
        return f"{self.family(factor.family)}.params({head}, {shape}{fixed})"

    def _draw(self, op: Op) -> str:
        factor, (params, noise) = op.factor, op.args
        assert factor is not None and factor.family is not None
        family, shown = self.family(factor.family), self.ref(params)
        if self.deterministic:
            return f"{family}.mode({shown})"
        given = self.ref(noise)
        if self.noise_shape(self.ops[str(noise)]) is None:
            given = f"noise_for({family}, {shown}, {factor.rank}, {given}, rng)"
        method = "straight_through" if op.how == "straight-through" else "sample"
        return f"{family}.{method}({shown}, {given})"

    def _rank(self, factor: Factor) -> int:
        return self.plan.ranks.get(factor.variable.key, factor.rank)

    def _wide(self, params: Ref, like: str, rank: int) -> str:
        """Parameters, given the batch axes of ``like`` when their factor has no conditions of its own."""
        factor, shown = self.source_factor(params), self.ref(params)
        if factor.net is not None or factor.constants is None:
            return shown
        assert factor.family is not None
        return f"wide({self.family(factor.family)}, {shown}, {like}, {rank})"

    def _log_prob(self, op: Op) -> str:
        factor = op.factor
        assert factor is not None and factor.family is not None
        rank, value = self._rank(factor), self.ref(op.args[1])
        return f"{self.family(factor.family)}.log_prob({self._wide(op.args[0], value, rank)}, {value}, {rank})"

    def _kl(self, op: Op) -> str:
        q, p = self.source_factor(op.args[0]), self.source_factor(op.args[1])
        assert q.family is not None and p.family is not None
        rank, left, right = self._rank(q), self.ref(op.args[0]), self.ref(op.args[1])
        plain = type(q.family) is type(p.family)
        name = f"{self.family(q.family)}.kl" if plain else f"kl_{q.family.name}_{p.family.name}"
        if not plain:
            self.globals[name] = kl_pair(q.family, p.family)
        if q.net is None and p.net is None:
            both = q.constants is None and p.constants is None
            call = f"{name}({left}, {right}, {rank}, {self.plan.shapes.get(q.variable.key)})"
            return f"torch.as_tensor({call})" if both else call
        if q.net is not None:
            right = self._wide(op.args[1], left, rank)
        else:
            left = self._wide(op.args[0], right, rank)
        return f"{name}({left}, {right}, {rank})"

    def _binary(self, op: Op) -> str:
        if op.how in ("max", "min"):
            numbers = [a for a in op.args if not isinstance(a, str)]
            if len(numbers) == 1:
                tensor = next(a for a in op.args if isinstance(a, str))
                bound = {"max": "min", "min": "max"}[op.how]  # max(x, 1) keeps x from below
                return f"{self.ref(tensor, tight=True)}.clamp({bound}={numbers[0]!r})"
            if len(numbers) == 2:
                return repr(max(numbers) if op.how == "max" else min(numbers))
            return f"torch.{op.how}imum({', '.join(self.ref(a) for a in op.args)})"
        left, right = op.args
        weak = op.how in "+-" and isinstance(right, str) and self.ops[right].how in "*/"  # a + b * c needs no brackets
        return f"{self.ref(left, tight=op.how in '*/')} {op.how} {self.ref(right, tight=not weak)}"


def reference(plan: Plan) -> tuple[str, int] | None:
    """An input from which the batch shape can be read, and how many event axes it has."""
    for key, op in plan.inputs.items():
        if op.kind == "input" and not op.step and key in plan.ranks:
            return key, plan.ranks[key]
    return None


def register_networks(owner: nn.Module, used: list[Factor], initial: nn.Module | None = None) -> None:
    """Make every network of the factors a child of ``owner``, once, under a stable name: ``q_z_given_x``."""
    seen: set[int] = set()
    for factor in used:
        for part, suffix in ((factor.net, ""), (factor.constants, "_constants" if factor.net is not None else "")):
            if isinstance(part, nn.Module) and id(part) not in seen:
                seen.add(id(part))
                name = wish = factor.header.identifier + suffix
                count = 2
                while hasattr(owner, name):
                    name, count = f"{wish}_{count}", count + 1
                owner.add_module(name, part)
    if initial is not None:
        owner.add_module("initial", initial)


def networks(owner: nn.Module) -> dict[int, str]:
    """``id(network)`` -> attribute of the owner."""
    return {id(module): name for name, module in owner.named_children()}
