"""The nodes of an expression: frozen data that keep what was written, and nothing else.

``a - b`` and ``a + (-b)`` are different trees; only the plan may simplify. Printers, checks and lowering each live in a
file of their own with one rule per node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from worldformula.families.given import Given
from worldformula.families.writing import Sign
from worldformula.formula.syntax.constants import Constants
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.resample import Resample


@dataclass(frozen=True, eq=False)
class Use:
    """One factor inside an expression; ``stopped`` when written ``sg(q)``: its parameters get no gradient."""

    factor: Factor
    stopped: bool = False


Product = tuple[Use, ...]


class Integral(tuple[Use, ...]):  # noqa: SLOT001  a tuple with items cannot have slots
    """A product in which the variables ``hidden`` are summed out: ∫ p(x|z) p(z) dz."""

    hidden: tuple[Variable, ...]

    def __new__(cls, uses: Product, hidden: tuple[Variable, ...]) -> Integral:
        """The factors of the product, and what is summed out."""
        found = super().__new__(cls, uses)
        found.hidden = hidden
        return found

    def __getnewargs__(self) -> tuple[Product, tuple[Variable, ...]]:  # type: ignore[override]
        return tuple(self), self.hidden


class Standing:
    """What has a node; it may stand where a number stands if the node is a Symbol."""

    node: Node

    @property
    def placeholder(self) -> Given | None:
        """What the settings of families know a Symbol by; None where this is none."""
        return Given(str(self.node.variable)) if isinstance(self.node, Value) and self.node.scalar else None


class Node:
    """Base of all nodes; compared by identity."""

    __slots__ = ()

    def __getstate__(self) -> dict[str, Any]:
        remembered = ("_drawn", "_one_draw", "_scored")  # see `drawn`
        return {key: value for key, value in vars(self).items() if key not in remembered}


@dataclass(frozen=True, eq=False)
class Number(Node):
    """A number as written: 1 and 1.0 print differently."""

    value: int | float


@dataclass(frozen=True, eq=False)
class Value(Node):
    """The value of a variable: drawn, computed or given; ``scalar`` for a number that the whole call shares (β).

    ``kept`` raises an error about a number that cannot stand where this one does.
    """

    variable: Variable
    shape: tuple[int, ...] | None = None
    scalar: bool = False
    kept: Callable[[int | float], object] | None = None


@dataclass(frozen=True, eq=False)
class Log(Node):
    """log p(x|z) of a factor, or of a product: the sum of its factors' log-densities; an `Integral` is enumerated.

    ``event`` keeps the elements of the event apart: the log-density of each.
    """

    p: Product
    event: bool = False


@dataclass(frozen=True, eq=False)
class Ratio(Node):
    """p / q: the ratio of two densities at the values that the expression gives their variables."""

    p: Product
    q: Product


@dataclass(frozen=True, eq=False)
class Divergence(Node):
    """KL(q ‖ p) between two factors over the same variable, in closed form."""

    q: Use
    p: Use


@dataclass(frozen=True, eq=False)
class Expectation(Node):
    """E_q[body]: one shared draw of every factor of ``q``, or ``samples`` draws on a leading axis.

    ``gradient`` names the estimator that was chosen; ``baseline`` is what the score estimator subtracts: a node, or
    ``"leave-one-out"`` for the mean of the other samples. ``resample`` is how the samples of a step are those of the
    next one.
    """

    q: Product
    body: Node
    gradient: str | None = None
    samples: int | None = None
    baseline: Node | str | None = None
    resample: Resample | None = None

    @property
    def marks(self) -> tuple[str, ...]:
        """What the sign of the expectation says besides its factors: ``("score", "leave-one-out", "K=8")``."""
        baseline = ("leave-one-out" if isinstance(self.baseline, str) else "baseline",) if self.baseline else ()
        gradient = (self.gradient,) if self.gradient else ()
        again = () if self.resample is None else self.resample.marks
        return gradient + baseline + (() if self.samples is None else (f"K={self.samples}",)) + again


@dataclass(frozen=True, eq=False)
class Binary(Node):
    """left op right, with op one of ``+ - * / ^ max min``."""

    op: Literal["+", "-", "*", "/", "^", "max", "min"]
    left: Node
    right: Node


@dataclass(frozen=True, eq=False)
class Negative(Node):
    """-body."""

    body: Node


@dataclass(frozen=True, eq=False)
class Function(Node):
    """name(body), elementwise: exp, log, abs, … and ``clamp`` with its bounds; the rules stand in `functions`."""

    name: str
    body: Node
    bounds: tuple[int | float | Node | None, ...] = ()


@dataclass(frozen=True, eq=False)
class OverEvent(Node):
    """Σ body over the axes of an event, or ‖body‖², the sum of its squares."""

    how: Literal["total", "norm2"]
    body: Node


@dataclass(frozen=True, eq=False)
class Named(Node):
    """A part of a formula under a name of its own, which is printed in its place and explained below the formula."""

    name: str
    body: Node


@dataclass(frozen=True, eq=False)
class StopGradient(Node):
    """sg(body): its value, without its gradient."""

    body: Node


@dataclass(frozen=True, eq=False)
class OverBatch(Node):
    """mean(body) or sum(body) over all batch axes."""

    how: Literal["mean", "sum"]
    body: Node


@dataclass(frozen=True, eq=False)
class OverTime(Node):
    """Σ_t body (or its mean over t). ``reset`` names the series of flags that restart the carry.

    ``mask`` names the series of flags of the steps that count; the first ``burn_in`` steps run, but do not count;
    nor do those behind the first one that has the flag ``until``. ``initial`` and ``begin`` say what is carried to the
    first step: values, and factors that draw or compute it.
    """

    how: Literal["sum", "mean"]
    index: str
    body: Node
    reset: str | None = None
    initial: Constants | None = None
    mask: str | None = None
    burn_in: int = 0
    until: str | None = None
    begin: Product = ()


@dataclass(frozen=True, eq=False)
class OverSteps(Node):
    """Σ body for index = 1 … steps: iterations that are not time, written out one by one."""

    how: Literal["sum", "mean"]
    index: str
    steps: int
    body: Node


@dataclass(frozen=True, eq=False)
class OverRows(Node):
    """Σ body over the rows of the data: a plate. ``rows`` is how many there are where a call gives some of them, whose
    sum is scaled by rows / batch; None where it gives all.
    """

    index: str
    rows: int | Node | None
    body: Node


@dataclass(frozen=True, eq=False)
class Group(Node):
    """Several formulas evaluated together: what they share is drawn and computed once."""

    names: tuple[str, ...]
    bodies: tuple[Node, ...]


class Operator(Node):
    """A node that a file of ``ops/`` defines: it prints as ``symbol[part ‖ part]`` and lowers itself.

    ``parts`` are the products and nodes inside the brackets, in written order; ``separator`` stands between them.
    """

    symbol: ClassVar[Sign]
    of_shared: ClassVar[bool] = False  # whether its factors may be of variables that all rows share
    separator: ClassVar[Literal["‖", ",", ";", "+"]] = "‖"

    @property
    def sign(self) -> Sign:
        """The symbol of this instance, with its settings."""
        return self.symbol

    @property
    def parts(self) -> tuple[Product | Node, ...]:
        """What stands between the brackets."""
        raise NotImplementedError

    def lower(self, lowering: Any, scope: Any) -> Any:
        """The operation that computes the value, or a generator of it, which yields a node with its scope and is sent
        its operation. ``lowering`` offers `read`, `params`, `side`, `call` and the rest.
        """
        raise NotImplementedError

    @property
    def numbers(self) -> tuple[int | float | Node, ...]:
        """Its settings that may be Symbols, such as an order."""
        return ()

    @property
    def extra(self) -> Product:
        """The factors that it reads or draws besides its parts, which are not printed."""
        return ()

    @property
    def drawn(self) -> tuple[Factor, ...]:
        """The random factors that the operator itself draws."""
        return ()

    @property
    def clock(self) -> OverTime | None:
        """The sum over time that it stands for, where it goes over all steps itself."""
        return None

    @property
    def sets(self) -> bool:
        """Whether it sets these itself, each to a value of its own, and nothing is drawn that others may share."""
        return False

    @property
    def meaning(self) -> Node | None:
        """The formula that it stands for, where it is lowered to one."""
        return None

    @property
    def estimator(self) -> tuple[str, str]:
        """How the value and its gradient are computed, for ``explain()``."""
        raise NotImplementedError


def children(node: Node) -> tuple[Node, ...]:
    """The sub-expressions of a node, in written order."""
    match node:
        case Binary(_, left, right):
            return left, right
        case Expectation(_, body, _, _, Node() as baseline):
            return body, baseline
        case Function(_, body, bounds):
            return (body, *(bound for bound in bounds if isinstance(bound, Node)))
        case OverRows(_, rows, body):
            return (body, rows) if isinstance(rows, Node) else (body,)
        case (
            Expectation() | Negative() | StopGradient() | OverBatch() | OverTime() | OverSteps() | OverEvent() | Named()
        ):
            return (node.body,)
        case Group(_, bodies):
            return bodies
        case Operator():
            return tuple(part for part in (*node.parts, *node.numbers) if isinstance(part, Node))
    return ()


def of_numbers(node: Node) -> bool:
    """Whether a node is made of numbers and Symbols alone, so that it is one number for the whole call."""
    return all(
        isinstance(n, Binary | Negative | Function | Number) or (isinstance(n, Value) and n.scalar) for n in walk(node)
    )


def uses(node: Node) -> tuple[Use, ...]:
    """The factors that the node itself names, in written order."""
    match node:
        case Log(p):
            return p
        case Divergence(q, p):
            return q, p
        case Ratio(p, q):
            return (*p, *q)
        case Expectation(q, _, _):
            return q
        case OverTime():
            return node.begin
        case Operator():
            return (*(use for part in node.parts if not isinstance(part, Node) for use in part), *node.extra)
    return ()


def walk(node: Node) -> Iterator[Node]:
    """A node and all below it, in written order; one that stands in several places comes once, at the first."""
    waiting, seen = [node], set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            waiting.extend(reversed(children(node)))


def innermost_first(node: Node) -> list[Node]:
    """A node behind all that it holds, each once: what stands inside, and what operators have found to stand for."""
    waiting, done = [node], dict[int, Node]()
    while waiting:
        last = waiting[-1]
        if id(last) not in done:
            if missing := [n for n in _held(last) if id(n) not in done]:
                waiting.extend(missing)
                continue
            done[id(last)] = last
        waiting.pop()
    return list(done.values())


def _held(node: Node) -> Iterator[Node]:
    for value in node.__getstate__().values():
        yield from (v for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, Node))


def factors(node: Node) -> list[Factor]:
    """Every factor of the expression once, in written order; behind one that is made of others, these."""
    found: dict[int, Factor] = {}
    for n in walk(node):
        for use in uses(n):
            for factor in use.factor.family_tree():
                found.setdefault(id(factor), factor)
    return list(found.values())


def initial_of(node: Node) -> Constants | None:
    """The learnable or given initial state of the first sum over time that has one."""
    return next((n.initial for n in walk(node) if isinstance(n, OverTime) and n.initial is not None), None)
