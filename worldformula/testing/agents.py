"""The laws of an agent: what it does is allowed and repeatable, streams are apart, and learning can be gone on with."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._pytree import tree_leaves

from worldformula.agent.perception import Perception
from worldformula.data.replay import Replay
from worldformula.envs import Envs
from worldformula.envs.actions import by_name, mask_name
from worldformula.errors import WorldformulaError
from worldformula.nets.causal import stored
from worldformula.run.contract import Acting, Learning, Recalling, Recollecting
from worldformula.run.play import Turn, executed, play
from worldformula.testing.laws import Laws
from worldformula.training.objective import Objective
from worldformula.training.seeding import forked
from worldformula.world import MASK, State, World

ROOM = 8  # turns beyond a sequence that are played for the replay
CLOSE = 1e-4  # float32: one row after another, and many at once


def check_agent(agent: Any, envs: Envs, *, turns: int = 40, seed: int = 0) -> None:
    """Check that an agent keeps the contract of `worldformula.run.contract`, in these environments.

    The laws: it gives what the environments take, and no choice that their masks forbid; it repeats itself with torch's
    generators, changes no state that it was given, forgets at a first row, and no stream sees another; updates give
    finite numbers and move every weight that learns; a copy that takes its checkpoint learns on to the same bits. Of an
    agent with a world: what it infers while it acts is what its world's filter infers of the same rows, and where that
    predicts what is allowed, dreams keep to it. What learns by an `Objective` prints every term and the code of each.

    Args:
        agent: what acts, and may learn; it is copied.
        envs: two streams or more, that the agent was built for; they are reset.
        turns: acted in each way.
        seed: of everything that is drawn.

    Raises:
        AssertionError: a law does not hold; the message is the table of laws.
    """
    laws, own = Laws(f"agent {type(agent).__name__}"), copy.deepcopy(agent)
    laws.equal("it acts", True, isinstance(own, Acting))
    if isinstance(own, Acting):
        with forked(seed):
            for explore in (True, False):
                _acting(laws, own, envs, explore, turns, seed)
            _inferring(laws, own, envs, turns)
            _explaining(laws, own)
            if isinstance(own, Learning):
                _learning(laws, own, envs, seed)
            _dreaming(laws, own, envs)
    laws.close()


def _acting(laws: Laws, agent: Acting, envs: Envs, explore: bool, turns: int, seed: int) -> None:
    how = "exploring" if explore else "without exploring"
    fits, forbidden, played = True, 0, list[Turn]()
    try:
        for turn in islice(play(envs, agent, explore=explore), turns):
            played.append(turn)
            forbidden += _forbidden(turn, envs)
    except WorldformulaError as error:
        fits = False
        laws.equal(f"the environments take what it does, {how}", "taken", str(error))
    if not (fits and played):
        return
    laws.equal(f"the environments take what it does, {how}", True, fits)
    laws.equal(f"nothing forbidden is chosen, {how}", 0, forbidden)
    rows, state = played[-1].after, played[-1].state
    rows = {**rows, "is_first": np.zeros(envs.num, bool)}  # where an episode begins, a search draws a seed
    before = copy.deepcopy(stored(state))
    found = []
    for _ in range(2):
        torch.manual_seed(seed)
        found.append(_flat(envs, agent.act(rows, state, explore=explore)[0]))
    laws.equal(f"it repeats itself, {how}", found[0], found[1])
    pairs = zip(tree_leaves(before), tree_leaves(stored(state)), strict=True)
    same = all(torch.equal(torch.as_tensor(old), torch.as_tensor(new)) for old, new in pairs)
    laws.equal(f"the state that it was given stays, {how}", True, same)
    if not explore:
        torch.manual_seed(seed)  # of a search
        alone, _ = agent.act(_first(rows), State(state).select(torch.tensor([0])), explore=False)
        laws.equal("streams do not see each other", found[0][:1], _flat(envs, alone), 1e-5)
        begun = {**rows, "is_first": np.ones(envs.num, bool)}
        anew = []
        for known in (state, agent.initial(envs.num)):
            torch.manual_seed(seed)
            anew.append(_flat(envs, agent.act(begun, known, explore=False)[0]))
        laws.equal("it forgets at a first row", anew[1], anew[0], 1e-5)


def _inferring(laws: Laws, agent: Any, envs: Envs, turns: int) -> None:
    """Acting goes row by row with the actions that it chose, learning over whole sequences of those that were executed:
    one mistake about the order of rows and actions, or about resets, and a policy acts on states it never learnt in.
    """
    world, perception = getattr(agent, "world", None), getattr(agent, "perception", None)
    if not isinstance(world, World) or not isinstance(perception, Perception):
        return
    played = list(islice(play(envs, agent, explore=False), turns))
    rows = [executed(envs, turn) for turn in played]
    batch = {key: np.stack([row[key] for row in rows], 1) for key in rows[0]}
    tokens = agent.tokens(played[0].rows) if hasattr(agent, "tokens") else {}
    with torch.no_grad():
        inferred = world.filter(perception.learn(batch, agent.device) | tokens, deterministic=True).last()
    names = [name for name in world.carried if name in inferred and name in played[-1].state]
    learnt, acted = (
        torch.cat([part[name].double().reshape(envs.num, -1) for name in names], 1)
        for part in (inferred, played[-1].state)
    )
    laws.equal("it infers while it acts what its world's filter does", learnt, acted, CLOSE)


def _explaining(laws: Laws, agent: Any) -> None:
    objective = getattr(agent, "loss", None)
    if not isinstance(objective, Objective):
        return
    terms = {name: term for name, term in objective.terms.items() if term is not None}
    silent = [name for name, term in terms.items() if not (str(term) and term.code)]
    laws.equal("terms that it learns by without a formula or code", [], silent)
    unsaid = [part for part in objective.parts if part not in repr(objective)]
    laws.equal("parts of its objective that it does not print", [], unsaid)


def _learning(laws: Laws, agent: Any, envs: Envs, seed: int) -> None:
    length, recalling = agent.config.length, isinstance(agent, Recalling) and bool(agent.latents)
    replay = Replay(
        envs.num * (length + 2 * ROOM), envs.row_spec, streams=envs.num, seed=seed,
        latents=agent.latents if recalling else None,
    )  # fmt: skip
    for turn in islice(play(envs, agent), length + ROOM):
        replay.add(turn.rows, envs.stored(turn.actions), agent.stored(turn.state) if recalling else None)
        if isinstance(agent, Recollecting):
            agent.recollect(turn.rows, turn.state)
    batches = [replay.sample(agent.config.batch, length, context=int(recalling)) for _ in range(2)]
    weights = [p.detach().clone() for p in agent.parameters()]
    wrong = []
    for _ in range(3):  # the first one may begin a warm-up at a rate of zero
        metrics = agent.update(batches[0])
        wrong += [name for name, value in metrics.items() if not math.isfinite(float(value))]
    laws.equal("an update gives finite numbers", [], wrong)
    pairs = [(p, old) for p, old in zip(agent.parameters(), weights, strict=True) if p.requires_grad]
    laws.equal("something learns", True, bool(pairs))
    laws.equal("weights that learn and have not moved", 0, sum(torch.equal(p, old) for p, old in pairs))
    other = copy.deepcopy(agent)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1.0)
    other.restore(copy.deepcopy(agent.checkpoint()))  # as a file holds it
    for one in (agent, other):
        torch.manual_seed(seed)
        one.update(batches[1])
    same = all(torch.equal(p, q) for p, q in zip(agent.parameters(), other.parameters(), strict=True))
    laws.equal("what takes its checkpoint learns on to the same bits", True, same)


def _dreaming(laws: Laws, agent: Any, envs: Envs) -> None:
    """Where a world says what is allowed."""
    world, policy = getattr(agent, "world", None), getattr(getattr(agent, "learner", None), "policy", None)
    masks = {role: name for role, name in getattr(world, "roles", {}).items() if role.startswith(MASK)}
    if world is None or policy is None or not masks:
        return
    with torch.no_grad():
        dream = world.imagine(State(agent.initial(envs.num)).only((*world.carried, *world.memory)), policy, horizon=8)
        likely = world.decode(dream, masks.values())
    for role, name in masks.items():
        allowed = (likely[name] > 0.5) | (likely[name] == likely[name].amax(-1, keepdim=True))
        taken = float((dream[role.removeprefix(MASK)] * ~allowed).sum())
        laws.equal(f"dreams keep to {role}", 0.0, taken)


def _forbidden(turn: Turn, envs: Envs) -> int:
    """How many choices of a turn the masks of its rows do not allow."""
    count, actions = 0, by_name(turn.actions, envs.actions)
    for name, spec in envs.actions.items():
        mask = turn.rows.get(mask_name(name))
        if mask is None:
            continue
        ends = np.cumsum(spec.classes)
        for i, (size, end) in enumerate(zip(spec.classes, ends, strict=True)):
            part, chosen = mask[:, end - size : end], actions[name].reshape(envs.num, -1)[:, i]
            inside = part[np.arange(envs.num), chosen] | (~part.any(1) & (chosen == 0))
            count += int((~inside).sum())
    return count


def _flat(envs: Envs, actions: Any) -> torch.Tensor:
    """Actions side by side, ``[N, …]``."""
    named: Mapping[str, NDArray[Any]] = actions if isinstance(actions, Mapping) else {next(iter(envs.actions)): actions}
    parts = [np.asarray(named[name]).reshape(len(named[name]), -1).astype(np.float64) for name in envs.actions]
    return torch.as_tensor(np.concatenate(parts, 1))


def _first(rows: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {key: value[:1] for key, value in rows.items()}
