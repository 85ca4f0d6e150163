"""Updates one after another, with everything to go on exactly: `Fitting`, and its settings, `FitConfig`."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError, FormulaError, NonFiniteError
from worldformula.formula.code.out import Out
from worldformula.formula.expressions.expression import Expression
from worldformula.training.average import Average
from worldformula.training.game import Game, Player
from worldformula.training.history import History, measured
from worldformula.training.schedules import Feedback, Schedule, cosine
from worldformula.training.seeding import derived, forked, rng_state, set_rng_state
from worldformula.training.slow import followers
from worldformula.training.source import Batch, Data, source

Inputs = Mapping[str, str] | Callable[[Batch], Batch]
Callback = Callable[[int, Any], bool | None]
ROWS = 200  # of a history, unless `log_every` says otherwise
SAMPLED = 5  # steps that the mean of one row is taken over
SHOWN_EVERY = 1.0  # seconds; nothing else waits for an accelerator


@dataclass(frozen=True)
class FitConfig:
    """How a loss is minimised, by Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    steps: int = 5000
    """Updates."""
    batch: int = 128
    """Rows of a batch."""
    lr: float = 1e-3
    """Step size."""
    weight_decay: float = 0.0
    """Decoupled: each update shrinks every weight by lr × weight_decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the averages of gradient and squared gradient."""
    clip: float | None = None
    """Largest norm of the gradient."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Of the step size: constant, or to zero along half a cosine."""
    ema: float | None = None
    """Decay of a moving average of the weights, e.g. 0.999."""
    log_every: int | None = None
    """Updates per row of the history; by default a 200th of all."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} expects a whole number of at least 1, got {getattr(self, name)}")
        if not self.lr > 0 or self.weight_decay < 0 or not all(0 <= b < 1 for b in self.betas):
            raise ConfigError(
                f"expected lr > 0, weight_decay ≥ 0 and betas in [0, 1), got lr={self.lr}, "
                f"weight_decay={self.weight_decay}, betas={self.betas}"
            )
        if self.clip is not None and not self.clip > 0:
            raise ConfigError(f"clip expects a number greater than 0, or none, got {self.clip}")
        if self.schedule not in ("constant", "cosine"):
            raise ConfigError(f"schedule expects 'constant' or 'cosine', got {self.schedule!r}")
        if self.log_every is not None and self.log_every < 1:
            raise ConfigError(f"log_every expects a whole number of at least 1, got {self.log_every}")

    @property
    def interval(self) -> int:
        """Updates per row of the history."""
        return self.log_every or max(1, self.steps // ROWS)


class Fitting:
    """A fit that can stop and go on. What `state_dict` returns, with the weights in it, is all that it goes on from.

    Arguments as those of `fit`; ``short``: an epoch ends in a short batch; ``make``: parameters -> optimiser. ``step``
    counts the updates that were made.
    """

    def __init__(
        self,
        loss: Expression | Game,
        data: Data,
        config: FitConfig,
        *,
        seed: int = 0,
        inputs: Inputs | None = None,
        symbols: Mapping[str, Schedule | float] | None = None,
        names: Sequence[str] = ("x", "y"),
        short: bool = False,
        make: Callable[..., torch.optim.Optimizer] | None = None,
    ) -> None:
        if not isinstance(loss, (Expression, Game)):
            own = "; pass its loss, fit(world.loss, ...)" if hasattr(loss, "loss") else ""
            raise FormulaError(f"fit expects an expression or a Game, got {type(loss).__name__}{own}")
        if not (inputs is None or callable(inputs) or isinstance(inputs, Mapping)):
            raise ConfigError(
                f"expected inputs= as input -> column, or a function of a batch, got {inputs!r}; the columns of tuples "
                f"are called by names=('x', 'y')"
            )
        self.loss, self.config, self.step = loss, config, 0
        self.players = loss.players if isinstance(loss, Game) else {"loss": Player(loss, [loss])}
        self.moved = {name: player.parameters() for name, player in self.players.items()}
        if idle := [name for name, own in self.moved.items() if not own]:
            raise FormulaError(f"{idle[0]} has no parameters to learn: give a factor a network or an nn.Parameter")
        self.device = next(iter(self.moved.values()))[0].device
        self.followers = followers(loss, self.moved)
        self._own = make is not None
        self.optimisers = {name: make(self.moved[name]) if make else self._adam(name) for name in self.players}
        self.rates = {name: [g["lr"] for g in optimiser.param_groups] for name, optimiser in self.optimisers.items()}
        self.symbols = dict(symbols or {})
        self.history = History(average=None if config.ema is None else Average(loss, config.ema))
        self._inputs, self._names = inputs, loss.inputs if isinstance(loss, Game) else loss.program.inputs
        self._pending: list[tuple[int, list[str], Tensor]] = []
        self._sampled: list[dict[str, Tensor]] = []
        with forked(derived(seed, 1)):
            self.source = source(data, config.batch, derived(seed, 0), self.device, names, short=short)
            self._rng = rng_state()

    def advance(
        self, until: int, *, callback: Callback | None = None, show: Callable[[Fitting], None] | None = None
    ) -> History:
        """Makes updates until there were ``until`` of them."""
        self.loss.train()
        began = shown = time.perf_counter()
        with self._own_randomness():
            while self.step < until:
                outs = self._update()
                self._log(outs)
                self.step += 1
                if callback is not None and callback(self.step, outs if isinstance(self.loss, Game) else outs["loss"]):
                    break
                if show is not None and time.perf_counter() - shown >= SHOWN_EVERY:
                    self._settle()
                    show(self)
                    shown = time.perf_counter()
        self._settle()
        self.history.seconds += time.perf_counter() - began
        if show is not None:
            show(self)
        return self.history

    # ------------------------------------------------------------------------------------------------------ one update

    def batch(self) -> dict[str, Any]:
        """The next inputs of the loss, with this step's symbols."""
        return self.given(self.source.take())

    def given(self, rows: Batch) -> dict[str, Any]:
        """From rows of the data to the inputs of the loss, with this step's symbols."""
        if callable(self._inputs):
            given: dict[str, Any] = dict(self._inputs(rows))
        elif self._inputs is not None:
            given = {name: rows[column] for name, column in self._inputs.items()}
        else:
            given = {name: rows[name] for name in self._names if name in rows}
        return given | self.coefficients()

    def coefficients(self) -> dict[str, float | Tensor]:
        """The symbols at this step."""
        return {name: s(self.step) if callable(s) else s for name, s in self.symbols.items()}

    def _update(self) -> dict[str, Out]:
        """One update of everyone who moves at this step; the results by player."""
        inputs, outs = self.batch(), dict[str, Out]()
        if isinstance(self.loss, Game):
            seed = int(torch.randint(2**62, ()))
            turns = self.loss.turns(self.step)
            for done, group in enumerate(turns, 1):
                outs |= self._move(self.loss.evaluate({**inputs, "seed": seed}, group))
                self._follow(group, {name for later in turns[done:] for name in later})
        else:
            outs = self._move({"loss": self.loss(**inputs)})
            self._follow(["loss"])
        if self.history.average is not None:
            self.history.average.update()
        for symbol in self.symbols.values():
            if isinstance(symbol, Feedback):
                symbol.observe(outs["loss"] if "loss" in outs else next(iter(outs.values())))
        return outs

    def _move(self, outs: dict[str, Out]) -> dict[str, Out]:
        """Takes all gradients, each of a player's value on its own parameters alone, and then moves."""
        for left, (name, out) in zip(range(len(outs) - 1, -1, -1), outs.items(), strict=True):
            if isinstance(out.value, dict):
                raise FormulaError(
                    f"{name}: together(...) has several values, {', '.join(out.value)}, and one is minimised\nadd them "
                    f"up, or play them against each other: Game({', '.join(f'{k}=Player(...)' for k in out.value)})"
                )
            if out.value.ndim:
                raise FormulaError(
                    f"{name}: the value to minimise has the axes {list(out.value.shape)}; write .mean() behind it"
                )
            self.optimisers[name].zero_grad(set_to_none=True)
            out.value.backward(inputs=self.moved[name], retain_graph=left > 0)  # players may share what was computed
        factor = cosine(self.config.steps)(self.step) if self.config.schedule == "cosine" else 1.0
        for name in outs:
            player, optimiser = self.players[name], self.optimisers[name]
            if (clip := player.clip or self.config.clip) is not None:
                nn.utils.clip_grad_norm_(self.moved[name], clip)
            for group, rate in zip(optimiser.param_groups, self.rates[name], strict=True):
                if not self._own or self.config.schedule != "constant":  # a scheduler of the user's may move its own
                    group["lr"] = rate * factor
            optimiser.step()
        return outs

    def _follow(self, moved: Sequence[str], later: Collection[str] = ()) -> None:
        """Moves the slow copies of these players' weights; one of several players' weights after the last of them."""
        for slow, players in self.followers:
            if not players.isdisjoint(moved) and players.isdisjoint(later):
                slow.move()

    def _adam(self, name: str) -> torch.optim.Optimizer:
        player, config = self.players[name], self.config
        decay = config.weight_decay if player.weight_decay is None else player.weight_decay
        return torch.optim.AdamW(
            self.moved[name], lr=player.lr or config.lr, betas=player.betas or config.betas, weight_decay=decay,
            fused=self.device.type in ("cpu", "cuda"),
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------------------ the record

    def _log(self, outs: Mapping[str, Out]) -> None:
        """Samples the terms of some steps; nothing here waits for an accelerator."""
        interval, done = self.config.interval, self.step + 1
        if done % max(1, interval // SAMPLED) == 0:
            moving = {f"symbol/{k}": v for k, v in self.coefficients().items() if callable(self.symbols[k])}
            scalars = {k: torch.as_tensor(v, dtype=torch.float32, device=self.device) for k, v in moving.items()}
            self._sampled.append(measured(outs, isinstance(self.loss, Game)) | scalars)
        if done % interval == 0 and self._sampled:
            names = list(dict.fromkeys(name for row in self._sampled for name in row))
            means = [torch.stack([row[n] for row in self._sampled if n in row]).mean() for n in names]
            self._pending.append((done, names, torch.stack(means)))
            self._sampled = []

    def _settle(self) -> None:
        """Moves what was logged into the history; waits for the accelerator.

        Raises:
            NonFiniteError: a number is NaN or infinite.
        """
        for step, names, values in self._pending:
            row = dict(zip(names, values.tolist(), strict=True))
            if broken := next((n for n, v in row.items() if not math.isfinite(v)), None):
                raise NonFiniteError(
                    f"{broken} is {row[broken]} at step {step}. Lower lr, set clip (e.g. 1.0), or look at the data for "
                    "values that the family cannot have; loss.interpret(...) walks the formula term by term."
                )
            self.history.rows.append({"step": step, **row})
        self._pending = []

    # ------------------------------------------------------------------------------------------------------ going on

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimisers, average, place in the data, random numbers, schedules with memory, and the step."""
        feedback = {name: s.state_dict() for name, s in self.symbols.items() if isinstance(s, Feedback)}
        return {
            "step": self.step,
            "weights": self.loss.state_dict(),
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
            "average": None if self.history.average is None else self.history.average.state_dict(),
            "source": self.source.state_dict(),
            "symbols": feedback,
            "sampled": self._sampled,
            "rng": self._rng,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes back to what `state_dict` returned; the history starts anew."""
        self.loss.load_state_dict(state["weights"])
        for name, optimiser in self.optimisers.items():
            stored = state["optimisers"][name]
            if not self._own:  # settings are those of the configuration, which may have changed deliberately
                groups = zip(optimiser.state_dict()["param_groups"], stored["param_groups"], strict=True)
                stored = {**stored, "param_groups": [{**there, **own} for own, there in groups]}
            optimiser.load_state_dict(stored)
        if self.history.average is not None:
            self.history.average.load_state_dict(state["average"])
        for name, symbol in self.symbols.items():
            if isinstance(symbol, Feedback):
                symbol.load_state_dict(state["symbols"][name])
        self.source.load_state_dict(state["source"])
        self.step, self._rng = int(state["step"]), state["rng"]
        self._sampled = [{name: value.to(self.device) for name, value in row.items()} for row in state["sampled"]]
        self._pending, self.history = [], History(average=self.history.average)

    @contextlib.contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """What is drawn inside comes from the fit's own stream, and others draw as if it had not run."""
        before = rng_state()
        set_rng_state(self._rng)
        try:
            yield
        finally:
            self._rng = rng_state()
            set_rng_state(before)
