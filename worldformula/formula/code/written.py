"""Which operations emitted code writes as lines, in which order, and the names that it uses."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch

from worldformula.families.base import Family
from worldformula.formula.code.plain import written_out
from worldformula.formula.factors.experts import Experts
from worldformula.formula.plan.plan import Op, Plan, Ref
from worldformula.formula.syntax.factor import Factor

ARITHMETIC = ("binary", "negative", "detach", "batch", "over", "function", "event", "lift", "samples")
INLINE = ("net", "wide", *ARITHMETIC)


class Written:
    """Writes operations as PyTorch. ``networks`` maps ``id(network)`` to its attribute of the expression."""

    def __init__(
        self, plan: Plan, networks: Mapping[int, str], deterministic: bool, structured: frozenset[str]
    ) -> None:
        self.plan, self.networks, self.deterministic = plan, networks, deterministic
        self.ops, self.stages = plan.by_name, plan.stages
        self.globals: dict[str, Any] = {}
        self.imports: dict[str, str] = {}
        self.names: dict[Family, str] = {}
        self.used: dict[str, list[str]] = {}
        for op in plan.ops:
            for arg in op.reads:
                self.used.setdefault(arg, []).append(op.name)
        shown = [t.name for t in plan.terms if isinstance(t.name, str)] + list(plan.samples.values())
        self.outputs = {*shown, *([plan.value] if isinstance(plan.value, str) else []), *plan.carries.values()}
        self.in_loop = False
        self.plain = written_out(plan, deterministic, structured)

    def arguments(self) -> list[str]:
        """Inputs, start of every carry and shifted series, noise of every site."""
        names = [*self.plan.arguments.values(), *(["T"] if self.plan.free_running else [])]
        names += [f"start_{key}" for key in (*self.plan.carries, *self.plan.shifts)]
        sites = [op for op in self.plan.sites if not self.deterministic or self.factor_of(op).unbatched]
        names += [op.name for op in sites]
        unknown = not self.deterministic and any(self.plan.noise_shape(op) is None for op in sites)
        return names + (["rng"] if unknown else [])

    # ------------------------------------------------------------------------------------------------------ one line

    def lines(self, ops: list[Op]) -> list[str]:
        """One line per operation that is not written inside another's line."""
        written = []
        for op in ops:
            unread = op.kind == "noise" and op.name not in self.arguments()
            given = op.kind == "input" or (op.kind == "present" and not op.step)
            if unread or self.inlined(op.name) or (given and not self.flattened(op)):
                continue
            if op.kind in ("symbol", "mask"):
                continue
            if op.name in self.plain:
                written += self._plain_params(op)
                continue
            if op.kind == "params" and self.used.get(op.name) and all(self._by_name(u) for u in self.used[op.name]):
                continue  # the standard distribution of a KL that is written out
            *first, expression = self._plain(op) or [self.expression(op)]
            written += first
            if op.kind == "same":
                written.append(expression)
            elif expression != op.name:
                line = f"{op.name} = {expression}"
                header = str(op.factor) if op.kind in ("net", "params") else None
                header = op.factor.definition if isinstance(op.factor, Experts) and op.kind == "combine" else header
                written.append(f"{line:<72}  # {header}" if header is not None else line)
        return written

    def flattened(self, op: Op) -> bool:
        """Whether an input of [B, T, ...] is read as [B·T, ...]; a shift reads the series itself."""
        return op.step and any(self.ops[user].kind != "shift" for user in self.used.get(op.name, ()))

    def number(self, ref: Ref) -> bool:
        """Whether a value is a number, one that the call is given, or arithmetic of such."""
        op = self.ops[ref] if isinstance(ref, str) else None
        combined = op is not None and op.kind in ("binary", "negative", "detach", "function")
        return op is None or op.kind == "symbol" or (combined and all(self.number(a) for a in op.args))

    def inlined(self, name: str) -> bool:
        """Whether an operation is written inside its only user's line."""
        op, users = self.ops[name], self.used.get(name, [])
        if op.kind not in INLINE or len(users) != 1 or name in self.outputs:
            return False
        user = self.ops[users[0]]
        if self.stages[name] != self.stages[user.name]:
            return False
        if op.kind in ("net", "wide"):
            return user.kind in ({"net": ("params",), "wide": ("logp", "kl")}[op.kind])
        return user.kind in ARITHMETIC and not (user.kind == "samples" and user.how == "dreg")

    def ref(self, ref: Ref, tight: bool = False) -> str:
        """An argument as written in a line: a number, a name, one step of a series, or an inlined expression."""
        if not isinstance(ref, str):
            return f"({ref!r})" if tight and ref < 0 else repr(ref)
        if self.inlined(ref):
            op = self.ops[ref]
            loose = op.kind == "negative" or (op.kind == "binary" and op.how in "+-*/^") or op.how == "logmeanexp"
            return f"({self.expression(op)})" if tight and loose else self.expression(op)
        if self.in_loop and self.stages[ref] == "before":
            return f"{ref}_s[t]"
        if self.ops[ref].kind == "noise" and self._sliced(ref) and not self.in_loop:
            return f"flat({ref})"  # a draw outside the loop shares the noise of one inside it
        return ref

    def _sliced(self, noise: str) -> bool:
        """Whether a step's noise stays [B, T, ...], as a draw inside the loop takes it step by step."""
        return self.ops[noise].step and any(self.stages[user] == "loop" for user in self.used[noise])

    def family(self, family: Family) -> str:
        """The name under which emitted code knows a family."""
        if family not in self.names:
            name = family.name
            while name in self.names.values():
                name += "_"
            self.names[family], self.globals[name] = name, family
        return self.names[family]

    def network(self, net: Any) -> str:
        """``self.q_z_given_x``, or the name of a plain function."""
        if id(net) in self.networks:
            return f"self.{self.networks[id(net)]}"
        name = next((n for n, v in self.globals.items() if v is net), None)
        if name is None:
            name = f"function_{sum(1 for n in self.globals if n.startswith('function_')) + 1}"
            self.globals[name] = net
        return name

    # ---------------------------------------------------------------------------------- distributions written out

    def _plain_params(self, op: Op) -> list[str]:
        factor = self.factor_of(op)
        shape, text = self.plan.shape_of(factor), self.plain[op.name]
        lines = text.undeclared if shape is None else text.params
        head, *rest = [s.format(name=op.name, head=self.ref(op.args[0]), width=shape and shape[0]) for s in lines]
        return [f"{head:<72}  # {factor}", *rest]

    def _by_name(self, name: str) -> bool:
        """Whether an operation reads its first parameters by name."""
        op = self.ops[name]
        return op.kind in ("draw", "logp", "kl") and op.args[0] in self.plain

    def _plain(self, op: Op) -> list[str]:
        """The text of an operation on parameters that are written out: lines, and its value."""
        if not self._by_name(op.name):
            return []
        name, text = str(op.args[0]), self.plain[str(op.args[0])]
        if op.kind == "kl":
            p = str(op.args[1])
            lines = text.kl if p in self.plain else (text.kl_standard,)
            return [str(line).format(name=name, p=p, kl=op.name) for line in lines or ()]
        if op.kind == "logp":
            return [text.log_prob.format(name=name, value=self.ref(op.args[1]))]
        if self.deterministic or text.sample is None:
            return [text.mode.format(name=name)]
        return [text.sample.format(name=name, noise=self.ref(op.args[1]))]

    def expression(self, op: Op) -> str:
        """The right-hand side of an operation."""
        raise NotImplementedError

    def callable(self, function: Callable[..., Any]) -> str:
        """The name of a function of ours in emitted code, which imports it where its module has it."""
        name = function.__name__
        self.globals[name] = function
        module = function.__module__
        if module.startswith("torch") or getattr(torch, name, None) is function:
            return f"torch.{name}"
        if module != "worldformula.formula.runtime" and getattr(sys.modules.get(module), name, None) is function:
            self.imports[name] = module
        return name

    @staticmethod
    def factor_of(op: Op) -> Factor:
        """The factor of an operation that has one."""
        assert op.factor is not None
        return op.factor


def family_of(factor: Factor) -> Family:
    """The family of a random factor."""
    assert factor.family is not None
    return factor.family
