"""What an agent learns: terms whose data are made of one another's results, and the players that minimise them.

objective = Objective(
    terms={"world": world.loss, "dream": together(actor=..., critic=...)},
    data={"dream": lambda outs, batch, generator: dreams_from(outs["world"].samples)},
    agent=Minimises({"world": 1.0, "actor": 1.0, "critic": 1.0}, moves=[world, policy, critic], optimiser=LaProp),
)
updates = Updates(objective)
outs = updates.update(batch)

In a `Game` all players read the same data. Here a critic learns from dreams of states that a world has just inferred:
terms run in written order, and what a term is given is a function of the results before it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError, FormulaError, UnknownVariableError, near
from worldformula.formula.expressions.expression import Expression
from worldformula.formula.print.notebook import parts_html
from worldformula.formula.syntax.nodes import Group
from worldformula.training.players import Order, Turns, check_moved, check_turns, register, turns_of, weights_of
from worldformula.training.renewal import check_renewed, renew
from worldformula.training.seeding import derived
from worldformula.training.slow import followers

Outs = Mapping[str, Any]
Data = Callable[[Outs, Mapping[str, Any], torch.Generator | None], Mapping[str, Any]]
"""``data(outs, batch, generator)``: the inputs of a term, of earlier results by name, and of the batch."""


@dataclass(frozen=True, eq=False)
class Minimises:
    """One player of an objective: what it minimises, what it moves, and how.

    Attributes:
        weights: of the terms, by name; one term may stand in the sums of several players.
        moves: the factors or modules whose parameters it moves; its gradient reaches no others.
        optimiser: makes its optimiser from its parameters.
        clip: largest norm of its gradient.
        every: it moves at every ``every``-th update only.
        renews: layers that begin anew now and then, with all that its optimiser knows of them (Nikishin et al. 2022,
            arXiv:2205.07802); each has ``reset_parameters``, which draws from torch's global generator. Slow copies of
            them begin with them.
        renews_every: updates between two of these beginnings; 0 is never.
    """

    weights: Mapping[str, float]
    moves: Sequence[nn.Module]
    optimiser: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = torch.optim.Adam
    clip: float | None = None
    every: int = 1
    renews: Sequence[nn.Module] = ()
    renews_every: int = 0

    def __post_init__(self) -> None:
        if self.renews_every < 0:
            raise ConfigError(f"expected renews_every ≥ 0, got {self.renews_every}")
        if not isinstance(self.weights, Mapping) or not self.weights:
            raise FormulaError("expected weights of terms, such as Minimises({'world': 1.0}, moves=[...])")
        written = "expected a list of factors or modules: Minimises({...}, moves=[world, policy])"
        check_turns(self.moves, self.every, written)
        check_renewed(self.renews, self.parameters())

    def parameters(self) -> list[nn.Parameter]:
        """What it moves, each once."""
        return weights_of(self.moves)

    def __str__(self) -> str:
        return " + ".join(part if w == 1 else f"{w:g} {part}" for part, w in self.weights.items())


class Objective(nn.Module):
    """Terms by name, what each is given, and the players that minimise weighted sums of them.

    Args:
        order: "simultaneous": all gradients are taken at the same weights, then all move (DreamerV3). "alternating":
            players move in written order, and what depends on weights that have moved is evaluated again. Or the turns
            themselves, ``(("world",), ("actor", "critic"))``: the players of a turn move at once (DreamerV2).
        terms: expressions, in the order in which they run; a `together` has a name for each of its parts. None is a
            stage without a loss, whose result are its data.
        data: what a term is given; one without is given what it reads of the batch.
        attached: terms whose data keep their gradients; all other data are made without.
        kept: terms that are evaluated once an update, whatever moves (DreamerV2's posterior, from which dreams start).
        players: by name; ``Minimises({"critic": 1.0}, moves=[critic])``.

    Raises:
        FormulaError: a parameter is moved by two players, or by none; a term that no player knows.
    """

    players: dict[str, Minimises]
    terms: dict[str, Expression | None]
    data: dict[str, Data]
    read: dict[str, set[str]]

    def __init__(
        self, order: Order | Turns = "simultaneous", *, terms: Mapping[str, Expression | None],
        data: Mapping[str, Data], attached: Collection[str] = (), kept: Collection[str] = (), **players: Minimises,
    ) -> None:  # fmt: skip
        super().__init__()
        self.turns = turns_of(order, players)
        self.order = order if isinstance(order, str) else ", then ".join(" and ".join(turn) for turn in order)
        self.attached, self.kept = frozenset(attached), frozenset(kept)
        # Kept out of the module tree: the expressions hold the same networks, which must appear once in the state_dict.
        self.__dict__.update(players=dict(players), terms=dict(terms), data=dict(data), read={})
        register(self, [term for term in self.terms.values() if term is not None])
        self.parts = self._parts()
        self._check()

    def _parts(self) -> dict[str, str]:
        """Everything that a player can minimise, and the term that it is of."""
        found: dict[str, str] = {}
        for name, term in self.terms.items():
            own = () if term is None else term.node.names if isinstance(term.node, Group) else (name,)
            for part in own:
                if part in found:
                    raise FormulaError(f"two terms are called {part!r}, of {found[part]} and of {name}; rename one")
                found[part] = name
        return found

    def _check(self) -> None:
        """Names are known, and every parameter has one player that moves it."""
        for name, player in self.players.items():
            for part in player.weights:
                if part not in self.parts:
                    known = ", ".join(self.parts)
                    raise UnknownVariableError(
                        f"{name} minimises {part!r}, which is no term; these are: {known}.{near(part, self.parts)}"
                    )
        for name in {*self.data, *self.attached, *self.kept} - set(self.terms):
            raise UnknownVariableError(f"data of {name!r}, which is no term.{near(name, self.terms)}")
        moved = {name: player.parameters() for name, player in self.players.items()}
        check_moved(self, moved, "that the terms read")

    def __repr__(self) -> str:
        return f"<Objective {self.order}, {', '.join(f'{name}: {term!r}' for name, term in self.terms.items())}>"

    def _repr_html_(self) -> str:
        shown = {name: term for name, term in self.terms.items() if term is not None}
        return parts_html(shown, "; ".join(f"{name} minimises {player}" for name, player in self.players.items()))

    # ----------------------------------------------------------------------------------------------------------- run

    def run(
        self, batch: Mapping[str, Any], *, seed: int | None = None, known: Outs | None = None,
        wanted: Collection[str] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """The results of the terms by name, in written order.

        Args:
            batch: what the data functions and the terms read.
            seed: of all draws; each term has a stream of its own, so that a further term shifts no other's. None is
                torch's global generator.
            known: results that are not computed again.
            wanted: the terms to evaluate, with those that they read; all by default.
        """
        outs = dict(known or {})
        for name in self.terms:
            if name not in outs and (wanted is None or name in wanted):
                self._evaluate(name, outs, batch, seed)
        return outs

    def _evaluate(self, name: str, outs: dict[str, Any], batch: Mapping[str, Any], seed: int | None) -> None:
        """The result of a term, among the others; those that it reads are evaluated first."""
        graph = torch.is_grad_enabled()

        def missing(other: str) -> Any:
            with torch.set_grad_enabled(graph):
                self._evaluate(other, outs, batch, seed)
            return outs[other]

        earlier = list(self.terms)[: list(self.terms).index(name)]
        outs[name] = self._result(name, self.terms[name], _Noted(outs, earlier, missing), batch, seed)

    def _result(
        self, name: str, term: Expression | None, outs: _Noted, batch: Mapping[str, Any], seed: int | None
    ) -> Any:
        generator, make = self._generator(seed, name), self.data.get(name)
        self.read[name] = outs.names
        if make is None:
            given: Mapping[str, Any] = (
                batch if term is None else {k: batch[k] for k in term.program.inputs if k in batch}
            )
        else:
            with torch.set_grad_enabled(torch.is_grad_enabled() and name in self.attached):
                given = make(outs, batch, generator)
            if name not in self.attached:  # what a function hands on as it is has a graph, whatever mode it runs in
                given = {k: v.detach() if isinstance(v, Tensor) else v for k, v in given.items()}
        return given if term is None else term(**given, generator=generator)

    def _generator(self, seed: int | None, name: str) -> torch.Generator | None:
        if seed is None:
            return None
        like = next(iter(self.parameters()), torch.empty(0))
        return torch.Generator(like.device).manual_seed(derived(seed, zlib.crc32(name.encode())))

    def stale(self, moved: Collection[Tensor]) -> set[str]:
        """The terms whose result depends on these weights, by their networks or by the results that they read."""
        keys, found = {id(p) for p in moved}, set[str]()
        for name, term in self.terms.items():
            own = () if term is None else term.parameters()
            if name not in self.kept and (any(id(p) in keys for p in own) or self.read.get(name, set()) & found):
                found.add(name)
        return found

    def value(self, part: str, outs: Outs) -> Tensor:
        """The value of a term, or of a part of a `together`."""
        found = outs[self.parts[part]].value
        value = found[part] if isinstance(found, Mapping) else found
        assert isinstance(value, Tensor)
        return value

    def total(self, player: str, outs: Outs) -> Tensor:
        """What a player minimises."""
        own = self.players[player].weights
        terms = [self.value(part, outs) if w == 1 else w * self.value(part, outs) for part, w in own.items()]
        return sum(terms[1:], terms[0])


class _Noted(dict[str, Any]):
    """Results, and whose were read; that of an earlier term is evaluated where it is missing."""

    def __init__(self, outs: Outs, earlier: Collection[str], evaluate: Callable[[str], Any]) -> None:
        super().__init__(outs)
        self.names: set[str] = set()
        self.earlier, self.evaluate = earlier, evaluate

    def __getitem__(self, name: str) -> Any:
        self.names.add(name)
        return super().__getitem__(name)

    def __missing__(self, name: str) -> Any:
        if name not in self.earlier:
            raise KeyError(name)
        self[name] = self.evaluate(name)
        return super().__getitem__(name)


class Updates:
    """One optimiser for each player of an objective, and what an update of all is.

    draw, evaluate, take all gradients, clip, step, move slow copies. An update that fails moves nothing of a
    simultaneous objective.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective, players = objective, objective.players
        self.count = 0
        self.optimisers = {name: p.optimiser(p.parameters()) for name, p in players.items()}
        self._moved = {name: p.parameters() for name, p in players.items()}
        self._followers = followers(objective, self._moved)

    def update(self, batch: Mapping[str, Any], *, seed: int | None = None) -> dict[str, Any]:
        """One update of every player whose turn it is; returns the results of the terms, and ``totals`` by player."""
        moving = [name for name, p in self.objective.players.items() if self.count % p.every == 0]
        turns = [found for turn in self.objective.turns if (found := [name for name in turn if name in moving])]
        outs: dict[str, Any] = {}
        stale: dict[str, Any] = {}  # results of weights that have moved since
        totals: dict[str, Tensor] = {}
        for turn in turns:
            totals |= self._turn(turn, batch, seed, outs, stale)
        for slow, players in self._followers:
            if players & set(moving):
                slow.move()
        self.count += 1
        for name, player in self.objective.players.items():
            if player.renews_every and self.count % player.renews_every == 0:
                renew(player.renews, self.optimisers[name], [slow for slow, _ in self._followers])
        return {**stale, **outs, "totals": totals}

    def _turn(
        self, turn: list[str], batch: Mapping[str, Any], seed: int | None, outs: dict[str, Any], stale: dict[str, Any]
    ) -> dict[str, Tensor]:  # fmt: skip
        """These players move at once. What depends on weights that moved before is evaluated again."""
        objective = self.objective
        needed = {objective.parts[part] for name in turn for part in objective.players[name].weights}
        outs |= objective.run(batch, seed=seed, known=outs, wanted=None if len(objective.players) == 1 else needed)
        totals = {name: objective.total(name, outs) for name in turn}
        for name in turn:
            self.optimisers[name].zero_grad(set_to_none=True)
        if len(objective.players) == 1:
            totals[turn[0]].backward()  # type: ignore[no-untyped-call]
        else:
            for name in turn:
                own = [p for p in self._moved[name] if p.requires_grad]  # what was frozen since does not move
                found = torch.autograd.grad(totals[name], own, retain_graph=name != turn[-1], allow_unused=True)
                for p, gradient in zip(own, found, strict=True):
                    p.grad = gradient
        for name in turn:
            player = objective.players[name]
            if player.clip is not None:
                nn.utils.clip_grad_norm_(self._moved[name], player.clip)
            self.optimisers[name].step()
        if len(objective.turns) > 1:
            for name in objective.stale([p for player in turn for p in self._moved[player]]) & outs.keys():
                stale[name] = outs.pop(name)
        return {name: total.detach() for name, total in totals.items()}

    # ---------------------------------------------------------------------------------------------------- checkpoint

    def state_dict(self) -> dict[str, Any]:
        """The state of every optimiser by player and parameter name, and the count of updates."""
        found: dict[str, Any] = {"count": self.count}
        for name, optimiser in self.optimisers.items():
            steps = optimiser.state_dict()["state"]
            found[name] = {own: dict(steps[i]) for i, own in enumerate(self._names(name)) if i in steps}
        return found

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts the answer of `state_dict` back; raises ConfigError where a parameter is unknown."""
        for name, optimiser in self.optimisers.items():
            names = {own: i for i, own in enumerate(self._names(name))}
            if unknown := [own for own in state[name] if own not in names]:
                raise ConfigError(f"the state of {name} is of another objective: it has {unknown[0]!r}")
            steps = {names[own]: dict(values) for own, values in state[name].items()}
            optimiser.load_state_dict({"state": steps, "param_groups": optimiser.state_dict()["param_groups"]})
        self.count = int(state["count"])

    def _names(self, player: str) -> Iterator[str]:
        """The names of what a player moves. A policy that dreams are differentiated through stands in no term."""
        known = {id(p): name for name, p in self.objective.named_parameters()}
        for number, module in enumerate(self.objective.players[player].moves):
            for name, p in module.named_parameters():
                known.setdefault(id(p), f"moves.{number}.{name}")
        return (known[id(p)] for p in self._moved[player])
