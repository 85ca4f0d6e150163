r"""Score matching: fit s(x) = ∇ log p(x), or an energy with s = −∇E, without a normalising constant.

    denoising   ½ ‖s(x̃) − ∇ log q(x̃|x)‖² = ½ ‖s(x + σε) + ε/σ‖²            Vincent 2011, eq. 9: score of p * N(0, σ²)
    sliced      vᵀ∇_x s(x) v + ½ ‖s(x)‖²,  v ~ N(0, I)                      Song et al. 2019, arXiv:1905.07088, eq. 8
    exact       tr ∇_x s(x) + ½ ‖s(x)‖²                                     Hyvärinen 2005, eq. 4: D backward passes
    ratio       Σ_d g(p(x)/p(x̄_d))² = Σ_d σ(E(x) − E(x̄_d))²                Hyvärinen 2007: x of 0 and 1

Ratio matching is score matching of bits (Some extensions of score matching, CSDA 51): x̄_d is x with its bit d turned,
and g(u) = 1/(1 + u). Sliced and exact differ from ½ E‖s − ∇ log p‖² by a constant of the data, so they may be negative.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worldformula.errors import FormulaError
from worldformula.families.writing import Sign
from worldformula.formula.expressions.expression import Expression
from worldformula.formula.factors.gibbs import Gibbs
from worldformula.formula.factors.langevin import energies, slope
from worldformula.formula.ops.base import beside, symbol_of, written_number
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.given import number
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import Node, Operator, Product, Use

Net = Any
HOW = ("denoising", "sliced", "exact", "ratio")


def _score(net: Net, x: Tensor, conditions: tuple[Tensor, ...], rank: int, energy: bool) -> Tensor:
    """s(x), in the shape of x; of an energy it can be differentiated once more."""
    if energy:
        return -slope(net, x, *conditions, rank=rank, keep=True)
    batch = x.shape[: x.ndim - rank]
    rest = (c.reshape(-1, *c.shape[len(batch) :]) for c in conditions)
    found: Tensor = net(x.reshape(-1, *x.shape[x.ndim - rank :]), *rest)
    return found.reshape(x.shape)


def _summed(x: Tensor, rank: int) -> Tensor:
    return x.sum(tuple(range(-rank, 0))) if rank else x


def denoising(
    net: Net, x: Tensor, noisy: Tensor, *conditions: Tensor, rank: int, sigma: Tensor | float, energy: bool
) -> Tensor:
    """½‖s(noisy) − (x − noisy)/σ²‖² for each row: ``[*batch]``."""
    with torch.set_grad_enabled(torch.is_grad_enabled() or energy):
        gap = _score(net, noisy, conditions, rank, energy) - (x - noisy) / sigma**2
    return 0.5 * _summed(gap.square(), rank)


def sliced(net: Net, x: Tensor, direction: Tensor, *conditions: Tensor, rank: int, energy: bool) -> Tensor:
    """vᵀ∇s v + ½‖s‖² for each row: ``[*batch]``; ``direction`` is v, in the shape of x."""
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        s = _score(net, x, conditions, rank, energy)
        (along,) = torch.autograd.grad((s * direction).sum(), x, create_graph=keep, retain_graph=True)
    return _summed(along * direction, rank) + 0.5 * _summed(s.square(), rank)


def exact(net: Net, x: Tensor, *conditions: Tensor, rank: int, energy: bool) -> Tensor:
    """tr ∇s + ½‖s‖² for each row: ``[*batch]``, by one backward pass for each element."""
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        s = _score(net, x, conditions, rank, energy)
        flat = s.flatten(s.ndim - rank) if rank else s.unsqueeze(-1)
        trace = torch.zeros_like(flat[..., 0])
        for i in range(flat.shape[-1]):
            (row,) = torch.autograd.grad(flat[..., i].sum(), x, create_graph=keep, retain_graph=True)
            trace = trace + (row.flatten(row.ndim - rank) if rank else row.unsqueeze(-1))[..., i]
    return trace + 0.5 * _summed(s.square(), rank)


def ratio(net: Net, x: Tensor, *conditions: Tensor, rank: int) -> Tensor:
    """Σ_d σ(E(x) − E(x̄_d))² of bits for each row: ``[*batch]``; all rows with a bit turned are one batch."""
    batch = x.shape[: x.ndim - rank]
    flat = x.reshape(*batch, -1)
    flat = flat if flat.is_floating_point() else flat.to(torch.get_default_dtype())  # bytes have no −1, flags no minus
    D = flat.shape[-1]
    turned = (1 - 2 * torch.eye(D, dtype=flat.dtype, device=x.device)) * (flat - 0.5).unsqueeze(-2) + 0.5
    both = torch.cat((flat.unsqueeze(-2), turned), -2).reshape(*batch, D + 1, *x.shape[x.ndim - rank :])
    rest = [c.unsqueeze(len(batch)).expand(*batch, D + 1, *c.shape[len(batch) :]) for c in conditions]
    found = energies(net, both, *rest, rank=rank)
    return (found[..., :1] - found[..., 1:]).sigmoid().square().sum(-1)


@dataclass(frozen=True, eq=False)
class ScoreMatchingNode(Operator):
    """The objective at the value that the expression gives the variable, one number per row."""

    model: Use
    variable: Variable
    how: str
    sigma: float | Node
    draw: Use | None

    @property
    def sign(self) -> Sign:
        """SM with its kind."""
        text, latex, mathml = written_number(self.sigma, "{:g}".format)
        if self.how != "denoising":
            below = rf"\mathrm{{{self.how}}}"
            return Sign(
                f"SM{{{self.how}}}", rf"\mathrm{{SM}}_{{{below}}}", f"<msub><mi>SM</mi><mi>{self.how}</mi></msub>"
            )
        below = f"<mi>σ={text}</mi>" if isinstance(self.sigma, float) else f"<mrow><mi>σ</mi><mo>=</mo>{mathml}</mrow>"
        return Sign(f"SM{{σ={text}}}", rf"\mathrm{{SM}}_{{\sigma={latex}}}", f"<msub><mi>SM</mi>{below}</msub>")

    @property
    def numbers(self) -> tuple[int | float | Node, ...]:
        """The level of noise."""
        return (self.sigma,) if self.how == "denoising" else ()

    @property
    def parts(self) -> tuple[Product | Node, ...]:
        """The score, or the Gibbs factor."""
        return ((self.model,),)

    @property
    def extra(self) -> Product:
        """What is drawn beside the data: the noisy value, or the direction."""
        return () if self.draw is None else (self.draw,)

    @property
    def drawn(self) -> tuple[Factor, ...]:
        """What is drawn beside the data."""
        return tuple(u.factor for u in self.extra)

    def lower(self, lowering: Any, scope: Any) -> str:
        """The network, called by the objective."""
        factor, energy = self.model.factor, isinstance(self.model.factor, Gibbs)
        x = lowering.read(self.variable, scope, factor)
        if self.how == "ratio":
            lowering.levels.setdefault(self.variable.key, (factor, 2))
        inside = scope.having({self.variable: x})
        rest = [lowering.read(c, scope, factor) for c in factor.conditions if c != self.variable]
        options: tuple[tuple[str, Any], ...] = (("rank", lowering.event_rank(self.variable)),)
        options += () if self.how == "ratio" else (("energy", energy),)
        drawn: list[str] = []
        if isinstance(self.sigma, Node):  # what is wrong with it is said of the objective, not of the draw
            lowering.lower(self.sigma, scope)
        if self.draw is not None:
            drawn += lowering.value_of(self.draw, inside)
        if self.how == "denoising":
            options += (("sigma", self.sigma),)
        function = {"denoising": denoising, "sliced": sliced, "exact": exact, "ratio": ratio}[self.how]
        wish = f"score_{self.variable.key}"
        return str(lowering.call(wish, function, x, *drawn, *rest, net=factor, options=options))

    @property
    def estimator(self) -> tuple[str, str]:
        """What is drawn."""
        how = {
            "denoising": "one noisy value per row", "sliced": "one direction per row", "exact": "the whole trace",
            "ratio": "every bit turned",
        }  # fmt: skip
        return how[self.how], "exact, through the network"


def ScoreMatching(model: Factor, how: str = "denoising", *, noise: float | Expression = 0.1) -> Expression:
    """The score-matching objective at the data, for each row: ``E(p_data, ScoreMatching(s, noise=0.1)).mean()``.

    Args:
        model: a `Gibbs` factor, or the score as a deterministic factor, ``Deterministic("s = s(x)", net, shape=D)``,
            whose first condition is differentiated and which has its shape.
        how: ``"denoising"``, ``"sliced"`` or ``"exact"``; of bits, 0 and 1, and a Gibbs factor, ``"ratio"``.
        noise: σ of the denoising kind, which learns the score of the data blurred by it. Multiply by σ² to weigh
            several levels alike.

    Raises:
        FormulaError: another kind of factor, an unknown kind of objective, or no positive noise.
    """
    gibbs = isinstance(model, Gibbs)
    if not isinstance(model, Factor) or model.family is not None or model.net is None:
        raise FormulaError(
            f"ScoreMatching: expected a Gibbs factor, or a score such as Deterministic('s = s(x)', net, shape=2), "
            f"got {type(model).__name__}"
        )
    if how not in HOW:
        raise FormulaError(f"ScoreMatching: expected {', '.join(HOW)}, got {how!r}")
    if how == "ratio" and not gibbs:
        raise FormulaError(
            "ScoreMatching: of bits there is no slope, ratios are those of an energy; expected a Gibbs factor, "
            f"Gibbs('p(x)', net, shape=...), got {model}"
        )
    sigma = _sigma(noise)
    variable, shape = (model.variable if gibbs else model.conditions[0]), model.shape
    draw = None
    if how == "denoising":
        draw = beside(variable, "tilde", torch.nn.Identity(), shape, scale=noise if isinstance(sigma, Node) else sigma)
    elif how == "sliced":
        draw = beside(variable, "vec", torch.zeros_like, shape, scale=1.0)
    return Expression(ScoreMatchingNode(Use(model), variable, how, sigma, draw))


def _sigma(noise: Any) -> float | Node:
    """A positive number, or a Symbol."""
    if (symbol := symbol_of(noise, _sigma)) is not None:
        return symbol
    if (number(noise) or 0) <= 0:
        raise FormulaError(f"ScoreMatching: expected noise= as a positive number, got {noise!r}")
    return float(noise)
