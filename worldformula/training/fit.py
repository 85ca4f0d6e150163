"""One training loop for every loss: an expression or a game, tensors or a stream, with everything to go on exactly.

history = fit(loss, {"x": images}, steps=5000, batch=128, ema=0.999)
with history.averaged():                     # the moving average of the weights
    pictures = decode.sample(z=prior.sample(sample_shape=(64,)))

`fit` is a few lines around `Fitting`, which can also run in parts and be stored in between. It is the loop alone, for a
script of your own: it needs torch and numpy, writes nothing, and calls you back after every update. That of
`worldformula.fitting` is for what shall be kept, or is no bare loss: it takes a `Model`, and data by path or name, and
leaves a run folder with a page, which goes on after a stop. Both make the same updates.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from worldformula.errors import ConfigError
from worldformula.formula.expressions.expression import Expression
from worldformula.training.chosen import Make, chosen
from worldformula.training.game import Game
from worldformula.training.history import Best, Chart, History, measured
from worldformula.training.minimise import Callback, FitConfig, Fitting, Inputs
from worldformula.training.progress import Progress
from worldformula.training.schedules import Schedule
from worldformula.training.seeding import derived
from worldformula.training.source import Data, per_epoch, readied
from worldformula.training.validation import Validation

__all__ = ["Best", "Chart", "FitConfig", "Fitting", "History", "fit", "measured", "pursue", "updates"]


def fit(
    loss: Expression | Game, data: Data, *, batch: int, steps: int | None = None, epochs: int | None = None,
    lr: float | None = None, weight_decay: float = 0.0, betas: tuple[float, float] = (0.9, 0.999),
    clip: float | None = None, schedule: Literal["constant", "cosine"] = "constant", ema: float | None = None,
    log_every: int | None = None, seed: int = 0, inputs: Inputs | None = None, names: Sequence[str] = ("x", "y"),
    symbols: Mapping[str, Schedule | float] | None = None, optimizer: Make | None = None,
    validation: Data | None = None, callback: Callback | None = None, progress: bool = False,
) -> History:  # fmt: skip
    """Minimises an expression, or plays a game: weights change in place, slow copies (``factor.slow``) follow them.

    Args:
        loss: an expression with a scalar value, or a `Game`.
        data: name -> ``[N, ...]`` tensors or arrays, shuffled in epochs; one array; a Dataset or rows as dicts, taken
            one by one; a DataLoader or another iterable of batches; or a function that makes a batch.
        batch: rows of a batch (a DataLoader, a function or an iterable decides itself).
        steps: updates; or
        epochs: passes over the data, exactly: the last batch of each is as short as it comes.
        lr: step size, .001 by default.
        weight_decay: decoupled.
        betas: of Adam.
        clip: largest norm of the gradient.
        schedule: of the step size.
        ema: decay of a moving average of the weights; see `History.averaged`.
        log_every: updates per row of the history.
        seed: of the order of the data, the noise, and whatever the networks draw. Torch's own generators are put back.
        inputs: input of the loss -> column of the data, or a function from a batch to the inputs, where noise may be
            added or a value be hidden. By default a column serves the input of its name.
        names: of the columns, where the data have none: of tuples ``(x, y)``, of one array.
        symbols: named coefficients of the formula: a number, a schedule, or a `Feedback` such as `Geco`.
        optimizer: a class of torch.optim (called with ``lr``, where it is given), a function of the parameters, or for
            one player an optimiser that was made; instead of AdamW.
        validation: data of the same kinds; measured after every epoch, or twenty times; `History.best` is the best.
        callback: called as ``callback(step, out)`` after every update (of a game: outs by player); True ends the fit.
        progress: show a bar, or a line every few seconds where there is no terminal.

    Raises:
        FormulaError: the loss is no scalar, no network learns, or a slow copy follows weights that are not moved here.
        ConfigError: neither or both of steps and epochs, or epochs of data without a length.
        NonFiniteError: a value was NaN or infinite; seen at the end of a second or of the fit, not at once.
    """
    ready = readied(data, names)
    length = None if epochs is None else per_epoch(ready, batch)
    config = FitConfig(
        updates(steps, epochs, length),
        batch,
        FitConfig.lr if lr is None else lr,
        weight_decay,
        betas,
        clip,
        schedule,
        ema,
        log_every,
    )
    make = None if optimizer is None else chosen(optimizer, config, lr)
    fitting = Fitting(
        loss, ready, config, seed=seed, inputs=inputs, symbols=symbols, names=names, short=epochs is not None, make=make
    )  # fmt: skip
    judge = None if validation is None else Validation(fitting, validation, batch, names, derived(seed, 2))
    with Progress(config.steps) if progress else contextlib.nullcontext() as show:
        return pursue(fitting, length or max(1, config.steps // 20), judge, callback=callback, show=show)


def updates(steps: int | None, epochs: int | None, length: int | None) -> int:
    """How many.

    Raises:
        ConfigError: neither or both were given, or fewer than one.
    """
    if (steps is None) == (epochs is None):
        raise ConfigError("fit expects either steps= (updates) or epochs= (passes over the data)")
    if epochs is not None and epochs < 1:
        raise ConfigError(f"epochs expects a whole number of at least 1, got {epochs}")
    return (epochs or 1) * (length or 1) if steps is None else steps


def pursue(
    fitting: Fitting,
    every: int,
    validation: Validation | None = None,
    *,
    after: Callable[[], None] | None = None,
    callback: Callback | None = None,
    show: Callable[[Fitting], None] | None = None,
) -> History:
    """Makes all updates; after ``every`` few, measures the validation data and calls ``after``."""
    steps = fitting.config.steps
    if validation is None and after is None:
        return fitting.advance(steps, callback=callback, show=show)
    while fitting.step < steps:
        goal = min((fitting.step // every + 1) * every, steps)
        fitting.advance(goal, callback=callback, show=show)
        ended = fitting.step < goal
        if validation is not None and not ended:
            validation.measure()
        if after is not None:
            after()
        if ended:
            break
    return fitting.history
