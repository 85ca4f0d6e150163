"""From a specification (`spec`) to the library's formula, its factors made once each."""

import torch
from torch import nn
from torch.nn.functional import softplus

import worldformula as wf
from tests.formula.spec import (
    Det,
    Experts,
    Stopped,
)  # fmt: skip

DIVERGENCES = {"kl": wf.KL, "cross": wf.CrossEntropy, "js": wf.JS}


class Builder:
    """``Builder(materials).expression(node)``."""

    def __init__(self, materials):
        self.materials, self.made = materials, {}

    # ----------------------------------------------------------------------------------------------------- factors

    def factor(self, d):
        """The factor of a specification: one object for equal ones."""
        if d not in self.made:
            self.made[d] = self.new(d)
        return self.made[d]

    def net(self, key):
        return self.materials.disguise.get(key, self.materials.nets[key])

    def given(self, key):
        """A tensor; or what is learnt and stays positive, whose raw parameter is the witness's own."""
        if key not in self.materials.raws:
            return self.materials.tensors[key]
        raw = self.materials.raws[key]
        made = wf.positive(nn.Parameter(softplus(raw.detach())))
        assert torch.allclose(made.raw, raw, rtol=1e-9, atol=1e-9)
        made.raw = raw
        return made

    def new(self, d):
        match d:
            case Stopped(of):
                return wf.sg(self.factor(of))
            case Experts(how, experts):
                reads = ",".join(dict.fromkeys(c for e in experts for c in e.conditions))
                header = f"{how[0]}_e({experts[0].variable}|{reads})"
                return {"product": wf.PoE, "mixture": wf.MoE}[how]([self.factor(e) for e in experts], header)
            case Det(letter, variables, conditions, head, events):
                shape = list(events) if len(events) > 1 else events[0]
                header = f"{', '.join(variables)} = {letter}({', '.join(conditions)})"
                return wf.Deterministic(header, self.net(head), shape=shape)
        header = f"{d.letter}({d.variable}{'|' if d.conditions else ''}{','.join(d.conditions)})"
        options = {name: self.given(v) if isinstance(v, str) else v for name, v in d.given}
        if d.family == "Mixture":
            options |= {"components": d.components, "component": getattr(wf, d.component)}
        if d.family == "Categorical":
            options["classes"] = 3
        return getattr(wf, d.family)(header, self.net(d.head) if d.head else None, shape=d.event, **options)

    def product(self, q):
        first, *rest = (self.factor(d) for d in q)
        for other in rest:
            first = first * other
        return first

    # ------------------------------------------------------------------------------------------------- expressions

    def expression(self, node):
        """The library's expression."""
        return getattr(self, f"of_{type(node).__name__.lower()}")(node)

    def of_num(self, node):
        return node.value

    def of_var(self, node):
        return wf.Symbol(node.name) if node.scalar else wf.Value(node.name, shape=(2,) * node.rank)

    def of_logp(self, node):
        return wf.log(self.product(node.of))

    def of_rat(self, node):
        return wf.ratio(self.product(node.over), self.product(node.under))

    def of_gap(self, node):
        return DIVERGENCES[node.kind](self.factor(node.q), self.factor(node.p))

    def of_ent(self, node):
        return wf.Entropy(self.factor(node.of))

    def of_draw(self, node):
        known = node.baseline
        known = known if known is None or isinstance(known, str) else self.expression(known)
        body = self.expression(node.body)
        return wf.E(self.product(node.q), body, node.how, samples=node.samples, baseline=known)

    def of_least(self, node):
        q, body = self.factor(node.q), self.expression(node.body)
        return wf.Min(q, body) if node.beta is None else wf.FreeEnergy(q, body, beta=node.beta)

    def of_op(self, node):
        a, b = self.expression(node.left), self.expression(node.right)
        ways = {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b, "^": lambda: a**b,
                "max": lambda: wf.maximum(a, b), "min": lambda: wf.minimum(a, b)}  # fmt: skip
        return ways[node.op]()

    def of_fn(self, node):
        body = self.expression(node.body)
        if node.name == "clamp":
            return wf.clamp(body, *node.bounds)
        if node.name == "expectile":
            return wf.Expectile(body, node.bounds[0])
        return abs(body) if node.name == "abs" else getattr(wf, node.name)(body)

    def of_minus(self, node):
        return -self.expression(node.body)

    def of_stop(self, node):
        return wf.sg(self.expression(node.body))

    def of_label(self, node):
        return self.expression(node.body).named(node.name)

    def of_event(self, node):
        return {"total": wf.total, "norm2": wf.norm2}[node.how](self.expression(node.body))

    def of_batch(self, node):
        return getattr(self.expression(node.body), node.how)()

    def of_inner(self, node):
        how = wf.Sum if node.how == "sum" else wf.Mean
        return how("l", self.expression(node.body), steps=node.steps)

    def of_clock(self, node):
        how = wf.Sum if node.how == "sum" else wf.Mean
        initial = {name: self.materials.tensors[key] for name, key in node.initial} or None
        flags = {"reset": node.reset, "mask": node.mask, "until": node.until, "burn_in": node.burn_in}
        return how("t", self.expression(node.body), initial=initial, **flags)
