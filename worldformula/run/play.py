"""Acting in environments: the one loop that training, evaluation, recordings, estimates and reports share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from worldformula.envs import Actions, Envs, Rows, registry
from worldformula.envs.actions import ActionSpec, mask_name
from worldformula.run.config import EnvConfig
from worldformula.run.contract import Acting, AgentState

LONGEST = 100_000  # actions that an episode may take where somebody waits for its end
ENDLESS = 5_000  # actions without the end of any episode, in any stream, after which nobody waits for one


def patience(env: EnvConfig) -> int:
    """Actions after which nobody waits for a first episode to end: a longer limit of the environment is waited for."""
    return max(ENDLESS, (env.max_steps or 0) + 1)


def unended(env: str) -> str:
    """What is said of an environment whose episode nobody waits for any more."""
    return f"an episode of {env} did not end within {LONGEST} actions; set env.max_steps"


class Turn(NamedTuple):
    """What one stream after another saw, did, and saw then."""

    rows: Rows
    actions: Actions
    after: Rows
    state: AgentState
    """Of the actor, before it has seen ``after``."""


def play(
    envs: Envs, actor: Acting, rows: Rows | None = None, state: AgentState | None = None, *, explore: bool = True
) -> Iterator[Turn]:
    """Acts for as long as one asks: the rows of a turn are those that its actions were chosen at.

    Args:
        envs: the environments.
        actor: what acts; it is not changed.
        rows: where to go on; None begins the first episode of every stream.
        state: of the actor at ``rows``.
        explore: sample actions as in training, instead of the mode.
    """
    rows = envs.reset(0) if rows is None else rows
    state = actor.initial(envs.num) if state is None else state
    while True:
        actions, state = actor.act(rows, state, explore=explore)
        after = envs.step(actions)
        yield Turn(rows, actions, after, state)
        rows = after


class Randomly:
    """Acts uniformly at random, among what the masks allow.

    Args:
        actions: by name, as `Envs.actions`.
        seed: of a stream of its own; None draws from torch's, so that a run that goes on draws what it would have.
    """

    def __init__(self, actions: Mapping[str, ActionSpec], seed: int | None = None) -> None:
        self._actions = actions
        self._rng = None if seed is None else np.random.default_rng(seed)

    def initial(self, num: int) -> AgentState:
        """Nothing."""
        return {}

    def act(self, rows: Rows, state: AgentState, explore: bool = True) -> tuple[Actions, AgentState]:
        """Actions at rows ``[num, …]``."""
        rng = self._rng or np.random.default_rng(int(torch.randint(2**62, ())))
        num = len(rows["is_first"])
        found = {name: spec.random(rng, num, rows.get(mask_name(name))) for name, spec in self._actions.items()}
        return found if len(found) > 1 else next(iter(found.values())), state


def executed(envs: Envs, turn: Turn) -> dict[str, NDArray[Any]]:
    """The rows of a turn with the columns of their actions as executed; nothing is, where an episode ended."""
    found = envs.stored(turn.actions)
    for column in found.values():
        column[turn.rows["is_last"]] = 0
    return {**turn.rows, **found}


def sight(rows: Rows, envs: Envs) -> NDArray[np.uint8] | None:
    """What stream 0 sees, or what its environment draws; an environment of another package may draw nothing."""
    for column in rows.values():
        if column.dtype == np.uint8 and column.ndim == 4 and column.shape[-1] in (1, 3):
            return np.array(column[0])
    return envs.render()[0] if registry.find(envs.id) is not None else None
