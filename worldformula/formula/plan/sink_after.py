"""Time batching, second half: what no later step reads runs after the loop, on all steps at once.

    before the pass                           after it
    loop   h = net h_t = f(h_{t-1},e_t)       loop   h = net h_t = f(h_{t-1},e_t)
    loop   p_x = params p(x_t|h_t)  [h]       after  p_x = params p(x_t|h_t)  [h]

A value that later steps read, but nothing that stays in the loop, is no reason for a loop either: z_{t-1} in a prior
that only a KL needs is the series of z one step later.

Prior art: the scan push-out rewrites of PyTensor.
"""

from __future__ import annotations

from dataclasses import replace

from worldformula.errors import TimeError
from worldformula.formula.plan.hoist_before import stays
from worldformula.formula.plan.plan import Op, Plan, Stage


def sink_after(plan: Plan) -> Plan:
    """Move every loop operation that does not lead to a carry of the loop behind it (decoder, heads, prior for the KL).

    Memory: what it reads from the loop is kept for all steps, T × its size.
    """
    carries = dict(plan.carries)
    while True:
        needed = set(carries.values()) | {op.name for op in plan.ops if op.step and stays(op)}
        for op in reversed(plan.ops):
            if op.name in needed:
                needed |= set(op.reads)
        read = {op.variable.key for op in plan.ops if op.kind == "carry" and op.variable and op.name in needed}
        if read >= carries.keys():
            break
        carries = {key: name for key, name in carries.items() if key in read}
    _refuse_ahead(plan, needed, set(carries.values()))
    moved: dict[str, Stage] = {
        op.name: "after" for op in plan.ops if plan.stage(op.name) == "loop" and op.name not in needed
    }
    return _causes_first(plan.with_stages(**moved))


def _refuse_ahead(plan: Plan, needed: set[str], carried: set[str]) -> None:
    """The loop cannot read what is known only behind it: a series of its own values."""
    for op in plan.ops:
        if op.step or op.name not in needed or plan.moments[op.name] != "after":
            continue
        ahead = {op.name}
        for later in plan.ops:
            if not ahead.isdisjoint(later.reads):
                ahead.add(later.name)
        reader = next(o for o in plan.ops if o.name in ahead and (o.name in carried or (o.step and stays(o))))
        why = "leads to the next step" if reader.name in carried else "depends on its batch, so it stays in the loop"
        raise TimeError(
            f"{reader.factor or plan.label(reader.name)} {why}, and it reads {op.variable or plan.label(op.name)}, "
            f"which is known behind the loop only\nread the step before, a series that is made of data alone, or what "
            f"is known at a step"
        )


def _causes_first(plan: Plan) -> Plan:
    """The operations in an order in which a carry that is read after the loop comes behind what it shifts."""
    late = {
        op.name: plan.carries[op.variable.key]
        for op in plan.ops
        if op.kind == "carry" and op.variable and plan.stage(op.name) == "after"
    }
    if not late:
        return plan
    place = {op.name: i for i, op in enumerate(plan.ops)}
    rounds: dict[str, int] = {}  # how often one has to go through the operations before one of them can run
    waiting = list(reversed(plan.ops))
    while waiting:
        op = waiting[-1]
        causes = (*op.reads, *((late[op.name],) if op.name in late else ()))
        unknown = [plan.by_name[name] for name in causes if name not in rounds]
        if op.name in rounds or not unknown:
            waiting.pop()
            rounds.setdefault(op.name, max((rounds[n] + (place[n] > place[op.name]) for n in causes), default=0))
        else:
            waiting += unknown
    ordered: list[Op] = sorted(plan.ops, key=lambda op: (rounds[op.name], place[op.name]))
    return replace(plan, ops=tuple(ordered))
