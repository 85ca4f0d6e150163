"""The logistic Normal distribution over probability vectors: x = softmax(z_1, …, z_(K-1), 0), z ~ N(loc, diag scale²).

    log p(x) = log N(z; loc, scale²) - Σ_k log x_k,    z_k = log x_k/x_K

over the simplex as its first K - 1 entries measure it, as the Dirichlet's density is. These are the additive
log-ratios of Aitchison and Shen (1980, *Biometrika* 67): the last entry is what the others are compared with.
(``torch.distributions.LogisticNormal`` breaks a stick instead, which is another distribution.) The KL of two such
distributions is that of the Normals. Entropy, mean and variance have no closed form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from worldformula.errors import FormulaError, HeadError, NoClosedFormError, ShapeError
from worldformula.families.base import (
    NOTHING,
    Parameter,
    Params,
    Shape,
    has_tensor,
    require_same,
    total,
)
from worldformula.families.closed import register_kl
from worldformula.families.domains import SHARES, Domain
from worldformula.families.loc_scale import LocScaleFamily
from worldformula.families.normal import kl_normal
from worldformula.families.special import HALF_LOG_2PI, log, precise, rounded
from worldformula.families.tensors import floating, split_vectors
from worldformula.families.writing import Sign


@dataclass(frozen=True)
class LogisticNormalFamily(LocScaleFamily):
    """softmax of a Normal and a 0, with ``loc`` and ``scale`` of K - 1 entries for events whose last axis has K.

    Of a head of 2·(K - 1), scale = softplus(·) + ``min_scale``. An entry that rounding has made 0 is scored as the
    smallest number above it.
    """

    name: ClassVar[str] = "logistic_normal"
    symbol: ClassVar[Sign] = Sign("LogisticNormal", r"\mathrm{LogisticNormal}")
    joint: ClassVar[int | None] = 1
    values: ClassVar[Domain | None] = SHARES

    # ---------------------------------------------------------------------------------------------------- parameters

    def params(
        self, head: Tensor | Mapping[str, Parameter] | None, shape: Shape | None = None,
        fixed: Mapping[str, Parameter] = NOTHING,
    ) -> Params:  # fmt: skip
        """As every family; an event's last axis has K ≥ 2 entries."""
        if shape is not None and (not shape or shape[-1] < 2):
            raise HeadError(f"{self.name}: an event is a vector of at least 2 entries. Declare shape=K, got {shape}.")
        return super().params(head, shape, fixed)

    def split(self, head: Tensor, shape: Shape | None, names: Sequence[str]) -> tuple[Tensor, ...]:
        """A head ``[..., *event[:-1], 2·(K - 1)]``, or flat."""
        return split_vectors(self.name, head, shape, names, lambda _, size: size - 1)

    def _check_event(self, name: str, value: Parameter, shape: Shape | None) -> None:
        super()._check_event(name, value, _ratios(shape))

    def _fill(self, params: Params, shape: Shape | None) -> Params:
        return super()._fill(params, _ratios(shape))

    def head_width(self, shape: Shape, fixed: Mapping[str, Parameter] = NOTHING) -> int | None:
        """prod(shape[:-1])·2·(K - 1)."""
        return super().head_width((*shape[:-1], shape[-1] - 1), fixed)

    def shapes(self, params: Params, rank: int) -> tuple[Shape, Shape]:
        """A value has one entry more than the parameters."""
        batch, event = super().shapes(params, rank)
        return batch, (*event[:-1], event[-1] + 1) if event else event

    # ------------------------------------------------------------------------------------------------------ sampling

    def noise_shape(self, batch: Shape, shape: Shape, params: Params | None = None) -> Shape:
        """K - 1 numbers for each vector."""
        return (*batch, *shape[:-1], shape[-1] - 1)

    def noise(
        self, shape: Shape, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Standard normal noise."""
        return torch.randn(shape, dtype=dtype, device=device, generator=generator)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """softmax(loc + scale·noise, 0); no entry is exactly 0."""
        loc, scale = params
        return _softmax(loc + scale * noise)

    def mode(self, params: Params) -> Parameter:
        """softmax(loc, 0), the sample without noise, whose log-ratios are the likeliest and their medians.

        The density over the simplex may have several tops, as one of a large scale has one in every corner.
        """
        if not isinstance(params[0], Tensor):
            raise FormulaError(f"{self.name}: numbers alone leave the size of the mode open. Give loc= as a tensor.")
        return _softmax(params[0])

    def mean(self, params: Params) -> Parameter:
        """None in closed form."""
        raise NoClosedFormError(f"{self.name}: the mean has no closed form. Use the mode, or the mean of samples.")

    # ----------------------------------------------------------------------------------------------------- densities

    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """The log-density of vectors that sum to 1, summed over the last ``rank`` axes, entries included."""
        if rank < 1:
            raise ShapeError(f"{self.name}: an event is a vector, with at least one axis; declare shape=K, got ().")
        if has_tensor(params):
            require_same(self, "the value", value.shape, sum(self.shapes(params, rank), start=()))
        value = floating(value, next((p for p in params if isinstance(p, Tensor)), 0.0))
        loc, scale, x = precise((*params, value.clamp_min(torch.finfo(value.dtype).tiny)))
        assert isinstance(x, Tensor)
        logs = x.log()
        z = (logs[..., :-1] - logs[..., -1:] - loc) / scale
        each = (0.5 * z * z + (log(scale) + HALF_LOG_2PI)).sum(-1) + logs.sum(-1)
        return rounded(-total(each, rank - 1), value, *params)

    def kl(self, q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """`kl_logistic_normal`."""
        return kl_logistic_normal(q_params, p_params, rank, shape)


logistic_normal = LogisticNormalFamily()


@register_kl(LogisticNormalFamily, LogisticNormalFamily)
def kl_logistic_normal(q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
    """`kl_normal` of the log-ratios, which are one to one with the vectors."""
    return kl_normal(q_params, p_params, rank, _ratios(shape))


def _ratios(shape: Shape | None) -> Shape | None:
    """The event shape of the log-ratios."""
    return (*shape[:-1], shape[-1] - 1) if shape else shape


def _softmax(z: Tensor) -> Tensor:
    """softmax of z and a 0 behind it, greater than 0."""
    return torch.cat((z, torch.zeros_like(z[..., :1])), -1).softmax(-1).clamp_min(torch.finfo(z.dtype).tiny)
