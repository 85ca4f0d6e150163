"""Actor and critic learned in imagination: Dreamer's v1, v2 and v3 (Hafner et al. 2020, 2021, 2025), TD-MPC2, THICK."""

from worldformula.learners.imagination.actor_critic import (
    BehaviourSettings,
    ImaginationActorCritic,
)
from worldformula.learners.imagination.contract import Behaviour, Dreaming, Following, Replaying
from worldformula.learners.imagination.dynamics import DynamicsActorCritic, DynamicsSettings
from worldformula.learners.imagination.jumping import JumpingActorCritic, JumpingSettings
from worldformula.learners.imagination.latent_q import LatentActorCritic, LatentSettings
from worldformula.learners.imagination.mixed import MixedActorCritic, MixedSettings
from worldformula.learners.imagination.normalise import PercentileNorm, RangeNorm
from worldformula.learners.imagination.returns import lambda_return, replay_return
from worldformula.learners.imagination.spoken import Spoken

__all__ = [
    "Behaviour",
    "BehaviourSettings",
    "Dreaming",
    "DynamicsActorCritic",
    "DynamicsSettings",
    "Following",
    "ImaginationActorCritic",
    "JumpingActorCritic",
    "JumpingSettings",
    "LatentActorCritic",
    "LatentSettings",
    "MixedActorCritic",
    "MixedSettings",
    "PercentileNorm",
    "RangeNorm",
    "Replaying",
    "Spoken",
    "lambda_return",
    "replay_return",
]
