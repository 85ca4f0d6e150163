"""Every example runs as it stands, is short, and reaches what it shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


def run(path: Path) -> str:
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_an_example_is_short_and_numbered(path: Path) -> None:
    assert re.match(r"\d\d_\w+\.py", path.name)
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 80


@pytest.mark.slow
def test_the_vae_beats_one_bernoulli_per_pixel() -> None:
    shown = re.findall(r"epoch +\d+: ([\d.]+) nats", run(EXAMPLES[0]))
    assert len(shown) == 4
    assert float(shown[-1]) < 21.0 < 25.24  # one Bernoulli per pixel has 25.24, see cards/vae_digits.toml


def test_the_planner_reaches_the_goal() -> None:
    x, y = re.findall(r"at \(([+-][\d.]+), ([+-][\d.]+)\)", run(EXAMPLES[1]))[-1]
    assert abs(float(x) - 0.8) < 0.1
    assert abs(float(y) + 0.4) < 0.1


@pytest.mark.slow
def test_the_dream_goes_on_with_the_melody() -> None:
    shown = run(EXAMPLES[2])
    assert float(re.findall(r"right: ([\d.]+)", shown)[-1]) > 0.9  # by chance 0.125
    assert "flat(self.p_z_given_z_past(" in shown


@pytest.mark.slow
def test_the_environment_has_a_best_return_that_random_play_is_far_from() -> None:
    best, floor = re.findall(r"by rule (\d+), at random ([\d.]+)", run(EXAMPLES[3]))[0]
    assert int(best) == 12
    assert 1 < float(floor) < 3
