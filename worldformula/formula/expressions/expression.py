"""Expressions: what formulas evaluate to. An expression is an immutable tree and a plain ``nn.Module`` of its networks.

loss = (KL(encode, prior) - E(encode, log(decode))).mean()
out = loss(x=batch)                 # out.value, out.terms, out.samples
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from numbers import Integral, Real
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from worldformula.display import Picture, Source, Table
from worldformula.errors import FormulaError, GradientError
from worldformula.formula.code.out import Out
from worldformula.formula.code.present import check_present
from worldformula.formula.code.program import Program
from worldformula.formula.expressions.explain import explain
from worldformula.formula.factors.joint import Joint, Marginal, Stopped, as_uses
from worldformula.formula.plan.lower import lower
from worldformula.formula.print.latex import latex
from worldformula.formula.print.latex_lines import latex_lines
from worldformula.formula.print.notebook import formula_html
from worldformula.formula.syntax.check import (
    check_elements,
    check_exponent,
    check_function,
    check_gradient,
    check_independence,
    check_product,
)
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.given import fits, whole_number
from worldformula.formula.syntax.habits import NoTensor, without_axis
from worldformula.formula.syntax.networks import register_networks
from worldformula.formula.syntax.nodes import (
    Binary,
    Expectation,
    Function,
    Log,
    Named,
    Negative,
    Node,
    Number,
    OverBatch,
    Standing,
    StopGradient,
    Use,
    factors,
    initial_of,
    innermost_first,
)
from worldformula.formula.syntax.resample import Resample, as_resample
from worldformula.formula.syntax.shared import compact
from worldformula.formula.syntax.spelling import by_keyword
from worldformula.formula.syntax.text import text

Number_ = int | float


class Expression(NoTensor, Standing, nn.Module):
    """A formula that can be printed, evaluated, differentiated, compiled, copied and saved.

    Call it with its variables as keywords. Reserved keywords: ``seed`` or ``generator`` (randomness of this call),
    ``noise`` (the noise itself, by variable), ``start`` (initial carry, by variable), ``horizon`` (how many steps,
    where no data series says so), ``deterministic`` (means and modes instead of samples), ``present`` (flags of the
    rows that have an input, by variable; see `experts`). Returns :class:`Out`.
    """

    __array_ufunc__ = None  # numpy's numbers leave arithmetic to the formula
    graph: Callable[[], Picture]  # see `face`

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.node = node
        self._program: Program | None = None
        self._masked: dict[tuple[frozenset[str], bool], Program] = {}  # by inputs that rows lack, and going on
        if type(self) is Expression:
            del self.__dict__["_modules"]
            self.__class__ = _Unregistered
        else:
            register_networks(self, factors(node), initial_of(node))

    @property
    def program(self) -> Program:
        """The plan and the functions emitted from it, made at first use."""
        if self._program is None:
            node = compact(self.node)
            self._program = Program(lower(node), text(node), lowered=partial(lower, node))
        return self._program

    def _program_for(self, inputs: dict[str, Any]) -> tuple[Program, dict[str, Any]]:
        """The program for a call, which is another with flags of present rows or from a start; and its inputs."""
        rest, plan = dict(by_keyword({k: v for k, v in inputs.items() if k != "present"})), self.program.plan
        going = rest.get("start") is not None and bool(plan.begins) and plan.reset is None
        given = {} if inputs.get("present") is None else inputs["present"]
        flags = by_keyword(given) if isinstance(given, dict) else given
        check_present(plan, flags, rest)
        if not (flags or going):
            return self.program, rest
        if (kind := (frozenset(flags), going)) not in self._masked:
            plans = partial(lower, compact(self.node), *kind)
            self._masked[kind] = Program(plans(), text(compact(self.node)), self.program.options, plans)
        return self._masked[kind], rest | {f"present_{k}": v for k, v in flags.items()}

    def __getstate__(self) -> dict[str, Any]:
        # Inner nodes first: what copies or saves a node then meets those inside it as known ones, at any depth.
        return {"_nodes": innermost_first(self.node), **self.__dict__, "_program": None, "_masked": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({k: v for k, v in state.items() if k != "_nodes"})  # type: ignore[no-untyped-call]

    def forward(self, *args: Any, **inputs: Any) -> Out:
        """Evaluate the formula."""
        if args:
            raise FormulaError("expected the variables as keywords, e.g. loss(x=batch), got positional arguments")
        if is_compiling():
            _prepare(self)
        program, inputs = self._program_for(inputs)
        return program.run(self, inputs)

    def __call__(self, *args: Any, **inputs: Any) -> Out:
        """Evaluate the formula, with the hooks of a module where there are any (their search costs a microsecond)."""
        if "present" in inputs or "start" in inputs:
            return super().__call__(*args, **inputs)  # type: ignore[no-any-return]
        hooks = self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks
        if args or hooks or self._compiled_call_impl is not None or is_compiling() or self._program is None:
            return super().__call__(*args, **inputs)  # type: ignore[no-any-return]
        return self._program.run(self, inputs)

    def interpret(self, **inputs: Any) -> Out:
        """Walk the plan node by node with shape checks: the debug mode. Same arguments and result as a call."""
        program, inputs = self._program_for(inputs)
        return program.interpret(inputs)

    def noise(self, *, generator: torch.Generator | None = None, **inputs: Any) -> dict[str, Tensor]:
        """The noise that a call with these inputs would draw, by variable; pass it back as ``noise=``."""
        program, inputs = self._program_for(inputs)
        return program.noise(inputs, generator)

    def compile(self, *, detached: bool = False, **options: Any) -> Expression:  # type: ignore[override]
        """Compile the emitted function with ``torch.compile(**options)``; returns the expression itself. ``detached``:
        only ``out.value`` has a gradient. Compiled code goes back through all that it returned, used or not.
        """
        for program in (self.program, *self._masked.values()):
            program.compile({**options, "detached": detached})
        return self

    # --------------------------------------------------------------------------------------------------- read it back

    @property
    def code(self) -> Source:
        """The PyTorch that runs; a notebook shows it in colours."""
        return Source(self.program.function(self, deterministic=False).source)

    @property
    def latex(self) -> str:
        """The formula in LaTeX, exactly as written."""
        return latex(compact(self.node))

    def latex_lines(self, width: int = 72) -> str:
        """The formula in LaTeX, broken at its sums into lines of an ``aligned`` environment where it is longer than
        ``width`` characters, with its named parts, experts and marginals explained below.
        """
        return latex_lines(compact(self.node), width)

    def explain(self, stages: bool = False) -> Table:
        """Which estimator each term uses, what is drawn, and (with ``stages``) the plan after every pass."""
        return explain(compact(self.node), self.program, stages)

    def __str__(self) -> str:
        return latex(compact(self.node))

    def __repr__(self) -> str:
        return f"<Expression {text(compact(self.node))}>"

    def _repr_latex_(self) -> str:
        return f"$\\displaystyle {self.latex_lines()}$"

    def _repr_html_(self) -> str:
        return formula_html(compact(self.node))

    # ------------------------------------------------------------------------------------------------------ arithmetic

    @without_axis
    def mean(self) -> Expression:
        """Mean over all batch axes."""
        return Expression(OverBatch("mean", self.node))

    @without_axis
    def sum(self) -> Expression:
        """Sum over all batch axes."""
        return Expression(OverBatch("sum", self.node))

    def __add__(self, other: Expression | Number_) -> Expression:
        return binary("+", self, other)

    def __radd__(self, other: Number_) -> Expression:
        if type(other) is int and other == 0:
            return self  # where Python's sum starts: the sum of a list prints as what was summed
        return binary("+", other, self)

    def __sub__(self, other: Expression | Number_) -> Expression:
        return binary("-", self, other)

    def __rsub__(self, other: Number_) -> Expression:
        return binary("-", other, self)

    def __mul__(self, other: Expression | Number_) -> Expression:
        return binary("*", self, other)

    def __rmul__(self, other: Number_) -> Expression:
        return binary("*", other, self)

    def __truediv__(self, other: Expression | Number_) -> Expression:
        return binary("/", self, other)

    def __rtruediv__(self, other: Number_) -> Expression:
        return binary("/", other, self)

    def __neg__(self) -> Expression:
        return Expression(Negative(self.node))

    def __pow__(self, exponent: Expression | Number_) -> Expression:
        return binary("^", self, check_exponent(exponent))

    def __rpow__(self, base: Number_) -> Expression:
        return binary("^", base, check_exponent(self))

    def _refuse(self, _: object) -> NoReturn:
        raise FormulaError(
            "formulas are not compared: write maximum(f, g) or minimum(f, g) of worldformula, or compare .value"
        )

    __lt__ = __le__ = __gt__ = __ge__ = _refuse

    def __abs__(self) -> Expression:
        check_function("absolute value", self.node)
        return Expression(Function("abs", self.node))

    def named(self, name: str) -> Expression:
        """The same under a name, printed in its place, explained below, and a term: ``E(...).named("recon")``."""
        if not isinstance(name, str) or not name.isidentifier():
            raise FormulaError(f"expected a name such as 'recon', got {name!r}")
        return Expression(Named(name, self.node))


class _Unregistered(Expression):
    """An expression whose networks nobody has asked for yet, as most are which a longer formula is made of.

    At the first touch it is a plain `Expression`, whose children are all networks of the formula.
    """

    def _register(self) -> Expression:
        whole = object.__new__(Expression)  # stands in, so that no one ever meets a part of the networks
        whole.__dict__.update(self.__dict__, _modules={})
        register_networks(whole, factors(self.node), initial_of(self.node))
        self.__dict__["_modules"] = whole._modules
        object.__setattr__(self, "__class__", Expression)
        return self

    @property
    def _modules(self) -> dict[str, nn.Module | None]:  # type: ignore[override]
        return self._register()._modules

    def __getattr__(self, name: str) -> Any:
        return getattr(self._register(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._register(), name, value)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._register().__reduce_ex__(protocol)

    def __call__(self, *args: Any, **inputs: Any) -> Out:
        return self._register()(*args, **inputs)


_Unregistered.__name__, _Unregistered.__qualname__ = Expression.__name__, Expression.__qualname__


def _prepare(expression: Expression) -> bool:
    expression.program.function(expression, deterministic=False)
    return True


# So that torch.compile does not trace how code is written: `assume_constant_result` without importing the compiler.
_prepare._dynamo_marked_constant = True  # type: ignore[attr-defined]


def as_node(value: Expression | Number_) -> Node:
    """An operand of arithmetic as a node."""
    if isinstance(value, Expression):
        return value.node
    if isinstance(value, Real) and not isinstance(value, bool):
        if not fits(value) or math.isnan(value):
            raise FormulaError(f"expected an expression or a number, got {'nan' if fits(value) else 'too large a one'}")
        return Number(int(value) if isinstance(value, Integral) else float(value))
    hint = ""
    if isinstance(value, (Factor, Joint)):
        hint = "; write log(p) for its log-density"
    elif hasattr(value, "shape"):
        hint = (
            "; give it a name: Symbol('beta') * KL(q, p) is called with beta=0.5, one number for the whole call, and "
            "Value('w') with w=tensor, one value per row"
        )
    raise FormulaError(f"expected an expression or a number, got {type(value).__name__}{hint}")


def binary(op: Any, left: Expression | Number_, right: Expression | Number_) -> Expression:
    """Two operands under an operator: + − * / ^, max, min."""
    first, second = as_node(left), as_node(right)
    check_independence(op, first, second)
    return Expression(Binary(op, first, second))


# ----------------------------------------------------------------------------------------------------- what users write


def log(p: Factor | Joint | Use | Expression, *, event: bool = False) -> Expression:
    """log p(x|z): the log-density of a factor or a product at the values that the expression gives its variables.

    Of an expression, its logarithm. ``log(E(q, ratio(p, q), samples=K))`` runs as one log-sum-exp.

    ``event=True`` keeps the elements of one factor's event apart, ``[*batch, *event]``, for weights and masks of
    elements: ``total(Value("m", shape=4) * log(p, event=True))`` is Σᵢ mᵢ log p(xᵢ|z). An element is what the density
    is a product over: a class of a OneHot or a vector with a covariance is one element.
    """
    if isinstance(p, Expression):
        if event:
            raise FormulaError("log(..., event=True) is of a factor; of an expression leave event= out")
        check_function("log", p.node)
        return Expression(Function("log", p.node))
    if isinstance(p, Marginal):
        p.refuse()
    used = check_product(as_uses(p))
    for use in used:
        if use.factor.family is None:
            raise FormulaError(f"log {use.factor}: a deterministic or data factor has no density")
    if event:
        check_elements(used)
    return Expression(Log(used, event))


def E(
    q: Factor | Joint | Use,
    f: Expression,
    gradient: str | None = None,
    *,
    samples: int | None = None,
    baseline: Expression | str | None = None,
    resample: Resample | str | None = None,
) -> Expression:
    """E_q[f], by one draw of every factor of ``q``, shared by everything inside ``f``; around a sum over time, of all
    its steps: ``log(E(q, exp(Sum("t", log(p) - log(q))), samples=K))``.

    Args:
        q: what is drawn.
        f: the body.
        gradient: the estimator, for a factor without reparametrised samples: ``"exact"`` (every value of a discrete
            variable, weighted), ``"score"``, ``"straight-through"``, ``"gumbel"``; or ``"dreg"`` inside ``log``.
        samples: the mean of K draws, which have a leading axis: each network runs once, on K times the batch.
        baseline: what the score estimator subtracts: an expression of what is known before the draw, or
            ``"leave-one-out"``, the mean of the others; inside ``log`` that log without the sample (VIMCO).
        resample: ``"systematic"``, ``"multinomial"`` or a :class:`Resample`, where ``ratio(p, q)`` inside weighs the
            particles of a filter, ``Sum("t", log(E(q, ratio(p, q), samples=K, resample="systematic")))``.
    """
    used = check_product(as_uses(q))
    if isinstance(f, Real):
        raise FormulaError(f"the expectation of a number is that number: write {f} for E(q, {f})")
    check_gradient(used, gradient, samples)
    if baseline is not None and gradient != "score":
        raise GradientError(f"baseline= belongs to the score estimator: write gradient='score', not {gradient!r}")
    if isinstance(baseline, str) and (baseline != "leave-one-out" or not samples or samples < 2):
        raise GradientError(
            f"baseline={baseline!r}, samples={samples}: expected an expression, or baseline='leave-one-out' with "
            f"samples= of at least 2"
        )
    known = baseline if isinstance(baseline, str) or baseline is None else as_node(baseline)
    again = as_resample(resample, samples)
    return Expression(Expectation(used, as_node(f), gradient, whole_number(samples), known, again))


def sg(x: Any) -> Any:
    """Stop-gradient: of an expression's value, or of a factor's parameters, as in ``KL(sg(q), p)``."""
    match x:
        case Expression():
            return Expression(StopGradient(x.node))
        case Factor() | Use():
            return Stopped(x if isinstance(x, Factor) else x.factor, stopped=True)
        case Joint():
            stopped = Joint(*(Use(u.factor, stopped=True) for u in x.uses))
            return stopped.marginal(*(v.key for v in x.hidden)) if x.hidden else stopped
    raise FormulaError(f"expected an expression or a factor, got {type(x).__name__}")
