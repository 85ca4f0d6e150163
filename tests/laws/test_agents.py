"""The laws of an agent, for every agent of the catalogue, and for agents that break them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from worldformula.catalogue import find, names
from worldformula.envs import ActionSpec, Column
from worldformula.errors import SpaceError
from worldformula.testing import check_agent
from worldformula.training import settings

COLUMNS = {"image": Column("image", (16, 16, 3), "uint8", 0, 255), "speed": Column("vector", (2,), "float32")}
ACTIONS = {
    "numbers": {"action": ActionSpec("continuous", 2)},
    "choice": {"action": ActionSpec("discrete", 3)},
    "flags": {"push": ActionSpec("flags", 2), "dice": ActionSpec("multi_discrete", 5, (2, 3))},
}
CHEAP = {"imagine": 3, "imag_last": 3, "batch": 2, "length": 8, "warmup": 1}


def tiny(name: str) -> Any:
    """The preset, with short dreams and a cheap search."""
    found = find(name).sizes("tiny")
    known = {leaf.key for leaf in settings.leaves(found)}
    found = replace(found, **{key: value for key, value in CHEAP.items() if key in known})
    cheap = [f"planner.{key}" for key in ("candidates=20", "elites=4", "iterations=2", "horizon=3")]
    cheap = cheap if "planner.horizon" in known else []
    cheap += ["dreams.population=4", "dreams.rollouts=2", "dreams.horizon=4"] if "dreams.horizon" in known else []
    free = ["world.free_nats=0"] if "world.free_nats" in known else []  # below them a prior learns nothing
    return settings.override(found, [*cheap, *free, *(["dreams.every=2"] if "dreams.every" in known else [])])


@pytest.mark.parametrize("kind", ACTIONS)
@pytest.mark.parametrize("name", names("agents"))
def test_every_agent_of_the_catalogue(name: str, kind: str) -> None:
    system, actions = find(name), ACTIONS[kind]

    def build(seed: int) -> Any:
        return system.build(tiny(name), COLUMNS, actions, seed)

    wanted = {"numbers": {"numbers"}, "choice": {"choice"}, "flags": {"flags", "choice"}}[kind]
    if wanted <= set(system.acts):
        check_agent(build, COLUMNS, actions)
        return
    fit = [other for other in names("agents") if wanted <= set(find(other).acts)]
    assert fit
    told = rf"{name} acts by numbers .+\ntake an agent for such actions: {', '.join(fit)}"
    with pytest.raises(SpaceError, match=told):
        build(0)


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        ("remembers", r"the first row forgets: action +\|.+<- broken"),
        ("batch", r"a stream alone acts alike: action +\|.+<- broken"),
        ("restless", r"an action repeats: action +\|.+<- broken"),
        ("lazy", r"weights that learn and have not moved +\|.+<- broken"),
        ("forgetful", r"weights that learn otherwise after a checkpoint +\|.+<- broken"),
    ],
)
def test_a_broken_law_is_found(broken: str, law: str, monkeypatch: pytest.MonkeyPatch) -> None:
    columns, actions = {"speed": COLUMNS["speed"]}, ACTIONS["numbers"]

    def build(seed: int) -> Any:
        agent = find("dreamer_v1").build(tiny("dreamer_v1"), columns, actions, seed)
        act, checkpoint, calls = agent.act, agent.checkpoint, [0]

        def acted(rows: Any, state: Any, explore: bool = True) -> Any:
            calls[0] += 1
            if broken == "remembers":
                rows = {**rows, "is_first": rows["is_first"] & False}
            found, after = act(rows, state, explore)
            found = found / len(found) if broken == "batch" else found
            return found * (1 - 0.1 * calls[0]) if broken == "restless" else found, after

        agent.act = acted
        if broken == "lazy":
            agent.world.register_parameter("never", torch.nn.Parameter(torch.zeros(1)))
        if broken == "forgetful":
            agent.checkpoint = lambda: {**checkpoint(), "optimiser": build(0).updates.state_dict()}
        return agent

    with pytest.raises(AssertionError, match=law):
        check_agent(build, columns, actions)
