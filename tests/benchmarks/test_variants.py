"""Rows of a comparison are measured once: what a file holds is skipped, and rows of other runs are refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import agents, board_page, variants
from worldformula.cards import demo
from worldformula.errors import ConfigError
from worldformula.training import settings

ROWS = [
    {"name": "as it is", "seed": 0, "return": -200.0, "cpu_seconds": 100.0},
    {"name": "as it is", "seed": 1, "return": -300.0, "cpu_seconds": 140.0},
    {"name": "as it is", "seed": 2, "return": -250.0, "cpu_seconds": 120.0},
    {"name": "resets", "seed": 0, "return": -1200.4, "cpu_seconds": 90.0},
]


def measured(monkeypatch: pytest.MonkeyPatch, most: int = 99) -> list[tuple[tuple[str, ...], int]]:
    """Instead of a training, its settings and seed; as if it were stopped behind so many."""
    asked: list[tuple[tuple[str, ...], int]] = []

    def measure(changes: Any, seed: int, steps: int) -> dict[str, float]:
        if len(asked) == most:
            raise KeyboardInterrupt
        asked.append((tuple(changes), seed))
        return {"return": -100.0 * seed - len(asked), "return_error": 1.0, "updates": steps, "cpu_seconds": 2.0}

    monkeypatch.setattr(variants, "measure", measure)
    return asked


def test_what_a_stopped_command_has_measured_is_not_measured_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["representations", "--only", "barlow", "none", "--seeds", "3", "4", "--json", str(tmp_path / "rows.json")]
    first = measured(monkeypatch, most=3)
    with pytest.raises(KeyboardInterrupt):
        variants.main(given)
    second = measured(monkeypatch)
    variants.main(given)
    assert [(c[0].removeprefix("agent.world.target="), s) for c, s in first + second] == [
        ("barlow", 3), ("none", 3), ("barlow", 4), ("none", 4),
    ]  # fmt: skip
    third = measured(monkeypatch)
    variants.main(given)
    assert not third
    held = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["name"], row["seed"]) for row in held["rows"]] == [
        ("barlow", 3),
        ("none", 3),
        ("barlow", 4),
        ("none", 4),
    ]
    assert held["summary"][0]["returns"] == [-301.0, -403.0]
    # The mean of two draws that lie 102 apart: half of that is its standard error, and t of one degree is 12.706.
    low, high = held["summary"][0]["interval"]
    assert (low, high) == (pytest.approx(-352 - 12.706 * 51, abs=0.1), pytest.approx(-352 + 12.706 * 51, abs=0.1))
    assert "barlow" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="give another --json"):
        variants.main([*given, "--steps", "7"])


@pytest.mark.parametrize("group", variants.GROUPS)
def test_every_change_is_one_of_the_settings_of_the_demo(group: str) -> None:
    plain = demo.config()
    for name, changes in variants.GROUPS[group].items():
        changed = settings.override(plain, list(changes))
        assert (changed == plain) == (name in ("as it is", "reconstruction")), name


def test_the_interval_is_student_s_and_one_seed_has_none() -> None:
    whole, single = variants.summary(ROWS)
    half = 4.302653 * 50 / math.sqrt(3)  # t(.975, 2), the deviation of −200, −250, −300 is 50
    assert whole["seeds"] == [0, 1, 2]
    assert whole["mean"] == -250.0
    assert whole["cpu_seconds"] == 120.0
    assert whole["interval"] == pytest.approx([-250 - half, -250 + half], abs=0.06)
    assert single["interval"] is None
    assert single["mean"] == -1200.4


def test_the_page_shows_every_seed() -> None:
    found = {
        "steps": 6000, "date": "2026-01-02 03:04 UTC", "machine": {"processor": "P", "cores": 2},
        "summary": variants.summary(ROWS),
    }  # fmt: skip
    lines = board_page.ablation("switches", found)
    assert "| as it is | 0, 1, 2 | −200, −300, −250 | −250 (−374.2 to −125.8) | 2.0 |" in lines
    assert "| resets | 0 | −1200 | −1200 | 1.5 |" in lines
    assert lines[-1] == "Measured 2026-01-02 on P, 2 cores, one thread."
    assert any("6,000 environment steps" in line for line in lines)


def test_where_a_longer_run_ended_is_said() -> None:
    rows = [
        {"agent": "a", "seed": 1, "curve": [[0, 0.0, 5.0], [30_000, 60.0, 7.0], [100_000, 1746.0, 762.7]]},
        {"agent": "a", "seed": 2, "curve": [[0, 0.0, 5.0], [30_000, 60.0, 7.0]]},
    ]
    said = board_page.beyond(rows, 30_000)
    assert said == ["`a`, seed 1, went on: 763 after 100 000 steps, 29.1 CPU minutes."]


def test_which_seeds_have_as_many_times_the_floor_as_is_asked() -> None:
    task = replace(agents.TASKS["cartpole_swingup"], steps=300, asked=5, by=("a", "b"))
    rows = [
        {"agent": "a", "seed": 1, "curve": [[300, 60.0, 250.0, 1.0]]},
        {"agent": "a", "seed": 2, "curve": [[150, 60.0, 600.0, 1.0], [300, 90.0, 249.4, 1.0]]},
        {"agent": "a", "seed": 3, "curve": [[150, 60.0, 600.0, 1.0]]},
        {"agent": "b", "seed": 1, "curve": [[300, 60.0, 251.0, 1.0]]},
        {"agent": "c", "seed": 1, "curve": [[300, 60.0, 1.0, 1.0]]},
    ]
    assert board_page.asked(task, 50.0, rows) == (
        "5 times the floor, 250, was asked after these steps: `a` has it on 1 of 2 seeds (seed 2 has 249); `b` has it "
        "on 1 of 1 seeds."
    )


TIME = {"date": "2026-01-02 03:04 UTC", "machine": {"processor": "P", "cores": 2}}


def test_the_page_says_what_an_update_and_a_decision_cost() -> None:
    own = {
        "rows": [8, 32], "weights": 12_345, "update": {"ms": 60.5371, "ratio": 1.793},
        "decision": {"ms": 25.778, "per_second": 38.8},
    }  # fmt: skip
    lines = board_page.costs({**TIME, "agents": {"planet": own}})
    assert "| `planet` | 12,345 | 8 × 32 | 60.54 | 1.79 | 25.78 | 38.8 |" in lines
    assert lines[-1] == "Measured 2026-01-02 on P, 2 cores, one thread."


def test_the_page_says_what_is_saved_without_a_decoder_and_what_is_not_measured() -> None:
    def rows(**ratios: float) -> dict[str, Any]:
        return {name: {"ratio": ratio} for name, ratio in ratios.items()}

    small = {
        "world, a": rows(reconstruction=1, barlow=0.7, none=0.5),
        "update, a": rows(reconstruction=1, barlow=0.9, none=0.8),
    }
    large = {"world, b": rows(reconstruction=1, none=0.4), "update, b": rows(reconstruction=1, none=0.75)}
    lines = board_page.decoders({"1M": {**TIME, "rows": small}, "12M": {**TIME, "rows": large}})
    assert "| what a state has to tell | world, 1M | update, 1M | world, 12M | update, 12M |" in lines
    assert "| barlow | 0.70 | 0.90 | – | – |" in lines
    assert "| none | 0.50 | 0.80 | 0.40 | 0.75 |" in lines
    assert any("it is 0.80 (1M), 0.75 (12M)," in line for line in lines)
