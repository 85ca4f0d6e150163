"""Bonuses of states that are worth a visit: the disagreement of an ensemble (Sekar et al. 2020), and the error of a
prediction among features that an action can be told from (Pathak et al. 2017).
"""

from worldformula.learners.curiosity.contract import Curious, transitions
from worldformula.learners.curiosity.disagreement import Disagreement
from worldformula.learners.curiosity.icm import ICM
from worldformula.learners.curiosity.settings import CuriositySettings, curious_by

__all__ = ["ICM", "CuriositySettings", "Curious", "Disagreement", "curious_by", "transitions"]
