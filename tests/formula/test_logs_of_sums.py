"""The logarithm of a sum of expectations takes none of their exponentials; of draws without any weight it is −∞ with
the gradient 0; its baseline is one of values where these are no densities. Beside sums by hand.
"""

import math

import numpy as np
import pytest
import torch
from torch import nn

from worldformula import (
    Bernoulli,
    Categorical,
    Deterministic,
    E,
    Normal,
    Sum,
    Uniform,
    Value,
    exp,
    log,
    ratio,
    sg,
)
from worldformula.formula.sums import log_weighted_sum, logsumexp

PIXELS, K, ROWS, INF = 784, 4, 3, math.inf
DOUBLE = torch.float64


@pytest.fixture
def made():
    torch.manual_seed(0)
    q = [Normal(f"q_{i}(z_{i}|x)", nn.Linear(PIXELS, 4).double(), shape=2) for i in (1, 2)]
    net = nn.Linear(2, PIXELS).double()
    p = [Bernoulli(f"p(x|z_{i})", net, shape=PIXELS) for i in (1, 2)]
    prior = [Normal(f"p(z_{i})", shape=2) for i in (1, 2)]
    x = (torch.rand(ROWS, PIXELS, dtype=DOUBLE) < 0.5).double()
    return [ratio(a * b, c) for a, b, c in zip(p, prior, q, strict=True)], q, net, x


def log_weights(q, net, x, z):
    """log p(x|z) + log p(z) − log q(z|x) of draws, by torch.distributions in float64."""
    loc, raw = q.net(x).chunk(2, -1)
    normal = torch.distributions.Normal
    inside = torch.distributions.Bernoulli(logits=net(z)).log_prob(x).sum(-1) + normal(0.0, 1.0).log_prob(z).sum(-1)
    return inside - normal(loc, nn.functional.softplus(raw)).log_prob(z).sum(-1)


def summed(logs, weights):
    """log Σ c·mean eˣ; the largest is taken out."""
    top = torch.stack([x.detach().amax(0) for x in logs]).amax(0)
    return top + sum(c * (x - top).exp().mean(0) for c, x in zip(weights, logs, strict=True)).log()


FORMS = {
    "halves": (lambda a, b: 0.5 * a + 0.5 * b, (0.5, 0.5)),
    "sum": (lambda a, b: a + b, (1.0, 1.0)),
    "weights": (lambda a, b: (0.3 * a + 0.7 * b) / 2, (0.15, 0.35)),
    "named": (lambda a, b: (0.25 * a).named("first") + 0.75 * b.named("second"), (0.25, 0.75)),
    "of the call": (lambda a, b: Value("m") * a + (1 - Value("m")) * b, None),
    "difference": (lambda a, b: a - 0.001 * b, (1.0, -0.001)),
    "negative": (lambda a, b: -(0.001 * b - a), (1.0, -0.001)),
    "with a number": (lambda a, b: a + b + 0.0, (1.0, 1.0)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("samples", [1, K])
def test_a_sum_of_expectations_of_some_hundred_pixels(made, form, samples):
    (first, second), q, net, x = made
    build, weights = FORMS[form]
    formula = log(build(E(q[0], first, samples=samples), E(q[1], second, samples=samples)))
    given = {"x": x} | ({} if weights else {"m": torch.tensor([0.0, 0.25, 1.0], dtype=DOUBLE)})
    weights = weights or (given["m"], 1 - given["m"])
    if form in ("difference", "negative"):  # the sign of which is told by the numbers
        given |= {"noise": {"z_1": torch.zeros(samples, ROWS, 2, dtype=DOUBLE)}}
        given["noise"]["z_2"] = given["noise"]["z_1"] + 3.0
        with torch.no_grad():
            net.weight.mul_(0.05)
    else:
        given |= {"noise": formula.noise(x=x, **({"m": given["m"]} if "m" in given else {}))}
    out = formula(**given)
    nets = [q[0].net, q[1].net, net]
    weights_of = [n.weight for n in nets]
    logs = []
    for factor, key in zip(q, ("z_1", "z_2"), strict=True):
        loc, raw = factor.net(x).chunk(2, -1)
        logs.append(log_weights(factor, net, x, loc + nn.functional.softplus(raw) * given["noise"][key]))
    want = summed(logs, weights)
    assert (want < -200).all()
    torch.testing.assert_close(out.value, want, rtol=1e-10, atol=0)
    torch.testing.assert_close(formula.interpret(**given).value, out.value)
    for got, by_hand in zip(*(torch.autograd.grad(v.sum(), weights_of) for v in (out.value, want)), strict=True):
        torch.testing.assert_close(got, by_hand, rtol=1e-7, atol=1e-9)


def test_single_precision_is_finite(made):
    (first, second), q, net, x = made
    formula = log(0.5 * E(q[0], first, samples=K) + 0.5 * E(q[1], second, samples=K)).mean()
    exact = formula(x=x, noise=(noise := formula.noise(x=x))).value.item()
    for module in (*(f.net for f in q), net):
        module.float()
    out = formula(x=x.float(), noise={k: v.float() for k, v in noise.items()})
    assert out.value.item() == pytest.approx(exact, rel=1e-5)
    out.value.backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in formula.parameters())


def test_signs_that_only_the_numbers_tell():
    """log(e^a − v·e^b): NaN where it is negative, −∞ where it is 0, as by hand."""
    a, b, v = Value("a"), Value("b"), Value("v")
    data = {
        "a": torch.tensor([-500.0, -500.0, -500.0, 300.0], dtype=DOUBLE),
        "b": torch.tensor([-501.0, -500.0, -499.0, -2000.0], dtype=DOUBLE),
        "v": torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=DOUBLE, requires_grad=True),
    }
    out = log(exp(a) - v * exp(b))(**data)
    want = [-500 + math.log(1 - math.exp(-1)), -INF, math.nan, 300.0]
    np.testing.assert_allclose(out.value.detach().numpy(), want)
    slope = torch.autograd.grad(out.value[[0, 1, 3]].sum(), data["v"])[0]
    np.testing.assert_allclose(slope.numpy(), [-math.exp(-1) / (1 - math.exp(-1)), 0.0, 0.0, 0.0], atol=1e-12)
    # a part without any exponential, and one whose weight is 0 although it is the largest
    out = log(exp(a) + v * 0.0 + 1.0 - exp(a))(a=data["a"], v=data["v"].detach())
    np.testing.assert_allclose(out.value.numpy()[:3], [0.0] * 3)
    big = {"a": torch.tensor([-2000.0]), "b": torch.tensor([500.0]), "v": torch.tensor([0.0], requires_grad=True)}
    out = log(exp(a) + v * exp(b))(**big)
    assert out.value.item() == -2000.0
    assert torch.autograd.grad(out.value, big["v"])[0].isfinite().all()


def test_a_sum_of_many_parts_and_of_exact_means():
    """Depth is no limit; every value of a class, with a share of 0 among them."""
    x = torch.tensor([-700.0, -900.0], dtype=DOUBLE)
    many = log(sum((exp(Value("a") - i) for i in range(1, 300)), start=exp(Value("a"))))
    want = x.numpy() + math.log(sum(math.exp(-i) for i in range(300)))
    np.testing.assert_allclose(many(a=x).value.numpy(), want)
    table = torch.tensor([-800.0, -802.0, -1.0], dtype=DOUBLE, requires_grad=True)
    q = Categorical("q(s)", probs=torch.tensor([0.25, 0.75, 0.0], dtype=DOUBLE), shape=(), classes=3)
    d = Deterministic("d = f(s)", lambda s: table[s], shape=())
    out = log(0.5 * E(q * d, exp(Value("d")), "exact") + exp(Value("a") - 100.0))(a=x)
    parts = 0.5 * (0.25 + 0.75 * math.exp(-2)) + np.exp(x.numpy() - 100.0 + 800.0)
    np.testing.assert_allclose(out.value.detach().numpy(), -800.0 + np.log(parts))
    slope = torch.autograd.grad(out.value[0], table)[0].numpy()
    np.testing.assert_allclose(slope, [0.125 / parts[0], 0.375 * math.exp(-2) / parts[0], 0.0])


@pytest.mark.parametrize("kind", ["product", "sum", "nest", "signs"])
def test_depth_is_no_limit(kind):
    """1,200 factors or parts, and 500 sums inside one another."""
    a, b, formula = Value("a"), Value("b"), exp(Value("a"))
    x = torch.tensor([-900.0, -950.0], dtype=DOUBLE)
    if kind in ("product", "sum"):
        for _ in range(1200):
            formula = formula * exp(0.001 * a) if kind == "product" else formula + exp(a)
        want = x * 2.2 if kind == "product" else x + math.log(1201)
    else:
        for _ in range(500):
            formula = (formula + exp(a)) * 0.5 if kind == "nest" else (1.5 * exp(a) - 0.5 * formula) + b * 0.0
        want = x
    out = log(formula)(**{"a": x, **({"b": torch.ones(2, dtype=DOUBLE)} if kind == "signs" else {})})
    torch.testing.assert_close(out.value, want)


@pytest.mark.parametrize("gradient", [None, "dreg", "score", "leave-one-out"])
@pytest.mark.parametrize("weight", ["uniform", "infinite", "classes"])
def test_where_no_draw_has_a_weight_the_log_is_minus_infinity_without_a_gradient(gradient, weight):
    """The first row has none, the others have; the gradient of these is that of them alone."""
    torch.manual_seed(1)
    score = gradient in ("score", "leave-one-out")
    head = nn.Linear(2, 3 if score else 4).double()
    q = Categorical("q(s|x)", head, shape=(), classes=3) if score else Normal("q(s|x)", head, shape=2)
    net = nn.Linear(2, 1).double()
    shift = {"uniform": 9.0, "infinite": -INF, "classes": -(2.0**115)}[weight]

    def level(s, y):
        s = nn.functional.one_hot(s, 3).to(DOUBLE)[..., :2] if score else s
        return net(s)[..., 0] + torch.where(y == 0, shift, 0.0)

    if weight == "uniform":
        spread = Uniform("p(u|s,y)", lambda s, y: {"low": (v := level(s, y)[..., None]), "high": v + 4.0}, shape=1)
        inside, given = exp(log(spread)), {"u": torch.ones(3, 1, dtype=DOUBLE)}
    else:
        d = Deterministic("d = f(s, y)", level, shape=())
        inside, given = exp(Value("d")), {}
        q_d = q * d
    how = {"dreg": {"gradient": "dreg"}, None: {}}.get(gradient, {"gradient": "score"})
    how = how | ({"baseline": "leave-one-out"} if gradient == "leave-one-out" else {})
    formula = log(E(q if weight == "uniform" else q_d, inside, samples=K, **how))
    x, y = torch.randn(3, 2, dtype=DOUBLE), torch.tensor([0.0, 1.0, 1.0], dtype=DOUBLE)
    noise = formula.noise(x=x, y=y, **given)
    out = formula(x=x, y=y, noise=noise, **given)
    assert out.value[0].item() == -INF
    assert out.value[1:].isfinite().all()
    torch.testing.assert_close(formula.interpret(x=x, y=y, noise=noise, **given).value, out.value)
    alone = formula(
        x=x[1:], y=y[1:], noise={k: v[:, 1:] for k, v in noise.items()}, **{k: v[1:] for k, v in given.items()}
    )
    weights = [head.weight, net.weight]
    found = torch.autograd.grad(out.value.sum(), weights, allow_unused=True)
    want = torch.autograd.grad(alone.value.sum(), weights, allow_unused=True)
    for got, by_itself in zip(found, want, strict=True):
        if by_itself is not None:
            torch.testing.assert_close(got, by_itself)


def test_a_particle_filter_that_lost_all_its_particles_has_a_gradient_of_the_others():
    torch.manual_seed(2)
    step = nn.Linear(2, 4).double()
    q = Normal("q(z_t|z_{t-1})", step, shape=2)
    d = Deterministic("d_t = f(z_t, y_t)", lambda z, y: z.sum(-1) + torch.where(y == 0, -INF, 0.0), shape=())
    formula = Sum("t", log(E(q * d, exp(Value("d_t")), samples=K, resample="systematic")))
    y = torch.tensor([[1.0, 1.0], [1.0, 0.0]], dtype=DOUBLE)
    noise = formula.noise(y=y)
    out = formula(y=y, noise=noise)
    assert out.value[0].isfinite()
    assert out.value[1].item() == -INF
    got = torch.autograd.grad(out.value.sum(), step.weight)[0]
    alone = formula(y=y[:1], noise={k: v[:, :1] if v.ndim > 3 else v[:1] for k, v in noise.items()}).value
    first = formula(y=y[1:, :1], noise={k: v[:, 1:, :1] if v.ndim > 3 else v[1:, :1] for k, v in noise.items()}).value
    want = torch.autograd.grad(alone.sum() + first.sum(), step.weight)[0]
    torch.testing.assert_close(got, want)


def test_a_baseline_of_values_that_are_no_densities():
    """Leave-one-out of log mean d, d of any sign: the gradient of its mean over all draws, which are enumerated."""
    table = torch.tensor([3.0, -0.5, 0.0], dtype=DOUBLE)
    logits = torch.tensor([0.3, 0.1, -0.2], dtype=DOUBLE, requires_grad=True)
    q = Categorical("q(s|x)", lambda x: logits.expand(len(x), -1), shape=(), classes=3)
    d = Deterministic("d = f(s)", lambda s: table[s] + 0.7, shape=())
    formula = log(E(q * d, Value("d"), samples=3, gradient="score", baseline="leave-one-out"))
    plain = log(E(q * d, Value("d"), samples=3, gradient="score"))
    draws = np.stack(np.meshgrid(*[range(3)] * 3, indexing="ij"), -1).reshape(-1, 3)  # every triple of draws
    shares = torch.softmax(logits.detach(), 0).numpy()
    at = np.cumsum(shares) - shares / 2  # uniform noise that leads to each class
    noise = torch.tensor(at[draws].T.copy())
    x = torch.zeros(len(draws), 1, dtype=DOUBLE)
    odds = torch.tensor(shares[draws].prod(-1))

    def whole(z):
        p = torch.softmax(z, 0)[torch.tensor(draws)].prod(-1)
        return (p * (table + 0.7)[torch.tensor(draws)].mean(-1).log()).sum()

    free = logits.detach().clone().requires_grad_()
    want = torch.autograd.grad(whole(free), free)[0]
    for each in (formula, plain):
        out = each(x=x, noise={"s": noise})
        assert torch.equal(out.samples["s"], torch.tensor(draws.T.copy()))
        torch.testing.assert_close(out.value.detach(), (table + 0.7)[out.samples["s"]].mean(0).log())
        found = torch.autograd.grad((odds * out.value).sum(), logits)[0]
        torch.testing.assert_close(found, want)
    with torch.no_grad():
        table -= 0.9  # now the mean of two draws may be 0 or less, where that of all three is not
    for triple, row in zip(draws, noise.T, strict=True):
        values = (table + 0.7).numpy()[triple]
        if values.mean() <= 0:
            continue
        signals = [math.log(values.mean()) - of_the_others(np.delete(values, j)) for j in range(3)]
        want = sum(signal * (np.eye(3)[s] - shares) for signal, s in zip(signals, triple, strict=True))
        found = torch.autograd.grad(formula(x=x[:1], noise={"s": row[:, None]}).value.sum(), logits)[0]
        np.testing.assert_allclose(found.numpy(), want, rtol=1e-9, atol=1e-12)


def of_the_others(values):
    """What the log of a mean of three draws would be without one of them, by the geometric mean, or by the mean."""
    if (values > 0).all():
        return math.log((values.sum() + math.exp(np.log(values).mean())) / 3)
    return math.log(values.mean()) if values.mean() > 0 else 0.0


def test_sums_in_half_precision_and_of_infinite_densities():
    x = torch.tensor([[-INF, -INF], [0.0, 1.0], [-INF, 2.0]], dtype=torch.float16, requires_grad=True)
    found = logsumexp(x, 1)
    found.sum().backward()
    assert found.tolist() == pytest.approx([-INF, math.log(1 + math.e), 2.0], rel=1e-6)
    share = math.e / (1 + math.e)
    np.testing.assert_allclose(x.grad.numpy(), [[0, 0], [1 - share, share], [0, 1]], atol=1e-3)
    infinite = torch.tensor([INF, 1.0, INF])
    found = log_weighted_sum(torch.tensor([1.0, 2.0, 0.0]), infinite, 2.0, torch.zeros(3))
    assert found.tolist() == pytest.approx([INF, math.log(2 * math.e + 2), math.log(2)], rel=1e-6)


def test_exponentials_that_nothing_reads_have_no_line(made):
    """Nor has what only they read. What `out.terms` shows is read."""
    (first, second), q, *_ = made
    stopped = log(E(q[0], sg(first), samples=K))
    product = log(sg(first) * exp(Value("m")) + second)
    for formula in (log(E(q[0] * q[1], sg(first) + second * exp(-Value("m")), samples=K)), product):
        lines = [line.strip() for line in formula.code.splitlines()]
        assigned = {line.split(" = ")[0] for line in lines if " = " in line and "," not in line.split(" = ")[0]}
        rest = "\n".join(lines)
        assert all(rest.count(name) > 1 for name in assigned), formula.code
    assert "detach()" in stopped.code
    assert "drop_unread" in str(stopped.explain(stages=True))
