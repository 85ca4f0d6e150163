"""Which distributions emitted code writes out as plain PyTorch, and their lines.

A family offers its maths as source text (`Family.source_lines`) for parameters that a network's head gives and events
of one axis. Where every reader of the parameters can take them by name, the code holds that text; otherwise it calls
the family's methods on a tuple of parameters. Both give the same numbers; the text is what one would write by hand.
"""

from __future__ import annotations

from worldformula.families.base import Family
from worldformula.families.writing import SourceLines
from worldformula.formula.plan.plan import Op, Plan

STANDARD = (0.0, 1.0)
METHODS = ("params", "split", "constrain", "convert", "sample", "mode", "mean", "log_prob", "kl", "entropy")
"""Of a family: what its text stands for."""


def written_out(plan: Plan, deterministic: bool, structured: frozenset[str]) -> dict[str, SourceLines]:
    """The parameters (by the name of their operation) that are written out, with their family's text.

    ``structured`` are those whose network is known to return a dict of parameters instead of one tensor.
    """
    found = {op.name: text for op in plan.ops if op.name not in structured and (text := _text(plan, op)) is not None}
    while True:
        refused = {
            arg
            for op in plan.ops
            for arg in op.reads
            if arg in found and not _readable(plan, op, arg, found, deterministic)
        }
        if not refused:
            return found
        found = {name: text for name, text in found.items() if name not in refused}


def _text(plan: Plan, op: Op) -> SourceLines | None:
    """The text for parameters that all come from a head, over one axis."""
    factor = op.factor
    if op.kind != "params" or factor is None or factor.family is None or factor.net is None:
        return None
    if factor.given or factor.symbols:
        return None
    shape = plan.shape_of(factor)
    one_axis = plan.rank_of(factor) == 1 and (shape is None or len(shape) == 1)
    return factor.family.source_lines() if one_axis and _is_of(factor.family) else None


def _is_of(family: Family) -> bool:
    """Whether the text is that of the methods: a subclass that overrides one of them has none until it writes it."""
    own = next((kind for kind in type(family).__mro__ if "source_lines" in vars(kind)), Family)
    later = type(family).__mro__[: type(family).__mro__.index(own)]
    return not any(name in vars(kind) for kind in later for name in METHODS)


def _readable(plan: Plan, op: Op, params: str, found: dict[str, SourceLines], deterministic: bool) -> bool:
    """Whether an operation can read these parameters by name."""
    text = found[params]
    if plan.stage(op.name) == "loop" and plan.stage(params) != "loop":
        return False  # the loop reads one step of them
    match op.kind:
        case "logp":
            return not op.options  # the text sums the event
        case "draw":
            known = plan.noise_shape(plan.by_name[str(op.args[1])]) is not None
            if deterministic:  # a mode has no axes but those of its parameters
                return op.axes == plan.by_name[params].axes and op.factor is not None and not op.factor.unbatched
            return text.sample is not None and op.how == "" and known
        case "kl":
            left, right = (plan.by_name[a] for a in op.args)
            if not _one_family(left, right):
                return False  # the text is of the KL within the family
            if params == right.name:
                return left.name in found and text.kl is not None
            known = right.name in found and text.kl is not None
            return known or (text.kl_standard is not None and standard(plan, right.name))
    return False


def _one_family(left: Op, right: Op) -> bool:
    """Whether two parameters are of the same kind of distribution."""
    families = [op.factor.family for op in (left, right) if op.factor is not None]
    return len(families) == 2 and type(families[0]) is type(families[1])


def standard(plan: Plan, params: str) -> bool:
    """Whether these are the constants 0 and 1."""
    op = plan.by_name[params]
    factor = op.factor
    if op.kind != "params" or factor is None or factor.family is None or not factor.constant:
        return False
    return factor.family.params(None, factor.shape, factor.fixed) == STANDARD
