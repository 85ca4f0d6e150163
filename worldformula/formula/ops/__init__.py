"""Operators of formulas, one per file: a node that prints, checks and lowers itself, and the function that users call.

A new operator is a subclass of `worldformula.formula.syntax.nodes.Operator` (or of `ops.base.Expanded`, where it stands
for what the language can say already) and a function that returns an `Expression` of it.
"""
