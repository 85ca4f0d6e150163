"""The recorded floors are those that the present data give; a reader may trust the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import floors
from worldformula.data import load

RECORD = json.loads((Path(floors.__file__).parent / "results" / "floors.json").read_text(encoding="utf-8"))


def test_the_record_has_every_floor_of_the_code():
    assert RECORD["command"] == "python -m benchmarks.floors"
    assert RECORD["floors"].keys() == {
        "digits, nats",
        "digits-17, bits/dim",
        "labels, accuracy",
        "FD-32",
        "sprites",
        "rolling, wrong pixels of 96",
        "moving, wrong pixels of 256",
        "rooms, MSE",
        "speech, word accuracy",
        "trimodal, accuracy",
    }


@pytest.mark.parametrize("name", ["digits", "sprites", "rolling", "moving"])
def test_the_record_belongs_to_these_data(name):
    assert RECORD["data"][name] == load(name).digest()


def test_quick_floors_are_as_recorded():
    digits, recorded = load("digits"), RECORD["floors"]
    fresh = {
        "digits, nats": floors.digits_binary(digits, RECORD["seed"]),
        "rolling, wrong pixels of 96": floors.sequences("rolling"),
        "moving, wrong pixels of 256": floors.sequences("moving"),
    }
    for data, values in fresh.items():
        assert recorded[data].keys() == values.keys()
        for name, value in values.items():
            tolerance = 0.15 if "mixture" in name else 1e-3  # EM starts from drawn rows
            assert value == pytest.approx(recorded[data][name], abs=tolerance), name
