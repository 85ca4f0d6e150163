"""What a fit does besides its updates: what comes before the first one, what rows look like to them, chains that go on.

Most losses need none of it. A `Model` says what it needs by overriding methods, and `worldformula fit`, `fit` in Python
and the cards all make its recipe of them (`worldformula.model.recipe`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from worldformula.training.chains import Chains
from worldformula.training.source import Batch

if TYPE_CHECKING:
    from worldformula.training.minimise import Fitting


@dataclass(frozen=True)
class Recipe:
    """The parts of a fit that are no update.

    Attributes:
        before: fits that end before the first update, by name, one after the other.
        begin: called once, behind them; it may set weights, and returns the chains that the loss goes on with, if any.
        varied: rows as the updates see them, with noise, say; what is measured does not go through it.
        judged: the value of inputs that were held out, low where the weights are good; ``judged(given, seed)``. By
            default that of the loss, with the same noise each time.
    """

    before: Mapping[str, Fitting] = field(default_factory=dict)
    begin: Callable[[], Chains | None] = lambda: None
    varied: Callable[[Batch], Batch] = lambda rows: rows
    judged: Callable[[Batch, int], Tensor] | None = None
