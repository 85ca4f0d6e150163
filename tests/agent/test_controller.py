"""Linear controllers side by side, and what they earn in dreams that can be followed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from worldformula.agent.acts import Act
from worldformula.agent.controller import Controllers, Dreams, policy, worths
from worldformula.errors import ConfigError, ShapeError
from worldformula.formula import Bernoulli, Deterministic, Mixture, Normal, Symbol
from worldformula.world import PriorDynamics, State

NUMBERS, CHOICE, FLAGS = Act("a", "move", "numbers", 2), Act("a", "turn", "choice", 3), Act("a", "push", "flags", 2)


def test_the_paper_counts_867_weights_for_car_racing_and_1088_for_doom():
    assert Controllers(32 + 256, [Act("a", "action", "numbers", 3)]).numbers == 867
    assert Controllers(64 + 512 + 512, [Act("a", "action", "numbers", 1)], bias=False).numbers == 1088


@pytest.mark.parametrize("bias", [True, False])
def test_rows_belong_to_controllers_in_equal_parts(bias):
    """Each row by hand: W x + b of its own controller; tanh, the largest, and what is positive."""
    made = Controllers(4, [NUMBERS, CHOICE, FLAGS], bias=bias)
    made.weights = torch.randn(3, made.numbers, generator=torch.Generator().manual_seed(0))
    z, h = torch.randn(6, 1), torch.randn(6, 3)
    found = made(z, h)
    for row in range(6):
        w = made.weights[row // 2].reshape(7, 4 + bias)
        y = w[:, :4] @ torch.cat((z[row], h[row])) + (w[:, 4] if bias else 0.0)
        torch.testing.assert_close(found[row, :2], y[:2].tanh())
        assert found[row, 2:5].argmax() == y[2:5].argmax()
        assert found[row, 2:5].sum() == 1
        assert (found[row, 5:] == (y[5:] > 0)).all()
    with pytest.raises(ShapeError, match="3 controllers expect"):
        made(z[:5], h[:5])
    with pytest.raises(ShapeError, match="got \\[6, 3\\]"):
        made(h)


class Step(nn.Module):
    """A walker: s + a; everything is known of it. It remembers z, and does not heed it."""

    def forward(self, s, z, a):
        return s + a + 0 * z


class Below(nn.Module):
    """It lives as long as s < 2.5."""

    def forward(self, s):
        return 20 * (2.5 - s)


def walk(reward=False, lives=True):
    """Dynamics without noise but for z, which moves nothing."""
    heads, roles = {}, {}
    if lives:
        heads["l"], roles["continue"] = Bernoulli("p(l_t|s_t)", Below(), shape=()), "l"
    if reward:
        heads["r"], roles["reward"] = Normal("p(r_t|s_t)", nn.Identity(), shape=(), scale=1.0), "r"
    step = Deterministic("s_t = f(s_{t-1}, z_{t-1}, a_{t-1})", Step(), shape=1)
    net = nn.Linear(1, 6)
    noise = Mixture("p(z_t|s_t)", net, components=2, shape=1, factored=True, temperature=Symbol("tau"))
    return PriorDynamics(step * noise, heads, roles=roles)


def constant(candidates):
    """Policies whose action is tanh(b), whatever they see."""
    made = Controllers(2, [Act("a", "action", "numbers", 1)])
    b = torch.atanh(torch.tensor(candidates))
    return policy(made, ("s", "z"), 1), torch.stack((torch.zeros_like(b), torch.zeros_like(b), b), 1)


def test_a_dream_is_worth_a_step_for_each_that_it_lives_and_the_one_that_ends_it():
    """Steps of 0.9 from 0: 0.9, 1.8, 2.7: the third ends it; from 1, 1.9, 2.8: the second. 0.01 never does in 60."""
    acting, candidates = constant([0.9, 0.01, 0.5])
    start = State({"s": torch.tensor([[0.0], [1.0]]), "z": torch.zeros(2, 1)})
    found = worths(walk(), acting, start, candidates, horizon=60, tau=1.0, seed=0)
    # 0.5: from 0 the sixth reaches 3.0 (2.5 itself is at most ½), so 5 steps if 2.5 ends it; from 1 the third.
    assert found.tolist()[:2] == [(3 + 2) / 2, 60.0]
    assert found[2] == pytest.approx((5 + 3) / 2)


def test_a_predicted_reward_is_earned_where_the_step_arrives():
    """Of 0.9: 0.9 + 1.8 + 2.7 from 0, and 1.9 + 2.8 from 1; nothing after the end. Without an end, all of it."""
    acting, candidates = constant([0.9])
    start = State({"s": torch.tensor([[0.0], [1.0]]), "z": torch.zeros(2, 1)})
    ended = worths(walk(reward=True), acting, start, candidates, horizon=60, tau=1.0, seed=0)
    assert ended.item() == pytest.approx((5.4 + 4.7) / 2, rel=1e-5)
    whole = worths(walk(reward=True, lives=False), acting, start, candidates, horizon=30, tau=1.0, seed=0)
    assert whole.item() == pytest.approx(0.9 * 30 * 31 / 2 + 30 / 2, rel=1e-5)


def test_equal_candidates_are_worth_the_same_as_all_dream_with_one_noise():
    """C reads z, which is drawn; only a noise that they share gives equal candidates equal worths."""
    torch.manual_seed(0)
    dream = walk()
    acting, _ = constant([0.1])
    candidates = torch.tensor([[0.0, 5.0, 0.1]]).repeat(3, 1)
    start = State({"s": torch.zeros(4, 1), "z": torch.zeros(4, 1)})
    found = worths(dream, acting, start, candidates, horizon=60, tau=1.0, seed=1)
    assert len(set(found.tolist())) == 1
    others = [worths(dream, acting, start, candidates, horizon=60, tau=1.0, seed=s)[0].item() for s in range(2, 8)]
    assert len({found[0].item(), *others}) > 1
    alone = worths(dream, acting, start, candidates[:1], horizon=60, tau=1.0, seed=1)
    assert alone.item() == found[0].item()


@pytest.mark.parametrize("wrong", [{"population": 3}, {"tau": 0.0}, {"decay": -1.0}, {"horizon": 0}])
def test_dreams_that_cannot_be(wrong):
    with pytest.raises(ConfigError, match="expected"):
        Dreams(**wrong)
