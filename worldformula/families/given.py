"""Numbers that are known when a formula is called: what stands in the place of a setting until then."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from torch import Tensor

from worldformula.errors import ConfigError
from worldformula.families.domains import setting

F = TypeVar("F")
KINDS = ("float", "int", "int | None", "bool")  # of settings; a field of any other type is none


@dataclass(frozen=True)
class Given:
    """A number that a call gives under this name, such as an annealed temperature.

    What stands for one has it as its attribute ``placeholder``, as a ``Symbol`` of a formula has.
    """

    name: str

    @property
    def placeholder(self) -> Given:
        """Itself."""
        return self


def placeholder(value: Any) -> Given | None:
    """What a call has to give in the place of a value; None where the value is known."""
    found = getattr(value, "placeholder", None)
    return found if isinstance(found, Given) else None


def asked(family: Any) -> list[tuple[str, Given]]:
    """The settings that a call gives, and what it gives, to families inside too."""
    found: list[tuple[str, Given]] = []
    for f in fields(family) if getattr(family, "asked", ()) else ():
        value = getattr(family, f.name)
        found += [(f.name, value)] if isinstance(value, Given) else asked(value)
    return found


def settle(family: Any) -> tuple[Given, ...]:
    """Turn the settings of a new family into plain Python numbers, so that ``repr`` is source.

    Returns:
        What a call has to give, to families inside too.

    Raises:
        ConfigError: a setting is no number, or one of the call where sizes follow from it.
    """
    found: dict[Given, None] = {}
    for f in fields(family):
        value, kind = getattr(family, f.name), str(getattr(f.type, "__name__", f.type))
        if kind in KINDS:
            known = placeholder(value)
            if known is not None and kind != "float":
                raise ConfigError(
                    f"{family.name}: expected {f.name}= as a number that is known before the call, as the code is "
                    f"written for it, got the Symbol {known.name}."
                )
            value = setting(family.name, f.name, value, kind) if known is None else known
            object.__setattr__(family, f.name, value)
        found |= dict.fromkeys((value,) if isinstance(value, Given) else getattr(value, "asked", ()))
    return tuple(found)


def completed(family: F, numbers: Mapping[str, Any]) -> F:
    """The family with the numbers of a call, by name, where it asks for some: Python's, or tensors without axes.

    They are taken as they are, as this runs at every call; see `check`.
    """
    if not getattr(family, "asked", ()):
        return family
    other = copy.copy(family)
    for name, value in _known(family, numbers).items():
        object.__setattr__(other, name, value)
    object.__setattr__(other, "asked", ())
    return other


def check(family: Any, numbers: Mapping[str, Any]) -> None:
    """Holds the numbers of a call against what the settings have to be, as if they had been written there.

    Raises:
        ConfigError: one lies outside its set.
    """
    plain = {name: value.detach().item() if isinstance(value, Tensor) else value for name, value in numbers.items()}
    if family.asked:
        replace(family, **_known(family, plain, replace))


def _known(family: Any, numbers: Mapping[str, Any], how: Any = None) -> dict[str, Any]:
    """The fields that a call completes, with their values."""
    found: dict[str, Any] = {}
    for f in fields(family):
        value = getattr(family, f.name)
        if isinstance(value, Given):
            found[f.name] = numbers[value.name]
        elif getattr(value, "asked", ()):
            inner = _known(value, numbers, how)
            found[f.name] = completed(value, numbers) if how is None else how(value, **inner)
    return found
