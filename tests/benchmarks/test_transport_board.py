"""The page of transport says what the cards have recorded."""

from __future__ import annotations

import json
import statistics

from benchmarks import transport_board as board
from worldformula.cards import results


def test_the_page_is_up_to_date():
    assert board.PAGE.read_text(encoding="utf-8") == board.text()


def test_a_cell_is_the_mean_of_the_seeds_and_the_deviation_of_one():
    rows = json.loads(results.place("transport_digits").read_text(encoding="utf-8"))["rows"]
    found = [row["metrics"]["shortcut_4"] for row in rows]
    wanted = f"{statistics.mean(found):.3g} ± {statistics.stdev(found):.1g}"
    (line,) = [line for line in board.text().splitlines() if line.startswith("| shortcut") and "84" in line]
    assert line.split(" | ")[3] == wanted
    assert board.cell([{}], "nothing") == "–"


def test_pictures_lie_beside_the_page(tmp_path):
    board.write(tmp_path / "transport.md")
    for name in ("plane", "digits"):
        assert (tmp_path / board.PICTURES / f"{name}.svg").read_text(encoding="utf-8") == (
            board.PAGE.parent / board.PICTURES / f"{name}.svg"
        ).read_text(encoding="utf-8")
