"""Latent Dirichlet allocation beside its words counted one by one, and topics that are known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import digamma

from worldformula import Deterministic, E, Normal, Value, log, total
from worldformula.data import DataSet
from worldformula.errors import ShapeError, SupportError
from worldformula.formula.graph.graph import graph
from worldformula.model.sizes import inferred
from worldformula.models.lda import SYSTEM, Ascent, Sizes, build, tiny
from worldformula.testing import check_model
from worldformula.training.fit import fit

SMALL = Sizes(features=4, topics=2, documents=50, alpha=0.7, eta=0.5, steps=60)
TOPICS = np.array([[0.6, 0.2, 0.1, 0.1], [0.1, 0.1, 0.3, 0.5]])


def small():
    torch.manual_seed(0)
    return build(SMALL)


def test_the_loss_is_the_bound_written_by_hand():
    """With the draws of the call: SciPy's densities, words one by one, all documents from a batch of three."""
    model = small()
    c = torch.tensor([[3.0, 0.0, 1.0, 2.0], [0.0, 1.0, 4.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    out = model.loss(c=c, seed=1)
    beta, theta = (out.samples[name].detach().double().numpy() for name in ("beta", "theta"))
    assert beta.shape == (2, 4)
    assert theta.shape == (3, 2)
    counts = model.learnt.net()["concentration"].detach().double().numpy()
    gammas = model.encoder.net(c, torch.tensor(beta).float().expand(3, 2, 4))["concentration"].double().numpy()
    cost = sum(kl(counts[t], np.full(4, 0.5)) for t in range(2))
    total = 0.0
    for d in range(3):
        words = [v for v in range(4) for _ in range(int(c[d, v]))]
        total += sum(math.log(sum(theta[d, t] * beta[t, v] for t in range(2))) for v in words)
        total -= kl(gammas[d], np.full(2, 0.7))
    assert out.value.item() == pytest.approx((cost - 50 / 3 * total) / 50, rel=1e-4)


def kl(q, p):
    """KL between two Dirichlets: the difference of expected log-densities."""
    mean = digamma(q) - digamma(q.sum())
    norm = [math.lgamma(a.sum()) - sum(math.lgamma(x) for x in a) for a in (q, p)]
    return norm[0] - norm[1] + ((q - p) * mean).sum()


def test_the_ascent_ends_at_the_best_dirichlet():
    """The bound with a topic for each word, which its ends maximise, falls in every direction."""
    c, alpha = np.array([3.0, 1.0, 0.0, 4.0]), 0.7
    net = Ascent(alpha, 500)
    gamma = net(torch.tensor(c)[None], torch.tensor(TOPICS)[None])["concentration"][0].numpy()
    assert gamma.sum() == pytest.approx(2 * alpha + c.sum())

    def bound(gamma):
        mean = digamma(gamma) - digamma(gamma.sum())
        return (c * np.log(np.exp(mean) @ TOPICS)).sum() - kl(gamma, np.full(2, alpha))

    best = bound(gamma)
    for way in itertools.product((-0.05, 0.05), repeat=2):
        assert bound(gamma + way) < best


def test_the_evidence_of_a_document_is_above_its_bound():
    """log p(c|β) by quadrature over the share of two topics."""
    model, c = small(), np.array([3.0, 1.0, 0.0, 4.0])
    nodes = (np.arange(200_000) + 0.5) / 200_000
    mix = nodes[:, None] * TOPICS[0] + (1 - nodes)[:, None] * TOPICS[1]
    truth = math.log(np.mean(stats.beta.pdf(nodes, 0.7, 0.7) * np.exp(np.log(mix) @ c)))
    rows = torch.tensor(np.tile(c, (4000, 1))).float()
    beta = torch.tensor(TOPICS).float()
    theta = model.encoder.sample(c=rows, beta=beta.expand(4000, 2, 4), seed=0)
    cost = kl(model.encoder.net(rows[:1], beta[None])["concentration"][0].double().numpy(), np.full(2, 0.7))
    found = ((theta @ beta).log() * rows).sum(-1).double().mean().item() - cost
    assert truth - 0.3 < found < truth


def test_known_topics_are_found():
    topics = np.array([[0.45, 0.45, 0.04, 0.03, 0.03], [0.03, 0.03, 0.04, 0.45, 0.45]])
    rng = np.random.default_rng(0)
    theta = rng.dirichlet(np.full(2, 0.3), 300)
    c = torch.tensor(np.stack([rng.multinomial(30, p) for p in theta @ topics])).float()
    torch.manual_seed(0)
    model = build(Sizes(features=5, topics=2, documents=300, alpha=0.3, eta=0.5, steps=15))
    fit(model.loss, {"c": c}, steps=150, batch=100, lr=0.1, schedule="cosine", seed=0)
    away = [np.abs(model.words.numpy() - topics[list(order)]).sum(-1).max() / 2 for order in ((0, 1), (1, 0))]
    assert min(away) < 0.08
    shares = model.in_documents(c).numpy()[:, (0, 1) if away[0] < away[1] else (1, 0)]
    assert np.abs(shares - theta).mean() < 0.12


def test_what_it_offers():
    model = small()
    c = torch.tensor([[3.0, 0.0, 1.0, 2.0], [0.0, 1.0, 4.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    check_model(model, {"c": c})
    drawn = model.generate(5, seed=0, length=9)
    assert drawn["c"].sum(-1).tolist() == [9.0] * 5
    assert torch.allclose(model.generate(5, seed=0, length=9, mean=True)["c"].sum(-1), torch.full((5,), 9.0))
    assert torch.allclose(model.words.sum(-1), torch.ones(2))
    by_hand = (c * (model.in_documents(c) @ model.words).log()).sum(-1)
    assert torch.equal(model.log_words(c, c), by_hand)
    assert model.log_words(torch.zeros(1, 4), c[:1]).isfinite().all()


def test_topics_begin_as_documents():
    model = small()
    c = torch.tensor([[3.0, 0.0, 1.0, 2.0], [0.0, 1.0, 4.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    model.begin({"c": c})
    counts = model.learnt.net()["concentration"].detach()
    rows = {tuple(row.tolist()) for row in (counts - 1).round()}
    assert len(rows) == 2
    assert rows < {tuple(row.tolist()) for row in c}
    with pytest.raises(ShapeError, match="at least 2 documents of 4 words"):
        model.begin({"c": c[:1]})


def test_what_are_no_counts():
    model = small()
    assert model.given({"x": torch.tensor([[1, 2], [0, 3]])})["c"].dtype == torch.float32
    with pytest.raises(SupportError, match="counts of words"):
        model.given({"x": torch.tensor([[1.0, -2.0]])})
    with pytest.raises(SupportError, match="whole numbers .* got 0.00392157 .* bytes are read as pictures"):
        model.given({"x": torch.tensor([[0, 1]]) / 255})
    with pytest.raises(ShapeError, match="does not suit this model|does not have the shapes"):
        model.rows({"x": np.array([[1.0, -2.0, 0.0, 0.0]] * 3)})


def test_counts_of_ones_own_may_have_the_name_that_the_formula_has():
    counts = {"c": np.ones((8, 12), dtype=np.int64)}
    assert inferred(tiny(), DataSet("own", counts, counts, (12,), "")) == ["sizes.features=12", "sizes.documents=8"]


def test_its_presets():
    assert SYSTEM.sizes("paper").topics == 100
    assert tiny().documents == 1437
    assert "q(theta|c,beta)" in repr(build(tiny()).loss)


def test_the_picture_shows_that_counts_depend_on_the_words_of_a_document():
    """No factor says it: the formula scores counts by their probabilities, whichever of both stands first."""
    found = graph(small().loss)
    arrows = {(e.source.key, e.target.key): e.kind for e in found.edges}
    assert arrows["rho", "c"] == "generative"
    assert {arrows["theta", "rho"], arrows["beta", "rho"]} == {"generative"}
    assert {arrows["c", "theta"], arrows["beta", "theta"]} == {"inference"}
    p = Deterministic("r = f(z)", torch.softmax, shape=3)
    for body in (Value("n", shape=3) * log(Value("r")), log(Value("r")) * Value("n", shape=3)):
        drawn = graph(E(Normal("p(z)", shape=3) * p, total(body)).mean())
        assert [(e.source.key, e.target.key) for e in drawn.edges] == [("z", "r"), ("r", "n")]
        assert {v.variable.key: v.kind for v in drawn.vertices} == {
            "r": "deterministic", "z": "latent", "n": "observed",
        }  # fmt: skip
    weights = graph(E(Normal("p(z)", shape=3) * p, Value("n") * total(log(Value("r")))).mean())
    assert [(e.source.key, e.target.key) for e in weights.edges] == [("z", "r")]
