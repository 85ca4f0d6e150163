"""Functions of an expectation that one draw cannot estimate, and latents that every row draws for itself."""

import pytest
import torch
from torch import nn

from tests.formula.defects.both import PATHS, refused, run
from worldformula import (
    KL,
    Bernoulli,
    Data,
    Deterministic,
    E,
    Normal,
    OneHot,
    Sum,
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
from worldformula.errors import SharedDrawError

B, K = 5, 7
V = total(Value("z", shape=2))
NONLINEAR = {
    "square": lambda e: e**2,
    "power": lambda e: e**-0.5,
    "exp": exp,
    "log": log,
    "sqrt": sqrt,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "softplus": softplus,
    "relu": relu,
    "abs": abs,
    "clamp": lambda e: clamp(e, -1.0, 1.0),
    "maximum": lambda e: maximum(e, 1.0),
    "minimum": lambda e: minimum(0.5, e),
    "inverse": lambda e: 1 / e,
}


@pytest.fixture
def q():
    torch.manual_seed(0)
    return Normal("q(z|x)", nn.Linear(3, 4), shape=2)


# --------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize("case", NONLINEAR)
def test_a_nonlinear_function_of_one_draw_is_refused(q, case):
    with refused("fresh()", "samples="):
        NONLINEAR[case](E(q, V))


@pytest.mark.parametrize(
    "build",
    [
        lambda q: exp(2 * E(q, V) + 1),
        lambda q: exp(-E(q, V)),
        lambda q: exp(E(q, V).mean()),
        lambda q: E(q, V).mean() ** 2,
        lambda q: exp(E(q, V).named("a")),
        lambda q: exp(sg(E(q, V))),
        lambda q: E(q, V * V) - E(q, V) ** 2,
        lambda q: sqrt(E(q, V * V) - E(q, V)),
        lambda q: 1 / (1 + E(q, V)),
        lambda q: norm2(E(q, Value("z", shape=2))),
        lambda q: E(q, Value("z", shape=2)) ** 2,
        lambda q: E(Normal("r(y|z)", nn.Linear(2, 2), shape=1), E(q, V) ** 2),
        lambda q: E(q, exp(E(Normal("r(y|z)", nn.Linear(2, 2), shape=1), Value("y", shape=1)))),
        lambda q: E(q * Deterministic("y = f(z)", nn.Linear(2, 2), shape=2), log(Normal("p(y)", shape=2))) ** 2,
        lambda q: exp(E(Bernoulli("q(b|x)", nn.Linear(3, 1), shape=1), total(Value("b")), gradient="score")),
        lambda q: exp(E(q, V, gradient="score")),
    ],
)
def test_arithmetic_around_or_inside_does_not_hide_it(q, build):
    with refused("samples="):
        build(q)


@pytest.mark.parametrize(
    "build",
    [
        lambda step: Sum("t", exp(step)),
        lambda step: exp(Sum("t", step)),
        lambda step: Sum("t", step).mean() ** 2,
        lambda step: Sum("t", maximum(step, 1.0)),
    ],
)
def test_nor_does_a_sum_over_time(build):
    q = Normal("q(z_t|x_t)", nn.Linear(3, 4), shape=2)
    with refused("samples="):
        build(E(q, total(Value("z_t", shape=2))))


# --------------------------------------------------------------------------------------------------------- allowed


@PATHS
def test_a_fresh_second_draw_gives_an_unbiased_square(path):
    rows = 40_000
    q = Normal("q(z|x)", lambda x: x, shape=1, scale=1.5)
    loss = E(q, total(Value("z", shape=1))) * E(q.fresh(), total(Value("z", shape=1)))
    found = run(loss, path, x=torch.full((rows, 1), 0.7), seed=0).value
    assert abs(found.mean() - 0.7**2) < 4 * found.std() / rows**0.5
    assert abs(found.mean() - (0.7**2 + 1.5**2)) > 4 * found.std() / rows**0.5


@PATHS
def test_with_samples_the_plug_in_estimate_is_that_of_the_samples(q, path):
    x, noise = torch.randn(B, 3), torch.randn(K, B, 2)
    loc, scale = q.params(x)
    v = (loc + scale * noise).sum(-1)
    mean, square = E(q, V, samples=K), E(q, V * V, samples=K)
    given = {"x": x, "noise": {"z": noise}}
    torch.testing.assert_close(run(mean**2, path, **given).value, v.mean(0) ** 2)
    torch.testing.assert_close(run(square - mean**2, path, **given).value, v.var(0, correction=0))
    torch.testing.assert_close(run(exp(mean), path, **given).value, v.mean(0).exp())


@PATHS
def test_enumeration_data_and_what_is_computed_are_exact(path):
    x = torch.randn(B, 3)
    coin = Bernoulli("q(b|x)", nn.Linear(3, 1), shape=1)
    found = run(E(coin, total(Value("b", shape=1)), gradient="exact") ** 2, path, x=x).value
    torch.testing.assert_close(found, coin.net(x)[:, 0].sigmoid() ** 2)
    data = E(Data("p_data(x)", shape=3), total(Value("x", shape=3)))
    torch.testing.assert_close(run(exp(data), path, x=x).value, x.sum(-1).exp())
    computed = Deterministic("y = f(x)", lambda x: 2 * x, shape=3)
    torch.testing.assert_close(run(sqrt(E(computed, norm2(Value("y", shape=3)))), path, x=x).value, 2 * x.norm(dim=-1))


@PATHS
def test_two_expectations_that_take_every_value_are_two_numbers(path):
    code, a, b = OneHot("q(c|x)", nn.Linear(3, 4), shape=4), torch.randn(4), torch.randn(4)
    first, second = (
        E(code, log(Normal("p(y|c)", lambda c, w=w: (c @ w)[..., None], shape=1, scale=1.0)), "exact") for w in (a, b)
    )
    x, y = torch.randn(B, 3), torch.randn(B, 1)
    probs = code.net(x).softmax(-1)
    f, g = ((probs * torch.distributions.Normal(w, 1.0).log_prob(y)).sum(-1) for w in (a, b))
    for loss, wanted in ((first * second, f * g), (first * first, f * f), (first / second, f / g),
                         (maximum(first, second), torch.maximum(f, g))):  # fmt: skip
        torch.testing.assert_close(run(loss, path, x=x, y=y).value, wanted)
    with pytest.raises(SharedDrawError):
        E(code, log(code), "score") * E(code, log(code), "score")


@PATHS
def test_closed_forms_and_bounds_with_samples_stay(q, path):
    prior, decode = Normal("p(z)", shape=2), Normal("p(y|z)", nn.Linear(2, 1), shape=1, scale=1.0)
    x, y, noise = torch.randn(B, 3), torch.randn(B, 1), torch.randn(K, B, 2)
    loc, scale = q.params(x)
    normal, standard = torch.distributions.Normal(loc, scale), torch.distributions.Normal(0.0, 1.0)
    kl = torch.distributions.kl_divergence(normal, standard).sum(-1)
    torch.testing.assert_close(run(maximum(KL(q, prior), 1.0), path, x=x).value, kl.clamp(min=1.0))
    z = loc + scale * noise
    weights = standard.log_prob(z).sum(-1) - normal.log_prob(z).sum(-1)
    weights = weights + torch.distributions.Normal(decode.net(z), 1.0).log_prob(y).sum(-1)
    bound = log(E(q, ratio(decode * prior, q), samples=K))
    expected = weights.logsumexp(0) - torch.tensor(float(K)).log()
    torch.testing.assert_close(run(bound, path, x=x, y=y, noise={"z": noise}).value, expected)


@PATHS
def test_linear_arithmetic_of_one_draw_stays(q, path):
    x, noise = torch.randn(B, 3), torch.randn(B, 2)
    loc, scale = q.params(x)
    v = (loc + scale * noise).sum(-1)
    loss = 2 * E(q, V) / 4 - E(q, exp(V)) + 1
    torch.testing.assert_close(run(loss, path, x=x, noise={"z": noise}).value, v / 2 - v.exp() + 1)


# -------------------------------------------------------------------------------- one draw for each row

LIKELIHOOD = Normal("p(y|x,w)", lambda x, w: x * w, shape=1, scale=1.0)
GLOBAL = Normal("p(w)", shape=1)


@pytest.mark.parametrize(
    "loss",
    [
        E(GLOBAL, log(LIKELIHOOD)).mean(),
        E(GLOBAL, log(LIKELIHOOD), samples=3).mean(),
        E(Normal("q(w)", nn.Parameter(torch.zeros(2)), shape=1), log(LIKELIHOOD)).mean(),
        log(E(GLOBAL, ratio(LIKELIHOOD, Normal("p(v)", shape=1)), samples=3)).mean(),
    ],
)
def test_explain_says_that_a_latent_without_conditions_is_drawn_for_each_row(loss):
    assert "one per row" in loss.explain()


def test_explain_does_not_say_so_of_a_latent_of_its_row(q):
    assert "one per row" not in E(q, V).mean().explain()


@pytest.mark.parametrize(
    "build",
    [
        lambda: E(GLOBAL, exp(log(LIKELIHOOD).sum())),
        lambda: E(GLOBAL, exp(log(LIKELIHOOD).mean())),
        lambda: log(E(GLOBAL, exp(log(LIKELIHOOD).sum()), samples=4)),
        lambda: E(Normal("q(w)", nn.Parameter(torch.zeros(2)), shape=1), exp(log(LIKELIHOOD).sum())),
        lambda: E(GLOBAL * Normal("p(v)", shape=1), exp(log(LIKELIHOOD).sum() + 1)),
        lambda: E(Bernoulli("p(w)", probs=0.3, shape=1), exp(log(LIKELIHOOD).sum()), gradient="exact"),
    ],
)
def test_the_evidence_of_a_batch_under_such_a_latent_is_refused(build):
    with refused("row"):
        build()(x=torch.randn(3, 1), y=torch.randn(3, 1))
