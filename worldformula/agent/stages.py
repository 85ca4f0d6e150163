"""One part of an evolving agent learns, as a task of a chain: V on rows, M on sequences, C in dreams."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from worldformula.agent.evolving import EvolvingAgent, M, V
from worldformula.data.base import digest
from worldformula.run.contract import Write
from worldformula.training import settings
from worldformula.training.seeding import derived


class Stage:
    """A `Task` of `worldformula.run.run.Run`: ``goal`` steps of V or M, or generations of C.

    What a step draws hangs on the seed and its number alone, so a stage that was killed goes on to the same bits.

    Args:
        agent: what learns.
        part: V, M or C.
        goal: steps of V or M, or generations of C.
        data: windows of experience ``[N, T, ...]``.
        frames: rows of a batch of V.
    """

    kind = "python"
    threads: int | None = None
    tensorboard = False

    def __init__(self, agent: EvolvingAgent, part: str, goal: int, data: Mapping[str, Any], frames: int) -> None:
        self.agent, self.part, self.goal, self.data, self.frames = agent, part, goal, data, frames
        self.step, self.every = 0, max(1, goal // 10)
        self._firsts: dict[str, Any] | None = None

    def advance(self, until: int, write: Write, asked: Callable[[], bool]) -> None:
        """Steps; their numbers are written once for each checkpoint, of C for each generation."""
        while self.step < until and not asked():
            numbers = self._one(derived(self.agent.seed, 5, ord(self.part), self.step))
            self.step += 1
            if self.step == until or self.part not in (V, M):
                write(self.step, {name: float(value) for name, value in numbers.items()})

    def _one(self, seed: int) -> Mapping[str, float | Tensor]:
        rng, agent = np.random.default_rng(seed), self.agent
        N, T = self.data["is_first"].shape
        if self.part == V:
            rows, times = rng.integers(N, size=self.frames), rng.integers(T, size=self.frames)
            return agent.learn_to_see(agent.flat({key: value[rows, times] for key, value in self.data.items()}))
        if self.part == M:
            chosen = rng.integers(N, size=agent.config.batch)
            return agent.learn_to_remember(agent.series({key: value[chosen] for key, value in self.data.items()}))
        return agent.evolve(agent.starts(agent.series(self._begun()), agent.dreams.rollouts, 0, seed))

    def _begun(self) -> dict[str, Any]:
        """The first rows of episodes, ``[n, 1, ...]``; of data without one, the first rows of windows."""
        if self._firsts is None:
            rows, times = np.nonzero(self.data["is_first"])
            if not len(rows):
                rows = np.arange(len(self.data["is_first"]))
                times = np.zeros_like(rows)
            found = {key: value[rows, times][:, None] for key, value in self.data.items()}
            self._firsts = {**found, "is_first": np.ones((len(rows), 1), bool)}
        return self._firsts

    def begin(self) -> None:
        """Nothing is left behind."""

    def kept(self) -> None:
        """Nothing else is stored."""

    def test(self) -> Mapping[str, float]:
        """Nothing is held back."""
        return {}

    def state(self) -> dict[str, Any]:
        """The agent, and how far it is."""
        return {"step": self.step, "agent": self.agent.checkpoint()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes back to there."""
        self.step = int(state["step"])
        self.agent.restore(state["agent"])

    def written(self) -> Mapping[str, Any]:
        """As in ``config.json``."""
        data = {key: np.ascontiguousarray(value) for key, value in self.data.items()}
        return {
            "part": self.part, "steps": self.goal, "frames": self.frames, "seed": self.agent.seed,
            "sees": list(self.agent.sees), "agent": settings.to_dict(self.agent.config), "data": digest(data),
        }  # fmt: skip

    def differences(self, stored: Mapping[str, Any]) -> Mapping[str, tuple[Any, Any]]:
        """Against the settings of the folder."""
        return {key: (stored.get(key), now) for key, now in self.written().items() if stored.get(key) != now}

    def resume_hint(self) -> str:
        """In Python."""
        return "run the same chain in the same folder again"
