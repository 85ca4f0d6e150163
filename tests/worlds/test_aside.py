"""What only a policy is told: the words of an episode, as its state holds them, and nothing that a world knows."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from worldformula.agents import dynalang
from worldformula.envs import ActionSpec, Column, Envs
from worldformula.errors import ConfigError
from worldformula.nets.sizes import Sizes
from worldformula.testing import check_agent, check_world
from worldformula.world import saying
from worldformula.worlds import rssm

B, T, V = 2, 7, 5
SIZES = Sizes(deter=16, hidden=8, classes=4, groups=3, blocks=1, depth=2, units=8)
CONFIG = replace(rssm.tiny(), sizes=SIZES, aside=("token", "goal"))
SHAPES = {"body": (4,), "goal": (2,), "token": (V,)}
WORDS = np.array([[0, 3, 0, 1, 0, 4, 0], [2, 0, 0, 2, 3, 0, 1]])
FIRST = np.array([[1, 0, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0, 0]], bool)


def world():
    torch.manual_seed(0)
    return rssm.build(CONFIG, SHAPES, 3, {"token": (V,)})


def batch(words=WORDS, seed=1):
    g = torch.Generator().manual_seed(seed)
    goal = torch.arange(B * T * 2).reshape(B, T, 2).float()
    acted = torch.nn.functional.one_hot(torch.randint(3, (B, T), generator=g), 3).float()
    return {
        "body": torch.randn(B, T, 4, generator=g), "goal": goal, "token": torch.eye(V)[torch.as_tensor(words)],
        "a": acted, "r": torch.randn(B, T, generator=g), "c": torch.ones(B, T), "first": torch.as_tensor(FIRST),
    }  # fmt: skip


def test_words_of_an_episode_stay_and_numbers_are_the_last_ones():
    states = world().filter(batch(), seed=0)
    expected = np.zeros((B, T, 2 + V))
    for b in range(B):
        heard: set[int] = set()
        for t in range(T):
            heard = set() if FIRST[b, t] else heard
            heard.add(int(WORDS[b, t]))
            expected[b, t, :2] = [2 * (b * T + t), 2 * (b * T + t) + 1]
            expected[b, t, [2 + word for word in heard]] = 1
    assert np.array_equal(states["n"].numpy(), expected)


def test_a_dream_holds_them_and_the_world_knows_nothing_of_them():
    own = world()
    said, unsaid = batch(), batch(np.zeros_like(WORDS))
    losses = [own.loss(**data, seed=0) for data in (said, unsaid)]
    assert losses[0].value.item() == losses[1].value.item()
    states = [own.filter(data, seed=0) for data in (said, unsaid)]
    assert torch.equal(states[0]["h"], states[1]["h"])
    assert torch.equal(states[0]["z"], states[1]["z"])
    assert not torch.equal(states[0]["n"], states[1]["n"])
    acted = {"a": torch.eye(3)[torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])]}
    dreams = [own.imagine(s.last(), actions=acted, seed=0) for s in states]
    assert torch.equal(dreams[0]["z"], dreams[1]["z"])
    for dream, s in zip(dreams, states, strict=True):
        assert torch.equal(dream["n"], s["n"][:, -1:].expand_as(dream["n"]))
    assert {head.variable.key for head in own.heads.values()} == {"y", "r", "c"}


def test_the_world_keeps_its_laws():
    check_world(world(), batch())


@pytest.mark.parametrize("context", [0, 1])
def test_an_agent_whose_policy_alone_reads_keeps_its_laws(context):
    envs = Envs("home_dynamics", 2, seed=0)
    tiny = dynalang.tiny()
    config = replace(
        tiny, world=replace(tiny.world, sizes=SIZES, aside=("token",)), batch=2, length=6, imag_last=3, imagine=3,
        context=context, prefill=0,
    )  # fmt: skip
    agent = dynalang.build(config, envs.observations, envs.actions)
    assert str(agent.learner.policy) == "π(a_t|h_t,z_t,n_t)"
    check_agent(agent, envs, turns=12)


def test_the_policy_acts_by_what_it_was_told():
    """Weights by hand: the first hidden unit of the policy's first layer reads the word 3 alone."""
    columns = {
        "body": Column("vector", (4,), "float32"), "token": Column("discrete", (), "int64", 0, V - 1, (V,), (0,)),
    }  # fmt: skip
    tiny = dynalang.tiny()
    config = replace(tiny, world=replace(tiny.world, sizes=SIZES, aside=("token",)), layers=1)
    agent = dynalang.build(config, columns, ActionSpec("discrete", 3), 0)
    net = agent.learner.policy.net
    first, head = net.mlp.trunk[0].linear, net.mlp.head
    with torch.no_grad():
        for p in (first.weight, first.bias, head.weight, head.bias):
            p.zero_()
        first.weight[0, -V + 3] = 1.0
        head.weight[2, 0] = 100.0
        head.bias[1] = 1.0
    state, acts = agent.initial(2), []
    for t, words in enumerate(([0, 0], [3, 0], [0, 0])):
        flags = np.zeros(2, bool)
        rows = {
            "body": np.zeros((2, 4), np.float32), "token": np.array(words), "is_first": flags | (t == 0),
            "is_last": flags, "is_terminal": flags, "reward": np.zeros(2, np.float32),
        }  # fmt: skip
        action, state = agent.act(rows, state, explore=False)
        acts.append(np.asarray(action).tolist())
    assert acts == [[1, 1], [2, 1], [2, 1]]


@pytest.mark.parametrize(
    ("aside", "told"),
    [(("tokens",), "Did you mean 'token'"), (("token", "goal", "body"), "an observation for the world"),
     (("image",), "words or numbers that are observed")],
)  # fmt: skip
def test_what_cannot_stand_aside_is_told(aside, told):
    shapes = SHAPES | ({"image": (8, 8, 3)} if "image" in aside else {})
    with pytest.raises(ConfigError, match=told):
        rssm.build(replace(CONFIG, aside=aside), shapes, 3, {"token": (V,)})


def test_nothing_says_a_word_of_it():
    choices = {"token": (V,), "other": (3,)}
    shapes = {"token": (V,), "other": (3,)}
    own = rssm.build(replace(CONFIG, aside=("token",)), shapes, 3, choices)
    assert saying.head_of(own, choices, "other") in own.heads
    with pytest.raises(ConfigError, match="'token' stands aside"):
        saying.head_of(own, choices, "token")
