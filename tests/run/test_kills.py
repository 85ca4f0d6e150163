"""DreamerV3 killed once from outside at a random moment; `benchmarks.kills` does it twenty times, and to every task.

A kill each of an agent at random moments, of fits, worlds and chains at chosen ones: `test_interact`,
`tests/cli/test_fit_command`, `tests/cli/test_worlds`, `test_run`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not hasattr(os, "fork"), reason="uses fork")
def test_dreamer_from_vectors_and_from_pixels_ends_with_the_same_bits() -> None:
    command = [sys.executable, "-m", "benchmarks.kills", "--kills", "1", "--only", "agent", "--only", "pixels"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "agent: 1 kills, 0 differences" in done.stdout
    assert "pixels: 1 kills, 0 differences" in done.stdout
