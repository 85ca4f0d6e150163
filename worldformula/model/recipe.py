"""How a model is trained: the fit that `worldformula fit`, `fit` in Python and the cards all make of it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from worldformula.errors import ConfigError
from worldformula.model.contract import Model
from worldformula.training.begun import has_begun, set_begun
from worldformula.training.chains import Chains
from worldformula.training.config import FitConfig
from worldformula.training.minimise import Fitting, Inputs
from worldformula.training.recipe import Recipe
from worldformula.training.schedules import Schedule
from worldformula.training.seeding import forked


def fitting(
    model: Model, rows: Any, config: FitConfig, before: Mapping[str, FitConfig], *, seed: int,
    begins: int | None = None, inputs: Inputs | None = None,
    symbols: Mapping[str, Schedule | float] | None = None, name: str = "", **more: Any,
) -> Fitting:  # fmt: skip
    """The fit of a model: what is trained before it, what it begins with, how its rows vary, and its updates.

    Args:
        model: whose weights change.
        rows: as `Model.rows` gives them, or whatever yields batches.
        config: of its updates.
        before: those of the models before it, by name; where there are none, they are trained in the same way.
        seed: of everything that is random, in each of the fits.
        begins: seed of what the model begins with; torch's generator, where None is given.
        inputs: as in `fit`, instead of the model's own way.
        symbols: named coefficients, instead of the model's own.
        name: of a fit before another.
        more: as for `Fitting`.

    Raises:
        ConfigError: the model begins with all rows, and they are no arrays.
    """
    fresh, arrays = not has_begun(model.loss), isinstance(rows, dict)
    begins_with_rows = type(model).begin is not Model.begin
    if fresh and begins_with_rows and not arrays:
        raise ConfigError(
            f"{type(model).__name__} begins with all rows, so it expects arrays, got {type(rows).__name__}"
        )
    first = {
        key: fitting(part, rows, before.get(key, config), {}, seed=seed, symbols=part.symbols, name=key)
        for key, part in (model.before if fresh else {}).items()
    }

    def begin() -> Chains | None:
        with contextlib.nullcontext() if begins is None else forked(begins):
            if fresh and begins_with_rows:
                model.begin(rows)
            set_begun(model.loss)
            return model.chains(rows if arrays else {})

    recipe = Recipe(first, begin, model.varied, model.judged)
    return Fitting(
        model.loss, model.source(rows, config.batch) if arrays else rows, config, seed=seed,
        inputs=model.given if inputs is None else inputs, symbols=model.symbols if symbols is None else symbols,
        recipe=recipe, name=name, **more,
    )  # fmt: skip
