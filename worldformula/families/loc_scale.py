"""What families of a location and a scale share: heads, numbers, settings. No family by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from torch import Tensor

from worldformula.families.base import Family, Parameter, Shape
from worldformula.families.domains import POSITIVE, Domain
from worldformula.families.special import positive, require_floor, require_positive


@dataclass(frozen=True)
class LocScaleFamily(Family):
    """Parameters ``loc`` and ``scale``; of a head, scale = softplus(·) + ``min_scale``."""

    min_scale: float = 0.0

    parameters: ClassVar[tuple[str, ...]] = ("loc", "scale")
    reparametrised: ClassVar[bool] = True
    estimator: ClassVar[str | None] = "reparametrised"
    gradients: ClassVar[tuple[str, ...]] = ("reparametrised",)
    domains: ClassVar[Mapping[str, Domain]] = MappingProxyType({"scale": POSITIVE})

    def check_settings(self) -> None:
        """As every family."""
        require_floor(self, "min_scale", self.min_scale)

    def constrain(self, pieces: tuple[Tensor, ...], names: Sequence[str], shape: Shape | None) -> tuple[Tensor, ...]:
        """softplus(·) + min_scale for the scale; loc as it is."""
        return pieces if names[-1] != "scale" else (*pieces[:-1], positive(pieces[-1], self.min_scale))

    def convert(self, name: str, value: Parameter, shape: Shape | None) -> Parameter:
        """A scale that is a number must be positive."""
        return require_positive(self, name, value) if name == "scale" else value

    def constants(self, shape: Shape) -> dict[str, Parameter]:
        """loc 0, scale 1, as numbers."""
        return {"loc": 0.0, "scale": 1.0}
