"""Rows of seeds: written when a seed ends, used again while the code is unchanged, whatever ran before."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import sklearn
import torch

from worldformula import cards
from worldformula.cards import rows
from worldformula.cards.run import measure
from worldformula.errors import CardError

ROOT = Path(__file__).parents[2]
TEXT = """
name = "squares"
system = "vae"
claim = "The squares of small numbers stay small."
command = "worldformula reproduce squares"
measure = "tests.cards.entries:logged"
budget_minutes = 1
metric = "square"
direction = "lower"
threshold = 100.0
seeds = [1, 2, 3]
"""


@pytest.fixture
def card():
    return cards.read("squares", TEXT)


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """The seeds that were really measured, in order."""
    log = tmp_path / "log"
    log.touch()
    monkeypatch.setenv("LOGGED", str(log))
    return lambda: [int(line) for line in log.read_text().split()]


def row(folder: Path, seed: int) -> Path:
    return folder / "tests.cards.entries.logged" / f"{seed}.json"


def test_a_killed_card_goes_on_with_the_seeds_that_are_missing(tmp_path, measured):
    code = "from worldformula import cards; from worldformula.cards.run import measure; "
    where = f"json_paths=[{str(tmp_path / 'all.json')!r}], rows={str(tmp_path / 'rows')!r}"
    code += f"measure(cards.read('squares', {TEXT!r}), {where})"
    run = [sys.executable, "-c", code]
    killed = subprocess.run(run, cwd=ROOT, env={**os.environ, "DIES": "1"}, capture_output=True, text=True, check=False)
    assert killed.returncode == -9
    assert measured() == [1, 2, 3]
    assert [row(tmp_path / "rows", seed).is_file() for seed in (1, 2, 3)] == [True, True, False]
    assert not (tmp_path / "all.json").exists()
    went_on = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
    assert went_on.returncode == 0, went_on.stderr
    assert measured() == [1, 2, 3, 3]
    lines = went_on.stdout.splitlines()
    assert lines[1].startswith("  seed 1: square 1, kept from 20")
    assert lines[1].endswith("its code is unchanged")
    assert lines[3].startswith("  seed 3: square 9 in ")
    written = json.loads((tmp_path / "all.json").read_text())
    assert [(r["seed"], r["metrics"]["square"]) for r in written["rows"]] == [(1, 1.0), (2, 4.0), (3, 9.0)]
    assert written["cpu_seconds"] == pytest.approx(sum(r["cpu_seconds"] for r in written["rows"]), abs=0.011)
    assert sorted(p.name for p in row(tmp_path / "rows", 1).parent.iterdir()) == ["1.json", "2.json", "3.json"]


def test_threshold_and_words_may_change_and_rows_are_shared(card, tmp_path, measured, capsys):
    assert measure(card, rows=tmp_path)
    assert not measure(replace(card, name="others", threshold=5.0, claim="Else.", seeds=(2, 3, 4)), rows=tmp_path)
    assert measured() == [1, 2, 3, 4]
    assert "FAIL others: square 16" in capsys.readouterr().out


def test_again_measures_everything(card, tmp_path, measured, capsys):
    measure(card, rows=tmp_path, seeds=[1])
    measure(card, rows=tmp_path, seeds=[1], again=True)
    assert measured() == [1, 1]
    assert "measured again: as asked" in capsys.readouterr().out


def test_a_row_knows_the_version_of_scikit_learn_where_that_was_imported(tmp_path):
    """In processes of their own: what else was imported does not matter when a row is looked for."""
    run = "from worldformula import cards; from worldformula.cards.run import measure; "
    run += f"measure(cards.read('squares', {TEXT!r}), rows={str(tmp_path)!r}, seeds=[1])"
    env = {**os.environ, "LOGGED": str(tmp_path / "log")}
    (tmp_path / "log").touch()
    for code in (f"import sklearn; {run}", run):
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, check=True)
    assert (tmp_path / "log").read_text().split() == ["1"]
    known = json.loads(row(tmp_path, 1).read_text())["versions"]
    assert known["scikit-learn"] == sklearn.__version__
    assert "zuko" not in known


def test_without_a_folder_nothing_is_kept(card, measured, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    measure(card, seeds=[1])
    measure(card, seeds=[1])
    assert measured() == [1, 1]
    assert [p.name for p in tmp_path.iterdir()] == ["log"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda found: found["sources"].update({"tests/cards/entries.py": "0" * 16}), "tests/cards/entries.py changed"),
        (lambda found: found["sources"].update({"worldformula/gone.py": "0" * 16}), "worldformula/gone.py changed"),
        (lambda found: found["versions"].update(torch="2.0"), "versions changed"),
        (lambda found: found["versions"].pop("numpy"), "versions changed"),
        (lambda found: found["versions"].update({"scikit-learn": "0.1"}), "versions changed"),
        (lambda found: found["versions"].update(abacus="1.0"), "versions changed"),
        (lambda found: found["machine"].update(processor="abacus"), "machine changed"),
        (lambda found: found.update(threads=7), "threads changed"),
        (lambda found: found.pop("metrics"), "1.json cannot be read"),
        (lambda found: found["metrics"].update(square=None), "1.json cannot be read"),
        (lambda found: found["metrics"].update(square="1"), "1.json cannot be read"),
        (lambda found: found["metrics"].update(square=True), "1.json cannot be read"),
        (lambda found: found.update(metrics=["square"]), "1.json cannot be read"),
        (lambda found: found.update(seconds="1"), "1.json cannot be read"),
        (lambda found: found.update(date=None), "1.json cannot be read"),
        (lambda found: found.update(seed=True), "1.json cannot be read"),
        (lambda found: found.update(seed=2), "1.json has the seed 2"),
        (lambda found: found.update(sources={}), "it was not measured by tests/cards/entries.py"),
        (lambda found: found["metrics"].pop("square"), "kept without square"),
    ],
)
def test_a_row_of_other_code_is_measured_again_and_said_so(change, why, card, tmp_path, measured, capsys):
    measure(card, rows=tmp_path, seeds=[1, 2])
    found = json.loads(row(tmp_path, 1).read_text())
    change(found)
    row(tmp_path, 1).write_text(json.dumps(found))
    capsys.readouterr()
    measure(card, rows=tmp_path, seeds=[1, 2])
    lines = capsys.readouterr().out.splitlines()
    assert measured() == [1, 2, 1]
    assert "measured again: " in lines[1]
    assert lines[1].endswith(why)
    assert "kept from" in lines[2]
    measure(card, rows=tmp_path, seeds=[1, 2])
    assert measured() == [1, 2, 1], "the new row is kept"


def test_a_seed_counts_once(card, tmp_path, measured):
    """A measurement that stands in the mean five times is no five measurements."""
    with pytest.raises(CardError, match="each seed once, got 2, 3 more than once"):
        measure(card, rows=tmp_path, seeds=[3, 1, 2, 2, 3])
    assert measured() == []


def test_an_example_that_was_measured_is_a_source(card, tmp_path, monkeypatch):
    example = ModuleType("04_own_environment")
    example.__file__ = str(ROOT / "examples" / "04_own_environment.py")
    monkeypatch.setitem(sys.modules, "04_own_environment", example)
    rows.Rows(tmp_path, card).keep(rows.Row(1, {"square": 1.0}, 0.0, 0.0, "now"))
    assert "examples/04_own_environment.py" in json.loads(row(tmp_path, 1).read_text())["sources"]


def test_an_edited_source_counts_and_more_cores_do_not(card, tmp_path, measured):
    measure(card, rows=tmp_path, seeds=[1])
    found = json.loads(row(tmp_path, 1).read_text())
    assert {"tests/cards/entries.py", "worldformula/__init__.py", "worldformula/errors.py"} <= set(found["sources"])
    assert not [p for p in found["sources"] if p.startswith(("worldformula/cli", "worldformula/cards/run"))]
    found["machine"]["cores"] += 1
    row(tmp_path, 1).write_text(json.dumps(found))
    assert rows.Rows(tmp_path, card).find(1)[0] is not None


def test_a_row_without_a_number_that_is_asked_for_is_measured_again(card, tmp_path, measured):
    measure(card, rows=tmp_path, seeds=[1])
    found = json.loads(row(tmp_path, 1).read_text())
    del found["metrics"]["negative"]
    row(tmp_path, 1).write_text(json.dumps(found))
    further = cards.Condition(metric="negative", direction="lower", threshold=0.0)
    assert measure(replace(card, conditions=(further,)), rows=tmp_path, seeds=[1])
    assert measured() == [1, 1]


def test_a_seed_does_not_see_which_ran_before(tmp_path):
    card = cards.read("squares", TEXT.replace("logged", "unseeded"))
    measure(card, seeds=[1, 2], json_paths=[tmp_path / "both"])

    def state():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002

    before = state()
    measure(card, seeds=[2], json_paths=[tmp_path / "alone"])
    assert before == state()
    both, alone = (json.loads((tmp_path / name).read_text())["rows"] for name in ("both", "alone"))
    assert both[1]["metrics"] == alone[0]["metrics"]
    assert both[0]["metrics"]["square"] != both[1]["metrics"]["square"]
