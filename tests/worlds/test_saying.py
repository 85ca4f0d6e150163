"""Perplexity of one imagined step, and going on with a sentence."""

import math

import numpy as np
import pytest
import torch

from worldformula.errors import ConfigError, ShapeError
from worldformula.metrics.perplexity import perplexity
from worldformula.training import settings
from worldformula.training.fit import fit
from worldformula.world import saying
from worldformula.worlds import rssm

V, T = 4, 9
WIDTHS = ["sizes.deter=32", "sizes.hidden=32", "sizes.classes=4", "sizes.groups=2", "sizes.units=32", "free_nats=0"]
SIZES = settings.override(rssm.tiny(), [*WIDTHS, "weights=reward=0,continue=0"])
CHAIN = np.array([[0.0, 0.5, 0.5, 0.0], [0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 0.0, 0.5], [0.5, 0.5, 0.0, 0.0]])


def batch_of(words):
    n, t = words.shape
    return {
        "x": torch.nn.functional.one_hot(words, V).float(), "a": torch.zeros(n, t, 1), "r": torch.zeros(n, t),
        "c": torch.ones(n, t), "first": torch.arange(t).expand(n, t) == 0,
    }  # fmt: skip


def world():
    torch.manual_seed(0)
    return rssm.build(SIZES, {"token": (V,)}, 1, {"token": (V,)})


def learnt(rows, steps):
    made = world()
    fit(made.loss, {k: v.float() for k, v in batch_of(rows).items()}, batch=16, steps=steps, lr=3e-3, clip=1.0, seed=0)
    return made


def test_perplexity_by_hand():
    """Two words of probability 1/2 and 1/8: exp(−(ln 1/2 + ln 1/8)/2) = √16 = 4."""
    assert perplexity([[0.5, 0.5], [0.125, 0.875]], [0, 0]) == pytest.approx(4.0)
    assert perplexity([[0.5, 0.5], [0.125, 0.875]], [0, 0], [True, False]) == pytest.approx(2.0)
    with pytest.raises(ShapeError, match="some of them counted"):
        perplexity([[0.5, 0.5]], [0], [False])


def test_the_perplexity_is_of_one_imagined_step_from_every_state():
    """By NumPy from dreams of one step at a time, of the same numbers of samples: the words behind the first one."""
    made = world()
    words = torch.randint(V, (3, 5), generator=torch.Generator().manual_seed(0))
    given = batch_of(words)
    likely = saying.expected(made, given, "x", samples=400, seed=3).numpy()
    states = made.filter(given, seed=3)
    for t in range(4):
        start = states.at(t).only(made.carried)
        dreams = [made.imagine(start, actions=torch.zeros(3, 1, 1), seed=1000 + s).at(1) for s in range(400)]
        said = np.mean([made.decode(d.only(made.carried), ("x",))["x"].detach().numpy() for d in dreams], 0)
        np.testing.assert_allclose(likely[:, t], said, atol=0.02)
    of = likely[np.arange(3)[:, None], np.arange(4)[None], words[:, 1:].numpy()]
    assert saying.perplexity(made, given, "x", words, samples=400, seed=3) == pytest.approx(
        math.exp(-np.log(of).mean())
    )


def test_what_is_padded_does_not_count():
    made = world()
    words = torch.randint(V, (1, 5), generator=torch.Generator().manual_seed(2))
    likely = saying.expected(made, batch_of(words), "x", samples=16, seed=0).numpy()[0]
    of = likely[np.arange(2), words[0, 1:3].numpy()]
    valid = torch.tensor([[True, True, True, False, False]])
    found = saying.perplexity(made, batch_of(words), "x", words, valid=valid, samples=16, seed=0)
    assert found == pytest.approx(math.exp(-np.log(of).mean()))


@pytest.mark.slow
def test_on_a_chain_of_known_entropy_it_comes_near_to_that_and_not_below():
    """Each word is followed by one of two, equally probable: a perplexity of 2 is the least, a unigram has 4."""
    rng, rows = np.random.default_rng(0), []
    for _ in range(256):
        row = [int(rng.integers(V))]
        while len(row) < T:
            row.append(int(rng.choice(V, p=CHAIN[row[-1]])))
        rows.append(row)
    words = torch.tensor(rows)
    made = learnt(words[:192], 800)
    found = saying.perplexity(made, batch_of(words[192:]), "x", words[192:], samples=64)
    assert 1.95 < found < 2.4


@pytest.mark.slow
def test_a_sentence_that_was_memorised_comes_back_and_a_seed_says_it_again():
    sentence = torch.tensor([0, 1, 2, 3, 3, 1, 0, 2, 1])
    made = learnt(sentence.expand(32, T), 400)
    start = made.filter(batch_of(sentence[None, :3]), seed=0).last()
    actions = torch.zeros(1, T - 3, 1)
    go = lambda **how: saying.going_on(made, start, "x", steps=T - 3, actions=actions, **how)[1]  # noqa: E731
    assert go(temperature=0.0).tolist() == [sentence[3:].tolist()]
    assert torch.equal(go(seed=5), go(seed=5))
    many = torch.cat([go(temperature=20.0, seed=s) for s in range(20)])
    assert len({tuple(row.tolist()) for row in many}) > 10  # hot: nearly any word


def test_impossible_ways_of_going_on_are_refused():
    made = world()
    start = made.initial(1)
    for how in ({"temperature": -1.0, "steps": 2}, {"steps": 0}):
        with pytest.raises(ConfigError, match="temperature of at least 0 and steps of at least 1"):
            saying.going_on(made, start, "x", actions=torch.zeros(1, 2, 1), **how)
    with pytest.raises(ConfigError, match="a column of words among token"):
        saying.head_of(made, {"token": (V,)}, "view")
