"""What is infinite: a signal of −∞ leaves the value −∞, and a concentration of ∞ is refused."""

import math

import pytest
import torch
from torch import nn

from worldformula import (
    Bernoulli,
    Beta,
    Deterministic,
    Dirichlet,
    E,
    Gamma,
    Poisson,
    Value,
    VonMises,
    VonMisesFisher,
    positive,
)
from worldformula.errors import FormulaError


class Impossible(nn.Module):
    """0 where c is 1, −∞ where it is 0."""

    def forward(self, c):
        return torch.where(c[..., 0] > 0.5, 0.0, -math.inf)


@pytest.mark.parametrize("how", [{}, {"samples": 3}, {"samples": 3, "baseline": "leave-one-out"}])
def test_a_signal_of_minus_infinity_is_the_value_and_no_nan(how):
    """Of each row −∞ where a draw is 0, as the draws tell; weights get no gradient there, and no NaN."""
    torch.manual_seed(0)
    head = nn.Linear(3, 1)
    q, d = Bernoulli("q(c|x)", head, shape=1), Deterministic("d = D(c)", Impossible(), shape=())
    formula = E(q * d, Value("d"), "score", **how)
    x = torch.randn(20, 3)
    out = formula(x=x, seed=1)
    drawn = out.samples["c"].reshape(-1, 20)
    expected = torch.where((drawn < 0.5).any(0), -math.inf, 0.0)
    assert 0 < expected.isinf().sum() < 20
    assert torch.equal(out.value.detach(), expected)
    out.value.sum().backward()
    assert head.weight.grad.isfinite().all()
    noise = formula.noise(x=x, generator=torch.Generator().manual_seed(0))
    assert torch.equal(formula(x=x, noise=noise).value, formula.interpret(x=x, noise=noise).value)


@pytest.mark.parametrize(
    ("family", "given"),
    [
        (VonMisesFisher, {"loc": torch.tensor([1.0, 0.0]), "concentration": torch.tensor([math.inf])}),
        (VonMisesFisher, {"loc": torch.tensor([1.0, 0.0]), "concentration": math.inf}),
        (VonMises, {"loc": torch.zeros(2), "concentration": math.inf}),
        (Gamma, {"concentration": torch.tensor([math.inf, 1.0]), "rate": 1.0}),
        (Beta, {"concentration1": torch.tensor([math.inf, 1.0]), "concentration0": 1.0}),
        (Dirichlet, {"concentration": torch.tensor([math.inf, 1.0])}),
        (Poisson, {"rate": torch.tensor([math.inf, 1.0])}),
    ],
)
def test_a_parameter_at_infinity_has_no_density_and_is_refused(family, given):
    with pytest.raises(FormulaError, match=r"(greater than 0|of at least 0) and finite, got inf"):
        family("p(x)", shape=2, **given)


@pytest.mark.parametrize(
    ("family", "name"), [(Gamma, "rate"), (Gamma, "concentration"), (Beta, "concentration1"), (Poisson, "rate")]
)
def test_what_must_be_finite_can_be_learnt_as_something_positive(family, name):
    learnt = nn.Parameter(torch.ones(2))
    p = family("p(x)", shape=2, **({"concentration": 1.0} if family is Gamma and name == "rate" else {}),
               **({"rate": 1.0} if name == "concentration" else {}),
               **({"concentration0": 1.0} if family is Beta else {}), **{name: positive(learnt)})  # fmt: skip
    x = torch.full((3, 2), 2.0) if family is Poisson else torch.full((3, 2), 0.5)
    p.log_prob(x=x).sum().backward()
    (grad,) = (w.grad for w in p.parameters())
    assert grad.isfinite().all()
    assert grad.abs().sum() > 0
