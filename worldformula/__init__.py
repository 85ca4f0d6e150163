"""World models, written as formulas."""

from worldformula.formula import (
    KL,
    Bernoulli,
    Categorical,
    Data,
    Deterministic,
    E,
    Expression,
    Factor,
    Joint,
    Mean,
    Normal,
    OneHot,
    Out,
    Sum,
    TwoHot,
    log,
    maximum,
    minimum,
    sg,
)
from worldformula.training.game import Game, Player
from worldformula.world import World

__version__ = "0.1.0"

__all__ = [
    "KL",
    "Bernoulli",
    "Categorical",
    "Data",
    "Deterministic",
    "E",
    "Expression",
    "Factor",
    "Game",
    "Joint",
    "Mean",
    "Normal",
    "OneHot",
    "Out",
    "Player",
    "Sum",
    "TwoHot",
    "World",
    "log",
    "maximum",
    "minimum",
    "sg",
]
