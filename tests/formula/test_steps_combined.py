"""Steps further back, the number of the step and starts beside what else a sum over time can hold, under four laws: the
interpreter is the code, a reset is a sequence of its own, a chunk goes on, and a row knows no other row.
"""

import itertools

import pytest
import torch
from torch import nn

from worldformula import KL, Deterministic, E, MoE, Normal, OneHot, Sum, Symbol, Value, log, norm2
from worldformula.nets.window import WindowMLP


@pytest.fixture(autouse=True)
def double():
    """In double precision: two ways to sum differ in single precision by as much as a wrong term may."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


X = 2


class Net(nn.Module):
    """Conditions, concatenated, to a head; a number gets an axis."""

    def __init__(self, *inputs, out=2 * X):
        super().__init__()
        self.layers = nn.Linear(sum(inputs), out)

    def forward(self, *conditions):
        return self.layers(torch.cat([c[..., None] if c.ndim == 1 else c for c in conditions], -1)).tanh()


def second(**options):
    """A state of the second order, drawn, and a prior of the third behind the loop."""
    q = Normal("q(z_t|z_{t-1},z_{t-2},x_t)", Net(X, X, X), shape=X)
    prior = Normal("p(z_t|z_{t-3},u_{t-2},t)", Net(X, X, 1), shape=X)
    decode = Normal("p(x_t|z_t,z_{t-1},x_{t-2})", Net(X, X, X, out=X), shape=X, scale=1.0)
    return Sum("t", E(q, KL(q, prior) - log(decode)), **options)


def samples(**options):
    """Draws that lead nowhere, five a step, beside data further back and a discount."""
    q = Normal("q(z_t|x_t,x_{t-2})", Net(X, X), shape=X)
    decode = Normal("p(x_t|z_t,u_{t-3},t)", Net(X, X, 1, out=X), shape=X, scale=1.0)
    return Sum("t", Symbol("gamma") ** (Value("t") - 1) * E(q, log(decode), samples=5), **options)


def discrete(**options):
    """Every class of a step, beside a computed state of the second order."""
    core = Deterministic("z_t = f(z_{t-1},z_{t-2},u_{t-1})", Net(X, X, X, out=X), shape=X)
    kind = OneHot("q(k_t|x_t,x_{t-1})", Net(X, X, out=3), shape=3)
    decode = Normal("p(x_t|k_t,z_{t-2},t)", Net(3, X, 1, out=X), shape=X, scale=1.0)
    return Sum("t", E(core, E(kind, log(decode), gradient="exact")), **options)


def windows(**options):
    """A window of what is drawn, beside the draws two steps before."""
    seen = Deterministic("w_t = g(x_{t-2:t})", WindowMLP(X, X, context=3), shape=X)
    q = Normal("q(z_t|w_t,z_{t-2})", Net(X, X), shape=X)
    return Sum("t", E(seen * q, norm2(Value("z_t") - 2 * Value("z_{t-1}") + Value("z_{t-2}")) - log(q)), **options)


def parts(**options):
    """Iterations inside a step, with the number of both."""
    core = Deterministic("z_t = f(z_{t-1},z_{t-2},x_t)", Net(X, X, X, out=X), shape=X)
    part = Normal("p(x_t|z_t,z_{t-2})", Net(X, X, out=X), shape=X, scale=1.0)
    return Sum("t", E(core, Sum("l", Value("l") * Value("t") * log(part), steps=2)), **options)


def mixed(**options):
    """A mixture of a look one step back and one two steps back."""
    experts = MoE([Normal(f"q(z_t|x_{{t-{k}}})", Net(X), shape=X) for k in (1, 2)])
    return Sum("t", E(experts, log(Normal("p(x_t|z_t,t)", Net(X, 1, out=X), shape=X, scale=1.0))), **options)


STARTS = {
    "none": lambda: None,
    "drawn": lambda: Normal("p(z_0)", shape=X, loc=nn.Parameter(torch.ones(X)), scale=0.5),
    "row": lambda: Deterministic("z_0 = e(x_1)", Net(X, out=X), shape=X),
    "two": lambda: (
        Normal("q(z_0|x_1)", Net(X), shape=X) * Deterministic("z_m1 = e(x_1,z_0)", Net(X, X, out=X), shape=X)
    ),
}
CASES = [
    *itertools.product((second, discrete, parts, windows), STARTS),
    *((build, "none") for build in (samples, mixed)),
]


def part(noise, rows, steps):
    """The noise of some rows and steps; samples have an axis in front."""
    return {k: n[..., rows, steps, :] for k, n in noise.items()}


def chosen(build, start, **options):
    torch.manual_seed(0)
    if start != "none":
        begin, lags = STARTS[start](), 2 if build is second else 1
        older = [f"z_m{lag}" for lag in range(1 + (start == "two"), 1 + lags)]  # zeros, as nothing else says
        options["initial"] = {"z": begin, **{key: torch.zeros(X) for key in older}}
    return build(**options)


def data(loss, rows, steps, **more):
    """What the formula reads, of random numbers."""
    batch = {"x": torch.randn(rows, steps, X), "u": torch.randn(rows, steps, X), "gamma": 0.9} | more
    return {k: v for k, v in batch.items() if k in loss.program.inputs}


@pytest.mark.parametrize(("build", "start"), CASES, ids=lambda case: getattr(case, "__name__", case))
@pytest.mark.parametrize(("rows", "steps"), [(3, 6), (1, 2), (2, 1)])
def test_the_laws(build, start, rows, steps):
    alone, loss = chosen(build, start), chosen(build, start, reset="first")
    first = (torch.rand(rows, steps) < 0.4).float()
    batch = data(loss, rows, steps, first=first)
    noise = loss.noise(**batch, generator=torch.Generator().manual_seed(1))
    out, told = loss(**batch, noise=noise), loss.interpret(**batch, noise=noise)
    torch.testing.assert_close(out.value, told.value)
    weights = [w for w in loss.parameters() if w.requires_grad]
    both = [torch.autograd.grad(o.value.sum(), weights, materialize_grads=True) for o in (out, told)]
    for got, right in zip(*both, strict=True):
        torch.testing.assert_close(got, right)
    assert any(g.abs().sum() > 0 for g in both[0])
    series = {k: v for k, v in batch.items() if isinstance(v, torch.Tensor) and k != "first"}
    rest = {k: v for k, v in batch.items() if not isinstance(v, torch.Tensor)}
    begun = {"z_0", "z_m1"} & set(noise)
    for b in range(rows):
        cuts = sorted({0, *first[b].nonzero().flatten().tolist(), steps})
        total = torch.zeros(())
        for i, j in itertools.pairwise(cuts):
            own = part(noise, slice(b, b + 1), slice(i, j))
            own |= {k: own[k][..., 0, :] for k in begun}
            total = total + alone(**{k: v[b : b + 1, i:j] for k, v in series.items()}, **rest, noise=own).value.sum()
        torch.testing.assert_close(out.value[b], total)


@pytest.mark.parametrize(("build", "start"), CASES, ids=lambda case: getattr(case, "__name__", case))
@pytest.mark.parametrize("cut", [1, 2, 5])
def test_a_chunk_goes_on(build, start, cut):
    if build is windows:
        pytest.skip("a start holds the last step alone, not the window")
    loss = chosen(build, start, reset="first")
    batch = data(loss, 3, 6, first=(torch.rand(3, 6) < 0.4).float())
    noise = loss.noise(**batch, generator=torch.Generator().manual_seed(1))
    whole = loss(**batch, noise=noise)

    def cut_out(steps):
        return {k: v[:, steps] if isinstance(v, torch.Tensor) else v for k, v in batch.items()}

    head = loss(**cut_out(slice(0, cut)), noise=part(noise, slice(None), slice(0, cut)))
    for run in (loss, loss.interpret):
        tail = run(**cut_out(slice(cut, 6)), noise=part(noise, slice(None), slice(cut, 6)), start=head.last)
        torch.testing.assert_close(head.value + tail.value, whole.value)
        torch.testing.assert_close(tail.last, whole.last)
