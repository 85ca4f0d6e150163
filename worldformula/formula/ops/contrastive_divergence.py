r"""Contrastive divergence: the gradient of maximum likelihood of an energy, with a chain for the model's draws.

    ∇ −log p(x) = ∇E(x) − E_{p}[∇E(x⁻)]      ≈ ∇ (E(x⁺) − E(x⁻)),   x⁻ the end of k steps from x⁺      Hinton 2002

The value E(x⁺) − E(x⁻) is no likelihood; its gradient goes through the energies alone, never through the chain. Chains:

    Langevin   x ← x − step_size·∇E(x) + noise·ε                     Du & Mordatch 2019, arXiv:1903.08689
    Gibbs      blocks=[p(h|x), p(x|h)] drawn in turn                  restricted Boltzmann machines

A chain starts at the data (CD-k), at what the call is given (``start="x_0"``: the buffer of persistent CD, Tieleman
2008), or at a draw of a factor over x. Its end is in ``out.samples`` as ``x_model``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from worldformula.errors import FormulaError
from worldformula.families.writing import Sign
from worldformula.formula.expressions.expression import Expression
from worldformula.formula.factors.gibbs import Gibbs
from worldformula.formula.factors.independent import Normal
from worldformula.formula.factors.langevin import energies, langevin
from worldformula.formula.ops.base import count, symbol_of, written_number
from worldformula.formula.print import latex as tex
from worldformula.formula.print import mathml as mml
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.given import number
from worldformula.formula.syntax.names import Variable, read_variable
from worldformula.formula.syntax.nodes import Node, Operator, Product, Use
from worldformula.formula.syntax.text import typeset

STEP_SIZE = 0.01  # usually


class _Steps(nn.Module):
    """Zeros of the shape of x, for every step of a chain: the mean of its noise."""

    def __init__(self, steps: int, rank: int) -> None:
        super().__init__()
        self.steps, self.rank = steps, rank

    def forward(self, x: Tensor) -> Tensor:
        """``[*batch, *event]`` to ``[*batch, steps, *event]``."""
        place = x.ndim - self.rank
        return torch.zeros_like(x).unsqueeze(place).expand(*x.shape[:place], self.steps, *x.shape[place:])


@dataclass(frozen=True, eq=False)
class ContrastiveDivergenceNode(Operator):
    """E(x⁺) − E(x⁻), one number per row."""

    p: Gibbs
    steps: int
    start: Variable | Use | None
    step_size: float | Node
    noise_scale: float | Node | None
    noise: Use | None
    blocks: tuple[Product, ...]

    @property
    def sign(self) -> Sign:
        """CD with its number of steps, and what is not as usual: the step, the noise, where its chain begins."""
        k = f"k={self.steps}"
        text, latex, mathml = (f"CD{{{k}", rf"\mathrm{{CD}}_{{{k}", f"<mi>{k}</mi>")
        for name, letter, value in self._unusual:
            shown = written_number(value, typeset)
            text, latex = f"{text}; {name}={shown.text}", rf"{latex},\, {letter}={shown.latex}"
            mathml = f"{mathml}<mo>,</mo><mi>{name}</mi><mo>=</mo>{shown.mathml}"
        if self.start is not None:
            first = self._begin
            text, latex = f"{text}; start={first.text}", rf"{latex},\, \mathrm{{start}}={first.latex}"
            mathml = f"{mathml}<mo>,</mo><mi>start</mi><mo>=</mo>{first.mathml}"
        below = f"<mrow>{mathml}</mrow>" if "," in mathml else mathml
        return Sign(f"{text}}}", f"{latex}}}", f"<msub><mi>CD</mi>{below}</msub>")

    @property
    def _unusual(self) -> tuple[tuple[str, str, float | Node], ...]:
        """The step of a Langevin chain where it is not the usual one, and the noise where one is given."""
        step = () if self.step_size == STEP_SIZE else (("step", r"\eta", self.step_size),)
        return step if self.noise_scale is None else (*step, ("noise", r"\sigma", self.noise_scale))

    @property
    def _begin(self) -> Sign:
        """The input, or the factor, with which the chain begins."""
        if isinstance(self.start, Use):
            header = self.start.factor.header
            return Sign(str(header), tex.head(header), mml.head(header))
        assert self.start is not None
        return Sign(str(self.start), tex.variable(self.start), mml.variable(self.start))

    @property
    def numbers(self) -> tuple[int | float | Node, ...]:
        """The step size, and the deviation of the noise."""
        return tuple(value for value in (self.step_size, self.noise_scale) if value is not None)

    @property
    def parts(self) -> tuple[Product | Node, ...]:
        """The Gibbs factor."""
        return ((Use(self.p),),)

    @property
    def extra(self) -> Product:
        """What the chain draws."""
        first = (self.start,) if isinstance(self.start, Use) else ()
        noise = () if self.noise is None else (self.noise,)
        return (*first, *noise, *(u for step in self.blocks for u in step))

    @property
    def drawn(self) -> tuple[Factor, ...]:
        """What the chain draws."""
        return tuple(u.factor for u in self.extra)

    def lower(self, lowering: Any, scope: Any) -> str:
        """The chain, and the difference of the energies."""
        p, variable = self.p, self.p.variable
        data = lowering.read(variable, scope, p)
        rest = [lowering.read(c, scope, p) for c in p.conditions]
        first = self._first(lowering, scope, data)
        end = self._gibbs(lowering, scope, first) if self.blocks else self._langevin(lowering, scope, first, rest)
        lowering.samples[f"{variable.key}_model"] = end
        options = (("rank", lowering.event_rank(variable)),)
        up, down = (
            lowering.call(f"energy_{where}", energies, x, *rest, net=p, options=options)
            for where, x in (("data", data), ("model", end))
        )
        return str(lowering.binary("-", up, down))

    def _first(self, lowering: Any, scope: Any, data: str) -> str:
        """Where the chain begins."""
        if self.start is None:
            return data
        if isinstance(self.start, Use):
            names: tuple[str, ...] = lowering.value_of(self.start, scope)
            return names[0]
        return str(lowering.read(self.start, scope, self.p))

    def _langevin(self, lowering: Any, scope: Any, first: str, rest: list[str]) -> str:
        """All steps as one operation."""
        assert self.noise is not None
        variable = self.p.variable
        (noise,) = lowering.value_of(self.noise, scope.having({variable: first}))
        rank = lowering.event_rank(variable)
        options = (("rank", rank), ("step_size", self.step_size), ("noise_scale", self.noise_scale))
        wish = f"{variable.key}_model"
        return str(lowering.call(wish, langevin, first, noise, *rest, net=self.p, rank=rank, options=options))

    def _gibbs(self, lowering: Any, scope: Any, first: str) -> str:
        """Every block of every step drawn in turn, each with noise of its own."""
        inside = scope.having({self.p.variable: lowering.unary("detach", first)})
        for step in self.blocks:
            for use in step:
                (name,) = lowering.value_of(use, inside)
                inside = inside.having({use.factor.variable: lowering.unary("detach", name)})
        return str(inside[self.p.variable])

    @property
    def estimator(self) -> tuple[str, str]:
        """The chain."""
        kind = "Gibbs" if self.blocks else "Langevin"
        return (
            f"Monte Carlo, {self.steps} {kind} steps per row; no likelihood",
            "of the two energies, none of the chain",
        )


def ContrastiveDivergence(
    p: Gibbs,
    *,
    steps: int = 1,
    step_size: float | Expression = STEP_SIZE,
    noise: float | Expression | None = None,
    start: str | Factor | None = None,
    blocks: Sequence[Factor] = (),
) -> Expression:
    """E(x⁺) − E(x⁻) at the data, for each row: minimised, it raises the likelihood of a Gibbs factor.

    Args:
        p: the Gibbs factor.
        steps: k, of the chain.
        step_size: of the Langevin chain.
        noise: its deviation; √(2·step_size) by default.
        start: the name of an input ``[B, *event]`` of the call, or a factor over x; by default the data.
        blocks: conditionals whose draws in their order are one step of a Gibbs chain, ``[p(h|x), p(x|h)]``.

    Raises:
        FormulaError: no Gibbs factor, or blocks that do not draw its variable.
    """
    if not isinstance(p, Gibbs):
        raise FormulaError(f"ContrastiveDivergence: expected a Gibbs factor, got {type(p).__name__}; use -log(p)")
    steps = count("ContrastiveDivergence", "steps", steps)
    if steps is None:
        raise FormulaError("ContrastiveDivergence: expected steps= as a positive number")
    size, scale = _size(step_size), None if noise is None else _scale(noise)
    if blocks and p.variable not in {v for f in blocks for v in f.variables}:
        raise FormulaError(f"ContrastiveDivergence: no block draws {p.variable}; expected e.g. [p(h|x), p(x|h)]")
    if isinstance(start, Factor) and start.variable != p.variable:
        raise FormulaError(f"ContrastiveDivergence: start={start} does not draw {p.variable}")
    first = read_variable(start) if isinstance(start, str) else None if start is None else Use(start, stopped=True)
    chain = tuple(tuple(Use(f.fresh(), stopped=True) for f in blocks) for _ in range(steps)) if blocks else ()
    drawn = None
    if not blocks:
        rank = 1 if p.shape is None else len(p.shape)
        name = f"\\hat {p.variable}" if p.variable.accent is None else f"{p.variable}'"
        shape = None if p.shape is None else (steps, *p.shape)
        drawn = Use(Normal(f"q({name}|{p.variable})", _Steps(steps, rank), shape=shape, scale=1.0))
    return Expression(ContrastiveDivergenceNode(p, steps, first, size, scale, drawn, chain))


def _size(value: Any) -> float | Node:
    """A positive number, or a Symbol."""
    if (symbol := symbol_of(value, _size)) is not None:
        return symbol
    if (number(value) or 0) <= 0:
        raise FormulaError(f"ContrastiveDivergence: expected step_size= as a positive number, got {value!r}")
    return float(value)


def _scale(value: Any) -> float | Node:
    """A number of at least 0, or a Symbol."""
    if (symbol := symbol_of(value, _scale)) is not None:
        return symbol
    if (known := number(value)) is None or not known >= 0:
        raise FormulaError(f"ContrastiveDivergence: expected noise= as a number of at least 0, got {value!r}")
    return float(known)
