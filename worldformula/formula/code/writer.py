"""The lines of emitted code: which operations are lines of their own, in which order, and the names that they use."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from worldformula.families.base import Family
from worldformula.families.given import completed
from worldformula.formula import runtime
from worldformula.formula.code.written import written_out
from worldformula.formula.factors.experts import Experts
from worldformula.formula.plan.plan import RESERVED, Op, Plan
from worldformula.formula.plan.rules import RULES, factor_of, family_of, literal, written_inside
from worldformula.formula.runtime import RUNTIME

LONGEST = 64  # operations in one line


class Writer:
    """Writes operations as PyTorch. ``networks`` maps ``id(network)`` to its attribute of the expression."""

    def __init__(
        self, plan: Plan, networks: Mapping[int, str], deterministic: bool, structured: frozenset[str]
    ) -> None:
        self.plan, self.networks, self.deterministic = plan, networks, deterministic
        self.ops, self.stages, self.readers = plan.by_name, plan.stages, plan.readers
        shown = [t.name for t in plan.terms if isinstance(t.name, str)] + list(plan.samples.values())
        self.shown = set(shown)
        self.outputs = {*shown, *([plan.value] if isinstance(plan.value, str) else []), *plan.carries.values()}
        self.keep = next((op.name for op in plan.ops if op.kind == "flags"), None)
        self.in_loop = False
        self.written = written_out(plan, deterministic, structured)
        self.inlined = self._inlined()
        self.text: dict[str, tuple[str, bool]] = {}  # what stands inside another's line, and whether it is loose
        self.globals: dict[str, Any] = {}
        self.imports: dict[str, tuple[str, str]] = {}  # name -> module, and name there
        self.families: dict[Family, str] = {}
        self.completed: dict[Family, tuple[str, str]] = {}  # families with numbers of the call: name, and line
        self.looked_up: dict[str, str] = {}  # networks that the loop calls: attribute -> name
        self._functions: dict[int, str] = {}
        self._derived: dict[tuple[str, str], str] = {}
        self.arguments = self._arguments()
        self.taken = {*RESERVED, *self.ops, *self.arguments}

    def _arguments(self) -> tuple[str, ...]:
        """Inputs, start of every carry and shifted series, noise of every site."""
        names = [*self.plan.arguments.values(), *(["T"] if self.plan.free_running else [])]
        names += [f"start_{key}" for key in self.plan.starts]
        sites = [op for op in self.plan.sites if not self.deterministic or op.name in self.plan.kept_noise]
        names += [op.name for op in sites]
        unknown = not self.deterministic and any(self.plan.noise_shape(op) is None for op in sites)
        return (*names, *(["rng"] if unknown else []))

    def _inlined(self) -> frozenset[str]:
        """The operations that are written inside their only reader's line."""
        sizes: dict[str, int] = {}
        for op in self.plan.ops:
            readers = self.readers.get(op.name, ())
            if len(readers) != 1 or op.name in self.outputs:
                continue
            reader = self.ops[readers[0]]
            size = 1 + sum(sizes.get(name, 0) for name in op.reads)
            if written_inside(op, reader) and self.stages[op.name] == self.stages[reader.name] and size < LONGEST:
                sizes[op.name] = size
        return frozenset(sizes)

    # ------------------------------------------------------------------------------------------------------ one line

    def lines(self, ops: Iterable[Op]) -> list[str]:
        """One line per operation that is not written inside another's line."""
        written = []
        for op in ops:
            if self._silent(op):
                continue
            if op.name in self.written:
                written += self._plain_params(op)
                continue
            *first, expression = self._plain(op) or [RULES[op.kind].write(self, op)]
            if op.name in self.inlined:
                self.text[op.name] = expression, RULES[op.kind].loose(op)
                continue
            written += first
            if op.kind == "same":
                written.append(expression)
            elif expression != op.name:
                line = f"{self.cache(op)}, {op.name} = {expression}" if self.cached(op) else f"{op.name} = {expression}"
                header = str(op.factor) if op.kind in ("net", "params", "causal") else None
                header = op.factor.definition if isinstance(op.factor, Experts) and op.kind == "combine" else header
                written.append(self._beside(line, header) if header is not None else line)
        return written

    def _beside(self, line: str, header: str) -> str:
        """A line with the header of its factor in a column of its own."""
        return f"{line:<{67 if self.in_loop else 72}}  # {header}"

    def _silent(self, op: Op) -> bool:
        """Whether an operation has no line: nobody reads it, or it is what the call gives."""
        if op.kind == "noise":
            return op.name not in self.arguments
        if op.step and op.kind in ("input", "mask", "present"):
            return not self.flattened(op)
        if op.kind == "params" and op.name not in self.written:
            readers = self.readers.get(op.name, ())
            return bool(readers) and all(self._by_name(self.ops[name]) for name in readers)  # a KL that is written out
        return False

    def flattened(self, op: Op) -> bool:
        """Whether an input of [B, T, ...] is read as [B·T, ...]; some read the series itself."""
        readers = [self.ops[name] for name in self.readers.get(op.name, ())]
        return any(r.kind not in ("shift", "alive") and (r.kind != "over" or op.name == r.args[0]) for r in readers)

    def ref(self, ref: Any, tight: bool = False) -> str:
        """An argument as written in a line: a number, a name, one step of a series, or an inlined expression."""
        if not isinstance(ref, str):
            return f"({literal(ref)})" if tight and ref < 0 else literal(ref)
        if ref in self.text:
            shown, loose = self.text[ref]
            return f"({shown})" if tight and loose else shown
        if self.in_loop and self.stages[ref] == "before":
            return f"{self.derived(ref, 's')}[t]"
        if self.ops[ref].kind == "noise" and self.sliced(ref) and not self.in_loop:
            return f"flat({ref})"  # a draw outside the loop shares the noise of one inside it
        return ref

    def number(self, ref: Any) -> bool:
        """Whether a value is a number, one that the call is given, or arithmetic of such."""
        return not isinstance(ref, str) or ref in self.plan.numbers

    def result(self, ref: Any) -> str:
        """A value that the function returns, which is a tensor."""
        return f"as_value({self.ref(ref)})" if self.number(ref) else self.ref(ref)

    # ---------------------------------------------------------------------------------------------------------- names

    def fresh(self, wish: str) -> str:
        """A name that nothing else has."""
        while wish in self.taken:
            wish += "_"
        self.taken.add(wish)
        return wish

    def derived(self, name: str, what: str) -> str:
        """The name of something that belongs to an operation: its series ``h_s``, its carry ``z_carry``."""
        if (name, what) not in self._derived:
            self._derived[name, what] = self.fresh(f"{name}_{what}")
        return self._derived[name, what]

    def argument(self, op: Op) -> str:
        """The name under which the function is given an input."""
        return self.plan.argument(op)

    def family(self, family: Family) -> str:
        """The name under which emitted code knows a family."""
        if family not in self.families:
            name = family.name
            while name in self.families.values():
                name += "_"
            self.families[family] = name
            self.taken.add(name)
            self.globals[name] = family
        return self._completed(family) if family.asked else self.families[family]

    def _completed(self, family: Family) -> str:
        """The name of a family with the numbers of the call in its settings, which is made before anything else."""
        if family not in self.completed:
            known = {str(op.variable): self.argument(op) for op in self.plan.ops if op.kind == "symbol"}
            numbers = ", ".join(f"{asked.name!r}: {known[asked.name]}" for asked in family.asked)
            name, source = self.fresh(f"{family.name}_now"), self.families[family]
            self.completed[family] = name, f"{name} = {self.callable(completed)}({source}, {{{numbers}}})"
        return self.completed[family][0]

    def network(self, net: Any) -> str:
        """``self.q_z_given_x``, or the name of a plain function."""
        if id(net) in self.networks:
            return f"self.{self.networks[id(net)]}"
        if id(net) not in self._functions:
            self._functions[id(net)] = name = self.fresh(f"function_{len(self._functions) + 1}")
            self.globals[name] = net
        return self._functions[id(net)]

    def called(self, net: Any) -> str:
        """A network that is called; in the loop under a name of its own, as an attribute costs a microsecond a step."""
        attribute = self.networks.get(id(net))
        if not self.in_loop or attribute is None:
            return self.network(net)
        if attribute not in self.looked_up:
            self.looked_up[attribute] = self.fresh(attribute)
        return self.looked_up[attribute]

    def callable(self, function: Callable[..., Any]) -> str:
        """The name of a function of ours in emitted code, which imports it where its module has it."""
        name, module = function.__name__, function.__module__
        if module.startswith("torch") or getattr(torch, name, None) is function:
            return f"torch.{name}"
        if name in RUNTIME and getattr(runtime, name) is function:
            self.globals[name] = function
            return name
        known = self.bound(name if name.isidentifier() else "function", function)
        if getattr(sys.modules.get(module), name, None) is function:
            self.imports[known] = module, name
        return known

    def bound(self, wish: str, value: Any) -> str:
        """A name for something that the function reads from its globals."""
        if id(value) not in self._functions:
            self._functions[id(value)] = name = self.fresh(wish)
            self.globals[name] = value
        return self._functions[id(value)]

    # ----------------------------------------------------------------------------------------------------------- time

    def sliced(self, noise: str) -> bool:
        """Whether a step's noise stays [B, T, ...], as a draw inside the loop takes it step by step."""
        return self.ops[noise].step and any(self.stages[user] == "loop" for user in self.readers[noise])

    def series(self, name: str) -> str:
        """All steps of a value as ``[B, T, ...]``."""
        op = self.ops[name]
        return self.argument(op) if op.kind == "input" else f"{name}.unflatten(0, (B, T))"

    def shifted(self, carry: Op) -> str:
        """All steps of a carry at once: its series, one step later."""
        assert carry.variable is not None
        key = carry.variable.key
        lead = len(carry.axes)
        series, more = f"{self.plan.carries[key]}.unflatten({lead}, (B, T))", f", lead={lead}" if lead else ""
        return f"shift({series}, start_{key}, {self.keep}{self.starts(key)}{more})"

    def starts(self, key: str) -> str:
        """The argument that says what a carry starts from, for all steps at once."""
        begin = self.plan.begins.get(key)
        if begin and self.ops[begin].step:
            return f", {begin}.unflatten({len(self.ops[begin].axes)}, (B, T))"
        return self.initial(key)

    def initial(self, key: str) -> str:
        """The argument that says what a carry starts from, where that is learnt."""
        known = self.plan.initial
        return f", {known.written('self.initial_state', key)}" if known is not None and key in known.attributes else ""

    def cached(self, op: Op) -> bool:
        """Whether a network over a past steps with a cache."""
        return op.kind == "causal" and (self.stages[op.name] == "loop" or op.name in self.plan.memories.values())

    def cache(self, op: Op) -> str:
        """The variable that holds the cache of a network over a past."""
        return self.derived(op.name, "cache")

    def carried(self, source: str) -> str:
        """The variable of the loop that holds a carry."""
        return source if self.stages[source] == "loop" else self.derived(source, "carry")

    # ---------------------------------------------------------------------------------- distributions written out

    def prefix(self, params: str) -> str:
        """What the names begin with that a distribution which is written out (or its KL) gives to its parts."""
        if (params, "") not in self._derived:
            ends = ("raw", "ratio", "shift", *family_of(self.ops[params]).parameters)
            prefix = params
            while any(f"{prefix}_{end}" in self.taken for end in ends):
                prefix += "_"
            self.taken |= {f"{prefix}_{end}" for end in ends}
            self._derived[params, ""] = prefix
        return self._derived[params, ""]

    def parts(self, op: Op) -> list[str]:
        """The names that hold a value: one for each parameter of a distribution that is written out."""
        if op.name not in self.written:
            return [op.name]
        return [f"{self.prefix(op.name)}_{part}" for part in family_of(op).parameters]

    def _plain_params(self, op: Op) -> list[str]:
        factor = factor_of(op)
        shape, text = self.plan.shape_of(factor), self.written[op.name]
        lines, name = text.undeclared if shape is None else text.params, self.prefix(op.name)
        head, *rest = [s.format(name=name, head=self.ref(op.args[0]), width=shape and shape[0]) for s in lines]
        return [self._beside(head, str(factor)), *rest]

    def _by_name(self, op: Op) -> bool:
        """Whether an operation reads its first parameters by name."""
        return op.kind in ("draw", "logp", "kl") and op.args[0] in self.written

    def _plain(self, op: Op) -> list[str]:
        """The text of an operation on parameters that are written out: lines, and its value."""
        if not self._by_name(op):
            return []
        text, name = self.written[op.args[0]], self.prefix(op.args[0])
        if op.kind == "kl":
            p = op.args[1]
            lines = text.kl if p in self.written else (text.kl_standard,)
            other = self.prefix(p) if p in self.written else ""
            return [str(line).format(name=name, p=other, kl=self.prefix(op.name)) for line in lines or ()]
        if op.kind == "logp":
            return [text.log_prob.format(name=name, value=self.ref(op.args[1]))]
        if self.deterministic or text.sample is None:
            return [text.mode.format(name=name)]
        return [text.sample.format(name=name, noise=self.ref(op.args[1]))]
