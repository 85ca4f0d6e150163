"""``worldformula data``: lists the data sets, and shows one, or your own data, before a model sees them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from worldformula import data
from worldformula.data.base import Array
from worldformula.data.own import short
from worldformula.errors import ConfigError, WorldformulaError
from worldformula.training import settings

ROWS, COLUMNS, SHOWN = 6, 12, 10
WIDTH = 96  # characters of a line of text


@dataclass(frozen=True)
class Data:
    """List the data sets, or show one of them, or your own data as a model would get them.

    For example: worldformula data ./pngs --set data.resize=32

    Your own data are a folder of pictures (a class per subfolder), .npz, .npy, .csv, .tsv, .txt, or module:function of
    the current folder. Of pictures a file is written, of everything else a table is printed.
    """

    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NAME|PATH")] = None
    """A data set of the list, or your own."""
    settings: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(name="set", metavar="KEY=VALUE")] = ()
    """How your own data are read: data.resize, grey, crop, scale, label, skip, missing, names, length, test."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: NAME.png)")] = None
    """Where the pictures go."""

    def run(self) -> int:
        """Lists, or shows."""
        if self.name is None:
            for line in listing():
                print(line)
            return 0
        keys = [text.strip().removeprefix("data.") for text in self.settings]
        found = data.load(self.name, settings.override(data.Reading(), keys))
        for line in described(found):
            print(line)
        if (pixels := pictures(found)) is not None:
            from PIL import Image

            path = self.out or Path(f"{short(self.name)}.png")
            if not path.parent.is_dir():
                raise ConfigError(f"--out expects a file in a folder that exists, got {path}")
            Image.fromarray(pixels).save(path)
            print(f"{min(ROWS * COLUMNS, len(found.train['x']))} of the pictures: {path}")
        else:
            for line in rows(found):
                print(line)
        return 0


def listing() -> list[str]:
    """Two lines per data set: its size, columns and source; of one whose files are missing, what is missing."""
    lines = []
    for name in data.names():
        try:
            found = data.load(name)
        except WorldformulaError as error:
            lines += [f"{name} (not here)", f"    {str(error).partition('. ')[0]}. All of it: worldformula data {name}"]
            continue
        lines += [f"{name} ({_counts(found)}: {_columns(found)})", f"    {found.note}"]
    return [*lines, f"Your own: --data {data.KINDS}. Shown by: worldformula data PATH"]


def described(found: data.DataSet) -> list[str]:
    """Size, columns, source, and the numbers of every array."""
    lines = [f"{found.name}: {_counts(found)}", found.note]
    if found.shape:
        lines.append(f"a row of x: {' × '.join(map(str, found.shape))}")
    for name, array in found.train.items():
        line = f"{name} {list(array.shape[1:])} {array.dtype}: {array.min():.4g} to {array.max():.4g}"
        if array.dtype.kind in "iu" and array.ndim == 1:
            classes, count = np.unique(array, return_counts=True)
            line += f", {len(classes)} classes of {count.min()} to {count.max()} rows"
        elif array.dtype.kind == "f":
            line += f", mean {array.mean():.4g}, deviation {array.std():.4g}"
        lines.append(line)
    return lines


def pictures(found: data.DataSet) -> Array | None:
    """The first training pictures side by side, ``[H, W]`` or ``[H, W, 3]`` uint8; None where x is no picture."""
    x, shape = found.train.get("x"), found.shape
    if x is None or x.ndim < 2 or not (len(shape) == 2 or (len(shape) == 3 and shape[-1] in (1, 3))):
        return None
    if len(shape) == 2 and any(a.ndim > 1 and a.shape[1] == shape[0] for k, a in found.train.items() if k != "x"):
        return None  # a series, whose steps another array has too
    from worldformula.report.video import tile, upscale

    some = x[: ROWS * COLUMNS].reshape(-1, *shape[:2], shape[2] if len(shape) == 3 else 1).astype(np.float64)
    low, high = float(x.min()), float(x.max())
    frames = (255 * (some - low) / ((high - low) or 1.0)).round().astype(np.uint8)
    columns = min(COLUMNS, len(frames))
    frames = frames[: len(frames) - len(frames) % columns]
    return np.asarray(tile(upscale(frames, max(1, 48 // shape[1]))[:, None], columns, 2, 150)[0]).squeeze()


def rows(found: data.DataSet) -> list[str]:
    """Some training rows: of a text its characters, of anything else the first numbers."""
    x = found.train.get("x")
    if x is None:
        return []
    if found.alphabet:
        texts = ("".join(found.alphabet[c] for c in row) for row in x[:ROWS])
        return [repr(text)[:WIDTH] for text in texts]
    flat = x.reshape(len(x), -1)[:ROWS, :SHOWN]
    names = list(found.columns[:SHOWN]) or [f"x{i + 1}" for i in range(flat.shape[1])]
    cells = [names, *([f"{value:.4g}" for value in row] for row in flat.tolist())]
    widths = [max(len(row[i]) for row in cells) for i in range(len(names))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    more = x[0].size - flat.shape[1]
    return [*lines, *([f"and {more} more columns"] if more > 0 else [])]


def _counts(found: data.DataSet) -> str:
    train, test = (len(next(iter(part.values()))) for part in (found.train, found.test))
    return f"{train:,} rows to learn from, {test:,} to test on"


def _columns(found: data.DataSet) -> str:
    return ", ".join(f"{name} {list(array.shape[1:])}" for name, array in found.train.items())
