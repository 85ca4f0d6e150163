r"""Maximum mean discrepancy, squared (Gretton et al. 2012, JMLR 13).

    MMD²(q, p) = E[k(x, x')] + E[k(y, y')] − 2 E[k(x, y)],   x, x' ~ q,  y, y' ~ p

    unbiased   the first two means leave out the pairs of a sample and itself (eq. 3); may be negative
    biased     all pairs (eq. 5), never negative, too large by O(1/N)

Kernels, with C = 2·D·scale² for D numbers in an event (the mean squared distance of two standard Normals at scale 1):

    gaussian                 exp(−‖x − y‖² / C)
    inverse multiquadratic   C / (C + ‖x − y‖²)                      Tolstikhin et al. 2018, arXiv:1711.01558

Several scales are averaged. The value has no batch axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worldformula.errors import FormulaError, near
from worldformula.families.writing import Sign
from worldformula.formula.expressions.expression import Expression
from worldformula.formula.ops.base import Compared, Distribution, count, marked, rows, sides, symbol_of, written_number
from worldformula.formula.syntax.given import number
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import Node, Product
from worldformula.formula.syntax.text import typeset

KERNELS = ("gaussian", "imq")


def squared_mmd(
    x: Tensor,
    y: Tensor,
    *,
    rank: int,
    kernel: str,
    scales: tuple[float, ...],
    unbiased: bool,
    scale: Tensor | float | None = None,
) -> Tensor:
    """MMD² of samples ``[..., *event]`` with any number of batch axes: one number. ``scale`` is one of the call.

    Raises:
        FormulaError: fewer than two samples of a side, where the estimator leaves out pairs.
    """
    x, y = rows(x, rank), rows(y, rank)
    if unbiased and min(len(x), len(y)) < 2:
        raise FormulaError(f"MMD: expected two samples of each side or more, got {len(x)} and {len(y)}")
    whole = _kernel(torch.cat((x, y)), kernel, scales if scale is None else (scale,))
    n = len(x)
    within_x, within_y, between = whole[:n, :n], whole[n:, n:], whole[:n, n:]
    if not unbiased:
        return within_x.mean() + within_y.mean() - 2 * between.mean()
    first, second = (
        (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1)) for k in (within_x, within_y)
    )  # pairs of a sample and itself say nothing about the distribution
    return first + second - 2 * between.mean()


def _kernel(z: Tensor, kernel: str, scales: Sequence[Tensor | float]) -> Tensor:
    """k(z_i, z_j), the mean over the scales: ``[N, D]`` to ``[N, N]``."""
    norms = z.square().sum(-1)
    squared = (norms[:, None] + norms - 2 * z @ z.T).clamp_min(0)  # rounding may leave −1e-7
    total = torch.zeros_like(squared)
    for scale in scales:
        c = 2 * z.shape[1] * scale**2
        total = total + ((-squared / c).exp() if kernel == "gaussian" else c / (c + squared))
    return total / len(scales)


@dataclass(frozen=True, eq=False)
class MMDNode(Compared):
    """MMD² of the samples of two sides."""

    q: Product
    p: Product
    variable: Variable
    kernel: str
    scales: tuple[float, ...]
    unbiased: bool
    samples: int | None
    gradient: str | None
    scale: Node | None = None

    @property
    def numbers(self) -> tuple[int | float | Node, ...]:
        """The scale, where the call gives it."""
        return () if self.scale is None else (self.scale,)

    @property
    def sign(self) -> Sign:
        """MMD² with its kernel."""
        bias = "" if self.unbiased else "biased"
        k = "" if self.samples is None else f"K={self.samples}"
        below = ",\\, ".join(rf"\mathrm{{{m}}}" for m in (self.kernel, bias, k) if m)
        shown = ", ".join(m for m in (self.kernel, bias, k) if m)
        text, latex, mathml = self._scale()
        below += rf",\, {latex}" if latex else ""
        return Sign(
            marked("MMD²", self.kernel, bias, k, f"scale={text}" if text else ""),
            rf"\mathrm{{MMD}}^{{2}}_{{{below}}}",
            f"<msubsup><mi>MMD</mi>{_below(shown, mathml)}<mn>2</mn></msubsup>",
        )

    def _scale(self) -> tuple[str, str, str]:
        """Its scale, or scales, where it is not the usual one: ``2.0``, ``(1.0,2.0)``."""
        if self.scale is not None:
            return written_number(self.scale)
        if self.scales == (1.0,):
            return "", "", ""
        written = [written_number(s, typeset) for s in self.scales]
        text, shown = (",".join(getattr(w, kind) for w in written) for kind in ("text", "latex"))
        mathml = "<mo>,</mo>".join(w.mathml for w in written)
        several = len(written) > 1
        return (f"({text})", f"({shown})", f"<mo>(</mo>{mathml}<mo>)</mo>") if several else (text, shown, mathml)

    def compare(self, lowering: Any, inside: Any, left: str, right: str) -> str:
        """One number."""
        options = (
            ("rank", lowering.event_rank(self.variable)),
            ("kernel", self.kernel),
            ("scales", self.scales),
            ("unbiased", self.unbiased),
            *((("scale", self.scale),) if self.scale is not None else ()),
        )
        return str(lowering.call("mmd", squared_mmd, left, right, how="batch", options=options))

    @property
    def estimator(self) -> tuple[str, str]:
        """Which statistic."""
        how, gradient = super().estimator
        return f"{how}; {'unbiased' if self.unbiased else 'biased, O(1/N)'}", gradient


def MMD(
    q: Distribution,
    p: Distribution,
    *,
    kernel: str = "gaussian",
    scale: float | Expression | Sequence[float] = 1.0,
    unbiased: bool = True,
    samples: int | None = None,
    gradient: str | None = None,
) -> Expression:
    """MMD²(q, p) of the variable that both declare, over the samples of the batch; a value without batch axes.

    Args:
        q: a factor or a product: ``encode``, ``Data("p_data(x)")``, ``prior * decode``.
        p: the other side. What both sides draw is drawn anew for this one.
        kernel: ``"gaussian"`` or ``"imq"``, the inverse multiquadratic.
        scale: of the kernel, relative to a standard Normal; several are averaged.
        unbiased: leave out the pairs of a sample and itself.
        samples: so many draws for each row, or in all where there are no data.
        gradient: ``"straight-through"`` or ``"gumbel"`` for draws without reparametrised samples.

    Raises:
        FormulaError: no common variable, an unknown kernel, or a scale that is not positive.
    """
    if kernel not in KERNELS:
        raise FormulaError(
            f"MMD: expected kernel= as one of {', '.join(KERNELS)}, got {kernel!r}.{near(str(kernel), KERNELS)}"
        )
    symbol = symbol_of(scale, _scales)
    scales = () if symbol is not None else _scales(scale)
    left, right, variable = sides("MMD", q, p, gradient)
    samples = count("MMD", "samples", samples)
    return Expression(MMDNode(left, right, variable, kernel, scales, bool(unbiased), samples, gradient, symbol))


def _below(shown: str, scale: str) -> str:
    """What stands below the sign in MathML."""
    return f"<mrow><mi>{shown}</mi><mo>,</mo>{scale}</mrow>" if scale else f"<mi>{shown}</mi>"


def _scales(scale: Any) -> tuple[float, ...]:
    """Positive numbers."""
    known = tuple(number(s) for s in (scale if isinstance(scale, Sequence) else (scale,)))
    if not known or not all(s is not None and s > 0 for s in known):
        raise FormulaError(f"MMD: expected scale= as positive numbers, or one Symbol, got {scale!r}")
    return tuple(float(s) for s in known if s is not None)
