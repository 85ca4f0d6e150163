"""What a factor is: a family, names and a network.

A factor's identity is the object, never its text. It is a plain ``nn.Module`` without mutable options and without
memory of past calls. What users hold is `factors.joint.Factor`, which can also be multiplied.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from numbers import Real
from types import MappingProxyType
from typing import Any, NoReturn, Self

import torch
from torch import Tensor, nn

from worldformula.errors import (
    FormulaError,
    HeaderError,
    ShapeError,
    WorldformulaError,
    near,
)
from worldformula.families.base import Family
from worldformula.formula.syntax.constants import Constants, Multiplied
from worldformula.formula.syntax.given import (
    Shape,
    as_parameter,
    as_shapes,
    by_variable,
    check_axes,
    check_shared,
    check_value,
    generator_of,
    need,
    options_of,
)
from worldformula.formula.syntax.habits import KeepsNetworks, NoArgumentOfTorch, named_only
from worldformula.formula.syntax.heads import (
    check_output,
    network_failed,
    one_reading,
    outputs,
    refuse_nothing,
    refuse_per_row,
)
from worldformula.formula.syntax.hidden import Found, found
from worldformula.formula.syntax.learnt import Positive, check_learnt
from worldformula.formula.syntax.names import Header, Variable, read_header, renamed
from worldformula.formula.syntax.numbers import all_symbols, given_numbers, settled, symbols, taken_out
from worldformula.formula.syntax.pace import Pace, SlowWeights

Head = nn.Module | Callable[..., Any] | Mapping[str, Tensor | float] | Tensor | None


class Factor(KeepsNetworks, NoArgumentOfTorch, Multiplied, nn.Module):
    """A named conditional distribution, or a deterministic function, as everything that reads formulas knows it.

    ``net`` is called positionally with the conditions in header order. ``shape`` is the event shape of the variable.
    ``shared=True``, a keyword of every family: one draw for all rows of a call, not one for each.
    """

    origin: Factor
    parts: tuple[Factor, ...] = ()  # the factors that it is made of, such as the experts of a product
    unnormalised: bool = False  # whether its density is known up to a constant only: see `Gibbs`
    pace: Pace | None = None  # of a slow copy: how it follows
    shared: bool = False  # whether all rows of a call have one draw
    numbers: Mapping[str, Variable] = MappingProxyType({})  # the parameters that a call gives as numbers

    def __init__(
        self,
        header: str,
        net: Head = None,
        *,
        family: Family | None,
        shape: Shape | Sequence[Shape] = None,
        fixed: Mapping[str, Tensor | float] | None = None,
        deterministic: bool = False,
    ) -> None:
        super().__init__()
        self.header: Header = read_header(header, deterministic=deterministic)
        if self.header.bar:
            raise HeaderError(
                f"{header}: a bar above the letter says that a factor is a slow copy; write the header without it, and "
                f".slow(0.98) behind the factor"
            )
        if len(self.header.variables) != 1 and not deterministic:
            raise HeaderError(
                f"{header}: expected one variable, found {len(self.header.variables)}; "
                f"write a product of factors, e.g. p(x|z) * p(y|z)"
            )
        self.family = family
        self.shapes = as_shapes(shape, header, len(self.header.variables))
        object.__setattr__(self, "origin", self)  # not a child module; see `fresh`
        fixed = dict(fixed or {})
        # among the parameters, as families differ in these alone
        self.shared = check_shared(self.header, fixed.pop("shared", False))
        self._own(net, fixed)

    def _own(self, net: Head, fixed: dict[str, Tensor | float]) -> None:
        """Sort what was given into a network, fixed numbers and constant tensors."""
        text = str(self.header)
        if isinstance(net, type):
            raise FormulaError(
                f"{text}: expected a network, got the class {net.__name__}; build it: {net.__name__}(...)"
            )
        if isinstance(net, Mapping):
            fixed, net = {**net, **fixed}, None
        self.numbers = taken_out(text, fixed, self.header.conditions, self.family)
        tensors: dict[str, Any] = {"head": net} if isinstance(net, Tensor) else {}
        network = net if isinstance(net, nn.Module) or (callable(net) and not isinstance(net, Tensor)) else None
        if net is not None and network is None and not tensors:
            raise FormulaError(
                f"{text}: expected a network, a tensor or a dict of parameters, got {type(net).__name__}"
            )
        if self.family is not None:
            known = (*self.family.parameters, *self.family.alternatives)
            for name in (*fixed, *self.numbers):
                if name not in known:
                    raise FormulaError(
                        f"{text}: {self.family.name} has no parameter {name!r}; it has {', '.join(known)}."
                        + near(name, (*known, *options_of(self)))
                    )
            if network is None and not tensors:
                fixed = self._standard(fixed)
        self.net = network if network is None or isinstance(network, nn.Module) else found(network, text)
        if isinstance(self.net, Found):
            self.reached = nn.ModuleList(self.net.modules)
        fixed = {k: as_parameter(text, k, v) for k, v in fixed.items()}
        if self.family is not None:
            now = {k: v.value if isinstance(v, Positive) else v for k, v in fixed.items()}
            if fault := self.family.wrong_parameters(now):
                raise FormulaError(f"{text}: {fault}")
            check_learnt(text, self.family, fixed)
        self.fixed = {k: v for k, v in fixed.items() if not isinstance(v, Tensor | Positive)}
        tensors |= {k: v for k, v in fixed.items() if isinstance(v, Tensor | Positive)}
        self.constants = Constants(tensors) if tensors else None

    def _standard(self, fixed: dict[str, Tensor | float]) -> dict[str, Tensor | float]:
        """Complete what was given with the parameters of the family's standard distribution."""
        assert self.family is not None
        given = {self.family.alternatives.get(name, name) for name in (*fixed, *self.numbers)}
        if given >= set(self.family.parameters):
            return fixed
        if not given and self.header.conditions:
            conditions = ", ".join(map(str, self.header.conditions))
            raise FormulaError(f"{self.header}: expected a network of {conditions}, got nothing")
        if self.shape is None:
            raise FormulaError(f"{self.header}: expected shape=, e.g. shape=16, or a network, or all parameters")
        return {k: v for k, v in self.family.constants(self.shape).items() if k not in given} | fixed

    # -------------------------------------------------------------------------------------------------- what it is

    @property
    def variable(self) -> Variable:
        """What the factor declares."""
        return self.header.variables[0]

    @property
    def variables(self) -> tuple[Variable, ...]:
        """All that the factor declares: one variable, or the outputs of a deterministic one."""
        return self.header.variables

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The declared event shape of the variable."""
        return self.shapes[0]

    def event_shapes(self) -> list[tuple[Variable, tuple[int, ...] | None]]:
        """Every variable with its declared event shape."""
        return list(zip(self.variables, self.shapes, strict=True))

    def family_tree(self) -> tuple[Factor, ...]:
        """The factor, and those that it is made of."""
        return (self, *(f for part in self.parts for f in part.family_tree()))

    @property
    def conditions(self) -> tuple[Variable, ...]:
        """What its network is called with, in header order."""
        return self.header.conditions

    @property
    def rank(self) -> int:
        """How many event axes the variable has."""
        if self.shape is not None:
            return len(self.shape)
        return self.family.default_rank if self.family is not None else 1

    @property
    def given(self) -> Mapping[str, Tensor | float]:
        """The parameters that no network computes, by name, without ``head``."""
        constants = self.constants
        tensors = {} if constants is None else {k: constants.value(k) for k in constants.names if k != "head"}
        return {**self.fixed, **tensors}

    @property
    def constant(self) -> bool:
        """Whether all parameters are plain numbers, known before the call."""
        return self.numeric and not self.symbols

    @property
    def numeric(self) -> bool:
        """Whether all parameters are numbers, those of the call included."""
        return self.net is None and self.constants is None

    @property
    def symbols(self) -> tuple[Variable, ...]:
        """The numbers that a call gives: parameters, and settings of the family."""
        return symbols(self)

    @property
    def observed(self) -> bool:
        """Whether the factor is data: its draw is what the call is given."""
        return self.family is None and self.net is None

    @property
    def unbatched(self) -> bool:
        """Whether the parameters have no batch axes: given ones, or those of a network without inputs."""
        return self.net is None or not self.conditions

    @property
    def slow_weights(self) -> SlowWeights | None:
        """Of a slow copy, its weights and those that they follow."""
        return self._modules.get("updates")  # type: ignore[return-value]

    def fresh(self) -> Self:
        """The same factor, same network, for an independent draw: ``E(q, f) * E(q.fresh(), g)``."""
        other = copy.copy(self)
        other.__dict__.pop("_slow", None)
        object.__setattr__(other, "origin", self.origin)
        return other

    def rename(self, **names: str) -> Self:
        """The same distribution with other names: ``p.rename(z="z'")``; same network, closed forms and moments.

        A name without a time index keeps the one it had; ``h_prev="h'"`` renames h_{t-1} alone. Draws of the two are
        independent.
        """
        other = self.fresh()
        object.__setattr__(other, "header", renamed(self.header, names))
        return other

    def forward(self, *_: object, **__: object) -> NoReturn:
        """A factor is no function of its conditions.

        Raises:
            FormulaError: always.
        """
        given = ", ".join(f"{c.identifier}=..." for c in self.conditions)
        raise FormulaError(f"{self}: a factor is not called; draw by .sample({given}), or write E, log or KL of it")

    def __str__(self) -> str:
        return str(self.header)

    def __repr__(self) -> str:
        shape = "" if self.shape is None else f", shape={self.shape}"
        return f"<{type(self).__name__} {self.header}{shape}>"

    # ------------------------------------------------------------------------------------------------ direct calls

    def arguments(self, values: Mapping[str, Any], wanted: tuple[Variable, ...]) -> list[Any]:
        """The values of ``wanted`` from keywords; raises with a table when one is missing or unknown."""
        held = by_variable(self, values, wanted, lambda _: self)
        for variable, value in held.items():
            if isinstance(value, Real):
                raise ShapeError(f"{self}: {variable.key}: expected a tensor, got {value!r}; write torch.tensor(...)")
        need(self, values, held, list(wanted), lambda _: self)
        return [held[v] for v in wanted]

    def for_call(self, values: Mapping[str, Any]) -> tuple[Self, dict[str, Any]]:
        """The factor with the numbers that a direct call gives it, and the other keywords."""
        if not all_symbols(self):
            return self, dict(values)
        numbers, rest = given_numbers(self, (self,), values)
        return settled(self, numbers), rest

    def head(self, *conditions: Any) -> Any:
        """What the network returns for these conditions (``None`` if the factor has only given parameters)."""
        if self.net is None:
            return getattr(self.constants, "head", None)
        try:
            head = self.net(*conditions)
        except (torch.OutOfMemoryError, WorldformulaError):
            raise
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise network_failed(self, conditions, error) from error
        refuse_nothing(self, head)
        refuse_per_row(self, head, conditions, direct=True)
        return head

    def params(self, *conditions: Any, batch: int | None = None) -> tuple[Any, ...]:
        """The family's parameters under these conditions, of ``batch`` batch axes where that is known."""
        assert self.family is not None
        if self.symbols:
            given_numbers(self, (self,), {})
        return self.family.params(one_reading(self, self.head(*conditions), conditions, batch), self.shape, self.given)

    @named_only("sample(sample_shape=(5,)) for several draws, and a condition by its name, sample(x=...)")
    def sample(
        self,
        *,
        sample_shape: tuple[int, ...] = (),
        seed: int | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        deterministic: bool = False,
        **conditions: Any,
    ) -> Tensor:
        """One draw of the variable: ``sample_shape + batch + event``; the mode when ``deterministic``.

        ``seed``, ``generator`` or the ``noise`` itself decide the draw; otherwise torch's global generator does.
        """
        if self.observed:
            return torch.as_tensor(self.arguments(conditions, (self.variable,))[0])  # a draw of data is the datum
        factor, conditions = self.for_call(conditions)
        values = self.arguments(conditions, self.conditions)
        check_axes(self, sample_shape)
        rng = generator_of(seed, generator, chain(values, self.parameters(), self.buffers()))
        return factor.draw(values, sample_shape, rng, noise, deterministic)

    def draw(
        self,
        values: Sequence[Any],
        sample_shape: tuple[int, ...] = (),
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        deterministic: bool = False,
    ) -> Tensor:
        """:meth:`sample` with the values of the conditions in header order."""
        with naming(self):
            if self.family is None:
                found = outputs(self, self.head(*values))
                for (variable, shape), value in zip(self.event_shapes(), found, strict=True):
                    check_output(self, variable, value, values, shape)
                return found[0] if len(self.variables) == 1 else tuple(found)  # type: ignore[return-value]
            params = self.params(*values)
            batch, _ = self.family.shapes(params, self.rank)
            like = next((t for t in chain(params, self.parameters()) if isinstance(t, Tensor)), torch.empty(0))
            if deterministic:
                mode = self.family.mode(params)
                whole = (*sample_shape, *batch, *self.event(params))
                return mode.expand(whole) if isinstance(mode, Tensor) else like.new_full(whole, mode)
            shape = self.family.noise_shape((*sample_shape, *batch), self.event(params))
            if noise is None:
                noise = self.family.noise(shape, dtype=like.dtype, device=like.device, generator=generator)
            elif noise.shape != shape:
                raise ShapeError(f"noise: expected {list(shape)}, got {list(noise.shape)}")
            return self.family.sample(params, noise)

    def event(self, params: tuple[Any, ...]) -> tuple[int, ...]:
        """The event shape: declared, or read off the parameters."""
        if self.shape is not None:
            return self.shape
        assert self.family is not None
        return self.family.shapes(params, self.rank)[1]

    @named_only("log_prob({name}=...), the conditions too")
    def log_prob(self, **values: Any) -> Tensor:
        """log-density of the variable's value: event axes summed, batch axes kept."""
        if self.family is None:
            raise FormulaError(f"{self} is deterministic: it has no density")
        factor, values = self.for_call(values)
        value, *conditions = self.arguments(values, (self.variable, *self.conditions))
        return factor.density(value, conditions)

    def density(self, value: Tensor, conditions: Sequence[Any]) -> Tensor:
        """:meth:`log_prob` with the values of the conditions in header order."""
        assert self.family is not None
        check_value(self, self.variable, self.shape, value)
        with naming(self):
            params = self.params(*conditions, batch=value.ndim - self.rank)
            return self.family.log_prob(spread(params, value, self), value, self.rank)


@contextmanager
def naming(factor: Factor) -> Iterator[None]:
    """Errors inside name the factor."""
    try:
        yield
    except WorldformulaError as error:
        if str(factor) in str(error):
            raise
        raise type(error)(f"{factor}: {error}") from error


def spread(params: tuple[Any, ...], like: Tensor, factor: Factor) -> tuple[Any, ...]:
    """Give the parameters of a factor without conditions the batch axes of ``like`` (a view)."""
    if not factor.unbatched or factor.family is None:
        return params
    return factor.family.expand(params, tuple(like.shape[: like.ndim - factor.rank]), factor.rank)
