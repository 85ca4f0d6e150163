"""The loop: counting, learning at the right rate, and resuming bit for bit wherever it was killed."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.agent.systems.toy import Toy, ToyAgent, config
from worldformula.envs import Envs
from worldformula.errors import CheckpointError, ConfigError, NonFiniteError, RunFolderError
from worldformula.run.config import EnvConfig
from worldformula.run.evaluate import evaluate
from worldformula.run.folder import RunFolder, read_metrics
from worldformula.run.interact import EVALUATION, Interact
from worldformula.run.run import best
from worldformula.training import checkpoint
from worldformula.training.seeding import derived
from worldformula.training.settings import override

TOY = Path(__file__).parents[1] / "agent" / "systems" / "toy.py"


def final(folder: Path) -> dict[str, Any]:
    found = checkpoint.load_latest(folder / "checkpoints")
    assert found is not None
    return found.state


def assert_same_run(a: Path, b: Path) -> None:
    """Equal metrics files, and equal checkpoints down to the last byte: weights, momentum, generators, sampler."""
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
    for kind in ("checkpoints", "best"):  # the newest; of runs that are evaluated on the way the best, too
        one, two = (checkpoint.steps_in(f / kind)[-1:] for f in (a, b))
        assert [path.name for path in one] == [path.name for path in two]
        assert one or kind == "best"
        for first, second in zip(one, two, strict=True):
            for file in (checkpoint.TENSORS, checkpoint.TREE):
                assert (first / file).read_bytes() == (second / file).read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "uninterrupted"
    Interact(config(), ToyAgent, folder).run()
    return folder


def test_a_run_counts_learns_and_writes_down(uninterrupted: Path) -> None:
    state = final(uninterrupted)
    count = state["count"]
    lines = read_metrics(uninterrupted / "metrics.jsonl")
    assert 600 <= count["steps"] < 603
    # 7 replayed rows per action, 20 rows per update, from the 40 steps of the prefill on
    assert count["updates"] == pytest.approx((count["steps"] - 40) * 7 / 20, abs=2)
    # an episode is 23 actions and a reset; checkpoints after every 100 steps cut none of them off
    turns = -(-count["steps"] // 3)
    assert count["episodes"] == pytest.approx(3 * turns / 24, abs=3)
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    logs = [line for line in lines if "loss" in line]
    evaluations = [line for line in lines if "eval/return" in line]
    assert len(logs) >= 600 // 70
    assert [line["step"] // 50 for line in evaluations] == [5, 10, 12]
    assert {"loss", "better", "episode/return", "episode/length", "updates", "episodes"} <= logs[-2].keys()
    assert not torch.equal(state["agent"]["weights"]["net.1.weight"], final_weights_of_new_agent())


def final_weights_of_new_agent() -> torch.Tensor:
    envs = Envs("pendulum")
    return ToyAgent(Toy(), envs.observations, envs.action, 0).net[1].weight


def test_equal_configurations_are_equal_runs_and_seeds_matter(uninterrupted: Path, tmp_path: Path) -> None:
    Interact(config(), ToyAgent, tmp_path / "again").run()
    assert_same_run(uninterrupted, tmp_path / "again")
    Interact(config(seed=1), ToyAgent, tmp_path / "other").run()
    a, b = (final(f)["agent"]["weights"]["net.1.weight"] for f in (uninterrupted, tmp_path / "other"))
    assert not torch.equal(a, b)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="uses fork")
def test_killed_at_any_moment_a_run_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    steps = 1500
    started = time.perf_counter()
    Interact(config(steps), ToyAgent, tmp_path / "whole").run()
    seconds = time.perf_counter() - started
    rng = random.Random(7)
    command = [sys.executable, str(TOY), str(tmp_path / "killed"), str(steps)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as nursery:
        assert nursery.stdin is not None
        assert nursery.stdout is not None

        def begin() -> int:
            nursery.stdin.write("\n")
            nursery.stdin.flush()
            return int(nursery.stdout.readline())

        for _ in range(5):  # the machine may be twice as fast as it was above before a child ends by itself
            child = begin()
            time.sleep(rng.uniform(0.02, 0.11) * seconds)
            os.kill(child, signal.SIGKILL)
            assert int(nursery.stdout.readline()) == -signal.SIGKILL
        begin()
        assert int(nursery.stdout.readline()) == 0
        nursery.stdin.close()
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


class Killed(Exception):
    """Stands for a kill at an exact place."""


@pytest.mark.parametrize("place", ["act", "update", "checkpoint"])
@pytest.mark.parametrize("call", [1, 4])
def test_interrupted_at_an_exact_place(uninterrupted: Path, tmp_path: Path, place: str, call: int) -> None:
    class Fragile(ToyAgent):
        calls = 0

        def fail(self, name: str) -> None:
            if name == place:
                Fragile.calls += 1
                if Fragile.calls == (call if place == "checkpoint" else 30 * call):
                    raise Killed

        def act(self, *args: Any, **kwargs: Any) -> Any:
            self.fail("act")
            return super().act(*args, **kwargs)

        def update(self, *args: Any) -> Any:
            result = super().update(*args)
            self.fail("update")
            return result

        def checkpoint(self) -> dict[str, Any]:
            self.fail("checkpoint")
            return super().checkpoint()

    with pytest.raises(Killed):
        Interact(config(), Fragile, tmp_path / "run").run()
    Interact(config(), ToyAgent, tmp_path / "run").run()
    assert_same_run(uninterrupted, tmp_path / "run")


def test_a_damaged_newest_checkpoint_costs_one_interval_and_nothing_else(uninterrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    newest = checkpoint.steps_in(folder / "checkpoints")[-1]
    (newest / checkpoint.TENSORS).write_bytes(b"x")
    said: list[str] = []
    Interact(config(), ToyAgent, folder, say=said.append).run()
    assert len(said) == 1
    assert newest.name in said[0]
    assert_same_run(uninterrupted, folder)


def test_without_a_good_checkpoint_it_says_so(uninterrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    for path in checkpoint.steps_in(folder / "checkpoints"):
        (path / checkpoint.TREE).unlink()
    with pytest.raises(CheckpointError, match="no readable checkpoint"):
        Interact(config(), ToyAgent, folder).run()


def test_a_finished_run_stays_as_it_is_and_can_be_extended(uninterrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    result = Interact(config(), ToyAgent, folder).run()
    assert result.evaluation is not None
    assert len(result.evaluation.returns) == 3
    assert_same_run(uninterrupted, folder)
    Interact(config(steps=800), ToyAgent, folder).run()
    assert final(folder)["count"]["steps"] >= 800
    assert RunFolder(folder).config()["steps"] == 800
    old, new = (read_metrics(f / "metrics.jsonl") for f in (uninterrupted, folder))
    assert new[: len(old)] == old


@pytest.mark.parametrize("change", ["env.num=4", "agent.rate=0.1", "seed=2", "checkpoint_every=50", "threads=2"])
def test_another_configuration_is_refused_and_named(uninterrupted: Path, change: str) -> None:
    with pytest.raises(RunFolderError, match=rf"{change.partition('=')[0]} +\|"):
        Interact(override(config(), [change]), ToyAgent, uninterrupted)


def test_a_run_that_never_reached_a_checkpoint_binds_nobody(tmp_path: Path) -> None:
    class Broken(ToyAgent):
        def act(self, *args: Any, **kwargs: Any) -> Any:
            raise Killed

    with pytest.raises(Killed):
        Interact(config(), Broken, tmp_path / "run").run()
    Interact(config(steps=100, capacity=200, seed=3), ToyAgent, tmp_path / "run").run()
    assert RunFolder(tmp_path / "run").config()["seed"] == 3


def test_a_checkpoint_of_another_agent_is_refused(uninterrupted: Path, tmp_path: Path) -> None:
    class Wider(ToyAgent):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.more = torch.nn.Linear(2, 2)

    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    with pytest.raises(CheckpointError, match=r"does not fit this run(.|\n)*another version of worldformula wrote"):
        Interact(config(steps=700), Wider, folder).run()


@pytest.mark.parametrize(
    ("change", "says"),
    [("agent.prefill=600", "nothing would be learnt"), ("capacity=12", "Set a larger capacity")],
)
def test_settings_that_contradict_each_other(tmp_path: Path, change: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Interact(override(config(), [change]), ToyAgent, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_streams_that_never_hold_a_sequence_are_told_before_anything_is_done(tmp_path: Path) -> None:
    told: list[str] = []
    changes = ["steps=60", "agent.prefill=10", "agent.train_ratio=99"]  # 20 actions in each of the three streams
    whole = override(config(), [*changes, "agent.length=20"])
    assert Interact(whole, ToyAgent, tmp_path / "whole", say=told.append).run().counters.updates > 0
    assert not told
    more = override(config(), [*changes, "agent.length=24", "eval_episodes=0"])
    assert Interact(more, ToyAgent, tmp_path / "more", say=told.append).run().counters.updates == 0
    assert "20 actions in each of 3 streams, and a sequence needs 24 rows" in told[0]
    assert "nothing would be learnt, unless 4 episodes or more end in a stream" in told[0]
    never = override(config(), [*changes, "agent.length=41"])
    with pytest.raises(ConfigError, match=r"needs 41 rows of one stream: nothing would be learnt\. Set more steps, "):
        Interact(never, ToyAgent, tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_a_loss_that_is_not_finite_stops_the_run_before_the_next_checkpoint(tmp_path: Path) -> None:
    class Broken(ToyAgent):
        def update(self, batch: Any) -> Any:
            return {**super().update(batch), "loss/kl": float("nan")}

    with pytest.raises(NonFiniteError, match="loss/kl is nan at update 1, step"):
        Interact(config(), Broken, tmp_path / "run").run()
    assert checkpoint.load_latest(tmp_path / "run" / "checkpoints") is None


def test_an_update_that_stumbles_over_its_own_weights_says_so(tmp_path: Path) -> None:
    class Broken(ToyAgent):
        def update(self, batch: Any) -> Any:
            self.spoil()
            raise IndexError("index -9223372036854775808 is out of bounds")

        def spoil(self) -> None:
            with torch.no_grad():
                next(self.parameters()).fill_(float("nan"))

    with pytest.raises(NonFiniteError, match="weights are not finite at update 1,.*lower the learning rate"):
        Interact(config(), Broken, tmp_path / "run").run()
    Broken.spoil = lambda self: None
    with pytest.raises(IndexError):  # finite weights: the error is the agent's own
        Interact(config(), Broken, tmp_path / "run").run()


def test_the_weights_of_the_best_evaluation_are_kept_and_come_back(uninterrupted: Path, tmp_path: Path) -> None:
    """Of three evaluations on the way; a kill behind the best of them changes nothing."""
    lines = [line for line in read_metrics(uninterrupted / "metrics.jsonl") if "eval/return" in line]
    top = max(lines, key=lambda line: line["eval/return"])
    found = best(RunFolder(uninterrupted))
    assert found.step == top["step"]
    assert final(uninterrupted)["count"]["best"] == top["eval/return"]
    agent = ToyAgent(config().agent, Envs("pendulum").observations, Envs("pendulum").actions, 0)
    agent.restore(found.state["agent"])
    again = evaluate(agent, config().env, episodes=3, seed=derived(config().seed, EVALUATION))
    assert again.mean == pytest.approx(top["eval/return"])
    assert len(checkpoint.steps_in(RunFolder(uninterrupted).best)) == 1
    RunFolder(tmp_path / "late").create({"kind": "interact"})  # of a run that never reached a checkpoint
    checkpoint.save(RunFolder(tmp_path / "late").best, 9, {"agent": {}})
    Interact(override(config(), ["eval_every=0"]), ToyAgent, tmp_path / "late").run()
    with pytest.raises(CheckpointError, match=r"keeps no best weights: .* eval_every=5000"):
        best(RunFolder(tmp_path / "late"))


def test_evaluation_leaves_no_trace_in_the_run(uninterrupted: Path, tmp_path: Path) -> None:
    Interact(config(eval_every=100, eval_episodes=5), ToyAgent, tmp_path / "run").run()
    a, b = (final(f)["agent"]["weights"]["net.1.weight"] for f in (uninterrupted, tmp_path / "run"))
    assert torch.equal(a, b)


def test_evaluation_shares_episodes_out_beforehand() -> None:
    envs = Envs("pendulum")
    agent = ToyAgent(Toy(), envs.observations, envs.action, 0)
    env = EnvConfig("pendulum", num=3, max_steps=11)
    five = evaluate(agent, env, episodes=5, seed=1)
    assert five.lengths == (11,) * 5
    assert five == evaluate(agent, env, episodes=5, seed=1)
    assert five != evaluate(agent, env, episodes=5, seed=2)
    assert five.mean == pytest.approx(np.mean(five.returns))
    assert five.error == pytest.approx(np.std(five.returns, ddof=1) / 5**0.5)
    with pytest.raises(ConfigError, match="at least one episode"):
        evaluate(agent, env, episodes=0, seed=1)


def test_action_repeat_counts_environment_steps(tmp_path: Path) -> None:
    base = config(steps=240, eval_episodes=0)
    repeated = dataclasses.replace(base, env=dataclasses.replace(base.env, action_repeat=2, max_steps=None))
    result = Interact(repeated, ToyAgent, tmp_path / "run").run()
    assert 240 <= result.counters.steps < 246
    assert result.counters.updates == pytest.approx((result.counters.steps - 40) / 2 * 7 / 20, abs=2)
