"""World models, written as formulas.

    from worldformula import KL, Bernoulli, E, Normal, log

    prior, encode = Normal("p(z)", shape=16), Normal("q(z|x)", encoder)
    loss = (KL(encode, prior) - E(encode, log(Bernoulli("p(x|z)", decoder)))).mean()
    loss(x=images).value.backward()            print(loss)   print(loss.code)   loss.graph()   loss.explain()

Distributions    Bernoulli Beta Binomial Categorical Dirichlet DiscretisedLogistic Gamma Geometric Laplace LogNormal
                 LogisticNormal LowRankNormal Multinomial MultivariateNormal NegativeBinomial Normal OneHot Poisson
                 RelaxedBernoulli RelaxedOneHot StudentT TanhNormal TruncatedNormal TwoHot Uniform VonMises
                 VonMisesFisher
Made of others   Autoregressive Flow Mixture MoE MoPoE PoE subsets Wrapped ZeroInflated
Other factors    Data Deterministic Gibbs          what all share: Factor, of several Joint
Expectations     E log ratio exp sg Resample       a density: log(p), one element each: log(p, event=True)
Divergences      JS KL MMD CrossEntropy EnergyDistance Entropy Renyi SlicedWasserstein VRBound
Over time        Chain Evidence Filtered Mean Smoothed Sum Viterbi
Values           Symbol Value clamp each maximum minimum norm2 positive relu sigmoid softplus sqrt tanh together total
Energies         ContrastiveDivergence Energy FreeEnergy GradientPenalty Min ScoreMatching
Contrasts        CPC Covariance DensityRatio Expectile InfoNCE Redundancy SIGReg SwAV Variance
What is made     Expression Out Game Player Model PriorDynamics State World
What is kept     from_pretrained load save_pretrained
What trains      worldformula.training.fit.fit, the loop alone: a loss or a Game, tensors, a callback
                 worldformula.fitting.fit, with run folder and page: also a Model, also a path or name of data

help(worldformula.KL) and the like say more; the packages below are machinery (families, formula, nets, training, run)
and catalogues (models, worlds, planners, learners, agents), listed by ``worldformula models``. ``worldformula --help``
is the command line.
"""

import importlib
from typing import Any

from worldformula.formula import (
    CPC,
    JS,
    KL,
    MMD,
    Autoregressive,
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Chain,
    ContrastiveDivergence,
    Covariance,
    CrossEntropy,
    Data,
    DensityRatio,
    Deterministic,
    Dirichlet,
    DiscretisedLogistic,
    E,
    Energy,
    EnergyDistance,
    Entropy,
    Evidence,
    Expectile,
    Expression,
    Factor,
    Filtered,
    Flow,
    FreeEnergy,
    Gamma,
    Geometric,
    Gibbs,
    GradientPenalty,
    InfoNCE,
    Joint,
    Laplace,
    LogisticNormal,
    LogNormal,
    LowRankNormal,
    Mean,
    Min,
    Mixture,
    MoE,
    MoPoE,
    Multinomial,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    OneHot,
    Out,
    PoE,
    Poisson,
    Redundancy,
    RelaxedBernoulli,
    RelaxedOneHot,
    Renyi,
    Resample,
    ScoreMatching,
    SIGReg,
    SlicedWasserstein,
    Smoothed,
    StudentT,
    Sum,
    SwAV,
    Symbol,
    TanhNormal,
    TruncatedNormal,
    TwoHot,
    Uniform,
    Value,
    Variance,
    Viterbi,
    VonMises,
    VonMisesFisher,
    VRBound,
    Wrapped,
    ZeroInflated,
    clamp,
    each,
    exp,
    log,
    maximum,
    minimum,
    norm2,
    positive,
    ratio,
    relu,
    sg,
    sigmoid,
    softplus,
    sqrt,
    subsets,
    tanh,
    together,
    total,
)
from worldformula.model import Model
from worldformula.training.game import Game, Player
from worldformula.world import PriorDynamics, State, World

__version__ = "0.1.0"

_OPENED = ("load", "save_pretrained", "from_pretrained")  # of `trained`, which needs what needs this file


def __getattr__(name: str) -> Any:
    if name in _OPENED:
        return getattr(importlib.import_module("worldformula.trained"), name)
    raise AttributeError(f"module 'worldformula' has no attribute {name!r}")


__all__ = [
    "CPC",
    "JS",
    "KL",
    "MMD",
    "Autoregressive",
    "Bernoulli",
    "Beta",
    "Binomial",
    "Categorical",
    "Chain",
    "ContrastiveDivergence",
    "Covariance",
    "CrossEntropy",
    "Data",
    "DensityRatio",
    "Deterministic",
    "Dirichlet",
    "DiscretisedLogistic",
    "E",
    "Energy",
    "EnergyDistance",
    "Entropy",
    "Evidence",
    "Expectile",
    "Expression",
    "Factor",
    "Filtered",
    "Flow",
    "FreeEnergy",
    "Game",
    "Gamma",
    "Geometric",
    "Gibbs",
    "GradientPenalty",
    "InfoNCE",
    "Joint",
    "Laplace",
    "LogNormal",
    "LogisticNormal",
    "LowRankNormal",
    "Mean",
    "Min",
    "Mixture",
    "MoE",
    "MoPoE",
    "Model",
    "Multinomial",
    "MultivariateNormal",
    "NegativeBinomial",
    "Normal",
    "OneHot",
    "Out",
    "Player",
    "PoE",
    "Poisson",
    "PriorDynamics",
    "Redundancy",
    "RelaxedBernoulli",
    "RelaxedOneHot",
    "Renyi",
    "Resample",
    "SIGReg",
    "ScoreMatching",
    "SlicedWasserstein",
    "Smoothed",
    "State",
    "StudentT",
    "Sum",
    "SwAV",
    "Symbol",
    "TanhNormal",
    "TruncatedNormal",
    "TwoHot",
    "Uniform",
    "VRBound",
    "Value",
    "Variance",
    "Viterbi",
    "VonMises",
    "VonMisesFisher",
    "World",
    "Wrapped",
    "ZeroInflated",
    "clamp",
    "each",
    "exp",
    "from_pretrained",
    "load",
    "log",
    "maximum",
    "minimum",
    "norm2",
    "positive",
    "ratio",
    "relu",
    "save_pretrained",
    "sg",
    "sigmoid",
    "softplus",
    "sqrt",
    "subsets",
    "tanh",
    "together",
    "total",
]
