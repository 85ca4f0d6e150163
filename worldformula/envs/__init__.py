"""Environments: ``make`` over Gymnasium, ``Envs`` for rows of experience, and small environments drawn in NumPy.

>>> from worldformula.envs import Envs
>>> rows = Envs("cartpole_swingup", 4, pixels=True).reset()
"""

from worldformula.envs.factory import ids, make
from worldformula.envs.returns import Score, random_policy_return, reference_return
from worldformula.envs.spaces import ActionSpec
from worldformula.envs.vector import Envs, Episode, EpisodeStats

__all__ = [
    "ActionSpec",
    "Envs",
    "Episode",
    "EpisodeStats",
    "Score",
    "ids",
    "make",
    "random_policy_return",
    "reference_return",
]
