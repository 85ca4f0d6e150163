"""Stretches of sequences against loops over rows."""

import pytest
import torch

from worldformula.errors import ShapeError
from worldformula.world.segments import Segments

B, T, GAMMA = 6, 17, 0.9


def flags(seed):
    g = torch.Generator().manual_seed(seed)
    change, first, end = (torch.rand(B, T, generator=g) < p for p in (0.2, 0.1, 0.1))
    return change, first, end


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_next_boundary_what_is_there_and_what_is_collected_until_then(seed, ends):
    change, first, end = flags(seed)
    reward, series = torch.randn(B, T), torch.randn(B, T, 2, 3)
    found = Segments.of(change, first, end if ends else None)
    collected, at, before = found.collected(reward, GAMMA), found.at(series), found.at(series, 1)
    count = 0
    for b in range(B):
        for t in range(T):
            tau = None
            for k in range(t + 1, T):
                if first[b, k]:
                    break
                if change[b, k] or (ends and end[b, k]):
                    tau = k
                    break
            assert bool(found.known[b, t]) == (tau is not None)
            if tau is None:
                assert collected[b, t] == 0
                continue
            count += 1
            assert found.next[b, t] == tau
            assert found.elapsed[b, t] == tau - 1 - t
            assert torch.equal(at[b, t], series[b, tau])
            assert torch.equal(before[b, t], series[b, tau - 1])
            total = sum(GAMMA ** (k - t) * reward[b, k].item() for k in range(t, tau))
            assert collected[b, t].item() == pytest.approx(total, abs=1e-5)
    assert 0 < count < B * T
    loss = torch.randn(B, T)
    assert (found.weight() * loss).mean().item() == pytest.approx(loss[found.known].mean().item(), abs=1e-5)


def test_nothing_is_known_behind_the_last_row_or_without_a_change():
    none = torch.zeros(2, 5, dtype=torch.bool)
    found = Segments.of(none, none)
    assert not found.known.any()
    assert torch.equal(found.weight(), torch.zeros(2, 5))
    assert Segments.of(none[:, :1], none[:, :1]).known.shape == (2, 1)


def test_what_another_episode_earned_is_not_read():
    change, first, reward = torch.zeros(3, 1, 6).unbind(0)
    change, first = change.bool(), first.bool()
    change[0, 2] = change[0, 5] = first[0, 0] = first[0, 3] = True
    reward = reward + torch.tensor([1.0, 2.0, 4.0, torch.nan, torch.inf, 8.0])
    found = Segments.of(change, first).collected(reward, 0.5)
    assert found[0, :3].tolist() == [2.0, 2.0, 0.0]
    assert found[0, 3].isnan()
    assert found[0, 4].item() == torch.inf


def test_series_of_other_rows_are_refused():
    found = Segments.of(*torch.zeros(2, 2, 5, dtype=torch.bool))
    for wrong in (torch.zeros(2, 4), torch.zeros(5), torch.zeros(1, 5, 3)):
        with pytest.raises(ShapeError, match=r"\[2, 5, ...\] of the same rows, got"):
            found.at(wrong)
        with pytest.raises(ShapeError, match="collected: expected"):
            found.collected(wrong, 0.5)


def test_flags_of_other_shapes_are_refused():
    with pytest.raises(ShapeError, match="terminal"):
        Segments.of(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(3, 2))
