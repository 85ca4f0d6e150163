"""Factors of variation: an environment with one thing about it changed, or several that were seen apart.

What is learnt at the usual values is asked at others: one factor at a time, so that a failure has a name, and in
combinations that were held out, each of whose values was seen, but never with the other (as swm-v1 does,
arXiv:2602.08968; what that did to published worlds: arXiv:2605.21800).

    for name, options in one_at_a_time("two_rooms").items():     # "same", "colour", "size", "walls", "layout"
        Envs("two_rooms", 8, args=arguments(options))
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from worldformula.envs.registry import entries, find
from worldformula.errors import ConfigError, near

SAME = "same"  # what nothing is changed of


def factors_of(id: str) -> Mapping[str, Mapping[str, Any]]:
    """The factors of an environment of this package: name -> the arguments that vary it.

    Raises:
        ConfigError: it has none.
    """
    entry = find(id)
    if entry is None or not entry.factors:
        known = [own.alias for own in entries() if own.factors]
        raise ConfigError(
            f"{id} has no factors of variation; {', '.join(known)} {'has' if len(known) == 1 else 'have'} some."
            f"{near(id, known)}"
        )
    return entry.factors


def one_at_a_time(id: str) -> dict[str, dict[str, Any]]:
    """The arguments of every variation: nothing changed, "same", then each factor alone."""
    return {SAME: {}, **{name: dict(options) for name, options in factors_of(id).items()}}


def recombined(id: str, together: int = 2) -> dict[str, dict[str, Any]]:
    """Held-out recombinations: so many factors at once, ``"colour + size"``. Who learns from them one at a time has
    seen every value, and no two together.

    Raises:
        ConfigError: fewer than two, or more than there are; factors that change the same argument.
    """
    own = factors_of(id)
    if not 2 <= together <= len(own):
        raise ConfigError(f"expected 2 to {len(own)} factors together, got {together}")
    found = {}
    for names in itertools.combinations(own, together):
        keys = [key for name in names for key in own[name]]
        if len(set(keys)) < len(keys):
            raise ConfigError(f"the factors {' and '.join(names)} change the same argument")
        found[" + ".join(names)] = {key: value for name in names for key, value in own[name].items()}
    return found


def arguments(options: Mapping[str, Any]) -> tuple[str, ...]:
    """As ``key=value`` texts, what ``env.args`` and ``--env-arg`` take."""
    return tuple(f"{key}={value}" for key, value in options.items())
