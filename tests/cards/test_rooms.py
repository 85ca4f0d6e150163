"""Rooms for cards: planners move as the environment does, episodes are fixed, and the oracle arrives."""

import numpy as np
import torch

from worldformula.cards.rooms import Episodes, Moves, at_random, oracle, play, straight
from worldformula.envs.two_rooms import moved
from worldformula.planners.cem import CEM


def test_planners_move_as_the_environment_does():
    for layout in ("two", "nine"):
        episodes, rng = Episodes.of(layout, 20), np.random.default_rng(0)
        at, s, walls = episodes.starts, torch.from_numpy(episodes.starts), torch.from_numpy(episodes.walls)
        for _ in range(40):
            a = rng.uniform(-1.5, 1.5, (20, 2))
            at, s = moved(episodes.walls, at, a), Moves()(s, torch.from_numpy(a), walls)
            np.testing.assert_allclose(s, at, atol=1e-9)


def test_episodes_are_the_same_whenever_they_are_made():
    assert Episodes.of("two", 5).fingerprint == Episodes.of("two", 5).fingerprint
    assert Episodes.of("two", 5).fingerprint != Episodes.of("two", 6).fingerprint
    assert Episodes.of("two", 5).fingerprint != Episodes.of("two", 5, seed=1).fingerprint


def test_a_perfect_critic_arrives_where_a_straight_line_does_not():
    episodes = Episodes.of("two", 12)
    found = play(episodes, oracle(episodes, CEM(8, 48, 8, 4, std=0.6), geodesic=True))
    assert found.final.hits >= 11
    assert play(episodes, straight(episodes)).final.hits <= 6
    assert play(episodes, at_random()).final.hits <= 2


def test_ever_counts_what_passes_by():
    """Who walks on past the goal has been there, and does not end there."""
    episodes = Episodes.of("two", 10)

    def past(at):
        far = episodes.goals - episodes.starts
        return (far / np.linalg.norm(far, axis=-1, keepdims=True))[:, None].repeat(5, 1)

    found = play(episodes, past, 60)
    assert found.ever.hits >= found.final.hits
    assert found.ever.hits == play(episodes, straight(episodes), 60).ever.hits
