"""What a memory of costs gives: every number by hand, from episodes whose numbers say where they come from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldformula.agent.recollection import Hindsight, Recollection
from worldformula.agent.terms import Distance
from worldformula.errors import ConfigError, NonFiniteError, ShapeError
from worldformula.world import State

E, T, DISCOUNT = 3, 12, 0.9


@pytest.fixture
def memory() -> Recollection:
    """s = 100·episode + step; a cost of 1, 2, 3, … by step, times the number of the episode."""
    found = Recollection()
    found.write(State({"s": numbered()}, 2), costs())
    return found


def numbered() -> torch.Tensor:
    return (100.0 * torch.arange(1, E + 1)[:, None] + torch.arange(T)).unsqueeze(-1)


def costs() -> torch.Tensor:
    return torch.arange(1, E + 1)[:, None] * torch.arange(1.0, T + 1)


def place(s: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The episode and the step of states ``[N, 1]``."""
    whole = s[:, 0].long().numpy()
    return whole // 100, whole % 100


@pytest.mark.parametrize("delta", [1, 4, T - 1])
def test_pairs_are_of_the_same_episode_so_many_steps_later(memory: Recollection, delta: int) -> None:
    found = memory.pairs(500, delta)
    episode, step = place(found["s"])
    np.testing.assert_allclose(found["y"], episode * (step + delta + 1))
    assert set(step) == set(range(T - delta))
    assert set(episode) == {1, 2, 3}


def test_returns_are_discounted_sums_to_the_end(memory: Recollection) -> None:
    found = memory.returns(400, discount=DISCOUNT)
    episode, step = place(found["s"])
    for e, t, y in zip(episode, step, found["y"].tolist(), strict=True):
        later = [e * (t + k + 1) * DISCOUNT ** (k - 1) for k in range(1, T - t)]
        assert y == pytest.approx(sum(later), rel=1e-5)
    assert set(step) == set(range(T - 1))


@pytest.mark.parametrize("steps", [1, 3])
def test_transitions_are_so_many_steps(memory: Recollection, steps: int) -> None:
    found = memory.transitions(200, discount=DISCOUNT, steps=steps)
    (episode, step), (after, later) = place(found["s"]), place(found["s_prime"])
    assert (episode == after).all()
    assert (later == step + steps).all()
    expected = sum(DISCOUNT ** (k - 1) * episode * (step + k + 1) for k in range(1, steps + 1))
    np.testing.assert_allclose(found["c"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["d"], np.full(200, DISCOUNT**steps), rtol=1e-5)


def test_the_mean_over_drawn_steps_is_the_lambda_return() -> None:
    """Of one state, with a value of each state that is known: (1 − λ) Σ λ^{n−1} y_n, by hand."""
    lam, steps, values = 0.6, 5, torch.tensor([0.0, 3.0, -1.0, 2.0, 5.0, 4.0])
    memory = Recollection()
    memory.write(State({"s": torch.arange(6.0).view(1, 6, 1)}, 2), torch.tensor([[9.0, 1.0, 2.0, 4.0, 0.5, 1.5]]))
    n_step = [
        sum(DISCOUNT ** (k - 1) * c for k, c in enumerate([1.0, 2.0, 4.0, 0.5, 1.5][:n], 1)) + DISCOUNT**n * values[n]
        for n in range(1, 6)
    ]
    weights = [(1 - lam) * lam ** (n - 1) for n in range(1, 5)] + [lam**4]
    expected = float(sum(w * y for w, y in zip(weights, n_step, strict=True)))
    torch.manual_seed(0)
    found = memory.transitions(200_000, discount=DISCOUNT, steps=steps, lam=lam)
    y = found["c"] + found["d"] * values[found["s_prime"][:, 0].long()]
    assert y.mean().item() == pytest.approx(expected, abs=4 * y.std().item() / 200_000**0.5)
    one = memory.transitions(50, discount=DISCOUNT, steps=steps, lam=0.0)
    assert (one["s_prime"] == one["s"] + 1).all()


def test_hindsight_goals_are_later_states_and_cost_until_they_are_reached() -> None:
    memory, goals = Recollection(), Hindsight(Distance("s"), "s", ahead=3.0)
    memory.write(State({"s": numbered()}, 2))
    found = memory.returns(600, discount=DISCOUNT, goals=goals)
    (episode, step), (where, when) = place(found["s"]), place(found["goal"])
    assert (episode == where).all()
    assert (when > step).all()
    for t, n, y in zip(step, when, found["y"].tolist(), strict=True):
        later = [DISCOUNT ** (k - 1) * float(n - t - k) ** 2 for k in range(1, n - t + 1)]
        assert y == pytest.approx(sum(later), rel=1e-5)
    assert set(when - step) >= {1, 2, 3, 4}
    first = (when - step)[step == 0]
    assert ((first == 1).mean(), (first > 11).mean()) == pytest.approx((1 / 3, 0), abs=0.2)


def test_nothing_comes_after_a_goal() -> None:
    """Steps that are not at the goal cost 1: the return counts them, and a transition that passes it ends there."""
    goals = Hindsight(lambda states: ((states["s"] - states["goal"]).abs() > 1.5).float().squeeze(-1), "s", ahead=4.0)
    memory = Recollection()
    memory.write(State({"s": numbered()}, 2))
    found = memory.returns(300, discount=1.0, goals=goals)
    (_, step), (_, when) = place(found["s"]), place(found["goal"])
    np.testing.assert_allclose(found["y"], np.maximum(when - step - 2, 0))
    found = memory.transitions(300, discount=DISCOUNT, steps=3, goals=goals)
    (_, step), (_, when) = place(found["s"]), place(found["goal"])
    far = np.maximum(when - step - 1, 1)  # the first later step within reach, or the very next one
    np.testing.assert_allclose(found["d"], np.where(far <= 3, 0, DISCOUNT**3), rtol=1e-5)
    expected = [sum(DISCOUNT ** (k - 1) for k in range(1, min(n, 4)) if k < n) for n in far]
    np.testing.assert_allclose(found["c"], expected, rtol=1e-5)


def test_goals_of_other_episodes_are_for_transitions_alone() -> None:
    memory, goals = Recollection(), Hindsight(Distance("s"), "s", others=0.5)
    memory.write(State({"s": numbered()}, 2))
    found = memory.transitions(1000, discount=DISCOUNT, goals=goals)
    (episode, _), (where, _) = place(found["s"]), place(found["goal"])
    assert (episode != where).mean() == pytest.approx(0.5 * 2 / 3, abs=0.06)
    with pytest.raises(ConfigError, match="others > 0"):
        memory.returns(5, discount=DISCOUNT, goals=goals)


def test_the_oldest_episodes_are_forgotten_whole() -> None:
    memory = Recollection(capacity=2 * T)
    memory.write(State({"s": numbered()}, 2), costs())
    assert len(memory) == 2 * T
    assert set(place(memory.pairs(200, 1)["s"])[0]) == {2, 3}
    memory.write(State({"s": numbered()[:1, :5]}, 2), costs()[:1, :5])
    assert len(memory) == T + 5
    episode, step = place(memory.pairs(300, 3)["s"])
    assert set(step[episode == 1]) == {0, 1}  # of five steps


def test_the_same_generator_draws_the_same(memory: Recollection) -> None:
    one, two = (memory.transitions(50, discount=1.0, steps=2, lam=0.5, generator=g) for g in (seeded(), seeded()))
    assert all(torch.equal(one[k], two[k]) for k in one)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_gradients_of_states_are_not_kept() -> None:
    memory, s = Recollection(), numbered().requires_grad_()
    memory.write(State({"s": 2 * s}, 2), (2 * s).squeeze(-1))
    assert not any(v.requires_grad for v in memory.pairs(4, 1).values())


def test_what_is_wrong_is_refused(memory: Recollection) -> None:
    with pytest.raises(ConfigError, match="nothing has been written yet"):
        Recollection().pairs(3, 1)
    with pytest.raises(ConfigError, match=f"no episode has {T} steps after any of its states; the longest has {T - 1}"):
        memory.pairs(3, T)
    with pytest.raises(ConfigError, match="capacity=5: expected at least the 12 steps of an episode"):
        Recollection(capacity=5).write(State({"s": numbered()}, 2))
    with pytest.raises(ShapeError, match="expected steps of episodes"):
        memory.write(State({"s": numbered()}, 2), costs()[:, 1:])
    with pytest.raises(ShapeError, match="expected steps of episodes"):
        memory.write(State({"s": torch.zeros(3, 2)}))
    with pytest.raises(ShapeError, match="expected s, cost as before, got s$"):
        memory.write(State({"s": numbered()}, 2))
    bare = Recollection()
    bare.write(State({"s": numbered()}, 2))
    with pytest.raises(ConfigError, match="no costs have been written"):
        bare.returns(3, discount=1.0)
    with pytest.raises(ConfigError, match="ahead ≥ 1"):
        Hindsight(Distance("s"), "s", ahead=0.5)
    with pytest.raises(ConfigError, match="steps ≥ 1 and lam"):
        memory.transitions(3, discount=1.0, steps=0)
    with pytest.raises(ConfigError, match="whole steps ≥ 1 and lam"):
        memory.transitions(3, discount=1.0, steps=1.5)
    for wrong in (-1, -2, 1.5):
        with pytest.raises(ConfigError, match="expected delta ≥ 0"):
            memory.pairs(3, wrong)
    for draw in (memory.returns, memory.transitions):
        with pytest.raises(ConfigError, match="a discount from 0 to 1, got 1.5"):
            draw(3, discount=1.5)


def test_a_variable_of_the_states_is_not_lost_behind_what_a_batch_holds_besides() -> None:
    with pytest.raises(ConfigError, match="a variable 'cost'.*\n.*only"):
        Recollection().write(State({"s": numbered(), "cost": numbered()}, 2), costs())
    other = Recollection()
    other.write(State({"y": numbered(), "d": numbered()}, 2), costs())
    for draw, name in ((lambda: other.pairs(3, 1), "y"), (lambda: other.returns(3, discount=1.0), "y"),
                       (lambda: other.transitions(3, discount=1.0), "d")):  # fmt: skip
        with pytest.raises(ConfigError, match=f"a variable {name!r}"):
            draw()
    named = Recollection()
    named.write(State({"s": numbered(), "goal": numbered()}, 2))
    with pytest.raises(ConfigError, match="a variable 'goal'"):
        named.returns(3, discount=1.0, goals=Hindsight(Distance("s"), "s"))


def test_a_cost_that_is_no_number_is_refused_and_leaves_nothing_behind(memory: Recollection) -> None:
    before, wrong = len(memory), costs().clone()
    wrong[1, 2] = torch.nan
    with pytest.raises(NonFiniteError, match="the cost of step 2 of episode 1 is nan"):
        memory.write(State({"s": numbered()}, 2), wrong)
    with pytest.raises(NonFiniteError, match="the states hold NaN or infinity in s: expected finite"):
        memory.write(State({"s": torch.where(wrong.isnan(), wrong, numbered()[..., 0])[..., None]}, 2), costs())
    assert len(memory) == before
    for ahead in (float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="a finite ahead ≥ 1"):
            Hindsight(Distance("s"), "s", ahead=ahead)
