"""Probability families: plain tensor maths over tuples of parameters (see `worldformula.families.base.Family`).

One family a file; a file ``x.py`` holds a default instance ``x``, which is how `discover` finds it. Note that the
attributes of this package are those instances: write ``from worldformula.families.normal import NormalFamily`` for
something else of a module.
"""

from __future__ import annotations

import importlib
import pkgutil

from worldformula.families.autoregressive import AutoregressiveFamily
from worldformula.families.base import Family, Params
from worldformula.families.bernoulli import BernoulliFamily, bernoulli
from worldformula.families.beta import BetaFamily, beta
from worldformula.families.binomial import BinomialFamily, binomial
from worldformula.families.categorical import CategoricalFamily, categorical
from worldformula.families.closed import kl_pair, register_kl
from worldformula.families.dirichlet import DirichletFamily, dirichlet
from worldformula.families.discretised_logistic import DiscretisedLogisticFamily, discretised_logistic
from worldformula.families.experts import ExpertsFamily, log_shares, mixed, poe, poe_full
from worldformula.families.flow import FlowFamily
from worldformula.families.gamma import GammaFamily, gamma
from worldformula.families.geometric import GeometricFamily, geometric
from worldformula.families.given import Given, completed
from worldformula.families.laplace import LaplaceFamily, laplace
from worldformula.families.log_normal import LogNormalFamily, log_normal
from worldformula.families.logistic_normal import LogisticNormalFamily, logistic_normal
from worldformula.families.low_rank_normal import LowRankNormalFamily, low_rank_normal
from worldformula.families.mixture import MixtureFamily
from worldformula.families.multinomial import MultinomialFamily, multinomial
from worldformula.families.multivariate_normal import MultivariateNormalFamily, multivariate_normal
from worldformula.families.negative_binomial import NegativeBinomialFamily, negative_binomial
from worldformula.families.normal import NormalFamily, normal
from worldformula.families.one_hot import OneHotFamily, one_hot
from worldformula.families.poisson import PoissonFamily, poisson
from worldformula.families.relaxed_bernoulli import RelaxedBernoulliFamily, relaxed_bernoulli
from worldformula.families.relaxed_one_hot import RelaxedOneHotFamily, relaxed_one_hot
from worldformula.families.student_t import StudentTFamily, student_t
from worldformula.families.tanh_normal import TanhNormalFamily, tanh_normal
from worldformula.families.truncated_normal import TruncatedNormalFamily, truncated_normal
from worldformula.families.two_hot import TwoHotFamily, two_hot
from worldformula.families.uniform import UniformFamily, uniform
from worldformula.families.unlike_mixture import UnlikeMixtureFamily
from worldformula.families.von_mises import VonMisesFamily, von_mises
from worldformula.families.von_mises_fisher import VonMisesFisherFamily, von_mises_fisher
from worldformula.families.wrapped import WrappedFamily
from worldformula.families.writing import Sign
from worldformula.families.zero_inflated import ZeroInflatedFamily, zero_inflated

for _name in ("pairs", "covariances"):  # they register the closed KLs of two families
    importlib.import_module(f"worldformula.families.{_name}")

__all__ = [
    "AutoregressiveFamily",
    "BernoulliFamily",
    "BetaFamily",
    "BinomialFamily",
    "CategoricalFamily",
    "DirichletFamily",
    "DiscretisedLogisticFamily",
    "ExpertsFamily",
    "Family",
    "FlowFamily",
    "GammaFamily",
    "GeometricFamily",
    "Given",
    "LaplaceFamily",
    "LogNormalFamily",
    "LogisticNormalFamily",
    "LowRankNormalFamily",
    "MixtureFamily",
    "MultinomialFamily",
    "MultivariateNormalFamily",
    "NegativeBinomialFamily",
    "NormalFamily",
    "OneHotFamily",
    "Params",
    "PoissonFamily",
    "RelaxedBernoulliFamily",
    "RelaxedOneHotFamily",
    "Sign",
    "StudentTFamily",
    "TanhNormalFamily",
    "TruncatedNormalFamily",
    "TwoHotFamily",
    "UniformFamily",
    "UnlikeMixtureFamily",
    "VonMisesFamily",
    "VonMisesFisherFamily",
    "WrappedFamily",
    "ZeroInflatedFamily",
    "bernoulli",
    "beta",
    "binomial",
    "categorical",
    "completed",
    "dirichlet",
    "discover",
    "discretised_logistic",
    "gamma",
    "geometric",
    "kl_pair",
    "laplace",
    "log_normal",
    "log_shares",
    "logistic_normal",
    "low_rank_normal",
    "mixed",
    "multinomial",
    "multivariate_normal",
    "negative_binomial",
    "normal",
    "one_hot",
    "poe",
    "poe_full",
    "poisson",
    "register_kl",
    "relaxed_bernoulli",
    "relaxed_one_hot",
    "student_t",
    "tanh_normal",
    "truncated_normal",
    "two_hot",
    "uniform",
    "von_mises",
    "von_mises_fisher",
    "zero_inflated",
]


def discover() -> dict[str, Family]:
    """The default instance of every family in this folder, by name, in alphabetical order."""
    found: dict[str, Family] = {}
    for name in sorted(info.name for info in pkgutil.iter_modules(__path__)):
        instance = getattr(importlib.import_module(f"{__name__}.{name}"), name, None)
        if isinstance(instance, Family):
            found[name] = instance
    return found
