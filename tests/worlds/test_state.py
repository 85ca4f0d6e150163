"""States: cut, joined and repeated as slices by hand say, for any leading axes, with and without a memory."""

import copy
import pickle

import pytest
import torch

from worldformula.errors import ShapeError
from worldformula.nets.causal import Memory
from worldformula.world import State

N, T = 3, 5


class Last(Memory):
    """Remembers one number a row."""

    def __init__(self, rows):
        self.rows = rows

    def select(self, rows):
        return Last(self.rows[rows])

    def repeat(self, times):
        return Last(self.rows.repeat_interleave(times))

    def detach(self):
        return Last(self.rows.detach())


def sequence(lead=(N, T), **more):
    return State(
        {"h": torch.randn(*lead, 4), "z": torch.randn(*lead, 2, 3), "n": torch.randn(*lead), **more}, len(lead)
    )


def remembering():
    return sequence(z_cache=Last(torch.arange(float(N))))


def same(got, expected, axes):
    assert isinstance(got, State)
    assert got.axes == axes
    torch.testing.assert_close(dict(got), expected)


def test_one_step_of_a_sequence_is_a_slice_of_every_tensor():
    states = sequence()
    for t in (0, 2, -1):
        same(states.at(t), {k: v[:, t] for k, v in states.items()}, 1)
    same(states.last(), {k: v[:, T - 1] for k, v in states.items()}, 1)
    same(states.span(1, 4), {k: v[:, 1:4] for k, v in states.items()}, 2)


def test_time_is_the_last_leading_axis_also_of_dreams_that_began_at_every_state_of_a_batch():
    dreams = sequence((2, N, T))
    same(dreams.last(), {k: v[:, :, -1] for k, v in dreams.items()}, 2)
    same(dreams.at(1), {k: v[:, :, 1] for k, v in dreams.items()}, 2)
    same(dreams.span(2), {k: v[:, :, 2:] for k, v in dreams.items()}, 3)


def test_starts_are_the_last_states_of_each_sequence_one_behind_the_other():
    states = sequence()
    by_hand = {k: torch.cat([v[n, T - 2 :] for n in range(N)]) for k, v in states.items()}
    same(states.starts(last=2), by_hand, 1)
    same(states.starts(), {k: v.flatten(0, 1) for k, v in states.items()}, 1)
    same(states.starts().unflat((N, T)), dict(states), 2)


def test_rows():
    states = sequence().last()
    twice = torch.tensor([n for n in range(N) for _ in range(2)])
    same(states.repeat(2), {k: v[twice] for k, v in states.items()}, 1)
    same(states.select(torch.tensor([2, 0])), {k: v[[2, 0]] for k, v in states.items()}, 1)


def test_a_sequence_and_what_follows_it():
    one, two = sequence(), sequence()
    same(one.then(two.span(1)), {k: torch.cat((one[k], two[k][:, 1:]), 1) for k in one}, 2)
    assert list(one.then(two.only("h"))) == ["h"]


def test_a_memory_is_of_the_last_step():
    states = remembering()
    assert states.last()["z_cache"] is states["z_cache"]
    assert states.at(T - 1)["z_cache"] is states["z_cache"]
    assert states.span(2)["z_cache"] is states["z_cache"]
    assert states.starts()["h"].shape == (N, 4)
    torch.testing.assert_close(states.last().repeat(2)["z_cache"].rows, torch.tensor([0.0, 0, 1, 1, 2, 2]))
    torch.testing.assert_close(states.last().select(torch.tensor([2]))["z_cache"].rows, torch.tensor([2.0]))
    assert set(states.series) == {"h", "z", "n"}
    later = remembering()
    assert states.then(later)["z_cache"] is later["z_cache"]
    for cut in (lambda: states.at(0), lambda: states.span(0, 2), lambda: states.starts(last=2), states.flat):
        with pytest.raises(ShapeError, match="z_cache is a memory, which has its last value only"):
            cut()


def test_what_is_added_makes_a_new_state():
    state = sequence().last()
    action = torch.zeros(N, 2)
    more = state | {"a": action}
    assert isinstance(more, State)
    assert "a" not in state
    grown = state
    grown |= {"a": action}
    assert "a" in grown
    assert "a" not in state


def test_a_step_has_no_action_where_none_was_given():
    """H given actions, H + 1 states: the last state has none, and a start has none where another has."""
    states = sequence((N, T))
    dream = states | {"a": torch.randn(N, T - 1, 2)}
    assert set(dream.last()) == set(states)
    assert set(dream.at(-2)) == {*states, "a"}
    torch.testing.assert_close(dream.at(-2)["a"], dream["a"][:, T - 2])
    torch.testing.assert_close(dream.at(-2)["h"], states["h"][:, T - 2])
    late = dream.span(-2)
    torch.testing.assert_close((late["h"], late["a"]), (states["h"][:, T - 2 :], dream["a"][:, T - 2 :]))
    assert set(dream.starts(last=2)) == set(states)
    with pytest.raises(ShapeError, match="a state has common leading axes"):
        dream.flat()


def test_no_gradient_goes_through_what_is_detached():
    weight = torch.ones(N, T, 1, requires_grad=True)
    states = State({"h": weight * 2, "z_cache": Last(weight[:, 0, 0] * 3)}, 2)
    assert not states.detach()["h"].requires_grad
    assert not states.detach()["z_cache"].rows.requires_grad


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s)), copy.copy, State.copy])
def test_copies(twin):
    states = sequence()
    same(twin(states), dict(states), 2)


def test_vmap_and_functions_of_torch_see_the_tensors():
    states = sequence()
    got = torch.func.vmap(lambda s: State({k: v * 2 for k, v in s.items()}, 1))(states)
    torch.testing.assert_close(dict(got), {k: v * 2 for k, v in states.items()})


def test_what_is_no_sequence_cannot_be_cut():
    state = sequence().last()
    for cut in (state.last, state.starts, lambda: state.at(0), lambda: state.span(1), lambda: state.then(state)):
        with pytest.raises(ShapeError, match=r"expected a state of several steps, \[N, T, ...\], got one of 1 leading"):
            cut()
    for t in (T, -T - 1):
        with pytest.raises(ShapeError, match="expected a step between -5 and 4"):
            sequence().at(t)
    with pytest.raises(ShapeError, match="expected last between 1 and 5, got 6"):
        sequence().starts(last=6)


def test_different_leading_axes_are_told():
    with pytest.raises(ShapeError, match=r"a state has common leading axes(.|\n)*h +\| 2 leading axes \| \[3, 5, 4\]"):
        _ = State({"h": torch.zeros(N, T, 4), "z": torch.zeros(N, T + 1, 2)}, 2).lead
    assert sequence().lead == (N, T)
