"""What the habits of PyTorch lead one to write of a formula or a factor: refused, with what to write here."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar, cast

from torch import nn

from worldformula.errors import FormulaError
from worldformula.formula.syntax.functions import FUNCTIONS

Method = TypeVar("Method", bound=Callable[..., Any])


def named_only(write: str) -> Callable[[Method], Method]:
    """A method whose arguments have names; ``write`` is its call in a message, with a place for the first argument."""

    def decorate(method: Method) -> Method:
        @functools.wraps(method)
        def call(self: Any, *unnamed: Any, **named: Any) -> Any:
            if unnamed:
                shown = repr(unnamed[0]) if isinstance(unnamed[0], int | float | tuple) else "..."
                name = getattr(self, "variable", "x")
                raise FormulaError(
                    f"{self}.{method.__name__}: expected arguments by name, got {shown} without one\n"
                    f"write {write.format(shown, name=getattr(name, 'key', name))}"
                )
            return method(self, **named)

        return cast(Method, call)

    return decorate


def without_axis(method: Method) -> Method:
    """A reduction of a formula, which is over all batch axes."""

    @functools.wraps(method)
    def call(self: Any, *given: Any, **named: Any) -> Any:
        if given or named:
            asked = ", ".join([*map(repr, given), *(f"{k}={v!r}" for k, v in named.items())])
            raise FormulaError(
                f".{method.__name__}({asked}): a formula is reduced over all its batch axes, .{method.__name__}()\n"
                f"total(...) sums the axes of an event, Sum('t', ...) those of time; or reduce the number that a call "
                f"gives, loss(...).value.{method.__name__}({asked})"
            )
        return method(self)

    return cast(Method, call)


NUMBERS = tuple("eEfFgGdn%")  # the last letter of a format of numbers
OPERATORS = frozenset({"add", "sub", "mul", "div", "pow", "matmul"})  # of a tensor on the left: the formula answers
OURS = frozenset({*FUNCTIONS, "clamp", "maximum", "minimum"}) - {"abs"}


def _unvalued(of: object, then: str = "") -> str:
    """What is wrong with taking a number of what was not called, and what to write."""
    if isinstance(of, NoTensor):
        wrong = "a formula has no value before it is called"
        return f"{wrong}\nwrite loss(x=...).value{then}, with its variables by keyword"
    return "a factor is no number\nwrite p.sample(...) or p.log_prob(...), with its variables by keyword"


class NoArgumentOfTorch:
    """A factor or a formula: functions of tensors do not take it, and it is no number."""

    def _refuse_number(self, *_: object) -> NoReturn:
        raise FormulaError(f"expected a number: {_unvalued(self)}")

    __float__ = __int__ = __complex__ = __round__ = _refuse_number

    def __format__(self, spec: str) -> str:
        if spec[-1:] in NUMBERS:
            raise FormulaError(f"{{:{spec}}} writes a number: {_unvalued(self)}")
        return format(str(self), spec)

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: object, given: tuple[Any, ...] = (), named: object = None
    ) -> Any:
        name = getattr(function, "__name__", str(function))
        if name in OPERATORS:
            return NotImplemented
        kind = "a formula" if issubclass(cls, NoTensor) else "a factor"
        ours = f"write {name}(...) with `from worldformula import {name}`"
        variable = f"write it of a variable, Deterministic('y = f(x)', {name})"
        raise FormulaError(
            f"{name}: expected tensors, got {kind}, which has no value before it is called\n"
            f"{ours if name in OURS else variable}; or apply it to the number that a call gives, loss(...).value"
        )


class KeepsNetworks:
    """What calls the networks that it was built with, whatever stands in their place later."""

    def __setattr__(self, name: str, value: Any) -> None:
        known = {**self.__dict__, **self.__dict__.get("_modules", {})} if isinstance(value, nn.Module) else {}
        if known.get(name, value) is not value:
            owner = "this factor" if name == "net" else "a factor of this formula"
            raise FormulaError(
                f"{name} is the network that {owner} was built with, which formulas call: another one in its place "
                f"would be trained and saved, and never read\nchange the layers inside it, {name}[-1] = ..., or build "
                f"{'factor and formula' if name == 'net' else 'the formula'} with the new network"
            )
        super().__setattr__(name, value)


class NoTensor(KeepsNetworks, NoArgumentOfTorch):
    """A formula has no elements, and its networks are those of its factors."""

    def __getitem__(self, key: object) -> NoReturn:
        raise FormulaError(
            f"[{key!r}]: a formula has no elements before it is called\n"
            f"take them of what a call gives, loss(...).value; a part of a variable is a Deterministic of it, "
            f"Deterministic('y = f(x)', lambda x: x[..., :2])"
        )

    def __iter__(self) -> NoReturn:
        raise FormulaError("a formula has no elements to go through; call it, and go through what it gives")

    def item(self) -> NoReturn:
        """A formula is no tensor."""
        raise FormulaError(f".item(): {_unvalued(self, '.item()')}")

    def backward(self, *_: object, **__: object) -> NoReturn:
        """A formula is no tensor."""
        raise FormulaError(f".backward(): {_unvalued(self, '.backward()')}")
