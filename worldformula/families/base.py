"""What every probability family answers to: the contract `Family`, and the registry of closed KLs.

A family is the maths of a distribution's parameters: a frozen dataclass without tensors, hashable by value, whose
methods are plain tensor maths. They run eagerly, under ``torch.compile(fullgraph=True)``, under ``torch.func.vmap``
and under autocast, and never wait for the device. Parameters travel as a tuple in the order of `Family.parameters`.

A parameter may be a Python float: a constant, which costs no tensor operation. Where *all* parameters are floats, the
closed forms (`entropy`, `kl`, `mean`) are Python floats too.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from worldformula.errors import FormulaError, HeadError, NoClosedFormError, near, table
from worldformula.families.domains import NUMBER, Domain, checked, checking, given_by_name, told
from worldformula.families.given import Given, settle
from worldformula.families.opaque import ByName, Opaque, Unfoldable
from worldformula.families.tensors import (
    Parameter,
    Params,
    Shape,
    affine,
    broadcast,
    draw_class,
    has_tensor,
    log_mix,
    log_probs,
    require_event,
    require_same,
    shape_of,
    size,
    split_head,
    split_vectors,
    total,
    uniform,
    wide,
    widen,
    with_event,
)
from worldformula.families.writing import Sign, SourceLines

__all__ = [
    "NOTHING", "Family", "Opaque", "Parameter", "Params", "Shape", "Unfoldable", "affine", "broadcast",
    "checked", "draw_class", "has_tensor", "log_mix", "log_probs", "require_event",
    "require_same", "shape_of", "size", "split_head", "split_vectors", "total", "uniform", "wide", "widen",
]  # fmt: skip

FEW = 4096  # values that an enumeration may have
NOTHING: Mapping[str, Parameter] = MappingProxyType({})


@dataclass(frozen=True)
class Family(ABC):
    """A distribution family over plain tensors.

    Class attributes: ``name`` (also the name of the default instance in the module of the same name), ``parameters``
    (canonical order), ``alternatives`` (other names that a parameter may come under, such as ``probs``),
    ``reparametrised`` (whether `sample` passes a gradient to the parameters), ``estimator`` (the kind of that
    gradient), ``gradients`` (every estimator that the family supports), ``biased`` (which of those are biased),
    ``default_rank`` (event axes where no shape is declared), ``class_axes`` (axes that the parameters have beyond the
    value: 1 for the classes of a categorical; see `axes` where they differ), ``joint`` (how many of an event's last
    axes are one draw, whose density is no sum over them: 1 for a vector with a covariance; None for the whole event),
    ``reference`` (``"module:Class"`` of a distribution that must agree, for the laws of `worldformula.testing`).
    """

    name: ClassVar[str]
    symbol: ClassVar[Sign]
    parameters: ClassVar[tuple[str, ...]]
    alternatives: ClassVar[Mapping[str, str]] = NOTHING  # type: ignore[assignment]
    reparametrised: ClassVar[bool] = False
    estimator: ClassVar[str | None] = None
    gradients: ClassVar[tuple[str, ...]] = ()
    biased: ClassVar[tuple[str, ...]] = ()
    default_rank: ClassVar[int] = 1
    class_axes: ClassVar[int] = 0
    joint: ClassVar[int | None] = 0
    values: ClassVar[Domain | None] = None
    domains: ClassVar[Mapping[str, Domain]] = NOTHING  # type: ignore[assignment]
    defining: ClassVar[tuple[str, ...]] = ()
    reference: ClassVar[str] = ""
    asked: ClassVar[tuple[Given, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        """A subclass with a density of its own has none of the closed forms of the density that it replaces."""
        super().__init_subclass__(**options)
        for name in ("entropy", "kl"):
            if "log_prob" in vars(cls) and name not in vars(cls):
                setattr(cls, name, getattr(Family, name))

    def __post_init__(self) -> None:
        """Settings as plain Python numbers, or `Given` by the call; raises `ConfigError` where one is no number."""
        object.__setattr__(self, "asked", settle(self))
        if not self.asked:
            self.check_settings()

    @property
    def of_elements(self) -> bool:
        """Whether an event is drawn element by element, none of which says anything of another."""
        return self.joint == 0 and not (self.values is not None and self.values.joint)

    def check_settings(self) -> None:  # noqa: B027  most families have no settings
        """Raises `ConfigError` where a setting lies outside its set; called once all are numbers."""

    # ------------------------------------------------------------------------------------------ parameters

    def params(
        self, head: Tensor | Mapping[str, Parameter] | None, shape: Shape | None = None,
        fixed: Mapping[str, Parameter] = NOTHING,
    ) -> Params:  # fmt: skip
        """The parameters, in canonical order.

        ``head`` is the output of a network: one tensor, split equally along its last axis into the parameters that
        are not ``fixed``, each then constrained; or a mapping of parameters that are taken as they are; or None for
        the standard distribution of `constants`. For a declared event ``shape`` a tensor ends either flat, in
        ``k·prod(shape)`` features, or in ``(*shape[:-1], k·shape[-1])``, with k free parameters. (Where both fit, as
        all leading event axes are 1, it has those if it has a batch axis too.) Without a shape the last axis is split.

        Raises `HeadError` on a width that does not split and on names that the family does not know.
        """
        if len(fixed):  # under torch.compile, the bool of an empty mapping proxy is True
            return self._params_with_fixed(head, shape, fixed)
        if isinstance(head, Tensor):
            return self.constrain(self.split(head, shape, self.parameters), self.parameters, shape)
        if head is None:
            return self._order(self._constants_or_raise(shape, self.parameters))
        if type(head) is dict and shape and (whole := self._whole(head, shape)) is not None:
            return whole
        return self._finish(self.accept(self.named_head(head, shape), shape, "the head"), shape, self.parameters)

    def _whole(self, head: Mapping[str, Parameter], shape: Shape) -> Params | None:
        """The usual head of parameters by name, of which nothing has to be checked, filled in or seen with other axes:
        tensors of one batch, of the declared event shape each. None leaves it to the checks.
        """
        if checking() or len(head) != len(self.parameters) or type(self).axes is not Family.axes or self.class_axes:
            return None
        found = [head.get(name) for name in self.parameters]
        size = found[0].shape if isinstance(found[0], Tensor) else None
        if size is None or size[-len(shape) :] != shape or any(getattr(v, "shape", None) != size for v in found):
            return None
        return tuple(self.convert(k, v, shape) for k, v in zip(self.parameters, found, strict=True) if v is not None)

    def _params_with_fixed(
        self, head: Tensor | Mapping[str, Parameter] | None, shape: Shape | None, fixed: Mapping[str, Parameter]
    ) -> Params:
        given = self.accept(fixed, shape, "the keywords")
        free = tuple(name for name in self.parameters if name not in given)
        if head is None:
            found = self._constants_or_raise(shape, free)
        elif isinstance(head, Tensor):
            if not free:
                told = f"every parameter ({', '.join(self.parameters)}) is fixed, so a network has nothing to give"
                raise HeadError(f"{self.name}: {told}. Drop the network, or one of the keywords {', '.join(fixed)}.")
            found = dict(zip(free, self.constrain(self.split(head, shape, free), free, shape), strict=True))
        else:
            found = self.accept(self.named_head(head, shape), shape, "the head")
            if twice := [name for name in found if name in given]:
                raise HeadError(f"{self.name}: the head gives {', '.join(twice)}, which a keyword fixes. Keep one.")
        return self._finish({**given, **found}, shape, free)

    def _finish(self, found: Mapping[str, Parameter], shape: Shape | None, free: Sequence[str]) -> Params:
        if missing := [name for name in self.parameters if name not in found]:
            raise HeadError(
                f"{self.name}: the head lacks {', '.join(missing)}. Expected exactly {', '.join(free)}, "
                f"got {', '.join(found) or 'nothing'}."
            )
        params = self._fill(self._order(found), shape)
        return self._one_batch(params, self.default_rank if shape is None else len(shape))

    def _one_batch(self, params: Params, rank: int) -> Params:
        """Every tensor seen with the batch axes of the others, as a learnt scale beside a network's location: what
        follows the batch or the time of a formula follows all parameters alike.
        """
        params = params if self.class_axes else with_event(params, rank)
        named = zip(self.parameters, params, strict=True)
        batches = {p.ndim - self.axes(name, rank) for name, p in named if isinstance(p, Tensor)}
        alike = len(batches) < 2 or max(batches) <= 0
        return params if alike else self.expand(params, self.shapes(params, rank)[0], rank)

    def _order(self, found: Mapping[str, Parameter]) -> Params:
        return tuple(found[name] for name in self.parameters)

    def _constants_or_raise(self, shape: Shape | None, free: Sequence[str]) -> dict[str, Parameter]:
        if shape is None and free:
            raise HeadError(
                f"{self.name}: {', '.join(free)} come from nowhere: no network and no shape. Give a network, the "
                f"parameters as keywords, or shape=... for the standard distribution."
            )
        if free:  # formulas write numbers out, so in a call it is a network that returned None
            given_by_name(self.name)
        constants = self.constants(shape) if shape is not None and free else {}
        return {name: constants[name] for name in free}

    def _fill(self, params: Params, shape: Shape | None) -> Params:
        """Give the tensors of parameters that are taken as they are the declared event shape, together."""
        tensors = [p for p in params if isinstance(p, Tensor)]
        if shape is None or not tensors or self.class_axes:
            return params
        full = shape_of(params)
        if len(full) >= len(shape) and full[len(full) - len(shape) :] == shape:
            return params
        full = tuple(torch.broadcast_shapes(full, shape))  # type: ignore[no-untyped-call]
        return tuple(p.expand(full) if p is tensors[0] else p for p in params)

    def named_head(self, head: object, shape: Shape | None) -> Mapping[str, Parameter]:
        """A head that is no tensor: parameters by name. Raises `HeadError` on a tuple, or anything else."""
        if isinstance(head, ByName):
            rank = self.default_rank if shape is None else len(shape)
            given_by_name(self.name)
            return head.read(lambda name: self.axes(self.alternatives.get(name, name), rank))
        if isinstance(head, Mapping):
            given_by_name(self.name)
            return head
        raise HeadError(
            f"{self.name}: expected a head of one tensor, got {type(head).__name__}. Join its parts by "
            f"torch.cat([...], -1), or return them by name, {{{', '.join(f'{n!r}: ...' for n in self.parameters)}}}."
        )

    def accept(self, given: Mapping[str, Parameter], shape: Shape | None, whose: str) -> dict[str, Parameter]:
        """Parameters by name, under their canonical names; a name that the family does not know is an error.

        Inside `checked`, so is a value out of range.
        """
        if checking() and (fault := self.wrong_parameters(given)):
            raise HeadError(f"{self.name}: {fault}, from {whose}")
        found: dict[str, Parameter] = {}
        for name, value in given.items():
            canonical = self.alternatives.get(name, name)
            if canonical not in self.parameters:
                known = [*self.parameters, *self.alternatives]
                told = f"{self.name} has no parameter {name!r}, which comes from {whose}; it has {', '.join(known)}."
                raise HeadError(told + near(name, known))
            if canonical in found:
                names = " and ".join(repr(n) for n in given if self.alternatives.get(n, n) == canonical)
                raise HeadError(f"{self.name}: {names} are names of one parameter. Give one of the two.")
            if not isinstance(value, Tensor | float):
                try:
                    value = float(value)
                except (TypeError, ValueError):
                    raise HeadError(f"{self.name}: {name} must be a tensor or a number, got {value!r}.") from None
            found[canonical] = self.convert(name, value, shape)
            self._check_event(name, found[canonical], shape)
        return found

    def _check_event(self, name: str, value: Parameter, shape: Shape | None) -> None:
        if shape is None or not isinstance(value, Tensor):
            return
        rank = len(shape)
        got = tuple(value.shape)[: value.ndim + rank - self.axes(self.alternatives.get(name, name), rank)]
        if any(g not in (s, 1) for g, s in zip(reversed(got), reversed(shape), strict=False)):
            row = (name, f"[..., {', '.join(map(str, shape))}]", list(value.shape))
            body = table(("parameter", "declared", "got"), [row])
            raise HeadError(f"{self.name}: {name} does not fit the declared event shape {shape}.\n{body}")

    def split(self, head: Tensor, shape: Shape | None, names: Sequence[str]) -> tuple[Tensor, ...]:
        """One head into one unconstrained tensor for each name; the layouts are those of `params`."""
        return split_head(self.name, head, shape, names)

    def constrain(self, pieces: tuple[Tensor, ...], names: Sequence[str], shape: Shape | None) -> tuple[Tensor, ...]:
        """Unconstrained pieces of a head into parameters (softplus for a scale). The identity unless overridden."""
        return pieces

    def convert(self, name: str, value: Parameter, shape: Shape | None) -> Parameter:
        """A parameter given by name, as the canonical parameter (``probs`` into ``logits``)."""
        return value

    @abstractmethod
    def constants(self, shape: Shape) -> dict[str, Parameter]:
        """The standard distribution over events of ``shape``, for a factor with neither network nor parameters."""

    def head_width(self, shape: Shape, fixed: Mapping[str, Parameter] = NOTHING) -> int | None:
        """Features of a flat head for one event of ``shape``; None where the family leaves it open."""
        taken = {self.alternatives.get(name, name) for name in fixed}
        return sum(name not in taken for name in self.parameters) * math.prod(shape)

    def leading(self, shape: Shape) -> Shape:
        """The event axes in front of the features of a head that is not flat."""
        return shape if self.class_axes else shape[:-1]

    def axes(self, name: str, rank: int) -> int:
        """How many of a parameter's last axes are not batch axes, for events of ``rank`` axes."""
        return rank + self.class_axes

    def expand(self, params: Params, batch: Shape, rank: int) -> Params:
        """The parameters seen with the batch axes ``batch``; a view. For a distribution with fewer of them."""
        axes = [self.axes(name, rank) for name in self.parameters]
        return tuple(
            p.expand((*batch, *p.shape[p.ndim - n :])) if isinstance(p, Tensor) and p.ndim >= n else p
            for p, n in zip(params, axes, strict=True)
        )

    def shapes(self, params: Params, rank: int) -> tuple[Shape, Shape]:
        """Batch and event shape of a value under these parameters, for events of ``rank`` axes; floats have neither."""
        value = [
            tuple(p.shape[: p.ndim + rank - self.axes(name, rank)])
            for name, p in zip(self.parameters, params, strict=True)
            if isinstance(p, Tensor)
        ]
        same = all(shape == value[0] for shape in value[1:])
        whole = () if not value else value[0] if same else broadcast(*value)
        return whole[: len(whole) - rank], whole[max(len(whole) - rank, 0) :]

    def filled(self, params: Params, like: Params) -> Params:
        """Numbers among the parameters as tensors like those of ``like``; the same distribution."""
        return tuple(
            p if isinstance(p, Tensor) or not isinstance(t, Tensor) else torch.full_like(t, p)
            for p, t in zip(params, like, strict=True)
        )

    # ------------------------------------------------------------------------------------------ sampling

    def noise_shape(self, batch: Shape, shape: Shape, params: Params | None = None) -> Shape:
        """Shape of the noise that samples of ``batch`` × event ``shape`` consume; no family of ours needs params."""
        return (*batch, *shape)

    @abstractmethod
    def noise(
        self, shape: Shape, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Noise of ``shape``, as `noise_shape` gives it. Under vmap (``randomness="different"``), pass no generator."""

    @abstractmethod
    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """A sample, a deterministic function of parameters and noise; extra leading axes of the noise are samples."""

    @abstractmethod
    def mode(self, params: Params) -> Parameter:
        """The most probable value."""

    @abstractmethod
    def mean(self, params: Params) -> Parameter:
        """The expected value."""

    def variance(self, params: Params) -> Parameter:
        """The variance of each element of a value; `NoClosedFormError` where there is no closed form."""
        raise NoClosedFormError(f"{self.name}: the variance has no closed form. Take that of samples, x.var(0).")

    def support_size(self, shape: Shape | None) -> int | None:
        """How many values an event of ``shape`` can take, where they are few enough to enumerate; None otherwise."""
        return None

    def support(self, shape: Shape) -> Tensor:
        """All values, ``[support_size, *shape]``. Raises FormulaError where they are not few."""
        raise FormulaError(f"{self.name}: the values of an event of shape {shape} cannot be enumerated.")

    # ------------------------------------------------------------------------------------------ densities

    @abstractmethod
    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """log p(value), in nats, summed over the last ``rank`` axes of the value; all batch axes stay.

        Raises `ShapeError` where the shapes of value and parameters differ: nothing broadcasts silently.
        """

    def entropy(self, params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """Entropy in nats, over the last ``rank`` axes of an event; `NoClosedFormError` where there is no closed form.

        ``shape``, the event's, is read only where all parameters are floats; the result is then a float.
        """
        raise NoClosedFormError(f"{self.name}: the entropy has no closed form. Estimate it on samples: E(q, -log(q)).")

    def kl(self, q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """KL(q ‖ p) in nats within the family, over the last ``rank`` axes of an event; the rest as in `entropy`."""
        raise NoClosedFormError(
            f"{self.name}: the KL has no closed form. Estimate it on the sample: E(q, log(q) - log(p))."
        )

    # ------------------------------------------------------------------------------------------ what is possible

    def wrong_value(self, value: Tensor, rank: int, params: Params | None = None) -> str | None:
        """What is wrong with a value of ``rank`` event axes, in words: one that lies outside the support; else None.

        ``params`` are read where the support depends on them. NaN passes: it marks what is missing, and its density is
        NaN, which nobody overlooks. Waits for the device, so it belongs into checks and not into what is compiled.
        """
        fault = None if self.values is None else told(self.values, value, missing=True)
        return None if fault is None else f"{self.name}: expected a value {fault}"

    def wrong_parameters(self, given: Mapping[str, Parameter]) -> str | None:
        """What is wrong with parameters, by any of their names, in words: one out of range, or NaN; else None."""
        for name, value in given.items():
            if fault := told(self.domains.get(name, NUMBER), value):
                return f"expected {name}= {fault}"
        return None

    # ------------------------------------------------------------------------------------------ as plain PyTorch

    def source_lines(self) -> SourceLines | None:
        """The family's maths as source text for one event axis, or None where emitted code calls the methods."""
        return None
