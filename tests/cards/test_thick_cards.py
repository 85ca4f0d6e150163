"""The cards of THICK: what they read of play, how they score, and that they run in miniature."""

from __future__ import annotations

import math

import pytest
import torch

from worldformula.cards import gates, key_corridor, lever_door, load
from worldformula.cards.run import verdict
from worldformula.envs import Envs


def test_the_gates_card_reads_moves_and_events_of_the_same_rows():
    rows = gates.rows_of(3, 40)
    moved = rows["x"][:, 1:] - rows["x"][:, :-1]
    torch.testing.assert_close(rows["d"][:, :-1] * 0.1, moved, atol=1e-6, rtol=0)
    away = (rows["x"][..., :2] - 0.5).norm(dim=-1)
    assert (away[rows["event"]] < 0.2 + 1e-6).all()  # control begins where the figure stands at the place
    still = rows["d"][..., 2:].abs().amax(-1) == 0
    begins = rows["event"].float().argmax(1)
    for b in rows["event"].any(1).nonzero()[:, 0].tolist():
        assert still[b, : begins[b]].all()
        assert not still[b, begins[b] :].all()


def test_gates_that_open_at_the_event_alone_have_what_is_asked():
    rows = {"event": torch.zeros(2, 5, dtype=torch.bool)}
    rows["event"][0, 2] = rows["event"][1, 4] = True
    rows |= {name: torch.zeros(2, 5, 1) for name in ("x", "a", "d")}

    class Out:
        def __init__(self, theta):
            self.samples = {"Theta": theta}

    theta = torch.zeros(2, 5, 3)
    theta[0, 2, 1] = theta[1, 3, 0] = theta[1, 0] = 1.0  # at one event, a row before the other, and at a first row
    found = gates.opened(lambda **_: Out(theta), rows)
    assert found == pytest.approx({"open": 2 / 8, "recall": 0.5, "near": 1.0, "lift": 2.0, "events": 2 / 8})


def test_the_area_is_the_mean_of_windows_and_its_error_that_of_their_episodes():
    found = key_corridor.area([(10.0, 0.5), (30.0, 0.9), (34.0, 1.0)])
    error = math.sqrt(0.25 / 10 + 0.09 / 20) / 3
    assert found == pytest.approx({"area": 0.8, "error": error, "late": 1.0})


def test_play_at_the_lever_is_read_with_its_end():
    envs = Envs(lever_door.ENV.id, 1, **lever_door.ENV.options())
    agent = lever_door.thick_planet.build(lever_door.config(), envs.observations, envs.actions)
    rows = lever_door.rows_of(agent, 5, 4)
    assert rows["x"].shape == (4, lever_door.STEPS, 3)
    assert rows["first"][:, 0].all()
    goal = rows["event"][..., 2]
    assert torch.equal(goal, rows["terminal"])
    assert torch.equal(rows["r"] > 0.5, goal)  # not bounded
    assert (rows["d"][goal] == 0).all()
    opened = rows["event"][..., 0]
    assert (rows["x"][opened][:, 2] == 0).all()  # who pulls the lever does not see the door
    assert ((rows["x"][opened][:, :2] - torch.tensor([0.1, 0.9])).norm(dim=-1) < 0.1 + 1e-6).all()


def small(monkeypatch, module, **values):
    """A card in miniature: what its numbers come to is nobody's claim."""
    for name, value in values.items():
        monkeypatch.setattr(module, name, value)
    return module.measure(100)


def test_the_gates_card_measures_what_it_says(monkeypatch):
    found = small(monkeypatch, gates, COUNT=32, HELD_OUT=16, UPDATES=2)
    assert found["holds"] == pytest.approx(min(0.25 / found["open"], found["lift"] / 3))
    assert found["error"] > 0


@pytest.mark.slow
def test_the_corridor_card_measures_what_it_says(monkeypatch):
    found = small(monkeypatch, key_corridor, STEPS=1080, WINDOWS=2)
    errors = found["error_thick_dreamer"] + found["error_dreamer_v2"]
    assert found["gain"] == pytest.approx(found["area_thick_dreamer"] - found["area_dreamer_v2"])
    assert found["margin"] == pytest.approx(found["gain"] - errors)


@pytest.mark.slow
def test_the_lever_card_measures_what_it_says(monkeypatch):
    monkeypatch.setattr(lever_door, "config", _quick(lever_door.config))
    found = small(monkeypatch, lever_door, CHUNKS=4, UPDATES=2, JUMPS=2, EPISODES=2, HELD_OUT=2)
    assert found["thick_low"] <= found["thick"] <= found["thick_high"]
    assert found["flat_low"] <= found["flat"] <= found["flat_high"]


def test_the_lever_card_says_in_a_line_which_share_is_too_small_or_too_large():
    card = load("lever_door")
    good = {"thick": 0.8, "flat": 0.1}
    assert card.holds([good] * 3)
    behind, ahead = [good, good, {**good, "thick": 0.6}], [good, good, {**good, "flat": 0.3}]
    assert not card.holds(behind)
    assert not card.holds(ahead)
    assert "thick 0.6 of the episodes end at the goal (worst of 3, needed ≥ 0.7)" in verdict(card, behind, 1.0)[-1]
    assert verdict(card, ahead, 1.0)[0] == "  fails: flat 0.3 (worst of 3, needed ≤ 0.2)"


def _quick(config):
    """The same agent with hardly any search."""
    found = config()
    search = lever_door.CEM(horizon=2, candidates=4, elites=2, iterations=1)
    return lambda: lever_door.replace(found, planner=search, codes=lever_door.MCTS(1, 1))
