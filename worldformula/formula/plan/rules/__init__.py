"""The operations of a plan, one record per kind: how each is evaluated and written, and what it does to its arguments.

A *machine* (`code.interpret`) evaluates one operation, for one time step at a time; a *writer* (`code.writer`) asks for
the right-hand side of its line. Kinds that only call a function are one kind, ``call``.
"""

from worldformula.formula.plan.rules.rule import Rule, factor_of, family_of, literal
from worldformula.formula.plan.rules.table import RULES, written_inside

__all__ = ["RULES", "Rule", "factor_of", "family_of", "literal", "written_inside"]
