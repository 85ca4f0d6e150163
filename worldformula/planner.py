"""The contract of a planner, Mode-2: search for actions in a world's imagination, at the cost that one hands it.

A planner knows no model and no task: it rolls `World.imagine` and sums a cost over the imagined states. Episodes are
planned side by side, each with a generator of its own, so a plan does not depend on what else is in the batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worldformula.errors import ShapeError, table
from worldformula.world import State, Values, World

StateCost = Callable[[State], Tensor]
"""``states [N, T, ...] -> [N, T]``, lower is better."""


@dataclass(frozen=True)
class Plan:
    """What a search found.

    actions: ``[B, H, A]``, in the units of the world's actions. cost: ``[B]``, of these actions, summed over the H
    imagined states. trace: the best cost after each iteration, ``[B]`` each. calls: steps of the model per episode.
    """

    actions: Tensor
    cost: Tensor
    trace: tuple[Tensor, ...]
    calls: int


class Planner(ABC):
    """Abstract: fields belong to the final classes of the catalogue."""

    @abstractmethod
    def plan(
        self,
        world: World,
        cost: StateCost,
        state: Values,
        *,
        generators: Sequence[torch.Generator] | None = None,
        warm: Tensor | None = None,
    ) -> Plan:
        """Search from states ``[B, ...]``.

        generators: one per episode, on the device of the state; by default seeded 0, 1, … in order. warm: actions
        ``[B, H, A]`` to start from, such as the last plan shifted by one step.
        """


def rollout_cost(world: World, cost: StateCost, state: Values, actions: Tensor) -> Tensor:
    """The cost ``[B, N]`` of action sequences ``[B, N, H, A]`` from states ``[B, ...]``, summed over the H states.

    Means and modes are imagined, so equal actions cost the same in every call.
    """
    B, N = actions.shape[:2]
    start = State({key: state[key] for key in (*world.carried, *world.memory)}).repeat(N)
    dream = world.imagine(start, actions=actions.flatten(0, 1), deterministic=True)
    total = cost(dream.only(world.carried).span(1))
    if tuple(total.shape) != (B * N, actions.shape[2]):
        rows = [("cost", (B * N, actions.shape[2]), tuple(total.shape))]
        raise ShapeError("expected one cost per imagined state\n" + table(("value", "expected", "got"), rows))
    return total.sum(1).view(B, N)


def per_episode(
    generators: Sequence[torch.Generator] | None, batch: int, device: torch.device
) -> Sequence[torch.Generator]:
    """The given generators, one per episode, or fresh ones seeded 0, 1, …"""
    if generators is None:
        return [torch.Generator(device).manual_seed(i) for i in range(batch)]
    if len(generators) != batch:
        raise ShapeError(f"expected one generator per episode, {batch} of them, got {len(generators)}")
    return generators
