"""A causal transformer over pixels: Image GPT (Chen et al. 2020, PMLR 119) at the size of a laptop.

    −log p(x) = −Σ_i log p(x_i|x_<i)        eq. 1, exact

    x  [B, L] classes 0 … C−1, a raster scan (Image GPT: 9-bit colours; here any levels)
    p(x_i|x_<i) = Categorical, logits of a decoder-only transformer that reads x shifted by one

The value is in nats per image; `worldformula.metrics.likelihood.bits_per_dim` makes bits per dimension of it.

Deviations     paper                            here          why
sizes          24 layers, width 512 (iGPT-S)    tiny: 3, 96   8 × 8 pixels
drawing        cached keys and values           none          a sample takes L whole passes, fine at 64 pixels
"""

from __future__ import annotations

from dataclasses import dataclass

from worldformula import Autoregressive, Categorical, Data, E, Expression, Factor, log
from worldformula.catalogue import System
from worldformula.model import Density
from worldformula.nets.masked import CausalTransformer

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """length: L. levels: C. width, layers, heads: of the transformer. dropout: in its blocks. classes: of a label y."""

    length: int
    levels: int
    width: int
    layers: int
    heads: int
    dropout: float = 0.0
    classes: int = 0


def paper() -> Sizes:
    """iGPT-S on 32 × 32 pixels of 512 colours."""
    return Sizes(length=1024, levels=512, width=512, layers=24, heads=8)


def tiny() -> Sizes:
    """8 × 8 digits with 17 levels, two minutes on a laptop."""
    return Sizes(length=64, levels=17, width=64, layers=2, heads=4, dropout=0.2)


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class Transformer(Density):
    """``density`` is p(x), or p(x|y); ``loss(x=[B, L])`` is its exact negative log, in nats per image."""

    density: Factor
    loss: Expression


def build(sizes: Sizes) -> Transformer:
    """A transformer with new weights."""
    net = CausalTransformer(
        sizes.length, sizes.levels, sizes.width, sizes.layers, sizes.heads, context=sizes.classes,
        dropout=sizes.dropout,
    )  # fmt: skip
    density = Autoregressive("p(x|y)" if sizes.classes else "p(x)", net, family=Categorical, shape=sizes.length)
    data = Data("p_data(x)", shape=sizes.length, levels=sizes.levels)
    known = data * Data("p_data(y)", shape=sizes.classes) if sizes.classes else data
    return Transformer(density, E(known, -log(density)).mean())


# ------------------------------------------------------------------------------------------------------------ system

FITS = {
    "tiny": {
        "steps": 1000, "batch": 64, "lr": 2e-3, "weight_decay": 0.05, "schedule": "cosine", "clip": 1.0, "held": 0.1
    }
}  # fmt: skip
SYSTEM = System(
    name="transformer_ar",
    kind="models",
    paper="Chen et al. 2020, Generative Pretraining from Pixels, PMLR 119",
    bibtex="""@inproceedings{chen2020generative,
  title     = {Generative Pretraining from Pixels},
  author    = {Chen, Mark and Radford, Alec and Child, Rewon and Wu, Jeffrey and Jun, Heewoo and Luan, David and
               Sutskever, Ilya},
  booktitle = {International Conference on Machine Learning},
  year      = {2020},
}""",
    presets={"paper": paper, "tiny": tiny},
    fits=FITS,
    build=build,
    data="digits-17",
    summary="A causal transformer that reads a picture as a row of pixels and predicts the next one.",
)


if __name__ == "__main__":
    import torch

    model = build(tiny())
    print(model.loss, model.loss.code, sep="\n\n")
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-3, fused=True)
    pixels = torch.randint(17, (32, 64))
    before = model.loss.eval()(x=pixels).value
    before.backward()
    optimiser.step()
    after = model.loss(x=pixels).value
    print(f"one step: {before.item():.3f} -> {after.item():.3f} nats per image")
