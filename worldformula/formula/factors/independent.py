"""The factors that users write, one per family: ``Normal("q(z|x)", encoder, shape=16)``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from worldformula import families
from worldformula.errors import FormulaError, HeaderError, near
from worldformula.formula.factors.joint import Factor, Joint
from worldformula.formula.syntax.factor import Head
from worldformula.formula.syntax.given import Shape

__all__ = [
    "Bernoulli",
    "Beta",
    "Binomial",
    "Categorical",
    "Data",
    "Deterministic",
    "Dirichlet",
    "Factor",
    "Gamma",
    "Geometric",
    "Joint",
    "Laplace",
    "LogNormal",
    "Multinomial",
    "NegativeBinomial",
    "Normal",
    "OneHot",
    "Poisson",
    "StudentT",
    "TanhNormal",
    "TruncatedNormal",
    "TwoHot",
    "Uniform",
    "VonMises",
]


class Normal(Factor):
    """Normal(loc, scale), diagonal. A head gives loc and softplus⁻¹(scale); ``scale=1.0`` fixes the scale."""

    def __init__(self, header: str, net: Head = None, *, shape: Shape = None, **fixed: Tensor | float) -> None:
        super().__init__(header, net, family=families.normal, shape=shape, fixed=fixed)


class Bernoulli(Factor):
    """Bernoulli(logits); values in [0, 1] are scored by the same cross-entropy (grey levels)."""

    def __init__(self, header: str, net: Head = None, *, shape: Shape = None, **fixed: Tensor | float) -> None:
        super().__init__(header, net, family=families.bernoulli, shape=shape, fixed=fixed)


class Categorical(Factor):
    """Categorical(logits) over integers; the last axis of the head holds the classes.

    ``classes`` says how many there are: for ``gradient="exact"``, and for the uniform distribution without a network.
    """

    def __init__(
        self,
        header: str,
        net: Head = None,
        *,
        shape: Shape = None,
        classes: int | None = None,
        **fixed: Tensor | float,
    ) -> None:
        family = families.categorical if classes is None else families.CategoricalFamily(classes=classes)
        super().__init__(header, net, family=family, shape=shape, fixed=fixed)


class OneHot(Factor):
    """One-hot categories, straight-through gradients; ``shape=(groups, classes)``.

    ``unimix`` mixes the probabilities with that share of the uniform distribution (Hafner et al. 2023).
    """

    def __init__(
        self, header: str, net: Head = None, *, shape: Shape = None, unimix: float = 0.0, **fixed: Tensor | float
    ) -> None:
        family = families.OneHotFamily(unimix=unimix)
        super().__init__(header, net, family=family, shape=shape, fixed=fixed)


class TwoHot(Factor):
    """A scalar as a distribution over ``bins`` symexp-spaced values (Hafner et al. 2023), or evenly spaced ones."""

    def __init__(
        self,
        header: str,
        net: Head = None,
        *,
        shape: Shape = (),
        bins: int = 255,
        low: float = -20.0,
        high: float = 20.0,
        spacing: Literal["symexp", "linear"] = "symexp",
    ) -> None:
        family = families.TwoHotFamily(bins=bins, low=low, high=high, spacing=spacing)
        super().__init__(header, net, family=family, shape=shape)


class Laplace(Factor):
    """Laplace(loc, scale). A head gives loc and softplus⁻¹(scale); with ``scale=1.0`` it scores the absolute error."""

    def __init__(self, header: str, net: Head = None, *, shape: Shape = None, **fixed: Tensor | float) -> None:
        super().__init__(header, net, family=families.laplace, shape=shape, fixed=fixed)


class StudentT(Factor):
    """Student-t(df, loc, scale): a Normal with heavy tails. ``df=4`` fixes the degrees of freedom."""

    def __init__(self, header: str, net: Head = None, *, shape: Shape = None, **fixed: Tensor | float) -> None:
        super().__init__(header, net, family=families.student_t, shape=shape, fixed=fixed)


class TanhNormal(Factor):
    """tanh of a Normal(loc, scale), in (−1, 1). A head gives loc and softplus⁻¹(scale)."""

    def __init__(self, header: str, net: Head = None, *, shape: Shape = None, **fixed: Tensor | float) -> None:
        super().__init__(header, net, family=families.tanh_normal, shape=shape, fixed=fixed)


class TruncatedNormal(Factor):
    """Normal(loc, scale) held between ``low`` and ``high``. A head gives loc and softplus⁻¹(scale)."""

    def __init__(
        self, header: str, net: Head = None, *, shape: Shape = None, low: float = -1.0, high: float = 1.0,
        **fixed: Tensor | float,
    ) -> None:  # fmt: skip
        family = families.TruncatedNormalFamily(low=low, high=high)
        super().__init__(header, net, family=family, shape=shape, fixed=fixed)


class LogNormal(Factor):
    """Log-Normal(loc, scale) over positive values: log x is Normal(loc, scale)."""

    def __init__(self, header: str, net: Head = None, *, shape: Shape = None, **fixed: Tensor | float) -> None:
        super().__init__(header, net, family=families.log_normal, shape=shape, fixed=fixed)


class Beta(Factor):
    """Beta(concentration1, concentration0) over (0, 1); also by the names ``alpha`` and ``beta``."""

    def __init__(self, header: str, net: Head = None, *, shape: Shape = None, **fixed: Tensor | float) -> None:
        super().__init__(header, net, family=families.beta, shape=shape, fixed=fixed)


class Gamma(Factor):
    """Gamma(concentration, rate) over positive values."""

    def __init__(self, header: str, net: Head = None, *, shape: Shape = None, **fixed: Tensor | float) -> None:
        super().__init__(header, net, family=families.gamma, shape=shape, fixed=fixed)


class Dirichlet(Factor):
    """Dirichlet(concentration) over probability vectors; the last axis of ``shape`` sums to 1."""

    def __init__(self, header: str, net: Head = None, *, shape: Shape = None, **fixed: Tensor | float) -> None:
        super().__init__(header, net, family=families.dirichlet, shape=shape, fixed=fixed)


class Uniform(Factor):
    """Uniform(low, high). A head gives low and softplus⁻¹(high - low)."""

    def __init__(self, header: str, net: Head = None, *, shape: Shape = None, **fixed: Tensor | float) -> None:
        super().__init__(header, net, family=families.uniform, shape=shape, fixed=fixed)


class VonMises(Factor):
    """von Mises(loc, concentration) of an angle in radians; samples lie within π of loc."""

    def __init__(self, header: str, net: Head = None, *, shape: Shape = None, **fixed: Tensor | float) -> None:
        super().__init__(header, net, family=families.von_mises, shape=shape, fixed=fixed)


class Poisson(Factor):
    """Poisson(rate) over counts; ``E`` needs ``gradient="score"``."""

    def __init__(self, header: str, net: Head = None, *, shape: Shape = None, **fixed: Tensor | float) -> None:
        super().__init__(header, net, family=families.poisson, shape=shape, fixed=fixed)


class Binomial(Factor):
    """How many of ``total_count`` trials succeed, from logits; ``E`` needs ``gradient="score"`` or "exact"."""

    def __init__(
        self, header: str, net: Head = None, *, shape: Shape = None, total_count: int = 1, **fixed: Tensor | float
    ) -> None:
        family = families.BinomialFamily(total_count=total_count)
        super().__init__(header, net, family=family, shape=shape, fixed=fixed)


class Geometric(Factor):
    """How many trials fail before the first success, from logits; ``E`` needs ``gradient="score"``."""

    def __init__(self, header: str, net: Head = None, *, shape: Shape = None, **fixed: Tensor | float) -> None:
        super().__init__(header, net, family=families.geometric, shape=shape, fixed=fixed)


class NegativeBinomial(Factor):
    """Negative binomial(total_count, logits) over counts, overdispersed; ``E`` needs ``gradient="score"``."""

    def __init__(self, header: str, net: Head = None, *, shape: Shape = None, **fixed: Tensor | float) -> None:
        super().__init__(header, net, family=families.negative_binomial, shape=shape, fixed=fixed)


class Multinomial(Factor):
    """How often each class came up in ``total_count`` draws; counts over the last axis of ``shape`` sum to it."""

    def __init__(
        self, header: str, net: Head = None, *, shape: Shape = None, total_count: int = 1, **fixed: Tensor | float
    ) -> None:
        family = families.MultinomialFamily(total_count=total_count)
        super().__init__(header, net, family=family, shape=shape, fixed=fixed)


class Deterministic(Factor):
    """``h_t = f(h_{t-1}, z_{t-1}, a_{t-1})``: any PyTorch, run once, allowed anywhere. It has no density.

    ``h_1, h_2 = f(x)`` has several outputs: the network returns a tuple, ``shape=[16, 8]`` their event shapes.
    """

    def __init__(
        self,
        header: str,
        net: nn.Module | Callable[..., Any],
        *,
        shape: Shape | Sequence[Shape] = None,
        **unknown: Any,
    ) -> None:
        for name in unknown:
            raise FormulaError(f"{header}: a deterministic factor has no parameter {name!r}.{near(name, ['shape'])}")
        if not callable(net):
            raise FormulaError(f"{header}: expected a network or function, got {type(net).__name__}")
        super().__init__(header, net, family=None, shape=shape, deterministic=True)


class Data(Factor):
    """``p_data(x)``: the empirical distribution; a draw is the input that the call is given.

    ``levels=L``: whole numbers from 0 to L−1, such as grey levels that networks scale; a density of x knows its own
    support, data that none is taken of are held against this one at the first call.
    """

    def __init__(self, header: str, *, shape: Shape = None, levels: int | None = None, **unknown: Any) -> None:
        for name in unknown:
            raise FormulaError(f"{header}: data has no parameter {name!r}.{near(name, ['shape', 'levels'])}")
        if levels is not None and (not isinstance(levels, int) or isinstance(levels, bool) or levels < 1):
            raise FormulaError(f"{header}: expected levels= as a whole number of at least 1, got {levels!r}")
        super().__init__(header, None, family=None, shape=shape)
        self.levels = levels
        if self.conditions:
            raise HeaderError(f"{header}: expected data without conditions, e.g. p_data({self.variable})")
