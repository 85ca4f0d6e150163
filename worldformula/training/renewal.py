"""Layers that begin anew while others go on learning (Nikishin, Schwarzer, D'Oro, Bacon & Courville 2022)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor, nn

from worldformula.errors import FormulaError
from worldformula.formula.syntax.pace import SlowWeights, follow


def renew(layers: Sequence[nn.Module], optimiser: torch.optim.Optimizer, slow: Iterable[SlowWeights]) -> None:
    """Draws the weights of these layers anew, forgets what an optimiser knows of them, and copies them to slow copies.

    Draws come from torch's global generator, so that a run that goes on from a checkpoint draws the same.
    """
    every = dict.fromkeys(part for layer in layers for part in layer.modules())
    parts = [
        part for part in every if all(p.requires_grad for p in part.parameters(recurse=False))
    ]  # not what is frozen
    for part in parts:
        if _begins(part):
            part.reset_parameters()  # type: ignore[operator]
        for p in part.parameters(recurse=False):
            optimiser.state.pop(p, None)
    fresh = {id(part) for part in parts}
    for own in slow:
        for fast, copied in own.pairs:
            for one, other in zip(fast.modules(), copied.modules(), strict=True):
                if id(one) in fresh:
                    follow([other], [one], 1.0)


def check_renewed(layers: Sequence[nn.Module], moved: Collection[Tensor]) -> None:
    """FormulaError for a layer that cannot begin anew, or that its player does not move."""
    known = {id(p) for p in moved}
    for part in (part for layer in layers for part in layer.modules()):
        own = list(part.parameters(recurse=False))
        if own and not _begins(part):
            raise FormulaError(
                f"{type(part).__name__} cannot begin anew: expected layers with reset_parameters(), as of torch.nn"
            )
        if any(id(p) not in known for p in own):
            raise FormulaError(
                f"renews: {type(part).__name__} has weights that this player does not move; list it there"
            )


def _begins(part: nn.Module) -> bool:
    return callable(getattr(part, "reset_parameters", None))
