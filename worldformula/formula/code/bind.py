"""From the keywords of a call to the arguments of the emitted function: checks, the first carry, the noise."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from worldformula.errors import FormulaError, MissingInputError, ShapeError, UnknownVariableError, near, table
from worldformula.families.base import Family
from worldformula.formula.code.refusals import refuse, refuse_start
from worldformula.formula.code.support import check_type, pixels
from worldformula.formula.plan.plan import Op, Plan
from worldformula.formula.plan.variables import CALL_OPTIONS
from worldformula.formula.syntax.constants import start_of
from worldformula.formula.syntax.given import generator_of, one_number, whole_number
from worldformula.formula.syntax.spelling import by_keyword
from worldformula.nets.causal import Memory

FLAGS = ("flags", "mask", "present")  # inputs with one entry per row or step


@dataclass(frozen=True)
class _Input:
    """key: keyword of the call. name: argument of the emitted function. step: whether it is a series [B, T, ...].

    scalar: whether it is one number for the whole call. common: whether it is one value for all rows.
    """

    key: str
    name: str
    shape: tuple[int, ...] | None
    step: bool
    scalar: bool = False
    common: bool = False


@dataclass(frozen=True)
class _Site:
    """A draw: its noise argument, its family, and the event part of its noise (None: known after the network ran).

    lead: the sizes of its sample axes.
    """

    name: str
    key: str
    family: Family
    event: tuple[int, ...] | None
    lead: tuple[int, ...]
    step: bool
    always: bool  # whether the noise is needed even without sampling, for its batch axes
    common: bool  # whether all rows share it, so that it has no batch axes
    start: bool = False  # whether it is of what a sequence begins with


class Call(NamedTuple):
    """The arguments of one call, the length of its series, and whether it takes means and modes."""

    arguments: dict[str, Any]
    length: int
    deterministic: bool


def check_options(options: Mapping[str, Any]) -> None:
    """``noise`` and ``start`` are tensors by variable, ``horizon`` is a number of steps."""
    for option in ("noise", "start"):
        given = options.get(option, {})
        if not isinstance(given, Mapping) or not all(isinstance(v, Tensor | Memory) for v in given.values()):
            raise FormulaError(f"expected {option}= as tensors by variable, {option}={{'z': tensor}}, got {given!r}")
    horizon = options.get("horizon", 1)
    if (whole_number(horizon) or 0) < 1:
        raise FormulaError(f"expected horizon= as a number of steps, got {horizon!r}")


def _draws_classes(op: Op) -> bool:
    """Whether what is carried are numbers of classes, which begin with that of the first."""
    family = op.factor.family if op.kind == "draw" and op.factor is not None else None
    if family is None or op.factor is None or family.support_size(op.factor.shape) is None:
        return False
    return not family.support(op.factor.shape or ()).is_floating_point()


class Binder:
    """Everything about a plan's arguments that does not change from call to call."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        names, flags = plan.arguments, plan.reset or next(iter(plan.flagged), None)
        self.inputs = tuple(
            _Input(
                key, names[key], self._shape(key, op), plan.series(op), op.kind == "symbol", op.common
            )
            for key, op in plan.inputs.items()
        )  # fmt: skip
        self.pixels = pixels(plan)
        self.several = any(op.axes for op in plan.ops)
        self.averages = any(op.kind == "batch" and op.how == "mean" for op in plan.ops)  # over rows, one at least
        self.keys = frozenset(plan.inputs)
        self.series = tuple(i for i in self.inputs if i.step)
        self.starts = plan.starts
        self.classes = frozenset(key for key, name in plan.carries.items() if _draws_classes(plan.by_name[name]))
        self.rows = max((dict(op.options)["rows"] for op in plan.ops if op.kind == "first"), default=0)
        self.burn_in = max((n for op in plan.ops for key, n in op.options if key == "burn_in"), default=0)
        ours = [op.factor for op in plan.ops if op.factor is not None and op.factor.shape is not None]
        self.declared: dict[str, object] = {f.variable.key: f for f in reversed(ours)} | {str(flags): "reset="}
        self.sites, self.aliases = tuple(self._site(op) for op in plan.sites), plan.noise_aliases
        self.order = (*(i.name for i in self.inputs), *(s.name for s in self.sites))
        tensors = [i for i in self.inputs if not i.scalar]
        self.simple = plan.index is None and bool(tensors) and all(s.event is not None for s in self.sites)
        self.simple = self.simple and not (self.several or self.series)
        self.expected = tuple((i.key, i.shape or None, len(i.shape or ()) if i.common else None) for i in tensors)
        self.scalars = tuple(i.key for i in self.inputs if i.scalar)
        self.drawn = tuple((s.family.noise, s.event, s.common) for s in self.sites if s.event is not None)

    def _shape(self, key: str, op: Op) -> tuple[int, ...] | None:
        """The event shape that an input has to end in; flags have none."""
        declared = self.plan.given_shape(key)
        return () if op.kind in FLAGS or (declared is None and key in self.plan.flagged) else declared

    def _site(self, op: Op) -> _Site:
        assert op.factor is not None
        assert op.factor.family is not None
        event = self.plan.noise_shape(op)
        key, lead = self.plan.noise_keys[op.name], self.plan.lead(op)
        always = op.name in self.plan.kept_noise
        return _Site(op.name, key, op.factor.family, event, lead, op.step, always, op.common, op.how == "start")

    def bind(self, given: dict[str, Any]) -> Call:
        """Sort the keywords of a call; add the start of the carry and the noise."""
        options: dict[str, Any] = {}
        if given.keys() != self.keys:
            options = {k: v for k, v in given.items() if k in CALL_OPTIONS and v is not None}
            check_options(options)
            options |= {k: by_keyword(options[k]) for k in ("noise", "start") if k in options}
            given = dict(by_keyword({k: v for k, v in given.items() if k not in CALL_OPTIONS}))
            if given.keys() != self.keys:
                refuse(self.plan, given)
        arguments: dict[str, Any] = {}
        like = None  # noise and zeros take the dtype and device of the first tensor of floating point
        for known in self.inputs:
            value = given[known.key]
            if known.scalar:
                arguments[known.name] = one_number(known.key, value)
                continue
            arguments[known.name] = value
            self.check(known, value)
            if like is None and value.is_floating_point():
                like = value
        if like is None:
            like = self.like(given, options.get("start"))
        lead: tuple[int, ...] = ()
        if self.plan.index is not None:
            lead = self.lead(given, options)
            arguments["T"] = lead[1]
            arguments |= self.start(given, options.get("start"), *lead, like)
        elif "start" in options or "horizon" in options:
            raise FormulaError("start= and horizon= belong to a formula with a Sum over time; this one has none")
        deterministic = bool(options.get("deterministic", False))
        if self.sites or "noise" in options:
            arguments["rng"] = self.generator(options, like)
            arguments |= self.noise(lead, like, arguments["rng"], options.get("noise"), deterministic, given)
        return Call(arguments, arguments.get("T", 0), deterministic)

    def quick(self, given: dict[str, Any]) -> list[Tensor] | None:
        """The arguments in ``order`` for the usual call: no time, no option, nothing wrong. None leaves it to `bind`.

        A training step of a small network takes a third of a millisecond; this is the difference that it feels.
        """
        if not self.simple or given.keys() != self.keys:
            return None
        found: list[Tensor] = []
        for key, shape, rank in self.expected:
            value = given[key]
            if not isinstance(value, Tensor) or not value.is_floating_point():
                return None
            if shape is not None and value.shape[-len(shape) :] != shape:
                return None
            if rank is not None and value.ndim != rank:
                return None
            if self.averages and 0 in value.shape:
                return None
            found.append(value)
        like = found[0]
        for key in self.scalars:
            if not isinstance(given[key], float):
                return None
            found.append(given[key])
        if self.drawn:
            batch, dtype, device = self.batch(given), like.dtype, like.device
            for noise, event, common in self.drawn:
                found.append(noise(event if common else batch + event, dtype=dtype, device=device))
        return found

    # ------------------------------------------------------------------------------------------------------- inputs

    def check(self, known: _Input, value: Any) -> None:
        """A tensor that ends in the declared event shape."""
        if not isinstance(value, Tensor):
            raise ShapeError(
                f"{known.key}: expected a tensor, got {type(value).__name__}; write {known.key}=torch.as_tensor(...)"
            )
        if known.key in self.pixels:
            check_type(known.key, value)
        shape = known.shape
        if known.common and value.ndim != len(shape or ()):
            raise ShapeError(
                f"{known.key} is one value for all rows of a call (shared=True), without batch axes\n"
                + table(("variable", "declared", "got"), [(known.key, list(shape or ()), list(value.shape))])
                + f"\npass the value of one event, or leave shared=True out: each row then has its own {known.key}"
            )
        batch = value.shape[: value.ndim - len(shape)] if shape is not None else value.shape[:-1] or value.shape
        if self.averages and not (known.step or known.common) and 0 in batch:
            raise ShapeError(
                f"{known.key} has no rows, and the formula is a mean over the rows, which nothing has\n"
                + table(("variable", "got"), [(known.key, list(value.shape))])
                + "\npass at least one row, or reduce by .sum(), which is 0 of no rows"
            )
        if shape is None or value.shape[2 if known.step else max(value.ndim - len(shape), 0) :] == shape:
            return
        axes = ", ".join(map(str, shape))
        expected = f"[B, T{', ' if axes else ''}{axes}]" if known.step else f"[..., {axes}]"
        flags = self.plan.inputs[known.key].kind in FLAGS
        raise ShapeError(
            f"{known.key} does not have the event shape that {self.declared.get(known.key, 'its factor')} declares\n"
            + table(("variable", "declared", "got"), [(known.key, expected, list(value.shape))])
            + (
                "\npass one flag per step"
                if flags
                else "\npass batch axes + event axes, or change shape= on its factor"
            )
        )

    def like(self, given: Mapping[str, Any], start: Mapping[str, Any] | None) -> Tensor:
        """Where no input is of floating point: a start that is, or a weight, or the default dtype."""
        weights = (p for op in self.plan.ops if op.factor is not None for p in op.factor.parameters())
        for value in itertools.chain((start or {}).values(), weights):
            if isinstance(value, Tensor) and value.is_floating_point():
                return value
        return torch.empty(0, device=next((v.device for v in given.values() if isinstance(v, Tensor)), None))

    # --------------------------------------------------------------------------------------------------------- time

    def lead(self, given: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[int, int]:
        """[B, T], which all series share; without series B is that of ``start`` and T is ``horizon``."""
        if not self.series:
            start, horizon = options.get("start"), options.get("horizon")
            if not start or horizon is None:
                raise MissingInputError("no data says how many steps there are: pass start={...} and horizon=...")
            key, value = next((k, v) for k, v in start.items() if isinstance(v, Tensor))
            place = value.ndim - 1 - len(self.plan.shapes.get(key, ())) if key in self.plan.particles else 0
            return value.shape[place], int(horizon)
        first = given[self.series[0].key].shape[:2]
        if len(first) < 2 or 0 in first or any(given[i.key].shape[:2] != first for i in self.series):
            rows = [(i.key, "[B, T, ...]", list(given[i.key].shape)) for i in self.series]
            raise ShapeError(
                "expected series with one batch of at least one row and one length of at least 1\n"
                + table(("variable", "declared", "got"), rows)
                + "\npass batch-first series, all of one length"
            )
        if first[1] <= self.burn_in:
            raise ShapeError(
                f"{self.series[0].key} has {first[1]} steps, and burn_in={self.burn_in} counts none of them; pass "
                "longer sequences, or write a smaller burn_in="
            )
        if options.get("horizon", first[1]) != first[1]:
            raise FormulaError(
                f"horizon={options['horizon']}: {self.series[0].key} says how many steps there are, {first[1]}; cut "
                f"the series, e.g. {self.series[0].key}[:, :{options['horizon']}], or leave horizon= out"
            )
        return first[0], first[1]

    def start(
        self, given: Mapping[str, Any], start: Mapping[str, Tensor] | None, B: int, T: int, like: Tensor
    ) -> dict[str, Any]:
        """The first value of every carry and shifted series: given, learned, or zeros."""
        if start is not None and self.plan.histories and not self.plan.memories:
            reader = next(op.factor for op in self.plan.ops if op.kind == "causal")
            raise FormulaError(
                f"start=: {reader} reads a history, of which a start holds the last step alone\n"
                f"pass whole sequences, with reset= flags where one begins; World.filter goes on from a state"
            )
        if start is not None and start.keys() != set(self.starts):
            refuse_start(self.plan, start)
        if start is None and self.rows > T:
            raise ShapeError(f"the series have {T} steps, and a start reads the first {self.rows}; pass longer ones")
        found: dict[str, Any] = {}
        for key, name in self.plan.memories.items():
            net: Any = self.plan.by_name[name].factor.net  # type: ignore[union-attr]
            found[f"start_{key}"] = net.cache(B, T, like.device, like.dtype) if start is None else start[key]
        for key in (k for k in self.starts if k not in self.plan.memories):
            of = self.plan.lags.get(key, key)
            shape = tuple(given[of].shape[2:]) if key in self.plan.shifts else self.plan.shapes.get(key)
            initial = start_of(self.plan.initial, key) if key in self.plan.carries else None
            many = self.plan.particles.get(key, ())
            if start is not None:
                found[f"start_{key}"] = start[key]
                if many and shape is not None and tuple(start[key].shape) == (B, *shape):
                    found[f"start_{key}"] = start[key].expand(*many, B, *shape)
                elif shape is not None and tuple(start[key].shape) != (*many, B, *shape):
                    rows = [(key, [*many, B, *shape], list(start[key].shape))]
                    raise ShapeError("start: expected batch + event\n" + table(("variable", "declared", "got"), rows))
            elif key in self.plan.begins:
                found[f"start_{key}"] = None  # the function begins with what a factor draws or computes
            elif initial is not None:
                found[f"start_{key}"] = initial.expand(*many, B, *initial.shape)
            elif key == self.plan.counter:  # what stands before the first step, number 1
                found[f"start_{key}"] = like.new_zeros(B, dtype=torch.promote_types(like.dtype, torch.float32))
            else:
                kind = torch.long if of in self.classes else like.dtype
                found[f"start_{key}"] = like.new_zeros((*many, B, *(shape or ())), dtype=kind)
        return found

    # -------------------------------------------------------------------------------------------------------- noise

    @staticmethod
    def generator(options: Mapping[str, Any], like: Tensor) -> torch.Generator | None:
        """The generator of this call: the given one, or a fresh one from ``seed``; None is torch's global one."""
        return generator_of(options.get("seed"), options.get("generator"), (like,))

    def noise(
        self, lead: tuple[int, ...], like: Tensor, generator: torch.Generator | None,
        given: Mapping[str, Tensor] | None, deterministic: bool, inputs: Mapping[str, Tensor],
    ) -> dict[str, Tensor | None]:  # fmt: skip
        """The noise of every site whose shape is declared, in the order of the sites; None for the others."""
        given = self.plan.noise_by_site(given or {}, self.aliases)
        known = [site.key for site in self.sites] if given else []
        for key in given:
            if key not in known:
                names = ", ".join(known) or "none"
                raise UnknownVariableError(
                    f"noise: no variable {key!r} is drawn; these are: {names}.{near(key, known)}"
                )
        found: dict[str, Tensor | None] = {}
        for site in self.sites:
            if deterministic and not site.always:
                continue
            if site.event is None:
                found[site.name] = given.get(site.key)
                continue
            batch = () if site.common else lead if site.step else lead[:1] if site.start else self.batch(inputs)
            shape = (*site.lead, *batch, *site.event)
            if site.key in given:
                found[site.name] = given[site.key]
                if given[site.key].shape != shape:
                    rows = [(site.key, list(shape), list(given[site.key].shape))]
                    raise ShapeError("noise: expected batch + event\n" + table(("variable", "declared", "got"), rows))
                if torch.promote_types(given[site.key].dtype, like.dtype) != like.dtype:
                    kinds = [str(v.dtype).removeprefix("torch.") for v in (like, given[site.key])]
                    shown = table(("variable", "declared", "got"), [(site.key, *kinds)])
                    raise ShapeError(
                        f"noise: expected the dtype of the data\n{shown}\n"
                        f"write noise={{{site.key!r}: noise.to(torch.{kinds[0]})}}"
                    )
            else:
                found[site.name] = site.family.noise(shape, dtype=like.dtype, device=like.device, generator=generator)
        return found

    def batch(self, inputs: Mapping[str, Tensor]) -> tuple[int, ...]:
        """The batch shape of a call without time: of an input of known event shape, else all but the last axis."""
        if self.plan.reference is not None:
            key, rank = self.plan.reference
            shape = inputs[key].shape
            batch = tuple(shape[: len(shape) - rank])
            if self.several and not batch:
                raise ShapeError(
                    f"{key} has no batch axis, got {list(shape)}; with samples= or gradient='exact' give it one: "
                    f"{key}={key}[None]"
                )
            return batch
        for known in self.inputs:
            if not known.scalar and not self.plan.inputs[known.key].common:
                return tuple(inputs[known.key].shape[: 1 if known.step else -1])
        return ()
