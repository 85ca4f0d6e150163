"""Numbers that are known when a formula is called: what stands in the place of a setting until then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

from worldformula.errors import ConfigError
from worldformula.families.domains import setting

F = TypeVar("F")
KINDS = ("float", "int", "int | None", "bool")  # of settings; a field of any other type is none


@dataclass(frozen=True)
class Given:
    """A number that a call gives under this name, such as an annealed temperature.

    What is to be known by one has it as its attribute ``placeholder``, as a ``Symbol`` of a formula has.
    """

    name: str

    @property
    def placeholder(self) -> Given:
        """Itself."""
        return self


def settle(family: Any) -> tuple[Given, ...]:
    """Turn the settings of a new family into plain Python numbers, so that ``repr`` is source.

    Returns:
        What a call has to give, that of families inside included.

    Raises:
        ConfigError: a setting is no number.
    """
    found: dict[Given, None] = {}
    for f in fields(family):
        value, kind = getattr(family, f.name), str(getattr(f.type, "__name__", f.type))
        if kind in KINDS:
            known = getattr(value, "placeholder", None)
            if isinstance(known, Given) and kind != "float":
                raise ConfigError(
                    f"{family.name}: expected {f.name}= as a value that is known before the call, got the Symbol "
                    f"{known.name}."
                )
            value = known if isinstance(known, Given) else setting(family.name, f.name, value, kind)
            object.__setattr__(family, f.name, value)
        found |= dict.fromkeys((value,) if isinstance(value, Given) else getattr(value, "asked", ()))
    return tuple(found)


def completed(family: F, numbers: Mapping[str, Any]) -> F:
    """The family with the numbers of a call, by name, where it asks for some.

    Raises:
        ConfigError: a number outside its set, or a tensor that needs a gradient: a setting is not learnt.
    """
    if not getattr(family, "asked", ()):
        return family
    assert is_dataclass(family)
    known: dict[str, Any] = {}
    for f in fields(family):
        value = getattr(family, f.name)
        if isinstance(value, Given):
            known[f.name] = numbers[value.name]
        elif getattr(value, "asked", ()):
            known[f.name] = completed(value, numbers)
    return replace(family, **known)  # type: ignore[return-value]
