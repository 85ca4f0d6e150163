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
        self.attributes: dict[str, str] = {}  # by name: itself, unless a module has such an attribute, as `value`
        for name, value in values.items():
            own = f"{name}_raw" if isinstance(value, Positive) else name
            while hasattr(self, own):
                own += "_"
            self.attributes[name] = own
            if isinstance(value, Positive):
                self.register_parameter(own, value.raw)
            elif isinstance(value, nn.Parameter):
                self.register_parameter(own, value)
            else:
                self.register_buffer(own, value.contiguous())  # an expanded tensor could not be loaded into

    @property
    def names(self) -> tuple[str, ...]:
        """Of all tensors, learnable or not."""
        plain = [name for name in self.attributes if name not in self.positive]
        learnt = [name for name in plain if self.attributes[name] in self._parameters]
        return (*learnt, *self.positive, *(name for name in plain if name not in learnt))

    def value(self, name: str) -> Tensor:
        """A parameter of the distribution."""
        own: Tensor = getattr(self, self.attributes[name])
        return above_zero(own) if name in self.positive else own

    def written(self, path: str, name: str) -> str:
        """The same in emitted code, where ``path`` is this module."""
        own = f"{path}.{self.attributes[name]}"
        return f"above_zero({own})" if name in self.positive else own


def start_of(initial: Constants | None, key: str) -> Tensor | None:
    """What a carry starts from; None where nobody says so: zeros."""
    return None if initial is None or key not in initial.attributes else initial.value(key)


class Multiplied:
    """What factors and their products are not: numbers. Only factors multiply factors."""

    __array_ufunc__ = None  # numpy's numbers ask us first

    def _refuse(self, *_: object) -> NoReturn:
        raise FormulaError(
            f"{self}: a factor is a distribution or function, not a number; do arithmetic with its log-density, "
            f"e.g. 2 * log(p), and multiply factors by factors alone"
        )

    __add__ = __radd__ = __sub__ = __rsub__ = __rmul__ = __truediv__ = __rtruediv__ = __pow__ = __neg__ = _refuse
