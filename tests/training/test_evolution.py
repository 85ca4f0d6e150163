"""CMA-ES with a memory of its own: it finds what can be computed by hand, and goes on as if it had not stopped."""

from __future__ import annotations

import numpy as np
import pytest

from worldformula.errors import CheckpointError, ConfigError, NonFiniteError, ShapeError
from worldformula.training import checkpoint
from worldformula.training.evolution import Evolution
from worldformula.training.seeding import rng_state, seed_everything

TARGET = np.linspace(-2.0, 3.0, 6)


def worths(candidates):
    """−Σ w_i (x_i − target_i)², of very unlike weights: a plain search in all directions alike would crawl."""
    return -(10.0 ** np.arange(6) * (candidates - TARGET) ** 2).sum(1)


def search(seed=0, population=12):
    return Evolution(6, population, 0.5, seed)


def ran(one, generations):
    for _ in range(generations):
        one.tell(worths(one.ask()))
    return one


def test_it_finds_the_best_numbers_of_a_quadratic():
    found = ran(search(), 300)
    assert found.mean == pytest.approx(TARGET, abs=1e-4)
    assert found.generation == 300


@pytest.mark.parametrize("at", [1, 17])
def test_killed_between_generations_it_goes_on_to_the_same_bits(at, tmp_path):
    """The state goes through a checkpoint on the disk, into a search of another process's randomness."""
    whole = ran(search(), 40)
    checkpoint.save(tmp_path, at, ran(search(), at).state())
    seed_everything(99)
    other = search()
    ran(other, 3)  # whatever it did before is forgotten
    other.restore(checkpoint.load_latest(tmp_path).state)
    assert other.generation == at
    ran(other, 40 - at)
    assert (other.mean == whole.mean).all()
    assert (np.stack(other.told) == np.stack(whole.told)).all()
    assert (other.ask() == whole.ask()).all()


def test_killed_after_asking_it_asks_the_same():
    one, other = ran(search(), 5), search()
    asked = one.ask()
    assert (asked == one.ask()).all()
    other.restore(one.state())
    assert (other.ask() == asked).all()


def test_its_randomness_is_its_own():
    seed_everything(4)
    before = rng_state()["numpy"]
    one = ran(search(), 5)
    after = rng_state()["numpy"]
    assert (before[1] == after[1]).all()
    assert before[2] == after[2]
    seed_everything(5)
    assert (ran(search(), 5).mean == one.mean).all()
    assert (ran(search(seed=1), 5).mean != one.mean).all()


def test_what_it_cannot_be_told():
    one = search()
    with pytest.raises(ShapeError, match="worths of 12 candidates, got \\[11\\]"):
        one.tell(np.zeros(11))
    with pytest.raises(NonFiniteError, match="got nan in generation 1"):
        one.tell(np.array([np.nan, *np.zeros(11)]))
    assert one.generation == 0
    with pytest.raises(CheckpointError, match="12 candidates a generation"):
        one.restore(search(population=8).state())
    with pytest.raises(ConfigError, match="population ≥ 4"):
        Evolution(6, 3, 0.5, 0)


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cma", None)
    one = search()
    one.restore({"seed": 0, "told": np.zeros((3, 12))})  # whoever acts with what was found needs no search
    assert one.generation == 3
    with pytest.raises(ConfigError, match=r"\[evolution\]"):
        one.ask()
