"""From variables and factors to operations: where a value comes from, parameters, draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from worldformula.errors import DuplicateVariableError, FormulaError, TimeError, table
from worldformula.formula import runtime
from worldformula.formula.factors.experts import Experts
from worldformula.formula.plan.declared import one_key
from worldformula.formula.plan.plan import Op
from worldformula.formula.plan.sharing import Sharing
from worldformula.formula.syntax.check import draw_order, estimator
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import Expectation, Integral, Use

Scope = Mapping[Variable, str]
CALL_OPTIONS = ("seed", "generator", "noise", "start", "horizon", "deterministic", "present")


class Builder(Sharing):
    """Rules for variables and factors."""

    # ------------------------------------------------------------------------------------------------- variables

    def read(self, variable: Variable, scope: Scope, index: str | None, by: object) -> str:
        """Where a variable's value comes from: the scope, the carry, the shifted data, or the data."""
        if variable in scope:
            return scope[variable]
        if variable in self.iterated:
            return self.iterated[variable]
        inner = variable.inner or (variable.index if variable.index != index else None)
        if inner in self.iteration and not variable.offset:
            return self.item(variable, str(inner), scope, index, by)
        if variable.span:
            return self.input(variable, by, Op("", "whole", variable=variable))
        bound = variable.index is not None and variable.index == index
        now = variable.at(0)
        if bound and variable.offset == -1:
            if now in self.declared:
                self.need_shape(now, by, "carries")
                return self.add(variable.identifier, Op("", "carry", variable=variable, step=True))
            series = self.read(now, {}, index, by)
            return self.add(variable.identifier, Op("", "shift", (series,), variable=variable, step=True))
        if bound and now in self.declared:
            raise TimeError(f"{by} reads {variable} outside the E that draws it; put the term inside that E")
        if not bound and variable.index is not None:
            if variable.offset == 0 and index is None and self.time is not None and variable.index == self.time.index:
                raise TimeError(f"{by} reads {variable} outside the Sum over {variable.index}; put the term inside it")
            if variable.offset == 0 and self.time is not None and variable.index == self.time.index.upper():
                return self.last(variable, by)
            variable = Variable(variable.identifier)  # without a Sum over its index it is a variable like any other
        return self.input(variable, by, Op("", "input", variable=variable, step=bound))

    def item(self, variable: Variable, inner: str, scope: Scope, index: str | None, by: object) -> str:
        """``x_{k,l}`` (or ``x_l``) in the iteration l: the l-th entry of the axis in front of its event."""
        whole = replace(variable, inner=None) if variable.inner else replace(variable, index=None)
        value = self.read(whole, scope, index, by)
        steps, place = self.counts[inner], self.iteration[inner]
        self.inner[variable.key] = steps
        rank = self.ranks.get(variable.key, 1)
        op = Op("", "call", (value, -rank - 1, place - 1), function=torch.select)
        return self.add(f"{variable.key}_{place}", op)

    def last(self, variable: Variable, by: object) -> str:
        """``h_T`` outside the sum over t: the value of the last step."""
        assert self.time is not None
        now = replace(variable, index=self.time.index)
        name = self.carries.get(variable.key)
        if now not in self.declared or name is None:
            raise TimeError(f"{by} reads {variable}, the last {now}; write the Sum that draws it before, to its left")
        rank = len(self.shapes.get(variable.key, (0,)))
        return self.add(
            variable.identifier + "_last", Op("", "over", (name,), how="last", variable=variable, rank=rank)
        )

    def input(self, variable: Variable, by: object, op: Op) -> str:
        """Data, or a number, that the call is given under the variable's key."""
        if variable.key in CALL_OPTIONS:
            raise FormulaError(f"{by}: a variable cannot be called {variable.key!r}, which is an option of the call")
        for other in self.ops.values():
            known = other.variable if other.kind in ("input", "symbol") else None
            if known is not None and known.key == variable.key and not variable.span and known != variable:
                raise one_key(known, variable, by)
        name = self.add(variable.identifier if variable.span else variable.key, op)
        if variable.key not in self.masked:
            return name
        flags = self.presence(frozenset((variable.key,)))
        rank = self.ranks.get(variable.key, 1)
        fill = (self.fills[variable.key],) if variable.key in self.fills else ()  # zero has no logarithm
        return self.add(
            f"{variable.key}_filled", Op("", "call", (name, str(flags), rank, *fill), function=runtime.filled)
        )

    def need_shape(self, variable: Variable, by: object, how: str) -> None:
        """What is carried starts from zeros of a known shape; noise is drawn for all steps before the first."""
        initial = getattr(self.time.initial, variable.key, None) if self.time and how == "carries" else None
        if variable.key not in self.shapes and initial is None:
            what = f"{variable.at(-1)} from step to step" if how == "carries" else f"{variable} at every step"
            raise TimeError(
                f"{by} {how} {what}, so its size must be known before the first step\n"
                + table(("variable", "declared by", "shape"), [(variable, by, "undeclared")])
                + f"\ndeclare it on the factor of {variable}, e.g. shape=16"
            )

    # --------------------------------------------------------------------------------------------------- factors

    def net(self, factor: Factor, scope: Scope, index: str | None) -> str | None:
        """What a factor's network returns for its conditions."""
        if factor.net is None:
            return None
        wish = factor.variable.key if factor.family is None else f"head_{factor.header.letter}_{factor.variable.key}"
        conditions = tuple(self.read(c, scope, index, factor) for c in factor.conditions)
        self.refuse_absent(factor, conditions)
        place = self.iteration.get(str(factor.variable.index)) if isinstance(factor.net, nn.ModuleList) else None
        series = any(c.span for c in factor.conditions)
        op = Op("", "net", conditions, factor, how="" if place is None else str(place - 1))
        name = self.add(wish + "_series" if series else wish, op)
        if series and index is not None and factor.variable.index == index:
            name = self.add(wish, Op("", "unroll", (name,), step=True))
        return name

    def params(self, use: Use, scope: Scope, index: str | None) -> str:
        """The parameters of a factor, detached where it was written ``sg(q)``."""
        factor = use.factor
        letter = factor.header.identifier.split("_given_")[0]
        if isinstance(factor, Experts):
            name = self.add(letter, self.combined(factor, scope, index))
        else:
            head = self.net(factor, scope, index)
            name = self.add(letter, Op("", "params", () if head is None else (head,), factor))
        stopped = use.stopped or id(factor) in self.held
        return self.add(f"sg_{name}", Op("", "stop", (name,))) if stopped else name

    def combined(self, factor: Experts, scope: Scope, index: str | None) -> Op:
        """The parameters of a product or mixture of experts, each taken where its conditions are present."""
        outer, self.expert = self.expert, True
        known = tuple(self.params(Use(part), scope, index) for part in factor.parts)
        self.expert = outer
        flags = [self.presence(self.absent(ref)) for ref in known]
        how = ",".join(str(i) for i, flag in enumerate(flags) if flag is not None)
        return Op("", "combine", (*known, *(f for f in flags if f is not None)), factor, how=how)

    # ------------------------------------------------------------------------------------- what some rows do not have

    def absent(self, ref: str) -> frozenset[str]:
        """The inputs that a value depends on and that some rows lack."""
        if not self.masked:
            return frozenset()
        op = self.ops[ref]
        own = {op.variable.key} if op.kind in ("input", "whole") and op.variable is not None else set()
        inner = {key for a in op.reads if op.kind not in ("draw", "support") for key in self.absent(a)}
        return frozenset((own | inner) & self.masked)

    def presence(self, keys: frozenset[str]) -> str | None:
        """The flags of the rows that have all these inputs."""
        flags = [
            self.add(f"present_{key}", Op("", "present", how=key, step=self.stepwise(key))) for key in sorted(keys)
        ]
        both = flags[0] if flags else None
        for flag in flags[1:]:
            both = self.add("present", Op("", "call", (str(both), flag), function=torch.logical_and))
        return both

    def stepwise(self, key: str) -> bool:
        """Whether an input is a series."""
        return any(op.step for op in self.ops.values() if op.kind == "input" and op.variable and op.variable.key == key)

    def refuse_absent(self, factor: Factor, conditions: tuple[str, ...]) -> None:
        """A network sees rows that have what it reads; without it only an expert can be left out."""
        missing = {key for ref in conditions for key in self.absent(ref)} - self.excused
        if missing and factor.family is not None and not self.expert:
            raise FormulaError(
                f"{factor} reads {', '.join(sorted(missing))}, which some rows lack (present=), and nothing takes its "
                f"place\nuse PoE([prior, q(z|x_a), q(z|x_b)]) or MoE, whose experts are left out of such rows"
            )

    def widened(self, params: str, use: Use, like: str) -> str:
        """Parameters without batch axes, seen with those of ``like``; plain numbers need none."""
        if use.factor.constant or not use.factor.unbatched:
            return params
        return self.add(f"{params}_wide", Op("", "wide", (params, like), use.factor))

    def value_of(
        self, use: Use, scope: Scope, index: str | None, how: str = "", axis: int | None = None
    ) -> tuple[str, ...]:
        """The draw of a factor under these conditions (shared), its network's outputs, or the data itself.

        ``how`` is the estimator of the draw's gradient where it is not the family's own; ``axis`` that of K draws.
        """
        factor = use.factor
        if factor.family is None:
            return self.computed(use, scope, index)
        params, variable = self.params(use, scope, index), factor.variable
        step = self.is_step(params) or (index is not None and variable.index == index)
        if step:
            self.need_shape(variable, factor, "draws")
        size, component = None, None
        if how == "stratified":
            component = self.axis((id(factor), self.alike[params]), factor.family.components)  # type: ignore[attr-defined]
        if how == "exact":
            size = factor.family.support_size(self.shapes.get(variable.key))
            assert size is not None
            axis = self.axis((id(factor), self.alike[params]), size)
        own = {a for a in (axis, component) if a is not None}
        axes = tuple(sorted({*self.ops[params].axes, *own}, reverse=True))
        again = tuple(self.iteration.values()) if variable.index in self.iteration else ()
        noise = Op("", "noise", factor=factor, variable=variable, step=step, axes=() if size else axes)
        if size and not factor.unbatched:
            return (self.add(variable.key, Op("", "support", (params,), factor, step=step, axes=axes)),)
        source = self.add(f"noise_{variable.key}", noise, (id(factor), self.alike[params], again))
        kind = "support" if size else "draw"
        return (self.add(variable.key, Op("", kind, (params, source), factor, how="" if size else how, axes=axes)),)

    def computed(self, use: Use, scope: Scope, index: str | None) -> tuple[str, ...]:
        """What a deterministic factor's network returns, one value for each of its variables, or the data itself."""
        factor = use.factor
        value = self.net(factor, scope, index)
        first = self.read(factor.variable, scope, index, factor) if value is None else value
        names: tuple[str, ...] = (first,)
        if value is not None and len(factor.variables) > 1:
            items = [Op("", "item", (value,), factor, variable=v, how=str(i)) for i, v in enumerate(factor.variables)]
            names = tuple(self.add(op.variable.key, op) for op in items if op.variable)
        return tuple(self.add(f"sg_{n}", Op("", "stop", (n,))) for n in names) if use.stopped else names

    def draw(self, node: Expectation, scope: Scope, index: str | None, axis: int | None = None) -> dict[Variable, str]:
        """Draw every factor of the expectation, causes first; returns the scope inside."""
        inside = dict(scope)
        for use in draw_order(node.q):
            names = self.value_of(use, inside, index, estimator(use.factor, node.q, node.gradient), axis)
            for variable, name in zip(use.factor.variables, names, strict=True):
                if self.private:
                    inside[variable] = name
                else:
                    self.bind(variable, name, use, inside, index)
        for variable in node.q.hidden if isinstance(node.q, Integral) else ():
            inside.pop(variable)
        return inside

    def bind(self, variable: Variable, name: str, use: Use, inside: dict[Variable, str], index: str | None) -> None:
        """Give a variable its value in a scope, for the samples of the result, and for the next step."""
        if inside.get(variable, name) != name:
            raise DuplicateVariableError(
                f"two factors declare {variable} in nested expectations; the inner is {use.factor}\n"
                f"rename one of them, e.g. {variable.base}'"
            )
        inside[variable] = name
        place = self.iteration.get(str(variable.index))
        key = variable.key if place is None else f"{variable.key}_{place}"
        self.samples[name if self.samples.get(key, name) != name else key] = name
        if place is not None:
            self.iterated[variable] = name
        if index is not None and variable.index == index:
            self.carry_on(variable, name, use.factor)

    def carry_on(self, variable: Variable, name: str, factor: Factor) -> None:
        """The value of this step is what the next step reads as ``z_{t-1}``."""
        carried = any(op.kind == "carry" and op.variable == variable.at(-1) for op in self.ops.values())
        if self.carries.setdefault(variable.key, name) != name and carried:
            raise TimeError(
                f"two factors draw {variable} in one step, so which one is carried to the next is ambiguous; "
                f"the second is {factor}"
            )
