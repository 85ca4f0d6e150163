"""The formula language in one file: names, tree, print, plan, source, function. Read it from the top.

worldformula does the same with more of everything: families, time, estimators, checks, an interpreter. The order in
which a formula travels is the same, and so is the value. At the bottom a VAE learns digits for a few steps, and its
value is compared with that of worldformula on the same weights and the same noise.

python docs/mini.py      (needs pip install 'worldformula[eval]')
"""

from __future__ import annotations

import linecache
import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# ------------------------------------------------------------------------------------------------------------- names
# "q(z|x)" is read once, where the factor is made, so that a traceback points at the line with the mistake.


def read(header: str) -> tuple[str, str, tuple[str, ...]]:
    """``"q(z|x,y)"`` to its letter q, the variable z that it declares, and its conditions (x, y)."""
    found = re.fullmatch(r"(\w+)\((\w+)(?:\|(\w+(?:,\w+)*))?\)", header.replace(" ", ""))
    if found is None:
        raise ValueError(f"expected a header such as p(z) or q(z|x,y), got {header!r}")
    letter, variable, conditions = found.groups()
    return letter, variable, tuple(conditions.split(",")) if conditions else ()


# ----------------------------------------------------------------------------------------------------------- factors
# A factor is names and a network. A family adds the maths, as functions from names to source text: what they return
# stands in the emitted code as it is. Event axes are summed; there is one of them here, the last.


class Factor(nn.Module):
    """A named conditional distribution; its identity is the object, never its text."""

    standard: tuple[float, ...]  # the head of the standard distribution, for one element
    draw: Any = None

    def __init__(self, header: str, net: nn.Module | None = None, shape: int | None = None) -> None:
        super().__init__()
        self.letter, self.variable, self.conditions = read(header)
        if (net is None) == (shape is None):
            raise ValueError(f"{header}: expected a network, or shape= for the standard distribution")
        self.net = Constant(torch.tensor(self.standard).repeat_interleave(shape)) if net is None else net

    @property
    def name(self) -> str:
        """``q_z_given_x``."""
        return "_".join((self.letter, self.variable, *(("given", *self.conditions) if self.conditions else ())))

    def __str__(self) -> str:
        given = rf" \mid {', '.join(self.conditions)}" if self.conditions else ""
        return f"{self.letter}({self.variable}{given})"


class Constant(nn.Module):
    """The network of a factor without conditions and without weights."""

    def __init__(self, head: Tensor) -> None:
        super().__init__()
        self.register_buffer("head", head)

    def forward(self) -> Tensor:
        """The head as it is."""
        return self.head


class Normal(Factor):
    """Normal(loc, scale); the head gives loc and softplus⁻¹(scale)."""

    standard = (0.0, math.log(math.e - 1))
    params = {"loc": "{head}.chunk(2, -1)[0]", "scale": "F.softplus({head}.chunk(2, -1)[1])"}  # noqa: RUF012

    def draw(self, loc: str, scale: str) -> str:
        """loc + scale · ε: the gradient passes through the sample."""
        return f"{loc} + {scale} * noise('{self.variable}', {loc})"

    def log_prob(self, value: str, loc: str, scale: str) -> str:
        """The log-density, summed over the event."""
        return f"(-(({value} - {loc}) / {scale}).square() / 2 - {scale}.log() - math.log(2 * math.pi) / 2).sum(-1)"

    def kl(self, q: tuple[str, ...], p: tuple[str, ...]) -> str:
        """KL(q ‖ p) of two Normals, in closed form."""
        shift, widths = f"(({q[0]} - {p[0]}) / {p[1]}).square()", f"({q[1]} / {p[1]})"
        return f"(({shift} + {widths}.square() - 1) / 2 - {widths}.log()).sum(-1)"


class Bernoulli(Factor):
    """Bernoulli(logits); values in [0, 1] are scored by the same cross-entropy."""

    standard = (0.0,)
    params = {"logits": "{head}"}  # noqa: RUF012

    def log_prob(self, value: str, logits: str) -> str:
        """The cross-entropy, summed over the event."""
        return f"({value} * F.logsigmoid({logits}) + (1 - {value}) * F.logsigmoid(-{logits})).sum(-1)"

    def kl(self, q: tuple[str, ...], p: tuple[str, ...]) -> str:
        """KL(q ‖ p) of two Bernoullis, in closed form."""
        ones = f"{q[0]}.sigmoid() * (F.logsigmoid({q[0]}) - F.logsigmoid({p[0]}))"
        return f"({ones} + (-{q[0]}).sigmoid() * (F.logsigmoid(-{q[0]}) - F.logsigmoid(-{p[0]}))).sum(-1)"


# -------------------------------------------------------------------------------------------------------------- tree
# Nodes keep what was written, and nothing else. a - b and a + (-b) are different trees.


class Node:
    """Arithmetic makes larger nodes."""

    def __add__(self, other: Any) -> Node:
        return Binary("+", self, node(other))

    def __sub__(self, other: Any) -> Node:
        return Binary("-", self, node(other))

    def __mul__(self, other: Any) -> Node:
        return Binary("*", self, node(other))

    def __rmul__(self, other: Any) -> Node:
        return Binary("*", node(other), self)


@dataclass(frozen=True, eq=False)
class Number(Node):  # noqa: D101
    value: float


@dataclass(frozen=True, eq=False)
class log(Node):  # noqa: D101, N801
    p: Factor


@dataclass(frozen=True, eq=False)
class KL(Node):  # noqa: D101
    q: Factor
    p: Factor


@dataclass(frozen=True, eq=False)
class E(Node):  # noqa: D101
    q: Factor
    body: Node


@dataclass(frozen=True, eq=False)
class Binary(Node):  # noqa: D101
    op: str
    left: Node
    right: Node


@dataclass(frozen=True, eq=False)
class mean(Node):  # noqa: D101, N801
    body: Node


def node(value: Node | float) -> Node:
    """An operand of arithmetic."""
    return value if isinstance(value, Node) else Number(value)


# ------------------------------------------------------------------------------------------------------------- print
# One rule per node. Brackets stand where a sum is a factor, or to the right of a minus.


def latex(n: Node) -> str:
    """The formula, exactly as written."""
    match n:
        case Number(value):
            return repr(value)
        case log(p):
            return rf"\log {p}"
        case KL(q, p):
            return rf"D_{{\mathrm{{KL}}}}\left[ {q} \,\|\, {p} \right]"
        case E(q, body):
            return rf"\mathbb{{E}}_{{{q}}}\left[ {latex(body)} \right]"
        case mean(body):
            return rf"\operatorname{{mean}}\left( {latex(body)} \right)"
        case Binary(op, left, right):
            first, second = latex(left), latex(right)
            if op == "*" and isinstance(left, Binary) and left.op != "*":
                first = rf"\left( {first} \right)"
            if isinstance(right, Binary) and (right.op != "*" or op == "*"):
                second = rf"\left( {second} \right)"
            sign = op if op != "*" else r"\cdot" if isinstance(right, Number) else r"\,"
            return f"{first} {sign} {second}"
    raise TypeError(f"no LaTeX rule for {n!r}")


# -------------------------------------------------------------------------------------------------------------- plan
# Lowering turns the tree into assignments. An operation is the text of its right-hand side, which is made of names
# that were shared before; so the same text is the same operation, and it runs once. That is all of sample sharing: two
# expectations over the same factor under the same conditions read the same z.


class Plan:
    """Operations by name, in the order in which they run."""

    def __init__(self, root: Node) -> None:
        self.lines: dict[str, str] = {}  # right-hand side to name
        self.nets: dict[str, Factor] = {}
        self.value = self.lower(root, {})

    def add(self, wish: str, code: str) -> str:
        """The name of an operation; a new one if it has not been seen."""
        taken = self.lines.values()
        free = next(w for i in range(len(self.lines) + 1) if (w := wish if i == 0 else f"{wish}_{i + 1}") not in taken)
        return self.lines.setdefault(code, free)

    def params(self, p: Factor, scope: dict[str, str]) -> tuple[str, ...]:
        """The parameters of a factor where its conditions have the values of the scope."""
        given = [self.read(c, scope) for c in p.conditions]
        wish = p.name if all(f is p or f.name != p.name for f in self.nets.values()) else f"{p.name}_{len(self.nets)}"
        net = next((name for name, f in self.nets.items() if f is p), wish)
        self.nets[net] = p
        short = f"{p.letter}_{p.variable}"
        head = self.add(f"{short}_head", f"self.{net}({', '.join(given)})")
        return tuple(self.add(f"{short}_{name}", code.format(head=head)) for name, code in p.params.items())

    def read(self, variable: str, scope: dict[str, str]) -> str:
        """A variable's value: drawn by an E around, or given to the call."""
        return scope.get(variable) or self.add(variable, f"given['{variable}']")

    def lower(self, n: Node, scope: dict[str, str]) -> str:
        """The name of a node's value; ``[B]`` inside, a number once there is a mean."""
        match n:
            case Number(value):
                return repr(value)
            case log(p):
                value = self.read(p.variable, scope)
                return self.add(f"log_{p.letter}_{p.variable}", p.log_prob(value, *self.params(p, scope)))
            case KL(q, p):
                if type(q) is not type(p) or q.variable != p.variable:
                    raise ValueError(f"KL[{q} ‖ {p}] has no closed form here: write E(q, log(q) - log(p))")
                return self.add(f"kl_{q.variable}", q.kl(self.params(q, scope), self.params(p, scope)))
            case E(q, body):
                if q.draw is None:
                    raise ValueError(f"E over {q}: its samples pass no gradient; the library asks for gradient=")
                drawn = self.add(q.variable, q.draw(*self.params(q, scope)))
                return self.lower(body, {**scope, q.variable: drawn})
            case Binary(op, left, right):
                return f"({self.lower(left, scope)} {op} {self.lower(right, scope)})"
            case mean(body):
                return self.add("mean_value", f"{self.lower(body, scope)}.mean()")
        raise TypeError(f"no lowering rule for {n!r}")


# ------------------------------------------------------------------------------------------------ source and function
# The plan is written out as Python and executed once. The source is given to linecache, so tracebacks show its lines.


class Loss(nn.Module):
    """A formula as a module of its networks: ``loss(x=batch)``, ``loss.code``, ``print(loss)``."""

    def __init__(self, root: Node) -> None:
        super().__init__()
        self.root, plan = root, Plan(root)
        for name, p in plan.nets.items():
            self.add_module(name, p.net)
        body = [f"    {name} = {code}" for code, name in plan.lines.items()]
        self.code = "\n".join(("def formula(self, given, noise):", *body, f"    return {plan.value}", ""))
        place = f"<mini {id(self)}>"
        linecache.cache[place] = (len(self.code), None, self.code.splitlines(keepends=True), place)
        scope: dict[str, Any] = {}
        exec("import math\nimport torch\nimport torch.nn.functional as F", scope)  # noqa: S102
        exec(compile(self.code, place, "exec"), scope)  # noqa: S102
        self.formula = scope["formula"]

    def forward(self, noise: dict[str, Tensor] | None = None, **given: Tensor) -> Tensor:
        """Evaluate; ``noise`` gives draws of the standard Normal by variable."""
        held = noise or {}
        return self.formula(self, given, lambda name, like: held.get(name, torch.randn_like(like)))

    def __str__(self) -> str:
        return latex(self.root)


def demo(steps: int = 100) -> tuple[Loss, list[float], float, float]:
    """A VAE on digits: its formula, its values while it learns, and the last value, ours and worldformula's."""
    import worldformula as wf
    from worldformula.data.digits import digits

    torch.manual_seed(0)
    images = torch.from_numpy(digits(binarise=True).train_x)
    encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 16))
    decoder = nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 64))

    prior, encode, decode = Normal("p(z)", shape=8), Normal("q(z|x)", encoder), Bernoulli("p(x|z)", decoder)
    loss = Loss(mean(KL(encode, prior) - E(encode, log(decode))))

    optimiser, values = torch.optim.Adam(loss.parameters(), lr=3e-3), []
    for _ in range(steps):
        optimiser.zero_grad()
        value = loss(x=images[torch.randint(len(images), (128,))])
        value.backward()
        optimiser.step()
        values.append(value.item())

    p, q, d = wf.Normal("p(z)", shape=8), wf.Normal("q(z|x)", encoder), wf.Bernoulli("p(x|z)", decoder)
    whole = (wf.KL(q, p) - wf.E(q, wf.log(d))).mean()
    noise = {"z": torch.randn(len(images), 8)}
    return loss, values, loss(x=images, noise=noise).item(), whole(x=images, noise=noise).value.item()


if __name__ == "__main__":
    loss, values, ours, theirs = demo()
    print(loss, loss.code, sep="\n\n")
    print(f"{values[0]:.1f} -> {values[-1]:.1f} nats per image; on all digits {ours:.4f}, worldformula {theirs:.4f}")
