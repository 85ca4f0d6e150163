"""How near a card was: distances in deviations, against numbers by hand and SciPy."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from benchmarks.margins import COUNTED, Margin, margins, passage
from worldformula import cards
from worldformula.cards import results
from worldformula.cards.condition import Condition


def margin(values, direction="higher", threshold=0.0, verdict="every"):
    condition = Condition(metric="gain", direction=direction, threshold=threshold, verdict=verdict)
    return Margin("card", condition, tuple(values))


def test_a_distance_is_in_deviations_of_one_seed():
    assert margin([1.0, 2.0, 3.0], threshold=0.5).distance == pytest.approx(1.5)
    assert margin([1.0, 2.0, 3.0], "lower", 0.5).distance == pytest.approx(-1.5)
    assert margin([2.0, 2.0], threshold=1.0).distance == math.inf
    assert margin([2.0, 2.0], "lower", threshold=1.0).distance == -math.inf


def test_what_is_asked_is_the_prediction_of_another_seed():
    assert margin([1.0, 2.0, 3.0]).asked == pytest.approx(stats.t.ppf(0.95, 2) * math.sqrt(4 / 3), rel=1e-6)


@pytest.mark.parametrize(
    ("values", "options", "reading"),
    [
        ([1.0, 1.1, 1.2], {}, "stands"),
        ([0.1, 0.5, 1.0], {}, "**within the noise**"),
        ([-0.1, 0.5, 1.0], {}, "FAIL"),
        ([3.0, 3.0, 3.0], {"threshold": 3.0}, "all seeds alike: hides its noise"),
        ([-0.1, 0.5, 0.6, 0.5, 0.6], {"verdict": "interval"}, "decided by its interval"),
        ([-0.6, 0.5, 0.6, 0.5, 0.6], {"verdict": "interval"}, "decided by its interval: FAIL"),
    ],
)
def test_the_reading(values, options, reading):
    assert margin(values, **options).reading == reading


def test_the_passage_has_a_row_for_every_recorded_number():
    rows = [line for line in passage() if line.startswith("| `")]
    assert len(rows) == len(margins()) > 40
    assert all(line.count("|") == 9 for line in rows)


@pytest.mark.parametrize("name", COUNTED)
def test_the_statements_are_those_that_the_card_counts(name):
    """What is read here of every recorded row is what the measurement counted, and each statement can be refuted."""
    card, statements = cards.load(name), COUNTED[name]
    found = results.latest(card)
    for row in found.rows.values():
        held = [one.condition.passes(one.of(row)) for one in statements]
        counted = row[card.metric] >= card.threshold
        assert all(held) == counted
        for one in statements:
            assert not one.condition.passes(math.nan)
    shown = [line for line in passage() if line.startswith(f"| `{name}`")]
    assert len(shown) == len(statements)
