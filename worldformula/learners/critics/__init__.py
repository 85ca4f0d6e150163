"""Critics that learn outside of dreams: what states cost in the end, as a memory tells it."""

from worldformula.learners.critics.from_memory import MemoryCritic

__all__ = ["MemoryCritic"]
