"""The card of a hierarchy: equal calls, episodes by doors on the way, and what its numbers are of."""

import numpy as np
import pytest
import torch

from worldformula import cards
from worldformula.cards import hierarchy as card
from worldformula.envs.two_rooms import NEAR
from worldformula.errors import CardError


@pytest.fixture(scope="module")
def small():
    """A maze of few walks, and worlds that have learnt nothing."""
    with pytest.MonkeyPatch.context() as patch:
        how = {**card.HOW, "steps": 1, "batch": 8}
        for name, value in {"WALKS": 8, "LENGTH": 70, "EPISODES": 3, "HOW": how}.items():
            patch.setattr(card, name, value)
        maze = card.Maze.of(100)
        yield maze, {name: card.learnt(maze, config, 100) for name, config in card.CONFIGS.items()}


def test_every_search_makes_as_many_calls_and_the_long_one_four_times_as_many(small):
    maze, worlds = small
    own = maze.episodes[1]
    found = {}
    for name, low, high, config in (
        ("h_jepa", card.LOW, [card.HIGH], card.CONFIGS["h_jepa"]),
        ("hwm", card.PATHS, [card.FAR_PATHS], card.CONFIGS["hwm"]),
    ):
        world = worlds[name]
        search, task = card.tower(world, maze, config, low, high), card.aims(world, maze, own.goals, "z_2")
        state = card.latents(world, maze, own.starts).only(["z"])
        found[name] = search.plan(world.levels["1"], task, state, space=card.SPACE).calls
    for name, search in (("flat", card.SHORT), ("flat4", card.LONG)):
        world = worlds["flat"]
        state, task = card.latents(world, maze, own.starts).only(["z"]), card.aims(world, maze, own.goals, "z")
        found[name] = search.plan(world, task, state, space=card.SPACE).calls
    assert found == {"h_jepa": card.CALLS, "hwm": card.CALLS, "flat": card.CALLS, "flat4": card.FOUR}
    assert card.FOUR == 4 * card.CALLS


def test_goals_lie_so_many_doors_away_and_none_is_reached_already(small):
    maze, _ = small
    far, rooms = maze.layout.steps_between(), maze.layout.rooms
    for doors, own in maze.episodes.items():
        for start, goal in zip(own.starts, own.goals, strict=True):
            room = [
                int(np.argmax([x0 <= x < x1 and y0 <= y < y1 for x0, x1, y0, y1 in rooms])) for x, y in (start, goal)
            ]
            assert far[room[0], room[1]] == doors
            assert np.linalg.norm(start - goal) > NEAR


def test_other_episodes_than_those_of_the_card_are_refused(monkeypatch):
    monkeypatch.setattr(card, "EPISODES", 3)
    with pytest.raises(CardError, match="expected the episodes a8df9c350c81-"):
        card.Maze.of(0)


def test_windows_are_rows_of_one_walk(small):
    maze, _ = small
    batch = maze.batch(torch.tensor([2, 5]), torch.tensor([3, 10]), 4)
    np.testing.assert_array_equal(batch["a"].numpy(), np.stack([maze.actions[2, 3:7], maze.actions[5, 10:14]]))
    place = 2 * maze.positions[5, 10:14] / maze.layout.edge - 1
    np.testing.assert_allclose(batch["x"][1, :, :2].numpy(), place, atol=1e-5)
    assert batch["first"].tolist() == [[True, False, False, False]] * 2


def test_a_dream_that_is_the_truth_is_not_off(small, monkeypatch):
    """Where the lowest latent stays what it was, its dream drifts by as much as what came moved."""
    maze, worlds = small
    monkeypatch.setattr(card, "probed", lambda world, maze, variable, seed: lambda code: code[..., :2])
    found = card.foretold(worlds["h_jepa"], maze, 100)
    assert found["off_1_0"] > 0
    assert all(np.isfinite(v) for v in found.values())
    _, positions, actions = card.wander(600, card.WALKS, 65, maze.layout)
    own = card.replace(maze, positions=positions, actions=actions)
    z = [card.latents(worlds["h_jepa"], own, positions[:, t])["z"] for t in (0, 16)]
    ahead, step = z[0], dict(worlds["h_jepa"].loss.named_children())["f"]
    with torch.no_grad():
        for t in range(16):
            ahead = step(ahead, torch.from_numpy(actions[:, t]))
    drift = (ahead - z[1])[:, :2].norm(dim=-1).mean().item()
    assert found["drift_1_16"] == pytest.approx(drift, rel=1e-4)


@pytest.mark.slow
def test_it_measures_what_it_says(monkeypatch):
    """In miniature: what the numbers come to is nobody's claim."""
    how = {**card.HOW, "steps": 2, "batch": 8}
    for name, value in {"WALKS": 8, "LENGTH": 70, "EPISODES": 2, "HOW": how, "STEPS": 5}.items():
        monkeypatch.setattr(card, name, value)
    found = card.measure(100)
    assert found["margin"] == pytest.approx(found["h_jepa"] - found["flat4"])
    assert found["h_jepa"] == pytest.approx(sum(found[f"h_jepa_{k}"] for k in (1, 2, 3)) / 3)
    assert found["short"] == pytest.approx(found["flat_0"] - found["h_jepa_0"])
    assert found["ladder_low"] <= found["ladder"] <= min(found["ladder_high"], found["ladder_ever"] + 1e-9)
    assert cards.load("hierarchy").threshold == 0.0
