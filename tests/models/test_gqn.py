"""GQN: the bound by hand, the warm-up, and that views may come in any number and order."""

import math

import torch
from torch.distributions import Normal, kl_divergence

from worldformula.models.gqn import Sizes, build

SMALL = {"shared": Sizes(8, 3, 6, 2, 4, 3, True), "apart": Sizes(8, 3, 6, 2, 4, 3, False)}
B, M = 3, 4


def batch(dtype=torch.double):
    views = {"x": torch.rand(B, M, 8, 8, 3), "v": torch.randn(B, M, 3), "k": torch.ones(B, M)}
    views["k"][0, 2:] = 0
    asked = {"x_prime": torch.rand(B, 8, 8, 3), "v_prime": torch.randn(B, 3)}
    return {k: v.to(dtype) for k, v in (views | asked).items()}


def made(name="shared"):
    torch.manual_seed(0)
    model = build(SMALL[name])
    model.loss.double()
    return model


def test_the_loss_is_the_loop_by_hand():
    for name in SMALL:
        model, data = made(name), batch()
        noise = model.loss.noise(**data, sigma=0.3)
        nets = dict(model.loss.named_children())

        def core(kind, i, nets=nets, name=name):
            return nets[kind] if name == "shared" else nets[kind][i]

        r = nets["scene"](data["x"], data["v"], data["k"])
        e, n, h, m = (torch.zeros(B, 4, 2, 2, dtype=torch.double) for _ in range(4))
        u, kl = torch.zeros(B, 4, 8, 8, dtype=torch.double), 0.0
        for i, step in enumerate(noise.values()):
            e, n = core("inf", i)(e, n, data["x_prime"], data["v_prime"], r, h, u)
            p, q = (Normal(**nets[k](v)) for k, v in (("pi_z_given_h_prev", h), ("q_z_given_e", e)))
            kl = kl + kl_divergence(q, p).sum((1, 2, 3))
            h, m = core("gen", i)(h, m, data["v_prime"], r, q.loc + q.scale * step)
            u = nets["up"](u, h)
        image = Normal(nets["p_x_prime_given_u"](u), 0.3).log_prob(data["x_prime"]).sum((1, 2, 3))
        expected = (kl - image).mean()
        out, walked = (run(**data, sigma=0.3, noise=noise).value for run in (model.loss, model.loss.interpret))
        torch.testing.assert_close(out, expected)
        torch.testing.assert_close(out, walked)
        weights = list(model.loss.parameters())
        torch.testing.assert_close(torch.autograd.grad(out, weights), torch.autograd.grad(walked, weights))


def test_the_warm_up_is_ten_times_the_squared_error_of_the_means():
    model, data = made(), batch()
    found = model.warm(**data, deterministic=True)
    shown = model.picture.head(found.samples["u_3"])
    torch.testing.assert_close(found.value, 10 * (shown - data["x_prime"]).square().sum((1, 2, 3)).mean())
    assert {id(p) for p in model.warm.parameters()} < {id(p) for p in model.loss.parameters()}


def test_views_in_any_order_and_what_is_not_there_does_not_matter():
    model, data = made(), batch()
    noise = model.loss.noise(**data, sigma=0.1)
    order = torch.randperm(M)
    turned = data | {k: data[k][:, order] for k in "xvk"}
    one, two = (model.loss(**d, sigma=0.1, noise=noise).value for d in (data, turned))
    assert abs(one - two) < 1e-8 * abs(one)
    other = data | {"x": torch.where(data["k"][..., None, None, None] == 0, 0.5, data["x"])}
    torch.testing.assert_close(model.represent(**{k: other[k] for k in "xvk"}),
                               model.represent(**{k: data[k] for k in "xvk"}))  # fmt: skip


def test_it_prints_learns_and_answers():
    model, data = made(), batch()
    assert r"\sum_{l=1}^{3}" in str(model.loss)
    assert r"r = \mathrm{scene}(x_{1:M}, v_{1:M}, k_{1:M})" in str(model.loss)
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-3)
    before = model.loss(**data, sigma=0.5, seed=0).value
    before.backward()
    optimiser.step()
    assert model.loss(**data, sigma=0.5, seed=0).value < before
    views = {k: data[k] for k in "xvk"}
    one, two = (model.query(data["v_prime"], **views, seed=3) for _ in range(2))
    assert one.shape == (B, 8, 8, 3)
    assert torch.equal(one, two)
    assert math.isfinite(float(model.loss(**data, sigma=0.1, seed=0).value))
