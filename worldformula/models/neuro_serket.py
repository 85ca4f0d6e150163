"""Neuro-SERKET: modules that are trained apart and joined by messages (Taniguchi et al. 2020, arXiv:1910.08918).

    β KL[q(z|x) ‖ p(z|m)] − E_{q(z|x)}[log p(x|z)],   p(z|m) = N(m, I)        the VAE, its prior mean m from the mixture
    p(z) = Σ_k π_k N(z; μ_k, Σ_k)                                             a Gaussian mixture of the latents
    p(w) = Σ_j π_j Π_w φ_jw^{c_w}                                             topics of words
    p(w|a) ∝ exp(s · log p(a|w)) · p(w|topic)                                 a recogniser of words in sounds a

    x  [N, X] pixels in {0, 1}            a  [N, W] log-likelihoods of W words, from any recogniser
    m  [N, Z] what the mixture says       z  [N, Z]; clusters k and topics j are as many as there are words or classes

How modules meet. Head to tail: the mixture reads z and gives each row its mean (VAE ↔ mixture). Tail to tail: clusters
and topics are one hidden cause, and each tells the other what its own evidence says of it, without what it was told.
Head to head: topic and sound both speak of the word (topics ↔ recogniser); topics then count the words as heard anew.

Deviations       published                    here                            why
labels           aligned one to one           a table p(topic|cluster), from  clusters that merge or split a class; it
                                              both modules' posteriors        tempers the message by what it is worth
mixture, topics  Gibbs sampling               EM with priors, restarts        seconds
modality of LDA  words and HAC features       words                           the sound enters as a recogniser
VAE              18 latents, 200 epochs       10 latents, 60 epochs           8 × 8 digits
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from worldformula import KL, Bernoulli, E, Expression, Factor, Normal, log
from worldformula.catalogue import System
from worldformula.errors import ShapeError
from worldformula.model import Model
from worldformula.nets.perceptron import Perceptron
from worldformula.training.fit import fit
from worldformula.training.messages import expect, gaussians, maximise, restarted, topics, translated

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """Widths and schedule.

    Attributes:
        pixels: X.
        latent: Z.
        hidden: units of each hidden layer of encoder and decoder.
        activation: between layers.
        clusters: of the mixture, and topics.
        first, later: epochs of the VAE before the first round, and in each.
        rounds: of messages.
        batch: rows of a step of the VAE.
    """

    pixels: int
    latent: int
    hidden: tuple[int, ...]
    activation: Callable[[], nn.Module]
    clusters: int
    first: int
    later: int
    rounds: int
    batch: int


def official() -> Sizes:
    """28 × 28 digits: 18 latents, 200 epochs, batches of 500, five rounds."""
    return Sizes(784, 18, (128, 64), nn.ReLU, clusters=10, first=200, later=200, rounds=5, batch=500)


def tiny() -> Sizes:
    """8 × 8 digits with spoken words, seconds on a laptop."""
    return Sizes(64, 10, (256,), nn.SiLU, clusters=10, first=60, later=8, rounds=5, batch=64)


# ----------------------------------------------------------------------------------------------------------- formula


class Shifted(nn.Module):
    """p(z|m): a unit Gaussian around what is given."""

    def forward(self, m: Tensor) -> dict[str, Tensor]:
        """``[N, Z]``."""
        return {"loc": m, "scale": torch.ones_like(m)}


class Found(NamedTuple):
    """What the modules conclude: log-posteriors of clusters, topics and words, ``[N, K]``, ``[N, K]``, ``[N, W]``."""

    clusters: Tensor
    topics: Tensor
    words: Tensor


@dataclass(frozen=True, eq=False)
class NeuroSERKET(Model):
    """The VAE with its loss, ``loss(x=[B, X], m=[B, Z])``, and `learn`, which trains all modules in turn."""

    prior: Factor
    encode: Factor
    decode: Factor
    loss: Expression
    sizes: Sizes

    def given(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Without a mixture, the prior is centred at zero."""
        x = rows["image"] if "image" in rows else rows["x"]
        return {"x": x, "m": rows.get("m", x.new_zeros(len(x), self.sizes.latent))}

    def learn(
        self, x: Tensor, sounds: Tensor, *, mixture: bool = True, cause: bool = True, words: bool = True, seed: int = 0,
        strength: float = 0.5, repeats: float = 3.0,
    ) -> Found:  # fmt: skip
        """Trains the modules on pairs of an image and a sound, in rounds of messages.

        Args:
            x: images ``[N, X]``.
            sounds: log p(sound|word), ``[N, W]``.
            mixture: the mixture's means reach the VAE (head to tail).
            cause: clusters and topics tell each other what they see (tail to tail).
            words: topics and recogniser meet at the word (head to head).
            seed: of weights' training and of EM.
            strength: s, exponent of the acoustic likelihood; recognisers are over-confident.
            repeats: how many words an utterance counts for among the topics.

        Raises:
            ShapeError: not as many sounds as images.
        """
        if len(x) != len(sounds) or x.ndim != 2 or sounds.ndim != 2:
            raise ShapeError(f"expected x [N, X] and sounds [N, W], got {tuple(x.shape)} and {tuple(sounds.shape)}")
        heard = (strength * sounds).log_softmax(-1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._rounds(x, heard, mixture, cause, words, seed, repeats)

    def _rounds(
        self, x: Tensor, heard: Tensor, mixture: bool, cause: bool, words: bool, seed: int, repeats: float
    ) -> Found:
        sizes, said = self.sizes, heard
        self._train(x, torch.zeros(len(x), sizes.latent), sizes.first, seed)
        z = self._encoded(x)
        seen = restarted(gaussians, z, sizes.clusters)
        spoken = restarted(topics, repeats * _chosen(said), sizes.clusters)
        k, j = expect(seen, z), expect(spoken, repeats * _chosen(said))
        for turn in range(sizes.rounds):
            counts = repeats * (said.exp() if words else _chosen(heard))
            to_topics = translated(expect(seen, z), j) if cause else None
            spoken = maximise(topics, counts, j.exp(), to_topics, times=5)
            j = expect(spoken, counts, to_topics)
            to_clusters = translated(expect(spoken, counts), k) if cause else None
            seen = maximise(gaussians, z, k.exp(), to_clusters, times=5)
            k = expect(seen, z, to_clusters)
            if words:  # the topic without what the word itself said of it
                alone = (spoken.weight + (0.0 if to_topics is None else to_topics)).expand(len(x), -1).log_softmax(-1)
                said = (heard + (alone.exp() @ spoken.words.exp()).log()).log_softmax(-1)
            if mixture:
                self._train(x, k.exp() @ seen.mean, sizes.later, seed + turn + 1)
                z = self._encoded(x)
                seen = gaussians(z, k.exp())
                k = expect(seen, z, to_clusters)
        return Found(k, j, said)

    def _train(self, x: Tensor, m: Tensor, epochs: int, seed: int) -> None:
        batch = self.sizes.batch
        fit(
            self.loss,
            {"x": x, "m": m},
            steps=max(1, epochs * len(x) // batch),
            batch=batch,
            weight_decay=1e-3,
            seed=seed,
        )

    @torch.no_grad()
    def _encoded(self, x: Tensor) -> Tensor:
        return self.encode.sample(x=x, deterministic=True)


def _chosen(words: Tensor) -> Tensor:
    """The best word alone, as a one-hot vector."""
    return nn.functional.one_hot(words.argmax(-1), words.shape[-1]).float()


def build(sizes: Sizes) -> NeuroSERKET:
    """The VAE with new weights; mixture and topics are fitted by `NeuroSERKET.learn`."""
    X, Z, act = sizes.pixels, sizes.latent, sizes.activation
    prior = Normal("p(z|m)", Shifted(), shape=Z)
    encode = Normal("q(z|x)", Perceptron(X, 2 * Z, sizes.hidden, act), shape=Z)
    decode = Bernoulli("p(x|z)", Perceptron(Z, X, sizes.hidden[::-1], act), shape=X)
    loss = (KL(encode, prior) - E(encode, log(decode))).mean()
    return NeuroSERKET(prior, encode, decode, loss, sizes)


# ------------------------------------------------------------------------------------------------------------ system

SYSTEM = System(
    name="neuro_serket",
    kind="models",
    paper="Taniguchi et al. 2020, arXiv:1910.08918",
    bibtex="""@article{taniguchi2020neuroserket,
  title   = {{Neuro-SERKET}: Development of Integrative Cognitive System through the Composition of Deep Probabilistic
             Generative Models},
  author  = {Taniguchi, Tadahiro and Nakamura, Tomoaki and Suzuki, Masahiro and Kuniyasu, Ryo and Hayashi, Kaede and
             Taniguchi, Akira and Horii, Takato and Nagai, Takayuki},
  journal = {New Generation Computing},
  year    = {2020},
  eprint  = {1910.08918},
}""",
    presets={"official": official, "tiny": tiny},
    fits={"tiny": {"steps": 1684, "batch": 64, "weight_decay": 1e-3}},
    build=build,
    summary="A VAE, a Gaussian mixture, topics and a speech recogniser, trained apart and joined by messages.",
)


if __name__ == "__main__":
    model = build(tiny())
    print(model.loss, model.loss.code, sep="\n\n")
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-3, fused=True)
    rows = {"x": torch.rand(64, tiny().pixels).round(), "m": torch.zeros(64, tiny().latent)}
    before = model.loss(**rows, seed=0).value
    before.backward()
    optimiser.step()
    after = model.loss(**rows, seed=0).value
    print(f"one step: {before.item():.3f} -> {after.item():.3f} nats per image")
