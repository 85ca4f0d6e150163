"""Probability families: plain tensor maths over tuples of parameters (see `worldformula.families.base.Family`).

One family a file; a file ``x.py`` holds a default instance ``x``, which is how `discover` finds it. Note that the
attributes of this package are those instances: write ``from worldformula.families.normal import NormalFamily`` for
something else of a module.
"""

from __future__ import annotations

import importlib
import pkgutil

from worldformula.families.base import Family, Params, kl_pair, register_kl
from worldformula.families.bernoulli import BernoulliFamily, bernoulli
from worldformula.families.categorical import CategoricalFamily, categorical
from worldformula.families.normal import NormalFamily, normal
from worldformula.families.one_hot import OneHotFamily, one_hot
from worldformula.families.two_hot import TwoHotFamily, two_hot
from worldformula.families.writing import Symbol

__all__ = [
    "BernoulliFamily",
    "CategoricalFamily",
    "Family",
    "NormalFamily",
    "OneHotFamily",
    "Params",
    "Symbol",
    "TwoHotFamily",
    "bernoulli",
    "categorical",
    "discover",
    "kl_pair",
    "normal",
    "one_hot",
    "register_kl",
    "two_hot",
]


def discover() -> dict[str, Family]:
    """The default instance of every family in this folder, by name, in alphabetical order."""
    found: dict[str, Family] = {}
    for name in sorted(info.name for info in pkgutil.iter_modules(__path__)):
        instance = getattr(importlib.import_module(f"{__name__}.{name}"), name, None)
        if isinstance(instance, Family):
            found[name] = instance
    return found
