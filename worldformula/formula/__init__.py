"""The formula language, in the order a formula travels: names, factors, nodes, check, lower, plan, passes, emit."""

from worldformula.formula.expression import KL, E, Expression, Mean, Sum, log, maximum, minimum, sg
from worldformula.formula.factors import (
    Bernoulli,
    Categorical,
    Data,
    Deterministic,
    Factor,
    Joint,
    Normal,
    OneHot,
    TwoHot,
)
from worldformula.formula.program import Out

__all__ = [
    "KL",
    "Bernoulli",
    "Categorical",
    "Data",
    "Deterministic",
    "E",
    "Expression",
    "Factor",
    "Joint",
    "Mean",
    "Normal",
    "OneHot",
    "Out",
    "Sum",
    "TwoHot",
    "log",
    "maximum",
    "minimum",
    "sg",
]
