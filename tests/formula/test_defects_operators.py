"""Proved failures of Pixyz that concern mixtures, products of experts, operators on samples and marginals.

The others are in `test_defects` and beside the families and flows; tests/house/test_defects.py counts them.
"""

import math

import pytest
import torch
from torch import nn

from tests.formula.models import B, X, Z, vae
from worldformula import KL, Bernoulli, Data, E, Mixture, MoE, Normal, OneHot, PoE, log
from worldformula.errors import FormulaError
from worldformula.formula.ops.mmd import MMD
from worldformula.formula.ops.sliced_wasserstein import SlicedWasserstein


def unit(header, loc):
    return Normal(header, loc=torch.tensor([loc]), scale=1.0, shape=1)


def encoder(header="q(z|x)", inputs=X):
    return Normal(header, nn.Linear(inputs, 2 * Z), shape=Z)


def flagged(*flags):
    return torch.tensor(flags, dtype=torch.bool)


# --------------------------------------------------------------------------------------------- D8: mixtures of experts


def test_d08_two_equal_experts_are_one():
    one = Normal("q(z|x)", lambda x: torch.cat((0 * x, 0 * x + math.log(math.e - 1)), -1), shape=1)
    both = MoE([one, one.rename(x="y")], "m(z|x,y)")
    zero = torch.zeros(5, 1)
    torch.testing.assert_close(both.log_prob(z=zero, x=zero, y=zero), torch.full((5,), -0.9189385))


def test_d08_the_expert_does_not_depend_on_the_row():
    """The order of the rows changes nothing, and a batch of one draws from every expert."""
    parts = [encoder(), encoder("r(z|y)", 2)]
    moe, x, y, z = MoE(parts, "m(z|x,y)"), torch.randn(6, X), torch.randn(6, 2), torch.randn(6, Z)
    found = moe.log_prob(z=z, x=x, y=y)
    torch.testing.assert_close(moe.log_prob(z=z.flip(0), x=x.flip(0), y=y.flip(0)), found.flip(0))
    each = torch.stack([parts[0].log_prob(z=z, x=x), parts[1].log_prob(z=z, y=y)])
    torch.testing.assert_close(found, each.logsumexp(0) - math.log(2))
    far = MoE([unit("q(z)", -50.0), unit("r(z)", 50.0)], "m(z)")
    signs = far.sample(sample_shape=(400,), seed=0).sign()
    assert 0.4 < (signs > 0).float().mean() < 0.6


@pytest.mark.parametrize("kind", [MoE, PoE])
def test_d08_experts_of_plain_numbers_are_refused(kind):
    with pytest.raises(FormulaError, match="give one of them a network or a tensor"):
        kind([Normal("q(z)", shape=1), Normal("r(z)", shape=1)])


def test_d08_a_missing_modality_leaves_the_other_expert():
    parts = [encoder(), encoder("r(z|y)", 2)]
    moe, data = MoE(parts, "m(z|x,y)"), {"x": torch.randn(2, X), "y": torch.randn(2, 2)}
    loss = E(moe, log(moe))
    out = loss(**data, present={"y": flagged(1, 0)}, seed=0)
    z = out.samples["z"]
    torch.testing.assert_close(out.value[1], parts[0].log_prob(z=z[1:], x=data["x"][1:])[0])
    torch.testing.assert_close(out.value[0], moe.log_prob(z=z[:1], x=data["x"][:1], y=data["y"][:1])[0])


# ----------------------------------------------------------------------------------------- D9-D11: products of experts


def test_d09_an_input_that_is_changed_in_place_counts():
    poe, x, y = PoE([Normal("p(z)", shape=Z), encoder(), encoder("r(z|y)", 2)]), torch.randn(3, X), torch.randn(3, 2)
    loss = KL(poe, Normal("p(z)", shape=Z))
    before, parameters = loss(x=x, y=y).value, poe.params(x, y)[0]
    x.zero_()
    assert (loss(x=x, y=y).value != before).all()
    assert not torch.equal(poe.params(x, y)[0], parameters)


def test_d10_a_product_with_a_missing_modality_inside_a_joint():
    prior, q, r = Normal("p(z)", shape=Z), encoder(), encoder("r(z|y)", 2)
    poe, decode = PoE([prior, q, r]), Normal("p(y|z)", nn.Linear(Z, 4), shape=2)
    code = OneHot("q(c|z)", nn.Linear(Z, 3), shape=3)
    loss, data = E(poe * code, log(decode) - log(poe)), {"x": torch.randn(2, X), "y": torch.randn(2, 2)}
    out = loss(**data, present={"y": flagged(1, 0)}, seed=0)
    z, without = out.samples["z"], PoE([prior, q])
    torch.testing.assert_close(out.value[1], -without.log_prob(z=z[1:], x=data["x"][1:])[0])
    whole = decode.log_prob(y=data["y"][:1], z=z[:1]) - poe.log_prob(z=z[:1], x=data["x"][:1], y=data["y"][:1])
    torch.testing.assert_close(out.value[0], whole[0])


def test_d11_the_product_over_a_set_of_observations():
    """One encoder for every element of the set: N equal messages and the prior, in closed form."""
    q = encoder()
    poe = PoE([Normal("p(z)", shape=Z), *(q.rename(x=f"x_{i}") for i in (1, 2, 3))])
    x = torch.randn(4, X)
    loc, scale = poe.params(x, x, x)
    own, width = q.params(x)
    precision = 1 + 3 * width**-2
    torch.testing.assert_close(scale, precision.rsqrt())
    torch.testing.assert_close(loc, 3 * own * width**-2 / precision)
    loss = KL(poe, Normal("p(z)", shape=Z)).mean()
    assert sum(p.numel() for p in loss.parameters()) == sum(p.numel() for p in q.parameters())


# ----------------------------------------------------------------------------------------------- D13, D14: two samples


@pytest.mark.parametrize("n", [10, 100, 1000])
def test_d13_mmd_of_a_distribution_with_itself_is_near_zero(n):
    q, p = Normal("q(z)", shape=16), Normal("p(z)", shape=16)
    values = torch.stack([MMD(q, p, samples=n)(seed=s).value for s in range(5)])
    assert values.abs().max() < 2 / n
    assert MMD(q, Normal("p(z)", loc=3.0, scale=1.0, shape=16), samples=n)(seed=0).value > 0.2


@pytest.mark.parametrize("distance", [MMD, SlicedWasserstein])
def test_d14_distances_of_a_variable_with_a_long_name(distance):
    decode = Normal("p(img|z)", nn.Linear(Z, 2 * X), shape=X)
    value = distance(Data("p_data(img)", shape=X), decode * Normal("p(z)", shape=Z))(img=torch.rand(20, X)).value
    assert value.isfinite()
    assert value.requires_grad


# ------------------------------------------------------------------------------------------ D15, D16, D26: what prints


def test_d15_a_loss_without_a_regulariser_trains_and_prints():
    q, p = encoder(), Bernoulli("p(x|z)", nn.Linear(Z, X), shape=X)
    loss = -E(q, log(p)).mean()
    loss(x=torch.rand(B, X)).value.backward()
    assert all(w.grad is not None for w in loss.parameters())
    assert repr(loss) == "<Expression -mean(E_{q(z|x)}[log p(x|z)])>"
    assert str(loss).startswith(r"-\operatorname{mean}")
    assert loss.explain()
    assert str(vae())


def test_d16_a_conditional_mixture_prints_its_condition_and_samples():
    mixture = Mixture("p(z|h)", nn.Linear(3, 5 * (1 + 2 * Z)), components=5, shape=Z)
    assert str(mixture) == "p(z|h)"
    assert r"p(z \mid h)" in str(log(mixture))
    h = torch.randn(4, 3)
    assert mixture.sample(h=h, sample_shape=(7, 2)).shape == (7, 2, 4, Z)
    posterior = mixture.responsibilities(z=torch.randn(4, Z), h=h)
    torch.testing.assert_close(posterior.sum(-1), torch.ones(4))


def test_d26_a_marginal_over_several_variables_prints_as_it_was_written():
    a, b, c, d = (Normal(f"p({v})", shape=1) for v in "abcd")
    x = Normal("p(x|a,b,c,d)", lambda *v: torch.cat((sum(v), sum(v)), -1), shape=1)
    shown = {repr((x * a * b * c * d).marginal(*order)) for order in ("abcd", "dbca")}
    assert "<Joint ∫ p(x|a,b,c,d) p(a) p(b) p(c) p(d) da db dc dd>" in shown
    assert {text.split(" d", 1)[0] for text in shown} == {"<Joint ∫ p(x|a,b,c,d) p(a) p(b) p(c) p(d)"}
