"""How the particles of a filter are resampled from step to step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from worldformula.errors import FormulaError, GradientError, near
from worldformula.formula.syntax.given import number

How = Literal["systematic", "multinomial"]


@dataclass(frozen=True)
class Resample:
    """Before a step, K particles are drawn anew from those of the step before, each as often as its weight says.

    ``E(q, ratio(p, q), samples=K, resample="systematic")`` inside ``Sum("t", log(...))`` is a particle filter, whose
    sum is FIVO (Maddison et al. 2017, arXiv:1705.09279), AESMC (Le et al. 2018, arXiv:1705.10306), VSMC (Naesseth et
    al. 2018, arXiv:1705.11140): the exponential of the sum is an unbiased estimate of p(x_{1:T}).

    Args:
        how: ``systematic``: points (k + u)/K of one uniform u a row; ``multinomial``: K independent uniforms a row.
        ess: resample a row only where its effective number of particles (Σw)²/Σw² is below this share of K; elsewhere
            the weights go on to the next step. None: at every step.
        gradient: ``score`` keeps the score-function term of the ancestors, which the papers drop: the gradient is then
            that of the expected sum, and its variance far greater. It is known for multinomial ancestors at every step.

    Raises FormulaError and GradientError.
    """

    how: How = "systematic"
    ess: float | None = None
    gradient: Literal["score"] | None = None

    def __post_init__(self) -> None:
        if self.how not in get_args(How):
            known = get_args(How)
            raise FormulaError(
                f"resample={self.how!r}: expected {' or '.join(map(repr, known))}.{near(str(self.how), known)}"
            )
        if self.ess is not None and not ((share := number(self.ess)) is not None and 0.0 < share < 1.0):
            raise FormulaError(f"Resample: expected ess= as a share of the particles, 0 < ess < 1, got {self.ess!r}")
        if self.gradient not in (None, "score"):
            raise GradientError(f"Resample: expected gradient='score' or none, got {self.gradient!r}")
        if self.gradient is not None and (self.how != "multinomial" or self.ess is not None):
            raise GradientError(
                "Resample: gradient='score' needs the density of the ancestors, which systematic ones do not have, and "
                "no switch, which ess= is\nwrite Resample('multinomial', gradient='score')"
            )

    @property
    def marks(self) -> tuple[str, ...]:
        """What the sign of the expectation says of it."""
        rule = () if self.ess is None else (f"ESS<{self.ess:g}K",)
        return (f"resample={self.how}", *rule, *(("ancestors=score",) if self.gradient else ()))


def as_resample(resample: Any, samples: object) -> Resample | None:
    """What ``resample=`` says. Raises FormulaError for what is no rule, and one without particles."""
    if isinstance(resample, str):
        resample = Resample(resample)  # type: ignore[arg-type]
    if resample is not None and not isinstance(resample, Resample):
        raise FormulaError(
            f"E: expected resample='systematic', 'multinomial' or Resample(...), got {type(resample).__name__}"
        )
    if resample is not None and samples is None:
        raise FormulaError("E: resample= is of K particles; give their number, samples=K")
    return resample
