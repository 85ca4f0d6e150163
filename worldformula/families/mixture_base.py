"""What mixtures share, of components of one family and of several: weights, density and moments of the whole.

log p(x) = logsumexp_k(log w_k + log p_k(x)),    mean Σ w_k·m_k,    variance Σ w_k·(v_k + (m_k - mean)²)
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from worldformula.families.base import Family, Parameter, Params, Shape, log_mix, log_probs, total
from worldformula.families.writing import Sign


class Mixed(Family):
    """Parameters begin with ``log_weights`` ``[*batch, K]``, and ``[*batch, *event, K]`` where ``factored``.

    A family says what its components are: their moments, their densities and how many event axes they have.
    """

    components: int
    factored: bool

    symbol: ClassVar[Sign] = Sign("Mixture", r"\mathrm{Mix}")
    parameters: ClassVar[tuple[str, ...]] = ("log_weights",)
    gradients: ClassVar[tuple[str, ...]] = ("score",)

    def _inner(self, shape: Shape) -> Shape:
        """The event shape of one component."""
        return () if self.factored else shape

    def leading(self, shape: Shape) -> Shape:
        """Those of every element of which a mixture is made."""
        return shape if self.factored else ()

    def _canonical(self, name: str) -> str:
        return self.alternatives.get(name, name)

    def convert(self, name: str, value: Parameter, shape: Shape | None) -> Parameter:
        """Weights into normalised log-weights, a number into equal ones; the rest is left to the components."""
        if self._canonical(name) != "log_weights":
            return value
        if isinstance(value, Tensor):
            return log_mix(log_probs(value) if name == "weights" else value, 0.0)
        return -math.log(self.components)

    # ------------------------------------------------------------------------------------------- what a family says

    def _inner_rank(self, params: Params) -> int:
        """How many event axes a component has: what its parameters have beyond the weights."""
        raise NotImplementedError

    def _moments(self, params: Params, which: str) -> Tensor:
        """The means, variances or modes of the components: ``[*batch, K, *event]``, behind the event where factored."""
        raise NotImplementedError

    def _joint(self, params: Params, value: Tensor, inner: int) -> Tensor:
        """log w_k + log p_k(value): ``[*batch, K]``, and before K the event where ``factored``."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------------- of the whole

    def _shares(self, params: Params) -> Tensor:
        """The weights, beside what `_moments` gives."""
        weights = params[0]
        assert isinstance(weights, Tensor)
        return weights.exp().reshape((*weights.shape, *(1,) * self._inner_rank(params)))

    def mode(self, params: Params) -> Parameter:
        """The most probable of the components' modes: the mode, unless components flow together."""
        inner = self._inner_rank(params)
        modes = self._moments(params, "mode")
        axis = modes.ndim - 1 - inner
        each = torch.stack([self._joint(params, m, inner).logsumexp(-1) for m in modes.unbind(axis)], -1)
        size = (*each.shape[:-1], 1, *modes.shape[axis + 1 :])
        at = each.argmax(-1).reshape((*each.shape[:-1], 1, *(1,) * inner)).expand(size)
        return modes.gather(axis, at).squeeze(axis)

    def mean(self, params: Params) -> Parameter:
        """Σ w_k·mean_k."""
        return (self._shares(params) * self._moments(params, "mean")).sum(-1 - self._inner_rank(params))

    def variance(self, params: Params) -> Parameter:
        """Σ w_k·(variance_k + (mean_k - mean)²)."""
        weights, means, at = self._shares(params), self._moments(params, "mean"), -1 - self._inner_rank(params)
        apart = means - (weights * means).sum(at, keepdim=True)
        return (weights * (self._moments(params, "variance") + apart.square())).sum(at)

    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """logsumexp_k(log w_k + log p_k(value)), summed over the last ``rank`` axes."""
        if self.factored:
            return total(self._joint(params, value, 0).logsumexp(-1), rank)
        return self._joint(params, value, rank).logsumexp(-1)

    def responsibilities(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """p(k|value), the posterior of the component: ``[*batch, K]``; ``[*batch, *event, K]`` where factored."""
        return self._joint(params, value, 0 if self.factored else rank).softmax(-1)
