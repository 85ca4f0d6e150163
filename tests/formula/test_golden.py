"""Golden files: what VAE and RSSM emit and print, byte for byte; and the kept code runs."""

import os
from pathlib import Path

import pytest
import torch

from tests.formula.models import B, X, rssm, sequences, vae
from worldformula.formula.emit import networks

FOLDER = Path(__file__).parents[1] / "golden"
CASES = {"vae": (vae, lambda: {"x": torch.rand(B, X)}), "rssm": (rssm, sequences)}


def kept(name, text):
    file = FOLDER / name
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(text + "\n", encoding="utf-8")
    assert text + "\n" == file.read_text(encoding="utf-8"), f"{name} changed; UPDATE_GOLDEN=1 rewrites it"


@pytest.mark.parametrize("case", CASES)
def test_code(case):
    kept(f"{case}.py", CASES[case][0]().code.rstrip())


@pytest.mark.parametrize("case", CASES)
def test_latex_and_text(case):
    loss = CASES[case][0]()
    kept(f"{case}.tex", f"{loss}\n% {loss!r}")


@pytest.mark.parametrize("case", CASES)
def test_the_kept_code_runs(case):
    """The file stands alone: its imports suffice, and it computes the value of the call."""
    build, data = CASES[case]
    loss, given = build(), data()
    scope = {}
    exec((FOLDER / f"{case}.py").read_text(encoding="utf-8"), scope)
    call = loss.program.binder.bind({**given, "seed": 0})
    arguments = loss.program.function(loss, deterministic=False).arguments
    value, _, _ = scope["formula"](loss, *[call.arguments[name] for name in arguments])
    torch.testing.assert_close(value, loss(**given, seed=0).value)
    assert set(networks(loss).values()) == {name for name, _ in loss.named_children()}
