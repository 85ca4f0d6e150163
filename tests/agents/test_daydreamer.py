"""DayDreamer: DreamerV3 with the paper's settings, on a robot, by either clock."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from worldformula import catalogue
from worldformula.cli import header
from worldformula.cli.train import Train
from worldformula.envs import Envs
from worldformula.envs.actions import ActionSpec
from worldformula.envs.columns import Column
from worldformula.run.config import RunConfig
from worldformula.run.interact import Interact
from worldformula.testing import check_agent
from worldformula.training.settings import differences, override

SYSTEM = catalogue.find("daydreamer")
COLUMNS = {"vector": Column("vector", (3,), "float32")}
SMALL = ["agent.batch=2", "agent.length=6", "agent.prefill=16", "agent.imag_last=3", "agent.imagine=3"]


def asked(tmp_path: Path, *more: str, **options: str) -> RunConfig:
    found = Train(agent="daydreamer", env="pendulum_noreset", out=tmp_path / "run", settings=(*SMALL, *more), **options)
    return found.config()


@pytest.mark.parametrize("preset", ["paper", "official"])
def test_presets_have_the_discount_and_the_balance_of_the_paper(preset: str) -> None:
    found = SYSTEM.sizes(preset)
    assert found.behaviour.discount == pytest.approx(0.995)
    assert (found.world.dynamics, found.world.representation, found.world.free_nats) == (0.8, 0.2, 0.0)
    assert (found.batch, found.length, found.imagine, found.lr) == (32, 32, 15, 1e-4)
    assert found.world.sizes.groups == found.world.sizes.classes == 32


def test_paper_and_official_differ_in_widths_and_prefill_alone() -> None:
    keys = set(differences(SYSTEM.sizes("paper"), SYSTEM.sizes("official")))
    assert keys == {"prefill", *(f"world.sizes.{name}" for name in ("deter", "hidden", "depth", "units"))}


def test_without_free_nats_the_divergences_weigh_four_to_one() -> None:
    """The world's loss is 0.8 KL(sg q ‖ p) + 0.2 KL(q ‖ sg p) less the log-probabilities, from its own terms."""
    config = replace(SYSTEM.sizes("paper"), world=replace(SYSTEM.sizes("paper").world, sizes=small()))
    agent = SYSTEM.build(config, COLUMNS, ActionSpec("continuous", 1))
    rng = torch.Generator().manual_seed(0)
    batch = {"v": torch.randn(2, 5, 3, generator=rng), "a": torch.randn(2, 5, 1, generator=rng)}
    batch |= {"r": torch.randn(2, 5, generator=rng), "c": torch.ones(2, 5), "first": torch.zeros(2, 5).bool()}
    names = agent.world.loss.program.inputs
    given = {name: batch[name] if name in batch else batch["v"] for name in names if not name.startswith("noise")}
    out = agent.world.loss(**given, seed=0)
    terms = {name: float(value.detach()) for name, value in out.terms.items()}
    parts = [value for name, value in terms.items() if name.startswith("KL")]
    logs = [value for name, value in terms.items() if name.startswith("log")]
    assert len(parts) == 2
    assert parts[0] == pytest.approx(parts[1])
    assert float(out.value.detach()) == pytest.approx(0.8 * parts[0] + 0.2 * parts[1] - sum(logs), rel=1e-5)


def small() -> object:
    return replace(SYSTEM.sizes("paper").world.sizes, deter=16, hidden=8, classes=4, depth=4, units=8, groups=4)


def test_from_the_command_line_it_drives_a_robot_by_a_virtual_clock(tmp_path: Path) -> None:
    config = asked(tmp_path)
    assert (config.env.num, config.drive.clock, config.drive.updates) == (1, "virtual", 0.5)
    assert asked(tmp_path, preset="paper").drive.clock == "wall"
    assert asked(tmp_path, "drive.clock=wall", "drive.sync=7").drive.sync == 7


@pytest.mark.parametrize(("clock", "least"), [("virtual", 20), pytest.param("wall", 1, marks=pytest.mark.slow)])
def test_it_learns_on_the_robot(tmp_path: Path, clock: str, least: int) -> None:
    """By the virtual clock half an update in 44 ticks, 22; by the wall clock as many as the computer makes."""
    config = override(asked(tmp_path, f"drive.clock={clock}"), ["steps=60", "eval_episodes=0", "tensorboard=false"])
    task = Interact(config, SYSTEM.build, tmp_path / "run", say=lambda _: None)
    start = {name: value.clone() for name, value in task.agent.state_dict().items()}
    task.run()
    assert task.count.updates >= least
    assert any((value != start[name]).any() for name, value in task.agent.state_dict().items())
    assert np.isfinite(task.replay._columns["reward"][0, : task.count.steps]).all()


@pytest.mark.parametrize(("clock", "said"), [("virtual", "0.5 updates a tick"), ("wall", "all the time")])
def test_the_header_says_how_acting_and_learning_share_time(tmp_path: Path, clock: str, said: str) -> None:
    task = Interact(asked(tmp_path, f"drive.clock={clock}"), SYSTEM.build, tmp_path / "run", say=lambda _: None)
    assert f"learning: {said}" in "\n".join(header.lines(task))
    task.envs.close()


def test_it_keeps_the_laws_of_agents() -> None:
    envs = Envs("pendulum_noreset", 2, seed=0)
    config = override(SYSTEM.sizes("tiny"), [text.removeprefix("agent.") for text in SMALL])
    check_agent(SYSTEM.build(config, envs.observations, envs.actions, 0), envs, turns=20)
