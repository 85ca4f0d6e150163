r"""Divergences by a learned density ratio: a discriminator d whose optimum is log q(x) − log p(x).

    its loss    BCE(q, p)  =  E_q[softplus(−d)] + E_p[softplus(d)]            Goodfellow et al. 2014, arXiv:1406.2661
    its value   D_KL^adv(q ‖ p) = E_q[d]                                       Sugiyama et al. 2012; Kim & Mnih 2018
                D_JS^adv(q, p)  = log 2 − ½ E_q[softplus(−d)] − ½ E_p[softplus(d)]
                W^adv(q, p)     = E_q[d] − E_p[d], where d is 1-Lipschitz     Arjovsky et al. 2017, arXiv:1701.07875

As players of a `Game`: the discriminator minimises ``ratio.loss()`` and its samples are stopped there, so nothing of it
reaches q or p; whoever moves q or p adds ``ratio.kl()`` or ``ratio.js()`` to their loss and does not move d. The values
are estimates as good as d is, and biased low where q and p hardly overlap (above 8 nats or so).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from worldformula.errors import FormulaError
from worldformula.families.writing import Sign
from worldformula.formula.expressions.expression import Expression
from worldformula.formula.ops.base import Distribution, check_reparametrised, over_rows, random, shown, sides
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import Node, Operator, Product, Use


def mean_ratio(q: Tensor) -> Tensor:
    """E_q[d] of logits with any batch axes."""
    return q.mean()


def binary_cross_entropy(q: Tensor, p: Tensor) -> Tensor:
    """E_q[softplus(−d)] + E_p[softplus(d)] of logits with any batch axes."""
    return F.softplus(-q).mean() + F.softplus(p).mean()


def jensen_shannon(q: Tensor, p: Tensor) -> Tensor:
    """log 2 − ½·`binary_cross_entropy`."""
    return math.log(2) - 0.5 * binary_cross_entropy(q, p)


def mean_gap(q: Tensor, p: Tensor) -> Tensor:
    """E_q[d] − E_p[d]."""
    return q.mean() - p.mean()


SIGNS = {
    "kl": (mean_ratio, "KL^adv", r"D_{\mathrm{KL}}^{\mathrm{adv}}", ("D", "KL", "adv")),
    "js": (jensen_shannon, "JS^adv", r"D_{\mathrm{JS}}^{\mathrm{adv}}", ("D", "JS", "adv")),
    "wasserstein": (mean_gap, "W^adv", r"W^{\mathrm{adv}}", ("W", "", "adv")),
    "loss": (binary_cross_entropy, "BCE", r"\mathrm{BCE}", ("BCE", "", "")),
}


@dataclass(frozen=True, eq=False)
class RatioNode(Operator):
    """One value of a density ratio: ``how`` is a key of `SIGNS`."""

    how: str
    q: Product
    p: Product
    variable: Variable
    ratio: Use
    gradient: str | None = None

    @property
    def sign(self) -> Sign:
        """D with its kind; the loss with the name of the discriminator."""
        _, text, latex, (base, sub, sup) = SIGNS[self.how]
        if self.how == "loss":
            letter = self.ratio.factor.variable.base
            return Sign(f"BCE_{letter}", rf"\mathrm{{BCE}}_{{{letter}}}", f"<msub><mi>BCE</mi><mi>{letter}</mi></msub>")
        return Sign(text, latex, f"<msubsup><mi>{base}</mi><mi>{sub}</mi><mi>{sup}</mi></msubsup>")

    @property
    def parts(self) -> tuple[Product | Node, ...]:
        """The two sides."""
        return self.q, self.p

    @property
    def extra(self) -> Product:
        """The discriminator."""
        return (self.ratio,)

    @property
    def drawn(self) -> tuple[Factor, ...]:
        """The random factors of the sides that are drawn."""
        return tuple(u.factor for u in (*random(self.q), *(random(self.p) if self.how != "kl" else ())))

    def lower(self, lowering: Any, scope: Any) -> str:
        """The discriminator at the samples of the sides; at stopped samples for its own loss."""
        used: tuple[Product, ...] = (self.q,) if self.how == "kl" else (self.q, self.p)
        if self.how == "loss":
            used = tuple(tuple(Use(u.factor, stopped=not u.factor.observed) for u in side) for side in used)
        scopes = [lowering.side(side, scope, None, self.gradient) for side in used]
        logits = [lowering.value_at(self.ratio.factor, inside) for inside in scopes]
        name = lowering.call(f"{self.how}_{self.variable.key}", SIGNS[self.how][0], *logits, how="batch")
        return over_rows(lowering, name, scopes[0][self.variable], self.variable)

    @property
    def estimator(self) -> tuple[str, str]:
        """The discriminator, and how gradients flow."""
        how = f"one sample of each side per row, judged by {self.ratio.factor}"
        return (
            how,
            "to the discriminator alone" if self.how == "loss" else "pathwise, through samples and discriminator",
        )


@dataclass(frozen=True, eq=False)
class DensityRatio:
    """log q(x) / p(x) as a network: ``DensityRatio(q, p, Deterministic("d = D(x)", net, shape=()))``.

    ``q`` and ``p`` are factors or products that declare one common variable; the discriminator reads it and returns
    logits, ``[B]``. What both sides draw is drawn anew for p. No value has batch axes. ``gradient`` is
    ``"straight-through"`` or ``"gumbel"``, for draws without reparametrised samples.
    """

    q: Distribution
    p: Distribution
    discriminator: Factor
    gradient: str | None = None

    def __post_init__(self) -> None:
        d = self.discriminator
        if not isinstance(d, Factor) or d.family is not None or d.net is None or d.unnormalised:
            raise FormulaError("DensityRatio: expected a deterministic factor, e.g. Deterministic('d = D(x)', net)")
        left, right, variable = self._sides
        if variable not in d.conditions:
            raise FormulaError(
                f"DensityRatio: {d} does not read {variable}, which {shown(left)} and {shown(right)} declare"
            )

    @cached_property
    def _sides(self) -> tuple[Product, Product, Variable]:
        """Kept, so that all values of one ratio share their draws."""
        return sides("DensityRatio", self.q, self.p, self.gradient, check=False)

    def kl(self) -> Expression:
        """D_KL(q ‖ p), as far as the discriminator knows: E_q[d]."""
        return self._value("kl")

    def js(self) -> Expression:
        """D_JS(q, p), as far as the discriminator knows: a lower bound, tight at its optimum."""
        return self._value("js")

    def wasserstein(self) -> Expression:
        """E_q[d] − E_p[d]: the Wasserstein distance where d is the best 1-Lipschitz function; add a GradientPenalty."""
        return self._value("wasserstein")

    def loss(self) -> Expression:
        """The cross-entropy that the discriminator minimises; its samples are stopped."""
        return self._value("loss")

    def _value(self, how: str) -> Expression:
        left, right, variable = self._sides
        if how != "loss":
            check_reparametrised("DensityRatio", (left, right) if how != "kl" else (left,), self.gradient)
        return Expression(RatioNode(how, left, right, variable, Use(self.discriminator), self.gradient))
