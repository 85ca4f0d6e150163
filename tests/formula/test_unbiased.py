"""Every estimator against what it estimates: exact enumeration or a closed form, in value and gradient.

Each row of a large batch has parameters of its own, so that one backward pass gives one gradient per draw.
"""

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from worldformula import (
    KL,
    Bernoulli,
    Categorical,
    E,
    MoE,
    Normal,
    OneHot,
    Sum,
    Symbol,
    Value,
    Variance,
    exp,
    log,
    maximum,
    ratio,
    sg,
    total,
)
from worldformula.errors import FormulaError, GradientError
from worldformula.formula.baselines import log_leave_one_out
from worldformula.formula.ops.entropy import Entropy

V = total(Value("c", shape=1))
ROWS = 20_000
X = torch.zeros(ROWS, 1).double()


class Rows(nn.Module):
    """The same head in every row, each with a gradient of its own."""

    def __init__(self, *head):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(head, dtype=torch.float64).expand(ROWS, -1).clone())

    def forward(self, *_):
        return self.theta


def drawn(loss, rows, **data):
    """Values [ROWS] and gradients [ROWS, n] of one draw per row."""
    value = loss(x=X, seed=1, **data).value
    return value, torch.autograd.grad(value.sum(), rows.theta)[0]


def expected(function, rows):
    """The exact value, and its gradient by the head of one row."""
    theta = rows.theta.detach()[0].clone().requires_grad_()
    value = function(theta)
    return value.detach(), torch.autograd.grad(value, theta)[0]


def within(found, exact):
    """Whether the mean over the rows is the exact number, to three standard errors."""
    error = found.std(0) / ROWS**0.5
    return bool(((found.mean(0) - exact).abs() <= 3 * error + 1e-9).all())


# ----------------------------------------------------------------------------------------------------------- discrete

SCORES = torch.tensor([1.0, -0.5, 2.0]).double()
ONE_HOT = {
    "score": {"gradient": "score"},
    "score, 4 samples": {"gradient": "score", "samples": 4},
    "score, leave-one-out": {"gradient": "score", "samples": 4, "baseline": "leave-one-out"},
    "score, learned baseline": {"gradient": "score", "baseline": Value("b")},
    "score, learned baseline, 4 samples": {"gradient": "score", "samples": 4, "baseline": Value("b")},
}


def one_hot():
    rows = Rows(0.3, -0.4, 0.1)
    q = OneHot("q(c|x)", rows, shape=3)
    p = Normal("p(y|c)", lambda c: (c @ SCORES)[..., None] ** 3, shape=1, scale=2.0)
    body = log(p) + 0.5 * log(q)  # the second term has a gradient of its own

    def exact(theta):
        log_q = theta.log_softmax(-1)
        log_p = torch.distributions.Normal(SCORES**3, 2.0).log_prob(torch.tensor(0.5))
        return (log_q.exp() * (log_p + 0.5 * log_q)).sum()

    return rows, q, body, {"y": torch.full((ROWS, 1), 0.5).double()}, exact


@pytest.mark.parametrize("case", ONE_HOT)
def test_the_score_estimators(case):
    rows, q, body, data, exact = one_hot()
    loss, data = E(q, body, **ONE_HOT[case]), data | {"b": torch.full((ROWS,), -1.5).double()}
    value, gradient = drawn(loss, rows, **{k: v for k, v in data.items() if k in loss.program.inputs})
    wanted = expected(exact, rows)
    assert gradient.std(0).min() > 0
    assert within(value, wanted[0])
    assert within(gradient, wanted[1])
    assert "biased" not in loss.explain()


def test_enumeration_is_exact_row_by_row():
    rows, q, body, data, exact = one_hot()
    value, gradient = drawn(E(q, body, gradient="exact"), rows, **data)
    wanted = expected(exact, rows)
    torch.testing.assert_close(value, wanted[0].expand(ROWS))
    torch.testing.assert_close(gradient, wanted[1].expand(ROWS, 3))


@pytest.mark.parametrize("how", [None, "gumbel"])
def test_straight_through_and_gumbel_are_biased_and_say_so(how):
    rows, q, body, data, exact = one_hot()
    loss = E(q, body, gradient=how)
    _, gradient = drawn(loss, rows, **data)
    assert not within(gradient, expected(exact, rows)[1])
    assert "(biased)" in loss.explain()
    coin = Bernoulli("q(c|x)", Rows(0.1), shape=1)
    assert "(biased)" in E(coin, log(coin), gradient="straight-through").explain()


def test_leave_one_out_and_a_good_baseline_lower_the_variance():
    rows, q, body, data, exact = one_hot()
    spread = {}
    for name in ("score, 4 samples", "score, leave-one-out", "score, learned baseline, 4 samples"):
        loss = E(q, body, **ONE_HOT[name])
        given = data | ({"b": expected(exact, rows)[0].expand(ROWS)} if "b" in loss.program.inputs else {})
        spread[name] = drawn(loss, rows, **given)[1].var(0).sum()
    plain = spread.pop("score, 4 samples")
    assert all(value < 0.9 * plain for value in spread.values())


def test_the_score_of_classes_and_of_coins():
    for q, count, event in (
        (Categorical("q(c|x)", rows := Rows(0.2, -0.3, 0.5)), 3, ()),
        (Bernoulli("q(c|x)", rows_2 := Rows(0.4), shape=1), 2, (1,)),
    ):
        head = rows if count == 3 else rows_2
        scores = Normal("p(y|c)", lambda c, e=event: SCORES[c.long()].reshape(*c.shape[: c.ndim - len(e)], 1), shape=1,
                        scale=1.0)  # fmt: skip
        value, gradient = drawn(E(q, log(scores), gradient="score"), head, y=torch.zeros(ROWS, 1).double())

        def exact(theta, count=count):
            log_p = -0.5 * SCORES[:count] ** 2 - 0.5 * math.log(2 * math.pi)
            probs = theta.softmax(-1) if count == 3 else torch.cat((1 - theta.sigmoid(), theta.sigmoid()))
            return (probs * log_p).sum()

        wanted = expected(exact, head)
        assert within(value, wanted[0])
        assert within(gradient, wanted[1])


# --------------------------------------------------------------------------------------------------------- continuous


def gaussian(*head):
    rows = Rows(*head)
    return rows, Normal("q(z|x)", rows, shape=1), Normal("p(z)", shape=1)


def mean_log_density(theta):
    """E_q[log N(z; 0, 1)] for q = N(μ, softplus(s)²)."""
    return -0.5 * (theta[0] ** 2 + softplus(theta[1]) ** 2) - 0.5 * math.log(2 * math.pi)


def minus_kl(theta):
    q = torch.distributions.Normal(theta[0], softplus(theta[1]))
    return -torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0))


CONTINUOUS = {
    "reparametrised": (lambda q, p: E(q, log(p)), mean_log_density),
    "reparametrised, 5 samples": (lambda q, p: E(q, log(p), samples=5), mean_log_density),
    "score": (lambda q, p: E(q, log(p), gradient="score"), mean_log_density),
    "score, leave-one-out": (
        lambda q, p: E(q, log(p), gradient="score", samples=3, baseline="leave-one-out"), mean_log_density
    ),
    "Monte-Carlo KL": (lambda q, p: E(q, log(p) - log(q)), minus_kl),
    "sticking the landing": (lambda q, p: E(q, log(p) - log(sg(q))), minus_kl),
    "sampled KL": (lambda q, p: -KL(q, p, samples=4), minus_kl),
    "sampled entropy": (
        lambda q, p: Entropy(q, samples=4), lambda t: torch.distributions.Normal(t[0], softplus(t[1])).entropy()
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CONTINUOUS)
def test_continuous_estimators(case):
    build, exact = CONTINUOUS[case]
    rows, q, p = gaussian(0.7, -0.2)
    loss = build(q, p)
    value, gradient = drawn(loss, rows)
    wanted = expected(exact, rows)
    assert gradient.std(0).max() > 0
    assert within(value, wanted[0])
    assert within(gradient, wanted[1])
    assert "biased" not in loss.explain()


def test_sticking_the_landing_has_no_noise_at_the_optimum():
    rows, q, p = gaussian(0.0, math.log(math.e - 1))
    assert drawn(E(q, log(p) - log(sg(q))), rows)[1].abs().max() < 1e-9
    assert drawn(E(q, log(p) - log(q)), rows)[1].std(0).max() > 0.1


@pytest.mark.parametrize("how", [None, "stratified"])
@pytest.mark.parametrize("samples", [None, 3])
def test_mixtures_of_experts(how, samples):
    rows, q, p = gaussian(1.5, -0.2)
    other = Normal("r(z|x)", Rows(-1.0, 0.5), shape=1)
    moe = MoE([q, other], "m(z|x)")
    value, gradient = drawn(E(moe, log(p), gradient=how, samples=samples), rows)
    wanted = expected(mean_log_density, rows)
    rest = mean_log_density(torch.tensor([-1.0, 0.5]).double())
    assert within(value, (wanted[0] + rest) / 2)
    assert within(gradient, wanted[1] / 2)


def test_stratified_draws_lower_the_variance():
    rows, q, p = gaussian(3.0, -1.0)
    moe = MoE([q, Normal("r(z|x)", Rows(-0.1, -1.0), shape=1)], "m(z|x)")
    one, each = (drawn(E(moe, log(p), gradient=how), rows) for how in (None, "stratified"))
    assert each[0].var() < 0.5 * one[0].var()
    assert each[1].var(0).sum() < 0.5 * one[1].var(0).sum()


# ------------------------------------------------------------------------------------------------------------- bounds


def evidence(samples, gradient=None, head=(0.2, 0.3)):
    """log E of the weights p(y|z) p(z) / q(z|x), for p(z) = N(0, 1) and p(y|z) = N(z, 1)."""
    rows, q, prior = gaussian(*head)
    decode = Normal("p(y|z)", lambda z: z, shape=1, scale=1.0)
    bound = log(E(q, ratio(decode * prior, q), gradient, samples=samples))
    return rows, bound, {"y": torch.full((ROWS, 1), 0.9).double()}


def test_bounds_rise_with_samples_to_the_evidence():
    truth = torch.distributions.Normal(0.0, math.sqrt(2.0)).log_prob(torch.tensor(0.9)).item()
    means, errors = [], []
    for samples in (1, 2, 8, 64):
        rows, bound, data = evidence(samples)
        value, _ = drawn(bound, rows, **data)
        means.append(value.mean().item())
        errors.append(value.std().item() / ROWS**0.5)
    assert means[0] < means[1] < means[2] < means[3] < truth + 3 * errors[3]
    assert truth - means[3] < 0.02


def test_doubly_reparametrised_gradients_are_those_of_the_bound_with_less_noise():
    (rows, plain, data), (other, dreg, _) = evidence(8), evidence(8, "dreg")
    (value, one), (same, two) = drawn(plain, rows, **data), drawn(dreg, other, **data)
    torch.testing.assert_close(value, same)
    assert within(one - two, torch.zeros(2).double())
    assert two.var(0).sum() < 0.5 * one.var(0).sum()
    assert "doubly reparametrised" in dreg.explain()


BOUND = {
    "score": {},
    "score, learned baseline": {"baseline": Value("b")},
    "score, leave-one-out": {"baseline": "leave-one-out"},
}


def bound_of_classes(case, k):
    """log of the mean of K weights of three classes, and its exact mean over all K-tuples of draws."""
    rows, q, _, data, _ = one_hot()
    decode = Normal("p(y|c)", lambda c: (c @ SCORES)[..., None], shape=1, scale=0.5)
    loss = log(E(q, ratio(decode * OneHot("p(c)", shape=3), q), gradient="score", samples=k, **BOUND[case]))
    log_p = torch.distributions.Normal(SCORES, 0.5).log_prob(torch.tensor(0.5)) - math.log(3)

    def exact(theta):
        log_q = theta.log_softmax(-1)
        weights = (log_p - log_q).exp()
        tuples = torch.cartesian_prod(*[torch.arange(3)] * k).reshape(-1, k)
        return (log_q[tuples].sum(-1).exp() * weights[tuples].mean(-1).log()).sum()

    return rows, loss, data | ({"b": torch.full((ROWS,), -1.5).double()} if "learned" in case else {}), exact


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("case", BOUND)
def test_the_score_function_of_a_bound_is_that_of_the_whole_bound(case, k):
    if k == 1 and "leave" in case:
        return
    rows, loss, data, exact = bound_of_classes(case, k)
    value, gradient = drawn(loss, rows, **data)
    wanted = expected(exact, rows)
    assert gradient.std(0).min() > 0
    assert within(value, wanted[0])
    assert within(gradient, wanted[1])
    assert "biased" not in loss.explain()


def test_what_a_draw_adds_to_a_bound_is_a_signal_of_less_noise():
    spread = {}
    for case in BOUND:
        rows, loss, data, _ = bound_of_classes(case, 4)
        spread[case] = drawn(loss, rows, **data)[1].var(0).sum()
    assert spread["score, leave-one-out"] < 0.5 * spread["score"]


def test_the_score_function_of_a_bound_meets_samples_with_a_pathwise_gradient():
    rows, q, _, data, _ = one_hot()
    noise = Normal("r(u|c)", lambda c: (c @ SCORES)[..., None], shape=1, scale=1.0)
    seen = Normal("p(y|u)", lambda u: u, shape=1, scale=1.0)
    loss = log(
        E(q * noise, ratio(seen, Normal("p(v)", shape=1)), gradient="score", samples=2, baseline="leave-one-out")
    )
    value, gradient = drawn(loss, rows, v=torch.zeros(ROWS, 1).double(), **data)
    nodes, share = np.polynomial.hermite_e.hermegauss(60)
    nodes, share = torch.tensor(nodes), torch.tensor(share / share.sum())
    log_w = torch.distributions.Normal(SCORES[:, None] + nodes, 1.0).log_prob(torch.tensor(0.5)) + 0.5 * math.log(
        2 * math.pi
    )

    def exact(theta):
        each = theta.softmax(-1)[:, None] * share
        pairs = torch.logaddexp(log_w.reshape(-1, 1), log_w.reshape(1, -1)) - math.log(2)
        return (each.reshape(-1, 1) * each.reshape(1, -1) * pairs).sum()

    wanted = expected(exact, rows)
    assert within(value, wanted[0])
    assert within(gradient, wanted[1])


def test_what_is_left_of_a_bound_without_a_draw():
    weights = torch.tensor([[0.3, -2.0], [-torch.inf, 0.1], [1.5, -torch.inf], [-40.0, -torch.inf]]).double()
    found = log_leave_one_out(weights, 0)
    for place in range(4):
        others = weights[[k for k in range(4) if k != place]]
        instead = torch.cat((others, others.mean(0, keepdim=True)))
        torch.testing.assert_close(found[place], instead.exp().mean(0).log())
    torch.testing.assert_close(log_leave_one_out(weights.T[None], 2)[0].T, found)


@pytest.mark.parametrize(
    "build",
    [
        lambda coin: exp(E(coin, V, "score", samples=4)),
        lambda coin: E(coin, V, "score", samples=4) ** 2,
        lambda coin: log(2 * E(coin, exp(V), "score", samples=4)),
        lambda coin: log(E(coin, exp(V), "score", samples=4).named("mean")),
        lambda coin: maximum(0.0, E(coin, V, "score", samples=4)),
        lambda coin: 1 / E(coin, exp(V), "score", samples=4),
        lambda coin: log(E(Normal("q(u|x)", Rows(0.1, 0.2), shape=1), E(coin, exp(V), "score"), samples=4)),
        lambda coin: log(
            E(coin, exp(V) * E(OneHot("r(d|c)", Rows(0.1, 0.2), shape=2), log(coin), "score", samples=2), "exact")
        ),
    ],
)
def test_other_functions_of_a_score_estimate_are_refused(build):
    with pytest.raises(GradientError, match="score function has the gradient of E"):
        build(Bernoulli("q(c|x)", Rows(0.4), shape=1))


@pytest.mark.parametrize("value", [V, log(Bernoulli("p(c)", nn.Parameter(torch.ones(1)), shape=1))])
@pytest.mark.parametrize("around", [lambda e: e, log])
def test_a_baseline_that_its_own_draw_tells_is_refused(value, around):
    coin = Bernoulli("q(c|x)", Rows(0.4), shape=1)
    loss = around(E(coin, exp(V), "score", samples=2, baseline=value))
    with pytest.raises(GradientError, match=r"is made of c, the draw .*\n.*known before"):
        loss(x=X)


def test_the_score_of_a_statistic_of_all_rows_is_that_of_their_draws_together():
    """Its value is one number, and so is its signal: E over all the rows' coins, enumerated."""
    logits = torch.tensor([[0.4], [-0.3], [0.2]]).double().requires_grad_()
    coin = Bernoulli("q(c|x)", lambda x: x, shape=1)
    loss = E(coin, Variance(Value("c"), target=2.0), "score")
    found, wanted = torch.zeros(3, 1).double(), torch.zeros(()).double()
    for bits in product((0.0, 1.0), repeat=3):
        c = torch.tensor(bits)[:, None].double()
        share = torch.distributions.Bernoulli(logits=logits).log_prob(c).sum().exp()
        value = loss(x=logits, noise={"c": (1 - c).clamp(1e-9, 1 - 1e-9)}).value
        assert value.shape == ()
        found += share.detach() * torch.autograd.grad(value, logits)[0]
        wanted = wanted + share * value.detach()
    torch.testing.assert_close(found, torch.autograd.grad(wanted, logits)[0])


def test_the_score_of_a_statistic_is_refused_in_steps():
    """Its rows are those of all steps, and every one of them would take the whole for its own."""
    coin = Bernoulli("q(c_t|x_t)", nn.Linear(1, 1), shape=1)
    with pytest.raises(GradientError, match="one signal for all of them, and inside the Sum over t"):
        Sum("t", E(coin, Variance(Value("c_t")), "score"))(x=torch.zeros(2, 3, 1))


def test_a_number_of_the_call_has_a_score_in_every_step():
    coin = Bernoulli("q(c_t|x_t)", nn.Linear(1, 1), shape=1)
    loss = Sum("t", E(coin, 1.0 * Symbol("beta"), "score", samples=2, baseline=Value("v_t")))
    value = loss(x=torch.zeros(2, 3, 1), v=torch.ones(2, 3), beta=0.5).value
    torch.testing.assert_close(value, torch.full((2,), 1.5))


def test_a_baseline_may_be_told_by_a_draw_around_it():
    coin, next_ = Bernoulli("q(c|x)", Rows(0.4), shape=1), Bernoulli("q(d|c)", nn.Linear(1, 1).double(), shape=1)
    inner = E(next_, log(next_), "score", baseline=total(Value("c")))
    assert E(coin, inner, "score")(x=X).value.shape == (ROWS,)


def test_a_baseline_for_each_row_of_one_number_for_the_call_is_refused():
    """It would make that number one for each row."""
    coin = Bernoulli("q(c)", nn.Parameter(torch.zeros(1).double()), shape=1, shared=True)
    seen = Bernoulli("p(y|c)", lambda c: c, shape=1)
    data = {"y": torch.tensor([[0.0], [1.0]]).double(), "v": torch.zeros(2).double()}
    loss = E(coin, Sum("n", log(seen), rows="all"), "score", baseline=Value("v"))
    with pytest.raises(FormulaError, match=r"one number for each row.*one number for the\s+whole call"):
        loss(**data)
    assert E(coin, Sum("n", log(seen), rows="all"), "score", baseline=Value("v").mean())(**data).value.shape == ()


def test_functions_of_an_estimate_that_is_stopped_and_sums_of_some_stay():
    coin = Bernoulli("q(c|x)", Rows(0.4), shape=1)
    estimate = E(coin, V, "score", samples=4)
    for loss in (exp(sg(estimate)), 2 * estimate - 1, estimate * E(coin.fresh(), V, "score", samples=4)):
        assert loss.interpret(x=torch.zeros(ROWS, 1).double(), seed=0).value.shape == (ROWS,)


def test_the_weights_of_enumerated_classes_are_the_evidence():
    rows, q, _, data, _ = one_hot()
    prior, decode = OneHot("p(c)", shape=3), Normal("p(y|c)", lambda c: (c @ SCORES)[..., None], shape=1, scale=2.0)
    value, gradient = drawn(log(E(q, ratio(decode * prior, q), gradient="exact")), rows, **data)
    log_p = torch.distributions.Normal(SCORES, 2.0).log_prob(torch.tensor(0.5))
    torch.testing.assert_close(value, (log_p - math.log(3)).logsumexp(0).expand(ROWS))
    assert gradient.abs().max() < 1e-12
