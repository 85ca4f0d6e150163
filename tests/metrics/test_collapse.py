"""Diagnostics of collapse, against NumPy and codes whose rank is known."""

import contextlib
import math

import numpy as np
import pytest
import torch

from worldformula.errors import ShapeError
from worldformula.metrics.collapse import alarms, diagnosed, legible, lidar, rank_me, spread, straightness


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_spread_is_that_of_each_number():
    codes = normal(50, 4, 5) * torch.tensor([1.0, 0.05, 2.0, 0.01, 0.5])
    right = codes.reshape(-1, 5).numpy().std(0, ddof=1)
    found = spread(codes)
    assert (found.least, found.median) == pytest.approx((right.min(), np.median(right)))
    assert found.share == 0.4


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_rank_me_counts_equal_directions(rank):
    directions = torch.linalg.qr(normal(8, 8, seed=1)).Q[:rank]
    codes = torch.linalg.qr(normal(100, rank, seed=2)).Q @ directions  # equal singular values
    assert rank_me(codes) == pytest.approx(rank, rel=1e-4)
    assert rank_me(5 * codes) == pytest.approx(rank, rel=1e-4)


def test_rank_me_is_the_entropy_of_singular_values():
    codes = normal(30, 6) + 4.0
    for center in (False, True):
        x = codes.numpy() - (codes.numpy().mean(0) if center else 0)
        share = np.linalg.svd(x, compute_uv=False)
        share = share / share.sum()
        assert rank_me(codes, center=center) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-5)
    assert rank_me(codes) < rank_me(codes, center=True) - 1  # the mean outweighs the others


def test_a_constant_has_rank_one():
    assert rank_me(torch.ones(9, 4)) == pytest.approx(1, rel=1e-4)
    assert rank_me(torch.ones(9, 4), center=True) == 1
    assert spread(torch.ones(9, 4)).share == 1


def test_lidar_counts_directions_between_classes_alone():
    """Three directions tell the classes apart; views differ in all eight."""
    between = torch.zeros(400, 8, dtype=torch.float64)
    between[:, :3] = normal(400, 3)
    codes = 10 * between[:, None] + 0.01 * normal(400, 5, 8, seed=1)
    assert lidar(codes) == pytest.approx(3, abs=0.1)
    assert lidar(normal(400, 5, 8)) > 7  # noise of all views is a difference in every direction


def test_lidar_is_that_of_scipy():
    codes = normal(12, 4, 3) * torch.tensor([1.0, 2.0, 0.3]) + normal(12, 1, 3, seed=5)
    x = codes.numpy()
    means = x.mean(1)
    b = np.cov(means.T)
    w = sum(np.cov(own.T) for own in x) / len(x) + 1e-4 * np.eye(3)
    values = np.linalg.eigvals(np.linalg.solve(w, b)).real  # those of W^-½ B W^-½
    share = values / values.sum()
    assert lidar(codes) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-5)


def test_straightness_of_lines_circles_and_walks():
    t = torch.arange(20, dtype=torch.float64)
    line = torch.stack((t, 2 * t, -t), -1)[None]
    assert straightness(line) == pytest.approx(1)
    turn = torch.stack(((0.3 * t).cos(), (0.3 * t).sin()), -1)[None]
    assert straightness(turn) == pytest.approx(np.cos(0.3))
    assert abs(straightness(normal(200, 50, 16).cumsum(1))) < 0.01
    still = torch.cat((line[:, :5], line[:, 4:5].expand(-1, 5, -1)), 1)
    assert straightness(still) == pytest.approx(1)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_codes_that_are_no_numbers_are_not_left_out(bad):
    codes = normal(6, 5, 3)
    codes[0, 2, 1] = bad
    assert math.isnan(straightness(codes))
    assert math.isnan(spread(codes).share)
    for count in (rank_me, lidar):  # LAPACK refuses some of them
        with contextlib.suppress(torch.linalg.LinAlgError):
            assert math.isnan(count(codes))


@pytest.mark.parametrize(
    ("call", "shape"),
    [(spread, (4,)), (rank_me, (1, 4)), (lidar, (4, 1, 3)), (lidar, (1, 4, 3)), (straightness, (4, 2, 3))],
)
def test_refused(call, shape):
    with pytest.raises(ShapeError, match="expected codes"):
        call(torch.ones(shape))


def test_what_is_logged_is_what_the_parts_say_and_windows_of_two_episodes_say_nothing_of_time():
    codes = normal(6, 5, 4) * torch.tensor([1.0, 0.05, 0.05, 0.05])
    whole = torch.tensor([True, True, False, True, False, True])
    told = diagnosed(codes, whole)
    deviations = codes.reshape(-1, 4).numpy().std(0, ddof=1)
    assert told["least"] == pytest.approx(deviations.min())
    assert told["median"] == pytest.approx(np.sort(deviations)[1])  # the lower of the two in the middle
    assert told["share"] == 0.75
    assert told["rank"] == pytest.approx(rank_me(codes) / 4)
    assert told["straightness"] == pytest.approx(straightness(codes[whole]))
    assert told["straightness"] != pytest.approx(straightness(codes))
    assert told["lidar"] == pytest.approx(lidar(codes[whole]) / 4)


def test_codes_that_say_nothing_of_time_or_are_not_finite_leave_numbers_out():
    constant = torch.ones(4, 5, 3)
    assert diagnosed(constant).keys() == {"least", "median", "share", "rank", "lidar"}  # no step has a direction
    assert diagnosed(normal(4, 5, 3), torch.zeros(4, dtype=torch.bool)).keys() == {"least", "median", "share", "rank"}
    assert diagnosed(torch.full((4, 5, 3), math.nan)) == {}


def test_a_latent_that_shrinks_to_nothing_is_an_alarm_whatever_its_rank():
    codes = 1e-3 * normal(40, 5, 4)
    told = diagnosed(codes)
    assert told["rank"] > 0.9
    found = alarms({f"codes/z/{name}": value for name, value in told.items()})
    assert list(found) == ["z"]
    assert "deviation of 0.00" in found["z"]


def test_every_level_has_an_alarm_of_its_own_and_a_copy_counts_at_the_end():
    row = {"codes/low/rank": 0.04, "codes/low/copy": 3.0, "codes/high/rank": 0.4, "codes/high/copy": 1.5, "loss": 0.0}
    assert list(alarms(row, ended=False)) == ["low"]
    assert list(alarms(row)) == ["high/copy", "low"]
    assert alarms({"loss": 1.0}) == {}


def test_what_a_linear_map_reads_is_the_ridge_regression_of_numpy():
    """Even windows to fit, odd ones to score; rows whose label is not known do not count."""
    codes = normal(40, 6, 5).numpy()
    noise = normal(40, 6, 2, seed=3).numpy()
    label = codes @ np.arange(10.0).reshape(5, 2) * 0.1 + 0.3 * noise + 4.0
    label[3, 2], label[8, 0, 1] = np.nan, np.nan
    found = legible(torch.from_numpy(codes), torch.from_numpy(label))
    known = ~np.isnan(label).any(-1)
    x, y = codes[::2][known[::2]], label[::2][known[::2]]
    u, v = codes[1::2][known[1::2]], label[1::2][known[1::2]]
    centred = x - x.mean(0)
    ridge = 1e-3 * (centred**2).mean() * np.eye(5)
    weights = np.linalg.inv(centred.T @ centred / len(x) + ridge) @ (centred.T @ (y - y.mean(0)) / len(x))
    off = v - y.mean(0) - (u - x.mean(0)) @ weights
    assert found == pytest.approx(1 - (off**2).sum() / ((v - v.mean(0)) ** 2).sum(), rel=1e-9)
    assert 0.8 < found < 1


def test_what_cannot_be_read_is_not_told():
    codes = normal(20, 5, 4)
    assert legible(codes, normal(20, 5, seed=9)) < 0.2  # noise
    assert math.isnan(legible(codes, torch.ones(20, 5)))
    assert math.isnan(legible(codes, torch.full((20, 5), math.nan)))
    assert legible(codes * 0 + 1, normal(20, 5, seed=9)) == pytest.approx(0, abs=0.1)  # a constant reads nothing
    told = diagnosed(codes, labels={"state/place": codes[..., :2], "still": torch.ones(20, 5)})
    assert told["reads.state.place"] > 0.99
    assert "reads.still" not in told


def test_an_alarm_says_what_is_still_read_and_a_label_is_no_latent():
    row = {"codes/z/rank": 0.05, "codes/z/median": 1.0, "codes/z/reads.state.place": 0.017, "codes/z/reads.door": 0.5}
    assert alarms(row) == {
        "z": "z has collapsed: RankMe is 0.05 D, below 0.1 D; a linear map reads door with R² 0.5, state.place with R² "
        "0.017"
    }
    assert alarms({"codes/z/rank": 0.9, "codes/z/median": 1.0, "codes/z/reads.door": 0.5}) == {}
