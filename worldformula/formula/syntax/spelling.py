"""How names are spelled: one letter that Unicode has several of is one letter, as in Python's own names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import TypeVar

GREEK = [
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu",
    "nu", "xi", "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega", "Gamma", "Delta",
    "Theta", "Lambda", "Xi", "Pi", "Sigma", "Upsilon", "Phi", "Psi", "Omega",
]  # fmt: skip
T = TypeVar("T")

_NAME = re.compile(r"[\w\u0300-\u036f]+")  # letters, with marks that Unicode writes behind them


def greek(letter: str) -> str:
    """``"π"`` -> ``"pi"``; any other letter (or word) stays."""
    if letter.isascii() or len(letter) > 1:
        return letter
    words = unicodedata.name(letter, "").replace("LAMDA", "LAMBDA").split()  # Unicode spells it as modern Greek does
    if words[:1] == ["GREEK"] and words[-1].lower() in GREEK:
        name = words[-1].lower()
        return name if "SMALL" in words else name.capitalize()
    return letter


def normal(text: str) -> str:
    """A text whose names are spelled as Python spells its own, in the normal form NFKC: ``ϵ`` is ε, ``ℓ`` is l.

    What stands between names, and what is no letter of a name, stays as it is: ``x²`` is not x2.
    """
    return text if text.isascii() else _NAME.sub(lambda found: _composed(found.group()), text)


def _composed(word: str) -> str:
    return unicodedata.normalize("NFKC", word) if belongs(word) else word


def belongs(word: str) -> bool:
    """Whether letters may stand in a name of Python's, which code is written with."""
    return f"_{word}".isidentifier()


def keyword(name: str) -> str:
    """The keyword that a name becomes in a call: ``f(ϵ=0.1)`` gives ``epsilon``."""
    return name if name.isascii() else "".join(greek(letter) for letter in normal(name))


def by_keyword(given: Mapping[str, T]) -> Mapping[str, T]:
    """The same values under the keywords that their names become; where two become one, all as they are."""
    if all(not isinstance(name, str) or name.isascii() for name in given):
        return given
    found = {keyword(name) if isinstance(name, str) else name: value for name, value in given.items()}
    return found if len(found) == len(given) else given
