"""What is made at need and kept: what was asked for last, and not something for everyone who ever asked."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
MOST = 16  # policies that an agent and its searches use in turn; each is a compiled function


class Recent(dict[K, V]):
    """At most `MOST` values by key, in the order in which they were asked for."""

    def found(self, key: K, make: Callable[[], V]) -> V:
        """That of a key, made where it is not kept."""
        value = self.pop(key) if key in self else make()
        self[key] = value
        if len(self) > MOST:
            del self[next(iter(self))]
        return value
