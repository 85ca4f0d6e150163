"""What a formula does, in words: the estimator of each term, what is drawn, and the plan after every pass."""

from __future__ import annotations

from worldformula.display import Table, Written
from worldformula.formula.code.program import Program
from worldformula.formula.factors.experts import Experts
from worldformula.formula.plan.hoist_before import batch_dependent
from worldformula.formula.plan.passes import PASSES
from worldformula.formula.plan.plan import Op
from worldformula.formula.print.definitions import followed
from worldformula.formula.print.notebook import expected, term
from worldformula.formula.syntax.check import estimator
from worldformula.formula.syntax.drawn import along_time
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.nodes import Divergence, Expectation, Log, Node, Operator, factors, walk
from worldformula.formula.syntax.text import text


def explain(node: Node, program: Program, stages: bool = False) -> Table:
    """The table *term | estimator | gradient*, one row per KL, log and E; with ``stages`` the plan after each pass."""
    rows = list(dict.fromkeys(_rows(node)))
    draws = [
        f"{op.name.removeprefix('noise_')} from {op.factor}, {_how_often(op, program)}" for op in program.plan.sites
    ]
    parts = ["draws: " + ("; ".join(draws) or "none")]
    made = dict.fromkeys(op.factor.definition for op in program.plan.ops if isinstance(op.factor, Experts))
    parts += [f"made of others: {definition}" for definition in made]
    parts += dict.fromkeys(f"slow copy: {d.left} with {d.right}" for f in factors(node) for d in followed(f))
    parts += [
        f"{op.factor} stays in the loop over {program.plan.index}: its result depends on the batch (BatchNorm, for one)"
        for op in program.plan.ops
        if op.step and batch_dependent(op)
    ]
    if stages:
        plan = program.raw
        parts.append(f"--- lowered\n{plan}")
        for step in PASSES:
            plan = step(plan)
            parts.append(f"--- {step.__name__}\n{plan}")
    return Table(("term", "estimator", "gradient"), rows, parts)


def _how_often(op: Op, program: Program) -> str:
    """How often a variable is drawn; one that depends on nothing is not shared by the rows unless it says so."""
    if op.common:
        return "one per call, shared by all rows"
    if op.name in program.plan.kept_noise and program.plan.batched:
        return "one per row and step" if op.step else "one per row"
    return f"once per {'step' if op.step else 'call'}"


def _rows(node: Node) -> list[tuple[Written, str, str]]:
    return [row for n in walk(node) for row in _explained(n)]


def _explained(node: Node) -> list[tuple[Written, str, str]]:
    rows: list[tuple[Written, str, str]] = []
    match node:
        case Divergence(q, p):
            assert q.factor.family is not None
            assert p.factor.family is not None
            stopped = [side for side, use in (("q", q), ("p", p)) if use.stopped]
            gradient = f"exact, none through {' and '.join(stopped)}" if stopped else "exact"
            rows.append(
                (term(node, text(node)), f"closed form ({q.factor.family.name}, {p.factor.family.name})", gradient)
            )
        case Log():
            rows.append((term(node, text(node)), "exact, at the values it is given", "exact"))
        case Expectation(q):
            drawn = [u.factor for u in q if u.factor.family is not None]
            rows += [(expected([factor], f"E_{{{factor}}}[...]"), *_estimated(factor, node)) for factor in drawn]
            data = [u.factor for u in q if u.factor.family is None and u.factor.net is None]
            given = "the data of the call; average them with .mean()"
            rows += [(expected([factor], f"E over {factor}"), given, "none") for factor in data]
            if not drawn and not data:
                functions = [u.factor for u in q]
                said = f"E over {', '.join(map(str, functions))}"
                rows.append((expected(functions, said), "exact: nothing random", "exact"))
        case Operator():
            rows.append((term(node, text(node)), *node.estimator))
    return rows


def _estimated(factor: Factor, node: Expectation) -> tuple[str, str]:
    """How E over one factor is computed, and how its gradient."""
    family = factor.family
    assert family is not None
    chosen = estimator(factor, node.q, node.gradient)
    if chosen == "exact":
        return "exact: every value, weighted by its probability", "exact"
    count = "1 shared sample" if node.samples in (None, 1) else f"{node.samples} shared samples"
    if any(use.factor is factor for use in along_time(node)):
        count = "1 whole trajectory" if node.samples in (None, 1) else f"{node.samples} whole trajectories"
    how = chosen or family.estimator or "reparametrised"
    if (rule := node.resample) is not None and (node.samples or 1) > 1:
        when = "at every step" if rule.ess is None else f"where ESS < {rule.ess:g} K"
        count = f"a filter of {node.samples} particles, {rule.how} resampling {when}"
        how += ", and the score of the ancestors" if rule.gradient else "; none through the ancestors (dropped)"
    if node.gradient == "dreg" and not chosen:
        how = "doubly reparametrised"
    if how == "score" and node.baseline is not None:
        how += ", baseline: " + (node.baseline if isinstance(node.baseline, str) else text(node.baseline))
    return f"Monte Carlo, {count}", how + (" (biased)" if how in family.biased else "")
