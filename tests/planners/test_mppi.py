"""MPPI against the same search in NumPy with the same draws; proposals, the value at the end, its choices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worldformula.errors import ConfigError, NonFiniteError
from worldformula.formula import Deterministic
from worldformula.planner import ActionSet, Task
from worldformula.planners.mppi import MPPI
from worldformula.testing import check_planner
from worldformula.world import PriorDynamics

B, H, A, N, E, ROUNDS, P, GAMMA = 3, 4, 2, 30, 7, 5, 6, 0.9
TWO = {"a": ActionSet(A)}


class Bent(nn.Module):
    """A point in the plane that turns as it moves."""

    def forward(self, s: Tensor, a: Tensor) -> Tensor:
        return torch.tanh(s @ torch.tensor([[0.8, -0.3], [0.4, 0.9]], dtype=s.dtype)) + 0.5 * a


def dynamics(net: nn.Module | None = None) -> PriorDynamics:
    return PriorDynamics(Deterministic("s_t = f(s_{t-1}, a_{t-1})", net or Bent(), shape=2))


GOAL = torch.tensor([0.7, -0.4], dtype=torch.float64)
TASK = Task(
    lambda states, actions: (states["s"] - GOAL).square().sum(-1) + 0.1 * actions["a"].square().sum(-1),
    value=lambda last: (last["s"] - GOAL).abs().sum(-1),
    discount=GAMMA,
)
PLANNER = MPPI(H, N, E, ROUNDS, temperature=0.8, least=0.1, most=1.5)


def cost(start: NDArray[Any], actions: NDArray[Any]) -> NDArray[Any]:
    """Of actions [N, H, A] from one start."""
    turn, goal, s = np.array([[0.8, -0.3], [0.4, 0.9]]), GOAL.numpy(), np.tile(start, (len(actions), 1))
    total = np.zeros(len(actions))
    for t in range(H):
        s = np.tanh(s @ turn) + 0.5 * actions[:, t]
        total += GAMMA**t * (((s - goal) ** 2).sum(-1) + 0.1 * (actions[:, t] ** 2).sum(-1))
    return total + GAMMA**H * np.abs(s - goal).sum(-1)


def by_hand(
    start: NDArray[Any], generator: torch.Generator, middle: NDArray[Any], proposed: NDArray[Any]
) -> dict[str, Any]:
    """The search for one episode."""
    mean, std = middle, np.full((H, A), 1.5)
    for _ in range(ROUNDS):
        noise = torch.randn(N - len(proposed), H, A, generator=generator, dtype=torch.float64).numpy()
        actions = np.concatenate((proposed, np.clip(mean + std * noise, -1, 1)))
        worth = -cost(start, actions)
        best = np.argsort(-worth)[:E]
        weight = np.exp(0.8 * (worth[best] - worth[best].max()))
        weight /= weight.sum()
        mean = np.einsum("n,nta->ta", weight, actions[best])
        std = np.sqrt(np.einsum("n,nta->ta", weight, (actions[best] - mean) ** 2)).clip(0.1, 1.5)
    drawn = torch.rand((), generator=generator, dtype=torch.float64).item()
    pick = int(np.searchsorted(np.cumsum(weight), drawn, side="right"))
    return {"actions": actions[best[pick]], "mean": mean, "std": std, "weights": weight, "pick": pick}


@pytest.mark.parametrize("warmed", [False, True])
@pytest.mark.parametrize("proposing", [False, True])
def test_it_is_the_search_by_hand(proposing: bool, warmed: bool) -> None:
    rng = np.random.default_rng(0)
    start = rng.normal(size=(B, 2))
    proposed = rng.uniform(-1, 1, (B, P, H, A)) if proposing else np.zeros((B, 0, H, A))
    middle = rng.uniform(-1, 1, (B, H, A)) if warmed else np.zeros((B, H, A))
    given = middle.copy()
    given[1], middle[1] = np.nan, 0.0  # an episode that begins
    found = PLANNER.plan(
        dynamics(), TASK, {"s": torch.from_numpy(start)}, space=TWO,
        generators=[torch.Generator().manual_seed(b) for b in range(B)],
        warm={"a": torch.from_numpy(given)} if warmed else None,
        proposals={"a": torch.from_numpy(proposed)} if proposing else None,
    )  # fmt: skip
    assert found.spread is not None
    for b in range(B):
        hand = by_hand(start[b], torch.Generator().manual_seed(b), middle[b], proposed[b])
        assert 0.02 < hand["weights"].max() < 0.98  # τ makes a difference
        np.testing.assert_allclose(found.actions["a"][b], hand["actions"], rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(found.spread["a"][b], hand["std"][0], rtol=1e-10, atol=1e-10)
        ahead = np.concatenate((hand["mean"][1:], np.zeros((1, A))))
        np.testing.assert_allclose(found.shifted()["a"][b], ahead, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(found.cost[b], cost(start[b], hand["actions"][None])[0], rtol=1e-10)
        path = [start[b]]  # of the elite that was drawn, which is seldom the best
        for action in hand["actions"]:
            path.append(np.tanh(path[-1] @ np.array([[0.8, -0.3], [0.4, 0.9]])) + 0.5 * action)
        np.testing.assert_allclose(found.states["s"][b], np.stack(path), rtol=1e-10, atol=1e-10)
    assert found.calls == ROUNDS * N * H


def test_elites_are_drawn_by_their_weights() -> None:
    planner = MPPI(horizon=1, candidates=4, elites=4, iterations=1, temperature=1.0)
    proposed = torch.tensor([0.9, 0.4, -0.2], dtype=torch.float64)[None, :, None, None]
    worth = Task(lambda states, actions: -5 * actions["a"][..., 0])  # dearer to the left
    count, hits = 400, 0
    plan = planner.plan(
        dynamics(Line()), worth, {"s": torch.zeros(count, 2, dtype=torch.float64)}, space={"a": ActionSet(1)},
        proposals={"a": proposed.expand(count, -1, -1, -1)},
    )  # fmt: skip
    taken, expected = plan.actions["a"][:, 0, 0], []
    for b in range(count):
        fourth = torch.randn(1, 1, 1, generator=torch.Generator().manual_seed(b), dtype=torch.float64)
        four = [*proposed.flatten().tolist(), float((2 * fourth).clamp(-1, 1))]
        weights = np.exp(5 * (np.array(four) - max(four)))
        expected.append(weights[0] / weights.sum())
        hits += float(taken[b]) == 0.9
    error = np.sqrt(sum(p * (1 - p) for p in expected))
    assert abs(hits - sum(expected)) < 4 * error


class Line(nn.Module):
    def forward(self, s: Tensor, a: Tensor) -> Tensor:
        return s + a


@pytest.mark.parametrize("answer", ["elite", "mean", "best"])
def test_every_answer_states_its_cost_and_stays_inside(answer: Any) -> None:
    planner = MPPI(H, N, E, 3, answer=answer)
    start = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plan = planner.plan(dynamics(), TASK, {"s": start}, space=TWO)
    for b in range(4):
        stated = cost(start[b].numpy(), plan.actions["a"][b : b + 1].numpy())
        np.testing.assert_allclose(plan.cost[b], stated[0], rtol=1e-9)
    assert (plan.actions["a"].abs() <= 1).all()
    assert len(plan.trace) == 3 + (answer != "best")
    assert torch.equal(plan.trace[-1], plan.cost)


def test_choices_and_flags_are_searched_by_the_same_weights() -> None:
    check_planner(MPPI(4, 50, 5, 3, answer="best"), {"a": ActionSet(3, "choice")})
    check_planner(MPPI(4, 50, 5, 3, answer="best"), {"a": ActionSet(3, "flags")})


def test_candidates_without_a_number_weigh_nothing() -> None:
    task = Task(lambda states, actions: torch.where(actions["a"][..., 0] > 0, torch.nan, actions["a"][..., 0]))
    plan = MPPI(2, 40, 30, 2).plan(dynamics(), task, {"s": torch.zeros(2, 2, dtype=torch.float64)}, space=TWO)
    assert plan.cost.isfinite().all()
    assert (plan.actions["a"][..., 0] <= 0).all()
    nothing = Task(lambda states, actions: torch.full_like(actions["a"][..., 0], torch.nan))
    with pytest.raises(NonFiniteError, match="every candidate is NaN"):
        MPPI(2, 40, 30, 2).plan(dynamics(), nothing, {"s": torch.zeros(2, 2, dtype=torch.float64)}, space=TWO)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"answer": "worst"}, "answer as 'elite', 'mean' or 'best'"),
        ({"elites": 600}, "1 ≤ elites ≤ candidates"),
        ({"horizon": 0}, "horizon and iterations of at least 1"),
        ({"temperature": 0.0}, "temperature > 0"),
        ({"least": 3.0}, "0 < least ≤ most"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MPPI(**wrong)


def test_more_proposals_than_candidates_are_refused() -> None:
    with pytest.raises(ConfigError, match="candidates=30: expected more than the 30 proposals"):
        PLANNER.plan(
            dynamics(), TASK, {"s": torch.zeros(1, 2, dtype=torch.float64)}, space=TWO,
            proposals={"a": torch.zeros(1, N, H, A, dtype=torch.float64)},
        )  # fmt: skip


@pytest.mark.parametrize("temperature", [1e-12, 1e12])
def test_where_the_temperature_ends_it_is_the_mean_of_the_elites_or_the_best_one(temperature: float) -> None:
    """It multiplies: near 0 all elites weigh the same, where it is great the best alone; NumPy, of what was tried."""
    tried: dict[str, np.ndarray] = {}

    def cost(states: Any, actions: Any) -> torch.Tensor:
        found = (states["s"] - GOAL).square().sum(-1)
        if len(found) == 40:
            tried["a"], tried["cost"] = actions["a"].numpy(), found.sum(1).numpy()
        return found

    planner = MPPI(2, 40, 7, 1, temperature=temperature, answer="mean")
    plan = planner.plan(dynamics(), Task(cost), {"s": torch.zeros(1, 2, dtype=torch.float64)}, space=TWO)
    elites = tried["a"][np.argsort(tried["cost"])[:7]]
    right = elites.mean(0) if temperature < 1 else elites[0]
    np.testing.assert_allclose(plan.actions["a"][0], right, atol=1e-9)
