"""Distributions made of the experts of several factors: their product, and their mixture with fixed shares.

    product   N(μ, σ²) with  σ⁻² = Σ_m σ_m⁻²,  μ = σ²·Σ_m σ_m⁻²·μ_m             (Wu & Goodman 2018, arXiv:1802.05335)
              N(μ, Σ)  with  Σ⁻¹ = Σ_m Σ_m⁻¹,  μ = Σ·Σ_m Σ_m⁻¹·μ_m              of full covariances
    mixture   q(z) = Σ_m w_m·q_m(z),  equal weights, or given ones                   (Shi et al. 2019, arXiv:1911.03393)

An expert that is absent from a row is removed from it: its precision counts as zero, its weight goes to the others, in
proportion to theirs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from worldformula.errors import HeadError
from worldformula.families.base import Params, broadcast, draw_class, log_probs, wide
from worldformula.families.mixture import MixtureFamily
from worldformula.families.special import precise, rounded
from worldformula.families.writing import Sign


@dataclass(frozen=True, repr=False)
class ExpertsFamily(MixtureFamily):
    """A mixture whose weights no parameter moves, so that the path through the drawn component is unbiased.

    Where they are learnt or come from a network, ``moved``, that path would miss them, and a sample has no gradient, as
    one of every mixture. ``stratified`` draws from every component at once, which is unbiased in both cases.
    """

    moved: bool = False

    name: ClassVar[str] = "experts"
    symbol: ClassVar[Sign] = Sign("MoE", r"\mathrm{MoE}")
    reparametrised: ClassVar[bool] = True
    gradients: ClassVar[tuple[str, ...]] = ("reparametrised", "stratified")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.moved:
            object.__setattr__(self, "reparametrised", False)
            object.__setattr__(self, "gradients", ("stratified", "score"))

    def __repr__(self) -> str:
        """Source."""
        plain = super().__repr__()
        return f"{plain[:-1]}, moved=True)" if self.moved else plain

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """A value of one drawn component, with the gradient of that component's sample where weights do not move."""
        if self.moved:
            return super().sample(params, noise)
        weights, *parts = params
        assert isinstance(weights, Tensor)
        index = draw_class(wide(weights).detach().exp(), noise[..., 0])
        inner = self._inner_rank(params)
        _, event = self.component.shapes(tuple(parts), inner)
        own = noise[..., 1:].reshape(self.component.noise_shape(tuple(index.shape), event))
        return self.component.sample(self._chosen(tuple(parts), index, inner), own)

    def stratified(self, params: Params, noise: Tensor) -> Tensor:
        """One value of each component, ``[K, *batch, *event]``, from noise with that leading axis."""
        weights, *parts = params
        assert isinstance(weights, Tensor)
        axis, inner = weights.ndim - 1, self._inner_rank(params)
        _, event = self.component.shapes(tuple(parts), inner)
        own = noise[..., 1:].reshape(self.component.noise_shape(tuple(noise.shape[:-1]), event))
        each = [tuple(p.select(axis, k) for p in parts if isinstance(p, Tensor)) for k in range(self.components)]
        return torch.stack([self.component.sample(e, n) for e, n in zip(each, own, strict=True)])


def poe(*experts: Params, present: Sequence[Tensor | None] = ()) -> Params:
    """The product of Normals, ``(loc, scale)`` each.

    present: for each expert, None or flags ``[*batch]`` of the rows that have it. A row without any expert has no
    product, and gets N(0, 1) in its place; a prior expert is what makes it one.
    """
    masks = (*present, *(None,) * (len(experts) - len(present)))
    like = _widest("PoE", experts)
    precision: Tensor | float = 0.0
    weighted: Tensor | float = 0.0
    for (loc, scale), mask in zip(experts, masks, strict=True):
        own = wide(scale).pow(-2) if isinstance(scale, Tensor) else scale**-2
        if mask is not None:
            there = (mask != 0).reshape(mask.shape + (1,) * (like.ndim - mask.ndim))
            own, loc = (
                torch.where(there, x if isinstance(x, Tensor) else like.new_full((), x), 0.0) for x in (own, loc)
            )
        precision, weighted = precision + own, weighted + own * loc
    if isinstance(precision, Tensor) and present:
        precision = torch.where(precision > 0.0, precision, 1.0)
    return weighted / precision, precision**-0.5


def poe_full(*experts: Params, present: Sequence[Tensor | None] = (), diagonal: Sequence[int] = ()) -> Params:
    """The product of Normals of which some have a full covariance: ``(loc, scale_tril)``, in float64 on the way.

    experts: ``(loc, scale_tril)`` each; those in ``diagonal`` are ``(loc, scale)``.
    present: as in `poe`.
    """
    masks = (*present, *(None,) * (len(experts) - len(present)))
    given = [precise(expert) for expert in experts]
    shapes = [
        tuple(x.shape[: x.ndim - (which == 1 and place not in diagonal)])
        for place, expert in enumerate(given)
        for which, x in enumerate(expert)
        if isinstance(x, Tensor)
    ]
    _widest("PoE", experts)
    whole = broadcast(*shapes)
    like = next(x for expert in given for x in expert if isinstance(x, Tensor))
    eye = torch.eye(whole[-1], dtype=like.dtype, device=like.device)
    precision, weighted = like.new_zeros(()), like.new_zeros(())
    for place, ((loc, scale), mask) in enumerate(zip(given, masks, strict=True)):
        if not isinstance(scale, Tensor) or place in diagonal:
            own = eye * (scale.pow(-2).unsqueeze(-1) if isinstance(scale, Tensor) else scale**-2)
        else:
            root = torch.linalg.solve_triangular(scale, eye.expand(scale.shape), upper=False)
            own = root.mT @ root
        pulled = (own * (loc.unsqueeze(-2) if isinstance(loc, Tensor) else loc)).sum(-1)
        if mask is not None:
            there = (mask != 0).reshape(mask.shape + (1,) * (len(whole) - mask.ndim))
            own, pulled = torch.where(there.unsqueeze(-1), own, 0.0), torch.where(there, pulled, 0.0)
        precision, weighted = precision + own, weighted + pulled
    if present:
        precision = torch.where(precision.diagonal(dim1=-2, dim2=-1).unsqueeze(-1) > 0.0, precision, eye)
    # With the order of the axes turned, the factor of a precision becomes the inverse of that of the covariance.
    turned: Tensor = torch.linalg.cholesky_ex(precision.flip((-2, -1)))[0]
    inverse = turned.flip((-2, -1)).mT
    tril: Tensor = torch.linalg.solve_triangular(inverse, eye.expand(inverse.shape), upper=False)
    mean = (tril @ (tril.mT @ weighted.expand(precision.shape[:-1]).unsqueeze(-1))).squeeze(-1)
    flat = [x for expert in experts for x in expert]
    return rounded(mean.expand(whole), *flat), rounded(tril.expand(*whole, whole[-1]), *flat)


def _widest(name: str, experts: Sequence[Params]) -> Tensor:
    """The tensor with the most axes among the parameters of all; raises `HeadError` where all are numbers."""
    tensors = [p for params in experts for p in params if isinstance(p, Tensor)]
    if not tensors:
        raise HeadError(
            f"{name}: the parameters of all experts are numbers; give one of them as a tensor, such as "
            f"loc=torch.zeros(2)"
        )
    return max(tensors, key=lambda p: p.ndim)


def mixed(
    *experts: Params, present: Sequence[Tensor | None] = (), rank: int = 1, weighted: bool = False
) -> Params:  # fmt: skip
    """The parameters of `ExpertsFamily`: log-weights ``[*batch, K]`` and those of the experts along a new axis K.

    weighted: whether the log-weights ``[*batch, K]``, or a number where they are equal, come behind the experts. They
    are equal in a row that lacks what their network reads.
    """
    masks = (*present, *(None,) * (len(experts) - len(present)))
    logits: Tensor | float = 0.0
    if weighted:
        *experts, (logits,) = experts  # type: ignore[assignment]
        *masks, told = masks  # type: ignore[assignment]
        if told is not None and isinstance(logits, Tensor):
            logits = torch.where((told != 0).unsqueeze(-1), logits, 0.0)
    like = _widest("MoE", experts)
    lead = torch.broadcast_shapes(*(p.shape for params in experts for p in params if isinstance(p, Tensor)))  # type: ignore[no-untyped-call]
    batch = tuple(lead[: len(lead) - rank])
    if isinstance(logits, Tensor):
        batch = broadcast(batch, tuple(logits.shape[:-1]))
        lead = (*batch, *lead[len(lead) - rank :])
    parts: list[Tensor] = []
    for column in zip(*experts, strict=True):
        full = [p.expand(lead) if isinstance(p, Tensor) else like.new_full(lead, p) for p in column]
        parts.append(torch.stack(full, len(lead) - rank))
    if all(mask is None for mask in masks) and not isinstance(logits, Tensor):
        return like.new_full((*batch, len(experts)), -math.log(len(experts))), *parts
    there = torch.stack(
        [like.new_ones(batch) if m is None else (m != 0).to(like.dtype).expand(batch) for m in masks], -1
    )
    shares = there * wide(logits).softmax(-1) if isinstance(logits, Tensor) else there
    return log_probs(shares / shares.sum(-1, keepdim=True)), *parts


def mean_of_present(*values: Tensor | float, flagged: Sequence[int] = ()) -> Tensor:
    """The mean of the values whose expert is present, row by row; those of the others count for nothing, NaN included.

    values: one ``[*batch]`` for each expert, a number where it is constant, and behind them the flags of those whose
    places are in ``flagged``.
    """
    count = len(values) - len(flagged)
    like = next((v for v in values[:count] if isinstance(v, Tensor)), torch.empty(0, dtype=torch.float64))
    each = [v if isinstance(v, Tensor) else like.new_tensor(v) for v in values[:count]]
    flags = {place: flag for place, flag in zip(flagged, values[count:], strict=True) if isinstance(flag, Tensor)}
    for place, flag in flags.items():
        each[place] = torch.where(flag != 0, each[place], 0.0)
    each = torch.broadcast_tensors(*each)  # type: ignore[no-untyped-call]  # that of a constant expert has no batch
    total = torch.stack(each).sum(0)
    if not flags:
        return total / count
    return total / (torch.stack([flag != 0 for flag in flags.values()]).sum(0) + (count - len(flags)))


def log_shares(params: Params) -> Tensor:
    """The log-weights of a mixture with the components on the leading axis: ``[K, *batch]``."""
    weights = params[0]
    assert isinstance(weights, Tensor)
    return weights.movedim(-1, 0)
