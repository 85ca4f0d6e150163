"""What a formula cannot be made of is refused where it is written, with what to write instead."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from worldformula import KL, Bernoulli, Deterministic, E, Mean, Normal, Sum, Symbol, exp, log, maximum
from worldformula.errors import FormulaError, ShapeError, UnknownVariableError

Q, P = Normal("q(z|x)", torch.nn.Linear(3, 4), shape=2), Normal("p(z)", shape=2)
X = torch.randn(5, 3)


@pytest.mark.parametrize(
    "number", [2, 2.0, np.float32(2), np.float64(2), np.int64(2), np.array(2.0)[()]], ids=lambda n: type(n).__name__
)
def test_numbers_of_python_and_numpy_on_both_sides(number):
    expected = 2 * KL(Q, P)(x=X).value
    torch.testing.assert_close((number * KL(Q, P))(x=X).value, expected)
    torch.testing.assert_close((KL(Q, P) * number)(x=X).value, expected)
    torch.testing.assert_close((KL(Q, P) / (1 / number))(x=X).value, expected)
    torch.testing.assert_close(maximum(0 * KL(Q, P), number)(x=X).value, torch.full((5,), 2.0))
    assert repr(1 - KL(Q, P)) == repr(np.int32(1) - KL(Q, P))


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: 2 * Q, r"log-density, e.g. 2 \* log\(p\)"),
        (lambda: Q * 2, "log-density"),
        (lambda: np.float32(2) * Q, "log-density"),
        (lambda: 2 * (Q * Normal("p(y|z)", torch.nn.Linear(2, 4))), "log-density"),
        (lambda: Q + P, "log-density"),
        (lambda: Q - 1, "log-density"),
        (lambda: -Q, "log-density"),
        (lambda: Q * KL(Q, P), "log-density"),
        (lambda: KL(Q, P) * Q, r"write log\(p\)"),
        (lambda: KL(Q, P) ** Q, "a number as the exponent"),
        (lambda: E(Q, 3.0), "the expectation of a number is that number"),
        (lambda: torch.ones(5) * KL(Q, P), "give it a name: Symbol"),
        (lambda: KL(Q, P) * torch.ones(5), "give it a name: Symbol"),
        (lambda: KL(Q, P) + torch.tensor(1.0), "give it a name: Symbol"),
        (lambda: maximum(KL(Q, P), torch.tensor(1.0)), "give it a name: Symbol"),
        (lambda: KL(Q, P) * np.ones(5), "give it a name: Symbol"),
        (lambda: np.ones(5) * KL(Q, P), "give it a name: Symbol"),
        (lambda: True * KL(Q, P), "got bool"),
        (lambda: float("nan") * KL(Q, P), "got nan"),
        (lambda: Normal("p(z)", shape=2, scale="a"), "number or a tensor, got str 'a'"),
        (lambda: Normal("p(z)", shape=2, scale=-1.0), "greater than 0, got -1.0"),
        (lambda: Normal("p(z)", shape=2, scale=0), "greater than 0"),
        (lambda: Normal("p(z)", shape=2, loc=float("nan")), "got nan"),
        (lambda: Normal("p(z)", shape=2, loc=np.zeros(2)), "torch.tensor"),
        (lambda: Bernoulli("p(c)", shape=2, probs=1.5), "between 0 and 1"),
    ],
)
def test_what_is_no_operand_says_what_to_write(build, said):
    with pytest.raises(FormulaError, match=said):
        build()


def test_a_number_of_numpy_is_a_parameter():
    assert Normal("p(z)", shape=2, loc=np.float32(1), scale=np.float64(0.5)).given == {"loc": 1.0, "scale": 0.5}


# ----------------------------------------------------------------------------------------------- the clock of a sum


def step(**shape):
    core = Deterministic("h_t = f(h_{t-1}, a_t)", torch.add, **(shape or {"shape": 2}))
    return E(core, log(Normal("p(h_t)", shape=2)))


@pytest.mark.parametrize("over", [Sum, Mean])
@pytest.mark.parametrize(
    ("initial", "error", "said"),
    [
        ({"H": torch.zeros(2)}, UnknownVariableError, "'H', which is not carried; these are: h. Did you mean 'h'"),
        ({"a": torch.zeros(2)}, UnknownVariableError, "'a', which is not carried"),
        ({"h": torch.zeros(3)}, ShapeError, r"\[2\] +\| \[3\]"),
        ({"h": torch.zeros(5, 2)}, ShapeError, "without batch axes"),
        ({"h": 0.0}, FormulaError, "as a tensor, got float"),
        (torch.zeros(2), FormulaError, "by variable"),
    ],
)
def test_a_first_value_that_nothing_takes_is_refused(over, initial, error, said):
    with pytest.raises(error, match=said):
        over("t", step(), initial=initial).program  # noqa: B018  what is data is known once no E around it can draw it


def test_a_first_value_is_taken():
    loss = Sum("t", step(), initial={"h": torch.ones(2)})
    torch.testing.assert_close(loss(a=torch.zeros(3, 4, 2)).samples["h"], torch.ones(3, 4, 2))


@pytest.mark.parametrize("reset", [3, ""])
def test_flags_have_a_name(reset):
    with pytest.raises(FormulaError, match="expected a name for the series"):
        Sum("t", step(), reset=reset)


def test_the_index_comes_first():
    with pytest.raises(FormulaError, match=r"expected Sum\('t', expression\), got Expression as the index"):
        Sum(step(), "t")


def test_functions_of_a_named_number_given_as_a_float_or_a_tensor():
    sigma, q = Symbol("sigma"), Normal("q(z|x)", nn.Linear(3, 4), shape=2)
    loss = (KL(q, Normal("p(z)", shape=2)) / sigma**2 + 3 * log(sigma) + exp(-sigma)).mean()
    x = torch.randn(5, 3)
    for value in (0.5, torch.tensor(0.5)):
        out, walked = (run(x=x, sigma=value).value for run in (loss, loss.interpret))
        torch.testing.assert_close(out, walked)
        divergence = KL(q, Normal("p(z)", shape=2))(x=x).value.mean()
        torch.testing.assert_close(out, divergence * 4 + 3 * math.log(0.5) + math.exp(-0.5))
