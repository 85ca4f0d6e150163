"""What each term of an agent's objective reads of a batch: the data, dreams, returns, and what it recollects.

Each is a function of the agent, the results of the terms before, a batch ``[B, T, ...]`` and a generator, which
`worldformula.training.objective.Objective` calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from worldformula.agent.acts import encoded
from worldformula.agent.recollection import Recollection
from worldformula.errors import ConfigError
from worldformula.learners.critics import MemoryCritic
from worldformula.learners.imagination import Dreaming, Following, Replaying
from worldformula.training.objective import Minimises, Objective, Outs
from worldformula.training.players import Order, Turns
from worldformula.world import State

if TYPE_CHECKING:
    from worldformula.agent.imagination import ImaginationAgent
    from worldformula.formula import Expression
    from worldformula.learners.curiosity import Curious


def objective(
    agent: ImaginationAgent,
    order: Order | Turns,
    players: Mapping[str, Minimises],
    recalled: Mapping[str, MemoryCritic],
) -> Objective:
    """All that an agent learns by: the losses of its world, of bonuses, of critics from memory, of its learner.

    Raises:
        ConfigError: a player minimises "replay", and dreams start from the last states alone.
    """
    world, learner, bonuses = agent.world, agent.learner, dict(agent.curious.items())
    makers = {"dream": partial(dreamed, agent), "replay": partial(replayed, agent)}
    learnt = {} if learner is None else dict(learner.terms)
    if agent.late == 1 and "replay" in learnt:
        del learnt["replay"]
        if any("replay" in player.weights for player in players.values()):
            raise ConfigError('late=1: a return from the data needs two states, so nobody minimises "replay" here')
    beside_it = {name: cast("Expression", own.loss) for name, own in {**bonuses, **recalled}.items()}
    return Objective(
        order,
        terms={"world": world.loss, **world.further, **beside_it, **learnt},
        data={
            "world": partial(seen, agent),
            **{name: makers.get(name, partial(followed, agent, name)) for name in learnt},
            **{name: partial(beside, agent, name) for name in world.further},
            **{name: partial(recollected, agent, name) for name in recalled},
            **{name: partial(stepped, agent, name) for name in bonuses},
        },
        attached=() if learner is None else set(learner.attached) & set(learnt),
        kept=("world",),
        **players,
    )


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


def beside(
    agent: ImaginationAgent, name: str, outs: Outs, batch: Mapping[str, Any], _: torch.Generator | None
) -> Mapping[str, Tensor]:
    """What a further loss of the world reads, of what it inferred."""
    terminal = torch.as_tensor(batch["is_terminal"], device=agent.device)
    return agent.world.beside(name, outs["world"].samples, agent.perception.learn(batch, agent.device), terminal)


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
    return agent.learner.dreamed(dream, dream, reward, proceed, terminal.flatten(), generator)


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
