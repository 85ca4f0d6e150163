"""Environments: ``make`` over Gymnasium, ``Envs`` for rows of experience, and small environments drawn in NumPy.

>>> from worldformula.envs import Envs
>>> rows = Envs("cartpole_swingup", 4, pixels=True).reset()
"""

from worldformula.envs.actions import Actions, ActionSpec
from worldformula.envs.columns import Column
from worldformula.envs.factory import ids, make
from worldformula.envs.returns import Score, random_policy_return, reference_return
from worldformula.envs.stream import Episode, Failure
from worldformula.envs.vector import Envs, Rows

__all__ = [
    "ActionSpec",
    "Actions",
    "Column",
    "Envs",
    "Episode",
    "Failure",
    "Rows",
    "Score",
    "ids",
    "make",
    "random_policy_return",
    "reference_return",
]
