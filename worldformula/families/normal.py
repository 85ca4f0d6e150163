"""The diagonal Normal distribution: ``N(x; loc, scale²)``, independent over the axes of an event.

    log p(x) = -½·((x - loc)/scale)² - log scale - ½·log 2π
    H        = log scale + ½·log 2πe
    KL(q‖p)  = ½·(r² + d² - 1) - log r,   r = scale_q/scale_p,  d = (loc_q - loc_p)/scale_p

each summed over the event. The closed KL is appendix B of Kingma and Welling, *Auto-Encoding Variational Bayes*
(arXiv 1312.6114) for a standard p.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from worldformula.errors import ConfigError, HeadError
from worldformula.families.base import (
    Family,
    Parameter,
    Params,
    Shape,
    affine,
    has_tensor,
    require_event,
    require_same,
    shape_of,
    size,
    total,
    widen,
)
from worldformula.families.closed import register_kl
from worldformula.families.domains import POSITIVE, REAL, Domain
from worldformula.families.tensors import floating, is_number
from worldformula.families.writing import Sign, SourceLines

HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True)
class NormalFamily(Family):
    """Normal with parameters ``loc`` and ``scale``; of a head, scale = softplus(·) + ``min_scale``.

    With ``scale=1.0`` fixed, ``-log_prob`` is half the squared error plus a constant.
    """

    min_scale: float = 0.0

    name: ClassVar[str] = "normal"
    symbol: ClassVar[Sign] = Sign("N", r"\mathcal{N}")
    parameters: ClassVar[tuple[str, ...]] = ("loc", "scale")
    reparametrised: ClassVar[bool] = True
    estimator: ClassVar[str | None] = "reparametrised"
    gradients: ClassVar[tuple[str, ...]] = ("reparametrised",)
    default_rank: ClassVar[int] = 1
    values: ClassVar[Domain | None] = REAL
    domains: ClassVar[Mapping[str, Domain]] = MappingProxyType({"scale": POSITIVE})
    reference: ClassVar[str] = "torch.distributions:Normal"

    def check_settings(self) -> None:
        """As every family."""
        if not self.min_scale >= 0.0:
            raise ConfigError(f"normal: min_scale must not be negative, got {self.min_scale}.")

    def constrain(self, pieces: tuple[Tensor, ...], names: Sequence[str], shape: Shape | None) -> tuple[Tensor, ...]:
        """softplus(·) + min_scale for the scale; loc as it is."""
        if names[-1] != "scale":
            return pieces
        scale = F.softplus(pieces[-1])
        return (*pieces[:-1], scale if is_number(self.min_scale, 0.0) else scale + self.min_scale)

    def convert(self, name: str, value: Parameter, shape: Shape | None) -> Parameter:
        """A scale that is a number must be positive."""
        if name == "scale" and isinstance(value, float) and not value > 0.0:
            raise HeadError(f"normal: the scale is a standard deviation and must be positive, got {value}.")
        return value

    def constants(self, shape: Shape) -> dict[str, Parameter]:
        """loc 0, scale 1, as numbers."""
        return {"loc": 0.0, "scale": 1.0}

    def noise(
        self, shape: Shape, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Standard normal noise."""
        return torch.randn(shape, dtype=dtype, device=device, generator=generator)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """loc + scale·noise."""
        loc, scale = params
        if isinstance(scale, Tensor):
            return loc + scale * noise
        if isinstance(loc, Tensor):
            return torch.add(loc, noise, alpha=scale)
        return affine(noise, scale, loc)

    def mode(self, params: Params) -> Parameter:
        """loc."""
        return params[0]

    def mean(self, params: Params) -> Parameter:
        """loc."""
        return params[0]

    def variance(self, params: Params) -> Parameter:
        """scale²."""
        return params[1] * params[1]

    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """Σ -½·((value - loc)/scale)² - log scale - ½·log 2π, over the last ``rank`` axes."""
        loc, scale = widen(params)
        if has_tensor(params):
            require_same(self, "the value", value.shape, shape_of(params))
        value = floating(value, next((p for p in params if isinstance(p, Tensor)), 0.0))
        centred = value if isinstance(loc, float) and loc == 0.0 else value - loc
        constant = -HALF_LOG_2PI * size(value, rank)
        if isinstance(scale, Tensor):
            z = centred / scale
            return affine(total(torch.addcmul(scale.log(), z, z, value=0.5), rank), -1.0, constant)
        constant -= math.log(scale) * size(value, rank)
        return affine(total(centred * centred, rank), -0.5 / (scale * scale), constant)

    def entropy(self, params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """Σ log scale + ½·log 2πe, over the last ``rank`` axes."""
        loc, scale = widen(params)
        if isinstance(scale, Tensor):
            log_scale, full = scale.log(), shape_of(params)
            log_scale = log_scale if log_scale.shape == full else log_scale.expand(full)
            return affine(total(log_scale, rank), 1.0, (HALF_LOG_2PI + 0.5) * size(log_scale, rank))
        each = HALF_LOG_2PI + 0.5 + math.log(scale)
        if isinstance(loc, Tensor):
            return loc.new_full(loc.shape[: loc.ndim - rank], each * size(loc, rank))
        return each * math.prod(require_event(self, shape))

    def kl(self, q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """`kl_normal`."""
        return kl_normal(q_params, p_params, rank, shape)

    def source_lines(self) -> SourceLines | None:
        """Unless the scale has a minimum."""
        scale = "{name}_scale = F.softplus({name}_raw)"
        return None if self.min_scale else SourceLines(
            params=("{name}_loc, {name}_raw = {head}.split_with_sizes(({width}, {width}), -1)", scale),
            undeclared=("{name}_loc, {name}_raw = {head}.chunk(2, -1)", scale),
            sample="{name}_loc + {name}_scale * {noise}",
            mode="{name}_loc",
            log_prob=(
                "(-0.5 * ((matched({value}, {name}_loc) - {name}_loc) / {name}_scale).square() "
                f"- widened({{name}}_scale).log() - {HALF_LOG_2PI!r}).sum(-1)"
            ),
            kl=(
                "{kl}_ratio = widened({name}_scale) / {p}_scale",
                "{kl}_shift = (widened({name}_loc) - {p}_loc) / {p}_scale",
                "(0.5 * ({kl}_ratio.square() + {kl}_shift.square() - 1) - {kl}_ratio.log()).sum(-1)",
            ),
            kl_standard=(
                "(0.5 * (widened({name}_loc).square() + widened({name}_scale).square() - 1) "
                "- widened({name}_scale).log()).sum(-1)"
            ),
        )  # fmt: skip


normal = NormalFamily()


@register_kl(NormalFamily, NormalFamily)
def kl_normal(q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
    """KL between Normals in nats, summed over the last ``rank`` axes; constants take the short forms."""
    if has_tensor(q_params) and has_tensor(p_params):
        require_same(normal, "q", shape_of(q_params), shape_of(p_params))
    (q_loc, q_scale), (p_loc, p_scale) = widen(q_params), widen(p_params)
    ratio = q_scale if isinstance(p_scale, float) and p_scale == 1.0 else q_scale / p_scale
    shift = q_loc if isinstance(p_loc, float) and p_loc == 0.0 else q_loc - p_loc
    shift = shift if isinstance(p_scale, float) and p_scale == 1.0 else shift / p_scale
    if isinstance(ratio, Tensor):
        squares = torch.addcmul(ratio * ratio, shift, shift) if isinstance(shift, Tensor) else ratio * ratio
        rest = 1.0 if isinstance(shift, Tensor) else 1.0 - shift * shift
        terms = squares.sub(ratio.log(), alpha=2.0)
        return affine(total(terms, rank), 0.5, -0.5 * rest * size(terms, rank))
    rest = 0.5 * (1.0 - ratio * ratio) + math.log(ratio)
    if isinstance(shift, Tensor):
        return affine(total(shift * shift, rank), 0.5, -rest * size(shift, rank))
    return (0.5 * shift * shift - rest) * math.prod(require_event(normal, shape))
