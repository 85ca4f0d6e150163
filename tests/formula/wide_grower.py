"""Random formulas over all families, and over what all rows share: `grower` with other things to grow from."""

import contextlib

import torch
from torch import nn

from tests.formula.grower import B, Grower, Own, Static, linear
from worldformula import (
    KL,
    Beta,
    Binomial,
    Dirichlet,
    E,
    Gamma,
    Geometric,
    Laplace,
    LogisticNormal,
    LogNormal,
    Mixture,
    Multinomial,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    Poisson,
    RelaxedOneHot,
    StudentT,
    Sum,
    Symbol,
    TanhNormal,
    TruncatedNormal,
    Uniform,
    Value,
    VonMises,
    VonMisesFisher,
    ZeroInflated,
    exp,
    log,
    norm2,
)
from worldformula.errors import FormulaError

CONTINUOUS = {  # letter: family, features of its head, settings
    "a": (TanhNormal, 4, {}), "e": (Gamma, 4, {}), "f": (LogNormal, 4, {}), "g": (TruncatedNormal, 4, {}),
    "i": (VonMisesFisher, 3, {}), "j": (LogisticNormal, 2, {}), "l": (Beta, 4, {}), "n": (Dirichlet, 2, {}),
    "o": (VonMises, 4, {}), "r": (RelaxedOneHot, 2, {"temperature": 0.7}), "t": (MultivariateNormal, 5, {}),
}  # fmt: skip
COUNTS = {
    "b": (Binomial, 2, {"total_count": 4}), "c": (Geometric, 2, {}), "d": (Poisson, 2, {}),
    "h": (NegativeBinomial, 4, {}), "k": (Multinomial, 2, {"total_count": 4}),
    "m": (ZeroInflated, 4, {"family": Poisson}), "q": (ZeroInflated, 4, {"family": Geometric}),
}  # fmt: skip


class Wide(Static):
    """x [B, 3], y [B, 2]; a latent of every family; s, which all rows share; u of a mixture of unlike families."""

    def __init__(self):
        torch.manual_seed(2)
        x, both = torch.randn(B, 3), ("score",)
        data = {"x": x, "y": torch.rand(B, 2), "w": torch.randn(B), "beta": torch.tensor(0.3), "N": torch.tensor(7.0)}
        self.data = {key: value.double() for key, value in data.items()}
        self.leaves, self.draws, self.events = [(set(), Value("w")), (set(), Symbol("beta"))], [], [(set(), "y")]
        self.positive, self.latents, self.baselines = [], (), [Value("w"), Symbol("beta")]
        self.plates = ["all", 12, Symbol("N")]
        for letter, (family, features, settings) in {**CONTINUOUS, **COUNTS}.items():
            self.latent(letter, family, features, settings, (None,) if letter in CONTINUOUS else both)
        kinds = Mixture("q(u|x)", linear(3, 17), components=[Normal, Laplace, StudentT], shape=2)
        alike = Mixture("p(u)", components=2, shape=2, loc=torch.randn(2, 2).double(), scale=1.0)
        self.add("u", kinds, alike, both)
        box = Uniform("q(v|x)", low=-1.0, high=1.0, shape=2)
        self.draws.append(({"v"}, set(), box, (None,)))
        self.leaves.append(({"v"}, log(Normal("p(y|v)", linear(2, 4), shape=2))))
        weight, prior = Normal("q(s)", Own(4), shape=2, shared=True), Normal("p(s)", shape=2, shared=True)
        self.shared = (weight, prior)
        read = Normal("p(y|x,s)", lambda x, s: {"loc": x[..., :2] * s, "scale": torch.ones_like(x[..., :2])}, shape=2)
        self.leaves += [
            ({"s"}, log(read)),
            ({"s", "v"}, log(read) + 0.5 * norm2(Value("v"))),
            (set(), KL(weight, prior)),
        ]
        self.draws.append(({"s"}, set(), weight, (None, "score")))

    def latent(self, letter, family, features, settings, ways):
        """q from x, p with parameters of its own, and y given it."""
        q = family(f"q({letter}|x)", nn.Sequential(linear(3, features), nn.Tanh()), shape=2, **settings)
        self.add(letter, q, family(f"p({letter})", Own(features), shape=2, **settings), ways)

    def add(self, letter, q, p, ways):
        self.draws += [({letter}, set(), q, ways), ({letter}, set(), p, ways)]
        of = Normal(f"p(y|{letter})", nn.Sequential(linear(2, 4), nn.Tanh()), shape=2)
        apart = KL(q, p, samples=2) if None in ways else E(q, log(q) - log(p), gradient="score", samples=2)
        self.leaves += [({letter}, log(q)), ({letter}, log(p)), ({letter}, log(of)), (set(), apart)]
        with contextlib.suppress(FormulaError):  # where the KL has a closed form
            self.leaves.append((set(), KL(q, p)))
        self.events.append(({letter}, letter))


class WideGrower(Grower):
    """One random formula over `Wide`, in which rows may be summed."""

    def other(self, depth, scope):
        """As before, or a sum over the rows where no row has drawn anything of its own yet."""
        if self.rng.random() < 0.5 and scope <= {"s"}:
            return Sum("n", self.grow(depth, scope), rows=self.rng.choice(self.pool.plates))
        return super().other(depth, scope)

    def bound(self):
        """What is known of all rows, by weights that they share."""
        weight, prior = self.pool.shared
        rows = Sum("n", self.grow(2, frozenset({"s"})), rows=self.rng.choice(self.pool.plates))
        if self.rng.random() < 0.3:
            return log(E(weight, exp(0.01 * rows + log(prior) - log(weight)), samples=3))
        return E(weight, rows) - KL(weight, prior)
