"""What a static model offers follows from its factors: draws, means, bounds, and its view of a data set."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from worldformula import (
    KL,
    Bernoulli,
    Categorical,
    E,
    Expression,
    Factor,
    Game,
    Joint,
    Model,
    Normal,
    OneHot,
    Player,
    log,
)
from worldformula.errors import FormulaError, MissingInputError, ShapeError


@dataclass(frozen=True, eq=False)
class Toy(Model):
    prior: Factor | Joint
    encode: Factor | Joint
    decode: Factor | Joint
    loss: Expression | Game


class Cat(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, *values):
        return self.linear(torch.cat(values, -1))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def linear() -> Toy:
    """p(z) = N(0, 1), p(x|z) = N(wz + b, s²): p(x) is a Normal, so that everything is known."""
    prior = Normal("p(z)", shape=1)
    encode = Normal("q(z|x)", nn.Linear(2, 2), shape=1)
    decode = Normal("p(x|z)", nn.Linear(1, 2), shape=2, scale=0.7)
    return Toy(prior, encode, decode, (KL(encode, prior) - E(encode, log(decode))).mean())


def conditional() -> Toy:
    prior = Normal("p(z|y)", nn.Linear(3, 4), shape=2)
    encode = Normal("q(z|x,y)", Cat(7, 4), shape=2)
    decode = Bernoulli("p(x|z,y)", Cat(5, 4), shape=4)
    label = OneHot("p(y)", shape=3)
    return Toy(prior, encode, decode, (KL(encode, prior) - E(encode, log(decode)) - log(label)).mean())


def ladder() -> Toy:
    """Two layers of latents, both as products, and two observed variables."""
    prior = Normal("p(w)", shape=2) * Normal("p(z|w)", nn.Linear(2, 6), shape=3)
    encode = Normal("q(z|x)", nn.Linear(4, 6), shape=3) * Normal("q(w|z)", nn.Linear(3, 4), shape=2)
    decode = Bernoulli("p(x|z)", nn.Linear(3, 4), shape=4) * Categorical("p(y|z)", nn.Linear(3, 5), shape=())
    return Toy(prior, encode, decode, -E(encode, log(prior) + log(decode) - log(encode)).mean())


def test_the_bound_closes_in_on_the_density():
    model = linear()
    x = torch.randn(5, 2)
    weight, bias = model.decode.net.weight.detach(), model.decode.net.bias.detach()
    cov = weight @ weight.T + 0.49 * torch.eye(2)
    exact = torch.distributions.MultivariateNormal(bias, cov).log_prob(x)
    one, many = model.bound(1, seed=0, x=x.repeat(4000, 1)), model.bound(20_000, seed=0, chunk=4000, x=x)
    assert torch.allclose(many, exact, atol=0.03)
    elbo = -model.loss(x=x.repeat(4000, 1), seed=1).value.item()
    assert one.mean().item() == pytest.approx(elbo, abs=0.05)
    assert elbo < exact.mean().item()
    assert model.bound(7, seed=0, chunk=3, x=x).shape == (5,)


def test_generated_rows_have_the_moments_of_the_model():
    model = linear()
    drawn = model.generate(50_000, seed=0)
    assert {k: v.shape for k, v in drawn.items()} == {"z": (50_000, 1), "x": (50_000, 2)}
    weight, bias = model.decode.net.weight.detach(), model.decode.net.bias.detach()
    assert torch.allclose(drawn["x"].mean(0), bias, atol=0.03)
    assert torch.allclose(drawn["x"].T.cov(), weight @ weight.T + 0.49 * torch.eye(2), atol=0.04)
    mean = model.generate(4, seed=0, mean=True)
    assert torch.allclose(mean["x"], model.decode.net(mean["z"]))
    assert not mean["x"].requires_grad


def test_seeds_and_generators_decide_the_draws():
    model = linear()
    assert torch.equal(model.generate(3, seed=1)["x"], model.generate(3, seed=1)["x"])
    rng = torch.Generator().manual_seed(1)
    assert torch.equal(model.generate(3, generator=rng)["x"], model.generate(3, seed=1)["x"])
    assert not torch.equal(model.generate(3, generator=rng)["x"], model.generate(3, seed=1)["x"])


def test_reconstruction_is_the_mean_at_the_mode():
    model = linear()
    x = torch.randn(6, 2)
    mode = model.encode.net(x)[:, :1]
    assert torch.allclose(model.latents(x=x)["z"], mode)
    assert torch.allclose(model.reconstruct(x=x)["x"], model.decode.net(mode))
    assert not torch.equal(model.latents(deterministic=False, seed=0, x=x)["z"], mode)


def test_conditions_go_where_they_are_read():
    model = conditional()
    y = torch.eye(3)[[0, 1, 2, 2]]
    assert model.generate(4, seed=0, y=y)["x"].shape == (4, 4)
    assert model.reconstruct(x=torch.ones(4, 4), y=y)["x"].shape == (4, 4)
    assert model.bound(5, x=torch.ones(4, 4), y=y).shape == (4,)
    with pytest.raises(MissingInputError, match="y"):
        model.generate(4)
    with pytest.raises(MissingInputError, match="needs y"):
        model.render(z=torch.zeros(4, 2))


def test_products_of_latents_and_of_data():
    model = ladder()
    drawn = model.generate(9, seed=0, mean=True)
    assert {k: tuple(v.shape) for k, v in drawn.items()} == {"w": (9, 2), "z": (9, 3), "x": (9, 4), "y": (9,)}
    assert ((drawn["x"] > 0) & (drawn["x"] < 1)).all(), "a mean of Bernoullis, not a draw"
    assert torch.equal(drawn["y"], drawn["y"].round()), "classes have no mean: their mode"
    x, y = torch.ones(4, 4), torch.tensor([0, 1, 2, 4])
    assert set(model.latents(x=x)) == {"z", "w"}
    assert model.bound(3, x=x, y=y).shape == (4,)
    assert model.inputs == ("x", "y")


def test_a_data_set_comes_in_the_shapes_of_the_loss():
    arrays = {
        "x": np.zeros((6, 2, 2), np.float32),
        "y": np.array([0, 1, 2, 0, 1, 2]),
        "extra": np.zeros(6),
    }
    rows = conditional().rows(arrays)
    assert rows["x"].shape == (6, 4)
    assert torch.equal(rows["y"], torch.eye(3)[arrays["y"]])
    assert "extra" not in rows
    assert ladder().rows({**arrays, "x": arrays["x"].reshape(6, 4)})["y"].dtype == torch.int64
    with pytest.raises(ShapeError, match=r"pairs does not have the shapes[^$]*\[N, 4\][^$]*\[6, 3\]"):
        conditional().rows({**arrays, "x": np.zeros((6, 3), np.float32)}, "pairs")
    with pytest.raises(ShapeError):
        conditional().rows({**arrays, "y": np.array([0, 1, 2, 3, 0, 1])})
    with pytest.raises(MissingInputError, match="has no y, which this model reads; it has x"):
        conditional().rows({"x": arrays["x"]})


def test_data_that_no_shape_refuses_is_tried_on_two_rows():
    model = conditional()
    net = model.encode.net
    assert model.events == {"x": (4,), "y": (3,)}
    classes = Toy(
        model.prior,
        model.encode,
        model.decode,
        -log(Categorical("p(x)", {"logits": torch.zeros(4, 5)}, shape=4)).mean(),
    )
    assert classes.rows({"x": np.zeros((3, 4), np.int64)})["x"].dtype == torch.int64
    with pytest.raises(ShapeError, match=r"floats does not suit this model: p\(x\): categorical: .* integer type"):
        classes.rows({"x": np.zeros((3, 4), np.float32)}, "floats")
    before = torch.get_rng_state()
    net.train()
    model.rows({"x": np.zeros((3, 4), np.float32), "y": np.array([0, 1, 2])})
    assert net.training
    assert torch.equal(before, torch.get_rng_state())


def test_a_model_may_make_its_inputs_from_the_rows():
    class Made(Toy):
        def given(self, rows):
            return {"x": rows["left"] + rows["right"]}

    model = Made(**{k: getattr(linear(), k) for k in ("prior", "encode", "decode", "loss")})
    arrays = {"left": np.ones((3, 2), np.float32), "right": np.ones((3, 2), np.float32)}
    assert torch.equal(model.given(model.rows(arrays))["x"], torch.full((3, 2), 2.0))


def test_what_a_model_lacks_it_says():
    class Bare(Model):
        def __init__(self) -> None:
            self.loss = linear().loss

    with pytest.raises(FormulaError, match="Bare has no prior"):
        Bare().generate(2)
    with pytest.raises(FormulaError, match="Bare has no encode"):
        Bare().reconstruct(x=torch.zeros(1, 2))
    assert not Bare().has("decode")
    assert linear().has("decode")


def test_a_game_has_the_inputs_and_shapes_of_all_its_players():
    net, other = nn.Linear(2, 1), nn.Linear(1, 4)
    d = -log(Bernoulli("d(r|x)", net, shape=1)).mean()
    g = -log(Normal("p(x|r)", other, shape=2)).mean()

    class Played(Model):
        def __init__(self) -> None:
            self.loss = Game(d=Player(d, [net]), g=Player(g, [other]))

    model = Played()
    assert set(model.inputs) == {"x", "r"}
    assert model.events == {"x": (2,), "r": (1,)}
    assert math.isfinite(model.loss(x=torch.zeros(3, 2), r=torch.ones(3, 1))["d"].value.item())
