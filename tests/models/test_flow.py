"""Flows: log-dets against automatic differentiation, inverses, integrals, the D log L, dequantised bounds, labels."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from worldformula.errors import ConfigError
from worldformula.metrics.likelihood import quadrature
from worldformula.models.flow import SYSTEM, Logit, Sizes, build, maf, nsf, plane, tiny, zuko_flow
from worldformula.nets.coupling import RealNVP


def shaken(module):
    """New weights away from the identity."""
    torch.manual_seed(0)
    for weight in module.parameters():
        nn.init.normal_(weight, std=0.2)
    return module


SMALL = {
    "real_nvp": lambda D, C: RealNVP(D, context=C, layers=3, units=16),
    "maf": lambda D, C: zuko_flow("MAF", D, C, transforms=2, hidden_features=(16,)),
    "nsf": lambda D, C: zuko_flow("NSF", D, C, transforms=1, hidden_features=(16,), bins=4),
}


@pytest.mark.parametrize("kind", SMALL)
def test_logit_and_flow_invert_and_count_both_log_dets(kind):
    net = shaken(Logit(SMALL[kind](3, 0), 0.05)).double()
    u = torch.rand(5, 3).double()
    z, log_det = net(u)
    assert torch.allclose(net.inverse(z), u, atol=1e-8)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda row: net(row[None])[0][0]))(u)
    assert torch.allclose(log_det, jacobian.slogdet()[1], atol=1e-8)


@pytest.mark.parametrize("kind", SMALL)
def test_a_density_in_the_plane_integrates_to_one(kind):
    model = shaken_model(Sizes(2, SMALL[kind]))
    mass = quadrature(lambda x: model.log_prob(x=x), points=401, limit=12.0).exp()
    assert mass.item() == pytest.approx(1.0, abs=0.01)


def shaken_model(sizes):
    model = build(sizes)
    shaken(model.loss)
    model.loss.double()
    return model


def test_the_value_of_levels_counts_d_log_l():
    """A flow that maps the uniform density to itself has −log P(x) = D log L exactly: log₂ 17 bits per pixel."""
    model = build(Sizes(4, lambda D, C: RealNVP(D, layers=1, units=8), levels=17))
    transform = model.density.net.flow.transform

    class Identity(nn.Module):
        def forward(self, u, context=None):
            cdf = u.clamp(1e-6, 1 - 1e-6)
            z = math.sqrt(2) * torch.erfinv(2 * cdf - 1)
            return z, (0.5 * z**2 + 0.5 * math.log(2 * math.pi)).sum(-1)

        def inverse(self, z, context=None):
            return 0.5 * (1 + torch.erf(z / math.sqrt(2)))

    assert isinstance(transform, Logit)
    model.density.net.flow.transform = Identity()
    x = torch.randint(17, (6, 4))
    assert model.loss(x=x, seed=0).value.item() == pytest.approx(4 * math.log(17), abs=1e-3)
    assert torch.allclose(model.bound(3, x=x), torch.full((6,), -4 * math.log(17)), atol=1e-3)
    assert model.generate(500, seed=0)["x"].unique().tolist() == list(range(17))


def test_more_noises_give_a_tighter_bound_and_one_noise_is_the_loss():
    model = build(Sizes(4, SMALL["real_nvp"], levels=3))
    shaken(model.loss)
    x = torch.randint(3, (300, 4))
    few, many = model.bound(1, seed=0, x=x).mean(), model.bound(32, seed=1, x=x).mean()
    assert few < many
    assert -model.loss(x=x.repeat(40, 1), seed=0).value.item() == pytest.approx(few.item(), abs=0.1)


def test_what_it_prints():
    text = str(build(tiny()).loss)
    assert r"p_{\mathrm{data}}(x),\, p(v),\, u = \mathrm{dequantise}(x, v)" in text
    assert r"\left[ -\log p(u) \right]" in text
    assert text.endswith(f"{64 * math.log(17):.6g} \\right)")


@pytest.mark.parametrize("sizes", [tiny(), maf(), nsf(), plane()])
def test_a_step_lowers_the_loss_and_code_is_the_interpreter(sizes):
    model = SYSTEM.build(sizes)
    x = torch.randint(17, (16, sizes.features)) if sizes.levels else torch.randn(16, sizes.features)
    noise = model.loss.noise(x=x)
    before = model.loss(x=x, noise=noise).value
    assert torch.allclose(before, model.loss.interpret(x=x, noise=noise).value)
    before.backward()
    torch.optim.Adam(model.loss.parameters(), lr=1e-3).step()
    assert model.loss(x=x, noise=noise).value < before


def test_labels_condition_the_density():
    model = build(replace(plane(), classes=2))
    x = torch.cat((torch.randn(400, 2) - 3, torch.randn(400, 2) + 3))
    y = nn.functional.one_hot(torch.arange(800) // 400).float()
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        model.loss(x=x, y=y).value.backward()
        optimiser.step()
    drawn = model.generate(200, seed=0, y=y[:1].expand(200, -1))["x"]
    assert (drawn.mean(0) < -2).all()


def test_alpha_outside_its_range_is_refused():
    with pytest.raises(ConfigError, match="between 0 and .5"):
        Logit(RealNVP(2), 0.5)
