"""Grid worlds: floors of dark and bright tiles, walked over by an agent that sees 5 × 5 cells around itself.

A map has 8 × 8 cells: 4 × 4 tiles of 2 × 2 cells, each dark or bright by the toss of a coin, and a wall around them.
The agent starts in any cell, knows neither the map nor its place in it, and wanders for 50 steps: it goes on in its
direction with probability .8 where no wall is in the way, and otherwise turns to one of the moves that are free. So
every action leads to another cell, and whoever has remembered the tiles and kept count of the moves can predict what
no longer is in view. NumPy alone. A small relative of the worlds of Gregor et al. 2019 (SimCore, arXiv:1906.09237).
Digest of ``load("gridworld")``: ``b74210581ebb5913``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldformula.data.base import Array, Arrays, DataSet, Floats, Integers, Loader

SIZE, TILE, VIEW, STEPS = 8, 2, 5, 50
REACH = VIEW // 2  # cells that the agent sees to each side
PERSISTENCE = 0.8
MOVES = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])  # up, right, down, left, as (row, column)
TRAIN, TEST = 2000, 500

Flags = NDArray[np.bool_]


@dataclass(frozen=True, repr=False)
class GridWorlds(Arrays):
    """Episodes of T steps, each on a map of its own; the action at t leads from the position at t to that at t + 1.

    Attributes:
        maps: ``[N, 8, 8]`` int64: 1 dark, 0 bright.
        views: ``[N, T, 2, 5, 5]`` float32, what is around the agent, up is up, the agent in the centre. The first
            channel is 1 where the floor is dark, the second where there is wall.
        actions: ``[N, T]`` int64, a row of `MOVES`.
        position: ``[N, T, 2]`` int64, row and column in the map.
    """

    maps: Integers
    views: Floats
    actions: Integers
    position: Integers

    def rows(self, chosen: slice | Array) -> GridWorlds:
        """Some of the episodes, by a slice, indices or flags ``[N]``."""
        return GridWorlds(self.maps[chosen], self.views[chosen], self.actions[chosen], self.position[chosen])

    def in_view(self) -> Flags:
        """Which cells of the map are in view, ``[N, T, 8, 8]``."""
        near = np.abs(self.position[..., None] - np.arange(SIZE)) <= REACH  # [N, T, 2, 8]
        return np.asarray(near[:, :, 0, :, None] & near[:, :, 1, None, :])

    def lit(self) -> Floats:
        """The views as light on the map, for who knows where north and south end: ``[N, T, 2, 8, 8]``.

        The first channel is 1 where a dark tile is in view, the second where any cell is.
        """
        light = self.in_view()
        return np.stack([light & (self.maps[:, None] == 1), light], 2).astype(np.float32)


def gridworld(episodes: int = TRAIN, steps: int = STEPS, seed: int = 0) -> GridWorlds:
    """Random maps and walks.

    Args:
        episodes: how many, N.
        steps: of an episode, T.
        seed: of maps and walks.
    """
    rng = np.random.default_rng(seed)
    tiles = rng.integers(2, size=(episodes, SIZE // TILE, SIZE // TILE))
    maps = tiles.repeat(TILE, 1).repeat(TILE, 2)
    position, actions = _walk(episodes, steps, rng)
    return GridWorlds(maps, views(maps, position), actions, position)


def views(maps: Integers, position: Integers) -> Floats:
    """What is seen of maps ``[N, 8, 8]`` from positions ``[N, T, 2]``: ``[N, T, 2, 5, 5]``."""
    around = ((0, 0), (REACH, REACH), (REACH, REACH))
    dark, wall = np.pad(maps, around), np.pad(np.zeros_like(maps), around, constant_values=1)
    side = np.arange(VIEW)
    down, across = position[..., 0, None, None] + side[:, None], position[..., 1, None, None] + side
    episode = np.arange(len(maps))[:, None, None, None]
    return np.stack([dark[episode, down, across], wall[episode, down, across]], 2).astype(np.float32)


def _walk(episodes: int, steps: int, rng: np.random.Generator) -> tuple[Integers, Integers]:
    """Positions ``[N, T, 2]`` and actions ``[N, T]``, each of them a move that is free."""
    at, action = rng.integers(SIZE, size=(episodes, 2)), rng.integers(len(MOVES), size=episodes)
    positions, actions = [], []
    for _ in range(steps):
        beside = at[:, None] + MOVES
        free = ((beside >= 0) & (beside < SIZE)).all(-1)  # [N, 4]
        turn = np.where(free, rng.random(free.shape), -1).argmax(1)
        on = (rng.random(episodes) < PERSISTENCE) & free[np.arange(episodes), action]
        action = np.where(on, action, turn)
        positions.append(at)
        actions.append(action)
        at = at + MOVES[action]
    return np.stack(positions, 1), np.stack(actions, 1)


def _part(episodes: int, seed: int) -> dict[str, Array]:
    part = gridworld(episodes, seed=seed)
    moves = np.eye(len(MOVES), dtype=np.float32)[part.actions]
    return {"x": part.views.reshape(episodes, STEPS, -1), "a": moves, "map": part.maps, "position": part.position}


def _load() -> DataSet:
    note = "Walks over floors of 8 × 8 dark and bright cells behind a wall, seen through 5 × 5 of them, 50 steps."
    return DataSet("gridworld", _part(TRAIN, 0), _part(TEST, 1), (STEPS, 2, VIEW, VIEW), note)


DATA: Mapping[str, Loader] = {"gridworld": _load}
