"""Typed settings: frozen dataclasses, nested, changed by ``key=value`` texts and checked at every step.

The same few functions serve the command line (``--set actor.entropy=1e-3``), its help, and ``config.json``.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, Union

from worldformula.errors import ConfigError, near

T = TypeVar("T")
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True)
class Setting:
    """One leaf of a configuration: its dotted key, declared type, value, and what its field's docstring says."""

    key: str
    type: Any
    value: Any
    doc: str


def leaves(config: Any, prefix: str = "") -> Iterator[Setting]:
    """Every setting of a dataclass instance, nested ones under dotted keys, in the order they are written."""
    cls: Any = type(config)
    hints, docs = _hints(config), field_docs(cls)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        else:
            yield Setting(f"{prefix}{field.name}", hints[field.name], value, docs.get(field.name, ""))


def override(config: T, settings: Sequence[str]) -> T:
    """A copy of ``config`` with settings such as ``"env.num=8"`` applied; of two for one key, the later one counts.

    All are applied at once, so settings that only make sense together need no particular order.

    Raises:
        ConfigError: not of the form ``key=value``, an unknown key (with the near misses), or an impossible value.
    """
    changes: dict[str, Any] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"expected key=value, got {text!r}; for example: --set steps=20000")
        *groups, name = key.strip().split(".")
        group = changes
        for word in groups:
            group = group.setdefault(word, {})
        group[name] = convert(value.strip(), _type_of(config, key.strip()), key.strip())
    return _changed(config, changes, "")


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested dicts, ready for JSON; tuples become lists."""
    return {
        field.name: to_dict(value) if dataclasses.is_dataclass(value) else _plain(value)
        for field in dataclasses.fields(config)
        for value in [getattr(config, field.name)]
    }


def defaults(config: Any, prefix: str = "") -> dict[str, Any]:
    """What every setting that has a default is where nobody gives it, as in `to_dict`, by dotted key; of a group that
    is there, the defaults of its own class, whatever the group itself is by default.
    """
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value, key = getattr(config, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            found |= defaults(value, f"{key}.")
        elif field.default is not dataclasses.MISSING:
            found[key] = _plain(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            found[key] = _plain(field.default_factory())
    return found


def from_dict(example: T, values: Mapping[str, Any]) -> T:
    """A configuration like ``example`` with the values of `to_dict`; a key that is absent keeps the example's value.

    Raises:
        ConfigError: a key that the class does not have, or an impossible value.
    """
    return _changed(example, _read(example, values, ""), "")


def differences(old: Any, new: Any) -> dict[str, tuple[Any, Any]]:
    """The settings that differ, ``{"env.num": (8, 16)}``; a key that only one side has stands against None."""
    before, after = ({s.key: s.value for s in leaves(config)} for config in (old, new))
    keys = list(dict.fromkeys([*before, *after]))
    return {k: (before.get(k), after.get(k)) for k in keys if before.get(k) != after.get(k)}


def convert(value: Any, kind: Any, key: str) -> Any:
    """``value`` (a text of the command line, or what JSON gave back) as the declared type ``kind``.

    Raises:
        ConfigError: it is none. Whole numbers may be written ``1e6``; a fraction is never rounded.
    """
    try:
        return _convert(value, kind)
    except (ValueError, TypeError, SyntaxError, OverflowError) as error:
        raise ConfigError(f"{key} expects {type_name(kind)}, got {value!r}") from error


def written(value: object) -> str:
    """A value as ``--set`` reads it."""
    if isinstance(value, tuple | list):
        return ",".join(map(written, value))
    if callable(value):
        return getattr(value, "__name__", str(value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested groups under dotted keys, ``{"set": {"lr": 1}}`` as ``("set.lr", 1)``."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def type_name(kind: Any) -> str:
    """The words for a declared type: ``a whole number``, ``one of 'silu', 'relu'``."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(repr(a) for a in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join("none" if a is type(None) else type_name(a) for a in arguments)
    if origin is tuple:
        inner = type_name(arguments[0]) if arguments else "a value"
        return f"a list ({inner} each)" if Ellipsis in arguments else f"{len(arguments)} values"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return words.get(kind, getattr(kind, "__name__", str(kind)))


@functools.cache
def field_docs(cls: type) -> Mapping[str, str]:
    """The string under each field of a dataclass, as one line each; of an inherited field that of the base."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__bases__):
        docs |= field_docs(base) if dataclasses.is_dataclass(base) else {}
    try:
        tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(cls)))
    except (OSError, SyntaxError, TypeError):  # a class typed into an interpreter has no source
        return docs
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    for statement, following in itertools.pairwise(body):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                docs[name] = " ".join(text.split())
    return docs


# ---------------------------------------------------------------------------------------------------------- inside


def _hints(config: Any) -> Mapping[str, Any]:
    """The declared types of a configuration."""
    cls: Any = type(config)
    return _declared(cls)


@functools.cache
def _declared(cls: type) -> Mapping[str, Any]:
    return typing.get_type_hints(cls)


def _type_of(config: Any, key: str) -> Any:
    """The declared type of the setting ``key``."""
    kind, root = Any, config
    for name in key.split("."):
        hints = _hints(config) if dataclasses.is_dataclass(config) else {}
        if name not in hints:
            raise ConfigError(f"unknown setting {key!r}.{_near_key(key, root)}")
        kind, config = hints[name], getattr(config, name)
    if dataclasses.is_dataclass(config):
        inside = ", ".join(f"{key}.{field.name}" for field in dataclasses.fields(config))
        raise ConfigError(f"{key!r} is a group of settings; set one of {inside}")
    return kind


def _read(example: Any, values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The values of a JSON object in the types that ``example`` declares."""
    hints = _hints(example)
    found: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if name not in hints:
            raise ConfigError(f"unknown setting {key!r}.{near(name, hints)}")
        old = getattr(example, name)
        if not dataclasses.is_dataclass(old):
            found[name] = convert(value, hints[name], key)
        elif isinstance(value, Mapping):
            found[name] = _read(old, value, f"{key}.")
        else:
            raise ConfigError(f"{key} expects a group of settings, got {value!r}")
    return found


def _changed(config: T, changes: Mapping[str, Any], prefix: str) -> T:
    """A copy with nested changes: inner dataclasses first, each checked once, with all of its changes."""
    new = {}
    for name, value in changes.items():
        old = getattr(config, name)
        new[name] = _changed(old, value, f"{prefix}{name}.") if dataclasses.is_dataclass(old) else value
    return _rebuilt(config, new, prefix.rstrip("."))


def _near_key(key: str, root: Any) -> str:
    """Near misses among the full keys; a bare last name such as ``entropy`` counts for ``actor.entropy``."""
    known = [setting.key for setting in leaves(root)]
    last = key.rpartition(".")[2]
    same = [k for k in known if k.rpartition(".")[2] == last]
    return f" Did you mean {' or '.join(map(repr, same[:3]))}?" if same else near(key, known)


def _rebuilt(config: T, changes: dict[str, Any], key: str) -> T:
    """``dataclasses.replace``, with a refusal of the class's own ``__post_init__`` as a ConfigError."""
    try:
        return dataclasses.replace(config, **changes)  # type: ignore[type-var]
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{key or type(config).__name__}: {error}") from error


def _convert(value: Any, kind: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin is Literal:
        return next(a for a in arguments if a == value or str(a) == value) if _among(value, arguments) else _refuse()
    if origin in (Union, types.UnionType):
        return _first_that_fits(value, arguments)
    if origin is tuple:
        return _tuple(value, arguments)
    if kind is type(None):
        return None if value is None or str(value).lower() in ("none", "null") else _refuse()
    if kind is bool:
        return _bool(value)
    if kind is int:
        number = float(value) if not isinstance(value, int) else value
        return int(value) if isinstance(value, str) and value.lstrip("+-").isdigit() else _whole(number)
    if kind is float:
        return _finite(float(value)) if not isinstance(value, bool) else _refuse()
    if kind is str:
        return value if isinstance(value, str) else _refuse()
    return value if isinstance(value, kind) else _refuse()


def _refuse() -> Any:
    raise ValueError


def _among(value: Any, arguments: Sequence[Any]) -> bool:
    return any(a == value or str(a) == value for a in arguments)


def _whole(number: float) -> int:
    return int(number) if not isinstance(number, bool) and number == int(number) else _refuse()


def _finite(number: float) -> float:
    return number if math.isfinite(number) else _refuse()


def _bool(value: Any) -> bool:
    word = str(value).lower()
    return word in _TRUE if word in (*_TRUE, *_FALSE) else _refuse()


def _first_that_fits(value: Any, kinds: Sequence[Any]) -> Any:
    # None first, so that "none" is not read as a text; then in written order.
    for kind in sorted(kinds, key=lambda k: k is not type(None)):
        try:
            return _convert(value, kind)
        except (ValueError, TypeError, SyntaxError, OverflowError):
            continue
    return _refuse()


def _tuple(value: Any, kinds: Sequence[Any]) -> tuple[Any, ...]:
    items = [v for v in value.strip("()[] ").split(",") if v.strip()] if isinstance(value, str) else list(value)
    items = [v.strip(" '\"") if isinstance(v, str) else v for v in items]
    if Ellipsis in kinds:
        return tuple(_convert(v, kinds[0]) for v in items)
    return tuple(_convert(v, k) for v, k in zip(items, kinds, strict=True))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
