"""One stream of experience: an environment, episode after episode, each with a seed of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from worldformula.envs.actions import ActionSpec
from worldformula.envs.columns import Column
from worldformula.errors import BrokenEnvironmentError, NonFiniteError

Row = dict[str, NDArray[Any]]
Action = dict[str, NDArray[Any]]

FAILURES = (BrokenEnvironmentError, NonFiniteError)
"""What a restart may cure: the environment raised, hung, or gave NaN. Wrong shapes and types come again."""

ATTEMPTS = 10
"""Failures in a row, without one good step between them, after which an environment is given up."""


class Served(Protocol):
    """An environment that answers in columns: `Typed`, here or in a process of its own."""

    columns: dict[str, Column]
    observations: dict[str, Column]
    actions: dict[str, ActionSpec]

    def reset(self, *, seed: int | None = None) -> tuple[Row, dict[str, Any]]:
        """The first row of an episode."""
        ...

    def step(self, action: Action) -> tuple[Row, float, bool, bool, dict[str, Any]]:
        """The next row."""
        ...

    def render(self) -> Any:
        """Its picture."""
        ...

    def lasting(self) -> dict[str, Any] | None:
        """What lasts beyond an episode; None where it cannot be put back, as the place of a robot."""
        ...

    def return_to(self, lasting: Mapping[str, Any]) -> None:
        """Puts the answer of `lasting` back."""
        ...

    def close(self) -> None:
        """Ends it."""
        ...


@dataclass(frozen=True)
class Episode:
    """A complete episode: stream, sum of its rewards, number of its actions, and numbers of its last ``info``."""

    stream: int
    score: float
    length: int
    info: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """A failure that was survived: the stream, its episode, the actions taken in it, and what went wrong."""

    stream: int
    episode: int
    step: int
    reason: str


def episode_seed(seed: int, stream: int, episode: int) -> int:
    """The seed of an episode; it depends on nothing else."""
    return int(np.random.SeedSequence([seed, stream, episode]).generate_state(1)[0])


class Stream:
    """The environment of one stream.

    Args:
        build: makes the environment; called again after a failure.
        index: number of the stream.
        seed: of the run.

    Attributes:
        episode: number of the present one.
        over: its last row was given.
        score: its rewards so far.
        actions: its actions so far, as they were executed.
        lasting: what lasted from before the present one, as `Served.lasting`.
        failures: what went wrong so far.
    """

    def __init__(self, build: Callable[[], Served], index: int, seed: int) -> None:
        self._build, self.index, self.seed = build, index, seed
        self.env = build()
        self.episode, self.over, self.score = -1, True, 0.0
        self.actions: list[Action] = []
        self.info: dict[str, Any] = {}
        self.lasting: dict[str, Any] | None = {}
        self.failures: list[Failure] = []
        self._stuck = 0
        self._hash = hashlib.blake2b(digest_size=16)

    @property
    def real(self) -> bool:
        """Whether it is a robot that is not simulated: nothing of it can be put back."""
        return self.env.lasting() is None

    @property
    def digest(self) -> str:
        """A fingerprint of all rows of the present episode."""
        return self._hash.hexdigest()

    def begin(self, episode: int) -> Row:
        """The first row of an episode."""
        self.episode, self.over, self.score, self.actions = episode, False, 0.0, []
        self._hash = hashlib.blake2b(digest_size=16)
        self.lasting = self.env.lasting()
        observation, self.info = self.env.reset(seed=episode_seed(self.seed, self.index, episode))
        return self._row(observation, 0.0, first=True, last=False, terminal=False)

    def advance(self, action: Action) -> Row:
        """The row that an action leads to."""
        observation, reward, terminated, truncated, self.info = self.env.step(action)
        self.actions.append(action)
        self.over = terminated or truncated
        self._stuck = 0
        return self._row(observation, reward, first=False, last=self.over, terminal=terminated)

    def prepare(self, action: Action) -> None:
        """Lets an environment in another process begin with the step that `next` will ask for."""
        ask = getattr(self.env, "ask", None)
        if ask is None:
            return
        if not self.over:
            ask("step", action)

    def next(self, action: Action) -> Row:
        """The row that follows: the arriving one, or the first of the next episode."""
        return self.begin(self.episode + 1) if self.over else self.advance(action)

    def recover(self, error: Exception) -> Row:
        """After a failure: a new environment, and the first row of the next episode.

        Raises:
            BrokenEnvironmentError, NonFiniteError: it failed ten times without one good step.
        """
        while True:
            self._stuck += 1
            self.failures.append(Failure(self.index, self.episode, len(self.actions), str(error)))
            if self._stuck >= ATTEMPTS:
                raise error
            try:
                self.rebuild()
                return self.begin(self.episode + 1)
            except FAILURES as again:
                error = again

    def rebuild(self) -> None:
        """Another instance of the environment; whatever the old one says at its end does not matter any more."""
        try:
            self.env.close()
        except Exception:  # noqa: BLE001 - it has failed already
            self.failures = [*self.failures]
        self.env = self._build()

    def rerun(
        self, episode: int, actions: list[Action], digest: str, lasting: Mapping[str, Any] | None
    ) -> tuple[Row, bool]:
        """The present row of an episode that was interrupted, from its seed, its actions and what lasted before it.

        Returns:
            The row, and whether every row was the same to the last bit. If not, the episode is cut: the row is the
            first of the next one. So it is where nothing can be put back: a robot does not do anything twice.
        """
        if lasting is None or self.env.lasting() is None:
            return self.begin(episode + 1), False
        try:
            self.env.return_to(lasting)
            row = self.begin(episode)
            for action in actions:
                row = self.advance(action)
            if self.digest == digest:
                return row, True
        except FAILURES:
            self.rebuild()
        return self.begin(episode + 1), False

    def _row(self, observation: Row, reward: float, *, first: bool, last: bool, terminal: bool) -> Row:
        flags = {"is_first": first, "is_last": last, "is_terminal": terminal}
        row: Row = {**observation, "reward": np.asarray(reward, np.float32)}
        row |= {key: np.asarray(value, np.bool_) for key, value in flags.items()}
        self.score += float(row["reward"])
        for key, value in row.items():
            self._hash.update(key.encode() + np.ascontiguousarray(value).tobytes())
        return row
