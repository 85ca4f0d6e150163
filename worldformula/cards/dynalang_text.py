"""Measures what a world has learnt of a language from its text alone: words expected one imagined step ahead."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from worldformula.data import DataSet
from worldformula.envs.messenger import entropy, manuals
from worldformula.model.config import ModelConfig, start
from worldformula.model.run import ModelRun, evaluating, loaded, sized
from worldformula.model.texts import spoken
from worldformula.model.through_time import ThroughTime, counts
from worldformula.world import saying

LINES, UPDATES, HELD, READ = 20_000, 800, 500, 256
SETTINGS = ("data.env=messenger", "data.length=32", "data.test=0.05", "fit.batch=32", "fit.lr=2e-3")


def config(path: Path, seed: int, updates: int = UPDATES) -> ModelConfig:
    """Dynalang's `tiny` world on a file of manuals; see the card."""
    found = start("dynalang", "tiny", str(path)).changed([*SETTINGS, f"fit.steps={updates}"])
    return replace(found, seed=seed, checkpoints=1)


def measure(seed: int) -> dict[str, float]:
    """Fits to 20 000 manuals of the training split, and reads others.

    Returns:
        ``ratio``: the perplexity of unseen manuals, in that of their grammar; ``perplexity``; ``bound``: the grammar's,
        exp of its nats a word, the first one, which is always the same, not counted; ``unigram``: of the frequencies of
        words alone, in the grammar's; ``held``: the ratio on manuals with pairs of kind and role that none of those
        read had.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        text, other = folder / "manuals.txt", folder / "held.txt"
        text.write_text("\n".join(manuals(seed, LINES)) + "\n", encoding="utf-8")
        other.write_text("\n".join(manuals(seed, HELD, "test")) + "\n", encoding="utf-8")
        asked = config(text, seed)
        data = loaded(asked)
        run = ModelRun(sized(asked, data), folder / "run", data=data)
        run.run()
        found, bound = surprise(run, run.data), bound_of("train")
        held = surprise(run, spoken(str(other), replace(asked.reading, test=0.9))) / bound_of("test")
    return {
        "ratio": found / bound, "perplexity": found, "bound": bound, "unigram": unigram(data) / bound, "held": held,
    }  # fmt: skip


def surprise(run: ModelRun, data: DataSet) -> float:
    """The perplexity of words in lines to test on, each from its first word on: windows would cut lines, and the
    longest ones, which come first there, have fewer choices a word.
    """
    model = run.model
    assert isinstance(model, ThroughTime)
    lines = np.split(data.test["token"], np.flatnonzero(data.test["is_first"])[1:])[:READ]
    longest = max(map(len, lines))
    words = torch.tensor(np.stack([np.pad(line, (0, longest - len(line))) for line in lines]))
    place = torch.arange(longest).expand_as(words)
    valid = place < torch.tensor([len(line) for line in lines])[:, None]
    none = torch.zeros_like(valid)
    rows = {"token": words, "reward": torch.zeros(words.shape), "is_first": place == 0}
    given = model.given({**rows, "is_last": none, "is_terminal": none})
    head = saying.head_of(model.world, {k: counts(c) for k, c in model.columns.items() if counts(c)}, "token")
    with evaluating(run.fitting):
        return saying.perplexity(model.world, given, head, words, valid=valid, seed=0)


def bound_of(split: str) -> float:
    """What nobody passes in the mean: exp of the nats of a manual, over its words behind the first."""
    nats, words = entropy(split)
    return math.exp(nats / (words - 1))


def unigram(data: DataSet) -> float:
    """The perplexity of the frequencies of words in the rows that are learnt from, on the others."""
    (learnt, first), (unseen, begins) = ((part["token"], part["is_first"]) for part in (data.train, data.test))
    counts = Counter(learnt[~first].tolist())
    total = sum(counts.values()) + len(data.words)
    surprises = [-math.log((counts[int(word)] + 1) / total) for word in unseen[~begins]]
    return float(np.exp(np.mean(surprises)))
