"""The formula language, in the order a formula travels: names, factors, nodes, check, lower, plan, passes, emit."""

from worldformula.formula.code.out import Out
from worldformula.formula.expressions.expression import E, Expression, log, sg
from worldformula.formula.expressions.sums import (
    Mean,
    Sum,
    together,
)
from worldformula.formula.expressions.values import (
    Symbol,
    Value,
    clamp,
    exp,
    maximum,
    minimum,
    norm2,
    ratio,
    relu,
    sigmoid,
    softplus,
    sqrt,
    tanh,
    total,
)
from worldformula.formula.face import bind
from worldformula.formula.factors.composed import (
    Autoregressive,
    DiscretisedLogistic,
    Flow,
    LogisticNormal,
    LowRankNormal,
    Mixture,
    MultivariateNormal,
    RelaxedBernoulli,
    RelaxedOneHot,
    VonMisesFisher,
    Wrapped,
    ZeroInflated,
)
from worldformula.formula.factors.experts import (
    MoE,
    MoPoE,
    PoE,
    subsets,
)
from worldformula.formula.factors.gibbs import Gibbs
from worldformula.formula.factors.independent import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Data,
    Deterministic,
    Dirichlet,
    Factor,
    Gamma,
    Geometric,
    Joint,
    Laplace,
    LogNormal,
    Multinomial,
    NegativeBinomial,
    Normal,
    OneHot,
    Poisson,
    StudentT,
    TanhNormal,
    TruncatedNormal,
    TwoHot,
    Uniform,
    VonMises,
)
from worldformula.formula.ops.chain import Chain
from worldformula.formula.ops.contrastive_divergence import ContrastiveDivergence
from worldformula.formula.ops.cpc import CPC
from worldformula.formula.ops.cross_entropy import CrossEntropy
from worldformula.formula.ops.density_ratio import DensityRatio
from worldformula.formula.ops.each import each
from worldformula.formula.ops.energy import Energy
from worldformula.formula.ops.energy_distance import EnergyDistance
from worldformula.formula.ops.entropy import Entropy
from worldformula.formula.ops.evidence import Evidence
from worldformula.formula.ops.expectile import Expectile
from worldformula.formula.ops.free_energy import FreeEnergy
from worldformula.formula.ops.gradient_penalty import GradientPenalty
from worldformula.formula.ops.info_nce import InfoNCE
from worldformula.formula.ops.js import JS
from worldformula.formula.ops.kl import KL
from worldformula.formula.ops.least import Min
from worldformula.formula.ops.mmd import MMD
from worldformula.formula.ops.posterior import Filtered, Smoothed, Viterbi
from worldformula.formula.ops.redundancy import Redundancy
from worldformula.formula.ops.renyi import Renyi, VRBound
from worldformula.formula.ops.score_matching import ScoreMatching
from worldformula.formula.ops.sigreg import SIGReg
from worldformula.formula.ops.sliced_wasserstein import SlicedWasserstein
from worldformula.formula.ops.swav import SwAV
from worldformula.formula.ops.vicreg import Covariance, Variance
from worldformula.formula.syntax.learnt import positive
from worldformula.formula.syntax.resample import Resample

bind()

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
    "Multinomial",
    "MultivariateNormal",
    "NegativeBinomial",
    "Normal",
    "OneHot",
    "Out",
    "PoE",
    "Poisson",
    "Redundancy",
    "RelaxedBernoulli",
    "RelaxedOneHot",
    "Renyi",
    "Resample",
    "SIGReg",
    "ScoreMatching",
    "SlicedWasserstein",
    "Smoothed",
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
    "Wrapped",
    "ZeroInflated",
    "clamp",
    "each",
    "exp",
    "log",
    "maximum",
    "minimum",
    "norm2",
    "positive",
    "ratio",
    "relu",
    "sg",
    "sigmoid",
    "softplus",
    "sqrt",
    "subsets",
    "tanh",
    "together",
    "total",
]
