"""The scale of returns: a running range between two percentiles (Hafner et al. 2025, eq. 6); and of advantages."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PercentileNorm(nn.Module):
    """Running averages of a low and a high quantile; `scale` is their distance, at least ``limit``.

    rate: weight of the newest batch in the averages, which start at zero and are not debiased. low, high: quantiles in
    [0, 1]. limit: smallest scale, so that small returns are not blown up. The averages are saved in the state_dict.
    """

    quantiles: Tensor
    lower: Tensor
    upper: Tensor

    def __init__(self, rate: float = 0.01, low: float = 0.05, high: float = 0.95, limit: float = 1.0) -> None:
        super().__init__()
        self.rate, self.limit = rate, limit
        self.register_buffer("quantiles", torch.tensor([low, high]), persistent=False)
        self.register_buffer("lower", torch.zeros(()))
        self.register_buffer("upper", torch.zeros(()))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Move the averages towards the quantiles of all entries of ``x``. Call before `scale` is read."""
        low, high = torch.quantile(x.detach().flatten().float(), self.quantiles.float())
        self.lower.lerp_(low.to(self.lower.dtype), self.rate)
        self.upper.lerp_(high.to(self.upper.dtype), self.rate)

    def forward(self, returns: Tensor, values: Tensor) -> Tensor:
        """``A = (R − V) / S`` of dreams ``[N, S]``; in training mode the scale learns from these returns first."""
        if self.training:
            self.update(returns[:, :-1])
        return (returns - values) / self.scale

    @property
    def scale(self) -> Tensor:
        """``max(limit, upper − lower)``, a tensor without axes."""
        return (self.upper - self.lower).clamp(min=self.limit)


class RangeNorm(nn.Module):
    """A running average of the range between two quantiles, at least ``limit``: TD-MPC2's scale of values.

    Where `PercentileNorm` averages both quantiles, this averages their distance, which begins at 1 and is bounded
    before it is averaged; and it learns from the first step of each sequence alone.
    """

    quantiles: Tensor
    scale: Tensor

    def __init__(self, rate: float = 0.01, low: float = 0.05, high: float = 0.95, limit: float = 1.0) -> None:
        super().__init__()
        self.rate, self.limit = rate, limit
        self.register_buffer("quantiles", torch.tensor([low, high]), persistent=False)
        self.register_buffer("scale", torch.ones(()))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Move the scale towards the range of all entries of ``x``."""
        low, high = torch.quantile(x.detach().flatten(), self.quantiles.to(x))
        self.scale.lerp_((high - low).clamp(min=self.limit).to(self.scale), self.rate)

    def forward(self, values: Tensor) -> Tensor:
        """``[N, S]`` divided by the scale, which in training mode learns from ``[:, 0]`` first."""
        if self.training:
            self.update(values[:, 0])
        return values / self.scale.clone()  # the first call is looked at twice, and the buffer put back in between


class MeanNorm(nn.Module):
    """Running mean and deviation: ``(x − mean) / max(limit, deviation)``; the authors' `advnorm` as ``meanstd``.

    rate: weight of the newest batch in the averages of x and x², which are debiased. What is saved is the mean, and the
    squares around it (West 1979, doi:10.1145/359146.359153): of a small spread far from zero, x² has no digit left.
    """

    mean: Tensor
    around: Tensor
    weight: Tensor

    def __init__(self, rate: float = 0.01, limit: float = 1e-8) -> None:
        super().__init__()
        self.rate, self.limit = rate, limit
        for name in ("mean", "around", "weight"):
            self.register_buffer(name, torch.zeros(()))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Move the averages towards those of all entries of ``x``. Call before `forward`."""
        kept = (1 - self.rate) * self.weight
        weight, step = kept + self.rate, x.mean().to(self.mean) - self.mean
        spread = x.var(unbiased=False).to(self.around) + kept / weight * step.square()
        self.around.mul_(1 - self.rate).add_(self.rate * spread)
        self.mean.add_(self.rate / weight * step)
        self.weight.copy_(weight)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` of any shape; as it is before the first update."""
        mean, spread = self._now()
        return (x - mean) / spread

    def back(self, x: Tensor) -> Tensor:
        """What `forward` turns into ``x``."""
        mean, spread = self._now()
        return x * spread + mean

    def _now(self) -> tuple[Tensor, Tensor]:
        begun = self.weight > 0
        spread = (self.around / torch.where(begun, self.weight, 1.0)).sqrt().clamp(min=self.limit)
        return self.mean.clone(), torch.where(begun, spread, 1.0)


class Normed(nn.Module):
    """Advantages of dreams ``[N, S]``, scaled as returns are and then normalised; in training mode it learns first."""

    def __init__(self, returns: PercentileNorm, advantages: MeanNorm) -> None:
        super().__init__()
        self.returns, self.advantages = returns, advantages

    def forward(self, returns: Tensor, values: Tensor) -> Tensor:
        """The last state, which only bootstraps, counts for no average."""
        found = self.returns(returns, values)
        if self.training:
            self.advantages.update(found[:, :-1])
        normed: Tensor = self.advantages(found)
        return normed
