"""A sentence as one vector, beside the same environment word by word."""

import numpy as np
import pytest

from worldformula.agents import dynalang
from worldformula.envs import Envs
from worldformula.errors import WorldformulaError

WRAP = ("worldformula.envs.whole_sentences:WholeSentences",)


def test_the_vector_counts_the_words_of_the_sentence_while_it_is_said():
    one, other = Envs("home_dynamics", 1, seed=3), Envs("home_dynamics", 1, seed=3, wrap=WRAP)
    words, whole = one.reset(0), other.reset(0)
    said, vectors = [], []
    for _ in range(12):
        said.append(one.vocabulary.words[int(words["token"][0])])
        vectors.append(whole["token"][0])
        np.testing.assert_array_equal(words["view"], whole["view"])
        words, whole = (envs.step(np.array([0])) for envs in (one, other))
    told = said[:6]
    assert told[1:] == ["to", "open", "the", "trash", "bin"]
    names = one.vocabulary.words
    wanted = np.array([told.count(name) for name in names], np.float32)
    for vector in vectors[:6]:
        np.testing.assert_array_equal(vector, wanted)
    assert said[6:10] == ["open", "the", "trash", "bin"]
    assert {names[i] for i in np.flatnonzero(vectors[7])} == {"open", "the", "trash", "bin"}
    assert not vectors[10].any()  # silence


def test_dynalang_reads_it_and_environments_without_words_are_refused():
    envs = Envs("home_dynamics", 1, wrap=WRAP)
    assert envs.observations["token"].kind == "vector"
    agent = dynalang.build(dynalang.tiny(), envs.observations, envs.actions)
    assert "token" in agent.world.observations
    with pytest.raises(WorldformulaError, match="an environment with words in a column 'token'"):
        Envs("pendulum", 1, wrap=WRAP)
