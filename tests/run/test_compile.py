"""Compiled runs: the agent is asked where the machine can compile, and a word is said where it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.agent.systems.toy import ToyAgent, config
from worldformula.cli.train import Train
from worldformula.run.interact import Interact
from worldformula.training import devices
from worldformula.training.settings import override


class Compiled(ToyAgent, torch.nn.Module):
    """Notes that it was asked."""

    def __init__(self, *given: Any, **more: Any) -> None:
        torch.nn.Module.__init__(self)
        ToyAgent.__init__(self, *given, **more)
        self.asked = 0

    def compile(self, *_: Any, **__: Any) -> None:
        self.asked += 1


@pytest.mark.parametrize(("works", "asked"), [(True, 1), (False, 0)])
def test_an_agent_is_compiled_where_it_can_be(
    works: bool, asked: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not works:

        def broken(*_: Any, **__: Any) -> Any:
            raise RuntimeError("no compiler\nat all")

        monkeypatch.setattr(torch, "compile", broken)
    else:
        monkeypatch.setattr(torch, "compile", lambda function: function)
    said: list[str] = []
    run = Interact(override(config(), ["compile=true"]), Compiled, tmp_path / "run", say=said.append)
    assert run.agent.asked == asked
    assert (
        said == []
        if works
        else said == ["warning: torch.compile does not work here, so the run goes on without it (it says: no compiler)"]
    )
    assert Interact(config(), Compiled, tmp_path / "other", say=said.append).agent.asked == 0


def test_the_command_says_so(tmp_path: Path) -> None:
    assert Train(out=tmp_path / "run", env="pendulum", compile=True).config().compile
    assert not Train(out=tmp_path / "run", env="pendulum").config().compile


def test_a_compiler_is_tried(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function: function)
    assert devices.compiles(print)
    assert capsys.readouterr().out == ""
