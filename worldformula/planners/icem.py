r"""iCEM: the cross-entropy method with noise of a colour, elites that stay, and fewer candidates in later iterations.

Pinneri, Sawant, Blaes, Achterhold, Stueckler, Rolinek & Martius 2020 (CoRL; arXiv:2008.06389).

    a_{1:H} = μ + σ ε,   ε with power ∝ f^{−β} over the steps, and unit variance       N_i = max(N γ^{−i}, 2 K) of them
    candidates: these, and a share ξ of the last elites; in the last iteration μ too; the last plan in the first one
    μ ← α μ + (1 − α) mean of the K elites,   σ in the same way                         the plan: the best sequence seen

β = 0 is white noise; with β = 2 a candidate keeps its direction for some steps, and gets somewhere. Choices and flags
come from tables, as in the cross-entropy method.

Deviations        iCEM                      here                             why
what is kept      elites of the last plan,  the last plan                    one sequence is what an acting state holds
from plan to plan one step later
new last action   drawn anew                the last one again               as the other searches
σ at the start    half of the range         ``std`` 0.5                      numbers lie in [−1, 1]
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from worldformula.candidates import Law, Pool, Sampling, check_sizes
from worldformula.catalogue import System
from worldformula.errors import ConfigError
from worldformula.planner import ActionSet, Plan


def coloured(generator: torch.Generator, shape: tuple[int, int, int], like: Tensor, *, beta: float) -> Tensor:
    """Noise ``[count, H, A]`` whose power over the H steps falls as f^{−β}, of unit variance (Timmer & König 1995).

    The lowest frequency is one period in H steps; that of the mean has the same power.
    """
    count, steps, size = shape
    frequency = torch.fft.rfftfreq(steps, dtype=like.dtype, device=like.device).clamp_min(1 / steps)
    scale = frequency ** (-beta / 2)
    parts = torch.randn(
        (2, count, size, len(scale)), generator=generator, dtype=like.dtype, device=like.device
    )  # of a real series, the ends of the spectrum are real
    parts[1, ..., 0] = 0
    parts[0, ..., 0] *= 2**0.5
    power = 2 * scale.square()
    power[0] = power[0] / 2
    if steps % 2 == 0:
        parts[1, ..., -1] = 0
        parts[0, ..., -1] *= 2**0.5
        power[-1] = power[-1] / 2
    series = torch.fft.irfft(torch.complex(*(scale * parts)), n=steps)
    return (series * steps / (2 * power.sum()).sqrt()).mT


@final
@dataclass(frozen=True)
class ICEM(Sampling):
    """The search; see the module for the method."""

    horizon: int = 12
    """Steps of a plan."""
    candidates: int = 128
    """Sequences of the first iteration."""
    elites: int = 10
    """How many of them the next distribution is fitted to."""
    iterations: int = 4
    """Rounds of sampling and fitting."""
    std: float = 0.5
    """Deviation at the start (numbers)."""
    beta: float = 2.0
    """β, how fast the power of the noise falls with its frequency; 0 is white."""
    fewer: float = 1.25
    """γ, by which the candidates of each iteration are fewer; never fewer than two for each elite."""
    kept: float = 0.3
    """ξ, the share of elites that are candidates of the next iteration."""
    momentum: float = 0.1
    """α, the share of the old law in the new one."""

    def __post_init__(self) -> None:
        check_sizes(self, self.candidates, self.elites, self.horizon, self.iterations)
        if self.std <= 0 or self.beta < 0 or self.fewer < 1 or not 0 <= self.kept <= 1 or not 0 <= self.momentum < 1:
            raise ConfigError(
                "expected std > 0, beta ≥ 0, fewer ≥ 1, kept in [0, 1] and momentum in [0, 1), got "
                f"{self.std}, {self.beta}, {self.fewer}, {self.kept} and {self.momentum}"
            )

    def search(self, pool: Pool) -> Plan:
        """The result is the best sequence seen in any iteration."""
        stay = round(self.kept * self.elites)
        elites: dict[str, Tensor] = {}
        for i in range(self.iterations):
            count = max(round(self.candidates * self.fewer**-i), 2 * self.elites)
            drawn = pool.draw(count, partial(coloured, beta=self.beta))
            more = [pool.given] if i == 0 and pool.given else []
            more += [{name: value[:, :stay] for name, value in elites.items()}] if elites and stay else []
            more += [pool.middle()] if i in (0, self.iterations - 1) else []
            drawn = {name: torch.cat((value, *(m[name] for m in more)), 1) for name, value in drawn.items()}
            elites, _ = pool.try_(drawn, self.elites)
            pool.refit({name: self._fit(pool.space[name], law, elites[name]) for name, law in pool.laws.items()})
        return pool.plan()

    def _fit(self, own: ActionSet, law: Law, elites: Tensor) -> Law:
        mean = self.momentum * law[0] + (1 - self.momentum) * elites.mean(1)
        if own.kind != "numbers":
            return (mean,)
        deviation = (elites.var(1, correction=0) + 1e-6).sqrt()
        return mean, self.momentum * law[1] + (1 - self.momentum) * deviation


def paper() -> dict[str, Any]:
    """The paper's for most tasks: horizon 30, 40 candidates, 3 iterations; β is 2 to 4 there by task."""
    return {"horizon": 30, "candidates": 40, "elites": 10, "iterations": 3}


def tiny() -> dict[str, Any]:
    """Milliseconds on a CPU."""
    return {"horizon": 12, "candidates": 128, "elites": 10, "iterations": 4}


def build(sizes: dict[str, Any]) -> ICEM:
    """The planner."""
    return ICEM(**sizes)


SYSTEM = System(
    name="icem",
    kind="planners",
    paper="Pinneri, Sawant, Blaes, Achterhold, Stueckler, Rolinek & Martius 2020, CoRL; arXiv:2008.06389",
    bibtex="""@inproceedings{pinneri2020icem, title={Sample-efficient cross-entropy method for real-time planning},
  author={Pinneri, Cristina and Sawant, Shambhuraj and Blaes, Sebastian and Achterhold, Jan and Stueckler, Joerg and
  Rolinek, Michal and Martius, Georg}, booktitle={CoRL}, year={2020}}""",
    presets={"paper": paper, "tiny": tiny},
    build=build,
    summary="The cross-entropy method with coloured noise, elites that stay, and fewer candidates in later iterations.",
)
