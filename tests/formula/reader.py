"""Reads the one-line text of a formula back into its tree: what printing must not lose.

The factors, the variables that stand alone and the named parts are looked up in dictionaries by their text; everything
else (operators, brackets, estimators, clocks) is read from the line.
"""

import dataclasses
import re
from collections.abc import Mapping

from worldformula.formula.ops.cross_entropy import CrossEntropyNode
from worldformula.formula.ops.entropy import EntropyNode
from worldformula.formula.ops.expectile import ExpectileNode
from worldformula.formula.ops.free_energy import FreeEnergyNode
from worldformula.formula.ops.js import JSNode
from worldformula.formula.ops.kl import ProductDivergence, SampledDivergence
from worldformula.formula.ops.least import MinNode, OverLatent
from worldformula.formula.syntax.factor import Constants, Factor
from worldformula.formula.syntax.nodes import (
    Binary,
    Divergence,
    Expectation,
    Function,
    Log,
    Named,
    Negative,
    Node,
    Number,
    OverBatch,
    OverEvent,
    OverSteps,
    OverTime,
    Ratio,
    StopGradient,
    Use,
    walk,
)
from worldformula.formula.syntax.nodes import Value as ValueNode

NUMBER = re.compile(r"inf|\d+(\.\d+)?(e[+-]?\d+)?")
FUNCTIONS = ("exp", "log", "abs", "sqrt", "tanh", "sigmoid", "softplus", "relu")


class Reader:
    """A cursor over one line."""

    def __init__(self, line, factors, values=(), named=(), initial=None, latents=()):
        self.line, self.at, self.initial = line, 0, initial
        self.factors = dict(sorted(factors.items(), key=lambda item: -len(item[0])))  # the longest first
        self.values = dict(sorted(dict(values).items(), key=lambda item: -len(item[0])))
        self.named, self.latents = dict(named), dict(latents)

    def take(self, text):
        found = self.line.startswith(text, self.at)
        self.at += len(text) if found else 0
        return found

    def need(self, text):
        assert self.take(text), f"expected {text!r} at {self.line[self.at :]!r} of {self.line!r}"

    def match(self, pattern):
        found = re.compile(pattern).match(self.line, self.at)
        if found:
            self.at = found.end()
        return found

    def whole(self):
        """The line, to its end."""
        node = self.sum()
        assert self.at == len(self.line), f"left over: {self.line[self.at :]!r}"
        return node

    # --------------------------------------------------------------------------------------------------- arithmetic

    def sum(self):
        left = self.summand()
        while sign := self.match(r" ([+-]) "):
            left = Binary(sign[1], left, self.summand())
        return left

    def summand(self):
        if not self.take("-"):
            return self.product()
        body = self.product()
        return Number(-body.value) if type(body) is Number and self.line[self.at - 1] != ")" else Negative(body)

    def product(self):
        left = self.power()
        while sign := self.match(r" ([*/]) "):
            left = Binary(sign[1], left, self.power())
        return left

    def power(self):
        base = self.atom()
        return Binary("^", base, self.atom()) if self.take(" ^ ") else base

    def atom(self):
        if self.take("("):
            return self.until(")")
        if (ratio := self.ratio()) is not None:
            return ratio
        if found := self.match(NUMBER):
            word = found[0]
            return Number(float(word) if re.search("[.ein]", word) else int(word))
        return self.divergence() or self.over() or self.function() or self.name()

    def until(self, end):
        node = self.sum()
        self.need(end)
        return node

    # ------------------------------------------------------------------------------------------------------- factors

    def use(self):
        for text, factor in self.factors.items():
            if self.take(f"sg({text})"):
                return Use(factor, stopped=True)
            if self.take(text):
                return Use(factor)
        return None

    def uses(self):
        """A product: factors with a space between, or a comma where one of them is deterministic."""
        start = self.at
        first = self.use()
        if first is None:
            return None
        found, behind = [first], self.at
        while (place := self.at, self.take(", "))[1] and (use := self.use()):
            found.append(use)
        self.at = place
        if len(found) > 1 and any(u.factor.header.deterministic for u in found):
            return tuple(found)
        self.at, found = behind, [first]
        while (place := self.at, self.take(" "))[1] and (use := self.use()):
            found.append(use)
        self.at = place
        assert self.at > start
        return tuple(found)

    def ratio(self):
        start = self.at
        p = self.uses()
        if p is not None and self.take(" / ") and (q := self.uses()) is not None:
            return Ratio(p, q)
        self.at = start
        return None

    def divergence(self):
        if self.take("log "):
            return Log(self.uses())
        if self.take("[log "):
            p, _ = self.uses(), self.need("]_i")
            return Log(p, event=True)
        if self.take("KL("):
            (q,), _, (p,) = self.uses(), self.need(" ‖ "), self.uses()
            self.need(")")
            return Divergence(q, p)
        if found := self.match(r"KL(?:̂\{K=(\d+)\})?\["):
            q, _, p = self.uses(), self.need(" ‖ "), self.uses()
            self.need("]")
            return ProductDivergence(q, p) if found[1] is None else SampledDivergence(q, p, int(found[1]))
        if found := self.match(r"(?:H|Ĥ\{K=(\d+)\})\["):
            q, samples = self.uses(), None if found[1] is None else int(found[1])
            if self.take(", "):
                p, _ = self.uses(), self.need("]")
                return CrossEntropyNode(q, p, samples)
            self.need("]")
            return EntropyNode(q, samples)
        if found := self.match(r"(?:JS|JŜ\{K=(\d+)\})\["):
            p, _, q = self.uses(), self.need(" ‖ "), self.uses()
            self.need("]")
            return JSNode(p, q, None if found[1] is None else int(found[1]))
        if found := self.match(r"(min|F)_\{([^;}]+)(?:; β=([\d.]+))?\}\["):
            latent, body = self.latents[found[2]], self.until("]")
            return MinNode(latent, body) if found[1] == "min" else FreeEnergyNode(latent, body, float(found[3]))
        return self.expectation() if self.take("E_{") else None

    def expectation(self):
        q, gradient, baseline, samples = self.uses(), None, None, None
        while mark := self.match(r"; ([\w=-]+)"):
            if mark[1] in ("leave-one-out", "baseline"):
                baseline = mark[1]
            elif mark[1].startswith("K="):
                samples = int(mark[1][2:])
            else:
                gradient = mark[1]
        self.need("}[")
        body = self.sum()
        if baseline == "baseline":
            self.need("; baseline ")
            baseline = self.sum()
        self.need("]")
        return Expectation(q, body, gradient, samples, baseline)

    # ------------------------------------------------------------------------------- sums, functions and what is left

    def over(self):
        if found := self.match(r"(mean|sum)\("):
            return OverBatch(found[1], self.until(")"))
        if found := self.match(r"(Σ|mean)_\{(\w)=1\.\.(\d+)\} "):
            return OverSteps("sum" if found[1] == "Σ" else "mean", found[2], int(found[3]), self.summand())
        if found := self.match(r"(Σ|mean)_(?:(\w)|\{(\w)((?:; \w+=\w+)*)\}) "):
            marks = dict(m.split("=") for m in (found[4] or "").split("; ")[1:])
            burn_in, initial = int(marks.pop("burn_in", 0)), marks.pop("initial", None)
            start = self.initial if initial is not None else None
            how, index = "sum" if found[1] == "Σ" else "mean", found[2] or found[3]
            body = self.summand()
            return OverTime(how, index, body, initial=start, burn_in=burn_in, **{"reset": None, "mask": None, **marks})
        return None

    def function(self):
        if found := self.match(r"(max|min)\("):
            left, _ = self.sum(), self.need(", ")
            return Binary(found[1], left, self.until(")"))
        if self.take("clamp("):
            body, _ = self.sum(), self.need(", ")
            low = self.summand() if not self.take(", ") else None
            high = None
            if low is not None:
                self.need(", ")
            if not self.line.startswith(")", self.at):
                high = self.summand()
            self.need(")")
            return Function("clamp", body, tuple(None if b is None else b.value for b in (low, high)))
        if found := self.match(r"Expectile\{τ=([\d.]+)\}\["):
            return ExpectileNode(self.until("]"), float(found[1]))
        if self.take("sg("):
            return StopGradient(self.until(")"))
        if found := self.match(r"(total|norm2)\("):
            return OverEvent(found[1], self.until(")"))
        if found := self.match(rf"({'|'.join(FUNCTIONS)})\("):
            return Function(found[1], self.until(")"))
        return None

    def name(self):
        word = self.match(r"\w+")
        if word and word[0] in self.named:
            return Named(word[0], self.named[word[0]])
        self.at -= len(word[0]) if word else 0
        value = next((node for text, node in self.values.items() if self.take(text)), None)
        assert value is not None, f"cannot read {self.line[self.at :]!r} of {self.line!r}"
        return value


def read(line, node):
    """The tree that a line says, with the factors, variables and named parts of ``node`` for its words."""
    from worldformula.formula.syntax.nodes import factors

    named = {n.name: n.body for n in walk(node) if isinstance(n, Named)}
    values = {str(n.variable): n for n in walk(node) if isinstance(n, ValueNode)}
    initial = next((n.initial for n in walk(node) if isinstance(n, OverTime) and n.initial is not None), None)
    latents = {str(n.latent.factor.variable): n.latent for n in walk(node) if isinstance(n, OverLatent)}
    return Reader(line, {str(f): f for f in factors(node)}, values, named, initial, latents).whole()


def same(one, other):
    """Whether two trees say the same; a factor and its ``fresh()`` copies have one text."""
    if isinstance(one, Factor) and isinstance(other, Factor):
        return str(one) == str(other) and one.origin is other.origin
    if isinstance(one, float) and isinstance(other, float):
        return repr(one) == repr(other)
    if isinstance(one, Node | Use) and not isinstance(one, Constants):
        kinds = {Use if isinstance(node, Use) else type(node) for node in (one, other)}  # sg(q) is a use too
        if len(kinds) > 1:
            return False
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))
    if isinstance(one, tuple):
        return isinstance(other, tuple) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Mapping):
        return one == other
    return type(one) is type(other) and one == other
