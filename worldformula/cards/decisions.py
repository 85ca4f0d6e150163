"""Times one decision: the policy of Dreamer v1 beside searches in the same world, PlaNet's and a small one."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from worldformula.agents import dreamer_v1, planet
from worldformula.envs import ActionSpec, Column
from worldformula.planner import ActionSet
from worldformula.planners.cem import CEM, build, paper
from worldformula.world import State

COLUMNS = {"image": Column("image", (32, 32, 3), "uint8", 0, 255)}


def measure(seed: int) -> dict[str, float]:
    """One episode, `tiny` networks as they begin: what they say does not change what they cost.

    Returns:
        ``speedup``: time of PlaNet's search (1000 candidates, 10 iterations, 12 steps) over that of the policy;
        ``small_speedup``: that of the search of PlaNet's preset `tiny` over the policy's; and the three times,
        ``policy_ms``, ``search_ms`` and ``small_ms``.
    """
    agent = dreamer_v1.build(dreamer_v1.tiny(), COLUMNS, ActionSpec("continuous", 1), seed)
    assert agent.actor is not None
    state, actor = State(agent.world.initial(1)), agent.actor
    took = {"policy": _seconds(lambda: actor.act(state, explore=False), 200)}
    searches = {"search": (build(paper()), 3), "small": (planet.tiny().planner, 10)}
    for name, (planner, times) in searches.items():
        took[name] = _seconds(_search(agent, planner, state), times)
    return {
        "speedup": took["search"] / took["policy"],
        "small_speedup": took["small"] / took["policy"],
        **{f"{name}_ms": 1000 * seconds for name, seconds in took.items()},
    }


def _search(agent: object, planner: CEM, state: State) -> Callable[[], object]:
    """One plan from a state."""
    world, task = agent.world, agent.cost.task()  # type: ignore[attr-defined]
    space = {"a": ActionSet(1)}
    return lambda: planner.plan(world, task, state, space=space, generators=[torch.Generator().manual_seed(0)])


def _seconds(call: Callable[[], object], times: int) -> float:
    """Processor time of one call: the fastest of so many, as others use the machine too."""
    call()
    found = []
    with torch.no_grad():
        for _ in range(times):
            begin = time.process_time()
            call()
            found.append(time.process_time() - begin)
    return min(found)
