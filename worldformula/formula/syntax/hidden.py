"""Networks behind a function: the module of a method, what a partial, a closure or a default holds.

A function that reaches no module stays as it is. One that does is a `Found`: its modules are registered with the factor
as if they had been given themselves, and a copy of it calls the copies of its modules.
"""

from __future__ import annotations

import builtins
import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

from worldformula.errors import FormulaError

PLAIN = (str, bytes, int, float, complex, bool, type(None), type, ModuleType, BuiltinFunctionType, CodeType, Tensor)


class Reached(nn.Module):
    """The parameters, buffers and children of a module, the very same, without the module itself: a module whose method
    is the network of a factor may own this factor, and would otherwise contain itself.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.whole = (module,)  # a tuple, so no child
        self.__dict__["_parameters"], self.__dict__["_buffers"] = module._parameters, module._buffers
        self.__dict__["_non_persistent_buffers_set"] = module._non_persistent_buffers_set
        self.__dict__["_modules"] = dict(module._modules)

    def forward(self, *args: Any) -> Any:
        """The module itself."""
        return self.whole[0](*args)

    def train(self, mode: bool = True) -> Reached:
        """The module too."""
        self.whole[0].training = mode
        return super().train(mode)


class Found:
    """A function and the modules that it reaches; called as the function is."""

    def __init__(self, function: Callable[..., Any], modules: tuple[Reached, ...]) -> None:
        self.function, self.modules = function, modules

    def __call__(self, *args: Any) -> Any:
        """The function."""
        return self.function(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> Found:
        for function in _leading(self.function):
            _copied(function, memo)
        return Found(copy.deepcopy(self.function, memo), copy.deepcopy(self.modules, memo))


def found(function: Callable[..., Any], by: object) -> Callable[..., Any]:
    """The function, with the modules that it reaches where there are any.

    Raises:
        FormulaError: it reaches an ``nn.Parameter`` of no module, which could not be registered, copied or loaded.
    """
    if isinstance(function, Found):
        return function
    modules: dict[int, nn.Module] = {}
    for value in _reached(function):
        if isinstance(value, nn.Module):
            modules.setdefault(id(value), value)
        elif isinstance(value, nn.Parameter):
            raise FormulaError(
                f"{by}: its function holds an nn.Parameter of shape {list(value.shape)} that belongs to no module, so "
                f"it could be neither registered nor loaded; make the function the forward of an nn.Module that owns it"
            )
    inner = {id(m) for module in modules.values() for m in module.modules() if m is not module}
    outer = tuple(Reached(module) for key, module in modules.items() if key not in inner)
    return Found(function, outer) if outer else function


def _reached(start: object) -> Iterator[object]:
    """The modules and parameters that a function reaches; what stands inside of a module belongs to it."""
    waiting, seen = [start], set[int]()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module | nn.Parameter):
            yield value
        elif not isinstance(value, PLAIN):
            waiting.extend(reversed(parts(value)))


def parts(value: object) -> list[object]:
    """What a value holds. The code of a class is its own: what it names is not looked at."""
    if isinstance(value, FunctionType):
        return _parts_of_function(value)
    if isinstance(value, MethodType):
        return [value.__self__]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    slots = [name for kind in type(value).__mro__ for name in _slots(kind)]
    held = [getattr(value, name) for name in slots if hasattr(value, name)]
    return [*held, *getattr(value, "__dict__", {}).values()]


def _slots(kind: type) -> tuple[str, ...]:
    names = vars(kind).get("__slots__", ())
    return (names,) if isinstance(names, str) else tuple(n for n in names if n not in ("__dict__", "__weakref__"))


def _parts_of_function(function: FunctionType) -> list[object]:
    """Cells, defaults, and the globals that its code names."""
    cells = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
    named = [function.__globals__[name] for name in _globals(function)]
    return [*cells, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *named]


def _globals(function: FunctionType) -> list[str]:
    """The globals that a function's code names, of its own file: what it imports is code of others."""
    names, waiting = dict[str, None](), [function.__code__]
    while waiting:
        code = waiting.pop()
        names |= dict.fromkeys(code.co_names)
        waiting.extend(c for c in code.co_consts if isinstance(c, CodeType))
    known = function.__globals__
    return [
        n for n in names
        if n in known and not hasattr(builtins, n)
        and (not isinstance(known[n], FunctionType) or known[n].__globals__ is known)
    ]  # fmt: skip


def _filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


# ------------------------------------------------------------------------------------------------------------- copying


def with_functions(self: Any, memo: dict[int, Any]) -> Any:
    """A ``__deepcopy__`` for what holds functions: those that reach a module reach the copy of it in the copy."""
    for function in _leading(vars(self)):
        _copied(function, memo)
    other = memo[id(self)] = object.__new__(type(self))
    for name, value in vars(self).items():
        object.__setattr__(other, name, copy.deepcopy(value, memo))
    return other


def _leading(start: object) -> list[FunctionType]:
    """The functions through which a function reaches modules: these are what a copy makes anew."""
    order, waiting, seen = list[object](), [start], set[int]()
    while waiting:
        value = waiting.pop()
        if id(value) not in seen and not isinstance(value, PLAIN):
            seen.add(id(value))
            order.append(value)
            if not isinstance(value, nn.Module):
                waiting.extend(parts(value))
    return [v for v in order if isinstance(v, FunctionType) and next(_reached(v), None) is not None]


def _copied(function: FunctionType, memo: dict[int, Any]) -> None:
    """Put a copy of a function into a memo of ``deepcopy``: functions are no data to it, and would stay shared."""
    if id(function) in memo:
        return

    def anew(value: object) -> Any:
        return copy.deepcopy(value, memo) if next(_reached(value), None) is not None else value

    cells = tuple(CellType() for _ in function.__closure__ or ())
    named = [n for n in _globals(function) if next(_reached(function.__globals__[n]), None) is not None]
    names = {**function.__globals__} if named else function.__globals__
    other = FunctionType(function.__code__, names, function.__name__, None, cells or None)
    memo[id(function)] = other  # first, as what it holds may hold it
    for inner in _leading(function):
        _copied(inner, memo)
    other.__dict__.update(function.__dict__)
    other.__qualname__, other.__module__, other.__doc__ = function.__qualname__, function.__module__, function.__doc__
    for cell, known in zip(cells, function.__closure__ or (), strict=True):
        if _filled(known):
            cell.cell_contents = anew(known.cell_contents)
    other.__defaults__ = None if function.__defaults__ is None else tuple(map(anew, function.__defaults__))
    if function.__kwdefaults__:
        other.__kwdefaults__ = {name: anew(value) for name, value in function.__kwdefaults__.items()}
    names.update((name, anew(function.__globals__[name])) for name in named)
