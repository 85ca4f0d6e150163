"""Early stopping keeps the best weights, on a fit whose best step is known."""

import pytest
import torch

from worldformula import Data, E, Normal, log
from worldformula.errors import ConfigError
from worldformula.training.early import Best, held_out
from worldformula.training.fit import fit


def model():
    loc = torch.nn.Parameter(torch.zeros(1))
    return loc, E(Data("p_data(x)", shape=1), -log(Normal("p(x)", loc=loc, scale=1.0, shape=1))).mean()


def test_the_best_weights_are_put_back():
    """The mean walks from 0 towards 5; held-out data lie at 1, so it is best on the way."""
    loc, loss = model()
    best = Best(loss, lambda: float(loss(x=torch.ones(4, 1)).value), every=1)
    fit(loss, {"x": torch.full((8, 1), 5.0)}, steps=60, batch=8, lr=0.1, callback=best)
    assert loc.item() > 2
    assert best.restore() == best.value
    assert loc.item() == pytest.approx(1.0, abs=0.06)
    assert 5 < best.step < 20
    assert loss.training


def test_patience_ends_the_fit():
    loc, loss = model()
    best = Best(loss, lambda: float(loss(x=torch.ones(4, 1)).value), every=1, patience=3)
    fit(loss, {"x": torch.full((8, 1), 5.0)}, steps=60, batch=8, lr=0.1, callback=best)
    assert loc.item() < 1.5


def test_a_split_has_every_row_once():
    rest, held = held_out(20, 0.25, seed=3)
    assert len(held) == 5
    assert sorted([*rest.tolist(), *held.tolist()]) == list(range(20))
    assert torch.equal(held, held_out(20, 0.25, seed=3)[1])


def test_wrong_settings_are_told():
    _, loss = model()
    with pytest.raises(ConfigError, match="every ≥ 1"):
        Best(loss, lambda: 0.0, every=0)
    with pytest.raises(ConfigError, match="nothing was measured"):
        Best(loss, lambda: 0.0).restore()
    with pytest.raises(ConfigError, match="between 0 and 1"):
        held_out(10, 1.0)
