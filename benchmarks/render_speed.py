"""Pictures per second of the NumPy renderers, one thread, 32 × 32 pixels: one by one (``render()``) and in batches.

Writes benchmarks/results/render_speed.json.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

from worldformula.envs import ids, make

OUT = Path(__file__).parent / "results" / "render_speed.json"
SIZE, FRAMES, ROUNDS = 32, 2000, 7


def frames_per_second(draw: Callable[[], object], frames: int) -> float:
    """Median over rounds, by processor time: other programs on the machine do not count."""
    rates = []
    for _ in range(ROUNDS):
        start = time.process_time()
        draw()
        rates.append(frames / (time.process_time() - start))
    return float(np.median(rates))


def main() -> None:
    """Measure every environment of the package that can draw many states at once."""
    rates = {}
    for id in ids():
        env = make(id, size=SIZE).unwrapped
        env.reset(seed=0)
        if not hasattr(env, "batch_render") or not hasattr(env, "state"):
            continue
        states = np.repeat(np.asarray(env.state, np.float64)[None], FRAMES, axis=0)
        single = frames_per_second(lambda env=env: [env.render() for _ in range(FRAMES)], FRAMES)
        batched = frames_per_second(lambda env=env, states=states: env.batch_render(states), FRAMES)
        rates[id] = {"render": round(single), "batch_render": round(batched)}
        print(f"{id:20s} render {single:8.0f}/s   batch_render {batched:8.0f}/s")
    record = {
        "command": "python benchmarks/render_speed.py",
        "unit": f"frames of {SIZE} x {SIZE} x 3 per processor second, one thread, median of {ROUNDS} rounds",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, NumPy {np.__version__}",
        "frames_per_second": rates,
    }
    OUT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
