"""Measures planning in latents where one thing about the rooms is as it was in no clip that the world learnt from."""

from __future__ import annotations

import argparse
from typing import Any

from worldformula.cards.jepa_mpc import SEARCH, Pictures, planned
from worldformula.cards.no_collapse import trained
from worldformula.cards.rooms import Episodes, Outcome, play, straight
from worldformula.envs.two_rooms import COLOURS
from worldformula.envs.variation import SAME, one_at_a_time, recombined
from worldformula.world import World

COUNT = 100
TOGETHER = "colour + size"  # the one recombination that is played


def measure(seed: int, count: int = COUNT) -> dict[str, float]:
    """Plays the same episodes with each factor varied alone, and with two of them.

    Returns:
        ``kept``: the lowest share of the episodes that end at the goal, of one factor, over that where nothing varies
        (``same``). Of each variation the share that ends there (``final``), its Wilson interval (``low``, ``high``),
        that ever comes there (``ever``), and the share of a straight line (``line``).
    """
    world, found = trained("pldm", seed), dict[str, float]()
    factors = one_at_a_time("two_rooms")
    for name, options in {**factors, TOGETHER: recombined("two_rooms")[TOGETHER]}.items():
        own, line = planning(world, options, count)
        print(f"  {name:14s} final {own.final}  ever {own.ever}  line {line.final.value:.2f}", flush=True)
        found |= {
            f"final_{name}": own.final.value,
            f"low_{name}": own.final.low,
            f"high_{name}": own.final.high,
            f"ever_{name}": own.ever.value,
            f"line_{name}": line.final.value,
        }
    kept = [found[f"final_{name}"] / max(found[f"final_{SAME}"], 1e-3) for name in factors if name != SAME]
    return {"kept": min(kept), **found}


def planning(world: World, options: dict[str, Any], count: int) -> tuple[Outcome, Outcome]:
    """Episodes of a variation: by the search of jepa_mpc, and straight to the goal."""
    walls = {key: value for key, value in options.items() if key == "thick"}
    episodes = Episodes.of(options.get("layout", "two"), count, **walls)
    look: dict[str, Any] = {"point": COLOURS[options["point"]]} if "point" in options else {}
    look |= {"size": options["radius"]} if "radius" in options else {}
    return play(episodes, planned(world, Pictures(episodes, **look), SEARCH)), play(episodes, straight(episodes))


def main() -> None:
    """What a seed reaches."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seed", type=int)
    parser.add_argument("--episodes", type=int, default=COUNT)
    given = parser.parse_args()
    print(measure(given.seed, given.episodes))


if __name__ == "__main__":
    main()
