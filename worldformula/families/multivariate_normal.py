"""The multivariate Normal distribution with a full covariance ``Σ = L·Lᵀ`` over the last axis of an event.

    log p(x) = -½·|L⁻¹(x - loc)|² - Σ log diag L - ½·D·log 2π
    H        = Σ log diag L + ½·D·log 2πe
    KL(q‖p)  = ½·(|L_p⁻¹·L_q|² + |L_p⁻¹(loc_q - loc_p)|² - D) + Σ log diag L_p - Σ log diag L_q

An event ``(G, D)`` is G independent vectors. ``L`` is lower triangular with a positive diagonal; where it is a number
s, it is s times the identity. (Bishop, *Pattern Recognition and Machine Learning*, 2006, section 2.3.)
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

from worldformula.errors import ConfigError, HeadError, ShapeError
from worldformula.families.base import (
    NOTHING,
    Family,
    Parameter,
    Params,
    Shape,
    affine,
    has_tensor,
    require_event,
    require_same,
    split_vectors,
    total,
    wide,
    widen,
)
from worldformula.families.closed import register_kl
from worldformula.families.domains import COVARIANCE, REAL, TRIANGLE, Domain
from worldformula.families.writing import Sign

HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True)
class MultivariateNormalFamily(Family):
    """Multivariate Normal with ``loc`` ``[..., D]`` and ``scale_tril`` ``[..., D, D]``, the Cholesky factor of Σ.

    A head gives D numbers for loc and D·(D+1)/2 for the triangle, row by row; the diagonal is softplus(·) +
    ``min_scale``. ``covariance_matrix`` is accepted by name.
    """

    min_scale: float = 0.0

    name: ClassVar[str] = "multivariate_normal"
    symbol: ClassVar[Sign] = Sign("N", r"\mathcal{N}")
    parameters: ClassVar[tuple[str, ...]] = ("loc", "scale_tril")
    alternatives: ClassVar[Mapping[str, str]] = MappingProxyType({"covariance_matrix": "scale_tril"})
    reparametrised: ClassVar[bool] = True
    estimator: ClassVar[str | None] = "reparametrised"
    gradients: ClassVar[tuple[str, ...]] = ("reparametrised",)
    default_rank: ClassVar[int] = 1
    joint: ClassVar[int | None] = 1
    values: ClassVar[Domain | None] = REAL
    domains: ClassVar[Mapping[str, Domain]] = MappingProxyType(
        {"scale_tril": TRIANGLE, "covariance_matrix": COVARIANCE}
    )
    reference: ClassVar[str] = "torch.distributions:MultivariateNormal"

    def check_settings(self) -> None:
        """As every family."""
        if not self.min_scale >= 0.0:
            raise ConfigError(f"multivariate_normal: min_scale must not be negative, got {self.min_scale}.")

    def axes(self, name: str, rank: int) -> int:
        """scale_tril has one axis more than the value."""
        return rank + (name == "scale_tril")

    def split(self, head: Tensor, shape: Shape | None, names: Sequence[str]) -> tuple[Tensor, ...]:
        """A head ``[..., *event[:-1], N]``, or flat, with the N numbers of one vector."""
        return split_vectors(self.name, head, shape, names, self._width)

    @staticmethod
    def _width(name: str, size: int) -> int:
        return size if name == "loc" else size * (size + 1) // 2

    def constrain(self, pieces: tuple[Tensor, ...], names: Sequence[str], shape: Shape | None) -> tuple[Tensor, ...]:
        """The numbers of the triangle into a triangular matrix with a positive diagonal."""
        if names[-1] != "scale_tril":
            return pieces
        assert shape
        lower = torch.ones(shape[-1], shape[-1], dtype=torch.bool, device=pieces[-1].device).tril()
        place = (lower.flatten().cumsum(0) - 1).clamp_min(0).view_as(lower)
        matrix = pieces[-1][..., place]
        diagonal = F.softplus(matrix) + self.min_scale
        return (*pieces[:-1], torch.where(lower & lower.mT, diagonal, matrix * lower))

    def convert(self, name: str, value: Parameter, shape: Shape | None) -> Parameter:
        """A covariance into its Cholesky factor; a number must be positive."""
        if name == "loc":
            return value
        if isinstance(value, Tensor):
            if value.ndim < 2 or value.shape[-1] != value.shape[-2]:
                raise HeadError(f"multivariate_normal: {name} must be [..., D, D], got {list(value.shape)}.")
            return value if name == "scale_tril" else torch.linalg.cholesky(wide(value))
        if not value > 0.0:
            raise HeadError(f"multivariate_normal: {name} as a number must be positive, got {value}.")
        return value if name == "scale_tril" else math.sqrt(value)

    def _fill(self, params: Params, shape: Shape | None) -> Params:
        loc, scale = params
        if shape is None or not isinstance(loc, Tensor):
            return params
        return loc.expand((*loc.shape[: max(loc.ndim - len(shape), 0)], *shape)), scale

    def constants(self, shape: Shape) -> dict[str, Parameter]:
        """loc 0 and the identity, as numbers."""
        return {"loc": 0.0, "scale_tril": 1.0}

    def filled(self, params: Params, like: Params) -> Params:
        """A number s in the place of the matrix is s times the identity."""
        (loc, scale), (like_loc, like_scale) = params, like
        if not isinstance(scale, Tensor) and isinstance(like_scale, Tensor):
            eye = torch.eye(like_scale.shape[-1], dtype=like_scale.dtype, device=like_scale.device)
            scale = (eye * scale).expand(like_scale.shape)
        if not isinstance(loc, Tensor) and isinstance(like_loc, Tensor):
            loc = torch.full_like(like_loc, loc)
        return loc, scale

    def head_width(self, shape: Shape, fixed: Mapping[str, Parameter] = NOTHING) -> int | None:
        """prod(shape[:-1])·(D + D·(D+1)/2)."""
        taken = {self.alternatives.get(name, name) for name in fixed}
        free = (name for name in self.parameters if name not in taken)
        return math.prod(shape[:-1]) * sum(self._width(name, shape[-1]) for name in free)

    # ------------------------------------------------------------------------------------------------------ sampling

    def noise(
        self, shape: Shape, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Standard normal noise."""
        return torch.randn(shape, dtype=dtype, device=device, generator=generator)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """loc + L·noise."""
        loc, scale = params
        return loc + (
            (scale @ noise.unsqueeze(-1)).squeeze(-1) if isinstance(scale, Tensor) else affine(noise, scale, 0)
        )

    def mode(self, params: Params) -> Parameter:
        """loc."""
        return self._loc(params)

    def mean(self, params: Params) -> Parameter:
        """loc."""
        return self._loc(params)

    def variance(self, params: Params) -> Parameter:
        """The diagonal of Σ: the sums of the squares of L's rows."""
        scale = params[1]
        return scale.square().sum(-1) if isinstance(scale, Tensor) else scale * scale

    @staticmethod
    def _loc(params: Params) -> Parameter:
        loc, scale = params
        return scale.new_full(scale.shape[:-1], loc) if isinstance(scale, Tensor) and isinstance(loc, float) else loc

    # ----------------------------------------------------------------------------------------------------- densities

    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """The density of each vector, summed over the last ``rank`` axes, the vector's own included."""
        self._require_vector(rank)
        if has_tensor(params):
            require_same(self, "the value", value.shape, sum(self.shapes(params, rank), start=()))
        loc, scale = widen(params)
        centred = wide(value) - loc
        squares = _solved(scale, centred).square().sum(-1)
        logs = _log_diagonal(scale, value.shape[-1])
        return total(squares * -0.5 - logs - HALF_LOG_2PI * value.shape[-1], rank - 1)

    def entropy(self, params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """Σ log diag L + ½·D·log 2πe, over the last ``rank`` axes."""
        self._require_vector(rank)
        loc, scale = widen(params)
        if not has_tensor(params):
            assert isinstance(scale, float)
            return (math.log(scale) + HALF_LOG_2PI + 0.5) * math.prod(require_event(self, shape))
        whole = sum(self.shapes(params, rank), start=())
        logs = _log_diagonal(scale, whole[-1]) + (HALF_LOG_2PI + 0.5) * whole[-1]
        tensor = scale if isinstance(scale, Tensor) else loc
        assert isinstance(tensor, Tensor)
        each = logs.expand(whole[:-1]) if isinstance(logs, Tensor) else tensor.new_full(whole[:-1], logs)
        return total(each, rank - 1)

    def kl(self, q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """`kl_multivariate_normal`."""
        return kl_multivariate_normal(q_params, p_params, rank, shape)

    def _require_vector(self, rank: int) -> None:
        if rank < 1:
            raise ShapeError(
                f"{self.name}: an event is a vector, with at least one axis; declare shape=D, got shape=()."
            )


multivariate_normal = MultivariateNormalFamily()


@register_kl(MultivariateNormalFamily, MultivariateNormalFamily)
def kl_multivariate_normal(q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
    """KL between multivariate Normals in nats, summed over the last ``rank`` axes."""
    family = multivariate_normal
    family._require_vector(rank)
    (q_loc, q_scale), (p_loc, p_scale) = widen(q_params), widen(p_params)
    if not has_tensor(q_params) and not has_tensor(p_params):
        ratio, shift = q_scale / p_scale, (q_loc - p_loc) / p_scale
        assert isinstance(ratio, float)
        each = 0.5 * (ratio * ratio + shift * shift - 1.0) - math.log(ratio)
        return each * math.prod(require_event(family, shape))
    whole = [sum(family.shapes(p, rank), start=()) for p in (q_params, p_params) if has_tensor(p)]
    require_same(family, "q", whole[0], whole[-1])
    size, like = whole[0][-1], next(p for p in (q_loc, q_scale, p_loc, p_scale) if isinstance(p, Tensor))
    if isinstance(q_scale, Tensor) or isinstance(p_scale, Tensor):
        left = _matrix(q_scale, size, like)
        ratio = torch.linalg.solve_triangular(_matrix(p_scale, size, like), left, upper=False)
        squares = ratio.square().sum((-1, -2))
    else:
        squares = like.new_full((), size * (q_scale / p_scale) ** 2)
    shift = (q_loc - p_loc) * like.new_ones(whole[0])
    squares = squares + _solved(p_scale, shift).square().sum(-1)
    return total(0.5 * (squares - size) + _log_diagonal(p_scale, size) - _log_diagonal(q_scale, size), rank - 1)


def _matrix(scale: Parameter, size: int, like: Tensor) -> Tensor:
    return scale if isinstance(scale, Tensor) else torch.eye(size, dtype=like.dtype, device=like.device) * scale


def _solved(scale: Parameter, vector: Tensor) -> Tensor:
    """L⁻¹·vector."""
    if not isinstance(scale, Tensor):
        return vector / scale
    solved: Tensor = torch.linalg.solve_triangular(scale, vector.unsqueeze(-1), upper=False)
    return solved.squeeze(-1)


def _log_diagonal(scale: Parameter, size: int) -> Parameter:
    """Σ log diag L."""
    return scale.diagonal(dim1=-2, dim2=-1).log().sum(-1) if isinstance(scale, Tensor) else size * math.log(scale)
