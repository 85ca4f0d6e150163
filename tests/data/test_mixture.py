"""Draws by priority and by recency: frequencies by NumPy, and bit for bit after a checkpoint."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from tests.data.test_replay import SPEC, fill
from worldformula.data.mixture import Mixture, newest
from worldformula.data.replay import Replay
from worldformula.errors import ConfigError, ReplayError

DRAWS = 4000


def replay(mixture: Mixture | None, rows: int = 30, **more: Any) -> Replay:
    made = Replay(2 * rows, SPEC, streams=2, seed=3, mixture=mixture, **more)
    fill(made, 0, rows)
    return made


def drawn(made: Replay, length: int = 4) -> np.ndarray:
    """How often each start, ``[streams, starts]``, was drawn of many."""
    place = made.sample(DRAWS, length)["place"][:, 0].astype(int)
    counts = np.zeros((2, len(made) // 2 - length + 1))
    np.add.at(counts, (place[:, 0], place[:, 1]), 1)
    return counts


def close(counts: np.ndarray, share: np.ndarray) -> None:
    """Every count within five deviations of a binomial."""
    assert share.sum() == pytest.approx(1)
    spread = np.sqrt(DRAWS * share * (1 - share)) + 1
    assert (np.abs(counts - DRAWS * share) < 5 * spread).all()


def test_a_priority_is_a_term_of_visits_and_one_of_the_loss() -> None:
    made = replay(Mixture(priority=1.0))
    stream = np.array([0, 1])
    row = np.array([[3, 4, 5], [4, 5, 6]])
    loss = np.array([[1.0, -2.0, 0.0], [5.0, 6.0, 7.0]], np.float32)
    for _ in range(2):
        made.reviewed({"stream": stream, "row": row}, loss)
    wanted = np.full((2, 30), 1e5)
    wanted[0, 3:6] = 1e4 * 0.7**2 + (np.array([1.0, 2.0, 0.0]) + 0.01) ** 0.7
    wanted[1, 4:7] = 1e4 * 0.7**2 + (np.array([5.0, 6.0, 7.0]) + 0.01) ** 0.7
    np.testing.assert_allclose(made.priorities.value, wanted, rtol=1e-12)
    twice = np.array([[9, 9]])
    made.reviewed({"stream": stream[:1], "row": twice}, np.array([[1.0, 3.0]]))
    assert made.priorities.visits[0, 9] == 2
    assert made.priorities.value[0, 9] == pytest.approx(1e4 * 0.49 + 3.01**0.7)


def test_starts_are_drawn_in_proportion_to_the_priority_of_their_first_row() -> None:
    made = replay(Mixture(priority=1.0, c=0.0, alpha=1.0, epsilon=1e-6))
    rng = np.random.default_rng(0)
    loss = rng.exponential(size=(2, 30)).astype(np.float32)
    made.reviewed({"stream": np.arange(2), "row": np.tile(np.arange(30), (2, 1))}, loss)
    share = np.abs(loss[:, :27]) + 1e-6
    close(drawn(made), share / share.sum())


def test_a_context_row_is_not_the_first_one() -> None:
    made = Replay(60, SPEC, streams=2, seed=3, mixture=Mixture(priority=1.0), latents={"h": (1,)})
    from tests.data.test_replay import row

    for time in range(30):
        made.add(*row(time), {"h": np.zeros((2, 1), np.float32)})
    everywhere = {"stream": np.arange(2), "row": np.tile(np.arange(30), (2, 1))}
    loss = np.zeros((2, 30), np.float32)
    for _ in range(200):
        made.reviewed(everywhere, loss)
    made.priorities.value[1, 7] = 1e9
    batch = made.sample(20, 4, context=1)
    assert (batch["row"][:, 0] == 7).all()
    assert (batch["stream"] == 1).all()
    assert (batch["place"][:, 0] == [1, 7]).all()


def test_the_newest_starts_are_drawn_by_the_inverse_of_their_age() -> None:
    share = np.tile(1 / np.arange(27, 0, -1) ** 0.5, (2, 1))
    close(drawn(replay(Mixture(recent=1.0, exponent=0.5))), share / share.sum())
    counts = np.bincount(newest(np.random.default_rng(0), 20_000, 3, 5, 1.0)[1], minlength=5) / 20_000
    np.testing.assert_allclose(counts, (1 / np.arange(5, 0, -1)) / (137 / 60), atol=0.02)


def test_what_is_left_of_the_shares_is_drawn_evenly() -> None:
    made = replay(Mixture(priority=0.25, recent=0.25, exponent=2.0))
    made.priorities.value[:] = 1e-9
    made.priorities.value[0, 2] = 1.0
    recent = np.tile(1 / np.arange(27, 0, -1) ** 2.0, (2, 1))
    share = 0.25 * recent / recent.sum() + 0.5 / 54
    share[0, 2] += 0.25
    close(drawn(made), share / share.sum())


def test_switched_off_the_draws_are_those_of_one_call_of_the_generator() -> None:
    made, rng = replay(None), np.random.default_rng(3)
    batch = made.sample(50, 4)
    stream, start = np.divmod(rng.integers(27 * 2, size=50), 27)
    np.testing.assert_array_equal(batch["place"][:, 0], np.stack([stream, start], 1))
    assert made.priorities is None
    assert "stream" not in batch
    assert "priorities" not in made.state()
    made.reviewed(batch, None)


def test_rows_that_take_the_place_of_old_ones_are_new() -> None:
    made = replay(Mixture(priority=1.0))
    everywhere = {"stream": np.arange(2), "row": np.tile(np.arange(30), (2, 1))}
    made.reviewed(everywhere, np.ones((2, 30)))
    fill(made, 30, 33)
    assert (made.priorities.value[:, :3] == 1e5).all()
    assert (made.priorities.visits[:, :3] == 0).all()
    before = made.priorities.value.copy()
    made.reviewed(everywhere, np.ones((2, 30)))  # of a batch that was drawn before: three of its rows are gone
    assert (made.priorities.value[:, :3] == before[:, :3]).all()
    assert (made.priorities.visits[:, 3:] == 2).all()


@pytest.mark.parametrize("place", ["memory", "files"])
def test_after_a_checkpoint_it_draws_on_to_the_same_rows(place: str, tmp_path: Any) -> None:
    where = {} if place == "memory" else {"directory": tmp_path / "replay", "slack": 80}
    mixture = Mixture(priority=0.6, recent=0.2)

    def on(made: Replay, start: int) -> list[np.ndarray]:
        found = []
        for time in range(start, start + 5):
            fill(made, time, time + 1)
            batch = made.sample(6, 4)
            found.append(batch["place"])
            made.reviewed(batch, batch["place"][..., 1] % 7)
        return found

    made = replay(mixture, **where)
    on(made, 30)
    made.flush()
    state = copy.deepcopy(made.state())
    made.checkpointed()
    wanted = on(made, 35)
    again = Replay(60, SPEC, streams=2, seed=8, mixture=mixture, **where)
    again.restore(state)
    for one, other in zip(on(again, 35), wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(again.priorities.value, made.priorities.value)


def test_priorities_may_be_new_and_may_be_given_up() -> None:
    plain, curious = replay(None), replay(Mixture(priority=1.0))
    curious.reviewed({"stream": np.arange(2), "row": np.tile(np.arange(30), (2, 1))}, np.ones((2, 30)))
    begun, over = replay(Mixture(priority=1.0)), replay(None)
    begun.restore(plain.state())
    over.restore(curious.state())
    assert (begun.priorities.value[:, :30] == 1e5).all(), "no row was trained on"
    assert (over.sample(6, 4)["place"] == plain.sample(6, 4)["place"]).all()


def test_impossible_shares_and_losses_are_refused() -> None:
    for wrong in ({"priority": -0.1}, {"priority": 0.6, "recent": 0.5}, {"beta": 2.0}, {"epsilon": 0.0}):
        with pytest.raises(ConfigError, match="expected"):
            Mixture(**wrong)
    made = replay(Mixture(priority=1.0))
    batch = made.sample(2, 4)
    with pytest.raises(ReplayError, match=r"expected a loss of every row, \(2, 4\), got \(2, 3\)"):
        made.reviewed(batch, np.ones((2, 3)))
    with pytest.raises(ReplayError, match="`surprise` is the world's loss"):
        made.reviewed(batch, None)
