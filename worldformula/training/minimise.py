"""Updates one after another, with everything to go on exactly: `Fitting`."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError, FormulaError, NonFiniteError
from worldformula.formula.code.out import Out
from worldformula.formula.expressions.expression import Expression
from worldformula.training.average import Average
from worldformula.training.chains import Chains
from worldformula.training.config import FitConfig
from worldformula.training.early import Best, held_out
from worldformula.training.game import Game, Player
from worldformula.training.history import History, measured
from worldformula.training.recipe import Recipe
from worldformula.training.schedules import Feedback, Schedule, cosine
from worldformula.training.seeding import derived, forked, rng_state, set_rng_state
from worldformula.training.slow import followers
from worldformula.training.source import Batch, Data, readied, source

Inputs = Mapping[str, str] | Callable[[Batch], Batch]
Callback = Callable[[int, Any], bool | None]
SAMPLED = 5  # steps that the mean of one row is taken over
SHOWN_EVERY = 1.0  # seconds; nothing else waits for an accelerator


class Fitting:
    """A fit that can stop and go on. What `state_dict` returns, with the weights in it, is all that it goes on from.

    Arguments as those of `fit`; ``short``: an epoch ends in a short batch; ``make``: parameters -> optimiser;
    ``recipe``: what comes before the first update and around each; ``name``: of a fit that is part of another's recipe.
    ``step`` counts the updates that were made, ``goal`` those that there will have been.
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
        recipe: Recipe | None = None,
        name: str = "",
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
        self.recipe, self.name = recipe or Recipe(), name
        self.chains: Chains | None = None
        self.best: Best | None = None
        self._begun, self._ended = recipe is None, False
        self._last: dict[str, Tensor] | None = None  # of the last update, where the best of all have taken their place
        self.history = History(average=None if config.ema is None else Average(loss, config.ema))
        self._inputs, self._names = inputs, loss.inputs if isinstance(loss, Game) else loss.program.inputs
        self._pending: list[tuple[int, list[str], Tensor]] = []
        self._sampled: list[dict[str, Tensor]] = []
        if config.held:
            data = self._hold(data, names, seed)
        with forked(derived(seed, 1)):
            self.source = source(data, config.batch, derived(seed, 0), self.device, names, short=short)
            self._rng = rng_state()

    @property
    def first(self) -> Fitting | None:
        """The fit before this one that goes on now; None once this one has begun."""
        before = [] if self._begun else [*self.recipe.before.values()]
        return next((fitting for fitting in before if fitting.step < fitting.goal), None)

    @property
    def goal(self) -> int:
        """Updates of the whole fit, fewer where the patience ended."""
        return self.step if self._ended else self.config.steps

    def advance(
        self, until: int, *, callback: Callback | None = None, show: Callable[[Fitting], None] | None = None
    ) -> History:
        """Makes updates until there were ``until`` of them; before the first, what its recipe begins with."""
        if not self._begin(callback, show) or self._ended:
            return self.history
        self.loss.train()
        began = shown = time.perf_counter()
        with self._own_randomness():
            while self.step < until:
                outs = self._update()
                self._log(outs)
                self.step += 1
                if self.best is not None:
                    self._judge(self.best)
                told = callback is not None and callback(
                    self.step, outs if isinstance(self.loss, Game) else outs["loss"]
                )
                if told or self._ended:
                    break
                if show is not None and time.perf_counter() - shown >= SHOWN_EVERY:
                    self._settle()
                    show(self)
                    shown = time.perf_counter()
        self._settle()
        self._choose()
        self.history.seconds += time.perf_counter() - began
        if show is not None:
            show(self)
        return self.history

    # ------------------------------------------------------------------------------------------ what its recipe asks

    def _begin(self, callback: Callback | None, show: Callable[[Fitting], None] | None) -> bool:
        """What comes before the first update; False where the callback ended it there."""
        if self._begun:
            return True
        for fitting in self.recipe.before.values():
            fitting.advance(fitting.config.steps, callback=callback, show=show)
            if fitting.step < fitting.goal:
                return False
        self._settled()
        return True

    def _settled(self) -> None:
        """Behind the fits before this one: its beginning, and the average, of the weights as they are now."""
        self.chains, self._begun = self.recipe.begin(), True
        if self.config.ema is not None:
            self.history.average = Average(self.loss, self.config.ema)

    def _hold(self, data: Data, names: Sequence[str], seed: int) -> Batch:
        """Keeps rows to judge the weights by; the others.

        Raises:
            ConfigError: the data have no rows that could be told apart.
        """
        ready = readied(data, names)
        if not isinstance(ready, dict) or isinstance(self.loss, Game):
            what = "a game has no one value" if isinstance(ready, dict) else f"got {type(data).__name__}"
            raise ConfigError(f"held={self.config.held} expects one loss and arrays or tensors [N, ...]; {what}")
        rows = len(next(iter(ready.values())))
        learnt, held = held_out(rows, self.config.held, seed)
        if not len(learnt):
            raise ConfigError(f"held={self.config.held} keeps all rows of the data, {rows}: none is left to learn from")
        kept = {name: value[held].to(self.device) for name, value in ready.items()}
        self.best = Best(
            self.loss, lambda: self._value(kept, seed), every=self.config.judge_every, patience=self.config.patience
        )
        return {name: value[learnt] for name, value in ready.items()}

    def _value(self, rows: Batch, seed: int) -> float:
        """Of rows that were held."""
        given = self.given(rows)
        if self.recipe.judged is not None:
            return float(self.recipe.judged(given, seed))
        assert isinstance(self.loss, Expression)
        return float(self.loss(**given, seed=0).value)

    def _judge(self, best: Best) -> None:
        """Measures the rows that were held, where it is time to."""
        self._ended = best(self.step, None)
        if self.step % best.every == 0:
            self._sampled.append({"held": torch.tensor(best.last, device=self.device)})

    def _choose(self) -> None:
        """Puts the best weights into the networks, once there are no further updates."""
        if self.best is not None and self.best.step and self.step >= self.goal and self._last is None:
            self._last = {name: value.detach().clone() for name, value in self.loss.state_dict().items()}
            self.best.restore()

    # ------------------------------------------------------------------------------------------------------ one update

    def batch(self) -> dict[str, Any]:
        """The next inputs of the loss, with this step's symbols."""
        rows = self.recipe.varied(self.source.take())
        return self.given(rows if self.chains is None else self.chains(rows))

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
            if self.chains is not None:
                self.chains.keep(self.step, outs["loss"])
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
                    + self._spoilt()
                )
            self.history.rows.append({"step": step, **row})
        self._pending = []

    def _spoilt(self) -> str:
        """What a second fit would begin with: weights change in place, and a step of NaN leaves NaN."""
        wrong = [name for name, weight in self.loss.named_parameters() if not weight.isfinite().all()]
        if not wrong:
            return ""
        return (
            f" {wrong[0]} is not finite any more: before the next fit, make the networks anew, or load their weights."
        )

    # ------------------------------------------------------------------------------------------------------ going on

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimisers, average, place in the data, random numbers, schedules with memory, and the step."""
        feedback = {name: s.state_dict() for name, s in self.symbols.items() if isinstance(s, Feedback)}
        return {
            "step": self.step,
            "weights": self.loss.state_dict() if self._last is None else self._last,
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
            "average": None if self.history.average is None else self.history.average.state_dict(),
            "source": self.source.state_dict(),
            "symbols": feedback,
            "sampled": self._sampled,
            "rng": self._rng,
            "begun": self._begun,
            "before": {} if self._begun else {k: fitting.state_dict() for k, fitting in self.recipe.before.items()},
            "chains": None if self.chains is None else self.chains.state_dict(),
            "best": None if self.best is None else {**self.best.state_dict(), "ended": self._ended},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes back to what `state_dict` returned; the history starts anew."""
        self._rebegin(state)
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
        self._last = None
        self._choose()

    def _rebegin(self, state: Mapping[str, Any]) -> None:
        """What the recipe began with, and how far; an older state has no recipe."""
        if state.get("begun", True) and not self._begun:
            with forked(0):
                self._settled()
        for name, stored in state.get("before", {}).items():
            self.recipe.before[name].load_state_dict(stored)
        if self.chains is not None and state.get("chains") is not None:
            self.chains.load_state_dict(state["chains"])
        if self.best is not None and state.get("best") is not None:
            stored = dict(state["best"])
            self._ended = stored.pop("ended")
            self.best.load_state_dict(stored)

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
