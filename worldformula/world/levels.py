"""What can be imagined in a world, by level: as it was written, checked, and what the levels share."""

from __future__ import annotations

from collections.abc import Mapping

from worldformula.errors import FormulaError
from worldformula.formula.factors.joint import Factor, Joint
from worldformula.formula.plan.histories import lags
from worldformula.world import heads as predicted
from worldformula.world.dynamics import PriorDynamics, joint
from worldformula.world.setting import Setting

Level = tuple[Joint | Factor, dict[str, Factor], dict[str, str], str | None]


def levels_given(
    prior: Joint | Factor | None,
    heads: dict[str, Factor],
    roles: Mapping[str, str] | None,
    levels: Mapping[str, PriorDynamics] | None,
    duration: str | None,
) -> dict[str, Level]:
    """What can be imagined, by level, as it was written: the single level has no name."""
    if (prior is None) == (levels is None) or (levels is not None and (heads or roles or duration)):
        raise FormulaError(
            "expected World(prior=..., heads=..., roles=...), or World(levels={'fine': PriorDynamics(prior, heads), "
            "...}), whose levels have heads, roles and durations of their own"
        )
    if levels is None:
        assert prior is not None
        return {"": (prior, heads, predicted.checked_roles(roles, heads), duration)}
    if not levels:
        raise FormulaError("levels: expected at least one level")
    for name, level in levels.items():
        if not isinstance(level, PriorDynamics):
            raise FormulaError(f"levels: expected {name!r} as PriorDynamics(prior, heads), got {level!r}")
        if level.start_given:
            raise FormulaError(
                f"levels: {name!r} has initial=..., and a world begins as its loss does; write it there, "
                f"Sum('t', ..., initial=...)"
            )
    return {name: (level.prior, level.heads, level.roles, level.duration) for name, level in levels.items()}


def merged(given: Mapping[str, Level]) -> dict[str, Factor]:
    """The heads of all levels by name."""
    heads: dict[str, Factor] = {}
    for _, own, *_ in given.values():
        if doubled := [name for name in own if name in heads and heads[name] is not own[name]]:
            raise FormulaError(
                f"two levels have a head called {doubled[0]!r}: {heads[doubled[0]]} and {own[doubled[0]]}\n"
                f"name the heads of each level, PriorDynamics(prior, heads={{'{doubled[0]}_coarse': ...}})"
            )
        heads |= own
    return heads


def within(whole: Setting, prior: Joint | Factor, heads: Mapping[str, Factor]) -> Setting:
    """What one of several levels shares with the world: it keeps the older values that it reads itself."""
    older = lags(whole.clock.index, joint(prior).factors, heads.values())
    return Setting(whole.clock, whole.known, older, whole.memories)
