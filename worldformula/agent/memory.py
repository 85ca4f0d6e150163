"""Short-term memory: what an agent keeps from one row to the next, one state per stream.

In Dreamer this is the state of the world's filter with the last actions; the longer memory is the replay of the loop.
What a world stores and looks up again within an episode is a `KeyValue`, whose pairs are tensors of that state; what
the agent's states have cost, for a critic, is a `worldformula.agent.recollection.Recollection`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from worldformula.nets.recall import KeyValue, Remembering, Slots
from worldformula.world import State, World

__all__ = ["KeyValue", "Remembering", "ShortTermMemory", "Slots"]


class ShortTermMemory:
    """The state of the filter: the world's carried variables and the last actions; ``sizes`` are their widths."""

    def __init__(self, world: World, sizes: Mapping[str, int]) -> None:
        self.world, self.sizes = world, dict(sizes)

    def initial(self, streams: int, device: torch.device) -> State:
        """Before the first row: zeros."""
        empty = {key: torch.zeros(streams, size, device=device) for key, size in self.sizes.items()}
        return self.world.initial(streams, device=device) | empty

    def update(self, state: State, actions: Mapping[str, Tensor]) -> State:
        """The state with the actions that were chosen in it."""
        return state | actions
