"""The plan of a formula while it is lowered: its operations, and what they add up to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import dtype

from worldformula.errors import FormulaError, GradientError, ShapeError, TimeError, table
from worldformula.formula.factors.independent import Data
from worldformula.formula.filtering import taken
from worldformula.formula.plan.declared import check_keys, declared_shapes, shared_variables
from worldformula.formula.plan.plan import Check, Op, Plan, Ref, Term
from worldformula.formula.plan.scope import Scope
from worldformula.formula.plan.ssa import Assignments
from worldformula.formula.runtime import filled, padded
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import Named, Node, OverTime, Product, Value
from worldformula.formula.syntax.spelling import greek
from worldformula.formula.syntax.starts import begins, zeroth
from worldformula.formula.syntax.text import text

INSIDE_SUPPORT = {"log_normal": 1.0, "gamma": 1.0, "beta": 0.5, "dirichlet": 0.5}  # zero is outside, or at its edge


class Draft(Assignments):
    """What a lowering writes. Sums over time share one clock; iterations are those of sums with ``steps=``."""

    def __init__(self, used: list[Factor], masked: frozenset[str] = frozenset()) -> None:
        families = {f.family.name for f in used if f.family is not None}
        super().__init__({name + "_" * i for name in families for i in range(len(families))}, masked)
        self.terms: list[Term] = []
        self.samples: dict[str, str] = {}
        self.labels: dict[str, Node | str] = {}
        self.carries: dict[str, str] = {}
        self.memories: dict[str, str] = {}
        self.counter: str | None = None  # the index, where it is read as a number
        self.lags: dict[str, str] = {}  # what a state keeps of older steps -> the variable that it is of
        self.begins: dict[str, str] = {}  # what is carried -> what it begins with, where a factor says so
        self.rows: dict[Variable, str] = {}  # the first rows that starts read, and the starts
        self.gone: dict[Variable, Factor] = {}  # the starts of a sum that goes on from a given one
        self.paths: dict[int, Product] = {}  # by expectation, what it draws at the steps of a sum that stands inside
        self.particles: dict[int, int] = {}  # by expectation, the sample axis of draws that later steps read
        self.through: dict[Variable, tuple[int, ...]] = {}  # what such draws lead to, and its sample axes
        self.filters: dict[int, Any] = {}  # by sample axis, what resampling takes: see `resampling`
        self.ancestors: dict[int, str] = {}  # by sample axis, whose particles those at the beginning of a step are
        self.checks: dict[object, Check] = {}  # of numbers of the call
        self.valued: set[str] = set()  # the inputs that arithmetic reads
        self.reckoned: set[str] = set()  # all variables that arithmetic reads
        self.floats: tuple[frozenset[str], dtype] | None = None  # those of whole numbers, and what they become there
        self.chains: dict[tuple[object, ...], Any] = {}  # the operations of chains, by chain and place
        self.carried: set[Variable] = set()  # what is read at t−1 of something that a step declares
        self.time: OverTime | None = None
        self.declared: set[Variable] = set()
        self.counts: dict[str, int] = {}  # how many iterations there are, by index
        self.inner: dict[str, int] = {}  # inputs with an axis of iterations in front of their event, and its length
        self.iterated: dict[
            Variable, str
        ] = {}  # the values of this iteration, and the last ones of those that are done
        self.named: dict[str, Named] = {}
        self.logarithms: dict[str, Ref | None] = {}  # of values, where these need no exponentials; else None
        self.known_parts: dict[tuple[int, int], tuple[Ref, Scope]] = {}  # values of parts, by part and scope
        self.flags_of_time: str | None = None  # the steps that count, where some do not
        self.burn_in = 0  # how many first steps do not count in the sum that is lowered
        self.known: dict[str, Variable] = {}  # inputs by key
        self.scalar: dict[str, bool] = {}  # whether they are one number for the whole call
        self.letters: dict[str, Variable] = {}  # the same as they are first written
        self.fills = {
            f.variable.key: INSIDE_SUPPORT[f.family.name]
            for f in used
            if f.family is not None and f.family.name in INSIDE_SUPPORT
        }
        self.shapes, self.ranks = declared_shapes(used)
        self.levels: dict[str, tuple[Factor, int]] = {
            f.variable.key: (f, f.levels) for f in used if isinstance(f, Data) and f.levels
        }
        self.counting: set[str] = set()  # the values that say which rows count
        self.stepped = {v.key for f in used for v in (*f.variables, *f.conditions) if v.index and not v.span}
        self.indexed = set(self.stepped)  # the series, as factors and values write them
        self._computed = {v.key for f in used if not f.observed for v in f.variables}
        self._shown: set[Term] = set()  # the named parts that are terms already
        self.written = {v.key: v for f in used for v in (*f.variables, *f.conditions)}
        self.elsewhere: set[str] = set()  # the keys of what other steps than its own read
        self._note_readers(c for f in used for c in f.conditions)
        self.zeroed: dict[str, Variable] = {}  # what the first iteration reads of the one before, which is zeros
        check_keys(used)
        self.globals = shared_variables(used)

    def declare(self, values: Sequence[Value]) -> None:
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
        self._note_readers(value.variable for value in values)
        self.written |= {value.variable.key: value.variable for value in values}
        self.indexed |= {value.variable.key for value in values if value.variable.index}
        for value in values:  # what no factor and no other value says otherwise of has no event axes
            if value.variable.key not in self._computed:
                self.ranks.setdefault(value.variable.key, 0)

    def _note_readers(self, read: Iterable[Variable]) -> None:
        """Note what is read at other steps: z_{t-1}, z_{<t}, z_{1:T} and z_T."""
        self.elsewhere |= {v.key for v in read if v.offset or v.several or (v.index or "").isupper()}

    def term(self, node: Node, value: Ref, scope: Scope) -> Ref:
        """Note a KL, a log-density or an expectation of one as a term that ``out.terms`` shows."""
        if isinstance(value, str):
            if not self.rank(value) and not self.number(value):
                scope.leaves.append(value)
            self.labels.setdefault(value, node)
        if not scope.inside and not self.rank(value):  # what has elements is shown by what reduces them
            self.terms.append(Term(node, value, scope.reductions))
        return value

    def part(self, node: Named, value: Ref, scope: Scope) -> None:
        """Note a named part, which is one term wherever it stands; a name means one thing in a formula."""
        known = self.named.setdefault(node.name, node)
        if known.body is not node.body:
            raise FormulaError(
                f"two parts of the formula are named {node.name!r}: {text(known.body)} and {text(node.body)}\n"
                f"give each a name of its own"
            )
        term = Term(node.name, value, scope.reductions)
        if not scope.inside and term not in self._shown:
            self._shown.add(term)
            self.terms.append(term)

    def begin_formula(self) -> None:
        """What follows is a formula of a group, which has its own terms."""
        self._shown.clear()

    def plan(self, value: Ref | None) -> Plan:
        """What was written, with everything of a time step in the loop."""
        carried = {v.key for v in self.carried}
        self._refuse_taken_keys()
        self._refuse_ignored_starts()
        self.carries = self._with_axes(self.carries)
        self._refuse_carried({name for key, name in self.carries.items() if key in carried})
        ops = self.ordered()
        return Plan(
            ops=ops,
            value=value,
            terms=tuple(self.terms),
            samples=self.samples | {key: self.carries[key] for key in self.lags},
            labels=self.labels,
            carries={k: v for k, v in self.carries.items() if k in carried},
            shifts=tuple(op.variable.key for op in self.of_kind.get("shift", ()) if op.variable),
            index=self.time.index if self.time else None,
            reset=self.time.reset if self.time else None,
            initial=self.time.initial if self.time else None,
            shapes=self.shapes,
            ranks=self.ranks,
            levels=self.levels,
            counting=frozenset(self.counting),
            sizes=self.sizes,
            inner=self.inner,
            memories=self.memories,
            lags=self.lags,
            counter=self.counter,
            begins=self.begins,
            checks=tuple(self.checks.values()),
            valued=frozenset(self.valued),
            reckoned=frozenset(self.reckoned),
            stages={op.name: "loop" if op.step else "once" for op in ops},
        )

    def _refuse_taken_keys(self) -> None:
        """What a state keeps of older steps, and the number of a step, have keys that no data of the formula have."""
        taken = {op.variable.key for op in self.ops.values() if op.variable and op.kind not in ("carry", "shift")}
        indices = [*self.counts, *([] if self.time is None else [self.time.index])]
        for index in indices:
            if greek(index) in {*self.known, *self.letters}:
                raise FormulaError(
                    f"inside the Sum over {index} the variable {index} is the number of the step, and elsewhere it "
                    f"would be given to the call\nrename what is given"
                )
        starts = {v.key for v in (*self.rows, *self.gone)}
        for key in self.lags.keys() & ((taken | self.stepped | self._computed) - starts):
            raise FormulaError(
                f"{key} is what a state keeps of an older {self.lags[key]}, and a variable is called so too\n"
                f"rename the variable"
            )

    def _refuse_ignored_starts(self) -> None:
        """Refuse z_0 beside z_{t-1} that does not begin with it: the reader of the formula takes it for its start."""
        before = {v.key: (v, "zeros") for v in self.zeroed.values()}
        for kind in ("carry", "shift"):
            before |= {op.variable.key: (op.variable, kind) for op in self.of_kind.get(kind, ()) if op.variable}
        for start in filter(zeroth, self.written.values()):
            variable, kind = before.get(begins(start), (start, ""))
            if not kind or variable.key in self.begins or start in self.gone:
                continue
            index, now = variable.index, variable.at(0)
            advice = {
                "zeros": f"draw it around the sum, E(q({start}), Sum({index!r}, ...)), or take it from the call so, "
                f"E(p_data({start}), ...)",
                "carry": f"begin the sum with a factor of {start}, Sum({index!r}, ..., initial=q({start})), or of a "
                f"given value, {start} = f(s), or rename {start}",
                "shift": f"carry a copy of {now}, Deterministic('c_{index} = f({now})', nn.Identity(), shape=...), "
                f"that begins with the other, initial=Deterministic('c_0 = f({start})', nn.Identity()), and read "
                f"c_{{{index}-1}} in the place of {variable}; or rename {start}",
            }[kind]
            raise TimeError(f"{variable} of the first step is not {start}, which nothing begins the sum with\n{advice}")

    def _refuse_carried(self, carried: set[str]) -> None:
        """The score estimator of a draw sees the terms inside its E, not those of the steps that the draw leads to;
        and what goes from step to step is one value, not K.
        """
        for name in sorted(carried):
            op = self.ops[name]
            keys = (key for key, source in self.carries.items() if source == name)
            if set(op.axes) - {axis for key in keys for axis in self.axes_of_carry(key)}:
                raise TimeError(
                    f"{op.factor or op.name} is drawn several times (samples= or gradient='exact') and leads to "
                    f"what is carried\nto the next step, which is one value; give the batch more rows instead, "
                    f"x.repeat_interleave(K, 0): their mean is that of K samples, and a log of it is yours to take"
                )
            weight = name in {self.carries.get(each.key) for each in self.filters.values()}  # 0 where a row lacks data
            if not weight and (missing := ", ".join(sorted(self.absent(name)))):
                raise FormulaError(
                    f"{op.factor or op.name} is made of {missing}, which some rows lack (present=), and is carried to "
                    f"later steps\nlet it read a draw of PoE([prior, q]) or MoE, whose experts are left out there"
                )
            if self.facts[name].scored and (scored := self._scored_in(name, step=True)) is not None:
                raise GradientError(
                    f"E over {scored.factor}: gradient='score' would miss what the draw does to later "
                    f"steps,\nwhich read it through the carry\nuse gradient='straight-through', or a family such as "
                    f"OneHot"
                )

    def axes_of_carry(self, key: str) -> tuple[int, ...]:
        """The sample axes of what is carried under a key."""
        return next((axes for v, axes in self.through.items() if v.key == self.lags.get(key, key)), ())

    def _with_axes(self, carries: dict[str, str]) -> dict[str, str]:
        """What is carried, each with the sample axes that its readers were told of."""
        return {key: self.along(n, axes) if (axes := self.axes_of_carry(key)) else n for key, n in carries.items()}

    def of_ancestors(self, name: str) -> str:
        """What comes from the step before, of the particles that this step goes on from."""
        for axis, ancestors in self.ancestors.items():
            if axis in self.ops[name].axes:
                rank = self.rank(name)
                place = sorted({*self.ops[name].axes, axis}, reverse=True).index(axis)
                take = Op("", "call", (name, ancestors, place), target=taken, rank=rank)
                name = self.add(f"{name}_resampled", take)
        return name

    def refuse_lost(self, name: str, variable: Variable, around: set[int]) -> None:
        """Refuse a value of an iteration outside the E that draws it, where the estimator of the E ends with it."""
        if set(self.ops[name].axes) - around:
            raise TimeError(
                f"{variable} is drawn several times (samples= or gradient='exact'), and is read outside of that E, "
                f"where it is one value\nwrite E with samples= around the whole sum over {str(variable.index).lower()}"
            )
        if self.facts[name].scored:
            raise GradientError(
                f"E over {self._scored(name)}: gradient='score' would miss what the draw does to {variable}, "
                f"which is read outside of that E\nuse gradient='straight-through', or a family such as OneHot"
            )

    def refuse_several(self, value: Ref) -> None:
        """Refuse the value of a formula that has one for each of K draws, of which no E takes the mean."""
        if not isinstance(value, str) or not self.ops[value].axes or self.ops[value].kind == "group":
            return
        several = (t.name for t in self.terms if isinstance(t.name, str) and self.ops[t.name].axes)
        raise TimeError(
            f"{self.label(next(several, value))} is of draws of which there are several (samples=), and stands outside "
            f"of the E that takes their mean\nput it inside that E, or leave samples= out"
        )

    def refuse_resampled(self, name: str, variable: Variable, by: object, advice: str) -> None:
        """Refuse what particles of a filter do not take along when they are drawn anew."""
        if any(axis in self.filters for axis in self.ops[name].axes):
            raise TimeError(
                f"{by} reads {variable} of particles that are drawn anew, each by its number, and not that of its "
                f"ancestors\n{advice}"
            )

    def refuse_other_steps(self, name: str, variable: Variable, by: object) -> None:
        """Refuse a value of a step where other steps read it, if its estimator ends with the step: a score that sees
        the terms of its step alone, or values that are enumerated step by step.
        """
        if self.facts[name].scored:
            raise GradientError(
                f"E over {self._scored(name)}: gradient='score' would miss what the draw does to other "
                f"steps, where {by} reads it as {variable}\nuse gradient='straight-through', or a family such as OneHot"
            )
        axes = set(self.ops[name].axes)
        listed = (op for op in self.leading_to({name}) if op.kind == "support" or op.how == "stratified")
        if axes and (source := next((op for op in listed if axes & set(op.axes)), None)) is not None:
            raise TimeError(
                f"{by} reads {variable}, and {source.factor} takes every value at each step by itself, not every "
                f"series of them\ndraw it: use gradient='straight-through', or a family such as OneHot"
            )

    def _scored(self, name: str) -> Factor | None:
        """The factor of a draw of the score estimator that a value depends on."""
        found = self._scored_in(name)
        return None if found is None else found.factor

    def _scored_in(self, name: str, *, step: bool = False) -> Op | None:
        """A draw of the score estimator that a value depends on; one of a ``step``, whose E ends with it: what is drawn
        around a sum over time has all its steps inside of its E.
        """
        made_of = self.leading_to({name})
        return next((op for op in made_of if op.kind == "draw" and op.how == "score" and op.step >= step), None)

    def is_data(self, name: str) -> bool:
        """Whether a value of a step is what the call gives, perhaps filled."""
        op = self.ops[name]
        return op.step and (op.kind == "input" or (op.target in (filled, padded) and self.is_data(op.reads[0])))

    def leading_to(self, names: set[str]) -> Iterable[Op]:
        """The operations that these values are made of, the last first."""
        needed = set(names)
        for op in reversed(self.ops.values()):
            if op.name in needed:
                needed |= set(op.reads)
                yield op

    def label(self, ref: Ref) -> str:
        """What a value stands for, in a message."""
        shown = self.labels.get(str(ref), str(ref))
        return shown if isinstance(shown, str) else text(shown)
