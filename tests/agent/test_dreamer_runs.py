"""DreamerV3 from pixels in the loop: it resumes bit for bit, and its folder is enough to evaluate and to dream."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from worldformula import catalogue
from worldformula.cli import main
from worldformula.run.config import EnvConfig, RunConfig
from worldformula.run.interact import Interact
from worldformula.training import checkpoint
from worldformula.training.settings import override

SYSTEM = catalogue.find("dreamer_v3")
CONFIG = override(
    RunConfig(
        SYSTEM.name,
        "tiny",
        EnvConfig("pendulum", num=2, pixels=True, max_steps=25),
        SYSTEM.sizes("tiny"),
        steps=80,
        threads=1,
        capacity=400,
        checkpoint_every=30,
        eval_episodes=1,
        tensorboard=False,
    ),
    ["agent.batch=2", "agent.length=6", "agent.imag_last=3", "agent.prefill=16", "agent.train_ratio=4"],
)


RECALLING = override(CONFIG, ["agent.context=1", "agent.online=true"])


SWITCHED = override(
    CONFIG,
    [
        "env.pixels=false", "agent.context=1", "agent.mixture.priority=0.5", "agent.mixture.recent=0.2",
        "agent.curiosity.kind=disagreement", "agent.curiosity.units=16", "agent.curiosity.members=3",
        "agent.world.harmony=true", "agent.reset_every=7", "agent.behaviour.slow_target=true",
        "agent.behaviour.value_rate=0.1", "agent.behaviour.advantage_rate=0.1", "agent.behaviour.discount_learnt=false",
    ],
)  # fmt: skip


class Stopped(Exception):
    """Ends a run at a chosen moment."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    result = Interact(CONFIG, SYSTEM.build, folder).run()
    assert result.counters.updates > 10
    return folder


def test_interrupted_and_resumed_it_ends_with_the_same_bits(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(loop: Interact) -> None:
        if loop.count.steps > 45:
            raise Stopped

    monkeypatch.setattr("worldformula.run.interact.SHOW_EVERY", 0.0)
    with pytest.raises(Stopped):
        Interact(CONFIG, SYSTEM.build, tmp_path / "run", show=stop).run()
    Interact(CONFIG, SYSTEM.build, tmp_path / "run").run()
    assert (whole / "metrics.jsonl").read_bytes() == (tmp_path / "run" / "metrics.jsonl").read_bytes()
    one, two = (checkpoint.steps_in(f / "checkpoints")[-1] for f in (whole, tmp_path / "run"))
    for file in (checkpoint.TENSORS, checkpoint.TREE):
        assert (one / file).read_bytes() == (two / file).read_bytes()


@pytest.mark.slow
def test_a_run_that_writes_latents_back_resumes_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped past its second checkpoint: what was written into the replay since is as if it had not been."""
    Interact(RECALLING, SYSTEM.build, tmp_path / "whole").run()

    def stop(loop: Interact) -> None:
        assert loop.replay.latents is not None
        if loop.count.steps > 72:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr("worldformula.run.interact.SHOW_EVERY", 0.0)
        with pytest.raises(Stopped):
            Interact(RECALLING, SYSTEM.build, tmp_path / "run", show=stop).run()
    Interact(RECALLING, SYSTEM.build, tmp_path / "run").run()
    one, two = (checkpoint.steps_in(tmp_path / name / "checkpoints")[-1] for name in ("whole", "run"))
    for file in (checkpoint.TENSORS, checkpoint.TREE):
        assert (one / file).read_bytes() == (two / file).read_bytes()
    for name in ("latent_h", "latent_z"):
        (a,) = (tmp_path / "whole" / "replay").glob(f"*{name}.bin")
        assert a.stat().st_size == next((tmp_path / "run" / "replay").glob(f"*{name}.bin")).stat().st_size


@pytest.mark.slow
def test_a_run_with_every_switch_resumes_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Priorities, running sizes, layers that began anew: all of it is in the checkpoint."""
    whole = Interact(SWITCHED, SYSTEM.build, tmp_path / "whole")
    whole.run()
    assert whole.replay.priorities is not None
    assert whole.replay.priorities.visits.sum() == whole.count.updates * 2 * 6 > 100

    def stop(loop: Interact) -> None:
        if loop.count.steps > 72:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr("worldformula.run.interact.SHOW_EVERY", 0.0)
        with pytest.raises(Stopped):
            Interact(SWITCHED, SYSTEM.build, tmp_path / "run", show=stop).run()
    Interact(SWITCHED, SYSTEM.build, tmp_path / "run").run()
    one, two = (checkpoint.steps_in(tmp_path / name / "checkpoints")[-1] for name in ("whole", "run"))
    for file in (checkpoint.TENSORS, checkpoint.TREE):
        assert (one / file).read_bytes() == (two / file).read_bytes()


def test_the_folder_is_enough_to_evaluate_and_to_dream(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(whole), "--episodes", "2"]) == 0
    assert "dreamer_v3 on pendulum after 80 steps" in capsys.readouterr().out
    assert main(["dream", str(whole), "--sequences", "2", "--length", "9", "--context", "3"]) == 0
    assert capsys.readouterr().out == f"{whole / 'videos' / 'dream.webp'}\n"
    with Image.open(whole / "videos" / "dream.webp") as video:
        assert video.n_frames == 9
        assert video.size == (2 * 3 * 34, 3 * 3 * 34)  # two sequences; truth, dream, error; 32 pixels and their border
