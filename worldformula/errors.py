"""Every error of the library: a closed set, each with a code and a docstring that is its manual page.

A message says what was expected, what came, and what to write instead. Shape errors carry a table
*variable | declared | got*.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def near(word: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """The hint for a misspelt word: ``" Did you mean 'reward'?"`` or an empty string.

    >>> near("rewrd", ["reward", "action"])
    " Did you mean 'reward'?"
    """
    matches = difflib.get_close_matches(word, list(known), n=3, cutoff=cutoff)
    return f" Did you mean {' or '.join(repr(m) for m in matches)}?" if matches else ""


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A plain text table, indented by two spaces, for the body of a message."""
    cells = [list(header), *([str(c) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return "\n".join("  " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)


class WorldformulaError(Exception):
    """Base of every error that the library raises on purpose."""

    code = "error"


# ---------------------------------------------------------------------------------------------- the formula language


class FormulaError(WorldformulaError, ValueError):
    """A formula cannot be read, built or evaluated."""

    code = "formula"


class HeaderError(FormulaError):
    """The text of a factor, such as ``"q(z|x)"``, cannot be read. The message points at the character.

    >>> from worldformula import Normal
    >>> Normal("q(z|x y)", shape=2)
    Traceback (most recent call last):
    worldformula.errors.HeaderError: expected ',' or ')', found 'y'
        q(z|x y)
              ^
    """

    code = "header"


class UnknownVariableError(FormulaError):
    """A call names a variable that the formula does not have. The message lists the near misses."""

    code = "unknown-variable"


class MissingInputError(FormulaError):
    """A call lacks a variable that the formula reads as data."""

    code = "missing-input"


class ShapeError(FormulaError):
    """A value does not have the declared event shape, or two batch shapes would broadcast silently."""

    code = "shape"


class HeadError(FormulaError):
    """The network of a factor returned a tensor that does not split into the family's parameters."""

    code = "head-width"


class DuplicateVariableError(FormulaError):
    """Two factors of one expectation declare the same variable."""

    code = "two-factors"


class CycleError(FormulaError):
    """The factors of a product need each other at the same time step."""

    code = "cycle"


class GradientError(FormulaError):
    """An expectation over a factor without reparametrised samples does not say how its gradient is estimated."""

    code = "no-gradient"


class NoClosedFormError(FormulaError):
    """A KL (or entropy) has no closed form for this pair of families."""

    code = "no-closed-form"


class TimeError(FormulaError):
    """A time subscript cannot be carried out: no ``Sum`` over it, or a carry without a declared shape."""

    code = "time"


# --------------------------------------------------------------------------------------------------- running things


class ConfigError(WorldformulaError, ValueError):
    """A configuration key does not exist, or its value is impossible."""

    code = "config"


class EnvironmentIdError(WorldformulaError, ValueError):
    """No environment has this id. The message lists the near misses."""

    code = "environment-id"


class SpaceError(WorldformulaError, ValueError):
    """An observation or action space is not supported, or a value lies outside its space."""

    code = "space"


class NonFiniteError(WorldformulaError, ValueError):
    """An observation, a reward or a loss is NaN or infinite."""

    code = "non-finite"


class ReplayError(WorldformulaError, ValueError):
    """The replay has too little data, or its files do not fit its description."""

    code = "replay"


class CheckpointError(WorldformulaError, OSError):
    """A checkpoint is missing, truncated or corrupted, or does not fit the model."""

    code = "checkpoint"


class RunFolderError(WorldformulaError, OSError):
    """The run folder cannot be written, or belongs to another configuration."""

    code = "run-folder"


class CatalogueError(WorldformulaError, LookupError):
    """No system, card or preset has this name. The message lists the near misses."""

    code = "catalogue"


class CardError(WorldformulaError, ValueError):
    """A card lacks a field, has an unknown one or an impossible value; or its measurement lacks the metric."""

    code = "card"
