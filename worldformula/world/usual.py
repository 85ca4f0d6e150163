"""Actions as data have them: between −1 and 1 lies what was seen. For searches that know nothing of numbers that an
encoder made, such as those of macro-actions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worldformula.errors import ConfigError, ShapeError
from worldformula.formula.factors.joint import Factor, Joint
from worldformula.world.contract import Actions, Dynamics
from worldformula.world.state import State, Values


@dataclass(frozen=True, eq=False)
class Usual:
    """A `Dynamics` whose actions v are told along the principal axes of those that were seen: u = middle + v · axes.

    Along each axis −1 and 1 are a low and a high quantile, so that a search that keeps within its bounds, and begins
    with a deviation of ½, tries about what the data hold.

    Attributes:
        dynamics: what imagines.
        middle: of each action, ``[A]``.
        axes: ``[A, A]``, a row for each.
    """

    dynamics: Dynamics
    middle: Mapping[str, Tensor]
    axes: Mapping[str, Tensor]

    @classmethod
    def of(cls, dynamics: Dynamics, seen: Mapping[str, Tensor], share: float = 0.02) -> Usual:
        """Bounds from actions ``[K, A]`` by name; ``share`` of them lies beyond each end of an axis.

        Raises:
            ConfigError: other actions than those of the dynamics, a share that is not in [0, ½).
            ShapeError: actions that are no ``[K, A]`` of K ≥ 2.
        """
        if sorted(seen) != sorted(dynamics.actions) or not 0 <= share < 0.5:
            raise ConfigError(
                f"expected the actions {', '.join(dynamics.actions) or 'none'} and a share in [0, 0.5), got "
                f"{', '.join(seen) or 'none'} and {share}"
            )
        middle, axes = dict[str, Tensor](), dict[str, Tensor]()
        for name, value in seen.items():
            if value.ndim != 2 or len(value) < 2:
                raise ShapeError(f"{name}: expected actions [K, A] of K ≥ 2, got {list(value.shape)}")
            mean = value.detach().mean(0)
            turn = torch.linalg.eigh((value.detach() - mean).T.cov().reshape(len(mean), -1)).eigenvectors.T
            along = (value.detach() - mean) @ turn.T
            low, high = along.sort(0).values[[round(q * (len(value) - 1)) for q in (share, 1 - share)]]
            middle[name], axes[name] = mean + (low + high) / 2 @ turn, (high - low).unsqueeze(1) / 2 * turn
        return cls(dynamics, middle, axes)

    @property
    def actions(self) -> tuple[str, ...]:
        """Those of the dynamics."""
        return self.dynamics.actions

    @property
    def duration(self) -> str | None:
        """That of the dynamics."""
        return getattr(self.dynamics, "duration", None)

    def initial(self, batch: int, **options: Any) -> State:
        """That of the dynamics."""
        return self.dynamics.initial(batch, **options)

    def imagine(
        self,
        start: Values,
        policy: Factor | Joint | None = None,
        *,
        actions: Actions | None = None,
        horizon: int | None = None,
        given: Mapping[str, Tensor] | None = None,
        **options: Any,
    ) -> State:
        """A dream under actions v ``[N, H, A]``, which it holds as they were given.

        Raises:
            ConfigError: a policy, whose actions are none of v.
        """
        if policy is not None or actions is None:
            raise ConfigError("expected imagine(start, actions=...): a policy acts in the dynamics itself")
        told = {self.actions[0]: actions} if isinstance(actions, Tensor) else dict(actions)
        found = self.dynamics.imagine(start, actions=self._meant(told), horizon=horizon, given=given, **options)
        return State({**found, **told}, 2)

    def dream_noise(
        self, start: Values, actions: Mapping[str, Tensor], generator: torch.Generator | None = None, **numbers: Any
    ) -> dict[str, Tensor]:
        """That of the dynamics, whose draws do not depend on how actions are told; see `PriorDynamics.dream_noise`.

        Raises:
            ConfigError: the dynamics gives none.
        """
        draw = getattr(self.dynamics, "dream_noise", None)
        if draw is None:
            raise ConfigError(
                f"{type(self.dynamics).__name__} has no dream_noise(start, actions, generator): expected a task with "
                f"samples=0, or write it as PriorDynamics.dream_noise"
            )
        found: dict[str, Tensor] = draw(start, self._meant(actions), generator, **numbers)
        return found

    def meant(self, name: str, value: Tensor) -> Tensor:
        """The action u of v, ``[..., A]``."""
        return self.middle[name].to(value) + value @ self.axes[name].to(value)

    def _meant(self, told: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {k: self.meant(k, v) if k in self.middle else v for k, v in told.items()}

    def decode(
        self, states: Values, heads: Iterable[str] | None = None, **numbers: float | Tensor
    ) -> dict[str, Tensor]:
        """That of the dynamics."""
        return self.dynamics.decode(states, heads, **numbers)
