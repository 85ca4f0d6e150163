"""Single assignment: operations with unique names, equal ones shared, and what is known of each as it is added.

Everything that later rules ask of a value (its sample axes, whether it has batch axes, which inputs that some rows lack
it depends on) is computed once, from what is known of its arguments. So a plan grows in time linear in its size.
"""

from __future__ import annotations

import keyword
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from worldformula.formula.factors.experts import Experts
from worldformula.formula.plan.plan import RESERVED, Method, Op, made_of_numbers
from worldformula.formula.runtime import filled, log_weighted_sum, logaddexp, possible
from worldformula.formula.syntax.factor import Factor

OWN_AXES = (
    "along",
    "draw",
    "support",
    "wide",
    "shares",
    "by_row",
)  # operations that place their arguments' sample axes themselves
CARRIED = ("binary", "negative", "detach", "function", "samples", "along", "repeat", "lift", "over", "rows", "batch")
OF_VALUES = (filled, logaddexp, log_weighted_sum, possible)  # functions that carry what is known of what they read
OF_ROWS = ("whole", "first", "present", "flags", "mask", "rows", "by_row")  # whatever they read
NOWHERE_0 = (
    "normal", "laplace", "student_t", "multivariate_normal", "low_rank_normal", "von_mises", "von_mises_fisher",
    "categorical", "one_hot", "bernoulli", "two_hot", "discretised_logistic",
)  # fmt: skip
LONG = 40  # letters of a name that another one repeats


class Facts(NamedTuple):
    """What is known of a value without running it.

    number: one number for the whole call. unbatched: parameters without batch axes. absent: the inputs that it depends
    on and that some rows lack. density: whether an event was summed in it. scored: whether it depends on a draw whose
    gradient is that of the score function. plain: made of numbers alone, which may be no tensor. total: whether
    elements, samples or rows were summed in it. statistic: one number that operators find over all rows at once, or
    what is made of such numbers. wild: whether it may be infinite: all but what is looked at, most
    log-densities, and what is made of such.
    """

    number: bool = False
    unbatched: bool = False
    absent: frozenset[str] = frozenset()
    density: bool = False
    scored: bool = False
    plain: bool = False
    total: bool = False
    statistic: bool = False
    wild: bool = False


NOTHING: frozenset[str] = frozenset()


def _is_finite(op: Op) -> bool:
    """Whether a value is finite as long as the parameters are."""
    return op.kind == "symbol" or (op.kind == "logp" and op.factor is not None and _is_nowhere_0(op.factor))


def _is_nowhere_0(factor: Factor) -> bool:
    """Whether a density is nowhere 0, or has a number for log 0."""
    if isinstance(factor, Experts):
        return all(map(_is_nowhere_0, factor.parts))
    return factor.family is not None and factor.family.name in NOWHERE_0


class Assignments:
    """The operations of one formula while they grow. Those of a time step have ``step``; all start in the loop."""

    def __init__(self, reserved: Iterable[str], masked: frozenset[str]) -> None:
        self.ops: dict[str, Op] = {}
        self.masked = masked  # the inputs that some rows lack
        self.sizes: dict[int, int] = {}  # of the sample axes
        self.taken = {*RESERVED, *reserved}
        self.facts: dict[str, Facts] = {}
        self.alike: dict[str, str] = {}  # operation -> the first one of the same value, stop-gradients aside
        self.of_kind: dict[str, list[Op]] = {}
        self.place: dict[str, int] = {}
        self.event_axes: dict[str, int] = {}  # of the values of variables that arithmetic combines
        self.events: dict[str, tuple[int, ...]] = {}  # the event shapes of these, where they are declared
        self._memo: dict[object, str] = {}
        self._values: dict[object, str] = {}
        self._counts: dict[str, int] = {}
        self._axes: dict[object, int] = {}  # what is drawn several times -> its axis
        self._checked: set[tuple[str, ...]] = set()
        self._checks: dict[int, list[Op]] = {}  # by the number of operations that they stand behind
        self.globals: frozenset[str] = frozenset()  # the keys of the variables that all rows share

    # ------------------------------------------------------------------------------------------------------ one op

    def add(self, wish: str, op: Op, distinct: object = None) -> str:
        """Append an operation, or find the one that already computes the same (and is not ``distinct`` from it)."""
        source = None if op.factor is None else id(op.factor.origin)
        called = (op.target, op.options, op.keywords)
        key = (op.kind, op.args, source, op.variable, op.how, op.axes, op.axis, called, distinct)
        if key in self._memo:
            return self._memo[key]
        op = self._placed(op)
        op = replace(op, name=self.unique(wish))
        self._memo[key] = name = op.name
        self.place[name] = len(self.ops)
        self.ops[name] = op
        self.facts[name] = self._facts(op)
        self.alike[name] = self._first_alike(op, source, distinct)
        self.of_kind.setdefault(op.kind, []).append(op)
        return name

    def _placed(self, op: Op) -> Op:
        """The operation with its level and its sample axes, and its arguments seen with both."""
        step = (op.step or any(self.is_step(a) for a in op.reads)) and op.kind not in ("over", "batch", "series")
        if step and op.kind not in ("repeat", "unroll"):
            op = replace(op, args=tuple(self.repeated(a) for a in op.args))
        axes = self.axes_of(op)
        op = replace(op, common=op.common or (not step and self._is_common(op)))
        if op.kind not in OWN_AXES and not op.over_batch:
            if axes and not op.common and op.kind not in ("samples", "rows"):
                op = replace(op, args=tuple(map(self.in_rows, op.args)))
            op = replace(op, args=tuple(self.along(a, axes) for a in op.args))
        return replace(op, step=step, axes=() if op.over_batch else tuple(a for a in axes if a != op.axis))

    def unique(self, wish: str) -> str:
        """A name in the emitted code that nothing else has: ``z``, ``z_2``."""
        reserved = (wish in self.taken and wish not in self.ops) or wish.startswith("start_") or keyword.iskeyword(wish)
        wish = wish + "_" if reserved else wish
        count = self._counts.get(wish, 0) + 1
        name = wish if count == 1 else f"{wish}_{count}"
        while name in self.taken:
            count += 1
            name = f"{wish}_{count}"
        self._counts[wish] = count
        self.taken.add(name)
        return name

    def check_alike(self, leaves: Iterable[str]) -> None:
        """Nothing broadcasts silently: these values have one batch shape. Checked before arithmetic combines them."""
        names = tuple(dict.fromkeys(name for name in leaves if not self.common(name)))
        if len(names) > 1 and names not in self._checked:
            self._checked.add(names)
            check = self._placed(Op("", "same", names))
            check = replace(check, name=self.unique("same"))
            self._checks.setdefault(1 + max(self.place[a] for a in check.reads), []).insert(0, check)

    def ordered(self) -> tuple[Op, ...]:
        """All operations, each check behind the last value that it compares."""
        found: list[Op] = []
        for count, op in enumerate(self.ops.values(), 1):
            found += (op, *self._checks.get(count, ()))
        return tuple(found)

    # ---------------------------------------------------------------------------------------------------- sample axes

    def axis(self, what: object, size: int) -> int:
        """The sample axis of what is drawn ``size`` times; the same draws have the same axis."""
        found = self._axes.setdefault((what, size), len(self._axes))
        self.sizes[found] = size
        return found

    def axes_of(self, op: Op) -> tuple[int, ...]:
        """The sample axes of an operation and of all that it reads, the newest first."""
        return tuple(sorted({*op.axes, *(a for ref in op.reads for a in self.ops[ref].axes)}, reverse=True))

    def along(self, ref: Any, axes: tuple[int, ...]) -> Any:
        """A value seen with all these sample axes; numbers and parameters without a batch axis need none."""
        if not isinstance(ref, str) or self.ops[ref].axes == axes or self.shared(ref):
            return ref
        return self.add(f"{ref}_k", Op("", "along", (ref,), axes=axes, rank=self.rank(ref)))

    def repeated(self, ref: Any) -> Any:
        """A once-per-call value that a step reads; parameters without a batch axis need no copy."""
        if not isinstance(ref, str) or self.is_step(ref) or self.shared(ref) or self.ops[ref].kind == "whole":
            return ref
        if self.ops[ref].common or self.ops[ref].kind == "rows":
            return ref  # has no batch axes, or one of size 1
        return self.add(f"{ref}_t", Op("", "repeat", (ref,), step=True, rank=self.rank(ref)))

    # -------------------------------------------------------------------------------------------------- shared by rows

    def common(self, ref: Any) -> bool:
        """Whether a value is one for all rows of a call, made of variables that they share."""
        return isinstance(ref, str) and self.ops[ref].common

    def statistic(self, ref: Any) -> bool:
        """Whether a value is one number that operators find over all rows at once, or made of such."""
        return isinstance(ref, str) and self.facts[ref].statistic

    def of_row(self, ref: Any) -> bool:
        """Whether a value has batch axes: one for each row."""
        return isinstance(ref, str) and not (self.ops[ref].common or self.shared(ref))

    def of_all(self, ref: Any) -> bool:
        """Whether a value is one number that the rows make together, as those of the formula and the call are not."""
        total = isinstance(ref, str) and self.number(ref) and self.facts[ref].total
        return total or self.common(ref) or self.statistic(ref)

    def in_rows(self, ref: Any) -> Any:
        """A value that all rows share, seen with a batch axis of size 1 behind its sample axes."""
        if not self.common(ref) or self.shared(ref):
            return ref
        return self.add(f"{ref}_rows", Op("", "rows", (ref,), rank=self.rank(ref)))

    def by_row(self, ref: str, like: str, rank: int) -> str:
        """A value that all rows share, seen with the batch axes of ``like``, an event of so many axes."""
        return self.add(f"{ref}_rows", Op("", "rows", (ref, like), how=str(rank), rank=self.rank(ref)))

    def _is_common(self, op: Op) -> bool:
        """Whether what is added is one value for all rows."""
        if op.kind in ("noise", "input"):
            return op.variable is not None and op.variable.key in self.globals
        if op.kind in ("params", "combine") and op.factor is not None and op.factor.shared:
            return True
        if op.kind in OF_ROWS:
            return False
        read = op.reads[1:2] if op.kind == "wide" else op.reads
        return any(map(self.common, read)) and not any(map(self.of_row, read))

    # --------------------------------------------------------------------------------------------- what is known of it

    def rank(self, ref: Any) -> int:
        """How many event axes a value has, as arithmetic sees it."""
        return self.event_axes.get(ref, self.ops[ref].rank) if isinstance(ref, str) else 0

    def is_step(self, ref: Any) -> bool:
        """Whether a value belongs to a time step."""
        return isinstance(ref, str) and self.ops[ref].step

    def shared(self, ref: str) -> bool:
        """Whether a value has no batch axes: parameters that no condition changes, or a number of the whole call."""
        return self.facts[ref].unbatched or self.facts[ref].number

    def number(self, ref: Any) -> bool:
        """A number, a named one, a mean over the batch, a KL of factors without batch axes, or arithmetic of such."""
        return not isinstance(ref, str) or self.facts[ref].number

    def plain(self, ref: Any) -> bool:
        """Whether a value is made of numbers alone, the formula's and the call's: no axes, and perhaps no tensor."""
        return not isinstance(ref, str) or self.facts[ref].plain

    def absent(self, ref: Any) -> frozenset[str]:
        """The inputs that a value depends on and that some rows lack."""
        return self.facts[ref].absent if isinstance(ref, str) else NOTHING

    def density(self, ref: Any) -> bool:
        """Whether the axes of an event were summed in a value, as a log-density sums them."""
        return isinstance(ref, str) and self.facts[ref].density

    def _facts(self, op: Op) -> Facts:
        known = [self.facts[a] for a in op.reads]
        match op.kind:
            case "symbol":
                number = True
            case "batch":
                number = not op.axes
            case "binary" | "negative" | "detach" | "function":
                number = all(f.number for f in known)
            case "kl":
                number = all(f.unbatched for f in known)
            case "call":
                number = op.how == "shared" or (isinstance(op.target, Method) and all(f.unbatched for f in known))
            case _:
                number = False
        if op.kind == "stop":
            unbatched = known[0].unbatched if known else True
        else:
            unbatched = op.kind in ("params", "combine") and op.factor is not None and op.factor.unbatched
        absent = NOTHING
        if self.masked:
            own = {op.variable.key} & self.masked if op.kind in ("input", "whole") and op.variable else set()
            whole = op.kind in ("draw", "support") or (op.kind == "call" and op.how == "known")
            inner = set() if whole else {key for f in known for key in f.absent}
            absent = frozenset(own | inner)
        summed = (op.kind in ("logp", "kl") and not op.options) or (op.kind == "call" and isinstance(op.target, Method))
        carried = op.kind in CARRIED or op.target in OF_VALUES
        scored = (op.kind == "draw" and op.how == "score") or any(f.scored for f in known)
        density = summed or (carried and any(f.density for f in known))
        plain = made_of_numbers(op, lambda name: self.facts[name].plain)
        total = op.kind in ("event", "samples", "batch") or (carried and any(f.total for f in known))
        made = op.kind in ("binary", "negative", "detach", "function") and any(f.statistic for f in known)
        statistic = op.over_batch or (made and all(f.statistic or f.number for f in known))
        made = op.kind in ("binary", "negative", "detach", "function", "event", "lift", "along", "rows", "repeat")
        wild = op.target is not possible and (any(f.wild for f in known) if made else not _is_finite(op))
        return Facts(number, unbatched, absent, density, scored, plain, total, statistic and not op.step, wild)

    def _first_alike(self, op: Op, source: int | None, distinct: object) -> str:
        """The first operation of the same value, whatever its gradient: what is stopped draws with the same noise."""
        if op.kind in ("stop", "detach") and op.reads:
            return self.alike[op.reads[0]]
        args = tuple(self.alike[a] if isinstance(a, str) else a for a in op.args)
        how = "" if op.kind == "draw" else op.how
        key = (op.kind, args, source, op.variable, how, op.target, op.options, op.keywords, distinct)
        return self._values.setdefault(key, op.name)
