"""The factors that users write, one per family: ``Normal("q(z|x)", encoder, shape=16)``."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from worldformula import families
from worldformula.errors import FormulaError, HeaderError
from worldformula.formula.factor import Factor, Head, Joint
from worldformula.formula.given import Shape

__all__ = [
    "Bernoulli",
    "Categorical",
    "Data",
    "Deterministic",
    "Factor",
    "Joint",
    "Normal",
    "OneHot",
    "TwoHot",
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
    """Categorical(logits) over integers; the last axis of the head holds the classes."""

    def __init__(self, header: str, net: Head = None, *, shape: Shape = None, **fixed: Tensor | float) -> None:
        super().__init__(header, net, family=families.categorical, shape=shape, fixed=fixed)


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
    """A scalar as a distribution over ``bins`` symexp-spaced values (Hafner et al. 2023)."""

    def __init__(
        self,
        header: str,
        net: Head = None,
        *,
        shape: Shape = (),
        bins: int = 255,
        low: float = -20.0,
        high: float = 20.0,
    ) -> None:
        family = families.TwoHotFamily(bins=bins, low=low, high=high)
        super().__init__(header, net, family=family, shape=shape)


class Deterministic(Factor):
    """``h_t = f(h_{t-1}, z_{t-1}, a_{t-1})``: any PyTorch, run once, allowed anywhere. It has no density."""

    def __init__(self, header: str, net: nn.Module | Callable[..., Tensor], *, shape: Shape = None) -> None:
        if not callable(net):
            raise FormulaError(f"{header}: expected a network or function, got {type(net).__name__}")
        super().__init__(header, net, family=None, shape=shape, deterministic=True)


class Data(Factor):
    """``p_data(x)``: the empirical distribution; a draw is the input that the call is given."""

    def __init__(self, header: str, *, shape: Shape = None) -> None:
        super().__init__(header, None, family=None, shape=shape)
        if self.conditions:
            raise HeaderError(f"{header}: expected data without conditions, e.g. p_data({self.variable})")
