"""A step that is like the one before goes straight to the emitted function: same numbers, same refusals."""

from __future__ import annotations

import copy

import pytest
import torch

from worldformula.agent.actor import policy
from worldformula.agent.acts import Act
from worldformula.errors import WorldformulaError
from worldformula.nets.sizes import Sizes
from worldformula.world import State
from worldformula.worlds import rssm


@pytest.fixture
def world():
    torch.manual_seed(0)
    return rssm.build(rssm.tiny(), {"state": (3,)}, 2)


def rows(n, step):
    drawn = torch.Generator().manual_seed(step)
    return {"x": torch.randn(n, 3, generator=drawn), "first": torch.arange(n) == step}


def walk(world, n, take, steps=4):
    torch.manual_seed(5)
    state, found = world.initial(n) | {"a": torch.zeros(n, 2)}, []
    for step in range(steps):
        state = take(world, rows(n, step), state) | {"a": torch.full((n, 2), 0.1 * step)}
        found.append(state)
    return found


def same(one, other):
    return all(
        a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("modes", [False, True])
@pytest.mark.parametrize("n", [1, 3, 40])
@pytest.mark.parametrize("gradients", [True, False])
def test_a_repeated_step_computes_what_a_checked_one_does_bit_by_bit(world, modes, n, gradients):
    with torch.set_grad_enabled(gradients):
        quick = walk(world, n, lambda w, row, s: w.observe(row, s, deterministic=modes))
        slow = walk(world, n, lambda w, row, s: copy.deepcopy(w).observe(row, s, deterministic=modes))
    assert same(quick, slow)
    assert quick[-1]["h"].requires_grad == gradients


def test_states_that_lie_anywhere_in_memory_give_the_same_and_stay_as_they_are(world):
    with torch.no_grad():
        state = walk(world, 2, lambda w, row, s: w.observe(row, s))[-1]
        odd = State({k: torch.cat((torch.zeros(1), v.flatten()))[1:].view(v.shape) for k, v in state.items()})
        assert odd["h"].data_ptr() % 64
        before = {k: v.clone() for k, v in odd.items()}
        row = {"x": torch.ones(2, 3), "first": torch.zeros(2, dtype=torch.bool)}
        one, other = (world.observe(row, start, deterministic=True) for start in (state, odd))
    assert same([one], [other])
    assert same([before], [odd])


def test_acting_again_and_again_draws_from_the_same_stream_of_numbers(world):
    sizes = Sizes(deter=128, hidden=16, classes=8, depth=8, units=16, groups=16)
    pi = policy([Act("a", "action", "numbers", 2)], sizes)
    quick = walk(world, 2, lambda w, row, s: w.act(row, s, pi))
    slow = walk(world, 2, lambda w, row, s: copy.deepcopy(w).act(row, s, pi))
    assert same(quick, slow)
    assert not torch.equal(quick[1]["z"], quick[2]["z"])


def test_streams_that_come_and_go_are_steps_of_their_own(world):
    for n in (3, 1, 3, 2):
        state = world.initial(n) | {"a": torch.zeros(n, 2)}
        assert world.observe(rows(n, 0), state)["h"].shape[0] == n


def test_what_is_wrong_is_named_at_a_later_step_too(world):
    state = walk(world, 2, lambda w, row, s: w.observe(row, s))[-1]
    for row, start in [
        ({"x": torch.randn(2, 4), "first": torch.zeros(2, dtype=torch.bool)}, state),
        ({"x": torch.randn(3, 3), "first": torch.zeros(3, dtype=torch.bool)}, state),
        ({"first": torch.zeros(2, dtype=torch.bool)}, state),
        (rows(2, 1), State({k: v for k, v in state.items() if k != "h"})),
        (rows(2, 1), State({k: v for k, v in state.items() if k != "a"})),
    ]:
        with pytest.raises(WorldformulaError):
            world.observe(row, start)
    assert world.observe(rows(2, 1), state)["h"].isfinite().all()


def test_doubles_after_floats_are_computed_as_doubles(world):
    walk(world, 2, lambda w, row, s: w.observe(row, s))
    wide = world.double()
    state = wide.initial(2, dtype=torch.float64) | {"a": torch.zeros(2, 2, dtype=torch.float64)}
    row = {"x": torch.randn(2, 3, dtype=torch.float64), "first": torch.ones(2, dtype=torch.bool)}
    assert wide.observe(row, state)["h"].dtype == torch.float64


def test_weights_that_learn_and_hooks_that_come_are_seen(world):
    state = walk(world, 2, lambda w, row, s: w.observe(row, s))[-1]
    before = world.observe(rows(2, 9), state, deterministic=True)["h"]
    with torch.no_grad():
        for weight in world.parameters():
            weight.mul_(1.5)
    assert not torch.equal(before, world.observe(rows(2, 9), state, deterministic=True)["h"])
    calls = []
    world.posterior.factors[0].net.register_forward_hook(lambda *_: calls.append(1))
    world.observe(rows(2, 9), state, deterministic=True)
    assert calls == [1]


def test_a_network_that_fails_later_is_named_as_at_the_first_step(world):
    state = walk(world, 2, lambda w, row, s: w.observe(row, s))[-1]
    net = world.posterior.factors[-1].net
    whole = net.forward
    net.forward = lambda *read: whole(*read)[..., :3]
    with pytest.raises(WorldformulaError, match=r"^q\(z_t\|h_t,e_t\): .*does not split"):
        world.observe(rows(2, 1), state)
    net.forward = lambda *read: {"logits": whole(*read)}
    with pytest.raises(WorldformulaError, match=r"^q\(z_t\|h_t,e_t\): .*logits"):
        world.observe(rows(2, 1), state)
    net.forward = whole
    assert world.observe(rows(2, 1), state)["h"].isfinite().all()
    world.double()
    with pytest.raises(WorldformulaError, match="its network failed.*\n(.*\n)*.*float64"):
        world.observe(rows(2, 1), state)
