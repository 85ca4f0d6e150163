"""What each seed measured, kept as soon as it ends: ``FOLDER/MODULE.FUNCTION/SEED.json``.

A seed is not measured again while the *code is unchanged*, which means all of

    sources    the digests of all files of this package and of the ``examples`` beside it that were imported when the
               seed ended, and of the measuring file; the command line and this machinery excepted, which decide
               nothing that is measured
    threads    of torch, as the card has them
    versions   of Python, torch and NumPy, and of those `LIBRARIES` that were imported when the seed ended
    machine    processor and accelerator

Claim, threshold, verdict and notes of the card are free to change: they judge what was measured, and do not measure.
Rows belong to the measuring function, so cards that judge one measurement in different ways share them.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import worldformula
from worldformula.cards import Card
from worldformula.cards.files import machine, write_json

ROOT = Path(worldformula.__file__).parent
APART = ("worldformula.cli", *(f"worldformula.cards.{n}" for n in ("condition", "files", "results", "rows", "run")))
"""Modules that no measurement depends on."""
LIBRARIES = {
    "sklearn": "scikit-learn", "scipy": "scipy", "zuko": "zuko", "cma": "cma", "gymnasium": "gymnasium",
    "minigrid": "minigrid", "mujoco": "mujoco", "dm_control": "dm_control",
}  # fmt: skip
"""Modules that numbers come from, and the names that they are installed by: scikit-learn has the digits and peers."""
EXAMPLES = "examples/"
"""Beside the package in a checkout: cards measure environments that are written there."""


@dataclass(frozen=True)
class Row:
    """One seed.

    Attributes:
        seed: of the measurement.
        metrics: what was measured.
        seconds: by the clock.
        cpu_seconds: of this process and of those it waited for.
        date: when it ended.
    """

    seed: int
    metrics: Mapping[str, float]
    seconds: float
    cpu_seconds: float
    date: str


class Rows:
    """The rows of one measuring function in a folder.

    Args:
        folder: of all of them; None keeps nothing.
        card: what is measured.
    """

    def __init__(self, folder: str | Path | None, card: Card) -> None:
        self.card = card
        self.folder = None if folder is None else Path(folder) / card.measure.replace(":", ".")
        if self.folder is not None:
            self._sources()  # looks at them before they can be edited

    def find(self, seed: int) -> tuple[Row | None, str]:
        """The row of a seed if it still holds; otherwise None, and why it does not ("" where there never was one)."""
        if self.folder is None or not (path := self.folder / f"{seed}.json").is_file():
            return None, ""
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            row = _row(found)
            why = self._changed(found)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None, f"{path} cannot be read"
        if row.seed != seed:
            return None, f"{path} has the seed {row.seed}"
        return (None, why) if why else (row, "")

    def keep(self, row: Row) -> None:
        """Writes it at once or not at all."""
        if self.folder is not None:
            write_json(self.folder / f"{row.seed}.json", {**asdict(row), **self._setting(), "sources": self._sources()})

    def _setting(self) -> dict[str, Any]:
        """What a row depends on besides the sources."""
        about = machine()
        beside = {name: _version(name) for module, name in LIBRARIES.items() if module in sys.modules}
        return {"threads": self.card.threads, "versions": {**about["versions"], **beside}, "machine": about["machine"]}

    def _changed(self, found: Mapping[str, Any]) -> str:
        now = self._setting()
        if now["threads"] != found["threads"]:
            return "threads changed"
        here = {name: _version(name) for name in LIBRARIES.values()} | now["versions"]
        if {name: here.get(name) for name in machine()["versions"] | found["versions"]} != found["versions"]:
            return "versions changed"
        if _kind(now["machine"]) != _kind(found["machine"]):
            return "machine changed"
        measuring = self._measuring()
        if measuring is not None and measuring not in found["sources"]:
            return f"it was not measured by {measuring}"
        unlike = [path for path, known in found["sources"].items() if _digest(path) != known]
        more = f" and {len(unlike) - 1} more" if len(unlike) > 1 else ""
        return f"{unlike[0]}{more} changed" if unlike else ""

    def _measuring(self) -> str | None:
        """The measuring file, by path beside the package; None where it has none."""
        file = getattr(sys.modules.get(self.card.measure.partition(":")[0]), "__file__", None)
        return _relative(Path(file)) if file else None

    def _sources(self) -> dict[str, str]:
        """Digests of what has been imported so far, by path beside the package."""
        measuring = self._measuring()
        found = {}
        for name, module in sorted(sys.modules.items()):
            own = name == "worldformula" or name.startswith("worldformula.")
            apart = any(name == one or name.startswith(f"{one}.") for one in APART)
            file = getattr(module, "__file__", None)
            if not file or name == "__main__":
                continue
            path = _relative(Path(file))
            if path == measuring or (own and not apart) or path.startswith(EXAMPLES):
                found[path] = _digest(path)
        return found


def _row(found: Mapping[str, Any]) -> Row:
    """What a file says of a seed; raises where a value is not of its type, as in a file that was changed by hand."""
    metrics = found["metrics"]
    numbers = [found["seconds"], found["cpu_seconds"], *metrics.values()]
    if not all(type(x) in (int, float) for x in numbers):
        raise TypeError("expected numbers")
    if type(found["seed"]) is not int or not isinstance(found["date"], str):
        raise TypeError("expected a seed and a date")
    return Row(**{key: found[key] for key in Row.__dataclass_fields__})


def _version(name: str) -> str | None:
    """Of an installed library; None where it is not."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _kind(machine: Mapping[str, Any]) -> tuple[Any, Any]:
    """What of a machine decides numbers; not how many cores it has, since threads are given."""
    return machine["processor"], machine["accelerator"]


def _relative(path: Path) -> str:
    """Beside the package, where it lies there: another checkout has the same paths."""
    path, beside = path.resolve(), ROOT.parent.resolve()
    return path.relative_to(beside).as_posix() if path.is_relative_to(beside) else str(path)


@functools.cache
def _digest(path: str) -> str:
    """Of a file as this process first saw it: what is edited while a measurement runs is not what was measured."""
    file = ROOT.parent / path
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else "missing"
