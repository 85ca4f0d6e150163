"""``Envs``: several environments in step, answering in rows of experience."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from worldformula.envs.factory import make
from worldformula.envs.spaces import row_spec
from worldformula.errors import ConfigError, NonFiniteError, SpaceError

Rows = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Episode:
    """A complete episode: stream, sum of its rewards, number of its actions."""

    stream: int
    score: float
    length: int


class EpisodeStats:
    """Return and length of complete episodes, from rows; abandoned episodes are never counted."""

    def __init__(self, streams: int) -> None:
        self._score = np.zeros(streams, np.float64)
        self._length = np.zeros(streams, np.int64)
        self._started = np.zeros(streams, np.bool_)

    def update(self, rows: Rows) -> list[Episode]:
        """The episodes that ended at these rows ``[N]``."""
        first = rows["is_first"]
        self._score = np.where(first, 0.0, self._score + rows["reward"])
        self._length = np.where(first, 0, self._length + 1)
        self._started |= first
        ended = np.flatnonzero(rows["is_last"] & self._started)
        return [Episode(int(i), float(self._score[i]), int(self._length[i])) for i in ended]


class Streams(SyncVectorEnv):
    """Gymnasium's vector environment, but an info of one stream that does not fit the others' is left out."""

    def _add_info(self, vector_infos: dict[str, Any], env_info: dict[str, Any], env_num: int) -> dict[str, Any]:
        for key, value in env_info.items():
            try:
                vector_infos = super()._add_info(vector_infos, {key: value}, env_num)
            except (ValueError, TypeError, IndexError, KeyError, AttributeError):
                vector_infos = {k: v for k, v in vector_infos.items() if k not in (key, f"_{key}")}
        return vector_infos


class Envs:
    """``num`` copies of one environment, stepped together, in one process.

    Every answer is a dictionary of arrays ``[N, …]``: the observation keys (pictures uint8 ``[N, H, W, C]``, vectors
    float32), ``reward`` (float32, belongs to the arriving step) and ``is_first``, ``is_last``, ``is_terminal`` (bool).
    After a row with ``is_last`` comes the first observation of the next episode, with reward 0 and ``is_first``; the
    action given in between is ignored.

    Args:
        id: as for :func:`worldformula.envs.make`.
        num: number of streams.
        seed: all randomness derives from (seed, epoch, stream).
        options: keyword arguments of :func:`worldformula.envs.make`.

    Attributes:
        observation_spaces: one Box per observation key.
        action: the :class:`~worldformula.envs.spaces.ActionSpec`.
        row_spec: shape and dtype of every column, "action" included, as ``Replay`` takes it.
        finished: the episodes that ended at the latest rows.
        info: Gymnasium's info of the latest rows (arrays over the streams), without what differs in shape between them.

    >>> envs = Envs("pendulum", 2, seed=0, pixels=True)
    >>> rows = envs.reset()
    >>> rows = envs.step(envs.action.zeros(2))
    >>> rows["image"].shape
    (2, 32, 32, 3)
    """

    def __init__(self, id: str, num: int = 1, *, seed: int = 0, **options: Any) -> None:
        if num < 1:
            raise ConfigError(f"expected at least one environment, got {num}")
        self.id, self.num, self.seed = id, num, seed
        self._envs = Streams([lambda: make(id, **options)] * num, autoreset_mode=AutoresetMode.NEXT_STEP)
        space = self._envs.single_observation_space
        assert isinstance(space, spaces.Dict)
        self.observation_spaces: dict[str, spaces.Box] = dict(space.spaces)  # type: ignore[arg-type]
        self.action = self._envs.envs[0].get_wrapper_attr("spec_of_actions")
        self.row_spec = row_spec(self.observation_spaces, self.action)
        self._stats = EpisodeStats(num)
        self.finished: list[Episode] = []
        self.info: dict[str, Any] = {}

    def reset(self, epoch: int = 0) -> Rows:
        """Abandon all episodes and start new ones; what follows depends on (seed, epoch, actions) alone.

        Args:
            epoch: number of the checkpoint, 0 at the start of the run.
        """
        seeds: list[int | None] = [
            int(np.random.SeedSequence([self.seed, epoch, i]).generate_state(1)[0]) for i in range(self.num)
        ]
        observation, self.info = self._envs.reset(seed=seeds)
        no = np.zeros(self.num, np.bool_)
        return self._rows(observation, np.zeros(self.num), no, no, ~no)

    def step(self, actions: NDArray[np.float32]) -> Rows:
        """Act in every stream.

        Args:
            actions: float32 ``[N, A]``: in [−1, 1] (values outside are clipped), or one-hot.

        Raises:
            SpaceError: wrong shape.
            NonFiniteError: an action is NaN or infinite.
        """
        actions = np.asarray(actions, np.float32)
        if actions.shape != (self.num, self.action.size):
            raise SpaceError(f"expected actions of shape {(self.num, self.action.size)}, got {actions.shape}")
        if not np.isfinite(actions).all():
            stream = int(np.flatnonzero(~np.isfinite(actions).all(1))[0])
            raise NonFiniteError(
                f"the action for stream {stream} of {self.id} is not finite: {actions[stream]}. Expected finite "
                "numbers; if an agent chose it, its weights have diverged: lower its learning rate."
            )
        observation, reward, terminated, truncated, self.info = self._envs.step(actions)
        first = self._last
        return self._rows(observation, reward, terminated, terminated | truncated, first)

    def _rows(self, observation: Rows, reward: Any, terminal: Any, last: Any, first: Any) -> Rows:
        rows = {
            **observation,
            "reward": reward.astype(np.float32),
            "is_first": first.copy(),
            "is_last": last.copy(),
            "is_terminal": terminal.copy(),
        }
        self._last = rows["is_last"].copy()
        self.finished = self._stats.update(rows)
        return rows

    def render(self) -> NDArray[np.uint8]:
        """The pictures of all streams, uint8 ``[N, H, W, 3]``."""
        return np.stack(self._envs.render())

    def close(self) -> None:
        """Release what the environments hold."""
        self._envs.close()
