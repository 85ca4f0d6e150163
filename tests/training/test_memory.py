"""What commands ask of malloc: memory that tensors free stays with the process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from worldformula.training import devices
kept = devices.keep_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(12_000_000)  # 48 MB, more than glibc keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(int(kept), faults())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_freed_tensors_are_kept_unless_the_user_said_otherwise() -> None:
    plain = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    found = {}
    for name, more in {"ours": {}, "the user's": {"MALLOC_ARENA_MAX": "2"}}.items():
        out = subprocess.run(
            [sys.executable, "-c", FAULTS], env=plain | more, capture_output=True, text=True, check=True
        )
        kept, faults = map(int, out.stdout.split())
        found[name] = (bool(kept), faults)
    assert found["ours"][0]
    assert not found["the user's"][0]
    assert found["ours"][1] < found["the user's"][1] / 4
