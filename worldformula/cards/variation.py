"""Measures planning in latents where something about the rooms is as it was in no clip that the world learnt from.

Twice: of a world that has seen the usual rooms alone, with one factor changed at a time; and of one that has seen every
factor changed, one at a time, with two of them together.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from worldformula.cards.jepa_mpc import SEARCH, Pictures, planned
from worldformula.cards.no_collapse import CLIPS, FRAMES, SIZE, Clips, learn, made, trained
from worldformula.cards.rooms import Episodes, Outcome, play, straight
from worldformula.envs.two_rooms import COLOURS, MAPS, THICK, canvas, pictures, wander
from worldformula.envs.variation import SAME, one_at_a_time, recombined
from worldformula.world import World

COUNT = 100
UPDATES = 1200  # of the world that has seen every factor changed
TOGETHER = "colour + size"  # the one recombination that the world of the usual rooms plays
Options = Mapping[str, Any]


def measure(seed: int, count: int = COUNT) -> dict[str, float]:
    """Plays the same episodes with each factor varied alone, and with two of them.

    Returns:
        ``kept``: the lowest share of the episodes that end at the goal, of one factor, over that where nothing varies
        (``same``). Of each variation the share that ends there (``final``), its Wilson interval (``low``, ``high``),
        that ever comes there (``ever``), and the share of a straight line (``line``). Of the world that has seen every
        factor alone the same, behind ``seen_``; ``kept_seen`` over single factors, ``kept_recombined`` over two
        together, which it has never seen, and ``together``, the mean share of two together over that of single ones.
    """
    singles, pairs = one_at_a_time("two_rooms"), recombined("two_rooms")
    found = scored(trained("pldm", seed), {**singles, TOGETHER: pairs[TOGETHER]}, count)
    seen = scored(varied(seed), {**singles, **pairs}, count)
    return {
        "kept": lowest(found, singles),
        "kept_seen": lowest(seen, singles),
        "kept_recombined": lowest(seen, pairs),
        "together": mean(seen, pairs) / max(mean(seen, (name for name in singles if name != SAME)), 1e-3),
        **found,
        **{f"seen_{name}": value for name, value in seen.items()},
    }


def lowest(found: Mapping[str, float], names: Iterable[str]) -> float:
    """The lowest final share of these variations over that where nothing varies."""
    return min(found[f"final_{name}"] for name in names if name != SAME) / max(found[f"final_{SAME}"], 1e-3)


def mean(found: Mapping[str, float], names: Iterable[str]) -> float:
    """The mean final share of these variations."""
    return statistics.mean(found[f"final_{name}"] for name in names)


def scored(world: World, variations: Mapping[str, Options], count: int) -> dict[str, float]:
    """What a world reaches in each of these variations."""
    found = dict[str, float]()
    for name, options in variations.items():
        own, line = planning(world, options, count)
        print(f"  {name:16s} final {own.final}  ever {own.ever}  line {line.final.value:.2f}", flush=True)
        found |= {
            f"final_{name}": own.final.value,
            f"low_{name}": own.final.low,
            f"high_{name}": own.final.high,
            f"ever_{name}": own.ever.value,
            f"line_{name}": line.final.value,
        }
    return found


def varied(seed: int, updates: int = UPDATES, count: int = CLIPS) -> World:
    """The world of `no_collapse` on clips of which each shows one factor changed, or none."""
    torch.manual_seed(seed)
    world = made("pldm")
    learn(world.loss, seed, updates, clips(seed, count))
    return world


def clips(seed: int, count: int) -> Clips:
    """Clips as those of `no_collapse`, of the usual rooms and of each factor in turn: no two factors in one clip."""
    kinds = list(one_at_a_time("two_rooms").values())
    options, rng = [kinds[i % len(kinds)] for i in range(count)], np.random.default_rng([seed, 1])
    rooms = [MAPS[own.get("layout", "two")](rng, thick=own.get("thick", THICK)) for own in options]
    layouts, positions, actions = wander(seed, count, FRAMES, rooms)
    images = [
        pictures(canvas(room, SIZE), room.edge, at, False, **look(own))
        for room, at, own in zip(layouts, positions, options, strict=True)
    ]
    doors = np.array([[room.walls[4][0], room.walls[4][3]] for room in layouts])
    return Clips(torch.from_numpy(np.stack(images)), torch.from_numpy(actions), positions, doors)


def look(options: Options) -> dict[str, Any]:
    """How the point of a variation is drawn."""
    found: dict[str, Any] = {"point": COLOURS[options["point"]]} if "point" in options else {}
    return found | ({"size": options["radius"]} if "radius" in options else {})


def planning(world: World, options: Options, count: int) -> tuple[Outcome, Outcome]:
    """Episodes of a variation: by the search of jepa_mpc, and straight to the goal."""
    walls = {key: value for key, value in options.items() if key == "thick"}
    episodes = Episodes.of(options.get("layout", "two"), count, **walls)
    seen = Pictures(episodes, **look(options))
    return play(episodes, planned(world, seen, SEARCH)), play(episodes, straight(episodes))


def main() -> None:
    """What a seed reaches."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seed", type=int)
    parser.add_argument("--episodes", type=int, default=COUNT)
    given = parser.parse_args()
    print(measure(given.seed, given.episodes))


if __name__ == "__main__":
    main()
