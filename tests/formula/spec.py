"""What a random formula says, as plain frozen data: the library's formula and the witness are both made from it.

Nothing here knows the library. A variable is its text: ``"z"``, ``"z_t"``, ``"z_{t-1}"``, ``"x_{1:T}"``, ``"o_L"``.
Networks and tensors are keys of `Materials`, so that both sides compute with the same weights.
"""

import re
from dataclasses import dataclass, field, fields

from torch import Tensor, nn

INDEX = re.compile(r"_(?:\{(\w)-1\}|\{1:(\w)\}|(\w))$")


def base(variable):
    """The variable without its subscript of time: the keyword of a call."""
    plain = INDEX.sub("", variable).replace("'", "_prime")
    return plain.replace("\\hat ", "hat_") if plain.startswith("\\hat ") else plain


def index(variable):
    """The letter of its subscript, and how: ``"now"``, ``"past"``, ``"all"``; None where it has none."""
    found = INDEX.search(variable)
    if not found:
        return None, ""
    past, whole, now = found.groups()
    return (past, "past") if past else (whole, "all") if whole else (now, "now")


@dataclass
class Materials:
    """What the formula is made of: networks, given tensors, data, and the options of the call."""

    nets: dict[str, nn.Module] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    raws: dict[str, nn.Parameter] = field(default_factory=dict)  # what moves: the given tensor is softplus of it
    data: dict[str, Tensor] = field(default_factory=dict)
    present: dict[str, Tensor] = field(default_factory=dict)
    disguise: dict[str, object] = field(default_factory=dict)  # functions that the library gets in a network's place
    dirty: dict[str, Tensor] = field(default_factory=dict)  # data as the library gets it: NaN where nothing counts

    def parameters(self):
        """Everything that learns, by name."""
        found = {f"{key}.{n}": p for key, net in self.nets.items() for n, p in net.named_parameters()}
        learnt = {key: t for key, t in self.tensors.items() if isinstance(t, nn.Parameter)}
        return found | learnt | {f"{key}.raw": raw for key, raw in self.raws.items()}


# ------------------------------------------------------------------------------------------------------------- factors


@dataclass(frozen=True)
class Dist:
    """A distribution. ``given`` are parameters by name: a number, or the key of a tensor; ``head`` the key of a network
    whose output is one tensor, or parameters by name."""

    family: str
    letter: str
    variable: str
    event: tuple[int, ...]
    conditions: tuple[str, ...] = ()
    head: str = ""
    given: tuple[tuple[str, str | float], ...] = ()
    component: str = ""  # the family of a mixture's components, and how many
    components: int = 0


@dataclass(frozen=True)
class Det:
    """Computed variables: ``a, b = f(x)``."""

    letter: str
    variables: tuple[str, ...]
    conditions: tuple[str, ...]
    head: str
    events: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Stopped:
    """sg of a factor."""

    of: Dist


@dataclass(frozen=True)
class Experts:
    """A product (of Normals), or the mean, of factors over one variable."""

    how: str  # "product" or "mixture"
    parts: tuple[Dist, ...]


# --------------------------------------------------------------------------------------------------------- expressions


@dataclass(frozen=True)
class Num:
    value: float


@dataclass(frozen=True)
class Var:
    """The value of a variable; ``scalar`` where it is one number of the whole call."""

    name: str
    rank: int = 0
    scalar: bool = False


@dataclass(frozen=True)
class Logp:
    of: tuple


@dataclass(frozen=True)
class Rat:
    over: tuple
    under: tuple


@dataclass(frozen=True)
class Gap:
    """A divergence: ``kl``, ``cross`` or ``js``."""

    kind: str
    q: Dist | Stopped | Experts
    p: Dist | Stopped


@dataclass(frozen=True)
class Ent:
    of: Dist


@dataclass(frozen=True)
class Draw:
    """E over the factors ``q``."""

    q: tuple
    body: object
    how: str | None = None
    samples: int | None = None
    baseline: object = None


@dataclass(frozen=True)
class Least:
    """The least of an energy over the values of ``q``; the free energy, where β is said."""

    q: Dist
    body: object
    beta: float | None = None


@dataclass(frozen=True)
class Op:
    op: str
    left: object
    right: object


@dataclass(frozen=True)
class Fn:
    """A function of numbers; ``bounds`` of a clamp, the share of an expectile."""

    name: str
    body: object
    bounds: tuple[float | None, float | None] = (None, None)


@dataclass(frozen=True)
class Minus:
    body: object


@dataclass(frozen=True)
class Stop:
    body: object


@dataclass(frozen=True)
class Label:
    name: str
    body: object


@dataclass(frozen=True)
class Event:
    """``total`` or ``norm2`` of a value with event axes."""

    how: str
    body: object


@dataclass(frozen=True)
class Batch:
    """``mean`` or ``sum`` over the batch."""

    how: str
    body: object


@dataclass(frozen=True)
class Clock:
    """``sum`` or ``mean`` over t; ``initial`` maps a carried variable to the key of a tensor."""

    how: str
    body: object
    reset: str | None = None
    mask: str | None = None
    until: str | None = None
    burn_in: int = 0
    initial: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Inner:
    """``sum`` or ``mean`` over the iterations l = 1 … steps."""

    how: str
    steps: int
    body: object


# ------------------------------------------------------------------------------------------------------------ the tree


def parts(node):
    """What a node of the specification is made of: nodes and factors."""
    for f in fields(node):
        value = getattr(node, f.name)
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, NODES):
                yield part


def walk(node):
    """The node and all that is in it, without recursion: formulas may be deep."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += parts(node)


NODES = (
    Dist, Det, Stopped, Experts, Num, Var, Logp, Rat, Gap, Ent, Draw, Least, Op, Fn, Minus, Stop, Label, Event, Batch,
    Clock, Inner,
)  # fmt: skip
