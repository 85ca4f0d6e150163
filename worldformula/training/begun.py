"""Whether what comes before the first update of a loss is done: a flag that its ``state_dict`` has, as a beginning that
is taken from all rows would overwrite weights which were learnt.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

NAME = "begun"


def note_beginning(loss: nn.Module) -> None:
    """Gives a loss the flag, of one that has not begun. A ``state_dict`` without it, as older ones are, is of one that
    has.
    """
    if NAME not in loss.state_dict():
        loss.register_buffer(NAME, torch.zeros((), dtype=torch.bool))
        loss.register_load_state_dict_pre_hook(_older)


def has_begun(loss: nn.Module) -> bool:
    """Whether it has; one that begins with nothing has no flag."""
    flag = getattr(loss, NAME, None)
    return isinstance(flag, Tensor) and bool(flag)


def set_begun(loss: nn.Module) -> None:
    """Says that it has."""
    flag = getattr(loss, NAME, None)
    if isinstance(flag, Tensor):
        flag.fill_(True)


def _older(_: nn.Module, state: dict[str, Any], prefix: str, *_others: Any) -> None:
    state.setdefault(prefix + NAME, torch.ones((), dtype=torch.bool))
