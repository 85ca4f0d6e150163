from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worldformula.errors import ShapeError
from worldformula.learners.imagination import PercentileNorm, lambda_return, replay_return


def row(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


NEVER_READ = float("nan")  # the reward of the first state belongs to the step before it


def test_lambda_return_golden_values() -> None:
    ours = lambda_return(row(NEVER_READ, 1, 2), row(NEVER_READ, 0.9, 0.9), row(5, 6, 7))
    assert ours[0].tolist() == pytest.approx([8.3665, 8.3], abs=1e-12)
    ours = lambda_return(row(NEVER_READ, 1, 2, 3), row(1, 0.9, 0, 1), row(5, 6, 7, 8))
    assert ours[0].tolist() == pytest.approx([2.98, 2.0, 11.0], abs=1e-12)


def test_replay_return_golden_values() -> None:
    reward, boot = row(NEVER_READ, 1, 2, 3), row(5, 6, 7, 8)
    last = torch.tensor([[False, False, True, False]])
    ours = replay_return(reward, torch.zeros_like(last), last, boot)
    assert ours[0].tolist() == pytest.approx([9.803513, 8.978979, 10.975976], abs=1e-6)
    ours = replay_return(reward, last, last, boot)
    assert ours[0].tolist() == pytest.approx([3.193393, 2.0, 10.975976], abs=1e-6)


def test_rows_do_not_mix_and_lambda_one_is_the_discounted_sum() -> None:
    torch.manual_seed(0)
    reward, value = torch.randn(3, 6).double(), torch.randn(3, 6).double()
    cont = torch.full((3, 6), 0.9).double()
    ours = lambda_return(reward, cont, value, lam=1.0)
    for b in range(3):
        expected = sum(0.9**k * reward[b, k + 1] for k in range(5)) + 0.9**5 * value[b, 5]
        assert ours[b, 0].item() == pytest.approx(float(expected))
    torch.testing.assert_close(lambda_return(reward, cont, value, lam=0.0), reward[:, 1:] + 0.9 * value[:, 1:])


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"reward +\| \[2, 4, 1\]"):
        lambda_return(torch.zeros(2, 4, 1), torch.zeros(2, 4), torch.zeros(2, 4))
    with pytest.raises(ShapeError, match="at least two steps"):
        lambda_return(torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2, 1))


def test_return_scale_golden_value() -> None:
    norm = PercentileNorm(rate=0.01)
    norm.update(torch.linspace(-50 / 18, 50 + 50 / 18, 101))  # 5th percentile 0, 95th percentile 50
    assert norm.lower.item() == pytest.approx(0.0, abs=1e-6)
    assert norm.upper.item() == pytest.approx(0.5)
    assert norm.scale.item() == 1.0


def test_return_scale_is_a_running_range_of_percentiles() -> None:
    torch.manual_seed(0)
    norm = PercentileNorm(rate=0.5)
    first, second = torch.randn(40, 15) * 30, torch.randn(40, 15) * 10 + 100
    norm.update(first)
    norm.update(second)
    low = 0.25 * first.quantile(0.05) + 0.5 * second.quantile(0.05)
    high = 0.25 * first.quantile(0.95) + 0.5 * second.quantile(0.95)
    assert norm.scale.item() == pytest.approx((high - low).item(), rel=1e-5)
    copy = PercentileNorm()
    copy.load_state_dict(norm.state_dict())
    assert copy.scale.item() == norm.scale.item()
    assert sorted(norm.state_dict()) == ["lower", "upper"]
