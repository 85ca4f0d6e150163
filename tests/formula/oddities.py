"""What a specification does not reach, drawn at random in small: each asks for one right value, or for a refusal.

An oddity is a function of a `random.Random` that raises `Fault`; its name in `ODDITIES` is the feature that it tries.
"""

import itertools
import math

import torch
import torch.distributions as D
from torch import nn

import worldformula as wf
from tests.formula.examine import Fault
from tests.formula.soil import Join
from worldformula.errors import WorldformulaError

B = 3
ODDITIES = {}


def oddity(name):
    def keep(function):
        ODDITIES[name] = function
        return function

    return keep


def expect(value, right, what, rtol=1e-6):
    value, right = torch.as_tensor(value).detach().double(), torch.as_tensor(right).detach().double()
    if not torch.allclose(*torch.broadcast_tensors(value, right), rtol=rtol, atol=rtol):
        raise Fault("oddity", f"{what}: {value.tolist()} for {right.tolist()}")


def refused(build, what, otherwise=None):
    """The formula, or its first call, is refused; or its value is ``otherwise``, where there is one."""
    try:
        value = build()
    except WorldformulaError:
        return
    except Exception as error:
        raise Fault("oddity, crash", f"{what}: {type(error).__name__} {str(error)[:150]}") from error
    if otherwise is None:
        raise Fault(
            "oddity", f"{what}: {torch.as_tensor(value).detach().flatten()[:3].tolist()} came, expected a refusal"
        )
    expect(value, otherwise, what)


def runs(build, right, what):
    """Emitted code and interpreter give the right value; a refusal is a fault too."""
    for way in ("emitted", "interpreted"):
        try:
            value = build(way)
        except Exception as error:
            raise Fault("oddity, crash", f"{what}: {type(error).__name__} {str(error)[:150]}") from error
        expect(value, right, f"{what}, {way}", 1e-5)


def called(f, **data):
    return lambda way="emitted": (f if way == "emitted" else f.interpret)(**data).value


def seeds(rng):
    torch.manual_seed(rng.randrange(10**6))


# ------------------------------------------------------------------------------------------------- names and elements


@oddity("two indices of one name")
def two_indices(rng):
    seeds(rng)
    a, b = rng.sample(("x_a", "x_b", "x_u", "x"), 2)
    try:
        f = wf.log(wf.Normal(f"p({a})", shape=2)) + wf.log(wf.Normal(f"p({b})", shape=2, scale=2.0))
        _ = f.program
    except WorldformulaError:
        return
    one, two = torch.randn(B, 2), torch.randn(B, 2)
    right = D.Normal(0, 1).log_prob(one).sum(-1) + D.Normal(0, 2).log_prob(two).sum(-1)
    if len(f.program.inputs) < 2:
        raise Fault("oddity", f"{f!r} reads {f.program.inputs} only")
    runs(called(f, **{a: one, b: two}), right, repr(f))


@oddity("elements joined to a density")
def elements(rng):
    seeds(rng)
    p, m = wf.Normal("p(x)", shape=4), wf.Value("m", shape=4)
    x, mask = torch.randn(B, 4), torch.rand(B, 4)
    op = rng.choice((lambda: wf.total(m * wf.log(p)), lambda: wf.total(m + wf.log(p)), lambda: wf.total(wf.log(p) / m)))
    refused(lambda: op()(x=x, m=mask).value, "total of elements and a density")


@oddity("parts named alike")
def alike(rng):
    p = wf.log(wf.Normal("p(x)", shape=2))
    refused(lambda: (p.named("a") + (2 * p).named("a"))(x=torch.zeros(B, 2)).value, "two parts called a")


@oddity("global latents told")
def told(rng):
    """A latent without conditions is drawn for every row: a sum over the rows inside its E is refused."""
    w, p = wf.Normal("p(w)", shape=2), wf.log(wf.Normal("p(x|w)", nn.Linear(2, 4), shape=2))
    samples = rng.choice((None, 2, 5))
    if "one per row" not in (f := wf.E(w, p, samples=samples)).explain():
        raise Fault("oddity", f"explain() of {f!r} does not tell that w is drawn one per row")
    refused(lambda: wf.E(w, wf.exp(p.sum()), samples=samples)(x=torch.zeros(B, 2)).value, "a sum over rows inside E")


# ------------------------------------------------------------------------------------------------ estimators and draws


@oddity("score over inner steps")
def score_in_steps(rng):
    """The mean gradient over all draws, weighted by their probabilities, is that of the enumerated expectation."""
    seeds(rng)
    steps, reads = rng.choice((2, 3)), rng.random() < 0.5
    u = wf.Bernoulli("q(u_l|c_{l-1},x)", Join(4, 1), shape=1)
    core = wf.Deterministic("c_l = f(c_{l-1}, u_l)", Join(2, 1), shape=1)
    p = wf.Normal("p(x|c_L)", Join(1, 3), shape=3, scale=1.0)
    x = torch.randn(1, 3).double()
    try:
        f = wf.Sum("l", wf.E(u * core, wf.norm2(wf.Value("c_l")), gradient="score"), steps=steps)
        f = f - wf.log(p) if reads else f
        names = list(f.noise(x=x))
    except WorldformulaError:
        return
    exact, mean = torch.zeros(()).double(), 0.0
    weights = [*u.parameters(), *core.parameters(), *(p.parameters() if reads else ())]
    for bits in itertools.product((0.0, 1.0), repeat=steps):
        c, logq, value = torch.zeros(1, 1).double(), torch.zeros(()).double(), torch.zeros(()).double()
        for bit in bits:
            logits = u.net(c, x)
            logq = logq + D.Bernoulli(logits=logits).log_prob(torch.full_like(logits, bit)).sum()
            c = core.net(c, torch.full((1, 1), bit).double())
            value = value + c.square().sum()
        value = value - D.Normal(p.net(c), 1.0).log_prob(x).sum() if reads else value
        exact = exact + logq.exp() * value
        noise = {n: torch.full((1, 1), 1e-9 if bit else 1 - 1e-9).double() for n, bit in zip(names, bits, strict=True)}
        one = torch.autograd.grad(f(x=x, noise=noise).value.sum(), weights)
        mean = mean + logq.exp().detach() * torch.cat([g.flatten() for g in one])
    right = torch.cat([g.flatten() for g in torch.autograd.grad(exact, weights)])
    expect(mean, right, f"mean gradient of {f!r}")


@oddity("power of an expectation")
def powers(rng):
    q, f = wf.Normal("q(z|x)", nn.Linear(3, 4), shape=2), wf.norm2(wf.Value("z", shape=2))
    e = wf.E(q, f)
    build = rng.choice((lambda: e**2, lambda: wf.E(q, f * f) - e**2, lambda: e**3))
    refused(lambda: build()(x=torch.zeros(B, 3)).value, "a power of E, as E * E is refused")


@oddity("draws without parameters")
def parameterless(rng):
    """Nothing learns in this draw, which the E cannot know: it asks for an estimator, and any gives the value."""
    q = wf.Categorical("q(k|x)", lambda x: {"probs": x}, shape=(), classes=3)
    x = torch.rand(B, 3).softmax(-1)
    p = wf.Normal("p(y|k)", nn.Embedding(3, 4), shape=2)
    data = {"x": x, "y": torch.randn(B, 2)}
    what = "E over a Categorical of given probabilities"

    def unnamed():
        return (0 * wf.E(q, wf.log(p)))(**data).value

    refused(unnamed, what, 0.0)
    loc, raw = p.net.weight.chunk(2, -1)
    each = D.Normal(loc, nn.functional.softplus(raw)).log_prob(data["y"][:, None]).sum(-1)
    runs(called(wf.E(q, wf.log(p), gradient="exact"), **data), (x * each).sum(-1), what)


@oddity("data beside a stopped factor")
def beside(rng):
    q, data = wf.Normal("q(z|x)", nn.Linear(3, 4), shape=2), wf.Data("p_data(x)", shape=3)
    f = 0 * wf.norm2(wf.Value("z", shape=2))
    build = rng.choice(
        (lambda: wf.E(data * wf.sg(q), f), lambda: wf.E(wf.sg(q) * wf.sg(wf.Normal("p(w)", shape=2)), f))
    )
    runs(lambda way="emitted": called(build(), x=torch.zeros(B, 3))(way), 0.0, "a product with sg(q)")


@oddity("a constant expert in each")
def constant_expert(rng):
    prior, q = wf.Normal("p(z)", shape=2), wf.Normal("q(z|x)", nn.Linear(3, 4), shape=2)
    other = wf.Normal("r(z)", shape=2, loc=torch.ones(2)) if rng.random() < 0.5 else prior
    mix, x = wf.MoE([q, other]), torch.randn(B, 3)
    loc, scale = q.params(x)
    right = D.kl_divergence(D.Normal(loc, scale), D.Normal(0.0, 1.0)).sum(-1) / 2 + (0.5 if other is not prior else 0)
    runs(lambda way="emitted": called(wf.each(mix, lambda e: wf.KL(e, prior)), x=x)(way), right, "each over a constant")


# ------------------------------------------------------------------------------------------ parameters and their sets


@oddity("what is learnt leaves its set")
def leaves(rng):
    """What training moves far stays in its set; where it would not, it is refused."""
    family, name = rng.choice((("Normal", "scale"), ("Gamma", "rate"), ("StudentT", "df"), ("Laplace", "scale")))
    raw = nn.Parameter(torch.ones(3))
    refused(lambda: getattr(wf, family)("p(x)", shape=3, **{name: raw}), f"{name}= of {family} as an nn.Parameter")
    kept = wf.positive(nn.Parameter(torch.ones(3)))
    f = wf.log(getattr(wf, family)("p(x)", shape=3, **{name: kept})).mean()
    with torch.no_grad():
        next(f.parameters()).sub_(rng.choice((2.0, 20.0)))
    value = f(x=torch.full((B, 3), 0.5)).value
    if not value.isfinite():
        raise Fault("oddity", f"{name}= of {f!r} left its set: {value.item()}")


OUTSIDE = (
    ("Bernoulli", {"logits": 0.0}, 255.0), ("Bernoulli", {"logits": 0.0}, -1.0), ("Gamma", {}, -3.0), ("Beta", {}, 3.0),
    ("Poisson", {}, 2.5), ("Poisson", {}, -1.0), ("LogNormal", {}, -1.0), ("OneHot", {}, 1.0), ("Dirichlet", {}, 0.9),
    ("NegativeBinomial", {}, 0.5),
)  # fmt: skip
WRONG = (
    ("Bernoulli", {"probs": torch.tensor([1.1, 0.5, 0.5])}), ("Normal", {"scale": torch.tensor([1.0, -1.0, 1.0])}),
    ("Uniform", {"low": torch.ones(3), "high": torch.zeros(3)}), ("OneHot", {"probs": torch.tensor([0.9, 0.9, -0.8])}),
    ("MultivariateNormal", {"loc": torch.zeros(3), "scale_tril": torch.ones(3, 3).triu()}),
    ("MultivariateNormal", {"loc": torch.zeros(3), "scale_tril": -torch.eye(3)}), ("Gamma", {"rate": -torch.ones(3)}),
)  # fmt: skip


@oddity("values outside the support")
def outside(rng):
    family, given, value = rng.choice(OUTSIDE)
    f = wf.log(getattr(wf, family)("p(x)", shape=3, **given))
    x = torch.full((B, 3), value)
    refused(called(f, x=x), f"log of {family} at {value}", -math.inf)


@oddity("classes outside the support")
def classes(rng):
    head = rng.choice((nn.Linear(2, 3), None))
    f = wf.log(wf.Categorical("p(k|x)" if head else "p(k)", head, shape=(), classes=3))
    data = {"x": torch.zeros(B, 2), "k": torch.full((B,), rng.choice((3, 99, -1)))}
    refused(called(f, **{n: data[n] for n in f.program.inputs}), f"{f!r} at {data['k'][0]}", -math.inf)


@oddity("parameters outside their sets")
def wrong(rng):
    family, given = rng.choice(WRONG)

    def call():
        return called(wf.log(getattr(wf, family)("p(x)", shape=3, **given)), x=torch.zeros(B, 3))()

    refused(call, f"{family} of {given}")


@oddity("learnt conditions")
def held(rng):
    """Values that a condition is held at and that learn are parameters of the formula."""
    x = nn.Parameter(torch.randn(3))
    f = wf.log(wf.Normal("p(z|x)", nn.Linear(3, 4), shape=2).condition(x=x))
    if not any(p is x for p in f.parameters()):
        raise Fault("oddity", "an nn.Parameter in .condition(x=...) is no parameter of the formula")
