"""Installs every extra and makes one environment of it: ``python -m tests.extras [NAME …]``. Minutes; needs an index.

Each extra gets a virtual environment of its own, with the pins of constraints.txt and a plain installation of the core
behind it. What an extra forgets to bring shows here and nowhere else. ``TORCH_INDEX="--index-url …"`` says where torch
comes from.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PLAY = """
import numpy as np
from worldformula.envs import Envs
for given, options in {made!r}:
    envs = Envs(given, 2, seed=0, **options)
    rng, rows, score = np.random.default_rng(0), envs.reset(0), 0.0
    for _ in range(20):
        rows = envs.step(envs.random(rng, rows))
        score += float(rows["reward"].sum())
    shapes = {{key: (tuple(c.shape), c.dtype) for key, c in envs.observations.items()}}
    envs.close()
    print(given, options, shapes, f"20 steps of 2 streams, reward {{score:.3g}}")
"""
PICTURES = {"pixels": True, "size": 64}
MADE = {
    "envs": [("CartPole-v1", {}), ("MiniGrid-Empty-5x5-v0", {"keys": ("image", "direction")}),
             ("MiniGrid-DoorKey-5x5-v0", PICTURES)],
    "box2d": [("LunarLander-v3", {})],
    "atari": [("ALE/Pong-v5", {})],
    "control": [("HalfCheetah-v5", {}), ("InvertedPendulum-v5", PICTURES)],
    "dmc": [("dm_control/walker-walk-v0", {"action_repeat": 2}), ("dm_control/cartpole-balance-v0", PICTURES)],
    "crafter": [("crafter/Crafter-v1", {})],
    "popgym": [("popgym-AutoencodeEasy-v0", {}), ("popgym-RepeatFirstEasy-v0", {})],
}  # fmt: skip
USED = {
    "eval": "import sklearn.datasets; print(sklearn.datasets.load_digits().images.shape)",
    "track": "import torch.utils.tensorboard",
    "flows": "import zuko; print(zuko.flows.NSF(2).__class__.__name__)",
    "evolution": "import cma; print(cma.fmin2(cma.ff.sphere, [1, 1], 0.3, {'verbose': -9})[0])",
    "data": "import datasets; print(datasets.Dataset.from_dict({'x': [1, 2]}).num_rows)",
    "bench": "import pixyz, pyro, sb3_contrib, stable_baselines3",
}


def check(name: str, folder: Path) -> str:
    """What a program says that uses an extra; a RuntimeError with the end of what failed."""
    place = folder / name
    python = place / "bin" / "python"
    run([sys.executable, "-m", "venv", str(place)])
    run([str(python), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), *requirements(name)])
    # Behind what the extra brings, so that what it forgets is missing.
    (packages(place) / "behind.pth").write_text(f"{core(folder)}\n{ROOT}\n")
    return run([str(python), "-c", USED.get(name) or PLAY.format(made=MADE[name])])


def requirements(name: str) -> list[str]:
    """What an extra asks for."""
    return list(PROJECT["optional-dependencies"][name])


def core(folder: Path) -> Path:
    """Where a plain installation has its packages: torch as constraints.txt has it, then this project."""
    place = folder / "core"
    if not place.exists():
        run([sys.executable, "-m", "venv", str(place)])
        pip = [str(place / "bin" / "python"), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt")]
        run([*pip, "torch", *shlex.split(os.environ.get("TORCH_INDEX", ""))])
        run([*pip, *PROJECT["dependencies"]])
        (packages(place) / "project.pth").write_text(f"{ROOT}\n")
    return packages(place)


def packages(place: Path) -> Path:
    """The folder of packages of a virtual environment."""
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(run([str(place / "bin" / "python"), "-c", ask]))


def run(command: list[str]) -> str:
    """The output of a command.

    Raises:
        RuntimeError: it failed.
    """
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={"MUJOCO_GL": "egl", **os.environ, "PYTHONPATH": ""}
    )
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr)[-1500:])
    return done.stdout.strip()


def main() -> int:
    """Each extra in turn; 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[*MADE, *USED])
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in parser.parse_args().names:
            began = time.perf_counter()
            try:
                print(f"[{name}] {check(name, Path(folder))} ({time.perf_counter() - began:.0f} s)", flush=True)
            except RuntimeError as error:
                failed += 1
                print(f"[{name}] FAILED\n{error}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
