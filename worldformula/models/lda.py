r"""Latent Dirichlet allocation (Blei, Ng & Jordan 2003): topics that all documents share, shares of them in each.

    1/N ( KL[q(β) ‖ p(β)] − E_{q(β)}[ N/B Σ_d ( E_{q(θ|c,β)}[Σ_v c_v log ρ_v] − KL[q(θ|c,β) ‖ p(θ)] ) ] )
    ρ = θ β, the words of a document, whose own topics are summed out                          (§§ 5.3, 5.4)

    c  [B, V] how often each of V words stands in a document          p(θ) = Dirichlet(α)
    θ  [B, T] its shares of T topics                                  p(β) = Dirichlet(η), of each topic
    β  [T, V] what words a topic has: one for all documents           q(β) = Dirichlet(λ), λ learnt

The value is in nats per document, −ELBO of all N of them over N; log n! / Π c_v! of a document is left out, as its
words stand in an order.

Deviations        paper                              here                              why
q(z)              a topic for each word              summed out                        the bound is not lower
q(θ)              coordinate ascent at the mean      the same, at a draw of β          q(θ|c,β) is a factor
                  of log β, until it ends            so many times
q(β)              coordinate ascent                  gradient, batches scaled by N/B   one formula; as Hoffman, Blei &
                                                                                       Bach 2010 for many documents
α, η              fitted                             given                             as in scikit-learn
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldformula import KL, Deterministic, Dirichlet, E, Expression, Factor, Sum, Value, log, total
from worldformula.catalogue import System
from worldformula.errors import ShapeError, SupportError
from worldformula.model import Model

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """features: words V. topics: T. documents: N, of which a call gives a batch. alpha, eta: concentrations of the
    shares of a document and of the words of a topic; below 1 few have most. steps: of coordinate ascent in a document.
    """

    features: int
    topics: int
    documents: int
    alpha: float
    eta: float
    steps: int


def paper() -> Sizes:
    """The news articles of § 7.1: 16,333 documents of 23,075 words, 100 topics."""
    return Sizes(23_075, 100, 16_333, alpha=0.1, eta=0.1, steps=50)


def tiny() -> Sizes:
    """Pictures of 8 × 8 pixels as documents, a pixel as a word, or a small collection; a minute on a laptop."""
    return Sizes(64, 10, 1437, alpha=0.3, eta=0.1, steps=20)


# ---------------------------------------------------------------------------------------------------------- networks


class Counts(nn.Module):
    """λ of every word in every topic: how often it was seen there, and the prior. Learnt as logarithms."""

    def __init__(self, topics: int, words: int) -> None:
        super().__init__()
        self.log_counts = nn.Parameter(0.1 * torch.randn(topics, words))

    def forward(self) -> dict[str, Tensor]:
        """``[T, V]``."""
        return {"concentration": self.log_counts.exp()}


class Ascent(nn.Module):
    """γ of documents whose topics are known: α and, of each word, the share that each topic has in it, again and again.

    The coordinate ascent of the paper, eqs. 6 and 7. It ends where the bound is flat in γ, so no gradient is needed.
    """

    def __init__(self, alpha: float, steps: int) -> None:
        super().__init__()
        self.alpha, self.steps = alpha, steps

    @torch.no_grad()
    def forward(self, c: Tensor, beta: Tensor) -> dict[str, Tensor]:
        """``[B, V]`` and ``[B, T, V]`` to ``[B, T]``."""
        c, beta = c.unsqueeze(-2), beta.clamp(min=1e-30)
        gamma = self.alpha + c.sum(-1) / beta.shape[-2] + beta.new_zeros(beta.shape[:-1])
        for _ in range(self.steps):
            theta = (gamma.digamma() - gamma.sum(-1, keepdim=True).digamma()).exp().unsqueeze(-2)
            gamma = self.alpha + (theta * ((c / (theta @ beta).clamp(min=1e-30)) @ beta.mT)).squeeze(-2)
        return {"concentration": gamma}


def mix(theta: Tensor, beta: Tensor) -> Tensor:
    """The words of documents with these shares, ``[B, T]`` and ``[B, T, V]`` to ``[B, V]``, none of them 0."""
    return (theta.unsqueeze(-2) @ beta).squeeze(-2).clamp(min=1e-30)


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class LDA(Model):
    """The factors and the loss: ``loss(c=[B, V])`` is −ELBO of all documents over their number, in nats."""

    topics: Factor
    learnt: Factor
    shares: Factor
    encoder: Factor
    loss: Expression

    def given(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Counts ``c`` (or ``x``) as numbers, a document in a row.

        Raises:
            SupportError: some are negative or no whole numbers, as the bytes of a file, which are read as pictures.
        """
        c = (rows["c"] if "c" in rows else rows["x"]).flatten(1).float()
        if bool((wrong := (c < 0) | (c != c.round())).any()):
            raise SupportError(
                f"expected counts of words, whole numbers of at least 0, got {c[wrong][0]:g} among them. Save them as "
                f"int64 or floats: bytes are read as pictures, from 0 to 1"
            )
        return {"c": c}

    @torch.no_grad()
    def begin(self, rows: Mapping[str, Tensor]) -> None:
        """Lets each topic begin as one of the documents, and a word more of each, as the authors' code does (lda-c,
        ``seeded``): of topics that begin alike, two can end as one.

        Raises:
            ShapeError: fewer documents than topics, or of other words.
        """
        assert isinstance(self.learnt.net, Counts)
        weight, c = self.learnt.net.log_counts, self.given(rows)["c"]
        if c.ndim != 2 or len(c) < len(weight) or c.shape[1:] != weight.shape[1:]:
            raise ShapeError(
                f"expected at least {len(weight)} documents of {weight.shape[1]} words, got {list(c.shape)}"
            )
        picked = torch.randperm(len(c))[: len(weight)]
        weight.copy_((c[picked.to(c.device)] + 1.0).log())

    @property
    @torch.no_grad()
    def words(self) -> Tensor:
        """The mean of q(β), ``[T, V]``: what words each topic has."""
        assert isinstance(self.learnt.net, Counts)
        counts = self.learnt.net()["concentration"]
        return counts / counts.sum(-1, keepdim=True)

    @torch.no_grad()
    def in_documents(self, c: Tensor) -> Tensor:
        """The mean of q(θ|c), ``[B, T]``: what share of a document each topic has."""
        assert self.encoder.net is not None
        counts: Tensor = self.encoder.net(c, self.words.expand(len(c), -1, -1))["concentration"]
        return counts / counts.sum(-1, keepdim=True)

    @torch.no_grad()
    def log_words(self, c: Tensor, of: Tensor) -> Tensor:
        """log p of words ``of`` ``[B, V]`` of documents of which ``c`` is known, at the means of θ and β: ``[B]``."""
        return (of * (self.in_documents(c) @ self.words).log()).sum(-1)

    @torch.no_grad()
    def generate(  # type: ignore[override]  # the length of a document is no condition
        self, n: int, *, seed: int | None = None, generator: torch.Generator | None = None, mean: bool = False,
        length: int = 100,
    ) -> dict[str, Tensor]:  # fmt: skip
        """``n`` documents of ``length`` words from the mean topics, ``c``, and their shares ``theta``; ``mean``: how
        often each word is expected.
        """
        if seed is not None:
            generator = torch.Generator(self.device).manual_seed(seed)
        theta = self.shares.sample(sample_shape=(n,), generator=generator)
        expected = theta @ self.words
        if mean:
            return {"theta": theta, "c": length * expected}
        drawn = torch.multinomial(expected, length, replacement=True, generator=generator)
        return {"theta": theta, "c": nn.functional.one_hot(drawn, expected.shape[-1]).sum(-2).float()}


def build(sizes: Sizes) -> LDA:
    """Topics with new weights."""
    T, V = sizes.topics, sizes.features
    topics = Dirichlet("p(β)", shape=(T, V), concentration=sizes.eta, shared=True)
    learnt = Dirichlet("q(β)", Counts(T, V), shape=(T, V), shared=True)
    shares = Dirichlet("p(θ)", shape=T, concentration=sizes.alpha)
    encoder = Dirichlet("q(θ|c,β)", Ascent(sizes.alpha, sizes.steps), shape=T)
    words = Deterministic("ρ = mix(θ,β)", mix, shape=V)
    said = E(encoder * words, total(Value("c", shape=V) * log(Value("ρ")))).named("words")
    documents = Sum("d", said - KL(encoder, shares), rows=sizes.documents)
    loss = (KL(learnt, topics) - E(learnt, documents)) / float(sizes.documents)
    return LDA(topics, learnt, shares, encoder, loss)


# ------------------------------------------------------------------------------------------------------------ system

SYSTEM = System(
    name="lda",
    kind="models",
    paper="Blei, Ng & Jordan 2003, JMLR 3",
    bibtex="""@article{blei2003latent,
  title   = {Latent {Dirichlet} Allocation},
  author  = {Blei, David M. and Ng, Andrew Y. and Jordan, Michael I.},
  journal = {Journal of Machine Learning Research},
  volume  = {3},
  pages   = {993--1022},
  year    = {2003},
}""",
    presets={"paper": paper, "tiny": tiny},
    fits={"tiny": {"steps": 800, "batch": 200, "lr": 0.1, "schedule": "cosine"}},
    build=build,
    summary="Topics that all documents share, and the share that each document has of them.",
)


if __name__ == "__main__":
    model = build(tiny())
    print(model.loss, model.loss.code, sep="\n\n")
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-2, fused=True)
    counts = torch.poisson(torch.full((64, tiny().features), 2.0))
    before = model.loss(c=counts, seed=0).value
    before.backward()
    optimiser.step()
    after = model.loss(c=counts, seed=0).value
    print(f"one step: {before.item():.3f} -> {after.item():.3f} nats per document")
