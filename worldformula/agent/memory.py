"""Short-term memory: what an agent keeps from one row to the next, one state per stream.

In Dreamer this is the state of the world's filter with the last action; the longer memory is the replay of the loop.
"""

from __future__ import annotations

import torch

from worldformula.world import State, World


class ShortTermMemory:
    """The state of the filter: the world's carried variables and the last action."""

    def __init__(self, world: World, action_size: int) -> None:
        self.world, self.action_size = world, action_size

    def initial(self, streams: int, device: torch.device) -> State:
        """Before the first row: zeros."""
        empty = torch.zeros(streams, self.action_size, device=device)
        return self.world.initial(streams, device=device) | {self.world.action: empty}

    def update(self, state: State, action: torch.Tensor) -> State:
        """The state with the action that was chosen in it."""
        return state | {self.world.action: action}
