"""Random formulas over what the language has, from a seed: what the property tests run on.

A grower keeps track of the variables that are drawn where it stands, keeps what it takes the logarithm or the root of
positive, and powers and exponentials small. Where the language refuses (two expectations that would share a draw, say)
it writes something else.
"""

import random

import torch
from torch import nn

from tests.formula.models import Join
from worldformula import (
    KL,
    Bernoulli,
    Categorical,
    Deterministic,
    E,
    FreeEnergy,
    Laplace,
    Mean,
    Min,
    Mixture,
    MoE,
    Normal,
    OneHot,
    PoE,
    RelaxedBernoulli,
    StudentT,
    Sum,
    Symbol,
    Value,
    clamp,
    exp,
    log,
    maximum,
    minimum,
    norm2,
    ratio,
    relu,
    sg,
    sigmoid,
    softplus,
    sqrt,
    tanh,
    total,
)
from worldformula.errors import FormulaError
from worldformula.formula.factors.joint import as_uses
from worldformula.formula.ops.entropy import Entropy

B, T = 2, 3


def linear(*sizes):
    return nn.Linear(*sizes).double()


def join(*sizes):
    return Join(*sizes).double()


class Own(nn.Module):
    """A network without inputs."""

    def __init__(self, size):
        super().__init__()
        self.raw = nn.Parameter(torch.randn(size).double())

    def forward(self):
        return self.raw.tanh()


def outputs(x):
    return x[..., :2].tanh(), x[..., 1:].square()


class Pool:
    """What can stand in a formula: leaves and draws, each with the variables that it needs to be drawn around it."""

    data: dict
    leaves: list  # (variables that it needs, expression)
    events: list  # (variables that it needs, value with one event axis of 2)
    baselines: list
    draws: list  # (variables drawn, variables needed, product, estimators)
    latents: tuple = ()  # (variables drawn, factor): one for each variable, as what is printed says no more


class Static(Pool):
    """x [B, 3], y [B, 2]; latents z, z' (continuous), b (relaxed), c, k, s (discrete); functions m, d, h_1, h_2."""

    def __init__(self):
        torch.manual_seed(0)
        loc = nn.Parameter(torch.randn(2).double())
        q, r = Normal("q(z|x)", linear(3, 4), shape=2), Normal("r(z|y)", linear(2, 2), shape=2, scale=0.7)
        prior, learned = Normal("p(z)", shape=2), Normal("p_l(z)", loc=loc, scale=1.5, shape=2)
        own, heavy = Normal("p_m(z)", Own(4), shape=2), StudentT("p_s(z)", shape=2, df=4.0)
        laplace = Laplace("q_a(z|x)", linear(3, 4), shape=2)
        mixture = Mixture("p_{mix}(z)", components=3, shape=2, loc=torch.randn(3, 2).double(), scale=1.0)
        poe, moe = PoE([prior, q, r]), MoE([q, r], "m(z|x,y)")
        other, second = q.rename(z="z'"), prior.rename(z="z'")
        b = RelaxedBernoulli("q(b|x)", linear(3, 2), shape=2, temperature=0.5)
        c, pc = Bernoulli("q(c|x)", linear(3, 2), shape=2), Bernoulli("p(c)", shape=2)
        k, pk = OneHot("q(k|x)", linear(3, 3), shape=3, unimix=0.01), OneHot("p(k)", shape=3)
        s, kz = Categorical("q(s|x)", linear(3, 3), shape=()), OneHot("p(k|z)", linear(2, 3), shape=3)
        ps = Categorical("p(s)", shape=(), logits=nn.Parameter(torch.randn(3).double()))
        m = Deterministic("m = f(z)", nn.Sequential(linear(2, 2), nn.Tanh()), shape=2)
        d = Deterministic("d = D(z)", lambda z: z.sum(-1).tanh(), shape=())
        pair = Deterministic("h_1, h_2 = g(x)", outputs, shape=[2, 2])
        table = nn.Embedding(3, 4).double()
        of_z, of_m = Normal("p(y|z)", linear(2, 4), shape=2), Normal("p(x|m)", linear(2, 6), shape=3)
        of_c, of_zc = Normal("p(y|c)", linear(2, 4), shape=2), Normal("p_j(y|z,c)", join(4, 4), shape=2)
        of_k, of_s = Normal("p(y|k)", linear(3, 4), shape=2), Normal("p(y|s)", table, shape=2)
        of_h, of_b = Normal("p(y|h_1,h_2)", join(4, 4), shape=2), Bernoulli("p(v|b)", linear(2, 2), shape=2)
        of_other = Normal("p(y|z')", linear(2, 4), shape=2)
        self.data = {"x": torch.randn(B, 3), "y": torch.randn(B, 2), "w": torch.randn(B), "v": torch.rand(B, 2).round(),
                     "beta": torch.tensor(0.3)}  # fmt: skip
        self.data = {key: value.double() for key, value in self.data.items()}
        core = Deterministic("o_l = f(o_{l-1}, u_l, x)", join(7, 2), shape=2)
        inner = Normal("q(u_l|o_{l-1},x)", join(5, 4), shape=2)
        step = E(inner * core, KL(inner, Normal("p(u_l)", shape=2)) + 0.1 * norm2(Value("o_l")))
        z = {"z"}
        self.leaves = [
            *((set(), f) for f in (
                KL(q, prior), KL(q, learned), KL(sg(q), learned), KL(r, sg(q)), KL(c, pc), KL(k, pk), KL(own, learned),
                KL(own, q), KL(poe, prior), KL(q * k, prior * pk), KL(q * kz, prior * pk), Value("w"), Symbol("beta"),
                Entropy(q), Entropy(k), KL(prior, learned), KL(mixture, prior, samples=2), Entropy(mixture, samples=3),
                Sum("l", step, steps=2), Mean("l", step, steps=3), Value("w") * Symbol("beta"),
                log(sg(Normal("p(y|x)", linear(3, 4), shape=2))),
            )),
            *((z, f) for f in (
                log(of_z), log(prior), log(q), log(r), log(learned), log(own), log(heavy), log(laplace), log(mixture),
                log(poe), log(moe), log(sg(q)), log(of_z * prior), KL(kz, pk),
            )),
            (z | {"m"}, log(of_m)), (z | {"m"}, log(of_m * of_z)), ({"d"}, Value("d")), ({"c"}, log(of_c)),
            ({"c"}, log(pc)), ({"c"}, log(c)), ({"c", "z"}, log(of_zc)), ({"k"}, log(of_k)), ({"k"}, log(k)),
            ({"k", "z"}, log(kz)), ({"s"}, log(of_s)), ({"s"}, log(s)), ({"s"}, log(ps)), ({"b"}, log(b)),
            ({"b"}, log(of_b)), ({"h_1"}, log(of_h)), ({"z'"}, log(of_other)), ({"z'"}, log(other)),
            ({"z'"}, log(second)),
        ]  # fmt: skip
        self.baselines = [Value("w"), Symbol("beta")]
        self.positive = [(z, ratio(of_z * prior, q)), (z, ratio(prior, sg(q))), ({"c"}, ratio(pc, c))]
        self.events = [(z, "z"), (z | {"m"}, "m"), ({"z'"}, "z'"), ({"h_1"}, "h_1"), ({"b"}, "b"), (set(), "y")]
        self.latents = (({"c"}, c), ({"k"}, k))
        score, ways = ("score",), (None, "score")
        self.draws = [
            (z, set(), q, (None, "score")), (z, set(), r, ways), (z, set(), prior, (None,)), (z, set(), own, ways),
            (z, set(), learned, ways), (z, set(), laplace, (None,)), (z, set(), sg(q), (None,)), (z, set(), poe, ways),
            (z, set(), moe, (None, "stratified")), ({"z'"}, set(), other, ways), ({"z'"}, set(), second, (None,)),
            ({"b"}, set(), b, (None,)), ({"c"}, set(), c, ("score", "straight-through", "exact", "gumbel")),
            ({"k"}, set(), k, (None, "score", "exact", "gumbel")), ({"s"}, set(), s, score), ({"s"}, set(), ps, score),
            ({"c"}, set(), pc, (None, "exact", "score")), ({"k"}, z, kz, (None, "score", "exact")),
            ({"z", "m"}, set(), q * m, (None, "score")), ({"m"}, z, m, (None,)), ({"d"}, z, d, (None,)),
            ({"h_1"}, set(), pair, (None,)), ({"z", "c"}, set(), q * c, score),
            ({"z", "m", "d"}, set(), m * q * d, ways), ({"z", "k"}, set(), q * kz, (None, "score", "exact")),
            ({"z", "z'"}, set(), r * other, (None, "score")),
        ]  # fmt: skip


class Temporal(Pool):
    """Series x [B, T, 3], a [B, T, 1], and y [B, 2]; carries h, z and k. Its formulas stand under `clocked`."""

    def __init__(self):
        torch.manual_seed(1)
        e = Deterministic("e_t = enc(x_t)", linear(3, 2), shape=2)
        h = Deterministic("h_t = f(h_{t-1}, z_{t-1}, a_{t-1})", join(5, 2), shape=2)
        q, k = Normal("q(z_t|h_t,e_t)", join(4, 4), shape=2), OneHot("q(k_t|e_t,k_{t-1})", join(5, 3), shape=3)
        pz, pk = Normal("p(z_t|h_t)", linear(2, 4), shape=2), OneHot("p(k_t|h_t)", linear(2, 3), shape=3)
        free, of_free = Normal("r(z'_t|x_t)", linear(3, 4), shape=2), Normal("p(x_t|z'_t)", linear(2, 6), shape=3)
        coin = Bernoulli("q(c_t|e_t)", linear(2, 2), shape=2)
        g, of_g = Normal("q(g|y)", linear(2, 4), shape=2), Normal("p(x_t|g)", linear(2, 6), shape=3)
        of_c, of_hz = Normal("p(x_t|c_t)", linear(2, 6), shape=3), Normal("p(x_t|h_t,z_t)", join(4, 6), shape=3)
        of_lag = Normal("p(x_t|x_{t-1},k_t)", join(6, 3), shape=3, scale=2.0)
        own = Normal("p_m(z_t)", Own(4), shape=2)
        core = Deterministic("o_l = f(o_{l-1}, u_l, x_t)", join(7, 2), shape=2)
        inner = Normal("q(u_l|o_{l-1},x_t)", join(5, 4), shape=2)
        self.world = e * h * q * k
        self.initial = {"h": nn.Parameter(torch.randn(2).double())}
        step = E(inner * core, KL(inner, Normal("p(u_l)", shape=2)) + 0.1 * norm2(Value("o_l")))
        self.leaves = [
            (set(), f) for f in (
                KL(q, pz), KL(sg(q), pz), KL(q, sg(pz)), KL(q, Normal("p(z_t)", shape=2)), log(pz), KL(k, pk),
                log(of_hz), E(g, log(of_g)), log(of_lag), log(own), KL(free, Normal("p(z'_t)", shape=2)),
                Value("w_t"), Symbol("beta"), KL(g, Normal("p(g)", shape=2)), Sum("l", step, steps=2),
                Mean("l", step, steps=2),
            )
        ] + [({"z'"}, log(of_free)), ({"c"}, log(coin)), ({"c"}, log(of_c))]  # fmt: skip
        self.latents = (({"c"}, coin),)
        self.baselines = [Value("w_t"), Symbol("beta")]
        self.positive = [(set(), ratio(pz, q))]
        self.events = [(set(), name) for name in ("z_t", "h_t", "e_t")] + [({"z'"}, "z'_t")]
        self.draws = [
            ({"z'"}, set(), free, (None, "score")), ({"c"}, set(), coin, ("score", "exact", "straight-through"))
        ]  # fmt: skip
        first, valid = torch.zeros(B, T, dtype=torch.bool), torch.ones(B, T, dtype=torch.bool)
        first[0, 2], valid[1, 0] = True, False
        series = {"x": torch.randn(B, T, 3), "a": torch.randn(B, T, 1), "w": torch.randn(B, T)}
        rest = {"y": torch.randn(B, 2), "beta": torch.tensor(0.3)}
        self.data = {key: v.double() for key, v in (series | rest).items()} | {"first": first, "valid": valid}

    def clocked(self, rng, step, *, reset=None):
        """The step over time, under a clock of any kind, or a plain one."""
        if rng is None:
            return Sum("t", E(self.world, step), reset=reset)
        how, burn_in = rng.choice((Sum, Mean)), rng.choice((0, 0, 1))
        flags = {"reset": rng.choice((None, "first")), "mask": rng.choice((None, "valid"))}
        initial = self.initial if rng.random() < 0.2 else None
        return how("t", E(self.world, step), burn_in=burn_in, initial=initial, **flags)


class Grower:
    """One random formula: ``Grower(pool, seed).grow(depth)``."""

    def __init__(self, pool, seed, *, expectations=True):
        self.pool, self.rng, self.names = pool, random.Random(seed), 0
        self.expectations = expectations

    def fitting(self, among, scope):
        return [item for needed, item in among if needed <= scope]

    def grow(self, depth, scope=frozenset()):
        """An expression of numbers per row, where the variables of ``scope`` are drawn."""
        if depth <= 0:
            return self.leaf(scope)
        rules = [self.arithmetic, self.arithmetic, self.arithmetic, self.function, self.function, self.other]
        rule = self.rng.choice(rules + [self.expectation] * (3 if self.expectations else 0))
        try:
            return rule(depth - 1, scope)
        except FormulaError:
            return self.leaf(scope)

    def leaf(self, scope):
        """A KL, a log-density, a value; an expectation where nothing is drawn yet, or something about an event."""
        if scope and self.rng.random() < 0.15:
            return self.event(scope)
        if not scope and self.expectations and self.rng.random() < 0.5:
            try:
                return self.expectation(0, scope)
            except FormulaError:
                pass
        return self.rng.choice(self.fitting(self.pool.leaves, scope))

    def event(self, scope):
        """A value with an event axis, reduced."""
        one, two = (Value(self.rng.choice(self.fitting(self.pool.events, scope)), 2) for _ in range(2))
        inside = self.rng.choice((lambda: one - two, lambda: tanh(one) * two, lambda: one + 2.0, lambda: abs(one)))()
        return self.rng.choice((norm2, total))(inside)

    def positive(self, depth, scope):
        """Something above zero, and not huge."""
        f = self.grow(depth, scope)
        ratios = [r + 0.1 for r in self.fitting(self.pool.positive, scope)]
        return self.rng.choice([exp(clamp(f, -2, 2)), softplus(f) + 0.1, sigmoid(f) + 0.5, abs(f) + 1, *ratios])

    def number(self):
        return self.rng.choice((2, -1, 0.5, 1.0, 0, -0.25, 3.0, 1e-05, 10))

    def arithmetic(self, depth, scope):
        """+ - * / max min of two expressions, or of one and a number."""
        a = self.grow(depth, scope)
        b = self.number() if self.rng.random() < 0.4 else self.grow(depth, scope)
        a, b = (b, a) if self.rng.random() < 0.2 else (a, b)
        ways = (lambda: a + b, lambda: a - b, lambda: a * b, lambda: maximum(a, b), lambda: minimum(a, b),
                lambda: a / self.positive(depth - 1, scope))  # fmt: skip
        found = self.rng.choice(ways)()
        return found if hasattr(found, "node") else self.leaf(scope)

    def function(self, depth, scope):
        """An elementwise function, or a power."""
        f = self.positive(depth, scope) if self.rng.random() < 0.4 else None
        if f is not None:
            return self.rng.choice((log, sqrt, lambda g: g**0.5, lambda g: g**-1, lambda g: g**1.5, lambda g: g))(f)
        ways = (
            tanh, sigmoid, softplus, relu, abs, lambda g: -g, lambda g: clamp(g, -3, None), lambda g: tanh(g) ** 3,
            lambda g: clamp(g, None, 5.0), lambda g: clamp(g, -10.0, 2), lambda g: clamp(g, -20, 20) ** 2,
        )  # fmt: skip
        return self.rng.choice(ways)(self.grow(depth, scope))

    def other(self, depth, scope):
        """Stop-gradient, or a name."""
        f = self.grow(depth, scope)
        if self.rng.random() < 0.5:
            return sg(f)
        self.names += 1
        return f.named(f"part{self.names}")

    def expectation(self, depth, scope):
        """E over something that is not drawn yet, by any of its estimators."""
        open_ = [d for d in self.pool.draws if not d[0] & scope and d[1] <= scope]
        if not open_:
            return self.leaf(scope)
        drawn, _, q, ways = self.rng.choice(open_)
        if self.rng.random() < 0.15 and hasattr(q, "fresh"):
            q = q.fresh()
        how, inside = self.rng.choice(ways), scope | drawn
        if (drawn, q) in self.pool.latents and self.rng.random() < 0.3:
            return self.least(depth, inside, q, drawn)
        random_ = any(u.factor.family is not None for u in as_uses(q))
        samples = self.rng.choice((None, None, 2, 3)) if random_ else None
        baseline = None
        if how == "score":
            baseline = self.rng.choice((None, "leave-one-out" if samples else None, *self.pool.baselines))
        if self.rng.random() < 0.2 and (how in ("exact", "stratified") or samples):
            return log(E(q, self.positive(depth, inside), how, samples=samples, baseline=baseline))
        body = self.grow(depth, inside)
        if set(ways) == {None, "score"} and drawn == {"z"} and samples and how is None and self.rng.random() < 0.1:
            return log(E(q, ratio(q, sg(q)) + 0.5, "dreg", samples=samples))
        return E(q, body, how, samples=samples, baseline=baseline)

    def least(self, depth, scope, latent, drawn):
        """The least, or the free, energy over the values of a latent, which it reads."""
        read = [item for needed, item in self.pool.leaves if drawn <= needed <= scope]
        energy = self.rng.choice(read) + 0.5 * clamp(self.grow(depth, scope), -5, 5)
        if self.rng.random() < 0.5:
            return Min(latent, energy)
        return FreeEnergy(latent, energy, beta=self.rng.choice((0.5, 1.0, 2.0)))
