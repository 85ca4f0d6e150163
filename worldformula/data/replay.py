"""Replay of sequences, in memory or in memory-mapped files, with exact resume.

Every stream (one environment) writes its rows one after another into a ring. A sequence of length T is ``T``
neighbouring rows of one stream; its start is uniform over all starts whose rows are all held. Sequences may cross
episodes: the model resets its state where ``is_first``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from worldformula.data.bounds import bounds
from worldformula.data.latents import PREFIX, Latents, stored
from worldformula.data.mixture import Mixture, Priorities, newest
from worldformula.data.online import Online
from worldformula.data.ring import Ring, Spec
from worldformula.errors import ConfigError, ReplayError, table

Batch = dict[str, NDArray[Any]]

NEEDED = ("is_first", "is_last")


class Replay:
    """The last ``capacity`` rows of experience, sampled as sequences.

    With ``directory``, rows live in files (`Ring`), and a checkpoint holds only :meth:`state`. Rows that were valid at
    the last two checkpoints are never overwritten: the ring in the file is ``slack`` rows longer than ``capacity``.
    Without ``directory``, rows live in memory and :meth:`state` contains them.

    A row whose episode was abandoned (the next row of its stream has ``is_first``, but no end was recorded) is sampled
    with ``is_last`` set and its action zeroed, for that action was never executed.

    Args:
        capacity: rows over all streams; each stream keeps ``capacity // streams``.
        spec: shape and dtype of every column, as ``Envs.row_spec``: observation keys, reward, is_first, is_last,
            is_terminal, action.
        streams: number of environments, which add one row each at a time.
        directory: folder for the files, created if missing.
        slack: extra rows over all streams in the files; at least the number of rows added during two checkpoint
            intervals.
        seed: of the sampler.
        latents: name -> shape of what a world keeps of every row, float32: given with the rows, read by
            ``sample(context=1)`` and written anew by `write`.
        online: serve every row once while it is new: from each stream, one sequence after another as they become
            whole, before any is drawn at random (the online queue of DreamerV3).
        mixture: which shares of the sequences are drawn by priority and by recency; without, all starts are alike.

    Raises:
        ConfigError: impossible sizes.
        ReplayError: the files in ``directory`` belong to another description, or the disk is too small.
    """

    def __init__(
        self, capacity: int, spec: Spec, *, streams: int = 1, directory: str | Path | None = None, slack: int = 10_000,
        seed: int = 0, latents: Mapping[str, tuple[int, ...]] | None = None, online: bool = False,
        mixture: Mixture | None = None,
    ) -> None:  # fmt: skip
        if streams < 1 or capacity < streams or slack < 0:
            raise ConfigError(
                f"expected streams ≥ 1, capacity ≥ streams and slack ≥ 0; got {streams=}, {capacity=}, {slack=}"
            )
        missing = [key for key in NEEDED if key not in spec]
        self._actions = tuple(key for key in spec if key == "action" or key.startswith("action/"))
        if missing or not self._actions:
            missing += [] if self._actions else ["action"]
            raise ReplayError(f"the description of the rows lacks {missing}; pass Envs.row_spec")
        self.streams = streams
        self.rows_per_stream = capacity // streams
        self.directory = None if directory is None else Path(directory)
        self._slack = 0 if directory is None else -(-slack // streams)
        self._ring = Ring(
            {**spec, **stored(latents or {}, directory is not None)}, streams, self.rows_per_stream + self._slack,
            self.directory, {"rows_per_stream": self.rows_per_stream, "slack_per_stream": self._slack},
        )  # fmt: skip
        own = {key: value for key, value in self._ring.spec.items() if not key.startswith(PREFIX)}
        self.spec = own
        self._columns = {key: self._ring.columns[key] for key in own}
        self.latents = Latents(self._ring, tuple(latents)) if latents else None
        self._count = 0  # rows ever added to each stream
        self._marks: tuple[int, ...] = ()  # count at the last two checkpoints
        self._rng = np.random.default_rng(seed)
        self.online = Online(streams) if online else None
        self.mixture = mixture or Mixture()
        self.priorities = Priorities(streams, self._ring.length, self.mixture) if self.mixture.priority else None
        self._bounds: tuple[int, NDArray[np.int64]] | None = None  # of the episodes held when so many rows were added

    @property
    def nbytes(self) -> int:
        """Bytes of all columns once the ring is full."""
        return self._ring.nbytes

    # -------------------------------------------------------------------------------------------------------- writing

    def __len__(self) -> int:
        """Rows held, over all streams."""
        return self._held * self.streams

    @property
    def _held(self) -> int:
        return min(self._count, self.rows_per_stream)

    def add(
        self,
        rows: Mapping[str, NDArray[Any]],
        actions: NDArray[Any] | Mapping[str, NDArray[Any]],
        latents: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """Append one row to each stream.

        Args:
            rows: ``[N, …]`` per column, as ``Envs`` answers.
            actions: chosen at these rows, ``[N, …]``: the single one, or by column, as ``Envs.stored`` answers. Zero is
                stored where ``is_last``, for there nothing is executed.
            latents: the state of the world at these rows, ``[N, …]`` by name, where the replay keeps it.

        Raises:
            ReplayError: wrong keys, shapes or dtypes; the row would overwrite one that a checkpoint still needs; or
                the disk is full.
        """
        values = {**rows, **(actions if isinstance(actions, Mapping) else {"action": actions})}
        self._check(values)
        if (self.latents is None) != (latents is None):
            wanted = "no latents" if self.latents is None else f"the latents {', '.join(self.latents.names)}"
            raise ReplayError(f"this replay keeps {wanted}: pass latents= to add exactly where it does")
        self._protect()
        self._ring.reserve(self._count, len(self))
        position = self._count % self._ring.length
        for key, column in self._columns.items():
            column[:, position] = values[key]
        for key in self._actions:
            self._columns[key][rows["is_last"], position] = 0
        if self.priorities is not None:
            self.priorities.forget(position)
        if self.latents is not None and latents is not None:
            self.latents.put((np.arange(self.streams), np.full(self.streams, position)), latents)
        self._count += 1
        self._ring.release(sum(column[:, 0].nbytes for column in self._ring.columns.values()))

    def fill(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Put whole columns ``[N, R, …]``, actions included, into an empty replay in memory that has room for R rows.

        Raises:
            ReplayError: it is not empty, lies in files, keeps latents, or has less room; wrong keys, shapes or dtypes.
        """
        count = next(iter(columns.values())).shape[1]
        if self._count or self._ring.in_files or self.latents or not 0 < count <= self._ring.length:
            raise ReplayError(f"expected an empty replay in memory with room for {count} rows, not {self._ring.length}")
        self._check({key: value[:, 0] for key, value in columns.items()})
        for key, column in self._columns.items():
            column[:, :count] = columns[key]
        for key in self._actions:
            self._columns[key][:, :count][columns["is_last"]] = 0
        self._count = count

    def _check(self, values: Mapping[str, NDArray[Any]]) -> None:
        if values.keys() != self.spec.keys():
            missing, extra = sorted(self.spec.keys() - values.keys()), sorted(values.keys() - self.spec.keys())
            raise ReplayError(f"expected the columns {sorted(self.spec)}; missing are {missing}, unknown are {extra}")
        wrong = []
        for key, (shape, dtype) in self.spec.items():
            value, wanted = np.asarray(values[key]), (self.streams, *shape)
            if value.dtype != dtype or value.shape != wanted:
                wrong.append((key, f"{dtype} {wanted}", f"{value.dtype} {value.shape}"))
        if wrong:
            raise ReplayError(f"rows do not fit the replay:\n{table(('column', 'declared', 'got'), wrong)}")

    def _protect(self) -> None:
        """Refuse to overwrite a row that was valid at the older of the last two checkpoints."""
        overwritten = self._count - self._ring.length
        if self._ring.in_files and self._marks and overwritten >= max(0, self._marks[0] - self.rows_per_stream):
            since = (self._count - self._marks[0]) * self.streams
            raise ReplayError(
                f"{since} rows were added since the older of the last two checkpoints, and a slack of "
                f"{self._slack * self.streams} rows protects no more of them; checkpoint more often or create the "
                "replay with a larger slack"
            )

    def write(self, batch: Mapping[str, NDArray[Any]], latents: Mapping[str, NDArray[Any]]) -> None:
        """Put newer latents ``[B, T, …]`` in the place of those of the rows of a batch that ``sample`` gave.

        Rows that are held no more are left out; of those that stand in it twice, the last one counts.
        """
        if self.latents is None:
            raise ReplayError("this replay keeps no latents: create it with latents={name: shape}")
        stream, row = np.broadcast_arrays(batch["stream"][:, None], batch["row"])
        held = row >= self._count - self._held
        self.latents.put(
            (stream[held], row[held] % self._ring.length), {key: value[held] for key, value in latents.items()}
        )

    def reviewed(self, batch: Mapping[str, NDArray[Any]], loss: NDArray[Any] | None) -> None:
        """A world was trained on a batch that ``sample`` gave, with this loss of every row, ``[B, T]``.

        Rows that are held no more are left out. Where nothing is drawn by priority, nothing is noted.

        Raises:
            ReplayError: a loss of another shape, or none.
        """
        if self.priorities is None:
            return
        if loss is None:
            raise ReplayError(
                "to draw by priority, expected an agent whose `surprise` is the world's loss of every row"
            )
        stream, row = np.broadcast_arrays(batch["stream"][:, None], batch["row"])
        if loss.shape != row.shape:
            raise ReplayError(f"expected a loss of every row, {row.shape}, got {loss.shape}")
        held = row >= self._count - self._held
        self.priorities.reviewed(stream[held], row[held] % self._ring.length, loss[held])

    # ------------------------------------------------------------------------------------------------------- sampling

    def sample(
        self, batch: int, length: int, where: Literal["any", "start", "end"] = "any", context: int = 0
    ) -> Batch:  # fmt: skip
        """Random sequences.

        Args:
            batch: number of sequences B.
            length: rows per sequence T.
            where: "any" begins anywhere and crosses episodes; "start" begins with an episode and "end" stops with one.
            context: 1 gives the row before each sequence too: its latents as ``start/<name>``, its actions as
                ``start/<action>``, ``[B, …]``; and with ``stream`` ``[B]`` and ``row`` ``[B, T]`` where the rows lie,
                for `write`.

        Returns:
            Every column as ``[B, T, …]``, copies. ``is_first`` is as recorded: the first row of a sequence is usually
            in the middle of an episode. At starts and ends a sequence stays within one episode; there is a further
            column ``valid`` ``[B, T]``, and where an episode is shorter, the rows behind it are zero and not valid.

        Raises:
            ReplayError: no stream holds ``length`` rows, or no episode begins or ends in what is held.
        """
        if batch < 1 or length < 1 or context not in (0, 1):
            raise ReplayError(
                f"expected at least one sequence of at least one row and a context of 0 or 1 rows, got {batch} of "
                f"{length} and {context}"
            )
        if where != "any":
            if context:
                raise ReplayError(f"a sequence at the {where} of an episode has no context; leave context out")
            return self._sample_episodes(batch, length, where)
        whole = length + context
        if (starts := self._held - whole + 1) < 1:
            raise ReplayError(
                f"the replay holds {self._held} rows in each of its {self.streams} streams, {len(self)} in all; "
                f"sequences of {whole} rows need {whole} per stream, {whole * self.streams} in all: collect more, "
                "or sample shorter sequences"
            )
        new = self.online.take(batch, whole, self._count, self._held) if self.online else np.zeros((2, 0), np.int64)
        drawn = self._drawn(batch - new.shape[1], starts, context)
        stream, start = np.concatenate([new, [drawn[0], drawn[1] + self._count - self._held]], 1)
        out = self._gather(stream, start + context, length)
        if self.priorities is not None:
            out |= {"stream": stream, "row": (start + context)[:, None] + np.arange(length)}
        return out | self._context(stream, start, length) if context else out

    def glimpse(self, batch: int, length: int) -> Batch:
        """Up to so many sequences ``[B, T, …]``, spread evenly over what is held: nothing is drawn, nothing changes."""
        starts = max(0, self._held - length + 1)
        even = np.unique(np.linspace(0, starts * self.streams, batch, endpoint=False).astype(int))
        stream, start = np.divmod(even, starts or 1)
        return self._gather(stream, start + self._count - self._held, length) if starts else {}

    def _drawn(self, num: int, starts: int, context: int) -> NDArray[np.int64]:
        """Streams and starts ``[2, num]``, counted from the oldest row, by the shares of the mixture."""
        own = self.mixture
        kind = self._rng.random(num) if own.priority or own.recent else np.ones(num)
        curious, recent = kind < own.priority, (kind >= own.priority) & (kind < own.priority + own.recent)
        found = np.stack(np.divmod(self._rng.integers(starts * self.streams, size=num), starts))
        if recent.any():
            found[:, recent] = newest(self._rng, int(recent.sum()), self.streams, starts, own.exponent)
        if self.priorities is not None and curious.any():
            first = (self._count - self._held + context + np.arange(starts)) % self._ring.length
            found[:, curious] = self.priorities.draw(self._rng, int(curious.sum()), first)
        return found

    def _context(self, stream: NDArray[np.int64], start: NDArray[np.int64], length: int) -> Batch:
        """What a sequence goes on from: the row before it."""
        before = self._gather(stream, start, 1)
        latents = {} if self.latents is None else self.latents.get((stream, start % self._ring.length))
        found: Batch = {f"start/{key}": before[key][:, 0] for key in self._actions}
        found |= {f"start/{key}": value for key, value in latents.items()}
        return found | {"stream": stream, "row": start[:, None] + 1 + np.arange(length)}

    def _sample_episodes(self, batch: int, length: int, where: str) -> Batch:
        if self._bounds is None or self._bounds[0] != self._count:
            held = np.arange(self._count - self._held, self._count)
            first, last = (self._columns[key][:, held % self._ring.length] for key in ("is_first", "is_last"))
            self._bounds = self._count, bounds(first, last, held)
        found = self._bounds[1]
        choices = found[found[:, 3 if where == "start" else 4] == 1]
        if where not in ("start", "end") or not len(choices):
            raise ReplayError(f'expected where="any", "start" or "end", and an episode with one in the rows; {where=}')
        stream, start, stop = choices[self._rng.integers(len(choices), size=batch), :3].T
        rows = np.minimum(stop - start, length)
        out = self._gather(stream, start if where == "start" else stop - rows, length)
        out["valid"] = valid = np.arange(length) < rows[:, None]
        for value in out.values():
            value[~valid] = 0
        return out

    def _gather(self, stream: NDArray[np.int64], start: NDArray[np.int64], length: int) -> Batch:
        rows = start[:, None] + np.arange(length + 1)
        index = stream[:, None], rows[:, :-1] % self._ring.length
        out = {key: column[index] for key, column in self._columns.items()}
        following = rows[:, 1:]
        new = self._columns["is_first"][stream[:, None], following % self._ring.length]
        abandoned = new & (following < self._count)
        out["is_last"] |= abandoned
        for key in self._actions:
            out[key][abandoned] = 0
        self._ring.release(sum(value.nbytes for value in out.values()))
        return out

    # ---------------------------------------------------------------------------------------------------- exact resume

    def flush(self) -> None:
        """`Ring.flush`: the files are written through to the disk."""
        self._ring.flush()

    def checkpointed(self) -> None:
        """A checkpoint with the present :meth:`state` is safe on disk: protect the rows that it refers to."""
        self._marks = (*self._marks, self._count)[-2:]
        if self.latents is not None:
            self.latents.checkpointed()

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to hold: JSON values, and without ``directory`` the rows as arrays under "columns"."""
        state: dict[str, Any] = {
            "count": self._count,
            "marks": list(self._marks),
            "rng": self._rng.bit_generator.state,
            "online": self.online.state() if self.online else None,
            "streams": self.streams,
            "rows_per_stream": self.rows_per_stream,
        }
        if not self._ring.in_files:
            held = np.arange(self._count - self._held, self._count) % self._ring.length
            state["columns"] = {key: column[:, held] for key, column in self._ring.columns.items()}
        if self.latents is not None:
            state["latents"] = self.latents.state()
        if self.priorities is not None:
            state["priorities"] = self.priorities.state()
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Return to a checkpoint; sampling and adding then go on as they did after it, bit for bit.

        Rows that were added to the files after the checkpoint stay there, unseen, and are overwritten. How sequences
        are drawn may be another than before: an online queue begins with the rows to come, and where priorities are
        new, no row was trained on.

        Raises:
            ReplayError: the state belongs to a replay of another size or kind.
        """
        for name, mine in (("streams", self.streams), ("rows_per_stream", self.rows_per_stream)):
            if state[name] != mine:
                raise ReplayError(f"the checkpoint has {name} = {state[name]}, this replay {mine}; use equal settings")
        if ("columns" in state) == self._ring.in_files:
            raise ReplayError("a replay with a directory and one in memory cannot restore each other's checkpoints")
        if ("latents" in state) != (self.latents is not None):
            raise ReplayError("a replay with latents and one without cannot restore each other's checkpoints")
        if self._ring.in_files and not self._ring.reopened and state["count"] > self._count:
            self._ring.forget()  # or the next attempt would take our empty files for those rows
            raise ReplayError(
                f"the checkpoint needs {state['count']} rows per stream, and {self.directory} held no replay files. "
                "Bring back the replay folder of the interrupted run, or start a new run in another folder."
            )
        self._count, self._bounds = int(state["count"]), None
        if self.online:
            earlier = {"begun": 0, "length": 0, "served": state.get("served", 0)}  # what earlier versions said
            late = {"begun": self._count, "length": 0, "served": 0}
            self.online.restore(state.get("online", earlier) or late)
        self._ring.reserved = self._count
        if not self._ring.in_files:
            held = np.arange(self._count - self._held, self._count) % self._ring.length
            for key, column in self._ring.columns.items():
                column[:, held] = state["columns"][key]
        self._marks = (*(int(mark) for mark in state["marks"]), self._count)[-2:]
        self._rng.bit_generator.state = state["rng"]
        if self.latents is not None:
            self.latents.restore(state["latents"])
        if self.priorities is not None and "priorities" in state:
            self.priorities.restore(state["priorities"])
