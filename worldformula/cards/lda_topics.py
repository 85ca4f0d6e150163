"""Measures latent Dirichlet allocation on documents of known topics, beside scikit-learn's."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldformula.fitting import fit
from worldformula.models.lda import LDA, SYSTEM, Ascent, Sizes, build

SIDE, TOPICS, ALPHA, ETA = 5, 10, 0.3, 0.1
DOCUMENTS, UNSEEN, LENGTH, KNOWN = 2000, 500, 100, 50
STARTS, PASSES = 6, 50
Array = NDArray[np.float64]


def measure(seed: int) -> dict[str, float]:
    """Find ten topics in 2000 documents, and foretell half of 500 others from their other half; of six starts of each.

    Returns:
        ``ratio``: of the perplexities ``perplexity`` and ``sklearn``; ``unigram``: of words by how often they stand in
        all documents; ``known``: with the true topics; ``away`` and ``sklearn_away``: of the topics from the true ones,
        the mean over topics, ``worst_away`` that of the worst.
    """
    rng = np.random.default_rng(seed)
    topics = bars()
    learnt = written(rng, topics, DOCUMENTS, LENGTH)
    shares = rng.dirichlet(np.full(TOPICS, ALPHA), UNSEEN) @ topics
    seen, hidden = (np.stack([rng.multinomial(KNOWN, p) for p in shares]) for _ in range(2))
    model = found(learnt, seed)
    theirs, their_shares = peer(learnt, seen, seed)
    counts = torch.from_numpy(seen).float()
    said, truth = model.in_documents(counts).numpy(), torch.from_numpy(topics).float()
    ascended = Ascent(ALPHA, 100)(counts, truth.expand(UNSEEN, -1, -1))["concentration"].numpy()
    ours = perplexity(said, model.words.numpy(), hidden)
    peers = perplexity(their_shares, theirs, hidden)
    away = apart(model.words.numpy(), topics)
    often = (learnt.sum(0) + 1.0) / (learnt.sum() + SIDE**2)
    return {
        "ratio": ours / peers,
        "perplexity": ours,
        "sklearn": peers,
        "unigram": perplexity(np.ones((UNSEEN, 1)), often[None], hidden),
        "known": perplexity(ascended / ascended.sum(-1, keepdims=True), topics, hidden),
        "away": float(away.mean()),
        "worst_away": float(away.max()),
        "sklearn_away": float(apart(theirs, topics).mean()),
    }


def bars() -> Array:
    """The rows and the columns of a square of words, ``[10, 25]``."""
    square = np.zeros((TOPICS, SIDE, SIDE))
    for i in range(SIDE):
        square[i, i, :] = square[SIDE + i, :, i] = 1 / SIDE
    return square.reshape(TOPICS, -1)


def written(rng: np.random.Generator, topics: Array, count: int, length: int) -> NDArray[np.int64]:
    """Documents of these topics, ``[count, V]``."""
    shares = rng.dirichlet(np.full(TOPICS, ALPHA), count) @ topics
    return np.stack([rng.multinomial(length, p) for p in shares])


def found(documents: NDArray[np.int64], seed: int) -> LDA:
    """The model of the best of six starts, by its loss on the documents that it is fitted to."""
    given = {"c": torch.from_numpy(documents).float()}
    starts = [fitted(given, seed, start) for start in range(STARTS)]
    return min(starts, key=lambda model: model.loss(**given, seed=seed).value.item())


def fitted(given: dict[str, Tensor], seed: int, start: int) -> LDA:
    """One start: each topic begins as a document."""
    torch.manual_seed(seed)
    model = build(Sizes(SIDE**2, TOPICS, len(given["c"]), ALPHA, ETA, steps=20))
    torch.manual_seed(STARTS * seed + start)  # of the documents that the topics begin as
    fit(model, given, seed=seed, progress=False, **SYSTEM.fits["tiny"])
    return model


def peer(documents: NDArray[np.int64], seen: NDArray[np.int64], seed: int) -> tuple[Array, Array]:
    """scikit-learn's topics, ``[10, 25]``, and the shares that it finds in the seen halves, ``[500, 10]``; of the best
    of as many starts, by its own bound on the documents that it is fitted to.
    """
    from sklearn.decomposition import LatentDirichletAllocation

    how = {"doc_topic_prior": ALPHA, "topic_word_prior": ETA, "learning_method": "batch", "max_iter": PASSES}
    starts = [
        LatentDirichletAllocation(TOPICS, random_state=STARTS * seed + start, **how).fit(documents)
        for start in range(STARTS)
    ]
    best = max(starts, key=lambda peer: peer.score(documents))
    counts: Array = best.components_
    return counts / counts.sum(-1, keepdims=True), best.transform(seen)


def perplexity(shares: Array, topics: Array, words: NDArray[np.int64]) -> float:
    """exp of −log p of a word, the mean of all."""
    chances = np.maximum(shares @ topics, 1e-12)
    return float(np.exp(-(words * np.log(chances)).sum() / words.sum()))


def apart(topics: Array, truth: Array) -> Array:
    """Total variation of each true topic from the one that stands for it, none for two: ``[10]``."""
    from scipy.optimize import linear_sum_assignment

    distance: Array = 0.5 * np.abs(truth[:, None] - topics[None]).sum(-1)
    rows, columns = linear_sum_assignment(distance)
    nearest: Array = distance[rows, columns]
    return nearest
