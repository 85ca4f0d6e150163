"""What every plan keeps to, whatever passes did to it: run after each of them."""

from __future__ import annotations

from worldformula.formula.plan.plan import ORDER, Op, Plan
from worldformula.formula.plan.rules import RULES
from worldformula.formula.plan.ssa import OWN_AXES


def verify(plan: Plan, stage: str) -> Plan:
    """Defined before use; no stage reads from a later one; arity, level and sample axes are those of the rule."""
    seen: set[str] = set()
    settled = "after" in plan.stages.values()  # until then what waits for the loop seems to be in it
    for op in plan.ops:
        for arg in op.reads:
            assert arg in seen, f"{stage}: {op.name} reads {arg} before it is defined"
            if op.step and (settled or plan.by_name[arg].step):
                early = ORDER[plan.moments[arg]] <= ORDER[plan.stage(op.name)]
                assert early, f"{stage}: {op.name} reads {arg} too early"
        assert op.name not in seen, f"{stage}: {op.name} is defined twice"
        assert (plan.stage(op.name) != "once") == op.step, f"{stage}: {op.name} is in the wrong stage"
        _verify_rule(plan, op, stage)
        seen.add(op.name)
    return plan


def _verify_rule(plan: Plan, op: Op, stage: str) -> None:
    rule = RULES.get(op.kind)
    assert rule is not None, f"{stage}: {op.name} is of the unknown kind {op.kind!r}"
    least, most = rule.arity
    fits = least <= len(op.reads) and (most is None or len(op.reads) <= most)
    assert fits, f"{stage}: {op.name} = {op.kind} reads {len(op.reads)} operations"
    assert rule.level in ("any", "step" if op.step else "once"), f"{stage}: {op.name} = {op.kind} is at a wrong level"
    read = {axis for name in op.reads for axis in plan.by_name[name].axes}
    if not op.over_batch and op.kind not in OWN_AXES:
        assert read - {op.axis} <= set(op.axes), f"{stage}: {op.name} loses sample axes of what it reads"
    assert set(op.axes) <= plan.sizes.keys(), f"{stage}: {op.name} has a sample axis of unknown size"
