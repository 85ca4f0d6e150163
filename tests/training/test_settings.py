"""Settings: texts become typed values, and everything else is refused with a hint."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from worldformula.errors import ConfigError
from worldformula.run.config import EnvConfig, RunConfig
from worldformula.training import settings


@dataclass(frozen=True)
class Actor:
    entropy: float = 3e-4
    """Weight of the
    entropy."""
    units: tuple[int, ...] = (64, 64)
    act: Literal["silu", "relu"] = "silu"


@dataclass(frozen=True)
class Sizes:
    actor: Actor = field(default_factory=Actor)
    horizon: int = 15
    """Imagined steps."""
    clip: float | None = None
    batch: int = 16

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise ValueError("horizon is at least 1")


CONFIG = RunConfig("toy", "tiny", EnvConfig("pendulum"), Sizes())


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("agent.horizon=5", "agent.horizon", 5),
        ("steps=1e6", "steps", 1_000_000),
        ("agent.actor.entropy=1", "agent.actor.entropy", 1.0),
        ("agent.actor.units=32,16", "agent.actor.units", (32, 16)),
        ("agent.actor.units=(8,)", "agent.actor.units", (8,)),
        ("agent.actor.act=relu", "agent.actor.act", "relu"),
        ("agent.clip=0.5", "agent.clip", 0.5),
        ("agent.clip=none", "agent.clip", None),
        ("env.pixels=yes", "env.pixels", True),
        ("env.id=a=b", "env.id", "a=b"),
    ],
)
def test_a_text_becomes_a_value_of_the_declared_type(text: str, key: str, value: object) -> None:
    changed = settings.override(CONFIG, [text])
    found = {s.key: s.value for s in settings.leaves(changed)}[key]
    assert found == value
    assert type(found) is type(value)
    expected = set() if key == "agent.clip" and value is None else {key}
    assert set(settings.differences(CONFIG, changed)) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("agent.horizn=5", "Did you mean 'agent.horizon'"),
        ("horizon=5", "Did you mean 'agent.horizon'"),
        ("entropy=1", "Did you mean 'agent.actor.entropy'"),
        ("agent.horizon.x=5", "unknown setting 'agent.horizon.x'"),
        ("agent.actor=5", "a group of settings; set one of agent.actor.entropy, "),
        ("agent.horizon=2.5", "expects a whole number, got '2.5'"),
        ("agent.horizon=0", "agent: horizon is at least 1"),
        ("agent.actor.act=gelu", "expects one of 'silu', 'relu', got 'gelu'"),
        ("agent.clip=much", "expects a number or none, got 'much'"),
        ("agent.actor.units=8,x", r"expects a list \(a whole number each\)"),
        ("env.pixels=maybe", "expects true or false"),
        ("env.num=0", "num expects a whole number of at least 1"),
        ("steps", "expected key=value, got 'steps'"),
    ],
)
def test_what_is_unknown_or_impossible_is_refused_with_a_hint(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        settings.override(CONFIG, [text])


def test_json_and_back_is_the_same_configuration(tmp_path: Path) -> None:
    import json

    config = settings.override(CONFIG, ["agent.actor.units=1,2,3", "agent.clip=1", "env.max_steps=9"])
    text = json.dumps(settings.to_dict(config))
    assert settings.from_dict(CONFIG, json.loads(text)) == config
    assert settings.from_dict(CONFIG, {"agent": {"horizon": 3}}).agent == Sizes(horizon=3)
    with pytest.raises(ConfigError, match=r"unknown setting 'agent\.horizn'\. Did you mean 'horizon'"):
        settings.from_dict(CONFIG, {"agent": {"horizn": 3}})
    with pytest.raises(ConfigError, match=r"env\.num expects a whole number"):
        settings.from_dict(CONFIG, {"env": {"num": "many"}})


def test_documentation_of_fields_is_read_from_the_source() -> None:
    docs = {s.key: s.doc for s in settings.leaves(CONFIG)}
    assert docs["agent.actor.entropy"] == "Weight of the entropy."
    assert docs["agent.clip"] == ""
    assert all(doc for key, doc in docs.items() if not key.startswith("agent."))


@dataclass(frozen=True)
class Base:
    """Settings."""

    rate: float = 0.1
    """How fast."""
    width: int = 3
    """How wide."""


@dataclass(frozen=True)
class Derived(Base):
    """More of them."""

    width: int = 4
    """How wide now."""
    depth: int = 2
    """How deep."""


def test_an_inherited_setting_has_the_words_of_its_class_and_another_one_its_own() -> None:
    assert {s.key: s.doc for s in settings.leaves(Derived())} == {
        "rate": "How fast.", "width": "How wide now.", "depth": "How deep.",
    }  # fmt: skip


def test_settings_that_only_make_sense_together_need_no_order() -> None:
    @dataclass(frozen=True)
    class Window:
        low: int = 0
        high: int = 9

        def __post_init__(self) -> None:
            if self.low > self.high:
                raise ConfigError("low > high")

    config = Window()
    assert settings.from_dict(config, {"low": 20, "high": 30}) == Window(20, 30)
    with pytest.raises(ConfigError, match="low > high"):
        settings.from_dict(config, {"low": 20})
    both = ["env.num=2", "agent.horizon=3", "env.num=3", "agent.actor.act=relu"]
    assert settings.override(CONFIG, both) == settings.override(CONFIG, [*both[:0:-1], "env.num=3"])
