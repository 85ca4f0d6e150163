"""A rollout that is like one before: from tensors by variable straight to the emitted function.

What depends on shapes, kinds and places alone was checked then. An agent's networks take a millisecond a step, and the
checks would take a third of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from worldformula.formula.code.bind import Binder
from worldformula.formula.code.trusted import Trusted, copied, free_of_gradients
from worldformula.formula.plan.plan import Plan
from worldformula.formula.series import Now, Shifted
from worldformula.gradients import one_loop

Values = Mapping[str, Any]
Tensors = dict[str, Tensor]
Dreaming = Callable[[Values], Tensors]
Like = list[tuple[torch.Size, torch.dtype, torch.device]]


SIMPLE = frozenset({"input", "flags", "noise", "carry", "shift", "net", "item", "params", "draw"})
"""The kinds of operations of which none takes a gradient by itself, as a minimum over z or a Langevin chain does."""


class Straight:
    """The way from series and a state to the arguments of a function: see `Program.straight`.

    ``plain``: whether the function is called as it is, and not through ``torch.compile``.
    """

    def __init__(
        self, plan: Plan, binder: Binder, arguments: tuple[str, ...], call: Callable[..., Any], plain: bool
    ) -> None:
        keys, sites = {name: key for key, name in plan.arguments.items()}, {site.name: site for site in binder.sites}
        self.call, self.plain = call, plain
        self._trusted: Trusted | None = None
        self._behind = (
            [op.factor for op in plan.ops if op.factor is not None]
            if plain and all(op.kind in SIMPLE for op in plan.ops)
            else None
        )
        self.series = tuple(plan.inputs)
        self.carry = plan.starts
        self.last = frozenset(plan.shifts)  # series of which the step reads the last value, which is in the state
        self.ways: list[tuple[str, Any]] = []
        for name in arguments:
            if name in keys:
                self.ways.append(("series", keys[name]))
            elif name in sites:
                self.ways.append(("noise", sites[name]))
            else:
                self.ways.append(("start", name.removeprefix("start_")))
        readers = {
            key: [plan.by_name[name].kind for name in plan.readers.get(op.name, ())] for key, op in plan.inputs.items()
        }
        once = {key for key, kinds in readers.items() if kinds == ["shift"] and not plan.reset}
        self.shifted = once if plain else set()  # series that nothing reads but steps that read the one before
        self.noisy = frozenset(site.key for kind, site in self.ways if kind == "noise")
        self.places = {key: i for i, key in enumerate(plan.samples)}

    @staticmethod
    def fits(plan: Plan, binder: Binder, arguments: tuple[str, ...]) -> bool:
        """Whether a plan has nothing besides series, what is carried, and noise of known shape, all at every step."""
        known = {*plan.arguments.values(), *(f"start_{key}" for key in plan.starts), *(s.name for s in binder.sites)}
        odd = plan.memories or plan.checks or plan.counter or plan.valued & set(plan.inputs) or binder.several
        steps = all(site.step and site.event is not None and not site.start for site in binder.sites)
        series = all(known.step for known in binder.inputs)
        shown = all(plan.by_name[name].step for name in plan.samples.values())
        return not odd and steps and series and shown and set(arguments) <= known

    def like(self, observation: Values, state: Values) -> Like | None:
        """Shape, kind and place of all that the step reads; None where something is missing."""
        try:
            read = [state[key] if key in self.last else observation[key] for key in self.series]
            read += [state[key] for key in self.carry]
            return [(value.shape, value.dtype, value.device) for value in read]
        except (KeyError, AttributeError):
            return None

    def typed(self, like: Like) -> bool:
        """Whether a series is of floating point, as the noise is to be."""
        return any(kind.is_floating_point for _, kind, _ in like[: len(self.series)])

    def ends(self, owner: nn.Module, observation: Values, state: Values, wanted: Iterable[str]) -> dict[str, Tensor]:
        """These variables after the step: ``[B, ...]``."""
        read = {key: state[key] if key in self.last else observation[key] for key in self.series}
        like = next(value for value in read.values() if value.is_floating_point())
        rows, dtype, device = like.shape[0], like.dtype, like.device
        values: list[Any] = []
        with self.mode(owner):
            for kind, what in self.ways:
                if kind == "start":
                    values.append(state[what])
                    continue
                if kind == "series":
                    value = read[what]
                else:
                    value = what.family.noise((*what.lead, rows, *what.event), dtype=dtype, device=device)
                values.append(value.unsqueeze(1) if self._behind is None else Now(value, (rows, 1)))
            samples = self.call(owner, *values)[2]
        return copied({key: samples[self.places[key]] for key in wanted})

    def mode(self, owner: nn.Module) -> AbstractContextManager[object]:
        """What the function runs in: inference mode, where it and all that it calls may."""
        if self._behind is None:
            return nullcontext()
        if self._trusted is None:
            self._trusted = Trusted(*owner.children(), *self._behind)
        return free_of_gradients(self._trusted)

    def dreams(self, owner: nn.Module, state: Values, noise: Values, wanted: Iterable[str]) -> Dreaming:
        """What gives these variables at every step, ``[B, T, ...]``, of dreams from a state under actions of which each
        is taken one step before.
        """
        read = [noise[what.key] if kind == "noise" else state.get(what) for kind, what in self.ways]
        acts = [(i, kind, what) for i, (kind, what) in enumerate(self.ways) if what in self.series]
        call, plain, shifted = self.call, self.plain, self.shifted
        places = [(key, self.places[key]) for key in wanted]

        def dream(actions: Values) -> Tensors:
            values: list[Any] = read.copy()
            for place, kind, what in acts:
                value = actions[what]
                if kind == "start":
                    values[place] = value.select(1, 0)
                else:  # the last of a series is not read
                    values[place] = Shifted(value) if what in shifted else value.roll(-1, 1)
            if plain and torch.is_grad_enabled():
                with one_loop():
                    samples = call(owner, *values)[2]
            else:
                samples = call(owner, *values)[2]
            lead = next(iter(actions.values()))
            return {key: _in_time(samples[place], lead) for key, place in places}

        return dream


def _in_time(value: Tensor, like: Tensor) -> Tensor:
    """``[B·T, ...]`` as ``[B, T, ...]``; Tensor.unflatten takes longer."""
    return value.view(*like.shape[:2], *value.shape[1:])
