"""Data of this package's environments: play of their own controllers, with random actions between.

>>> rows = play("key_corridor", seed=0, chunks=4, steps=50, labels=("hidden/key",), events=("pickup_key",))
>>> rows["vector"].shape, rows["event"].shape
((4, 50, 5, 5), (4, 50, 1))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldformula.envs import registry
from worldformula.envs.actions import column_name
from worldformula.envs.factory import ids, make
from worldformula.envs.spaces import leaf
from worldformula.envs.typed import Typed
from worldformula.errors import ConfigError, EnvironmentIdError, near

Row = dict[str, NDArray[Any]]


def play(
    id: str,
    seed: int,
    chunks: int,
    steps: int,
    random: Sequence[float] = (0.2, 0.5, 0.8),
    labels: Sequence[str] = (),
    events: Sequence[str] = (),
    hold: int = 1,
    controller: registry.Controller | None = None,
    **options: Any,
) -> Row:
    """Chunks of ``steps`` rows. Each begins with a new episode, and where one ends within it, the next one follows.

    Args:
        id: a name of this package.
        seed: of everything: same seed, same data.
        chunks: how many.
        steps: rows of each.
        random: with one of these probabilities, drawn for each chunk, an action is uniformly random; otherwise it is
            the controller's.
        labels: as for `make`.
        events: names of ``info["event"]``, of those in ``metadata["events"]``; whether each happened on arriving at a
            row is ``event`` ``[…, E]``.
        hold: steps for which a random action goes on: one leads nowhere, some lead to where the controller never goes.
        controller: of ``info["state"]``; by itself the environment's own, which knows all that is hidden.
        options: as for `make`.

    Returns:
        Arrays ``[chunks, steps, …]``: the columns of `make`, ``reward`` (of the arriving step), ``is_first``,
        ``is_last``, ``is_terminal``, the actions taken at each row (zeros at the last one of an episode), ``event``.

    Raises:
        EnvironmentIdError: no environment of this package.
        ConfigError: a probability beyond 0 … 1, or none; no chunk, or none with a row; names that are one text; an
            event that the environment does not have.
    """
    own = _checked(id, seed, chunks, steps, random, labels, events, hold)
    env = make(id, labels=labels, **options)
    known = tuple(env.metadata.get("events", ()))
    if unknown := [name for name in events if name not in known]:
        env.close()
        raise ConfigError(
            f"events: nothing called {unknown[0]!r} happens in {id}.{near(unknown[0], known)} Known: "
            f"{', '.join(known) or 'none'}"
        )
    how, children = controller or own, np.random.SeedSequence(seed).spawn(chunks)
    found = [_chunk(env, how, np.random.default_rng(c), steps, random, events, hold) for c in children]
    env.close()
    return {key: np.stack([chunk[key] for chunk in found]) for key in found[0]}


def _checked(
    id: str, seed: int, chunks: int, steps: int, random: Sequence[float], labels: Sequence[str], events: Sequence[str],
    hold: int,
) -> registry.Controller:  # fmt: skip
    """The environment's controller; errors as those of `play`."""
    entry = registry.find(id)
    if entry is None:
        raise EnvironmentIdError(f"{id!r} has no controller of its own.{near(id, ids())} Known: {', '.join(ids())}")
    if not isinstance(random, Sequence | np.ndarray) or not len(random) or not all(0 <= p <= 1 for p in random):
        raise ConfigError(f"expected shares of random actions from 0 to 1, such as (0.2, 0.5), got {random!r}")
    numbers = (chunks, steps, hold, seed)
    if not all(isinstance(n, int | np.integer) for n in numbers) or min(numbers[:3]) < 1 or seed < 0:
        raise ConfigError(
            f"expected whole numbers chunks and steps ≥ 1, hold ≥ 1, seed ≥ 0, got {chunks}, {steps}, {hold} and {seed}"
        )
    if isinstance(labels, str) or isinstance(events, str):
        raise ConfigError(
            f"expected labels and events as sequences of names, ('door_open',), got {labels!r}, {events!r}"
        )
    return entry.reference


def _chunk(
    env: Typed,
    controller: registry.Controller,
    rng: np.random.Generator,
    steps: int,
    random: Sequence[float],
    events: Sequence[str],
    hold: int,
) -> Row:
    share, rows = float(rng.choice(np.asarray(random))), list[Row]()
    ended = True
    observed: Row = {}
    info: Mapping[str, Any] = {}
    answer: tuple[float, bool, bool] = (0.0, False, False)
    drawn, left = dict[str, Any](), 0  # a random action, and the steps for which it goes on
    for _ in range(steps):
        first = ended
        if first:
            observed, info = env.reset(seed=int(rng.integers(2**31)))
            answer, left = (0.0, False, False), 0
        reward, terminated, truncated = answer
        ended = terminated or truncated
        if ended:
            action = {name: spec.zeros(1)[0] for name, spec in env.actions.items()}
        elif left or rng.random() < share:
            drawn, left = (drawn, left - 1) if left else (_drawn(env, rng), hold - 1)
            action = drawn
        else:
            action = _controlled(env, controller, info)
        rows.append(
            {
                **observed,
                "reward": np.asarray(reward, np.float32),
                "is_first": np.asarray(first),
                "is_last": np.asarray(ended),
                "is_terminal": np.asarray(terminated, np.bool_),
                **{column_name(name): value for name, value in action.items()},
                "event": np.isin(np.asarray(events, object), np.asarray(info.get("event", ()), object)),
            }
        )
        if not ended:
            observed, reward, terminated, truncated, info = env.step(action)
            answer = reward, terminated, truncated
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def _drawn(env: Typed, rng: np.random.Generator) -> Row:
    return {name: spec.random(rng, 1)[0] for name, spec in env.actions.items()}


def _controlled(env: Typed, controller: registry.Controller, info: Mapping[str, Any]) -> Row:
    """What the controller does, as agents write it."""
    wanted, several = controller(info["state"]), len(env.actions) > 1
    return {name: spec.written(leaf(wanted, name) if several else wanted) for name, spec in env.actions.items()}
