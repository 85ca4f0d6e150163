"""The right-hand side of every operation in emitted code: one rule per kind."""

from __future__ import annotations

import math
import re

from worldformula import families
from worldformula.families.base import kl_pair
from worldformula.formula.code.written import Written, family_of
from worldformula.formula.factors.experts import Experts
from worldformula.formula.plan.plan import Op
from worldformula.formula.syntax.functions import FUNCTIONS

# The methods of a family that draw, by estimator.
METHODS = {"straight-through": "straight_through", "gumbel": "gumbel", "stratified": "stratified"}


class Lines(Written):
    """Rules for operations."""

    # ---------------------------------------------------------------------------------------------------------- rules

    def expression(self, op: Op) -> str:
        """The right-hand side of an operation."""
        args = [self.ref(a) for a in op.args]
        match op.kind:
            case "input" | "present":
                return f"flat({op.name})"
            case "whole":
                return self.plan.arguments[op.variable.key] if op.variable else ""
            case "noise":  # [B, T, ...]; a draw outside the loop takes all steps at once
                return f"flat({self._led(op.name, op)})" if op.step and not self._sliced(op.name) else op.name
            case "repeat":
                return f"repeat({args[0]}, {self._led('T', op)})"
            case "along":
                has = self.ops[str(op.args[0])].axes
                sizes = [0 if axis in has else self.plan.sizes[axis] for axis in op.axes]
                return f"along({args[0]}, {', '.join(map(str, sizes))})"
            case "unroll":
                return f"flat({self._led(args[0], op)})"
            case "item":
                return f"{args[0]}[{op.how}]"
            case "flags" | "shift" | "carry":
                return self._time(op, args)
            case "net":
                return self._net(op, args)
            case "params" | "wide" | "draw" | "support" | "logp" | "kl" | "method":
                return self._of_factor(op, args)
            case "stop" | "same":
                return f"{'stop' if op.kind == 'stop' else 'one_batch'}({', '.join(args)})"
            case "binary":
                return self._binary(op)
            case "combine":
                return self._combine(op, args)
            case "shares":
                return f"{self.callable(families.log_shares)}({args[0]})"
            case "call":
                assert op.function is not None
                own = [self.network(op.factor.net)] if op.factor is not None and op.kind == "call" else []
                named = [f"{key}={value!r}" for key, value in op.options]
                return f"{self.callable(op.function)}({', '.join([*own, *args, *named])})"
            case "group":
                return "{" + ", ".join(f"{k!r}: {v}" for k, v in zip(op.how.split(), args, strict=True)) + "}"
            case "zeros":
                return f"zeros({', '.join([*args, *re.findall(r'[0-9]+', op.how)])})"
        return self._unary(op)

    def _of_factor(self, op: Op, args: list[str]) -> str:
        """What the family of a factor does with its parameters."""
        factor = self.factor_of(op)
        rank, shape = self.plan.rank_of(factor), self.plan.shape_of(factor)
        match op.kind:
            case "params":
                return self._params(op)
            case "draw":
                return self._draw(op)
            case "kl":
                return self._kl(op, args)
        family = self.family(family_of(factor))
        match op.kind:
            case "wide":
                return f"wide({family}, {', '.join(args)}, {rank})"
            case "support":
                return f"support({family}, {rank}, {shape}, {', '.join(args)})"
            case "logp":
                return f"{family}.log_prob({', '.join(args)}, {rank})"
        whole = f"{family}.{op.how}({args[0]}, {rank}, {shape})"
        return f"torch.as_tensor({whole})" if factor.constant else whole

    def _led(self, shown: str, op: Op) -> str:
        """An argument, and behind it the number of sample axes where there are any."""
        return f"{shown}, {len(op.axes)}" if op.axes else shown

    def _combine(self, op: Op, args: list[str]) -> str:
        """The parameters of experts combined, with the flags of those that some rows lack."""
        factor = self.factor_of(op)
        assert isinstance(factor, Experts)
        flags = dict(zip(op.how.split(","), args[len(factor.parts) :], strict=True)) if op.how else {}
        given = args[: len(factor.parts)]
        if flags:
            given.append(f"present=({', '.join(flags.get(str(i), 'None') for i in range(len(factor.parts)))})")
        given += [f"{key}={value}" for key, value in factor.settings.items()]
        return f"{self.callable(factor.combine)}({', '.join(given)})"

    def _net(self, op: Op, args: list[str]) -> str:
        """A network sees one batch axis in place of the sample axes and the batch."""
        network = self.network(self.factor_of(op).net) + (f"[{op.how}]" if op.how else "")
        folds = len(op.axes) - (not self.plan.batched)
        if folds > 0:
            args = [f"fold({a}, {folds})" for a in args]
        call = f"{network}({', '.join(args)})"
        if folds <= 0:
            return call
        sizes = (*self.plan.lead(op), *((-1,) if self.plan.batched else ()))
        return f"unfold({call}, {', '.join(map(str, sizes))})"

    def _unary(self, op: Op) -> str:
        body = self.ref(op.args[0], tight=True)
        match op.kind:
            case "negative":
                return f"-{body}"
            case "detach":
                if self.number(op.args[0]):  # what the call is given may be a float
                    return f"stop({self.ref(op.args[0])})" if isinstance(op.args[0], str) else body
                return f"{body}.detach()"
            case "batch":
                return f"{body}.{op.how}()"
            case "over":
                return self._over(op, body)
            case "function":
                name, _, limits = op.how.partition(", ")
                rule = f"{{}}.clamp({limits})" if name == "clamp" else FUNCTIONS[name].code
                if self.number(op.args[0]):  # what the call is given may be a float
                    return rule.format(f"torch.as_tensor({self.ref(op.args[0])})")
                return rule.format(self.ref(op.args[0]) if rule.startswith("F.") else body)
            case "event":
                how, _, rank = op.how.partition(" ")
                axes = {"0": "", "1": ".sum(-1)"}.get(rank, f".sum({tuple(range(-int(rank), 0))})")
                return f"{body}{'.square()' if how == 'norm2' else ''}{axes}"
            case "lift":
                return f"{body}[...{', None' * int(op.how)}]"
            case "samples":
                return self._samples(op, body)
        raise TypeError(f"no code rule for {op.kind}")

    def _over(self, op: Op, body: str) -> str:
        if op.how == "last":
            return f"{body}.unflatten(0, (B, T))[:, -1]"
        if not op.options and not self.ops[str(op.args[0])].axes:
            return f"{body}.unflatten(0, (B, T)).{op.how}(1)"
        known = self.plan.arguments
        given = "".join(f", {k}={known.get(v, v)}" for k, v in op.options if v)  # flags by the name of their argument
        return f"counted({self.ref(op.args[0])}, B, T, {op.how!r}{given})"

    def _samples(self, op: Op, body: str) -> str:
        assert op.axis is not None
        place = self.ops[str(op.args[0])].axes.index(op.axis)
        match op.how:
            case "logmeanexp":
                return f"{body}.logsumexp({place}) - {math.log(self.plan.sizes[op.axis])!r}"
            case "dreg":
                return f"dreg({', '.join([self.ref(op.args[0]), str(place), *map(self.ref, op.args[1:])])})"
        return f"{body}.{op.how}({place})"

    def _time(self, op: Op, args: list[str]) -> str:
        keep = next((o.name for o in self.plan.ops if o.kind == "flags"), None)
        if op.kind == "flags":
            return f"kept({self.plan.arguments[op.how]})"
        assert op.variable is not None
        key = op.variable.key
        if op.kind == "shift":
            return f"shift({args[0].removesuffix('_s[t]')}, start_{key}, {keep})"
        if self.stages[op.name] == "after":  # no step of the loop reads it
            return self.shifted(op)
        source = self.carried(self.plan.carries[key])
        return source if keep is None else f"restart({source}, {keep}_s[t]{self._initial(key)})"

    def shifted(self, carry: Op) -> str:
        """All steps of a carry at once: its series, one step later."""
        assert carry.variable is not None
        key = carry.variable.key
        keep = next((o.name for o in self.plan.ops if o.kind == "flags"), None)
        return f"shift({self.plan.carries[key]}.unflatten(0, (B, T)), start_{key}, {keep}{self._initial(key)})"

    def _initial(self, key: str) -> str:
        """The argument that says what a carry starts from, where that is learnt."""
        known = self.plan.initial is not None and hasattr(self.plan.initial, key)
        return f", self.initial_state.{key}" if known else ""

    def carried(self, source: str) -> str:
        """The variable of the loop that holds a carry."""
        return source if self.stages[source] == "loop" else f"{source}_carry"

    def _params(self, op: Op) -> str:
        factor = self.factor_of(op)
        family = family_of(factor)
        if factor.constant:
            return repr(family.params(None, factor.shape, factor.fixed))
        head = self.ref(op.args[0]) if op.args else "None"
        given: dict[str, str] = {k: repr(v) for k, v in factor.fixed.items()}
        if factor.constants is not None:
            path = self.network(factor.constants)
            for name in factor.constants.names:
                if name == "head":
                    head = f"{path}.head"
                else:
                    given[name] = f"{path}.{name}"
        fixed = ", {" + ", ".join(f"{k!r}: {v}" for k, v in given.items()) + "}" if given else ""
        return f"{self.family(family)}.params({head}, {self.plan.shape_of(factor)}{fixed})"

    def _draw(self, op: Op) -> str:
        factor, site = self.factor_of(op), self.ops[str(op.args[1])]
        family, params, noise = self.family(family_of(factor)), self.ref(op.args[0]), self.ref(op.args[1])
        new = [0 if a in self.ops[str(op.args[0])].axes else self.plan.sizes[a] for a in op.axes]
        if self.deterministic:
            if factor.unbatched:
                return f"mode_like({family}, {params}, {noise})"
            mode = f"{family}.mode({params})"
            return f"along({mode}, {', '.join(map(str, new))})" if any(new) else mode
        if self.plan.noise_shape(site) is None:
            lead = "".join(f", {n}" for n in new if n)
            noise = f"noise_for({family}, {params}, {self.plan.rank_of(factor)}, {noise}, rng{lead})"
        draw = f"{family}.{METHODS.get(op.how, 'sample')}({params}, {noise})"
        return f"{draw}.detach()" if op.how == "score" and family_of(factor).reparametrised else draw

    def _kl(self, op: Op, args: list[str]) -> str:
        q, p = self.factor_of(op), op.other
        assert p is not None
        left, right = family_of(q), family_of(p)
        name = f"{self.family(left)}.kl" if type(left) is type(right) else f"kl_{left.name}_{right.name}"
        if type(left) is not type(right):
            self.globals[name] = kl_pair(left, right)
        call = f"{name}({', '.join(args)}, {self.plan.rank_of(q)}"
        if not (q.constant and p.constant):
            return f"{call})"
        return f"torch.as_tensor({call}, {self.plan.shape_of(q)}))"  # of numbers alone it is a number

    def _binary(self, op: Op) -> str:
        if op.how in ("max", "min"):
            bound = {"max": "min", "min": "max"}[op.how]  # max(x, 1) keeps x from below
            numbers = sorted((a for a in op.args if self.number(a)), key=lambda a: isinstance(a, str))
            if len(numbers) == 1:
                tensor = next(a for a in op.args if not self.number(a))
                return f"{self.ref(tensor, tight=True)}.clamp({bound}={self.ref(numbers[0])})"
            if len(numbers) == 2:  # what the call is given may be a float
                literal, given = map(self.ref, numbers)
                return f"torch.as_tensor({given}).clamp({bound}={literal})"
            return f"torch.{op.how}imum({', '.join(self.ref(a) for a in op.args)})"
        left, right = op.args
        if op.how == "^":
            return f"{self.ref(left, tight=True)} ** {self.ref(right, tight=True)}"
        weak = op.how in "+-" and isinstance(right, str) and self.ops[right].how in "*/"  # a + b * c needs no brackets
        return f"{self.ref(left, tight=op.how in '*/')} {op.how} {self.ref(right, tight=not weak)}"
