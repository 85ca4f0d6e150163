"""Moving slow copies: `factor.slow(0.98)` follows its factor after every update.

`fit` does it by itself. In a loop of one's own:

optimiser.step()
move_slow(loss)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from worldformula.errors import FormulaError
from worldformula.formula.syntax.pace import SlowWeights, weights


def move_slow(*modules: nn.Module) -> None:
    """Moves every slow copy that these modules hold, each once. Call it once after each update of the optimiser.

    Args:
        modules: expressions, games, worlds, or whatever holds them (a ``DistributedDataParallel``, for one). Processes
            that train together each call it: equal weights move equally.

    Raises:
        FormulaError: there is no slow copy, so that what follows would stand still; or one has gradients.
    """
    found = slow_weights(*modules)
    if not found:
        shown = ", ".join(type(m).__name__ for m in modules) or "nothing"
        raise FormulaError(
            f"move_slow: {shown} holds no slow copy; pass the formulas that read factor.slow(...), or leave the call "
            f"out"
        )
    for slow in found:
        slow.move()


def slow_weights(*modules: nn.Module) -> list[SlowWeights]:
    """Every slow copy that modules hold, once."""
    return list({id(m): m for module in modules for m in module.modules() if isinstance(m, SlowWeights)}.values())


def followers(loss: nn.Module, moved: Mapping[str, Sequence[Tensor]]) -> list[tuple[SlowWeights, frozenset[str]]]:
    """Every slow copy that a loss reads, and the players that move what it follows. ``moved``: weights by player.

    Raises:
        FormulaError: nobody moves it, so that the copy would stand still although the factor may learn elsewhere.
    """
    found = []
    for slow in slow_weights(loss):
        own = {id(p) for p in weights(slow.fast) if p.requires_grad}
        players = frozenset(name for name, weights_ in moved.items() if any(id(p) in own for p in weights_))
        if own and not players:
            raise FormulaError(
                f"{slow.name} follows weights that this training does not move, so it would stand still\nlet the "
                f"formula read the factor itself too, train both in one Game, or, where it shall stand still, freeze "
                f"the factor: requires_grad_(False)"
            )
        found.append((slow, players))
    return found
