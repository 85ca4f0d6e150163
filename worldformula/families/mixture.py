"""A mixture of K distributions of one family: ``p(x) = Σ_k w_k·p_k(x)``.

    log p(x)  = logsumexp_k(log w_k + log p_k(x))
    p(k|x)    = w_k·p_k(x) / p(x)               the responsibilities

The components are mixed as whole events (a Gaussian mixture model, or a VampPrior with the encoder's outputs as
components), or, ``factored``, each element of an event has a mixture of its own (the mixture density network of
Bishop 1994, and of Ha and Schmidhuber's world models, arXiv 1803.10122).

A temperature τ makes a mixture of Normals less or more certain, as in the dreams of Ha and Schmidhuber: its logits are
divided by τ and its scales multiplied by √τ. It is a distribution of its own, so draws, density, mean and
responsibilities are all those of the tempered mixture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from worldformula.errors import ConfigError, HeadError
from worldformula.families.base import (
    NOTHING,
    Family,
    Parameter,
    Params,
    Shape,
    broadcast,
    draw_class,
    log_mix,
    require_same,
    uniform,
    wide,
)
from worldformula.families.domains import LOGITS, WEIGHTS, told
from worldformula.families.mixture_base import Mixed
from worldformula.families.normal import NormalFamily
from worldformula.families.opaque import ByName
from worldformula.families.tensors import is_flat, is_number, with_ones


@dataclass(frozen=True)
class MixtureFamily(Mixed):
    """A mixture of ``components`` distributions of the family ``component``.

    Parameters: ``log_weights``, normalised over its last axis, K; then those of the component, with an axis K before
    the event (``[*batch, K, *event]``), or behind it where ``factored`` (``[*batch, *event, K]``). ``weights`` is
    accepted by name. A head gives K logits and then K heads of the component: for each event, or for each element.

    A sample draws the component and then its value from one tensor of noise, without a gradient: the choice of the
    component is discrete, and the path through the chosen one alone would be a biased estimate. So E takes
    ``gradient="score"``, which is unbiased.

    ``temperature``, of a mixture of Normals: logits / τ and scales · √τ, in all that is asked of it.
    """

    component: Family
    components: int
    factored: bool = False
    temperature: float = 1.0

    name: ClassVar[str] = "mixture"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.components < 1:
            raise ConfigError(f"mixture: expected at least 1 component, got {self.components}.")
        if self.temperature != 1.0 and not isinstance(self.component, NormalFamily):
            raise ConfigError(
                f"mixture: a temperature widens Normal components, got {self.component.name}. Leave temperature= out."
            )
        if isinstance(self.component, MixtureFamily):
            raise ConfigError(
                "mixture: a mixture of mixtures is one mixture with the product of the weights. Write that."
            )
        if self.factored and not self.component.of_elements:
            raise ConfigError(
                f"mixture: {self.component.name} draws a vector as a whole, so its elements cannot have mixtures of "
                f"their own. Leave factored out."
            )
        settings = {  # of the class in other families; here they follow from the component
            "parameters": ("log_weights", *self.component.parameters),
            "alternatives": {"weights": "log_weights", **self.component.alternatives},
            "default_rank": self.component.default_rank,
            "joint": 0 if self.factored else None,
        }
        for name, value in settings.items():
            object.__setattr__(self, name, value)

    def check_settings(self) -> None:
        """As every family."""
        if not self.temperature > 0.0:
            raise ConfigError(f"mixture: the temperature must be positive, got {self.temperature}.")

    def __repr__(self) -> str:
        """Source, without a temperature of 1."""
        cooled = "" if self.temperature == 1.0 else f", temperature={self.temperature!r}"
        sizes = f"components={self.components!r}, factored={self.factored!r}"
        return f"{type(self).__name__}(component={self.component!r}, {sizes}{cooled})"

    # ---------------------------------------------------------------------------------------------------- parameters

    def params(
        self, head: Tensor | Mapping[str, Parameter] | None, shape: Shape | None = None,
        fixed: Mapping[str, Parameter] = NOTHING,
    ) -> Params:  # fmt: skip
        """As every family; weights and components get the same batch axes. At least one parameter is a tensor."""
        head = self.named_head(head, shape) if isinstance(head, ByName) else head
        if shape is None and not isinstance(head, Mapping):
            raise HeadError("mixture: the sizes of weights and components are unknown. Declare shape=...")
        known = {**fixed, **(head if isinstance(head, Mapping) else {})}
        weights, given = self._sorted(known, shape)
        inner = self._inner(shape) if shape is not None else (1,) * (0 if self.factored else self.default_rank)
        rest = None
        if isinstance(head, Tensor):
            assert shape is not None
            logits, rest = self._split(head, shape, weights is None, given)
            weights = log_mix(logits, 0.0) if logits is not None else weights
        if rest is None:
            if missing := self._free(given):
                raise HeadError(f"mixture: {', '.join(missing)} of the components come from nowhere. Give a network.")
            parts = self.component.params(given, inner if shape is not None else None)
        else:
            ones = self.component.leading(inner) if inner else ()  # a flat head, also beside an axis of one component
            rest = with_ones(rest, ones, rest.ndim - 1) if math.prod(ones) == 1 else rest
            parts = self.component.params(rest, inner, given)
        if not any(isinstance(p, Tensor) for p in parts):
            raise HeadError("mixture: components of numbers alone are all alike. Give a parameter as [K, ...] tensor.")
        weights, parts = self._tempered(-math.log(self.components) if weights is None else weights, parts)
        return self._aligned(weights, parts, len(inner))

    def _tempered(self, weights: Parameter, parts: Params) -> tuple[Parameter, Params]:
        """Logits / τ and scales · √τ; equal weights stay equal."""
        if is_number(self.temperature, 1.0):
            return weights, parts
        loc, scale = parts
        weights = log_mix(weights / self.temperature, 0.0) if isinstance(weights, Tensor) else weights
        return weights, (loc, scale * self.temperature**0.5)

    def _sorted(
        self, given: Mapping[str, Parameter], shape: Shape | None
    ) -> tuple[Parameter | None, dict[str, Parameter]]:
        """The log-weights among the given parameters, and what is given of the component, as it is given."""
        weights = self.accept(given, None, "the head and the keywords").get("log_weights")
        if isinstance(weights, Tensor) and weights.shape[-1] != self.components:
            raise HeadError(f"mixture: expected weights [..., {self.components}], got {list(weights.shape)}.")
        return weights, {name: value for name, value in given.items() if self._canonical(name) != "log_weights"}

    def _split(
        self, head: Tensor, shape: Shape, weigh: bool, given: Mapping[str, Parameter]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Logits ``[..., K]`` and heads ``[..., K, width]`` of the components, those that are not given."""
        width = self._component_width(shape, given)
        each = self.components * (width + weigh)
        lead = shape if self.factored else ()
        flat = math.prod(lead) * each
        ends_flat = is_flat(head, lead, flat)
        if not ends_flat and not (math.prod(lead) == 1 and tuple(head.shape[-1 - len(lead) :]) == (*lead, each)):
            parts = f"{self.components} logits and " if weigh else ""
            raise HeadError(
                f"mixture: expected a head [..., {flat}] for the event shape {shape} ({parts}{self.components} times "
                f"{width} numbers{' for each element' if self.factored else ''}), got {list(head.shape)}. End the "
                f"network in {flat} features."
            )
        head = head.reshape((*head.shape[:-1], *lead, each)) if ends_flat else head
        logits = head[..., : self.components] if weigh else None
        rest = head[..., self.components :] if weigh else head
        return logits, rest.unflatten(-1, (self.components, width)) if width else None  # type: ignore[no-untyped-call]

    def _component_width(self, shape: Shape, given: Mapping[str, Parameter]) -> int:
        if not self._free(given):
            return 0
        parts = {name: value for name, value in given.items() if self._canonical(name) != "log_weights"}
        width = self.component.head_width(self._inner(shape), parts)
        if width is None:
            raise HeadError(
                f"mixture: the size of a {self.component.name} head is open; declare its number of classes."
            )
        return width

    def _free(self, given: Mapping[str, Parameter]) -> list[str]:
        """The parameters of the component that are not given, by any name."""
        known = {self._canonical(name) for name in given}
        return [name for name in self.component.parameters if name not in known]

    def _aligned(self, weights: Parameter, parts: Params, inner: int) -> Params:
        """Weights and components with the same batch axes, so that either may lack them where it is given."""
        lead, _ = self.component.shapes(parts, inner)
        if lead[-1:] not in ((), (1,), (self.components,)):
            where = "behind the event, [..., D, K]" if self.factored else "in front of the event, [..., K, D]"
            raise HeadError(
                f"mixture: expected parameters with an axis of K = {self.components} components {where}, got "
                f"{lead[-1]} in its place."
            )
        lead = broadcast(lead, (self.components,))
        if isinstance(weights, Tensor):
            lead = broadcast(lead, tuple(weights.shape))
            weights = weights.expand(lead)
        else:
            like = next(p for p in parts if isinstance(p, Tensor))
            weights = like.new_full(lead, weights)
        return weights, *self.component.expand(parts, lead, inner)

    def constants(self, shape: Shape) -> dict[str, Parameter]:
        """Equal weights, as a number; the components have to be given."""
        return {"log_weights": -math.log(self.components)}

    def _constants_or_raise(self, shape: Shape | None, free: object) -> dict[str, Parameter]:
        raise HeadError("mixture: there is no standard mixture. Give a network, or the components' parameters.")

    def head_width(self, shape: Shape, fixed: Mapping[str, Parameter] = NOTHING) -> int | None:
        """K·(1 + the component's), for each event or for each element."""
        weigh = all(self._canonical(name) != "log_weights" for name in fixed)
        width = self._component_width(shape, fixed) + weigh
        return self.components * width * (math.prod(shape) if self.factored else 1)

    def axes(self, name: str, rank: int) -> int:
        """K, and behind or before it the axes of the event."""
        outer, inner = (rank, 0) if self.factored else (0, rank)
        return outer + 1 + (0 if name == "log_weights" else self.component.axes(name, inner))

    def shapes(self, params: Params, rank: int) -> tuple[Shape, Shape]:
        """Batch and event shape of a value."""
        lead, event = self.component.shapes(params[1:], 0 if self.factored else rank)
        whole = (*lead[:-1], *event)
        return whole[: len(whole) - rank], whole[len(whole) - rank :]

    # ------------------------------------------------------------------------------------------------------ sampling

    def noise_shape(self, batch: Shape, shape: Shape, params: Params | None = None) -> Shape:
        """For each choice of a component one number, and the component's noise behind it, on one last axis."""
        inner = self.component.noise_shape((), self._inner(shape))
        return (*batch, *(shape if self.factored else ()), 1 + math.prod(inner))

    def noise(
        self, shape: Shape, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Uniform noise first on the last axis, noise of the component behind it."""
        choice = uniform((*shape[:-1], 1), dtype, device, generator)
        rest = self.component.noise((*shape[:-1], shape[-1] - 1), dtype=dtype, device=device, generator=generator)
        return torch.cat((choice, rest.to(choice.dtype)), -1)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """A value of one drawn component. No gradient."""
        weights, *rest = (p.detach() if isinstance(p, Tensor) else p for p in params)
        assert isinstance(weights, Tensor)
        index = draw_class(wide(weights).exp(), noise[..., 0])
        inner = self._inner_rank(params)
        chosen = self._chosen(tuple(rest), index, inner)
        _, event = self.component.shapes(tuple(rest), inner)
        return self.component.sample(
            chosen, noise[..., 1:].reshape(self.component.noise_shape(tuple(index.shape), event))
        )

    def _inner_rank(self, params: Params) -> int:
        """How many event axes a component has: what its parameters have beyond the weights."""
        weights, *rest = params
        assert isinstance(weights, Tensor)
        name, p = next((n, p) for n, p in zip(self.parameters[:0:-1], rest[::-1], strict=True) if isinstance(p, Tensor))
        return next(rank for rank in range(p.ndim) if self.component.axes(name, rank) == p.ndim - weights.ndim)

    def _chosen(self, parts: Params, index: Tensor, inner: int) -> Params:
        """The parameters of the components ``index``, which may have further leading axes."""
        found: list[Parameter] = []
        for name, p in zip(self.component.parameters, parts, strict=True):
            if isinstance(p, Tensor):
                tail = p.shape[p.ndim - self.component.axes(name, inner) :]
                p = p.expand((*index.shape, self.components, *tail))
                at = index.reshape((*index.shape, 1, *(1,) * len(tail))).expand((*index.shape, 1, *tail))
                p = p.gather(index.ndim, at).squeeze(index.ndim)
            found.append(p)
        return tuple(found)

    def _moments(self, params: Params, which: str) -> Tensor:
        lead, event = self.component.shapes(params[1:], self._inner_rank(params))
        found = getattr(self.component, which)(params[1:])
        if not isinstance(found, Tensor):
            found = next(p for p in params if isinstance(p, Tensor)).new_full((), found)
        return found.expand((*lead, *event))

    # ----------------------------------------------------------------------------------------------------- densities

    def _joint(self, params: Params, value: Tensor, inner: int) -> Tensor:
        """log w_k + log p_k(value): ``[*batch, K]``, and before K the event where ``factored``."""
        weights, *parts = params
        assert isinstance(weights, Tensor)
        at = value.ndim - inner
        require_same(self, "the value", value.shape[:at], weights.shape[:-1])
        value = value.unsqueeze(at).expand((*value.shape[:at], self.components, *value.shape[at:]))
        return wide(weights) + self.component.log_prob(tuple(parts), value, inner)

    def wrong_value(self, value: Tensor, rank: int, params: Params | None = None) -> str | None:
        """As of the component."""
        return self.component.wrong_value(value, 0 if self.factored else rank)

    def wrong_parameters(self, given: Mapping[str, Parameter]) -> str | None:
        """Weights that are none, and what the component says of the rest."""
        domains = {"weights": WEIGHTS, "log_weights": LOGITS}
        for name in domains.keys() & given.keys():
            if fault := told(domains[name], given[name]):
                return f"expected {name}= {fault}"
        return self.component.wrong_parameters({k: v for k, v in given.items() if k not in domains})
