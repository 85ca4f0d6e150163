"""The laws that families, models, worlds, planners, costs, agents and environments keep, as functions for anyone's
own class.

Our own suite calls the same functions.

>>> from worldformula.families import NormalFamily
>>> check_family(NormalFamily(min_scale=0.1), shape=(3,))
"""

from worldformula.testing.agents import check_agent
from worldformula.testing.causal import check_causal
from worldformula.testing.costs import check_cost
from worldformula.testing.environments import check_env
from worldformula.testing.families import check_family
from worldformula.testing.laws import Laws
from worldformula.testing.models import check_model
from worldformula.testing.planners import check_planner
from worldformula.testing.worlds import check_dynamics, check_world

__all__ = [
    "Laws",
    "check_agent",
    "check_causal",
    "check_cost",
    "check_dynamics",
    "check_env",
    "check_family",
    "check_model",
    "check_planner",
    "check_world",
]
