"""The card of a critic from a memory: it moves as the environment does, and asks for three doors and no less."""

import numpy as np
import pytest
import torch

from worldformula import cards
from worldformula.cards import critic_from_memory as card
from worldformula.envs.two_rooms import NEAR, free, moved, three_by_three, ways
from worldformula.world import State

LAYOUT = three_by_three(np.random.default_rng(100))


def test_planners_move_as_the_environment_does():
    rng, walls = np.random.default_rng(0), LAYOUT.walls
    own = card.episodes(LAYOUT, 30, seed=5)
    at, s = own.starts, torch.from_numpy(own.starts).float()
    moves = card.Moves(walls)
    for _ in range(60):
        a = rng.uniform(-1.5, 1.5, (30, 2))
        at, s = moved(walls, at, a), moves(s, torch.from_numpy(a).float())
        np.testing.assert_allclose(s, at, atol=1e-3)


def test_goals_lie_three_doors_away_and_all_episodes_are_in_one_maze():
    own = card.episodes(LAYOUT, 40, seed=1)
    assert free(LAYOUT.walls, own.starts).all()
    assert free(LAYOUT.walls, own.goals).all()
    for start, goal in zip(own.starts, own.goals, strict=True):
        room = [
            int(np.argmax([x0 <= x < x1 and y0 <= y < y1 for x0, x1, y0, y1 in LAYOUT.rooms])) for x, y in (start, goal)
        ]
        assert LAYOUT.steps_between()[room[0], room[1]] == card.DOORS
    assert (own.walls == LAYOUT.walls).all()
    assert own.fingerprint != card.episodes(LAYOUT, 40, seed=2).fingerprint


def test_a_step_costs_one_unless_it_is_at_the_goal():
    s = torch.tensor([[[0.0, 0.0], [0.0, NEAR - 0.1], [0.0, NEAR + 0.1]]])
    assert card.away(State({"s": s, "goal": torch.zeros_like(s)}, 2)).tolist() == [[0.0, 0.0, 1.0]]


def test_the_correlation_of_the_length_of_the_way_with_itself_is_one():
    class Oracle(torch.nn.Module):
        def __call__(self, states):
            known = {tuple(g): ways(LAYOUT.walls, LAYOUT.edge, g) for g in states["goal"].double().numpy()[::50]}
            rows = zip(states["s"].tolist(), states["goal"].double().numpy(), strict=True)
            return torch.tensor([known[tuple(g)][int(y), int(x)] for (x, y), g in rows])

    class Euclid(torch.nn.Module):
        def __call__(self, states):
            return (states["s"] - states["goal"]).norm(dim=-1)

    assert card.correlation(Oracle(), LAYOUT, 3) > 0.999
    assert 0.2 < card.correlation(Euclid(), LAYOUT, 3) < 0.8  # what one would write first is not asked for


def test_what_is_asked_for_is_that_of_the_card():
    own = cards.load("critic_from_memory")
    assert own.threshold == 1.0
    assert not own.passes(min(0.29 / card.GAIN, 0.99 / card.RANK))
    assert own.passes(min(0.31 / card.GAIN, 0.81 / card.RANK))


@pytest.mark.slow
def test_it_measures_what_it_says(monkeypatch):
    """In miniature: what the numbers come to is nobody's claim."""
    for name, value in {"WALKS": 8, "LENGTH": 60, "EPISODES": 3, "UPDATES": 5, "BATCH": 16}.items():
        monkeypatch.setattr(card, name, value)
    monkeypatch.setattr("worldformula.cards.rooms.STEPS", {"nine": 15})
    found = card.measure(100)
    assert found["gain"] == pytest.approx(found["expectile"] - found["distance"])
    assert found["holds"] == pytest.approx(min(found["gain"] / 0.3, found["rank"] / 0.8))
    assert -1 <= found["rank_returns"] <= 1
    assert found["returns_low"] <= found["returns"] <= found["returns_high"]
    assert found["returns"] <= found["returns_ever"]
