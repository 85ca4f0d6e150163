"""The laws of a planner, for every planner of the catalogue, and for planners that break them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from worldformula.catalogue import find, names
from worldformula.planner import Plan, Planner
from worldformula.planners.cem import CEM
from worldformula.testing import check_planner


@pytest.mark.parametrize("discrete", [False, True], ids=["continuous", "discrete"])
@pytest.mark.parametrize("name", names("planners"))
def test_every_planner_of_the_catalogue(name, discrete):
    system = find(name)
    check_planner(system.build(system.sizes("tiny"), 2, discrete=discrete), 2, discrete=discrete)


@dataclass(frozen=True)
class Broken(Planner):
    """CEM with one thing wrong."""

    how: str

    def plan(self, world, cost, state, *, generators=None, warm=None) -> Plan:
        if self.how == "global randomness":
            torch.rand(1)
        generators = None if self.how == "one generator for all" else generators
        found = CEM(2, horizon=4, candidates=50, elites=5, iterations=3).plan(world, cost, state, generators=generators)
        return {
            "cost": lambda: replace(found, cost=found.cost - 1, trace=tuple(c - 1 for c in found.trace)),
            "range": lambda: replace(found, actions=found.actions * 3),
            "trace": lambda: replace(found, trace=(found.cost, *found.trace)),
        }.get(self.how, lambda: found)()


@pytest.mark.parametrize(
    ("how", "law"),
    [
        ("global randomness", "global random numbers are left alone"),
        ("one generator for all", "an episode alone gets the same plan"),
        ("cost", "the stated cost is that of the stated actions"),
        ("range", "actions lie in"),
        ("trace", "the trace never rises"),
    ],
)
def test_a_broken_law_is_found(how, law):
    with pytest.raises(AssertionError, match=rf"{law}.*broken"):
        check_planner(Broken(how), 2)
