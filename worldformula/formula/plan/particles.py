"""K particles through time: what draws whole trajectories, and the sample axes of what is carried.

    log(E(q, exp(Sum("t", log(p) - log(q))), samples=K))                    log (1/K) Σ_k Π_t w_t^k
    Sum("t", log(E(q, ratio(p, q), samples=K, resample="systematic")))      Σ_t log Σ_k W_{t-1}^k w_t^k

Both are known before anything is lowered, as a step reads the carry before it draws what is carried on.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from worldformula.errors import FormulaError, GradientError, TimeError
from worldformula.formula.plan.clock import check_begin, check_clock, check_older, starts_in
from worldformula.formula.plan.clocks import enter_time
from worldformula.formula.plan.draft import Draft
from worldformula.formula.plan.resampling import refuse_place, write_filter
from worldformula.formula.syntax.check import estimator
from worldformula.formula.syntax.constants import start_of
from worldformula.formula.syntax.drawn import along_time, sums_over_time
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import Expectation, Integral, Node, OverTime, Use, Value, factors, walk
from worldformula.formula.syntax.text import text

Place = tuple[int | None, Variable]
"""A variable as one E has it, by the identity of its node, or as any has it."""


def prepare(draft: Draft, node: Node) -> list[OverTime]:
    """Note, before anything reads the step before, what draws whole trajectories and what K draws lead to.

    Returns the sums over time, each with all that it begins with: also with what an E around it draws,
    ``E(q(z_0) * q(z_t|z_{t-1}), Sum("t", ...))``.
    """
    clocks = sums_over_time(node)
    if not clocks:
        return []
    indices = {clock.index for clock in clocks}
    inside = {id(n) for clock in clocks for n in walk(clock.body)}
    expectations = [n for n in walk(node) if isinstance(n, Expectation)]
    for e in (e for e in expectations if id(e) not in inside):
        if timed := along_time(e):
            _check_path(e, timed)
            draft.paths[id(e)] = timed
            draft.declared |= {v for u in timed for v in u.factor.variables}
    begun = [_begun(draft, clock, expectations) for clock in clocks]
    _find_axes(draft, node, expectations, indices)
    return begun


def _check_path(node: Expectation, timed: tuple[Use, ...]) -> None:
    """What a whole trajectory cannot be: every value of it, or a draw of the score function."""
    for use in timed:
        if (how := estimator(use.factor, node.q, node.gradient)) in ("exact", "stratified", "score"):
            raise GradientError(
                f"E over {use.factor} around the sum over {use.factor.variable.index}: gradient={how!r} is not known "
                f"of whole trajectories\nuse gradient='straight-through', a family such as OneHot, or sg(...) of the "
                f"factor that is drawn"
            )
    if isinstance(node.q, Integral):
        raise FormulaError(f"{text(node)}: E over a marginal draws no trajectory; write the product that is drawn")
    if node.resample is not None:
        refuse_place(node)


def _begun(draft: Draft, clock: OverTime, expectations: list[Expectation]) -> OverTime:
    """The sum with what the trajectories around it begin with. What ``initial=`` says of variables that an E around the
    sum draws is held against them now, as they were not known at the sum.
    """
    around = [u.factor for timed in draft.paths.values() for u in timed]
    begin = list(clock.begin)
    for e in (e for e in expectations if id(e) in draft.paths):
        starts = [u for u in e.q if any(starts_in(clock.index, clock.body, v, around) for v in u.factor.variables)]
        draft.paths[id(e)] += tuple(u for u in starts if u not in draft.paths[id(e)])
        begin += [u for u in starts if u not in begin]
    names = () if clock.initial is None else clock.initial.names
    initial = {name: value for name in names if (value := start_of(clock.initial, name)) is not None}
    check_clock(clock.index, clock.body, clock.reset, initial or None, around=around)
    check_begin(clock.index, clock.body, tuple(begin), initial, around)
    if begin or initial:
        check_older(clock.index, clock.body, initial, tuple(begin), around)
    return replace(clock, begin=tuple(begin))


def _find_axes(draft: Draft, node: Node, expectations: list[Expectation], indices: set[str]) -> None:
    """The sample axes of what is carried: those of the draws that it is made of, over however many steps."""
    axes, own = _drawn_several_times(draft, expectations)
    found = _reached(axes, expectations)
    read = [c for f in factors(node) for c in f.conditions] + [n.variable for n in walk(node) if isinstance(n, Value)]
    carried = {v.at(0) for v in read if v.offset < 0 and v.index in indices and not v.past}
    used = {axis for v in carried for axis in found.get(v, ())}
    draft.particles = {place: axis for place, axis in axes.items() if axis in used or place in draft.paths}
    kept = set(draft.particles.values())
    through = {v: tuple(sorted(found.get(v, set()) & kept, reverse=True)) for v in carried}
    draft.through = {v: several for v, several in through.items() if several}
    if twice := next((v for v, each in own.items() if len(each & kept) > 1), None):
        raise TimeError(
            f"{twice} is drawn by two E of different samples=, or beside different factors, and later steps read one\n"
            f"write the same product and samples= in both, or two formulas"
        )
    if past := next((v for v in read if v.past and found.get(v.at(0), set()) & kept), None):
        raise TimeError(
            f"{past} is the history of what is drawn several times (samples=), and a history is one value a row\n"
            f"give the batch more rows instead, x.repeat_interleave(K, 0): their mean is that of K samples, and a log "
            f"of it is yours to take"
        )


def _drawn_several_times(
    draft: Draft, expectations: list[Expectation]
) -> tuple[dict[int, int], dict[Variable, set[int]]]:
    """The sample axis of every E of several draws, and what each variable is drawn with."""
    axes: dict[int, int] = {}
    own: dict[Variable, set[int]] = {}
    for e in expectations:
        drawn = [u.factor for u in e.q if u.factor.family is not None]
        if (e.samples or 1) > 1 and drawn:
            axes[id(e)] = axis = draft.axis(("particles", tuple(id(f) for f in drawn)), e.samples or 1)
            for factor in drawn:
                own.setdefault(factor.variable, set()).add(axis)
    return axes, own


def _reached(axes: dict[int, int], expectations: list[Expectation]) -> dict[Variable, set[int]]:
    """What draws lead to, through however many factors and steps: the axes of all that it is made of. What two E draw
    differs between them: a factor reads what its own E draws, where that draws it at this step.
    """
    found: defaultdict[Place, set[int]] = defaultdict(set)
    reads: dict[tuple[int, Variable], list[Place]] = {}
    for e in expectations:
        here = {v for u in e.q for v in u.factor.variables}
        for factor in (u.factor for u in e.q if not u.factor.observed):
            for variable in factor.variables:
                known = [(id(e) if c in here else None, c.at(0) if c.index else c) for c in factor.conditions]
                reads[id(e), variable] = known
                if factor.family is not None and id(e) in axes:
                    found[id(e), variable].add(axes[id(e)])
    again = True
    while again:
        again = False
        for place, known in reads.items():
            more, any_e = found[place].union(*(found[c] for c in known)), (None, place[1])
            again |= more != found[place] or not more <= found[any_e]
            found[place] = more
            found[any_e] |= more
    return {variable: each for (e, variable), each in found.items() if e is None}


def filters(draft: Draft, node: Node) -> None:
    """Write what the filters of a formula do at the beginning of a step."""
    expectations = [n for n in walk(node) if isinstance(n, Expectation)]
    for clock in [n for n in walk(node) if isinstance(n, OverTime)]:
        for e in [n for n in walk(clock.body) if isinstance(n, Expectation)]:
            if e.resample is None:
                continue
            axis = draft.particles.get(id(e))
            if axis is None and (e.samples or 1) > 1:
                raise TimeError(
                    f"{text(e)}: no later step reads what is drawn here, so there is nothing to resample\n"
                    f"leave resample= out"
                )
            if axis is None:
                continue
            for other in expectations:
                if draft.particles.get(id(other)) == axis and other.resample != e.resample:
                    raise FormulaError(
                        f"{text(e)} resamples what {text(other)} draws too, which does not, or in another way\n"
                        f"write one resample= in both, or two formulas"
                    )
            _refuse_once_drawn(e, clock)
            if axis not in draft.filters:
                enter_time(draft, clock)
                write_filter(draft, clock.index, axis, e.resample)


def _refuse_once_drawn(node: Expectation, clock: OverTime) -> None:
    """Refuse what is drawn once for all steps as a part of particles: drawn anew, they would go on with another's."""
    drawn = (u.factor for u in node.q if u.factor.family is not None)
    once = next((f for f in drawn if f.variable.index != clock.index), None)
    if once is not None:
        now = once.variable
        raise TimeError(
            f"{text(node)}: {now} is drawn once for all steps, and a particle that is drawn anew would go on with the "
            f"{now} of another\ndraw it around the sum, E({once}, Sum({clock.index!r}, ...)), or carry it as a state "
            f"of its own, {now.base}_{clock.index} = f({now.base}_{{{clock.index}-1}}), which begins with {now.base}_0"
        )
