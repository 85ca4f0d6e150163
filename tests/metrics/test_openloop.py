"""Open-loop error: against hand-computed values and a loop."""

from __future__ import annotations

import math

import numpy as np
import pytest

from worldformula.errors import ConfigError, ShapeError
from worldformula.metrics.openloop import open_loop_error

RNG = np.random.default_rng(0)


def frames(batch=3, steps=8):
    return RNG.integers(0, 256, (batch, steps, 4, 5, 3), dtype=np.uint8)


def test_against_a_loop_over_frames():
    truth, dream, context = frames(), frames(), 3
    found = open_loop_error(truth, dream, context)
    for k in range(1, 6):
        now = context + k - 1
        model = [np.mean((dream[b, now] / 255 - truth[b, now] / 255) ** 2) for b in range(3)]
        still = [np.mean((truth[b, context - 1] / 255 - truth[b, now] / 255) ** 2) for b in range(3)]
        assert found.model[k - 1] == pytest.approx(np.mean(model))
        assert found.model_error[k - 1] == pytest.approx(np.std(model, ddof=1) / math.sqrt(3))
        assert found.persistence[k - 1] == pytest.approx(np.mean(still))
        assert found.ratio(k) == pytest.approx(np.mean(model) / np.mean(still))
    assert (found.horizon, found.context, found.sequences) == (5, 3, 3)


def test_black_against_white_is_one():
    truth = np.zeros((1, 2, 2, 2, 1), np.uint8)
    assert open_loop_error(truth, truth + 255, 1).model == (1.0,)
    floats = truth.astype(np.float32)
    assert open_loop_error(floats, floats + 0.5, 1).model == (0.25,)


def test_a_perfect_dream_has_no_error_and_context_frames_do_not_count():
    truth = frames()
    dream = truth.copy()
    dream[:, :3] = 0
    assert set(open_loop_error(truth, dream, 3).model) == {0.0}


def test_ratio_where_nothing_moves():
    still = np.zeros((2, 3, 2, 2, 1), np.uint8)
    assert open_loop_error(still, still, 1).ratio(1) == 1.0
    assert open_loop_error(still, still + 9, 1).ratio(2) == math.inf


def test_one_sequence_has_no_standard_error():
    assert all(math.isnan(e) for e in open_loop_error(frames(1), frames(1), 2).model_error)


def test_bad_input_is_refused():
    with pytest.raises(ShapeError, match=r"\(3, 8, 4, 5, 3\).*\(2, 8"):
        open_loop_error(frames(), frames(2), 2)
    with pytest.raises(ShapeError, match="float64"):
        open_loop_error(frames(), frames().astype(float), 2)
    for context in (0, 8):
        with pytest.raises(ConfigError, match=f"got {context}"):
            open_loop_error(frames(), frames(), context)
    with pytest.raises(ConfigError, match="from 1 to 5, got 6"):
        open_loop_error(frames(), frames(), 3).ratio(6)
