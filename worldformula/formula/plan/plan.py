"""The plan: a formula as single assignments, each network and each sample once.

Operations are shared by factor *object* and arguments, never by text. An operation belongs to a level: ``once`` per
call, or ``step`` (once per time step). Every step operation starts in the stage ``loop``; the passes move what they
can. What an operation computes, and how it is written, stands in `rules`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from worldformula.errors import FormulaError
from worldformula.families.base import Family
from worldformula.formula.runtime import RUNTIME
from worldformula.formula.syntax.constants import Constants
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import Node
from worldformula.formula.syntax.text import text

RESERVED = {
    "self", "torch", "F", "normal", "bernoulli", "categorical", "one_hot", "two_hot", *RUNTIME, "B", "T", "t", "rng",
    "sum", "range", "value", "formula",
}  # fmt: skip
Stage = Literal["once", "before", "loop", "after"]
ORDER: dict[Stage, int] = {"once": 0, "before": 1, "loop": 2, "after": 3}
Ref = str | float
Check = tuple[Callable[..., object], tuple[Any, ...]]  # a function that refuses some values of these numbers


@dataclass(frozen=True)
class Method:
    """A method of a family as the target of a call: ``Method(normal, "entropy")``."""

    family: Family
    name: str

    def __call__(self, *args: Any, **options: Any) -> Any:
        """What the method returns."""
        return getattr(self.family, self.name)(*args, **options)


@dataclass(frozen=True)
class Op:
    """One assignment ``name = kind(args)``; the kinds are the keys of `rules.RULES`.

    name: in the plan and in the emitted code.
    args: names of other operations; anything that is no string stands for itself.
    factor: the one that a net, params, draw, logp or kl belongs to; ``other`` the second one of a kl, or of a wide.
    variable: what an input, a carry or a draw is of.
    how: refines a kind: the operator, ``mean``/``sum``, the gradient estimator of a draw, the name of flags.
    step: whether it is computed at every time step.
    axes: the sample axes that lead the value, the newest first; ``axis`` is the one that ``samples`` reduces.
    rank: the event axes of a value that arithmetic combines.
    common: whether it is one value for all rows, without batch axes, as it is made of variables that they share.
    target: what a ``call`` calls, with the network of its factor first where it has one, and ``options`` as keywords;
        one that reduces the batch has ``how="batch"``, one whose result has no batch axes ``how="shared"``, and one
        whose result rows have that lack what it read ``how="known"``. ``keywords`` are those of its last arguments.
    """

    name: str
    kind: str
    args: tuple[Any, ...] = ()
    factor: Factor | None = None
    other: Factor | None = None
    variable: Variable | None = None
    how: str = ""
    step: bool = False
    axes: tuple[int, ...] = ()
    axis: int | None = None
    rank: int = 0
    common: bool = False
    target: Callable[..., Any] | None = None
    options: tuple[tuple[str, Any], ...] = ()
    keywords: tuple[str, ...] = ()

    @property
    def over_batch(self) -> bool:
        """Whether a call reduces the batch, so that all steps at once would change it."""
        return self.kind == "call" and self.how == "batch"

    @cached_property
    def reads(self) -> tuple[str, ...]:
        """The names among the arguments."""
        return tuple(a for a in self.args if isinstance(a, str))


def made_of_numbers(op: Op, known: Callable[[str], bool]) -> bool:
    """Whether an operation is a number that the formula or the call gives, or is computed of such alone; or the
    parameters of a factor that are. ``known`` says it of what the operation reads.
    """
    if op.kind in ("params", "combine"):
        return op.factor is not None and op.factor.numeric
    computed = op.kind in ("binary", "negative", "detach", "stop", "function", "kl") or isinstance(op.target, Method)
    return op.kind == "symbol" or (computed and all(map(known, op.reads)))


@dataclass(frozen=True)
class Term:
    """One term that ``out.terms`` shows: its node (or its name), its operation, and how the formula reduces it."""

    shown: Node | str
    name: Ref
    reductions: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """The whole formula, in an order in which everything is defined before it is used.

    ``carries`` maps a carried variable's key to the operation that gives its next value; ``shifts`` lists the data
    series read at t−1; ``samples`` maps each drawn variable's key to its operation; ``labels`` maps the operation of a
    KL, a log or a sum over time to its node. ``sizes`` are those of the sample axes; ``inner`` is the length of the
    axis of iterations that an input has in front of its event. ``memories`` maps the key of what a network over a past
    keeps to its operation, where that goes from call to call, as in the rollouts of a world. ``lags`` maps the key of
    what a state keeps of an older step, ``z_m1``, to that of its variable. ``counter`` is the index where it is read
    as a number, ``t``, which goes on from call to call too. ``begins`` maps what is carried to the operation that it
    begins with, where a factor says so. ``checks`` are what the numbers of a call have to be, ``levels`` how many
    levels data have that say so, ``counting`` the values that say which rows an operator counts.
    ``valued`` are the inputs that arithmetic reads, ``reckoned`` all variables that it does.
    """

    ops: tuple[Op, ...]
    value: Ref | None
    terms: tuple[Term, ...] = ()
    samples: dict[str, str] = field(default_factory=dict)
    labels: dict[str, Node | str] = field(default_factory=dict)
    carries: dict[str, str] = field(default_factory=dict)
    shifts: tuple[str, ...] = ()
    index: str | None = None
    reset: str | None = None
    initial: Constants | None = None
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    levels: dict[str, tuple[Factor, int]] = field(default_factory=dict)
    counting: frozenset[str] = frozenset()
    sizes: dict[int, int] = field(default_factory=dict)
    inner: dict[str, int] = field(default_factory=dict)
    memories: dict[str, str] = field(default_factory=dict)
    lags: dict[str, str] = field(default_factory=dict)
    counter: str | None = None
    begins: dict[str, str] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    valued: frozenset[str] = frozenset()
    reckoned: frozenset[str] = frozenset()
    stages: dict[str, Stage] = field(default_factory=dict)

    @property
    def starts(self) -> tuple[str, ...]:
        """The keys of all that goes from call to call."""
        return (*self.carries, *self.shifts, *self.memories, *((self.counter,) if self.counter else ()))

    def stage(self, name: str) -> Stage:
        """Where an operation runs."""
        return self.stages[name]

    @cached_property
    def moments(self) -> dict[str, Stage]:
        """When an operation can run. One that is computed once per call waits for the steps that it reads: those before
        the loop, or the loop itself.
        """
        found: dict[str, Stage] = {}
        for op in self.ops:
            last = max((ORDER[found[name]] for name in op.reads), default=0)
            found[op.name] = self.stages[op.name] if op.step else ("once", "before", "after", "after")[last]
        return found

    @cached_property
    def awaited(self) -> frozenset[str]:
        """The once-per-call operations that wait for steps and that other steps wait for: series, and what networks
        make of them.
        """
        found: set[str] = set()
        for op in reversed(self.ops):
            users = (self.by_name[name] for name in self.readers.get(op.name, ()))
            if not op.step and self.moments[op.name] != "once" and any(u.step or u.name in found for u in users):
                found.add(op.name)
        return frozenset(found)

    def with_stages(self, **changed: Stage) -> Plan:
        """The same plan with some operations moved."""
        return replace(self, stages={**self.stages, **changed})

    def label(self, name: Ref) -> str:
        """What an operation stands for, in a message."""
        shown = self.labels.get(str(name), str(name))
        return shown if isinstance(shown, str) else text(shown)

    @cached_property
    def titles(self) -> tuple[str, ...]:
        """The text of every term; one that is there already gets a number."""
        found: dict[str, int] = {}
        titles = []
        for term in self.terms:
            shown = term.shown if isinstance(term.shown, str) else text(term.shown)
            found[shown] = count = found.get(shown, 0) + 1
            titles.append(shown if count == 1 else f"{shown} ({count})")
        return tuple(titles)

    @cached_property
    def numbers(self) -> frozenset[str]:
        """The operations that are numbers, or parameters that are: they have no axes, and may be no tensor."""
        found: set[str] = set()
        for op in self.ops:
            if made_of_numbers(op, found.__contains__):
                found.add(op.name)
        return frozenset(found)

    @cached_property
    def by_name(self) -> dict[str, Op]:
        """The operations by name."""
        return {op.name: op for op in self.ops}

    @cached_property
    def readers(self) -> dict[str, tuple[str, ...]]:
        """Who reads an operation, once for every argument."""
        found: dict[str, list[str]] = {}
        for op in self.ops:
            for name in op.reads:
                found.setdefault(name, []).append(op.name)
        return {name: tuple(users) for name, users in found.items()}

    @cached_property
    def inputs(self) -> dict[str, Op]:
        """What a call must give, by keyword."""
        found = {
            op.variable.key: op for kind in ("whole", "input") for op in self.ops if op.kind == kind and op.variable
        }
        found |= {op.how: op for op in self.ops if op.kind in ("flags", "mask") and op.how not in found}
        found |= {f"present_{op.how}": op for op in self.ops if op.kind == "present"}
        return found | {op.variable.key: op for op in self.ops if op.kind == "symbol" and op.variable}

    @cached_property
    def flagged(self) -> dict[str, str]:
        """The series of flags -> what they are for: ``flags`` (of a reset) or ``mask``."""
        return {op.how: op.kind for op in reversed(self.ops) if op.kind in ("flags", "mask")}

    @cached_property
    def arguments(self) -> dict[str, str]:
        """The keyword of every input -> its name in the emitted function."""
        named = {}
        for key, op in self.inputs.items():
            plain = key if op.kind in ("flags", "mask") else op.name
            taken = key in self.flagged and (key in self.by_name or key in RESERVED)
            named[key] = f"{key}_flags" if taken else plain  # data that are flags too are read as both
        return named

    @cached_property
    def symbols(self) -> tuple[tuple[Op, str], ...]:
        """The numbers of the call, and their names in the emitted function."""
        return tuple((op, self.argument(op)) for op in self.ops if op.kind == "symbol")

    def argument(self, op: Op) -> str:
        """The name in the emitted function of an input, of flags, or of a number of the call."""
        key = f"present_{op.how}" if op.kind == "present" else op.variable.key if op.variable else op.how
        return self.arguments[key]

    @property
    def free_running(self) -> bool:
        """Whether no data series says how many steps there are, as when a world imagines with its own policy."""
        return self.index is not None and not any(self.series(op) for op in self.inputs.values())

    @staticmethod
    def series(op: Op) -> bool:
        """Whether an input is a series [B, T, ...]."""
        return op.step or op.kind == "whole"

    @property
    def batched(self) -> bool:
        """Whether the values of the plan have batch axes at all: those of its inputs."""
        return self.index is not None or any(op.kind != "symbol" and not op.common for op in self.inputs.values())

    def lead(self, op: Op) -> tuple[int, ...]:
        """The sizes of the sample axes of an operation."""
        return tuple(self.sizes[axis] for axis in op.axes)

    def new_axes(self, op: Op, source: str) -> list[int]:
        """The sample axes of an operation by size, 0 for one that what it reads has already."""
        has = self.by_name[source].axes
        return [0 if axis in has else self.sizes[axis] for axis in op.axes]

    @cached_property
    def particles(self) -> dict[str, tuple[int, ...]]:
        """What goes from step to step several times: the sizes of its sample axes, by key."""
        return {op.variable.key: self.lead(op) for op in self.ops if op.kind == "carry" and op.variable and op.axes}

    @cached_property
    def histories(self) -> frozenset[str]:
        """The operations that read a past."""
        return frozenset(op.name for op in self.ops if op.kind == "causal")

    @cached_property
    def sites(self) -> list[Op]:
        """The noise operations, in the order in which noise is drawn."""
        return [op for op in self.ops if op.kind == "noise"]

    @cached_property
    def kept_noise(self) -> frozenset[str]:
        """The sites whose noise is there without sampling too: it tells the batch axes of what has none."""
        rowed = {name for op in self.ops if op.kind in ("by_row", "support") for name in op.reads}
        unbatched = (op.name for op in self.sites if op.factor is not None and op.factor.unbatched)
        return frozenset((*unbatched, *(op.name for op in self.sites if op.name in rowed)))

    @cached_property
    def noise_keys(self) -> dict[str, str]:
        """The keyword of every site in ``noise=``: its variable, ``z``; of what is drawn again ``z_2``, or the next
        number where another variable is called so.
        """
        found: dict[str, str] = {}
        counts: dict[str, int] = {}
        variables = {site.variable.key for site in self.sites if site.variable}
        for site in self.sites:
            assert site.variable is not None
            key = site.variable.key
            counts[key] = count = counts.get(key, 0) + 1
            while count > 1 and f"{key}_{count}" in variables:
                counts[key] = count = count + 1
            found[site.name] = key if count == 1 else f"{key}_{count}"
        return found

    @staticmethod
    def noise_by_site(given: Mapping[str, Any], aliases: Mapping[str, str]) -> Mapping[str, Any]:
        """Given noise by the keys of the sites, where some has the name of a draw in the samples."""
        for key in aliases.keys() & given.keys():
            if aliases[key] in given:
                raise FormulaError(f"noise: {key!r} and {aliases[key]!r} are one draw; give one of them")
        return {aliases.get(key, key): value for key, value in given.items()}

    @cached_property
    def noise_aliases(self) -> dict[str, str]:
        """Other keywords in ``noise=``: those of the draws in the samples, ``z_1`` of the first iteration."""
        keys = self.noise_keys
        drawn = [(key, self.by_name[name]) for key, name in self.samples.items()]
        found = {key: keys[a] for key, op in drawn if op.kind == "draw" for a in op.reads if a in keys}
        return {key: site for key, site in found.items() if key not in keys.values()}

    @cached_property
    def reference(self) -> tuple[str, int] | None:
        """The input of a call without time from which the batch shape is read, and how many event axes it has."""
        known = [
            (k, self.ranks[k] + (k in self.inner))
            for k, op in self.inputs.items()
            if not op.step and op.kind == "input" and k in self.ranks and not op.common
        ]  # a whole series is [B, T, ...]: its length is no batch axis
        return known[0] if known else None

    def given_shape(self, key: str) -> tuple[int, ...] | None:
        """The event shape that a call gives an input in."""
        shape = self.shapes.get(key)
        return (self.inner[key], *shape) if shape is not None and key in self.inner else shape

    def noise_shape(self, site: Op) -> tuple[int, ...] | None:
        """The event part of a site's noise; None where it is only known once the network has run."""
        factor, shape = site.factor, self.shape_of(site.factor)
        assert factor is not None
        assert factor.family is not None
        known = site.step or site.how == "start" or self.reference or not self.inputs or factor.unbatched
        known = known or site.common or site.name in self.kept_noise
        if shape is None or not known:
            return None
        return factor.family.noise_shape((), shape)

    def shape_of(self, factor: Factor | None) -> tuple[int, ...] | None:
        """The declared event shape of a factor's variable."""
        return None if factor is None else self.shapes.get(factor.variable.key)

    def shape_of_output(self, factor: Factor, variable: Variable) -> tuple[int, ...] | None:
        """The event shape of what a factor computes: its own, or what another declares, as the one that a start has."""
        shape = dict(factor.event_shapes())[variable]
        return self.shapes.get(variable.key) if shape is None else shape

    def rank_of(self, factor: Factor) -> int:
        """How many event axes a factor's variable has."""
        return self.ranks.get(factor.variable.key, factor.rank)

    def __str__(self) -> str:
        """One line per operation: stage, name, what it does."""
        rows = []
        for op in self.ops:
            what = " ".join(s for s in (op.kind, op.how, str(op.factor or op.variable or "")) if s)
            args = ", ".join(a if isinstance(a, str) else repr(a) for a in op.args)
            rows.append(f"{self.stage(op.name):6} {op.name} = {what}{f'  [{args}]' if args else ''}")
        return "\n".join(rows)
