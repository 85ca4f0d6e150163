"""Gated PixelCNN (van den Oord et al. 2016, arXiv:1606.05328), with the logistics of PixelCNN++ (arXiv:1701.05517).

    −log p(x|y) = −Σ_i log p(x_i|x_<i, y)        eq. 1 and 3, exact; i runs over the raster scan

    x  [B, H, W] levels 0 … L−1 of a grey picture
    y  [B, C]    one-hot label, where there is one
    p(x_i|x_<i)  Categorical over the L levels, or a mixture of discretised logistics

Two stacks of convolutions, of what is above and of what is to the left, see everything before a pixel: no blind spot.
The value is in nats per image; `worldformula.metrics.likelihood.bits_per_dim` makes bits per dimension of it.

Deviations     paper                                here              why
channels       three colours, one after another     one               the pictures at hand are grey
output         256-way softmax                      either            logistics know that levels are ordered
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from worldformula import Autoregressive, Data, E, Expression, Factor, log
from worldformula.catalogue import System
from worldformula.families import CategoricalFamily, DiscretisedLogisticFamily, Family
from worldformula.model import Density
from worldformula.nets.masked import GatedPixelCNN

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """height, width: of a picture. levels: L. channels, blocks: of the network, each block 3 × 3. dropout: in blocks.

    logistics: components of the mixture for each pixel; 0 is a softmax over the levels. classes: of a label y.
    """

    height: int
    width: int
    levels: int
    channels: int
    blocks: int
    logistics: int = 0
    dropout: float = 0.0
    classes: int = 0


def paper() -> Sizes:
    """32 × 32 with 256 levels, softmax, one channel of colour."""
    return Sizes(height=32, width=32, levels=256, channels=128, blocks=20)


def plus_plus() -> Sizes:
    """The output of PixelCNN++: ten discretised logistics, dropout one half; not its strided network."""
    return Sizes(height=32, width=32, levels=256, channels=160, blocks=20, logistics=10, dropout=0.5)


def tiny() -> Sizes:
    """8 × 8 digits with 17 levels, two minutes on a laptop."""
    return Sizes(height=8, width=8, levels=17, channels=32, blocks=5, logistics=5, dropout=0.2)


# ---------------------------------------------------------------------------------------------------------- networks


class Levels(nn.Module):
    """A causal network that sees levels 0 … L−1 as numbers from −1 to 1."""

    def __init__(self, net: nn.Module, levels: int) -> None:
        super().__init__()
        self.net, self.levels = net, levels

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """x ``[N, H, W]`` to ``[N, H, W, numbers of a pixel]``."""
        scaled: Tensor = self.net(x * (2.0 / (self.levels - 1)) - 1.0, *context)
        return scaled


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class PixelCNN(Density):
    """``density`` is p(x), or p(x|y); ``loss(x=[B, H, W])`` is its exact negative log, in nats per image."""

    density: Factor
    loss: Expression


def build(sizes: Sizes) -> PixelCNN:
    """A PixelCNN with new weights."""
    family: Family = CategoricalFamily()
    if sizes.logistics:
        family = DiscretisedLogisticFamily(components=sizes.logistics, levels=sizes.levels)
    each = 3 * sizes.logistics or sizes.levels
    net = GatedPixelCNN(each, sizes.channels, sizes.blocks, context=sizes.classes, dropout=sizes.dropout)
    picture = (sizes.height, sizes.width)
    header = "p(x|y)" if sizes.classes else "p(x)"
    density = Autoregressive(header, Levels(net, sizes.levels), family=family, shape=picture)
    data = Data("p_data(x)", shape=picture)
    known = data * Data("p_data(y)", shape=sizes.classes) if sizes.classes else data
    return PixelCNN(density, E(known, -log(density)).mean())


# ------------------------------------------------------------------------------------------------------------ system

FITS = {
    "tiny": {
        "steps": 600, "batch": 64, "lr": 3e-3, "weight_decay": 0.01, "schedule": "cosine", "clip": 1.0, "held": 0.1
    }
}  # fmt: skip
SYSTEM = System(
    name="pixel_cnn",
    kind="models",
    paper="van den Oord et al. 2016, arXiv:1606.05328",
    bibtex="""@inproceedings{oord2016conditional,
  title     = {Conditional Image Generation with {PixelCNN} Decoders},
  author    = {van den Oord, A{\\"a}ron and Kalchbrenner, Nal and Vinyals, Oriol and Espeholt, Lasse and Graves, Alex
               and Kavukcuoglu, Koray},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2016},
  eprint    = {1606.05328},
}""",
    presets={"paper": paper, "plus_plus": plus_plus, "tiny": tiny},
    fits=FITS,
    build=build,
    data="digits-17",
    summary="A convolutional network that gives every pixel's distribution given those before it.",
)


if __name__ == "__main__":
    import torch

    model = build(tiny())
    print(model.loss, model.loss.code, sep="\n\n")
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-3, fused=True)
    pixels = torch.randint(17, (32, 8, 8))
    before = model.loss.eval()(x=pixels).value
    before.backward()
    optimiser.step()
    after = model.loss(x=pixels).value
    print(f"one step: {before.item():.3f} -> {after.item():.3f} nats per image")
