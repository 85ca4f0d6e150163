"""The laws of a planner, for every planner of the catalogue, and for planners that break them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from worldformula.catalogue import find, names
from worldformula.formula import Deterministic
from worldformula.nets.observed import Residual
from worldformula.planner import ActionSet, Plan, Planner, Task
from worldformula.planners.cem import CEM
from worldformula.planners.gradient import Gradient
from worldformula.planners.grasp import GRASP
from worldformula.planners.icem import ICEM
from worldformula.planners.lagrangian import Lagrangian
from worldformula.planners.mppi import MPPI
from worldformula.planners.predictive_sampling import PredictiveSampling
from worldformula.testing import check_planner
from worldformula.world import PriorDynamics


@pytest.mark.parametrize("name", names("planners"))
def test_every_planner_of_the_catalogue(name):
    system = find(name)
    planner = system.build(system.sizes("tiny"))
    several = {"u": ActionSet(3, "choice"), "w": ActionSet(2, "flags")}
    spaces = {
        ("numbers",): [{"a": ActionSet(2)}],
        ("choice",): [{"a": ActionSet(3, "choice")}],
        ("choice", "flags"): [{"a": ActionSet(3, "choice")}, several],
    }
    for space in spaces.get(system.acts, [None]):
        check_planner(planner, space)


@pytest.mark.parametrize(
    "planner",
    [
        CEM(5, 150, 15, 6),
        ICEM(5, 128, 10, 4),
        MPPI(5, 150, 15, 6),
        PredictiveSampling(5, 300),
        Gradient(5, 4, 10),
        GRASP(5, 4, 12, every=6, descents=1, refine=5),
    ],
    ids=lambda own: type(own).__name__,
)
def test_in_a_network_no_plan_depends_on_how_many_are_made_at_once(planner):
    """What is rounded otherwise in a larger product of matrices must choose no other elites: elsewhere a batch of 16
    episodes and not of 1 changed 99 of 400 outcomes.
    """
    torch.manual_seed(0)
    net = Residual(16, 2, 64)
    torch.nn.init.normal_(net.net.head.weight, std=0.1)
    dynamics = PriorDynamics(Deterministic("z_t = f(z_{t-1}, a_{t-1})", net.requires_grad_(False), shape=16))
    starts, goal = torch.randn(20, 16), torch.randn(16)
    task = Task(lambda states, _: (states["z"] - goal).square().sum(-1))

    def planned(which):
        own = [torch.Generator().manual_seed(i) for i in which]
        return planner.plan(dynamics, task, {"z": starts[which]}, space={"a": ActionSet(2)}, generators=own)

    whole = planned(list(range(20)))
    for size in (1, 16):
        for first in range(0, 20, size):
            rows = list(range(first, min(first + size, 20)))
            found = planned(rows)
            torch.testing.assert_close(found.actions["a"], whole.actions["a"][rows])
            torch.testing.assert_close(found.states["z"], whole.states["z"][rows])


@dataclass(frozen=True)
class Broken(Planner):
    """CEM with one thing wrong."""

    how: str

    def plan(self, dynamics, task, state, *, space, generators=None, warm=None, proposals=None, mask=None) -> Plan:
        if self.how == "global randomness":
            torch.rand(1)
        generators = None if self.how == "one generator for all" else generators
        mask = None if self.how == "mask" else mask
        proposals = None if self.how == "proposals" else proposals
        if self.how == "warm" and warm is not None:
            warm = {k: v.nan_to_num(0.9) for k, v in warm.items()}
        bound, task = task.constraints, replace(task, constraints={})
        planner = CEM(horizon=4, candidates=50, elites=5, iterations=3)
        given = {"space": space, "generators": generators, "warm": warm, "proposals": proposals, "mask": mask}
        found = planner.plan(dynamics, task, state, **given)
        if bound and self.how != "constraints":
            found = Lagrangian(planner).plan(dynamics, replace(task, constraints=bound), state, **given)
            return replace(found, cost=found.cost - 1) if self.how == "cost under constraints" else found
        return {
            "cost": lambda: replace(found, cost=found.cost - 1, trace=tuple(c - 1 for c in found.trace)),
            "range": lambda: replace(found, actions={k: v * 3 for k, v in found.actions.items()}),
            "states": lambda: replace(found, states=found.states | {"s": found.states["s"] + 1}),
            "trace": lambda: replace(found, trace=(found.cost, *found.trace)),
        }.get(self.how, lambda: found)()


@pytest.mark.parametrize(
    ("how", "law"),
    [
        ("global randomness", "global random numbers are left alone"),
        ("one generator for all", "an episode alone gets the same plan"),
        ("cost", "the stated cost is that of the stated actions"),
        ("range", "actions are in their set: a"),
        ("states", "the states are those of a dream under them"),
        ("warm", "a cold episode beside warm ones is planned as cold: a"),
        ("trace", "the trace never rises"),
        ("cost under constraints", "so is that under constraints"),
        ("constraints", "the violation of constraints is stated, where they are not refused"),
    ],
)
def test_a_broken_law_is_found(how, law):
    with pytest.raises(AssertionError, match=rf"{law}.*broken"):
        check_planner(Broken(how), {"a": ActionSet(2)})


def test_a_planner_that_forgets_the_mask_is_found():
    with pytest.raises(AssertionError, match=r"no forbidden choice is taken: a.*broken"):
        check_planner(Broken("mask"), {"a": ActionSet(3, "choice")})
