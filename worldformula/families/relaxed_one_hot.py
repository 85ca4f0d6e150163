"""The relaxed one-hot or Concrete distribution on the simplex, over the last axis of an event.

    x = softmax((logits + g)/τ),   g Gumbel noise
    log p(x) = log Γ(K) + (K-1)·log τ + Σ_k (logits_k - (τ+1)·log x_k) - K·logsumexp_k(logits_k - τ·log x_k)

(Maddison et al. 2017, *The Concrete Distribution*, arXiv 1611.00712; Jang et al. 2017, *Gumbel-Softmax*, 1611.01144.)
The density is that of the relaxed variable. A hard one-hot is scored by OneHot with the same logits; its probability of
class k is softmax(logits)_k, which is also that of x_k being the largest entry. An event ``(G, K)`` is G independent
groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from worldformula.errors import ConfigError, FormulaError, HeadError, ShapeError
from worldformula.families.base import (
    Family,
    Parameter,
    Params,
    Shape,
    log_mix,
    log_probs,
    require_same,
    total,
    uniform,
    wide,
)
from worldformula.families.domains import LOGITS, SHARES, WEIGHTS, Domain
from worldformula.families.special import log
from worldformula.families.tensors import floating
from worldformula.families.writing import Sign


@dataclass(frozen=True)
class RelaxedOneHotFamily(Family):
    """Relaxed one-hot with normalised ``logits`` and the ``temperature`` τ; ``probs`` is accepted by name."""

    temperature: float = 1.0

    name: ClassVar[str] = "relaxed_one_hot"
    symbol: ClassVar[Sign] = Sign("RelaxedOneHot", r"\mathrm{Concrete}")
    parameters: ClassVar[tuple[str, ...]] = ("logits",)
    alternatives: ClassVar[Mapping[str, str]] = MappingProxyType({"probs": "logits"})
    reparametrised: ClassVar[bool] = True
    estimator: ClassVar[str | None] = "reparametrised"
    gradients: ClassVar[tuple[str, ...]] = ("reparametrised",)
    default_rank: ClassVar[int] = 1
    joint: ClassVar[int | None] = 1
    values: ClassVar[Domain | None] = SHARES
    domains: ClassVar[Mapping[str, Domain]] = MappingProxyType({"logits": LOGITS, "probs": WEIGHTS})

    def check_settings(self) -> None:
        """As every family."""
        if not self.temperature > 0.0:
            raise ConfigError(f"relaxed_one_hot: the temperature must be positive, got {self.temperature}.")

    def split(self, head: Tensor, shape: Shape | None, names: Sequence[str]) -> tuple[Tensor, ...]:
        """As every family; the last axis of an event are the classes, so it cannot be ``()``."""
        if shape == ():
            raise HeadError("relaxed_one_hot: an event needs a class axis. Declare shape=K or shape=(G, K), not ().")
        return super().split(head, shape, names)

    def constrain(self, pieces: tuple[Tensor, ...], names: Sequence[str], shape: Shape | None) -> tuple[Tensor, ...]:
        """Normalised log-probabilities."""
        return (log_mix(pieces[0], 0.0),)

    def convert(self, name: str, value: Parameter, shape: Shape | None) -> Parameter:
        """``probs`` or ``logits`` into normalised log-probabilities; a number is the uniform distribution."""
        if isinstance(value, Tensor):
            return log_mix(log_probs(value) if name == "probs" else value, 0.0)
        return self.constants(shape or ())["logits"]

    def constants(self, shape: Shape) -> dict[str, Parameter]:
        """Equal classes: logits -log K, as a number."""
        if not shape:
            raise HeadError("relaxed_one_hot: an event needs a class axis. Declare shape=K or shape=(G, K), not ().")
        return {"logits": -math.log(shape[-1])}

    def noise(
        self, shape: Shape, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Gumbel noise -log(-log u), always finite."""
        u = uniform(shape, dtype, device, generator)
        noise = -torch.log(-torch.log(u.clamp_min(torch.finfo(u.dtype).tiny)))
        return noise if dtype is None else noise.to(dtype)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """softmax((logits + noise)/τ)."""
        return ((params[0] + noise) / self.temperature).softmax(-1)

    def mode(self, params: Params) -> Parameter:
        """softmax(logits/τ), the sample at equal noise: the density itself may be highest at the corners."""
        (logits,) = params
        return (logits / self.temperature).softmax(-1) if isinstance(logits, Tensor) else math.exp(logits)

    def mean(self, params: Params) -> Parameter:
        """An error: there is no closed form."""
        raise FormulaError("relaxed_one_hot: the mean has no closed form. Average samples, or take the mode.")

    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """The relaxed density of points of the simplex, summed over the last ``rank`` axes, classes included."""
        (logits,) = params
        if rank < 1:
            raise ShapeError("relaxed_one_hot: an event needs a class axis; declare shape=K, got shape=().")
        if isinstance(logits, Tensor):
            require_same(self, "the value", value.shape, logits.shape)
            logits = wide(logits)
        value = floating(value, logits)
        log_x, K = value.clamp_min(torch.finfo(value.dtype).tiny).log(), value.shape[-1]
        score = logits - self.temperature * log_x
        each = (score - log_x).sum(-1) - K * score.logsumexp(-1)
        return total(each + math.lgamma(K) + (K - 1) * log(self.temperature), rank - 1)


relaxed_one_hot = RelaxedOneHotFamily()
