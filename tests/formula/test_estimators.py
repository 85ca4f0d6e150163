"""Estimators: unbiased where they claim to be, told where they are not, and the values of closed forms."""

import math

import pytest
import torch
from torch import nn

from tests.formula.models import B, Join, X, Z, vae
from worldformula import KL, Bernoulli, Categorical, Data, E, Normal, OneHot, Sum, Value, log, norm2
from worldformula.errors import GradientError

SAMPLES = 4000


class Table(nn.Module):
    """Parameters of y for each class, so that the exact expectation is a sum over classes."""

    def __init__(self, classes):
        super().__init__()
        self.values = nn.Parameter(torch.randn(classes, 2).double())

    def forward(self, c):
        return self.values[c.long().squeeze(-1) if c.ndim > 1 else c.long()]


def per_sample_gradients(loss, data, parameter):
    """Gradients [SAMPLES, ...] of the loss by a parameter, one draw each."""
    name = next(n for n, p in loss.named_parameters() if p is parameter)
    rest = {n: p.detach() for n, p in loss.named_parameters()}
    noise = {
        k: v.double() for k, v in loss.noise(**{k: v.expand(SAMPLES, *v.shape[1:]) for k, v in data.items()}).items()
    }

    def value(weight, noise):
        return torch.func.functional_call(loss, rest | {name: weight}, (), {**data, "noise": noise}).value.sum()

    one = torch.func.vmap(torch.func.grad(value), in_dims=(None, 0))
    return one(parameter.detach(), {k: v.unsqueeze(1) for k, v in noise.items()})


def unbiased(gradients, exact):
    error = gradients.std(0) / SAMPLES**0.5
    return bool(((gradients.mean(0) - exact).abs() <= 3 * error + 1e-12).all())


def discrete(kind):
    torch.manual_seed(3)
    y = Normal("p(y|c)", Table(3), shape=1)
    if kind == "categorical":
        return Categorical("q(c|x)", nn.Linear(2, 3).double()), y, torch.arange(3)
    return Bernoulli("q(c|x)", nn.Linear(2, 1).double(), shape=1), y, torch.tensor([[0.0], [1.0]]).double()


@pytest.mark.parametrize("kind", ["categorical", "bernoulli"])
def test_score_is_unbiased_for_both_factors(kind):
    q, p, values = discrete(kind)
    data = {"x": torch.randn(1, 2).double(), "y": torch.randn(1, 1).double()}
    loss = E(q, log(p) + 0.5 * log(q), gradient="score")
    n = len(values)
    log_q = q.log_prob(c=values, x=data["x"].expand(n, 2))
    exact = (log_q.exp() * (p.log_prob(y=data["y"].expand(n, 1), c=values) + 0.5 * log_q)).sum()
    for parameter in (q.net.weight, p.net.values):
        (wanted,) = torch.autograd.grad(exact, parameter, retain_graph=True)
        got = per_sample_gradients(loss, data, parameter)
        assert got.std(0).max() > 0
        assert unbiased(got, wanted), (got.mean(0), wanted)


def test_straight_through_is_biased_and_says_so():
    q = Bernoulli("q(c|x)", nn.Linear(2, 1).double(), shape=1)
    p = Normal("p(y|c)", lambda c: torch.cat((c.pow(3), torch.zeros_like(c)), -1), shape=1)
    data = {"x": torch.randn(1, 2).double(), "y": torch.randn(1, 1).double() + 2}
    loss = E(q, log(p), gradient="straight-through")
    values = torch.tensor([[0.0], [1.0]]).double()
    log_q = q.log_prob(c=values, x=data["x"].expand(2, 2))
    (exact,) = torch.autograd.grad((log_q.exp() * p.log_prob(y=data["y"].expand(2, 1), c=values)).sum(), q.net.weight)
    assert not unbiased(per_sample_gradients(loss, data, q.net.weight), exact)
    assert "straight-through (biased)" in loss.explain()
    assert "score" in E(q, log(p), gradient="score").explain()
    assert "biased" not in E(q, log(p), gradient="score").explain()


def test_score_does_not_change_the_value():
    q, p, _ = discrete("bernoulli")
    data = {"x": torch.randn(B, 2).double(), "y": torch.randn(B, 1).double()}
    values = [E(q, log(p), gradient=how)(**data, seed=0).value for how in ("score", "straight-through")]
    torch.testing.assert_close(*values)


def test_score_of_nested_expectations():
    """E over two discrete factors, one drawn given the other."""
    torch.manual_seed(5)
    q = Bernoulli("q(b|x)", nn.Linear(2, 1).double(), shape=1)
    r = Bernoulli("q(c|b)", nn.Linear(1, 1).double(), shape=1)
    p = Normal("p(y|b,c)", lambda b, c: torch.cat((b + 2 * c * b - c, torch.zeros_like(b)), -1), shape=1)
    data = {"x": torch.randn(1, 2).double(), "y": torch.randn(1, 1).double()}
    exact = 0
    for b in (0.0, 1.0):
        for c in (0.0, 1.0):
            b_, c_ = torch.tensor([[b]]).double(), torch.tensor([[c]]).double()
            weight = (q.log_prob(b=b_, x=data["x"]) + r.log_prob(c=c_, b=b_)).exp()
            exact = exact + (weight * p.log_prob(y=data["y"], b=b_, c=c_)).sum()
    for loss in (E(q * r, log(p), gradient="score"), E(q, E(r, log(p), gradient="score"), gradient="score")):
        for parameter in (q.net.weight, r.net.weight):
            (wanted,) = torch.autograd.grad(exact, parameter, retain_graph=True)
            assert unbiased(per_sample_gradients(loss, data, parameter), wanted)


def test_reparametrised_gradient_is_unbiased():
    """E[z²] = μ² + σ², by a density whose log is -z²/2 and a constant."""
    mu = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    q, p = (
        Normal("q(z|x)", lambda x: torch.cat((mu.expand(len(x), 1), torch.ones(len(x), 1).double()), -1), shape=1),
        Normal("p(z)", shape=1),
    )
    x = torch.zeros(SAMPLES, 1).double()
    (got,) = torch.autograd.grad(E(q, log(p)).mean()(x=x).value, mu)
    sigma = torch.nn.functional.softplus(torch.tensor(1.0)).item()
    assert abs(got.item() + mu.item()) < 3 * sigma / SAMPLES**0.5


# --------------------------------------------------------------------------------------------------- sharing of samples


def test_independent_draws_by_fresh():
    q, p = Normal("q(z|x)", Join(X, 2 * Z), shape=Z), Normal("p(z)", shape=Z)
    calls = []
    q.net.register_forward_hook(lambda *_: calls.append(1))
    loss = E(q, log(p)) * E(q.fresh(), log(p))
    out = loss(x=torch.randn(B, X))
    one, two = out.samples["z"], out.samples["z_2"]
    assert (one != two).all()
    assert calls == [1]
    torch.testing.assert_close(out.value, p.log_prob(z=one) * p.log_prob(z=two))
    assert list(loss.state_dict()) == ["q_z_given_x.linear.weight", "q_z_given_x.linear.bias"]


def test_every_term_sees_the_same_sample():
    q, p = Normal("q(z|x)", nn.Linear(X, 2 * Z), shape=Z), Normal("p(x|z)", nn.Linear(Z, 2 * X))
    x = torch.randn(B, X)
    out = (KL(q, Normal("p(z)", shape=Z)) - E(q, log(p)) + E(q, log(q))).mean()(x=x)
    z = out.samples["z"]
    torch.testing.assert_close(out.terms["E_{q(z|x)}[log p(x|z)]"], p.log_prob(x=x, z=z).mean())
    torch.testing.assert_close(out.terms["E_{q(z|x)}[log q(z|x)]"], q.log_prob(z=z, x=x).mean())
    total = out.terms["KL(q(z|x) ‖ p(z))"] - out.terms["E_{q(z|x)}[log p(x|z)]"] + out.terms["E_{q(z|x)}[log q(z|x)]"]
    torch.testing.assert_close(total, out.value)


def test_one_expression_under_two_expectations_has_two_terms():
    """The same sub-expression object under two draws is two values, not the last one twice."""
    q, r = (Normal(f"{letter}(z|x)", nn.Linear(X, 2 * Z), shape=Z) for letter in "qr")
    f = log(Normal("p(z)", shape=Z))
    out = (E(q, f) - E(r, f))(x=torch.randn(B, X))
    one, two = out.terms.values()
    torch.testing.assert_close(one - two, out.value)
    assert (one != two).all()


def test_seeds_generators_and_given_noise():
    loss, x = vae(), torch.rand(B, X)
    values = {loss(x=x, seed=s).value.item() for s in (0, 1, 0)}
    assert len(values) == 2
    by_generator = loss(x=x, generator=torch.Generator().manual_seed(1)).value
    torch.testing.assert_close(by_generator, loss(x=x, seed=1).value)
    noise = loss.noise(x=x, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(loss(x=x, noise=noise).value, by_generator)
    before = torch.get_rng_state()
    loss(x=x, seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_of_a_factor_without_a_declared_shape():
    q, y = Normal("q(z|x)", nn.Linear(X, 2 * Z)), Normal("p(y|z)", nn.Linear(Z, 2))
    loss = E(q, log(y)).mean()
    data = {"x": torch.rand(B, X), "y": torch.rand(B, 1)}
    noise = loss.noise(**data)
    assert noise["z"].shape == (B, Z)
    torch.testing.assert_close(loss(**data, noise=noise).value, loss.interpret(**data, noise=noise).value)
    torch.testing.assert_close(loss(**data, seed=4).value, loss.interpret(**data, seed=4).value)


# ------------------------------------------------------------------------------------------------------------- values


def test_values_of_closed_forms():
    """Entropy of 64 unit Normals 90.8121, KL(N(0,1) ‖ N(1,1)) in 64 dimensions 32, their cross-entropy the sum."""
    q, p = Normal("q(z)", shape=64), Normal("p(z)", loc=1.0, scale=1.0, shape=64)
    torch.testing.assert_close(KL(q, p)().value, torch.tensor(32.0, dtype=torch.float64))

    at_the_mean = -log(q)(z=torch.zeros(1, 64)).value
    torch.testing.assert_close(at_the_mean + 32.0, torch.tensor([90.8121]), atol=1e-4, rtol=0)
    torch.testing.assert_close(log(Normal("p(x)", shape=1))(x=torch.zeros(1, 1)).value, torch.tensor([-0.9189385]))
    joint = Normal("p(x)", shape=1) * Normal("p(y)", shape=1)
    zero = torch.zeros(1, 1)
    torch.testing.assert_close(log(joint)(x=zero, y=zero).value, torch.tensor([-1.837877]))
    torch.testing.assert_close(joint.log_prob(x=zero, y=zero), torch.tensor([-1.837877]))
    samples = -E(q, log(q))(seed=0).value
    assert samples.shape == ()
    draws = torch.stack([-E(q, log(q))(seed=s).value for s in range(200)])
    assert abs(draws.mean() - 90.8121) < 3 * draws.std() / math.sqrt(200)


def test_a_learnable_constant_and_arithmetic():
    zero = KL(Normal("q(z)", shape=1), Normal("p(z)", shape=1))
    for expression, value in ((zero + 2 + 3, 5), (zero + 2 - 4, -2), ((zero + 2) / 4, 0.5), (3 - (zero + 1) * 2, 1)):
        assert expression().value == value


def test_sample_shapes():
    q = Normal("q(z|x)", nn.Linear(X, 2 * Z), shape=Z)
    x = torch.randn(5, B, X)
    assert q.sample(x=x, sample_shape=(7, 3)).shape == (7, 3, 5, B, Z)
    assert Normal("p(z)", shape=(3, 2)).sample(sample_shape=(4,)).shape == (4, 3, 2)
    assert log(q)(z=torch.zeros(5, B, Z), x=x).value.shape == (5, B)
    one = q.sample(x=x, seed=1)
    torch.testing.assert_close(q.sample(x=x, generator=torch.Generator().manual_seed(1)), one)


def test_straight_through_classes_in_time_pass_their_gradient_on():
    q = OneHot("q(c_t|c_{t-1},x_t)", Join(4 + X, 4), shape=4)
    loss = Sum("t", E(q, log(Normal("p(x_t|c_t)", nn.Linear(4, 2 * X)))))
    (grad,) = torch.autograd.grad(loss(x=torch.randn(B, 3, X)).value[0], q.net.linear.weight)
    assert grad[:, :4].abs().sum() > 0


def test_a_factor_that_nothing_can_teach_needs_no_estimator():
    steps = Categorical("p(t)", shape=(), probs=torch.full((4,), 0.25))
    loss = E(Data("p_data(x)", shape=2) * steps, Value("t") * norm2(Value("x"))).mean()
    out = loss(x=torch.ones(4000, 2), seed=0)
    assert out.samples["t"].shape == (4000,)
    assert abs(out.value - 3.0) < 0.1  # E t = 1.5, ‖x‖² = 2
    with pytest.raises(GradientError):
        E(Categorical("p(t)", shape=(), logits=nn.Parameter(torch.zeros(4))), Value("t"))
