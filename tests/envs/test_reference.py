"""Floors and references as a command: it adds to what was measured before, and takes ids of other packages."""

import json

from worldformula.envs import reference
from worldformula.envs.returns import Score


def test_scores_are_added_to_those_that_are_there(tmp_path):
    file = tmp_path / "floors.json"
    reference.main(["cartpole", "--episodes", "3", "--out", str(file)])
    first = json.loads(file.read_text())["scores"]["cartpole"]
    assert first["reference"] == {"mean": 500.0, "error": 0.0, "n": 3}
    assert 8 < first["random"]["mean"] < 100
    assert first["seed"] == 0
    reference.main(["MountainCar-v0", "--episodes", "2", "--seed", "4", "--out", str(file)])
    found = json.loads(file.read_text())["scores"]
    assert found["cartpole"] == first
    assert found["MountainCar-v0"]["reference"] is None
    assert found["MountainCar-v0"]["random"] == {"mean": -200.0, "error": 0.0, "n": 2}  # it never gets there
    assert found["MountainCar-v0"]["seed"] == 4
    assert [path.name for path in tmp_path.iterdir()] == ["floors.json"]


def test_small_returns_show_their_digits():
    assert str(Score(-0.4976, 0.01199, 100)) == "-0.498 ± 0.012 (n = 100)"
    assert str(Score(-1228.48, 21.87, 200)) == "-1228.5 ± 21.9 (n = 200)"
    assert str(Score.of([])) == "not known"
