r"""Score-based generative modelling, variance exploding (Song et al. 2021, arXiv:2011.13456).

    E_{x, σ, ε} ‖σ s_θ(x + σε, σ) + ε‖²        eq. 7 with λ = σ²: s_θ(x̃, σ) learns ∇ log p_σ(x̃)

    x  [B, D] data        σ = e^l, l uniform between log σ_min and log σ_max        ε ~ N(0, I)

Samples, from x ~ N(0, σ_max² I) down to σ_min:

    dx/dσ = −σ s_θ(x, σ)                 probability-flow ODE (eq. 13), by Heun's method; also gives log p
    x += (σ_i² − σ_i−1²) s_θ + …         reverse SDE with a Langevin corrector at every step (algorithm 2)

p is the density at σ_min, the data blurred by that much: a likelihood without its σ_min says nothing.

Deviations     paper                             here                     why
network        NCSN++, Fourier features of σ     MLP on x/√(1 + σ²)       points of the plane
ODE solver     RK45, tolerance 1e-5              Heun, 80 steps           a fixed number of calls; error is measured
divergence     Skilling–Hutchinson               exact, D derivatives     D is small; ``exact=False`` estimates it
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from worldformula import Data, Deterministic, E, Expression, Factor, Normal, Uniform, Value, norm2
from worldformula.catalogue import System
from worldformula.model import Model
from worldformula.model.density import evaluating
from worldformula.nets.diffusion import sinusoids
from worldformula.nets.perceptron import Perceptron

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """features: D. smallest, largest: σ_min and σ_max (about the largest distance of two data). hidden: of the MLP."""

    features: int
    smallest: float = 0.01
    largest: float = 8.0
    hidden: tuple[int, ...] = (128, 128, 128)


def tiny() -> Sizes:
    """Points of the plane, a minute on a laptop."""
    return Sizes(features=2)


def cifar() -> Sizes:
    """The noises of the paper for 32 × 32 × 3 pixels in [0, 1]: σ from .01 to 50; the network is ours."""
    return Sizes(features=3072, largest=50.0, hidden=(2048, 2048, 2048))


# ---------------------------------------------------------------------------------------------------------- networks


class Score(nn.Module):
    """s_θ(x̃, σ) = F(x̃/√(1 + σ²), log σ)/σ: what F learns is −ε, of one size at every σ."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.range = math.log(sizes.smallest), math.log(sizes.largest)
        self.net = Perceptron(sizes.features + 16, sizes.features, sizes.hidden)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """x̃ ``[N, D]``, σ ``[N, 1]``, to ``[N, D]``."""
        low, high = self.range
        place = sinusoids((sigma.squeeze(-1).log() - low) / (high - low), 16, fastest=30.0).to(x.dtype)
        found: Tensor = self.net(x / (1 + sigma.square()).sqrt(), place)
        return found / sigma


def perturb(x: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """x + σε."""
    return x + sigma * noise


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class ScoreModel(Model):
    """``score`` is s_θ; ``loss(x=[B, D])`` the weighted denoising error, no likelihood: that is `log_prob`."""

    score: Factor
    loss: Expression
    sizes: Sizes

    def noises(self, steps: int) -> Tensor:
        """σ_max … σ_min, evenly spaced in their logarithm: ``[steps + 1]`` float64."""
        low, high = math.log10(self.sizes.smallest), math.log10(self.sizes.largest)
        return torch.logspace(high, low, steps + 1, dtype=torch.float64)

    def scored(self, x: Tensor, sigma: float) -> Tensor:
        """s_θ of points ``[N, D]`` at one σ."""
        found: Tensor = self.score.head(x, torch.full_like(x[:, :1], sigma))
        return found

    @torch.no_grad()
    def generate(  # type: ignore[override]  # the sampler's settings are no conditions
        self, n: int, *, seed: int | None = None, generator: torch.Generator | None = None, mean: bool = False,
        steps: int = 80, corrector: float | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """``n`` draws of x at σ_min.

        Args:
            n: how many.
            seed: of this call; otherwise ``generator``, or torch's own.
            generator: where the draws come from.
            mean: accepted as by every model; there are draws alone.
            steps: of the solver.
            corrector: signal-to-noise ratio of the Langevin corrector (the paper: .16) of the reverse SDE; None is the
                probability-flow ODE.
        """
        if seed is not None:
            generator = torch.Generator(self.device).manual_seed(seed)

        def noise() -> Tensor:
            return torch.randn(n, self.sizes.features, device=self.device, generator=generator)

        x = self.sizes.largest * noise()
        with evaluating(self.loss):
            for now, after in pairwise(self.noises(steps).tolist()):
                if corrector is None:
                    x = self._heun(x, now, after)
                    continue
                x = x + (now**2 - after**2) * self.scored(x, now) + math.sqrt(now**2 - after**2) * noise()
                gradient, fresh = self.scored(x, after), noise()
                size = 2 * (corrector * fresh.norm(dim=-1).mean() / gradient.norm(dim=-1).mean()) ** 2
                x = x + size * gradient + (2 * size).sqrt() * fresh
        return {"x": x}

    def _heun(self, x: Tensor, now: float, after: float) -> Tensor:
        """One step of dx/dσ = −σ s_θ: Euler, then the mean of the slopes at both ends."""
        slope = -now * self.scored(x, now)
        ahead = x + (after - now) * slope
        return x + (after - now) * 0.5 * (slope - after * self.scored(ahead, after))

    @torch.no_grad()
    def log_prob(
        self, x: Tensor, steps: int = 80, exact: bool = True, generator: torch.Generator | None = None
    ) -> Tensor:
        """log p of x ``[N, D]`` at σ_min, in nats, ``[N]``: the ODE from σ_min to σ_max with its divergence (eq. 39).

        At σ_max the density is taken as N(0, σ_max² I). ``exact`` computes all D derivatives, otherwise one random
        projection on ±1 estimates their sum (Skilling–Hutchinson) and ``generator`` draws it.
        """
        probe = None
        if not exact:
            signs = torch.rand(x.shape, device=x.device, generator=generator) < 0.5
            probe = signs.to(x.dtype) * 2 - 1
        change = torch.zeros(len(x), device=x.device, dtype=x.dtype)
        with evaluating(self.loss):
            for now, after in pairwise(self.noises(steps).flip(0).tolist()):
                slope, rate = self._flow(x, now, probe)
                ahead, rate_ahead = self._flow(x + (after - now) * slope, after, probe)
                x = x + (after - now) * 0.5 * (slope + ahead)
                change = change + (after - now) * 0.5 * (rate + rate_ahead)
        largest = self.sizes.largest
        prior = -0.5 * (x / largest).square().sum(-1) - x.shape[-1] * math.log(largest * math.sqrt(2 * math.pi))
        return prior + change

    def _flow(self, x: Tensor, sigma: float, probe: Tensor | None) -> tuple[Tensor, Tensor]:
        """−σ s_θ and its divergence."""

        def slope(rows: Tensor) -> Tensor:
            return -sigma * self.scored(rows, sigma)

        directions = [probe] if probe is not None else list(torch.eye(x.shape[-1], dtype=x.dtype, device=x.device))
        rate = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for direction in directions:
            value, moved = torch.func.jvp(slope, (x,), (direction.expand_as(x),))[:2]
            rate = rate + (moved * direction).sum(-1)
        return value, rate

    def bound(self, draws: int = 1, *, seed: int | None = None, chunk: int = 50, **data: Tensor) -> Tensor:
        """`log_prob` of the ODE, no bound: an estimate of the model's own density at σ_min."""
        return self.log_prob(data["x"])


def build(sizes: Sizes, net: nn.Module | None = None) -> ScoreModel:
    """A score network with new weights, or the formula around a given s_θ(x̃, σ)."""
    D = sizes.features
    data, noise = Data("p_data(x)", shape=D), Normal("p(ε)", shape=D)
    place = Uniform("p(l)", low=math.log(sizes.smallest), high=math.log(sizes.largest), shape=1)
    sigma = Deterministic("σ = exp(l)", torch.exp, shape=1)
    noised = Deterministic("\\tilde x = perturb(x,σ,ε)", perturb, shape=D)
    score = Deterministic("s = s_θ(\\tilde x,σ)", net or Score(sizes), shape=D)
    error = norm2(Value("σ") * Value("s") + Value("ε"))
    return ScoreModel(score, E(data * place * sigma * noise * noised * score, error).mean(), sizes)


# ------------------------------------------------------------------------------------------------------------ system

SYSTEM = System(
    name="score_sde",
    kind="models",
    paper="Song et al. 2021, arXiv:2011.13456",
    bibtex="""@inproceedings{song2021score,
  title     = {Score-Based Generative Modeling through Stochastic Differential Equations},
  author    = {Song, Yang and Sohl-Dickstein, Jascha and Kingma, Diederik P. and Kumar, Abhishek and Ermon, Stefano
               and Poole, Ben},
  booktitle = {International Conference on Learning Representations},
  year      = {2021},
  eprint    = {2011.13456},
}""",
    presets={"cifar": cifar, "tiny": tiny},
    fits={"tiny": {"steps": 6000, "batch": 512, "lr": 4e-3, "schedule": "cosine", "ema": 0.998}},
    build=build,
    data="ring",
    summary="The gradient of the log-density at every noise level, and the equations that sample and score by it.",
)


if __name__ == "__main__":
    model = build(tiny())
    print(model.loss, model.loss.code, sep="\n\n")
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-3, fused=True)
    points = torch.randn(256, 2)
    before = model.loss(x=points, seed=0).value
    before.backward()
    optimiser.step()
    after = model.loss(x=points, seed=0).value
    print(f"one step: {before.item():.3f} -> {after.item():.3f}")
