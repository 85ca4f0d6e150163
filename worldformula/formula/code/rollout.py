"""A rollout: the draws of a product through time and nothing else. What a world filters and imagines with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from worldformula.display import Source
from worldformula.errors import FormulaError, MissingInputError, table
from worldformula.formula.code.out import Out
from worldformula.formula.code.program import Program
from worldformula.formula.factors.joint import Joint
from worldformula.formula.plan.lower import lower_rollout
from worldformula.formula.syntax.constants import Constants
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.networks import register_networks
from worldformula.formula.syntax.nodes import Expectation, Node, Number, Operator, OverTime, Product, children
from worldformula.formula.syntax.starts import begins


class Rollout(nn.Module):
    """``for t: draw every factor of the product``, compiled like any formula. Keywords as for an expression.

    ``shapes_from`` are further factors whose declared event shapes hold for the product's variables; ``initial`` is the
    first carry by variable, zeros otherwise. ``memories`` are the factors whose networks read a past, by the key of
    what they keep of it: the value of a call is their memory behind its last step. ``kept`` is what the samples show of
    older steps, ``z_{t-1}`` as ``z_m1``. ``begin`` draws or computes the first carry of a call that has no start.
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
        begin: Product = (),
    ) -> None:
        super().__init__()
        self.product = product
        self.clock = OverTime("sum", index, Expectation(product.uses, Number(0)), reset, initial, begin=begin)
        self.shapes_from, self.memories, self.kept = shapes_from, dict(memories or {}), kept
        register_networks(self, [*product.factors, *(u.factor for u in begin), *(memories or {}).values()], initial)
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

    def compile(self, **options: Any) -> Rollout:  # type: ignore[override]
        """Compile the emitted function with ``torch.compile(**options)``; returns the rollout itself."""
        self.program.compile(options)
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_program": None}

    def forward(self, **inputs: Any) -> Out:
        """The draws, in ``out.samples``."""
        return self.program.run(self, inputs)


def starts(clock: OverTime, batch: int, options: Mapping[str, Any]) -> dict[str, Tensor]:
    """What sequences begin with before they are seen, where factors say so: drawn, or NaN where they read the data."""
    declared = {v for use in clock.begin for v in use.factor.variables}
    unknown = [(u.factor, c) for u in clock.begin for c in u.factor.conditions if c not in declared]
    if unknown and clock.reset is None:
        factor, condition = unknown[0]
        raise FormulaError(
            f"initial: a sequence begins with {factor}, and {condition} is not known before it\n"
            f"call filter without a start, which begins there, or give the loss reset= flags and observe the first "
            f"step with one"
        )
    if unknown:
        return {begins(v): torch.tensor(torch.nan) for v in declared}
    drawn = Joint(*clock.begin).sample(sample_shape=(batch,), **options) if clock.begin else {}
    return {begins(v): drawn[v.key] for v in declared}


def carry_of(rollout: Rollout, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a rollout starts from: of a state, and the action in it, the variables that it reads at t−1."""
    plan = rollout.program.plan
    return {k: state[k] for k in plan.starts if k in state}


def clock_of(loss: Node) -> OverTime:
    """The sum over time of a loss."""
    waiting = [loss]
    while waiting:
        node = waiting.pop()
        clock = node.clock if isinstance(node, Operator) else node
        if isinstance(clock, OverTime):
            return clock
        waiting += children(node)
    raise FormulaError("expected a loss over time, e.g. Sum('t', step, reset='first').mean()")


def require(what: str, wanted: Iterable[str], given: Mapping[str, Any], kind: str, advice: str) -> None:
    """Raises `MissingInputError` where one of these is not given, with a table of all."""
    rows = [(key, kind, "given" if key in given else "missing") for key in wanted]
    if missing := ", ".join(key for key, _, got in rows if got == "missing"):
        raise MissingInputError(f"{what} {missing}\n" + table(("variable", "declared", "got"), rows) + f"\n{advice}")
