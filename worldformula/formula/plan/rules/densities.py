"""Networks, parameters, draws and densities of factors."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from worldformula import families
from worldformula.families.base import Family
from worldformula.families.closed import kl_pair
from worldformula.formula import runtime
from worldformula.formula.factors.experts import Experts
from worldformula.formula.plan.plan import Op, Plan
from worldformula.formula.plan.rules.rule import MANY, Rule, factor_of, family_of, literal

DRAWS = {"straight-through": "straight_through", "gumbel": "gumbel", "stratified": "stratified"}  # else ``sample``


def _net(m: Any, op: Op, args: list[Any]) -> Any:
    """A network sees one batch axis in place of the sample axes and the batch."""
    net: Any = factor_of(op).net
    net = net[int(op.how)] if op.how else net
    batched = m.plan.batched and not op.common
    folds = len(op.axes) - (not batched)
    if op.common and not op.axes:
        args = [a[None] if isinstance(a, Tensor) else a for a in args]
        return runtime.single(m.checked(op, net(*args), args), _named_rank(m.plan, op))
    if folds <= 0:
        return m.checked(op, net(*args), args)
    sizes = (*m.plan.lead(op), *((-1,) if batched else ()))
    folded = [runtime.fold(a, folds) for a in args]
    return runtime.unfold(m.checked(op, net(*folded), folded), *sizes, ones=_ones(m.plan, op))


def _ones(plan: Plan, op: Op) -> int:
    """How many leading event axes a head has, where all are of size 1."""
    factor = factor_of(op)
    shape = plan.shape_of(factor)
    lead = factor.family.leading(shape) if shape and factor.family is not None else ()
    return len(lead) if all(size == 1 for size in lead) else 0


def _named_rank(plan: Plan, op: Op) -> int:
    """The event axes of a parameter that a network gives by name; none of what it computes."""
    factor = factor_of(op)
    return 0 if factor.family is None else plan.rank_of(factor)


def _write_net(w: Any, op: Op) -> str:
    net = factor_of(op).net
    network = f"{w.network(net)}[{op.how}]" if op.how else w.called(net)
    args = [w.ref(a) for a in op.args]
    batched = w.plan.batched and not op.common
    folds = len(op.axes) - (not batched)
    if op.common and not op.axes:
        one = [f"{a}[None]" if isinstance(ref, str) else a for a, ref in zip(args, op.args, strict=True)]
        rank = f", {n}" if (n := _named_rank(w.plan, op)) else ""
        return f"single({network}({', '.join(one)}){rank})"
    if folds <= 0:
        return f"{network}({', '.join(args)})"
    sizes = (*w.plan.lead(op), *((-1,) if batched else ()))
    folded = ", ".join(f"fold({a}, {folds})" for a in args)
    ones = f", ones={n}" if (n := _ones(w.plan, op)) else ""
    return f"unfold({network}({folded}), {', '.join(map(str, sizes))}{ones})"


def _causal(m: Any, op: Op, args: list[Any]) -> Any:
    """One step with a cache, whatever the emitted code does."""
    net: Any = factor_of(op).net
    if op.name not in m.caches:
        key = next((k for k, name in m.plan.memories.items() if name == op.name), None)
        like = next((v for v in m.given.values() if isinstance(v, Tensor) and v.is_floating_point()), args[0])
        fresh = net.cache(len(args[0]), m.given["T"], like.device, like.dtype) if key is None else None
        m.caches[op.name] = fresh if key is None else m.given[f"start_{key}"]
    m.caches[op.name], value = runtime.advance(net, m.caches[op.name], m.keep, len(args[0]), *args)
    return m.checked(op, value, args)


def _write_causal(w: Any, op: Op) -> str:
    """All steps in one call; or, in the loop and where its memory goes on to the next call, with a cache."""
    network, args = w.called(factor_of(op).net), [w.ref(a) for a in op.args]
    if w.cached(op):
        keep = w.keep and (f"{w.derived(w.keep, 's')}[t]" if w.in_loop else w.keep)
        return f"advance({network}, {w.cache(op)}, {keep}, B, {', '.join(args)})"
    series = ", ".join(f"{a}.unflatten(0, (B, T))" for a in args)
    return f"flat({network}({series}{f', reset=~{w.keep}' if w.keep else ''}))"


def _params(m: Any, op: Op, args: list[Any]) -> Any:
    factor = factor_of(op)
    head, numbers = (factor.head(), args) if factor.net is None else (args[0], args[1:])
    if factor.net is not None and not isinstance(head, Tensor):
        m.structured.add(op.name)
    known = dict(zip(factor.symbols, numbers, strict=True))
    given = factor.given if not known else {**factor.given, **{k: known[v] for k, v in factor.numbers.items()}}
    return m.family(family_of(op)).params(head, m.plan.shape_of(factor), given)


def _write_params(w: Any, op: Op) -> str:
    factor, family = factor_of(op), family_of(op)
    if factor.constant:
        return literal(family.params(None, factor.shape, factor.fixed))
    head, numbers = ("None", op.args) if factor.net is None else (w.ref(op.args[0]), op.args[1:])
    given: dict[str, str] = {k: literal(v) for k, v in factor.fixed.items()}
    known = dict(zip(factor.symbols, numbers, strict=True))
    given |= {k: w.ref(known[v]) for k, v in factor.numbers.items()}
    if factor.constants is not None:
        path = w.network(factor.constants)
        for name in factor.constants.names:
            if name == "head":
                head = f"{path}.head"
            else:
                given[name] = factor.constants.written(path, name)
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
    factor, family, (params, noise) = factor_of(op), m.family(family_of(op)), args
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
    return runtime.support(m.family(family_of(op)), m.plan.rank_of(factor), m.plan.shape_of(factor), *args)


def _write_support(w: Any, op: Op) -> str:
    factor, args = factor_of(op), ", ".join(w.ref(a) for a in op.args)
    return f"support({w.family(family_of(op))}, {w.plan.rank_of(factor)}, {w.plan.shape_of(factor)}, {args})"


def _wide(m: Any, op: Op, args: list[Any]) -> Any:
    of = None if op.other is None else op.other.family
    return runtime.wide(m.family(family_of(op)), args[0], args[1], m.plan.rank_of(factor_of(op)), of)


def _write_wide(w: Any, op: Op) -> str:
    params, like = (w.ref(a) for a in op.args)
    of = "" if op.other is None else f", {w.family(op.other.family)}"
    return f"wide({w.family(family_of(op))}, {params}, {like}, {w.plan.rank_of(factor_of(op))}{of})"


def _by_row(m: Any, op: Op, args: list[Any]) -> Any:
    factor, (lead, begin, rank) = factor_of(op), _places(m.plan, op)
    of = None if op.other is None else op.other.family
    params, like = args
    return runtime.by_row(m.family(family_of(op)), params, like, m.plan.rank_of(factor), lead, begin, rank, of)


def _write_by_row(w: Any, op: Op) -> str:
    factor, (lead, begin, rank) = factor_of(op), _places(w.plan, op)
    of = "" if op.other is None else f", {w.family(op.other.family)}"
    args = ", ".join(w.ref(a) for a in op.args)
    return f"by_row({w.family(family_of(op))}, {args}, {w.plan.rank_of(factor)}, {lead}, {begin}, {rank}{of})"


def _places(plan: Plan, op: Op) -> tuple[int, int, int]:
    """How many sample axes parameters have, how many what has the batch axes has, and how many event axes that has."""
    params, like = (plan.by_name[name] for name in op.reads)
    rank = plan.rank_of(factor_of(op))
    if like.kind == "noise":
        rank = len(plan.noise_shape(like) or ())
    return len(params.axes), len(like.axes), rank


def _logp(m: Any, op: Op, args: list[Any]) -> Any:
    m.check_value(op, args[1])
    return m.family(family_of(op)).log_prob(args[0], args[1], _summed(m.plan, op))


def _write_logp(w: Any, op: Op) -> str:
    params, value = (w.ref(a) for a in op.args)
    return f"{w.family(family_of(op))}.log_prob({params}, {value}, {_summed(w.plan, op)})"


def _summed(plan: Plan, op: Op) -> int:
    """How many event axes a log-density sums: all, or those of one element."""
    return int(dict(op.options).get("elements", plan.rank_of(factor_of(op))))


def _kl(m: Any, op: Op, args: list[Any]) -> Any:
    factor, left, right = factor_of(op), family_of(op), _other(op)
    closed = kl_pair(left, right)
    assert closed is not None
    closed = m.family(_asked(left, right)).kl if type(left) is type(right) else closed  # numbers of the call are in it
    return closed(args[0], args[1], m.plan.rank_of(factor), m.plan.shape_of(factor))


def _write_kl(w: Any, op: Op) -> str:
    q, left, right = factor_of(op), family_of(op), _other(op)
    assert op.other is not None
    closed = kl_pair(left, right)
    same = type(left) is type(right)
    name = f"{w.family(_asked(left, right))}.kl" if same else w.bound(f"kl_{left.name}_{right.name}", closed)
    shape = f", {w.plan.shape_of(q)}" if w.number(op.name) else ""  # of numbers alone it is a number
    return f"{name}({', '.join(w.ref(a) for a in op.args)}, {w.plan.rank_of(q)}{shape})"


def _asked(left: Family, right: Family) -> Family:
    """Which of two families of one kind is asked for a KL: that of p, which may know that it is nowhere 0, unless the
    other one alone says which values there are.
    """
    less = any(getattr(right, name) is None and getattr(left, name) is not None for name in right.defining)
    return left if less else right


def _other(op: Op) -> Family:
    assert op.other is not None
    assert op.other.family is not None
    return op.other.family


RULES: dict[str, Rule] = {
    "net": Rule(_net, _write_net, (0, None), inside=frozenset({"params"})),
    "causal": Rule(_causal, _write_causal, MANY, "step"),
    "item": Rule(lambda m, op, args: args[0][int(op.how)], lambda w, op: f"{w.ref(op.args[0])}[{op.how}]"),
    "params": Rule(_params, _write_params, (0, None)),
    "combine": Rule(_combine, _write_combine, MANY),
    "wide": Rule(_wide, _write_wide, (2, 2), inside=frozenset({"logp", "kl"})),
    "by_row": Rule(_by_row, _write_by_row, (2, 2), inside=frozenset({"logp", "kl", "draw"})),
    "stop": Rule(lambda m, op, args: runtime.stop(args[0]), lambda w, op: f"stop({w.ref(op.args[0])})"),
    "draw": Rule(_draw, _write_draw, (2, 2)),
    "support": Rule(_support, _write_support, (1, 2)),
    "shares": Rule(
        lambda m, op, args: families.log_shares(args[0]),
        lambda w, op: f"{w.callable(families.log_shares)}({w.ref(op.args[0])})",
    ),
    "logp": Rule(_logp, _write_logp, (2, 2)),
    "kl": Rule(_kl, _write_kl, (2, 2)),
}
