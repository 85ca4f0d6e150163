"""What decides in the cards of MVTCAE, GQN and turned sprites, on numbers and models that are known."""

import math

import pytest
import torch

from worldformula import cards
from worldformula.cards import gqn_rooms, turned_sprites
from worldformula.cards.mvtcae_digits import margin
from worldformula.cards.turned_sprites import excess
from worldformula.model.config import start

COHERENT = {"mvtcae_1": 0.78, "mvtcae_2": 0.94, "mvae_1": 0.45, "mmvae_nats": 20.5, "mvtcae_nats": 15.7}


@pytest.mark.parametrize(
    ("change", "kept"),
    [({}, 0.13), ({"mvtcae_2": 0.8}, -0.01), ({"mvae_1": 0.7}, -0.02), ({"mvtcae_nats": 21.0}, -0.5)],
)
def test_margin_is_the_condition_of_mvtcae_that_is_kept_least(change, kept):
    assert margin(COHERENT | change) == pytest.approx(kept, abs=1e-6)


def test_a_picture_of_the_grey_levels_costs_nothing_and_a_blind_one_their_information():
    x = torch.full((5, 4), 0.25)
    assert excess(x, x) == pytest.approx(0.0, abs=1e-6)
    own = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert excess(x, torch.full((5, 4), 0.5)) == pytest.approx(4 * (math.log(2.0) - own), abs=1e-5)


@pytest.mark.parametrize("name", ["vae", "beta", "tc", "factor"])
def test_the_models_of_turned_sprites_train_by_their_presets(name, monkeypatch):
    seen = {}
    monkeypatch.setattr(turned_sprites, "fit", lambda loss, data, **how: seen.update(how))
    model = turned_sprites.fitted(name, torch.rand(6, 1024), 3)
    config = start("factor_vae" if name == "factor" else "beta_tcvae", "turned", "turned-sprites")
    assert (seen["seed"], seen["steps"]) == (3, config.fit.steps)
    assert seen["batch"] == config.fit.batch == (128 if name == "factor" else 64)
    assert sorted(tuple(p.shape) for p in model.decode.parameters()) == sorted(
        [(128, 10), (128,), (128, 128), (128,), (1024, 128), (1024,)]
    )
    last = seen["symbols"]["gamma" if name == "factor" else "beta"]
    assert last(2499) == {"vae": 1.0, "beta": 6.0, "tc": 6.0, "factor": 10.0}[name]


@pytest.mark.parametrize(
    ("mse_5", "kl", "left", "fall", "passed"),
    [
        (0.01, (30, 20, 16, 15), 0.4, 1, True),
        (0.01, (30, 20, 20.5, 15), 0.4, -0.5, False),
        (0.02, (30, 20, 16, 15), 0.8, 1, False),
    ],
)
def test_what_views_are_worth_by_hand(mse_5, kl, left, fall, passed):
    found = {"mse_0": 0.025, "mse_5": mse_5, "mean_image": 0.022, "algebra_colour": 0.9, "order": 0.0}
    found |= {f"kl_{count}": nats for count, nats in zip((0, 1, 2, 5), kl, strict=True)}
    margins = gqn_rooms.margins(found)
    assert margins == pytest.approx({"left": left, "saved": 0.022 - mse_5, "fall": fall})
    assert cards.load("gqn_rooms").holds([found | margins] * 5) == passed
