"""What an agent asks of whatever learns to act in its dreams: a policy, formulas, and the data that they read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from worldformula.formula import Expression
from worldformula.formula.code.out import Out
from worldformula.formula.factors.joint import Factor, Joint

Features = Mapping[str, Tensor]


@runtime_checkable
class Behaviour(Protocol):
    """A behaviour learner: `worldformula.learners.imagination` has those of Dreamer v1, v2 and v3, and TD-MPC2's.

    What its terms read an agent asks of it: of "dream" as `Dreaming` says, of "replay" as `Replaying`, of any other as
    `Following`. names: the features of a state that its policy and its value read.
    """

    policy: Factor | Joint
    names: tuple[str, ...]

    @property
    def terms(self) -> Mapping[str, Expression]:
        """Its losses: "dream" over imagined states, "replay" over those of the data, others over rollouts.

        The first one is what `metrics` tells of.
        """
        ...

    @property
    def attached(self) -> Collection[str]:
        """The terms whose data keep their gradients: a dream that is differentiated through, replayed states."""
        ...

    @property
    def masks(self) -> Collection[str]:
        """What its policy reads that says which choices are allowed, M of π(a_t|h_t,z_t,M_t)."""
        ...

    @property
    def discount(self) -> float:
        """γ of a step, where no head of the world says how probably an episode goes on."""
        ...

    def metrics(self, dream: Out) -> dict[str, Tensor]:
        """Numbers of a result of its first term for the log."""
        ...

    def value(self, *features: Tensor) -> Tensor:
        """What is to come after states ``[N, ...]``, the features as ``names`` has them: ``[N]``."""
        ...


@runtime_checkable
class Dreaming(Behaviour, Protocol):
    """One that learns in dreams under its policy."""

    def dreamed(
        self, states: Features, actions: Tensor | Features, reward: Tensor, proceed: Tensor,
        terminal: Tensor | None = None, generator: torch.Generator | None = None,
    ) -> Mapping[str, Tensor]:  # fmt: skip
        """The data of "dream": S states ``[N, S, ...]``, the start first, the action drawn at each, reward and
        continuation ``[N, S]`` predicted at them, which starts ended their episode, ``[N]``, and what it draws by.
        """
        ...


@runtime_checkable
class Following(Behaviour, Protocol):
    """One that learns along the rollouts that the world's own loss has made, under the actions of the data."""

    def followed(
        self, name: str, states: Features, seen: Mapping[str, Tensor], terminal: Tensor, first: Tensor
    ) -> Mapping[str, Tensor]:
        """The data of a term: what the world's loss made, with its gradients, ``[B, T, ...]`` by name; what it read;
        which rows ended an episode for good and which began one, ``[B, T]``.
        """
        ...


@runtime_checkable
class Replaying(Behaviour, Protocol):
    """A behaviour learner with the term "replay": its critic learns at the states of the data too."""

    def replayed(
        self, states: Features, reward: Tensor, is_last: Tensor, is_terminal: Tensor, boot: Tensor
    ) -> Mapping[str, Tensor]:
        """The data of "replay": states ``[B, K, ...]`` with their graph, what was received and ended there, and the
        returns ``[B, K]`` of the dreams that start at them.
        """
        ...
