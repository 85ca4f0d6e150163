"""Your own data: a folder of pictures, ``x.npz``, ``t.csv``, ``t.txt``, or ``module:function`` of the current folder.

All become a `DataSet` with the arrays ``x`` and, where there are classes, ``y``; a part of the rows is kept for tests.
What was done to the values (sizes, ranges, columns) stands in ``note``, which a run prints first.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from worldformula.data.arrays import array_file, from_arrays, parted
from worldformula.data.base import DataSet
from worldformula.data.picture_folder import picture_folder
from worldformula.data.table_file import table_file
from worldformula.data.text_file import text_file
from worldformula.errors import ConfigError

MINARI = "minari:"  # before the name of one of its data sets, for worlds
KINDS = "a folder of pictures, .npz, .npy, .csv, .tsv, .txt, or module:function"


@dataclass(frozen=True)
class Reading:
    """How own data are read, ``--set data.resize=32``. Options of another kind of data change nothing."""

    resize: int | None = None
    """Pictures: side in pixels that all are brought to."""
    grey: bool = False
    """Pictures: one channel instead of three."""
    crop: bool = True
    """Pictures that are resized: cut to the middle square first, instead of squeezed."""
    scale: Literal["standard", "unit", "none"] = "standard"
    """Numeric columns of a table: less their mean, over their deviation; from 0 to 1; or as they are."""
    label: str = ""
    """Tables: the column of classes, which becomes y."""
    skip: tuple[str, ...] = ()
    """Tables: columns to leave out."""
    missing: Literal["refuse", "drop", "fill"] = "refuse"
    """Tables: of an empty cell. Drop the row, or fill in the mean (of texts: a class of its own)."""
    names: tuple[str, ...] = ()
    """Arrays: new names, e.g. x=images,y=labels."""
    length: int = 64
    """Texts: characters of a row. Episodes and sentences: rows of a window."""
    env: str = ""
    """Texts, of a world that reads: the environment whose words they are. A row is then a word and a line an episode;
    whatever else that environment shows or takes is zero, and not learnt."""
    env_args: tuple[str, ...] = ()
    """Arguments of that environment, as of --env-arg and of its settings, e.g. pixels=true,size=32."""
    test: float = 0.2
    """Share of the rows that is kept for tests."""

    def __post_init__(self) -> None:
        if self.resize is not None and self.resize < 1:
            raise ConfigError(f"data.resize expects a whole number of at least 1, got {self.resize}")
        if self.length < 1:
            raise ConfigError(f"data.length expects a whole number of at least 1, got {self.length}")
        if not 0 < self.test < 1:
            raise ConfigError(f"data.test expects a share between 0 and 1, got {self.test}")
        if wrong := [text for text in self.names if "=" not in text]:
            raise ConfigError(f"data.names expects new=old, e.g. x=images, got {wrong[0]!r}")


def is_own(text: str) -> bool:
    """Whether a text means data of the user's: a path or module:function, and no name of a data set."""
    signs = (os.sep, "/", ".")
    return is_function(text) or any(sign in text for sign in signs) or (text != "" and Path(text).exists())


def located(text: str) -> str:
    """A path from the root on, so that a run finds its data from every folder; module:function as it is."""
    if is_function(text) or text.startswith(MINARI) or not is_own(text):
        return text
    return str(Path(text).expanduser().resolve())


def short(text: str) -> str:
    """What a run folder is called after: ``pngs`` of ``./pngs``, ``t`` of ``t.csv``, ``f`` of ``module:f``."""
    if text.startswith(MINARI):
        return re.sub(r"\W+", "-", text.removeprefix(MINARI))
    return text.rpartition(":")[2] if is_function(text) else Path(text).expanduser().resolve().stem


def read(text: str, how: Reading | None = None) -> DataSet:
    """The data that a path or ``module:function`` leads to.

    Raises:
        ConfigError: nothing is there, or it cannot be read as data; the message says what to write instead.
    """
    how = how or Reading()
    if is_function(text):
        return _made(text, how)
    if text.startswith(MINARI):
        raise ConfigError(f"{text} holds episodes, which are for worlds: worldformula fit rssm --data {text}")
    path = Path(text).expanduser()
    if not path.exists():
        raise ConfigError(f"{path} does not exist. Data of your own are {KINDS}.")
    if path.is_dir():
        return picture_folder(path, how.resize, grey=how.grey, crop=how.crop, test=how.test)
    match path.suffix.lower():
        case ".npz" | ".npy":
            return array_file(path, _renamed(how.names), how.test)
        case ".csv" | ".tsv":
            return table_file(path, how.scale, how.label, how.skip, how.missing, how.test)
        case ".txt":
            return text_file(path, how.length, how.test)
        case suffix:
            raise ConfigError(
                f"{path}: no reader for {suffix or 'a file without a suffix'}. Data of your own are {KINDS}."
            )


def is_function(text: str) -> bool:
    """Whether a text is ``module:function``."""
    module, colon, name = text.partition(":")
    return bool(colon) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def called(text: str) -> Any:
    """What the function ``module:function`` of the current folder, or installed, returns.

    Raises:
        ConfigError: there is no such module or function.
    """
    module, _, name = text.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        function = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:  # the module is there, and imports what is not
            raise ConfigError(f"{text}: {module} cannot be imported: {error}") from error
        raise ConfigError(f"{text}: no module {module!r} in {here}, nor installed") from error
    except AttributeError as error:
        raise ConfigError(f"{text}: {module} has no {name}") from error
    return function()


def _made(text: str, how: Reading) -> DataSet:
    """What a function without arguments returns: a `DataSet`, arrays by name, one array, or a pair (train, test)."""
    made = called(text)
    if isinstance(made, DataSet):
        return dataclasses.replace(made, name=text)
    note = f"What {text} returned."
    if isinstance(made, tuple) and len(made) == 2:
        return parted(text, _named(made[0], text, how), _named(made[1], text, how), note)
    return from_arrays(text, _named(made, text, how), how.test, note)


def _named(made: Any, text: str, how: Reading) -> dict[str, Any]:
    if hasattr(made, "__array__"):
        made = {"x": made}
    if not isinstance(made, Mapping) or not made:
        raise ConfigError(
            f"{text} returned {type(made).__name__}; expected a dict of arrays {{'x': …, 'y': …}}, one array, "
            "or a pair (train, test) of those"
        )
    new = _renamed(how.names)
    return {new.get(str(key), str(key)): np.asarray(value) for key, value in made.items()}


def _renamed(names: tuple[str, ...]) -> dict[str, str]:
    """Old name -> new one."""
    return {old.strip(): new.strip() for new, _, old in (text.partition("=") for text in names)}
