"""What an expression is made of besides densities: values of variables, named numbers, and functions of them."""

from __future__ import annotations

import math

from worldformula.errors import FormulaError
from worldformula.formula.expressions.expression import Expression, Number_, as_node, binary
from worldformula.formula.factors.joint import Joint, as_uses
from worldformula.formula.syntax.check import check_function, check_product
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.given import Shape, as_shape, number
from worldformula.formula.syntax.names import read_variable
from worldformula.formula.syntax.nodes import Function, Node, OverEvent, Ratio, Use, of_numbers
from worldformula.formula.syntax.nodes import Value as ValueNode
from worldformula.formula.syntax.numbers import check_bounds


def Value(variable: str, shape: Shape = None) -> Expression:
    """The value of a variable: drawn, computed by a deterministic factor, or given to the call.

    ``shape`` is its event shape where no factor declares it; without either it has none, one number per row. A value
    with event axes combines elementwise; ``total`` or ``norm2`` reduces it before it joins densities.
    """
    return Expression(ValueNode(read_variable(variable), as_shape(shape, variable)))


def Symbol(name: str) -> Expression:
    """A number that the whole call shares, as an annealed coefficient: ``Symbol("beta")``, called with beta=0.5."""
    found = read_variable(name)
    if found.index is not None:
        raise FormulaError(f"Symbol({name!r}): a number of the whole call has no time index; write Value({name!r})")
    return Expression(ValueNode(found, (), scalar=True))


def ratio(p: Factor | Joint | Use, q: Factor | Joint | Use) -> Expression:
    """p / q, a ratio of densities such as the importance weight p(x,z) / q(z|x)."""
    return Expression(Ratio(*(check_product(as_uses(side)) for side in (p, q))))


def _function(name: str, f: Expression) -> Expression:
    if not isinstance(f, Expression):
        raise FormulaError(f"{name}: expected an expression, got {type(f).__name__}; for a density write log(p)")
    check_function(name, f.node)
    return Expression(Function(name, f.node))


def exp(f: Expression) -> Expression:
    """e to the power of f, elementwise."""
    return _function("exp", f)


def sqrt(f: Expression) -> Expression:
    """The square root, elementwise."""
    return _function("sqrt", f)


def tanh(f: Expression) -> Expression:
    """The hyperbolic tangent, elementwise."""
    return _function("tanh", f)


def sigmoid(f: Expression) -> Expression:
    """1 / (1 + exp(−f)), elementwise."""
    return _function("sigmoid", f)


def softplus(f: Expression) -> Expression:
    """log(1 + exp(f)), elementwise: −log σ(−f), the loss of a discriminator that returns logits."""
    return _function("softplus", f)


def relu(f: Expression) -> Expression:
    """max(f, 0), elementwise: the hinge."""
    return _function("relu", f)


def clamp(f: Expression, low: Expression | float | None = None, high: Expression | float | None = None) -> Expression:
    """f kept between ``low`` and ``high``, numbers or Symbols; no gradient to f outside."""
    if low is None and high is None:
        raise FormulaError("clamp: expected a lower or an upper bound, got none")
    bounds = tuple(_bound(bound) for bound in (low, high))
    first, last = bounds
    if isinstance(first, int | float) and isinstance(last, int | float):
        check_bounds(first, last)
    body = as_node(f)
    check_function("clamp", body)
    return Expression(Function("clamp", body, bounds))


def _bound(bound: Expression | float | None) -> int | float | Node | None:
    """A bound of a clamp: a number, or a node of numbers and Symbols alone."""
    if bound is None or (isinstance(bound, Expression) and of_numbers(bound.node)):
        return None if bound is None else bound.node
    known = number(bound)
    if known is None or math.isnan(known):
        raise FormulaError(f"clamp: expected numbers as bounds, got {bound!r}; of formulas write maximum, minimum")
    return known


def _over_event(how: str, f: Expression) -> Expression:
    node: Node = as_node(f)
    if how == "norm2":
        check_function("square", node)
    return Expression(OverEvent(how, node))  # type: ignore[arg-type]


def total(f: Expression) -> Expression:
    """The sum over the event axes of a value."""
    return _over_event("total", f)


def norm2(f: Expression) -> Expression:
    """The squared norm over the event axes: ``norm2(Value("x") - Value("y"))``."""
    return _over_event("norm2", f)


def maximum(a: Expression | Number_, b: Expression | Number_) -> Expression:
    """The larger of the two, elementwise over the batch."""
    return binary("max", a, b)


def minimum(a: Expression | Number_, b: Expression | Number_) -> Expression:
    """The smaller of the two, elementwise over the batch."""
    return binary("min", a, b)
