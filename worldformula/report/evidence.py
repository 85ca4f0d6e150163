"""What a report shows beyond the logged numbers: measured once with the agent, then kept in the run folder.

``report/evidence.json`` holds numbers and texts, ``videos/report_*.webp`` the pictures, so that the page can be built
again without the agent.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import worldformula
from worldformula.envs.returns import Score
from worldformula.errors import RunFolderError
from worldformula.metrics.openloop import OpenLoop
from worldformula.run.folder import writing

if TYPE_CHECKING:
    from worldformula.formula.expressions.expression import Expression

FOLDER, FILE = "report", "evidence.json"
VIDEOS = ("episode", "dream", "strip", "words_read", "words_true", "words_swapped", "words_said", "seen", "foreseen")
PIXELS = "pixels in [0, 1]"


@dataclass(frozen=True)
class Written:
    """A formula in all its forms.

    Attributes:
        text: on one line.
        latex: for papers.
        mathml: for the page.
        code: the PyTorch that runs.
        graph: the graphical model as SVG.
    """

    text: str
    latex: str
    mathml: str
    code: str
    graph: str


@dataclass(frozen=True)
class Curve:
    """One number through a window.

    Attributes:
        name: what it is.
        truth: as it was, row by row.
        dream: what the world made of it, ``[T]`` too; of the rows that it saw, what it makes of them.
    """

    name: str
    truth: tuple[float, ...]
    dream: tuple[float, ...]


@dataclass(frozen=True)
class Heard:
    """Words, one a row, and the name of the picture above them.

    Attributes:
        name: "read" of an episode, "true" and "swapped" of what is imagined after such a hint, "said".
        note: what it shows.
        words: by row.
    """

    name: str
    note: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Timeline:
    """An episode of T rows as a world of jumps has it.

    Attributes:
        gates: the share of open gates on arriving at each row; 0 at the first.
        events: what the environment said that happened, with the row.
        begins: the rows at which a jump begins: the first, and those at which the context has just changed.
        ends: where each of them was said to end, as a row, which may lie between two.
        codes: of each the likeliest.
        shown: the rows whose frames are shown.
    """

    gates: tuple[float, ...]
    events: tuple[tuple[int, str], ...]
    begins: tuple[int, ...]
    ends: tuple[float, ...]
    codes: tuple[int, ...]
    shown: tuple[int, ...]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Timeline:
        """What was stored."""
        pairs = tuple((int(row), str(name)) for row, name in values["events"])
        return cls(**{key: tuple(value) for key, value in values.items()} | {"events": pairs})


@dataclass(frozen=True)
class Evidence:
    """Measurements of a trained agent. What was not measured, or does not exist, is None.

    Attributes:
        formula: the loss of the world model.
        reached: return of evaluation episodes that were not trained on.
        floor: return of a random policy.
        best: return of the best controller known, which may see the true state.
        open_loop: prediction error in episodes of random actions that were not trained on, on pixels or on numbers.
        on: what that error is of.
        curves: numbers of one such window beside what was dreamt, where no pictures are observed.
        videos: animated WebP by name: ``episode``, ``dream`` (rows truth, dream, error) and the stills ``strip``, and
            of jumps ``seen`` and ``foreseen``.
        strip_steps: horizons of the columns of ``strip``; 0 is the last frame that the model saw.
        heard: of an agent that reads, what it read, imagined after a sentence, and would say.
        jumps: an evaluation episode as a world of jumps has it.
        undreamt: a sentence that says why no dream is shown; empty where there is one, or where the agent has no world.
        left_out: a sentence that says what was not measured, and why; empty where nothing was left out.
        machine: where it was measured: versions, device, date.
    """

    formula: Written | None = None
    reached: Score | None = None
    floor: Score | None = None
    best: Score | None = None
    open_loop: OpenLoop | None = None
    on: str = PIXELS
    curves: tuple[Curve, ...] = ()
    videos: Mapping[str, bytes] = field(default_factory=dict)
    strip_steps: tuple[int, ...] = ()
    heard: tuple[Heard, ...] = ()
    jumps: Timeline | None = None
    undreamt: str = ""
    left_out: str = ""
    machine: Mapping[str, str] = field(default_factory=dict)

    def save(self, run: Path) -> None:
        """Writes ``run/report/`` and ``run/videos/``.

        Raises:
            RunFolderError: the folder cannot be written.
        """
        folder = run / FOLDER
        values = dataclasses.asdict(dataclasses.replace(self, videos={}))
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for name in VIDEOS:
                path = video_path(run, name)
                path.parent.mkdir(exist_ok=True)
                if name in self.videos:
                    path.write_bytes(self.videos[name])
                else:
                    path.unlink(missing_ok=True)
            draft = folder / f"{FILE}.draft"
            draft.write_text(json.dumps(_plain(values), indent=1, allow_nan=False) + "\n", encoding="utf-8")
            draft.replace(folder / FILE)


def video_path(run: Path, name: str) -> Path:
    """Where a moving picture of the report lies: beside the videos that ``worldformula dream`` writes."""
    return run / "videos" / f"report_{name}.webp"


def load(run: Path) -> Evidence | None:
    """What :meth:`Evidence.save` wrote into ``run``; None where nothing was measured yet.

    Raises:
        RunFolderError: the file is damaged.
    """
    path = run / FOLDER / FILE
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        kinds = {"formula": Written, "reached": Score, "floor": Score, "best": Score}
        parts = {name: kind(**_numbers(values[name])) for name, kind in kinds.items() if values[name] is not None}
        if (measured := values["open_loop"]) is not None:
            parts["open_loop"] = OpenLoop(**_numbers(measured))
        videos = {n: video_path(run, n) for n in VIDEOS}
        return Evidence(
            **parts,  # type: ignore[arg-type]
            videos={n: file.read_bytes() for n, file in videos.items() if file.is_file()},
            on=str(values.get("on", PIXELS)),
            curves=tuple(Curve(**_numbers(curve)) for curve in values.get("curves", ())),
            strip_steps=tuple(values["strip_steps"]),
            heard=tuple(Heard(h["name"], h["note"], tuple(h["words"])) for h in values.get("heard", ())),
            jumps=None if (jumped := values.get("jumps")) is None else Timeline.of(jumped),
            undreamt=str(values.get("undreamt", "")),
            left_out=str(values.get("left_out", "")),
            machine=values["machine"],
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunFolderError(f"{path} cannot be read ({error}); delete it, and measure again with the agent") from error


def _plain(value: Any) -> Any:
    """JSON without NaN: a standard error that does not exist is null."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse of `_plain` for a record of numbers: lists as tuples, null as NaN."""
    nan = {k: math.nan if v is None else v for k, v in values.items()}
    return {k: tuple(math.nan if e is None else e for e in v) if isinstance(v, list) else v for k, v in nan.items()}


def written(loss: Expression) -> Written:
    """All forms of a formula."""
    from worldformula.formula.graph.graph import graph, svg
    from worldformula.formula.print.mathml import mathml

    return Written(repr(loss), str(loss), mathml(loss.node), loss.code, svg(graph(loss)))


def machine(device: str) -> dict[str, str]:
    """Versions and hardware of this process, for the foot of the page."""
    return {
        "device": device,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} logical cores",
        "worldformula": worldformula.__version__,
        "Python": sys.version.split()[0],
        "PyTorch": torch.__version__,
        "NumPy": np.__version__,
        "measured": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
