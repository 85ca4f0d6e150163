"""What a prior shares with the world around it, and what a sequence begins with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch

from worldformula.errors import FormulaError
from worldformula.formula.code.rollout import starts
from worldformula.formula.factors.joint import Factor
from worldformula.formula.plan.plan import Plan
from worldformula.formula.syntax import factor as base
from worldformula.formula.syntax.constants import start_of
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import OverTime
from worldformula.nets.causal import Causal
from worldformula.world.state import State

ROOM = 64  # positions that the memory of a new state has room for; it grows where more come


@dataclass(frozen=True)
class Setting:
    """What a prior shares with the world around it.

    clock: its time, and what a sequence begins with. known: factors whose declared shapes hold here too. lags: what
    states keep of older steps. memories: the factors that read a past, by the key of what they keep.
    """

    clock: OverTime
    known: tuple[Factor, ...]
    lags: tuple[Variable, ...]
    memories: Mapping[str, base.Factor]


def first(
    setting: Setting,
    keys: Iterable[str],
    plans: Iterable[Plan],
    batch: int,
    device: torch.device | None,
    dtype: torch.dtype | None,
    options: Mapping[str, Any],
) -> State:
    """What a sequence begins with, for these variables of a state, whose shapes the plans know; and the memories."""
    shapes = {key: shape for plan in plans for key, shape in plan.shapes.items()}
    older = {key for plan in plans for key in plan.lags}
    begun, found = starts(setting.clock, batch, options), State()
    for key in keys:
        given = start_of(setting.clock.initial, key)
        if key in older and key not in shapes and given is None:
            raise FormulaError(
                f"initial: {key} is an older value of data, whose size no factor of the world declares\n"
                f"begin with filter, or give a factor of the world the shape, e.g. the policy as one of its heads"
            )
        zeros = torch.zeros(batch, *shapes.get(key, () if given is None else given.shape), device=device, dtype=dtype)
        given = begun.get(key, given)
        found[key] = zeros if given is None else given.to(zeros).expand_as(zeros)
    for key, factor in setting.memories.items():
        found[key] = cast(Causal, factor.net).cache(batch, ROOM, device, dtype)
    return found
