"""How averaged weights follow others: the rule of a slow copy, its weights, and how many updates they have seen."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real

import torch
from torch import Tensor, nn

from worldformula.errors import FormulaError


@dataclass(frozen=True)
class Pace:
    """How a slow copy follows: w̄ ← decay·w̄ + (1 − decay)·w at every ``every``-th update."""

    decay: float
    every: int = 1

    def __post_init__(self) -> None:
        decay, every = self.decay, self.every
        if isinstance(decay, bool) or not isinstance(decay, Real) or not 0 <= decay < 1:
            raise FormulaError(
                f"slow: expected a decay of at least 0 and below 1, such as 0.98, got {decay!r}; 0 is a hard copy"
            )
        if isinstance(every, bool) or not isinstance(every, Integral) or every < 1:
            raise FormulaError(f"slow: expected every= as a number of updates, at least 1, got {every!r}")
        object.__setattr__(self, "decay", float(decay))
        object.__setattr__(self, "every", int(every))

    @property
    def rate(self) -> float:
        """The step towards the weights that are followed."""
        return 1.0 - self.decay

    @property
    def when(self) -> str:
        """At which updates: ``after every update``, ``after every 4th update``."""
        ends = {1: "st", 2: "nd", 3: "rd"}
        end = "th" if self.every % 100 in (11, 12, 13) else ends.get(self.every % 10, "th")
        return "after every update" if self.every == 1 else f"after every {self.every}{end} update"

    def __str__(self) -> str:
        rule = f"{self.decay:.6g} w̄ + {self.rate:.6g} w" if self.decay else "w"
        return f"w̄ ← {rule} {self.when}"


class SlowWeights(nn.Module):
    """The averaged weights of one factor and how many updates they have seen.

    ``pairs`` are modules and their copies. They belong to the factors; here they are no children, so that they appear
    once in a ``state_dict``. ``count`` is the number of updates.
    """

    count: Tensor

    def __init__(self, name: str, pairs: Sequence[tuple[nn.Module, nn.Module]], pace: Pace) -> None:
        super().__init__()
        self.name, self.pairs, self.pace = name, tuple(pairs), pace
        device = next((t.device for t in (*weights(self.fast), *buffers(self.fast))), None)
        self.register_buffer("count", torch.zeros((), dtype=torch.long, device=device))

    @property
    def fast(self) -> list[nn.Module]:
        """What is followed: a network, constants."""
        return [fast for fast, _ in self.pairs]

    @property
    def slow(self) -> list[nn.Module]:
        """The copies."""
        return [slow for _, slow in self.pairs]

    @torch.no_grad()
    def move(self) -> None:
        """Counts one update, and follows where it is an ``every``-th one. Buffers are copied then.

        Raises:
            FormulaError: somebody asked for gradients of the copy, which would train it.
        """
        if any(p.requires_grad for p in weights(self.slow)):
            raise FormulaError(
                f"{self.name}: the weights of a slow copy get no gradient, and requires_grad was set on them; "
                f"write requires_grad_(True) on the factors that learn alone"
            )
        self.count.add_(1)
        if self.pace.every == 1 or int(self.count) % self.pace.every == 0:
            follow(self.slow, self.fast, self.pace.rate)

    def extra_repr(self) -> str:
        """The factor and its rule."""
        return f"{self.name}: {self.pace}"


@torch.no_grad()
def follow(slow: Sequence[nn.Module], fast: Sequence[nn.Module], rate: float) -> None:
    """Weights of ``slow`` ← slow + rate·(fast − slow), those of ``fast`` at rate 1; buffers are copied.

    Both are alike, module by module; devices and types may differ.
    """
    targets, sources = weights(slow), weights(fast)
    here, there = buffers(slow), buffers(fast)
    if rate == 1:
        here, there, targets, sources = [*here, *targets], [*there, *sources], [], []
    for target, source in zip(here, there, strict=True):
        target.copy_(source)
    if targets:
        torch._foreach_lerp_(targets, [s.to(t) for t, s in zip(targets, sources, strict=True)], rate)


def frozen(modules: Sequence[nn.Module]) -> tuple[nn.Module, ...]:
    """Copies without gradient; what the modules share, their copies share."""
    return tuple(m.requires_grad_(False) for m in copy.deepcopy(tuple(modules)))


def weights(modules: Iterable[nn.Module]) -> list[Tensor]:
    """Every parameter once."""
    return list({id(p): p for m in modules for p in m.parameters()}.values())


def buffers(modules: Iterable[nn.Module]) -> list[Tensor]:
    """Every buffer once."""
    return list({id(b): b for m in modules for b in m.buffers()}.values())
