"""THICK Dreamer as assembled: its laws, what moves what, what it prints and refuses."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.agents.early import CHOICE, COLUMNS, NUMBERS, rows
from worldformula.agent.open_loop import open_loop
from worldformula.agents import thick_dreamer
from worldformula.data.replay import Replay
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
    with pytest.raises(ConfigError, match=r"world.gates .* as a number, got none$"):
        replace(SMALL, world=replace(SMALL.world, gates=None))


@pytest.mark.parametrize("proceed", [0.0, 1.0])
def test_the_authors_way_behind_a_jump_reads_the_coarse_heads_where_it_arrives(proceed):
    """J = G + d^Δ r_τ and K = d^n, n = Δ + 1, by the networks of the coarse level, called by hand."""
    behaviour, world = replace(SMALL.behaviour, behind="official"), replace(SMALL.world, proceed=proceed)
    agent = thick_dreamer.build(replace(SMALL, behaviour=behaviour, world=world), COLUMNS, CHOICE)
    assert all(np.isfinite(value.item()) for value in agent.update(rows(CHOICE, 0)).values())
    dream, reward, going = agent.dream(agent.world.initial(4), torch.Generator().manual_seed(0))
    found = agent.learner.dreamed(dream, dream, reward, going, generator=torch.Generator().manual_seed(1))
    start = {name: dream[name].flatten(0, 1) for name in ("z", "c")} | dict.fromkeys("Gbn", torch.zeros(4 * 4))
    jump = agent.world.levels["jump"].imagine(start, horizon=1, generator=torch.Generator().manual_seed(1)).at(1)
    nets = {name: factor.net for name, factor in agent.world.own.heads_coarse.items()}
    r = nets["r_coarse"](jump["z"], jump["c"])[:, 0]
    d = torch.sigmoid(nets["d_coarse"](jump["z"], jump["c"])[:, 0]) if proceed else torch.full_like(r, 0.98)
    torch.testing.assert_close(found["J"].flatten(), jump["G"] + d ** (jump["n"] - 1) * r)
    torch.testing.assert_close(found["K"].flatten(), d ** jump["n"])


def test_a_page_shows_what_the_fine_level_predicts():
    envs = Envs("key_corridor", 2, seed=0)
    agent = thick_dreamer.build(SMALL, envs.observations, envs.actions)
    shown = open_loop(agent.world, agent.perception, play("key_corridor", 0, 2, 12), torch.device("cpu"), 4)
    assert [str(name).split()[0] for name in shown["names"]] == ["k"] * 175


def test_episodes_shorter_than_a_sequence_are_kept_and_no_sequence_is_said_to_begin_one():
    """The authors' replay drops short episodes, the good ones, and says of every sequence that it begins with one."""
    envs = Envs("key_corridor", 2, seed=0, max_steps=3, length=2)
    config = replace(SMALL, length=10, prefill=0)
    agent = thick_dreamer.build(config, envs.observations, envs.actions)
    replay, rng, now, kept = Replay(64, envs.row_spec, streams=2), np.random.default_rng(0), envs.reset(0), []
    for _ in range(32):
        actions = envs.random(rng, now)
        replay.add(now, actions)
        kept.append(now["is_first"])
        now = envs.step(actions)
    firsts = np.stack(kept, 1)  # [2, 32], every fourth row
    assert firsts.sum() == 16
    places = set()
    for _ in range(40):
        batch = replay.sample(3, 10)
        for flags in batch["is_first"]:
            assert flags.sum() in (2, 3)
            assert (np.diff(np.flatnonzero(flags)) == 4).all()
            places.add(int(flags.argmax()))
    assert places == {0, 1, 2, 3}
    found = agent.update(batch)
    assert all(np.isfinite(value.item()) for value in found.values())
    first = agent.perception.learn(batch, torch.device("cpu"))["first"]
    np.testing.assert_array_equal(first.numpy(), batch["is_first"])
