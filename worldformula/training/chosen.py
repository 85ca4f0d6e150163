"""An optimiser of the user's instead of AdamW: a class of torch.optim, a function, or one that was made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from worldformula.errors import ConfigError

if TYPE_CHECKING:
    from worldformula.training.minimise import FitConfig

Make = Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer] | torch.optim.Optimizer | Any


def chosen(optimizer: Make, config: FitConfig, lr: float | None) -> Callable[..., torch.optim.Optimizer]:
    """From parameters to their optimiser.

    Raises:
        ConfigError: it is none of these, or settings of AdamW are given beside it; or, when it is called, it is no
            optimiser that can be used.
    """
    if config.weight_decay or config.betas != (0.9, 0.999):
        raise ConfigError(
            "weight_decay and betas are AdamW's; with optimizer= give them to it: partial(SGD, momentum=.9)"
        )
    if not callable(optimizer) and not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError(
            f"optimizer= expects a class such as torch.optim.SGD, a function of parameters, or an optimiser that was "
            f"made, got {optimizer!r}"
        )
    if isinstance(optimizer, torch.optim.Optimizer) and lr is not None:
        raise ConfigError("got lr beside an optimiser that was made; it has its own")

    def make(parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        made: Any = optimizer
        if not isinstance(made, torch.optim.Optimizer):
            made = made(list(parameters)) if lr is None else made(list(parameters), lr=lr)
        if not isinstance(made, torch.optim.Optimizer):
            raise ConfigError(f"optimizer= expects a class of torch.optim or a function of parameters, got {made!r}")
        if isinstance(made, torch.optim.LBFGS):
            raise ConfigError("LBFGS evaluates the loss several times per step, which fit does not; use SGD or Adam")
        held = {id(p) for group in made.param_groups for p in group["params"]}
        if held != {id(p) for p in parameters}:
            raise ConfigError(
                f"the optimiser moves {len(held)} tensors, and this loss has {len(parameters)} to move; "
                "give its class, or make it of list(loss.parameters())"
            )
        return made

    return make
