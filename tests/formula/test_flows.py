"""Flows as factors: change of variables, integrals, products, posteriors, time; ours and zuko's."""

import pytest
import torch
import zuko
from torch import distributions as td
from torch import nn

from tests.formula.models import gradients
from worldformula import KL, Bernoulli, Deterministic, E, Flow, Normal, Sum, Wrapped, log, sg
from worldformula.errors import ConfigError, FormulaError, HeaderError, NoClosedFormError, ShapeError
from worldformula.nets.coupling import ActNorm, RealNVP

X, Z, C = 5, 2, 3


def moved(network, scale=0.2):
    """The network with weights away from the identity."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return network


class Both(nn.Module):
    """A linear layer on the concatenated inputs, and tanh."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, *inputs):
        return self.linear(torch.cat(inputs, -1)).tanh()


def ours(features=Z, context=0):
    return moved(RealNVP(features, context, layers=3, units=16))


def spline(features=Z, context=0):
    return moved(zuko.flows.NSF(features, context, transforms=2, hidden_features=(16,)), 0.1)


def autoregressive(features=Z, context=0):
    return moved(zuko.flows.MAF(features, context, transforms=2, hidden_features=(16,)), 0.1).transform


BUILDS = [ours, spline, autoregressive]


# ------------------------------------------------------------------------------------------- RealNVP itself


@pytest.mark.parametrize("context", [0, C])
@pytest.mark.parametrize("features", [2, 3, 6])
def test_realnvp_inverts_and_its_log_det_is_that_of_autodiff(features, context):
    flow = ours(features, context).double()
    x = torch.randn(7, features, dtype=torch.float64)
    c = torch.randn(7, context, dtype=torch.float64) if context else None
    u, log_det = flow(x, c)
    torch.testing.assert_close(flow.inverse(u, c), x)
    for i in range(7):
        row = None if c is None else c[i]
        jacobian = torch.autograd.functional.jacobian(lambda v, row=row: flow(v, row)[0], x[i])
        torch.testing.assert_close(log_det[i], torch.linalg.slogdet(jacobian)[1])


def test_realnvp_starts_as_a_permutation_and_says_what_it_expects():
    x = torch.randn(4, 3)
    u, log_det = RealNVP(3, layers=2)(x)
    torch.testing.assert_close(u, x)
    assert log_det.tolist() == [0.0] * 4
    with pytest.raises(ConfigError, match="at least 2 features"):
        RealNVP(1)
    with pytest.raises(ShapeError, match=r"features=2, context=3"):
        RealNVP(3)(torch.zeros(4, 2), torch.zeros(4, 3))


def test_d27_loaded_normalisation_stays():
    """load_state_dict, then forward: the values of ActNorm are those that were loaded (D27)."""
    x = 5 + 3 * torch.randn(200, 2)
    trained = RealNVP(2, layers=2)
    trained.initialise(x)
    u, _ = trained(x)
    torch.testing.assert_close(u.mean(0), torch.zeros(2), rtol=0, atol=1e-4)
    torch.testing.assert_close(u.std(0, correction=0), torch.ones(2), rtol=0, atol=1e-4)
    fresh = RealNVP(2, layers=2)
    fresh.load_state_dict(trained.state_dict())
    fresh.train()(100 * torch.randn(50, 2))
    for name, value in trained.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name
    norm = ActNorm(2)
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    norm(x)
    assert all(torch.equal(before[k], v) for k, v in norm.state_dict().items())


# ------------------------------------------------------------------------------------------- densities


@pytest.mark.parametrize("build", BUILDS)
def test_a_flow_integrates_to_one_over_the_plane(build):
    p = Flow("p(x)", build(), shape=Z)
    axis = torch.linspace(-14, 14, 500)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    with torch.no_grad():
        total = p.log_prob(x=grid).exp().sum().item() * (28 / 499) ** 2
    assert total == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("build", BUILDS)
def test_samples_have_the_density_that_log_prob_says(build):
    p = Flow("p(x|c)", build(context=C), shape=Z)
    c = torch.randn(6, C)
    noise = torch.randn(6, Z)
    x = p.sample(c=c, noise=noise)
    for i in range(6):
        jacobian = torch.autograd.functional.jacobian(
            lambda e, i=i: p.sample(c=c[i : i + 1], noise=e[None])[0], noise[i]
        )
        expected = td.Normal(0.0, 1.0).log_prob(noise[i]).sum() - torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(p.log_prob(x=x, c=c)[i], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("build", [spline, lambda: zuko.flows.NCSF(Z, 0, transforms=1, hidden_features=(8,))])
def test_a_whole_flow_of_zuko_keeps_its_own_base(build):
    flow = build()
    p = Flow("p(x)", flow, shape=Z)
    x = 2 * torch.rand(50, Z) - 1
    torch.testing.assert_close(p.log_prob(x=x), flow().log_prob(x))
    assert p.sample(sample_shape=(9,), seed=0).shape == (9, Z)
    wrapped = Wrapped("p(x)", flow, shape=Z)
    torch.testing.assert_close(wrapped.log_prob(x=x), flow().log_prob(x))
    assert wrapped.sample(sample_shape=(9,), seed=0).shape == (9, Z)


def test_a_flow_learns_a_distribution_that_its_base_is_not():
    torch.manual_seed(0)
    ring = torch.randn(512, 2)
    ring = ring / ring.norm(dim=-1, keepdim=True) + 0.1 * torch.randn(512, 2)
    p = Flow("p(x)", RealNVP(2, layers=4, units=32), shape=2)
    loss = -log(p).mean()
    optimiser = torch.optim.Adam(loss.parameters(), 3e-3)
    for _ in range(150):
        optimiser.zero_grad()
        loss(x=ring).value.backward()
        optimiser.step()
    normal = td.MultivariateNormal(ring.mean(0), ring.T.cov())
    assert loss(x=ring).value < -normal.log_prob(ring).mean() - 0.5


def test_any_base_conditional_too():
    base = Normal("q(u|x)", nn.Linear(X, 2 * Z), shape=Z)
    q = Flow("q(z|x)", ours(context=X), shape=Z, base=base)
    x, z = torch.randn(6, X), torch.randn(6, Z)
    u, log_det = q.net.flow.transform(z, x)
    torch.testing.assert_close(q.log_prob(z=z, x=x), base.log_prob(u=u, x=x) + log_det)
    loss = E(q, log(q) - log(Normal("p(z)", shape=Z))).mean()
    loss(x=x).value.backward()
    assert base.net.weight.grad.abs().sum() > 0


# ------------------------------------------------------------------------------------------- in formulas


def vae(q):
    prior, decode = Normal("p(z)", shape=Z), Bernoulli("p(x|z)", nn.Linear(Z, X), shape=X)
    return E(q, log(q) - log(prior) - log(decode)).mean()


@pytest.mark.parametrize("build", BUILDS)
def test_d6_the_sample_of_a_flow_posterior_carries_the_gradient_to_the_encoder(build):
    encoder = nn.Linear(X, C)
    q = Flow("q(z|x)", build(context=C), shape=Z, encoder=encoder)
    x = torch.rand(6, X)
    z = q.sample(x=x)
    assert torch.autograd.grad(z.sum(), encoder.weight)[0].abs().sum() > 0
    calls = []
    encoder.register_forward_hook(lambda *_: calls.append(1))
    loss = vae(q)
    out = loss(x=x, seed=0)
    assert len(calls) == 1
    walked = loss.interpret(x=x, seed=0)
    torch.testing.assert_close(out.value, walked.value)
    for value, expected in zip(gradients(out.value, loss), gradients(walked.value, loss), strict=True):
        assert value is None if expected is None else torch.allclose(value, expected, atol=1e-6)
    loss(x=x).value.backward()
    assert encoder.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("build", BUILDS)
def test_d7_a_flow_is_a_factor_of_a_product(build):
    """p(x|z) p(z) with flows on both sides: density, draw, formula (D7)."""
    prior, decode = Flow("p(z)", build(), shape=Z), Flow("p(x|z)", build(features=3, context=Z), shape=3)
    joint = decode * prior
    x, z = torch.randn(6, 3), torch.randn(6, Z)
    torch.testing.assert_close(joint.log_prob(x=x, z=z), prior.log_prob(z=z) + decode.log_prob(x=x, z=z))
    drawn = joint.sample(sample_shape=(6,), seed=0)
    assert {k: tuple(v.shape) for k, v in drawn.items()} == {"x": (6, 3), "z": (6, Z)}
    loss = -log(joint).mean()
    torch.testing.assert_close(loss(x=x, z=z).value, -joint.log_prob(x=x, z=z).mean())
    q = Normal("q(z|x)", nn.Linear(3, 2 * Z), shape=Z)
    elbo = E(q, log(joint) - log(q)).mean()
    elbo(x=x).value.backward()
    assert all(p.grad is not None for p in q.parameters())


def test_the_kl_of_a_flow_is_estimated_and_says_how():
    q = Flow("q(z|x)", ours(context=X), shape=Z)
    with pytest.raises(NoClosedFormError, match=r"E\(q, log\(q\) - log\(p\)\)"):
        KL(q, Normal("p(z)", shape=Z))
    same = RealNVP(Z, context=X)  # the identity: the flow is its base
    out = E(q0 := Flow("q(z|x)", same, shape=Z), log(q0) - log(Normal("p(z)", shape=Z))).mean()(x=torch.randn(8, X))
    assert out.value.item() == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("build", BUILDS)
def test_a_flow_in_time(build):
    """Posterior in the loop, prior behind it, reset flags, against a loop by hand."""
    core = Deterministic("h_t = f(h_{t-1}, z_{t-1})", Both(4 + Z, 4), shape=4)
    post = Flow("q(z_t|h_t,x_t)", build(context=C), shape=Z, encoder=Both(4 + X, C))
    prior = Flow("p(z_t|h_t)", build(context=4), shape=Z)
    decode = Normal("p(x_t|z_t,h_t)", Both(Z + 4, 2 * X), shape=X)
    loss = Sum("t", E(core * post, log(post) - log(prior) - log(decode)), reset="first").mean()
    x, first, noise = torch.randn(3, 5, X), torch.zeros(3, 5, dtype=torch.bool), torch.randn(3, 5, Z)
    first[1, 2] = True
    h, z, total = torch.zeros(3, 4), torch.zeros(3, Z), 0.0
    for t in range(5):
        keep = ~first[:, t, None]
        h = core.net(h * keep, z * keep)
        z = post.sample(h=h, x=x[:, t], noise=noise[:, t])
        total = total + post.log_prob(z=z, h=h, x=x[:, t]) - prior.log_prob(z=z, h=h)
        total = total - decode.log_prob(x=x[:, t], z=z, h=h)
    out = loss(x=x, first=first, noise={"z": noise})
    torch.testing.assert_close(out.value, total.mean(), rtol=1e-4, atol=1e-4)
    walked = loss.interpret(x=x, first=first, noise={"z": noise})
    torch.testing.assert_close(out.value, walked.value, rtol=1e-4, atol=1e-4)
    out.value.backward()
    assert all(p.grad is not None for p in post.net.encoder.parameters())


def test_a_stopped_flow_trains_nothing_of_its_own():
    for build in BUILDS:
        p, q = Flow("p(z|x)", build(context=X), shape=Z), Normal("q(z|x)", nn.Linear(X, 2 * Z), shape=Z)
        E(q, log(sg(p))).mean()(x=torch.randn(6, X)).value.backward()
        assert all(w.grad is None for w in p.parameters())
        assert q.net.weight.grad.abs().sum() > 0


def test_deterministic_noise_and_dtype():
    q = Flow("q(z|x)", ours(context=X), shape=Z)
    loss, x = vae(q), torch.rand(6, X)
    assert loss(x=x, deterministic=True).value == loss(x=x, deterministic=True).value
    z = q.sample(x=x, deterministic=True)
    torch.testing.assert_close(z, q.sample(x=x, noise=torch.zeros(6, Z)))
    loss.double()
    assert loss(x=x.double()).value.dtype is torch.float64
    prior = Flow("p(z)", ours().double(), shape=Z)
    assert prior.sample(sample_shape=(4,)).dtype is torch.float64
    assert prior.sample(sample_shape=(4,), deterministic=True).shape == (4, Z)


def test_images_and_numbers_are_flattened_for_the_transform():
    p = Flow("p(x)", ours(12), shape=(3, 2, 2))
    x = p.sample(sample_shape=(5,))
    assert x.shape == (5, 3, 2, 2)
    u, log_det = p.net.flow.transform(x.flatten(1))
    torch.testing.assert_close(p.log_prob(x=x), td.Normal(0.0, 1.0).log_prob(u).sum(-1) + log_det)
    scalar = Flow("p(y)", zuko.flows.NSF(1, transforms=1, hidden_features=(8,)), shape=())
    assert scalar.log_prob(y=torch.randn(7)).shape == (7,)


def test_torch_func_and_compile():
    p = Flow("p(x|c)", ours(context=C), shape=Z)
    loss, data = -log(p).mean(), {"x": torch.randn(6, Z), "c": torch.randn(6, C)}
    weights = dict(loss.named_parameters())
    per_row = torch.func.vmap(
        lambda x, c: torch.func.functional_call(loss, weights, (), {"x": x[None], "c": c[None]}).value
    )(data["x"], data["c"])
    torch.testing.assert_close(per_row.mean(), loss(**data).value)
    zeros = {k: torch.zeros_like(v) for k, v in weights.items()}
    value = torch.func.functional_call(loss, zeros, (), data).value
    torch.testing.assert_close(value, -td.Normal(0.0, 1.0).log_prob(data["x"]).sum(-1).mean())
    expected = loss(**data).value
    loss.compile(fullgraph=True, backend="eager")
    torch.testing.assert_close(loss(**data).value, expected)


def test_errors_say_what_to_do():
    with pytest.raises(FormulaError, match="expected shape="):
        Flow("p(x)", ours(), shape=None)
    with pytest.raises(FormulaError, match="expected an invertible network"):
        Flow("p(x)", lambda x: x, shape=Z)
    with pytest.raises(HeaderError, match="needs y, which the flow does not read"):
        Flow("q(z|x)", ours(), shape=Z, base=Normal("q(u|y)", nn.Linear(X, 2 * Z), shape=Z))
    with pytest.raises(FormulaError, match="random base of shape"):
        Flow("p(z)", ours(), shape=Z, base=Normal("p(u)", shape=3))
    with pytest.raises(ShapeError, match="batch of the value"):
        Flow("p(x|c)", ours(context=C), shape=Z).log_prob(x=torch.randn(4, Z), c=torch.randn(1, C))
    q = Flow("p(x)", ours(), shape=Z)
    with pytest.raises(FormulaError, match="no closed form"):
        q.family.mean(q.params())


@pytest.mark.parametrize("build", BUILDS)
def test_a_value_goes_to_the_base_and_back_and_its_density_is_that_of_the_base(build):
    flow = Flow("p(z|c)", build(Z, C), shape=Z).double()
    c, noise = torch.randn(X, C, dtype=torch.float64), torch.randn(X, Z, dtype=torch.float64)
    z = flow.sample(c=c, noise=noise)
    torch.testing.assert_close(flow.to_base(z=z, c=c), noise)
    torch.testing.assert_close(flow.to_value(noise, c=c), z)
    jacobian = torch.stack([
        torch.autograd.functional.jacobian(lambda v, at=at: flow.to_base(z=v[None], c=at[None])[0], row)
        for row, at in zip(z.detach(), c, strict=True)
    ])  # fmt: skip
    density = td.Normal(0.0, 1.0).log_prob(noise).sum(-1) + torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(flow.log_prob(z=z, c=c), density)
    with pytest.raises(ShapeError):
        flow.to_base(z=torch.zeros(X, Z + 1, dtype=torch.float64), c=c)
    with pytest.raises(ShapeError):
        flow.to_value(torch.zeros(X, Z + 1, dtype=torch.float64), c=c)
    with pytest.raises(FormulaError, match=r"to_base\(z=...\)"):
        flow.to_base(z)
