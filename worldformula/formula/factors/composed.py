"""Factors whose distribution is composed: of several numbers at once, of other distributions, of invertible networks.

The families of one independent number for each element are in `factors`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from worldformula import families
from worldformula.errors import FormulaError, HeaderError
from worldformula.families.autoregressive import CausalHead
from worldformula.families.base import Family, Params
from worldformula.families.flow import FlowFamily, FlowHead, Invertible, parts_of
from worldformula.families.given import placeholder
from worldformula.families.tensors import is_number
from worldformula.formula.factors.independent import Normal, Poisson
from worldformula.formula.factors.joint import Factor
from worldformula.formula.syntax.factor import Head
from worldformula.formula.syntax.given import Shape, as_shape, check_value
from worldformula.formula.syntax.habits import named_only

__all__ = [
    "Autoregressive",
    "DiscretisedLogistic",
    "Flow",
    "LogisticNormal",
    "LowRankNormal",
    "Mixture",
    "MultivariateNormal",
    "RelaxedBernoulli",
    "RelaxedOneHot",
    "VonMisesFisher",
    "Wrapped",
    "ZeroInflated",
]


class MultivariateNormal(Factor):
    """Normal with a full covariance over the last axis; a head of D + D·(D+1)/2 gives loc and its Cholesky factor.

    ``scale_tril=``, ``covariance_matrix=`` or ``loc=`` fix a parameter; ``scale_tril=1.0`` is the identity.
    """

    def __init__(
        self, header: str, net: Head = None, *, shape: Shape = None, min_scale: float = 0.0, **fixed: Tensor | float
    ) -> None:
        family = families.MultivariateNormalFamily(min_scale=min_scale)
        super().__init__(header, net, family=family, shape=shape, fixed=fixed)


class LowRankNormal(Factor):
    """Normal with covariance W·Wᵀ + diag d over the last axis, W of ``cov_rank`` columns; a head of D·(2 + R)."""

    def __init__(
        self, header: str, net: Head = None, *, shape: Shape = None, cov_rank: int = 1, **fixed: Tensor | float
    ) -> None:
        family = families.LowRankNormalFamily(cov_rank=cov_rank)
        super().__init__(header, net, family=family, shape=shape, fixed=fixed)


class VonMisesFisher(Factor):
    """von Mises–Fisher(loc, concentration) of unit vectors over the last axis; a head of D + 1. Uniform without any.

    The direction of ``loc`` counts; a ``concentration`` from a network by name has one last axis, ``[..., 1]``.
    """

    def __init__(
        self, header: str, net: Head = None, *, shape: Shape = None, min_concentration: float = 0.0,
        **fixed: Tensor | float,
    ) -> None:  # fmt: skip
        family = families.VonMisesFisherFamily(min_concentration=min_concentration)
        super().__init__(header, net, family=family, shape=shape, fixed=fixed)


class LogisticNormal(Factor):
    """softmax of a Normal(loc, scale) and a 0, over probability vectors; K entries from a head of 2·(K - 1)."""

    def __init__(self, header: str, net: Head = None, *, shape: Shape = None, **fixed: Tensor | float) -> None:
        super().__init__(header, net, family=families.logistic_normal, shape=shape, fixed=fixed)


class DiscretisedLogistic(Factor):
    """A mixture of logistics over the levels 0 … levels-1 of each element (Salimans et al. 2017): images as integers.

    A head of 3·components for each element gives the logits, locations and log-scales.
    """

    def __init__(
        self,
        header: str,
        net: Head = None,
        *,
        shape: Shape = None,
        components: int = 10,
        levels: int = 256,
        **fixed: Tensor | float,
    ) -> None:
        family = families.DiscretisedLogisticFamily(components=components, levels=levels)
        super().__init__(header, net, family=family, shape=shape, fixed=fixed)


class RelaxedBernoulli(Factor):
    """Binary Concrete on (0, 1): reparametrised, with its own density at the given ``temperature``."""

    def __init__(
        self, header: str, net: Head = None, *, temperature: float, shape: Shape = None, **fixed: Tensor | float
    ) -> None:
        family = families.RelaxedBernoulliFamily(temperature=temperature)
        super().__init__(header, net, family=family, shape=shape, fixed=fixed)


class RelaxedOneHot(Factor):
    """Concrete on the simplex (Gumbel-softmax): reparametrised, with its own density at the given ``temperature``.

    Score a hard one-hot by a OneHot factor with the same network.
    """

    def __init__(
        self, header: str, net: Head = None, *, temperature: float, shape: Shape = None, **fixed: Tensor | float
    ) -> None:
        family = families.RelaxedOneHotFamily(temperature=temperature)
        super().__init__(header, net, family=family, shape=shape, fixed=fixed)


class ZeroInflated(Factor):
    """Counts with more zeros than their family has: ``ZeroInflated("p(n|x)", net, family=Poisson, shape=4)``.

    ``family`` is a factor class, such as NegativeBinomial, whose settings may follow (``total_count=16``), or a family.
    The head gives the logits of the gate, which is the share of sure zeros, and then the head of the family; ``gate=``
    fixes it.
    """

    def __init__(
        self, header: str, net: Head = None, *, shape: Shape = None, family: Family | type[Factor] = Poisson,
        **fixed: Tensor | float,
    ) -> None:  # fmt: skip
        base = family if isinstance(family, Family) else _family_of(header, family, fixed)
        super().__init__(header, net, family=families.ZeroInflatedFamily(base=base), shape=shape, fixed=fixed)


class Mixture(Factor):
    """A mixture of ``components`` distributions of one kind: ``Mixture("p(z|h)", net, components=5, shape=32)``.

    ``component`` is a factor class, such as Normal, whose settings may follow (``min_scale=0.1``), or a family. The
    head gives K logits and K heads of the component, for each event, or, ``factored``, for each element. Parameters as
    keywords have the axis K in front of the event (behind it where factored): ``weights=[K]``, ``loc=[K, D]``.

    Of several kinds, ``components=[Normal, Laplace]`` names them all; the head gives K logits and behind them a head of
    each, and keywords have the kind in front: ``normal_scale=1.0``, of two of one kind ``normal_1_scale=``.

    ``temperature`` of a mixture of Normals divides its logits and multiplies its scales by its square root, in draws
    and density alike (Ha and Schmidhuber 2018).
    """

    def __init__(
        self,
        header: str,
        net: Head = None,
        *,
        components: int | Sequence[Family | type[Factor]],
        shape: Shape,
        component: Family | type[Factor] | None = None,
        factored: bool = False,
        temperature: float = 1.0,
        **fixed: Tensor | float,
    ) -> None:
        family: Family
        if isinstance(components, Sequence):
            if component is not None or not is_number(temperature, 1.0):
                raise FormulaError(
                    f"{header}: components= lists all kinds; component= and temperature= are of a mixture of one kind, "
                    f"components={len(components)}"
                )
            kinds = tuple(c if isinstance(c, Family) else _family_of(header, c) for c in components)
            family = families.UnlikeMixtureFamily(parts=kinds, factored=factored)
        else:
            inner = component if isinstance(component, Family) else _family_of(header, component or Normal, fixed)
            family = families.MixtureFamily(
                component=inner, components=components, factored=factored, temperature=temperature
            )
            if net is None:
                _require_axis(header, family, fixed)
        super().__init__(header, net, family=family, shape=shape, fixed=fixed)
        if isinstance(family, families.MixtureFamily):
            self._refuse_unclear(family, fixed)

    def _refuse_unclear(self, family: families.MixtureFamily, fixed: Mapping[str, Tensor | float]) -> None:
        """Parameters of one axis where both sizes are its own: of the components and of the event."""
        count = family.components
        for name, value in fixed.items():
            both = isinstance(value, Tensor) and value.ndim == 1 and value.shape == self.shape == (count,)
            if both and count > 1 and family.alternatives.get(name, name) in family.component.parameters:
                write = "[D, K]" if family.factored else "[K, 1] or as [1, D]"
                raise FormulaError(
                    f"{self.header}: {name}= of shape [{count}] may be one number per component or per element, of "
                    f"which there are {count} each\nwrite it as {write}"
                )

    def responsibilities(self, **values: Any) -> Tensor:
        """p(k|x), the posterior of the component given the variable's value and its conditions: ``[*batch, K]``."""
        factor, values = self.for_call(values)
        value, *conditions = self.arguments(values, (self.variable, *self.conditions))
        params = factor.params(*conditions)
        family = factor.family
        assert isinstance(family, families.MixtureFamily | families.UnlikeMixtureFamily)
        if self.unbatched:
            params = family.expand(params, tuple(value.shape[: value.ndim - self.rank]), self.rank)
        return family.responsibilities(params, value, self.rank)


def _family_of(header: str, kind: type[Factor], given: dict[str, Any] | None = None) -> Family:
    """The family of a factor class, ``families.one_hot`` of ``OneHot``, with its settings, which leave ``given``."""
    told = getattr(kind, "__name__", repr(kind))
    found = getattr(families, re.sub(r"(?<=[a-z])(?=[A-Z])", "_", told).lower(), None)
    if not isinstance(kind, type) or not isinstance(found, Family):
        raise FormulaError(f"{header}: expected a component as a factor class or a family, got {told}")
    settings = {field.name: given.pop(field.name) for field in fields(found) if given and field.name in given}
    return replace(found, **settings) if settings else found


def _require_axis(header: str, family: families.MixtureFamily, fixed: Mapping[str, Tensor | float]) -> None:
    """Raise `FormulaError` where a mixture without a network lacks parameters, or has numbers alone."""
    given = {family.alternatives.get(name, name) for name in fixed}
    missing = [name for name in family.component.parameters if name not in given]
    if missing or not any(isinstance(fixed.get(name), Tensor) for name in fixed):
        what = missing[0] if missing else family.component.parameters[0]
        raise FormulaError(
            f"{header}: expected a network, or {what}= as a tensor with an axis of {family.components} components"
        )


class Wrapped(Factor):
    """Any ``torch.distributions`` object, or one of zuko: the network returns it.

    With ``of=torch.distributions.Gumbel`` a usual head is split into the arguments of that class instead, which may
    also come as keywords.
    """

    def __init__(
        self,
        header: str,
        net: nn.Module | Callable[..., Distribution | Tensor] | None = None,
        *,
        of: type[Distribution] | None = None,
        shape: Shape = None,
        **fixed: Tensor | float,
    ) -> None:
        family = families.WrappedFamily() if of is None else families.WrappedFamily(of=f"{of.__module__}:{of.__name__}")
        sizes = as_shape(shape, header)
        if asked := [name for name, value in fixed.items() if placeholder(value) is not None]:
            raise FormulaError(
                f"{header}: expected {asked[0]}= as a number or a tensor, got a Symbol: an object of "
                f"torch.distributions has the axes of its event, which a number of the call has not\n"
                f"let a network return the distribution"
            )
        filled = {
            name: torch.full(sizes, float(value)) if isinstance(value, int | float) and sizes is not None else value
            for name, value in fixed.items()
        }
        super().__init__(header, net, family=family, shape=shape, fixed=filled)


class Flow(Factor):
    """A normalising flow: ``Flow("p(x|c)", RealNVP(2, context=3), shape=2)``.

    transform: RealNVP, a LazyTransform of zuko, or a whole ``zuko.flows`` flow. Its context are the conditions, vectors
    joined in header order, or what ``encoder`` makes of them, called once for all uses of the factor.
    base: a factor of the same shape, for the variable before the transform, whose conditions are among those of the
    flow; by default the standard Normal, or the base that a flow of zuko brings.
    """

    def __init__(
        self,
        header: str,
        transform: nn.Module,
        *,
        shape: Shape,
        base: Factor | None = None,
        encoder: nn.Module | None = None,
        shared: bool = False,
    ) -> None:
        sizes = as_shape(shape, header)
        if sizes is None:
            raise FormulaError(f"{header}: expected shape=, as a flow keeps the shape of its base, e.g. shape=2")
        if not isinstance(transform, nn.Module):
            raise FormulaError(
                f"{header}: expected an invertible network, such as RealNVP(2) or zuko.flows.NSF(2), got "
                f"{type(transform).__name__}"
            )
        bijection = getattr(transform, "transform", None)
        lazy = getattr(transform, "base", None)
        if isinstance(bijection, nn.Module) and isinstance(lazy, nn.Module):  # a whole flow of zuko
            transform = bijection
            base = base if base is not None or _standard(lazy) else Wrapped("p(u)", lazy)
        network = _FlowNetwork(transform, encoder, base, len(sizes))
        family = FlowFamily(base=families.normal if base is None or base.family is None else base.family)
        super().__init__(header, network, family=family, shape=shape, fixed={"shared": shared})
        if base is not None and base.symbols:
            raise FormulaError(
                f"{self}: its base {base} takes {', '.join(v.key for v in base.symbols)} from the call, which the "
                f"network of a flow does not see\ngive the base numbers or a network"
            )
        if base is not None:
            network.order = self._order(base)

    @named_only("to_base({name}=...), the conditions too")
    def to_base(self, **values: Any) -> Tensor:
        """u = f(x; c), what a value was before the transform: ``flow.to_base(x=x, c=c)``, in the shape of x."""
        value, *conditions = self.arguments(values, (self.variable, *self.conditions))
        check_value(self, self.variable, self.shape, value)
        bijection, context, _ = parts_of(self.params(*conditions))
        return bijection.to_base(value, context)[0]

    def to_value(self, u: Tensor, **conditions: Any) -> Tensor:
        """The value x of u, the inverse of `to_base`: ``flow.to_value(u, c=c)``."""
        check_value(self, self.variable, self.shape, u)
        bijection, context, _ = parts_of(self.params(*self.arguments(conditions, self.conditions)))
        return bijection.to_value(u, context)

    def _order(self, base: Factor) -> tuple[int, ...]:
        """Where the conditions of the base are among those of the flow."""
        if base.family is None or (base.shape is not None and base.shape != self.shape):
            raise FormulaError(f"{self}: expected a random base of shape {self.shape}, got {base!r}")
        missing = [str(c) for c in base.conditions if c not in self.conditions]
        if missing:
            raise HeaderError(f"{self}: the base {base} needs {', '.join(missing)}, which the flow does not read")
        return tuple(self.conditions.index(c) for c in base.conditions)


def _standard(lazy: nn.Module) -> bool:
    """Whether the base of a zuko flow is the standard Normal, fixed."""
    base = getattr(lazy(), "base_dist", None)
    fixed = not list(lazy.parameters())
    normal = isinstance(base, torch.distributions.Normal)
    return fixed and normal and bool((base.loc == 0).all() and (base.scale == 1).all())  # type: ignore[union-attr]


class _FlowNetwork(nn.Module):
    """The network of a Flow factor: what it returns holds the context and the base's parameters, each computed once."""

    def __init__(self, transform: nn.Module, encoder: nn.Module | None, base: Factor | None, rank: int) -> None:
        super().__init__()
        self.flow, self.encoder, self.base, self.rank = Invertible(transform), encoder, base, rank
        self.order: tuple[int, ...] = ()

    def forward(self, *conditions: Tensor) -> FlowHead:
        """Conditions ``[*batch, C]`` to the head of the flow."""
        context: Tensor | None = None
        if self.encoder is not None:
            context = self.encoder(*conditions)
        elif conditions:
            context = conditions[0] if len(conditions) == 1 else torch.cat(conditions, -1)
        base: Params = (0.0, 1.0)
        if self.base is not None:
            base = self.base.params(*(conditions[i] for i in self.order))
            if context is not None and self.base.family is not None:  # a base without conditions has no batch axes
                base = self.base.family.expand(base, tuple(context.shape[:-1]), self.rank)
        return FlowHead(self.flow, context, base)


class Autoregressive(Factor):
    """A chain of conditionals over the whole variable: ``Autoregressive("p(x)", MaskedMLP(64), family=Bernoulli,
    shape=64)``.

    net: called as ``net(x)``, or ``net(x, context)`` where the factor has conditions (vectors, joined in header order);
    gives the head of ``family``, a factor class or a family, and must be causal: see `worldformula.nets.masked`.
    The density is exact in one call of the network, a sample takes one call for each element.
    """

    def __init__(self, header: str, net: nn.Module, *, family: Family | type[Factor] = Normal, shape: Shape) -> None:
        if as_shape(shape, header) is None:
            raise FormulaError(f"{header}: expected shape=, the elements that follow one another, e.g. shape=64")
        if not isinstance(net, nn.Module):
            raise FormulaError(f"{header}: expected a causal network, such as MaskedMLP(64), got {type(net).__name__}")
        base = family if isinstance(family, Family) else _family_of(header, family)
        super().__init__(header, _CausalNetwork(net), family=families.AutoregressiveFamily(base=base), shape=shape)


class _CausalNetwork(nn.Module):
    """The network of an Autoregressive factor: what it returns holds the causal network and its context."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.causal = net

    def forward(self, *conditions: Tensor) -> CausalHead:
        """Conditions ``[*batch, C]`` to the head of the chain."""
        context = None if not conditions else conditions[0] if len(conditions) == 1 else torch.cat(conditions, -1)
        return CausalHead(self.causal, context)
