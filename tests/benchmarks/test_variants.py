"""The table of one changed setting after another: intervals and cells against arithmetic by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from benchmarks import board_page, variants
from worldformula.errors import ConfigError

ROWS = [
    {"name": "as it is", "seed": 0, "return": -200.0, "cpu_seconds": 100.0},
    {"name": "as it is", "seed": 1, "return": -300.0, "cpu_seconds": 140.0},
    {"name": "as it is", "seed": 2, "return": -250.0, "cpu_seconds": 120.0},
    {"name": "resets", "seed": 0, "return": -1200.4, "cpu_seconds": 90.0},
]


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


def test_rows_of_other_runs_are_not_mixed(tmp_path: Any) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"steps": 6000, "rows": ROWS}), encoding="utf-8")
    assert variants.kept(path, {"steps": 6000}) == ROWS
    with pytest.raises(ConfigError, match="holds rows of"):
        variants.kept(path, {"steps": 3000})


@pytest.mark.parametrize("group", variants.GROUPS)
def test_every_change_is_a_setting_of_the_agent(group: str) -> None:
    from worldformula.cards import demo
    from worldformula.training import settings

    plain = demo.config(variants.STEPS, 0)
    for name, changes in variants.GROUPS[group].items():
        changed = settings.override(plain, list(changes))
        first = next(iter(variants.GROUPS[group]))
        assert (changed == plain) == (name == first), name
