"""Without what it carries, a state of the RSSM tells the present row alone; dreams go on all the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.agents.early import COLUMNS, NUMBERS, rows
from worldformula import catalogue
from worldformula.testing import check_world
from worldformula.training.settings import override
from worldformula.world import State, World
from worldformula.worlds import rssm

B, T = 2, 5


def built(*, carry: bool) -> World:
    torch.manual_seed(0)
    return rssm.build(replace(rssm.tiny(), carry=carry), {"o": (3,)}, 2)


def batch(past: int = 0) -> dict[str, Any]:
    """Rows whose last one is always the same; what lies before it depends on ``past``."""
    draws = torch.Generator().manual_seed(past)
    found = {"x": torch.randn(B, T, 3, generator=draws), "a": torch.randn(B, T, 2, generator=draws)}
    found["x"][:, -1] = torch.tensor([0.3, -0.2, 0.9])
    return found | {"first": torch.zeros(B, T, dtype=torch.bool)}


@pytest.mark.parametrize("carry", [True, False])
def test_the_past_reaches_a_state_by_what_is_carried_alone(carry: bool) -> None:
    world = built(carry=carry)
    one, other = (world.filter(batch(past), seed=0).last() for past in (0, 1))
    assert torch.equal(one["h"], other["h"]) is not carry
    assert torch.equal(one["z"], other["z"]) is not carry
    assert bool(one["h"].any()) is carry


def test_a_dream_goes_on_from_its_last_state_and_action() -> None:
    """Without memory too the prior foresees what follows a state and an action, and is learnt."""
    world = built(carry=False)
    start = world.filter(batch(), seed=0).last()
    ahead = {
        name: world.imagine(start, actions=torch.full((B, 1, 2), by), seed=1) for name, by in (("+", 0.9), ("-", -0.9))
    }
    assert not any(dream["h"].any() for dream in ahead.values())
    parts = {f.variable.key: f for f in world.prior.factors}
    foreseen = [parts["u"].net(start["h"], start["z"], torch.full((B, 2), by)) for by in (0.9, -0.9)]
    assert not torch.allclose(*foreseen)
    given = {"r": torch.rand(B, T), "c": torch.ones(B, T)}
    world.loss(**batch(), **given, seed=0).value.backward()
    assert all(p.grad is not None and p.grad.any() for p in parts["u"].net.gates.parameters())


def test_laws() -> None:
    check_world(built(carry=False), batch() | {"r": torch.rand(B, T), "c": torch.ones(B, T)})


@pytest.mark.parametrize("carry", [True, False])
def test_an_agent_acts_by_the_present_row_alone(carry: bool) -> None:
    found = catalogue.find("dreamer_v3")
    settings = ["batch=3", "length=5", "imag_last=3", "imagine=3", f"world.carry={carry}"]
    agent = found.build(override(found.sizes("tiny"), settings), COLUMNS, NUMBERS, seed=0)
    numbers = agent.update(rows())
    assert all(np.isfinite(float(value)) for value in numbers.values())
    torch.nn.init.normal_(agent.actor.policy.net.mlp.head.weight)  # it begins at zero: all states alike
    row = {key: value[:, 2] for key, value in rows().items()}
    row["is_first"] = np.zeros_like(row["is_first"])
    draws = torch.Generator().manual_seed(0)
    states = [
        State({key: torch.randn(value.shape, generator=draws) for key, value in agent.initial(3).items()}) for _ in "ab"
    ]
    one, other = (agent.act(row, state, explore=False)[0] for state in states)
    assert np.array_equal(one, other) is not carry
