"""Words and their numbers go round, and an unknown word is told with those that are near."""

import pytest

from worldformula.envs.speech import Speech
from worldformula.errors import ConfigError
from worldformula.vocabulary import PAD, Vocabulary, split

WORDS = Vocabulary.of(["Open the trash bin", "no, turn around"])


def test_words_and_marks_in_the_order_of_the_alphabet_after_the_pad():
    assert WORDS.words == (PAD, ",", "around", "bin", "no", "open", "the", "trash", "turn")
    assert split("What color is it?") == ["what", "color", "is", "it", "?"]
    assert split("a <pad> b") == ["a", "<pad>", "b"]


def test_numbers_and_words_go_round():
    for number, word in enumerate(WORDS.words):
        assert WORDS.numbers(word) == [number]
    assert WORDS.text(WORDS.numbers("no, turn around")) == "no , turn around"
    assert WORDS.text([0, 5, 0, 6, 3]) == "open the bin"
    assert len(WORDS) == 9


def test_unknown_words_and_numbers_are_told():
    with pytest.raises(ConfigError, match=r"no word 'tarsh' among the 9 .* Did you mean 'trash'\? Known are: <pad>, ,"):
        WORDS.numbers("open the tarsh bin")
    with pytest.raises(ConfigError, match="from 0 to 8, got 9"):
        WORDS.text([9])
    with pytest.raises(ConfigError, match="each once"):
        Vocabulary(("a", "a"))
    with pytest.raises(ConfigError, match="got none"):
        Vocabulary(())


def test_speech_says_a_word_at_a_time_and_is_interrupted():
    speech, said, begun = Speech(WORDS), [], []
    speech.say("open the bin")
    for row in range(8):
        if row == 2:
            speech.interrupt("no, turn around")
        said.append(speech.word())
        begun.append(speech.sentence)
    assert WORDS.text(said) == "open the no , turn around"
    assert [text for text in begun if text] == ["open the bin", "no, turn around"]
    assert said[-2:] == [0, 0]
    assert speech.idle
    speech.say("open the bin")
    speech.cut(1)
    assert len(speech) == 1


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Vocabulary.of("open the bin"), r"\['open the bin'\], got one"),
        (lambda: Vocabulary("abc"), "several words"),
        (lambda: Vocabulary((1, 2)), "several words"),
        (lambda: Vocabulary(("a", "b")).text([0.5]), "from 0 to 1, got 0.5"),
        (lambda: Vocabulary(("a", "b")).text([float("nan")]), "from 0 to 1, got nan"),
    ],
)
def test_what_is_no_vocabulary_and_no_word_is_told(made, said):
    with pytest.raises(ConfigError, match=said):
        made()


def test_a_list_of_words_is_a_vocabulary_as_a_tuple_is():
    assert Vocabulary(["a", "b"]) == Vocabulary(("a", "b"))
    assert hash(Vocabulary(["a", "b"])) == hash(Vocabulary(("a", "b")))
