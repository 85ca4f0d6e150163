"""The operations of a plan, one record per kind: how each is evaluated and written, and what it does to its arguments.

A *machine* (`code.interpret`) evaluates one operation, for one time step at a time; a *writer* (`code.emit`) asks for
the right-hand side of its line. Kinds that only call a function are one kind, ``call``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from worldformula import families
from worldformula.families.base import Family, kl_pair, total
from worldformula.formula import runtime
from worldformula.formula.factors.experts import Experts
from worldformula.formula.plan.plan import Method, Op
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.functions import FUNCTIONS

DRAWS = {"straight-through": "straight_through", "gumbel": "gumbel", "stratified": "stratified"}  # else ``sample``
ARITHMETIC = frozenset(
    {"binary", "negative", "detach", "batch", "over", "function", "event", "lift", "samples"}
)  # what may stand inside another's line


@dataclass(frozen=True)
class Rule:
    """One kind of operation.

    evaluate: its value, of the machine, the operation, and the values of its arguments.
    write: its right-hand side, of the writer and the operation.
    arity: the least and the greatest number of arguments that are other operations.
    level: whether it exists once per call, in steps only, or both.
    loose: whether what it writes needs brackets as an operand.
    inside: the kinds of readers in whose line it may stand, where there is only one.
    """

    evaluate: Callable[[Any, Op, list[Any]], Any]
    write: Callable[[Any, Op], str]
    arity: tuple[int, int | None] = (1, 1)
    level: Literal["once", "step", "any"] = "any"
    loose: Callable[[Op], bool] = lambda op: False
    inside: frozenset[str] = frozenset()


def factor_of(op: Op) -> Factor:
    """The factor of an operation that has one."""
    assert op.factor is not None
    return op.factor


def family_of(op: Op) -> Family:
    """The family of the factor of an operation."""
    assert op.factor is not None
    assert op.factor.family is not None
    return op.factor.family


def led(shown: str, op: Op) -> str:
    """An argument, and behind it the number of sample axes where there are any."""
    return f"{shown}, {len(op.axes)}" if op.axes else shown


# ------------------------------------------------------------------------------------------------------ what a call gives


def _given(m: Any, op: Op, _: list[Any]) -> Any:
    value = m.given.get(m.plan.argument(op))
    return value[:, m.t] if op.step else value


def _write_given(w: Any, op: Op) -> str:
    return f"flat({w.argument(op)})" if op.step else str(w.argument(op))


def _noise(m: Any, op: Op, _: list[Any]) -> Any:
    noise = m.given.get(op.name)
    return noise if noise is None or not op.step else noise.select(len(op.axes) + 1, m.t)


def _write_noise(w: Any, op: Op) -> str:
    """``[B, T, ...]``; a draw outside the loop takes all steps at once."""
    return f"flat({led(op.name, op)})" if op.step and not w.sliced(op.name) else op.name


def _alive(m: Any, op: Op, _: list[Any]) -> Any:
    return runtime.alive(m.given[m.plan.arguments[op.how]])[:, m.t]


# ------------------------------------------------------------------------------------------------------------------ time


def _carry(m: Any, op: Op, _: list[Any]) -> Any:
    key = op.variable.key if op.variable else ""
    value = m.carry[key]
    return value if m.keep is None else runtime.restart(value, m.keep, getattr(m.plan.initial, key, None))


def _write_carry(w: Any, op: Op) -> str:
    if w.stages[op.name] == "after":  # no step of the loop reads it
        return str(w.shifted(op))
    assert op.variable is not None
    source = w.carried(w.plan.carries[op.variable.key])
    if w.keep is None:
        return str(source)
    return f"restart({source}, {w.derived(w.keep, 's')}[t]{w.initial(op.variable.key)})"


def _shift(m: Any, op: Op, args: list[Any]) -> Any:
    value = m.last[op.reads[0]].to(args[0].dtype)
    return value if m.keep is None else runtime.restart(value, m.keep)


def _write_shift(w: Any, op: Op) -> str:
    key = op.variable.key if op.variable else ""
    return f"shift({w.series(op.reads[0])}, start_{key}, {w.keep})"


def _over(m: Any, op: Op, _: list[Any]) -> Any:
    name = op.reads[0]
    if op.how == "last":
        return m.history[name][-1]
    if not m.ops[name].axes and not op.options:
        return getattr(torch.stack(m.history[name], 1), op.how)(1)
    steps = torch.stack(m.history[name], -1)
    B, T = steps.shape[-2:]
    given = {k: m.given[m.plan.arguments[v]] if isinstance(v, str) else v for k, v in op.options}
    return runtime.counted(steps.flatten(-2), B, T, op.how, **given)


def _write_over(w: Any, op: Op) -> str:
    if op.how == "last":
        return f"{w.ref(op.args[0], tight=True)}.unflatten(0, (B, T))[:, -1]"
    if not op.options and not w.ops[op.reads[0]].axes:
        return f"{w.ref(op.args[0], tight=True)}.unflatten(0, (B, T)).{op.how}(1)"
    known = w.plan.arguments
    given = "".join(f", {k}={known.get(v, v)}" for k, v in op.options if v)  # flags by the name of their argument
    return f"counted({w.ref(op.args[0])}, B, T, {op.how!r}{given})"


# ---------------------------------------------------------------------------------------- networks, parameters, densities


def _net(m: Any, op: Op, args: list[Any]) -> Any:
    """A network sees one batch axis in place of the sample axes and the batch."""
    net: Any = factor_of(op).net
    net = net[int(op.how)] if op.how else net
    folds = len(op.axes) - (not m.plan.batched)
    if folds <= 0:
        return m.checked(op, net(*args))
    sizes = (*m.plan.lead(op), *((-1,) if m.plan.batched else ()))
    return m.checked(op, runtime.unfold(net(*(runtime.fold(a, folds) for a in args)), *sizes))


def _write_net(w: Any, op: Op) -> str:
    net = factor_of(op).net
    network = f"{w.network(net)}[{op.how}]" if op.how else w.called(net)
    args = [w.ref(a) for a in op.args]
    folds = len(op.axes) - (not w.plan.batched)
    if folds <= 0:
        return f"{network}({', '.join(args)})"
    sizes = (*w.plan.lead(op), *((-1,) if w.plan.batched else ()))
    folded = ", ".join(f"fold({a}, {folds})" for a in args)
    return f"unfold({network}({folded}), {', '.join(map(str, sizes))})"


def _params(m: Any, op: Op, args: list[Any]) -> Any:
    factor = factor_of(op)
    if args and not isinstance(args[0], Tensor):
        m.structured.add(op.name)
    head = args[0] if args else factor.head()
    return family_of(op).params(head, m.plan.shape_of(factor), factor.given)


def _write_params(w: Any, op: Op) -> str:
    factor, family = factor_of(op), family_of(op)
    if factor.constant:
        return repr(family.params(None, factor.shape, factor.fixed))
    head = w.ref(op.args[0]) if op.args else "None"
    given: dict[str, str] = {k: repr(v) for k, v in factor.fixed.items()}
    if factor.constants is not None:
        path = w.network(factor.constants)
        for name in factor.constants.names:
            if name == "head":
                head = f"{path}.head"
            else:
                given[name] = f"{path}.{name}"
    fixed = ", {" + ", ".join(f"{k!r}: {v}" for k, v in given.items()) + "}" if given else ""
    return f"{w.family(family)}.params({head}, {w.plan.shape_of(factor)}{fixed})"


def _combine(m: Any, op: Op, args: list[Any]) -> Any:
    factor = factor_of(op)
    assert isinstance(factor, Experts)
    count = len(factor.parts)
    flags = dict(zip(op.how.split(","), args[count:], strict=True)) if op.how else {}
    present = tuple(flags.get(str(i)) for i in range(count)) if flags else ()
    return factor.combine(*args[:count], present=present, **factor.settings)


def _write_combine(w: Any, op: Op) -> str:
    factor = factor_of(op)
    assert isinstance(factor, Experts)
    args, count = [w.ref(a) for a in op.args], len(factor.parts)
    flags = dict(zip(op.how.split(","), args[count:], strict=True)) if op.how else {}
    given = args[:count]
    if flags:
        given.append(f"present=({', '.join(flags.get(str(i), 'None') for i in range(count))})")
    given += [f"{key}={value}" for key, value in factor.settings.items()]
    return f"{w.callable(factor.combine)}({', '.join(given)})"


def _draw(m: Any, op: Op, args: list[Any]) -> Any:
    factor, family, (params, noise) = factor_of(op), family_of(op), args
    new = m.plan.new_axes(op, op.reads[0])
    if m.deterministic and not factor.unbatched:
        return runtime.along(family.mode(params), *new)
    if m.deterministic:
        return runtime.mode_like(family, params, noise)
    if m.plan.noise_shape(m.ops[op.args[1]]) is None:
        lead = [n for n in new if n]
        noise = runtime.noise_for(family, params, m.plan.rank_of(factor), noise, m.given.get("rng"), *lead)
    m.noise[op.args[1]] = noise
    draw = getattr(family, DRAWS.get(op.how, "sample"))(params, noise)
    return draw.detach() if op.how == "score" and family.reparametrised else draw


def _write_draw(w: Any, op: Op) -> str:
    factor, family = factor_of(op), w.family(family_of(op))
    params, noise = (w.ref(a) for a in op.args)
    new = w.plan.new_axes(op, op.reads[0])
    if w.deterministic:
        if factor.unbatched:
            return f"mode_like({family}, {params}, {noise})"
        mode = f"{family}.mode({params})"
        return f"along({mode}, {', '.join(map(str, new))})" if any(new) else mode
    if w.plan.noise_shape(w.ops[op.args[1]]) is None:
        lead = "".join(f", {n}" for n in new if n)
        noise = f"noise_for({family}, {params}, {w.plan.rank_of(factor)}, {noise}, rng{lead})"
    draw = f"{family}.{DRAWS.get(op.how, 'sample')}({params}, {noise})"
    return f"{draw}.detach()" if op.how == "score" and family_of(op).reparametrised else draw


def _support(m: Any, op: Op, args: list[Any]) -> Any:
    factor = factor_of(op)
    return runtime.support(family_of(op), m.plan.rank_of(factor), m.plan.shape_of(factor), *args)


def _write_support(w: Any, op: Op) -> str:
    factor, args = factor_of(op), ", ".join(w.ref(a) for a in op.args)
    return f"support({w.family(family_of(op))}, {w.plan.rank_of(factor)}, {w.plan.shape_of(factor)}, {args})"


def _wide(m: Any, op: Op, args: list[Any]) -> Any:
    return runtime.wide(family_of(op), args[0], args[1], m.plan.rank_of(factor_of(op)))


def _write_wide(w: Any, op: Op) -> str:
    params, like = (w.ref(a) for a in op.args)
    return f"wide({w.family(family_of(op))}, {params}, {like}, {w.plan.rank_of(factor_of(op))})"


def _logp(m: Any, op: Op, args: list[Any]) -> Any:
    return family_of(op).log_prob(args[0], args[1], m.plan.rank_of(factor_of(op)))


def _write_logp(w: Any, op: Op) -> str:
    params, value = (w.ref(a) for a in op.args)
    return f"{w.family(family_of(op))}.log_prob({params}, {value}, {w.plan.rank_of(factor_of(op))})"


def _kl(m: Any, op: Op, args: list[Any]) -> Any:
    factor = factor_of(op)
    closed = kl_pair(family_of(op), _other(op))
    assert closed is not None
    return torch.as_tensor(closed(args[0], args[1], m.plan.rank_of(factor), m.plan.shape_of(factor)))


def _write_kl(w: Any, op: Op) -> str:
    q, left, right = factor_of(op), family_of(op), _other(op)
    assert op.other is not None
    closed = kl_pair(left, right)
    same = type(left) is type(right)
    name = f"{w.family(left)}.kl" if same else w.bound(f"kl_{left.name}_{right.name}", closed)
    call = f"{name}({', '.join(w.ref(a) for a in op.args)}, {w.plan.rank_of(q)}"
    if not (q.constant and op.other.constant):
        return f"{call})"
    return f"torch.as_tensor({call}, {w.plan.shape_of(q)}))"  # of numbers alone it is a number


def _other(op: Op) -> Family:
    assert op.other is not None
    assert op.other.family is not None
    return op.other.family


# ------------------------------------------------------------------------------------------------------------ arithmetic


def _binary(m: Any, op: Op, args: list[Any]) -> Any:
    left, right = args
    match op.how:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "/":
            return left / right
        case "^":
            return left**right
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return torch.maximum(left, right) if op.how == "max" else torch.minimum(left, right)
    if not isinstance(left, Tensor) and not isinstance(right, Tensor):
        return max(left, right) if op.how == "max" else min(left, right)
    tensor, bound = (left, right) if isinstance(left, Tensor) else (right, left)
    return tensor.clamp(min=bound) if op.how == "max" else tensor.clamp(max=bound)


def _write_binary(w: Any, op: Op) -> str:
    if op.how in ("max", "min"):
        bound = {"max": "min", "min": "max"}[op.how]  # max(x, 1) keeps x from below
        numbers = sorted((a for a in op.args if w.number(a)), key=lambda a: isinstance(a, str))
        if len(numbers) == 1:
            tensor = next(a for a in op.args if not w.number(a))
            return f"{w.ref(tensor, tight=True)}.clamp({bound}={w.ref(numbers[0])})"
        if len(numbers) == 2:  # what the call is given may be a float
            literal, given = map(w.ref, numbers)
            return f"torch.as_tensor({given}).clamp({bound}={literal})"
        return f"torch.{op.how}imum({', '.join(w.ref(a) for a in op.args)})"
    left, right = op.args
    if op.how == "^":
        return f"{w.ref(left, tight=True)} ** {w.ref(right, tight=True)}"
    weak = op.how in "+-" and isinstance(right, str) and w.ops[right].how in ("*", "/")  # a + b * c needs no brackets
    return f"{w.ref(left, tight=op.how in '*/')} {op.how} {w.ref(right, tight=not weak)}"


def _function(m: Any, op: Op, args: list[Any]) -> Any:
    value = torch.as_tensor(args[0])
    return value.clamp(**dict(op.options)) if op.how == "clamp" else FUNCTIONS[op.how].call(value)


def _write_function(w: Any, op: Op) -> str:
    limits = ", ".join(f"{k}={v!r}" for k, v in op.options)
    rule = f"{{}}.clamp({limits})" if op.how == "clamp" else FUNCTIONS[op.how].code
    if w.number(op.args[0]):  # what the call is given may be a float
        return rule.format(f"torch.as_tensor({w.ref(op.args[0])})")
    return rule.format(w.ref(op.args[0], tight=not rule.startswith("F.")))


def _detach(m: Any, op: Op, args: list[Any]) -> Any:
    return args[0].detach() if isinstance(args[0], Tensor) else args[0]


def _write_detach(w: Any, op: Op) -> str:
    if not w.number(op.args[0]):
        return f"{w.ref(op.args[0], tight=True)}.detach()"
    shown = w.ref(op.args[0], tight=not isinstance(op.args[0], str))  # what the call is given may be a float
    return f"stop({shown})" if isinstance(op.args[0], str) else str(shown)


def _event(m: Any, op: Op, args: list[Any]) -> Any:
    return total(args[0].square() if op.how == "norm2" else args[0], dict(op.options)["rank"])


def _write_event(w: Any, op: Op) -> str:
    rank = dict(op.options)["rank"]
    axes = {0: "", 1: ".sum(-1)"}.get(rank, f".sum({tuple(range(-rank, 0))})")
    return f"{w.ref(op.args[0], tight=True)}{'.square()' if op.how == 'norm2' else ''}{axes}"


def _lift(m: Any, op: Op, args: list[Any]) -> Any:
    return args[0][(..., *(None,) * int(op.how))]


def _samples(m: Any, op: Op, args: list[Any]) -> Any:
    place = m.ops[op.reads[0]].axes.index(cast(int, op.axis))
    if op.how == "dreg":
        return runtime.dreg(args[0], place, *args[1:])
    if op.how == "logmeanexp":
        return args[0].logsumexp(place) - math.log(m.plan.sizes[op.axis])
    return getattr(args[0], op.how)(place)


def _write_samples(w: Any, op: Op) -> str:
    place = w.ops[op.reads[0]].axes.index(op.axis)
    match op.how:
        case "logmeanexp":
            return f"{w.ref(op.args[0], tight=True)}.logsumexp({place}) - {math.log(w.plan.sizes[op.axis])!r}"
        case "dreg":
            return f"dreg({', '.join([w.ref(op.args[0]), str(place), *map(w.ref, op.args[1:])])})"
    return f"{w.ref(op.args[0], tight=True)}.{op.how}({place})"


# ----------------------------------------------------------------------------------------------------- calls and structure


def _call(m: Any, op: Op, args: list[Any]) -> Any:
    assert op.target is not None
    own = () if op.factor is None else (op.factor.net,)
    value = op.target(*own, *args, **dict(op.options))
    return torch.as_tensor(value) if isinstance(op.target, Method) else value


def _write_call(w: Any, op: Op) -> str:
    args = [w.ref(a) for a in op.args]
    if isinstance(op.target, Method):
        call = f"{w.family(op.target.family)}.{op.target.name}({', '.join(args)})"
        constant = all(w.constant(name) for name in op.reads)
        return f"torch.as_tensor({call})" if constant else call  # of numbers alone it is a number
    own = [w.network(op.factor.net)] if op.factor is not None else []
    named = [f"{key}={value!r}" for key, value in op.options]
    return f"{w.callable(op.target)}({', '.join([*own, *args, *named])})"


def _write_along(w: Any, op: Op) -> str:
    return f"along({w.ref(op.args[0])}, {', '.join(map(str, w.plan.new_axes(op, op.reads[0])))})"


def _same(m: Any, op: Op, args: list[Any]) -> None:
    m.compare(op, args)


def _write_same(w: Any, op: Op) -> str:
    return f"one_batch({', '.join(w.ref(a) for a in op.args)})"


NONE: tuple[int, int | None] = (0, 0)
MANY: tuple[int, int | None] = (1, None)


def _loose(op: Op) -> bool:
    return op.kind == "negative" or op.how in ("+", "-", "*", "/", "^", "logmeanexp")


RULES: dict[str, Rule] = {
    # what a call gives
    "input": Rule(_given, _write_given, NONE),
    "whole": Rule(_given, _write_given, NONE, "once"),
    "symbol": Rule(_given, _write_given, NONE, "once"),
    "present": Rule(_given, _write_given, NONE),
    "mask": Rule(_given, _write_given, NONE, "step"),
    "alive": Rule(_alive, lambda w, op: f"flat(alive({w.plan.arguments[op.how]}))", (1, 1), "step"),
    "noise": Rule(_noise, _write_noise, NONE),
    # time
    "flags": Rule(lambda m, op, args: m.keep, lambda w, op: f"kept({w.plan.arguments[op.how]})", NONE, "step"),
    "carry": Rule(_carry, _write_carry, NONE, "step"),
    "shift": Rule(_shift, _write_shift, (1, 1), "step"),
    "repeat": Rule(
        lambda m, op, args: args[0], lambda w, op: f"repeat({w.ref(op.args[0])}, {led('T', op)})", (1, 1), "step"
    ),
    "unroll": Rule(
        lambda m, op, args: args[0].select(len(op.axes) + 1, m.t),
        lambda w, op: f"flat({led(w.ref(op.args[0]), op)})",
        (1, 1),
        "step",
    ),
    "over": Rule(_over, _write_over, MANY, "once", inside=ARITHMETIC),
    # networks, parameters, densities
    "net": Rule(_net, _write_net, (0, None), inside=frozenset({"params"})),
    "item": Rule(lambda m, op, args: args[0][int(op.how)], lambda w, op: f"{w.ref(op.args[0])}[{op.how}]"),
    "params": Rule(_params, _write_params, (0, 1)),
    "combine": Rule(_combine, _write_combine, MANY),
    "wide": Rule(_wide, _write_wide, (2, 2), inside=frozenset({"logp", "kl"})),
    "stop": Rule(lambda m, op, args: runtime.stop(args[0]), lambda w, op: f"stop({w.ref(op.args[0])})"),
    "draw": Rule(_draw, _write_draw, (2, 2)),
    "support": Rule(_support, _write_support, (1, 2)),
    "shares": Rule(
        lambda m, op, args: families.log_shares(args[0]),
        lambda w, op: f"{w.callable(families.log_shares)}({w.ref(op.args[0])})",
    ),
    "logp": Rule(_logp, _write_logp, (2, 2)),
    "kl": Rule(_kl, _write_kl, (2, 2)),
    # arithmetic
    "binary": Rule(_binary, _write_binary, (0, 2), loose=_loose, inside=ARITHMETIC),
    "negative": Rule(
        lambda m, op, args: -args[0],
        lambda w, op: f"-{w.ref(op.args[0], tight=True)}",
        (0, 1),
        "any",
        _loose,
        ARITHMETIC,
    ),
    "detach": Rule(_detach, _write_detach, (0, 1), inside=ARITHMETIC),
    "function": Rule(_function, _write_function, (0, 1), inside=ARITHMETIC),
    "event": Rule(_event, _write_event, (0, 1), inside=ARITHMETIC),
    "lift": Rule(
        _lift, lambda w, op: f"{w.ref(op.args[0], tight=True)}[...{', None' * int(op.how)}]", inside=ARITHMETIC
    ),
    "samples": Rule(_samples, _write_samples, MANY, loose=_loose, inside=ARITHMETIC),
    "batch": Rule(
        lambda m, op, args: getattr(args[0], op.how)(),
        lambda w, op: f"{w.ref(op.args[0], tight=True)}.{op.how}()",
        (0, 1),
        "once",
        inside=ARITHMETIC,
    ),
    # calls and structure
    "call": Rule(_call, _write_call, (0, None)),
    "along": Rule(lambda m, op, args: runtime.along(args[0], *m.plan.new_axes(op, op.reads[0])), _write_along),
    "same": Rule(_same, _write_same, MANY),
    "group": Rule(
        lambda m, op, args: dict(zip(op.how.split(), args, strict=True)),
        lambda w, op: "{" + ", ".join(f"{k!r}: {w.ref(v)}" for k, v in zip(op.how.split(), op.args, strict=True)) + "}",
        (0, None),
        "once",
    ),
}


def written_inside(op: Op, reader: Op) -> bool:
    """Whether an operation may stand in the line of its only reader."""
    return reader.kind in RULES[op.kind].inside and not (reader.kind == "samples" and reader.how == "dreg")
