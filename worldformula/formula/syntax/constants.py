"""What factors are made of besides networks: constant parameters; and what they are not: numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from torch import Tensor, nn

from worldformula.errors import FormulaError
from worldformula.formula.runtime import above_zero
from worldformula.formula.syntax.learnt import Positive


class Constants(nn.Module):
    """Parameters that no network computes: tensors as buffers, ``nn.Parameter`` as learnable parameters; of what is
    `positive` the number that moves, as ``scale_raw``.
    """

    def __init__(self, values: Mapping[str, Tensor | Positive]) -> None:
        super().__init__()
        self.positive = tuple(name for name, value in values.items() if isinstance(value, Positive))
        for name, value in values.items():
            if isinstance(value, Positive):
                self.register_parameter(f"{name}_raw", value.raw)
            elif isinstance(value, nn.Parameter):
                self.register_parameter(name, value)
            else:
                self.register_buffer(name, value.contiguous())  # an expanded tensor could not be loaded into

    @property
    def names(self) -> tuple[str, ...]:
        """Of all tensors, learnable or not."""
        raw = {f"{name}_raw" for name in self.positive}
        learnt = (name for name in dict(self.named_parameters()) if name not in raw)
        return (*learnt, *self.positive, *dict(self.named_buffers()))

    def value(self, name: str) -> Tensor:
        """A parameter of the distribution."""
        return above_zero(getattr(self, f"{name}_raw")) if name in self.positive else getattr(self, name)

    def written(self, path: str, name: str) -> str:
        """The same in emitted code, where ``path`` is this module."""
        return f"above_zero({path}.{name}_raw)" if name in self.positive else f"{path}.{name}"


class Multiplied:
    """What factors and their products are not: numbers. Only factors multiply factors."""

    __array_ufunc__ = None  # numpy's numbers ask us first

    def _refuse(self, *_: object) -> NoReturn:
        raise FormulaError(
            f"{self}: a factor is a distribution or function, not a number; do arithmetic with its log-density, "
            f"e.g. 2 * log(p), and multiply factors by factors alone"
        )

    __add__ = __radd__ = __sub__ = __rsub__ = __rmul__ = __truediv__ = __rtruediv__ = __pow__ = __neg__ = _refuse
