"""Values, named numbers, functions, names, marginals, held conditions, renaming, formulas together."""

import math

import pytest
import torch
from torch import nn

from tests.formula.models import Join
from worldformula import (
    KL,
    Bernoulli,
    Deterministic,
    E,
    Normal,
    OneHot,
    Symbol,
    Value,
    clamp,
    exp,
    log,
    norm2,
    ratio,
    sg,
    sigmoid,
    softplus,
    sqrt,
    tanh,
    together,
    total,
)
from worldformula.errors import FormulaError, NoClosedFormError, ShapeError, UnknownVariableError

B = 5


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return (
        Normal("q(z|x)", nn.Linear(4, 6), shape=3),
        Normal("p(z)", shape=3),
        Bernoulli("p(x|z)", nn.Linear(3, 4), shape=4),
    )


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        (exp, torch.exp),
        (lambda w: log(exp(w)), lambda w: w),
        (lambda w: sqrt(exp(w)), lambda w: (w / 2).exp()),
        (tanh, torch.tanh),
        (sigmoid, torch.sigmoid),
        (lambda w: softplus(-w), lambda w: torch.nn.functional.softplus(-w)),
        (abs, torch.abs),
        (lambda w: w**2, torch.square),
        (lambda w: exp(w) ** -0.5, lambda w: (-w / 2).exp()),
        (lambda w: clamp(w, -0.5, 0.5), lambda w: w.clamp(-0.5, 0.5)),
        (lambda w: clamp(w, low=0.0), torch.relu),
        (lambda w: 1 / (1 + exp(-w)), torch.sigmoid),
        (lambda w: sg(w) * w, lambda w: w.detach() * w),
    ],
)
def test_functions_are_those_of_torch_in_value_and_gradient(formula, expected):
    scale = Deterministic("w = f(x)", nn.Identity(), shape=())
    loss = E(scale, formula(Value("w"))).sum()
    for run in (loss, loss.interpret):
        x = torch.linspace(-2, 2, 7, dtype=torch.float64, requires_grad=True)
        y = x.detach().clone().requires_grad_()
        ours, theirs = run(x=x).value, expected(y).sum()
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(torch.autograd.grad(ours, x), torch.autograd.grad(theirs, y))


def test_event_axes_are_reduced_where_it_is_written():
    x, y, w = torch.randn(B, 3), torch.randn(B, 3), torch.randn(B)
    loss = norm2(Value("w") * (Value("x", 3) - Value("y", 3))) + total(Value("x", 3) * Value("y", 3))
    torch.testing.assert_close(loss(x=x, y=y, w=w).value, (w[:, None] * (x - y)).square().sum(-1) + (x * y).sum(-1))
    with pytest.raises(FormulaError, match="event or sample axes"):
        Value("x", 3).mean()(x=x)


def test_a_named_number_is_given_to_the_call(vae):
    q, p, d = vae
    loss = (Symbol("beta") * KL(q, p) - E(q, log(d))).mean()
    x = torch.rand(B, 4).round()
    noise = {"z": torch.randn(B, 3)}
    parts = loss(x=x, beta=1.0, noise=noise)
    kl, rec = parts.terms.values()
    for beta in (0, 0.25, 3, torch.tensor(2.0)):
        torch.testing.assert_close(loss(x=x, beta=beta, noise=noise).value, beta * kl - rec)
    assert loss.latex.startswith(r"\operatorname{mean}\left( \beta \, D_{")
    with pytest.raises(ShapeError, match="one number for the whole call, got a tensor of shape"):
        loss(x=x, beta=torch.ones(B))
    with pytest.raises(FormulaError, match="no time index"):
        Symbol("beta_t")


def test_a_named_part_is_printed_by_its_name_and_is_a_term(vae):
    q, p, d = vae
    recon = (-E(q, log(d))).named("recon")
    loss = (KL(q, p) + recon).mean()
    assert repr(loss) == "<Expression mean(KL(q(z|x) ‖ p(z)) + recon)>"
    out = loss(x=torch.rand(B, 4).round())
    assert set(out.terms) == {"KL(q(z|x) ‖ p(z))", "recon"}
    torch.testing.assert_close(sum(out.terms.values()), out.value)


def test_a_renamed_factor_shares_weights_and_closed_forms(vae):
    q, p, _ = vae
    other = q.rename(z="z'", x="y")
    loss = (KL(q, p) + KL(other, p.rename(z="z'"))).mean()
    assert sorted(loss.state_dict()) == ["q_z_given_x.bias", "q_z_given_x.weight"]
    x, y = torch.randn(B, 4), torch.randn(B, 4)
    torch.testing.assert_close(loss(x=x, y=y).value, KL(q, p)(x=x).value.mean() + KL(q, p)(x=y).value.mean())
    assert (str(other), other.variable.key) == ("q(z'|y)", "z_prime")
    both = E(q * q.rename(z="z'"), norm2(Value("z") - Value("z'")))
    assert (both(x=x).value > 0).all()  # two draws, not one
    with pytest.raises(UnknownVariableError, match="no variable 'u'"):
        q.rename(u="v")
    with pytest.raises(FormulaError, match="twice"):
        q.rename(z="x")


def test_a_discrete_variable_is_summed_out_exactly():
    weights = torch.tensor([0.2, 0.3, 0.5])
    k, x = OneHot("p(k)", probs=weights, shape=3), Normal("p(x|k)", nn.Linear(3, 8), shape=4)
    marginal = (k * x).marginal("k")
    data = torch.randn(B, 4)
    each = torch.stack([x.log_prob(x=data, k=torch.eye(3)[i].expand(B, 3)) + weights[i].log() for i in range(3)])
    torch.testing.assert_close(marginal.log_prob(x=data), each.logsumexp(0))
    loss = -log(marginal).mean()
    for run in (loss, loss.interpret):
        got = torch.autograd.grad(run(x=data).value, list(loss.parameters()))
        torch.testing.assert_close(
            got, torch.autograd.grad(-each.logsumexp(0).mean(), list(x.parameters()), retain_graph=True)
        )
    assert loss.latex == r"-\operatorname{mean}\left( \log \sum_{k} p(k)\, p(x \mid k) \right)"
    assert set(marginal.sample(sample_shape=(2,))) == {"x"}


def test_d28_the_log_of_a_marginal_says_what_is_missing(vae):
    _, p, d = vae
    with pytest.raises(NoClosedFormError, match=r"(?s)a normal variable cannot be summed out.*log\(E\(q, ratio"):
        log((p * d).marginal("z"))
    with pytest.raises(UnknownVariableError, match="declares no variable 'y'"):
        (p * d).marginal("y")
    with pytest.raises(FormulaError, match="nothing is left"):
        (p * d).marginal("x", "z")


def test_a_condition_is_held_at_a_value():
    torch.manual_seed(1)
    p = Normal("p(x|z,y)", Join(5, 8), shape=4)
    y, z, x = torch.randn(3), torch.randn(B, 2), torch.randn(B, 4)
    held = p.condition(y=y)
    assert str(held) == "p(x|z)"
    torch.testing.assert_close(held.log_prob(x=x, z=z), p.log_prob(x=x, z=z, y=y.expand(B, 3)))
    product = (Normal("p(z)", shape=2) * p).condition(y=y)
    assert product.sample(sample_shape=(7,))["x"].shape == (7, 4)
    with pytest.raises(FormulaError, match="posterior"):
        product.condition(x=x)


def test_formulas_together_share_their_draws(vae):
    q, p, d = vae
    both = together(kl=KL(q, p).mean(), neg=-E(q, log(d)).mean(), elbo=(E(q, log(d)) - KL(q, p)).mean())
    value = both(x=torch.rand(B, 4).round()).value
    torch.testing.assert_close(-value["elbo"], value["kl"] + value["neg"])
    assert both.code.count("self.q_z_given_x(") == both.code.count("self.p_x_given_z(") == 1


def test_an_importance_ratio_is_the_exponential_of_the_log_densities(vae):
    q, p, d = vae
    x = torch.rand(B, 4).round()
    noise = {"z": torch.randn(50, B, 3)}
    bound = log(E(q, ratio(p * d, q), samples=50))
    z = q.sample(x=x.expand(50, B, 4), noise=noise["z"])
    weights = p.log_prob(z=z) + d.log_prob(x=x.expand(50, B, 4), z=z) - q.log_prob(z=z, x=x.expand(50, B, 4))
    for run in (bound, bound.interpret):
        torch.testing.assert_close(run(x=x, noise=noise).value, weights.logsumexp(0) - math.log(50))
