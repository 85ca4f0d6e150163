"""What an agent asks of a bonus: a loss that it is learnt by, the data of it, and what it says of a sequence of states.

A bonus belongs to the *arriving* step, as rewards do: that of state t is of the step from t − 1 to t, and entry 0 of a
sequence, which nothing leads to, is 0 and never read by returns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError, FormulaError, MissingInputError, ShapeError
from worldformula.formula import Expression

Sequences = Mapping[str, Tensor]
WEIGHT = "w"
"""What the losses call the weight of a step: 0 where the next row begins another episode."""


class Curious(nn.Module, ABC):
    """A bonus of steps (h, z, a) -> (h', z') of a world, or whatever its states are called.

    Args:
        features: what a state is told by, in the order of the networks.
        actions: the variables of the actions.
        rate: step of the running mean that the bonus is divided by, so that it is 1 on average on the data; until
            1/rate updates it is their plain mean. 0 leaves the bonus as it is.

    Attributes:
        loss: what it is learnt by, an expression over the steps of `data`.
        arrives: says that it is of a step, so that a state alone has none.
        learns: says that it has a loss of its own, so that it is no fixed term of a cost.
    """

    loss: Expression
    arrives = learns = True
    size: Tensor
    count: Tensor

    def __init__(self, features: Iterable[str], actions: Iterable[str], rate: float) -> None:
        super().__init__()
        self.features, self.actions, self.rate = tuple(features), tuple(actions), rate
        if not 0 <= rate <= 1:
            raise ConfigError(f"expected a rate of the running size from 0 to 1, got {rate}")
        if not self.features or not self.actions:
            raise ConfigError(f"expected features and actions of a step, got {self.features} and {self.actions}")
        if WEIGHT in (*self.features, *self.actions):
            raise FormulaError(
                f"the losses of a bonus call the weight of a step {WEIGHT}; rename that variable of the world"
            )
        self.register_buffer("size", torch.ones(()))
        self.register_buffer("count", torch.zeros(()))

    @abstractmethod
    def data(self, states: Sequences, first: Tensor) -> dict[str, Tensor]:
        """What ``loss`` reads, of replayed states and actions ``[B, T, ...]`` and flags ``[B, T]`` of first rows.

        In training mode the running size learns from these steps first.
        """

    @abstractmethod
    def bonus(self, before: Sequences, after: Sequences) -> Tensor:
        """The bonus ``[M]`` of M steps, before it is divided: features and actions ``[M, ...]``, then features."""

    def forward(self, states: Sequences) -> Tensor:
        """The cost of states ``[N, T, ...]``, the negated bonus of the steps between them: ``[N, T]``, 0 at the first.

        Raises:
            MissingInputError: the states hold no features, or no actions.
            ShapeError: states of one step, of which nobody knows where they came from.
        """
        if missing := [name for name in (*self.features, *self.actions) if name not in states]:
            raise MissingInputError(
                f"a bonus of steps needs {missing[0]} of every state, and they hold {', '.join(states)}"
            )
        rows, steps = self._lead(states)
        before = {k: states[k][:, : steps - 1].flatten(0, 1) for k in (*self.features, *self.actions)}
        after = {k: states[k][:, 1:].flatten(0, 1) for k in self.features}
        found = self.bonus(before, after) / self.size
        return -torch.cat((found.new_zeros(rows, 1), found.unflatten(0, (rows, steps - 1))), 1)

    def _lead(self, states: Sequences) -> tuple[int, int]:
        like = states[self.features[0]]
        if getattr(states, "axes", 2) != 2 or like.ndim < 2 or like.shape[1] < 2:
            raise ShapeError(
                f"a bonus of steps expected states [N, T ≥ 2, ...], got {self.features[0]} {list(like.shape)}"
            )
        return like.shape[0], like.shape[1]

    @torch.no_grad()
    def _measure(self, before: Sequences, after: Sequences, weight: Tensor) -> None:
        """Moves the running size by the mean bonus of steps that count."""
        if not (self.training and self.rate):
            return
        total = weight.sum()
        mean, counts = (weight * self.bonus(before, after)).sum() / total.clamp_min(1), (total > 0).to(self.size)
        self.count += counts
        step = counts * (1 / self.count.clamp_min(1)).clamp_min(self.rate)  # on the device, which nobody waits for
        self.size.lerp_(mean.to(self.size), step)


def transitions(states: Sequences, before: Sequence[str], after: Sequence[str], first: Tensor) -> dict[str, Tensor]:
    """The steps of sequences ``[B, T, ...]``, one after another: ``[B·(T−1), ...]`` by name, ``<name>_prime`` of where
    they lead, and their weight ``w``, 0 where that is the first row of another episode.
    """
    found = {name: states[name][:, :-1].flatten(0, 1) for name in before}
    found |= {f"{name}_prime": states[name][:, 1:].flatten(0, 1) for name in after}
    return found | {WEIGHT: 1 - first[:, 1:].to(torch.get_default_dtype()).flatten()}
