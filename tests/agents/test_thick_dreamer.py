"""THICK Dreamer as assembled: its laws, what moves what, what it prints and refuses."""

from dataclasses import replace

import pytest
import torch

from tests.agents.early import CHOICE, COLUMNS, NUMBERS, rows
from worldformula.agent.open_loop import open_loop
from worldformula.agents import thick_dreamer
from worldformula.envs import Envs
from worldformula.envs.play import play
from worldformula.errors import ConfigError
from worldformula.testing import check_agent

SMALL = replace(thick_dreamer.tiny(), batch=3, length=5, imag_last=3, imagine=3)


@pytest.mark.parametrize("env", ["key_corridor", "pendulum"])
def test_it_keeps_the_contract(env):
    envs = Envs(env, 2, seed=0)
    agent = thick_dreamer.build(replace(SMALL, prefill=0), envs.observations, envs.actions)
    check_agent(agent, envs, turns=15)


@pytest.mark.parametrize("spec", [CHOICE, NUMBERS], ids=["choice", "numbers"])
def test_each_player_moves_its_own(spec):
    """The jumps' networks move by the jumps alone, and the world without them."""
    agent = thick_dreamer.build(SMALL, COLUMNS, spec)
    parts = {
        "world": agent.world.low, "jumps": agent.world.high, "actor": [agent.policy],
        "critics": [agent.learner.critic, agent.learner.coarse],
    }  # fmt: skip
    before = {name: [p.detach().clone() for m in own for p in m.parameters()] for name, own in parts.items()}
    for seed in range(2):
        found = agent.update(rows(spec, seed))
    assert {"loss/jumps", "loss/coarse", "loss/kl_coarse", "loss/gates"} <= set(found)
    for name, own in parts.items():
        after = [p for m in own for p in m.parameters()]
        assert any(not torch.equal(a, b) for a, b in zip(before[name], after, strict=True)), name
    own = [{id(p) for m in group for p in m.parameters()} for group in parts.values()]
    assert sum(map(len, own)) == len(set().union(*own))


def test_it_also_learns_as_the_authors_count_what_lies_behind_a_jump():
    official = replace(SMALL, behaviour=replace(SMALL.behaviour, behind="official"))
    found = thick_dreamer.build(official, COLUMNS, CHOICE).update(rows(CHOICE))
    assert all(value.isfinite() for value in found.values())


def test_it_prints_both_divergences_the_gates_the_jumps_and_what_critics_learn():
    text = repr(thick_dreamer.build(SMALL, COLUMNS, CHOICE).loss)
    for part in ("kl + kl_coarse", "1.0 * gates", "p(n|F)", "mix(R_t,J_t,K_t,X_t)", "then actor and critics"):
        assert part in text


def test_a_world_without_jumps_is_refused():
    with pytest.raises(ConfigError, match="dreamer_v2"):
        replace(SMALL, world=replace(SMALL.world, jumps=None))
    with pytest.raises(ConfigError, match=r"behaviour.discount, got 0.98 and 0.9$"):
        replace(SMALL, behaviour=replace(SMALL.behaviour, discount=0.9))


def test_a_page_shows_what_the_fine_level_predicts():
    envs = Envs("key_corridor", 2, seed=0)
    agent = thick_dreamer.build(SMALL, envs.observations, envs.actions)
    shown = open_loop(agent.world, agent.perception, play("key_corridor", 0, 2, 12), torch.device("cpu"), 4)
    assert [str(name).split()[0] for name in shown["names"]] == ["k"] * 175
