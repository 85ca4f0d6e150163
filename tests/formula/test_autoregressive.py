"""Autoregressive factors: the chain rule by enumeration, samples by counting, conditions, products, stops."""

import itertools
import math

import pytest
import torch
from torch import nn

from worldformula import Autoregressive, Bernoulli, Categorical, Data, E, Normal, OneHot, log, sg
from worldformula.errors import FormulaError, ShapeError
from worldformula.families import MultivariateNormalFamily
from worldformula.nets.masked import CausalTransformer, MaskedMLP


def binary(context=0):
    torch.manual_seed(1)
    net = MaskedMLP(3, 1, (16, 16), context=context)
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data.mul_(2.0)
    return net


EVERY = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)))


def test_the_density_is_the_product_of_the_conditionals_and_adds_up_to_one():
    net = binary()
    p = Autoregressive("p(x)", net, family=Bernoulli, shape=3)
    found = p.log_prob(x=EVERY)
    assert found.exp().sum().item() == pytest.approx(1.0, abs=1e-6)
    x = EVERY[5:6]
    chain = 0.0
    for d in range(3):  # the conditional of x_d must not change with what follows
        clean = torch.cat((x[:, :d], torch.zeros(1, 3 - d)), -1)
        chain += nn.functional.logsigmoid(net(clean)[0, d] * (2 * x[0, d] - 1)).item()
    assert found[5].item() == pytest.approx(chain, abs=1e-5)


def test_samples_have_the_frequencies_of_the_density():
    p = Autoregressive("p(x)", binary(), family=Bernoulli, shape=3)
    drawn = p.sample(sample_shape=(40_000,), seed=0)
    code = (drawn @ torch.tensor([4.0, 2.0, 1.0])).long()
    found = torch.bincount(code, minlength=8) / len(code)
    assert (found - p.log_prob(x=EVERY).exp()).abs().max() < 0.01


def test_the_greedy_value_takes_the_likelier_way_at_every_element():
    p = Autoregressive("p(x)", binary(), family=Bernoulli, shape=3)
    mode = p.sample(sample_shape=(2,), deterministic=True)
    logits = p.net.causal(mode)
    assert torch.equal(mode, (logits > 0).float())


def test_conditions_reach_density_and_samples():
    p = Autoregressive("p(x|y,c)", binary(context=3), family=Bernoulli, shape=3)
    y, c = torch.randn(8, 2), torch.randn(8, 1)
    assert p.log_prob(x=EVERY, y=y, c=c).shape == (8,)
    drawn = p.sample(y=y[:1].expand(20_000, -1), c=c[:1].expand(20_000, -1), seed=0)
    code = (drawn @ torch.tensor([4.0, 2.0, 1.0])).long()
    truth = p.log_prob(x=EVERY, y=y[:1].expand(8, -1), c=c[:1].expand(8, -1)).exp()
    assert (torch.bincount(code, minlength=8) / len(code) - truth).abs().max() < 0.015


def test_a_gaussian_chain_is_reparametrised_and_its_own_inverse():
    net = MaskedMLP(3, 2, (16,)).double()
    q = Autoregressive("q(z)", net, family=Normal, shape=3)
    noise = torch.randn(5, 3).double()
    z = q.sample(sample_shape=(5,), noise=noise)
    loc, scale = q.family.conditionals(q.params(), z)
    assert torch.allclose((z - loc) / scale, noise, atol=1e-10)
    z.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_code_and_interpreter_agree_in_value_and_gradient():
    p = Autoregressive("p(x|y)", CausalTransformer(4, 3, 8, 1, 2, context=2), family=Categorical, shape=4)
    loss = E(Data("p_data(x)", shape=4) * Data("p_data(y)", shape=2), -log(p)).mean()
    assert loss.latex.endswith(r"\left[ -\log p(x \mid y) \right] \right)")
    data = {"x": torch.randint(3, (6, 4)), "y": torch.randn(6, 2)}
    found = []
    for out in (loss(**data), loss.interpret(**data)):
        loss.zero_grad()
        out.value.backward()
        found.append([out.value.detach(), *(w.grad.clone() for w in loss.parameters() if w.grad is not None)])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*found, strict=True))


def test_many_samples_on_one_axis():
    q = Autoregressive("q(z)", MaskedMLP(3, 2, (16,)), family=Normal, shape=3)
    p = Normal("p(x|z)", nn.Linear(3, 2), shape=1)
    bound = E(q, log(p), samples=4)
    assert bound(x=torch.zeros(5, 1), seed=0).samples["z"].shape == (4, 5, 3)


def test_stopped_factors_teach_nothing():
    p = Autoregressive("p(x)", binary(), family=Bernoulli, shape=3)
    (E(Data("p_data(x)", shape=3), log(sg(p))).mean() + 0 * log(p).mean())(x=EVERY).value.backward()
    assert all(w.grad is None or not w.grad.any() for w in p.parameters())


def test_errors_say_what_to_do():
    with pytest.raises(FormulaError, match="expected shape="):
        Autoregressive("p(x)", binary(), family=Bernoulli, shape=None)
    with pytest.raises(FormulaError, match="causal network"):
        Autoregressive("p(x)", lambda x: x, family=Bernoulli, shape=3)
    for family in (MultivariateNormalFamily(), OneHot):  # the ones of a one-hot vector exclude each other
        with pytest.raises(FormulaError, match="independent elements"):
            Autoregressive("p(x)", binary(), family=family, shape=3)
    p = Autoregressive("p(x)", binary(), family=Bernoulli, shape=3)
    with pytest.raises(ShapeError):
        p.log_prob(x=torch.zeros(2, 4))
    with pytest.raises(FormulaError, match="no closed form"):
        p.family.mean(p.params())
    assert math.isfinite(p.log_prob(x=EVERY).sum().item())
