"""What the package says was measured: read, judged by the card of today, and shown by ``worldformula models``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from worldformula import cards
from worldformula.cards import results, run
from worldformula.cli import main
from worldformula.errors import CardError, ConfigError

FOLDER = Path(cards.__file__).parent / results.FOLDER
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
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of cards that may be written."""
    monkeypatch.setattr(results.resources, "files", lambda name: tmp_path.joinpath(*name.split(".")))
    (tmp_path / "pyproject.toml").touch()
    return tmp_path


def test_every_result_is_that_of_a_card_and_of_its_seeds():
    for file in FOLDER.glob("*.json"):
        card = cards.load(file.stem)
        found = results.latest(card)
        assert found is not None, f"{file.name} was measured by another metric"
        written = json.loads(file.read_text(encoding="utf-8"))
        assert tuple(found.values) == tuple(written["card"]["seeds"])
        assert found.passed == written["passed"] or card.threshold != written["card"]["threshold"]


def test_what_is_measured_comes_back_and_todays_threshold_decides(package, capsys):
    card = cards.read("squares", TEXT)
    assert results.latest(card) is None
    assert run.measure(card, json_paths=[results.place("squares")])
    found = results.latest(card)
    assert found.values == {1: 1.0, 2: 4.0}
    assert found.passed
    assert str(found).startswith("PASS squares: square 4 (worst of 2, needed ≤ 4), 20")
    assert not results.latest(replace(card, threshold=2.0)).passed
    assert str(results.latest(replace(card, seeds=(1, 3)))).endswith(", before the card had other seeds")
    assert not str(found).endswith("seeds")
    higher = results.latest(replace(card, threshold=1.0, direction="higher"))
    assert str(higher).startswith("PASS squares: square 1 (worst of 2, needed ≥ 1), 20")
    assert not results.latest(replace(card, metric="negative", threshold=-5.0)).passed
    assert results.latest(replace(card, metric="root")) is None, "what was not measured cannot be judged"
    more = [cards.Condition(metric=name, direction="higher", threshold=-1.5) for name in ("negative", "root")]
    assert not results.latest(replace(card, conditions=(more[0],))).passed
    assert results.latest(replace(card, conditions=(more[1],))) is None, "what was not measured cannot be judged"
    results.place("squares").write_text("{}")
    with pytest.raises(CardError, match="result of squares cannot be read.*worldformula reproduce squares"):
        results.latest(card)


def test_only_a_checkout_is_written(package):
    (package / "pyproject.toml").unlink()
    with pytest.raises(ConfigError, match="checkout of the source"):
        results.place("squares")


def test_record_needs_the_cards_own_seeds(capsys):
    assert main(["reproduce", "vae_digits", "--seeds", "1", "--record"]) == 1
    assert "leave --seeds out" in capsys.readouterr().err


def test_models_shows_paper_file_and_result(capsys):
    assert main(["models", "--kind", "models", "--full"]) == 0
    out = capsys.readouterr().out
    assert "Kingma & Welling 2013" in out
    assert "worldformula/models/vae.py" in out
    assert "PASS vae_digits: iwae" in out or "FAIL vae_digits: iwae" in out
    assert "(worlds" not in out
    assert main(["models", "--kind", "model"]) == 1
    assert "Did you mean 'models'" in capsys.readouterr().err
