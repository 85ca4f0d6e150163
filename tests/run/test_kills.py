"""Agents killed once from outside at a random moment; `benchmarks.kills` does it twenty times, and to every task.

A kill each of an agent at random moments, of fits, worlds and chains at chosen ones: `test_interact`,
`tests/cli/test_fit_command`, `tests/cli/test_worlds`, `test_run`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="uses fork")
def test_agents_from_vectors_and_from_pixels_end_with_the_same_bits() -> None:
    subjects = (
        "agent",
        "pixels",
        "planet",
        "dreamer_v1",
        "dreamer_v2",
        "tdmpc2",
        "thick_dreamer",
        "dynalang",
        "world_models",
    )
    only = [word for name in subjects for word in ("--only", name)]
    command = [sys.executable, "-m", "benchmarks.kills", "--kills", "1", *only]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout + done.stderr
    for name in subjects:
        assert f"{name}: 1 kills, 0 differences" in done.stdout
