"""Random specifications (`spec`) from a seed: static ones, and ones over time.

The grower keeps the logarithm's argument positive and numbers moderate, draws every variable in one way only, and never
multiplies two expectations that share a draw, which the language refuses.
"""

from dataclasses import dataclass, replace

import torch

from tests.formula.soil import AWAITED, FEATURES, MACHINE, ORDINARY, SIZES, TARGETS, B, Join, Soil
from tests.formula.spec import (
    Batch,
    Det,
    Dist,
    Draw,
    Ent,
    Event,
    Experts,
    Fn,
    Gap,
    Inner,
    Label,
    Least,
    Logp,
    Materials,
    Minus,
    Num,
    Op,
    Rat,
    Stop,
    Stopped,
    Var,
    base,
    parts,
    walk,
)  # fmt: skip

DISCRETE = ("Bernoulli", "OneHot", "Categorical")
# How long sums and how deep nests the grower makes: few of them this long, as they take their time.
LONGEST_SUM, DEEPEST_NEST, FAR = 300, 100, 0.03
FARTHEST = ("long sums", "deep nests")


@dataclass
class Grown:
    """A specification, what it is made of, and which of the features it uses."""

    node: object
    materials: Materials
    used: frozenset
    batch: int = B
    steps: int = 0
    reach: int = 0  # the terms of its longest sum, or the levels of its deepest nest, where it has one


@dataclass(frozen=True)
class Latent:
    """Something that can be drawn: factors ``q``, the names with their sizes, its estimators, and what it needs."""

    q: tuple
    names: tuple
    ways: tuple
    needs: frozenset = frozenset()


def bare(d):
    """Whether all parameters are numbers."""
    return not d.head and not any(isinstance(v, str) for _, v in d.given)


def scored(node):
    """Whether an expectation inside has the gradient of the score function."""
    return any(isinstance(n, Draw) and n.how == "score" for n in walk(node))


def one_draw(node):
    """Whether the value rests on an expectation that one draw estimates, or its gradient on one by the score function:
    the language refuses functions of it."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Draw):
            random = [d.of if isinstance(d, Stopped) else d for d in node.q if not isinstance(d, Det)]
            if any(node.how != "exact" or isinstance(d, Experts) or d.family not in DISCRETE for d in random):
                if node.samples is None or node.how == "score":
                    return True
                if not scored(node.body):
                    continue
            waiting.append(node.body)
        elif not isinstance(node, Dist | Det | Stopped | Experts):
            waiting += parts(node)
    return False


def fixed_scale(d):
    """Whether the scale is a number."""
    return (not d.head and not d.given) or any(n == "scale" and isinstance(v, float) for n, v in d.given)


class StaticGrower(Soil):
    """Formulas over one batch."""

    suffix = ""

    def __init__(self, seed, features=None, share=0.2):
        features = [f for f in FEATURES if f not in AWAITED] if features is None else features
        super().__init__(seed, features, share)
        self.batch, self.steps = self.rng.choice((2, 3)), self.rng.choice((2, 3, 4))
        self.reached = 0
        self.labels, self.ways, self.priors, self.looped = 0, {}, {}, False
        self.mixed, self.outer, self.far = False, set(), self.rng.random() < FAR
        self.chosen |= {self.rng.choice(FARTHEST)} & set(features) if self.far else set()
        self.latents = self.vocabulary()

    def named(self, text):
        return text + self.suffix

    # --------------------------------------------------------------------------------------------------- vocabulary

    def vocabulary(self, taken=()):
        """Three or four latents: Normals, computed values beside them, discrete ones."""
        names = [n for n in ORDINARY if n not in taken]
        self.rng.shuffle(names)
        machine = [n for n in MACHINE if n not in taken and self.may("machine names")]
        self.rng.shuffle(machine)
        names = [machine.pop() if machine and self.rng.random() < 0.5 else n for n in names]
        found = []
        kinds = self.rng.sample(("real", "real", "given", "bits", "class", "hot", "two"), 4)
        for name, kind in zip(names, kinds, strict=False):
            found.append(self.latent(kind, self.named(name), list(found)))
        if self.may("experts", 1.0):
            found.append(self.experts(self.named("p'")))
        return found

    def experts(self, name):
        """A product of experts: a standard or given prior, and one Normal for each of two data; one of these alone
        may be missing."""
        prior = Dist("Normal", "p", name, (2,))
        if self.may("unbatched experts", 1.0):
            prior = self.dist("Normal", "p", name, (2,))
        x, e = self.datum(self.named("x")), self.datum(self.named("e"))
        parts = [self.dist("Normal", "r", name, (2,), (key,), (size,)) for key, size in ((x, 3), (e, 2))]
        if self.may("experts of given scales", 0.7):
            prior = Dist("Normal", "p", name, (2,), (), "", (("scale", 2.0),)) if self.rng.random() < 0.5 else prior
            parts = [
                replace(p, head=self.net(Join(s, 2)), given=(("scale", g),))
                for p, s, g in zip(parts, (3, 2), (0.5, 1.5), strict=True)
            ]
        while all(fixed_scale(p) for p in (prior, *parts)) and not self.may("experts of given scales", 1.0):
            parts[0] = self.dist("Normal", "r", name, (2,), (x,), (3,))
        product = Experts("product", (prior, *parts))
        return Latent((product,), ((name, 2, "real"),), (None,))

    def source(self, earlier):
        """What a factor reads: data, and perhaps an earlier latent."""
        data = self.datum(self.named(self.rng.choice(("x", "y"))))
        names, needs = [(data, SIZES[data[0]][0])], frozenset()
        real = [(n, size) for latent in earlier for n, size, kind in latent.names if kind == "real"]
        if real and self.rng.random() < 0.4:
            chosen = self.rng.choice(real)
            names.append(chosen)
            needs = frozenset((chosen[0],))
        return tuple(n for n, _ in names), tuple(size for _, size in names), needs

    def latent(self, kind, name, earlier):
        """A variable to draw; ``"given"`` has parameters without batch axes."""
        conditions, sizes, needs = self.source(earlier)
        if kind in ("real", "given", "two"):
            family = self.rng.choice(("Normal", "Normal", "Laplace"))
            free = kind == "given"
            q = self.dist(family, "q", name, (2,), *((), ()) if free else (conditions, sizes))
            if free and self.may("numbers alone", 0.7):
                q = replace(q, given=self.rng.choice(((), (("scale", 0.7),), (("loc", -0.5), ("scale", 1.5)))))
            needs = frozenset() if free else needs
            if kind == "two":
                m = self.named("m")
                d = self.det((m,), (name, conditions[0]), (2, sizes[0]))
                return Latent((q, d), ((name, 2, "real"), (m, 2, "real")), (None,), needs)
            return Latent((q,), ((name, 2, "real"),), (None, None, None if free else "score"), needs)
        family, event, size = {"bits": ("Bernoulli", (2,), 2), "class": ("Categorical", (), 1),
                               "hot": ("OneHot", (3,), 3)}[kind]  # fmt: skip
        q = self.dist(family, "q", name, event, conditions, sizes)
        ways = {"bits": ("score", "straight-through", "exact"), "class": ("score", "exact"),
                "hot": (None, "score", "exact")}[kind]  # fmt: skip
        return Latent((q,), ((name, size, kind),), ways, needs)

    # ------------------------------------------------------------------------------------------------------- leaves

    def prior(self, q, reads=()):
        """A factor over the same variable, for a divergence or a density."""
        if q.variable not in self.priors:
            unlike = {"Normal": "Laplace", "Laplace": "Normal"}
            family = unlike[q.family] if q.family in unlike and self.may("unlike pairs") else q.family
            self.priors[q.variable] = self.dist(family, "p", q.variable, q.event)
        return self.priors[q.variable]

    def leaf(self, scope):
        if not self.looped and set(scope) <= self.outer and self.may("inner steps", 0.3):
            return self.inner()
        rules = [self.scored, self.scored, self.scored, self.divergence, self.number_of_data, self.event]
        if scope:
            rules += [self.scored, self.own_density]
        return self.rng.choice(rules)(scope)

    def scored(self, scope):
        """log p of data, given something in scope or other data."""
        key = self.rng.choice([k for k in TARGETS if SIZES[k]] + ["i"])
        family = self.rng.choice(TARGETS[key])
        target = self.datum(self.named(key))
        readable = [(n, size) for n, (size, kind) in scope.items() if kind != "class"]
        if readable and self.rng.random() < 0.85:
            chosen = self.rng.sample(readable, min(len(readable), self.rng.choice((1, 1, 2))))
        else:
            x = self.datum(self.named("x"))
            chosen = [(x, 3)]
        p = self.dist(family, "p", target, SIZES[key], tuple(n for n, _ in chosen), tuple(s for _, s in chosen))
        stopped = p.family != "Mixture" and self.rng.random() < 0.1
        return Logp((Stopped(p) if stopped else p,))

    def own_density(self, scope):
        """log q, log p, or a ratio of both, of what is drawn."""
        drawn = [d for latent in self.latents for d in latent.q if isinstance(d, Dist) and d.variable in scope]
        if not drawn:
            return self.scored(scope)
        q = self.rng.choice(drawn)
        which = self.rng.random()
        if q.family == "Normal" and q.head and not self.mixed and self.may("experts", 0.5):
            self.mixed = True
            other = self.dist("Normal", "p", q.variable, (2,), q.conditions[:1], self.size_of(q))
            return Logp((Experts("mixture", (q, other)),))
        if which < 0.4:
            return Logp((q,))
        return Logp((self.prior(q),)) if which < 0.8 else Fn("clamp", Rat((self.prior(q),), (q,)), (0.01, 5.0))

    def divergence(self, scope):
        """KL, cross-entropy or entropy of a latent whose conditions are known here."""
        ready = [latent for latent in self.latents if latent.needs <= set(scope)]
        known = [d for latent in ready for d in latent.q if isinstance(d, Dist | Experts)]
        if not known:
            return self.scored(scope)
        q = self.rng.choice(known)
        if isinstance(q, Experts):
            return Gap("kl", q, self.prior(q.parts[1]))
        p = self.prior(q)
        if bare(q) and not self.may("numbers alone", 1.0):
            return self.scored(scope)
        which = self.rng.random()
        if which < 0.2:
            return Ent(q)
        if which < 0.4 and q.family == p.family != "Laplace":
            return Gap("cross", q, p)
        q = Stopped(q) if which > 0.8 else q
        return Gap("kl", q, Stopped(p) if which > 0.9 else p)

    def inner(self):
        """Iterations l = 1 … L with a carry, and perhaps what is read from the last of them."""
        self.looped = True
        x = self.datum(self.named("x"))
        core = self.det(("r_l",), ("r_{l-1}", "j_l", x), (2, 2, 3))
        u = self.dist("Normal", "q", "j_l", (2,), ("r_{l-1}", x), (2, 3))
        rate = Gap("kl", u, self.dist("Normal", "p", "j_l", (2,)))
        body = Op("+", rate, Op("*", Num(0.1), Event("norm2", Var("r_l", 1))))
        if self.rng.random() < 0.5:
            p = self.dist("Normal", "p", self.datum(self.named("y")), (2,), ("r_l",), (2,))
            body = Op("-", body, Logp((p,)))
        loop = Inner(self.rng.choice(("sum", "mean")), self.rng.choice((1, 2, 3)), Draw((u, core), body))
        if self.rng.random() < 0.5:
            return loop
        last = self.dist("Normal", "p", self.datum(self.named("y")), (2,), ("r_L",), (2,))
        return Op("-", loop, Logp((last,)))

    def number_of_data(self, scope):
        value = Var(self.datum(self.named("d")))
        if self.rng.random() < 0.5:  # a coefficient of the call, not of a row
            self.materials.data.setdefault("omega", torch.tensor(0.7, dtype=torch.float64))
            self.materials.dirty["omega"] = 0.7
            return Op(
                self.rng.choice("*+-"), Op("+", Var("omega", scalar=True), Num(self.rng.choice((1, -0.5)))), value
            )
        return value

    def event(self, scope):
        """Values with an event axis, reduced."""
        names = [n for n, (size, kind) in scope.items() if size == 2] + [self.datum(self.named("y"))]
        a, b = Var(self.rng.choice(names), 1), Var(self.rng.choice(names), 1)
        inside = self.rng.choice((Op("-", a, b), Op("*", Fn("tanh", a), b), Op("+", a, Num(2.0)), Fn("abs", a)))
        return Event(self.rng.choice(("norm2", "total")), inside)

    @staticmethod
    def size_of(q):
        """The size of the first thing that a latent reads."""
        return (SIZES[base(q.conditions[0])][0],)

    # ------------------------------------------------------------------------------------------------------- growth

    def grow(self, depth, scope=None):
        scope = scope or {}
        if depth <= 0:
            return self.leaf(scope) if scope or self.rng.random() < 0.5 else self.expectation(0, scope)
        rules = [self.arithmetic] * 3 + [self.function] * 2 + [self.other] + [self.expectation] * 3
        if self.may("long sums", 0.2):
            return self.long_sum(scope)
        if self.may("deep nests", 0.2):
            return self.deep_nest(depth, scope)
        return self.rng.choice(rules)(depth - 1, scope)

    def positive(self, depth, scope):
        f = self.sure(self.grow(depth, scope), scope)
        return self.rng.choice((Fn("exp", Fn("clamp", f, (-2, 2))), Op("+", Fn("softplus", f), Num(0.1)),
                                Op("+", Fn("sigmoid", f), Num(0.5)), Op("+", Fn("abs", f), Num(1))))  # fmt: skip

    def reach(self, least, usual, most):
        """How long or deep: the most for the first in some formulas, since code and witness take their time."""
        found = self.rng.randrange(least, usual + 1)
        if self.far:
            self.far, found = False, self.rng.choice((most, self.rng.randrange(most // 2, most + 1)))
        self.reached = max(self.reached, found)
        return found

    def long_sum(self, scope):
        """A sum of up to `LONGEST_SUM` terms."""
        terms = [self.leaf(scope) for _ in range(self.reach(3, 12, LONGEST_SUM))]
        found = terms[0]
        for term in terms[1:]:
            found = Op(self.rng.choice("+-"), found, term)
        return found

    def deep_nest(self, depth, scope):
        """Functions of functions, up to `DEEPEST_NEST` deep."""
        found = self.sure(self.grow(min(depth, 1) - 1, scope), scope)
        for _ in range(self.reach(2, 8, DEEPEST_NEST)):
            found = self.rng.choice((Op("+", Op("*", Fn("tanh", found), Num(0.5)), Num(0.1)), Fn("softplus", found),
                                     Op("-", Num(1.0), Fn("sigmoid", found)), Fn("relu", found)))  # fmt: skip
        return found

    def arithmetic(self, depth, scope):
        a = self.grow(depth, scope)
        if self.rng.random() < 0.3:
            number = Num(self.rng.choice((2, -1, 0.5, 3.0, -0.25, 1e-05, 0)))
            ways = [Op("+", a, number), Op("*", number, a), Op("-", number, a)]
            return self.rng.choice(ways if one_draw(a) else [*ways, Op("max", a, number)])
        b = self.grow(depth, scope)
        op = self.rng.choice(("+", "-", "*", "max", "min", "/"))
        shared = op in "*/maxmin" and self.drawn(a) & self.drawn(b)
        if shared or (op in ("max", "min") and one_draw(a)) or (op in ("max", "min", "/") and one_draw(b)):
            op = self.rng.choice("+-")
        if op == "/":
            b = Op("+", Fn("softplus", b), Num(0.5))
        return Op(op, Fn("clamp", a, (-30.0, 30.0)) if op == "*" and not one_draw(a) else a, b)

    def sure(self, node, scope):
        """The node, or another in its place, of which no expectation rests on one draw: what any function may take."""
        while one_draw(node):
            node = self.leaf(scope)
        return node

    @staticmethod
    def drawn(node):
        return {u for n in walk(node) if isinstance(n, Draw) for u in n.q}

    def function(self, depth, scope):
        if self.rng.random() < 0.4:
            f = self.positive(depth, scope)
            ways = [Fn("log", f), Fn("sqrt", f), *(Op("^", f, Num(e)) for e in (0.5, -1, 1.5))]
            return self.rng.choice(ways)
        g = self.grow(depth, scope)
        if one_draw(g):
            return Minus(g)
        plain = [Fn(name, g) for name in ("tanh", "sigmoid", "softplus", "relu", "abs")]
        plain.append(Fn("expectile", Fn("clamp", g, (-5.0, 5.0)), (0.2, None)))
        return self.rng.choice([*plain, Minus(g), Fn("clamp", g, (-3, None)), Fn("clamp", g, (-10.0, 2))])

    def other(self, depth, scope):
        f = self.grow(depth, scope)
        if self.rng.random() < 0.5:
            return Stop(f)
        self.labels += 1
        return Label(f"part{self.labels}", f)

    def expectation(self, depth, scope):
        """E over something that is not drawn yet, always by the same estimator."""
        ready = [x for x in self.latents if x.needs <= set(scope) and not {n for n, *_ in x.names} & set(scope)]
        if not ready:
            return self.leaf(scope)
        latent = self.rng.choice(ready)
        if latent not in self.ways:
            how = self.rng.choice(latent.ways)
            self.ways[latent] = how, self.rng.choice((None, None, 2, 3))
        how, samples = self.ways[latent]
        inside = scope | {n: (size, kind) for n, size, kind in latent.names}
        first, *others = latent.q
        if not others and isinstance(first, Dist) and first.family in DISCRETE and self.may("least energies"):
            return self.least(first, inside)
        baseline = None
        if how == "score":
            baseline = self.rng.choice((None, "leave-one-out" if samples else None, Var(self.datum(self.named("d")))))
        if self.rng.random() < 0.2 and (samples or how == "exact"):
            return Fn("log", Draw(latent.q, self.positive(depth, inside), how, samples, baseline))
        return Draw(latent.q, self.grow(depth, inside), how, samples, baseline)

    def least(self, q, scope):
        """The least or the free energy, of an energy that reads the latent and draws nothing."""
        term = self.rng.choice((self.scored, self.own_density, self.divergence, self.event))(scope)
        energy = Op("-", Op("*", Num(self.rng.choice((0.5, -1.5))), term), Logp((q,)))
        return Least(q, energy, self.rng.choice((None, 0.5, 2.0)))

    def grown(self, depth=3):
        """A whole formula."""
        node = self.grow(depth)
        while all(not isinstance(n, Dist) or not n.conditions for n in walk(node)):
            node = Op("+", node, self.scored({}))
        how = self.rng.choice((None, "mean", "sum"))
        node = Batch(how, node) if how else node
        if self.may("missing rows", 1.0):
            self.lose_rows(node)
        return Grown(node, self.materials, frozenset(self.used), self.batch, 0, self.reached)

    def lose_rows(self, node):
        """Some rows lack what is scored, or read by experts alone; NaN stands there, where the data can say so."""
        experts = {p for n in walk(node) if isinstance(n, Experts) for p in n.parts}
        factors = [n for n in walk(node) if isinstance(n, Dist | Det)]
        read = {base(c) for d in factors if d not in experts for c in d.conditions}
        read |= {base(n.name) for n in walk(node) if isinstance(n, Var)}
        scored = {base(d.variable) for d in factors if isinstance(d, Dist)}
        scored |= {base(c) for e in experts for c in e.conditions}
        for key in sorted((scored - read) & set(self.materials.data)):
            if self.rng.random() < 0.5:
                value, rank = self.materials.data[key], len(SIZES[key])
                flags = self.materials.present[key] = self.randn(*value.shape[: value.ndim - rank]) > 0
                if value.is_floating_point():
                    shown = flags.view(*flags.shape, *(1,) * rank)
                    self.materials.dirty[key] = value.where(shown, float("nan"))
