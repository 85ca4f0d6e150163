"""What the habits of PyTorch lead one to write: refused with what to write here."""

import math

import pytest
import torch
from torch import nn

from tests.formula.defects.both import PATHS, refused, run
from worldformula import KL, Deterministic, E, Normal, Sum, log, ratio
from worldformula.errors import FormulaError, ShapeError
from worldformula.formula.factors.independent import Data
from worldformula.training.slow import move_slow

PRIOR = Normal("p(z)", shape=2)


class Two(nn.Module):
    """p(x|z,w): a linear layer on both."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 6)

    def forward(self, z, w):
        return self.linear(torch.cat((z, w), -1))


def parts():
    return Normal("q(z|x)", nn.Linear(3, 4), shape=2), Normal("p(x|z)", nn.Linear(2, 6), shape=3)


def test_a_draw_has_named_arguments():
    for held in (PRIOR, PRIOR * parts()[1]):
        with refused("by name, got 5", "sample(sample_shape=(5,))", error=FormulaError):
            held.sample(5)
    with refused("log_prob(z=...)", error=FormulaError):
        PRIOR.log_prob(torch.zeros(2))
    with refused("by name", "log_prob(x=..., z=...)", error=FormulaError):
        (PRIOR * parts()[1]).log_prob(torch.zeros(2))


def test_a_reduction_has_no_axis():
    loss = log(PRIOR)
    for reduce, asked in ((loss.mean, (0,)), (loss.sum, (-1,))):
        with refused("over all its batch axes", f"({asked[0]})", "total(...)", error=FormulaError):
            reduce(*asked)
    with refused(".mean(dim=0)", error=FormulaError):
        loss.mean(dim=0)


def test_a_formula_has_no_elements():
    with refused("[0]", "loss(...).value", error=FormulaError):
        log(PRIOR)[0]
    with refused("no elements", error=FormulaError):
        list(log(PRIOR))


def test_a_formula_is_no_number_before_it_is_called():
    loss = log(PRIOR).mean()
    for take in (float, int, complex, round, math.exp, lambda f: f"{f:.3f}", "{:8.2e}".format):
        with refused("no value before it is called", "loss(x=...).value", error=FormulaError):
            take(loss)
    for habit in ("item", "backward"):
        with refused(f".{habit}()", f"loss(x=...).value.{habit}()", error=FormulaError):
            getattr(loss, habit)()
    with refused("a factor is no number", "p.log_prob(...)", error=FormulaError):
        float(PRIOR)
    assert f"{PRIOR:>20}" == str(PRIOR).rjust(20)
    assert f"{loss}" == str(loss)
    assert loss  # `if loss:` asks whether there is one


def test_a_network_of_a_formula_is_no_attribute_to_set():
    """The formula went on with the old one, whose weights nobody trained or saved any more."""
    q, _ = parts()
    for touch in (False, True):
        loss = KL(q, PRIOR).mean()
        names = list(loss.state_dict()) if touch else []
        with refused("q_z_given_x is the network", "q_z_given_x[-1] = ...", "new network", error=FormulaError):
            loss.q_z_given_x = nn.Linear(3, 4)
        assert loss.q_z_given_x is q.net
        assert list(loss.state_dict())[: len(names)] == names
    loss.q_z_given_x = q.net  # the same again, and what is no network of the formula, are free
    loss.head = nn.Linear(1, 1)
    layers = nn.Sequential(nn.Linear(3, 4))
    deep = KL(Normal("q(z|x)", layers, shape=2), PRIOR).mean()
    x = torch.ones(2, 3)
    before = deep(x=x).value
    deep.q_z_given_x[-1] = q.net
    assert deep(x=x).value == loss(x=x).value != before


def test_a_factor_keeps_the_network_that_it_was_built_with():
    """What stood in its place was sampled and trained, while every formula called the old one."""
    q, _ = parts()
    own, other = q.net, nn.Linear(3, 4)
    loss, x = KL(q, PRIOR).mean(), torch.ones(2, 3)
    before = loss(x=x).value
    for factor in (q, Normal("p(z)", shape=2)):
        with refused("net is the network", "factor and formula", error=FormulaError):
            factor.net = other
    q.net = own
    assert q.net is own
    assert loss(x=x).value == before
    head = Deterministic("y = f(x)", nn.Linear(3, 1))
    with refused("net is the network", error=FormulaError):
        head.net = other


def test_a_function_of_tensors_takes_neither_a_formula_nor_a_factor():
    with refused("got a formula", "write exp(...)", "from worldformula import exp", error=FormulaError):
        torch.exp(log(PRIOR))
    with refused("mse_loss", "got a formula", "Deterministic('y = f(x)', mse_loss)", error=FormulaError):
        nn.functional.mse_loss(torch.ones(2), log(PRIOR))
    with refused("got a factor", error=FormulaError):
        torch.exp(PRIOR)
    for operate in (lambda: torch.ones(2) * log(PRIOR), lambda: torch.ones(2) / log(PRIOR)):
        with refused("got Tensor", "Symbol('beta')", error=FormulaError):  # the formula answers, not torch
            operate()


@pytest.mark.parametrize(
    "made", [lambda **k: Deterministic("y = f(x)", nn.Linear(2, 2), **k), lambda **k: Data("p(x)", **k)]
)
def test_a_misspelt_setting_of_what_has_no_parameters(made):
    with refused("no parameter 'shap'", "did you mean 'shape'", error=FormulaError):
        made(shap=2)


def test_a_product_is_drawn_anew_and_averaged_as_its_factors_are():
    joint = PRIOR * parts()[1]
    one, other = joint.sample(seed=0), joint.fresh().sample(seed=0)
    assert all(torch.equal(one[k], other[k]) for k in one)
    assert all(a is not b for a, b in zip(joint.factors, joint.fresh().factors, strict=True))
    slow = joint.slow(0.5)
    assert slow.factors[0] is PRIOR
    decode = joint.factors[1].net
    before = decode.weight.detach().clone()
    with torch.no_grad():
        decode.weight.add_(1.0)
    loss = log(slow).sum()
    move_slow(loss)
    torch.testing.assert_close(next(iter(slow.factors[1].parameters())), before + 0.5)
    with refused("no weights to average", error=FormulaError):
        (PRIOR * Normal("p(y)", shape=1)).slow(0.9)


@PATHS
def test_a_condition_held_at_one_row_is_that_of_every_row(path):
    w = torch.randn(1, 2)
    decode = Normal("p(x|z,w)", Two(), shape=3)
    x, z = torch.randn(4, 3), torch.randn(4, 2)
    found = run(log(decode.condition(w=w)), path, x=x, z=z).value
    torch.testing.assert_close(found, decode.log_prob(x=x, z=z, w=w.expand(4, 2)))


@PATHS
def test_a_condition_held_at_each_row_has_as_many_rows_as_the_call(path):
    encode, _ = parts()
    decode = Normal("p(x|z,w)", Two(), shape=3).condition(w=torch.randn(4, 2))
    x = torch.randn(4, 3)
    assert run(E(encode, log(decode)), path, x=x).value.shape == (4,)
    with refused("held at 4 values", "20 rows", "give the call a value for each row", error=ShapeError):
        run(log(E(encode, ratio(PRIOR * decode, encode), samples=5)), path, x=x)
    with refused("held at 4 values", "8 rows", error=ShapeError):
        run(E(encode, log(decode)), path, x=torch.randn(8, 3))


def test_a_network_that_returns_a_tensor_and_later_a_dict_is_named():
    class Changing(nn.Linear):
        calls = 0

        def forward(self, x):
            self.calls += 1
            loc, raw = super().forward(x).chunk(2, -1)
            return torch.cat((loc, raw), -1) if self.calls < 9 else {"loc": loc, "scale": raw.exp()}

    loss = KL(Normal("q(z|x)", Changing(3, 4), shape=2), PRIOR)
    loss(x=torch.randn(4, 3))
    with refused("q(z|x)", "one tensor at the first call, and a dict", error=FormulaError):
        for _ in range(12):
            loss(x=torch.randn(4, 3))


def test_noise_of_a_wider_dtype_than_the_data_is_refused():
    encode, decode = parts()
    with refused("float32", "float64", "noise.to(torch.float32)", error=ShapeError):
        E(encode, log(decode))(x=torch.randn(4, 3), noise={"z": torch.randn(4, 2, dtype=torch.float64)})


def test_a_held_row_stands_in_a_sum_over_time():
    class Step(Two):
        def forward(self, z, w):
            return self.linear(torch.cat((z, w), -1))[..., :4]

    w = torch.randn(1, 2)
    step = Normal("p(z_t|z_{t-1},w)", Step(), shape=2)
    z = torch.randn(3, 5, 2)
    found = Sum("t", log(step.condition(w=w)))(z=z).value
    before = torch.cat((torch.zeros(3, 1, 2), z[:, :-1]), 1)
    loc, raw = step.net(before.flatten(0, 1), w.expand(15, 2)).chunk(2, -1)
    right = torch.distributions.Normal(loc, nn.functional.softplus(raw)).log_prob(z.flatten(0, 1)).sum(-1)
    torch.testing.assert_close(found, right.reshape(3, 5).sum(1))
