"""What users give a factor or a product, read and checked: shapes, numbers, and values by keyword."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import signature
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from worldformula.errors import FormulaError, MissingInputError, ShapeError, UnknownVariableError, near, table
from worldformula.formula.syntax.learnt import Positive
from worldformula.formula.syntax.names import Header, Variable
from worldformula.formula.syntax.spelling import by_keyword

Shape = int | tuple[int, ...] | None
Who = Callable[[Variable], object]


def whole_number(value: Any) -> int | None:
    """A whole number of any kind (those of numpy too) as Python's; None is what is none."""
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None


def number(value: Any) -> int | float | None:
    """A real number of any kind as Python's, whose repr code can be written with; None is what is none."""
    if isinstance(value, Real) and not isinstance(value, bool | Integral):
        return float(value)
    known = whole_number(value)
    return None if known is None or not fits(known) else fitting(known)


LARGEST = 2**63  # whole numbers below it are numbers to PyTorch


def fitting(number: int | float) -> int | float:
    """A whole number that PyTorch has no room for, as a float."""
    return number if isinstance(number, float) or -LARGEST <= number < LARGEST else float(number)


def fits(number: Any) -> bool:
    """Whether a number is no larger than floats go."""
    try:
        float(number)
    except OverflowError:
        return False
    return True


def one_number(key: str, value: Any) -> float | Tensor:
    """What a call gives for a Symbol, one real number for all rows: a float, or a tensor of floats without axes."""
    if isinstance(value, Real) and not isinstance(value, bool) and fits(value):
        return float(value)
    if isinstance(value, Tensor) and value.ndim == 0 and not value.is_complex() and value.dtype != torch.bool:
        return value if value.is_floating_point() else value.to(torch.get_default_dtype())
    got = type(value).__name__
    if isinstance(value, Tensor):
        got = f"a tensor of {value.dtype}" if value.ndim == 0 else f"a tensor of shape {list(value.shape)}"
    elif isinstance(value, Real) and not isinstance(value, bool):
        got = "one that is larger than floats go"
    raise ShapeError(
        f"{key}: expected one number for the whole call, got {got}; pass {key}=0.5\nfor one value per row write "
        f"Value({key!r}) in the place of a coefficient, and a condition, p(...|{key}), in that of a parameter"
    )


def options_of(factor: object) -> tuple[str, ...]:
    """The keywords of a factor's class that are no parameters: shape=, and settings such as unimix=."""
    return tuple(name for name, p in signature(type(factor)).parameters.items() if p.kind is p.KEYWORD_ONLY)


def check_shared(header: Header, shared: object) -> bool:
    """Whether all rows of a call have one draw; a variable with an index is of rows or of steps."""
    if not isinstance(shared, bool):
        raise FormulaError(f"{header}: expected shared= as True or False, got {shared!r}")
    variable = header.variables[0]
    if shared and variable.index is not None:
        raise FormulaError(
            f"{header}: shared=True is one draw for all rows of a call, and {variable} has an index\n"
            f"call the variable {variable.base}, without its subscript"
        )
    return shared


def as_shape(shape: Shape, header: str) -> tuple[int, ...] | None:
    """``16`` -> ``(16,)``; ``()`` is a scalar; ``None`` is undeclared."""
    if shape is None:
        return None
    sizes = [whole_number(size) for size in (shape if isinstance(shape, Iterable) else (shape,))]
    known = tuple(size for size in sizes if size is not None and size > 0)
    if len(known) < len(sizes):
        raise FormulaError(f"{header}: expected shape= as positive integers such as 16 or (3, 32, 32), got {shape!r}")
    return known


def as_shapes(shape: Any, header: str, count: int) -> tuple[tuple[int, ...] | None, ...]:
    """The event shapes of ``count`` variables: of one as it is, of several as a list with one entry for each."""
    if count == 1:
        return (as_shape(shape, header),)
    if shape is None:
        return (None,) * count
    if not isinstance(shape, Sequence) or len(shape) != count:
        raise FormulaError(f"{header}: expected shape= with {count} entries, e.g. shape=[16, (3, 8)], got {shape!r}")
    return tuple(as_shape(s, header) for s in shape)


def as_parameter(header: str, name: str, value: Any) -> Any:
    """A parameter that no network computes: a tensor, or what `positive` makes, as it is; or a number of any kind.

    Which values are possible, the family says: `Family.wrong_parameters`.
    """
    if isinstance(value, Tensor | Positive):
        return value
    if hasattr(value, "node"):
        raise FormulaError(
            f"{header}: expected {name}= as a number, a tensor or a Symbol, got a formula, {value!r}\nwrite "
            f"{name}=Symbol({name!r}), and give the call the number that the formula makes"
        )
    if not isinstance(value, Real) or isinstance(value, bool):
        raise FormulaError(
            f"{header}: expected {name}= as a number or a tensor, got {type(value).__name__} {value!r}; "
            f"write {name}=1.0 or {name}=torch.tensor(...)"
        )
    number = float(value)
    expected, fits = "a number", not math.isnan(number)
    if name == "probs":
        expected, fits = "strictly between 0 and 1", 0 < number < 1
    elif name in ("low", "high"):
        expected, fits = "a finite number", math.isfinite(number)
    if not fits:
        raise FormulaError(f"{header}: expected {name}= {expected}, got {value!r}")
    return number


def check_axes(whose: object, sample_shape: object) -> None:
    """Sample axes are a tuple of sizes."""
    if not isinstance(sample_shape, tuple | list) or not all(isinstance(size, Integral) for size in sample_shape):
        raise FormulaError(f"{whose}: expected sample_shape= as a tuple such as (8,), got {sample_shape!r}")


def check_value(whose: object, variable: Variable, shape: tuple[int, ...] | None, value: Any) -> Tensor:
    """A tensor that ends in the declared event shape."""
    name = variable.key
    if not isinstance(value, Tensor):
        raise ShapeError(f"{name}: expected a tensor, got {type(value).__name__}; write {name}=torch.as_tensor(...)")
    if shape and tuple(value.shape[-len(shape) :]) != shape:
        rows = [(name, f"[..., {', '.join(map(str, shape))}]", list(value.shape))]
        raise ShapeError(
            f"{name} does not have the event shape that {whose} declares\n"
            + table(("variable", "declared", "got"), rows)
            + "\npass batch axes + event axes, or change shape= on its factor"
        )
    return value


def check_random(seed: object, generator: object) -> None:
    """``seed`` is a whole number, ``generator`` one of torch's, and there is one of the two at most."""
    if seed is not None and not isinstance(seed, Integral):
        raise FormulaError(f"expected seed= as a whole number, got {seed!r}")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise FormulaError(f"expected generator= as a torch.Generator, got {type(generator).__name__} {generator!r}")
    if seed is not None and generator is not None:
        raise FormulaError("expected seed= or generator=, got both")


def generator_of(
    seed: int | None, generator: torch.Generator | None, tensors: Iterable[object]
) -> torch.Generator | None:
    """The given generator, or a fresh one from ``seed`` on the device of the first tensor; None is torch's own."""
    check_random(seed, generator)
    if seed is None:
        return generator
    like = next((t for t in tensors if isinstance(t, Tensor)), torch.empty(0))
    return torch.Generator(like.device).manual_seed(seed)


# ---------------------------------------------------------------------------------------------------- values by keyword


def called(among: Iterable[Variable]) -> dict[Variable, str]:
    """The keyword of every variable: its key, or ``h_prev`` beside ``h`` where both are wanted."""
    variables = list(dict.fromkeys(among))
    keys = [v.key for v in variables]
    return {v: v.identifier if keys.count(v.key) > 1 else v.key for v in variables}


def _meant(name: str, among: Iterable[Variable], given: Mapping[str, Any]) -> Variable | None:
    for variable, keyword in called(among).items():
        if name == variable.identifier or (name == keyword and variable.identifier not in given):
            return variable
    return None


def by_variable(
    whose: object,
    given: Mapping[str, Any],
    wanted: Iterable[Variable],
    who: Who,
    optional: Iterable[Variable] = (),
    drawn: Iterable[Variable] = (),
) -> dict[Variable, Any]:
    """The variable that every keyword means; raises UnknownVariableError with a table for one that means none.

    A keyword means a variable that is ``wanted`` before an ``optional`` one, so ``h=`` is h_{t-1} where a factor of
    the product declares h_t. ``drawn`` are variables that cannot be given, and ``who`` says who declares a variable.
    """
    wanted, optional, given = list(wanted), list(optional), by_keyword(given)
    found: dict[Variable, Any] = {}
    for name, value in given.items():
        variable = _meant(name, wanted, given) or _meant(name, optional, given)
        if variable is None:
            rows = _rows(wanted, given, who) + [(v.key, who(v), "drawn") for v in drawn]
            known = [*called(wanted).values(), *called(optional).values()]
            why = " It is drawn, not given." if name in {v.key for v in drawn} else near(name, known)
            shown = table(("variable", "declared by", "got"), rows) if rows else "  it reads no variables at all"
            raise UnknownVariableError(f"{whose} has no variable {name!r}.{why}\n{shown}")
        found[variable] = value
    return found


def need(
    whose: object, given: Mapping[str, Any], held: Mapping[Variable, Any], wanted: list[Variable], who: Who
) -> None:
    """Raise MissingInputError with a table where a wanted variable is not held."""
    names = called(wanted)
    if missing := [names[v] for v in names if v not in held]:
        raise MissingInputError(
            f"{whose} needs {', '.join(missing)}; pass {', '.join(f'{k}=...' for k in missing)}\n"
            + table(("variable", "declared by", "got"), _rows(wanted, given, who))
        )


def _rows(wanted: Iterable[Variable], given: Mapping[str, Any], who: Who) -> list[tuple[object, object, object]]:
    shown = called(wanted).items()
    return [(k, who(v), "given" if k in given or v.identifier in given else "missing") for v, k in shown]
