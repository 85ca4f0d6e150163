"""From the plan to PyTorch source, and from the source to a function whose lines tracebacks can show."""

from __future__ import annotations

import itertools
import linecache
import re
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from worldformula import families
from worldformula.families.base import Family
from worldformula.formula import runtime
from worldformula.formula.code.writer import Writer
from worldformula.formula.plan.hoist_before import batch_dependent
from worldformula.formula.plan.plan import Op, Plan
from worldformula.formula.plan.rules import factor_of

Result = tuple[Any, tuple[Any, ...], tuple[Any, ...]]


@dataclass(frozen=True)
class Emitted:
    """A function ``f(self, *arguments) -> (value, terms, samples)`` and the source it was made from.

    ``written`` names the parameters that the source writes out, which needs a tensor from their network.
    """

    source: str
    arguments: tuple[str, ...]
    call: Callable[..., Result]
    written: frozenset[str]


_SERIAL = itertools.count()


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
    writer = Writer(plan, networks, deterministic, structured)
    source = _module(writer, title)
    filename = f"<formula {next(_SERIAL)}: {title[:60]}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    scope: dict[str, Any] = dict(writer.globals)
    exec(compile(source, filename, "exec"), scope)
    # Without the cycle through its globals the function is freed with the formula, source and all.
    function = scope.pop("formula")
    weakref.finalize(function, linecache.cache.pop, filename, None).atexit = False
    return Emitted(source, writer.arguments, function, frozenset(writer.written))


def _module(w: Writer, title: str) -> str:
    """The whole module text: once per call, before the loop, in it, after it."""
    once = [op for op in w.plan.ops if not op.step]
    body = w.lines(op for op in once if w.plan.moments[op.name] == "once")
    if w.plan.index is not None:
        body += _time_lines(w)
    body += w.lines(op for op in once if w.plan.moments[op.name] != "once" and op.name not in w.plan.awaited)
    body = [*(line for _, line in w.completed.values()), *body]
    value = w.result(w.plan.value) if w.plan.value is not None else "None"
    if w.plan.memories:
        kept = (f"{key!r}: {w.cache(w.ops[name])}" for key, name in w.plan.memories.items())
        value = f"{{{', '.join(kept)}}}"
    terms = _tuple(w.ref(t.name) for t in w.plan.terms)
    samples = _tuple(w.ref(name) for name in w.plan.samples.values())
    head = f"def formula({', '.join(['self', *w.arguments])}):"
    body.append(f"return {value}, {terms}, {samples}")
    lines = [f'"""{title}"""'.replace("\\", "\\\\"), *body]
    return "\n".join([*_preamble(w, body), "", "", head, *(f"    {line}" for line in lines), ""])


def _preamble(w: Writer, body: list[str]) -> list[str]:
    """Imports, and the families with settings of their own; a user's own is bound, and named in a comment."""
    words = set(re.findall(r"\b(\w+)\(", "\n".join(body)))
    plain = [n for f, n in w.families.items() if f == getattr(families, n, None)]
    chosen = {n: f for f, n in w.families.items() if n not in plain}
    foreign = {n: chosen.pop(n) for n, f in list(chosen.items()) if not _ours(f)}
    built = re.findall(r"\b(\w+Family)\(", " ".join(map(repr, chosen.values())))  # components of a mixture too
    placeholders = ["Given"] if any(f.asked for f in chosen.values()) else []
    imported = sorted({*plain, *(type(f).__name__ for f in chosen.values()), *built, *placeholders})
    lines = [f"from worldformula.families import {', '.join(imported)}"] if imported else []
    for known, (module, name) in sorted(w.imports.items(), key=lambda item: item[1]):
        lines.append(f"from {module} import {name}" + (f" as {known}" if known != name else ""))
    called = [name for name in runtime.RUNTIME if name in words]
    lines += [f"from worldformula.formula.runtime import {', '.join(sorted(called))}"] if called else []
    imports = ["import torch", *(["import torch.nn.functional as F"] if "F." in "\n".join(body) else [])]
    if any(re.search(r"\binf\b", repr(family)) for family in chosen.values()):
        imports.insert(0, "from math import inf")
    lines += [f"# {n} is {f!r} of {type(f).__module__}" for n, f in foreign.items()]
    return [*imports, *lines, *([""] if chosen else []), *(f"{n} = {f!r}" for n, f in chosen.items())]


def _ours(family: Family) -> bool:
    """Whether `worldformula.families` exports the class of a family, and those of its components."""
    inside = re.findall(r"\b(\w+Family)\(", repr(family))
    return getattr(families, type(family).__name__, None) is type(family) and all(hasattr(families, n) for n in inside)


def _tuple(items: Iterable[str]) -> str:
    items = list(items)
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"


# ----------------------------------------------------------------------------------------------------------------- time


def _time_lines(w: Writer) -> list[str]:
    """Everything of a time step, in its three stages, and the series that steps wait for."""
    plan = w.plan
    timed = [op for op in plan.ops if op.step or op.name in plan.awaited]
    before, loop, after = ([op for op in timed if plan.moments[op.name] == s] for s in ("before", "loop", "after"))
    series = next((plan.arguments[k] for k, op in plan.inputs.items() if plan.series(op)), None)
    place = len(plan.particles.get(plan.starts[0], ())) if plan.starts else 0
    lines = [f"B, T = {series}.shape[:2]"] if series else [f"B = start_{plan.starts[0]}.shape[{place}]"]
    written = w.lines(sorted((op for op in before if _needed(w, op)), key=lambda op: not _reads_raw(w, op)))
    lines += [f"{w.cache(w.ops[name])} = start_{key}" for key, name in plan.memories.items()]
    lines += ["# before the loop: needs data only, all steps at once", *written] if written else []
    lines += [_begun(w, key, name) for key, name in plan.begins.items() if key in plan.carries]
    lines += _loop_lines(w, loop, before) if loop else []
    return lines + (["# after the loop: all steps at once", *w.lines(after)] if after else [])


def _begun(w: Writer, key: str, name: str) -> str:
    """What a carry begins with where the call does not say so: the start, or that of the first step."""
    lead = len(w.ops[name].axes)
    cut = f".select({lead + 1}, 0)" if lead else "[:, 0]"
    first = f"{name}.unflatten({lead}, (B, T)){cut}" if w.ops[name].step else name
    return f"start_{key} = {first} if start_{key} is None else start_{key}"


def _needed(w: Writer, op: Op) -> bool:
    """Whether flags or a shifted series have a reader: some are there for the clock alone."""
    readers = (w.plan.carries, w.plan.shifts, w.plan.histories, w.plan.counter)
    return op.kind not in ("flags", "shift") or any(readers)


def _reads_raw(w: Writer, op: Op) -> bool:
    """Whether an operation reads [B, T, ...] as it is given, before it is flattened under the same name."""
    return op.kind in ("flags", "behind") or (op.kind == "shift" and w.ops[op.reads[0]].kind == "input")


def _reads(w: Writer, op: Op) -> tuple[str, ...]:
    """What a line reads, through everything that is written inside it."""
    return tuple(r for a in op.reads for r in ((a, *_reads(w, w.ops[a])) if a in w.inlined else (a,)))


def _looped(plan: Plan) -> dict[str, str]:
    """The carries that the loop itself reads."""
    here = [op for op in plan.ops if op.kind == "carry" and plan.stages[op.name] == "loop"]
    read = {op.variable.key for op in here if op.variable}
    return {key: source for key, source in plan.carries.items() if key in read}


def _sliced(w: Writer, loop: list[Op], before: list[Op]) -> list[str]:
    """Lines that cut what the loop reads into steps."""
    looped = _looped(w.plan)
    inside = {a for op in loop for a in _reads(w, op)} | set(looped.values())
    lines = []
    for op in before:
        noise = op.kind == "noise" and op.name in inside and op.name in w.arguments
        cached = any(o.kind == "causal" for o in loop)
        if op.kind == "flags" and (looped or cached):
            lines.append(f"{w.derived(op.name, 's')} = steps_kept({op.name})")
        elif noise:
            lines.append(f"{w.derived(op.name, 's')} = {op.name}.unbind({len(op.axes) + 1})")
        elif op.kind not in ("flags", "noise") and op.name in inside:
            lead = f", {len(op.axes)}" if op.axes else ""
            lines.append(f"{w.derived(op.name, 's')} = steps({op.name}, B{lead})")
    return lines


def _loop_lines(w: Writer, loop: list[Op], before: list[Op]) -> list[str]:
    """The loop from carry to carry."""
    plan, looped, lines = w.plan, _looped(w.plan), _sliced(w, loop, before)
    outside = [op for op in loop if op.kind != "same" and _needed_outside(w, op)]
    late = [op for op in outside if _late(w, op)]
    collected = [(part, w.derived(part, "s"), op) for op in outside if op not in late for part in w.parts(op)]
    empty = ", ".join("[]" for _ in collected)
    lines += [f"{', '.join(series for _, series, _ in collected)} = {empty}"] if collected else []
    kept = [str(op.factor) for op in loop if batch_dependent(op)]
    why = f"; {', '.join(kept)} depends on its batch, so it stays here" if kept else ""
    lines.append(f"# in the loop: from carry to carry{why}")
    lines += [f"{w.carried(source)} = start_{key}" for key, source in looped.items()]
    lines += [
        f"{w.cache(op)} = {_empty(w, op)}" for op in loop if op.name in plan.histories - {*plan.memories.values()}
    ]
    w.in_loop = True
    # Carries come first, the oldest before the others: a step overwrites the variables that they are read from.
    body = w.lines(sorted(loop, key=lambda op: (op.kind != "carry", -_age(plan, op))))
    w.in_loop = False
    lines += [f"{name} = self.{attribute}" for attribute, name in sorted(w.looked_up.items())]
    lines.append("for t in range(T):")
    body += [f"{w.carried(s)} = {w.derived(s, 's')}[t]" for s in looped.values() if plan.stages[s] != "loop"]
    body += [f"{series}.append({part})" for part, series, _ in collected]
    lines += [f"    {line}" for line in body]
    for part, series, op in collected:
        lines.append(f"{part} = stack({series}{f', {len(op.axes)}' if op.axes else ''})")
    return lines + [f"{op.name} = {w.shifted(op)}" for op in late]


def _age(plan: Plan, op: Op) -> int:
    """How many steps back a carry goes."""
    age = 0
    while op.kind == "carry" and op.variable is not None:
        op, age = plan.by_name[plan.carries[op.variable.key]], age + 1
    return age


def _empty(w: Writer, op: Op) -> str:
    """The cache of a network over a past before the first step."""
    starts = [f"start_{key}" for key in (*w.plan.carries, *w.plan.shifts)]
    known = [*starts, *(site.name for site in w.plan.sites), *w.plan.arguments.values()]
    like = next(name for name in known if name in w.arguments)
    return f"{w.network(factor_of(op).net)}.cache(B, T, {like}.device, {like}.dtype)"


def _late(w: Writer, op: Op) -> bool:
    """Whether all steps of a carry are those of its source, one step later: one operation instead of one a step."""
    source = w.plan.carries[op.variable.key] if op.kind == "carry" and op.variable else None
    if source is None or op.axes:
        return False
    return w.stages[source] == "before" or (w.stages[source] == "loop" and _needed_outside(w, w.ops[source]))


def _needed_outside(w: Writer, op: Op) -> bool:
    """Whether somebody behind the loop reads a value of the loop."""
    if op.name in w.inlined:
        return False
    return op.name in w.shown or any(w.stages[user] != "loop" for user in w.readers.get(op.name, ()))
