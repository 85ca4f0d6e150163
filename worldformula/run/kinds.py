"""The kinds of runs: what a folder holds, and what can be done with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worldformula.errors import RunFolderError
from worldformula.run.folder import RunFolder

KINDS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "fit": (
        "a model or a world on data",
        {"to go on": "worldformula fit --run {} --resume", "its page": "worldformula report {}"},
    ),
    "interact": (
        "an agent",
        {
            "to go on": "worldformula train --run {}",
            "to measure it": "worldformula eval {}",
            "what it dreams": "worldformula dream {}",
            "its page": "worldformula report {}",
        },
    ),
    "phases": (
        "a chain of phases, each with a run of its own in a folder below it",
        {"to go on": "call the same phases again in Python"},
    ),
    "python": (
        "a fit in Python",
        {"to go on": "fit(…, run={!r}, resume=True)", "its page": "report.html in that folder"},
    ),
}
OLDER = {"fit": "fit", "worldformula.fitting.fit": "python"}  # what `command` said before there was a `kind`


def kind_of(values: Mapping[str, Any], where: object) -> str:
    """The kind of a run, from its ``config.json``; those of earlier versions too.

    Raises:
        RunFolderError: a kind that this version does not know.
    """
    older = OLDER.get(str(values["command"])) if "command" in values else "interact"
    kind = str(values.get("kind", older))
    if kind not in KINDS:
        raise RunFolderError(
            f"{where} holds a run of kind {values.get('kind', values.get('command'))!r}, which this version does not "
            f"know; it knows {', '.join(KINDS)}"
        )
    return kind


def expect(folder: RunFolder, wanted: tuple[str, ...], doing: str) -> dict[str, Any]:
    """The configuration of a folder of one of the ``wanted`` kinds.

    Raises:
        RunFolderError: it holds no run, or one of another kind; the message says what can be done with that.
    """
    values = folder.config()
    kind = kind_of(values, folder.path)
    if kind not in wanted:
        what, commands = KINDS[kind]
        wants = " or ".join(KINDS[k][0] for k in wanted)
        said = "\n".join(f"  {why}: {command.format(str(folder.path))}" for why, command in commands.items())
        raise RunFolderError(f"{folder.path} holds {what}, and {doing} expects {wants}. What it can do:\n{said}")
    return values


def settings_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings alone: a configuration without what the run itself wrote beside them."""
    return {key: value for key, value in values.items() if key not in ("kind", "command", "changed")}
