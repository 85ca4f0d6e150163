"""Disk, memory and speed of the memory-mapped replay with 64 × 64 × 3 pictures.

Writes 100 000 rows to real files, samples from them, reads the memory of the process and the blocks of the files, and
deletes them. The disk for a million rows is extrapolated from the bytes per row and the measured blocks beyond them,
and labelled so. Writes benchmarks/results/replay_memory.json.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

from worldformula.data.replay import Replay

OUT = Path(__file__).parent / "results" / "replay_memory.json"
STREAMS, ROWS, MILLION, SLACK = 16, 100_000, 1_000_000, 10_000
BATCH, LENGTH, SAMPLES = 16, 64, 400
FLAG = ((), "bool")
SPEC = {
    "image": ((64, 64, 3), "uint8"),
    "reward": ((), "float32"),
    "is_first": FLAG,
    "is_last": FLAG,
    "is_terminal": FLAG,
    "action": ((6,), "float32"),
}
ROW_BYTES = sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in SPEC.values())


def resident() -> int:
    """Bytes of this process in memory, mapped file pages included (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def fill(replay: Replay, steps: int) -> float:
    """Add ``steps`` rows to every stream; highest resident memory meanwhile."""
    rng, highest = np.random.default_rng(0), 0
    rows = {key: np.zeros((STREAMS, *shape), dtype) for key, (shape, dtype) in SPEC.items() if key != "action"}
    actions = np.zeros((STREAMS, 6), np.float32)
    for step in range(steps):
        rows["image"] = rng.integers(0, 256, rows["image"].shape, np.uint8)
        replay.add(rows, actions)
        if step % 50 == 0:
            highest = max(highest, resident())
    return highest


def measure(directory: Path) -> dict[str, float]:
    """Fill, sample, read the sizes."""
    before = resident()
    replay = Replay(ROWS, SPEC, streams=STREAMS, directory=directory, slack=SLACK)
    empty = sum(file.stat().st_blocks * 512 for file in directory.iterdir())
    highest = fill(replay, ROWS // STREAMS)
    seconds = []
    for _ in range(SAMPLES):
        start = time.perf_counter()
        replay.sample(BATCH, LENGTH)
        seconds.append(time.perf_counter() - start)
        highest = max(highest, resident())
    replay.flush()
    disk = sum(file.stat().st_blocks * 512 for file in directory.iterdir())
    return {
        "rows": len(replay),
        "disk_bytes_before_the_first_row": empty,
        "disk_bytes": disk,
        "bytes_per_row_from_the_shapes": ROW_BYTES,
        "disk_bytes_beyond_the_rows": disk - ROW_BYTES * len(replay),
        "added_memory_bytes_at_most": highest - before,
        "sample_ms_median": 1000 * float(np.median(seconds)),
        "sample_ms_90_percent": 1000 * float(np.quantile(seconds, 0.9)),
    }


def main() -> None:
    """Measure, extrapolate, write."""
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as folder:
        measured = measure(Path(folder))
    beyond = measured["disk_bytes_beyond_the_rows"]  # blocks ahead of each stream's last row: independent of the rows
    record = {
        "command": "python benchmarks/replay_memory.py",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, NumPy {np.__version__}",
        "sequences": f"{BATCH} x {LENGTH} rows of 64 x 64 x 3 pictures",
        "measured": measured,
        "extrapolated_to_a_million_rows": {
            "disk_gb": round((ROW_BYTES * (MILLION + SLACK) + beyond) / 1e9, 2),
            "rows_of_slack_included": SLACK,
            "memory": "as measured: touched pages are given back at a fixed number of bytes, whatever the rows",
        },
    }
    OUT.write_text(json.dumps(record, indent=1) + "\n")
    print(OUT.read_text())


if __name__ == "__main__":
    main()
