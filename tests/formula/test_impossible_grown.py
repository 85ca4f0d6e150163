"""Random exact expectations over three discrete variables whose tables have zeros, beside loops over their values.

A formula grows of expectations, also nested and over two variables at once, their logarithms, log-densities, weights of
the call (0 among them), sums, multiples and maxima. The witness visits each value that has a probability, multiplies
and adds; where q is 0 it looks at nothing, so that nothing there may count. Gradients are held against differences.
"""

import itertools
import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from worldformula import Bernoulli, Categorical, E, OneHot, Value, exp, log, maximum
from worldformula.errors import FormulaError

INF, ROWS = math.inf, 3
VALUES = {"x": 3, "y": 3, "s": 3, "k": 2, "c": 4}  # of classes, a one-hot and two coins
FACTORS = ("q(s|x)", "q(k|s)", "q(c|s,k)", "r(s)", "r(k|x)", "p(s)", "p(k|s)", "p(c|k)", "p(y|s,k,c)", "p(y|s)")


class Table(nn.Module):
    """Logits by the values of the conditions."""

    def __init__(self, logits, conditions):
        super().__init__()
        self.logits, self.conditions = nn.Parameter(torch.tensor(logits)), conditions

    def forward(self, *given):
        number = {"x": lambda v: v[..., 0], "k": lambda v: v.argmax(-1), "c": lambda v: 2 * v[..., 0] + v[..., 1]}
        at = [number.get(c, lambda v: v)(v).long() for c, v in zip(self.conditions, given, strict=True)]
        return self.logits[tuple(at)] if at else self.logits


class Grower:
    """Formulas and what they are worth, ``(expression, function of an environment)``."""

    def __init__(self, seed):
        self.rng, self.random = np.random.default_rng(seed), random.Random(seed)
        self.factors, self.tables = {}, {}
        for header in FACTORS:
            inside = header[2:-1].partition("|")
            variable, conditions = inside[0], tuple(inside[2].split(",")) if inside[2] else ()
            logits, shares = self.table(variable, tuple(VALUES[c] for c in conditions))
            net = Table(logits, conditions)
            make = {"k": (OneHot, {"shape": 2}), "c": (Bernoulli, {"shape": 2})}
            kind, more = make.get(variable, (Categorical, {"shape": (), "classes": 3}))
            self.factors[header], self.tables[header] = kind(header, net, **more), (variable, conditions, shares)
        self.data = {"x": self.rng.integers(3, size=ROWS), "y": self.rng.integers(3, size=ROWS)}
        self.data["w"] = self.rng.choice([0.0, 0.5, 1.0], size=ROWS)

    def table(self, variable, lead):
        """Logits, many of them of probability 0 or 1, and the probabilities of every value."""
        logits, gone = self.rng.normal(size=(*lead, {"c": 2}.get(variable, VALUES[variable]))), None
        if variable == "c":  # infinite logits of a network of coins are a fault, so these are as high as certain ones
            kind = self.rng.random(logits.shape)
            logits = np.where(kind < 0.2, -(2.0**115), np.where(kind > 0.8, 2.0**115, logits))
            on = 0.5 * (1.0 + np.tanh(logits / 2))
            first, second = on[..., 0], on[..., 1]
            each = [(1 - first) * (1 - second), (1 - first) * second, first * (1 - second), first * second]
            return logits, np.stack(each, -1)
        gone = self.rng.random(logits.shape) < 0.35
        gone[..., self.rng.integers(logits.shape[-1])] = False
        logits = np.where(gone, -INF, logits)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        return logits, weights / weights.sum(-1, keepdims=True)

    def share(self, header, env):
        variable, conditions, shares = self.tables[header]
        return shares[(*(env[c] for c in conditions), env[variable])]

    def fits(self, bound, letters, *, new):
        """The factors that can stand here: what they read is known, and so is, unless it is ``new``, their variable."""
        known = {*bound, "x", "y"}
        return [
            header
            for header, (variable, conditions, _) in self.tables.items()
            if header[0] in letters and known.issuperset(conditions) and (variable in known) != new
        ]

    def leaf(self, bound):
        found = self.fits(bound, "pqr", new=False)
        if found and self.random.random() < 0.8:
            header = self.random.choice(found)
            return log(self.factors[header]), lambda env: math.log(p) if (p := self.share(header, env)) > 0 else -INF
        shift = round(self.random.uniform(-1, 1), 2)
        return Value("w") + shift, lambda env: env["w"] + shift

    def body(self, bound, depth):
        how = self.random.random()
        if depth == 0 or how < 0.2:
            return self.leaf(bound)
        if how < 0.45:
            (a, left), (b, right) = self.body(bound, depth - 1), self.body(bound, depth - 1)
            return a + b, lambda env: left(env) + right(env)
        if how < 0.65:
            (a, inner), number = self.body(bound, depth - 1), round(self.random.uniform(0.2, 2), 2)
            if how < 0.55:
                return number * a, lambda env: number * inner(env)
            return maximum(a, -number), lambda env: max(inner(env), -number)
        return self.expectation(bound, depth - 1)

    def each(self, drawn, inner, env):
        """The share and the value of every choice that what is drawn may be, by hand."""
        names = [self.tables[h][0] for h in drawn]
        for values in itertools.product(*(range(VALUES[v]) for v in names)):
            here = {**env, **dict(zip(names, values, strict=True))}
            if (share := math.prod(self.share(h, here) for h in drawn)) > 0:
                yield share, inner(here)

    def expectation(self, bound, depth):
        """E, or log E exp, of one or two variables."""
        found = self.fits(bound, "qr", new=True)
        if not found:
            return self.leaf(bound)
        drawn = [self.random.choice(found)]
        inside = bound | {self.tables[drawn[0]][0]}
        more = self.fits(inside, "qr", new=True)
        if more and self.random.random() < 0.4:
            drawn.append(self.random.choice(more))
            inside = inside | {self.tables[drawn[1]][0]}
        product = math.prod((self.factors[h] for h in drawn[1:]), start=self.factors[drawn[0]])
        a, inner = self.body(inside, depth)

        if self.random.random() < 0.5:
            return E(product, a, "exact"), lambda env: sum(p * value for p, value in self.each(drawn, inner, env))

        def soft(env):
            total = sum(share * math.exp(value) for share, value in self.each(drawn, inner, env))
            return math.log(total) if total > 0 else (-INF if total == 0 else total)

        return log(E(product, exp(a), "exact")), soft


def compare(seed):
    """Whether there was something to compare."""
    grower = Grower(seed)
    try:
        formula, witness = grower.expectation(frozenset(), 3)
        plan = formula.program.inputs
    except FormulaError:  # two expectations that would share a draw, say
        return False
    rows = {k: torch.tensor(v if k != "x" else v[:, None]) for k, v in grower.data.items() if k in plan}
    want = np.array([witness({k: v[i] for k, v in grower.data.items()}) for i in range(ROWS)])
    if np.isnan(want).any():  # ∞ − ∞
        return False
    out = formula(**rows)
    got = np.broadcast_to(out.value.detach().numpy(), ROWS)
    assert np.allclose(got, want, rtol=1e-7, atol=1e-9), (formula, got, want)
    assert torch.equal(formula.interpret(**rows).value, out.value)
    found = torch.autograd.grad(out.value.sum(), [*formula.parameters()], allow_unused=True)
    assert all(g is None or g.isfinite().all() for g in found), formula
    if np.isfinite(want).all():
        slopes(formula, rows, found, seed)
    return True


def slopes(formula, rows, found, seed):
    """The gradient along a random direction of all finite numbers but 0, beside a central difference."""
    torch.manual_seed(seed)
    free = [(p, torch.where((p.abs() < 1e3) & (p != 0), torch.randn_like(p), 0.0)) for p in formula.parameters()]
    begin = [p.detach().clone() for p, _ in free]

    def moved(step):
        with torch.no_grad():
            for (p, way), start in zip(free, begin, strict=True):
                p.copy_(torch.where(p.abs() < 1e3, start + step * way, start))
            return formula(**rows).value.sum().item()

    slope = (moved(1e-6) - moved(-1e-6)) / 2e-6
    own = sum((g * way).nan_to_num().sum().item() for g, (_, way) in zip(found, free, strict=True) if g is not None)
    assert own == pytest.approx(slope, rel=1e-4, abs=1e-4), formula


@pytest.mark.parametrize("part", range(4))
def test_grown_expectations_with_zeros(part):
    assert sum(map(compare, range(10 * part, 10 * part + 10))) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_many_grown_expectations_with_zeros(part):
    assert sum(map(compare, range(1000 + 30 * part, 1030 + 30 * part))) >= 15
