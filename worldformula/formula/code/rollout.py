"""A rollout: the draws of a product through time and nothing else. What a world filters and imagines with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from worldformula.display import Source
from worldformula.formula.code.program import Out, Program
from worldformula.formula.factors.joint import Joint
from worldformula.formula.plan.lower import lower_rollout
from worldformula.formula.syntax.constants import Constants
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.networks import register_networks
from worldformula.formula.syntax.nodes import Expectation, Number, OverTime


class Rollout(nn.Module):
    """``for t: draw every factor of the product``, compiled like any formula. Keywords as for an expression.

    ``shapes_from`` are further factors whose declared event shapes hold for the product's variables; ``initial`` is the
    first carry by variable, zeros otherwise. ``memories`` are the factors whose networks read a past, by the key of
    what they keep of it: the value of a call is their memory behind its last step. ``kept`` is what the samples show of
    older steps, ``z_{t-1}`` as ``z_m1``.
    """

    def __init__(
        self,
        product: Joint,
        index: str = "t",
        reset: str | None = None,
        shapes_from: tuple[Factor, ...] = (),
        initial: Constants | None = None,
        memories: Mapping[str, Factor] | None = None,
        kept: tuple[Variable, ...] = (),
    ) -> None:
        super().__init__()
        self.product = product
        self.clock = OverTime("sum", index, Expectation(product.uses, Number(0)), reset, initial)
        self.shapes_from, self.memories, self.kept = shapes_from, dict(memories or {}), kept
        register_networks(self, [*product.factors, *(memories or {}).values()], initial)
        self._program: Program | None = None

    @property
    def program(self) -> Program:
        """The plan and the functions emitted from it, made at first use."""
        if self._program is None:
            plan = lower_rollout(self.clock, self.shapes_from, self.memories, self.kept)
            self._program = Program(plan, f"for {self.clock.index}: {self.product}")
        return self._program

    @property
    def carried(self) -> tuple[str, ...]:
        """The variables that go from step to step."""
        return tuple(self.program.plan.carries)

    @property
    def code(self) -> Source:
        """The PyTorch that runs."""
        return Source(self.program.function(self, deterministic=False).source)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_program": None}

    def forward(self, **inputs: Any) -> Out:
        """The draws, in ``out.samples``."""
        return self.program.run(self, inputs)
