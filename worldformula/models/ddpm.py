"""Denoising diffusion (Ho et al. 2020, arXiv:2006.11239), with labels: classifier-free guidance (arXiv:2207.12598).

    E_{x_0, t, ε} ‖ε − ε_θ(√ᾱ_t x_0 + √(1−ᾱ_t) ε, t)‖²                                         L_simple, eq. 14
    KL[q(x_T|x_0) ‖ p(x_T)] + Σ_{t>1} E KL[q(x_t−1|x_t,x_0) ‖ p(x_t−1|x_t)] − E log p(x_0|x_1)     the bound, eq. 5

    x    [B, D] levels 0 … L−1;  x_0 = 2x/(L−1) − 1        t in 1 … T, uniform
    x_t  q(x_t|x_0) = N(√ᾱ_t x_0, (1−ᾱ_t) I)               p(x_t−1|x_t) = N(μ̃_t(x_t, x̂_0), σ_t² I)
    y    [B, C] one-hot labels, where there are any; y' is y, or zeros in a share of the rows

``loss`` is L_simple, a re-weighted objective and no likelihood. ``vlb`` is the bound in nats per image; its sum over t
is (T − 1) times an expectation over t, as it prints, and `DDPM.bound` sums it out. L = 0 is data that are numbers:
the input is then x_0 itself and p(x_0|x_1) a Normal.

Deviations     paper                          here                   why
p(x|x_1)       Gaussian of each bin, σ_1²     σ_1² = β_1             β̃_1 = 0; the official code takes β̃_2
network        U-Net, group norm, attention   residual MLP           8 × 8 pixels; any ε_θ(x_t, t) may be given
x̂_0            clipped to [−1, 1] in code     clipped when L > 0     as the official code, in samples and the bound
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from worldformula import (
    KL,
    Bernoulli,
    Categorical,
    Data,
    Deterministic,
    E,
    Expression,
    Factor,
    Joint,
    Normal,
    Value,
    log,
    norm2,
)
from worldformula.catalogue import System
from worldformula.errors import MissingInputError
from worldformula.model import Model
from worldformula.model.density import evaluating
from worldformula.nets import diffusion
from worldformula.nets.diffusion import Denoiser, Noised, Posterior, Reverse, Schedule, guided

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """features: D. levels: L. steps: T. schedule: β_1 … β_T of T. units, blocks, dropout: of ε_θ. variance: σ_t².

    classes: C; unlabelled: the share of rows whose label is hidden while training (Ho & Salimans: .1 to .2).
    """

    features: int
    levels: int
    steps: int
    units: int
    blocks: int
    schedule: Callable[[int], Tensor] = diffusion.cosine
    dropout: float = 0.0
    variance: Literal["posterior", "beta"] = "posterior"
    classes: int = 0
    unlabelled: float = 0.1


def paper() -> Sizes:
    """The chain for 32 × 32 × 3 pixels: T = 1000, linear from 1e-4 to .02, σ_t² = β̃_t; the network is ours."""
    return Sizes(features=3072, levels=256, steps=1000, units=1024, blocks=4, schedule=diffusion.linear, dropout=0.1)


def tiny() -> Sizes:
    """8 × 8 digits with 17 levels, two minutes on a laptop."""
    return Sizes(features=64, levels=17, steps=200, units=384, blocks=3, dropout=0.1)


def guidance() -> Sizes:
    """The tiny one with labels: ``model.generate(n, y=labels, guidance=1.0)``."""
    return Sizes(features=64, levels=17, steps=200, units=384, blocks=3, dropout=0.1, classes=10)


# ---------------------------------------------------------------------------------------------------------- networks


class Diffuse(nn.Module):
    """√ᾱ_t x_0 + √(1−ᾱ_t) ε."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule

    def forward(self, x_0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """All of one batch."""
        return self.schedule.diffuse(x_0, t, noise)


class Scale(nn.Module):
    """Levels 0 … L−1 to numbers from −1 to 1."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return x * (2.0 / (self.levels - 1)) - 1.0


def uniform(first: int, last: int) -> Factor:
    """p(t): uniform on first … last."""
    probs = torch.zeros(last + 1)
    probs[first:] = 1 / (last - first + 1)
    return Categorical("p(t)", probs=probs, shape=())


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class DDPM(Model):
    """``loss(x=[B, D])`` is L_simple; ``vlb`` the bound, one t a row; ``ends`` and ``step`` (t given) are its terms."""

    guess: Factor
    reverse: Factor
    decode: Factor
    schedule: Schedule
    clip: float | None
    loss: Expression
    vlb: Expression
    ends: Expression
    step: Expression

    def given(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Without levels, the formula begins at x_0: the x of a data set."""
        named = {"x_0": rows["x"]} if "x" in rows and "x" not in self.inputs else {}
        return super().given({**named, **rows})

    @torch.no_grad()
    def generate(  # type: ignore[override]  # the sampler's settings are no conditions
        self, n: int, *, seed: int | None = None, generator: torch.Generator | None = None, mean: bool = False,
        steps: int | None = None, guidance: float = 0.0, **given: Tensor,
    ) -> dict[str, Tensor]:  # fmt: skip
        """``n`` draws: ancestral through all T steps, or DDIM through ``steps`` of them.

        Args:
            n: how many.
            seed: of this call; otherwise ``generator``, or torch's own.
            generator: where the draws come from.
            mean: the most probable x given the last x_1, instead of a draw.
            steps: of DDIM; None is ancestral sampling.
            guidance: w, how far to go beyond the label's ε, away from the unlabelled one.
            given: ``y [n, C]``, where the model has labels.
        """
        if seed is not None:
            generator = torch.Generator(self.device).manual_seed(seed)
        assert self.reverse.shape is not None
        x = torch.randn((n, *self.reverse.shape), device=self.device, generator=generator)
        if missing := [c.key for c in self.decode.conditions[1:] if c.key not in given]:
            raise MissingInputError(f"this model draws given a label: pass {missing[0]}= of {n} rows, one-hot")
        net, chain = cast(nn.Module, self.guess.net), cast(Reverse, self.reverse.net)
        with evaluating(self.loss), evaluating(self.decode):
            denoise = guided(net, given.get("y"), guidance)
            if steps is None:
                variance = chain.get_buffer("variance")
                x = diffusion.ancestral(self.schedule, denoise, x, variance, clip=self.clip, generator=generator)
            else:
                x = diffusion.ddim(self.schedule, denoise, x, steps, clip=self.clip)
            conditions = [x, *(given[c.key] for c in self.decode.conditions[1:])]
            drawn = self.decode.draw(conditions, generator=generator, deterministic=mean)
        return {self.decode.variable.key: drawn, "x": drawn}

    @torch.no_grad()
    def bound(self, draws: int = 1, *, seed: int | None = None, chunk: int = 50, **data: Tensor) -> Tensor:
        """−VLB, a lower bound of log p(x), in nats, ``[N]``: summed over all t, the mean of ``draws`` of every x_t."""
        generator = None if seed is None else torch.Generator(self.device).manual_seed(seed)
        n = len(next(iter(data.values())))
        total = torch.zeros(n, device=self.device)
        with evaluating(self.loss), evaluating(self.ends), evaluating(self.step):
            for _ in range(draws):
                total += self.ends(**data, generator=generator).value
                for t in range(2, self.schedule.T + 1):
                    at = torch.full((n,), t, device=self.device)
                    total += self.step(**data, t=at, generator=generator).value
        return -total / draws


def build(sizes: Sizes, net: nn.Module | None = None) -> DDPM:
    """A DDPM with new weights, or around a given ε_θ(x_t, t), with labels ε_θ(x_t, t, y)."""
    D, schedule = sizes.features, Schedule(sizes.schedule(sizes.steps))
    if net is None:
        net = Denoiser(D, sizes.steps, sizes.units, sizes.blocks, sizes.dropout, sizes.classes)
    clip = 1.0 if sizes.levels else None
    y = ",y" if sizes.classes else ""

    data: Factor | Joint = Data("p_data(x_0)", shape=D)
    if sizes.levels:
        scaled = Deterministic("x_0 = scale(x)", Scale(sizes.levels), shape=D)
        data = Data("p_data(x)", shape=D, levels=sizes.levels) * scaled
    if sizes.classes:
        data = data * Data("p_data(y)", shape=sizes.classes)
    noise = Normal("p(ε)", shape=D)
    noised = Deterministic("x_t = q(x_0,t,ε)", Diffuse(schedule), shape=D)
    guess: Factor = Deterministic("\\hat ε = ε_θ(x_t,t)", net, shape=D)
    drawn = data * uniform(1, sizes.steps) * noise * noised
    if sizes.classes:
        kept = Bernoulli("p(k)", probs=1 - sizes.unlabelled, shape=1)
        drawn = drawn * kept * Deterministic("y' = hide(y,k)", torch.mul, shape=sizes.classes)
        guess = Deterministic("\\hat ε = ε_θ(x_t,t,y')", net, shape=D)
    loss = E(drawn * guess, norm2(Value("ε") - Value("\\hat ε"))).mean()

    prior = Normal("p(x_T)", shape=D)
    last = Normal("q(x_T|x_0)", Noised(schedule, step=sizes.steps), shape=D)
    first = Normal("q(x_1|x_0)", Noised(schedule, step=1), shape=D)
    forward = Normal("q(x_t|x_0,t)", Noised(schedule), shape=D)
    posterior = Normal("q(x_{t-1}|x_t,x_0,t)", Posterior(schedule), shape=D)
    reverse = Normal(f"p(x_{{t-1}}|x_t,t{y})", Reverse(schedule, net, sizes.variance, clip), shape=D)
    end = Reverse(schedule, net, sizes.variance, clip, step=1)
    decode: Factor = Normal(f"p(x_0|x_1{y})", end, shape=D)
    if sizes.levels:
        decode = Categorical(f"p(x|x_1{y})", diffusion.Discretised(end, sizes.levels), shape=D)

    between = KL(posterior, reverse)
    ends = E(data, KL(last, prior) - E(first, log(decode)))
    chain = (sizes.steps - 1) * E(uniform(2, sizes.steps) * forward, between)
    vlb = E(data, KL(last, prior) + chain - E(first, log(decode))).mean()
    step = E(data * forward, between)
    return DDPM(guess, reverse, decode, schedule, clip, loss, vlb, ends, step)


# ------------------------------------------------------------------------------------------------------------ system

FIT = {"steps": 6000, "batch": 128, "schedule": "cosine", "ema": 0.995, "clip": 1.0}
SYSTEM = System(
    name="ddpm",
    kind="models",
    paper="Ho et al. 2020, arXiv:2006.11239",
    bibtex="""@inproceedings{ho2020denoising,
  title     = {Denoising Diffusion Probabilistic Models},
  author    = {Ho, Jonathan and Jain, Ajay and Abbeel, Pieter},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2020},
  eprint    = {2006.11239},
}""",
    presets={"paper": paper, "tiny": tiny, "guidance": guidance},
    fits=dict.fromkeys(("tiny", "guidance"), FIT),
    build=build,
    data="digits-17",
    summary="A chain that takes noise away step by step; its loss predicts the noise, its bound is exact to sum.",
)


if __name__ == "__main__":
    model = build(tiny())
    print(model.loss, model.vlb, model.loss.code, sep="\n\n")
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-3, fused=True)
    pixels = torch.randint(17, (128, 64))
    before = model.loss.eval()(x=pixels, seed=0).value
    before.backward()
    optimiser.step()
    after = model.loss(x=pixels, seed=0).value
    print(f"one step: {before.item():.3f} -> {after.item():.3f} per image")
