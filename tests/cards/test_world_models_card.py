"""What the card of World Models measures: the controls share what they must, conditions count as written."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from worldformula.agent.controller import Dreams
from worldformula.agents.world_models import build, tiny
from worldformula.cards import world_models as card
from worldformula.envs import ActionSpec, Column
from worldformula.run.config import EnvConfig

SMALL = dataclasses.replace(
    tiny(), latent=3, depth=2, hidden=6, collect=200, v_steps=2, m_steps=2, generations=2, frames=8, batch=4, length=10,
    dreams=Dreams(population=4, rollouts=2, horizon=8),
)  # fmt: skip


class Known:
    """Environments of which the columns are known."""

    observations, actions = {"image": Column("image", (16, 16, 3), "uint8", 0, 255)}, ActionSpec("discrete", 3)


@pytest.mark.parametrize(("sees", "trained", "numbers"), [("z", True, 12), ("zh", False, 30)])
def test_a_control_shares_v_and_m_where_it_shall(sees: Any, trained: bool, numbers: int) -> None:
    agent = build(SMALL, Known.observations, Known.actions, 0)
    with torch.no_grad():
        for p in (*agent.see.parameters(), *agent.memory.parameters()):
            p.add_(1.0)  # it has learnt
    other: Any = card.beside(agent, dataclasses.replace(SMALL, sees=sees), Known, 0, trained=trained)
    seen = zip(agent.see.parameters(), other.see.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in seen)
    kept = [torch.equal(a, b) for a, b in zip(agent.memory.parameters(), other.memory.parameters(), strict=True)]
    assert set(kept) == {trained}
    assert other.controller.numbers == numbers
    assert other.search.generation == 0


def test_the_conditions_are_those_of_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card, "tiny", lambda: SMALL)
    monkeypatch.setattr(card, "ENV", EnvConfig("cartpole", num=2, pixels=True, size=16))
    monkeypatch.setattr(card, "EPISODES", 2)
    found = card.measure(3)
    names = ("", "_z", "_untrained", "_tau_0_3", "_tau_0_7", "_tau_1_5", "_tau_3_0")
    scores = [found[f"score{name}"] for name in names]
    assert all(8 <= score <= 500 for score in scores)  # pushed one way all along, a pole stands for 8 steps
    assert all(0 < found[f"dreamt{name}"] <= 8 for name in names)
    assert found["part"] == pytest.approx((scores[0] - 22.5) / 477.5)
    held = (scores[0] >= 22.5 + 0.6 * 477.5) + (scores[1] < 0.75 * scores[0]) + (scores[2] < 22.5 + 0.2 * 477.5)
    assert found["conditions"] == held
