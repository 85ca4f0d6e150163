"""Time batching, second half: what no later step reads runs after the loop, on all steps at once.

    before the pass                           after it
    loop   h = net h_t = f(h_{t-1},e_t)       loop   h = net h_t = f(h_{t-1},e_t)
    loop   p_x = params p(x_t|h_t)  [h]       after  p_x = params p(x_t|h_t)  [h]

Prior art: the scan push-out rewrites of PyTensor.
"""

from __future__ import annotations

from worldformula.formula.passes.hoist_before import batch_dependent
from worldformula.formula.plan import Plan, Stage


def sink_after(plan: Plan) -> Plan:
    """Move every loop operation that does not lead to a carry behind the loop (decoder, heads, prior for the KL).

    Memory: what it reads from the loop is kept for all steps, T × its size.
    """
    needed = set(plan.carries.values()) | {op.name for op in plan.ops if batch_dependent(op)}
    for op in reversed(plan.ops):
        if op.name in needed:
            needed |= set(op.reads)
    moved: dict[str, Stage] = {
        op.name: "after" for op in plan.ops if plan.stage(op.name) == "loop" and op.name not in needed
    }
    return plan.with_stages(**moved)
