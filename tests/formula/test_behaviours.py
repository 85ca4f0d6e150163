"""Values and behaviours of Pixyz that its users rely on, re-created (or refused with a message where they were errors).

Closed forms stand in `test_estimators` as well; here are the values that Pixyz's own tests and doctests gave.
"""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from worldformula import KL, Bernoulli, Deterministic, E, Normal, Sum, Symbol, Value, log
from worldformula.errors import (
    DuplicateVariableError,
    FormulaError,
    HeaderError,
    MissingInputError,
    UnknownVariableError,
)
from worldformula.formula.ops.cross_entropy import CrossEntropy
from worldformula.formula.ops.entropy import Entropy

DECODE, PRIOR = Normal("p(x|z)", nn.Linear(2, 6), shape=3), Normal("p(z)", shape=2)


@pytest.mark.parametrize(("size", "entropy"), [(64, 90.8121), (10, 14.1894)])
def test_entropy_cross_entropy_and_kl_of_unit_normals(size, entropy):
    q, p = Normal("q(z)", shape=size), Normal("p(z)", loc=1.0, scale=1.0, shape=size)
    torch.testing.assert_close(Entropy(q)().value.item(), entropy, atol=1e-4, rtol=0)
    torch.testing.assert_close(KL(q, p)().value.item(), size / 2)
    torch.testing.assert_close(CrossEntropy(q, p)().value.item(), entropy + size / 2, atol=1e-4, rtol=0)


def test_an_impossible_coin_costs_the_log_of_the_rounding_error():
    coin = Bernoulli("p(x)", shape=2, probs=torch.ones(2))
    torch.testing.assert_close(coin.log_prob(x=torch.tensor([0.0, 1.0])).item(), -15.9424, atol=1e-4, rtol=0)
    for impossible in (0, 1, 1.0):
        with pytest.raises(FormulaError, match="strictly between 0 and 1"):
            Bernoulli("p(x)", shape=2, probs=impossible)


def test_arithmetic_of_named_numbers_and_a_sum_over_steps():
    a, b = Symbol("a"), Symbol("b")
    for expression, value in ((a + b, 6), (a - b, -2), (a / b, 0.5), (a + 3, 5), (2 - b, -2), (-a, -2), (abs(-a), 2)):
        assert (
            float(expression(**{k: v for k, v in {"a": 2.0, "b": 4.0}.items() if k in expression.program.inputs}).value)
            == value
        )
    assert Sum("t", Value("n_t"))(n=torch.arange(3.0)[None]).value.item() == 3


def test_axes_are_samples_batch_event():
    assert PRIOR.sample(sample_shape=(40, 30, 20, 10)).shape == (40, 30, 20, 10, 2)
    drawn = DECODE.sample(z=torch.zeros(20, 10, 2), sample_shape=(40, 30))
    assert drawn.shape == (40, 30, 20, 10, 3)
    assert DECODE.log_prob(x=drawn[0, 0], z=torch.zeros(20, 10, 2)).shape == (20, 10)


def test_what_an_expectation_needs_is_what_no_factor_inside_draws():
    loss = E(Normal("q(z|x)", nn.Linear(3, 4), shape=2), log(Normal("p(y|z)", nn.Linear(2, 2), shape=1)))
    assert set(loss.program.inputs) == {"x", "y"}
    with pytest.raises(MissingInputError, match="needs y"):
        loss(x=torch.zeros(5, 3))
    with pytest.raises(UnknownVariableError, match="no input 'z'"):
        loss(x=torch.zeros(5, 3), y=torch.zeros(5, 1), z=torch.zeros(5, 2))


def test_moments_and_parameters_hold_through_a_renaming():
    q = Normal("q(z|x)", nn.Linear(3, 4), shape=2)
    other, x = q.rename(z="z'", x="y"), torch.randn(5, 3)
    for one, two in zip(q.params(x), other.params(x), strict=True):
        torch.testing.assert_close(one, two)
    torch.testing.assert_close(q.sample(x=x, deterministic=True), other.sample(y=x, deterministic=True))
    torch.testing.assert_close(q.sample(x=x, seed=0), other.sample(y=x, seed=0))
    torch.testing.assert_close(Entropy(q)(x=x).value, Entropy(other)(y=x).value)


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        (lambda: DECODE.rename(x="z"), HeaderError, "each variable once, found z twice"),
        (lambda: DECODE.rename(z="x"), HeaderError, "each variable once, found x twice"),
        (lambda: (DECODE * PRIOR).rename(x="z"), HeaderError, "found z twice"),
        (lambda: (DECODE * PRIOR).marginal("z").rename(x="z"), HeaderError, "found z twice"),
        (lambda: DECODE.rename(w="v"), UnknownVariableError, "no variable 'w'"),
        (lambda: (DECODE * PRIOR).rename(w="z"), UnknownVariableError, "no variable 'w'"),
        (lambda: (DECODE * PRIOR).marginal("x", "z"), FormulaError, "nothing is left"),
        (lambda: (DECODE * PRIOR).marginal("w"), UnknownVariableError, "no variable 'w'"),
        (lambda: (DECODE * PRIOR).marginal("z") * PRIOR, DuplicateVariableError, "two factors declare z"),
        (lambda: Normal("p(z|z)", nn.Linear(2, 4), shape=2), HeaderError, "found z twice"),
        (lambda: DECODE.sample(z=torch.zeros(4, 2), w=torch.zeros(4)), UnknownVariableError, "no variable 'w'"),
    ],
)  # fmt: skip
def test_names_that_clash_or_do_not_exist(wrong, error, said):
    with pytest.raises(FormulaError, match=said) as caught:
        wrong()
    assert type(caught.value) is error


def saved(loss):
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    return torch.load(file)


@pytest.mark.parametrize(
    "loc", [torch.ones(1).expand(4), torch.arange(8.0).reshape(4, 2).t()[0], torch.ones(2, 2).t().reshape(4)]
)
def test_expanded_and_strided_constants_save_load_copy_and_pickle(loc):
    def build(loc):
        return KL(Normal("q(z|x)", nn.Linear(3, 8)), Normal("p(z)", loc=loc, scale=1.0, shape=4)).mean()

    loss, other, x = build(loc), build(torch.zeros(1).expand(4)), torch.randn(5, 3)
    other.load_state_dict(saved(loss))
    for same in (other, copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        torch.testing.assert_close(same(x=x).value, loss(x=x).value)


def test_buffers_of_a_network_are_saved_and_loaded():
    def build():
        net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        return KL(Normal("q(z|x)", net, shape=2), PRIOR).mean()

    loss, other, x = build(), build(), torch.randn(8, 3)
    for _ in range(3):
        loss(x=x)
    other.load_state_dict(saved(loss))
    torch.testing.assert_close(other.eval()(x=x).value, loss.eval()(x=x).value)


def test_means_and_modes_pass_through_a_product():
    f = Deterministic("h = f(z)", torch.sinh, shape=2)
    joint = Normal("p(x|h)", nn.Linear(2, 6), shape=3) * f * Normal("p(z)", loc=torch.tensor([1.0, -1.0]), shape=2)
    one, two = (joint.sample(deterministic=True, seed=seed) for seed in (0, 1))
    assert torch.equal(one["z"], torch.tensor([1.0, -1.0]))
    assert torch.equal(one["h"], one["z"].sinh())
    assert torch.equal(one["x"], two["x"])
