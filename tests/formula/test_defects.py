"""Proved failures of Pixyz, one test per defect (D1 to D31) as far as it concerns what the language has."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from tests.formula.models import B, Join, X, Z, gradients, rssm, sequences, vae
from worldformula import KL, Bernoulli, Categorical, Data, Deterministic, E, Normal, OneHot, Sum, log, positive
from worldformula.errors import GradientError, ShapeError


def pixels():
    return torch.rand(B, X).bernoulli()


def train(loss, x, steps=3):
    optimiser = torch.optim.SGD(loss.parameters(), lr=0.1)
    values = []
    for _ in range(steps):
        optimiser.zero_grad()
        value = loss(x=x, seed=0).value
        value.backward()
        optimiser.step()
        values.append(value.item())
    return values


def test_d02_the_score_of_a_one_hot_is_that_of_its_class():
    factor = OneHot("p(y)", probs=torch.tensor([0.7, 0.2, 0.1]), shape=3)
    torch.testing.assert_close(factor.log_prob(y=torch.tensor([1.0, 0.0, 0.0])).exp(), torch.tensor(0.7))


def test_d03_the_deterministic_sample_of_a_normal_is_its_mean_and_not_its_variance():
    factor = Normal("p(z)", loc=3.0, scale=2.0, shape=1)
    torch.testing.assert_close(factor.sample(deterministic=True), torch.tensor([3.0]))


@pytest.mark.parametrize(
    "build", [lambda: Bernoulli("q(z|x)", nn.Linear(X, Z)), lambda: Categorical("q(z|x)", nn.Linear(X, 3))]
)
def test_d04_e_over_a_discrete_factor_needs_an_estimator_and_then_has_a_gradient(build):
    q = build()
    with pytest.raises(GradientError):
        E(q, log(q))
    value = E(q, log(q), gradient="score").mean()(x=pixels()).value
    value.backward()
    assert q.net.weight.grad.abs().sum() > 0


def test_d05_every_weight_once_with_stable_names():
    loss = vae()
    assert list(loss.state_dict()) == [
        "q_z_given_x.weight",
        "q_z_given_x.bias",
        "p_x_given_z.weight",
        "p_x_given_z.bias",
    ]
    assert list((2 * loss - loss).state_dict()) == list(loss.state_dict())


def test_d06_a_reparametrised_sample_through_a_function_passes_its_gradient():
    q = Normal("q(z|x)", nn.Linear(X, 2 * Z))
    flow = Deterministic("y = f(z)", lambda z: z.sinh())
    loss = E(q * flow, log(Normal("p(y)", shape=Z))).mean()
    loss(x=pixels()).value.backward()
    assert q.net.weight.grad.abs().sum() > 0


def test_d07_a_function_multiplies_into_a_joint():
    joint = Deterministic("y = f(z)", torch.sinh) * Normal("p(z)", shape=Z)
    drawn = joint.sample(generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn["y"], drawn["z"].sinh())


def test_d12_means_and_modes_hold_through_time():
    loss, data = rssm(), sequences()
    values = [loss(**data, deterministic=True).value for _ in range(2)]
    assert torch.equal(*values)
    torch.testing.assert_close(loss.interpret(**data, deterministic=True).value, values[0])
    assert loss(**data).value != values[0]


def test_d12_means_and_modes_of_factors_without_a_network():
    prior, decode = (
        Normal("p(z)", loc=nn.Parameter(torch.ones(Z)), scale=2.0, shape=Z),
        Normal("p(x|z)", nn.Linear(Z, 2 * X)),
    )
    x = pixels()
    out = E(prior, log(decode))(x=x, deterministic=True)
    torch.testing.assert_close(out.samples["z"], torch.ones(B, Z))
    torch.testing.assert_close(out.value, decode.log_prob(x=x, z=torch.ones(B, Z)))
    standard = E(Normal("p(z)", shape=Z), log(decode))(x=x, deterministic=True)
    torch.testing.assert_close(standard.samples["z"], torch.zeros(B, Z))


def test_d14_a_variable_may_have_a_long_name():
    loss = (KL(Normal("q(latent|img)", nn.Linear(X, 4)), Normal("p(latent)", shape=2))).mean()
    assert loss(img=pixels()).value.ndim == 0
    assert r"\mathrm{img}" in str(loss)


def test_d17_same_tensor_object_twice():
    loss, x = vae(), pixels()
    values = train(loss, x)
    assert values[2] < values[1] < values[0]


def test_d17_the_same_series_twice():
    loss, data = rssm(), sequences()
    for _ in range(2):
        loss(**data).value.backward()


def test_d18_learnable_prior_of_parameters():
    loc, scale = nn.Parameter(torch.ones(Z)), positive(nn.Parameter(torch.ones(Z)))
    q = Normal("q(z|x)", nn.Linear(X, 2 * Z))
    x = pixels()
    for prior in (Normal("p(z)", loc=loc, scale=1.0, shape=Z), Normal("p(z)", {"loc": loc, "scale": scale}, shape=Z)):
        loss = KL(q, prior).mean()
        assert any(p is loc for p in loss.parameters())
        first, second, _ = train(loss, x)
        assert second < first
        q_params = torch.distributions.Normal(*q.params(x))
        p_params = torch.distributions.Normal(loc, 1.0 if prior.fixed else nn.functional.softplus(scale.raw))
        torch.testing.assert_close(
            loss(x=x).value, torch.distributions.kl_divergence(q_params, p_params).sum(-1).mean()
        )


class Learned(nn.Module):
    """A module without inputs that computes its parameters."""

    def __init__(self):
        super().__init__()
        self.raw = nn.Parameter(torch.zeros(2 * Z))

    def forward(self):
        return self.raw * 2


@pytest.mark.parametrize("head", [Learned, lambda: nn.Parameter(torch.zeros(2 * Z))])
def test_d18_learnable_prior_without_inputs(head):
    prior = Normal("p(z)", head(), shape=Z)
    q = Normal("q(z|x)", nn.Linear(X, 2 * Z))
    for loss in (
        KL(q, prior).mean(),
        E(q, log(q) - log(prior)).mean(),
        E(prior, log(Normal("p(x|z)", nn.Linear(Z, 2 * X)))).mean(),
    ):
        first, second, _ = train(loss, pixels())
        assert second != first


def test_d19_edited_weights_and_edited_inputs_count():
    loss, x = vae(), pixels()
    before = loss(x=x, seed=0).value
    with torch.no_grad():
        loss.p_x_given_z.bias += 1.0
    after = loss(x=x, seed=0).value
    assert after != before
    x.zero_()
    assert loss(x=x, seed=0).value != after


def test_d20_differentiable_after_a_call_without_gradient():
    loss, x = vae(), pixels()
    with torch.no_grad():
        assert not loss(x=x).value.requires_grad
    assert all(g is not None for g in gradients(loss(x=x).value, loss))


def test_d21_functional_call_with_zero_weights_is_zero():
    net = nn.Linear(X, Z)
    loss = E(Deterministic("h = f(x)", net), log(Normal("p(h)", shape=Z))).mean()
    zeros = {k: torch.zeros_like(v) for k, v in loss.named_parameters()}
    value = torch.func.functional_call(loss, zeros, (), {"x": pixels()}).value
    torch.testing.assert_close(value, torch.tensor(-Z * 0.9189385))


def test_d22_double_after_a_first_sample():
    q = Normal("q(z|x)", nn.Linear(X, 2 * Z))
    q.sample(x=pixels())
    assert q.double().sample(x=pixels().double()).dtype == torch.float64


def test_d23_a_deleted_formula_and_its_input_are_freed():
    loss, x = vae(), pixels()
    loss(x=x).value.backward()
    alive = [weakref.ref(loss), weakref.ref(x), weakref.ref(loss.q_z_given_x)]
    del loss, x
    gc.collect()
    assert [ref() for ref in alive] == [None] * 3


def test_d24_e_minus_itself_is_zero_and_printed():
    q, p = Normal("q(z|x)", nn.Linear(X, 2 * Z)), Normal("p(x|z)", nn.Linear(Z, 2 * X))
    loss = E(q, log(p)) - E(q, log(p))
    assert torch.equal(loss(x=pixels()).value, torch.zeros(B))
    assert repr(loss) == "<Expression E_{q(z|x)}[log p(x|z)] - E_{q(z|x)}[log p(x|z)]>"


def test_d24_the_encoder_and_the_decoder_run_once():
    calls = []
    q, p = Normal("q(z|x)", Join(X, 2 * Z)), Normal("p(x|z)", Join(Z, 2 * X))
    for factor in (q, p):
        factor.net.register_forward_hook(lambda *_, f=factor: calls.append(str(f)))
    (3 * E(q, log(p)) - E(q, log(p)) + KL(q, Normal("p(z)", shape=Z)) + E(q, log(q)))(x=pixels())
    assert calls == ["q(z|x)", "p(x|z)"]


def test_d25_zero_times_a_loss_prints_as_written():
    loss = 0 * vae() + 1.0
    assert repr(loss).startswith("<Expression 0 * mean(")
    assert repr(loss).endswith(" + 1.0>")
    assert loss(x=pixels()).value == 1.0


def test_d26_a_formula_prints_the_same_after_a_copy():
    loss = rssm()
    assert str(copy.deepcopy(loss)) == str(loss) == str(rssm())


def test_d27_loaded_values_stay():
    net = nn.Sequential(nn.Linear(X, 2 * Z), nn.BatchNorm1d(2 * Z))
    loss = KL(Normal("q(z|x)", net), Normal("p(z)", shape=Z)).mean().eval()
    state = {k: torch.full_like(v, 2) for k, v in loss.state_dict().items()}
    loss.load_state_dict(state)
    loss(x=pixels())
    for key, value in loss.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_d29_batches_of_different_size_do_not_broadcast():
    p, q = Normal("p(x)", shape=X), Normal("p(y)", shape=2)
    with pytest.raises(ShapeError, match="different batch shapes"):
        (log(p) + log(q))(x=torch.zeros(4, X), y=torch.zeros(1, 2))
    with pytest.raises(ShapeError):
        log(Normal("p(x|z)", nn.Linear(Z, 2 * X)))(x=torch.zeros(2, X), z=torch.zeros(Z))


def test_d30_equal_formulas_of_one_sum_over_time_have_equal_values():
    x = torch.randn(B, 4, X)
    q, p = Normal("q(z_t|x_t)", Join(X, 2 * Z), shape=Z), Normal("p(x_t|z_t)", Join(Z, 2 * X))
    prior = Normal("p(z_t)", shape=Z)
    ways = [
        Sum("t", KL(q, prior) - E(q, log(p))).mean(),
        (Sum("t", KL(q, prior)) - Sum("t", E(q, log(p)))).mean(),
        Sum("t", E(q, KL(q, prior) - log(p))).mean(),
        -Sum("t", E(q, log(p)) - KL(q, prior)).mean(),
    ]
    values = torch.stack([w(x=x, seed=0).value for w in ways])
    torch.testing.assert_close(values, values[0].expand(4))


def test_d31_subscripts_decide_which_frame_is_paired():
    """A counter video: frame t holds the number t, so x_{t-1} + 1 predicts x_t exactly, and x_t does not."""
    video = torch.arange(5.0).expand(B, 5).unsqueeze(-1)
    constant = -0.5 * torch.log(torch.tensor(2 * torch.pi))
    start = {"x": torch.full((B, 1), -1.0)}
    ahead = Normal("p(x_t|x_{t-1})", lambda x: x + 1, scale=1.0, shape=1)
    torch.testing.assert_close(Sum("t", log(ahead))(x=video, start=start).value, (5 * constant).expand(B))
    late = Normal("p(x_t|x_{t-1})", lambda x: x, scale=1.0, shape=1)
    torch.testing.assert_close(Sum("t", log(late))(x=video, start=start).value, (5 * constant - 2.5).expand(B))


def test_f08_data_is_a_factor():
    data, decode = Data("p_data(x)"), Normal("p(y|x)", nn.Linear(X, 4))
    loss = E(data * decode, log(decode)).mean()
    assert loss(x=pixels()).value.ndim == 0
    assert "p_{data}(x)" in str(loss).replace(r"\mathrm{data}", "data")
