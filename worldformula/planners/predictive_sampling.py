"""Predictive sampling: try the last plan and disturbed copies of it, and take the best.

Howell, Gileadi, Tunyasuvunakool, Zakka, Erez & Tassa 2022 (arXiv:2212.00541), where it is meant as a baseline.

    a_{1:H} = last plan + σ ε,   ε a line through ``points`` random numbers               the plan: the best of these

Once an action, so it is quick, and its plans become good over the steps of an episode, as each begins where the last
one went on. Choices and flags of a disturbed copy are drawn, half from the last plan, half uniformly. Without a last
plan it is zeros, and first choices.

Deviations        authors' code               here                            why
curves            steps, lines, cubics        lines                           one that keeps within bounds
σ                 of the actuator's range     of [−1, 1]                      numbers lie there
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from worldformula.candidates import Pool, Sampling, check_sizes
from worldformula.catalogue import System
from worldformula.errors import ConfigError
from worldformula.planner import Plan


def lines(generator: torch.Generator, shape: tuple[int, int, int], like: Tensor, *, points: int) -> Tensor:
    """Noise ``[count, H, A]`` on lines between so many numbers of unit deviation, evenly spread over the H steps."""
    count, steps, size = shape
    points = min(points, steps)
    drawn = torch.randn((count, size, points), generator=generator, dtype=like.dtype, device=like.device)
    if points == 1:
        return drawn.expand(-1, -1, steps).mT
    return torch.nn.functional.interpolate(drawn, steps, mode="linear", align_corners=True).mT


@final
@dataclass(frozen=True)
class PredictiveSampling(Sampling):
    """The search; see the module for the method."""

    horizon: int = 12
    """Steps of a plan."""
    candidates: int = 64
    """Disturbed copies of the last plan."""
    std: float = 0.3
    """σ, how much they are disturbed (numbers)."""
    points: int = 4
    """Random numbers of a disturbance, between which it is a line; ``horizon`` disturbs each step alone."""

    def __post_init__(self) -> None:
        check_sizes(self, self.candidates, 1, self.horizon, 1)
        if self.std <= 0 or self.points < 1:
            raise ConfigError(f"expected std > 0 and points ≥ 1, got {self.std} and {self.points}")

    def search(self, pool: Pool) -> Plan:
        """The result is the best sequence seen."""
        drawn = pool.draw(self.candidates, partial(lines, points=self.points))
        last = pool.middle()
        for name in pool.space:
            drawn[name] = torch.cat((last[name], drawn[name], *([pool.given[name]] if pool.given else [])), 1)
        pool.try_(drawn, 1)
        return pool.plan()


def paper() -> dict[str, Any]:
    """A small one of the paper's."""
    return {"horizon": 36, "candidates": 10, "std": 0.1, "points": 3}


def tiny() -> dict[str, Any]:
    """Milliseconds on a CPU."""
    return {"horizon": 12, "candidates": 64}


def build(sizes: dict[str, Any]) -> PredictiveSampling:
    """The planner."""
    return PredictiveSampling(**sizes)


SYSTEM = System(
    name="predictive_sampling",
    kind="planners",
    paper="Howell, Gileadi, Tunyasuvunakool, Zakka, Erez & Tassa 2022; arXiv:2212.00541",
    bibtex="""@article{howell2022mjpc, title={Predictive sampling: Real-time behaviour synthesis with {MuJoCo}},
  author={Howell, Taylor and Gileadi, Nimrod and Tunyasuvunakool, Saran and Zakka, Kevin and Erez, Tom and
  Tassa, Yuval}, journal={arXiv:2212.00541}, year={2022}}""",
    presets={"paper": paper, "tiny": tiny},
    build=build,
    summary="The last plan and disturbed copies of it; the best one is done.",
)
