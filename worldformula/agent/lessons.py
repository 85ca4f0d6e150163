"""What each term of an agent's objective reads of a batch: the data, dreams, returns, and what it recollects.

Each is a function of the agent, the results of the terms before, a batch ``[B, T, ...]`` and a generator, which
`worldformula.training.objective.Objective` calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from worldformula.agent.acts import encoded
from worldformula.agent.recollection import Recollection
from worldformula.learners.critics import MemoryCritic
from worldformula.learners.imagination import Dreaming, Following, Replaying
from worldformula.training.objective import Outs
from worldformula.world import State

if TYPE_CHECKING:
    from worldformula.agent.imagination import ImaginationAgent
    from worldformula.learners.curiosity import Curious


def seen(
    agent: ImaginationAgent, _outs: Outs, batch: Mapping[str, Any], _: torch.Generator | None
) -> Mapping[str, Any]:
    """What the world's loss reads, and where it begins."""
    found = agent.perception.learn(batch, agent.device)
    if not agent.latents:
        return found
    before = {name: torch.as_tensor(batch[f"start/{name}"], device=agent.device) for name in agent.latents}
    return {**found, "start": before | agent.perception.before(batch, agent.device)}


def late(agent: ImaginationAgent, outs: Outs) -> State:
    """The last states of each sequence, ``[B, K, ...]``, from which dreams start."""
    return State(outs["world"].samples, 2).only(agent.world.carried).span(-agent.late)


def taken(agent: ImaginationAgent, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """The actions of rows ``[B, T, size]`` by variable."""
    return encoded(agent.perception.acts, batch, agent.device)


def stepped(
    agent: ImaginationAgent, name: str, outs: Outs, batch: Mapping[str, Any], _: torch.Generator | None
) -> Mapping[str, Tensor]:
    """What a bonus learns from: the states of the data, what was done there, and where episodes begin."""
    states = {key: x.detach() for key, x in outs["world"].samples.items()} | taken(agent, batch)
    return cast("Curious", agent.curious[name]).data(states, torch.as_tensor(batch["is_first"], device=agent.device))


def dreamed(
    agent: ImaginationAgent, outs: Outs, batch: Mapping[str, Any], generator: torch.Generator | None
) -> Mapping[str, Tensor]:
    """Dreams under the policy, with their rewards and continuations; with a graph where the learner asks for it."""
    assert isinstance(agent.learner, Dreaming)
    last = late(agent, outs)
    terminal = torch.as_tensor(batch["is_terminal"][:, -last.lead[1] :], device=agent.device)
    start = remembered(agent, batch, generator) if agent.world.memory else last.detach().starts()
    dream, reward, proceed = agent.imagined(start, generator)
    return agent.learner.dreamed(dream, dream, reward, proceed, terminal.flatten())


@torch.no_grad()
def remembered(agent: ImaginationAgent, batch: Mapping[str, Any], generator: torch.Generator | None) -> State:
    """The last state of each sequence with what the world then remembers, which a loss does not keep."""
    return agent.world.filter(agent.perception.learn(batch, agent.device), generator=generator).last()


def replayed(
    agent: ImaginationAgent, outs: Outs, batch: Mapping[str, Any], _: torch.Generator | None
) -> Mapping[str, Tensor]:
    """The same states with what the data say of them, and the returns of the dreams that start there."""
    assert isinstance(agent.learner, Replaying)
    last = late(agent, outs)
    rows = last.lead
    boot = outs["dream"].samples["R"][:, 0].unflatten(0, rows)
    reward, ended, terminal = (
        torch.as_tensor(batch[k][:, -rows[1] :], device=agent.device) for k in ("reward", "is_last", "is_terminal")
    )
    did = {name: x[:, -rows[1] :] for name, x in taken(agent, batch).items()} if agent.curious else {}
    received = agent.cost.received(State({**last, **did}, 2), agent.perception.rewards(reward))
    return agent.learner.replayed(last, received, ended, terminal, boot)


def followed(
    agent: ImaginationAgent, name: str, outs: Outs, batch: Mapping[str, Any], _: torch.Generator | None
) -> Mapping[str, Tensor]:
    """What the world's own loss has rolled out, and what the data say."""
    assert isinstance(agent.learner, Following)
    terminal, first = (torch.as_tensor(batch[key], device=agent.device) for key in ("is_terminal", "is_first"))
    own = agent.perception.learn(batch, agent.device)
    return agent.learner.followed(name, outs["world"].samples, own, terminal, first)


def recollected(
    agent: ImaginationAgent, name: str, outs: Outs, batch: Mapping[str, Any], generator: torch.Generator | None
) -> Mapping[str, Tensor]:
    """What a critic learns from: what the agent recollects, and until its first episode has ended, the batch."""
    critic, own, memory = agent.cost.critics[name], agent.recollects, agent.recollection
    assert isinstance(critic, MemoryCritic)
    assert own is not None
    if not len(memory):
        memory = Recollection()
        states = State(outs["world"].samples, 2).only(agent.memory.keeps)
        first = torch.as_tensor(batch["is_first"])
        rows = {key: value.reshape(-1, *value.shape[2:]) for key, value in batch.items() if value.ndim > 1}
        whole = State(outs["world"].samples, 2).only(agent.world.carried).flat()
        memory.write_pieces(states, agent.spent(whole, rows).unflatten(0, first.shape), first)
    if critic.learns == "returns":
        found = memory.returns(own.batch, discount=own.discount, goals=own.goals, generator=generator)
    else:
        found = memory.transitions(
            own.batch, discount=own.discount, steps=own.steps, goals=own.goals, generator=generator
        )
    return {key: found[key].to(agent.device) for key in critic.loss.program.inputs if key in found}
