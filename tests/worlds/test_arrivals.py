"""Dreams that a search takes again and again arrive where dreams with all checks do: same numbers, same refusals."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from worldformula.errors import WorldformulaError
from worldformula.formula import Deterministic, Normal
from worldformula.planner import ActionSet, Task
from worldformula.planners.cem import CEM
from worldformula.world import PriorDynamics, State
from worldformula.worlds import rssm


@pytest.fixture
def world():
    torch.manual_seed(0)
    return rssm.build(rssm.tiny(), {"state": (3,)}, 2)


class Turn(nn.Module):
    """s and what two actions add to it."""

    def __init__(self):
        super().__init__()
        self.push, self.calls = nn.Linear(3, 2), 0

    def forward(self, s, a, u):
        self.calls += 1
        return torch.cat((s + torch.tanh(self.push(torch.cat((a, u), -1))), s * 0 - 1), -1)


def turning():
    torch.manual_seed(1)
    return PriorDynamics(Normal("p(s_t|s_{t-1},a_{t-1},u_{t-1})", Turn(), shape=2))


def begun(world, n, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    start = world.initial(n)
    return State({k: torch.randn(v.shape, generator=drawn) for k, v in start.items()})


def acts(sizes, n, steps, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    return {k: torch.randn(n, steps, size, generator=drawn) for k, size in sizes.items()}


def right(world, start, actions, **options):
    """The states of a dream of a fresh copy, behind its start."""
    dream = copy.deepcopy(world).imagine(start, actions=actions, **options)
    return {k: v[:, 1:] for k, v in dream.items() if k not in actions}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("n", [1, 3])
def test_means_and_modes_arrive_where_a_checked_dream_does_bit_by_bit(world, n, steps):
    for seed in range(4):
        start, actions = begun(world, n, seed), acts({"a": 2}, n, steps, seed)
        found = world.arrivals(start, deterministic=True)(actions)
        assert found.axes == 2
        assert same(found, right(world, start, actions, deterministic=True)), seed


def test_dreams_from_one_start_are_asked_for_again_and_again(world):
    start = begun(world, 3)
    arrive = world.arrivals(start, deterministic=True)
    for seed in range(3):  # the first is checked; then other shapes come, which are, and those that were come back
        for steps in (4, 2):
            actions = acts({"a": 2}, 3, steps, seed)
            assert same(arrive(actions), right(world, start, actions, deterministic=True)), (seed, steps)


def test_dreams_that_share_their_noise_are_asked_for_again_and_again():
    world = turning()
    start, actions = begun(world, 3), acts({"a": 2, "u": 1}, 3, 5)
    noise = world.dream_noise(start, actions, torch.Generator().manual_seed(1))
    arrive = world.arrivals(start, noise=noise)
    for seed in range(3):
        others = acts({"a": 2, "u": 1}, 3, 5, seed)
        assert same(arrive(others), right(world, start, others, noise=noise)), seed


def test_several_actions_with_given_noise_arrive_where_a_checked_dream_does():
    world = turning()
    for seed in range(4):
        start, actions = begun(world, 3, seed), acts({"a": 2, "u": 1}, 3, 5, seed)
        noise = world.dream_noise(start, actions, torch.Generator().manual_seed(seed))
        found = world.arrivals(start, noise=noise)(actions)
        assert same(found, right(world, start, actions, noise=noise)), seed
        assert not torch.equal(found["s"], world.arrivals(start, deterministic=True)(actions)["s"])


def test_a_dream_that_was_checked_is_not_checked_again_and_other_shapes_are(world, monkeypatch):
    checked, imagine = [], world.dynamics.imagine
    monkeypatch.setattr(world.dynamics._arrivals, "imagine", lambda *a, **k: (checked.append(1), imagine(*a, **k))[1])
    for n, steps, new in [(2, 3, True), (2, 3, False), (5, 3, True), (2, 3, False), (2, 4, True), (5, 3, False)]:
        before = len(checked)
        world.arrivals(begun(world, n), deterministic=True)(acts({"a": 2}, n, steps))
        assert len(checked) - before == new, (n, steps)


def test_gradients_reach_every_action_as_through_a_checked_dream():
    world = turning()
    start, actions = begun(world, 2), acts({"a": 2, "u": 1}, 2, 3)
    slopes = []
    for _ in range(2):
        leaves = {k: v.clone().requires_grad_() for k, v in actions.items()}
        total = world.arrivals(start, deterministic=True)(leaves)["s"].square().sum()
        slopes.append(torch.autograd.grad(total, tuple(leaves.values())))
    leaves = {k: v.clone().requires_grad_() for k, v in actions.items()}
    total = right(world, start, leaves, deterministic=True)["s"].square().sum()
    expected = torch.autograd.grad(total, tuple(leaves.values()))
    for found in slopes:
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)
            assert (a != 0).any((0, 2)).all()


def test_what_is_wrong_is_named_at_a_later_dream_too(world):
    start, actions = begun(world, 2), acts({"a": 2}, 2, 3)
    known = world.arrivals(start, deterministic=True)
    for _ in range(2):
        known(actions)
    for wrong, taken in [
        (start, acts({"a": 3}, 2, 3)),
        (start, acts({"a": 2}, 3, 3)),
        (start, acts({"b": 2}, 2, 3)),
        (State({k: v for k, v in start.items() if k != "h"}), actions),
        (start | {"h": start["h"][:, :3]}, actions),
    ]:
        with pytest.raises(WorldformulaError):
            world.arrivals(wrong, deterministic=True)(taken)
        if wrong is start:
            with pytest.raises(WorldformulaError):
                known(taken)
    assert known(actions)["h"].isfinite().all()


def test_a_network_that_fails_later_is_named_as_at_the_first_dream():
    world = turning()
    net = world.prior.factors[0].net
    start, actions = begun(world, 2), acts({"a": 2, "u": 1}, 2, 3)
    known = world.arrivals(start, deterministic=True)
    for arrive in (known, known, world.arrivals(start, deterministic=True)):
        first = arrive(actions)
        whole = net.forward
        net.forward = lambda *read, whole=whole: whole(*read)[..., :3]
        with pytest.raises(WorldformulaError, match=r"^p\(s_t\|s_\{t-1\},a_\{t-1\},u_\{t-1\}\): .*does not split"):
            arrive(actions)
        net.forward = whole
        assert same(arrive(actions), first)


def test_what_has_no_time_is_held_and_a_duration_is_told():
    core = Deterministic("s_t = f(s_{t-1},a_{t-1},y)", lambda s, a, y: s + a * y, shape=2)
    world, start = PriorDynamics(core), State({"s": torch.zeros(3, 2), "y": torch.arange(6.0).view(3, 2)})
    actions = acts({"a": 2}, 3, 2)
    for _ in range(3):
        found = world.arrivals(start, deterministic=True)(actions)
        assert torch.equal(found["y"], start["y"][:, None].expand(-1, 2, -1))
        torch.testing.assert_close(found["s"], actions["a"].cumsum(1) * start["y"][:, None])
    long = Deterministic("s_t,k_t = f(s_{t-1},a_{t-1})", lambda s, a: (s + a, 1 + a.square()[:, :1]), shape=[2, 1])
    far = PriorDynamics(long, duration="k")
    for _ in range(3):
        found = far.arrivals(State({"s": torch.zeros(3, 2)}), deterministic=True)(actions)
        torch.testing.assert_close(found["k"], 1 + actions["a"].square()[..., :1])


def test_a_search_calls_its_network_as_often_as_its_plan_says():
    world = turning()
    net = world.prior.factors[0].net
    task, space = Task(lambda states, _: states["s"].square().sum(-1)), {"a": ActionSet(2), "u": ActionSet(1)}
    planner = CEM(horizon=3, candidates=16, elites=4, iterations=5)
    planner.plan(world, task, begun(world, 2), space=space)  # the first is checked
    net.calls = 0
    plan = planner.plan(world, task, begun(world, 2), space=space)
    assert net.calls == 5 * 3  # of 16 candidates side by side each, whose states are those of the plan
    assert plan.calls == 5 * 3 * 16
    states = right(world, begun(world, 2), plan.actions, deterministic=True)["s"]
    torch.testing.assert_close(plan.states["s"], torch.cat((begun(world, 2)["s"][:, None], states), 1))
    torch.testing.assert_close(plan.cost, states.square().sum((1, 2)))


def test_nothing_is_kept_of_where_dreams_began(world):
    start, actions = begun(world, 2), acts({"a": 2}, 2, 3)
    learnt = State({k: v.requires_grad_() * 2 for k, v in start.items()})  # as a filter gives it
    with torch.no_grad():
        for _ in range(3):
            first = world.arrivals(learnt, deterministic=True)(actions)
    assert same(copy.deepcopy(world).arrivals(learnt, deterministic=True)(actions), first)
    learnt["h"] = learnt["h"][:, :3]  # the same object, and no longer a state of this world
    with pytest.raises(WorldformulaError):
        world.arrivals(learnt, deterministic=True)(actions)
