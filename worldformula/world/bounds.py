"""Bounds of the likelihood of whole sequences by K particles, for the loss of a world and for its evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from torch import Tensor

from worldformula.errors import ConfigError, near
from worldformula.formula import E, Expression, Factor, Joint, Sum, exp, log, ratio

Bound = Literal["elbo", "iwae", "fivo"]


def check_bound(bound: str, samples: int) -> None:
    """Raises ConfigError where a preset names no bound, or no number of particles."""
    known = get_args(Bound)
    if bound not in known or samples < 1:
        raise ConfigError(
            f"expected bound= as one of {', '.join(known)} and samples ≥ 1, got {bound!r} and {samples}."
            f"{'' if bound in known else near(str(bound), known)}"
        )


def weighed(
    bound: Bound, drawn: Joint | Factor, p: Joint | Factor, q: Joint | Factor, samples: int, *,
    reset: str | None = None, initial: Mapping[str, Tensor] | None = None,
) -> Expression:  # fmt: skip
    """A lower bound of log p(x_{1:T}), one value a row.

    Args:
        bound: ``elbo`` is the mean of the K log-weights; ``iwae`` log (1/K) Σ_k Π_t w_t^k of whole trajectories (Burda
            et al. 2015, arXiv:1509.00519); ``fivo`` Σ_t log (1/K) Σ_k w_t^k of a filter that resamples at every step
            (Maddison et al. 2017, arXiv:1705.09279).
        drawn: what a step draws and computes, the factors of q among them.
        p: the densities above the line of a weight, p(x_t|…) p(z_t|…).
        q: those below it.
        samples: K.
        reset: names the series of flags that restart the carry, as of `Sum`.
        initial: what the carry begins with, as of `Sum`.
    """
    clock = {"reset": reset, "initial": initial}
    match bound:
        case "elbo":
            return E(drawn, Sum("t", log(p) - log(q), **clock), samples=samples)  # type: ignore[arg-type]
        case "iwae":
            whole = Sum("t", log(p) - log(q), **clock)  # type: ignore[arg-type]
            return log(E(drawn, exp(whole), samples=samples))
        case "fivo":
            step = log(E(drawn, ratio(p, q), samples=samples, resample="systematic"))
            return Sum("t", step, **clock)  # type: ignore[arg-type]
