"""Golden files: what five small formulas and every model and world of the catalogue emit and print, byte for byte.

The kept code of the small ones runs, and is compared with the call; that of the catalogue is the loss at preset tiny.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.formula.models import B, X, begun, filtered, frames, rssm, sequences, trajectories, unbroken, vae
from worldformula import Expression, Game
from worldformula.catalogue import find, names
from worldformula.formula.syntax.networks import networks

FOLDER = Path(__file__).parents[1] / "golden"
CASES = {
    "small_vae": (vae, lambda: {"x": torch.rand(B, X)}),
    "small_rssm": (rssm, sequences),
    "small_start": (begun, frames),
    "small_trajectories": (trajectories, unbroken),
    "small_filter": (filtered, frames),
}
CATALOGUE = [*names("models"), *names("worlds")]
LARGE = 60_000  # characters of code, beyond which nobody reads a difference
SEEN = ({"image": (16, 16, 3), "speed": (3,)}, 2)  # what a world is told of its environment
SIZES = dict.fromkeys(
    ("rssm", "gaussian_rssm", "discrete_rssm", "c_rssm", "implicit", "jepa", "h_jepa", "latent_jepa", "lewm"), SEEN
)


def kept(name: str, text: str) -> None:
    file = FOLDER / name
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(text + "\n", encoding="utf-8")
    assert file.exists(), f"{name} is missing; UPDATE_GOLDEN=1 writes it"
    assert text + "\n" == file.read_text(encoding="utf-8"), f"{name} changed; UPDATE_GOLDEN=1 rewrites it"


@cache
def losses(name: str) -> dict[str, Expression]:
    """The loss of a model or world at preset tiny, of a game one per player."""
    if name in CASES:
        return {"": CASES[name][0]()}
    system = find(name)
    torch.manual_seed(0)
    loss = system.build(system.sizes("tiny"), *SIZES.get(name, ())).loss
    return {who: p.loss for who, p in loss.players.items()} if isinstance(loss, Game) else {"": loss}


@pytest.mark.parametrize("name", [*CASES, *CATALOGUE])
def test_code(name):
    written = {who: loss.code.rstrip() for who, loss in losses(name).items()}
    if (size := sum(map(len, written.values()))) > LARGE:
        pytest.skip(f"{name} emits {size} characters, more than {LARGE}: no difference of that length is read")
    kept(f"{name}.py", "\n\n\n".join(f"# {who}\n{code}" if who else code for who, code in written.items()))


@pytest.mark.parametrize("name", [*CASES, *CATALOGUE])
def test_latex_and_text(name):
    shown = (f"% {who}\n{loss}\n% {loss!r}" if who else f"{loss}\n% {loss!r}" for who, loss in losses(name).items())
    kept(f"{name}.tex", "\n".join(shown))


def test_no_golden_file_is_left_over():
    known = {*CASES, *CATALOGUE}
    assert {f.stem for f in FOLDER.iterdir() if f.suffix in (".py", ".tex")} <= known


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
