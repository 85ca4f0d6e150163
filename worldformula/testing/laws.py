"""Laws checked one by one, and the table of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from worldformula.errors import table

ERRORS = 3.0  # how many standard errors an estimate may be off
SHOWN, FEW = 12, 6  # broken laws in the table, and names in a line


@dataclass
class Laws:
    """The laws checked so far: rows *law | expected | got*, with a mark on those that do not hold."""

    subject: str
    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    def equal(self, law: str, expected: Any, got: Any, tolerance: float = 0.0) -> None:
        """Two values, tensors (within ``tolerance``, relative to 1 + the expected size) or anything with ``==``."""
        if isinstance(expected, Tensor) or isinstance(got, Tensor):
            expected, got = (torch.as_tensor(x, dtype=torch.float64).detach() for x in (expected, got))
            holds = expected.shape == got.shape and bool(
                ((got == expected) | ((got - expected).abs() <= tolerance * (1.0 + expected.abs()))).all()
            )
        else:
            holds = bool(expected == got)
        self._add(law, holds, expected, got)

    def estimate(self, law: str, samples: Tensor, expected: Tensor) -> None:
        """The mean over the first axis lies within 3 standard errors of the expected value, or is as infinite."""
        error, mean = samples.std(0) / samples.shape[0] ** 0.5, samples.mean(0)
        holds = bool(((mean == expected) | ((mean - expected).abs() <= ERRORS * error + 1e-9)).all())
        self._add(law, holds, expected.detach(), mean.detach())

    def raises(self, law: str, error: type[Exception], call: Callable[[], object]) -> None:
        """The call raises this error."""
        try:
            got = f"returned {type(call()).__name__}"
        except error:
            got = error.__name__
        except Exception as other:  # noqa: BLE001 - the wrong error is the finding
            got = f"{type(other).__name__}: {other}"
        self._add(law, got == error.__name__, error.__name__, got)

    def _add(self, law: str, holds: bool, expected: object, got: object) -> None:
        self.rows.append((law, _short(expected), _short(got), "" if holds else "<- broken"))

    def close(self) -> None:
        """Raise AssertionError if a law does not hold: how many, a table of the first of them, and which hold."""
        broken, held = ([r for r in self.rows if bool(r[-1]) is wrong] for wrong in (True, False))
        if not broken:
            return
        body = [table(("law", "expected", "got", ""), broken[:SHOWN])]
        if len(broken) > SHOWN:
            body.append(f"  … and {len(broken) - SHOWN} more: {_names(broken[SHOWN:])}")
        if held:
            body.append(f"  {len(held)} hold: {_names(held)}")
        raise AssertionError("\n".join((f"{self.subject}: {len(broken)} of {len(self.rows)} laws broken", *body)))


def _names(rows: Sequence[tuple[str, ...]]) -> str:
    names = [row[0] for row in rows]
    return "; ".join(names[:FEW]) + ("; …" if len(names) > FEW else "")


def _short(value: object) -> str:
    if isinstance(value, Tensor):
        numbers = ", ".join(f"{x:.6g}" for x in value.flatten()[:3].tolist())
        return f"{list(value.shape)} {numbers}{' …' if value.numel() > 3 else ''}"
    text = str(value).replace("\n", " ")
    return text if len(text) <= 60 else text[:57] + "…"
