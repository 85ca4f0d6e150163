"""Passes: plan to plan, one file each. ``PASSES`` is the whole list, in order."""

from collections.abc import Callable

from worldformula.formula.plan.drop_unread import drop_unread
from worldformula.formula.plan.hoist_before import hoist_before
from worldformula.formula.plan.plan import Plan
from worldformula.formula.plan.sink_after import sink_after

PASSES: tuple[Callable[[Plan], Plan], ...] = (drop_unread, hoist_before, sink_after)

__all__ = ["PASSES", "drop_unread", "hoist_before", "sink_after"]
