r"""What the data of a discrete chain say of its states: p(z_t|x_{1:t}), p(z_t|x_{1:T}), and the most probable z_{1:T}.

    Filtered(hmm)       p(z_t|x_{1:t})                    the forward recursion
    Smoothed(hmm)       p(z_t|x_{1:T})                    and one backwards (Rabiner 1989, section III.B)
    Viterbi(hmm)        argmax_{z_{1:T}} p(z_{1:T}, x_{1:T})                          (Viterbi 1967)

The two laws are probabilities ``[B, T, S]`` of the S values of the state, in the order of its family's support: the
classes of a OneHot or Categorical. They have exact gradients; the path has none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from worldformula.errors import FormulaError, near
from worldformula.families.writing import Sign
from worldformula.formula.expressions.expression import Expression
from worldformula.formula.ops.chain import Chain
from worldformula.formula.ops.chain_tables import Tables, tables
from worldformula.formula.ops.evidence import OverChain, checked, series
from worldformula.formula.ops.recursions import best_path, in_type_of, smoothed, unseen
from worldformula.formula.plan import clocks
from worldformula.formula.plan.plan import Op
from worldformula.formula.plan.scope import Scope
from worldformula.formula.print import latex, mathml
from worldformula.formula.syntax import text
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.spelling import keyword


class Among:
    """The law of one variable from that of all states: [B, T, S₁ · S₂ …] to [B, T, S_i]."""

    def __init__(self, sizes: tuple[int, ...], place: int, name: str) -> None:
        self.sizes, self.place, self.__name__ = sizes, place, f"law_of_{name}"

    def __call__(self, law: Tensor) -> Tensor:
        """The sum over the others."""
        parts = law.reshape(*law.shape[:2], *self.sizes)
        others = [2 + i for i in range(len(self.sizes)) if i != self.place]
        return parts.sum(others) if others else parts


class Valued:
    """The values of one variable from the numbers of states [B, T]: [B, T, *shape]."""

    def __init__(self, support: Tensor, sizes: tuple[int, ...], place: int, name: str) -> None:
        self.support, self.__name__ = support, f"{name}_path"
        self.behind, self.size = math.prod(sizes[place + 1 :]), sizes[place]

    def __call__(self, states: Tensor, like: Tensor) -> Tensor:
        """Mixed radix: the last variable counts fastest. In the type of the densities, ``like``."""
        return in_type_of(self.support.to(states.device), like)[
            states.div(self.behind, rounding_mode="floor") % self.size
        ]


@dataclass(frozen=True, eq=False)
class OfStates(OverChain):
    """What is known of one of the states, at all steps. Abstract."""

    variable: Variable

    def found(self, lowering: Any, known: Tables, whole: Any) -> str:
        """The operation of the result, from the tables; ``whole`` gives a table of all steps."""
        raise NotImplementedError

    def lower(self, lowering: Any, scope: Scope) -> str:
        """The recursion, and what follows from it behind the loop."""
        self.refuse_inside(scope)
        clocks.enter_time(lowering, self.chain.clock)
        outer, lowering.flags_of_time = lowering.flags_of_time, clocks.counted_steps(lowering, self.chain.clock)
        known = tables(lowering, self.chain, scope.at_time(self.chain.index, "time sum").part())
        lowering.flags_of_time = outer
        if lowering.ops[known.law].axes:
            raise FormulaError(
                f"{text.text(self)}: it reads draws of which there are several (samples= or gradient='exact'), and the "
                f"law of a state is that of one\nwrite E without samples=, or Evidence, which takes several"
            )

        def whole(name: str) -> str:
            if not lowering.is_step(name):
                return name
            rank = lowering.rank(name) + 1
            return str(lowering.add(f"{name}_series", Op("", "series", (name,), rank=rank)))

        return self.found(lowering, known, whole)

    @property
    def _sizes(self) -> tuple[int, ...]:
        factors = {u.factor.variable: u.factor for u in self.chain.states}
        return tuple(factors[v].family.support_size(factors[v].shape) or 0 for v in self.chain.hidden)  # type: ignore[union-attr]

    @property
    def _place(self) -> int:
        return self.chain.hidden.index(self.variable)

    def _law(self, lowering: Any, states: str) -> str:
        """The law of the variable from that of all states."""
        if len(self.chain.hidden) == 1:
            return states
        one = Among(self._sizes, self._place, self.variable.key)
        return str(lowering.call(one.__name__, one, states, rank=2))


@dataclass(frozen=True, eq=False)
class FilteredNode(OfStates):
    """p(z_t|x_{1:t})."""

    @property
    def sign(self) -> Sign:
        """P with the state and what is known."""
        return law_of(self.variable, self.chain, past=True)

    def found(self, lowering: Any, known: Tables, whole: Any) -> str:
        """The laws of the loop."""
        law = whole(known.law)
        return self._law(lowering, str(lowering.add("filtered", Op("", "function", (law,), how="exp", rank=2))))


@dataclass(frozen=True, eq=False)
class SmoothedNode(OfStates):
    """p(z_t|x_{1:T})."""

    @property
    def sign(self) -> Sign:
        """P with the state and what is known."""
        return law_of(self.variable, self.chain, past=False)

    @property
    def estimator(self) -> tuple[str, str]:
        """Two recursions."""
        return f"exact: the recursion over {self.chain.index}, forwards and backwards, every state", "exact"

    def found(self, lowering: Any, known: Tables, whole: Any) -> str:
        """Backwards over the laws of the loop."""
        begins = whole(lowering.call("begins", unseen, known.before))
        args = (whole(known.law), whole(known.pair), begins)
        return self._law(lowering, lowering.call("smoothed", smoothed, *args, rank=2))


@dataclass(frozen=True, eq=False)
class ViterbiNode(OfStates):
    """argmax p(z_{1:T}|x_{1:T})."""

    @property
    def sign(self) -> Sign:
        """argmax with the states."""
        shown, written, said = series(self.chain)
        mark = "" if len(self.chain.hidden) == 1 else self.variable
        own = f"{mark} of " if mark else ""
        return Sign(
            f"{own}argmax_{{{shown}}} p",
            rf"\operatorname{{argmax}}_{{{written}}}"
            + (rf"^{{{latex.variable(self.variable)}}}" if mark else "")
            + " p",
            f"<munder><mi>argmax</mi>{said}</munder><mi>p</mi>",
        )

    @property
    def estimator(self) -> tuple[str, str]:
        """Viterbi's algorithm."""
        return f"exact: the most probable path over {self.chain.index} (Viterbi)", "none"

    def found(self, lowering: Any, known: Tables, whole: Any) -> str:
        """Forwards with maxima, and back along them."""
        args = (whole(known.own), whole(known.pair), whole(known.start), whole(known.before))
        states = lowering.call("states", best_path, *args, rank=1, options=(("first", self.chain.first),))
        factor = next(u.factor for u in self.chain.states if u.factor.variable == self.variable)
        shape: Any = factor.shape or ()
        values = Valued(factor.family.support(shape), self._sizes, self._place, self.variable.key)  # type: ignore[union-attr]
        return str(lowering.call(values.__name__, values, states, args[0], rank=1 + len(shape)))


def law_of(variable: Variable, chain: Chain, *, past: bool) -> Sign:
    """P with a state and what is known of the data: up to its step, or all."""
    known = [replace(u.factor.variable, past=past, span=not past) for u in chain.seen]
    rows = mathml.COMMA.join(map(mathml.variable, known))
    return Sign(
        f"P_{{{variable}|{','.join(map(str, known))}}}",
        rf"\mathbb{{P}}_{{{latex.variable(variable)} \mid {', '.join(map(latex.variable, known))}}}",
        f"<msub><mi>ℙ</mi><mrow>{mathml.variable(variable)}<mo>∣</mo>{rows}</mrow></msub>",
    )


def _node(kind: type[OfStates], what: str, chain: Any, state: str | None) -> Expression:
    """A node of the state that is meant."""
    known = checked(what, chain)
    names = {v.key: v for v in known.hidden}
    if state is None and len(names) > 1:
        raise FormulaError(f"{what}: the chain has several states; say which, {what}(chain, {next(iter(names))!r})")
    key = next(iter(names)) if state is None else keyword(state.removesuffix(f"_{known.index}"))
    if key not in names:
        raise FormulaError(
            f"{what}: {state!r} is no state of the chain; these are {', '.join(names)}.{near(key, names)}"
        )
    return Expression(kind(known, names[key]))


def Filtered(chain: Chain, state: str | None = None) -> Expression:
    """p(z_t|x_{1:t}) of a chain, ``[B, T, S]``: the probabilities of the values of a state, given what was seen so far.

    Args:
        chain: a `Chain`.
        state: which one, where the chain has several.

    Raises:
        FormulaError: no chain, or no such state.
    """
    return _node(FilteredNode, "Filtered", chain, state)


def Smoothed(chain: Chain, state: str | None = None) -> Expression:
    """p(z_t|x_{1:T}) of a chain, ``[B, T, S]``, given all that is seen; arguments as of `Filtered`."""
    return _node(SmoothedNode, "Smoothed", chain, state)


def Viterbi(chain: Chain, state: str | None = None) -> Expression:
    """The most probable path of a chain: the values of a state at all steps, ``[B, T, *shape]``; as of `Filtered`."""
    return _node(ViterbiNode, "Viterbi", chain, state)
