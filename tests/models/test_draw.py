"""DRAW: the bound by hand, the attention window, what it generates."""

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from worldformula.errors import ConfigError
from worldformula.models.draw import Grid, Sizes, build, tiny
from worldformula.testing import check_model

SIZES = {"all": Sizes(side=6, latent=3, hidden=10, steps=3), "attention": Sizes(6, 3, 10, 3, attention=4)}


@pytest.mark.parametrize("name", SIZES)
def test_the_loss_is_the_loop_by_hand(name):
    torch.manual_seed(0)
    model = build(SIZES[name])
    model.loss.double()
    x = torch.rand(4, 36, dtype=torch.double).bernoulli()
    noise = model.loss.noise(x=x)
    out, walked = (run(x=x, noise=noise) for run in (model.loss, model.loss.interpret))
    nets = dict(model.loss.named_children())
    e = m = d = n = x.new_zeros(4, 10)
    c, total = torch.zeros_like(x), x.new_zeros(4)
    for step in noise.values():
        r = nets["read"](x, c, d)
        e, m = nets["enc"].cell(torch.cat((r, d), -1), (e, m))
        q = Normal(**nets["q_z_given_e"](e))
        z = q.loc + q.scale * step
        d, n = nets["dec"].cell(z, (d, n))
        c = nets["write"](c, d)
        total = total + kl_divergence(q, Normal(torch.zeros_like(q.loc), 1.0)).sum(-1)
    expected = (total - Bernoulli(logits=c).log_prob(x).sum(-1)).mean()
    torch.testing.assert_close(out.value, expected)
    weights = list(model.loss.parameters())
    pulls = [torch.autograd.grad(v, weights) for v in (out.value, walked.value, expected)]
    torch.testing.assert_close(pulls[0], pulls[1])
    torch.testing.assert_close(pulls[0], pulls[2])


def test_the_formula_prints_and_the_laws_hold():
    torch.manual_seed(0)
    model = build(tiny())
    assert str(model.loss) == (
        r"\operatorname{mean}\left( \sum_{l=1}^{6} \mathbb{E}_{r_{l} = \mathrm{read}(x, c_{l-1}, d_{l-1}),\, e_{l}, "
        r"m_{l} = \mathrm{enc}(e_{l-1}, m_{l-1}, r_{l}, d_{l-1}),\, q(z_{l} \mid e_{l}),\, d_{l}, n_{l} = "
        r"\mathrm{dec}(d_{l-1}, n_{l-1}, z_{l}),\, c_{l} = \mathrm{write}(c_{l-1}, d_{l})}\left[ D_{\mathrm{KL}}\left[ "
        r"q(z_{l} \mid e_{l}) \,\|\, p(z_{l}) \right] \right] - \log p(x \mid c_{L}) \right)"
    )
    check_model(model, {"x": torch.rand(8, 64).bernoulli()})


def test_a_step_lowers_the_loss_and_more_draws_raise_the_bound():
    torch.manual_seed(0)
    model = build(tiny())
    x = torch.rand(32, 64).bernoulli()
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-3)
    before = model.loss(x=x, seed=0).value
    before.backward()
    optimiser.step()
    assert model.loss(x=x, seed=0).value < before
    assert model.bound(64, x=x, seed=0).mean() > model.bound(1, x=x, seed=0).mean()
    with torch.no_grad():
        weight, loss = (float(f(x=x, seed=0).value.mean()) for f in (model.weight, model.loss))
    assert weight == pytest.approx(-loss, abs=1.0)


def test_the_window_looks_where_it_is_told():
    grid = Grid(Sizes(side=9, latent=2, hidden=3, steps=1, attention=3))
    torch.nn.init.zeros_(grid.place.weight)
    grid.place.bias.data = torch.tensor([0.0, 0.0, -4.0, 0.0, 0.7])
    rows, columns, intensity = grid(torch.zeros(2, 3))
    assert rows.shape == columns.shape == (2, 3, 9)
    torch.testing.assert_close(rows.sum(-1), torch.ones(2, 3))
    assert rows[0].argmax(-1).tolist() == [0, 4, 8]  # centred, the stride that spans the picture
    torch.testing.assert_close(intensity, torch.full((2,), 0.7).exp())
    grid.place.bias.data[:2] = torch.tensor([0.5, -0.5])
    grid.place.bias.data[3] = -1.4
    rows, columns, _ = grid(torch.zeros(1, 3))
    assert rows[0].argmax(-1).tolist() == [1, 2, 3]
    assert columns[0].argmax(-1).tolist() == [5, 6, 7]


def test_canvases_of_what_is_generated():
    model = build(tiny())
    found = model.generate(5, seed=1, mean=True)
    assert found["c"].shape == (5, 6, 64)
    torch.testing.assert_close(found["x"], found["c"][:, -1].sigmoid())


def test_sizes_are_checked():
    with pytest.raises(ConfigError, match="side"):
        Sizes(side=1, latent=2, hidden=2, steps=2)
