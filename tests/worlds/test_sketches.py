"""Five kinds of worlds, each at most 40 lines, under all laws; and what each of them is for."""

import importlib
import inspect

import pytest
import torch

from tests.worlds.sketches import c_rssm, jepa, slots, tokens, transformer
from tests.worlds.sketches.parts import A, B, D, T
from worldformula.agent.cost import Cost
from worldformula.errors import FormulaError
from worldformula.planner import ActionSet, Task
from worldformula.planners.cem import CEM
from worldformula.testing import check_world
from worldformula.training.slow import move_slow

NAMES = ("c_rssm", "transformer", "jepa", "slots", "tokens")


@pytest.mark.parametrize("name", NAMES)
def test_the_laws(name):
    sketch = importlib.import_module(f"tests.worlds.sketches.{name}")
    torch.manual_seed(0)
    check_world(sketch.build(), sketch.batch())


@pytest.mark.parametrize("name", NAMES)
def test_a_world_is_written_in_at_most_40_lines(name):
    sketch = importlib.import_module(f"tests.worlds.sketches.{name}")
    assert len(inspect.getsource(sketch.build).splitlines()) <= 40


def test_a_context_that_stays_shut_leaves_the_coarse_level_where_it_was():
    world = c_rssm.build()
    states = world.filter(c_rssm.batch(), seed=0)
    gate = next(f for f in world.posterior.factors if f.variable.key == "g")
    with torch.no_grad():
        gate.net.raw.layers[-1].bias.fill_(-20.0)
    actions = torch.randn(B, 4, A)
    coarse = world.levels["coarse"].imagine(states.last(), actions=actions, seed=0)
    fine = world.levels["fine"].imagine(states.last(), actions=actions, seed=0)
    still = states["c"][:, -1:].expand(B, 5, c_rssm.C)
    torch.testing.assert_close(coarse["c"], still)
    torch.testing.assert_close(fine["c"], still)
    assert "h" not in coarse
    assert (fine["h"][:, 1:] - fine["h"][:, :-1]).abs().max() > 0
    assert set(world.levels["coarse"].decode(coarse)) == {"image_coarse"}
    assert Cost(world.levels["fine"])(fine).shape == (B, 5)
    with pytest.raises(FormulaError, match="no head of this PriorDynamics has the role 'reward'"):
        Cost(world.levels["coarse"])(coarse)


def test_a_dream_of_the_transformer_is_its_network_on_the_whole_past():
    world, data = transformer.build(), transformer.batch()
    data["first"][:, 1:] = False
    states = world.filter(data, deterministic=True)
    actions = torch.randn(B, 3, A)
    dream = world.imagine(states.last(), actions=actions, deterministic=True)
    z = torch.cat((torch.zeros(B, 1, 2, 3), states["z"], dream["z"][:, 1:-1]), 1)  # position t sees z_{t-1} and a_{t-1}
    a = torch.cat((torch.zeros(B, 1, A), data["a"][:, :-1], actions), 1)
    whole = world.prior.factors[0].net(z, a)
    torch.testing.assert_close(dream["h"][:, 1:], whole[:, -3:], rtol=1e-4, atol=1e-5)


def test_a_jepa_has_no_reward_and_is_planned_to_a_goal():
    """A hand-made predictor that adds the action: the plan reaches the code of the goal."""
    world = jepa.build()
    assert world.heads == world.roles == {}
    predict = world.prior.factors[0]
    predict.net.layers = torch.nn.Linear(D + A, D, bias=False)
    with torch.no_grad():
        predict.net.layers.weight.copy_(torch.cat((torch.eye(D), 0.3 * torch.eye(D)[:, :A]), 1))
    start = world.filter(jepa.batch(), deterministic=True).last()
    goal = start["s"] + torch.cat((torch.full((B, A), 0.6), torch.zeros(B, D - A)), -1)

    def distance(states):
        return (states["s"] - goal.repeat_interleave(len(states["s"]) // B, 0)[:, None]).square().sum(-1)

    task = Cost(world, {"goal": distance}).task()
    plan = CEM(horizon=4, candidates=200, elites=20, iterations=8).plan(world, task, start, space={"a": ActionSet(A)})
    assert (plan.states.last()["s"] - goal).abs().max() < 0.1
    with pytest.raises(FormulaError, match="has the role 'reward'"):
        Cost(world)(start)


def test_the_target_of_a_jepa_follows_slowly_and_has_no_gradient():
    world, data = jepa.build(), jepa.batch()
    encoder = world.posterior.factors[0].net
    before = [p.detach().clone() for p in encoder.parameters()]
    trained = [p for p in world.loss.parameters() if p.requires_grad]
    world.loss(**data).value.backward()
    assert all(p.grad is not None for p in trained)
    with torch.no_grad():
        for p in trained:
            p -= 0.1 * p.grad
    slow = [p for p in world.loss.parameters() if not p.requires_grad]
    move_slow(world.loss)
    for old, new, follower in zip(before, encoder.parameters(), slow, strict=True):
        torch.testing.assert_close(follower, 0.99 * old + 0.01 * new)


def test_slots_begin_as_draws_and_equal_slots_stay_equal():
    world = slots.build()
    one, two = world.initial(B, seed=0)["s"], world.initial(B, seed=1)["s"]
    assert one.shape == (B, slots.K, D)
    assert not torch.equal(one, two)
    start = {"s": one[:, [2, 0, 1]]}
    dream, turned = (world.imagine(s, horizon=2, deterministic=True)["s"] for s in ({"s": one}, start))
    torch.testing.assert_close(dream[:, :, [2, 0, 1]], turned)
    torch.testing.assert_close(world.decode({"s": dream})["x"], world.decode({"s": turned})["x"])


def test_words_are_predicted_as_probabilities_and_both_actions_are_packed():
    world, data = tokens.build(), tokens.batch()
    assert world.actions == ("m", "u")
    states = world.filter(data, seed=0)
    words = world.decode(states)["word"]
    assert words.shape == (B, T, tokens.WORDS)
    torch.testing.assert_close(words.sum(-1), torch.ones(B, T))
    space = {"m": ActionSet(A), "u": ActionSet(tokens.SAID, "choice")}
    task = Task(lambda s, _: -world.decode(s, ["word"])["word"][..., 2])
    plan = CEM(horizon=3, candidates=30, elites=5, iterations=2).plan(world, task, states.last(), space=space)
    dream = world.imagine(states.last(), actions=plan.actions, deterministic=True)
    by_hand = -world.decode(dream.span(1))["word"][..., 2].sum(1)
    torch.testing.assert_close(plan.cost, by_hand, rtol=1e-4, atol=1e-5)
