"""Data sets by name, found by listing this folder; and the replay of an agent's experience (`replay`).

A file that ends in ``DATA = {"name": function without arguments}`` offers data sets. All but those of `local` are made
or come with scikit-learn: nothing is ever downloaded. `load` reads your own data too, from a path: see `own`.

>>> data = load("sprites")
>>> data.shape, {key: array.shape for key, array in data.train.items()}
((16, 16), {'x': (640, 256), 'factors': (640, 4)})
>>> load("sprite")
Traceback (most recent call last):
worldformula.errors.CatalogueError: no data set is called 'sprite', nor a file or a folder. Did you mean 'sprites'...
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from worldformula.data.base import DataSet, Loader
from worldformula.data.own import KINDS, Reading, is_own, read
from worldformula.errors import CatalogueError, ConfigError, near

__all__ = ["KINDS", "DataSet", "Reading", "load", "names"]


def names() -> list[str]:
    """The names of all data sets, sorted."""
    return sorted(_loaders())


def load(name: str, how: Reading | None = None) -> DataSet:
    """The data set of this name, or your own data; the same arrays at every call. ``digits_17`` finds ``digits-17``.

    Args:
        name: one of `names`, a path (a folder of pictures, .npz, .csv, .txt), or ``module:function``.
        how: own data are read, see `Reading`.

    Raises:
        CatalogueError: no data set has this name.
        ConfigError: a package or a local file that it is read from is missing; the message says how to get it.
    """
    found = _loaders()
    wanted = name.replace("_", "-").lower()
    if wanted in found:
        if how is not None and how != Reading():
            raise ConfigError(f"{wanted} is read as it is; data.resize and its like are for data of your own")
        return found[wanted]()
    if is_own(name):
        return read(name, how)
    guess = near(name, [path.name for path in Path().iterdir()]) or near(wanted, found)
    raise CatalogueError(
        f"no data set is called {name!r}, nor a file or a folder.{guess} There are: {', '.join(sorted(found))}. "
        f"Data of your own are {KINDS}."
    )


def _loaders() -> dict[str, Loader]:
    """Name -> function, from ``DATA`` of every file in this folder; the files themselves import NumPy alone."""
    found: dict[str, Loader] = {}
    for module in pkgutil.iter_modules(__path__):
        offered = getattr(importlib.import_module(f"{__name__}.{module.name}"), "DATA", {})
        twice = found.keys() & offered.keys()
        if twice:
            raise CatalogueError(f"{module.name}.py offers {', '.join(sorted(twice))}, which another file offers too.")
        found.update(offered)
    return found
