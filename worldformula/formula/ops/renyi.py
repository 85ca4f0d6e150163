r"""Rényi divergence, and the variational Rényi bound (Li & Turner 2016, arXiv:1602.02311).

    D_α(q ‖ p) = 1/(α−1) · log ∫ q(z)^α p(z)^{1−α} dz          α → 1 is KL(q ‖ p)
    L_α(q; x)  = 1/(1−α) · log E_{q(z|x)}[(p(x,z) / q(z|x))^{1−α}]        eq. 4; α → 1 is the ELBO, α = 0 is log p(x)

Between diagonal Normals, with σ*² = α·σ_p² + (1−α)·σ_q² (Gil et al. 2013, table 2):

    D_α = Σ log(σ_p / σ_q) + ½/(α−1) · log(σ_p² / σ*²) + ½·α·(μ_q − μ_p)² / σ*²,  and +∞ where some σ*² ≤ 0
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from worldformula.errors import FormulaError, NoClosedFormError, ShapeError
from worldformula.families import NormalFamily
from worldformula.families.writing import Sign
from worldformula.formula.expressions.expression import E, Expression, log
from worldformula.formula.expressions.values import exp
from worldformula.formula.factors.joint import Joint
from worldformula.formula.ops.base import Distribution, count, distribution, shown, symbol_of, written_number
from worldformula.formula.syntax.check import check_gradient
from worldformula.formula.syntax.given import number
from worldformula.formula.syntax.nodes import Node, Operator, Product, Use

Params = tuple[Tensor | float, ...]


def renyi_normal(q: Params, p: Params, alpha: Tensor | float, rank: float, width: float) -> Tensor:
    """D_α of two diagonal Normals: their parameters (loc, scale), ``[*batch, *event]``, to ``[*batch]``.

    ``width``: elements of an event, read only where all parameters are numbers.
    """
    like = next((v for v in (*q, *p) if isinstance(v, Tensor)), None)
    if like is None:
        like = torch.zeros(int(width), dtype=torch.float64)
        rank = 1
    loc_q, scale_q, loc_p, scale_p = (torch.as_tensor(v, dtype=like.dtype, device=like.device) for v in (*q, *p))
    var_q, var_p = scale_q.square(), scale_p.square()
    mixed = alpha * var_p + (1 - alpha) * var_q
    finite = mixed > 0
    safe = torch.where(finite, mixed, 1.0)
    each = 0.5 * (var_p / var_q).log() + 0.5 / (alpha - 1) * (var_p / safe).log()
    each = each + 0.5 * alpha * (loc_q - loc_p).square() / safe
    each = torch.where(finite, each, torch.inf)
    each = each + torch.zeros_like(like)  # a parameter that is a number has no axes of its own
    return each.sum(tuple(range(-int(rank), 0))) if rank else each


@dataclass(frozen=True, eq=False)
class RenyiNode(Operator):
    """D_α between two Normals over the same variable."""

    q: Use
    p: Use
    alpha: float | Node
    of_shared = True

    @property
    def sign(self) -> Sign:
        """D with its order."""
        text, latex, mathml = written_number(self.alpha)
        return Sign(f"Renyi{{α={text}}}", rf"D_{{{latex}}}", f"<msub><mi>D</mi>{mathml}</msub>")

    @property
    def numbers(self) -> tuple[int | float | Node, ...]:
        """The order."""
        return (self.alpha,)

    @property
    def parts(self) -> tuple[Product | Node, ...]:
        """The two factors."""
        return (self.q,), (self.p,)

    def lower(self, lowering: Any, scope: Any) -> str:
        """The closed form, on the parameters."""
        left, right = lowering.params(self.q, scope), lowering.params(self.p, scope)
        if lowering.of_row(left) or not (self.q.factor.unbatched or lowering.of_row(right)):
            right = lowering.widened(right, self.p, left)
        elif not self.p.factor.unbatched:
            left = lowering.widened(left, self.q, right)
        key, rank = self.q.factor.variable.key, lowering.event_rank(self.q.factor.variable)
        width = 1
        for size in lowering.shapes.get(key, ()):
            width *= size
        alpha = lowering.lower(self.alpha, scope) if isinstance(self.alpha, Node) else self.alpha
        return str(lowering.call(f"renyi_{key}", renyi_normal, left, right, alpha, float(rank), float(width)))

    @property
    def estimator(self) -> tuple[str, str]:
        """The closed form."""
        return "closed form (normal, normal)", "exact"


def _order(what: str, alpha: Any, *, zero: bool) -> float | Node:
    if (symbol := symbol_of(alpha, partial(_order, what, zero=zero))) is not None:
        return symbol
    known = number(alpha)
    fits = known is not None and math.isfinite(known) and alpha != 1 and (zero or alpha > 0)
    if not fits:
        least = "other than 1" if zero else "greater than 0 and other than 1"
        other = "the ELBO" if zero else "KL(q, p)"
        raise FormulaError(f"{what}: expected alpha= as a number {least}, got {alpha!r}; at 1 it is {other}")
    return float(alpha)


def Renyi(q: Distribution, p: Distribution, alpha: float | Expression, *, samples: int | None = None) -> Expression:
    """D_α(q ‖ p), for each row of the batch: in closed form between Normals, else by Monte Carlo.

    Args:
        q: what is drawn where it is estimated.
        p: over the same variables.
        alpha: the order, greater than 0 and other than 1.
        samples: estimate 1/(α−1) · log E_q[(q/p)^{α−1}] by so many draws; biased for any finite number.

    Raises:
        NoClosedFormError: no pair of Normals, and no ``samples``.
    """
    order = _order("Renyi", alpha, zero=False)
    if samples is not None:
        return -_bound(q, p, order, samples)
    left, right = distribution("Renyi", q), distribution("Renyi", p)
    normals = [u.factor for u in (*left, *right) if isinstance(u.factor.family, NormalFamily)]
    if len(normals) != 2 or len(left) != 1 or len(right) != 1:
        raise NoClosedFormError(
            f"Renyi[{shown(left)} ‖ {shown(right)}]: a closed form exists between two Normals\n"
            f"estimate it: Renyi(q, p, {written_number(order).text}, samples=8)"
        )
    a, b = normals
    if a.variable != b.variable:
        raise FormulaError(f"Renyi[{a} ‖ {b}]: expected two factors of one variable")
    if a.shape is not None and b.shape is not None and a.shape != b.shape:
        raise ShapeError(f"Renyi[{a} ‖ {b}]: expected equal event shapes, got {a.shape} and {b.shape}")
    return Expression(RenyiNode(left[0], right[0], order))


def VRBound(q: Distribution, p: Distribution, alpha: float | Expression, *, samples: int) -> Expression:
    """The variational Rényi bound of log p(x), as a formula: 1/(1−α) · log E_q[(p / q)^{1−α}], K draws of q.

    Args:
        q: the posterior.
        p: the product of prior and likelihood, ``prior * decode``.
        alpha: the order, other than 1; 0 is the importance-weighted bound.
        samples: K, the draws of q.
    """
    return _bound(q, p, _order("VRBound", alpha, zero=True), samples)


def _bound(q: Distribution, p: Distribution, order: float | Node, samples: int | None) -> Expression:
    """The bound of a checked order."""
    left, right = distribution("VRBound", q), distribution("VRBound", p)
    samples = count("VRBound", "samples", samples)
    if samples is None:
        raise FormulaError("VRBound: expected samples= as a positive number of draws")
    check_gradient(tuple(u for u in left if not u.stopped), None)
    ours, theirs = Joint(*left), Joint(*right)
    weight = log(theirs) - log(ours)
    if order == 0:
        return log(E(ours, exp(weight), samples=samples))
    share = 1 - (Expression(order) if isinstance(order, Node) else order)
    return log(E(ours, exp(share * weight), samples=samples)) / share
