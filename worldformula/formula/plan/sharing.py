"""Operations of a plan and how they are shared: equal operations on equal arguments become one."""

from __future__ import annotations

import keyword
import re
from dataclasses import replace

from worldformula.errors import GradientError, ShapeError, TimeError, table
from worldformula.formula.plan.declared import check_keys, declared_shapes
from worldformula.formula.plan.plan import RESERVED, Op, Plan, Ref, Term
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import OverTime, Value

DERIVED = re.compile(r"start_.+|function_\d+|.+_(?:s|carry|flags|loc|raw|scale|logits)")  # what emitted code derives


class Sharing:
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
        self.sizes: dict[int, int] = {}  # of the sample axes
        self.axes: dict[object, int] = {}  # what is drawn several times -> its axis
        self.iteration: dict[str, int] = {}  # where in the iterations that are not time
        self.counts: dict[str, int] = {}  # how many iterations there are, by index
        self.inner: dict[str, int] = {}  # inputs with an axis of iterations in front of their event, and its length
        self.iterated: dict[Variable, str] = {}  # the values of the iterations that are done
        self.masked: frozenset[str] = frozenset()  # inputs that some rows lack
        self.expert = False  # whether what is built belongs to an expert
        self.excused: frozenset[str] = frozenset()  # absent inputs whose rows do not count in what is built
        self.private = False  # whether draws are those of an operator, which no other term and no later step sees
        self.held: frozenset[int] = frozenset()  # factors whose densities hold their parameters fixed
        self.fills = {f.variable.key: 1.0 for f in used if f.family is not None and f.family.name == "log_normal"}
        self.event_axes: dict[str, int] = {}  # of the values of variables that arithmetic combines
        families = {f.family.name for f in used if f.family is not None}
        self.reserved = RESERVED | {name + "_" * i for name in families for i in range(len(used))}
        self.shapes, self.ranks = declared_shapes(used)
        check_keys(used)

    def declare(self, values: list[Value]) -> None:
        """The event shapes that values of variables declare where they are written."""
        for value in values:
            if value.shape is not None and not value.scalar:
                key = value.variable.key
                if self.shapes.setdefault(key, value.shape) != value.shape:
                    rows = [(value.variable, "its factor", self.shapes[key]), (value.variable, "Value", value.shape)]
                    raise ShapeError(
                        f"{key} has two event shapes\n" + table(("variable", "declared by", "declared"), rows)
                        + "\ndeclare the same shape= on both"
                    )  # fmt: skip
                self.ranks[key] = len(value.shape)

    def plan(self, value: Ref | None) -> Plan:
        """What was built, with everything of a time step in the loop."""
        carried = {op.variable.key for op in self.ops.values() if op.kind == "carry" and op.variable}
        self.refuse_carried({name for key, name in self.carries.items() if key in carried})
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
            sizes=self.sizes,
            inner=self.inner,
            stages={name: "loop" if op.step else "once" for name, op in self.ops.items()},
        )

    def refuse_carried(self, carried: set[str]) -> None:
        """The score estimator of a draw sees the terms inside its E, not those of the steps that the draw leads to;
        and what goes from step to step is one value, not K.
        """
        needed = set(carried)
        for op in reversed(self.ops.values()):
            if op.name in needed:
                needed |= set(op.reads)
                if op.axes:
                    raise TimeError(
                        f"{op.factor or op.name} is drawn several times (samples= or gradient='exact') and leads to "
                        f"what is carried\nto the next step, which is one value; give the batch more rows instead, "
                        f"x.repeat_interleave(K, 0)"
                    )
                if op.kind == "draw" and op.how == "score":
                    raise GradientError(
                        f"E over {op.factor}: gradient='score' would miss what the draw does to later steps,\n"
                        f"which read it through the carry\nuse gradient='straight-through', or a family such as OneHot"
                    )

    # ------------------------------------------------------------------------------------------------------ one op

    def add(self, wish: str, op: Op, distinct: object = None) -> str:
        """Append an operation, or find the one that already computes the same (and is not ``distinct`` from it)."""
        source = None if op.factor is None else id(op.factor.origin)
        key = (op.kind, op.args, source, op.variable, op.how, op.axes, op.axis, op.function, op.options, distinct)
        if key in self.memo:
            return self.memo[key]
        step = (op.step or any(self.is_step(a) for a in op.reads)) and op.kind not in ("over", "batch")
        if step and op.kind not in ("repeat", "unroll"):
            op = replace(op, args=tuple(self.repeated(a) for a in op.args))
        axes = self.axes_of(op)
        if op.kind not in ("along", "draw", "support", "wide", "shares") and not op.over_batch:
            op = replace(op, args=tuple(self.along(a, axes) for a in op.args))
        axes = () if op.over_batch else tuple(a for a in axes if a != op.axis)
        name = self.unique(wish)
        self.ops[name] = replace(op, name=name, step=step, axes=axes)
        self.memo[key] = name
        self.alike[name] = self.first_alike(self.ops[name], source, distinct)
        return name

    def axes_of(self, op: Op) -> tuple[int, ...]:
        """The sample axes of an operation and of all that it reads, the newest first."""
        return tuple(sorted({*op.axes, *(a for ref in op.reads for a in self.ops[ref].axes)}, reverse=True))

    def along(self, ref: Ref, axes: tuple[int, ...]) -> Ref:
        """A value seen with all these sample axes; numbers and parameters without a batch axis need none."""
        if not isinstance(ref, str) or self.ops[ref].axes == axes or self.shared(ref):
            return ref
        return self.add(f"{ref}_k", Op("", "along", (ref,), axes=axes, rank=self.rank(ref)))

    def rank(self, ref: Ref) -> int:
        """How many event axes a value has, as arithmetic sees it."""
        return self.event_axes.get(ref, self.ops[ref].rank) if isinstance(ref, str) else 0

    def axis(self, what: object, size: int) -> int:
        """The sample axis of what is drawn ``size`` times; the same draws have the same axis."""
        found = self.axes.setdefault((what, size), len(self.axes))
        self.sizes[found] = size
        return found

    def first_alike(self, op: Op, source: int | None, distinct: object) -> str:
        """The first operation of the same value, whatever its gradient: what is stopped draws with the same noise."""
        if op.kind in ("stop", "detach") and op.reads:
            return self.alike[op.reads[0]]
        args = tuple(self.alike[a] if isinstance(a, str) else a for a in op.args)
        how = "" if op.kind == "draw" else op.how
        key = (op.kind, args, source, op.variable, how, op.function, op.options, distinct)
        return self.values.setdefault(key, op.name)

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
        if not isinstance(ref, str) or self.is_step(ref) or self.shared(ref) or self.ops[ref].kind == "whole":
            return ref
        return self.add(f"{ref}_t", Op("", "repeat", (ref,), step=True, rank=self.rank(ref)))

    def shared(self, ref: str) -> bool:
        """Whether a value has no batch axes: parameters that no condition changes, or a number of the whole call."""
        return self.unbatched(ref) or self.scalar(ref)

    def scalar(self, ref: Ref) -> bool:
        """A number, a named one, a mean over the batch, a KL of factors without batch axes, or arithmetic of such."""
        if not isinstance(ref, str):
            return True
        op = self.ops[ref]
        if op.kind in ("kl", "method"):
            return all(self.unbatched(a) for a in op.reads)
        return op.kind in ("symbol", "batch") or (
            op.kind in ("binary", "negative", "detach", "function") and all(self.scalar(a) for a in op.args)
        )

    def unbatched(self, ref: str) -> bool:
        """Parameters without batch axes, perhaps detached."""
        op = self.ops[ref]
        if op.kind == "stop":
            return self.unbatched(op.reads[0])
        return op.kind in ("params", "combine") and op.factor is not None and op.factor.unbatched
