"""Energy-based model with Langevin draws and a replay buffer (Du & Mordatch 2019, arXiv:1903.08689).

    p(x) = e^−E(x) / Z,   L = E(x⁺) − E(x⁻) + α (E(x⁺)² + E(x⁻)²)        eq. 2, and section 3.3
    x⁻: the end of K steps x ← x − λ ∇E(x) + ω, ω ~ N(0, σ²), from the buffer

    x  [B, D] data        x_0  [B, D] where the chains begin

``loss`` is no likelihood, and the factor refuses its log-density. In the plane Z is an integral that `EBM.log_prob`
takes on a grid, which tells how far chain and objective have led from the data.

Deviations     paper                        here                   why
chain          λ = 10, σ = .005: tempered   tiny: λ = σ²/2         Langevin of p itself, since p is measured
α              E(x⁺)² + E(x⁻)²              E(x⁺)² + E(x_0)²       x_0 has a name in the formula, the chain's end none
network        ResNet, spectral norm        MLP + ‖2x/reach‖²/2    points of the plane; without the bowl e^−E has
                                                                   mass where no chain ever goes, and no finite Z
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldformula import ContrastiveDivergence, Energy, Expression, Gibbs
from worldformula.catalogue import System
from worldformula.errors import ConfigError
from worldformula.metrics.likelihood import quadrature
from worldformula.model import Model
from worldformula.nets.perceptron import Perceptron
from worldformula.training.chains import Chains

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """features: D. steps, step_size, noise: of the Langevin chain. penalty: α. reach: fresh chains start in ± this.

    buffer: how many chains go on from one update to the next; with 0, all begin anew. restart: share of a batch that
    begins anew all the same.
    """

    features: int
    hidden: tuple[int, ...]
    steps: int
    step_size: float
    noise: float
    penalty: float
    reach: float
    buffer: int = 10_000
    restart: float = 0.05


def paper() -> Sizes:
    """CIFAR-10's chain: 60 steps of 10 with noise .005, α = 1; the network is ours."""
    return Sizes(3072, (1024, 1024, 1024), steps=60, step_size=10.0, noise=0.005, penalty=1.0, reach=1.0)


def tiny() -> Sizes:
    """Points of the plane, two minutes on a laptop."""
    return Sizes(2, (128, 128), steps=20, step_size=0.045, noise=0.3, penalty=0.0, reach=4.0, buffer=5000)


# ---------------------------------------------------------------------------------------------------------- networks


class Confined(nn.Module):
    """E(x) = f(x) + ‖2x/reach‖²/2: beyond what any chain visits nothing else would keep e^−E from growing."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.net, self.reach = Perceptron(sizes.features, 1, sizes.hidden), sizes.reach

    def forward(self, x: Tensor) -> Tensor:
        """``[N, D]`` to ``[N]``."""
        found: Tensor = self.net(x).squeeze(-1)
        return found + 0.5 * (2 * x / self.reach).square().sum(-1)


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class EBM(Model):
    """``density`` is p(x) up to Z; ``loss(x=[B, D], x_0=[B, D])`` has the gradient of its likelihood, not the value."""

    density: Gibbs
    loss: Expression
    sizes: Sizes

    def fresh(self, n: int) -> Tensor:
        """Starts of new chains: uniform on [−reach, reach]^D."""
        return (2 * torch.rand(n, self.sizes.features, device=self.device) - 1) * self.sizes.reach

    def given(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Chains begin where the buffer says, or anew."""
        return {"x": rows["x"], "x_0": rows["x_0"] if "x_0" in rows else self.fresh(len(rows["x"]))}

    def chains(self, rows: Mapping[str, Tensor]) -> Chains | None:
        """The replay buffer."""
        s = self.sizes
        return Chains("x", "x_0", self.fresh, size=s.buffer, restart=s.restart) if s.buffer else None

    @torch.no_grad()
    def generate(  # type: ignore[override]  # the settings of the chain are no conditions
        self, n: int, *, seed: int | None = None, generator: torch.Generator | None = None, mean: bool = False,
        steps: int = 2000,
    ) -> dict[str, Tensor]:  # fmt: skip
        """The ends of ``n`` Langevin chains of so many ``steps`` from fresh starts."""
        if seed is not None:
            generator = torch.Generator(self.device).manual_seed(seed)
        s = self.sizes
        start = (2 * torch.rand(n, s.features, device=self.device, generator=generator) - 1) * s.reach
        x = self.density.sample(start, steps=steps, step_size=s.step_size, noise=s.noise, generator=generator)
        return {"x": x}

    @torch.no_grad()
    def log_z(self, points: int = 401, limit: float = 6.0) -> float:
        """log ∫ e^−E over the square [−limit, limit]², by the trapezoidal rule.

        Raises:
            ConfigError: D is not 2.
        """
        if self.sizes.features != 2:
            raise ConfigError(f"log_z: expected D = 2, where Z is an integral over a grid, got {self.sizes.features}")
        return float(quadrature(lambda z: -self.energy(z.float()), points=points, limit=limit))

    @torch.no_grad()
    def energy(self, x: Tensor) -> Tensor:
        """E of ``[N, D]``: ``[N]``."""
        found: Tensor = self.density.head(x)
        return found.reshape(len(x))

    @torch.no_grad()
    def log_prob(self, x: Tensor, log_z: float) -> Tensor:
        """log p of ``[N, D]`` with a given log Z, such as that of `log_z`; there is none without it."""
        return -self.energy(x) - log_z


def build(sizes: Sizes) -> EBM:
    """An EBM with new weights."""
    density = Gibbs("p(x)", Confined(sizes), shape=sizes.features)
    chain = ContrastiveDivergence(
        density, steps=sizes.steps, step_size=sizes.step_size, noise=sizes.noise, start="x_0"
    )  # fmt: skip
    if not sizes.penalty:
        return EBM(density, chain.mean(), sizes)
    small = Energy(density) ** 2 + Energy(density.rename(x="x_0")) ** 2
    return EBM(density, (chain + sizes.penalty * small).mean(), sizes)


# ------------------------------------------------------------------------------------------------------------ system

FITS = {
    "tiny": {"steps": 2000, "batch": 256, "betas": (0.0, 0.999), "schedule": "cosine", "ema": 0.995, "clip": 1.0}
}  # fmt: skip
SYSTEM = System(
    name="ebm",
    kind="models",
    paper="Du & Mordatch 2019, arXiv:1903.08689",
    bibtex="""@inproceedings{du2019implicit,
  title     = {Implicit Generation and Modeling with Energy Based Models},
  author    = {Du, Yilun and Mordatch, Igor},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2019},
  eprint    = {1903.08689},
}""",
    presets={"paper": paper, "tiny": tiny},
    fits=FITS,
    build=build,
    data="three",
    summary="An energy without its constant, trained by Langevin chains that a replay buffer keeps going.",
)


if __name__ == "__main__":
    model = build(tiny())
    print(model.loss, model.loss.code, sep="\n\n")
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-3, fused=True)
    points = torch.randn(256, 2)
    before = -model.log_prob(points, model.log_z()).mean()
    model.loss(x=points, x_0=model.fresh(256), seed=0).value.backward()
    optimiser.step()
    after = -model.log_prob(points, model.log_z()).mean()
    print(f"one step: {before.item():.3f} -> {after.item():.3f} nats, on a grid")
