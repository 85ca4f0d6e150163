"""The multivariate Normal distribution whose covariance is a diagonal plus R directions: ``Σ = W·Wᵀ + diag d``.

It costs O(D·R²) where a full covariance costs O(D³): the determinant and the inverse go through the R × R matrix
``C = I + Wᵀ·diag(d)⁻¹·W`` (Woodbury):

    log |Σ|    = log |C| + Σ log d
    vᵀ·Σ⁻¹·v   = Σ v²/d - |C^{-½}·Wᵀ·(v/d)|²
    log p(x)   = -½·((x-loc)ᵀ·Σ⁻¹·(x-loc) + log |Σ| + D·log 2π)
    KL(q‖p)    = ½·(tr(Σ_p⁻¹·Σ_q) + (loc_q-loc_p)ᵀ·Σ_p⁻¹·(loc_q-loc_p) - D + log |Σ_p| - log |Σ_q|)

The two parts of the second line nearly cancel where W is large, so it is computed in float64. An event ``(G, D)`` is G
independent vectors.
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
    has_tensor,
    require_event,
    require_same,
    split_vectors,
    total,
)
from worldformula.families.closed import register_kl
from worldformula.families.domains import POSITIVE, REAL, Domain
from worldformula.families.special import precise, rounded
from worldformula.families.tensors import floating
from worldformula.families.writing import Sign

LOG_2PI = math.log(2.0 * math.pi)


@dataclass(frozen=True)
class LowRankNormalFamily(Family):
    """Low-rank Normal with ``loc`` ``[..., D]``, ``cov_factor`` ``[..., D, R]`` (W) and ``cov_diag`` ``[..., D]`` (d).

    ``cov_rank`` is R. A head gives D numbers for loc, D·R for W and D for d = softplus(·) + ``min_variance``. The names
    are those of torch's ``LowRankMultivariateNormal``; as a number, ``cov_factor`` can only be 0.
    """

    cov_rank: int = 1
    min_variance: float = 0.0

    name: ClassVar[str] = "low_rank_normal"
    symbol: ClassVar[Sign] = Sign("N", r"\mathcal{N}")
    parameters: ClassVar[tuple[str, ...]] = ("loc", "cov_factor", "cov_diag")
    reparametrised: ClassVar[bool] = True
    estimator: ClassVar[str | None] = "reparametrised"
    gradients: ClassVar[tuple[str, ...]] = ("reparametrised",)
    default_rank: ClassVar[int] = 1
    joint: ClassVar[int | None] = 1
    values: ClassVar[Domain | None] = REAL
    domains: ClassVar[Mapping[str, Domain]] = MappingProxyType({"cov_diag": POSITIVE})
    reference: ClassVar[str] = "torch.distributions:LowRankMultivariateNormal"

    def check_settings(self) -> None:
        """As every family."""
        if self.cov_rank < 1 or not self.min_variance >= 0.0:
            got = f"cov_rank={self.cov_rank}, min_variance={self.min_variance}"
            raise ConfigError(f"low_rank_normal: expected cov_rank of at least 1 and min_variance >= 0, got {got}.")

    def axes(self, name: str, rank: int) -> int:
        """cov_factor has one axis more than the value."""
        return rank + (name == "cov_factor")

    def split(self, head: Tensor, shape: Shape | None, names: Sequence[str]) -> tuple[Tensor, ...]:
        """A head ``[..., *event[:-1], N]``, or flat, with the N numbers of one vector; W row by row."""
        return split_vectors(self.name, head, shape, names, lambda name, size: size * self._columns(name))

    def _columns(self, name: str) -> int:
        return self.cov_rank if name == "cov_factor" else 1

    def constrain(self, pieces: tuple[Tensor, ...], names: Sequence[str], shape: Shape | None) -> tuple[Tensor, ...]:
        """W as a matrix; softplus(·) + min_variance for the diagonal."""
        found = []
        for name, piece in zip(names, pieces, strict=True):
            if name == "cov_factor":
                piece = piece.unflatten(-1, (-1, self.cov_rank))  # type: ignore[no-untyped-call]
            elif name == "cov_diag":
                piece = F.softplus(piece) + self.min_variance
            found.append(piece)
        return tuple(found)

    def convert(self, name: str, value: Parameter, shape: Shape | None) -> Parameter:
        """A number for W can only be 0, one for d must be positive."""
        if isinstance(value, Tensor):
            if name == "cov_factor" and (value.ndim < 2 or value.shape[-1] != self.cov_rank):
                expected = f"[..., D, {self.cov_rank}]"
                raise HeadError(f"low_rank_normal: cov_factor must be {expected}, got {list(value.shape)}.")
        elif (name == "cov_factor" and value != 0.0) or (name == "cov_diag" and not value > 0.0):
            possible = "0" if name == "cov_factor" else "positive"
            raise HeadError(f"low_rank_normal: {name} as a number must be {possible}, got {value}.")
        return value

    def _fill(self, params: Params, shape: Shape | None) -> Params:
        if shape is None or not isinstance(params[0], Tensor):
            return params
        loc = params[0]
        return (loc.expand((*loc.shape[: max(loc.ndim - len(shape), 0)], *shape)), *params[1:])

    def constants(self, shape: Shape) -> dict[str, Parameter]:
        """loc 0 and the identity, as numbers."""
        return {"loc": 0.0, "cov_factor": 0.0, "cov_diag": 1.0}

    def head_width(self, shape: Shape, fixed: Mapping[str, Parameter] = NOTHING) -> int | None:
        """prod(shape)·(2 + R)."""
        return math.prod(shape) * sum(self._columns(name) for name in self.parameters if name not in fixed)

    # ------------------------------------------------------------------------------------------------------ sampling

    def noise_shape(self, batch: Shape, shape: Shape, params: Params | None = None) -> Shape:
        """D numbers for the diagonal and R for the directions, on the last axis."""
        return (*batch, *shape[:-1], shape[-1] + self.cov_rank)

    def noise(
        self, shape: Shape, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Standard normal noise."""
        return torch.randn(shape, dtype=dtype, device=device, generator=generator)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """loc + √d·noise[:D] + W·noise[D:]."""
        loc, factor, diagonal = params
        own, shared = noise[..., : -self.cov_rank], noise[..., -self.cov_rank :]
        value = loc + (diagonal.sqrt() if isinstance(diagonal, Tensor) else math.sqrt(diagonal)) * own
        return value + (factor @ shared.unsqueeze(-1)).squeeze(-1) if isinstance(factor, Tensor) else value

    def mode(self, params: Params) -> Parameter:
        """loc."""
        return self._loc(params)

    def mean(self, params: Params) -> Parameter:
        """loc."""
        return self._loc(params)

    def variance(self, params: Params) -> Parameter:
        """The diagonal of Σ: d and the sums of the squares of W's rows."""
        _, factor, diagonal = params
        return diagonal + factor.square().sum(-1) if isinstance(factor, Tensor) else diagonal

    def _loc(self, params: Params) -> Parameter:
        if isinstance(params[0], Tensor) or not has_tensor(params):
            return params[0]
        like = next(p for p in params if isinstance(p, Tensor))
        return like.new_full(sum(self.shapes(params, 1), start=()), params[0])

    # ----------------------------------------------------------------------------------------------------- densities

    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """The density of each vector, summed over the last ``rank`` axes, the vector's own included."""
        self._require_vector(rank)
        if has_tensor(params):
            require_same(self, "the value", value.shape, sum(self.shapes(params, rank), start=()))
        (x,) = precise((floating(value, next((p for p in params if isinstance(p, Tensor)), 0.0)),))
        assert isinstance(x, Tensor)
        loc, factor, diagonal = self._tensors(params, x)
        root = root_of(factor, diagonal)
        squares = squared(factor, diagonal, root, x - loc)
        each = -0.5 * (squares + log_det(diagonal, root) + LOG_2PI * x.shape[-1])
        return rounded(total(each, rank - 1), value, *params)

    def entropy(self, params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """½·(log |Σ| + D·log 2πe), over the last ``rank`` axes."""
        self._require_vector(rank)
        if not has_tensor(params):
            assert isinstance(params[2], float)
            return 0.5 * (math.log(params[2]) + LOG_2PI + 1.0) * math.prod(require_event(self, shape))
        like = next(p for p in precise(params) if isinstance(p, Tensor))
        loc, factor, diagonal = self._tensors(params, like.new_empty(sum(self.shapes(params, rank), start=())))
        each = log_det(diagonal, root_of(factor, diagonal)) + (LOG_2PI + 1.0) * loc.shape[-1]
        return rounded(total(0.5 * each.expand(loc.shape[:-1]), rank - 1), *params)

    def kl(self, q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """`kl_low_rank_normal`."""
        return kl_low_rank_normal(q_params, p_params, rank, shape)

    def _tensors(self, params: Params, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The parameters, `precise`, as tensors for values like this one, numbers included."""
        loc, factor, diagonal = (p if isinstance(p, Tensor) else value.new_full((), p) for p in precise(params))
        factor = factor if factor.ndim else factor.expand((value.shape[-1], 1))
        return loc.expand(value.shape), factor, diagonal.expand(value.shape)

    def _require_vector(self, rank: int) -> None:
        if rank < 1:
            raise ShapeError(
                f"{self.name}: an event is a vector, with at least one axis; declare shape=D, got shape=()."
            )


low_rank_normal = LowRankNormalFamily()


@register_kl(LowRankNormalFamily, LowRankNormalFamily)
def kl_low_rank_normal(q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
    """KL between low-rank Normals in nats, summed over the last ``rank`` axes."""
    family = low_rank_normal
    family._require_vector(rank)
    if not has_tensor(q_params) and not has_tensor(p_params):
        (q_loc, _, q_diag), (p_loc, _, p_diag) = q_params, p_params
        ratio = q_diag / p_diag
        assert isinstance(ratio, float)
        each = 0.5 * (ratio + (q_loc - p_loc) ** 2 / p_diag - 1.0 - math.log(ratio))
        return each * math.prod(require_event(family, shape))
    whole = [sum(family.shapes(p, rank), start=()) for p in (q_params, p_params) if has_tensor(p)]
    require_same(family, "q", whole[0], whole[-1])
    like = next(p for p in precise((*q_params, *p_params)) if isinstance(p, Tensor)).new_empty(whole[0])
    q_loc, q_factor, q_diagonal = family._tensors(q_params, like)
    p_loc, p_factor, p_diagonal = family._tensors(p_params, like)
    root = root_of(p_factor, p_diagonal)
    scaled = p_factor / p_diagonal.unsqueeze(-1)
    inside = torch.cat((scaled * q_diagonal.sqrt().unsqueeze(-1), products(q_factor, scaled)), -2)
    trace = (q_diagonal / p_diagonal).sum(-1) + (q_factor.square() / p_diagonal.unsqueeze(-1)).sum((-1, -2))
    trace = trace - torch.linalg.solve_triangular(root, inside.mT, upper=False).square().sum((-1, -2))
    squares = trace + squared(p_factor, p_diagonal, root, q_loc - p_loc) - like.shape[-1]
    logs = log_det(p_diagonal, root) - log_det(q_diagonal, root_of(q_factor, q_diagonal))
    return rounded(total(0.5 * (squares + logs), rank - 1), *q_params, *p_params)


def products(left: Tensor, right: Tensor) -> Tensor:
    """Leftᵀ·right of ``[..., D, R]`` and ``[..., D, S]``, as a sum: a matmul would lose precision under autocast."""
    return (left.unsqueeze(-1) * right.unsqueeze(-2)).sum(-3)


def root_of(factor: Tensor, diagonal: Tensor) -> Tensor:
    """The Cholesky factor of C; without a check that would wait for the device, as C is at least the identity."""
    eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    root: Tensor = torch.linalg.cholesky_ex(eye + products(factor, factor / diagonal.unsqueeze(-1)))[0]
    return root


def log_det(diagonal: Tensor, root: Tensor) -> Tensor:
    """log |Σ|."""
    return diagonal.log().sum(-1) + 2.0 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def squared(factor: Tensor, diagonal: Tensor, root: Tensor, vector: Tensor) -> Tensor:
    """vectorᵀ·Σ⁻¹·vector."""
    scaled = vector / diagonal
    inner: Tensor = (factor * scaled.unsqueeze(-1)).sum(-2).unsqueeze(-1)
    inner = torch.linalg.solve_triangular(root, inner, upper=False)
    return (vector * scaled).sum(-1) - inner.square().sum((-1, -2))
