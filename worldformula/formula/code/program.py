"""A program: what an expression runs. The plan, its passes, and the emitted functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from worldformula.errors import FormulaError, WorldformulaError
from worldformula.families.base import checked
from worldformula.formula.code.bind import Binder, Call
from worldformula.formula.code.emit import Emitted, emit
from worldformula.formula.code.interpret import diagnose, interpret, noise_drawn
from worldformula.formula.code.out import Out
from worldformula.formula.code.pieces import compiled
from worldformula.formula.code.straight import Straight
from worldformula.formula.code.support import check_inputs, check_numbers, check_outputs
from worldformula.formula.code.verify import verify
from worldformula.formula.plan.passes import PASSES
from worldformula.formula.plan.plan import Plan
from worldformula.formula.syntax.networks import networks
from worldformula.formula.syntax.spelling import by_keyword
from worldformula.gradients import one_loop

DIAGNOSED = (
    WorldformulaError, RuntimeError, TypeError, ValueError, IndexError, AttributeError, KeyError, NameError,
    ArithmeticError
)  # fmt: skip
Tensors = dict[str, Tensor]
Floats = tuple[frozenset[str], torch.dtype]  # inputs of whole numbers, and what they become
QUICK = Call({}, 0, False)  # stands for the call that `Binder.quick` prepares, which has no time and no option


class Program:
    """The plan of a formula with its emitted functions, made at first use and never copied or saved."""

    def __init__(
        self,
        plan: Plan,
        title: str,
        options: dict[str, Any] | None = None,
        lowered: Callable[..., Plan] | None = None,
    ) -> None:
        self.raw, self.title = verify(plan, "lowered"), title
        self.plan = plan
        for step in PASSES:
            self.plan = verify(step(self.plan), step.__name__)
        self.binder = Binder(self.plan)
        self.options = options  # of ``torch.compile``
        self.lowered = lowered  # the same formula as another plan, with ``floats=``
        self.of_floats: dict[Floats, Program] = {}  # the programs of calls that give whole numbers to compute with
        self._functions: dict[bool, Emitted] = {}
        self._calls: dict[bool, Any] = {}
        self._structured: frozenset[str] = frozenset()  # parameters that were seen to come as a dict
        self._proven: set[bool] = set()  # which of the emitted functions have once run to their end
        self._held: tuple[Any, ...] = ()  # the numbers that the last call was seen to give; None where it was a tensor
        self._straight: dict[bool, Straight | None] = {}
        self._quick = False  # whether the emitted function is there and takes the arguments of `Binder.quick`

    @property
    def inputs(self) -> tuple[str, ...]:
        """The keywords of a call."""
        return tuple(self.plan.inputs)

    def function(self, owner: nn.Module, deterministic: bool) -> Emitted:
        """The emitted function, for sampling or for means and modes."""
        if deterministic not in self._functions:
            emitted = emit(
                self.plan, networks(owner), self.title, deterministic=deterministic, structured=self._structured
            )
            call = emitted.call if self.options is None else compiled(emitted, self.options)
            self._calls[deterministic], self._functions[deterministic] = call, emitted
            self._quick = self._quick or (not deterministic and emitted.arguments == self.binder.order)
        return self._functions[deterministic]

    def compile(self, options: dict[str, Any]) -> None:
        """From now on, run the emitted functions through ``torch.compile``."""
        self.options = options
        self.of_floats.clear()
        self._forget()

    def _forget(self) -> None:
        """Emit again at the next call."""
        self._functions, self._calls, self._proven, self._quick, self._straight = {}, {}, set(), False, {}

    # ---------------------------------------------------------------------------------------------------------- run

    def run(self, owner: nn.Module, given: dict[str, Any]) -> Out:
        """Evaluate the formula by its emitted code."""
        values = self.binder.quick(given) if self._quick else None
        call = QUICK
        if values is None:
            if (other := self.computing(given, owner)) is not self:
                return other.run(owner, given)
            call = self.binder.bind(given)
            values = [call.arguments[name] for name in self.function(owner, call.deterministic).arguments]
        if call.deterministic not in self._proven and not is_compiling():
            return self._first(owner, values, call)
        if self.plan.checks and not is_compiling():
            self._check_numbers(values, call)
        try:
            value, terms, samples = self._call(owner, values, call)
        except DIAGNOSED as error:
            named, dicts = diagnose(self.raw, self._arguments(values, call), deterministic=call.deterministic)
            named = named or self._changed(dicts, call)
            if named is None:
                raise
            raise named from error
        return Out(value, terms, samples, self.plan, call)

    def straight(self, deterministic: bool) -> Straight | None:
        """The way to the emitted function for a call like one that `run` has checked; None where there is none: it has
        not yet run, ``torch.compile`` traces it, or it takes more than series, carry and noise.
        """
        if deterministic not in self._proven or is_compiling():
            return None
        if deterministic not in self._straight:
            names = self._functions[deterministic].arguments
            fits = Straight.fits(self.plan, self.binder, names)
            call, plain = self._calls[deterministic], self.options is None
            self._straight[deterministic] = Straight(self.plan, self.binder, names, call, plain) if fits else None
        return self._straight[deterministic]

    def _call(self, owner: nn.Module, values: list[Any], call: Call) -> tuple[Any, tuple[Any, ...], tuple[Any, ...]]:
        """What the emitted function returns; the gradients by what its loop reads wait for each other."""
        with one_loop() if call.length > 1 and self.options is None else nullcontext():
            found: tuple[Any, tuple[Any, ...], tuple[Any, ...]] = self._calls[call.deterministic](owner, *values)
        return found

    def _changed(self, dicts: frozenset[str], call: Call) -> FormulaError | None:
        """That a network now returns a dict of parameters, where it returned one tensor before."""
        for name in sorted(self._functions[call.deterministic].written & dicts):
            return FormulaError(
                f"{self.plan.by_name[name].factor}: its network returned one tensor at the first call, and a dict of "
                f"parameters now\nlet it always return the same"
            )
        return None

    def computing(self, given: Mapping[str, Any], owner: nn.Module | None = None) -> Program:
        """The program for a call: another where it gives whole numbers or flags that arithmetic reads."""
        if self.lowered is None or not self.plan.valued:
            return self
        tensors = {k: v for k, v in by_keyword(given).items() if isinstance(v, Tensor)}
        kinds = {k: v.dtype for k, v in tensors.items() if v.is_floating_point()}
        whole = frozenset(
            k for k in self.plan.valued if k in tensors and k not in kinds and not tensors[k].is_complex()
        )
        if not whole:
            return self
        widest = torch.get_default_dtype()
        for kind in kinds.values() or (self.binder.like(tensors, given.get("start")).dtype,):
            widest = torch.promote_types(widest, kind)
        _lower_again(self, whole, widest, owner)
        return self.of_floats[whole, widest]

    def _check_numbers(self, values: list[Any], call: Call) -> None:
        """Refuse numbers that cannot stand where they do, where the last call did not give the same."""
        arguments = self._arguments(values, call)
        given = tuple(None if isinstance(v := arguments[name], Tensor) else v for _, name in self.plan.symbols)
        if given != self._held:
            check_numbers(self.plan, arguments, tensors=False)
            self._held = given

    def _arguments(self, values: list[Any], call: Call) -> dict[str, Any]:
        """The arguments of a call by name."""
        return dict(zip(self.binder.order, values, strict=True)) if call is QUICK else call.arguments

    def _first(self, owner: nn.Module, values: list[Any], call: Call) -> Out:
        """The first run of an emitted function, which tells whose network returns a dict of parameters.

        Code that writes a distribution out needs one tensor from its network. Where a dict came, it is emitted again
        with the family's methods there, and runs as if it were the first: same noise, random numbers and buffers.
        """
        emitted, arguments = self.function(owner, call.deterministic), self._arguments(values, call)
        check_inputs(self.plan, arguments)
        rewind = rewinder(owner, arguments.get("rng"))
        try:
            with checked() as named_heads:
                value, terms, samples = self._call(owner, values, call)
        except DIAGNOSED as error:
            named, structured = diagnose(self.raw, arguments, deterministic=call.deterministic)
            if named is not None:
                raise named from error
            if not emitted.written & structured:
                raise
            self._structured |= structured
        else:
            self._check_outputs(owner, arguments, call, samples, again=bool(named_heads))
            self._proven.add(call.deterministic)
            return Out(value, terms, samples, self.plan, call)
        self._forget()
        self.function(owner, call.deterministic)
        rewind()
        return self._first(owner, values, call)

    def _check_outputs(
        self, owner: nn.Module, arguments: dict[str, Any], call: Call, samples: tuple[Any, ...], *, again: bool
    ) -> None:
        """Raise HeadError where a network did not return the values that the header of its factor names, or no batch of
        the declared shape.

        Code that takes a tensor for a tuple of outputs runs, with rows in the place of outputs; and so does code that
        takes numbers of the rows for those of an event, ``again``: where a network gives parameters by name.
        """
        if again or any(op.kind == "item" for op in self.raw.ops) or not all(isinstance(s, Tensor) for s in samples):
            rewind = rewinder(owner, arguments.get("rng"))
            named, _ = diagnose(self.raw, arguments, deterministic=call.deterministic)
            rewind()
            if named is not None:
                raise named
        check_outputs(self.plan, arguments, samples)

    def interpret(self, given: dict[str, Any]) -> Out:
        """Evaluate the formula node by node, with shape checks."""
        if (other := self.computing(given)) is not self:
            return other.interpret(given)
        call = self.binder.bind(given)
        check_inputs(self.raw, call.arguments)
        value, terms, samples = interpret(self.raw, call.arguments, deterministic=call.deterministic)
        return Out(value, terms, samples, self.raw, call)

    def noise(self, given: Mapping[str, Any], generator: torch.Generator | None) -> dict[str, Tensor]:
        """The noise that a call with these inputs would draw, by variable."""
        if (other := self.computing(given)) is not self:
            return other.noise(given, generator)
        call = self.binder.bind({**given, "generator": generator})
        found = call.arguments
        if any(found[site.name] is None for site in self.binder.sites):
            found = noise_drawn(self.raw, found)
        return {site.key: found[site.name] for site in self.binder.sites}


def _lower_again(program: Program, whole: frozenset[str], widest: torch.dtype, owner: nn.Module | None) -> bool:
    if (whole, widest) not in program.of_floats:
        assert program.lowered is not None
        plan = program.lowered(floats=(whole, widest))
        made = program.of_floats[whole, widest] = Program(plan, program.title, program.options)
        if owner is not None:
            made.function(owner, deterministic=False)
    return True


# So that torch.compile does not trace how code is written: `assume_constant_result` without importing the compiler.
_lower_again._dynamo_marked_constant = True  # type: ignore[attr-defined]


def rewinder(owner: nn.Module, generator: torch.Generator | None) -> Callable[[], None]:
    """A function that brings torch's generators, that of the call, and the buffers of the networks (the statistics of
    a BatchNorm) back to where they are now.
    """
    own = None if generator is None else generator.get_state()
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cpu, gpus = torch.get_rng_state(), torch.cuda.get_rng_state_all() if started else []
    buffers = [(buffer, buffer.clone()) for buffer in owner.buffers()]

    def rewind() -> None:
        torch.set_rng_state(cpu)
        if started:
            torch.cuda.set_rng_state_all(gpus)
        if generator is not None and own is not None:
            generator.set_state(own)
        with torch.no_grad():
            for buffer, before in buffers:
                if not _same(buffer, before):  # a constant that autograd saved is not written to
                    buffer.copy_(before)

    return rewind


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same values, NaN included. (The version counter misses what BatchNorm writes.)"""
    if one.layout is not torch.strided:
        return False
    return bool(((one == other) | (one.isnan() & other.isnan())).all())
