"""The laws of a world model: filter, imagine and decode mean what the formula says."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worldformula.formula.factors.independent import Factor, Normal
from worldformula.formula.syntax.names import Variable
from worldformula.testing.laws import Laws
from worldformula.world import State, World

CLOSE = 1e-4  # float32, over a few steps


def check_world(world: World, batch: Mapping[str, Tensor], *, seed: int = 0) -> None:
    """Check that a world keeps the contract of `worldformula.world.World`.

    The laws: the loss reaches every weight; filter, initial and imagine carry the same variables; filtering in two
    chunks or step by step is filtering at once; a reset forgets; rows do not see each other; imagining two steps is
    imagining one step twice, under actions and under a policy; decode keeps the batch axes; each weight is in the
    state_dict once.

    Args:
        world: The world to check; it is copied and set to float32 evaluation.
        batch: Series ``[B, T, ...]`` with everything that the loss reads, B ≥ 2 and T ≥ 2.
        seed: Seed of all draws.

    Raises:
        AssertionError: A law does not hold; the message is the table of laws.
    """
    laws = Laws(f"world {world.posterior}")
    case = _Case(copy.deepcopy(world).eval(), batch, seed)
    for check in (_weights, _filtering, _resets, _imagining, _decoding):
        check(case, laws)
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
        """What a filter goes on from after states that end at a step: the last one, and the action taken at it."""
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
    weights = {name: p for name, p in world.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
    unused = [name for name, g in zip(weights, gradients, strict=True) if g is None]
    laws.equal("the loss reaches every weight", [], unused)
    tensors = [v.data_ptr() for v in world.state_dict().values() if v.numel()]
    laws.equal("each weight is in the state_dict once", len(tensors), len(set(tensors)))
    ours = {p.data_ptr() for p in world.parameters()}
    laws.equal("the loss has no weight of its own", True, all(p.data_ptr() in ours for p in world.loss.parameters()))


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
    whole = world.filter(batch, noise=noise)
    head = world.filter(case.cut(slice(0, half)), noise={k: v[:, :half] for k, v in noise.items()})
    tail = {k: v[:, half:] for k, v in noise.items()}
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


def _imagining(case: _Case, laws: Laws) -> None:
    """Two steps are one step twice."""
    world = case.world
    start = world.filter(case.cut(slice(0, 1)), deterministic=True).last()
    if not world.actions:
        _twice(laws, world, start, [{"horizon": 1}, {"horizon": 1}], {"horizon": 2})
        return
    actions = case.batch[world.action]
    steps: list[dict[str, Any]] = [{"actions": actions[:, :1]}, {"actions": actions[:, 1:2]}]
    _twice(laws, world, start, steps, {"actions": actions[:, :2]})
    chosen: dict[str, Any] = {"policy": _policy(world, tuple(actions.shape[2:])), "horizon": 1}
    _twice(laws, world, start, [chosen, chosen], {**chosen, "horizon": 2})
    one, two = (world.imagine(start, **{**chosen, "horizon": 2}, seed=case.seed) for _ in range(2))
    _same(laws, "imagine repeats with its seed", one, two)


def _twice(laws: Laws, world: World, start: State, steps: list[dict[str, Any]], both: dict[str, Any]) -> None:
    how = ", ".join(key for key in both if key != "horizon") or "no action"
    whole = world.imagine(start, **both, deterministic=True)
    first = world.imagine(start, **steps[0], deterministic=True)
    second = world.imagine(start | first.last(), **steps[1], deterministic=True)
    expected = first.only(start).then(second.only(start).span(1))
    _same(laws, f"two steps are one step twice ({how})", expected, whole.only(start))


def _policy(world: World, shape: tuple[int, ...]) -> Factor:
    """π(a_t|state), some smooth function of the state."""
    size = int(torch.Size(shape).numel())

    def net(*state: Tensor) -> Tensor:
        return torch.cat([s.reshape(len(s), -1) for s in state], -1).mean(1, keepdim=True).tanh().repeat(1, size)

    written: dict[str, Variable] = {}
    for factor in world.prior.factors:
        for variable in (factor.variable, *factor.conditions):
            written.setdefault(variable.key, variable.at(0))
    state = ",".join(str(written[key]) for key in world.carried if key in written)
    return Normal(f"π({written[world.action]}|{state})", net, shape=shape, scale=0.1)


def _decoding(case: _Case, laws: Laws) -> None:
    """One prediction per head, with the batch axes of the states."""
    world, states = case.world, case.states
    decoded = world.decode(states)
    laws.equal("decode answers for every head", sorted(world.heads), sorted(decoded))
    for key, value in decoded.items():
        if key in case.batch:
            laws.equal(f"decode has the shape of the data: {key}", tuple(case.batch[key].shape), tuple(value.shape))
    last = world.decode(states.last())
    _same(laws, "decode of one step", {k: v[:, -1] for k, v in decoded.items()}, last)
