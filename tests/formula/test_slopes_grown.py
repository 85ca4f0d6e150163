"""Random exact expectations of functions whose slopes are infinite somewhere: numbers of s, k and c, some of them 0, ±∞
or too large for an exponential, where many values have no probability. Beside loops over those that have one.
"""

import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.formula.test_impossible_grown import INF, ROWS, VALUES, Grower, slopes
from worldformula import Deterministic, E, Value, exp, log, norm2, sqrt, tanh
from worldformula.errors import FormulaError

FORMS = (  # how each is written, and what it is of two numbers
    (lambda a, b: log(a), lambda a, b: np.log(a)),
    (lambda a, b: sqrt(a), lambda a, b: np.sqrt(a)),
    (lambda a, b: 1 / a, lambda a, b: 1 / a),
    (lambda a, b: a * b, lambda a, b: a * b),
    (lambda a, b: a / b, lambda a, b: a / b),
    (lambda a, b: exp(a), lambda a, b: np.exp(a)),
    (lambda a, b: a**0.5 + a**-2, lambda a, b: a**0.5 + a**-2.0),
    (lambda a, b: log(a + b), lambda a, b: np.log(a + b)),
    (lambda a, b: log(0.3 * exp(a) + 0.7 * exp(-b)), lambda a, b: np.log(0.3 * np.exp(a) + 0.7 * np.exp(-b))),
    (lambda a, b: norm2(a) * b, lambda a, b: a * a * b),
    (lambda a, b: tanh(a) * log(b), lambda a, b: np.tanh(a) * np.log(b)),
)
NUMBERS = {"d": ("f", ("s",)), "e": ("g", ("k",)), "b": ("h", ("s", "k")), "a": ("u", ("s", "c"))}


class Numbers(nn.Module):
    """A table by the values of the conditions."""

    def __init__(self, values, conditions):
        super().__init__()
        self.values, self.conditions = nn.Parameter(torch.tensor(values)), conditions

    def forward(self, *given):
        number = {"k": lambda v: v.argmax(-1), "c": lambda v: 2 * v[..., 0] + v[..., 1]}
        at = (number.get(c, lambda v: v)(v).long() for c, v in zip(self.conditions, given, strict=True))
        return self.values[tuple(at)]


class Sloped(Grower):
    """Bodies read numbers of what is drawn. ``steep``: whether one with an infinite slope has a probability."""

    def __init__(self, seed):
        super().__init__(seed)
        self.numbers, self.steep = {}, False
        for name, (letter, conditions) in NUMBERS.items():
            shape = tuple(VALUES[c] for c in conditions)
            values, kind = self.rng.uniform(0.5, 2.0, size=shape), self.rng.random(shape)
            values = np.where(kind < 0.2, 0.0, np.where(kind > 0.85, self.rng.choice([INF, 900.0, -INF]), values))
            header = f"{name} = {letter}({', '.join(conditions)})"
            self.numbers[name] = Deterministic(header, Numbers(values, conditions), shape=()), conditions, values

    def leaf(self, bound):
        known = sorted(self.numbers.keys() & bound)
        if not known or self.random.random() < 0.3:
            return super().leaf(bound)
        names = self.random.choice(known), self.random.choice(known)
        written, worth = self.random.choice(FORMS)

        def value(env):
            numbers = [self.numbers[n][2][tuple(env[c] for c in self.numbers[n][1])] for n in names]
            self.steep |= not all(math.isfinite(v) and 0 < v < 100 for v in numbers)
            return float(worth(*map(np.float64, numbers)))

        return written(*map(Value, names)), value

    def expectation(self, bound, depth):
        """E, or log E exp, of one or two variables and the numbers that they tell."""
        drawn, inside = [], bound
        for _ in range(1 + (self.random.random() < 0.5)):
            found = self.fits(inside - self.numbers.keys(), "qr", new=True)
            if found:
                drawn.append(self.random.choice(found))
                inside = inside | {self.tables[drawn[-1]][0]}
        if not drawn:
            return self.leaf(bound)
        told = [n for n, (_, conditions, _) in self.numbers.items() if n not in bound and inside.issuperset(conditions)]
        factors = [self.factors[h] for h in drawn] + [self.numbers[n][0] for n in told]
        product = math.prod(factors[1:], start=factors[0])
        a, inner = self.body(inside | set(told), depth)

        if self.random.random() < 0.6:
            return E(product, a, "exact"), lambda env: sum(p * value for p, value in self.each(drawn, inner, env))
        soft = lambda env: math.log(sum(p * math.exp(v) for p, v in self.each(drawn, inner, env)))  # noqa: E731
        return log(E(product, exp(a), "exact")), soft


def compare(seed):
    """Whether there was something to compare: what has a probability is finite, with finite slopes."""
    grower = Sloped(seed)
    try:
        formula, witness = grower.expectation(frozenset(), 3)
        inputs = formula.program.inputs
        with np.errstate(all="ignore"):
            want = np.array([witness({k: v[i] for k, v in grower.data.items()}) for i in range(ROWS)])
    except (FormulaError, OverflowError, ValueError):  # a draw that would be shared, the log of 0
        return False
    if grower.steep or not np.isfinite(want).all() or np.abs(want).max() > 1e6:
        return False
    rows = {k: torch.tensor(v if k != "x" else v[:, None]) for k, v in grower.data.items() if k in inputs}
    out = formula(**rows)
    got = np.broadcast_to(out.value.detach().numpy(), ROWS)
    assert np.allclose(got, want, rtol=1e-7, atol=1e-9), (formula, got, want)
    torch.testing.assert_close(formula.interpret(**rows).value, out.value)
    found = torch.autograd.grad(out.value.sum(), [*formula.parameters()], allow_unused=True)
    assert all(g is None or g.isfinite().all() for g in found), formula
    slopes(formula, rows, found, seed)
    return True


@pytest.mark.parametrize("part", range(4))
def test_grown_functions_with_infinite_slopes(part):
    assert sum(map(compare, range(20 * part, 20 * part + 20))) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_many_grown_functions_with_infinite_slopes(part):
    assert sum(map(compare, range(1000 + 60 * part, 1060 + 60 * part))) >= 8
