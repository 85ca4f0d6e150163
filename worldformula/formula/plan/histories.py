"""Histories: a network over a past, ``p(z_t|z_{<t}, a_{<t})``, as one operation of a step.

Its arguments are the values of the step: ``z_{<t}`` is the past of the series read one step later. Outside of the loop
it is one call on all steps; inside it steps with a cache. Which of the two is decided by the passes, as for any other.
"""

from __future__ import annotations

from collections.abc import Iterable

from worldformula.errors import FormulaError, TimeError
from worldformula.formula.plan.draft import Draft
from worldformula.formula.plan.plan import Op, Plan, Ref
from worldformula.formula.plan.scope import Scope
from worldformula.formula.plan.variables import is_index, read
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import Node
from worldformula.formula.syntax.text import text
from worldformula.nets.causal import Causal


def history(draft: Draft, factor: Factor, scope: Scope) -> Op:
    """The operation of a factor that reads histories."""
    check_history(factor)
    if not all(scope.bound(c) for c in factor.conditions):
        raise TimeError(
            f"{factor}: a history is one of time, so it stands inside the Sum over the steps of "
            f"{factor.conditions[0].index!r}"
        )
    values = tuple(read(draft, c.at(c.offset), scope, factor) for c in factor.conditions)
    refuse_absent(draft, factor, values, scope)
    for condition, name in zip(factor.conditions, values, strict=True):
        draft.refuse_other_steps(name, condition, factor)
    if any(draft.ops[name].axes for name in values):
        raise TimeError(
            f"{factor} reads what is drawn several times (samples= or gradient='exact'), and a history is one value a "
            f"row\ngive the batch more rows instead, x.repeat_interleave(K, 0): their mean is that of K samples, and a "
            f"log of it is yours to take"
        )
    return Op("", "causal", values, factor, step=True)


def check_history(factor: Factor) -> None:
    """All conditions are histories of one length, read by a network with the protocol `Causal`."""
    single = next((c for c in factor.conditions if not c.past), None)
    if single is not None:
        wanted = f"{single.base}_{{≤{single.index}}}" if single.index else "a variable of the step"
        raise TimeError(
            f"{factor} reads histories and {single}; its network sees one series a condition, so write {wanted} there, "
            f"or two factors: one that reads the histories, and one that reads its result beside {single}"
        )
    if len(factor.variables) > 1:
        raise TimeError(f"{factor}: a network over histories has one output; cut it by a second factor, 'a, b = f(u)'")
    windows = {c.window for c in factor.conditions}
    if len(windows) > 1:
        raise TimeError(
            f"{factor} reads histories of different lengths; all positions of a network have one, as in "
            f"p(z_t|z_{{t-4:t-1}},a_{{t-4:t-1}})"
        )
    if not isinstance(factor.net, Causal):
        raise FormulaError(
            f"{factor} reads a history, which takes a network with context, step and cache, got "
            f"{type(factor.net).__name__}\nuse worldformula.nets.transformer.CausalTransformer or "
            f"worldformula.nets.window.WindowMLP, or write the protocol worldformula.nets.causal.Causal"
        )
    window = windows.pop()
    if window is not None and window != factor.net.context:
        sees = "all positions" if factor.net.context is None else f"{factor.net.context}"
        raise FormulaError(
            f"{factor} says {window} positions, and its network sees {sees}; give both one length: the context of the "
            f"network, or a window of the header"
        )


def refuse_absent(draft: Draft, factor: Factor, conditions: tuple[Ref, ...], scope: Scope) -> None:
    """A network sees rows that have what it reads; without it only an expert can be left out."""
    missing = {key for ref in conditions for key in draft.absent(ref)} - scope.excused
    if missing and factor.family is not None and not scope.expert:
        raise FormulaError(
            f"{factor} reads {', '.join(sorted(missing))}, which some rows lack (present=), and nothing takes its "
            f"place\nuse PoE([prior, q(z|x_1), q(z|x_2)]) or MoE, whose experts are left out of such rows"
        )


def refuse_value(draft: Draft, node: Node, name: str, scope: Scope) -> None:
    """What arithmetic reads has no density, which would count as 0 in rows that lack it or what it is made of."""
    if missing := draft.absent(name) - scope.excused:
        keys = ", ".join(sorted(missing))
        raise FormulaError(
            f"{text(node)} depends on {keys}, which some rows lack (present=), and nothing takes its place\nscore it "
            f"by a density, which is 0 there; draw what is made of it from PoE or MoE, whose experts are left out; "
            f"or give {keys} with zeros instead of present= and multiply by flags of your own, Value('has') * ..."
        )


def memories(prior: Iterable[Factor], posterior: Iterable[Factor], heads: Iterable[Factor]) -> dict[str, Factor]:
    """The factors of a world whose networks read a past, by the key of what they keep of it in a state."""
    for head in heads:
        if past := next((c for c in head.conditions if c.past), None):
            raise FormulaError(
                f"the head {head} reads the history {past}, and a state holds single steps\n"
                f"write the history as a variable of prior and posterior, u_t = f({past}), and the head of u_t"
            )
    found: dict[str, Factor] = {}
    for factor in dict.fromkeys((*prior, *posterior)):
        if any(c.past for c in factor.conditions):
            check_history(factor)
            key, count = f"{factor.variable.key}_cache", 2
            while key in found:
                key, count = f"{factor.variable.key}_cache_{count}", count + 1
            found[key] = factor
    return found


def held(condition: Variable) -> str:
    """The key in a state of what a head reads."""
    return condition.lag(-condition.offset).key if condition.offset else condition.key


def lags(index: str, through_time: Iterable[Factor], heads: Iterable[Factor]) -> tuple[Variable, ...]:
    """What a state keeps of older steps: what the next step reads two back or more, and what heads read of the past.
    The number of its own step too, where something reads that.
    """
    depths: dict[Variable, int] = {}
    reads = [(c, 1) for f in through_time for c in f.conditions] + [(c, 0) for f in heads for c in f.conditions]
    for condition, own in reads:
        if not condition.several and condition.index is not None:
            depths[condition.at(0)] = max(depths.get(condition.at(0), 0), -condition.offset - own)
    older = tuple(v.at(-lag) for v, depth in depths.items() for lag in range(1, depth + 1))
    counted = next((c for c, _ in reads if is_index(c, index)), None)
    return older if counted is None else (*older, counted)


def refuse_ahead(what: str, plan: Plan) -> None:
    """A step knows the past alone, so nothing in it reads a whole series."""
    for op in plan.ops:
        if op.kind in ("whole", "series"):
            reader = next((o.factor for o in plan.ops if op.name in o.reads and o.factor is not None), op.variable)
            raise TimeError(
                f"{what}: {reader} reads {op.variable}, which looks ahead: its later steps are not known yet\n"
                f"read the step before, and give whole sequences to filter"
            )
