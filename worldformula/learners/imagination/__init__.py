"""Actor and critic learned in imagination, as in DreamerV3 (Hafner et al. 2025)."""

from worldformula.learners.imagination.actor_critic import (
    BehaviourSettings,
    ImaginationActorCritic,
)
from worldformula.learners.imagination.contract import Behaviour
from worldformula.learners.imagination.normalise import PercentileNorm
from worldformula.learners.imagination.returns import lambda_return, replay_return

__all__ = [
    "Behaviour",
    "BehaviourSettings",
    "ImaginationActorCritic",
    "PercentileNorm",
    "lambda_return",
    "replay_return",
]
