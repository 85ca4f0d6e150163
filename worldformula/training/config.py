"""How a loss is minimised: `FitConfig`, which the command line, its help and ``config.json`` read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, Literal

from worldformula.errors import ConfigError, near

ROWS = 200  # of a history, unless `log_every` says otherwise


@dataclass(frozen=True)
class FitConfig:
    """How a loss is minimised, by Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    steps: int = 5000
    """Updates."""
    batch: int = 128
    """Rows of a batch."""
    lr: float = 1e-3
    """Step size."""
    weight_decay: float = 0.0
    """Decoupled: each update shrinks every weight by lr × weight_decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the averages of gradient and squared gradient."""
    clip: float | None = None
    """Largest norm of the gradient."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Of the step size: constant, or to zero along half a cosine."""
    ema: float | None = None
    """Decay of a moving average of the weights, e.g. 0.999."""
    log_every: int | None = None
    """Updates per row of the history; by default a 200th of all."""
    held: float = 0.0
    """Share of the rows that is not learnt from: the weights that are best on it are kept in the end."""
    judge_every: int = 50
    """Updates between two measurements of the rows that were held."""
    patience: int | None = None
    """Measurements without a new best after which the fit ends."""

    def __post_init__(self) -> None:
        self._numbers()
        for name in ("steps", "batch", "judge_every", "log_every", "patience"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name} expects a whole number of at least 1, got {getattr(self, name)}")
        if self.patience is not None and not self.held:
            raise ConfigError(
                f"patience={self.patience} counts measurements of rows that are held out, and held=0 holds none: "
                f"write held=0.1 beside it, or leave patience out, patience=None (none on the command line)"
            )
        if not self.lr > 0 or self.weight_decay < 0 or not all(0 <= b < 1 for b in self.betas):
            raise ConfigError(
                f"expected lr > 0, weight_decay ≥ 0 and betas in [0, 1), got lr={self.lr}, "
                f"weight_decay={self.weight_decay}, betas={self.betas}"
            )
        if self.clip is not None and not self.clip > 0:
            raise ConfigError(f"clip expects a number greater than 0, or none, got {self.clip}")
        if self.schedule not in ("constant", "cosine"):
            raise ConfigError(f"schedule expects 'constant' or 'cosine', got {self.schedule!r}")
        if not 0.0 <= self.held < 1.0 or (self.held and self.ema is not None):
            raise ConfigError(
                f"held expects a share of the rows in [0, 1), and no ema beside it: weights of one update are kept, "
                f"or their average; got held={self.held}, ema={self.ema}"
            )

    def _numbers(self) -> None:
        for name, default in (("lr", 1e-3), ("weight_decay", 0.01), ("clip", 1.0), ("ema", 0.999), ("held", 0.1)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, Real) or isinstance(value, bool)):
                rows = "; rows of your own to measure on are validation=" if name == "held" else ""
                raise ConfigError(f"{name} expects a number, e.g. {name}={default}, got {_short(value)}{rows}")
        for name in ("steps", "batch", "judge_every", "log_every", "patience"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, Integral) or isinstance(value, bool)):
                raise ConfigError(f"{name} expects a whole number of at least 1, got {_short(value)}")

        if not isinstance(self.betas, tuple | list) or [isinstance(b, Real) for b in self.betas] != [True, True]:
            raise ConfigError(f"betas expects two numbers, e.g. betas=(0.9, 0.999), got {_short(self.betas)}")

    @property
    def interval(self) -> int:
        """Updates per row of the history."""
        return self.log_every or max(1, self.steps // ROWS)


def _short(value: object) -> str:
    """Numbers and texts as they are; of what holds many, such as a batch, its type."""
    return repr(value) if isinstance(value, str | Real) else type(value).__name__


def parted(more: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, FitConfig]]:
    """Settings of a fit, and those of the fits ``before`` it by name: a `FitConfig` each, or its fields.

    Raises:
        ConfigError: what comes before is none of these.
    """
    own = dict(more)
    before = own.pop("before", {})
    if not isinstance(before, Mapping):
        raise ConfigError(
            f"before= expects settings by name, e.g. before={{'stage': {{'steps': 500}}}}, got {before!r}"
        )
    return own, {name: _settings(name, how) for name, how in before.items()}


def _settings(name: str, how: object) -> FitConfig:
    if isinstance(how, FitConfig):
        return how
    known = [field.name for field in fields(FitConfig)]
    if not isinstance(how, Mapping):
        raise ConfigError(f"before={{{name!r}: ...}} expects the fields of FitConfig, {', '.join(known)}, got {how!r}")
    if wrong := [key for key in how if key not in known]:
        raise ConfigError(f"before={{{name!r}: ...}} takes no {wrong[0]!r}.{near(wrong[0], known)}")
    return FitConfig(**how)
