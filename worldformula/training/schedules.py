"""Coefficients that change while a loss is minimised: ``fit(loss, data, symbols={"beta": linear(0, 1, 1000)})``.

A schedule is any function of the step (0 before the first update). GECO is more: it also watches every result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from worldformula.errors import ConfigError
from worldformula.formula.code.out import Out

Schedule = Callable[[int], float | Tensor]


@runtime_checkable
class Feedback(Protocol):
    """A schedule that learns from what it caused: `fit` shows it every result, and a checkpoint keeps its state."""

    def __call__(self, step: int) -> float | Tensor:
        """The coefficient of this step."""
        ...

    def observe(self, out: Out) -> None:
        """The result of the step, before its gradient is taken."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that it remembers."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts `state_dict` back."""
        ...


def constant(value: float) -> Schedule:
    """The same at every step."""
    return lambda _: value


def linear(start: float, end: float, steps: int) -> Schedule:
    """From ``start`` to ``end`` in ``steps`` updates, then ``end``: the warm-up of a KL (Bowman et al. 2016).

    The first update has ``start``, the last of the ``steps`` has ``end``; a single one has ``end``.

    >>> [linear(0.0, 1.0, 5)(step) for step in (0, 1, 4, 9)]
    [0.0, 0.25, 1.0, 1.0]
    """
    _positive(steps=steps)
    return lambda step: _between(start, end, step, steps)


def cyclical(start: float, end: float, period: int, share: float = 0.5) -> Schedule:
    """Every ``period`` steps anew: linear over the first ``share`` of them, then ``end`` (Fu et al. 2019).

    arXiv:1903.10145, eq. 6: share is its R. Unlike there, the last of the rising steps has ``end``, as in `linear`:
    with a share of 1 no step would have it.

    >>> [cyclical(0.0, 1.0, 10)(step) for step in (0, 2, 4, 9, 10, 12)]
    [0.0, 0.5, 1.0, 1.0, 0.0, 0.5]
    """
    _positive(period=period, share=share)
    return lambda step: _between(start, end, step % period, share * period)


def capacity(limit: float, steps: int) -> Schedule:
    """The capacity C of ``gamma * |KL - C|``: from 0 to ``limit`` nats (Burgess et al. 2018, arXiv:1804.03599, eq. 8).

    >>> [capacity(25.0, 101)(step) for step in (0, 50, 100)]
    [0.0, 12.5, 25.0]
    """
    return linear(0.0, limit, steps)


def cosine(steps: int, floor: float = 0.0) -> Callable[[int], float]:
    """From 1 to ``floor`` along half a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983): a factor of the step size.

    It is at ``floor`` behind the last of the ``steps`` updates: none of them has a step size of 0.

    >>> [round(cosine(4)(step), 3) for step in (0, 2, 4)]
    [1.0, 0.5, 0.0]
    """
    _positive(steps=steps)
    return lambda step: floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * min(step / steps, 1.0)))


class Geco:
    """The multiplier of a constraint, raised while the constraint is broken (Rezende & Viola 2018, arXiv:1810.00597).

    For ``loss = KL(q, p) + lambda * (error - tolerance)``: with C the mean constraint of a batch, algorithm 1 keeps

        C̄ ← decay · C̄ + (1 − decay) · C        λ ← λ · exp(rate · C̄)

    The multiplier is a tensor of its own device, so that no step waits for the accelerator.

    Args:
        constraint: the result of a step -> C, the error above its tolerance, a tensor without axes:
            ``lambda out: out.terms["log p(x|z)"].neg() - tolerance``.
        start: λ of the first step.
        rate: speed of λ.
        decay: of the moving average of C.
        limits: λ stays between them.
    """

    def __init__(
        self, constraint: Callable[[Out], Tensor], *, start: float = 1.0, rate: float = 1e-2, decay: float = 0.99,
        limits: tuple[float, float] = (1e-6, 1e6),
    ) -> None:  # fmt: skip
        _positive(start=start, rate=rate)
        if not 0 <= decay < 1:
            raise ConfigError(f"expected a decay in [0, 1), got {decay}")
        self.constraint, self.rate, self.decay, self.limits = constraint, rate, decay, limits
        self._multiplier, self._average = torch.tensor(float(start)), torch.tensor(math.nan)

    def __call__(self, step: int) -> Tensor:
        """λ."""
        return self._multiplier

    @torch.no_grad()
    def observe(self, out: Out) -> None:
        """One step of algorithm 1."""
        now = self.constraint(out).detach()
        before = self._average.to(now)
        self._average = torch.where(before.isnan(), now, self.decay * before + (1.0 - self.decay) * now)
        self._multiplier = (self._multiplier.to(now) * (self.rate * self._average).exp()).clamp(*self.limits)

    def state_dict(self) -> dict[str, Any]:
        """λ and the average."""
        return {"multiplier": self._multiplier, "average": self._average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts `state_dict` back."""
        self._multiplier, self._average = state["multiplier"], state["average"]


def _between(start: float, end: float, step: float, steps: float) -> float:
    """Of so many steps, counted from 0: the first has ``start``, the last and all behind it exactly ``end``."""
    return end if step >= steps - 1 else start + (end - start) * step / (steps - 1)


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ConfigError(f"expected {name} greater than 0, got {value}")
