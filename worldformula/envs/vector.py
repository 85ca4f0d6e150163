"""``Envs``: several environments in step, answering in rows of experience."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldformula.envs.actions import Actions, ActionSpec, by_name, column_name, columns, mask_name
from worldformula.envs.columns import Column, row_spec
from worldformula.envs.factory import make
from worldformula.envs.process import Remote
from worldformula.envs.stream import FAILURES, Episode, Failure, Row, Served, Stream
from worldformula.envs.words import vocabulary_of
from worldformula.errors import ConfigError, RobotError, SpaceError, WorldformulaError

Rows = dict[str, NDArray[Any]]


class Envs:
    """``num`` copies of one environment, stepped together.

    Every answer is a dictionary of arrays ``[N, …]``: the observation keys, as their columns say; ``mask/<action>``
    where the environment says what is allowed; ``label/<key>``; ``reward`` (float32, of the arriving step) and
    ``is_first``, ``is_last``, ``is_terminal`` (bool). After a row with ``is_last`` comes the first observation of the
    next episode, with reward 0 and ``is_first``; the action given in between is ignored.

    Every episode has a seed of its own, made from (seed, stream, episode): nothing else decides what follows, but the
    actions.

    Args:
        id: as for :func:`worldformula.envs.make`.
        num: number of streams.
        seed: all randomness derives from it.
        recover: an environment that raises an error or gives NaN is made anew and begins the next episode; the row
            before has no ``is_last``. Without, the error is raised. Of a robot that is not simulated a
            `RobotError` is raised either way, after a pause: no driver is made anew.
        log_info: keys of ``info`` whose numbers at the last step are kept with each finished episode.
        timeout: seconds that an environment may take for one answer. Each then runs in a process of its own, and one
            that hangs is killed: a failure, which ``recover`` survives. None runs them here.
        options: keyword arguments of :func:`worldformula.envs.make`.

    Attributes:
        columns: one :class:`~worldformula.envs.columns.Column` per key of the rows that the environment gives.
        observations: those of them that an agent observes: no masks, no labels.
        actions: one :class:`~worldformula.envs.actions.ActionSpec` per named action.
        vocabulary: the words of one that speaks, else None; of one in a process of its own nobody knows.
        row_spec: shape and dtype of every column, actions included, as ``Replay`` takes it.
        real: it is a robot that is not simulated, of which there is one.
        finished: the episodes that ended at the latest rows.
        infos: Gymnasium's info of the latest rows, one per stream.

    >>> envs = Envs("pendulum", 2, seed=0, pixels=True)
    >>> rows = envs.reset()
    >>> rows = envs.step(envs.action.zeros(2))
    >>> rows["image"].shape
    (2, 32, 32, 3)
    """

    def __init__(
        self,
        id: str,
        num: int = 1,
        *,
        seed: int = 0,
        recover: bool = False,
        log_info: Sequence[str] = (),
        timeout: float | None = None,
        **options: Any,
    ) -> None:
        if num < 1:
            raise ConfigError(f"expected at least one environment, got {num}")
        if num > 1 and options.get("single"):
            raise ConfigError(f"{id} cannot be made twice (single=True), and num={num} asks for {num}; set num=1")
        self.id, self.num, self.seed = id, num, seed
        self._recover, self._log_info = recover, tuple(log_info)
        if timeout is not None and (timeout <= 0 or options.get("single")):
            raise ConfigError(f"timeout expects seconds above 0, and not single=True; got {timeout}")

        def build() -> Served:
            return make(id, **options) if timeout is None else Remote(id, options, timeout)

        self._streams = [Stream(build, 0, seed)]
        self.real = self._streams[0].real
        if self.real and num > 1:
            self.close()
            raise ConfigError(
                f"{id} is a robot that is not simulated, and nobody acts on several at once: expected one stream "
                f"(env.num=1, or --sequences 1), got {num}"
            )
        self._streams += [Stream(build, index, seed) for index in range(1, num)]
        env = self._streams[0].env
        self.columns: dict[str, Column] = env.columns
        self.observations: dict[str, Column] = env.observations
        self.actions: dict[str, ActionSpec] = env.actions
        self.vocabulary = vocabulary_of(env)
        self.row_spec = row_spec(self.columns, columns(self.actions))
        self.finished: list[Episode] = []

    @property
    def action(self) -> ActionSpec:
        """The single action.

        Raises:
            SpaceError: there are several, see ``actions``.
        """
        if len(self.actions) > 1:
            raise SpaceError(f"{self.id} takes several actions, {', '.join(self.actions)}: read actions, by name")
        return next(iter(self.actions.values()))

    @property
    def bare(self) -> list[Any]:
        """The environments as they were written, one per stream; those in processes of their own cannot be had."""
        return [getattr(stream.env, "unwrapped", None) for stream in self._streams]

    @property
    def infos(self) -> list[dict[str, Any]]:
        """Gymnasium's info of the latest rows, one per stream."""
        return [stream.info for stream in self._streams]

    @property
    def info(self) -> dict[str, NDArray[Any]]:
        """Numbers of the latest infos, as arrays over the streams, without what differs in shape between them."""
        infos = self.infos
        found: dict[str, NDArray[Any]] = {}
        for key in infos[0]:
            values = [info[key] for info in infos if key in info]
            if len(values) == self.num and all(isinstance(v, int | float | np.ndarray | np.generic) for v in values):
                arrays = [np.asarray(value) for value in values]
                if len({array.shape for array in arrays}) == 1 and all(a.dtype.kind in "fiub" for a in arrays):
                    found[key] = np.stack(arrays)
        return found

    @property
    def failures(self) -> list[Failure]:
        """The failures that were survived, stream by stream."""
        return [failure for stream in self._streams for failure in stream.failures]

    def random(self, rng: np.random.Generator, rows: Mapping[str, NDArray[Any]] | None = None) -> Actions:
        """Uniformly random actions at ``rows``, among what their masks allow: an array, or one per name."""
        found = {}
        for name, spec in self.actions.items():
            mask = None if rows is None else rows.get(mask_name(name))
            found[name] = spec.random(rng, self.num, mask)
        return found if len(found) > 1 else next(iter(found.values()))

    def stored(self, actions: Actions) -> dict[str, NDArray[Any]]:
        """The actions as they are executed (clipped, checked), by the name of their column.

        Raises:
            SpaceError: wrong names, shapes or choices.
            NonFiniteError: an action is NaN or infinite.
        """
        return {column_name(name): value for name, value in by_name(actions, self.actions).items()}

    def reset(self, episode: int = 0) -> Rows:
        """Abandon all episodes and begin number ``episode`` in every stream."""
        return self._rows([self._survived(stream, lambda s: s.begin(episode)) for stream in self._streams])

    def step(self, actions: Actions) -> Rows:
        """Act in every stream.

        Args:
            actions: of the single action, float32 ``[N, A]`` in [−1, 1] (values outside are clipped) or whole numbers
                ``[N]`` from 0; of several actions, one such array per name.

        Raises:
            SpaceError: wrong names, shapes or choices.
            NonFiniteError: an action is NaN or infinite.
        """
        named = by_name(actions, self.actions)
        if len(next(iter(named.values()))) != self.num:
            raise SpaceError(f"expected actions for {self.num} streams, got {len(next(iter(named.values())))}")
        each = [{name: value[i] for name, value in named.items()} for i in range(self.num)]
        for stream in self._streams:
            stream.prepare(each[stream.index])
        found = [self._survived(s, lambda s: s.next(each[s.index])) for s in self._streams]
        return self._rows(found)

    def _survived(self, stream: Stream, call: Any) -> Row:
        try:
            return call(stream)
        except RobotError:
            raise
        except WorldformulaError as error:
            if self.real:
                with contextlib.suppress(Exception):
                    stream.env.close()
                raise RobotError(f"{error} The robot was paused") from error
            if not self._recover or not isinstance(error, FAILURES):
                raise
            return stream.recover(error)

    def _rows(self, found: list[Row]) -> Rows:
        rows = {key: np.stack([row[key] for row in found]) for key in found[0]}
        self.finished = [self._episode(stream) for stream in self._streams if stream.over]
        return rows

    def _episode(self, stream: Stream) -> Episode:
        numbers = {}
        for key in self._log_info:
            value = np.asarray(stream.info.get(key))
            if value.size == 1 and value.dtype.kind in "fiub":
                numbers[key] = float(value.item())
        return Episode(stream.index, stream.score, len(stream.actions), numbers)

    # --------------------------------------------------------------------------------------------------- exact resume

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to hold: each stream's episode, what lasted from before it, its actions so far, and a
        fingerprint of its rows.
        """
        found: dict[str, Any] = {"episodes": [s.episode for s in self._streams]}
        found["digests"] = [s.digest for s in self._streams]
        found["lasting"] = [s.lasting for s in self._streams]
        found["actions"] = [
            {name: np.stack([a[name] for a in s.actions]) for name in self.actions} if s.actions else {}
            for s in self._streams
        ]
        return found

    def restore(self, state: Mapping[str, Any]) -> tuple[Rows, list[int]]:
        """The rows where a checkpoint was made: every episode is played again from its seed and its actions.

        Returns:
            The present rows, and the streams whose episode did not come out the same to the last bit: there it was cut,
            and the row is the first of the next one.
        """
        rows, cut = [], []
        lasting = state.get("lasting", [{}] * self.num)
        for stream in self._streams:
            taken = {name: np.asarray(v) for name, v in state["actions"][stream.index].items()}
            count = len(next(iter(taken.values()))) if taken else 0
            actions = [{name: value[t] for name, value in taken.items()} for t in range(count)]
            digest, episode = state["digests"][stream.index], state["episodes"][stream.index]
            row, same = stream.rerun(int(episode), actions, digest, lasting[stream.index])
            rows.append(row)
            if not same:
                cut.append(stream.index)
        return self._rows(rows), cut

    def render(self) -> NDArray[np.uint8]:
        """The pictures of all streams, uint8 ``[N, H, W, 3]``."""
        return np.stack([stream.env.render() for stream in self._streams])

    def close(self) -> None:
        """Release what the environments hold."""
        for stream in self._streams:
            stream.env.close()
