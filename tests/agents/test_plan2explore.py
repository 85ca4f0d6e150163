"""Plan2Explore, and DreamerV3 with a bonus: what dreams and the data are worth, and what is learnt by whom."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.agents.early import COLUMNS, NUMBERS, rows
from worldformula import catalogue
from worldformula.agent.configurator import Configuration
from worldformula.agent.imagination import ImaginationAgent
from worldformula.cli.train import Train
from worldformula.errors import ConfigError
from worldformula.planners.cem import CEM
from worldformula.run.interact import Interact
from worldformula.training.settings import override

SMALL = ["batch=3", "length=5", "imag_last=3", "imagine=3", "warmup=0", "curiosity.units=8", "curiosity.layers=1"]


def built(*settings: str, system: str = "plan2explore") -> ImaginationAgent:
    found = catalogue.find(system)
    made: ImaginationAgent = found.build(override(found.sizes("tiny"), [*SMALL, *settings]), COLUMNS, NUMBERS, seed=0)
    return made


def variance(agent: ImaginationAgent, h: Any, z: Any, a: Any) -> np.ndarray:
    """The disagreement by NumPy, of members that are read one by one."""
    own: Any = agent.curious["disagreement"]
    with torch.no_grad():
        means = np.stack([net(h, z, a).numpy() for net in own.members])
    found: np.ndarray = means.var(0, ddof=1).mean(-1)
    return found


def test_a_dream_is_worth_the_disagreement_of_its_steps_and_a_task_its_reward() -> None:
    agent = built("curiosity.bonus=0.5", "curiosity.rate=0")
    torch.manual_seed(1)
    dream, reward, _ = agent.dream(agent.world.initial(2))
    h, z, a = (dream[k][:, :-1].flatten(0, 1) for k in "hza")
    np.testing.assert_allclose(reward[:, 1:].flatten(), 0.5 * variance(agent, h, z, a), rtol=1e-4)
    agent.configure(Configuration({"reward": 2.0, "disagreement": 0.0}))
    torch.manual_seed(1)
    dream, reward, _ = agent.dream(agent.world.initial(2))
    predicted = agent.world.decode(dream, ("r",))["r"]
    torch.testing.assert_close(reward, 2 * predicted)


def test_replayed_steps_are_worth_their_disagreement_too() -> None:
    agent, batch = built("curiosity.reward=3", "curiosity.rate=0"), rows()
    outs = agent.objective.run(batch, seed=0)
    states = outs["world"].samples
    taken = torch.as_tensor(batch["action"])
    got = agent.objective.data["replay"](outs, batch, None)["r"]
    h, z, a = (x[:, -3:-1].flatten(0, 1).detach() for x in (states["h"], states["z"], taken))
    wanted = 3 * batch["reward"][:, -2:] + variance(agent, h, z, a).reshape(3, 2)
    np.testing.assert_allclose(got[:, 1:], wanted, rtol=1e-4)
    np.testing.assert_allclose(got[:, 0], 3 * batch["reward"][:, -3], rtol=1e-6)


@pytest.mark.parametrize("kind", ["disagreement", "icm"])
def test_the_world_does_not_learn_from_the_bonus_nor_the_bonus_from_the_policy(kind: str) -> None:
    agent = built(f"curiosity.kind={kind}", system="dreamer_v3")
    outs = agent.objective.run(rows(), seed=0)
    weights = [*agent.world.parameters(), *agent.policy.parameters()]
    own = list(agent.curious.parameters())
    learnt = torch.autograd.grad(
        agent.objective.value(kind, outs), [*weights, *own], retain_graph=True, allow_unused=True
    )
    assert all(g is None for g in learnt[: len(weights)])
    assert all(g is not None for g in learnt[len(weights) :])
    for part in ("actor", "critic", "replay"):
        found = torch.autograd.grad(agent.objective.value(part, outs), own, retain_graph=True, allow_unused=True)
        assert all(g is None for g in found)
    before = {k: v.clone() for k, v in agent.state_dict().items()}
    for _ in range(2):
        metrics = agent.update(rows())
    assert np.isfinite(float(metrics[f"loss/{kind}"]))
    moved = [k for k, v in agent.state_dict().items() if k.startswith("curious.") and not torch.equal(v, before[k])]
    assert len(moved) == sum(k.startswith("curious.") for k in before)


def moved_by_value(agent: ImaginationAgent) -> float:
    """How far an update takes the world apart where two critics differ, and nothing else does."""
    with torch.no_grad():  # a critic begins with zeros in its last layer, which hands no gradient on
        for weight in agent.learner.critic.parameters():  # type: ignore[union-attr]
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    other = copy.deepcopy(agent)
    with torch.no_grad():
        for weight in other.learner.critic.parameters():  # type: ignore[union-attr]
            weight.mul_(-1)
    for one in (agent, other):
        torch.manual_seed(2)
        one.update(rows())
    pairs = zip(agent.world.parameters(), other.world.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def test_the_world_does_not_learn_from_what_exploring_is_worth() -> None:
    """DreamerV3's value of replayed steps shapes its world; a bonus that fades shall not."""
    for preset in ("paper", "official", "tiny"):
        assert catalogue.find("plan2explore").sizes(preset).replay_value == 0
    assert moved_by_value(built()) == 0
    assert moved_by_value(built("replay_value=0.3")) > 1e-5


def test_a_copy_learns_by_networks_of_its_own() -> None:
    agent = built()
    other = copy.deepcopy(agent)
    before = {k: v.clone() for k, v in agent.state_dict().items()}
    other.update(rows())
    other.update(rows())
    assert all(torch.equal(v, before[k]) for k, v in agent.state_dict().items())
    assert not torch.equal(other.curious["disagreement"].size, agent.curious["disagreement"].size)


def test_without_a_bonus_the_agent_is_dreamer_v3_bit_for_bit() -> None:
    """Another member of the formula shifts no draw: what the world learns is the same, bonus or not."""
    plain, curious = built(system="dreamer_v3"), built(system="plan2explore")
    assert not plain.curious
    assert list(plain.objective.terms) == ["world", "dream", "replay"]
    assert not any("curious" in k for k in plain.state_dict())
    assert plain.cost.weights == {}
    curious.world.load_state_dict(plain.world.state_dict())
    found = [agent.objective.run(rows(), seed=5)["world"].value for agent in (plain, curious)]
    assert torch.equal(*found)


def test_a_planner_is_told_that_a_bonus_of_steps_is_none_of_states() -> None:
    agent, one = built(), {k: v[:, 0] for k, v in rows().items()}
    planner = CEM(horizon=3, candidates=10, elites=3, iterations=1)
    agent.configure(Configuration({"reward": 1.0, "disagreement": 1.0}, planner))
    with pytest.raises(ConfigError, match=r"disagreement is a cost of steps.*weights=\{'disagreement': 0.0\}"):
        agent.act(one, agent.initial(3))
    agent.configure(Configuration({"disagreement": 0.0}, planner))
    assert agent.act(one, agent.initial(3))[0].shape == (3, 2)


def test_it_trains_from_the_command_line_and_a_task_begins_with_its_weights(tmp_path: Path) -> None:
    system = catalogue.find("plan2explore")
    settings = tuple(f"agent.{text}" for text in (*SMALL, "prefill=16", "train_ratio=8"))
    small = {"env": "pendulum", "steps": "32", "agent": "plan2explore", "preset": "tiny"}
    asked = Train(out=tmp_path / "explore", settings=(*settings, "eval_episodes=0", "env.num=2"), **small).config()
    first = Interact(asked, system.build, tmp_path / "explore", say=lambda _: None)
    first.run()
    assert first.agent.cost.weights == {"reward": 0.0, "disagreement": 1.0}
    more = (*settings, "eval_episodes=0", "env.num=2", "agent.curiosity.reward=1", "agent.curiosity.bonus=0")
    asked = Train(out=tmp_path / "task", settings=more, init=tmp_path / "explore", **small).config()
    second = Interact(asked, system.build, tmp_path / "task", say=lambda _: None)
    assert second.agent.cost.weights == {"reward": 1.0, "disagreement": 0.0}
    for (name, one), other in zip(first.agent.state_dict().items(), second.agent.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
