"""Rows whose distribution a shared variable alone tells, by family: densities and draws beside a batch of copies."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import worldformula as wf
from worldformula import E, Normal, Sum, Value, log, total
from worldformula.errors import ShapeError
from worldformula.nets.coupling import RealNVP

B, K = 5, 3
FACTORS = {
    "Normal": lambda h: Normal(h, nn.Linear(2, 6), shape=3),
    "Normal of a fixed scale": lambda h: Normal(h, nn.Linear(2, 3), shape=3, scale=torch.tensor([0.5, 1.0, 2.0])),
    "Normal by names": lambda h: Normal(
        h, lambda m: {"loc": m[..., :1] * torch.ones(3), "scale": torch.ones(3)}, shape=3
    ),
    "Normal of a matrix": lambda h: Normal(h, nn.Linear(2, 12), shape=(2, 3)),
    "Normal of a number": lambda h: Normal(h, nn.Linear(2, 2), shape=()),
    "Mixture": lambda h: wf.Mixture(h, nn.Linear(2, 14), components=2, shape=3),
    "Mixture of elements": lambda h: wf.Mixture(h, nn.Linear(2, 18), components=2, shape=3, factored=True),
    "MultivariateNormal": lambda h: wf.MultivariateNormal(h, nn.Linear(2, 9), shape=3),
    "LowRankNormal": lambda h: wf.LowRankNormal(h, nn.Linear(2, 9), shape=3, cov_rank=1),
    "Categorical": lambda h: wf.Categorical(h, nn.Linear(2, 4), shape=(), classes=4),
    "Categorical of several": lambda h: wf.Categorical(h, nn.Linear(2, 12), shape=(3,), classes=4),
    "OneHot": lambda h: wf.OneHot(h, nn.Linear(2, 4), shape=4),
    "Bernoulli": lambda h: wf.Bernoulli(h, nn.Linear(2, 3), shape=3),
    "Multinomial": lambda h: wf.Multinomial(h, nn.Linear(2, 4), shape=4, total_count=6),
    "Binomial": lambda h: wf.Binomial(h, nn.Linear(2, 3), shape=3, total_count=4),
    "Poisson": lambda h: wf.Poisson(h, nn.Linear(2, 3), shape=3),
    "NegativeBinomial": lambda h: wf.NegativeBinomial(h, nn.Linear(2, 6), shape=3),
    "Gamma": lambda h: wf.Gamma(h, nn.Linear(2, 6), shape=3),
    "Beta": lambda h: wf.Beta(h, nn.Linear(2, 6), shape=3),
    "Dirichlet": lambda h: wf.Dirichlet(h, nn.Linear(2, 3), shape=3),
    "VonMises": lambda h: wf.VonMises(h, nn.Linear(2, 2), shape=1),
    "TwoHot": lambda h: wf.TwoHot(h, nn.Linear(2, 255)),
    "StudentT": lambda h: wf.StudentT(h, nn.Linear(2, 9), shape=3),
    "DiscretisedLogistic": lambda h: wf.DiscretisedLogistic(h, nn.Linear(2, 18), shape=3, components=2),
    "TruncatedNormal": lambda h: wf.TruncatedNormal(h, nn.Linear(2, 6), shape=3),
    "RelaxedBernoulli": lambda h: wf.RelaxedBernoulli(h, nn.Linear(2, 3), shape=3, temperature=0.5),
}
mean = Normal("p(m)", shape=2, shared=True)


@pytest.mark.parametrize("name", FACTORS)
def test_densities_are_those_of_copies(name):
    torch.manual_seed(0)
    factor = FACTORS[name]("p(x|m)")
    x = factor.sample(m=torch.randn(B, 2), seed=0).detach()
    given = torch.tensor([0.3, -0.4])
    whole = (Sum("n", log(factor), rows="all") + log(mean))(x=x, m=given).value
    copies = factor.log_prob(x=x, m=given.expand(B, 2)).sum()
    assert torch.allclose(whole - mean.log_prob(m=given), copies, rtol=1e-4)
    out = E(mean, Sum("n", log(factor), rows="all"), samples=K)(x=x, seed=0)
    each = [factor.log_prob(x=x, m=m.expand(B, 2)).sum() for m in out.samples["m"]]
    assert torch.allclose(out.value, torch.stack(each).mean(), rtol=1e-4)


@pytest.mark.parametrize("name", FACTORS)
def test_every_row_draws_for_itself(name):
    torch.manual_seed(0)
    factor = FACTORS[name]("p(x|m)")
    shape = dict(factor.event_shapes())[factor.variable]
    gradient = {} if factor.family.reparametrised else {"gradient": "score"}
    value = total(Value("x", shape=shape)) if shape else Value("x", shape=())
    formula = E(mean * factor, Value("d", shape=()) + value, samples=K, **gradient)
    d = torch.randn(B)
    out, walked = formula(d=d, seed=1), formula.interpret(d=d, seed=1)
    assert out.samples["m"].shape == (K, 2)
    assert out.samples["x"].shape == (K, B, *shape)
    assert torch.allclose(out.value, walked.value, rtol=1e-4)
    still = formula(d=d, deterministic=True)
    assert still.samples["x"].shape == (K, B, *shape)
    modes = factor.sample(m=still.samples["m"][:, None].expand(K, B, 2), deterministic=True)
    assert torch.allclose(still.samples["x"].float(), modes.float(), equal_nan=True)


def test_a_flow_of_weights_and_of_rows():
    prior, q = Normal("p(m)", shape=2, shared=True), wf.Flow("q(m)", RealNVP(2), shape=2, shared=True)
    rows = Sum("n", log(FACTORS["Normal"]("p(x|m)")), rows="all")
    elbo = E(q, rows + log(prior) - log(q), samples=K)
    x = torch.randn(B, 3)
    assert torch.allclose(elbo(x=x, seed=0).value, elbo.interpret(x=x, seed=0).value)
    alone = E(prior, Sum("n", log(wf.Flow("p(x|m)", RealNVP(2, context=2), shape=2)), rows="all"))
    with pytest.raises(ShapeError, match="reads shared variables alone"):
        alone(x=torch.randn(B, 2))
