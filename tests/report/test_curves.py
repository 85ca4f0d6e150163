"""Charts: points where they belong, round ticks, names that do not overlap."""

from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldformula.charts import Level, Series, line_chart, log_ticks, short, smoothed, ticks


def chart(*series, **options):
    return ET.fromstring(line_chart(series, **options))


def labels(root):
    return {t.text: (float(t.get("x")), float(t.get("y"))) for t in root.iter("text") if t.get("class") == "label"}


def marks(root):
    """Numbers beside the y axis and their pixel rows."""
    return {
        t.text: float(t.get("y")) - 4 for t in root.iter("text") if t.get("text-anchor") == "end" and not t.get("class")
    }


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 9))
def test_ticks_are_round_even_and_inside(low, span, count):
    high = low + span
    found = ticks(low, high, count)
    steps = {round(b - a, 12) for a, b in itertools.pairwise(found)}
    if len(found) > 1 and span > abs(low) * 1e-6:
        step = found[1] - found[0]
        mantissa = step / 10 ** math.floor(math.log10(step) + 1e-9)
        assert min(abs(mantissa - m) for m in (1, 2, 5)) < 1e-3
        assert max(steps) - min(steps) < 1e-3 * step
        assert all(low - 1e-6 * step <= t <= high + 1e-6 * step for t in found)
        assert count / 2.6 <= len(found) <= 2.6 * count + 1


def test_logarithmic_ticks():
    assert log_ticks(0.5, 2000) == [1, 10, 100, 1000]
    assert log_ticks(3, 60) == [5, 10, 20, 50]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (999, "999"),
        (12500, "12.5k"),
        (3.2e6, "3.2M"),
        (-0.00012, "−1.2e−4"),
        (1234.567, "1235"),
        (1e-5, "1e−5"),
    ],
)
def test_short_numbers(value, shown):
    assert short(value) == shown


def test_points_are_where_the_axes_say():
    root = chart(Series("a", [0, 5, 10], [0.0, 50.0, 100.0]), width=600, height=300)
    at = marks(root)
    line = next(p for p in root.iter("path") if p.get("class") == "line").get("d")
    points = np.array(re.findall(r"([\d.]+) ([\d.]+)", line), float)
    assert points[0, 1] == pytest.approx(at["0"], abs=0.2)
    assert points[1, 1] == pytest.approx((at["40"] + at["60"]) / 2, abs=0.2)
    assert points[1, 0] == pytest.approx((points[0, 0] + points[2, 0]) / 2, abs=0.2)
    assert (np.diff(points[:, 1]) < 0).all()


def test_a_logarithmic_axis_spaces_factors_evenly():
    at = marks(chart(Series("", [0, 1, 2], [0.1, 3.0, 1000.0]), log=True))
    assert at["1"] - at["10"] == pytest.approx(at["10"] - at["100"], abs=0.2)


def test_every_point_says_its_numbers():
    root = chart(Series("return", [1000, 20000], [1.0, 2.5], error=[0.1, 0.2], dots=True), x_label="step")
    assert [t.text for t in root.iter("title")][::-1] == ["return 1 ± 0.1 at step 1000", "return 2.5 ± 0.2 at step 20k"]


@pytest.mark.parametrize("width", [364, 860])
def test_names_and_levels_never_overlap_and_stay_inside(width):
    series = [Series(name, [0, 1], [0, 1 + i / 1000]) for i, name in enumerate(["one", "two", "three"])]
    levels = [Level("floor", 0.0), Level("low", 0.001), Level("best", 1.001)]
    found = labels(chart(*series, levels=levels, width=width, height=300))
    assert set(found) == {"one", "two", "three", "floor 0", "low 0.001", "best 1.001"}
    heights = sorted(y for _, y in found.values())
    assert min(b - a for a, b in itertools.pairwise(heights)) > 14
    assert heights[0] > 0
    assert heights[-1] < 300 - 10


def test_levels_are_inside_though_the_lines_are_far_from_them():
    root = chart(Series("a", [0, 1], [1, 2]), levels=[Level("best", 100.0), Level("floor", -50.0)])
    rows = [float(re.search(r" ([\d.]+)H", p.get("d"))[1]) for p in root.iter("path") if p.get("class") == "level"]
    assert all(0 < y < 340 for y in rows)
    assert rows[0] < rows[1]


def test_values_that_are_not_finite_are_left_out():
    broken = chart(Series("a", [0, 1, 2, 3], [1, math.nan, math.inf, 2]))
    whole = chart(Series("a", [0, 3], [1, 2]))
    assert ET.tostring(broken) == ET.tostring(whole)


def test_without_values_the_chart_says_so():
    assert "no values yet" in line_chart([Series("a", [], []), Series("b", [1], [math.nan])])


def test_one_point_and_a_flat_line_are_drawn():
    assert chart(Series("a", [3], [7.0])).find(".//circle[@class='dot']") is not None
    assert "nan" not in line_chart([Series("a", [1, 2], [0.0, 0.0])])


def test_long_series_are_thinned():
    steps = np.arange(100_000)
    shown = line_chart([Series("a", steps, np.sin(steps / 9000))])
    assert len(shown) < 40_000
    assert shown.count("<title>") <= 80


def test_hostile_names_are_escaped():
    evil = "</text><script>alert(1)</script>\"'&"
    shown = line_chart(
        [Series(evil, [0, 1], [0, 1])], levels=[Level(evil, 0.5)], x_label=evil, y_label=evil, title=evil
    )
    assert "<script" not in shown
    ET.fromstring(shown)


def test_smoothing_is_the_mean_of_the_last_values():
    values = np.random.default_rng(0).normal(size=50)
    expected = [values[max(0, i - 6) : i + 1].mean() for i in range(50)]
    assert smoothed(values, 7) == pytest.approx(expected)
    assert smoothed([], 3) == []


def test_the_axis_of_a_single_point_has_its_x_alone() -> None:
    drawn = line_chart([Series("loss", [3], [0.5])], width=800)
    below = re.findall(r'<text x="[\d.]+" y="[\d.]+" text-anchor="middle">([^<]+)</text>', drawn)
    assert below == ["3"]  # and not halves of steps around it, 2.6, 2.8 and so on
    two = re.findall(r'text-anchor="middle">([^<]+)</text>', line_chart([Series("loss", [0, 4], [0.5, 1])], width=800))
    assert {"0", "4"} <= set(two)
