"""What players of a game and of an objective have in common: an order of moves, and weights that one of them moves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from torch import nn

from worldformula.errors import ConfigError, FormulaError, table
from worldformula.formula.expressions.expression import Expression
from worldformula.formula.syntax.networks import register_networks
from worldformula.formula.syntax.nodes import factors, initial_of

Order = Literal["alternating", "simultaneous"]
Turns = Sequence[Sequence[str]]
"""Players by name: those of a turn move at once, one turn after another."""


def check_order(order: str) -> None:
    """Raises ConfigError on another word."""
    if order not in ("alternating", "simultaneous"):
        raise ConfigError(f"expected order='alternating' or 'simultaneous', got {order!r}")


def turns_of(order: Order | Turns, players: Iterable[str]) -> Turns:
    """Who moves together, and in which order.

    Raises:
        ConfigError: another word, or turns in which a player is missing, unknown or twice.
    """
    names = list(players)
    if isinstance(order, str):
        check_order(order)
        return [names] if order == "simultaneous" else [[name] for name in names]
    if sorted(name for turn in order for name in turn) != sorted(names):
        raise ConfigError(f"expected turns of the players {', '.join(names)}, each once, got {order!r}")
    return order


def check_turns(moves: Sequence[nn.Module], every: int, written: str) -> None:
    """Raises FormulaError, with what is ``written``, on moves that are no list; ConfigError on ``every`` below 1."""
    if isinstance(moves, nn.Module) or not all(isinstance(m, nn.Module) for m in moves):
        raise FormulaError(written)
    if every < 1:
        raise ConfigError(f"expected every= of at least 1, got {every}")


def weights_of(moves: Sequence[nn.Module]) -> list[nn.Parameter]:
    """The parameters of these modules that learn, each once."""
    own = {id(p): p for module in moves for p in module.parameters() if p.requires_grad}
    return list(own.values())


def register(owner: nn.Module, formulas: Iterable[Expression]) -> None:
    """Make every network of these formulas a child of ``owner``, once."""
    nodes = [formula.node for formula in formulas]
    used = {id(f): f for node in nodes for f in factors(node)}
    initial = next((found for node in nodes if (found := initial_of(node)) is not None), None)
    register_networks(owner, list(used.values()), initial)


def check_moved(owner: nn.Module, moved: Mapping[str, Sequence[nn.Parameter]], what: str) -> None:
    """Raises FormulaError unless every parameter of ``owner`` that learns has one player that moves it, and every
    player one that it moves.
    """
    if idle := [player for player, parameters in moved.items() if not parameters]:
        raise FormulaError(
            f"the player {idle[0]!r} moves nothing that learns: expected modules with weights in its moves=, or leave "
            f"it out"
        )
    names = {id(p): name for name, p in owner.named_parameters() if p.requires_grad}
    own = {player: {id(p) for p in parameters} for player, parameters in moved.items()}
    who = {key: [player for player, keys in own.items() if key in keys] for key in names}
    if wrong := [(names[key], " and ".join(found) or "nobody") for key, found in who.items() if len(found) != 1]:
        raise FormulaError(
            f"every parameter {what} is moved by one player\n"
            + table(("parameter", "moved by"), wrong[:8])
            + "\nlist its factor in moves= of one player, or freeze it: requires_grad_(False)"
        )
