"""Short-term memory: what an agent keeps from one row to the next, one state per stream.

In Dreamer this is the state of the world's filter with the last actions; the longer memory is the replay of the loop.
What a world stores and looks up again within an episode is a `KeyValue`, whose pairs are tensors of that state; what
the agent's states have cost is kept there until the episode ends, and then goes into the memory that critics learn
from, a `worldformula.agent.recollection.Recollection`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from worldformula.errors import ConfigError
from worldformula.nets.recall import KeyValue, Remembering, Slots
from worldformula.world import State, World

__all__ = ["KeyValue", "Remembering", "ShortTermMemory", "Slots"]
KEPT, COST, COUNT = "kept/", "cost", "count"


class ShortTermMemory:
    """The state of the filter: the world's carried variables and the last actions; ``sizes`` are their widths.

    Of the running episode it can keep states and their costs too, tensors of the acting state like everything else: a
    ring of C steps by stream, ``kept/z`` ``[N, C, ...]`` and ``kept/cost`` ``[N, C]``, and how many were written,
    ``kept/count`` ``[N]``. A first row begins it anew; of an episode of more than C steps the oldest are gone.

    Args:
        world: the world model.
        sizes: the widths of the actions.
        keeps: which variables of a state are kept.
        steps: C, 0 keeps none.

    Raises:
        ConfigError: a variable that the world does not carry.
    """

    def __init__(self, world: World, sizes: Mapping[str, int], keeps: Iterable[str] = (), steps: int = 0) -> None:
        self.world, self.sizes, self.keeps, self.steps = world, dict(sizes), tuple(keeps), steps
        if unknown := [name for name in self.keeps if name not in world.carried]:
            raise ConfigError(
                f"a memory keeps what the world carries, {', '.join(world.carried)}, and not {unknown[0]}"
            )

    def initial(self, streams: int, device: torch.device) -> State:
        """Before the first row: zeros."""
        state = self.world.initial(streams, device=device)
        empty = {key: torch.zeros(streams, size, device=device) for key, size in self.sizes.items()}
        return state | empty | self._ring(state, streams, device)

    def update(self, state: State, actions: Mapping[str, Tensor]) -> State:
        """The state with the actions that were chosen in it."""
        return state | actions

    def keep(self, state: State, costs: Tensor, before: Mapping[str, Tensor], begins: Tensor) -> dict[str, Tensor]:
        """The ring of the acting state ``before`` with a step more: a state ``[N, ...]`` and its cost ``[N]``.

        ``begins`` ``[N]`` says where an episode begins.
        """
        now: dict[str, Tensor] = {name: state[name] for name in self.keeps} | {COST: costs}
        rows = torch.arange(len(begins), device=costs.device)
        count = before[KEPT + COUNT].masked_fill(begins, 0)
        found = {KEPT + COUNT: count + 1}
        for name, value in now.items():
            ring = before[KEPT + name].clone()
            ring[rows, count % self.steps] = value.to(ring)
            found[KEPT + name] = ring
        return found

    def episode(self, state: Mapping[str, Tensor], stream: int) -> tuple[State, Tensor]:
        """The episode of a stream as the acting state holds it, oldest first: states ``[1, T, ...]``, costs ``[1, T]``.

        Raises:
            ConfigError: it holds none.
        """
        if KEPT + COUNT not in state:
            raise ConfigError(
                "the acting state holds no episode: of a robot on a wall clock it stays in the process that acts, and "
                "nothing can be recollected here"
            )
        count = int(state[KEPT + COUNT][stream])
        first = count % self.steps if count > self.steps else 0
        order = (torch.arange(min(count, self.steps)) + first) % self.steps
        found = {name: state[KEPT + name][stream][order.to(state[KEPT + name].device)][None] for name in self.keeps}
        return State(found, 2), state[KEPT + COST][stream][order.to(state[KEPT + COST].device)][None]

    def _ring(self, state: State, streams: int, device: torch.device) -> dict[str, Tensor]:
        """An empty one."""
        if not self.steps:
            return {}
        like = {name: state[name] for name in self.keeps} | {COST: torch.zeros(streams, device=device)}
        found = {KEPT + name: x.new_zeros(streams, self.steps, *x.shape[1:]) for name, x in like.items()}
        return found | {KEPT + COUNT: torch.zeros(streams, dtype=torch.long, device=device)}
