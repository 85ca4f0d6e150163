"""From the plan to PyTorch source, and from the source to a function whose lines tracebacks can show."""

from __future__ import annotations

import itertools
import linecache
import re
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from worldformula import families
from worldformula.families.base import Family
from worldformula.formula import runtime
from worldformula.formula.code.lines import Lines
from worldformula.formula.code.written import family_of
from worldformula.formula.plan.hoist_before import batch_dependent
from worldformula.formula.plan.plan import Op, Plan
from worldformula.formula.syntax.factor import Factor

Result = tuple[Any, tuple[Any, ...], tuple[Any, ...]]


@dataclass(frozen=True)
class Emitted:
    """A function ``f(self, *arguments) -> (value, terms, samples)`` and the source it was made from.

    ``plain`` names the parameters that the source writes out, which needs a tensor from their network.
    """

    source: str
    arguments: tuple[str, ...]
    call: Callable[..., Result]
    plain: frozenset[str]


_SERIAL = itertools.count()
LOOP = "for t in range(T):"


def emit(
    plan: Plan,
    networks: Mapping[int, str],
    title: str,
    *,
    deterministic: bool = False,
    structured: frozenset[str] = frozenset(),
) -> Emitted:
    """Write the function of a plan.

    ``networks`` maps ``id(network)`` to its attribute of the expression; ``structured`` are the parameters that come
    as a dict.
    """
    writer = _Writer(plan, networks, deterministic, structured)
    source = writer.write(title)
    filename = f"<formula {next(_SERIAL)}: {title[:60]}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    scope: dict[str, Any] = dict(writer.globals)
    exec(compile(source, filename, "exec"), scope)
    function = scope.pop(
        "formula"
    )  # without the cycle through its globals it is freed with the formula, source and all
    weakref.finalize(function, linecache.cache.pop, filename, None).atexit = False
    return Emitted(source, tuple(writer.arguments()), function, frozenset(writer.plain))


def _ours(family: Family) -> bool:
    """Whether `worldformula.families` exports the class of a family, and those of its components."""
    inside = re.findall(r"\b(\w+Family)\(", repr(family))
    return getattr(families, type(family).__name__, None) is type(family) and all(hasattr(families, n) for n in inside)


class _Writer(Lines):
    """Lays the lines out as a function: once per call, before the loop, in it, after it."""

    def write(self, title: str) -> str:
        """The whole module text."""
        late = self._after_time()
        body = self.lines([op for op in self.plan.ops if not op.step and op.name not in late])
        if self.plan.index is not None:
            body += self.time_lines()
        body += self.lines([op for op in self.plan.ops if op.name in late])
        body = looked_up(body, {"self", "torch", *self.arguments(), *self.globals})
        value = self.ref(self.plan.value) if self.plan.value is not None else "None"
        terms = _tuple(self.ref(t.name) for t in self.plan.terms)
        samples = _tuple(self.ref(name) for name in self.plan.samples.values())
        head = f"def formula({', '.join(['self', *self.arguments()])}):"
        lines = [f'"""{title}"""'.replace("\\", "\\\\"), *body, f"return {value}, {terms}, {samples}"]
        return "\n".join([*self.preamble(body), "", "", head, *(f"    {line}" for line in lines), ""])

    def preamble(self, body: list[str]) -> list[str]:
        """Imports, and the families with settings of their own; a user's own is bound, and named in a comment."""
        words = set(re.findall(r"\b(\w+)\(", "\n".join(body)))
        plain = [n for f, n in self.names.items() if f == getattr(families, n, None)]
        chosen = {n: f for f, n in self.names.items() if n not in plain}
        foreign = {n: chosen.pop(n) for n, f in list(chosen.items()) if not _ours(f)}
        built = re.findall(r"\b(\w+Family)\(", " ".join(map(repr, chosen.values())))  # components of a mixture too
        imported = sorted({*plain, *(type(f).__name__ for f in chosen.values()), *built})
        lines = [f"from worldformula.families import {', '.join(imported)}"] if imported else []
        lines += [f"from {module} import {name}" for name, module in sorted(self.imports.items())]
        called = [name for name in runtime.RUNTIME if name in words]
        lines += [f"from worldformula.formula.runtime import {', '.join(sorted(called))}"] if called else []
        imports = ["import torch", *(["import torch.nn.functional as F"] if "F." in "\n".join(body) else [])]
        lines += [f"# {n} is {f!r} of {type(f).__module__}" for n, f in foreign.items()]
        return [*imports, *lines, *([""] if chosen else []), *(f"{n} = {f!r}" for n, f in chosen.items())]

    def _after_time(self) -> set[str]:
        """The once-per-call operations that wait for the sum over time."""
        late: set[str] = set()
        for op in self.plan.ops:
            if not op.step and (op.kind == "over" or any(a in late for a in op.reads)):
                late.add(op.name)
        return late

    # ------------------------------------------------------------------------------------------------------- time

    def time_lines(self) -> list[str]:
        """Everything of a time step, in its three stages."""
        before, loop, after = (
            [op for op in self.plan.ops if self.stages[op.name] == s] for s in ("before", "loop", "after")
        )
        series = next((self.plan.arguments[k] for k, op in self.plan.inputs.items() if self.plan.series(op)), None)
        lines = [f"B, T = {series}.shape[:2]"] if series else [f"B = start_{next(iter(self.plan.carries))}.shape[0]"]
        first = [op for op in before if op.kind in ("flags", "shift") and (self.plan.carries or self.plan.shifts)]
        written = self.lines(first + [op for op in before if op.kind not in ("flags", "shift")])
        lines += ["# before the loop: needs data only, all steps at once", *written] if written else []
        lines += self.loop_lines(loop, before) if loop else []
        return lines + (["# after the loop: all steps at once", *self.lines(after)] if after else [])

    def _reads(self, op: Op) -> tuple[str, ...]:
        """What a line reads, networks that are written inside it included."""
        return tuple(r for a in op.reads for r in ((a, *self._reads(self.ops[a])) if self.inlined(a) else (a,)))

    def sliced(self, loop: list[Op], before: list[Op]) -> list[str]:
        """Lines that cut what the loop reads into steps."""
        inside = {a for op in loop for a in self._reads(op)} | set(self.looped().values())
        lines = []
        for op in before:
            if (op.kind == "flags" and self.looped()) or (
                op.kind == "noise" and op.name in inside and op.name in self.arguments()
            ):
                lines.append(f"{op.name}_s = {op.name}.unbind({len(op.axes) + 1})")
            elif op.kind not in ("flags", "noise") and op.name in inside:
                lines.append(f"{op.name}_s = steps({self._led(f'{op.name}, B', op)})")
        return lines

    def looped(self) -> dict[str, str]:
        """The carries that the loop itself reads."""
        here = [op for op in self.plan.ops if op.kind == "carry" and self.stages[op.name] == "loop"]
        read = {op.variable.key for op in here if op.variable}
        return {key: source for key, source in self.plan.carries.items() if key in read}

    def loop_lines(self, loop: list[Op], before: list[Op]) -> list[str]:
        """The loop from carry to carry."""
        lines = self.sliced(loop, before)
        outside = [op for op in loop if op.kind != "same" and self._needed_outside(op)]
        late = [op for op in outside if self._late(op)]
        collected = [part for op in outside if op not in late for part in self._parts(op)]
        empty = ", ".join("[]" for _ in collected)
        lines += [f"{', '.join(f'{n}_s' for n in collected)} = {empty}"] if collected else []
        kept = [str(op.factor) for op in loop if batch_dependent(op)]
        why = f"; {', '.join(kept)} depends on its batch, so it stays here" if kept else ""
        lines.append(f"# in the loop: from carry to carry{why}")
        lines += [f"{self.carried(source)} = start_{key}" for key, source in self.looped().items()]
        self.in_loop = True
        # Carries come first: a step overwrites the variables that they are read from.
        body = self.lines(sorted(loop, key=lambda op: op.kind != "carry"))
        self.in_loop = False
        lines.append(LOOP)
        body += [f"{self.carried(s)} = {s}_s[t]" for s in self.looped().values() if self.stages[s] != "loop"]
        body += [f"{name}_s.append({name})" for name in collected]
        lines += [f"    {line}" for line in body]
        for op in outside:
            lines += [] if op in late else [f"{n} = stack({self._led(f'{n}_s', op)})" for n in self._parts(op)]
        return lines + [f"{op.name} = {self.shifted(op)}" for op in late]

    def _parts(self, op: Op) -> list[str]:
        """The names that hold a value: one for each parameter of a distribution that is written out."""
        return (
            [f"{op.name}_{part}" for part in family_of(self.factor_of(op)).parameters]
            if op.name in self.plain
            else [op.name]
        )

    def _late(self, op: Op) -> bool:
        """Whether all steps of a carry are those of its source, one step later: one operation instead of one a step."""
        source = self.plan.carries[op.variable.key] if op.kind == "carry" and op.variable else None
        if source is None or op.axes:
            return False
        return self.stages[source] == "before" or (
            self.stages[source] == "loop" and self._needed_outside(self.ops[source])
        )

    def _needed_outside(self, op: Op) -> bool:
        shown = {t.name for t in self.plan.terms} | set(self.plan.samples.values())
        if self.inlined(op.name):
            return False
        return op.name in shown or any(self.stages[user] != "loop" for user in self.used.get(op.name, ()))


def looked_up(body: list[str], taken: set[str]) -> list[str]:
    """The body with the networks that its loop calls looked up once before it, under their own names where these are
    free: an attribute of a module costs a microsecond, at every step.
    """
    if LOOP not in body:
        return body
    start = body.index(LOOP)
    end = next((i for i, line in enumerate(body) if i > start and not line.startswith(" ")), len(body))
    words = {w for line in body for w in re.findall(r"(?<![\w.])[A-Za-z_]\w*", line.partition("  #")[0])}
    called = {n for line in body[start:end] for n in re.findall(r"\bself\.(\w+)\(", line)} - words - taken
    if not called:
        return body
    inside = [re.sub(rf"\bself\.({'|'.join(called)})\(", r"\1(", line) for line in body[start:end]]
    return [*body[:start], *(f"{name} = self.{name}" for name in sorted(called)), *inside, *body[end:]]


def _tuple(items: Iterable[str]) -> str:
    items = list(items)
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"


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
        owner.add_module("initial_state", initial)


def networks(owner: nn.Module) -> dict[int, str]:
    """``id(network)`` -> attribute of the owner."""
    return {id(module): name for name, module in owner.named_children()}
