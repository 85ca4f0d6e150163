"""Sequences that go on from what the replay keeps of the row before them: out of the replay, and back into it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from worldformula.agent import lessons
from worldformula.agent.imagination import ImaginationAgent
from worldformula.agents import dreamer_v3
from worldformula.agents.dreamer_v3 import DreamerConfig
from worldformula.cli.train import Train
from worldformula.data.replay import Replay
from worldformula.envs import Envs
from worldformula.errors import ConfigError
from worldformula.nets.sizes import Sizes
from worldformula.worlds.rssm import RSSMConfig

SIZES = Sizes(deter=16, hidden=8, classes=4, groups=4, blocks=2, depth=2, units=8)
CONFIG = DreamerConfig(
    RSSMConfig(SIZES), batch=3, length=6, imagine=3, layers=1, context=1, online=True, lr=1e-2, warmup=0
)


def played(config: DreamerConfig, env: str = "pendulum", rows: int = 40) -> tuple[ImaginationAgent, Replay]:
    """An agent that has acted, means and modes, with its latents in the replay."""
    envs = Envs(env, 2, seed=0, max_steps=13)
    agent = dreamer_v3.build(config, envs.observations, envs.actions)
    replay = Replay(200, envs.row_spec, streams=2, latents=agent.latents, online=config.online)
    seen, state = envs.reset(0), agent.initial(2)
    for _ in range(rows):
        actions, state = agent.act(seen, state, explore=False)
        replay.add(seen, envs.stored(actions), agent.stored(state) if agent.latents else None)
        seen = envs.step(actions)
    return agent, replay


@pytest.mark.parametrize("env", ["pendulum", "cartpole"])  # numbers, and a choice
def test_a_sequence_goes_on_as_the_whole_stream_went(env: str) -> None:
    """The acting state is the filter's: from the latents before a sequence, the filter finds those in it again."""
    agent, replay = played(CONFIG, env)
    assert agent.latents == {"h": (16,), "z": (4, 4)}
    batch = replay.sample(8, 6, context=1)
    seen = dict(lessons.seen(agent, {}, batch, None))
    start = seen.pop("start")
    states = agent.world.filter(seen, start=start, deterministic=True)
    kept = replay.latents
    assert kept is not None
    place = np.broadcast_to(batch["stream"][:, None], batch["row"].shape), batch["row"] % replay._ring.length
    for name, value in kept.get(place).items():
        torch.testing.assert_close(states[name], torch.as_tensor(value), rtol=1e-5, atol=1e-5)
    cold = agent.world.filter(seen, deterministic=True)
    inside = ~batch["is_first"][:, 0]
    assert inside.any()
    assert not torch.allclose(cold["h"][inside, 0], states["h"][inside, 0], atol=1e-3)


def test_an_update_writes_the_latents_of_its_rows_back() -> None:
    agent, replay = played(CONFIG)
    batch = replay.sample(3, 6, context=1)
    metrics, latents = agent.learn(batch)
    assert np.isfinite(float(metrics["loss/total"]))
    assert {name: value.shape for name, value in latents.items()} == {"h": (3, 6, 16), "z": (3, 6, 4, 4)}
    replay.write(batch, latents)
    kept = replay.latents
    assert kept is not None
    place = batch["stream"], batch["row"][:, -1] % replay._ring.length
    np.testing.assert_array_equal(kept.get(place)["h"], latents["h"][:, -1])


def test_without_context_nothing_is_kept() -> None:
    agent, replay = played(replace(CONFIG, context=0, online=False))
    assert agent.latents == {}
    assert replay.latents is None
    assert agent.learn(replay.sample(3, 6))[1] == {}


def test_presets() -> None:
    assert (dreamer_v3.tiny().context, dreamer_v3.tiny().online) == (0, False)
    for preset in (dreamer_v3.paper, dreamer_v3.official, dreamer_v3.size1m):
        assert (preset().context, preset().online) == (1, True)
    assert (dreamer_v3.official().unimix, dreamer_v3.paper().unimix) == (0.0, 0.01)
    with pytest.raises(ConfigError, match="expected a unimix"):
        replace(CONFIG, unimix=1.0)
    with pytest.raises(ConfigError, match="expected a context of 0 or 1 rows, got 2"):
        replace(CONFIG, context=2)


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything in double precision, what is made of observations too."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.slow
@pytest.mark.usefixtures("double")
def test_a_compiled_update_is_the_update() -> None:
    """Every term and the dreams through the compiler's front end; no kernels are made, so that it takes seconds.

    Both begin each update with the same weights: the optimiser makes steps of one size of gradients that are rounding.
    In single precision the means of two-hot heads that have learnt little are rounding as well: of 255 bins up to
    e²⁰, all as probable, what is left is 10⁻² of a sum whose parts are 10⁵.
    """
    agent, replay = played(CONFIG)
    compiled, _ = played(CONFIG)
    assert compiled.compile(backend="eager") is compiled
    for seed in (5, 6, 7):
        batch, found = replay.sample(3, 6, context=1), []
        batch = {key: rows.astype(np.float64) if rows.dtype == np.float32 else rows for key, rows in batch.items()}
        compiled.restore(copy.deepcopy(agent.checkpoint()))
        for one in (agent, compiled):
            torch.manual_seed(seed)
            found.append({name: float(value) for name, value in one.learn(batch)[0].items()})
        assert found[1] == pytest.approx(found[0], rel=1e-6, abs=1e-8)


def test_a_preset_brings_settings_of_its_run(tmp_path: Path) -> None:
    official = Train(out=tmp_path / "run", env="pendulum", preset="official").config()
    assert (official.env.num, official.capacity) == (16, 5_000_000)
    own = Train(out=tmp_path / "run", env="pendulum", preset="official", settings=("env.num=2",)).config()
    assert (own.env.num, own.capacity) == (2, 5_000_000)
    assert Train(out=tmp_path / "run", env="pendulum").config().env.num == 4
