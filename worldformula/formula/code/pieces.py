"""A formula over time for ``torch.compile``: what lies before, in and after its loop, compiled apart.

Compiled as one function, a loop of 64 steps is unrolled into one graph, whose compilation takes longer than the
training that it would speed up. In pieces the body is compiled once and called at each step.

Before it runs compiled code, ``torch.compile`` looks whether all that it assumed still holds, which of many networks
takes a while. Within one loop nothing changes but the tensors, so it looks at the first steps alone, see `Repeated`.
"""

from __future__ import annotations

import ast
import linecache
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling, set_stance

from worldformula.formula.code.emit import Emitted, Result


def compiled(emitted: Emitted, options: dict[str, Any]) -> Callable[..., Result]:
    """The function of a formula through ``torch.compile(**options)``, in pieces where it has a loop over time.

    With ``detached`` among the options, only its value has a gradient.
    """
    detached, options = options.get("detached", False), {k: v for k, v in options.items() if k != "detached"}
    ending: Callable[..., Any] = _detached if detached else _unchanged
    pieces = _pieces(emitted)
    if pieces is None:
        return torch.compile(ending(emitted.call), **options)
    filename = f"{emitted.call.__code__.co_filename} in pieces"
    source = pieces.source
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    scope = {**emitted.call.__globals__, "differentiable": differentiable, "Repeated": Repeated, "steps_kept": _each}
    exec(compile(source, filename, "exec"), scope)
    for name in pieces.names:
        scope[name] = torch.compile(ending(scope[name]) if name == "after" else scope[name], **options)
    call: Callable[..., Result] = scope["formula"]
    return call


def _unchanged(call: Callable[..., Result]) -> Callable[..., Result]:
    return call


def _each(keep: Tensor) -> tuple[Tensor, ...]:
    """The flags of every step: without them it would be another step, compiled anew."""
    return keep.unbind(1)


def _detached(call: Callable[..., Result]) -> Callable[..., Result]:
    """The same with a gradient of its value alone."""

    def of_value(*arguments: Any) -> Result:
        value, *others = call(*arguments)
        return value, *(tuple(x.detach() if isinstance(x, Tensor) else x for x in xs) for xs in others)

    return of_value


def differentiable(start: Any) -> Any:
    """A first carry that asks for gradients as all later ones do: to ``torch.compile`` it is the same step then."""
    if not isinstance(start, Tensor) or start.requires_grad or not start.is_floating_point():
        return start
    return start.detach().requires_grad_() if torch.is_grad_enabled() else start


class Repeated:
    """A compiled step in one loop: ``with Repeated(step) as again: for ...: again(...)``.

    Once two calls in a row have had arguments of one kind (shape, strides, dtype, device, whether a gradient is asked
    for), all later calls have them too, as a step is given what the step before it returned. What else was assumed of
    the networks was looked at by these calls, and nothing but the step runs until the loop ends.
    """

    def __init__(self, step: Callable[..., Any]) -> None:
        self.step, self.kinds, self.trusted = step, None, None  # type: tuple[Callable[..., Any], Any, Any]

    def __enter__(self) -> Callable[..., Any]:
        return self.step if is_compiling() else self

    def __call__(self, *arguments: Any) -> Any:
        """One step."""
        if self.trusted is None:
            kinds = [_kind(x) for x in arguments]
            if kinds == self.kinds and _as_usual():
                self.trusted = set_stance(skip_guard_eval_unsafe=True)
            self.kinds = kinds
        return self.step(*arguments)

    def __exit__(self, *error: object) -> None:
        if self.trusted is not None:
            self.trusted.__exit__(None, None, None)


def _as_usual() -> bool:
    """Whether ``torch.compile`` does what it does by default, and not what a user's ``set_stance`` asked for."""
    stance = getattr(sys.modules.get("torch._dynamo.eval_frame"), "_stance", None)
    return getattr(stance, "stance", "") == "default" and getattr(stance, "backend", "") is None


def _kind(x: Any) -> Any:
    """What compiled code takes for granted of an argument; of what is neither a tensor nor a tuple, which it is."""
    if isinstance(x, Tensor):
        return x.dtype, x.shape, x.stride(), x.device, x.requires_grad
    return tuple(map(_kind, x)) if isinstance(x, tuple) else id(x)


@dataclass(frozen=True)
class _Pieces:
    """The source of all pieces and of the function that calls them, and the names of those that are compiled."""

    source: str
    names: tuple[str, ...]


def _pieces(emitted: Emitted) -> _Pieces | None:
    """The pieces of a formula; None where it has no loop, or one that cannot be cut out of the rest."""
    (function,) = [n for n in ast.parse(emitted.source).body if isinstance(n, ast.FunctionDef) and n.name == "formula"]
    body = [s for s in function.body if not _is_text(s)]
    places = [i for i, s in enumerate(body) if isinstance(s, ast.For) and ast.unparse(s.iter) == "range(T)"]
    if len(places) != 1:
        return None
    loop, before, after = body[places[0]], body[: places[0]], body[places[0] + 1 :]
    assert isinstance(loop, ast.For)

    appends = [s for s in loop.body if _is_append(s)]
    inside = [s for s in loop.body if not _is_append(s)]
    at_t = {name for s in inside for name in _steps(s)}
    renamed = [_Now().visit(ast.parse(ast.unparse(s)).body[0]) for s in inside]
    aliases = [s for s in before if ast.unparse(s).split(" = ")[-1].startswith("self.") and _reads([s]) == {"self"}]
    sizes = [s for s in before if re.search(r"\.shape\[(:2|\d)\]$", ast.unparse(s))]
    kept = [s for s in before if s in sizes or s in aliases or _is_cheap(s) or _writes([s]) <= at_t]
    first = [s for s in before if s not in kept]
    rest = [s for s in kept if s not in sizes and s not in aliases]
    stacks = [s for s in after if ast.unparse(s).split(" = ")[-1].startswith("stack(")]
    last = [s for s in after if s not in stacks]

    known = {a.arg for a in function.args.args} | _writes(body) | _writes(loop.body)
    if "t" in _reads(renamed) | _reads(last) or _free(first, known) & _writes(rest):
        return None
    needed_later = _free([*appends, *stacks, *last], known) | (_free(renamed, known) & _writes(renamed))
    calls = {
        "before": (
            first,
            _ordered(_free(first, known)),
            _ordered(_writes(first) & _free([*rest, loop, *after], known)),
        ),
        "step": (
            [*(a for a in aliases if _writes([a]) & _reads(renamed)), *renamed],
            _ordered((_free(renamed, known) - _writes(aliases)) | {"self"}),
            _ordered(_writes(renamed) & needed_later),
        ),
        "after": (last, _ordered(_free(last, known) | {"self"}), ()),
    }
    lines = [_function(name, *parts) for name, parts in calls.items() if parts[0]]
    driver = [*map(ast.unparse, sizes)]
    driver += [_call("before", *calls["before"][1:])] if first else []
    names, found = calls["step"][1:]
    driver += [*map(ast.unparse, rest)]
    driver += [f"{name} = differentiable({name})" for name in names if name in found]
    driver += ["with Repeated(step) as again:", "    for t in range(T):"]
    driver.append(f"        {_call('again', tuple(_indexed(n) for n in names), found)}")
    driver += [f"        {ast.unparse(s)}" for s in appends]
    driver += [*map(ast.unparse, stacks), f"return after({', '.join(calls['after'][1])})"]
    head = f"def formula({', '.join(a.arg for a in function.args.args)}):"
    lines.append("\n".join([head, *(f"    {line}" for line in driver)]))
    return _Pieces("\n\n\n".join(lines) + "\n", tuple(name for name, parts in calls.items() if parts[0]))


NOW = "_at_t"


class _Now(ast.NodeTransformer):
    """``x_s[t]`` as an argument of the step, ``x_s_at_t``."""

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        """The entry of a step."""
        self.generic_visit(node)
        if isinstance(node.value, ast.Name) and isinstance(node.slice, ast.Name) and node.slice.id == "t":
            return ast.Name(node.value.id + NOW, ast.Load())
        return node


def _indexed(name: str) -> str:
    return f"{name.removesuffix(NOW)}[t]" if name.endswith(NOW) else name


def _steps(statement: ast.stmt) -> Iterable[str]:
    """The lists of which a statement reads the entry of its step."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and ast.unparse(node.slice) == "t":
            yield node.value.id


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _is_append(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and ".append(" in ast.unparse(statement)


def _is_cheap(statement: ast.stmt) -> bool:
    """Whether a statement gives names to what is there already, or begins lists."""
    if not isinstance(statement, ast.Assign):
        return False
    values = statement.value.elts if isinstance(statement.value, ast.Tuple) else [statement.value]
    return all(isinstance(v, ast.Name) or (isinstance(v, ast.List) and not v.elts) for v in values)


def _reads(statements: Sequence[ast.stmt]) -> set[str]:
    return {n.id for s in statements for n in ast.walk(s) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def _writes(statements: Sequence[ast.stmt]) -> set[str]:
    return {n.id for s in statements for n in ast.walk(s) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def _free(statements: Sequence[ast.stmt], known: set[str]) -> set[str]:
    """The local names that statements read before they write them."""
    found, written = set[str](), set[str]()
    for statement in statements:
        read = _reads([statement])
        found |= {n for n in read if (n in known or n.endswith(NOW)) and n not in written}
        written |= _writes([statement])
    return found


def _ordered(names: set[str]) -> tuple[str, ...]:
    """``self`` first."""
    return tuple(sorted(names, key=lambda name: (name != "self", name)))


def _function(name: str, statements: Sequence[ast.stmt], reads: Sequence[str], gives: Sequence[str]) -> str:
    lines = [line for s in statements for line in ast.unparse(s).splitlines()]
    lines += [f"return {', '.join(gives)}{',' if len(gives) == 1 else ''}"] if gives else []
    return "\n".join([f"def {name}({', '.join(reads)}):", *(f"    {line}" for line in lines)])


def _call(name: str, reads: Sequence[str], gives: Sequence[str]) -> str:
    return f"{', '.join(gives)}{',' if len(gives) == 1 else ''} = {name}({', '.join(reads)})"
