"""Operations of a plan and how they are shared: equal operations on equal arguments become one."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from dataclasses import replace

from worldformula.errors import DuplicateVariableError, FormulaError, GradientError, ShapeError, TimeError, table
from worldformula.formula.check import draw_order
from worldformula.formula.factor import Factor
from worldformula.formula.names import Variable
from worldformula.formula.nodes import Expectation, OverTime, Use
from worldformula.formula.plan import RESERVED, Op, Plan, Ref, Term

Scope = Mapping[Variable, str]
DERIVED = re.compile(r"start_.+|function_\d+|.+_(?:s|carry|flags|loc|raw|scale|logits)")  # what emitted code derives
CALL_OPTIONS = ("seed", "generator", "noise", "start", "horizon", "deterministic")


class Builder:
    """The plan of one formula while it grows. Operations of a time step have ``step``; all start in the loop."""

    def __init__(self, used: list[Factor]) -> None:
        self.ops: dict[str, Op] = {}
        self.memo: dict[object, str] = {}
        self.alike: dict[str, str] = {}  # operation -> the first one of the same value, stop-gradients aside
        self.values: dict[object, str] = {}
        self.terms: list[Term] = []
        self.samples: dict[str, str] = {}
        self.labels: dict[str, str] = {}
        self.carries: dict[str, str] = {}
        self.time: OverTime | None = None
        self.declared: set[Variable] = set()
        families = {f.family.name for f in used if f.family is not None}
        self.reserved = RESERVED | {name + "_" * i for name in families for i in range(len(used))}
        self.shapes, self.ranks = declared_shapes(used)
        check_keys(used)

    def plan(self, value: Ref | None) -> Plan:
        """What was built, with everything of a time step in the loop."""
        carried = {op.variable.key for op in self.ops.values() if op.kind == "carry" and op.variable}
        self.refuse_score({name for key, name in self.carries.items() if key in carried})
        return Plan(
            ops=tuple(self.ops.values()),
            value=value,
            terms=tuple(self.terms),
            samples=self.samples,
            labels=self.labels,
            carries={k: v for k, v in self.carries.items() if k in carried},
            shifts=tuple(op.variable.key for op in self.ops.values() if op.kind == "shift" and op.variable),
            index=self.time.index if self.time else None,
            reset=self.time.reset if self.time else None,
            initial=self.time.initial if self.time else None,
            shapes=self.shapes,
            ranks=self.ranks,
            stages={name: "loop" if op.step else "once" for name, op in self.ops.items()},
        )

    def refuse_score(self, carried: set[str]) -> None:
        """The score estimator of a draw sees the terms inside its E, not those of the steps that the draw leads to."""
        needed = set(carried)
        for op in reversed(self.ops.values()):
            if op.name in needed:
                needed |= set(op.reads)
                if op.kind == "draw" and op.how == "score":
                    raise GradientError(
                        f"E over {op.factor}: gradient='score' would miss what the draw does to later steps,\n"
                        f"which read it through the carry\nuse gradient='straight-through', or a family such as OneHot"
                    )

    # ------------------------------------------------------------------------------------------------------ one op

    def add(self, wish: str, op: Op, distinct: object = None) -> str:
        """Append an operation, or find the one that already computes the same (and is not ``distinct`` from it)."""
        source = None if op.factor is None else id(op.factor.origin)
        key = (op.kind, op.args, source, op.variable, op.how, distinct)
        if key in self.memo:
            return self.memo[key]
        step = (op.step or any(self.is_step(a) for a in op.reads)) and op.kind not in ("over", "batch")
        if step and op.kind != "repeat":
            op = replace(op, args=tuple(self.repeated(a) for a in op.args))
        name = self.unique(wish)
        self.ops[name] = replace(op, name=name, step=step)
        self.memo[key] = name
        self.alike[name] = self.first_alike(self.ops[name], source, distinct)
        return name

    def first_alike(self, op: Op, source: int | None, distinct: object) -> str:
        """The first operation of the same value, whatever its gradient: what is stopped draws with the same noise."""
        if op.kind in ("stop", "detach") and op.reads:
            return self.alike[op.reads[0]]
        args = tuple(self.alike[a] if isinstance(a, str) else a for a in op.args)
        how = "" if op.kind == "draw" else op.how
        return self.values.setdefault((op.kind, args, source, op.variable, how, distinct), op.name)

    def unique(self, wish: str) -> str:
        """A name in the emitted code that nothing else has: ``z``, ``z_2``."""
        taken = wish in self.reserved or keyword.iskeyword(wish) or DERIVED.fullmatch(wish)
        name = wish = wish + "_" if taken else wish
        count = 2
        while name in self.ops or name in self.reserved:
            name, count = f"{wish}_{count}", count + 1
        return name

    def is_step(self, ref: Ref) -> bool:
        """Whether a value belongs to a time step."""
        return isinstance(ref, str) and self.ops[ref].step

    def repeated(self, ref: Ref) -> Ref:
        """A once-per-call value that a step reads; parameters without a batch axis need no copy."""
        if not isinstance(ref, str) or self.is_step(ref) or self.unbatched(ref):
            return ref
        return self.add(f"{ref}_t", Op("", "repeat", (ref,), step=True))

    def unbatched(self, ref: str) -> bool:
        """Parameters without batch axes, perhaps detached."""
        op = self.ops[ref]
        if op.kind == "stop":
            return self.unbatched(op.reads[0])
        return op.kind == "params" and op.factor is not None and op.factor.unbatched

    # ------------------------------------------------------------------------------------------------- variables

    def read(self, variable: Variable, scope: Scope, index: str | None, by: Factor) -> str:
        """Where a variable's value comes from: the scope, the carry, the shifted data, or the data."""
        if variable in scope:
            return scope[variable]
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
            variable = Variable(variable.identifier)  # without a Sum over its index it is a variable like any other
        if variable.key in CALL_OPTIONS:
            raise FormulaError(f"{by}: a variable cannot be called {variable.key!r}, which is an option of the call")
        for op in self.ops.values():
            if op.kind == "input" and op.variable and op.variable.key == variable.key and op.variable != variable:
                raise one_key(op.variable, variable, by)
        return self.add(variable.key, Op("", "input", variable=variable, step=bound))

    def need_shape(self, variable: Variable, by: Factor, how: str) -> None:
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
        return self.add(wish, Op("", "net", conditions, factor))

    def params(self, use: Use, scope: Scope, index: str | None) -> str:
        """The parameters of a factor, detached where it was written ``sg(q)``."""
        head = self.net(use.factor, scope, index)
        letter = use.factor.header.identifier.split("_given_")[0]
        name = self.add(letter, Op("", "params", () if head is None else (head,), use.factor))
        return self.add(f"sg_{name}", Op("", "stop", (name,))) if use.stopped else name

    def widened(self, params: str, use: Use, like: str) -> str:
        """Parameters without batch axes, seen with those of ``like``; plain numbers need none."""
        if use.factor.constant or not use.factor.unbatched:
            return params
        return self.add(f"{params}_wide", Op("", "wide", (params, like), use.factor))

    def value_of(self, use: Use, scope: Scope, index: str | None, gradient: str | None) -> str:
        """The draw of a factor under these conditions (shared), its network's output, or the data itself."""
        factor = use.factor
        if factor.family is None:
            computed = self.net(factor, scope, index)
            value = self.read(factor.variable, scope, index, factor) if computed is None else computed
            return self.add(f"sg_{value}", Op("", "stop", (value,))) if use.stopped else value
        params = self.params(use, scope, index)
        variable = factor.variable
        step = self.is_step(params) or (index is not None and variable.index == index)
        how = "" if factor.family.reparametrised else gradient or ""
        if step:
            self.need_shape(variable, factor, "draws")
        noise = Op("", "noise", factor=factor, variable=variable, step=step)
        source = self.add(f"noise_{variable.key}", noise, (id(factor), self.alike[params]))
        return self.add(variable.key, Op("", "draw", (params, source), factor, how=how))

    def draw(self, node: Expectation, scope: Scope, index: str | None) -> dict[Variable, str]:
        """Draw every factor of the expectation, causes first; returns the scope inside."""
        inside = dict(scope)
        for use in draw_order(node.q):
            variable = use.factor.variable
            name = self.value_of(use, inside, index, node.gradient)
            if inside.get(variable, name) != name:
                raise DuplicateVariableError(
                    f"two factors declare {variable} in nested expectations; the inner is {use.factor}\n"
                    f"rename one of them, e.g. {variable.base}'"
                )
            inside[variable] = name
            key = variable.key
            self.samples[name if self.samples.get(key, name) != name else key] = name
            if index is not None and variable.index == index:
                self.carry_on(variable, name, use.factor)
        return inside

    def carry_on(self, variable: Variable, name: str, factor: Factor) -> None:
        """The value of this step is what the next step reads as ``z_{t-1}``."""
        carried = any(op.kind == "carry" and op.variable == variable.at(-1) for op in self.ops.values())
        if self.carries.setdefault(variable.key, name) != name and carried:
            raise TimeError(
                f"two factors draw {variable} in one step, so which one is carried to the next is ambiguous; "
                f"the second is {factor}"
            )


def check_keys(used: list[Factor]) -> None:
    """Every variable can be a keyword of the call, and no two variables are the same keyword."""
    first: dict[str, Variable] = {}
    for factor in used:
        for variable in (*factor.header.variables, *factor.conditions):
            plain = replace(variable, index=None, offset=0)
            if plain.key == "self":
                raise FormulaError(f"{factor}: a variable cannot be called 'self', the first argument of every call")
            if first.setdefault(plain.key, plain) != plain:
                raise one_key(first[plain.key], plain, factor)


def one_key(first: Variable, second: Variable, by: Factor) -> FormulaError:
    """Two variables that a call could not tell apart."""
    return FormulaError(
        f"{by}: the variables {first} and {second} would both be {second.key!r} in a call\nrename one of them"
    )


def declared_shapes(used: list[Factor]) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Event shapes by variable, from every factor that declares one; the ranks include the families' defaults."""
    shapes: dict[str, tuple[int, ...]] = {}
    ranks: dict[str, int] = {}
    by: dict[str, Factor] = {}
    for factor in used:
        key = factor.variable.key
        if factor.shape is not None:
            if shapes.setdefault(key, factor.shape) != factor.shape:
                rows = [(factor.variable, f, f.shape) for f in (by[key], factor)]
                raise ShapeError(
                    f"{key} has two event shapes\n"
                    + table(("variable", "declared by", "declared"), rows)
                    + "\ndeclare the same shape= on both"
                )
            by.setdefault(key, factor)
    for factor in used:
        key = factor.variable.key
        if key in shapes:
            ranks[key] = len(shapes[key])
        elif factor.family is not None:
            ranks.setdefault(key, factor.rank)
    return shapes, ranks
