"""What has probability 0 adds nothing to an exact expectation, whatever it is worth: values and gradients, beside sums
over the values by hand, in NumPy, and differences of them.
"""

import math

import numpy as np
import pytest
import torch
from torch import nn

from worldformula import (
    JS,
    KL,
    Bernoulli,
    Categorical,
    Chain,
    CrossEntropy,
    Deterministic,
    E,
    Entropy,
    Evidence,
    MoE,
    Multinomial,
    Normal,
    OneHot,
    Value,
    exp,
    log,
    ratio,
)

S, K, ROWS = 3, 4, 2
INF = math.inf


class Row(nn.Module):
    """One table for all rows: x to v, or s to v[s]."""

    def __init__(self, values):
        super().__init__()
        self.v = nn.Parameter(torch.tensor(values, dtype=torch.float64))

    def forward(self, x=None):
        if x is None:
            return self.v
        return self.v.expand(len(x), -1) if self.v.ndim == 1 else self.v[x]


class Worth(nn.Module):
    """Numbers of s and k."""

    def __init__(self, values):
        super().__init__()
        self.v = nn.Parameter(torch.tensor(values, dtype=torch.float64))

    def forward(self, s, k):
        return self.v[s, k]


def shares(logits):
    """Probabilities, by NumPy."""
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def zeroed(rng, *shape):
    """Logits, some of them −∞, not all of a row."""
    logits = rng.normal(size=shape)
    gone = rng.random(shape) < 0.4
    gone[..., 0] = rng.random(shape[:-1]) < 0.4
    gone[np.arange(shape[0]) if len(shape) > 1 else ..., rng.integers(shape[-1], size=shape[:-1])] = False
    return np.where(gone, -INF, logits)


def slopes(function, tables):
    """The gradient of a number by central differences, by every finite entry of every table; 0 at what is infinite."""
    found = []
    for i, table in enumerate(tables):
        slope = np.zeros_like(table)
        for at in np.argwhere(np.isfinite(table)):
            ends = []
            for sign in (1.0, -1.0):
                moved = [t.copy() for t in tables]
                moved[i][tuple(at)] += sign * 1e-5
                ends.append(function(*moved))
            slope[tuple(at)] = (ends[0] - ends[1]) / 2e-5
        found.append(slope)
    return found


def compare(formula, nets, function, **data):
    """Value and gradients beside those of a function of the tables, compiled and interpreted."""
    tables = [net.v.detach().numpy().copy() for net in nets]
    data = {"x": torch.zeros(ROWS, 1, dtype=torch.float64), **data}
    out = formula(**data)
    want = function(*tables)
    assert np.allclose(out.value.detach().numpy(), want, rtol=1e-9, atol=1e-9), (formula, out.value, want)
    assert torch.equal(formula.interpret(**data).value, out.value)
    found = torch.autograd.grad(out.value.mean(), [net.v for net in nets], allow_unused=True)
    for got, slope in zip(found, slopes(function, tables), strict=True):
        assert np.allclose(0.0 if got is None else got.numpy(), slope, rtol=1e-5, atol=1e-7), (formula, got, slope)


def two(rng):
    """q(s) q(k|s) and p(s) p(k|s), each with zeros; p is 0 at some places where q is not, and the other way round."""
    nets = [Row(zeroed(rng, S)), Row(zeroed(rng, S, K)), Row(zeroed(rng, S)), Row(zeroed(rng, S, K))]
    q = (Categorical("q(s|x)", nets[0], shape=(), classes=S), Categorical("q(k|s)", nets[1], shape=(), classes=K))
    p = (Categorical("p(s|x)", nets[2], shape=(), classes=S), Categorical("p(k|s)", nets[3], shape=(), classes=K))
    return nets, q, p


def joint(a, b):
    """The table of the probabilities of s and k."""
    return shares(a)[:, None] * shares(b)


@pytest.mark.parametrize("seed", range(12))
def test_importance_weights_of_two_enumerated_variables(seed):
    """log Σ_{q > 0} q·(p/q): the mass that p has where q has any."""
    nets, q, p = two(np.random.default_rng(seed))

    def mass(*tables):
        ours, theirs = joint(*tables[:2]), joint(*tables[2:])
        with np.errstate(divide="ignore"):
            return float(np.log(theirs[ours > 0].sum()))

    known = [net.v.detach().numpy() for net in nets]
    formula = log(E(q[0] * q[1], ratio(p[0] * p[1], q[0] * q[1]), "exact"))
    if mass(*known) == -INF:
        out = formula(x=torch.zeros(ROWS, 1, dtype=torch.float64))
        assert out.value.tolist() == [-INF] * ROWS
        slope = torch.autograd.grad(out.value.sum(), [net.v for net in nets], allow_unused=True)
        assert all(g is None or (g == 0).all() for g in slope)
    else:
        compare(formula, nets, mass)


@pytest.mark.parametrize("seed", range(12))
def test_values_that_are_infinite_where_q_is_zero(seed):
    rng = np.random.default_rng(100 + seed)
    nets, q, _ = two(rng)
    worth = rng.normal(size=(S, K))
    never = joint(*(net.v.detach().numpy() for net in nets[:2])) == 0
    worth[never] = rng.choice([[INF, -INF], [INF, INF], [-INF, -INF]][seed % 3], size=never.sum())
    assert never.any()
    net = Worth(worth)
    d = Deterministic("d = f(s, k)", net, shape=())

    def mean(a, b, values):
        weights = joint(a, b)
        return float((weights[weights > 0] * values[weights > 0]).sum())

    def soft(a, b, values):
        weights = joint(a, b)
        return float(np.log((weights[weights > 0] * np.exp(values[weights > 0])).sum()))

    used = [*nets[:2], net]
    compare(E(q[0] * q[1] * d, Value("d"), "exact"), used, mean)
    if not np.isneginf(worth).any() or not np.isposinf(worth).any():  # of both, the inner mean alone would be NaN
        compare(E(q[0], E(q[1] * d, Value("d"), "exact"), "exact"), used, mean)
    compare(log(E(q[0] * q[1] * d, exp(Value("d")), "exact")), used, soft)
    compare(E(q[0], log(E(q[1] * d, exp(Value("d")), "exact")), "exact"), used, lambda a, b, v: float(
        sum(w * math.log((r[r > 0] * np.exp(u[r > 0])).sum()) for w, r, u in zip(shares(a), shares(b), v, strict=True)
            if w > 0)
    ))  # fmt: skip


def test_infinite_where_it_may_happen_stays_infinite_and_nan_stays_nan():
    q = Categorical("q(s|x)", Row([0.0, 0.0, -INF]), shape=(), classes=3)
    for values, want in [([1.0, -INF, INF], -INF), ([1.0, INF, 0.0], INF), ([1.0, 2.0, math.nan], math.nan)]:
        table = torch.tensor(values, dtype=torch.float64)
        d = Deterministic("d = f(s)", lambda s, table=table: table[s], shape=())
        mean = E(q * d, Value("d"), "exact")(x=torch.zeros(1, 1)).value.item()
        soft = log(E(q * d, exp(Value("d")), "exact"))(x=torch.zeros(1, 1)).value.item()
        assert mean == want or (math.isnan(want) and math.isnan(mean))
        if want == -INF:
            assert soft == pytest.approx(math.log(0.5) + 1.0)
        elif want == INF:
            assert soft > 1e30
        else:
            assert math.isnan(soft)


@pytest.mark.parametrize("seed", range(6))
def test_divergences_and_entropies_with_zeros_on_both_sides(seed):
    """Wherever q is not 0, neither is p: SciPy's rel_entr of 0 and 0, and of 0 and p, is 0."""
    rng = np.random.default_rng(200 + seed)
    p_logits = [zeroed(rng, S), zeroed(rng, S, K)]
    q_logits = [np.where(rng.random(t.shape) < 0.3, -INF, t + rng.normal(size=t.shape)) for t in p_logits]
    q_logits = [np.where(np.isinf(q).all(-1, keepdims=True), p, q) for q, p in zip(q_logits, p_logits, strict=True)]
    nets = [Row(t) for t in (*q_logits, *p_logits)]
    q = Categorical("q(s|x)", nets[0], shape=(), classes=S) * Categorical("q(k|s)", nets[1], shape=(), classes=K)
    p = Categorical("p(s|x)", nets[2], shape=(), classes=S) * Categorical("p(k|s)", nets[3], shape=(), classes=K)

    def divergence(a, b, c, d):
        ours, theirs = joint(a, b), joint(c, d)
        return float((ours[ours > 0] * np.log(ours[ours > 0] / theirs[ours > 0])).sum())

    def spread(a, b):
        weights = joint(a, b)
        return float(-(weights[weights > 0] * np.log(weights[weights > 0])).sum())

    def middle(a, b, c, d):
        ours, theirs = joint(a, b), joint(c, d)
        m = (ours + theirs) / 2
        parts = [(w[w > 0] * np.log(w[w > 0] / m[w > 0])).sum() for w in (ours, theirs)]
        return float(sum(parts) / 2)

    compare(E(q, log(q) - log(p), "exact"), nets, divergence)
    compare(Entropy(q), nets[:2], spread)
    compare(-E(q, log(q), "exact"), nets[:2], spread)
    compare(JS(p, q), nets, middle)
    one = KL(Categorical("q(s|x)", nets[0], shape=()), Categorical("p(s|x)", nets[2], shape=()))
    compare(one, [nets[0], nets[2]], lambda a, c: divergence(a, np.zeros((S, 1)), c, np.zeros((S, 1))))


def test_what_q_has_and_p_has_not_is_infinite():
    """In closed form, by enumeration and as a cross-entropy; the gradient is finite."""
    full, lacking = Row([0.0, 0.0, -INF]), Row([0.0, -INF, 0.0])
    q, p = Categorical("q(s|x)", full, shape=(), classes=3), Categorical("p(s|x)", lacking, shape=(), classes=3)
    one, other = OneHot("q(k|x)", full, shape=3), OneHot("p(k|x)", lacking, shape=3)
    data = {"x": torch.zeros(ROWS, 1, dtype=torch.float64)}
    for formula in (
        KL(q, p),
        KL(one, other),
        CrossEntropy(q, p),
        E(q, log(q) - log(p), "exact"),
        -E(q, log(p), "exact"),
    ):
        out = formula(**data)
        assert out.value.tolist() == [INF] * ROWS, formula
        assert torch.equal(formula.interpret(**data).value, out.value)
        found = torch.autograd.grad(out.value.sum(), [full.v, lacking.v], allow_unused=True)
        assert all(g is None or g.isfinite().all() for g in found), formula
    coins = [Bernoulli(f"{name}(c)", logits=torch.tensor(given), shape=2) for name, given in
             (("q", [0.0, INF]), ("p", [INF, INF]), ("r", [0.3, INF]))]  # fmt: skip
    assert KL(coins[0], coins[1])().value.item() == INF
    known = 0.5 * math.log(0.5 / torch.tensor(0.3).sigmoid()) + 0.5 * math.log(0.5 / torch.tensor(-0.3).sigmoid())
    assert KL(coins[0], coins[2])().value.item() == pytest.approx(known, rel=1e-5)
    tosses = [Multinomial(f"{name}(n)", logits=torch.tensor(given), total_count=3, shape=3) for name, given in
              (("q", [0.0, 0.0, -INF]), ("p", [0.0, -INF, 0.0]), ("r", [1.0, 0.0, -INF]))]  # fmt: skip
    assert KL(tosses[0], tosses[1])().value.item() == INF
    other = shares(np.array([1.0, 0.0]))
    assert KL(tosses[0], tosses[2])().value.item() == pytest.approx(
        3 * float((0.5 * np.log(0.5 / other)).sum()), rel=1e-5
    )
    mix = log(E(q, exp(0.25 * log(p)), "exact"))(**data).value
    assert mix.tolist() == pytest.approx([math.log(0.5 * 0.5**0.25)] * ROWS), "a soft weight of log 0"


@pytest.mark.parametrize("seed", range(4))
def test_groups_of_one_hots_and_certain_coins(seed):
    """Two impossible groups at once, and coins of probability 0 and 1: the mass of p where q is not 0."""
    rng = np.random.default_rng(300 + seed)
    a, b = zeroed(rng, 2, K), zeroed(rng, 2, K)
    coins, others = np.array([INF, -INF, 0.3]), np.array([INF, 0.2, -INF])
    q = OneHot("q(k)", logits=torch.tensor(a), shape=(2, K)) * Bernoulli("q(c)", logits=torch.tensor(coins), shape=3)
    p = OneHot("p(k)", logits=torch.tensor(b), shape=(2, K)) * Bernoulli("p(c)", logits=torch.tensor(others), shape=3)
    mass = 1.0
    for ours, theirs in zip(shares(a), shares(b), strict=True):
        mass *= theirs[ours > 0].sum()
    mass *= 1.0 * (1.0 - 1.0 / (1.0 + math.exp(-0.2))) * 1.0  # the first is 1 and the second 0 in q, the third is open
    found = log(E(q, ratio(p, q), "exact"))().value
    assert np.allclose(np.exp(found.numpy()), mass, rtol=1e-6)


def test_a_probability_of_zero_by_name_is_zero():
    """It was the smallest positive number, which times ∞ is ∞."""
    worth = torch.tensor([2.0, 4.0, -INF])
    d = Deterministic("d = f(s)", lambda s: worth[s], shape=())
    for given in (torch.tensor([0.25, 0.75, 0.0]), torch.tensor([0.25, 0.75, 0.0], requires_grad=True)):
        q = Categorical("q(s)", probs=given, shape=(), classes=3)
        assert E(q * d, Value("d"), "exact")().value.item() == pytest.approx(3.5)


def test_an_expert_that_a_row_lacks_has_no_share_however_likely_it_makes_the_value():
    """It had e⁻⁸⁷, more than what is left of the others a few deviations further out."""
    head = lambda x: torch.cat([x, torch.zeros_like(x)], -1)  # noqa: E731
    q = MoE([Normal("q(z|x)", head, shape=1), Normal("q(z|y)", head, shape=1)], "m(z|x,y)")
    z, x, y = torch.tensor([[20.0]]), torch.tensor([[0.0]]), torch.tensor([[20.0]])
    found = log(q)(z=z, x=x, y=y, present={"y": torch.tensor([False])}).value.item()
    scale = math.log(2.0)  # softplus of a raw 0
    assert found == pytest.approx(-0.5 * (20.0 / scale) ** 2 - math.log(scale) - 0.5 * math.log(2 * math.pi), rel=1e-5)


def paths(start, move, show, seen):
    """Σ over all paths, by hand."""
    total = 0.0
    for path in np.ndindex(*(S,) * len(seen)):
        share = start[path[0]]
        for t, state in enumerate(path):
            share *= (move[path[t - 1], state] if t else 1.0) * show[state, seen[t]]
        total += share
    return total


@pytest.mark.parametrize("seed", range(8))
def test_chains_with_moves_that_cannot_be(seed):
    """log p(x_{1:T}), −∞ where no path leads through what was seen; the gradient is finite in every row."""
    rng = np.random.default_rng(400 + seed)
    nets = [Row(zeroed(rng, S)), Row(zeroed(rng, S, S)), Row(zeroed(rng, S, K))]
    steps = 4
    seen = rng.integers(K, size=(6, steps))
    first = Categorical("p(z_1)", nets[0], shape=(), classes=S)
    move = Categorical("p(z_t|z_{t-1})", nets[1], shape=(), classes=S)
    show = Categorical("p(x_t|z_t)", nets[2], shape=(), classes=K)
    formula = Evidence(Chain("t", move * show, over="z", initial=first))
    tables = [net.v.detach().numpy() for net in nets]
    data = {"x": torch.tensor(seen)}

    def logs(*given):
        with np.errstate(divide="ignore"):
            return np.log([paths(*(shares(t) for t in given), row) for row in seen])

    want = logs(*tables)
    out = formula(**data)
    assert np.allclose(out.value.detach().numpy(), want)
    possible = np.isfinite(want)
    known = slopes(lambda *t: float(logs(*t)[possible].sum()), tables)
    found = torch.autograd.grad(formula(**data).value[torch.tensor(possible)].sum(), [net.v for net in nets])
    for got, wanted in zip(found, known, strict=True):
        assert np.allclose(got.numpy(), wanted, rtol=1e-5, atol=1e-7)
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.value.sum(), [net.v for net in nets]))
