"""The sets that values and parameters must lie in, what is said of those that do not, and settings as numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Integral, Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from worldformula.errors import ConfigError

SLACK = 1e-3  # how far the sum of rounded shares may be from 1, besides one epsilon of their type


class Domain(NamedTuple):
    """A set in words that follow "expected a value" or "expected scale=", and as a test.

    ``inside`` is true for each element that belongs to it, without the last ``joint`` axes, which are tested together.
    ``hint`` may say what to do about the elements outside. Of a number only the sets of single elements say something.
    """

    words: str
    inside: Callable[[Tensor], Tensor]
    joint: int = 0
    hint: Callable[[Tensor], str] = lambda _: ""


def told(domain: Domain, x: Any, *, missing: bool = False) -> str | None:
    """``"greater than 0, got -3"`` where some of x lies outside, else None; with ``missing``, NaN does not count."""
    if not isinstance(x, Tensor):
        if domain.joint or not isinstance(x, Real):
            return None
        if bool(domain.inside(torch.tensor(float(x), dtype=torch.double, device="cpu"))):  # whatever is the default
            return None
        return f"{domain.words}, got {x!r}"
    if x.device.type == "meta" or x.ndim < domain.joint or not x.numel():
        return None
    x = x.detach()
    inside = domain.inside(x)
    if missing:
        nan = x.isnan()
        inside = inside | (nan.flatten(nan.ndim - domain.joint).any(-1) if domain.joint else nan)
    if bool(inside.all()):
        return None
    wrong = x[~inside]  # [N, *joint]
    return f"{domain.words}, got {_shown(wrong, domain.joint)} in the tensor{domain.hint(wrong)}"


def _shown(wrong: Tensor, joint: int) -> str:
    """Of numbers the one that is farthest out; of groups the first."""
    if joint:
        return str((wrong[0].double() * 1e4).round().div(1e4).tolist())
    nan = wrong.isnan()
    return f"{(wrong[nan] if bool(nan.any()) else wrong[wrong.double().abs().argmax()]).flatten()[0].item():.4g}"


def _divide(wrong: Tensor) -> str:
    """What to do about images that were not scaled."""
    low, high = wrong.double().aminmax()
    scaled = bool((low >= 0) & (high >= 16) & (high <= 255))
    return "; this looks like an image from 0 to 255: divide it by 255" if scaled else ""


def _shares(x: Tensor) -> Tensor:
    x = x.double() if not x.is_floating_point() else x
    return (x >= 0).all(-1) & ((x.double().sum(-1) - 1.0).abs() <= SLACK + torch.finfo(x.dtype).eps)


def _weights(x: Tensor) -> Tensor:
    return (x >= 0).all(-1) & x.isfinite().all(-1) & (x > 0).any(-1)


def _triangle(x: Tensor) -> Tensor:
    lower = (x.triu(1) == 0).flatten(-2).all(-1)
    return lower & (x.diagonal(dim1=-2, dim2=-1) > 0).all(-1)


def _covariance(x: Tensor) -> Tensor:
    x = x.double()
    size = x.abs().amax((-2, -1), keepdim=True)
    symmetric = ((x - x.mT).abs() <= 1e-4 * size).flatten(-2).all(-1)
    failed: Tensor = torch.linalg.cholesky_ex(x)[1]
    return symmetric & (failed == 0) & x.isfinite().flatten(-2).all(-1)


def _whole(x: Tensor) -> Tensor:
    return (x == x.round()) & (x >= 0) if x.is_floating_point() else x >= 0


def _unit(x: Tensor) -> Tensor:
    eps = torch.finfo(x.dtype).eps if x.is_floating_point() else 0.0
    length: Tensor = torch.linalg.vector_norm(x.double(), dim=-1)
    return (length - 1.0).abs() <= SLACK + eps


def counts_of(n: int) -> Domain:
    """Counts over the last axis that sum to n."""
    return Domain(
        f"of whole numbers of at least 0 that sum to {n}", lambda x: _whole(x).all(-1) & (x.double().sum(-1) == n), 1
    )


def levels_of(n: int) -> Domain:
    """The levels 0 … n-1."""
    return Domain(f"of whole numbers from 0 to {n - 1}", lambda x: _whole(x) & (x <= n - 1))


_CHECKS: ContextVar[set[str] | None] = ContextVar("checks", default=None)


@contextmanager
def checked() -> Iterator[set[str]]:
    """Inside, parameters that networks give by name are held against their sets; it waits for the device each time.

    It yields the families that were given some, or nothing at all.
    """
    named = set[str]()
    token = _CHECKS.set(named)
    try:
        yield named
    finally:
        _CHECKS.reset(token)


def checking() -> bool:
    """Whether this is inside `checked`. A compiler knows neither context variables nor values, so there it is not."""
    return not torch.compiler.is_compiling() and _CHECKS.get() is not None


def given_by_name(family: str) -> None:
    """Inside `checked`, note that a network gave the parameters of a family by name, or gave none."""
    if checking() and (named := _CHECKS.get()) is not None:
        named.add(family)


NUMBER = Domain("as a number", lambda x: ~x.isnan())
REAL = Domain("that is finite", torch.isfinite)
POSITIVE = Domain("greater than 0", lambda x: x > 0)
FROM_0 = Domain("of at least 0", lambda x: x >= 0)
FINITE = Domain("greater than 0 and finite", lambda x: (x > 0) & x.isfinite())
FINITE_FROM_0 = Domain("of at least 0 and finite", lambda x: (x >= 0) & x.isfinite())
UNIT = Domain("from 0 to 1", lambda x: (x >= 0) & (x <= 1), hint=_divide)
COUNT = Domain("that is a whole number of at least 0", _whole)
SHARES = Domain("of shares of at least 0 that sum to 1 over the last axis", _shares, 1)
LOGITS = Domain("below infinity", lambda x: x < float("inf"))
DIRECTION = Domain("of vectors of length 1 over the last axis", _unit, 1)
WEIGHTS = Domain("of finite weights of at least 0, not all 0, over the last axis", _weights, 1)
TRIANGLE = Domain("as a lower triangular matrix with a positive diagonal", _triangle, 2)
COVARIANCE = Domain("as a symmetric, positive definite matrix", _covariance, 2)


def setting(family: str, name: str, value: Any, kind: str) -> Any:
    """A setting of a family, such as a temperature, as a Python number of its ``kind``.

    Tensors and NumPy's numbers are read; one that needs a gradient is refused, as the setting would never be learnt.
    """
    if value is None and "None" in kind:
        return None
    whole = kind != "float"
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.device.type == "meta" or value.is_complex():
            raise ConfigError(f"{family}: expected {name}= as one number, got a tensor of shape {list(value.shape)}.")
        if value.requires_grad:
            raise ConfigError(f"{family}: {name}= is a fixed number and is not learnt. Give {name}.item().")
        value = value.item()
    elif type(value).__module__ == "numpy" and getattr(value, "size", 0) == 1:
        value = value.item()
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind == "bool":
        raise ConfigError(f"{family}: expected {name}= as True or False, got {value!r}.")
    if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
        raise ConfigError(f"{family}: expected {name}= as a {'whole ' if whole else ''}number, got {value!r}.")
    number: Any = value
    return int(number) if whole else float(number)
