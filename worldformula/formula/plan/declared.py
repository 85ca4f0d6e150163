"""What the factors of a formula declare together: keywords that differ, one event shape for each variable."""

from __future__ import annotations

from dataclasses import replace

from worldformula.errors import FormulaError, ShapeError, table
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.names import Variable


def check_keys(used: list[Factor]) -> None:
    """Every variable can be a keyword of the call, and no two variables are the same keyword."""
    first: dict[str, Variable] = {}
    spans = {v.key: True for factor in used for v in factor.conditions if v.span}  # x_{1:T} is what x_t is, but not x
    letters: dict[str, Variable] = {}
    for factor in used:
        for variable in (*factor.header.variables, *factor.conditions):
            known = letters.setdefault(variable.key, variable)
            if variable.index and known.index and variable.index.lower() != known.index.lower():
                raise one_key(
                    known, variable, factor,
                    f"a letter as a subscript is an index, so both are {variable.base!r}; number them, "
                    f"{variable.base}_1 and {variable.base}_2, or give them words",
                )  # fmt: skip
            index = variable.index if spans.get(variable.key) else None
            plain = replace(variable.now, index=index, offset=0, inner=None)
            if first.setdefault(plain.key, plain) != plain:
                raise one_key(first[plain.key], plain, factor)


def one_key(first: Variable, second: Variable, by: object, advice: str = "rename one of them") -> FormulaError:
    """Two variables that a call could not tell apart."""
    return FormulaError(f"{by}: the variables {first} and {second} would both be {second.key!r} in a call\n{advice}")


def shared_variables(used: list[Factor]) -> frozenset[str]:
    """The keys of the variables of which all rows of a call have one value. The factors of one agree on it."""
    first: dict[str, Factor] = {}
    for factor in used:
        key = factor.variable.key
        if factor.family is not None and first.setdefault(key, factor).shared != factor.shared:
            rows = [(factor.variable, f, f.shared) for f in (first[key], factor)]
            raise FormulaError(
                f"{key} is shared by all rows of a call, and each row has its own\n"
                + table(("variable", "declared by", "shared="), rows)
                + f"\nwrite shared=True on every factor of {key}, or on none"
            )
    return frozenset(key for key, factor in first.items() if factor.shared)


def declared_shapes(used: list[Factor]) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Event shapes by variable, from every factor that declares one; the ranks include the families' defaults."""
    shapes: dict[str, tuple[int, ...]] = {}
    ranks: dict[str, int] = {}
    by: dict[str, Factor] = {}
    for factor, variable, shape in ((f, v, s) for f in used for v, s in f.event_shapes()):
        key = variable.key
        if shape is not None:
            if shapes.setdefault(key, shape) != shape:
                rows = [(variable, f, s) for f, s in ((by[key], shapes[key]), (factor, shape))]
                raise ShapeError(
                    f"{key} has two event shapes\n"
                    + table(("variable", "declared by", "declared"), rows)
                    + "\ndeclare the same shape= on both"
                )
            by.setdefault(key, factor)
    for factor, variable in ((f, v) for f in used for v in f.variables):
        key = variable.key
        if key in shapes:
            ranks[key] = len(shapes[key])
        elif factor.family is not None:
            ranks.setdefault(key, factor.rank)
    return shapes, ranks
