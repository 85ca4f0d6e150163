"""Checks of a sum over time at construction: its flags, and the first values of what it carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from worldformula.errors import FormulaError, GradientError, ShapeError, TimeError, UnknownVariableError, near, table
from worldformula.formula.plan.variables import is_index
from worldformula.formula.syntax.check import check_gradient
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.given import whole_number
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import Expectation, Node, Product, Value, factors, walk
from worldformula.formula.syntax.starts import begins


def check_clock(
    index: str,
    body: Node,
    reset: object,
    initial: Mapping[str, Tensor] | None,
    mask: object = None,
    burn_in: object = 0,
    until: object = None,
    around: Sequence[Factor] | None = None,
) -> None:
    """Refuse flags without a name, and first values that no carry takes or that do not have its shape.

    ``around`` is what expectations around the sum draw at its steps; None while they are not known, at the sum itself.
    """
    for what, name, example in (("reset", reset, "first"), ("mask", mask, "valid"), ("until", until, "last")):
        if name is not None and not (isinstance(name, str) and name):
            raise FormulaError(f"{what}=: expected a name for the series of flags, e.g. {example!r}, got {name!r}")
    if (burnt := whole_number(burn_in)) is None or burnt < 0:
        raise FormulaError(f"burn_in=: expected a number of steps, got {burn_in!r}")
    if back := [f for f in factors(body) for v in f.variables if v.offset and v.index == index]:
        raise TimeError(
            f"Sum over {index}: {back[0]} goes back in time, and the steps of a sum go forward; number the variable "
            f"of a chain of noise apart from time, or sum over its steps with E over p({index})"
        )
    if own := [f for f in _declared(body) if any(is_index(v, index) for v in f.variables)]:
        raise FormulaError(
            f"Sum over {index}: {own[0]} declares {index}, which is the number of the step\ncall the variable otherwise"
        )
    if initial is None:
        return
    if not isinstance(initial, Mapping):
        raise FormulaError(
            f"Sum over {index}: expected initial= by variable, e.g. initial={{'h': torch.zeros(16)}}, "
            f"got {type(initial).__name__}"
        )
    carried, shapes = _carried(index, body, around)
    for name, value in initial.items():
        if name not in carried and around is None and _awaited(index, body, str(name)):
            continue
        if name not in carried:
            _refuse_data(index, body, str(name))
            known = ", ".join(carried) or "nothing"
            hint = near(str(name), carried)
            raise UnknownVariableError(
                f"Sum over {index}: initial= gives {name!r}, which is not carried; these are: {known}.{hint}"
            )
        if not isinstance(value, Tensor):
            raise FormulaError(
                f"Sum over {index}: expected initial={{{name!r}: ...}} as a tensor, got {type(value).__name__} "
                f"{value!r}; write torch.as_tensor(...)"
            )
        if shapes.get(name, tuple(value.shape)) != tuple(value.shape):
            rows = [(name, list(shapes[name]), list(value.shape))]
            raise ShapeError(
                f"Sum over {index}: initial= does not have the event shape that {carried[name]} declares\n"
                + table(("variable", "declared", "got"), rows)
                + "\ngive one event without batch axes; every sequence begins with it"
            )


def _awaited(index: str, body: Node, name: str) -> bool:
    """Whether a series that nothing here declares may begin with this: an E around the sum may draw it, else it is
    data, which is told once all of the formula is known.
    """
    made = {v.key for f in _declared(body) for v in f.variables}
    read = {v.at(0) for f in factors(body) for v in (*f.variables, *f.conditions)}
    read |= {n.variable.at(0) for n in walk(body) if isinstance(n, Value)}
    keys = {v.key for v in read if v.index == index} - made
    return name in keys or name.rpartition("_m")[0] in keys


def _carried(
    index: str, body: Node, around: Sequence[Factor] | None
) -> tuple[dict[str, Factor], dict[str, tuple[int, ...]]]:
    """What goes from step to step, and of each who makes it; and the event shapes that are declared."""
    own = [*_declared(body), *(around or ())]
    used, depth = [*factors(body), *(around or ())], _depths(index, body, around or ())
    kept = [(f, v, lag) for f in own for v in f.variables for lag in range(depth.get(v, 0))]
    carried = {v.lag(lag).key if lag else v.key: f for f, v, lag in kept}
    declared = {v.key: shape for f in used for v, shape in f.event_shapes() if shape is not None}
    shapes = {v.lag(lag).key if lag else v.key: declared[v.key] for _, v, lag in kept if v.key in declared}
    return carried, shapes


def _depths(index: str, body: Node, around: Sequence[Factor] = ()) -> dict[Variable, int]:
    """How far back each variable is read."""
    read = [c for f in (*factors(body), *around) for c in f.conditions]
    read += [n.variable for n in walk(body) if isinstance(n, Value)]
    depth: dict[Variable, int] = {}
    for v in read:
        if v.offset < 0 and v.index == index:
            depth[v.at(0)] = max(depth.get(v.at(0), 1), 1 if v.past else -v.offset)
    return depth


def _refuse_data(index: str, body: Node, name: str) -> None:
    """Refuse the start of data, which the call gives."""
    made = {v.key for f in _declared(body) for v in f.variables}
    data = [v.at(0) for v in _depths(index, body) if v.key not in made and name in (v.key, v.lag(1).key)]
    if not data:
        return
    v = data[0]
    raise UnknownVariableError(
        f"Sum over {index}: initial= gives {name!r}, and {v} is data: before its first step are zeros, or what the "
        f"call gives in start=\nto begin otherwise, carry a copy, Deterministic('c_{index} = f({v})', nn.Identity(), "
        f"shape=...), give initial={{'c': ...}}, and read c_{{{index}-1}} in the place of {v.at(-1)}"
    )


def check_older(
    index: str, body: Node, initial: Mapping[str, object], begin: Product, around: Sequence[Factor] = ()
) -> None:
    """Refuse a start of z beside z_{t-2} that leaves the step before it, ``z_m1``, at zeros without a word."""
    given = {*initial, *(begins(v) for use in begin for v in use.factor.variables)}
    depths = _depths(index, body, around)
    for v in [v for f in (*_declared(body), *around) for v in f.variables]:
        steps = [v.key, *(v.lag(lag).key for lag in range(1, depths.get(v, 0)))]
        missing = [key for key in steps if key not in given]
        if not missing or len(missing) == len(steps):
            continue
        values = ", ".join(f"{key!r}: torch.zeros(...)" for key in missing)
        product = " * ".join(f"p({f'{key}_0' if key == v.key else key})" for key in missing)
        raise TimeError(
            f"Sum over {index}: initial= says what {', '.join(k for k in steps if k in given)} begins with, and not "
            f"{', '.join(missing)}, and {v.at(-depths[v])} of the first steps reads that too\n"
            f"give all, initial={{..., {values}}}, or a product of factors, ... * {product}"
        )


def check_begin(
    index: str, body: Node, begin: Product, initial: Mapping[str, object], around: Sequence[Factor] | None = None
) -> None:
    """Refuse starts of what nothing carries, two of one variable, and those that read steps; see `check_clock`."""
    for use in begin:
        try:
            check_gradient((use,), None)
        except GradientError as error:
            assert use.factor.family is not None
            raise GradientError(
                f"Sum over {index}: initial= {use.factor} draws from a {use.factor.family.name} family, whose sample "
                f"is not reparametrised, so its gradient would be silently missing\nuse a family such as OneHot, whose "
                f"sample has one, or sg(...) of the factor"
            ) from error
    carried, shapes = _carried(index, body, around)
    taken: set[str] = set(initial)
    for factor in (use.factor for use in begin):
        if factor.observed:
            raise FormulaError(
                f"Sum over {index}: initial= {factor} draws nothing; expected e.g. Normal('p(z_0)', shape=3)"
            )
        for variable, shape in factor.event_shapes():
            key = begins(variable)
            awaited = around is None and variable.index is None and _awaited(index, body, key)
            if variable.index is None and key not in carried and not awaited:
                _refuse_data(index, body, key)
            if (
                variable.index is not None
                or (key == variable.key and "_m" not in key)
                or not (key in carried or awaited)
            ):
                known = ", ".join(f"{name}_0" if "_m" not in name else name for name in carried) or "nothing"
                raise UnknownVariableError(
                    f"Sum over {index}: initial= {factor} declares {variable}, which is not what a carry begins with; "
                    f"these are: {known}"
                )
            if key in taken:
                raise FormulaError(f"Sum over {index}: initial= says twice what {key} begins with; leave one out")
            taken.add(key)
            if shape is not None and shapes.get(key, shape) != shape:
                rows = [(variable, factor, list(shape)), (key, carried[key], list(shapes[key]))]
                raise ShapeError(
                    f"Sum over {index}: a start has another event shape than what begins with it\n"
                    + table(("variable", "declared by", "declared"), rows)
                    + "\ndeclare the same shape= on both"
                )
        for condition in factor.conditions:
            if condition.index is not None:
                base = condition.base
                raise TimeError(
                    f"Sum over {index}: initial= {factor} reads {condition}, and a start knows no steps\nread "
                    f"{base}_1, the row at which a sequence begins, {base}_{{1:2}}, its first rows, or what is given "
                    f"once"
                )


def starts_in(index: str, body: Node, variable: Variable, around: Sequence[Factor]) -> bool:
    """Whether a variable is what a carry of the sum begins with: z_0, where z_{t-1} is read."""
    key = begins(variable)
    named = variable.index is None and (key != variable.key or "_m" in key)
    return named and key in _carried(index, body, around)[0]


def _declared(node: Node) -> list[Factor]:
    """The factors that the expectations inside a node draw or compute (not the data)."""
    return [u.factor for n in walk(node) if isinstance(n, Expectation) for u in n.q if not u.factor.observed]
