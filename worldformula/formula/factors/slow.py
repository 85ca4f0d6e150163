r"""Slow copies: a factor with averaged weights, for targets (BYOL, JEPA) and slow critics.

target = encode.slow(0.996)          # s = \bar f(x): w̄ ← 0.996·w̄ + 0.004·w after every update

The copy has weights of its own, which no gradient reaches and no optimiser sees. Training moves them
(`worldformula.training.slow`). One factor has one copy for each decay and ``every=``, which its ``fresh`` and renamed
forms share.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from worldformula.errors import FormulaError
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.text import typeset


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
        rule = f"{typeset(self.decay)} w̄ + {typeset(self.rate)} w" if self.decay else "w"
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
        device = next((t.device for t in (*weights(self.fast), *_buffers(self.fast))), None)
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
    here, there = _buffers(slow), _buffers(fast)
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


def _buffers(modules: Iterable[nn.Module]) -> list[Tensor]:
    return list({id(b): b for m in modules for b in m.buffers()}.values())


def slow_copy(factor: Factor, pace: Pace) -> Factor:
    """The slow copy of a factor; see `Factor.slow`.

    Raises:
        FormulaError: it is one already, has no weights, or has weights that cannot be copied.
    """
    if factor.pace is not None:
        raise FormulaError(f"{factor} is a slow copy already ({factor.pace}); take the slow copy of the factor itself")
    if _weightless(factor):
        raise FormulaError(f"{factor} has no weights to average: its slow copy would be the factor itself")
    first = None if factor.origin is factor else factor.origin.slow(pace.decay, pace.every)
    other = factor.fresh()
    other.__dict__["header"] = replace(factor.header, bar=True)
    other.__dict__["pace"] = pace
    other.__dict__["_modules"] = dict(factor._modules)
    other.__dict__.pop("_energy", None)  # of a Gibbs factor, which reads the weights that are followed
    if factor.parts:
        parts = tuple(p if _weightless(p) else p.slow(pace.decay, pace.every) for p in factor.parts)
        other.__dict__["parts"] = parts
        other.__dict__["_modules"] = {f"part_{number}": part for number, part in enumerate(parts)}
    elif first is not None:
        other.__dict__["_modules"] = dict(first._modules)
    else:
        copies = _copies(factor)
        for name, module in copies.items():
            setattr(other, name, module)
        pairs = [(factor._modules[name], module) for name, module in copies.items()]
        other.add_module("updates", SlowWeights(str(other), pairs, pace))  # type: ignore[arg-type]
    object.__setattr__(other, "origin", other if first is None else first.origin)
    return other


def _weightless(factor: Factor) -> bool:
    """Whether nothing in a factor can change: no parameters, and no buffers that a network keeps."""
    if factor.parts:
        return all(map(_weightless, factor.parts))
    net = factor.net
    if net is not None and not isinstance(net, nn.Module):
        raise FormulaError(
            f"{factor}: its network is a function, and what weights a function uses cannot be told, so it has no slow "
            f"copy; write it as an nn.Module"
        )
    return not weights([factor]) and (net is None or not _buffers([net]))


def _copies(factor: Factor) -> dict[str, nn.Module]:
    """Copies of the network and of the constants, by attribute."""
    own = {name: m for name in ("net", "constants") if (m := factor._modules.get(name)) is not None}
    if any(is_lazy(p) for p in weights(own.values())):
        raise FormulaError(
            f"{factor}: its network takes its sizes from its first input, so there are no weights to copy yet; "
            f"call it once before .slow(...)"
        )
    try:
        return dict(zip(own, frozen(tuple(own.values())), strict=True))
    except (RuntimeError, TypeError) as error:
        raise FormulaError(
            f"{factor}: its network cannot be copied by copy.deepcopy: {error}\nkeep computed tensors out of its "
            f"attributes, as torch.nn.utils.parametrizations do"
        ) from error
