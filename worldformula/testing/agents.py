"""The laws of an agent: it acts within its actions, keeps its streams apart, learns, and goes on from a checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worldformula.envs.actions import ActionSpec, by_name, column_name, mask_name
from worldformula.envs.columns import Column
from worldformula.run.contract import Agent, Recalling
from worldformula.testing.laws import Laws
from worldformula.training.seeding import forked
from worldformula.world import MASK, State

CLOSE = 1e-4  # of an action, whoever is beside it in a batch
Rows = dict[str, NDArray[Any]]


def check_agent(
    build: Callable[[int], Agent], columns: Mapping[str, Column], actions: Mapping[str, ActionSpec], *,
    length: int = 8, updates: int = 3,
) -> None:  # fmt: skip
    """Check that an agent keeps the contracts `worldformula.run.contract.Acting` and `Learning`.

    The laws: actions are such actions, while it explores and while it does not, and where rows have masks, such as
    these allow; where its world predicts the masks, its dreams keep to that; nothing of the state is left at the
    first row of an episode; a stream acts alike whoever is beside it; without exploration an action repeats; the
    numbers of an update are finite, and every weight that learns has moved after a few; an agent that is given a
    checkpoint learns and acts as the one that wrote it.

    Args:
        build: ``build(seed)`` makes the agent.
        columns: its observations.
        actions: its actions by name.
        length: rows of a sequence.
        updates: how many it may take until every weight has moved.

    Raises:
        AssertionError: a law does not hold; the message is the table of laws.
    """
    agent, rng = build(0), np.random.default_rng(0)
    laws = Laws(f"agent {type(agent).__name__}")
    with forked(0):
        _acting(laws, agent, columns, actions, rng, "before it learns")
        batch = _batch(columns, actions, rng, 2, length) | _before(agent, actions, 2)
        _learning(laws, agent, batch, updates)
        state = _acting(laws, agent, columns, actions, rng, "after it has learnt")
        _streams(laws, agent, columns, actions, rng, state)
        _going_on(laws, agent, build(1), batch, _rows(columns, actions, rng, 2, first=True))
        _dreaming(laws, agent)
    laws.close()


def _acting(
    laws: Laws, agent: Agent, columns: Mapping[str, Column], actions: Mapping[str, ActionSpec],
    rng: np.random.Generator, when: str,
) -> Any:  # fmt: skip
    """Three steps of three streams; the state after them."""
    N, state = 3, agent.initial(3)
    for t, explore in enumerate((True, False, True)):
        rows = _rows(columns, actions, rng, N, first=t == 0)
        given, state = agent.act(rows, state, explore=explore)
        found, how = by_name(given, actions), f"{when}, {'exploring' if explore else 'without exploring'}"
        laws.equal(f"its actions, {how}", sorted(actions), sorted(found))
        for name, spec in actions.items():
            stored = spec.executed(found[name], name)  # raises where it is no such action
            laws.equal(f"an action for each stream, {how}: {name}", N, len(stored))
            if spec.masked:
                wrong = _forbidden(spec, stored, rows[mask_name(name)])
                laws.equal(f"nothing forbidden is chosen, {how}: {name}", 0, wrong)
    return state


def _streams(
    laws: Laws, agent: Agent, columns: Mapping[str, Column], actions: Mapping[str, ActionSpec],
    rng: np.random.Generator, state: Any,
) -> None:  # fmt: skip
    """A stream begins anew at a first row, and does not see the others."""
    N = 3
    rows, begun = _rows(columns, actions, rng, N, first=True), agent.initial(N)
    one, two = (_acted(agent, rows, s, actions) for s in (begun, state))
    going = {**rows, "is_first": np.zeros(N, bool)}
    repeated, again = (_acted(agent, going, state, actions) for _ in range(2))
    alone_state = {k: v[1:2] for k, v in state.items()}
    alone = _acted(agent, {k: v[1:2] for k, v in going.items()}, alone_state, actions)
    for name in actions:
        laws.equal(f"the first row forgets: {name}", one[name], two[name], CLOSE)
        laws.equal(f"an action repeats: {name}", repeated[name], again[name])
        laws.equal(f"a stream alone acts alike: {name}", repeated[name][1:2], alone[name], CLOSE)


def _learning(laws: Laws, agent: Agent, batch: Rows, updates: int) -> None:
    before = [p.detach().clone() for p in agent.parameters()]
    for _ in range(updates):
        numbers = {name: float(value) for name, value in agent.update(batch).items()}
    laws.equal("the numbers of an update are finite", [], [k for k, v in numbers.items() if not np.isfinite(v)])
    learns = [p for p in agent.parameters() if p.requires_grad]
    still = sum(
        torch.equal(p, was) for p, was in zip(agent.parameters(), before, strict=True) if p.requires_grad
    )  # fmt: skip
    laws.equal("something learns", True, bool(learns))
    laws.equal("weights that learn and have not moved", 0, still)


def _going_on(laws: Laws, agent: Agent, other: Agent, batch: Rows, rows: Rows) -> None:
    other.restore(copy.deepcopy(agent.checkpoint()))
    for one in (agent, other):
        torch.manual_seed(0)
        one.update(batch)
    pairs = zip(agent.parameters(), other.parameters(), strict=True)
    laws.equal("weights that learn otherwise after a checkpoint", 0, sum(not torch.equal(a, b) for a, b in pairs))
    for explore in (True, False):
        found = []
        for one in (agent, other):
            torch.manual_seed(1)
            found.append(_flat(one.act(rows, one.initial(2), explore=explore)[0]))
        before, after = found
        laws.equal(f"it acts alike after a checkpoint, explore={explore}", before, after)


def _acted(agent: Agent, rows: Rows, state: Any, actions: Mapping[str, ActionSpec]) -> dict[str, torch.Tensor]:
    """What it does without exploring, with the same random numbers each time."""
    torch.manual_seed(5)
    found = by_name(agent.act(rows, state, explore=False)[0], actions)
    return {name: torch.as_tensor(value, dtype=torch.float64) for name, value in found.items()}


def _flat(given: Any) -> torch.Tensor:
    values = given.values() if isinstance(given, Mapping) else [given]
    return torch.cat([torch.as_tensor(v, dtype=torch.float64).flatten() for v in values])


def _before(agent: Agent, actions: Mapping[str, ActionSpec], num: int) -> Rows:
    """The row before each sequence, zeros, for an agent whose sequences go on from what a replay keeps."""
    if not (isinstance(agent, Recalling) and agent.latents):
        return {}
    latents = {f"start/{name}": np.zeros((num, *shape), np.float32) for name, shape in agent.latents.items()}
    return latents | {f"start/{column_name(name)}": spec.zeros(num) for name, spec in actions.items()}


def _dreaming(laws: Laws, agent: Any) -> None:
    """Where a world says what is allowed, a policy that reads it dreams of nothing else."""
    world, policy = getattr(agent, "world", None), getattr(getattr(agent, "learner", None), "policy", None)
    masks = {role: name for role, name in getattr(world, "roles", {}).items() if role.startswith(MASK)}
    if world is None or policy is None or not masks:
        return
    with torch.no_grad():
        dream = world.imagine(State(agent.initial(3)).only(world.carried), policy, horizon=8)
        likely = world.decode(dream, masks.values())
    for role, name in masks.items():
        allowed = (likely[name] > 0.5) | (likely[name] == likely[name].amax(-1, keepdim=True))
        taken = float((dream[role.removeprefix(MASK)] * ~allowed).sum())
        laws.equal(f"dreams keep to {role}", 0.0, taken)


def _forbidden(spec: ActionSpec, stored: NDArray[Any], mask: NDArray[Any]) -> int:
    """How many choices of streams ``[N, …]`` a mask ``[N, choices]`` does not allow; of none, the first is."""
    count, chosen = 0, stored.reshape(len(stored), -1)
    for i, (size, end) in enumerate(zip(spec.classes, np.cumsum(spec.classes), strict=True)):
        part = mask[:, end - size : end]
        inside = part[np.arange(len(part)), chosen[:, i]] | (~part.any(1) & (chosen[:, i] == 0))
        count += int((~inside).sum())
    return count


def _rows(
    columns: Mapping[str, Column], actions: Mapping[str, ActionSpec], rng: np.random.Generator, num: int, *, first: bool
) -> Rows:
    """Random observations of as many streams, and masks."""
    found = {key: _values(column, rng, (num,)) for key, column in columns.items()}
    return {**found, **_masks(actions, rng, (num,)), "is_first": np.full(num, first)}


def _masks(actions: Mapping[str, ActionSpec], rng: np.random.Generator, lead: tuple[int, ...]) -> Rows:
    """Random masks ``[*lead, choices]`` of the actions that have some."""
    return {
        mask_name(name): rng.random((*lead, sum(spec.classes))) < 0.6
        for name, spec in actions.items() if spec.masked
    }  # fmt: skip


def _batch(
    columns: Mapping[str, Column], actions: Mapping[str, ActionSpec], rng: np.random.Generator, num: int, length: int
) -> Rows:
    """Random sequences, one of which holds an end and a start."""
    found = {key: _values(column, rng, (num, length)) for key, column in columns.items()}
    found |= _masks(actions, rng, (num, length))
    for name, spec in actions.items():
        drawn = spec.random(rng, num * length)
        found[column_name(name)] = drawn.reshape(num, length, *drawn.shape[1:])
    first, last = np.zeros((num, length), bool), np.zeros((num, length), bool)
    first[:, 0], last[0, length // 2], first[0, length // 2 + 1] = True, True, True
    reward = rng.normal(size=(num, length)).astype(np.float32)
    return {**found, "reward": reward, "is_first": first, "is_last": last, "is_terminal": last}


def _values(column: Column, rng: np.random.Generator, lead: tuple[int, ...]) -> NDArray[Any]:
    """Random values ``[*lead, *shape]`` of a column."""
    shape = (*lead, *column.shape)
    if column.kind == "discrete":
        drawn = [rng.integers(a, a + n, lead) for a, n in zip(column.starts, column.classes, strict=True)]
        return np.stack(drawn, -1).reshape(shape).astype(column.dtype)
    if column.kind == "flag":
        return rng.integers(2, size=shape).astype(column.dtype)
    if column.kind == "image":
        return (column.low + (column.high - column.low) * rng.random(shape)).astype(column.dtype)
    return rng.normal(size=shape).astype(column.dtype)
