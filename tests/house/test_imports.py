"""Light to import, and the core runs where torch and numpy are all there is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ("errors", "catalogue", "formula", "families", "nets", "training", "models", "worlds", "planners", "learners",
        "world", "model", "planner")  # fmt: skip

NEW_PACKAGES = """
import json, sys
import torch
before = set(sys.modules)
import worldformula
new = set(sys.modules) - before
ours = {"worldformula", "torch", "numpy"}
print(json.dumps({
    "packages": sorted({m.partition(".")[0] for m in new} - ours - set(sys.stdlib_module_names)),
    "heavy": sorted(new & {"torch._dynamo", "torch._inductor", "torch.utils.tensorboard"}),
}))
"""

ONLY_TORCH_AND_NUMPY = """
import importlib, os, pkgutil, sys
import numpy, torch

allowed = {m.partition(".")[0] for m in sys.modules} | set(sys.stdlib_module_names) | {"worldformula"}

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed and not name.startswith("_sysconfigdata"):
            raise ModuleNotFoundError(f"blocked: {name}")

# A package that torch or numpy load themselves would not be blocked, and the test would be blind for it.
if allowed & set(BLOCKED):
    raise SystemExit(f"loaded with torch: {allowed & set(BLOCKED)}")
sys.meta_path.insert(0, Block())
failed = []
for name in sys.argv[1:]:  # each in a process of its own, which has torch already
    if (child := os.fork()) == 0:
        package = importlib.import_module(f"worldformula.{name}")
        for module in pkgutil.walk_packages(getattr(package, "__path__", []), package.__name__ + "."):
            importlib.import_module(module.name)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(name)
if failed:
    raise SystemExit(", ".join(failed))
"""

OPTIONAL = ("gymnasium", "tyro", "rich", "PIL", "safetensors", "sklearn", "scipy", "tensorboard")


def run(code, *args):
    return subprocess.run([sys.executable, "-c", code, *args], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_import_adds_no_package_to_torch():
    result = run(NEW_PACKAGES)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {"packages": [], "heavy": []}


def exists(name):
    return (ROOT / "worldformula" / name).is_dir() or (ROOT / "worldformula" / f"{name}.py").is_file()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="each package is imported in a fork of one process")
def test_core_needs_torch_and_numpy_alone():
    result = run(f"BLOCKED = {OPTIONAL!r}\n" + ONLY_TORCH_AND_NUMPY, *(n for n in CORE if exists(n)))
    assert result.returncode == 0, result.stderr
