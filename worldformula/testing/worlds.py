"""The laws of what can be imagined, and of a world model: filter, imagine and decode mean what the formula says."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from worldformula.formula.factors.independent import Factor, Normal, OneHot
from worldformula.formula.factors.joint import Joint
from worldformula.formula.syntax.names import Variable
from worldformula.nets.actor import masked
from worldformula.testing.laws import Laws
from worldformula.world import MASK, Dynamics, PriorDynamics, State, World

CLOSE = 1e-4  # float32, over a few steps


def check_world(world: World, batch: Mapping[str, Tensor], *, seed: int = 0) -> None:
    """Check that a world keeps the contract of `worldformula.world.World`.

    The laws: the loss reaches every weight of its factors, and knows those of prior and posterior; filter and initial
    hold the same variables; filtering in two chunks or step by step is filtering at once; a reset forgets; rows do not
    see each other; decode keeps the batch axes, for every head; each weight is in the state_dict once; every level
    begins from the state of the posterior and keeps the laws of `check_dynamics`.

    Args:
        world: The world to check; it is copied and set to float32 evaluation.
        batch: Series ``[B, T, ...]`` with everything that the loss reads and every action, B ≥ 2 and T ≥ 2.
        seed: Seed of all draws.

    Raises:
        AssertionError: A law does not hold; the message is the table of laws.
    """
    laws = Laws(f"world {world.posterior}")
    case = _Case(copy.deepcopy(world).eval(), batch, seed)
    for check in (_weights, _filtering, _resets, _decoding):
        check(case, laws)
    begin = case.world.filter(case.cut(slice(0, 1)), deterministic=True).last()
    for name, level in case.world.levels.items():
        of = f"{name}: " if name else ""
        laws.equal(
            f"{of}it begins from a state of the posterior", True, {*level.carried, *level.memory} <= begin.keys()
        )
        actions = {key: batch[key][:, :2] for key in level.actions}
        _dynamics(laws, level, begin, actions, seed, of)
    laws.close()


def check_dynamics(
    dynamics: Dynamics, actions: Mapping[str, Tensor] | None = None, *, batch: int = 3, seed: int = 0
) -> None:
    """Check that a prior, or a simulator written by hand, keeps the contract of `worldformula.world.Dynamics`.

    The laws: it takes the actions that it names; a dream has the start first and gives back the actions; imagining two
    steps is imagining one step twice, under actions, and under a policy where it is a prior of formulas; rows do not
    see each other; a seed repeats; decode answers for its heads and keeps the batch axes; a head with the role "mask/a"
    says something of each choice of a, and a policy that reads it keeps to it in dreams.

    Args:
        dynamics: What is checked; a module is copied and set to evaluation.
        actions: Two steps of each action, ``[B, 2, size]`` by name.
        batch: Rows of the start, where there are no actions.
        seed: Seed of all draws.

    Raises:
        AssertionError: A law does not hold; the message is the table of laws.
    """
    own = copy.deepcopy(dynamics)
    if isinstance(own, nn.Module):
        own.eval()
    given = dict(actions or {})
    rows = len(next(iter(given.values()))) if given else batch
    laws = Laws(f"dynamics {type(dynamics).__name__}")
    laws.equal("it answers to the protocol", True, isinstance(dynamics, Dynamics))
    laws.equal("these are its actions", sorted(own.actions), sorted(given))
    if not any(row[-1] for row in laws.rows):
        _dynamics(laws, own, State(own.initial(rows, seed=seed)), given, seed, "")
    laws.close()


@dataclass(frozen=True)
class _Case:
    world: World
    batch: Mapping[str, Tensor]
    seed: int

    @property
    def size(self) -> tuple[int, int]:
        """[B, T]."""
        B, T = next(iter(self.batch.values())).shape[:2]
        return B, T

    @property
    def states(self) -> State:
        """Of the whole batch, with the modes."""
        return self.world.filter(self.batch, deterministic=True)

    def cut(self, time: slice) -> dict[str, Tensor]:
        """The series of some steps."""
        return {k: v[:, time] for k, v in self.batch.items()}

    def start(self, states: State, step: int) -> State:
        """What a filter goes on from after states that end at a step: the last one, and the actions taken at it."""
        return states.last() | {k: self.batch[k][:, step] for k in self.world.actions}


def _same(laws: Laws, law: str, expected: Mapping[str, Any], got: Mapping[str, Any]) -> None:
    laws.equal(f"{law}: variables", sorted(expected), sorted(got))
    for key, value in expected.items():
        if isinstance(value, Tensor) and key in got:  # what a memory holds shows in what follows from it
            laws.equal(f"{law}: {key}", value, got[key], CLOSE)


def _weights(case: _Case, laws: Laws) -> None:
    """The loss, its gradients and the state_dict."""
    world = case.world
    value = world.loss(**{k: case.batch[k] for k in world.loss.program.inputs}, seed=case.seed).value
    laws.equal("the loss is a finite number", (True, ()), (bool(value.isfinite()), tuple(value.shape)))
    known = {id(p) for p in world.loss.parameters()}
    taught = known | {id(p) for term in world.further.values() for p in term.parameters()}
    weights = {name: p for name, p in world.named_parameters() if p.requires_grad and id(p) in known}
    gradients = torch.autograd.grad(value, list(weights.values()), allow_unused=True) if weights else ()
    unused = [name for name, g in zip(weights, gradients, strict=True) if g is None]
    laws.equal("the loss reaches every weight", [], unused)
    priors = [f for level in world.levels.values() for f in level.prior.factors]
    alone = [str(f) for f in (*priors, *world.posterior.factors) if any(_free(p, taught) for p in f.parameters())]
    laws.equal("the losses know the weights of prior and posterior", [], list(dict.fromkeys(alone)))
    tensors = [v.data_ptr() for v in world.state_dict().values() if v.numel()]
    laws.equal("each weight is in the state_dict once", len(tensors), len(set(tensors)))
    ours = {p.data_ptr() for p in world.parameters()}
    laws.equal("the loss has no weight of its own", True, all(p.data_ptr() in ours for p in world.loss.parameters()))


def _free(weight: nn.Parameter, known: set[int]) -> bool:
    """Whether it is to be learnt, and the loss does not have it."""
    return weight.requires_grad and id(weight) not in known


def _filtering(case: _Case, laws: Laws) -> None:
    """Shapes, randomness, chunks, single steps, independent rows."""
    world, batch, (B, T) = case.world, case.batch, case.size
    states = case.states
    held = sorted((*world.carried, *world.memory))
    laws.equal("filter gives what is carried", held, sorted(states))
    laws.equal("so does initial", held, sorted(world.initial(B)))
    for key, value in world.initial(B).series.items():
        laws.equal(f"filter adds the time axis: {key}", (B, T, *value.shape[1:]), tuple(states[key].shape))
    _same(laws, "filter without sampling repeats itself", states, case.states)
    one, two = (world.filter(batch, seed=case.seed) for _ in range(2))
    _same(laws, "filter repeats with its seed", one, two)
    noise, half = world.noise(batch), T // 2
    first = world.noise(case.cut(slice(0, half)))
    whole = world.filter(batch, noise=noise)
    series = {k for k, v in first.items() if v.shape != noise[k].shape}  # what begins a sequence is drawn once
    head = world.filter(
        case.cut(slice(0, half)), noise={k: noise[k][:, :half] if k in series else noise[k] for k in first}
    )
    tail = {k: noise[k][:, half:] for k in series}
    rest = world.filter(case.cut(slice(half, T)), start=case.start(head, half - 1), noise=tail)
    _same(laws, "two chunks are one sequence", whole, head.then(rest))
    state = case.start(world.filter(case.cut(slice(0, 1)), deterministic=True), 0)
    seen = {k: v[:, 1] for k, v in batch.items() if k not in world.actions}
    step = world.observe(seen, state, deterministic=True)
    _same(laws, "observe is one step of filter", states.series.at(1), step.series)
    alone = world.filter({k: v[:1] for k, v in batch.items()}, deterministic=True)
    _same(laws, "rows do not see each other", states.select(torch.tensor([0])), alone)


def _resets(case: _Case, laws: Laws) -> None:
    """A flag restarts the sequence."""
    world, (_, T) = case.world, case.size
    name = world.reset_name
    if name is None:
        return
    flags = torch.zeros_like(case.batch[name])
    flags[:, T // 2] = 1
    whole = world.filter({**case.batch, name: flags}, deterministic=True)
    rest = world.filter({**case.cut(slice(T // 2, T)), name: flags[:, T // 2 :]}, deterministic=True)
    _same(laws, "a reset forgets", whole.span(T // 2), rest)


def _decoding(case: _Case, laws: Laws) -> None:
    """One prediction per head, with the batch axes of the states."""
    world, states = case.world, case.states
    decoded = world.decode(states)
    laws.equal("decode answers for every head", sorted(world.heads), sorted(decoded))
    for name, value in decoded.items():
        datum = case.batch.get(world.heads[name].variable.key)
        if datum is not None and datum.is_floating_point():  # of class numbers, probabilities are decoded
            laws.equal(f"decode has the shape of the data: {name}", tuple(datum.shape), tuple(value.shape))
    last = world.decode(states.last())
    _same(laws, "decode of one step", {k: v[:, -1] for k, v in decoded.items()}, last)


def _dynamics(laws: Laws, dynamics: Dynamics, start: State, actions: Mapping[str, Tensor], seed: int, of: str) -> None:
    """Two steps are one step twice; rows; seeds; heads."""
    kept = [getattr(dynamics, name, ()) for name in ("memory", "conditions")]
    own = start.only(k for k in start if k in (*getattr(dynamics, "carried", start), *kept[0], *kept[1]))
    steps: list[dict[str, Any]] = [{"horizon": 1}, {"horizon": 1}]
    both: dict[str, Any] = {"horizon": 2}
    if actions:
        steps = [{"actions": {k: v[:, t : t + 1] for k, v in actions.items()}} for t in range(2)]
        both = {"actions": dict(actions)}
    dream = _twice(laws, dynamics, own, steps, both, of)
    _same(laws, f"{of}a dream has the start first", own.series, dream.series.only(own.series).at(0))
    for key, value in actions.items():
        laws.equal(f"{of}a dream gives back its actions: {key}", value, dream[key])
    few = {"actions": {k: v[:1] for k, v in actions.items()}} if actions else both
    alone = State(dynamics.imagine(own.select(torch.tensor([0])), **few, deterministic=True), 2)
    names = [*own.series]
    _same(laws, f"{of}dreams do not see each other", dream.select(torch.tensor([0])).only(names), alone.only(names))
    one, two = (State(dynamics.imagine(own, **both, seed=seed), 2) for _ in range(2))
    _same(laws, f"{of}imagine repeats with its seed", one, two)
    if isinstance(dynamics, PriorDynamics) and actions:
        chosen: dict[str, Any] = {"policy": _policy(dynamics, actions), "horizon": 1}
        _twice(laws, dynamics, own, [chosen, chosen], {**chosen, "horizon": 2}, of)
        one, two = (dynamics.imagine(own, **{**chosen, "horizon": 2}, seed=seed) for _ in range(2))
        _same(laws, f"{of}imagine repeats with its seed (policy)", one, two)
    decoded = dynamics.decode(dream)
    laws.equal(f"{of}decode answers for every head", sorted(getattr(dynamics, "heads", decoded)), sorted(decoded))
    last = dynamics.decode(dream.last())
    _same(laws, f"{of}decode of one step of a dream", {k: v[:, -1] for k, v in decoded.items()}, last)
    for role, name in getattr(dynamics, "roles", {}).items():
        if role in ("reward", "continue"):
            laws.equal(f"{of}{role} is one number a state", (len(last[name]),), tuple(last[name].shape))
        elif role.startswith(MASK):
            action = role.removeprefix(MASK)
            laws.equal(f"{of}{role} is of an action", True, action in actions)
            if action in actions:
                shape = (len(last[name]), *actions[action].shape[2:])
                laws.equal(f"{of}{role} is one number a choice", shape, tuple(last[name].shape))
                if isinstance(dynamics, PriorDynamics) and tuple(last[name].shape) == shape:
                    _masked(laws, dynamics, own, actions, action, seed, of)


def _masked(
    laws: Laws, dynamics: PriorDynamics, start: State, actions: Mapping[str, Tensor], action: str, seed: int, of: str
) -> None:
    """A policy that reads what is allowed dreams of nothing else."""
    name = dynamics.roles[MASK + action]
    head = dynamics.heads[name]
    written = next(v for f in dynamics.prior.factors for v in f.conditions if v.key == action).at(0)
    choice: Joint | Factor = OneHot(f"π({written}|{head.variable})", _inside, shape=actions[action].shape[2])
    if others := {key: value for key, value in actions.items() if key != action}:
        choice = choice * _policy(dynamics, others)
    dream = dynamics.imagine(start, choice, horizon=2, seed=seed)
    likely = dynamics.decode(dream, (name,))[name]
    allowed = (likely > 0.5) | (likely == likely.amax(-1, keepdim=True))
    laws.equal(f"{of}a dream keeps to {name}", 0.0, float((dream[action] * ~allowed).sum()))


def _inside(mask: Tensor) -> Tensor:
    """Even logits where a choice is allowed."""
    return masked(torch.zeros_like(mask), mask > 0.5)


def _twice(
    laws: Laws, dynamics: Dynamics, start: State, steps: list[dict[str, Any]], both: dict[str, Any], of: str
) -> State:
    how = ", ".join(key for key in both if key != "horizon") or "no action"
    whole = State(dynamics.imagine(start, **both, deterministic=True), 2)
    first = State(dynamics.imagine(start, **steps[0], deterministic=True), 2)
    second = State(dynamics.imagine(start | first.last(), **steps[1], deterministic=True), 2)
    expected = first.only(start).then(second.only(start).span(1))
    _same(laws, f"{of}two steps are one step twice ({how})", expected, whole.only(start))
    return whole


def _policy(dynamics: PriorDynamics, actions: Mapping[str, Tensor]) -> Joint | Factor:
    """π(a_t|state) for each action, some smooth function of the state."""
    written: dict[str, Variable] = {}
    for factor in dynamics.prior.factors:
        for variable in (factor.variable, *factor.conditions):
            written.setdefault(variable.key, variable.at(0))
    state = ",".join(str(written[key]) for key in dynamics.carried if key in written)
    factors = [
        Normal(f"π({written[key]}|{state})", _Smooth(tuple(value.shape[2:])), shape=tuple(value.shape[2:]), scale=0.1)
        for key, value in actions.items()
    ]
    return factors[0] if len(factors) == 1 else Joint.of(*factors)


class _Smooth:
    """A function of the state with values of this shape."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.size = int(torch.Size(shape).numel())

    def __call__(self, *state: Tensor) -> Tensor:
        flat = torch.cat([s.reshape(len(s), -1).float() for s in state], -1)
        return flat.mean(1, keepdim=True).tanh().repeat(1, self.size)
