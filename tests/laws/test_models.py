"""The laws of a static model, for every model of the catalogue, and for models that break them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from worldformula import KL, Bernoulli, E, Expression, Game, Model, Normal, Player, data, log
from worldformula.catalogue import find, names
from worldformula.errors import MissingInputError, ShapeError
from worldformula.formula.factors.joint import Factor
from worldformula.testing import check_model

SETS = ("digits", "digits-grey", "digits-17", "sprites", "ring", "trimodal", "moving", "rolling", "rooms", "speech")


@pytest.mark.slow
@pytest.mark.parametrize("name", names("models"))
def test_every_model_of_the_catalogue(name):
    system = find(name)
    torch.manual_seed(0)
    model = system.build(system.sizes("tiny"))
    if not isinstance(model, Model):
        pytest.skip(f"{name} builds no Model: `worldformula fit` does not know it")
    for kind in SETS:
        try:
            rows = model.rows({k: v[:8] for k, v in data.load(kind).test.items()}, kind)
        except (ShapeError, MissingInputError):
            continue
        return check_model(model, rows)
    pytest.fail(f"no data set of the package fits the preset tiny of {name}")


@dataclass(frozen=True, eq=False)
class Toy(Model):
    prior: Factor
    encode: Factor
    decode: Factor
    loss: Expression | Game


ROWS = {"x": torch.rand(8, 4, generator=torch.Generator().manual_seed(0)).round()}


def toy(kind=Toy, **changes):
    torch.manual_seed(0)
    prior, encode = Normal("p(z)", shape=2), Normal("q(z|x)", nn.Linear(4, 4), shape=2)
    decode = Bernoulli("p(x|z)", nn.Linear(2, 4), shape=4)
    loss = (KL(encode, prior) - E(encode, log(decode))).mean()
    return kind(**({"prior": prior, "encode": encode, "decode": decode, "loss": loss} | changes))


def test_a_model_that_keeps_the_laws():
    check_model(toy(), ROWS)


class Repeats(Toy):
    def generate(self, n, *, seed=None, generator=None, mean=False, **given):
        return super().generate(n, seed=None, **given)


class Wide(Toy):
    def generate(self, n, **options):
        found = super().generate(n, **options)
        return {**found, "x": found["x"][:, :3]}


class Latents(Toy):
    def generate(self, n, **options):
        return {"z": super().generate(n, **options)["z"]}


class Grad(Toy):
    def generate(self, n, **options):
        with torch.enable_grad():
            return {"x": self.decode.net(super().generate(n, **options)["z"])}


class Flat(Toy):
    def reconstruct(self, **given):
        return {"x": super().reconstruct(**given)["x"][:1]}


class Few(Toy):
    def bound(self, draws, **options):
        return super().bound(draws, **options) - draws


@pytest.mark.parametrize(
    ("kind", "law"),
    [
        (Repeats, "the seed repeats x"),
        (Wide, "generated x has the axes of the data"),
        (Latents, "data are generated"),
        (Grad, "generated x has no gradient"),
        (Flat, "reconstructed x has the axes of the data"),
        (Few, "more draws do not lower the bound"),
    ],
)
def test_a_model_that_breaks_a_law_is_told_which(kind, law):
    with pytest.raises(AssertionError) as error:
        check_model(toy(kind), ROWS)
    assert any(line.strip().startswith(law) and "broken" in line for line in str(error.value).splitlines())


def test_losses_that_break_a_law():
    good = toy()
    per_row = KL(good.encode, good.prior) - E(good.encode, log(good.decode))
    with pytest.raises(AssertionError, match="loss is one number.*broken"):
        check_model(toy(encode=good.encode, decode=good.decode, loss=per_row), ROWS)
    frozen = toy()
    for p in frozen.loss.parameters():
        p.data.zero_()
    frozen.encode.net.weight.data.fill_(float("inf"))
    with pytest.raises(AssertionError, match="loss is finite.*broken"):
        check_model(frozen, ROWS)


def test_a_game_keeps_the_laws_too():
    parts = toy()
    first, second = (KL(parts.encode, parts.prior)).mean(), -E(parts.encode, log(parts.decode)).mean()
    game = Game(a=Player(first, [parts.encode]), b=Player(second, [parts.decode]))
    check_model(toy(prior=parts.prior, encode=parts.encode, decode=parts.decode, loss=game), ROWS)
