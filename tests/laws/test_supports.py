"""What families say of impossible values and parameters, and settings that become plain numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch import tensor as T

import worldformula as wf
from worldformula.errors import ConfigError, FormulaError
from worldformula.families import (
    AutoregressiveFamily,
    BernoulliFamily,
    BinomialFamily,
    CategoricalFamily,
    DiscretisedLogisticFamily,
    FlowFamily,
    LowRankNormalFamily,
    MixtureFamily,
    MultinomialFamily,
    NormalFamily,
    OneHotFamily,
    RelaxedBernoulliFamily,
    RelaxedOneHotFamily,
    TwoHotFamily,
    UnlikeMixtureFamily,
    WrappedFamily,
    ZeroInflatedFamily,
    bernoulli,
    beta,
    categorical,
    dirichlet,
    discover,
    gamma,
    geometric,
    laplace,
    log_normal,
    logistic_normal,
    low_rank_normal,
    multivariate_normal,
    negative_binomial,
    normal,
    one_hot,
    poisson,
    relaxed_bernoulli,
    relaxed_one_hot,
    student_t,
    tanh_normal,
    truncated_normal,
    two_hot,
    uniform,
    von_mises,
    von_mises_fisher,
    zero_inflated,
)
from worldformula.families.objects import Wrapper

NAN, INF = math.nan, math.inf
FIVE = MultinomialFamily(total_count=5)
LEVELS = DiscretisedLogisticFamily(components=2, levels=8)
COINS = MixtureFamily(component=bernoulli, components=2)
CHAIN = AutoregressiveFamily(base=bernoulli)
EXPONENTIAL = (Wrapper(torch.distributions.Exponential(torch.ones(2))),)

# family, parameters where the support depends on them, a possible value, an impossible one, what is said of it
VALUES = [
    (normal, None, [0.0, -3.0], [0.0, INF], ["finite", "inf"]),
    (laplace, None, [0.0, -3.0], [0.0, -INF], ["finite", "-inf"]),
    (student_t, None, [0.0, -3.0], [INF, 1.0], ["finite", "inf"]),
    (von_mises, None, [0.0, 9.0], [INF, 1.0], ["finite", "inf"]),
    (two_hot, None, [0.0, 1e12], [INF, 1.0], ["finite", "inf"]),
    (multivariate_normal, None, [0.0, -3.0], [0.0, INF], ["finite", "inf"]),
    (low_rank_normal, None, [0.0, -3.0], [0.0, INF], ["finite", "inf"]),
    (log_normal, None, [0.1, 7.0], [1.0, 0.0], ["greater than 0", "got 0"]),
    (gamma, None, [0.1, 7.0], [1.0, -3.0], ["at least 0", "got -3"]),
    (beta, None, [0.1, 1.0], [0.5, 3.0], ["from 0 to 1", "got 3"]),
    (tanh_normal, None, [-1.0, 0.5], [0.5, 1.5], ["between -1 and 1", "got 1.5"]),
    (truncated_normal, None, [-1.0, 0.5], [0.5, -1.5], ["between -1 and 1", "got -1.5"]),
    (bernoulli, None, [0.0, 0.25], [0.0, 255.0], ["from 0 to 1", "got 255", "divide it by 255"]),
    (bernoulli, None, [0.0, 1.0], [0.0, 2.0], ["from 0 to 1", "got 2 in the tensor"]),
    (bernoulli, None, [0.0, 1.0], [-0.5, 0.0], ["from 0 to 1", "got -0.5"]),
    (relaxed_bernoulli, None, [0.1, 0.9], [0.5, 128.0], ["from 0 to 1", "divide it by 255"]),
    (von_mises_fisher, None, [0.6, -0.8], [0.6, 0.6], ["length 1", "[0.6, 0.6]"]),
    (logistic_normal, None, [0.25, 0.75], [0.25, 0.25], ["sum to 1", "[0.25, 0.25]"]),
    (dirichlet, None, [0.25, 0.75], [0.25, 0.25], ["sum to 1", "[0.25, 0.25]"]),
    (relaxed_one_hot, None, [0.25, 0.75], [1.25, -0.25], ["at least 0", "[1.25, -0.25]"]),
    (one_hot, None, [1.0, 0.0, 0.0], [1.0, 1.0, 1.0], ["sum to 1", "[1.0, 1.0, 1.0]"]),
    (one_hot, None, [0.5, 0.25, 0.25], [0.0, 0.0, 0.0], ["sum to 1", "[0.0, 0.0, 0.0]"]),
    (FIVE, None, [5.0, 0.0], [9.0, 9.0], ["sum to 5", "[9.0, 9.0]"]),
    (FIVE, None, [2.0, 3.0], [2.5, 2.5], ["whole numbers", "[2.5, 2.5]"]),
    (poisson, None, [0.0, 12.0], [1.0, 2.5], ["whole number", "got 2.5"]),
    (negative_binomial, None, [0.0, 12.0], [1.0, -1.0], ["whole number", "got -1"]),
    (zero_inflated, None, [0.0, 12.0], [1.0, 2.5], ["whole number", "got 2.5"]),
    (ZeroInflatedFamily(base=BinomialFamily(total_count=5)), None, [0.0, 5.0], [1.0, 6.0], ["from 0 to 5", "got 6"]),
    (UnlikeMixtureFamily(parts=(gamma, beta)), None, [0.5, 7.0], [0.5, -1.0], ["of at least 0 or from 0", "got -1"]),
    (geometric, None, [0.0, 12.0], [1.0, 2.5], ["whole number", "got 2.5"]),
    (BinomialFamily(total_count=5), None, [0.0, 5.0], [1.0, 6.0], ["from 0 to 5", "got 6"]),
    (LEVELS, None, [0.0, 7.0], [0.0, 8.0], ["from 0 to 7", "got 8"]),
    (LEVELS, None, [0.0, 7.0], [0.0, 0.5], ["from 0 to 7", "got 0.5"]),
    (CategoricalFamily(classes=3), None, [0, 2], [0, 99], ["from 0 to 2", "got 99"]),
    (categorical, (torch.zeros(2, 3),), [0, 2], [0, -1], ["from 0 to 2", "got -1"]),
    (categorical, None, [0, 2], [0.0, 1.0], ["integer type", ".long()"]),
    (uniform, (T([0.0, 1.0]), 2.0), [0.0, 1.5], [0.0, 0.5], ["between low and high", "got 0.5"]),
    (COINS, None, [0.0, 1.0], [0.0, 3.0], ["from 0 to 1", "got 3"]),
    (CHAIN, None, [0.0, 1.0], [0.0, 3.0], ["from 0 to 1", "got 3"]),
    (WrappedFamily(), EXPONENTIAL, [0.0, 1.0], [0.5, -1.0], ["support", "got -1"]),
]


@pytest.mark.parametrize(
    ("family", "params", "good", "bad", "words"), VALUES, ids=[f"{i} {row[0]}" for i, row in enumerate(VALUES)]
)
def test_an_impossible_value_is_named_with_what_is_possible(family, params, good, bad, words):
    rank = 0 if family.default_rank == 0 else 1
    assert family.wrong_value(T(good), rank, params) is None
    said = family.wrong_value(T(bad), rank, params)
    assert said is not None
    assert all(word in said for word in words), said
    if params is None:  # one bad row among good ones
        rows = torch.stack([T(good).to(T(bad).dtype), T(bad)]).expand(3, 2, -1)
        assert family.wrong_value(rows, rank) == said


def test_every_family_of_the_folder_says_something():
    said = {family.name for family, *_ in VALUES}
    assert {*discover(), "mixture", "autoregressive", "wrapped"} <= said
    assert FlowFamily(base=normal).wrong_value(T([INF]), 1) is None  # what a flow reaches, its network decides


def test_samples_of_every_family_are_possible():
    torch.manual_seed(0)
    families = [*discover().values(), FIVE, LEVELS, OneHotFamily(unimix=0.01), CategoricalFamily(classes=5)]
    for family in families:
        shape = (4,) * family.default_rank
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            params = family.params(torch.randn(50, family.head_width(shape) or 5).to(dtype), shape)
            noise = family.noise(family.noise_shape((50,), shape, params), dtype=dtype)
            assert family.wrong_value(family.sample(params, noise), len(shape), params) is None, (family, dtype)


def test_missing_values_pass_and_missing_parameters_do_not():
    assert bernoulli.wrong_value(T([NAN, 1.0]), 1) is None
    assert one_hot.wrong_value(T([[NAN, 0.0], [0.0, 1.0]]), 1) is None
    assert "got nan" in normal.wrong_parameters({"loc": T([0.0, NAN])})
    assert "got nan" in bernoulli.wrong_parameters({"logits": T([NAN])})


def test_types_of_integers_and_tensors_without_values_are_read():
    assert bernoulli.wrong_value(T([0, 1], dtype=torch.uint8), 1) is None
    assert bernoulli.wrong_value(T([True, False]), 1) is None
    assert "divide it by 255" in bernoulli.wrong_value(T([0, 200], dtype=torch.uint8), 1)
    assert bernoulli.wrong_value(torch.empty(2, device="meta"), 1) is None
    assert normal.wrong_parameters({"scale": torch.empty(2, device="meta")}) is None


PARAMETERS = [
    (normal, {"scale": T([1.0, -2.0])}, "scale= greater than 0, got -2"),
    (normal, {"scale": 0.0}, "scale= greater than 0, got 0.0"),
    (laplace, {"scale": T([0.0])}, "scale= greater than 0, got 0"),
    (log_normal, {"scale": T([-1.0])}, "scale= greater than 0"),
    (student_t, {"df": T([-1.0])}, "df= greater than 0"),
    (beta, {"alpha": T([1.0, 0.0])}, "alpha= greater than 0"),
    (gamma, {"rate": T([-1.0])}, "rate= greater than 0"),
    (dirichlet, {"concentration": T([1.0, -1.0])}, "concentration= greater than 0"),
    (uniform, {"low": T([0.0, 3.0]), "high": T([1.0, 2.0])}, "low= below high=, got high - low = -1"),
    (uniform, {"low": T([-INF])}, "low= that is finite"),
    (von_mises, {"concentration": T([-0.1])}, "concentration= of at least 0"),
    (von_mises_fisher, {"concentration": T([-0.1])}, "concentration= of at least 0 and finite, got -0.1"),
    (von_mises_fisher, {"loc": T([[0.0, 0.0], [0.6, 0.8]])}, "other than 0"),
    (logistic_normal, {"scale": T([1.0, -2.0])}, "scale= greater than 0, got -2"),
    (zero_inflated, {"rate": T([-0.1])}, "rate= of at least 0"),
    (zero_inflated, {"gate": T([1.5])}, "gate= from 0 to 1, got 1.5"),
    (UnlikeMixtureFamily(parts=(normal, laplace)), {"laplace_scale": T([-1.0])}, "laplace component, expected scale="),
    (UnlikeMixtureFamily(parts=(normal, laplace)), {"weights": T([-1.0, 1.0])}, "weights= of finite weights"),
    (poisson, {"rate": T([-0.1])}, "rate= of at least 0"),
    (negative_binomial, {"probs": T([1.1])}, "probs= from 0 to 1, got 1.1"),
    (negative_binomial, {"total_count": T([0.0])}, "total_count= greater than 0"),
    (bernoulli, {"probs": T([0.5, 1.1])}, "probs= from 0 to 1, got 1.1"),
    (relaxed_bernoulli, {"probs": T([-0.1])}, "probs= from 0 to 1, got -0.1"),
    (categorical, {"probs": T([0.5, -0.5])}, "probs= of finite weights of at least 0"),
    (one_hot, {"probs": T([0.0, 0.0])}, "not all 0"),
    (FIVE, {"probs": T([1.0, -1.0])}, "probs= of finite weights"),
    (two_hot, {"probs": T([[1.0, NAN]])}, "probs= of finite weights"),
    (relaxed_one_hot, {"logits": T([0.0, INF])}, "logits= below infinity"),
    (LEVELS, {"logits": T([0.0, INF])}, "logits= below infinity"),
    (multivariate_normal, {"scale_tril": T([[1.0, 2.0], [0.0, 1.0]])}, "scale_tril= as a lower triangular"),
    (multivariate_normal, {"scale_tril": T([[1.0, 0.0], [0.0, -1.0]])}, "positive diagonal"),
    (multivariate_normal, {"covariance_matrix": T([[1.0, 2.0], [2.0, 1.0]])}, "positive definite"),
    (multivariate_normal, {"covariance_matrix": T([[1.0, 0.5], [0.0, 1.0]])}, "symmetric"),
    (low_rank_normal, {"cov_diag": T([1.0, 0.0])}, "cov_diag= greater than 0"),
    (COINS, {"weights": T([1.0, -1.0])}, "weights= of finite weights"),
    (COINS, {"probs": T([[0.5], [1.5]])}, "probs= from 0 to 1, got 1.5"),
    (WrappedFamily(of="torch.distributions:Gumbel"), {"scale": T([-1.0])}, "scale="),
]


@pytest.mark.parametrize(("family", "given", "words"), PARAMETERS, ids=str)
def test_impossible_parameters_are_named(family, given, words):
    assert words in (family.wrong_parameters(given) or "nothing was said")


def test_possible_parameters_pass():
    assert bernoulli.wrong_parameters({"probs": T([0.0, 1.0])}) is None
    assert bernoulli.wrong_parameters({"logits": T([INF, -INF])}) is None
    assert categorical.wrong_parameters({"logits": T([0.0, -INF])}) is None
    assert categorical.wrong_parameters({"probs": T([2.0, 1.0, 0.0])}) is None
    assert poisson.wrong_parameters({"rate": T([0.0])}) is None
    assert von_mises.wrong_parameters({"concentration": 0.0}) is None
    assert multivariate_normal.wrong_parameters({"covariance_matrix": T([[2.0, 1.0], [1.0, 2.0]])}) is None
    assert uniform.wrong_parameters({"low": T([0.0, 1.0]), "high": 2.0}) is None


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: wf.Bernoulli("p(x)", probs=T([1.1])), r"p\(x\): expected probs= from 0 to 1, got 1.1"),
        (lambda: wf.Normal("p(x|z)", nn.Linear(2, 2), shape=2, scale=T([1.0, -1.0])), "scale= greater than 0, got -1"),
        (lambda: wf.Normal("p(x)", {"loc": T([0.0]), "scale": T([-1.0])}), "scale= greater than 0, got -1"),
        (lambda: wf.Uniform("p(x)", low=T([2.0]), high=T([1.0])), "low= below high="),
        (lambda: wf.MultivariateNormal("p(x)", loc=0.0, shape=2, scale_tril=torch.ones(2, 2)), "lower triangular"),
        (lambda: wf.Categorical("p(y)", probs=T([1.0, -1.0])), "weights of at least 0"),
        (lambda: wf.Mixture("p(x)", components=2, shape=1, loc=T([[0.0], [1.0]]), scale=-1.0), "scale= greater than 0"),
    ],
)
def test_a_factor_refuses_them_where_it_is_written(build, words):
    with pytest.raises(FormulaError, match=words):
        build()


def test_a_uniform_angle_is_a_von_mises_of_concentration_0():
    p = wf.VonMises("p(a)", shape=2, concentration=0.0)
    assert p.log_prob(a=torch.zeros(1, 2)).item() == pytest.approx(-2 * math.log(2 * math.pi))
    wf.VonMises("p(a)", loc=T([0.0]), concentration=T([0.0]))


# ------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda v: RelaxedBernoulliFamily(temperature=v), "RelaxedBernoulliFamily(temperature=0.5)"),
        (lambda v: RelaxedOneHotFamily(temperature=v), "RelaxedOneHotFamily(temperature=0.5)"),
        (lambda v: OneHotFamily(unimix=v), "OneHotFamily(unimix=0.5, temperature=1.0)"),
        (lambda v: TwoHotFamily(high=v), "TwoHotFamily(bins=255, low=-20.0, high=0.5, spacing='symexp')"),
        (lambda v: NormalFamily(min_scale=v), "NormalFamily(min_scale=0.5)"),
        (lambda v: BernoulliFamily(temperature=v), "BernoulliFamily(temperature=0.5)"),
    ],
)
@pytest.mark.parametrize("value", [np.float64(0.5), np.float32(0.5), np.array(0.5), T(0.5), T([0.5])], ids=repr)
def test_a_setting_becomes_a_python_number(build, expected, value):
    family = build(value)
    assert repr(family) == expected
    assert family == build(0.5)
    assert hash(family) == hash(build(0.5))


def test_whole_settings():
    mixture = MixtureFamily(component=normal, components=np.int64(2), factored=np.bool_(True))
    assert repr(mixture) == "MixtureFamily(component=NormalFamily(min_scale=0.0), components=2, factored=True)"
    assert repr(CategoricalFamily(classes=np.int64(3))) == "CategoricalFamily(unimix=0.0, classes=3)"
    assert repr(MultinomialFamily(total_count=T(4))) == "MultinomialFamily(total_count=4)"
    assert repr(LowRankNormalFamily(cov_rank=np.int32(2))) == "LowRankNormalFamily(cov_rank=2, min_variance=0.0)"


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: RelaxedBernoulliFamily(temperature=T([0.5, 1.0])), r"temperature= as one number, got .* shape \[2\]"),
        (lambda: RelaxedBernoulliFamily(temperature=nn.Parameter(T(0.5))), "not learnt"),
        (lambda: OneHotFamily(unimix="a"), "unimix= as a number, got 'a'"),
        (lambda: MultinomialFamily(total_count=2.5), "total_count= as a whole number, got 2.5"),
        (lambda: TwoHotFamily(bins=True), "bins= as a whole number"),
        (lambda: MixtureFamily(component=normal, components=2, factored=1), "factored= as True or False"),
    ],
)
def test_what_is_no_number_is_refused(build, words):
    with pytest.raises(ConfigError, match=words):
        build()


def test_code_with_such_settings_runs():
    q = wf.RelaxedBernoulli("q(z|x)", nn.Linear(3, 2), shape=2, temperature=np.float64(0.5))
    reward = wf.TwoHot("p(r|z)", nn.Linear(2, 11), bins=np.int64(11), low=np.float32(-5), high=T(5.0))
    loss = wf.E(q, -wf.log(reward)).mean()
    x, r = torch.randn(4, 3), torch.randn(4)
    assert torch.equal(loss(x=x, r=r, seed=0).value, loss.interpret(x=x, r=r, seed=0).value)
    assert "temperature=0.5" in loss.code


def test_numbers_are_looked_at_on_any_default_device() -> None:
    """What is built without room for its weights, too."""
    with torch.device("meta"):
        assert wf.Normal("p(x)", shape=2, loc=0.0, scale=0.5).shape == (2,)
        with pytest.raises(FormulaError, match="greater than 0, got -0.5"):
            wf.Normal("p(x)", shape=2, loc=0.0, scale=-0.5)
