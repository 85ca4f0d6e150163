"""Time batching, first half: what needs data only runs before the loop, on all steps at once.

    before the pass                           after it
    loop   x = input x_t                      before x = input x_t
    loop   e = net e_t = enc(x_t)  [x]        before e = net e_t = enc(x_t)  [x]
    loop   h_prev = carry h_{t-1}             loop   h_prev = carry h_{t-1}
    loop   h = net h_t = f(h_{t-1},e_t)       loop   h = net h_t = f(h_{t-1},e_t)

Prior art: the scan push-out rewrites of PyTensor.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from worldformula.formula.plan.plan import Op, Plan, Stage
from worldformula.formula.syntax.hidden import Found


def batch_dependent(op: Op) -> bool:
    """Whether a network's result depends on the batch it runs with, so that all steps at once would change it."""
    net = op.factor.net if op.kind in ("net", "call", "causal") and op.factor is not None else None
    known = (module.whole[0] for module in net.modules) if isinstance(net, Found) else (net,)
    return any(mixes_rows(module) for module in known if isinstance(module, nn.Module))


def mixes_rows(net: nn.Module) -> bool:
    """Whether it holds a BatchNorm, or a module that says ``batch_dependent = True``: a variance over the batch."""
    return any(isinstance(m, _BatchNorm) or getattr(m, "batch_dependent", False) for m in net.modules())


def stays(op: Op) -> bool:
    """Whether an operation sees one step at a time: it mixes the rows of the batch."""
    return op.over_batch or batch_dependent(op)


def hoist_before(plan: Plan) -> Plan:
    """Move every step operation that reads no carry, directly or through others, before the loop.

    Memory: its output is kept for all steps, T × its size.
    """
    moved: dict[str, Stage] = {}
    early: set[str] = set()  # what the loop need not have made
    for op in plan.ops:
        free = not op.step or (op.kind != "carry" and not stays(op))
        if free and early.issuperset(op.reads):
            early.add(op.name)
            if op.step:
                moved[op.name] = "before"
    return plan.with_stages(**moved)
