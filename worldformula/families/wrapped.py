"""Any ``torch.distributions.Distribution``, or one of zuko, as a family: the network returns the distribution object.

Density, entropy, mean and KL are the object's own, where it has them. A sample is a function of standard normal noise ε
of the shape of the event, so that it repeats with its noise and carries the gradient of the path:

    Normal, MultivariateNormal       loc + scale·ε
    NormalizingFlow (zuko)           the inverse transform of the base's sample
    TransformedDistribution          the transforms of the base's sample
    everything with an icdf          icdf(Φ(ε))

Anything else (torch's Gamma, Categorical, …) is refused with the name of our family to use. The family is slower than
one of ours: PyTorch builds and dispatches objects, and ``torch.compile`` breaks its graph at the KL.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence, transform_to
from torch.distributions.constraints import _Dependent

from worldformula.errors import FormulaError, HeadError, NoClosedFormError, ShapeError
from worldformula.families.base import NOTHING, Family, Parameter, Params, Shape, require_same, split_head, total, wide
from worldformula.families.closed import register_kl
from worldformula.families.domains import Domain, told
from worldformula.families.objects import Wrapper, draw
from worldformula.families.writing import Sign


@dataclass(frozen=True)
class WrappedFamily(Family):
    """A distribution object, ``distribution``, as the only parameter.

    ``of``, such as ``"torch.distributions:Gumbel"``, names a class whose arguments come instead from a head, split
    equally and brought into their domains by ``transform_to``, or from keywords.
    """

    of: str = ""

    name: ClassVar[str] = "wrapped"
    symbol: ClassVar[Sign] = Sign("D", r"\mathcal{D}")
    parameters: ClassVar[tuple[str, ...]] = ("distribution",)
    reparametrised: ClassVar[bool] = True
    estimator: ClassVar[str | None] = "reparametrised"
    gradients: ClassVar[tuple[str, ...]] = ("reparametrised",)
    default_rank: ClassVar[int] = 1
    joint: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.of:
            settings = {
                "parameters": self._names(),
                "symbol": Sign(self._kind().__name__, rf"\mathrm{{{self._kind().__name__}}}"),
            }
            for name, value in settings.items():
                object.__setattr__(self, name, value)

    def _kind(self) -> type[Distribution]:
        module, _, name = self.of.partition(":")
        return cast(type[Distribution], getattr(importlib.import_module(module), name))

    def _names(self) -> tuple[str, ...]:
        """The arguments of the class; logits before probs."""
        constraints = cast(Mapping[str, Any], self._kind().arg_constraints)
        names = tuple(name for name in constraints if name != "probs" or "logits" not in constraints)
        if not names or any(c.event_dim > 1 for c in constraints.values()):
            raise HeadError(f"wrapped: {self.of} has no arguments that a head can be split into. Return the object.")
        return names

    # ---------------------------------------------------------------------------------------------------- parameters

    def params(
        self, head: object = None, shape: Shape | None = None, fixed: Mapping[str, Parameter] = NOTHING
    ) -> Params:
        """The distribution as the only parameter: what the network returned, or built from head and keywords."""
        if isinstance(head, Wrapper):  # of all steps
            return cast(Params, (head,))
        if isinstance(head, Distribution):
            if len(fixed):  # under torch.compile, the bool of an empty mapping proxy is True
                raise HeadError(f"wrapped: the network returns a distribution, so {', '.join(fixed)} cannot be fixed.")
            self._check_shape(head, shape)
            return cast(Params, (Wrapper(head),))
        if not self.of:
            raise HeadError(
                f"wrapped: expected a network that returns a torch.distributions.Distribution, got "
                f"{type(head).__name__}. Return the object, or name its class: of=torch.distributions.Gumbel."
            )
        arguments = super().params(cast("Tensor | Mapping[str, Parameter] | None", head), shape, fixed)
        kind: Any = self._kind()
        distribution = kind(**dict(zip(self.parameters, arguments, strict=True)), validate_args=False)
        self._check_shape(distribution, shape)
        return cast(Params, (Wrapper(distribution),))

    def _one_batch(self, params: Params, rank: int) -> Params:
        """The class sees its arguments with one batch."""
        return params

    def _check_shape(self, distribution: Distribution, shape: Shape | None) -> None:
        whole = tuple(distribution.batch_shape + distribution.event_shape)
        if shape is not None and (len(whole) < len(shape) or whole[len(whole) - len(shape) :] != shape):
            raise ShapeError(
                f"wrapped: the {type(distribution).__name__} does not end in the declared event shape {shape}: its "
                f"batch and event shape are {list(whole)}. Change the network, or shape=."
            )

    def split(self, head: Tensor, shape: Shape | None, names: Sequence[str]) -> tuple[Tensor, ...]:
        """A head into equal pieces, as every family."""
        return split_head(self.of, head, shape, names)

    def constrain(self, pieces: tuple[Tensor, ...], names: Sequence[str], shape: Shape | None) -> tuple[Tensor, ...]:
        """Each piece into the domain of its argument."""
        constraints = cast(Mapping[str, Any], self._kind().arg_constraints)
        return tuple(transform_to(constraints[name])(piece) for name, piece in zip(names, pieces, strict=True))

    def constants(self, shape: Shape) -> dict[str, Parameter]:
        """An error: which distribution is standard is unknown."""
        raise HeadError("wrapped: there is no standard distribution. Give a network, or all arguments as keywords.")

    def head_width(self, shape: Shape, fixed: Mapping[str, Parameter] = NOTHING) -> int | None:
        """As every family where ``of`` is given, else None."""
        return super().head_width(shape, fixed) if self.of else None

    def shapes(self, params: Params, rank: int) -> tuple[Shape, Shape]:
        """Batch and event shape of a value; which axes are the event's is up to ``rank``."""
        whole = _wrapper(params).whole
        return whole[: len(whole) - rank], whole[len(whole) - rank :]

    def expand(self, params: Params, batch: Shape, rank: int) -> Params:
        """The distribution seen with the batch axes ``batch``."""
        held = _wrapper(params)
        _, event = self.shapes(params, rank)
        whole = (*batch, *event)
        return cast(Params, (held.expand(whole[: len(whole) - len(held.distribution.event_shape)]),))

    # ------------------------------------------------------------------------------------------------------ sampling

    def noise(
        self, shape: Shape, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Standard normal noise."""
        return torch.randn(shape, dtype=dtype, device=device, generator=generator)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """`draw`, of every step's distribution."""
        return _wrapper(params).each(draw, noise)

    def mode(self, params: Params) -> Parameter:
        """The distribution's mode, or its mean where it tells none."""
        return _wrapper(params).each(lambda d: _own(d, "mode", "mean"))

    def mean(self, params: Params) -> Parameter:
        """The distribution's mean."""
        return _wrapper(params).each(lambda d: _own(d, "mean"))

    def variance(self, params: Params) -> Parameter:
        """The distribution's variance."""
        return _wrapper(params).each(lambda d: _own(d, "variance"))

    # ----------------------------------------------------------------------------------------------------- densities

    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """The distribution's log-density, summed over those of the last ``rank`` axes that it counts as batch."""
        held = _wrapper(params)
        require_same(self, "the value", value.shape, held.whole)
        density = held.each(lambda d, x: d.log_prob(x), wide(value) if value.is_floating_point() else value)
        return total(density, self._rest(held, rank))

    def _rest(self, held: Wrapper, rank: int) -> int:
        """The axes of an event that the distribution counts as batch."""
        own = len(held.parts[0].event_shape)
        if own > rank:
            raise ShapeError(
                f"wrapped: the distribution's events have {own} axes, the variable's {rank}. Declare shape=."
            )
        return rank - own

    def wrong_value(self, value: Tensor, rank: int, params: Params | None = None) -> str | None:
        """A value outside the support that the distribution states."""
        if params is None or len(_wrapper(params).parts) > 1:
            return None
        try:
            support = _wrapper(params).distribution.support
        except (NotImplementedError, AttributeError):
            return None
        if support is None:
            return None
        allowed: Any = support
        within = Domain(f"in the support {allowed}", allowed.check, allowed.event_dim)
        fault = told(within, value, missing=True)
        return None if fault is None else f"wrapped: expected a value {fault}"

    def wrong_parameters(self, given: Mapping[str, Parameter]) -> str | None:
        """Arguments that break the constraints of the class."""
        constraints = cast(Mapping[str, Any], self._kind().arg_constraints) if self.of else {}
        for name, value in given.items():
            rule: Any = constraints.get(name)
            if rule is None or not isinstance(value, Tensor) or isinstance(rule, _Dependent):
                continue
            if fault := told(Domain(f"in {rule}", rule.check, rule.event_dim), value):
                return f"expected {name}= {fault}"
        return super().wrong_parameters(given)

    def entropy(self, params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """The distribution's entropy; NoClosedFormError where it has none."""
        held = _wrapper(params)
        try:
            return total(held.each(lambda d: d.entropy()), self._rest(held, rank))
        except NotImplementedError:
            return super().entropy(params, rank, shape)

    def kl(self, q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """`kl_wrapped`."""
        return kl_wrapped(q_params, p_params, rank, shape)


wrapper_family = WrappedFamily()


@register_kl(WrappedFamily, WrappedFamily)
def kl_wrapped(q_params: Params, p_params: Params, rank: int, _: Shape | None = None) -> Parameter:
    """torch's KL of two distributions; NoClosedFormError where it registers none."""
    q, p = _wrapper(q_params), _wrapper(p_params)
    require_same(wrapper_family, "q", q.whole, p.whole)
    if len(q.parts) != len(p.parts):
        raise NoClosedFormError("wrapped: the KL needs both sides at the same steps. Write E(q, log(q) - log(p)).")
    try:
        found = [kl_divergence(a, b) for a, b in zip(q.parts, p.parts, strict=True)]
    except NotImplementedError as error:
        raise NoClosedFormError(f"wrapped: {error}. Estimate it on the sample: E(q, log(q) - log(p)).") from None
    whole = found[0] if len(found) == 1 else torch.stack(found, 1).flatten(0, 1)
    return total(whole, wrapper_family._rest(q, rank))


def _wrapper(params: Params) -> Wrapper:
    return cast(Wrapper, params[0])


def _own(distribution: Distribution, *names: str) -> Tensor:
    """The first of these properties that the distribution has."""
    for name in names:
        try:
            return cast(Tensor, getattr(distribution, name))
        except (NotImplementedError, AttributeError):
            continue
    raise FormulaError(f"wrapped: {type(distribution).__name__} has no {' or '.join(names)}. Sample it instead.")
