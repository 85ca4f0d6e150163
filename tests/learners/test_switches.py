"""What DreamerV3's learner can do otherwise: slow targets, normalised values and advantages, a discount of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.learners.test_actor_critic import BINS, WIDTH, A, D, G, K, N, S, bins, policy_of
from worldformula.errors import ConfigError, FormulaError
from worldformula.formula.code.out import Out
from worldformula.learners.imagination import BehaviourSettings, ImaginationActorCritic
from worldformula.learners.imagination.normalise import MeanNorm
from worldformula.nets.actor import ContinuousActor
from worldformula.nets.mlp import MLP

GRID = bins().numpy()


class Case:
    """A learner in float64 whose critics are not zero, and one rollout."""

    def __init__(self, **settings: Any) -> None:
        torch.manual_seed(0)
        critic = MLP(WIDTH, BINS, units=8, layers=1)
        self.net = ContinuousActor(WIDTH, A, 8, outscale=1.0).double()
        self.own = BehaviourSettings(return_rate=1.0, **settings)
        self.learner = ImaginationActorCritic(policy_of(self.net, False), critic, self.own).double()
        for p in self.learner.slow_critic.parameters():
            nn.init.normal_(p, std=0.4)
        self.states = {"h": torch.randn(N, S, D).double(), "z": torch.randn(N, S, G, K).double()}
        self.actions, self.reward = torch.randn(N, S, A).double(), torch.randn(N, S).double()
        self.cont = torch.rand(N, S).double()

    def dream(self) -> Out:
        return self.learner.dream(**self.learner.dreamed(self.states, self.actions, self.reward, self.cont))

    def replay(self) -> Out:
        last = torch.zeros(N, S, dtype=torch.bool)
        return self.learner.replay(**self.learner.replayed(self.states, self.reward, last, last, self.cont))

    def logits(self, net: nn.Module) -> np.ndarray:
        with torch.no_grad():
            found: Tensor = net(self.states["h"].flatten(0, 1), self.states["z"].flatten(0, 1))
        return found.unflatten(0, (N, S)).numpy()

    def likely(self) -> np.ndarray:
        with torch.no_grad():
            head = self.net(self.states["h"].flatten(0, 1), self.states["z"].flatten(0, 1))
        found = torch.distributions.Normal(head["loc"], head["scale"])
        entropy, scored = found.entropy(), found.log_prob(self.actions.flatten(0, 1))
        return np.stack([x.sum(-1).unflatten(0, (N, S)).numpy() for x in (scored, entropy)])


def mean(logits: np.ndarray) -> np.ndarray:
    probs = np.exp(logits - logits.max(-1, keepdims=True))
    return (probs / probs.sum(-1, keepdims=True)) @ GRID


def scored(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    """log v(target) by the two neighbouring bins."""
    logs = logits - logits.max(-1, keepdims=True)
    logs = logs - np.log(np.exp(logs).sum(-1, keepdims=True))
    k = np.searchsorted(GRID, target, side="right") - 1
    upper = (target - GRID[k]) / (GRID[k + 1] - GRID[k])
    take = lambda i: np.take_along_axis(logs, i[..., None], -1)[..., 0]  # noqa: E731
    found: np.ndarray = (1 - upper) * take(k) + upper * take(k + 1)
    return found


def returned(case: Case, values: np.ndarray, discount: float = 1.0) -> np.ndarray:
    r, c = case.reward.numpy(), discount * case.cont.numpy()
    found = values.copy()
    for t in reversed(range(S - 1)):
        found[:, t] = r[:, t + 1] + c[:, t + 1] * (0.05 * values[:, t + 1] + 0.95 * found[:, t + 1])
    return found


def by_hand(case: Case, advantage: np.ndarray, weight: np.ndarray) -> float:
    likely, entropy = case.likely()
    return float(-(weight * (advantage * likely + 3e-4 * entropy))[:, :-1].mean())


def spread(returns: np.ndarray) -> float:
    low, high = np.quantile(returns[:, :-1].astype(np.float32), [0.05, 0.95])
    return max(1.0, float(high - low))


def test_targets_may_be_the_slow_critics() -> None:
    case = Case(slow_target=True)
    out, slow = case.dream(), mean(case.logits(case.learner.slow_critic))
    returns, weight = returned(case, slow), case.cont.numpy().cumprod(1)
    np.testing.assert_allclose(out.samples["R"], returns, rtol=1e-6)
    wanted = by_hand(case, (returns - slow) / spread(returns), weight)
    assert out.value["actor"].item() == pytest.approx(wanted, rel=1e-5)
    logits = case.logits(case.learner.critic)
    critic = -(weight * (scored(logits, returns) + scored(logits, slow)))[:, :-1].mean()
    assert out.value["critic"].item() == pytest.approx(critic, rel=1e-6)
    assert "U_{1:T}" in case.learner.dream.latex


def test_advantages_may_have_mean_0_and_deviation_1() -> None:
    """Two dreams, averages that start at nothing and are debiased."""
    case = Case(advantage_rate=0.25)
    values, weight = mean(case.logits(case.learner.critic)), case.cont.numpy().cumprod(1)
    first = second = total = 0.0
    for scale in (1.0, 3.0):
        case.reward = case.reward * scale
        returns = returned(case, values)
        advantage = (returns - values) / spread(returns)
        first += 0.25 * (advantage[:, :-1].mean() - first)
        second += 0.25 * ((advantage[:, :-1] ** 2).mean() - second)
        total += 0.25 * (1 - total)
        deviation = np.sqrt(second / total - (first / total) ** 2)
        got = case.dream().value["actor"].item()
        assert got == pytest.approx(by_hand(case, (advantage - first / total) / deviation, weight), rel=1e-4)
    case.learner.eval()
    assert case.dream().value["actor"].item() == pytest.approx(got, rel=1e-6)
    assert "advantage_norm.mean" in case.learner.state_dict()


def test_a_critic_may_predict_returns_in_another_unit() -> None:
    """It learns (R − μ) / σ, its slow copy pulls in that unit, and what is read of it are returns again."""
    case = Case(value_rate=0.5)
    logits, slow = case.logits(case.learner.critic), mean(case.logits(case.learner.slow_critic))
    weight = case.cont.numpy().cumprod(1)
    offset, scale = 0.0, 1.0  # nothing is known before the first update
    first = second = total = 0.0
    for _ in range(2):
        returns = returned(case, mean(logits) * scale + offset)
        out = case.dream()
        np.testing.assert_allclose(out.samples["R"], returns, rtol=1e-6)
        first += 0.5 * (returns[:, :-1].mean() - first)
        second += 0.5 * ((returns[:, :-1] ** 2).mean() - second)
        total += 0.5 * (1 - total)
        offset, scale = first / total, np.sqrt(second / total - (first / total) ** 2)
        wanted = -(weight * (scored(logits, (returns - offset) / scale) + scored(logits, slow)))[:, :-1].mean()
        assert out.value["critic"].item() == pytest.approx(wanted, rel=1e-5)
    h, z = (case.states[k][0] for k in "hz")
    np.testing.assert_allclose(case.learner.value(h, z).detach(), mean(logits[0]) * scale + offset, rtol=1e-6)
    seen = case.replay()
    first += 0.5 * (seen.samples["R"][:, :-1].mean().item() - first)
    second += 0.5 * ((seen.samples["R"][:, :-1] ** 2).mean().item() - second)
    total += 0.5 * (1 - total)
    offset, scale = first / total, np.sqrt(second / total - (first / total) ** 2)
    target = (seen.samples["R"].numpy() - offset) / scale
    assert seen.value.item() == pytest.approx(-(scored(logits, target) + scored(logits, slow))[:, :-1].mean(), rel=1e-5)


def test_the_discount_may_be_the_learners() -> None:
    case = Case(discount_learnt=False, horizon=4.0)
    assert case.learner.discount == 1.0
    values = mean(case.logits(case.learner.critic))
    returns, weight = returned(case, values, 0.75), (0.75 * case.cont.numpy()).cumprod(1) / 0.75
    out = case.dream()
    np.testing.assert_allclose(out.samples["R"], returns, rtol=1e-6)
    wanted = by_hand(case, (returns - values) / spread(returns), weight)
    assert out.value["actor"].item() == pytest.approx(wanted, rel=1e-5)


def test_switched_off_nothing_is_added() -> None:
    learner = Case().learner
    assert (learner.advantage_norm, learner.value_norm) == (None, None)
    assert not any("norm.first" in k for k in learner.state_dict())
    assert "y_{t}" not in learner.dream.latex
    assert "U_{1:T}" not in learner.dream.latex


def test_impossible_rates_and_taken_names_are_refused() -> None:
    for name in ("advantage_rate", "value_rate"):
        with pytest.raises(ConfigError, match="advantage_rate and value_rate"):
            BehaviourSettings(**{name: 1.5})
    policy = policy_of(ContinuousActor(3, A, 4), False).rename(h="y", z="k")
    ImaginationActorCritic(policy, MLP(3, BINS, 4, 1))
    with pytest.raises(FormulaError, match="something of their own 'y'"):
        ImaginationActorCritic(policy, MLP(3, BINS, 4, 1), BehaviourSettings(value_rate=0.1))


@pytest.mark.parametrize(("middle", "spread"), [(300.0, 0.1), (100.0, 0.01), (-1000.0, 1.0), (0.0, 2.0)])
def test_a_small_spread_far_from_zero_is_kept(middle: float, spread: float) -> None:
    """In single precision; the batches are the same one, so that the averages are its own."""
    norm, rng = MeanNorm(), np.random.default_rng(0)
    batch = torch.from_numpy(rng.normal(size=512)).mul(spread).add(middle).float()
    for _ in range(500):
        norm.update(batch)
    exact = batch.double()
    right = (exact - exact.mean()) / exact.std(unbiased=False)
    torch.testing.assert_close(norm(batch).double(), right, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(norm.back(norm(batch)), batch)
