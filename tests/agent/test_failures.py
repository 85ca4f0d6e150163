"""Whatever stops a run, it says so in one error, keeps its last good checkpoint, and goes on from there."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from tests.agent.systems.toy import Toy, ToyAgent, config
from tests.run.test_interact import assert_same_run
from worldformula.agents import dreamer_v3
from worldformula.envs import Envs
from worldformula.envs.pendulum import Pendulum
from worldformula.errors import (
    BrokenEnvironmentError,
    CheckpointError,
    ConfigError,
    ReplayError,
    RunFolderError,
    ShapeError,
    SpaceError,
)
from worldformula.report.gather import recorded
from worldformula.report.yardsticks import floor
from worldformula.run.config import EnvConfig
from worldformula.run.evaluate import evaluate
from worldformula.run.folder import read_metrics
from worldformula.run.interact import Interact
from worldformula.training import checkpoint


class Failing(Pendulum):
    """A pendulum that fails once, at a chosen step of all copies together."""

    left = 0
    fault: Callable[[tuple[Any, ...]], tuple[Any, ...]]

    def step(self, action: Any) -> Any:
        answer = super().step(action)
        Failing.left -= 1
        return Failing.fault(answer) if Failing.left == 0 else answer


gymnasium.register("tests/Failing-v0", entry_point=Failing, max_episode_steps=200)
FAILING = EnvConfig("tests/Failing-v0", num=3, max_steps=23)


def breaks(_: tuple[Any, ...]) -> tuple[Any, ...]:
    raise RuntimeError("the simulator broke")


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        (lambda a: (a[0][:2], *a[1:]), SpaceError, "not what its space declares"),
        (lambda a: (a[0], a[1], None, *a[3:]), SpaceError, "terminated of tests/Failing-v0 .* True or False, got None"),
        (lambda a: a[:4], SpaceError, "has to return .observation, reward, .*got a tuple of 4.*gym before 0.26"),
        (lambda a: (*a[:4], None), SpaceError, "the info of tests/Failing-v0 .* expected a dictionary, got None"),
    ],
)
def test_an_environment_that_is_wrong_after_a_checkpoint_costs_nothing_else(
    tmp_path: Path, fault: Any, error: type[Exception], says: str
) -> None:
    Failing.left, Failing.fault = 137, staticmethod(fault)
    settings = dataclasses.replace(config(steps=300), env=FAILING)
    with pytest.raises(error, match=says):
        Interact(settings, ToyAgent, tmp_path / "run").run()
    found = checkpoint.load_latest(tmp_path / "run" / "checkpoints")
    assert found is not None
    assert 100 <= found.step < 103
    Interact(settings, ToyAgent, tmp_path / "run").run()  # it fails no second time
    Interact(settings, ToyAgent, tmp_path / "whole").run()
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (lambda a: (a[0] * np.nan, *a[1:]), "the observation of tests/Failing-v0 at step .* is not finite"),
        (lambda a: (a[0], float("nan"), *a[2:]), "the reward of tests/Failing-v0 at step .* is not finite: nan"),
        (breaks, "failed at step .* RuntimeError: the simulator broke"),
    ],
)
def test_an_environment_that_fails_once_is_made_anew_counted_and_told(tmp_path: Path, fault: Any, says: str) -> None:
    Failing.left, Failing.fault = 137, staticmethod(fault)
    settings, said = dataclasses.replace(config(steps=300), env=FAILING), list[str]()
    result = Interact(settings, ToyAgent, tmp_path / "run", say=said.append).run()
    assert result.counters.failures == 1
    assert len(said) == 1
    assert re.search(says, said[0])
    assert "made anew with a fresh seed (1 so far)" in said[0]
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-2]["env/failures"] == 1


class Random(Pendulum):
    """A pendulum that raises, or gives NaN, in one of twenty steps."""

    rng = np.random.default_rng(3)
    failed = 0

    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        chance = Random.rng.random()
        if chance < 0.05:
            Random.failed += 1
            if chance < 0.025:
                raise RuntimeError("by chance")
            observation = observation * np.nan
        return observation, *rest


gymnasium.register("tests/Random-v0", entry_point=Random, max_episode_steps=23)


def test_a_hundred_random_failures_are_all_survived(tmp_path: Path) -> None:
    Random.failed = 0
    settings = dataclasses.replace(
        config(steps=2500, eval_every=0, eval_episodes=0), env=EnvConfig("tests/Random-v0", num=3)
    )
    result = Interact(settings, ToyAgent, tmp_path / "run", say=lambda _: None).run()
    assert Random.failed >= 100
    assert result.counters.failures == Random.failed
    assert result.counters.steps >= 2500


def test_an_environment_that_fails_at_once_every_time_is_given_up(tmp_path: Path) -> None:
    class Never(Pendulum):
        def step(self, action: Any) -> Any:
            raise RuntimeError("never")

    gymnasium.registry.pop("tests/Never-v0", None)
    gymnasium.register("tests/Never-v0", entry_point=Never)
    settings = dataclasses.replace(config(steps=300), env=EnvConfig("tests/Never-v0", num=2))
    with pytest.raises(BrokenEnvironmentError, match="RuntimeError: never"):
        Interact(settings, ToyAgent, tmp_path / "run", say=lambda _: None).run()


def test_a_failure_at_a_seeded_place_is_passed_by_a_resumed_run_too(tmp_path: Path) -> None:
    class Fixed(Pendulum):
        def reset(self, **options: Any) -> Any:
            self.bad = options["seed"] % 3 == 0
            self.count = 0
            return super().reset(**options)

        def step(self, action: Any) -> Any:
            self.count += 1
            if self.bad and self.count == 9:
                raise RuntimeError("a bad seed")
            return super().step(action)

    gymnasium.registry.pop("tests/Fixed-v0", None)
    gymnasium.register("tests/Fixed-v0", entry_point=Fixed, max_episode_steps=23)
    env = EnvConfig("tests/Fixed-v0", num=3)
    for steps in (200, 400, 600):
        Interact(
            dataclasses.replace(config(steps, eval_episodes=0), env=env), ToyAgent, tmp_path / "run", say=str
        ).run()
    whole = Interact(
        dataclasses.replace(config(600, eval_episodes=0), env=env), ToyAgent, tmp_path / "whole", say=str
    ).run()
    assert whole.counters.failures > 3
    one, two = (checkpoint.load_latest(tmp_path / name / "checkpoints") for name in ("run", "whole"))
    assert one is not None
    assert two is not None
    assert one.state["count"]["failures"] == two.state["count"]["failures"]
    assert torch.equal(one.state["agent"]["weights"]["net.1.weight"], two.state["agent"]["weights"]["net.1.weight"])


# -------------------------------------------------------------------------------------------- checkpoints and episodes


def weights(folder: Path) -> torch.Tensor:
    found = checkpoint.load_latest(folder / "checkpoints")
    assert found is not None
    return found.state["agent"]["weights"]["net.1.weight"]


def test_a_checkpoint_never_changes_a_run(tmp_path: Path) -> None:
    for every in (10, 70, 1000):
        Interact(config(500, checkpoint_every=every), ToyAgent, tmp_path / str(every)).run()
    rare, often, never = (tmp_path / name for name in ("70", "10", "1000"))
    for other in (often, never):
        assert (rare / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
        assert torch.equal(weights(rare), weights(other))


def test_episodes_longer_than_the_time_between_checkpoints_end(tmp_path: Path) -> None:
    settings = config(600, checkpoint_every=30)
    settings = dataclasses.replace(settings, env=dataclasses.replace(settings.env, max_steps=90))
    assert Interact(settings, ToyAgent, tmp_path / "run").run().counters.episodes == 2 * 3


def test_an_environment_that_does_not_repeat_itself_has_its_episodes_cut_and_counted(tmp_path: Path) -> None:
    class Moody(Pendulum):
        mood = 0.0

        def step(self, action: Any) -> Any:
            observation, reward, *rest = super().step(action)
            return observation, reward + Moody.mood, *rest

    gymnasium.registry.pop("tests/Moody-v0", None)
    gymnasium.register("tests/Moody-v0", entry_point=Moody, max_episode_steps=23)
    settings = dataclasses.replace(config(300, eval_episodes=0), env=EnvConfig("tests/Moody-v0", num=3))
    Interact(settings, ToyAgent, tmp_path / "run").run()
    Moody.mood, said = 1e-3, list[str]()
    longer = dataclasses.replace(settings, steps=400)
    assert Interact(longer, ToyAgent, tmp_path / "run", say=said.append).run().counters.cut == 3
    assert len(said) == 1
    assert "did not repeat itself" in said[0]
    assert "those of 3 of 3 streams are cut at step" in said[0]


def test_lost_checkpoints_never_cost_the_replay(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    Interact(config(300), ToyAgent, folder).run()
    rows = {file.name: file.read_bytes() for file in (folder / "replay").iterdir()}
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(RunFolderError, match="has lost its checkpoints, and its replay holds .*take another folder"):
        Interact(config(300), ToyAgent, folder).run()
    assert {file.name: file.read_bytes() for file in (folder / "replay").iterdir()} == rows


def test_evaluation_and_floor_survive_failures_and_count_complete_episodes_alone() -> None:
    agent = ToyAgent(Toy(), Envs("pendulum").observations, Envs("pendulum").actions, 0)
    before = Random.failed
    env = EnvConfig("tests/Random-v0", num=2, floor_episodes=4)
    assert evaluate(agent, env, episodes=4, seed=0).lengths == (23,) * 4
    score = floor(env, 0)
    assert score is not None
    assert score.n == 4
    found, _ = recorded(agent, env, 3, 0)
    assert [len(episode["reward"]) for episode in found] == [24] * 3
    assert all(episode["is_first"].sum() == 1 for episode in found)
    assert Random.failed > before


def test_fewer_steps_than_the_run_has_are_refused(tmp_path: Path) -> None:
    Interact(config(300, eval_episodes=0), ToyAgent, tmp_path / "run").run()
    with pytest.raises(ConfigError, match="steps=200, and the run stands at step 30.: set more steps"):
        Interact(config(200, eval_episodes=0), ToyAgent, tmp_path / "run")


def test_a_single_row_without_streams_says_how_to_write_it() -> None:
    envs = Envs("pendulum")
    agent = dreamer_v3.build(dreamer_v3.tiny(), envs.observations, envs.actions)
    row = {key: value[0] for key, value in envs.reset().items()}
    with pytest.raises(ShapeError, match="rows .N, ….* got a single row; write"):
        agent.act(row, agent.initial(1))


# -------------------------------------------------------------------------------------------------------- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # the error's traceback still holds the files


@pytest.mark.slow
@pytest.mark.parametrize("left", [0, 4096, 12_288])
def test_a_disk_that_fills_up_stops_the_run_and_it_goes_on_when_there_is_room(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    def fill(loop: Interact) -> None:
        if len(checkpoint.steps_in(loop.folder.checkpoints)) == 2 and not others.exists():
            others.write_bytes(bytes(shutil.disk_usage(small_disk).free - left))

    others, settings = small_disk / "others", config(steps=600, log_every=3)
    monkeypatch.setattr("worldformula.run.interact.SHOW_EVERY", 0.0)
    with pytest.raises((RunFolderError, CheckpointError, ReplayError), match="No space left on device"):
        Interact(settings, ToyAgent, small_disk / "run", show=fill).run()
    found = checkpoint.load_latest(small_disk / "run" / "checkpoints")
    assert found is not None
    assert found.step >= 200
    others.unlink()
    Interact(settings, ToyAgent, small_disk / "run").run()
    Interact(settings, ToyAgent, tmp_path / "whole").run()
    assert_same_run(small_disk / "run", tmp_path / "whole")


@pytest.mark.slow
def test_a_file_that_may_not_grow_is_one_error(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    script = """
        import resource, sys
        from tests.agent.systems.toy import Toy, ToyAgent, config
        from worldformula.run import interact
        from worldformula.run.interact import Interact
        from worldformula.errors import WorldformulaError
        from worldformula.training import checkpoint

        interact.SHOW_EVERY = 0

        def limit(run):
            if len(checkpoint.steps_in(run.folder.checkpoints)) == 2:
                size = run.folder.metrics_file.stat().st_size
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

        try:
            Interact(config(), ToyAgent, sys.argv[1], show=limit).run()
        except WorldformulaError as error:
            sys.exit(f"{type(error).__name__}: {error}")
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Error: " in done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert checkpoint.load_latest(tmp_path / "run" / "checkpoints") is not None
    Interact(config(), ToyAgent, tmp_path / "run").run()
