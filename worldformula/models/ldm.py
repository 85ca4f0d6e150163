"""Latent diffusion (Rombach et al. 2022, arXiv:2112.10752): a VAE, then a diffusion of its codes under a text.

    stage 1    w KL[q(z|x) ‖ p(z)] − E_{q(z|x)} log p(x|z)                                 w small: codes, no prior
    stage 2    E_{x, z ~ q(z|x), t, ε} ‖ε − ε_θ(√ᾱ_t z/σ̂ + √(1−ᾱ_t) ε, t, τ(c))‖²         eq. 3

    x  [B, D] pictures        z  [B, Z] codes, divided by their one standard deviation σ̂        t in 1 … T, uniform
    c  [B, L] letters of a text as numbers, 0 for none; c' is c, or no text in a share of the rows

Stage 1 is an argument: any model with ``encode`` q(z|x) and ``decode`` p(x|z). It is trained first, on its own loss,
and stands still in stage 2. `LDM.calibrate` measures σ̂ in between; without it the diffusion starts at the wrong scale.

Deviations     paper                                  here                 why
stage 1        KL or VQ, perceptual and patch losses  VAE, small w         8 × 8 pixels
ε_θ            U-Net, cross-attention to τ(c)         residual MLP         a code is one vector: there is one place
τ              BERT tokens, transformer               letters, MLP         the texts are names of digits
ẑ_0            as it is                               within ± 4 σ̂         at t = T it is an error over √ᾱ_T, 1/2000
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

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
    sg,
)
from worldformula.catalogue import System
from worldformula.model import Model
from worldformula.model.density import evaluating
from worldformula.nets import diffusion
from worldformula.nets.diffusion import Denoiser, Schedule
from worldformula.nets.perceptron import Perceptron

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTERS = 27  # no letter, a to z

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """pixels: D. latent: Z. hidden: of the VAE. deviation: of p(x|z). weight: w. steps: T. units, blocks: of ε_θ.

    length: L. untold: share of rows that are trained without their text. clip: ẑ_0 stays within ± so many σ̂ in samples.
    """

    pixels: int
    latent: int
    hidden: tuple[int, ...]
    deviation: float
    weight: float
    steps: int
    units: int
    blocks: int
    length: int = 5
    untold: float = 0.1
    clip: float = 4.0


def tiny() -> Sizes:
    """8 × 8 grey digits, a minute on a laptop."""
    return Sizes(64, 16, (256, 256), deviation=0.1, weight=0.02, steps=100, units=256, blocks=3)


# ---------------------------------------------------------------------------------------------------------- networks


class Rescale(nn.Module):
    """z/σ̂."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))

    def forward(self, z: Tensor) -> Tensor:
        """Any shape."""
        return z / self.scale


class Diffuse(nn.Module):
    """√ᾱ_t z_0 + √(1−ᾱ_t) ε."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule

    def forward(self, z_0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """All of one batch."""
        return self.schedule.diffuse(z_0, t, noise)


class Told(nn.Module):
    """ε_θ(z_t, t, τ(c)): a text encoder and the denoiser that reads its vector."""

    def __init__(self, sizes: Sizes, width: int = 32) -> None:
        super().__init__()
        self.letters = nn.Embedding(LETTERS, width, padding_idx=0)
        self.text = Perceptron(sizes.length * width, width, (128,))
        self.denoise = Denoiser(sizes.latent, sizes.steps, sizes.units, sizes.blocks, classes=width)

    def forward(self, z_t: Tensor, t: Tensor, c: Tensor) -> Tensor:
        """z_t ``[N, Z]``, t ``[N]``, c ``[N, L]`` int64."""
        found: Tensor = self.denoise(z_t, t, self.text(self.letters(c.long()).flatten(1)))
        return found


def spelt(texts: Sequence[str], length: int) -> Tensor:
    """Letters as numbers, a = 1, the rest and what is missing 0: ``[N, length]`` int64."""
    rows = [[ord(letter) - 96 if "a" <= letter <= "z" else 0 for letter in text.lower()[:length]] for text in texts]
    return torch.tensor([row + [0] * (length - len(row)) for row in rows])


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class Stage(Model):
    """Stage 1: ``loss(x=[B, D])``, a bound where w = 1 alone."""

    prior: Factor
    encode: Factor
    decode: Factor
    loss: Expression


@dataclass(frozen=True, eq=False)
class LDM(Model):
    """Stage 2: ``loss(x=[B, D], c=[B, L])`` moves ε_θ and τ, never ``stage``, whose weights it holds too.

    `fit` trains stage 1 first, unless `build` was given one.
    """

    stage: Model
    guess: Factor
    schedule: Schedule
    rescale: Rescale
    loss: Expression
    sizes: Sizes
    given_stage: bool

    @property
    def before(self) -> Mapping[str, Model]:
        """Stage 1, where it is new."""
        return {} if self.given_stage else {"stage": self.stage}

    def begin(self, rows: Mapping[str, Tensor]) -> None:
        """Measures σ̂, once stage 1 is trained."""
        self.calibrate(rows["x"].to(self.device))

    def given(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Texts ``c``, or the names of the labels ``y``."""
        if "c" in rows:
            return {"x": rows["x"], "c": rows["c"]}
        return {"x": rows["x"], "c": self.named(rows["y"])}

    def named(self, y: Tensor) -> Tensor:
        """The names of digits ``[N]`` as letters."""
        return spelt(WORDS, self.sizes.length).to(y.device)[y]

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> float:
        """Measures σ̂ on the codes of pictures ``[N, D]``, once, after stage 1; returns it."""
        encode = cast(Factor, self.stage._need("encode"))
        self.rescale.scale.copy_(encode.sample(x=x).std())
        return float(self.rescale.scale)

    @torch.no_grad()
    def generate(  # type: ignore[override]  # the sampler's settings are no conditions
        self, n: int, *, seed: int | None = None, generator: torch.Generator | None = None, mean: bool = False,
        steps: int | None = None, guidance: float = 0.0, **given: Tensor,
    ) -> dict[str, Tensor]:  # fmt: skip
        """``n`` codes z and their pictures x.

        Args:
            n: how many.
            seed: of this call; otherwise ``generator``, or torch's own.
            generator: where the draws come from.
            mean: the mean of p(x|z), as pictures usually show it, instead of a draw.
            steps: of DDIM; None is ancestral sampling in T steps.
            guidance: w of classifier-free guidance, away from no text.
            given: texts ``c [n, L]``, see `spelt` and `named`; without them no text.
        """
        if seed is not None:
            generator = torch.Generator(self.device).manual_seed(seed)
        c = given.get("c", torch.zeros(n, self.sizes.length, dtype=torch.long, device=self.device))
        z = torch.randn(n, self.sizes.latent, device=self.device, generator=generator)
        clip = self.sizes.clip
        with evaluating(self.loss):
            denoise = diffusion.guided(cast(nn.Module, self.guess.net), c, guidance)
            if steps is None:
                variance = self.schedule.beta_tilde
                z = diffusion.ancestral(self.schedule, denoise, z, variance, clip=clip, generator=generator)
            else:
                z = diffusion.ddim(self.schedule, denoise, z, steps, clip=clip)
            first = torch.ones(n, dtype=torch.long, device=self.device)
            z = self.schedule.clean(z, denoise(z, first), first).clamp(-clip, clip) * self.rescale.scale
        decode = cast(Factor, self.stage._need("decode"))
        if mean:
            return {"z": z, **self.stage.render(z=z)}
        return {"z": z, "x": decode.sample(z=z, generator=generator)}


def stage_one(sizes: Sizes) -> Stage:
    """A VAE with new weights."""
    prior = Normal("p(z)", shape=sizes.latent)
    encode = Normal("q(z|x)", Perceptron(sizes.pixels, 2 * sizes.latent, sizes.hidden), shape=sizes.latent)
    decode = Normal(
        "p(x|z)", Perceptron(sizes.latent, sizes.pixels, sizes.hidden), shape=sizes.pixels, scale=sizes.deviation
    )  # fmt: skip
    return Stage(prior, encode, decode, (sizes.weight * KL(encode, prior) - E(encode, log(decode))).mean())


def build(sizes: Sizes, stage: Model | None = None) -> LDM:
    """Stage 2 with new weights, over a trained stage 1 whose codes are z; a new one, trained first, without it."""
    given_stage = stage is not None
    stage = stage_one(sizes) if stage is None else stage
    Z, schedule, rescale = sizes.latent, Schedule(diffusion.cosine(sizes.steps)), Rescale()
    probs = torch.full((sizes.steps + 1,), 1 / sizes.steps)
    probs[0] = 0.0
    data = Data("p_data(x)", shape=sizes.pixels) * Data("p_data(c)", shape=sizes.length, levels=LETTERS)
    code = sg(Joint.of(cast(Factor, stage._need("encode"))))
    scaled = Deterministic("z_0 = rescale(z)", rescale, shape=Z)
    kept = Bernoulli("p(k)", probs=1 - sizes.untold, shape=1)
    text = Deterministic("c' = hide(c,k)", torch.mul, shape=sizes.length)
    steps, noise = Categorical("p(t)", probs=probs, shape=()), Normal("p(ε)", shape=Z)
    noised = Deterministic("z_t = q(z_0,t,ε)", Diffuse(schedule), shape=Z)
    guess = Deterministic("\\hat ε = ε_θ(z_t,t,c')", Told(sizes), shape=Z)
    drawn = data * code * scaled * kept * text * steps * noise * noised * guess
    loss = E(drawn, norm2(Value("ε") - Value("\\hat ε"))).mean()
    loss.add_module("stage", stage.loss)  # generates, where the loss alone would know its encoder
    return LDM(stage, guess, schedule, rescale, loss, sizes, given_stage)


# ------------------------------------------------------------------------------------------------------------ system

FITS = {
    "tiny": {
        "steps": 6000, "batch": 128, "schedule": "cosine", "ema": 0.995, "clip": 1.0,
        "before": {"stage": {"steps": 2694, "batch": 64}},
    }
}  # fmt: skip
SYSTEM = System(
    name="ldm",
    kind="models",
    paper="Rombach et al. 2022, arXiv:2112.10752",
    bibtex="""@inproceedings{rombach2022high,
  title     = {High-Resolution Image Synthesis with Latent Diffusion Models},
  author    = {Rombach, Robin and Blattmann, Andreas and Lorenz, Dominik and Esser, Patrick and Ommer, Bj{\\"o}rn},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year      = {2022},
  eprint    = {2112.10752},
}""",
    presets={"tiny": tiny},
    fits=FITS,
    build=build,
    data="digits-grey",
    summary="A diffusion of the codes of a trained VAE, told by a text what to draw.",
)


if __name__ == "__main__":
    model = build(tiny())
    print(cast(Expression, model.stage.loss), model.loss, model.loss.code, sep="\n\n")
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-3, fused=True)
    pixels, letters = torch.rand(128, 64), model.named(torch.randint(10, (128,)))
    before = model.loss(x=pixels, c=letters, seed=0).value
    before.backward()
    optimiser.step()
    after = model.loss(x=pixels, c=letters, seed=0).value
    print(f"one step: {before.item():.3f} -> {after.item():.3f} per code")
