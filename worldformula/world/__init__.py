"""What a world model is: a state, what can be imagined from it, and what infers it from data."""

from worldformula.world.contract import Actions, Dynamics, head_of
from worldformula.world.dynamics import PriorDynamics
from worldformula.world.heads import MASK
from worldformula.world.model import World
from worldformula.world.state import State, Values

__all__ = ["MASK", "Actions", "Dynamics", "PriorDynamics", "State", "Values", "World", "head_of"]
