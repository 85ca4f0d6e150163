"""Games: two or more players, each minimises its own expression by moving its own networks only.

game = Game(
    d=Player(d_loss, moves=[discriminate]),
    g=Player(g_loss, moves=[generate], lr=2e-4, every=5),
)
fit(game, {"x": images}, steps=10_000, batch=64)

Whatever networks a player's expression reads, its gradient reaches those that it moves and no others: nothing has to be
detached by hand, and no optimiser hides inside a loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from worldformula.errors import FormulaError, UnknownVariableError, near
from worldformula.formula.code.out import Out
from worldformula.formula.expressions.expression import Expression
from worldformula.formula.expressions.sums import together
from worldformula.formula.plan.plan import Plan
from worldformula.formula.print.notebook import parts_html
from worldformula.training.players import Order, check_moved, check_order, check_turns, register, weights_of
from worldformula.training.seeding import derived


@dataclass(frozen=True, eq=False)
class Player:
    """One player: what it minimises, what it moves, and how. Settings left out are those of `fit`.

    Attributes:
        loss: its expression, a scalar.
        moves: the factors (or modules) whose parameters it moves; no two players move the same one.
        lr: step size.
        betas: of its Adam.
        weight_decay: decoupled.
        clip: largest norm of its gradient.
        every: it moves at every ``every``-th step only: ``every=5`` for the generator of a Wasserstein GAN.
    """

    loss: Expression
    moves: Sequence[nn.Module]
    lr: float | None = None
    betas: tuple[float, float] | None = None
    weight_decay: float | None = None
    clip: float | None = None
    every: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.loss, Expression):
            raise FormulaError(f"a player minimises an expression, got {type(self.loss).__name__}")
        written = "a player moves a list of factors or modules: Player(loss, moves=[decode])"
        check_turns(self.moves, self.every, written)

    def parameters(self) -> list[nn.Parameter]:
        """What it moves, each once."""
        return weights_of(self.moves)


class Game(nn.Module):
    """Players by name, and the module of all their networks, each registered once.

    ``alternating`` (Goodfellow et al. 2014, algorithm 1): within a step the players move in written order, each against
    what those before it have become. ``simultaneous``: all gradients are taken at the same weights, then all move.

    Raises:
        FormulaError: a parameter is moved by two players, by none, or is in no player's expression.
    """

    players: dict[str, Player]
    _together: dict[tuple[str, ...], Expression | None]

    def __init__(self, order: Order = "alternating", **players: Player) -> None:
        super().__init__()
        check_order(order)
        if not players or not all(isinstance(p, Player) for p in players.values()):
            raise FormulaError("expected players by name: Game(d=Player(...), g=Player(...))")
        self.order: Order = order
        # Kept out of the module tree: the expressions hold the same networks, which must appear once in the state_dict.
        self.__dict__["players"] = dict(players)
        self.__dict__["_together"] = {}
        register(self, [p.loss for p in players.values()])
        self._check()

    def _check(self) -> None:
        """Every parameter has one player that moves it."""
        moved = {name: player.parameters() for name, player in self.players.items()}
        read = {id(p) for p in self.parameters()}
        if unread := [name for name, own in moved.items() if any(id(p) not in read for p in own)]:
            raise FormulaError(f"{unread[0]} moves a module that no player's expression reads")
        check_moved(self, moved, "of a game")

    def __repr__(self) -> str:
        return f"<Game {self.order}, {', '.join(f'{name}: {player.loss!r}' for name, player in self.players.items())}>"

    def _repr_html_(self) -> str:
        return parts_html(self.losses, f"{self.order}")

    @property
    def losses(self) -> dict[str, Expression]:
        """What each player minimises, by a name for print: ``loss of d``."""
        return {f"loss of {name}": player.loss for name, player in self.players.items()}

    @property
    def inputs(self) -> tuple[str, ...]:
        """What a call must give: the data of all players."""
        return tuple(dict.fromkeys(key for p in self.players.values() for key in p.loss.program.inputs))

    def turns(self, step: int) -> list[list[str]]:
        """Who moves at this step (from 0): one group after the other, all of a group at once."""
        moving = [name for name, player in self.players.items() if step % player.every == 0]
        return [moving] if self.order == "simultaneous" else [[name] for name in moving]

    def evaluate(self, inputs: Mapping[str, Any], players: Sequence[str] | None = None) -> dict[str, Out]:
        """The results of all players, or of those named, on the same inputs and the same draws.

        ``inputs`` holds the data of all players (each takes what it reads) and may hold ``seed`` or ``deterministic``.
        A factor that several players draw has one noise: for one seed it is the same in every call, so a player that
        moves later meets the fakes that the one before it was shown, as far as their network has not changed. Players
        that are asked together share more: what both need, the fakes and what a critic says of them, is computed once.
        """
        given = dict(inputs)
        options: dict[str, Any] = {k: given.pop(k) for k in ("seed", "deterministic") if k in given}
        if unknown := [k for k in given if k not in self.inputs]:
            known = ", ".join(self.inputs)
            raise UnknownVariableError(
                f"no player reads {unknown[0]!r}; they read: {known}.{near(unknown[0], self.inputs)}"
            )
        own = {name: {k: given[k] for k in p.loss.program.inputs if k in given} for name, p in self.players.items()}
        seed = options.pop("seed", None)
        noise = self._noise(own, seed)
        asked = tuple(self.players if players is None else players)
        one = all(v is noise[other].get(k, v) for n in asked for k, v in noise[n].items() for other in asked)
        if one and _one_batch([own[n] for n in asked]) and (shared := self._shared(asked)) is not None:
            data = {k: v for n in asked for k, v in own[n].items()}
            return self._split(shared, asked, data, options, noise, seed)
        found = {}
        for name in asked:
            rest = self._generator(seed, name)  # for draws whose shape only their network tells: they are not shared
            found[name] = self.players[name].loss(**own[name], **options, noise=noise[name], generator=rest)
        return found

    def _shared(self, asked: tuple[str, ...]) -> Expression | None:
        """The players' formulas as one, made once. None for one player, for players who call different things by one
        name or draw them a different number of times, as no result could be told from the other, and for players whose
        formulas cannot be one.
        """
        if len(asked) < 2:
            return None
        if asked not in self._together:
            own = [self.players[name].loss for name in asked]
            try:
                joined = together(**dict(zip(asked, own, strict=True)))
                alike = _alike(joined.program.plan, [expression.program.plan for expression in own])
            except FormulaError:  # such as players with clocks of their own
                alike = False
            self._together[asked] = joined if alike else None
        return self._together[asked]

    def _split(
        self, shared: Expression, asked: Sequence[str], given: Mapping[str, Any], options: Mapping[str, Any],
        noise: Mapping[str, Mapping[str, Tensor]], seed: int | None,
    ) -> dict[str, Out]:  # fmt: skip
        """One evaluation of all, as a result for each."""
        drawn = {key: value for name in asked for key, value in noise[name].items()}
        out = shared(**given, **options, noise=drawn, generator=self._generator(seed, asked[0]))
        return dict(zip(asked, out.split(self.players[name].loss.program.plan for name in asked), strict=True))

    def forward(self, **inputs: Any) -> dict[str, Out]:
        """`evaluate` by keywords: ``game(x=batch)["d"].value``."""
        return self.evaluate(inputs)

    def _noise(self, own: Mapping[str, Mapping[str, Any]], seed: int | None) -> dict[str, dict[str, Tensor]]:
        """The noise of every player by variable, drawn in the order of the players; equal factors share theirs."""
        drawn: dict[tuple[int, str, torch.Size], Tensor] = {}
        found: dict[str, dict[str, Tensor]] = {}
        generator = self._generator(seed)
        for name, player in self.players.items():
            program = player.loss.program
            bound = program.binder.bind({**own[name], "generator": generator}).arguments
            found[name] = {}
            for site in program.plan.sites:
                value, key = bound[site.name], site.name.removeprefix("noise_")
                if value is not None:
                    found[name][key] = drawn.setdefault((id(site.factor), key, value.shape), value)
        return found

    def _generator(self, seed: int | None, player: str | None = None) -> torch.Generator | None:
        """A generator where the networks are, one for what is shared and one for each player; None is torch's own."""
        if seed is None:
            return None
        like = next(iter(self.parameters()), torch.empty(0))
        own = 0 if player is None else 1 + list(self.players).index(player)
        return torch.Generator(like.device).manual_seed(derived(seed, own))


def _one_batch(data: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all players read data, and all data have as many rows: others have draws of other sizes."""
    sizes = [{v.shape[0] for v in own.values() if isinstance(v, Tensor) and v.ndim} for own in data]
    return all(sizes) and len(set().union(*sizes)) == 1


def _alike(joined: Plan, own: Sequence[Plan]) -> bool:
    """Whether every draw and term of the players' own plans is one of the joined plan, under the same name."""
    drawn = {key: joined.by_name[op].factor for key, op in joined.samples.items()}
    sites = {site.name: (site.factor, joined.lead(site)) for site in joined.sites}
    return (
        all(drawn.get(key) is p.by_name[op].factor for p in own for key, op in p.samples.items())
        and all(sites.get(site.name) == (site.factor, p.lead(site)) for p in own for site in p.sites)
        and len(joined.terms) == sum(len(p.terms) for p in own)
    )


def losses(loss: Expression | Game) -> dict[str, Expression]:
    """What is minimised: by player, or under no name where it is one formula."""
    return {name: player.loss for name, player in loss.players.items()} if isinstance(loss, Game) else {"": loss}


def titled(loss: Expression | Game) -> dict[str, Expression]:
    """The same under headings."""
    return {f"What {name} minimises" if name else "The loss": formula for name, formula in losses(loss).items()}
