"""Cost: what an agent minimises at a state, Σ uᵢ·intrinsicᵢ (fixed) + Σ vⱼ·criticⱼ (trained) (LeCun 2022, section 3.2).

Dreamer's intrinsic cost is the negated reward head, its critic the negated value; both signs are kept here, so that
planners minimise and actor-critic learners read the reward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from worldformula.world import Values, World

Measure = Callable[[Values], Tensor]


@dataclass(frozen=True)
class Cost:
    """Intrinsic terms and critics, each ``states [..., event] -> [...]``, with their weights.

    The weights are data: a configurator changes them without retraining anything.
    """

    world: World
    intrinsic: dict[str, Measure] = field(default_factory=dict)
    critics: dict[str, Measure] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    reward: str = "r"
    proceed: str = "c"

    def __call__(self, states: Values) -> Tensor:
        """The total at states ``[..., event]``, lower is better: negated reward and every further term."""
        total = -self.weights.get(self.reward, 1.0) * self.world.decode(states, (self.reward,))[self.reward]
        for name, measure in (self.intrinsic | self.critics).items():
            total = total + self.weights.get(name, 1.0) * measure(states)
        return total

    def outcome(self, states: Values) -> tuple[Tensor, Tensor]:
        """Reward (the negated immediate cost) and continuation at states ``[..., event]``: two tensors ``[...]``."""
        decoded = self.world.decode(states, (self.reward, self.proceed))
        reward = self.weights.get(self.reward, 1.0) * decoded[self.reward]
        for name, measure in self.intrinsic.items():
            reward = reward - self.weights.get(name, 1.0) * measure(states)
        return reward, decoded[self.proceed]
