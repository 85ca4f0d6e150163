"""Elementwise functions of an expression: how each is written and computed. One line per function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Elementwise:
    """``latex`` and ``mathml`` have a place for the body, ``code`` for the operand in emitted code."""

    latex: str
    mathml: str
    code: str
    call: Callable[..., Any]


def _named(name: str, command: str = "") -> tuple[str, str]:
    """``exp(…)`` in LaTeX and in MathML."""
    latex = (command or rf"\operatorname{{{name}}}") + r"\left( {} \right)"
    mathml = f'<mi>{name}</mi><mo>&#x2061;</mo><mrow><mo fence="true">(</mo>{{}}<mo fence="true">)</mo></mrow>'
    return latex.replace("{}", "\0").replace("{", "{{").replace("}", "}}").replace("\0", "{}"), mathml


FUNCTIONS: dict[str, Elementwise] = {
    "exp": Elementwise(*_named("exp", r"\exp"), "{}.exp()", torch.exp),
    "log": Elementwise(*_named("log", r"\log"), "{}.log()", torch.log),
    "abs": Elementwise(r"\left| {} \right|", '<mo fence="true">|</mo>{}<mo fence="true">|</mo>', "{}.abs()", torch.abs),
    "sqrt": Elementwise(r"\sqrt{{{}}}", "<msqrt>{}</msqrt>", "{}.sqrt()", torch.sqrt),
    "tanh": Elementwise(*_named("tanh", r"\tanh"), "{}.tanh()", torch.tanh),
    "sigmoid": Elementwise(*_named("sigmoid", r"\sigma"), "{}.sigmoid()", torch.sigmoid),
    "softplus": Elementwise(*_named("softplus"), "F.softplus({})", torch.nn.functional.softplus),
    "relu": Elementwise(*_named("relu"), "{}.relu()", torch.relu),
}
