"""An episode as jumps have it: gates, events and predictions by hand, what is drawn, and that it is kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from worldformula.agents import dreamer_v2, thick_dreamer
from worldformula.envs import Envs
from worldformula.report import jumps
from worldformula.report.evidence import Evidence, Timeline, load
from worldformula.report.gather import drawing, recorded
from worldformula.run.config import EnvConfig

LINE = Timeline(
    (0.0, 0.0, 0.5, 0.0, 0.0, 0.25), ((2, "lever"), (3, "a<b"), (5, "goal")), (0, 2, 5), (2.4, 4.8, 11.0), (1, 0, 2),
    (0, 2, 4),
)  # fmt: skip


@pytest.fixture
def agent():
    envs = Envs("key_corridor", 1, seed=0)
    found = thick_dreamer.build(replace(thick_dreamer.tiny(), prefill=0), envs.observations, envs.actions)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in found.world.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=g))
    return found


@torch.no_grad()
def test_an_episode_is_told_as_the_world_infers_it(agent):
    env, events = EnvConfig("key_corridor", num=1, max_steps=15), list[list[str]]()
    played, frames = recorded(agent, env, 1, 0, events)
    assert len(events) == len(played[0]["reward"]) == len(frames)
    assert events[0] == []  # nothing has happened on a reset
    events[3] = ["pickup_key", "exit"]
    found, stills = jumps.timeline(agent, played[0], events, frames, drawing(env))
    batch = {key: value[None] for key, value in played[0].items()}
    states = agent.world.filter(agent.perception.learn(batch, torch.device("cpu")), deterministic=True)
    nets = {f.variable.key: f.net for f in agent.world.high}
    c, ends = states["c"][0], []
    open_ = [0.0, *(float((c[t] != c[t - 1]).float().mean()) for t in range(1, len(events)))]
    assert list(found.gates) == pytest.approx(open_)
    assert found.begins == (0, *(t for t in range(1, len(events)) if open_[t]))
    assert found.events == ((3, "pickup_key"), (3, "exit"))
    foretold = []
    for t in range(len(events)):
        z, c = states["z"][0, t, None], states["c"][0, t, None]
        code = torch.eye(agent.world.config.codes)[agent.world.high[1].net(z, c).argmax(-1)]
        f = nets["F"](z, c, code)
        ends.append(t + 1 + float(nets["n"].net(f)[0, 0].relu()))
        y = torch.nn.functional.one_hot(nets["Y"](f).view(8, 8).argmax(-1), 8).float()[None]
        foretold.append(agent.world.own.heads_coarse["k_coarse"].net(y, c).view(25, 7).argmax(-1).view(5, 5))
    assert list(found.ends) == pytest.approx([ends[t] for t in found.begins], abs=1e-4)
    assert found.shown == tuple(int((i + 0.5) * len(events) / 12) for i in range(12))
    own = Envs("key_corridor", 1, seed=0).bare[0]
    expected = own.batch_render(torch.stack([foretold[t] for t in found.shown]).numpy())
    np.testing.assert_array_equal(stills["foreseen"], expected)
    np.testing.assert_array_equal(stills["seen"], frames[list(found.shown)])


def test_other_worlds_have_no_such_section():
    envs = Envs("key_corridor", 1, seed=0)
    plain = dreamer_v2.build(dreamer_v2.tiny(), envs.observations, envs.actions)
    assert jumps.timeline(plain, {}, [], None) is None
    assert jumps.timeline(object(), {}, [], None) is None
    assert jumps.drawn(None, None, None) == ""


def test_what_is_drawn_lies_where_its_row_does_and_is_escaped():
    shown = jumps.drawn(LINE, None, None)
    assert "2 changes and 3 events in 6 rows" in shown
    assert "a&lt;b" in shown
    assert "a<b" not in shown
    wide = shown.split('<div class="narrow">')[0]
    assert wide.count("<rect ") == 2
    assert f"M{952 * 0.5 / 6:.1f} " in wide  # the first arc begins in the middle of row 0
    assert f'cx="{952 * (2.4 + 0.5) / 6:.1f}"' in wide  # and ends where it was said to
    assert f'cx="{952:.1f}"' in wide  # one beyond the episode ends at its edge
    assert "image" not in wide
    assert "none in this episode" not in shown
    assert "events: none in this episode" in jumps.drawn(replace(LINE, events=()), None, None)


def test_it_is_kept_in_the_run_folder(tmp_path):
    Evidence(jumps=LINE, videos={"seen": b"1", "foreseen": b"2"}).save(tmp_path)
    found = load(tmp_path)
    assert found.jumps == LINE
    assert found.videos == {"seen": b"1", "foreseen": b"2"}
    Evidence().save(tmp_path)
    assert load(tmp_path).jumps is None
