"""The laws of a cost: a weighted sum, of fixed and of learnt terms, that can be differentiated in all that it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from worldformula.agent.cost import Cost
from worldformula.agent.terms import modules_of, with_steps
from worldformula.planner import ActionSet, Named
from worldformula.score import Score
from worldformula.testing.laws import Laws
from worldformula.training.seeding import forked
from worldformula.world import State, World, head_of
from worldformula.world.heads import CONTINUE, REWARD

CLOSE = 1e-4  # float32
SCALE = 2.5
Training = Callable[[Cost], None]


def check_cost(
    cost: Cost, states: State, actions: Named, *, batch: Mapping[str, Tensor] | None = None,
    train: Training | None = None, seed: int = 0,
) -> None:  # fmt: skip
    """Check that a cost keeps what `worldformula.agent.cost.Cost` says of Σ uᵢ·intrinsicᵢ + Σ vⱼ·criticⱼ.

    The laws: a number for each state; the total is the sum of its terms by their weights, and linear in them,
    C(αu, v) − C(0, v) = α (C(u, v) − C(0, v)), with the same dynamics; rows do not see each other; gradients are
    finite and reach the states, the weights, the actions where a term is of actions, and, through a dream, the first
    action; the encoder too, where there is a ``batch``; a task costs what the cost says of where it leads to;
    intrinsic terms have no weights that learn, and to the bit the same numbers after ``train``, as has the dynamics;
    every weight of the critics has a gradient, and moves.

    Args:
        cost: the cost; its critics are trained, and put back.
        states: ``[N, T, ...]``, N ≥ 2 and T ≥ 2, that hold whatever terms read, goals included, the same at every step.
        actions: ``[N, T, size]`` by name, each taken one step before its state.
        batch: what a world infers states from, which then need hold nothing.
        train: trains ``cost.learnt``; by default three steps of Adam towards 0.
        seed: of whatever is drawn.

    Raises:
        AssertionError: a law does not hold; the message is the table of laws.
    """
    laws = Laws(f"cost of {', '.join((*cost.intrinsic, *cost.critics)) or REWARD}")
    whole = State(states, 2)
    with forked(seed):
        _sums(laws, cost, whole, actions)
        _apart(laws, cost, whole, actions)
        _gradients(laws, cost, whole, actions)
        _planned(laws, cost, whole, actions)
        if batch is not None:
            _encoded(laws, cost, whole, batch)
        _learning(laws, cost, whole, train)
    laws.close()


def _sums(laws: Laws, cost: Cost, states: State, actions: Named) -> None:
    lead, total = states.lead, cost(states, actions)
    terms = _terms(cost, states, actions)
    for name, value in terms.items():
        laws.equal(f"a number for each state: {name}", tuple(lead), tuple(value.shape))
    by_hand = sum(cost.weights.get(name, 1.0) * value for name, value in terms.items())
    laws.equal("the total is the weighted sum of its terms", by_hand, total, CLOSE)
    fixed = [name for name in terms if name not in cost.critics]
    for what, own in (("intrinsic terms", fixed), ("critics", list(cost.critics))):
        if not own:
            continue
        kept = {name: cost.weights.get(name, 1.0) for name in terms}
        none, more = kept | dict.fromkeys(own, 0.0), kept | {name: SCALE * kept[name] for name in own}
        without, grown = (replace(cost, weights=w) for w in (none, more))
        left = grown(states, actions) - without(states, actions)
        right = SCALE * (total - without(states, actions))
        laws.equal(f"linear in the weights of {what}", right, left, SCALE * CLOSE)
        laws.equal(f"other weights of {what}, the same dynamics", True, grown.dynamics is cost.dynamics)
    told = {name: torch.ones((), dtype=total.dtype, requires_grad=True) for name in terms}
    found = _by(replace(cost, weights=told)(states, actions).sum(), list(told.values()))
    for (name, value), gradient in zip(terms.items(), found, strict=True):
        laws.equal(f"the gradient by its weight is the term: {name}", value.sum(), gradient, CLOSE)


def _apart(laws: Laws, cost: Cost, states: State, actions: Named) -> None:
    last = torch.tensor([states.lead[0] - 1])
    alone = cost(states.select(last), {name: value[last] for name, value in actions.items()})
    laws.equal("rows do not see each other", cost(states, actions)[last], alone, CLOSE)


def _gradients(laws: Laws, cost: Cost, states: State, actions: Named) -> None:
    inside = {k: v.detach().requires_grad_() for k, v in states.series.items() if v.is_floating_point()}
    taken = {k: v.detach().requires_grad_() for k, v in actions.items()}
    found = _by(cost(states | inside, taken).sum(), [*inside.values(), *taken.values()])
    laws.equal("gradients are finite", True, all(bool(g.isfinite().all()) for g in found))
    by_states, by_actions = found[: len(inside)], found[len(inside) :]
    laws.equal("gradients reach the states", True, any(bool(g.any()) for g in by_states))
    if any(getattr(term, "acts", False) for term in cost.intrinsic.values()):
        laws.equal("gradients reach the actions", True, any(bool(g.any()) for g in by_actions))


def _planned(laws: Laws, cost: Cost, states: State, actions: Named) -> None:
    """Of the first states under these actions; terms of steps that count are no planner's business."""
    if any(getattr(t, "arrives", False) and cost.weights.get(n, 1.0) for n, t in cost.intrinsic.items()):
        return
    own, start = {k: v.detach().clone().requires_grad_() for k, v in actions.items()}, states.at(0).detach()
    begin = State({k: v for k, v in start.items() if k not in own})
    dream = State(cost.dynamics.imagine(begin, actions=own, deterministic=True), 2)
    given = {k: v for k, v in begin.items() if k not in dream}
    space = {name: ActionSet(value.shape[-1]) for name, value in own.items()}
    rows, horizon = states.lead
    seeds = [torch.Generator(next(iter(own.values())).device).manual_seed(i) for i in range(rows)]
    score = Score(cost.dynamics, cost.task(given=given), begin, space, horizon, seeds)
    planned = score({name: value.unsqueeze(1) for name, value in own.items()})[:, 0]
    if CONTINUE not in getattr(cost.dynamics, "roles", {}):
        steps = dream.only(k for k in dream.series if k not in own).span(1)
        held = {k: v.unsqueeze(1).expand(-1, steps.lead[1], *v.shape[1:]) for k, v in given.items()}
        laws.equal("a task costs the sum over its states", cost(steps | held, own).sum(1), planned, CLOSE)
    found = _by(planned.sum(), list(own.values()))
    reached = any(bool(g[:, 0].any()) and bool(g.isfinite().all()) for g in found)
    laws.equal("gradients reach the first action through a dream", True, reached)


def _encoded(laws: Laws, cost: Cost, states: State, batch: Mapping[str, Tensor]) -> None:
    """The states that a world infers, with its gradient."""
    world = cost.dynamics
    laws.equal("what infers states is a world", True, isinstance(world, World))
    if not isinstance(world, World):
        return
    inferred = world.filter(dict(batch), deterministic=True)
    steps = inferred.lead[1]
    more = {k: v[:, :1].expand(-1, steps, *v.shape[2:]) for k, v in states.series.items() if k not in inferred}
    nets = [f.net for f in world.posterior.factors if isinstance(f.net, nn.Module)]
    weights = [p for net in nets for p in net.parameters() if p.requires_grad]
    known = {k: batch[k] for k in world.actions if k in batch}
    total = cost(inferred | more, known or None).sum()
    reached = any(bool(g.any()) and bool(g.isfinite().all()) for g in _by(total, weights))
    laws.equal("gradients reach the encoder", True, reached)


def _learning(laws: Laws, cost: Cost, states: State, train: Training | None) -> None:
    own = {name: term for name, term in cost.intrinsic.items() if not getattr(term, "learns", False)}
    fixed = [module for term in own.values() for module in modules_of(term)]
    world = [cost.dynamics] if isinstance(cost.dynamics, nn.Module) else []
    read = {id(p) for module in world for p in module.parameters()}
    moving = [p for module in fixed for p in module.parameters() if p.requires_grad and id(p) not in read]
    laws.equal("weights of intrinsic terms that would learn", 0, len(moving))
    weights, kept = cost.learnt, [_numbers(module) for module in (*fixed, *world)]
    before = [p.detach().clone() for p in weights]
    if weights:
        judged = torch.stack([term(states).sum() for term in cost.critics.values()]).sum()
        laws.equal("weights of critics without a gradient", 0, sum(not bool(g.any()) for g in _by(judged, weights)))
    if train is not None:
        train(cost)
    elif weights:
        _towards_zero(cost, states)
    still = sum(torch.equal(p, old) for p, old in zip(weights, before, strict=True))
    laws.equal("weights of critics that training has not moved", 0, still)
    now = [_numbers(module) for module in (*fixed, *world)]
    same = all(torch.equal(a, b) for x, y in zip(kept, now, strict=True) for a, b in zip(x, y, strict=True))
    laws.equal("intrinsic terms and dynamics are the same to the bit after training", True, same)
    with torch.no_grad():
        for p, old in zip(weights, before, strict=True):
            p.copy_(old)


def _towards_zero(cost: Cost, states: State) -> None:
    """Three steps of Adam."""
    adam = torch.optim.Adam(cost.learnt)
    for _ in range(3):
        adam.zero_grad()
        torch.stack([term(states).square().mean() for term in cost.critics.values()]).sum().backward()
        adam.step()


def _terms(cost: Cost, states: State, actions: Named) -> dict[str, Tensor]:
    """Every term by itself."""
    names = cost.dynamics.actions
    found: dict[str, Tensor] = {}
    if cost.rewarded:
        head = head_of(cost.dynamics, REWARD)
        found[REWARD] = -cost.dynamics.decode(states, (head,))[head]
    for name, term in (*cost.intrinsic.items(), *cost.critics.items()):
        acts = getattr(term, "acts", False)
        found[name] = with_steps(term, states, actions, names) if acts else term(states)
    return found


def _by(total: Tensor, sources: Sequence[Tensor]) -> list[Tensor]:
    """The gradient by each of these, zero where it does not depend on it."""
    if not total.requires_grad:
        return [torch.zeros_like(source) for source in sources]
    found = torch.autograd.grad(total, sources, allow_unused=True)
    return [torch.zeros_like(s) if g is None else g for g, s in zip(found, sources, strict=True)]


def _numbers(module: nn.Module) -> list[Tensor]:
    return [value.detach().clone() for value in (*module.parameters(), *module.buffers())]
