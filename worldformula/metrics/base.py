"""The classifier that several scores read, trained here in seconds: no weights are downloaded.

A score that depends on a network names it by its `Classifier.digest` and says how it was trained.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from worldformula.errors import ShapeError


@dataclass(frozen=True)
class Classifier:
    """A trained network; its last hidden layer is the feature space.

    Attributes:
        net: ``[N, D]`` -> logits ``[N, C]``, in evaluation mode, without gradients.
    """

    net: nn.Sequential

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Activations of the last hidden layer, ``[N, H]``."""
        return self.net[:-1](x)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """The most likely class, ``[N]`` int64."""
        return self.net(x).argmax(-1)

    def accuracy(self, x: Tensor, y: Tensor) -> float:
        """Share of rows that are put into their class."""
        return float((self(x) == y).float().mean())

    def digest(self) -> str:
        """Sixteen hexadecimal digits of SHA-256 over the weights: two runs with equal digests are one feature space."""
        total = hashlib.sha256()
        for weight in self.net.state_dict().values():
            total.update(weight.contiguous().numpy().tobytes())
        return total.hexdigest()[:16]


def train_classifier(
    x: Tensor,
    y: Tensor,
    *,
    hidden: Sequence[int] = (128, 64),
    epochs: int = 60,
    noise: float = 0.1,
    weight_decay: float = 0.01,
    smoothing: float = 0.0,
    seed: int = 0,
) -> Classifier:
    """A SiLU network, AdamW 2e-3, batches of 64, Gaussian noise on the inputs.

    Args:
        x: ``[N, D]`` float.
        y: ``[N]`` int64 from 0 to C − 1.
        hidden: widths; the last one is the width of the features.
        epochs: passes over the data.
        noise: standard deviation added to every training input.
        weight_decay: of AdamW.
        smoothing: of the labels.
        seed: of weights, order and noise; the caller's generator is left as it was.

    Raises:
        ShapeError: not one label per row.
    """
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise ShapeError(f"expected x [N, D] and y [N], got {tuple(x.shape)} and {tuple(y.shape)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        widths = [x.shape[1], *hidden]
        layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.SiLU())]
        net = nn.Sequential(*layers, nn.Linear(widths[-1], int(y.max()) + 1))
        optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=weight_decay, fused=True)
        score = nn.CrossEntropyLoss(label_smoothing=smoothing)
        for _ in range(epochs):
            for rows in torch.split(torch.randperm(len(x)), 64):
                optimiser.zero_grad()
                score(net(x[rows] + noise * torch.randn(len(rows), x.shape[1])), y[rows]).backward()
                optimiser.step()
    return Classifier(net.eval().requires_grad_(False))
