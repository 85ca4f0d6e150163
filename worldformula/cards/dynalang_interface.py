"""Measures where words belong: one a row to the world, or all that were heard to the policy alone.

The task, the play and the updates are those of `dynalang_hint`, for both. Of the second the world neither reads nor
predicts a word; its policy and its critic read which were heard in the episode, in dreams too (`world.aside`).
"""

from __future__ import annotations

from functools import partial

from worldformula.agent.imagination import ImaginationAgent
from worldformula.cards.dynalang_hint import ALL, learnt, success


def measure(seed: int) -> dict[str, float]:
    """Learns either way from the same play, then from what it does itself, and plays episodes.

    Returns:
        Success of ``world``, words to the world, after half of the updates of everything, and ``world_all`` after all;
        and of ``policy``, words to the policy alone, after half and all, ``policy_half`` and ``policy``. The updates of
        the world alone, of both, are ``begun``.
    """
    found: dict[str, float] = {}

    def look(name: str, agent: ImaginationAgent, updates: int) -> None:
        if 2 * updates == ALL:
            found[name] = _succeeds(agent, seed)

    reader, known = learnt(seed, "true", then=partial(look, "world"))
    begun = [some.updates for some in known]
    told, _ = learnt(seed, "true", begun, aside=True, then=partial(look, "policy_half"))
    return {**found, "world_all": _succeeds(reader, seed), "policy": _succeeds(told, seed), "begun": float(sum(begun))}


def _succeeds(agent: ImaginationAgent, seed: int) -> float:
    return success(agent, seed, ("true",))[0]
