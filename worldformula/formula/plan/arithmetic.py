"""Arithmetic on values, and reductions over their events and the batch, as operations."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from torch import Tensor

from worldformula.errors import FormulaError, ShapeError, table
from worldformula.formula import runtime
from worldformula.formula.plan.draft import Draft
from worldformula.formula.plan.plan import Op, Ref
from worldformula.formula.plan.scope import Scope
from worldformula.formula.plan.ssa import LONG
from worldformula.formula.syntax.numbers import check_power, check_root

WISHES = {
    "+": "total",
    "-": "difference",
    "*": "product",
    "/": "ratio",
    "^": "power",
    "max": "larger",
    "min": "smaller",
    "logmeanexp": "log_mean",
    "logsumexp": "log_total",
}


def binary(draft: Draft, op: str, left: Ref, right: Ref) -> Ref:
    """Left op right; what has fewer event axes is seen with those of the other."""
    rank, event = max(draft.rank(left), draft.rank(right)), _event(draft, left, right)
    left, right = (_lift(draft, side, rank) for side in (left, right))
    if op == "^" and _of_the_call(draft, left, right):
        draft.checks["^", left, right] = check_power, (left, right)
    return _known(draft, draft.add(WISHES[op], Op("", "binary", (left, right), how=op, rank=rank)), event)


def refuse_mixed(draft: Draft, op: str, left: Ref, right: Ref) -> None:
    """Refuse one number for the whole call beside one for each row: as a sum over the rows it would count once for
    each, as a mean once for all, and what is meant is for the formula to say.

    What is a value of a shared variable, and no density or sum, may be read by rows: a mean, a scale, a weight.
    """
    call, row = (left, right) if draft.common(left) else (right, left)
    if not draft.common(call) or draft.common(row) or draft.number(row) or draft.statistic(row):
        return
    total = draft.facts[str(call)].total
    if draft.density(call) or (total and op not in "*/"):
        raise FormulaError(
            f"{draft.label(call)} is one number for the whole call, and {draft.label(row)} is one for each row\n"
            f"sum what is of the rows: Sum('n', ..., rows='all') where the call gives all rows of the data, rows=N "
            f"where it gives some of N"
        )


def _event(draft: Draft, *refs: Ref | None) -> tuple[int, ...] | None:
    """The event shape of values that are combined, where one is declared; unlike ones would broadcast in silence.

    An event of one number, as a scale ``[B, 1]``, meets every element of the other.
    """
    known = {ref: draft.events[ref] for ref in refs if isinstance(ref, str) and draft.events.get(ref)}
    found = {ref: shape for ref, shape in known.items() if math.prod(shape) != 1} or known
    if len({*found.values()}) > 1:
        rows = [(draft.label(ref), list(shape)) for ref, shape in found.items()]
        raise ShapeError(
            "values of unlike event shapes are combined element by element, and nothing is broadcast silently\n"
            + table(("value", "event shape"), rows)
            + "\ngive both the same shape=, with x.expand(...) of what the call is given, or reduce one, total(...)"
        )
    return next(iter(found.values()), None)


def _known(draft: Draft, name: str, event: tuple[int, ...] | None) -> str:
    """Note the event shape of a value."""
    if event is not None and draft.rank(name) == len(event):
        draft.events[name] = event
    return name


def expected(draft: Draft, how: str, log_share: Ref, value: Ref, axis: int) -> Ref:
    """Σ p·value, or ``log_expected`` log Σ p·exp(value), over the values of an enumerated variable."""
    rank = draft.rank(value)
    args = _lift(draft, log_share, rank), value
    if not all(map(draft.common, args)):
        args = tuple(map(draft.in_rows, args))
    op = Op("", "samples", args, how=how, axis=axis, rank=rank)
    return _known(draft, draft.add(how.replace("expected", "expectation"), op), _event(draft, value))


def unary(draft: Draft, kind: str, body: Ref) -> Ref:
    """Minus, or stop-gradient."""
    wish = f"{kind}_{body}" if isinstance(body, str) and len(body) < LONG else kind
    return _known(draft, draft.add(wish, Op("", kind, (body,), rank=draft.rank(body))), _event(draft, body))


def function(draft: Draft, name: str, body: Ref, bounds: tuple[Ref | None, ...] = ()) -> Ref:
    """An elementwise function; ``bounds`` are those of a clamp. Where the call gives one, they are arguments."""
    if any(isinstance(bound, str) for bound in bounds):
        given = Op("", "function", (body, *bounds), how=name, rank=draft.rank(body))
        return _known(draft, draft.add(name, given), _event(draft, body))
    if name == "log" and isinstance(body, str):
        known = logarithm(draft, body)
        known = _log_of_weighted(draft, body) if known is None else known
        if known is not None:
            return known
    if name in ("log", "sqrt") and _of_the_call(draft, body):
        draft.checks[name, body] = partial(check_root, name), (body,)
    options = tuple(zip(("min", "max"), bounds, strict=True)) if name == "clamp" else ()
    op = Op("", "function", (body,), how=name, options=options, rank=draft.rank(body))
    return _known(draft, draft.add(name, op), _event(draft, body))


def logarithm(draft: Draft, value: Ref) -> Ref | None:
    """The logarithm of what is made of exponentials and densities by sums, products, powers and means, without any of
    them, which would be 0 for an x of some hundred pixels; None of anything else, which may be negative.
    """
    if not isinstance(value, str):
        return math.log(value) if value > 0 else None
    for name in _made_of(draft, value):
        draft.logarithms[name] = _logarithm(draft, draft.ops[name])
    return draft.logarithms[value]


def _made_of(draft: Draft, value: str) -> list[str]:
    """What a logarithm goes through and is not known of yet, causes first. Depth is no limit."""
    found, waiting = set[str](), [value]
    while waiting:
        name = waiting.pop()
        if name in found or name in draft.logarithms:
            continue
        found.add(name)
        op = draft.ops[name]
        if op.kind == "binary" and op.how in "+-":  # all parts at once, and no sum of some of them
            waiting += [part for _, part in _added(draft, name) if isinstance(part, str)]
        elif op.kind in ("detach", "binary") or op.target is runtime.possible:
            waiting += op.reads
        elif op.kind == "samples" and isinstance(op.args[-1], str):
            waiting.append(op.args[-1])
    return sorted(found, key=draft.place.__getitem__)


def _logarithm(draft: Draft, op: Op) -> Ref | None:
    """The logarithm of one operation, from those of what it reads."""
    read = [draft.logarithms.get(a) if isinstance(a, str) else logarithm(draft, a) for a in op.args]
    match op.kind, op.how:
        case "function", "exp":
            inner: Ref = _as_it_is(draft, op.args[0])
            return inner
        case "call", _:
            return read[0] if op.target is runtime.possible else None
        case "detach", _:
            return None if read[0] is None else unary(draft, "detach", read[0])
        case "binary", "*" | "/":
            left, right = read
            if left is None or right is None or (not isinstance(left, str) and not isinstance(right, str)):
                return None
            return binary(draft, "+" if op.how == "*" else "-", left, right)
        case "binary", "+":
            return _log_of_sum(draft, op)
        case "binary", "^":
            base = read[0] if isinstance(op.args[0], str) else None
            return None if base is None else binary(draft, "*", base, op.args[1])
        case "samples", "mean" | "sum" | "expected":
            body = read[-1] if isinstance(op.args[-1], str) else None
            return None if body is None else _reduced(draft, op, body)
    return None


def _reduced(draft: Draft, op: Op, log: Ref) -> Ref | None:
    """log of the mean or sum over samples that an operation takes, from the logarithms of what it reads."""
    if not isinstance(log, str) or op.axis is None:
        return None
    if op.how == "expected":
        return expected(draft, "log_expected", op.args[0], log, op.axis)
    if op.axis not in draft.ops[log].axes:
        log = draft.along(log, draft.axes_of(Op("", "", (log, op.args[0]))))
    how = "logmeanexp" if op.how == "mean" else "logsumexp"
    return draft.add(WISHES[how], Op("", "samples", (log,), how=how, axis=op.axis, rank=draft.rank(log)))


def _added(draft: Draft, value: Ref) -> list[tuple[int, Ref]]:
    """The parts of a sum, each with its sign, in their order."""
    found, waiting = list[tuple[int, Ref]](), [(1, value)]
    while waiting:
        sign, part = waiting.pop()
        op = draft.ops[part] if isinstance(part, str) else None
        if op is not None and op.kind == "binary" and op.how in "+-":
            waiting += [(-sign if op.how == "-" else sign, op.args[1]), (sign, op.args[0])]
        elif op is not None and op.kind == "negative":
            waiting.append((-sign, op.args[0]))
        else:
            found.append((sign, part))
    return found


def _log_of_sum(draft: Draft, op: Op) -> Ref | None:
    """log Σ eˣ of all the parts of a sum, if each is made of exponentials or a positive number."""
    logs = [None if sign < 0 else logarithm(draft, part) for sign, part in _added(draft, op.name)]
    known = [x for x in logs if x is not None]
    return None if len(known) < len(logs) or draft.plain(op.name) else _of_several(draft, runtime.logaddexp, known)


def _log_of_weighted(draft: Draft, value: Ref) -> Ref | None:
    """log Σ c·eˣ of a sum whose parts have any sign, each of them a number or a value times exponentials; None where
    none of them is made of exponentials.
    """
    if not isinstance(value, str) or draft.plain(value):
        return None
    pairs = _pairs(draft, value)
    if not any(isinstance(x, str) for _, x in pairs):
        return None
    return _of_several(draft, runtime.log_weighted_sum, [ref for pair in pairs for ref in pair])


def _pairs(draft: Draft, value: Ref) -> list[tuple[Ref, Ref]]:
    """c and x of every part c·eˣ of a sum: of products with exponentials, of means of such sums; else part·e⁰."""
    found = list[tuple[Ref, Ref]]()
    waiting: list[tuple[int, Ref, Ref]] = [(1, 0.0, value)]
    while waiting:
        sign, x, part = waiting.pop()
        op = draft.ops[part] if isinstance(part, str) else None
        if op is not None and (op.kind == "negative" or (op.kind == "binary" and op.how in "+-")):
            waiting += [(sign * own, x, each) for own, each in reversed(_added(draft, part))]
            continue
        known = None if op is None else logarithm(draft, part)
        if op is None or known is not None:
            c = sign * float(part) if op is None else float(sign)
            found.append((c, x if known is None else _plus(draft, x, known)))
        elif (factor := _factored(draft, op)) is not None:
            rest, how, log = factor
            waiting.append((sign, _plus(draft, x, log, how), rest))
        elif (inner := _pairs_of_samples(draft, op)) is not None:
            found += [(sign * c, _plus(draft, x, log)) for c, log in inner]
        else:
            found.append((unary(draft, "negative", part) if sign < 0 else part, x))
    return found


def _plus(draft: Draft, x: Ref, log: Ref, how: str = "+") -> Ref:
    return log if x == 0.0 and how == "+" else binary(draft, how, x, log)


def _factored(draft: Draft, op: Op) -> tuple[Ref, str, Ref] | None:
    """Of a product or quotient: what is left without a factor that is made of exponentials, and its logarithm."""
    if op.kind != "binary" or op.how not in "*/":
        return None
    left, right = op.args
    known = logarithm(draft, right)
    if known is None and op.how == "*":
        left, right, known = right, left, logarithm(draft, left)
    return None if known is None else (left, "+" if op.how == "*" else "-", known)


def _pairs_of_samples(draft: Draft, op: Op) -> list[tuple[float, Ref]] | None:
    """The pairs of a mean or sum over samples, where every c inside is a number."""
    if op.kind != "samples" or op.how not in ("mean", "sum", "expected") or not isinstance(op.args[-1], str):
        return None
    inner = _pairs(draft, op.args[-1])
    found = [(c, _reduced(draft, op, x)) for c, x in inner if not isinstance(c, str)]
    known = [(c, x) for c, x in found if x is not None]
    return known if len(known) == len(inner) else None


def _of_several(draft: Draft, target: Callable[..., Tensor], refs: list[Ref]) -> Ref:
    """The value of a function of several values and numbers, element by element."""
    rank, event = max(map(draft.rank, refs)), _event(draft, *refs)
    args = tuple(_lift(draft, ref, rank) for ref in refs)
    how = "shared" if all(map(draft.number, args)) else ""
    return _known(draft, draft.add("log", Op("", "call", args, how=how, target=target, rank=rank)), event)


def _as_it_is(draft: Draft, ref: Ref) -> Ref:
    """A value without the look at where it has a probability, which a logarithm needs not."""
    while isinstance(ref, str) and draft.ops[ref].target is runtime.possible:
        ref = draft.ops[ref].args[0]
    return ref


def _lift(draft: Draft, ref: Ref, rank: int) -> Ref:
    """A value with event axes of size 1, so that arithmetic meets the axes it means."""
    missing = rank - draft.rank(ref)
    if missing and draft.density(ref):
        raise FormulaError(
            f"{draft.label(ref)} is one number per row, as the axes of its event are summed, and it meets a value with "
            f"{rank} event axes\nwrite log(p, event=True) for the density element by element, as masks and weights of "
            f"elements need it: total(Value('m', shape=...) * log(p, event=True)); or reduce the value, total(...)"
        )
    if not missing or draft.number(ref):
        return ref
    return draft.add(f"{ref}_wide", Op("", "lift", (ref,), how=str(missing), rank=rank))


def over_event(draft: Draft, how: str, body: Ref, scope: Scope) -> Ref:
    """The sum over event axes of a value, or of its squares."""
    if draft.plain(body):  # one number for the call, whatever the event
        return body if how == "total" else binary(draft, "*", body, body)
    op = Op("", "event", (body,), how=how, options=(("rank", draft.rank(body)),))
    name = draft.add(how, op)
    if not draft.number(name):
        scope.leaves.append(name)
    return name


def over_batch(draft: Draft, how: str, body: Ref, shared: frozenset[int] = frozenset(), *, plate: bool = False) -> Ref:
    """The mean or sum over all batch axes; the sample axes ``shared``, of what all rows share, stay in front.

    ``plate``: the result is noted as a number of the call, as a value of a shared variable is.
    """
    if draft.common(body):
        raise FormulaError(
            f"{draft.label(body)} is one number for the whole call, and has no {how} over the rows\n"
            f"write it outside, beside what is summed over the rows"
        )
    if draft.rank(body) or (isinstance(body, str) and not shared.issuperset(draft.ops[body].axes)):
        raise FormulaError(
            f".{how}() is over the batch, and what stands inside has event or sample axes too\n"
            f"reduce these first, by total(...) or norm2(...), and put .{how}() outside an E with samples="
        )
    if draft.plain(body):
        return body
    axes = draft.ops[str(body)].axes
    return draft.add(how + "_value", Op("", "batch", (body,), how=how, axes=axes, common=plate or bool(axes)))


def _of_the_call(draft: Draft, *refs: Ref) -> bool:
    """Whether values are made of numbers and Symbols alone, one of them at least of Symbols."""
    return any(isinstance(ref, str) for ref in refs) and all(
        not isinstance(ref, str) or draft.plain(ref) for ref in refs
    )
