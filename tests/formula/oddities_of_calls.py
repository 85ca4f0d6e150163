"""Oddities of settings, sizes, calls, time and networks: see `oddities`, which keeps the list."""

import functools
import time

import numpy as np
import torch
import torch.distributions as D
from torch import nn

import worldformula as wf
from tests.formula.examine import Fault
from tests.formula.oddities import ODDITIES, B, called, oddity, refused, runs, seeds
from worldformula.errors import WorldformulaError

__all__ = ["ODDITIES"]

# ----------------------------------------------------------------------------------------------- settings and numbers


@oddity("settings of all kinds")
def settings(rng):
    number = rng.choice((np.float64, np.float32, float, torch.tensor))
    family, name, value = rng.choice((("RelaxedBernoulli", "temperature", 0.5), ("OneHot", "unimix", 0.25),
                                      ("RelaxedOneHot", "temperature", 0.5), ("Uniform", "low", -1.0)))  # fmt: skip

    def build(kind):
        torch.manual_seed(0)
        made = getattr(wf, family)("q(z)", shape=3, **{name: kind(value)})
        return called(wf.E(made, wf.norm2(wf.Value("z", shape=3)) + 0 * wf.Value("d")), d=torch.zeros(B), seed=0)

    runs(lambda way="emitted": build(number)(way), build(float)(), f"{family} with {name} as {number.__name__}")


@oddity("numbers of NumPy as sizes")
def sizes(rng):
    q = wf.Normal("q(z|x)", nn.Linear(3, 4), shape=2)
    build = rng.choice((
        lambda: wf.E(wf.Normal("p(w)", shape=np.int64(2)), 0 * wf.norm2(wf.Value("w")) + wf.Value("d")),
        lambda: wf.E(q, 0 * wf.norm2(wf.Value("z")), samples=np.int64(2)) + wf.Value("d"),
        lambda: wf.clamp(wf.Value("d"), np.float64(-1), np.float64(1)),
        lambda: wf.Value("d") * np.float32(1),
    ))  # fmt: skip
    data = {"x": torch.zeros(B, 3), "d": torch.ones(B)}

    def call(way="emitted"):
        f = build()
        return called(f, **{k: data[k] for k in f.program.inputs})(way)

    runs(call, 1.0, "NumPy's numbers")


@oddity("numbers of the call in settings")
def symbols(rng):
    build = rng.choice((lambda s: wf.clamp(wf.Value("d"), None, s), lambda s: wf.Value("d") ** s,
                        lambda s: wf.E(wf.Normal("p(w)", shape=2, scale=s), wf.Value("d"))))  # fmt: skip
    runs(
        lambda way="emitted": called(build(wf.Symbol("tau")), d=torch.full((B,), 0.5), tau=1.0)(way),
        0.5,
        "a Symbol as a setting",
    )


@oddity("empty batches")
def empty(rng):
    q, p = wf.Normal("q(z|x)", nn.Linear(2, 4), shape=2), wf.Normal("p(x|z)", nn.Linear(2, 4), shape=2)
    bits, size = wf.log(wf.Bernoulli("p(x)", shape=2)).sum(), wf.norm2(wf.Value("z"))
    f = rng.choice((wf.E(q, wf.log(p), samples=2), wf.E(q, wf.log(p)), bits, wf.E(q, size, samples=2)))
    for way in ("emitted", "interpreted"):
        try:
            called(f, x=torch.zeros(0, 2))(way)
        except WorldformulaError:
            continue
        except Exception as error:
            raise Fault("oddity, crash", f"{f!r} of no rows: {type(error).__name__} {str(error)[:120]}") from error


@oddity("pixels as bytes")
def images(rng):
    """What an encoder divides by 255 the likelihood does not score as it is."""
    x = torch.randint(256, (B, 4), dtype=torch.uint8)
    p = wf.Bernoulli("p(x|z)", nn.Linear(2, 4), shape=4)
    q = wf.Normal("q(z|x)", _Bytes(), shape=2)
    refused(called(wf.E(q, wf.log(p)), x=x), "Bernoulli of bytes")


class _Bytes(nn.Module):
    """Reads bytes as most image encoders do."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 4)

    def forward(self, x):
        return self.net(x.float() / 255)


@oddity("data called as an option of the call")
def option(rng):
    name = rng.choice(("present", "seed", "noise", "start", "deterministic"))
    refused(lambda: wf.Value(name, shape=())(**{name: torch.ones(B)}).value, f"data called {name}", 1.0)


@oddity("flags of presence with event axes")
def wide_flags(rng):
    f = wf.log(wf.Normal("p(x)", shape=2))
    flags = torch.tensor([[True, False]] * B)
    x = torch.zeros(B, 2)
    try:
        f(x=x, present={"x": flags})
    except WorldformulaError as error:
        if "present" not in str(error):
            raise Fault("oddity", f"flags [B, D] are refused by {str(error)[:100]!r}") from error
    except RuntimeError as error:
        raise Fault("oddity, crash", f"flags [B, D] of present=: {str(error)[:100]}") from error
    else:
        raise Fault("oddity", "flags [B, D] of present= are taken")


@oddity("the noise of a variable under its name")
def noise_names(rng):
    name = rng.choice(("s", "loc", "scale", "raw", "logits", "flags", "carry", "z"))
    f = wf.E(wf.Normal(f"q({name}|x)", nn.Linear(3, 4), shape=2), wf.norm2(wf.Value(name)))
    if (names := list(f.noise(x=torch.zeros(B, 3)))) != [name]:
        raise Fault("oddity", f"the noise of {name} is called {names}")


@oddity("building is linear")
def linear(rng):
    """Twice the depth, or twice the terms, costs about twice as much, by the processor's clock."""
    deep = rng.random() < 0.5

    def cost(n):
        f = wf.Value("d")
        for i in range(n):
            f = wf.tanh(f) * 0.5 + 0.1 if deep else f + wf.log(wf.Normal(f"p_{i}(x)", shape=2))
        begin = time.process_time()
        _ = f.code
        return time.process_time() - begin

    cost(2)
    short, long = (min(cost(n) for _ in range(3)) for n in ((2, 5) if deep else (5, 12)))
    if long > 10 * short + 0.05:
        raise Fault(
            "oddity",
            f"code of a formula of {'5 for 2 levels' if deep else '12 for 5 terms'}: {long:.3f} for {short:.3f} s",
        )


@oddity("hundreds of numbers")
def hundreds(rng):
    f = sum([1.0] * 400, wf.Value("d"))
    runs(called(f, d=torch.zeros(B)), 400.0, "a sum of 400 numbers")


# ---------------------------------------------------------------------------------------------------------------- time


@oddity("a missing series read whole")
def whole(rng):
    """It has one flag a row, also where B = T; what reads it step by step beside that has other flags."""
    seeds(rng)
    T = rng.choice((2, B))
    q = wf.Normal("q(z|a_{1:T})", _MeanOf(), shape=2)
    r = wf.Normal("r(z|b)", nn.Linear(2, 4), shape=2)
    prior = wf.Normal("p(z)", shape=2)
    e = wf.PoE([prior, q, r])
    f = wf.KL(e, prior)
    a, b = torch.randn(B, T, 3), torch.randn(B, 2)
    flags = torch.tensor([True, False, True])
    with torch.no_grad():
        lone, heard = r.params(b), q.params(a)
        weight = 1 + lone[1] ** -2 + torch.where(flags[:, None], heard[1] ** -2, 0)
        mean = (lone[0] * lone[1] ** -2 + torch.where(flags[:, None], heard[0] * heard[1] ** -2, 0)) / weight
        right = D.kl_divergence(D.Normal(mean, weight**-0.5), D.Normal(0.0, 1.0)).sum(-1)
    dirty = a.where(flags[:, None, None], float("nan"))
    what = f"a whole series of {T} steps that one row lacks"
    runs(called(f, a=dirty, b=b, present={"a": flags}), right, what)
    p = wf.Normal("p(a_t|z)", nn.Linear(2, 6), shape=3)
    for shown in (flags, flags[:, None].expand(B, T)):
        both = f + 0 * wf.E(e, wf.Sum("t", wf.log(p)))
        refused(called(both, a=dirty, b=b, present={"a": shown}, seed=0), f"{what}, and others read step by step")


class _MeanOf(nn.Module):
    """The mean of a series, to a head."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 4)

    def forward(self, x):
        return self.net(x.mean(1))


@oddity("the index as a number")
def index(rng):
    t, tau, d = (wf.Value(name, shape=()) for name in ("t", "tau", "d_t"))
    f = wf.Sum("tau", tau, steps=3) if rng.random() < 0.5 else wf.Sum("t", t * d)
    data = {"d": torch.ones(B, 3)} if "d" in f.program.inputs else {}
    runs(called(f, **data), 6.0, repr(f))


@oddity("networks behind functions")
def behind(rng):
    net = nn.Linear(3, 4)
    hidden = rng.choice((net.forward, lambda x: net(x) + 0, lambda x, net=net: 1 * net(x), functools.partial(net)))
    try:
        f = wf.log(wf.Normal("p(z|x)", hidden, shape=2))
    except WorldformulaError:
        return
    if not any(p is net.weight for p in f.parameters()):
        raise Fault("oddity", "the weights of a network behind a function are no parameters of the formula")
