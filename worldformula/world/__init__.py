"""What a world model is: a state, what can be imagined, and what infers it from data."""

from worldformula.world.model import World
from worldformula.world.state import State, Values

__all__ = ["State", "Values", "World"]
