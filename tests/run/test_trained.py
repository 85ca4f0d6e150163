"""What was trained is opened again: from run folders of every kind, and from a folder that is passed on."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import worldformula as wf
from tests.agent.test_dreamer_runs import CONFIG, SYSTEM
from tests.cli.test_worlds import arrays
from worldformula.cli import main
from worldformula.envs import Envs
from worldformula.errors import CheckpointError, ConfigError, RunFolderError, ShapeError
from worldformula.fitting import fit
from worldformula.run.interact import Interact
from worldformula.trained import TrainedAgent
from worldformula.training import checkpoint
from worldformula.training.settings import override


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("saved")
    sizes = ["--set", "pixels=256", "--set", "hidden=8", "--set", "latent=3", "--set", "ema=0.9"]
    assert main(["fit", "vae", "--data", "sprites", *sizes, "--steps", "6", "--run", str(at / "vae")]) == 0
    np.savez(at / "e.npz", **arrays(False))
    given = ["--data", str(at / "e.npz"), "--steps", "3", "--batch", "2", "--run", str(at / "rssm")]
    assert main(["fit", "rssm", *given]) == 0
    small = override(CONFIG, ["steps=40", "env.pixels=false", "eval_episodes=0"])
    Interact(small, SYSTEM.build, at / "agent").run()
    return at


def weights(thing: Any) -> dict[str, torch.Tensor]:
    module = thing.inner if isinstance(thing, TrainedAgent) else thing.loss
    found: dict[str, torch.Tensor] = module.state_dict()
    return found


@pytest.mark.parametrize("name", ["vae", "rssm", "agent"])
def test_the_same_weights_come_back_without_the_run_its_data_or_python_code(
    runs: Path, tmp_path: Path, name: str
) -> None:
    thing = wf.load(runs / name)
    path = wf.save_pretrained(thing, tmp_path / "kept")
    assert sorted(p.name for p in path.iterdir()) == ["README.md", "model.safetensors", "worldformula.json"]
    moved = tmp_path / "elsewhere"
    shutil.move(path, moved)
    for again in (wf.from_pretrained(moved), wf.load(moved)):
        assert type(again) is type(thing)
        ours, theirs = weights(thing), weights(again)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    found = checkpoint.load_latest(runs / name / "checkpoints")
    assert found is not None
    stored = found.state["agent"]["weights"] if name == "agent" else found.state["fit"]["weights"]
    averaged = {} if name != "vae" else found.state["fit"]["average"]["means"]
    assert all(torch.equal(value, {**stored, **averaged}[key]) for key, value in weights(thing).items())
    card = (moved / "README.md").read_text(encoding="utf-8")
    for part in ("library_name: worldformula", "```math\n", "wf.from_pretrained('kept')", "```bibtex"):
        assert part in card
    shutil.copytree(moved, tmp_path / "kept", dirs_exist_ok=True)
    wf.save_pretrained(wf.from_pretrained(moved), moved)  # what came from such a folder may go into one


def test_a_model_and_a_world_work(runs: Path) -> None:
    model, world = wf.load(runs / "vae"), wf.load(runs / "rssm")
    assert isinstance(model, wf.Model)
    assert model.generate(2, seed=0)["x"].shape == (2, 256)
    assert not model.loss.training
    assert isinstance(world, wf.World)
    given = {"x": torch.rand(2, 5, 3), "a": torch.rand(2, 5, 1), "first": torch.zeros(2, 5, dtype=torch.bool)}
    states = world.filter(given, seed=0)
    assert world.imagine(states.last(), actions=torch.rand(2, 4, 1), seed=0)["h"].shape == (2, 5, 128)


def test_a_player_acts_as_the_agent_does_in_its_environments(runs: Path, tmp_path: Path) -> None:
    agent = wf.from_pretrained(wf.save_pretrained(wf.load(runs / "agent"), tmp_path / "kept"))
    envs = Envs("pendulum", 3, seed=0, max_steps=25)
    rows, state, player = envs.reset(0), agent.inner.initial(3), agent.player(3)
    for _ in range(30):
        for stream in np.flatnonzero(rows["is_first"]).tolist():
            player.reset(stream)
        actions, state = agent.inner.act(rows, state, explore=False)
        assert np.array_equal(player.act({"vector": rows["vector"]}), actions)
        rows = envs.step(actions)


def test_an_agent_says_what_it_takes_and_gives(runs: Path) -> None:
    agent = wf.load(runs / "agent")
    assert repr(agent).startswith(f"<TrainedAgent {type(agent.inner).__name__} of ")
    assert repr(agent).endswith(f"observes {', '.join(agent.observations)}; acts by {', '.join(agent.actions)}>")


def test_one_observation_needs_no_batch_axis(runs: Path) -> None:
    agent = wf.load(runs / "agent")
    seen = np.random.default_rng(0).normal(size=(4, 3))  # float64, as users have them
    one, many = agent.player(), agent.player(1)
    for row in seen:
        action = one.act(row)
        assert action.shape == (1,)
        assert np.array_equal(action, many.act({"vector": row[None]})[0])
    both = agent.player(2)
    assert both.act(seen[:2]).shape == (2, 1)
    agent.act(seen[0], first=True)
    remembered = agent.act(seen[1])
    other = agent.player()
    other.act(seen[0])
    assert np.array_equal(remembered, other.act(seen[1]))
    assert not np.array_equal(remembered, agent.act(seen[1], first=True))
    assert agent.act(seen[:3]).shape == (3, 1)


@pytest.mark.parametrize(
    ("num", "observation", "says"),
    [
        (1, np.zeros(4), r"expected vector of shape \(1, 3\) or \(3,\), got \(4,\)"),
        (2, np.zeros(3), r"expected vector of shape \(2, 3\), got \(3,\)"),
        (1, {"image": np.zeros(3)}, "vector is missing"),
    ],
)
def test_observations_of_another_shape(runs: Path, num: int, observation: Any, says: str) -> None:
    with pytest.raises(ShapeError, match=says):
        wf.load(runs / "agent").player(num).act(observation)


def test_what_cannot_be_opened_says_what_to_do(runs: Path, tmp_path: Path) -> None:
    x = torch.randn(8, 3)
    loss = -wf.log(wf.Normal("p(x)", shape=3, loc=torch.nn.Parameter(torch.zeros(3)))).mean()
    fit(loss, {"x": x}, steps=2, batch=4, run=tmp_path / "python", progress=False)
    with pytest.raises(RunFolderError, match="only your code knows its networks: build the same loss") as raised:
        wf.load(tmp_path / "python")
    place = re.search(r"load_latest\('(.*)'\)", str(raised.value))
    assert place is not None
    found = checkpoint.load_latest(place[1])
    assert found is not None
    loss.load_state_dict(found.state["fit"]["weights"])
    with pytest.raises(RunFolderError, match="not a run folder"):
        wf.load(tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match="nothing that save_pretrained wrote"):
        wf.from_pretrained(runs / "vae")
    with pytest.raises(ConfigError, match="was not loaded from a run"):
        wf.save_pretrained(loss, tmp_path / "x")
    kept = wf.save_pretrained(wf.load(runs / "vae"), tmp_path / "kept")
    with pytest.raises(RunFolderError, match="holds other files"):
        wf.save_pretrained(wf.load(runs / "vae"), runs)
    (kept / "model.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"safetensors cannot be read: .+Copy it again"):
        wf.from_pretrained(kept)
    values = json.loads((kept / "worldformula.json").read_text())
    (kept / "worldformula.json").write_text(json.dumps(values | {"format": 9}))
    with pytest.raises(RunFolderError, match="not of format 1"):
        wf.from_pretrained(kept)


def other_weights(kept: Path) -> None:
    """One bit of one weight: a file that is whole, and not the one that was saved."""
    content = bytearray((kept / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (kept / "model.safetensors").write_bytes(bytes(content))


def said(**values: Any) -> Any:
    """Writes other values into the description."""

    def write(kept: Path) -> None:
        file = kept / "worldformula.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return write


DAMAGE = {
    "cut": (lambda kept: (kept / "model.safetensors").write_bytes(b"x" * 50), CheckpointError, "cannot be read"),
    "lost": (lambda kept: (kept / "model.safetensors").unlink(), CheckpointError, "cannot be read: No such file"),
    "changed": (other_weights, CheckpointError, "not the file that was written with worldformula.json"),
    "other sizes": (said(changes=["pixels=256", "hidden=9", "latent=3"]), CheckpointError, "does not fit vae"),
    "newer size": (said(changes=["newer=3"]), RunFolderError, "of another version: unknown setting 'newer'"),
    "not a list": (said(changes=None), RunFolderError, "damaged, or of another version"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_damaged_or_of_another_version_is_never_opened(runs: Path, tmp_path: Path, name: str) -> None:
    damage, error, says = DAMAGE[name]
    kept = wf.save_pretrained(wf.load(runs / "vae"), tmp_path / "kept – ü")
    damage(kept)
    with pytest.raises(error, match=says):
        wf.from_pretrained(kept)


def test_the_description_of_an_agent_that_is_of_another_version(runs: Path, tmp_path: Path) -> None:
    kept = wf.save_pretrained(wf.load(runs / "agent"), tmp_path / "kept")
    whole = (kept / "worldformula.json").read_text()
    for values in ({"agent": {"newer": 1}}, {"env": {"newer": 1}}, {"observations": [1]}, {"seed": "a"}):
        (kept / "worldformula.json").write_text(whole)
        said(**values)(kept)
        with pytest.raises(RunFolderError, match="damaged, or of another version"):
            wf.from_pretrained(kept)


@pytest.mark.parametrize("name", ["cut", "lost", "changed"])
def test_a_new_run_does_not_begin_with_damaged_weights(
    runs: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = wf.save_pretrained(wf.load(runs / "vae"), tmp_path / "kept")
    given = ["fit", "vae", "--data", "sprites", "--set", "hidden=8", "--set", "latent=3", "--steps", "2"]
    given += ["--init", str(kept), "--run"]
    assert main([*given, str(tmp_path / "good")]) == 0
    DAMAGE[name][0](kept)
    capsys.readouterr()
    assert main([*given, str(tmp_path / "bad")]) == 1
    assert f"{kept / 'model.safetensors'} cannot be read" in capsys.readouterr().err


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        wf.lod  # noqa: B018
    code = "import sys, worldformula; print('gymnasium' in sys.modules, worldformula.load.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "load"]
