r"""Masked diffusion (MDLM, Sahoo et al. 2024, arXiv:2406.07524): elements hidden at random are foretold from the rest.

    −log p(x) ≤ E_τ E_x̃ (1/τ) Σ_{i hidden} −log p_θ(x_i | x̃)                          eq. 11 with α_τ = 1 − τ
              = E_k E_x̃ (D/k) Σ_{i hidden} −log p_θ(x_i | x̃),   k hidden, uniform on 1 … D

    x  [B, D] classes 0 … K−1      x̃  [B, D] x, or K where it is hidden, each with probability τ, uniform on (0, 1]

The second form is the expected cost of naming the elements in a random order (Uria et al. 2014, arXiv:1310.1757), of
which a draw of k has less noise than one of τ: `bound` sums it out. Draws begin with everything hidden and name D/n
elements at each of n calls, each at random places and independently given what is visible; n = D is that order itself.

Deviations     paper                          here                       why
τ              antithetic, from .001          uniform from .001          fewer lines; batches are large
network        transformer, DiT               residual MLP               64 elements
time input     none (as its best variant)     none                       what is visible tells it
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from worldformula import Categorical, Data, Deterministic, E, Expression, Factor, Uniform, Value, log, total
from worldformula.catalogue import System
from worldformula.errors import ConfigError, SupportError
from worldformula.families.domains import levels_of, told
from worldformula.model import Model
from worldformula.model.density import evaluating
from worldformula.nets.perceptron import Perceptron

# ------------------------------------------------------------------------------------------------- sizes and presets

LEAST = 1e-3  # τ, as 1/τ has no bound


@dataclass(frozen=True)
class Sizes:
    """pixels: D. levels: K. hidden, dropout: of the network."""

    pixels: int
    levels: int
    hidden: tuple[int, ...]
    dropout: float = 0.0


def tiny() -> Sizes:
    """8 × 8 binary digits, a minute on a laptop."""
    return Sizes(pixels=64, levels=2, hidden=(512, 512), dropout=0.3)


def grey() -> Sizes:
    """8 × 8 digits with 17 levels."""
    return Sizes(pixels=64, levels=17, hidden=(512, 512), dropout=0.3)


# ---------------------------------------------------------------------------------------------------------- networks


class Hide(nn.Module):
    """x̃, which is x or, at a rate of τ, K for what is hidden, and 1/τ there and 0 elsewhere."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor, u: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
        """x ``[N, D]`` classes, u ``[N, D]`` uniform, τ ``[N, 1]``; each ``[N, D]``."""
        hidden = u < tau
        return x.long().masked_fill(hidden, self.levels), hidden / tau


class Foretell(nn.Module):
    """Logits of all elements from those that are visible."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.levels, D, K = sizes.levels, sizes.pixels, sizes.levels
        self.net = Perceptron(D * (K + 1), D * K, sizes.hidden, dropout=sizes.dropout)

    def forward(self, seen: Tensor) -> Tensor:
        """x̃ ``[N, D]`` of 0 … K, to ``[N, D, K]``."""
        shown = nn.functional.one_hot(seen, self.levels + 1).flatten(-2)
        found: Tensor = self.net(shown.to(torch.get_default_dtype()))
        return found.unflatten(-1, (-1, self.levels))


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class MaskedDiffusion(Model):
    """``loss(x=[B, D])`` is the bound by one τ a row, in nats per row; ``foretell`` is p(x|x̃)."""

    sizes: Sizes
    foretell: Factor
    loss: Expression

    def given(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Bits and levels as classes.

        Raises:
            SupportError: other numbers, such as shades of grey, of which only zeros were left.
        """
        return {"x": self._classes(rows["x"])}

    def judged(self, given: Mapping[str, Any], seed: int) -> Tensor:
        """The bound, which varies less than the loss, as every row has all k."""
        return -self.bound(1, seed=seed, x=given["x"]).mean()

    def _classes(self, x: Tensor) -> Tensor:
        if fault := told(levels_of(self.sizes.levels), x):
            raise SupportError(f"masked diffusion: expected x {fault}")
        return x.long()

    @torch.no_grad()
    def generate(  # type: ignore[override]  # the sampler's settings are no conditions
        self, n: int, *, seed: int | None = None, generator: torch.Generator | None = None, mean: bool = False,
        steps: int | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """``n`` draws of x in ``steps`` calls of the network, at most and by default D.

        Raises:
            ConfigError: another number of steps.
        """
        D = self.sizes.pixels
        steps = D if steps is None else steps
        if not isinstance(steps, int) or not 1 <= steps <= D:
            raise ConfigError(f"expected a whole number of steps between 1 and the {D} elements, got {steps!r}")
        if seed is not None:
            generator = torch.Generator(self.device).manual_seed(seed)
        order = torch.rand(n, D, device=self.device, generator=generator).argsort(-1)
        x = torch.full_like(order, self.sizes.levels)
        with evaluating(self.loss):
            for first, stop in pairwise(round(i * D / steps) for i in range(steps + 1)):
                drawn = self.foretell.draw([x], generator=generator)
                now = order[:, first:stop]
                x = x.scatter(1, now, drawn.gather(1, now))
        return {"x": x}

    @torch.no_grad()
    def bound(self, draws: int = 1, *, seed: int | None = None, chunk: int = 50, **data: Tensor) -> Tensor:
        """The bound of log p(x), in nats, ``[N]``: the sum over all k, the mean of ``draws`` orders of every row.

        Raises:
            SupportError: x holds no classes 0 … K − 1; K itself would be taken for what is hidden.
        """
        x, D = self._classes(data["x"]), self.sizes.pixels
        generator = None if seed is None else torch.Generator(self.device).manual_seed(seed)
        found = torch.zeros(len(x), device=self.device, dtype=torch.float64)
        with evaluating(self.loss):
            for _ in range(draws):
                place = torch.rand(len(x), D, device=self.device, generator=generator).argsort(-1).argsort(-1)
                for k in range(1, D + 1):
                    hidden = place < k
                    logits = self.foretell.head(x.masked_fill(hidden, self.sizes.levels))
                    logs = torch.log_softmax(logits, -1).gather(-1, x[..., None]).squeeze(-1)
                    found += (logs * hidden).sum(-1).double() / k
        return found / draws


def build(sizes: Sizes, net: nn.Module | None = None) -> MaskedDiffusion:
    """A masked diffusion with new weights, or around a given network of x̃."""
    D, K = sizes.pixels, sizes.levels
    rate = Uniform("p(τ)", low=LEAST, high=1.0, shape=1)
    hide = Deterministic("\\tilde x, w = hide(x,u,τ)", Hide(K), shape=[D, D])
    foretell = Categorical("p(x|\\tilde x)", net or Foretell(sizes), shape=D, classes=K)
    drawn = Data("p_data(x)", shape=D, levels=K) * Uniform("p(u)", shape=D) * rate * hide
    return MaskedDiffusion(sizes, foretell, E(drawn, -total(Value("w") * log(foretell, event=True))).mean())


# ------------------------------------------------------------------------------------------------------------ system

FITS = {
    "tiny": {
        "steps": 6000, "batch": 128, "lr": 2e-3, "weight_decay": 0.02, "schedule": "cosine", "held": 0.1,
        "judge_every": 200, "patience": 8,
    }
}  # fmt: skip
SYSTEM = System(
    name="masked_diffusion",
    kind="models",
    paper="Sahoo et al. 2024, arXiv:2406.07524",
    bibtex="""@inproceedings{sahoo2024simple,
  title     = {Simple and Effective Masked Diffusion Language Models},
  author    = {Sahoo, Subham Sekhar and Arriola, Marianne and Schiff, Yair and Gokaslan, Aaron and Marroquin, Edgar
               and Chiu, Justin T and Rush, Alexander and Kuleshov, Volodymyr},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2024},
  eprint    = {2406.07524},
}""",
    presets={"tiny": tiny, "grey": grey},
    fits=FITS,
    build=build,
    summary="Elements hidden at random are foretold from the rest; draws name several at a call, in any order.",
)


if __name__ == "__main__":
    model = build(tiny())
    print(model.loss, model.loss.code, sep="\n\n")
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-3, fused=True)
    pixels = torch.randint(2, (128, 64))
    before = model.loss.eval()(x=pixels, seed=0).value
    before.backward()
    optimiser.step()
    after = model.loss(x=pixels, seed=0).value
    print(f"one step: {before.item():.3f} -> {after.item():.3f} nats per image")
