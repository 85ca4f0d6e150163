"""What a variable may be called: whatever emitted code calls is kept free, and two variables never share a keyword."""

import pytest
import torch
from torch import nn

from tests.formula.models import B, Join, T, X, Z
from worldformula import KL, Bernoulli, Data, Deterministic, E, Mean, Normal, Sum, log
from worldformula.errors import FormulaError, TimeError


@pytest.mark.parametrize("name", ["F", "matched", "torch", "normal", "formula", "T", "B", "rng", "t", "sum", "stack"])
def test_a_variable_may_be_called_like_what_emitted_code_calls(name):
    q, p = Normal(f"q(z|{name})", nn.Linear(X, 2 * Z)), Bernoulli(f"p({name}|z)", nn.Linear(Z, X), shape=X)
    loss, given = (KL(q, Normal("p(z)", shape=Z)) - E(q, log(p))).mean(), {name: torch.rand(B, X), "seed": 0}
    torch.testing.assert_close(loss(**given).value, loss.interpret(**given).value)


@pytest.mark.parametrize("name", ["F", "matched", "T", "t", "one_batch", "keep_s"])
def test_flags_may_be_called_like_what_emitted_code_calls(name):
    walk = Deterministic("h_t = f(h_{t-1},x_t)", Join(Z + X, Z), shape=Z)
    loss = Sum("t", E(walk, log(Normal("p(w_t|h_t)", nn.Linear(Z, 4)))), reset=name).mean()
    given = {"x": torch.randn(B, T, X), "w": torch.randn(B, T, 2), name: torch.rand(B, T) > 0.5}
    torch.testing.assert_close(loss(**given).value, loss.interpret(**given).value)


def test_a_variable_may_be_called_like_a_name_that_emitted_code_derives():
    """``h_s`` is the series of ``h`` in emitted code, ``start_hh`` the first ``hh``."""
    walk = Deterministic("hh_t = f(hh_{t-1},x_{dyn,t},start_{hh,t})", Join(2 * Z + X, Z), shape=Z)
    loss = Sum("t", E(walk, log(Normal("p(w_{raw,t}|hh_t)", nn.Linear(Z, 4))))).mean()
    given = {"x_dyn": torch.randn(B, T, X), "w_raw": torch.randn(B, T, 2), "start_hh": torch.randn(B, T, Z)}
    torch.testing.assert_close(loss(**given).value, loss.interpret(**given).value)


REFUSED = {
    "two spellings": (
        FormulaError,
        lambda: log(Normal("p(x'|x_{prime})", nn.Linear(X, 2 * X))),
        "p(x'|x_{prime}): the variables x' and x_{prime} would both be 'x_prime' in a call\nrename one of them",
    ),
    "a series and a single value": (
        FormulaError,
        lambda: Sum("t", log(Normal("p(x_t)", shape=X))) - log(Normal("p(x)", shape=X)),
        "p(x): the variables x_t and x would both be 'x' in a call\nrename one of them",
    ),
    "flags called self": (
        FormulaError,
        lambda: Sum("t", log(Normal("p(x_t)", shape=X)), reset="self"),
        "reset=: flags cannot be called 'self'; call them e.g. 'first'",
    ),
    "flags called like an option": (
        FormulaError,
        lambda: Sum("t", log(Normal("p(x_t)", shape=X)), reset="seed"),
        "reset=: flags cannot be called 'seed'; call them e.g. 'first'",
    ),
    "a sum over time in a sum over time": (
        TimeError,
        lambda: Sum("t", log(Normal("p(x_t)", shape=X)) - Sum("t", log(Normal("p(x_t)", shape=X)))),
        "Σ_t log p(x_t): a sum over 't' cannot stand inside the Sum over 't'\nput the inner one outside the Sum",
    ),
    "a mean over time in a sum over time": (
        TimeError,
        lambda: Sum("t", E(Data("d(x_t)"), Mean("t", log(Normal("p(x_t)", shape=X))))),
        "cannot stand inside the Sum over 't'",
    ),
    "a mean over the batch in a sum over time": (
        TimeError,
        lambda: Sum("t", log(Normal("p(x_t)", shape=X)) - log(Normal("p(x_t)", shape=X)).mean()),
        "mean(log p(x_t)): a mean over the batch cannot stand inside the Sum over 't'\nput .mean() outside the Sum",
    ),
    "a sum over the batch in a sum over time": (
        TimeError,
        lambda: Sum("t", log(Normal("p(x_t)", shape=X)).sum()),
        "put .sum() outside the Sum",
    ),
}


@pytest.mark.parametrize("path", ["emitted", "interpreted", "code"])
@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, path):
    error, build, message = REFUSED[case]
    loss = build()
    with pytest.raises(FormulaError) as caught:
        _ = loss.code if path == "code" else loss() if path == "emitted" else loss.interpret()
    assert type(caught.value) is error
    assert message in str(caught.value)


def test_a_prime_is_the_same_variable_in_every_factor():
    q, p = Normal("q(x'|x)", nn.Linear(X, 2 * X)), Normal("p(x'|x)", nn.Linear(X, 2 * X))
    assert KL(q, p)(x=torch.randn(B, X)).value.shape == (B,)


def test_explain_says_what_an_expectation_over_data_is():
    data, q = Data("d(x)"), Normal("q(z|x)", nn.Linear(X, 2 * Z))
    said = E(data * q, log(Normal("p(x|z)", nn.Linear(Z, 2 * X)))).mean().explain()
    row = next(line for line in said.splitlines() if "E over d(x)" in line)
    assert [cell.strip() for cell in row.split("|")] == [
        "E over d(x)",
        "the data of the call; average them with .mean()",
        "none",
    ]
    assert "Monte Carlo" in said
    computed = E(Deterministic("y = g(x)", nn.Linear(X, Z)), log(Normal("p(y)", shape=Z))).explain()
    assert "exact: nothing random" in computed
