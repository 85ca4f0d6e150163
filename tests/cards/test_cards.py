"""Reading a card, deciding, and the lines and files that a measurement leaves."""

import json
import math
from dataclasses import replace

import pytest
import torch

from worldformula import cards
from worldformula.cards.run import measure, reproduce, write_json
from worldformula.errors import CardError, CatalogueError

TEXT = """
name = "squares"
system = "vae"
claim = "The squares of small numbers stay small."
command = "worldformula reproduce squares"
measure = "tests.cards.entries:square"
budget_minutes = 1
metric = "square"
direction = "lower"
threshold = 4.0
seeds = [1, 2]
floor = 9
unit = "units"
"""


@pytest.fixture
def card():
    return cards.read("squares", TEXT)


def test_a_card_is_read_with_its_types(card):
    assert card.seeds == (1, 2)
    assert card.floor == 9.0
    assert isinstance(card.floor, float)
    assert card.published is None


def test_a_card_may_measure_several_systems(card):
    several = cards.read("squares", TEXT + 'also = ["iwae"]')
    assert several.covers("vae")
    assert several.covers("iwae")
    assert not several.covers("gan")
    assert not card.covers("iwae")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('metric = "square"', 'metrik = "square"', "no field is called 'metrik'. Did you mean 'metric'?"),
        ('metric = "square"', "", "missing metric"),
        ("threshold = 4.0", 'threshold = "4"', "threshold = '4', expected a number"),
        ("seeds = [1, 2]", "seeds = [1, 2.5]", "expected a list of whole numbers"),
        ("seeds = [1, 2]", "seeds = []", "expected at least one"),
        ('"lower"', '"down"', "direction = 'down', expected 'lower' or 'higher'"),
        ("floor = 9", "threads = 0", "threads = 0, expected at least 1"),
        ("floor = 9", "threads = 1.5", "threads = 1.5, expected a whole number"),
        ("floor = 9", "floor = 3", "floor = 3.0 already passes the threshold 4.0"),
        ("floor = 9", "ceiling = 9", "ceiling = 9.0 does not reach the threshold 4.0"),
        ("seeds = [1, 2]", "seeds = [1, 1]", "a seed stands twice"),
        ("floor = 9", 'verdict = "mean"', "verdict = 'mean', expected 'every' or 'interval'"),
        ("floor = 9", 'verdict = "interval"', "'interval' expects 5 seeds or more, got 2"),
        ("floor = 9", "conditions = 3", "conditions = 3, expected a list of tables with metric, direction"),
        ("floor = 9", 'conditions = [{metric = "negative"}]', "conditions have metric, direction, threshold, verdict"),
        (
            "floor = 9",
            'conditions = [{metric = "negative", direction = "higher", threshold = "0"}]',
            "threshold = '0', expected a number",
        ),
        (
            "floor = 9",
            'conditions = [{metric = "negative", direction = "up", threshold = 0}]',
            "direction = 'up', expected 'lower' or 'higher'",
        ),
        ("floor = 9", "also = [1]", "also = [1], expected a list of texts"),
        ('"squares"', '"circles"', "name = 'circles', expected the name of the file"),
        (":square", ".square", "expected 'package.module:function'"),
        ("threshold = 4.0", "threshold = ", "expected TOML"),
    ],
)
def test_a_wrong_card_says_what_is_wrong(old, new, message):
    with pytest.raises(CardError) as error:
        cards.read("squares", TEXT.replace(old, new, 1))
    assert message in str(error.value)


def test_the_last_line_passes_and_shows_everything(card, capsys, tmp_path):
    path = tmp_path / "deep" / "squares.json"
    assert measure(replace(card, notes="Pilots: see below."), json_paths=[path])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith(
        "PASS squares: square 4 units (worst of 2, needed ≤ 4) | floor 9 | ceiling – | published – | "
    )
    assert measure(card, quiet=True)
    quiet = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in quiet[:2]] == ["seed", "1"], "the table and the verdict"
    assert quiet[-1].startswith("PASS squares: square 4 units")
    assert not any("squares (" in line or " in 0" in line for line in quiet[:-1])
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written["passed"]
    assert [row["metrics"]["square"] for row in written["rows"]] == [1.0, 4.0]
    assert {"date", "machine", "versions", "card"} <= set(written)
    assert written["card"]["threshold"] == 4.0
    assert "notes" not in written["card"], "a copy of them is older than what they say of this result"
    assert [p.name for p in path.parent.iterdir()] == ["squares.json"], "no part of a file is left behind"


def test_one_bad_seed_fails_the_card(card, capsys):
    assert not measure(card, seeds=[1, 3, 2])
    assert capsys.readouterr().out.splitlines()[-1].startswith("FAIL squares: square 9 units (worst of 3")


def test_the_value_that_decides_is_the_farthest_of_those_that_fail(card):
    assert card.worst([1.0, 9.0, 16.0]) == 16.0
    assert replace(card, direction="higher").worst([-1.0, -3.0, -2.0]) == -3.0
    assert math.isnan(card.worst([1.0, math.nan, 16.0]))


def test_higher_is_better_turns_the_sign(card, capsys):
    assert not measure(replace(card, direction="higher", metric="negative", threshold=-1.0))
    assert "needed ≥ -1" in capsys.readouterr().out.splitlines()[-1]


def test_threads_are_the_cards_during_the_measurement_only(card):
    before = torch.get_num_threads()
    assert not measure(replace(card, measure="tests.cards.entries:threads", metric="threads", threads=before + 4))
    assert measure(replace(card, measure="tests.cards.entries:threads", metric="threads", threads=1))
    assert torch.get_num_threads() == before


def test_nan_fails(card, capsys):
    assert not measure(replace(card, measure="tests.cards.entries:nothing"))
    assert "square nan" in capsys.readouterr().out.splitlines()[-1]


def test_missing_metric_entry_card_and_seeds(card):
    with pytest.raises(CardError, match="returned square, negative, not 'sqare'. Did you mean 'square'"):
        measure(replace(card, metric="sqare"))
    with pytest.raises(CardError, match="cannot be imported"):
        measure(replace(card, measure="tests.cards.entries:cube"))
    with pytest.raises(CardError, match="at least one seed"):
        measure(card, seeds=[])
    with pytest.raises(CatalogueError, match="no card is called 'vae_digit'. Did you mean 'vae_digits'"):
        reproduce("vae_digit")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"value": 1})
    with pytest.raises(TypeError):
        write_json(path, {"value": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"value": 1}


FURTHER = 'conditions = [{metric = "negative", direction = "higher", threshold = -2.0}]'


def test_further_conditions_must_hold_too(capsys):
    card = cards.read("squares", f"{TEXT}\n{FURTHER}")
    assert measure(card)
    assert "holds: negative -2 (worst of 2, needed ≥ -2)" in capsys.readouterr().out
    assert not measure(replace(card, threshold=9.0), seeds=[1, 3])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "  fails: negative -3 (worst of 2, needed ≥ -2)"
    assert lines[-1].startswith("FAIL squares: square 9 units (worst of 2, needed ≤ 9)")
    with pytest.raises(CardError, match="not 'negativ'. Did you mean 'negative'"):
        measure(replace(card, conditions=(replace(card.conditions[0], metric="negativ"),)))


def test_an_interval_decides_by_its_end_and_not_by_the_worst_seed(card, capsys):
    averaged = replace(card, verdict="interval", metric="negative", direction="higher", threshold=-5.0)
    assert measure(averaged, seeds=[1, 2, 3, 4, 5])  # mean -3, deviation 1.581, t 2.776: from -4.963
    assert (
        capsys.readouterr()
        .out.splitlines()[-1]
        .startswith("PASS squares: negative -3 units (mean of 5, 95 % interval from -4.963, needed ≥ -5)")
    )
    assert not measure(replace(averaged, threshold=-4.9), seeds=[1, 2, 3, 4, 5])
    assert not measure(averaged, seeds=[1, 2, 3, 4]), "four seeds have no interval"
    assert "too few for an interval" in capsys.readouterr().out
