"""Normalising flows: RealNVP (Dinh et al. 2017, arXiv:1605.08803), MAF (arXiv:1705.07057), NSF (arXiv:1906.04032).

    −log p(u) = −log N(f(u); 0, I) − log |det ∂f/∂u|                                   RealNVP eq. 2
    −log P(x) ≤ E_v[−log p(u)] + D log L,   u = (x + v)/L,  v uniform on [0, 1)^D      Theis et al. 2016, eq. 4

    x  [B, D] levels 0 … L−1 (L = 0: numbers, and the first line alone, of x itself)     y  [B, C] one-hot labels
    f  logit of α + (1 − 2α) u, then couplings or masked autoregressive transforms; both log-dets are counted

The value is in nats per image of levels, the D log L included; divided by D log 2 it is bits per dimension.

Deviations     paper                            here                   why
couplings      checkerboard and channel masks   halves and reversals   vectors; Glow's ActNorm instead of batch norm
MAF, NSF       own code                         zuko's                 it is written, tested and fast; ``pip install
                                                                       'worldformula[flows]'``
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log as ln
from typing import Any

import torch
from torch import Tensor, nn

from worldformula import Data, Deterministic, E, Expression, Factor, Flow, Uniform, log
from worldformula.catalogue import System
from worldformula.errors import ConfigError
from worldformula.families.flow import Invertible
from worldformula.metrics.likelihood import importance_bound
from worldformula.model import Density
from worldformula.nets.coupling import RealNVP

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """features: D. transform: makes f of (D, width of y). levels: L. alpha: α of the logit. classes: C."""

    features: int
    transform: Callable[[int, int], nn.Module]
    levels: int = 0
    alpha: float = 0.02
    classes: int = 0


def tiny() -> Sizes:
    """RealNVP on 8 × 8 digits with 17 levels, eight couplings: fast in both directions."""
    return Sizes(64, lambda D, C: RealNVP(D, context=C, layers=8, units=256), levels=17)


def maf() -> Sizes:
    """MAF on the same digits, three masked autoregressive transforms: one pass to score, 64 to draw."""
    return Sizes(64, lambda D, C: zuko_flow("MAF", D, C, transforms=3, hidden_features=(128, 128)), levels=17)


def nsf() -> Sizes:
    """NSF on the same digits: splines of eight bins in place of affine maps."""
    return Sizes(64, lambda D, C: zuko_flow("NSF", D, C, transforms=2, hidden_features=(128, 128), bins=8), levels=17)


def plane() -> Sizes:
    """Points of the plane, seconds on a laptop."""
    return Sizes(2, lambda D, C: RealNVP(D, context=C, layers=8, units=64))


# ---------------------------------------------------------------------------------------------------------- networks


def zuko_flow(name: str, features: int, context: int, **settings: Any) -> nn.Module:
    """The transforms of ``zuko.flows.NAME``, such as MAF or NSF.

    Raises:
        ConfigError: zuko is not installed.
    """
    try:
        import zuko
    except ImportError as error:
        raise ConfigError(f"{name} needs zuko: pip install 'worldformula[flows]'; RealNVP does not") from error
    found: nn.Module = getattr(zuko.flows, name)(features, context, **settings).transform
    return found


class Logit(nn.Module):
    """u in [0, 1] to logit(α + (1 − 2α) u), then ``transform``; both ways, as an invertible network of a Flow."""

    def __init__(self, transform: nn.Module, alpha: float) -> None:
        super().__init__()
        if not 0.0 < alpha < 0.5:
            raise ConfigError(f"Logit: expected alpha between 0 and .5, got {alpha}")
        self.net, self.alpha = Invertible(transform), alpha

    def forward(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """f(u) and log |det|, of u ``[N, D]``."""
        y = self.alpha + (1 - 2 * self.alpha) * u
        log_det = (ln(1 - 2 * self.alpha) - y.log() - (1 - y).log()).sum(-1)
        found, more = self.net(y.logit(), context, False)
        return found, log_det + more.reshape(*log_det.shape, -1).sum(-1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """u of f(u)."""
        y: Tensor = self.net(z, context, True).sigmoid()
        return (y - self.alpha) / (1 - 2 * self.alpha)


class Dequantise(nn.Module):
    """u = (x + v)/L."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor, v: Tensor) -> Tensor:
        """Levels and noise of one shape."""
        return (x + v) / self.levels


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class FlowModel(Density):
    """``density`` is p(u), or p(x) of numbers; ``loss(x=[B, D])`` in nats per image."""

    density: Factor
    loss: Expression
    levels: int

    @torch.no_grad()
    def generate(
        self, n: int, *, seed: int | None = None, generator: torch.Generator | None = None, mean: bool = False,
        **given: Tensor,
    ) -> dict[str, Tensor]:  # fmt: skip
        """``n`` draws of x: of levels where there are levels."""
        found = super().generate(n, seed=seed, generator=generator, mean=mean, **given)
        if not self.levels:
            return found
        return {"x": (found["u"] * self.levels).floor().clamp(0, self.levels - 1).long()}

    @torch.no_grad()
    def bound(self, draws: int = 1, *, seed: int | None = None, chunk: int = 50, **data: Tensor) -> Tensor:
        """log p(x) of numbers; of levels the lower bound log (1/K) Σ_k p(u_k) − D log L, with K = ``draws`` noises."""
        if not self.levels:
            return self.log_prob(**data)
        x = data.pop("x")
        generator = None if seed is None else torch.Generator(x.device).manual_seed(seed)
        found = []
        for _ in range(draws):
            v = torch.rand(x.shape, device=x.device, generator=generator)
            found.append(self.log_prob(u=(x + v) / self.levels, **data) - x[0].numel() * ln(self.levels))
        return importance_bound(torch.stack(found))


def build(sizes: Sizes) -> FlowModel:
    """A flow with new weights."""
    D, given = sizes.features, "|y" if sizes.classes else ""
    data: Any = Data("p_data(x)", shape=D, levels=sizes.levels or None)
    if sizes.classes:
        data = data * Data("p_data(y)", shape=sizes.classes)
    transform = sizes.transform(D, sizes.classes)
    if not sizes.levels:
        density = Flow(f"p(x{given})", transform, shape=D)
        return FlowModel(density, E(data, -log(density)).mean(), 0)
    density = Flow(f"p(u{given})", Logit(transform, sizes.alpha), shape=D)
    noise = Uniform("p(v)", low=0.0, high=1.0, shape=D)
    dequantised = Deterministic("u = dequantise(x,v)", Dequantise(sizes.levels), shape=D)
    loss = (E(data * noise * dequantised, -log(density)) + D * ln(sizes.levels)).mean()
    return FlowModel(density, loss, sizes.levels)


# ------------------------------------------------------------------------------------------------------------ system

SYSTEM = System(
    name="flow",
    kind="models",
    paper="Dinh et al. 2017, arXiv:1605.08803",
    bibtex="""@inproceedings{dinh2017density,
  title     = {Density Estimation using {Real} {NVP}},
  author    = {Dinh, Laurent and Sohl-Dickstein, Jascha and Bengio, Samy},
  booktitle = {International Conference on Learning Representations},
  year      = {2017},
  eprint    = {1605.08803},
}""",
    presets={"tiny": tiny, "maf": maf, "nsf": nsf, "plane": plane},
    fits={
        "maf": {"steps": 1212, "batch": 64, "weight_decay": 0.01, "clip": 5.0, "held": 0.1},
        "plane": {"steps": 400, "batch": 256, "lr": 2e-3},
    },
    build=build,
    data="digits-17",
    summary="An invertible network with an exact density: couplings, masked autoregressive maps or splines.",
)


if __name__ == "__main__":
    model = build(tiny())
    print(model.loss, model.loss.code, sep="\n\n")
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-3, fused=True)
    pixels = torch.randint(17, (128, 64))
    before = model.loss(x=pixels, seed=0).value
    before.backward()
    optimiser.step()
    after = model.loss(x=pixels, seed=0).value
    print(f"one step: {before.item():.3f} -> {after.item():.3f} nats per image")
