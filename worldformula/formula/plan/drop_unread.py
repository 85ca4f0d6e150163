"""Arithmetic that nobody reads is left out.

    before the pass                           after it
    exp = exp(log_p_x − log_q_z)
    log_p_x − log_q_z -> logsumexp            log_p_x − log_q_z -> logsumexp

A formula is lowered from the inside: the exponential of a ratio is written before the logarithm around it is known,
which needs none. Networks, draws and densities stay, read or not: what a call runs and draws is what the formula names.
"""

from __future__ import annotations

from dataclasses import replace

from worldformula.formula.plan.plan import Op, Plan
from worldformula.formula.plan.rules.rule import ARITHMETIC
from worldformula.formula.plan.ssa import OF_VALUES


def drop_unread(plan: Plan) -> Plan:
    """Leave out what is computed of values, is no part of what a call returns or carries, and has no reader."""
    read = {str(ref) for _, args in plan.checks for ref in args}
    read |= {*map(str, (plan.value, *(t.name for t in plan.terms)))}
    read |= {*plan.samples.values(), *plan.carries.values(), *plan.memories.values(), *plan.begins.values()}
    kept: list[Op] = []
    for op in reversed(plan.ops):
        if op.name in read or not _is_arithmetic(op):
            kept.append(op)
            read.update(op.reads)
    if len(kept) == len(plan.ops):
        return plan
    return replace(plan, ops=tuple(reversed(kept)), stages={op.name: plan.stages[op.name] for op in kept})


def _is_arithmetic(op: Op) -> bool:
    return op.kind in ARITHMETIC or op.kind in ("along", "rows") or op.target in OF_VALUES
