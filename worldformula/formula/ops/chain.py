r"""Discrete chains through time: hidden states z_t of few values, and what is seen of them.

    trans = OneHot("p(z_t|z_{t-1})", nn.Linear(4, 4), shape=4)
    emit = Normal("p(x_t|z_t)", nn.Linear(4, 6), shape=3)
    hmm = Chain("t", trans * emit, over="z", initial=OneHot("p(z_1)", nn.Parameter(torch.zeros(4)), shape=4))

    Evidence(hmm)            log Σ_{z_{1:T}} p(z_1) Π_t p(z_t|z_{t-1}) p(x_t|z_t)
    Filtered(hmm)            p(z_t|x_{1:t})
    Smoothed(hmm)            p(z_t|x_{1:T})
    Viterbi(hmm)             the most probable z_{1:T}

All are exact, by one pass over time (Rabiner 1989). The networks of transitions and emissions run outside the loop, on
every value of the state at all steps at once; a transition that reads the state alone runs once, on its values.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from worldformula.errors import FormulaError, NoClosedFormError, TimeError, UnknownVariableError, near
from worldformula.formula.factors.joint import Factor, Joint, as_uses
from worldformula.formula.ops.base import Distribution, enumerable, shown
from worldformula.formula.syntax.check import check_product
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import Integral, Number, OverTime, Product, Use
from worldformula.formula.syntax.spelling import keyword, normal
from worldformula.formula.syntax.starts import begins


class Chain:
    """p(x_{1:T}) = Σ_{z_{1:T}} Π_t of a product of one step: what `Evidence` and its like read. See the module.

    Attributes:
        index: the letter of the steps.
        uses: the factors of one step, as written.
        hidden: the variables that are summed out, z_t.
        begin: the factors that it begins with.
        first: the number of the step that these are of, 1 for p(z_1), 0 for p(z_0).
        reset, mask, until: names of flags, as in `Sum`.
    """

    def __init__(
        self,
        index: str,
        step: Distribution,
        *,
        over: str | Iterable[str],
        initial: Distribution | None = None,
        reset: str | None = None,
        mask: str | None = None,
        until: str | None = None,
    ) -> None:
        """
        Args:
            index: ``"t"``.
            step: the factors of one step: of the states, p(z_t|z_{t-1}), and of data, p(x_t|z_t). They may also read
                data, p(z_t|z_{t-1},u_t), and what encloses the formula, p(x_t|z_t,s).
            over: the variable that is summed out, or several, whose values are then tried together.
            initial: what the chain begins with: p(z_1), its first state, or p(z_0), which the first step follows.
            reset: names the flags ``[B, T]`` of the steps at which a sequence begins.
            mask: names the flags ``[B, T]`` of the steps whose data count; at the others nothing is seen, and the
                state moves on.
            until: names the flags ``[B, T]`` of the step that ends its sequence.

        Raises:
            FormulaError: what is no chain; the message says what to write instead.
            NoClosedFormError: a state whose values cannot be listed.
            TimeError: a state that reads more than the step before.
        """
        if not isinstance(index, str):
            raise FormulaError(f"expected Chain('t', product, over='z'), got {type(index).__name__} as the index")
        self.index = normal(index)
        self.uses = check_product(as_uses(step))
        if isinstance(self.uses, Integral):
            raise FormulaError(
                f"Chain: {shown(self.uses)} is a marginal; give the product, and say over= what is summed"
            )
        self.hidden = _hidden(self.index, self.uses, over)
        for name in (reset, mask, until):
            if name is not None and not (isinstance(name, str) and name):
                raise FormulaError(f"Chain: expected a name for a series of flags, e.g. 'first', got {name!r}")
        self.reset, self.mask, self.until = (None if n is None else keyword(n) for n in (reset, mask, until))
        _check_reads(self.index, self.uses, self.hidden)
        self.begin, self.first = _begin(self, initial)

    @property
    def moving(self) -> Product:
        """The factors of the states that read the step before, which p(z_1) takes the place of."""
        return tuple(u for u in self.states if _past_states(u.factor, self.hidden))

    @property
    def states(self) -> Product:
        """The factors of the states."""
        return tuple(u for u in self.uses if u.factor.variable in self.hidden)

    @property
    def seen(self) -> Product:
        """The factors of the data."""
        return tuple(u for u in self.uses if u.factor.family is not None and u.factor.variable not in self.hidden)

    @property
    def clock(self) -> OverTime:
        """The sum over time that its recursion runs in."""
        return OverTime("sum", self.index, Number(0), self.reset, None, self.mask, 0, self.until)

    def __str__(self) -> str:
        names = ", ".join(f"{v.at(0).base}_{{1:{self.index.upper()}}}" for v in self.hidden)
        return f"Σ_{{{names}}} Π_{self.index} {shown(self.uses)}"

    def __repr__(self) -> str:
        return f"<Chain {self}>"


def _hidden(index: str, uses: Product, over: Any) -> tuple[Variable, ...]:
    """The variables of ``over=``, each with few values."""
    declared = {v.key: (v, u.factor) for u in uses for v in u.factor.variables}
    names = (over,) if isinstance(over, str) else tuple(over)
    found = []
    for name in dict.fromkeys(keyword(n.removesuffix(f"_{index}")) if isinstance(n, str) else n for n in names):
        if name not in declared:
            raise UnknownVariableError(
                f"Chain: over={name!r} is no variable that {shown(uses)} declares.{near(str(name), declared)} It "
                f"declares {', '.join(declared)}."
            )
        variable, factor = declared[name]
        if variable.index != index or variable.offset or variable.several:
            raise TimeError(f"Chain over {index}: {factor} declares no {variable.base}_{index}, the state of a step")
        if not enumerable(factor):
            what = "computed" if factor.family is None else f"a {factor.family.name} variable"
            raise NoClosedFormError(
                f"Chain over {index}: {variable} is {what}, which has no short list of values to sum over\n"
                f"use a OneHot, Categorical (classes=K) or Bernoulli factor of a declared shape with few values, or "
                f"draw {variable} inside Sum({index!r}, E(...)) and write a bound"
            )
        found.append(variable)
    if not found:
        raise FormulaError(f"Chain over {index}: expected over= with a variable to sum out, e.g. over='z'")
    return tuple(found)


def _past_states(factor: Factor | Any, hidden: tuple[Variable, ...]) -> list[Variable]:
    """The states of other steps that a factor reads."""
    return [c for c in factor.conditions if c.now.at(0) in hidden and (c.offset or c.several)]


def _check_reads(index: str, uses: Product, hidden: tuple[Variable, ...]) -> None:
    """A state follows the one before; data are of the step; and something is both."""
    product, names = shown(uses), ", ".join(map(str, hidden))
    for use in uses:
        factor = use.factor
        if factor.observed or factor.unnormalised:
            raise FormulaError(f"Chain over {index}: {factor} has no density to multiply; leave it out of the product")
        if wrong := [v for v in factor.variables if v.index != index or v.offset or v.several]:
            raise TimeError(f"Chain over {index}: {factor} declares {wrong[0]}; the product is one of steps, {index}")
        if far := [c for c in _past_states(factor, hidden) if c.offset != -1 or c.several]:
            now = far[0].now.at(0)
            raise TimeError(
                f"Chain over {index}: {factor} reads {far[0]}, and the recursion knows the step before alone\nlet the "
                f"state be the pair of two steps, one of K² values whose transition keeps the newer half, and read "
                f"{now.at(-1)}"
            )
    depends = set(hidden)
    for use in (u for _ in uses for u in uses if u.factor.family is None):  # functions of states, in any order
        if any(c.at(0) in depends for c in use.factor.conditions):
            depends.update(use.factor.variables)
    for use in uses:
        if carried := [c for c in use.factor.conditions if c.offset and c.at(0) in depends - set(hidden)]:
            raise TimeError(
                f"Chain over {index}: {use.factor} reads {carried[0]}, which is computed from {names}: it would "
                f"remember states further back than one step\nlet it read the state of the step before itself"
            )
    if not any(_past_states(u.factor, hidden) for u in uses):
        raise FormulaError(
            f"Chain over {index}: nothing in {product} reads the {names} of the step before, so that the steps are "
            f"independent\nwrite the sum of their marginals, Sum({index!r}, log((...).marginal({hidden[0].key!r})))"
        )
    if not any(u.factor.family is not None and u.factor.variable not in hidden for u in uses):
        raise FormulaError(
            f"Chain over {index}: {product} says nothing of data, so that its evidence is 1\nmultiply it by a factor "
            f"of what is seen, such as Normal('p(x_{index}|{hidden[0]})', ...)"
        )


def _begin(chain: Chain, initial: Any) -> tuple[Product, int]:
    """The factors that a chain begins with, and the number of their step: p(z_1) or p(z_0)."""
    index = chain.index
    moving = [u.factor.variable for u in chain.states if _past_states(u.factor, chain.hidden)]
    read = [v for v in chain.hidden if any(v.at(-1) in u.factor.conditions for u in chain.uses)]
    if not isinstance(initial, Factor | Joint | Use):
        first = moving[0] if moving else read[0]
        raise FormulaError(
            f"Chain over {index}: expected initial= as a factor of the first state, got {initial!r}\nwrite e.g. "
            f"initial=OneHot('p({first.base}_1)', nn.Parameter(torch.zeros(K)), shape=K), or of {first.base}_0, which "
            f"the first step follows"
        )
    uses = check_product(as_uses(initial))
    if late := [c for u in uses for c in u.factor.conditions if c.index is not None and not c.first]:
        raise TimeError(
            f"Chain over {index}: initial= {shown(uses)} reads {late[0]}, and a start knows no steps\nread "
            f"{late[0].base}_1, the row at which a sequence begins, or what is given once"
        )
    declared = {v: u.factor for u in uses for v in u.factor.variables}
    for number, wanted in ((1, moving), (0, read)):
        found = {started(v, number): f for v, f in declared.items()}
        if found.keys() == {v.key for v in wanted} and wanted:
            for state in wanted:
                _check_alike(index, found[state.key], next(u.factor for u in chain.uses if u.factor.variable == state))
            others = [u.factor for u in chain.uses if u.factor.variable not in chain.hidden] if number else []
            if past := next((f for f in others if _past_states(f, chain.hidden)), None):
                raise FormulaError(
                    f"Chain over {index}: {past} reads the state before the first, which initial= {shown(uses)} says "
                    f"nothing of\ngive a factor of {read[0].base}_0"
                )
            return uses, number
    names = ", ".join(f"{v.base}_1" for v in moving), ", ".join(f"{v.base}_0" for v in read)
    raise FormulaError(
        f"Chain over {index}: initial= {shown(uses)} is of {', '.join(map(str, declared))}; expected factors of "
        f"{names[0]}, the first state, or of {names[1]}, which the first step follows"
    )


def started(start: Variable, number: int) -> str | None:
    """The key of the state that a start is of: ``z`` of z_0 and, where that number is 1, of z_1."""
    known = start.subscript or ""
    if start.index is not None or start.several or not known.endswith(str(number)) or known[-2:-1].isdigit():
        return None
    zeroth = Variable(start.base, start.accent, start.primes, known[:-1] + "0")
    return begins(zeroth)


def _check_alike(index: str, start: Any, state: Any) -> None:
    """A start has the values of the state."""
    if start.family is None or not enumerable(start) or type(start.family) is not type(state.family):
        raise FormulaError(
            f"Chain over {index}: initial= {start} is no law over the values of {state}; expected the same family"
        )
    sizes = [f.family.support_size(f.shape) for f in (start, state)]
    if start.shape != state.shape or sizes[0] != sizes[1]:
        raise FormulaError(
            f"Chain over {index}: initial= {start} has {sizes[0]} values of shape {start.shape}, and {state} has "
            f"{sizes[1]} of shape {state.shape}\ndeclare the same shape= (and classes=) on both"
        )
