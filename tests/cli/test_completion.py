"""The Tab key: commands and options, and the names that stand behind them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from worldformula import cards, catalogue, data
from worldformula.cli import main


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("builtins.print", lambda *words, **_: printed.append(" ".join(map(str, words))))
        assert main(["completion", "bash"]) == 0
    file = tmp_path_factory.mktemp("shell") / "complete.bash"
    file.write_text("\n".join(printed))
    return file


def complete(script: Path, *words: str, folder: Path | None = None) -> list[str]:
    """What bash offers for the last word."""
    quoted = " ".join(f"'{word}'" for word in words)
    line = f"source {script}; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _worldformula; "
    line += 'printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True, cwd=folder)
    assert not done.stderr
    return done.stdout.split()


def test_names_stand_behind_commands_and_options(script: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "rows.csv").touch()
    assert complete(script, "worldformula", "fit", "v") == [
        n for n in (*catalogue.names("models"), *catalogue.names("worlds")) if n.startswith("v")
    ]
    assert complete(script, "worldformula", "fit", "vae", "--data", "ro", folder=tmp_path) == [
        *(n for n in data.names() if n.startswith("ro")), "rows.csv",
    ]  # fmt: skip
    assert set(complete(script, "worldformula", "reproduce", "")) == set(cards.names())
    assert complete(script, "worldformula", "models", "dreamer_v3") == ["dreamer_v3"]
    assert complete(script, "worldformula", "train", "--env", "pend") == ["pendulum", "pendulum_noreset"]
    assert complete(script, "worldformula", "eval", "r", folder=tmp_path) == ["runs"]
    assert complete(script, "worldformula", "plan", "r", folder=tmp_path) == ["runs"]
    assert complete(script, "worldformula", "plan", "runs", "--planner", "") == catalogue.names("planners")
    assert complete(script, "worldformula", "fit", "--run", "", folder=tmp_path) == ["runs"]


def test_commands_and_options_are_still_completed(script: Path) -> None:
    assert complete(script, "worldformula", "rep") == ["report", "reproduce"]
    assert "--resume-with" in complete(script, "worldformula", "fit", "--res")


def test_zsh_has_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zsh"]) == 0
    text = capsys.readouterr().out
    assert "compdef _worldformula worldformula wf" in text
    assert f"reproduce) compadd -- {' '.join(cards.names())}; return ;;" in text
    assert not text.rstrip().endswith('_tyro_worldformula "$@"')
