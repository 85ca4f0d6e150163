r"""The least energy over a latent variable, F(x, y) = min_z E(x, y, z) (LeCun 2022, section 4.3).

    Min(code, E)                        every value of a discrete latent is tried
    Min(latent, E, steps=20)            ẑ ← ẑ − η ∇_z E, from the mode of a Normal or the value of a deterministic
                                        factor; of all points on the way the best one counts

The gradient of F by everything else is that of E at the minimum, ∂E/∂θ at ẑ (the envelope theorem): exact where every
value was tried, and at an end of the descent as far as it has arrived. A regulariser is a part of the energy,
``Min(code, f - 0.1 * log(code))``: −log p(z) of the latent's own law.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from worldformula.errors import FormulaError, GradientError, TimeError
from worldformula.families import NormalFamily
from worldformula.families.writing import Sign
from worldformula.formula.code.program import Program
from worldformula.formula.expressions.expression import Expression, as_node
from worldformula.formula.ops.base import count, enumerable, symbol_of, written_number
from worldformula.formula.plan.arithmetic import WISHES
from worldformula.formula.plan.lower import Lowering
from worldformula.formula.plan.plan import Op, Ref
from worldformula.formula.plan.scope import Scope
from worldformula.formula.plan.variables import given
from worldformula.formula.print import latex, mathml
from worldformula.formula.syntax.drawn import drawn_factors
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.given import number
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import Expectation, Node, Operator, Product, Use, Value, factors
from worldformula.formula.syntax.nodes import walk as everything
from worldformula.formula.syntax.text import text

Steps = Generator[tuple[Node, Scope], Ref, Ref]


# ---------------------------------------------------------------------------------------------------- every value


def every_value(
    lowering: Any, what: str, latent: Use, energy: Node, scope: Scope
) -> Generator[tuple[Node, Scope], Ref, tuple[str, int]]:
    """The energy at every value of a discrete latent, and the axis that these have.

    Raises:
        FormulaError: an energy that does not read the latent, or has elements.
    """
    inside = lowering.side((latent,), scope, None, "exact").reduced().part(private=True)
    value = yield energy, inside
    lowering.check_alike(inside.leaves)
    axis = lowering.ops[inside[latent.factor.variable]].axes[0]
    if not isinstance(value, str) or axis not in lowering.ops[value].axes:
        raise unread(what, latent.factor.variable, energy)
    refuse_elements(lowering, what, value, energy)
    return value, axis


def reduced(lowering: Any, how: str, value: str, axis: int) -> str:
    """A value without the axis of the latent's values."""
    return str(
        lowering.add(WISHES.get(how, how), Op("", "samples", (value,), how=how, axis=axis, rank=lowering.rank(value)))
    )


def unread(what: str, variable: Variable, energy: Node) -> FormulaError:
    """That an energy is the same for every value of its latent."""
    return FormulaError(
        f"{what} over {variable}: the energy {text(energy)} does not read {variable}\n"
        f"write an energy of it, such as norm2(Value('y') - Value('{variable}')), or E(f, ...) of a factor that reads "
        f"it"
    )


def refuse_elements(lowering: Any, what: str, value: Ref, energy: Node) -> None:
    """An energy is one number a row."""
    if isinstance(value, str) and lowering.rank(value):
        raise FormulaError(
            f"{what}: the energy {text(energy)} has one number for each element, and one for each row is expected\n"
            f"reduce it by total(...) or norm2(...)"
        )


# -------------------------------------------------------------------------------------------------------- descent


class Descent:
    """Gradient descent over a latent: the function that emitted code calls.

    ``energy`` is a formula of the latent ``own`` and the ``others``, which are called by name. It holds the networks of
    the formula around it, the very same, and is made anew with the plan. Where the descent begins without batch axes,
    they are those of the first of the others whose event axes ``ranks`` says, else the first axis of the first.
    """

    def __init__(
        self,
        energy: Expression,
        own: str,
        others: tuple[str, ...],
        ranks: tuple[int | None, ...],
        shape: tuple[int, ...],
        begin: Callable[[Any], Tensor | float],
    ) -> None:
        self.energy, self.own, self.others, self.ranks = energy, own, others, ranks
        self.shape, self.begin = shape, begin
        self.__name__ = f"argmin_{own}"

    def __call__(self, start: Any, *values: Any, steps: int, step_size: Tensor | float) -> Tensor:
        """The best latent on the way, ``[*batch, *shape]``, without a gradient.

        Args:
            start: where the descent begins, or the parameters of the law whose mode it is.
            values: of the others, ``[*batch, *event]`` each, or numbers.
            steps: of the descent.
            step_size: η.
        """
        known = {n: v.detach() if isinstance(v, Tensor) else v for n, v in zip(self.others, values, strict=True)}
        step = step_size.detach() if isinstance(step_size, Tensor) else step_size
        z = self._start(start, values)
        best, least = z, None
        for last in range(steps + 1):
            value, slope = self._slope(z, known)
            better = torch.ones_like(value, dtype=torch.bool) if least is None else value <= least
            best = torch.where(better.reshape(*better.shape, *(1,) * len(self.shape)), z, best)
            least = value if least is None else torch.where(better, value, least)
            if last < steps:
                z = z - step * slope
        return best

    def _start(self, start: Any, values: Sequence[Any]) -> Tensor:
        tensors = [(v, rank) for v, rank in zip(values, self.ranks, strict=True) if isinstance(v, Tensor) and v.ndim]
        like = next((v for v, _ in tensors if v.is_floating_point()), torch.empty(0))
        z = self.begin(start)
        z = z.detach() if isinstance(z, Tensor) else torch.full((), z, dtype=like.dtype, device=like.device)
        if z.ndim > len(self.shape):
            return z
        said = next(((v, rank) for v, rank in tensors if rank is not None), None)
        batch = said[0].shape[: said[0].ndim - said[1]] if said else tensors[0][0].shape[:1] if tensors else ()
        return z.expand(*batch, *self.shape)

    def _slope(self, z: Tensor, known: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The energy of every row, and its gradient by the latent."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            value = self.energy(**{self.own: z}, **known).value
            (slope,) = torch.autograd.grad(value.sum(), z)
        return value.detach(), slope


def _as_it_is(start: Tensor) -> Tensor:
    return start


def _mode(family: Any, params: Any) -> Any:
    return family.mode(params)


# ----------------------------------------------------------------------------------------------------------- node


@dataclass(frozen=True, eq=False)
class OverLatent(Operator):
    """What is made of an energy at the values of a latent, one number per row. Abstract."""

    latent: Use
    energy: Node

    @property
    def parts(self) -> tuple[Product | Node, ...]:
        """The energy."""
        return (self.energy,)

    @property
    def extra(self) -> Product:
        """The factor that says what the latent may be, or where the descent begins."""
        return (self.latent,)

    @property
    def drawn(self) -> tuple[Factor, ...]:
        """The latent: it has its value from here."""
        return (self.latent.factor,)

    @property
    def sets(self) -> bool:
        """The latent is no draw: two minima over it are two numbers, whatever is made of them."""
        return True


@dataclass(frozen=True, eq=False)
class MinNode(OverLatent):
    """min_z E; ``steps`` of a descent, None where every value is tried."""

    steps: int | None = None
    step_size: float | Node = 0.1

    @property
    def sign(self) -> Sign:
        """min with its variable, and the steps of a descent."""
        z = self.latent.factor.variable
        if self.steps is None:
            below = f"<munder><mo>min</mo>{mathml.variable(z)}</munder>"
            return Sign(f"min_{{{z}}}", rf"\min_{{{latex.variable(z)}}}", below)
        shown, written, said = written_number(self.step_size, "{:g}".format)
        above = f"<mrow><mo>∇</mo><mn>{self.steps}</mn><mo>×</mo>{said}</mrow>"
        return Sign(
            f"min_{{{z}; {self.steps} steps of {shown}}}",
            rf"\min_{{{latex.variable(z)}}}^{{\nabla {self.steps} \times {written}}}",
            f"<munderover><mo>min</mo>{mathml.variable(z)}{above}</munderover>",
        )

    @property
    def numbers(self) -> tuple[int | float | Node, ...]:
        """The size of a step."""
        return () if self.steps is None else (self.step_size,)

    def lower(self, lowering: Any, scope: Scope) -> Steps:
        """The least of all values, or the energy at the end of a descent."""
        if self.steps is None:
            value, axis = yield from every_value(lowering, "Min", self.latent, self.energy, scope)
            return reduced(lowering, "amin", value, axis)
        variable = self.latent.factor.variable
        inside = scope.having({variable: self._descended(lowering, scope)}).reduced().part(private=True)
        found = yield self.energy, inside
        lowering.check_alike(inside.leaves)
        refuse_elements(lowering, "Min", found, self.energy)
        return found

    def _descended(self, lowering: Any, scope: Scope) -> str:
        """The operation of ẑ."""
        factor, node = self.latent.factor, self.energy
        variable, key = factor.variable, factor.variable.key
        if scope.index is not None or variable.index is not None:
            raise TimeError(
                f"{text(self)}: a descent has no place inside a sum over time\nwrite a discrete latent, whose values "
                f"are tried, or the energy of one step as a formula of its own"
            )
        shape = lowering.shapes.get(key)
        if shape is None:
            raise FormulaError(f"Min over {factor}: a descent needs the event shape\ndeclare it, shape=...")
        inner = Lowering([*factors(node)])
        inner.declare([n for n in everything(node) if isinstance(n, Value)])
        inner.shapes.update(lowering.shapes)
        inner.ranks.update(lowering.ranks)
        place = Scope()
        value = inner.lower(node, place)
        inner.check_alike(place.leaves)
        plan = inner.plan(value)
        if key not in plan.inputs:
            raise unread("Min", variable, node)
        others = tuple(name for name in plan.inputs if name != key)
        reads, ranks = list[str](), list[int | None]()
        for name in others:
            op = plan.inputs[name]
            if op.kind not in ("input", "symbol") or op.variable is None:
                raise FormulaError(f"{text(self)}: a descent reads values of the same row, and {name} is none")
            if op.kind == "symbol":
                reads.append(str(given(lowering, op.variable, self, Op("", "symbol", variable=op.variable))))
                ranks.append(None)
                continue
            reads.append(lowering.read(op.variable, scope, text(self)))
            ranks.append(plan.ranks.get(name))
            if absent := ", ".join(sorted(lowering.absent(reads[-1]))):
                raise FormulaError(f"{text(self)}: the descent reads {absent}, which some rows lack")
            if lowering.ops[reads[-1]].axes:
                raise FormulaError(
                    f"{text(self)}: the descent reads {op.variable}, of which there are several draws\nwrite one draw, "
                    f"without samples=, or a discrete latent, whose values are tried"
                )
        energy = Expression(node)
        energy._program = Program(plan, text(node))
        begin = _as_it_is if factor.family is None else partial(_mode, factor.family)
        start = lowering.params(self.latent, scope) if factor.family else lowering.value_of(self.latent, scope)[0]
        target = Descent(energy, key, others, tuple(ranks), shape, begin)
        options = (("steps", self.steps), ("step_size", self.step_size))
        return str(lowering.call(f"least_{key}", target, start, *reads, options=options))

    @property
    def estimator(self) -> tuple[str, str]:
        """How the minimum is sought."""
        if self.steps is None:
            return "exact: every value is tried", "exact, at the least one"
        size = written_number(self.step_size, "{:g}".format).text
        begin = "the mode of " if self.latent.factor.family else ""
        return (
            f"gradient descent, {self.steps} steps of {size} from {begin}{self.latent.factor}",
            "at the end of the descent; exact where it has arrived",
        )


def Min(
    latent: Factor, energy: Expression, *, steps: int | None = None, step_size: float | Expression = 0.1
) -> Expression:
    """min_z E, for each row of the batch; see the module for the estimators.

    Args:
        latent: the factor of z: a discrete one whose values are tried, or with ``steps`` a Normal or deterministic one,
            where the descent begins.
        energy: what is least at ẑ, one number per row; it reads z.
        steps: of gradient descent.
        step_size: η of each step, a number or a Symbol.

    Raises:
        FormulaError: a latent whose values cannot be enumerated, no energy, or steps where every value is tried.
        GradientError: an energy that is estimated by draws, whose minimum would be that of the noise.
    """
    use, node = checked("Min", latent, energy)
    steps = count("Min", "steps", steps)
    family = latent.family
    if steps is None:
        refuse_many("Min", latent, ", or with steps=20 a Normal or deterministic latent")
    elif family is not None and not isinstance(family, NormalFamily):
        known = "leave steps= out: every value is tried" if enumerable(latent) else "write Min of a Normal"
        raise FormulaError(f"Min over {latent}: a descent is over a Normal or deterministic latent\n{known}")
    return Expression(MinNode(use, node, steps, _step_size(step_size)))


def checked(what: str, latent: Any, energy: Any) -> tuple[Use, Node]:
    """A latent and an energy of it.

    Raises:
        FormulaError: no factor of one variable, or no formula.
        GradientError: an energy with draws.
    """
    if not isinstance(latent, Factor) or latent.observed or len(latent.variables) != 1 or latent.unnormalised:
        raise FormulaError(f"{what}: expected the factor of one latent variable, such as OneHot('p(z)', shape=8)")
    if not isinstance(energy, Expression):
        raise FormulaError(f"{what}: expected an energy as a formula, got {type(energy).__name__}")
    node = as_node(energy)
    noisy = [f for n in everything(node) for f in _noisy(n)]
    if noisy:
        raise GradientError(
            f"{what} over {latent}: the energy draws {noisy[0]}, and the least of a noisy energy is that of the noise\n"
            f"enumerate it, E(q, f, 'exact'), draw it around, E(q, {what}(...)), or read its mean"
        )
    return Use(latent), node


def _noisy(node: Node) -> Sequence[Factor]:
    """The factors that a node draws at random."""
    if isinstance(node, Expectation) and node.gradient == "exact":
        return [u.factor for u in node.q if u.factor.family is not None and not enumerable(u.factor)]
    if isinstance(node, MinNode) or (isinstance(node, Operator) and node.estimator[0].startswith("exact")):
        return ()
    own = drawn_factors(node) if isinstance(node, Operator) else ()
    return [u.factor for u in node.q if u.factor.family is not None] if isinstance(node, Expectation) else own


def refuse_many(what: str, latent: Factor, other: str = "") -> None:
    """Refuse a latent whose values cannot be listed, or are too many to be."""
    if latent.family is None or latent.family.support_size(latent.shape) is None:
        raise FormulaError(
            f"{what} over {latent}: it has no list of values, or a very long one, and each would be tried\nwrite a "
            f"OneHot, Categorical or Bernoulli latent of a declared shape with few values{other}"
        )


def _step_size(value: Any) -> float | Node:
    if (symbol := symbol_of(value, _step_size)) is not None:
        return symbol
    known = number(value)
    if known is None or not known > 0:
        raise FormulaError(f"Min: expected step_size= as a positive number, got {value!r}")
    return float(known)
