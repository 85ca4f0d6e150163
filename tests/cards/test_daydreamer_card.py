"""What the card of DayDreamer measures: the change comes when it is said to, and recovery is counted as written."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from worldformula.cards import daydreamer as card
from worldformula.envs import Envs


def test_the_change_begins_where_the_frozen_policy_stops_learning() -> None:
    config = card.config(seed=3, learn=700)
    assert (config.steps, config.seed, config.drive.clock) == (700, 3, "virtual")
    body = Envs(config.env.id, 1, **config.env.options()).bare[0].robot.body
    assert (body.drift_from, body.push_from, body.drift_ticks) == (700, 700, 1200)
    assert (body.fade, body.pushes) == (card.FADE, card.PUSHES)
    assert config.env.action_repeat == 2


@pytest.mark.parametrize(("calm", "light", "pushed"), [(True, 1.0, False), (False, 0.4, True)])
def test_both_are_scored_in_lives_that_are_calm_or_changed_from_the_start(
    monkeypatch: pytest.MonkeyPatch, calm: bool, light: float, pushed: bool
) -> None:
    asked: list[Any] = []

    class Found:
        mean = -1.0

    def noted(agent: Any, env: Any, **options: Any) -> Found:
        asked.append((env, options))
        return Found()

    monkeypatch.setattr(card, "evaluate", noted)
    assert card.scored(None, calm=calm, seed=5) == -1.0  # type: ignore[arg-type]
    ((env, options),) = asked
    assert options == {"episodes": 24, "seed": 10_005}
    body = Envs(env.id, 1, **env.options()).bare[0].robot.body
    assert 1 - body.fade * float(body.drift(1)) == pytest.approx(light)
    assert (body.push_from == 0) == pushed


@pytest.mark.parametrize(
    ("before", "frozen", "adapted", "recovered"), [(-200, -1000, -400, 0.75), (-200, -250, -200, math.nan)]
)
def test_recovery_is_a_part_of_the_loss_and_there_is_none_without_one(
    monkeypatch: pytest.MonkeyPatch, before: float, frozen: float, adapted: float, recovered: float
) -> None:
    made = card.config

    def small(seed: int, learn: int) -> Any:
        config = made(seed, learn)
        agent = replace(config.agent, batch=2, length=6, prefill=12, imag_last=3, imagine=3)
        return replace(config, agent=agent, checkpoint_every=20)

    scores: list[bool] = []

    def scored(agent: Any, *, calm: bool, seed: int) -> float:
        scores.append(calm)
        return (before, frozen, adapted)[len(scores) - 1]

    monkeypatch.setattr(card, "config", small)
    monkeypatch.setattr(card, "scored", scored)
    found = card.measure(7, learn=20, adapt=20)
    assert scores == [True, False, False]
    assert found["minutes"] == pytest.approx(40 / 1200)
    assert found["recovered"] == pytest.approx(recovered, nan_ok=True)
