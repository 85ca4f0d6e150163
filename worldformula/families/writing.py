"""How a family is written: its symbol in a formula, and its maths as plain PyTorch in emitted code."""

from __future__ import annotations

from typing import NamedTuple


class Sign(NamedTuple):
    """How a family or an operator is written: ``text`` in a line of plain text, ``latex`` in a formula.

    ``mathml`` is what a browser sets; by default the text.
    """

    text: str
    latex: str
    mathml: str = ""


class SourceLines(NamedTuple):
    """Lines of PyTorch, as format strings, for parameters that a head gives and events of one axis.

    ``{name}`` stands for the distribution, such as ``q_z``; ``{head}`` for the network's result; ``{width}`` for the
    declared size, ``{noise}`` and ``{value}`` for tensors, ``{p}`` for the second distribution of a KL and ``{kl}`` for
    the KL, whose last line is its value. Each must equal the method of the same name in value and gradient, in half
    precision too: ``widened``, ``finite`` and ``matched`` of `worldformula.formula.runtime` are at hand.
    ``undeclared`` stands in for ``params`` without a declared size.
    """

    params: tuple[str, ...]
    undeclared: tuple[str, ...]
    sample: str | None
    mode: str
    log_prob: str
    kl: tuple[str, ...] | None
    kl_standard: str | None
