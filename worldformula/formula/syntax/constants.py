"""What factors are made of besides networks: constant parameters; and what they are not: numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from torch import Tensor, nn

from worldformula.errors import FormulaError


class Constants(nn.Module):
    """Parameters that no network computes: tensors as buffers, ``nn.Parameter`` as learnable parameters."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, value in values.items():
            if isinstance(value, nn.Parameter):
                self.register_parameter(name, value)
            else:
                self.register_buffer(name, value.contiguous())  # an expanded tensor could not be loaded into

    @property
    def names(self) -> tuple[str, ...]:
        """Of all tensors, learnable or not."""
        return (*dict(self.named_parameters()), *dict(self.named_buffers()))


class Multiplied:
    """What factors and their products are not: numbers. Only factors multiply factors."""

    __array_ufunc__ = None  # numpy's numbers ask us first

    def _refuse(self, *_: object) -> NoReturn:
        raise FormulaError(
            f"{self}: a factor is a distribution or function, not a number; do arithmetic with its log-density, "
            f"e.g. 2 * log(p), and multiply factors by factors alone"
        )

    __add__ = __radd__ = __sub__ = __rsub__ = __rmul__ = __truediv__ = __rtruediv__ = __pow__ = __neg__ = _refuse
