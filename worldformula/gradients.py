"""Gradients that are written out, weights whose gradients wait for a loop, and functions of many rows part by part.

A gradient written out takes fewer passes over the tensors than the gradients of its steps take. The gradient by a
weight that a loop reads at each step is a sum of small products; all steps side by side are one product. And rows whose
tensors are larger than a processor's cache take longer together than in parts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling

PART = 1 << 19
"""Numbers of one part: 2 MB in float32, a small share of the cache that a processor's cores have in common."""


def transformed() -> bool:
    """Whether torch.compile, torch.func or forward differentiation looks into what runs: a written-out gradient is
    none of theirs.
    """
    return is_compiling() or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def by_steps(gradient: Tensor) -> bool:
    """Whether a backward has to take the gradients of the steps: they are differentiated, or several at once."""
    return torch.is_grad_enabled() or transformed() or torch._C._functorch.is_legacy_batchedtensor(gradient)


def gradients_of(
    steps: Callable[..., Tensor], inputs: tuple[Tensor, ...], gradient: Tensor, wanted: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """The gradients of a function of several steps, with gradients of their own; None where none is ``wanted``.

    They are partial ones: an input that another one was made of counts through itself alone.
    """
    with torch.enable_grad():
        own = [x.view_as(x) if needed else x for x, needed in zip(inputs, wanted, strict=True)]
        of = [x for x, needed in zip(own, wanted, strict=True) if needed]
        found = iter(torch.autograd.grad(steps(*own), of, gradient, create_graph=True))
    return tuple(next(found) if needed else None for needed in wanted)


def parts(*rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors ``[N, ...]`` cut along N where one of them is larger than a part, on a CPU; else as they are."""
    most, count = max(x.numel() for x in rows), len(rows[0])
    if most <= PART or rows[0].device.type != "cpu":
        return iter((rows,))
    return zip(*(x.split(max(count * PART // most, 1)) for x in rows), strict=True)


def in_parts(function: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """A function of each of the rows ``[N, ...]``: of many, part by part, where nothing is differentiated."""
    if torch.is_grad_enabled() or transformed():
        return function(*rows)
    found = [function(*part) for part in parts(*rows)]
    return found[0] if len(found) == 1 else torch.cat(found)


# ----------------------------------------------------------------------------------------------------- weights in loops

Kept = tuple[Tensor, ...]
Finish = Callable[[list[Kept]], tuple[Tensor, ...]]


class Uses:
    """The uses of some weights: each leaves what it adds to their gradients, and ``finish`` makes these of all.

    A use is an `autograd.Function` that takes the `token`, without a gradient for it, and no weight; it saves them, so
    that a change in between is noticed. Its backward says what it adds: `leave`, or `add` where that is a gradient
    already. Autograd comes to the token when it has been through all uses.
    """

    def __init__(self, weights: tuple[Tensor, ...], finish: Finish) -> None:
        self.weights, self.finish = weights, finish
        self._left: list[Kept] = []
        self._done: list[tuple[Tensor | None, ...]] = []
        self._task = -1

    def token(self) -> Tensor:
        """What stands for the weights in the graph."""
        found: Tensor = _Token.apply(self, *self.weights)  # type: ignore[no-untyped-call]
        return found

    def leave(self, *kept: Tensor) -> None:
        """What `finish` needs of one use."""
        self._begin()
        self._left.append(kept)

    def add(self, gradients: tuple[Tensor | None, ...]) -> None:
        """The gradients of one use, which have gradients of their own."""
        self._begin()
        self._done.append(gradients)

    def _begin(self) -> None:
        """Forgets what an earlier pass through the graph left that did not come to the token, or that failed."""
        if self._task != (task := torch._C._current_graph_task_id()):
            self._task, self._left, self._done = task, [], []

    def gradients(self) -> list[Tensor | None]:
        """By the weights, of all uses."""
        self._begin()
        left, done, self._left, self._done = self._left, self._done, [], []
        every = [*done, *([self.finish(left)] if left else [])]
        return [_sum([g for g in each if g is not None]) for each in zip(*every, strict=True)]


def _sum(found: Sequence[Tensor]) -> Tensor | None:
    return sum(found[1:], found[0]) if found else None


class _Token(torch.autograd.Function):
    """The end of the graph of a loop's weights."""

    @staticmethod
    def forward(ctx: Any, uses: Uses, *weights: Tensor) -> Tensor:
        """A number without meaning."""
        ctx.uses = uses  # which save the weights; this is made once, and a checkpoint of one use would make it again
        ctx.set_materialize_grads(False)
        return weights[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradients of the weights."""
        return None, *(ctx.uses.gradients() or [None] * len(ctx.uses.weights))


class _Loops(threading.local):
    """The loops that run, the innermost last: of each thread its own, as two may learn at once."""

    def __init__(self) -> None:
        self.running: list[dict[tuple[Any, ...], tuple[Uses, Tensor]]] = []


_loops = _Loops()


@contextmanager
def one_loop() -> Iterator[None]:
    """Uses of the same weights inside it are uses of one loop, where a gradient is to be taken."""
    if not torch.is_grad_enabled() or transformed() or torch._C._is_any_autocast_enabled():
        yield
        return
    _loops.running.append({})
    try:
        yield
    finally:
        _loops.running.pop()


def uses_of(weights: tuple[Tensor, ...], finish: Finish) -> tuple[Uses, Tensor]:
    """The uses of these weights in the loop, or of this once, and their token."""
    known = _loops.running[-1] if _loops.running else {}
    key = tuple((id(w), w.requires_grad) for w in weights)  # frozen between two uses, they are not the same
    if key not in known:
        uses = Uses(weights, finish)
        known[key] = uses, uses.token()
    return known[key]
