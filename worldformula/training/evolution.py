"""CMA-ES (Hansen 2016, arXiv:1604.00772) of the package ``cma``, which goes on exactly after a kill.

    search = Evolution(numbers=867, population=64, spread=0.1, seed=0)
    search.tell(worths(search.ask()))            # [64, 867] -> [64], higher is better

What it was told decides, with the seed, what it asks: so its state is both, and a search that goes on is told them
again. That takes the time of its own arithmetic, and none of the evaluations. Nothing is pickled.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldformula.errors import CheckpointError, ConfigError, NonFiniteError, ShapeError

Floats = NDArray[np.float64]


class Evolution:
    """A search for the numbers of highest worth.

    Args:
        numbers: how many are searched for; it begins at zeros.
        population: candidates of a generation.
        spread: their deviation at the beginning.
        seed: of all its randomness, which is its own: NumPy's global generator is not touched.

    Raises:
        ConfigError: fewer than 2 numbers, which it cannot adapt, or 4 candidates; or, as soon as it is asked, that the
            package is not installed.
    """

    def __init__(self, numbers: int, population: int, spread: float, seed: int) -> None:
        if numbers < 2 or population < 4 or spread <= 0:
            raise ConfigError(
                f"expected numbers ≥ 2, population ≥ 4 and spread > 0, got {numbers}, {population} and {spread}"
            )
        self.numbers, self.population, self.spread, self.seed = numbers, population, spread, seed
        self.told: list[Floats] = []
        self._made: Any = None  # by the first who needs it: whoever acts with what was found does not
        self._asked: list[Floats] | None = None

    @property
    def _strategy(self) -> Any:
        """The search of the package, which was told everything."""
        if self._made is None:
            made = self._new()
            for values in self.told:
                made.tell(made.ask(), list(-values))
            self._made = made
        return self._made

    def _new(self) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that its plots need matplotlib
                import cma
        except ImportError as error:
            raise ConfigError(
                "evolution needs the package cma: pip install -e '.[evolution]' -c constraints.txt"
            ) from error
        options = {"popsize": self.population, "randn": np.random.RandomState(self.seed % 2**32).randn}
        quiet = {"seed": np.nan, "verbose": -9, "verb_log": 0, "verb_disp": 0}
        return cma.CMAEvolutionStrategy(np.zeros(self.numbers), self.spread, {**options, **quiet})

    @property
    def generation(self) -> int:
        """Generations whose worths are known."""
        return len(self.told)

    @property
    def mean(self) -> Floats:
        """The middle of the distribution ``[numbers]``: what the search favours now."""
        return np.array(self._strategy.mean, np.float64)

    def ask(self) -> Floats:
        """The candidates of this generation, ``[population, numbers]``; the same until their worths are told."""
        if self._asked is None:
            self._asked = self._strategy.ask()
        return np.stack(self._asked)

    def tell(self, worths: Floats) -> None:
        """The worths ``[population]`` of what was asked, higher is better.

        Raises:
            ShapeError: not one for each candidate.
            NonFiniteError: one is NaN or infinite.
        """
        values = np.array(worths, np.float64)
        if values.shape != (self.population,):
            raise ShapeError(f"expected the worths of {self.population} candidates, got {list(values.shape)}")
        if not np.isfinite(values).all():
            raise NonFiniteError(f"expected finite worths, got {values[~np.isfinite(values)][0]} in generation "
                                 f"{self.generation + 1}")  # fmt: skip
        self.ask()
        self._strategy.tell(self._asked, list(-values))
        self.told.append(values)
        self._asked = None

    def state(self) -> dict[str, Any]:
        """Its seed, and what it was told, ``[generations, population]``."""
        return {"seed": self.seed, "told": np.stack(self.told) if self.told else np.zeros((0, self.population))}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes back to there: the search begins anew, and is told the same once it is asked.

        Raises:
            CheckpointError: it is the state of a search of another population.
        """
        told = np.asarray(state["told"], np.float64)
        if told.ndim != 2 or told.shape[1] != self.population:
            raise CheckpointError(
                f"the stored search has {list(told.shape)} worths, and this one {self.population} candidates a "
                "generation"
            )
        self.seed = int(state["seed"])
        self.told, self._made, self._asked = list(told), None, None
