"""Actor and critic learned in imagination: those of Dreamer v1, v2 and v3 (Hafner et al. 2020, 2021, 2025)."""

from worldformula.learners.imagination.actor_critic import (
    BehaviourSettings,
    ImaginationActorCritic,
)
from worldformula.learners.imagination.contract import Behaviour, Replaying
from worldformula.learners.imagination.dynamics import DynamicsActorCritic, DynamicsSettings
from worldformula.learners.imagination.mixed import MixedActorCritic, MixedSettings
from worldformula.learners.imagination.normalise import PercentileNorm
from worldformula.learners.imagination.returns import lambda_return, replay_return

__all__ = [
    "Behaviour",
    "BehaviourSettings",
    "DynamicsActorCritic",
    "DynamicsSettings",
    "ImaginationActorCritic",
    "MixedActorCritic",
    "MixedSettings",
    "PercentileNorm",
    "Replaying",
    "lambda_return",
    "replay_return",
]
