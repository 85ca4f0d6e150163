"""Tensors side by side and apart: what several observations share, and what one network gives to several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor, nn


class Stack(nn.Module):
    """Images [N, H, W, C] of one step as one, with all their channels."""

    def forward(self, *images: Tensor) -> Tensor:
        """Images in the order of the formula."""
        return torch.cat(images, -1)


def alike(classes: Sequence[int]) -> list[tuple[int, ...]]:
    """Choices of an observation, by the classes that each has, as events of one factor each: as many in a row as have
    as many classes.

    >>> alike((13, 13, 13, 4)), alike((41,))
    ([(3, 13), (4,)], [(41,)])
    """
    runs = [(len(list(run)), classes_) for classes_, run in groupby(classes)]
    return [(count, classes_) if count > 1 else (classes_,) for count, classes_ in runs]


class Choices(nn.Module):
    """One-hots [N, n] of one step, side by side, as the events ``[N, *event]`` of factors."""

    def __init__(self, events: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self.events = list(events)

    def forward(self, *keys: Tensor) -> tuple[Tensor, ...] | Tensor:
        """Observations in the order of the formula; a single event by itself."""
        parts = torch.cat([k.flatten(1) for k in keys], -1).split([math.prod(event) for event in self.events], -1)
        found = tuple(part.unflatten(-1, event) for part, event in zip(parts, self.events, strict=True))
        return found if len(found) > 1 else found[0]


class Part(nn.Module):
    """A part of what a network returns, along its last axis.

    The network belongs to somebody else, a loss that reads all of it: it is no weight of this module.
    """

    net: nn.Module

    def __init__(self, net: nn.Module, start: int, stop: int) -> None:
        super().__init__()
        self.__dict__["net"] = net  # out of the module tree, or it would stand in a state_dict twice
        self.start, self.stop = start, stop

    def forward(self, *given: Tensor) -> Tensor:
        """What the network takes."""
        found: Tensor = self.net(*given)
        return found[..., self.start : self.stop]


class Parts(nn.Module):
    """All parts of what a network returns, along its last axis."""

    def __init__(self, net: nn.Module, widths: Sequence[int]) -> None:
        super().__init__()
        self.net, self.widths = net, list(widths)

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """What the network takes."""
        found: Tensor = self.net(*given)
        return found.split(self.widths, -1)


def begun(led: Tensor, encoded: Tensor, step: Tensor, first: int = 1) -> Tensor:
    """What a dynamics led to, ``[N, D]``; at the ``first`` steps, counted from 1 by ``[N]``, what is encoded: there a
    rollout starts, of a dynamics that goes so many steps at once.
    """
    return torch.where((step <= first).unsqueeze(-1), encoded, led)
