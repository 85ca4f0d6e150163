"""Where q is 0 and a function has an infinite slope, an exact expectation has the gradient 0 and no NaN: values and
gradients beside sums over the values that have a probability, by hand, and differences of them.
"""

import math

import numpy as np
import pytest
import torch

from tests.formula.test_logarithms import Table
from worldformula import KL, Categorical, Deterministic, E, OneHot, Value, exp, log, norm2, ratio, sqrt

INF = math.inf
SHARES = np.array([0.25, 0.75, 0.0])


class Row(Table):
    """The same logits for all rows."""

    def forward(self, x):
        return self.v.expand(len(x), -1)


def slope(function, values):
    """The gradient by central differences at the finite entries that count."""
    found = np.zeros_like(values)
    for i in np.flatnonzero((SHARES if values.ndim == 1 else SHARES[:, None]) * np.ones_like(values)):
        ends = []
        for step in (1e-6, -1e-6):
            moved = values.copy().reshape(-1)
            moved[i] += step
            ends.append(function(moved.reshape(values.shape)))
        found.reshape(-1)[i] = (ends[0] - ends[1]) / 2e-6
    return found


D, OTHER = Value("d"), Value("e")
FORMS = {
    "log at 0": (log(D), 0.0, lambda d, e: np.log(d)),
    "root at 0": (sqrt(D), 0.0, lambda d, e: np.sqrt(d)),
    "one over 0": (1 / D, 0.0, lambda d, e: 1 / d),
    "quotient": (OTHER / D, 0.0, lambda d, e: e / d),
    "half power": (D**0.5, 0.0, lambda d, e: d**0.5),
    "negative power": (D**-2, 0.0, lambda d, e: d**-2.0),
    "power of values": (D**OTHER, 0.0, lambda d, e: d**e),
    "log of a difference": (log(D - 2 * Value("e")), -2.0, lambda d, e: np.log(d - 2 * e)),
    "exponential": (exp(D), 2000.0, lambda d, e: np.exp(d)),
    "exponential of ∞": (exp(D) * OTHER, INF, lambda d, e: np.exp(d) * e),
    "product": (D * OTHER, INF, lambda d, e: d * e),
    "product of −∞": (OTHER * D, -INF, lambda d, e: d * e),
    "square": (D * D, INF, lambda d, e: d * d),
    "∞ over": (D / OTHER, INF, lambda d, e: d / e),
    "norm": (norm2(D) * OTHER, INF, lambda d, e: d * d * e),
    "nested": (1 / log(D), 1.0, lambda d, e: 1 / np.log(d)),
    "nearly 0": (1 / D, 1e-320, lambda d, e: 1 / d),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("logarithm", [False, True])
def test_gradients_where_a_value_has_no_probability(form, logarithm):
    formula, there, by_hand = FORMS[form]
    q = Categorical("q(s)", probs=torch.tensor(SHARES), shape=(), classes=3)
    nets = Table([3.0, 4.0, there]), Table([0.5, 0.75, -1.0])
    d, e = Deterministic("d = f(s)", nets[0], shape=()), Deterministic("e = g(s)", nets[1], shape=())
    whole = E(q * d * e, formula, "exact")
    whole = log(E(q * d * e, exp(0.1 * formula), "exact")) if logarithm else whole

    def mean(a, b):
        each = by_hand(a[:2], b[:2])
        return float(np.log(SHARES[:2] @ np.exp(0.1 * each)) if logarithm else SHARES[:2] @ each)

    out = whole()
    values = [net.v.detach().numpy().copy() for net in nets]
    assert out.value.item() == pytest.approx(mean(*values), rel=1e-9)
    assert torch.equal(whole.interpret().value, out.value)
    found = torch.autograd.grad(out.value, [net.v for net in nets], allow_unused=True)
    for i, got in enumerate(found):
        want = slope(lambda moved, i=i: mean(*(moved if j == i else v for j, v in enumerate(values))), values[i])
        np.testing.assert_allclose(0.0 if got is None else got.numpy(), want, rtol=1e-5, atol=1e-8)


def test_importance_weights_of_what_q_has_not():
    """E_q[p/q] is the mass of p where q has any; its gradient by p was NaN."""
    ours, theirs = Row([0.0, 0.0, -INF]), Row([0.2, -0.3, 0.5])
    q, p = (Categorical(f"{n}(s|x)", net, shape=(), classes=3) for n, net in (("q", ours), ("p", theirs)))
    data = {"x": torch.zeros(2, 1, dtype=torch.float64)}
    out = E(q, ratio(p, q), "exact")(**data)
    weights = np.exp([0.2, -0.3, 0.5]) / np.exp([0.2, -0.3, 0.5]).sum()
    np.testing.assert_allclose(out.value.detach().numpy(), [weights[:2].sum()] * 2)
    by_p = torch.autograd.grad(out.value.mean(), theirs.v)[0].numpy()
    mass = weights[:2].sum()
    np.testing.assert_allclose(by_p, weights * (np.array([1.0, 1.0, 0.0]) - mass))
    # a value of s that is 0 where q is not does not make it log 0, and 0·∞ where q is 0 is no NaN
    net = Table([1.0, 2.0, 0.0])
    d = Deterministic("d = f(s)", net, shape=())
    out = log(E(q * d, D * ratio(p, q), "exact"))(**data)
    np.testing.assert_allclose(out.value.detach().numpy(), [math.log(weights[:2] @ [1.0, 2.0])] * 2)
    found = torch.autograd.grad(out.value.mean(), net.v)[0].numpy()
    np.testing.assert_allclose(found, [*(weights[:2] / (weights[:2] @ [1.0, 2.0])), 0.0])


def test_small_weights_of_large_ratios_count_in_logarithms():
    """e⁻²⁰⁰ is 0 in float32, and times a ratio of e²⁰⁰ it is 1."""
    q = Categorical("q(s|x)", lambda x: torch.tensor([0.0, -200.0]).expand(len(x), -1), shape=(), classes=2)
    p = Categorical("p(s|x)", lambda x: torch.tensor([0.0, 0.0]).expand(len(x), -1), shape=(), classes=2)
    net = Table([0.0, 3.0])
    d = Deterministic("d = f(s)", net.float(), shape=())
    out = log(E(q * d, exp(log(D + 1.0)) * ratio(p, q), "exact"))(x=torch.zeros(1, 1))
    assert out.value.item() == pytest.approx(math.log(0.5 * 1.0 + 0.5 * 4.0), rel=1e-5)


def test_two_variables_of_which_one_rules_out_the_other():
    """q(s) q(k|s) where k = 1 cannot be with s = 0: what f(0) and g(1) make together is 1/0, and does not count."""
    weights = np.array([[0.25, 0.0], [0.75 * 0.3, 0.75 * 0.7]])
    q = Categorical("q(s)", probs=torch.tensor([0.25, 0.75], dtype=torch.float64), shape=(), classes=2)
    table = torch.tensor([[1.0, 0.0], [0.3, 0.7]], dtype=torch.float64).log()
    r = Categorical("q(k|s)", lambda s: table[s], shape=(), classes=2)
    nets = Table([2.0, 1.0]), Table([1.0, 2.0])
    d, e = Deterministic("d = f(s)", nets[0], shape=()), Deterministic("e = g(k)", nets[1], shape=())
    out = E(q * r * d * e, 1 / (D - OTHER) + D * log(OTHER), "exact")
    counts = weights > 0

    def mean(f, g):
        left, right = f[:, None] * np.ones(2), g[None] * np.ones((2, 1))
        each = 1 / np.where(counts, left - right, 1.0) + left * np.log(right)
        return float((weights * each)[counts].sum())

    values = np.array([2.0, 1.0]), np.array([1.0, 2.0])
    assert out().value.item() == INF  # f(1) = g(0): that may be
    with torch.no_grad():
        nets[0].v[1] = values[0][1] = 0.5
    found = torch.autograd.grad(out().value, [n.v for n in nets])
    assert out().value.item() == pytest.approx(mean(*values))
    for i, got in enumerate(found):
        for j in range(2):
            ends = [mean(*(v + step * (np.arange(2) == j) * (n == i) for n, v in enumerate(values)))
                    for step in (1e-6, -1e-6)]  # fmt: skip
            assert got[j].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)


@pytest.mark.parametrize(("ours", "theirs"), [(0.0, 0.1), (0.1, 0.0), (0.0, 0.0), (0.2, 0.1), (0.0, None)])
def test_a_divergence_of_classes_looks_for_zeros_of_p_alone(ours, theirs):
    """KL(q ‖ p) by hand; ∞ where p says 0 and q does not, and not where a share of p is uniform."""
    logits = [np.array([[0.3, -INF, 0.1]]), np.array([[-INF, -INF, 0.5]])]
    nets = [Row(v[0].tolist()) for v in logits]
    q = OneHot("q(s|x)", nets[0], unimix=ours, shape=3)
    p = OneHot("p(s)", shape=3) if theirs is None else OneHot("p(s|x)", nets[1], unimix=theirs, shape=3)
    shares = []
    for values, mixed in zip(logits, (ours, theirs), strict=True):
        weights = np.exp(values[0]) / np.exp(values[0]).sum()
        shares.append(np.full(3, 1 / 3) if mixed is None else (1 - mixed) * weights + mixed / 3)
    a, b = shares
    with np.errstate(divide="ignore"):
        want = sum(u * (np.log(u) - np.log(v)) for u, v in zip(a, b, strict=True) if u > 0)
    formula, x = KL(q, p), torch.zeros(2, 1, dtype=torch.float64)
    out = formula(x=x)
    np.testing.assert_allclose(out.value.detach().numpy(), [want] * 2, rtol=1e-6)
    assert torch.equal(formula.interpret(x=x).value, out.value)
    assert all(g is None or g.isfinite().all() for g in
               torch.autograd.grad(out.value.sum(), [n.v for n in nets], allow_unused=True))  # fmt: skip


@pytest.mark.parametrize("inner", [False, True])
def test_a_value_that_only_an_impossible_condition_leads_to(inner):
    """k = 1 follows s = 1 alone, which has no probability: g(1) = 0 counts nowhere, and q(k|s) is not 0 there."""
    q = Categorical("q(s)", probs=torch.tensor([1.0, 0.0], dtype=torch.float64), shape=(), classes=2)
    table = torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.float64).log()
    r = Categorical("q(k|s)", lambda s: table[s], shape=(), classes=2)
    c = Categorical("q(c|k)", lambda k: table[k], shape=(), classes=2)
    net = Table([4.0, 0.0])
    body = sqrt(OTHER) + log(c) * 0.0
    e = Deterministic("e = g(k)", net, shape=())
    out = (E(q * r * e, E(c, body, "exact"), "exact") if inner else E(q * r * e * c, body, "exact"))()
    assert out.value.item() == 2.0
    np.testing.assert_allclose(torch.autograd.grad(out.value, net.v)[0].numpy(), [0.25, 0.0])
