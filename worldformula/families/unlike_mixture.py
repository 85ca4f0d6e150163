"""A mixture of distributions of different families over one variable: ``p(x) = Σ_k w_k·p_k(x)``.

    log p(x)  = logsumexp_k(log w_k + log p_k(x)),    mean Σ w_k·m_k,    variance Σ w_k·(v_k + (m_k - mean)²)

As in `worldformula.families.mixture`, whose components are of one family, whole events are mixed, or, ``factored``,
each element has a mixture of its own. A part gives a value outside its support the density 0.
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
    has_tensor,
    log_mix,
    require_same,
    uniform,
    wide,
)
from worldformula.families.domains import LOGITS, WEIGHTS, Domain, told
from worldformula.families.mixture import MixtureFamily
from worldformula.families.mixture_base import Mixed
from worldformula.families.opaque import ByName
from worldformula.families.tensors import is_flat
from worldformula.families.von_mises import VonMisesFamily


@dataclass(frozen=True)
class UnlikeMixtureFamily(Mixed):
    """A mixture of the families ``parts``, all densities over the same values, or all probabilities of counts.

    Parameters: ``log_weights`` ``[*batch, K]`` (``weights`` by name), normalised over its last axis, ``[*batch, *event,
    K]`` where ``factored``; then those of each part, ``[*batch, *event]``, with the family's name in front:
    ``normal_loc``, ``laplace_scale``; of two of one family ``normal_1_loc``, ``normal_2_loc``. A head gives K logits
    and behind them a head of each part: for each event, or for each element.

    A sample draws the part and its value without a gradient, as that of a mixture, so E takes ``gradient="score"``.
    """

    parts: tuple[Family, ...]
    factored: bool = False

    name: ClassVar[str] = "unlike_mixture"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.parts:
            raise ConfigError("mixture: expected at least 1 component, got none.")
        for part in self.parts:
            if isinstance(part, MixtureFamily | UnlikeMixtureFamily):
                raise ConfigError("mixture: a mixture of mixtures is one mixture with the product of the weights.")
            if self.factored and not part.of_elements:
                raise ConfigError(f"mixture: {part.name} draws a vector as a whole. Leave factored out.")
        kinds = [_measure(part) for part in self.parts]
        if len(set(kinds)) > 1:
            said = ", ".join(f"{part.name} has {kind}" for part, kind in zip(self.parts, kinds, strict=True))
            raise ConfigError(f"mixture: expected components that are compared by one measure: {said}.")
        named = list(zip(self.names, self.parts, strict=True))
        settings = {  # of the class in other families; here they follow from the parts
            "parameters": ("log_weights", *(f"{n}_{own}" for n, f in named for own in f.parameters)),
            "alternatives": {
                "weights": "log_weights",
                **{f"{n}_{own}": f"{n}_{other}" for n, f in named for own, other in f.alternatives.items()},
            },
            "default_rank": self.parts[0].default_rank,
            "joint": 0 if self.factored else None,
            "components": len(self.parts),
        }
        for name, value in settings.items():
            object.__setattr__(self, name, value)

    @property
    def domains(self) -> Mapping[str, Domain]:  # type: ignore[override]
        """Those of the weights and of all parts."""
        named = zip(self.names, self.parts, strict=True)
        own = {f"{n}_{name}": domain for n, part in named for name, domain in part.domains.items()}
        return {"weights": WEIGHTS, "log_weights": LOGITS, **own}

    @property
    def names(self) -> tuple[str, ...]:
        """What stands in front of the parameters of each part."""
        kinds = [part.name for part in self.parts]
        return tuple(
            kind if kinds.count(kind) == 1 else f"{kind}_{kinds[: place + 1].count(kind)}"
            for place, kind in enumerate(kinds)
        )

    # ---------------------------------------------------------------------------------------------------- parameters

    def params(
        self, head: Tensor | Mapping[str, Parameter] | None, shape: Shape | None = None,
        fixed: Mapping[str, Parameter] = NOTHING,
    ) -> Params:  # fmt: skip
        """As every family; all get the same batch axes. At least one parameter is a tensor."""
        if shape is None:
            raise HeadError("mixture: the sizes of weights and components are unknown. Declare shape=...")
        head = self.named_head(head, shape) if isinstance(head, ByName) else head
        given = {**fixed, **(head if isinstance(head, Mapping) else {})}
        found = self.accept(given, None, "the head and the keywords")
        weights = found.pop("log_weights", None)
        if isinstance(weights, Tensor) and weights.shape[-1:] != (self.components,):
            raise HeadError(f"mixture: expected weights [..., {self.components}], got {list(weights.shape)}.")
        own = [_own(name, given) for name in self.names]
        inner = self._inner(shape)
        pieces: list[Tensor | None] = [None] * self.components
        if isinstance(head, Tensor):
            weights, pieces = self._split(head, shape, weights, own)
        parts = [f.params(p, inner, k) for f, p, k in zip(self.parts, pieces, own, strict=True)]
        return self._aligned(weights, parts, shape)

    def _widths(self, shape: Shape, own: list[dict[str, Parameter]]) -> list[int]:
        widths = [part.head_width(self._inner(shape), given) for part, given in zip(self.parts, own, strict=True)]
        if None in widths:
            raise HeadError(
                f"mixture: the size of a {self.parts[widths.index(None)].name} head is open; declare its classes."
            )
        return [w for w in widths if w is not None]

    def _split(
        self, head: Tensor, shape: Shape, weights: Parameter | None, own: list[dict[str, Parameter]]
    ) -> tuple[Parameter | None, list[Tensor | None]]:
        """Log-weights and a head of each part that is not given as a whole."""
        widths = self._widths(shape, own)
        sizes = [self.components if weights is None else 0, *widths]
        lead = shape if self.factored else ()
        flat = math.prod(lead) * sum(sizes)
        if is_flat(head, lead, flat):
            head = head.reshape((*head.shape[:-1], *lead, sum(sizes)))
        else:
            each = ", ".join(f"{w} ({n})" for n, w in zip(("logits", *self.names), sizes, strict=True) if w)
            raise HeadError(
                f"mixture: expected a head [..., {flat}] for the event shape {shape}, {each}"
                f"{' for each element' if self.factored else ''}, got {list(head.shape)}. End the network in {flat} "
                f"features."
            )
        logits, *pieces = head.split_with_sizes(sizes, -1)
        weights = log_mix(logits, 0.0) if weights is None else weights
        return weights, [piece if width else None for piece, width in zip(pieces, widths, strict=True)]

    def _aligned(self, weights: Parameter | None, parts: list[Params], shape: Shape) -> Params:
        """Weights and parts with the same batch axes, and of each part a parameter that has the axes of the event."""
        tensors = [x for x in (weights, *(x for p in parts for x in p)) if isinstance(x, Tensor)]
        if not tensors:
            raise HeadError(
                f"mixture: all parameters are numbers. Give one of them as a tensor, such as "
                f"weights=torch.tensor({[1.0] * self.components})."
            )
        like, inner = wide(tensors[0]), self._inner(shape)
        parts = [p if has_tensor(p) else (like.new_full(inner, p[0]), *p[1:]) for p in parts]  # type: ignore[arg-type]
        lead = broadcast(*(f.shapes(p, len(inner))[0] for f, p in zip(self.parts, parts, strict=True)))
        lead = broadcast(lead, shape) if self.factored else lead
        if isinstance(weights, Tensor):
            lead = broadcast(lead, tuple(weights.shape[:-1]))
            weights = weights.expand(*lead, self.components)
        else:
            weights = like.new_full((*lead, self.components), -math.log(self.components))
        expanded = [f.expand(p, lead, len(inner)) for f, p in zip(self.parts, parts, strict=True)]
        return weights, *(x for p in expanded for x in p)

    def constants(self, shape: Shape) -> dict[str, Parameter]:
        """Equal weights and the standard distributions of the parts, as numbers."""
        found: dict[str, Parameter] = {"log_weights": -math.log(self.components)}
        for name, part in zip(self.names, self.parts, strict=True):
            found |= {f"{name}_{own}": value for own, value in part.constants(self._inner(shape)).items()}
        return found

    def head_width(self, shape: Shape, fixed: Mapping[str, Parameter] = NOTHING) -> int | None:
        """K logits and the heads of the parts, for each event or for each element."""
        weigh = all(self.alternatives.get(name, name) != "log_weights" for name in fixed)
        widths = self._widths(shape, [_own(name, fixed) for name in self.names])
        return (self.components * weigh + sum(widths)) * (math.prod(shape) if self.factored else 1)

    def axes(self, name: str, rank: int) -> int:
        """K behind those of every mixture; those of the part."""
        outer, inner = (rank, 0) if self.factored else (0, rank)
        if name == "log_weights":
            return outer + 1
        prefix = max((n for n in self.names if name.startswith(f"{n}_")), key=len)
        return outer + self.parts[self.names.index(prefix)].axes(name.removeprefix(f"{prefix}_"), inner)

    def shapes(self, params: Params, rank: int) -> tuple[Shape, Shape]:
        """Batch and event shape of a value."""
        weights, parts = self._cut(params)
        lead = tuple(weights.shape[:-1])
        if self.factored:
            return lead[: len(lead) - rank], lead[len(lead) - rank :]
        return lead, self.parts[0].shapes(parts[0], rank)[1]

    def _cut(self, params: Params) -> tuple[Tensor, list[Params]]:
        """The log-weights, and the parameters of each part."""
        weights, *rest = params
        assert isinstance(weights, Tensor)
        found, at = [], 0
        for part in self.parts:
            found.append(tuple(rest[at : at + len(part.parameters)]))
            at += len(part.parameters)
        return weights, found

    # ------------------------------------------------------------------------------------------------------ sampling

    def noise_shape(self, batch: Shape, shape: Shape, params: Params | None = None) -> Shape:
        """For each choice of a part one number, and the noise of every part behind it, on one last axis."""
        longest = max(math.prod(part.noise_shape((), self._inner(shape))) for part in self.parts)
        return (*batch, *(shape if self.factored else ()), 1 + self.components * longest)

    def noise(
        self, shape: Shape, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Uniform noise first on the last axis, that of the parts behind it, each as long as the longest."""
        choice = uniform((*shape[:-1], 1), dtype, device, generator)
        longest = (shape[-1] - 1) // self.components
        each = [
            part.noise((*shape[:-1], longest), dtype=dtype, device=device, generator=generator).to(choice.dtype)
            for part in self.parts
        ]
        return torch.cat((choice, *each), -1)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """A value of one drawn part. No gradient."""
        weights, parts = self._cut(tuple(p.detach() if isinstance(p, Tensor) else p for p in params))
        index = draw_class(wide(weights).exp(), noise[..., 0])
        inner = self._inner_rank(params)
        lead, longest = tuple(noise.shape[:-1]), (noise.shape[-1] - 1) // self.components
        found: Tensor | None = None
        for place, (part, own) in enumerate(zip(self.parts, parts, strict=True)):
            size = part.noise_shape(lead, part.shapes(own, inner)[1])
            start = 1 + place * longest
            used = noise[..., start : start + math.prod(size[len(lead) :])].reshape(size)
            value = part.sample(own, used)
            drawn = (index == place).reshape((*index.shape, *(1,) * inner))
            found = value if found is None else torch.where(drawn, value, found)
        assert found is not None
        return found

    def _inner_rank(self, params: Params) -> int:
        """How many event axes a part has: what its parameters have beyond the weights."""
        weights, parts = self._cut(params)
        name, p = next((n, p) for n, p in zip(self.parts[0].parameters, parts[0], strict=True) if isinstance(p, Tensor))
        return next(r for r in range(p.ndim + 1) if self.parts[0].axes(name, r) == p.ndim - (weights.ndim - 1))

    def _moments(self, params: Params, which: str) -> Tensor:
        """The means, variances or modes of the parts: ``[*batch, K, *event]``, and behind the event where factored."""
        weights, parts = self._cut(params)
        inner = self._inner_rank(params)
        whole = (*weights.shape[:-1], *self.parts[0].shapes(parts[0], inner)[1])
        each = [getattr(part, which)(own) for part, own in zip(self.parts, parts, strict=True)]
        told = [e.expand(whole) if isinstance(e, Tensor) else weights.new_full(whole, e) for e in each]
        return torch.stack(told, weights.ndim - 1)

    # ----------------------------------------------------------------------------------------------------- densities

    def _joint(self, params: Params, value: Tensor, inner: int) -> Tensor:
        """log w_k + log p_k(value): ``[*batch, K]``, and before K the event where ``factored``."""
        weights, parts = self._cut(params)
        require_same(self, "the value", value.shape[: value.ndim - inner], weights.shape[:-1])
        each = [_density(part, own, value, inner) for part, own in zip(self.parts, parts, strict=True)]
        return wide(weights) + torch.stack(each, -1)

    def wrong_value(self, value: Tensor, rank: int, params: Params | None = None) -> str | None:
        """A value that no part can have, as far as is known of it without the parameters."""
        known = [part.values for part in self.parts if part.values is not None]
        if len(known) < self.components:
            return None
        words = " or ".join(dict.fromkeys(domain.words for domain in known))
        inside = Domain(words, lambda x: torch.stack([d.inside(x) for d in known]).any(0), known[0].joint)
        fault = told(inside, value, missing=True)
        return None if fault is None else f"mixture: expected a value {fault}"

    def wrong_parameters(self, given: Mapping[str, Parameter]) -> str | None:
        """Weights that are none, and what the parts say of their own."""
        own = {name: value for name, value in given.items() if self.alternatives.get(name, name) == "log_weights"}
        if fault := super().wrong_parameters(own):
            return fault
        for name, part in zip(self.names, self.parts, strict=True):
            if fault := part.wrong_parameters(_own(name, given)):
                return f"of the {name} component, {fault}"
        return None


def _own(part: str, given: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """What is given of a part, as the part calls it."""
    return {k.removeprefix(f"{part}_"): v for k, v in given.items() if k.startswith(f"{part}_")}


def _measure(part: Family) -> str:
    """What a log-density of the family is of: values of one kind, which another family may have or not."""
    if isinstance(part, VonMisesFamily):
        return "densities of angles"  # over one turn of the circle, and periodic beyond
    what = "densities" if part.estimator == "reparametrised" else "probabilities"
    return f"{what} of values {part.values.words}" if part.values is not None and part.values.joint else what


def _density(part: Family, params: Params, value: Tensor, rank: int) -> Tensor:
    """log p_k, -∞ outside the support, without a gradient that is NaN there."""
    if part.values is None or part.values.joint:
        return part.log_prob(params, value, rank)
    inside = part.values.inside(value) | value.isnan()
    found = part.log_prob(params, torch.where(inside, value, 0.5), rank)
    return torch.where(inside if rank == 0 else inside.flatten(value.ndim - rank).all(-1), found, -math.inf)
