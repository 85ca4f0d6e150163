"""Restricted Boltzmann machine (Smolensky 1986), by (persistent) contrastive divergence (Hinton 2002; Tieleman 2008).

    p(v) = e^−F(v) / Z,   F(v) = −b·v − Σ_j log(1 + e^(c_j + (vW)_j))        the hidden units are summed out
    ∇ −log p(v) = ∇F(v) − E_{p(v⁻)}[∇F(v⁻)]                                  v⁻: the end of a Gibbs chain

    v  [B, V] in {0, 1}        p(h|v) = Bernoulli(σ(vW + c)),  p(v|h) = Bernoulli(σ(hWᵀ + b))

``loss`` has that gradient and is no likelihood: `RBM.log_prob` names its estimator of log Z, the sum over all hidden
states where they are few, or annealed importance sampling (Salakhutdinov & Murray 2008).

Deviations     paper                                here                    why
training       CD-1 or CD-k                         CD-k, and PCD           PCD's chains forget where they began
optimiser      SGD with momentum, weight decay      the caller's            the formula does not depend on it
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldformula import Bernoulli, ContrastiveDivergence, Expression, Factor, Gibbs
from worldformula.catalogue import System
from worldformula.errors import ConfigError
from worldformula.metrics import ais
from worldformula.model import Model
from worldformula.training.chains import Chains

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """visible: V. hidden: H. steps: k, of the chain of one update.

    chains: how many go on from one update to the next, as PCD has them: as many as the rows of a batch; 0 for CD-k.
    """

    visible: int
    hidden: int
    steps: int = 1
    chains: int = 0


def paper() -> Sizes:
    """MNIST with 500 hidden units, as in Tieleman 2008."""
    return Sizes(visible=784, hidden=500)


def tiny() -> Sizes:
    """8 × 8 digits with 14 hidden units, so few that Z is a sum of 16384 terms."""
    return Sizes(visible=64, hidden=14, steps=5, chains=128)


# ---------------------------------------------------------------------------------------------------------- networks


class Units(nn.Module):
    """W ``[V, H]``, b ``[V]``, c ``[H]``; as an energy, F(v)."""

    def __init__(self, visible: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.01 * torch.randn(visible, hidden))
        self.visible, self.hidden = nn.Parameter(torch.zeros(visible)), nn.Parameter(torch.zeros(hidden))

    def forward(self, v: Tensor) -> Tensor:
        """F of ``[N, V]``: ``[N]``."""
        return -(v @ self.visible) - F.softplus(v @ self.weight + self.hidden).sum(-1)


class Up(nn.Module):
    """Logits of p(h|v)."""

    def __init__(self, units: Units) -> None:
        super().__init__()
        self.units = units

    def forward(self, v: Tensor) -> Tensor:
        """``[N, V]`` to ``[N, H]``."""
        return v @ self.units.weight + self.units.hidden


class Down(nn.Module):
    """Logits of p(v|h)."""

    def __init__(self, units: Units) -> None:
        super().__init__()
        self.units = units

    def forward(self, h: Tensor) -> Tensor:
        """``[N, H]`` to ``[N, V]``."""
        return h @ self.units.weight.T + self.units.visible


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class RBM(Model):
    """``loss(v=[B, V], v_0=[B, V])``: a chain from v_0, the data for CD-k, the ends of the last chains for PCD."""

    density: Gibbs
    up: Factor
    down: Factor
    loss: Expression
    persistent: int

    def given(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rows of pictures ``x`` (or ``v``) as data and, for CD-k, as the start of their chains."""
        v = rows["v"] if "v" in rows else rows["x"]
        return {"v": v, "v_0": rows.get("v_0", v)}

    @torch.no_grad()
    def begin(self, rows: Mapping[str, Tensor]) -> None:
        """Sets b to the log odds of each pixel (Hinton 2010, A Practical Guide to Training RBMs, section 8)."""
        self.units.visible.copy_(self._odds(rows).logit())

    def chains(self, rows: Mapping[str, Tensor]) -> Chains | None:
        """Those of PCD, which begin as pixels by themselves: on as often as in the rows, or without these as b says."""
        if not self.persistent:
            return None
        odds = self._odds(rows) if rows else self.units.visible.detach().sigmoid()
        return Chains("v", "v_0", lambda n: torch.bernoulli(odds.expand(n, -1)), size=self.persistent)

    def _odds(self, rows: Mapping[str, Tensor]) -> Tensor:
        return self.given(rows)["v"].to(self.device).mean(0).clamp(0.01, 0.99)

    @property
    def units(self) -> Units:
        """The weights."""
        assert isinstance(self.density.net, Units)
        return self.density.net

    @torch.no_grad()
    def generate(  # type: ignore[override]  # the settings of the chain are no conditions
        self, n: int, *, seed: int | None = None, generator: torch.Generator | None = None, mean: bool = False,
        sweeps: int = 1000,
    ) -> dict[str, Tensor]:  # fmt: skip
        """The ends of ``n`` Gibbs chains of so many ``sweeps`` from coin flips; ``mean``: the last probabilities."""
        if seed is not None:
            generator = torch.Generator(self.device).manual_seed(seed)
        v = (torch.rand(n, *self.units.visible.shape, device=self.device, generator=generator) < 0.5).float()
        h = self.up.sample(v=v, generator=generator)
        for _ in range(sweeps):
            v = self.down.sample(h=h, generator=generator)
            h = self.up.sample(v=v, generator=generator)
        return {"x": self.down.head(h).sigmoid() if mean else v}

    def log_z(self, estimator: Literal["exact", "ais"], generator: torch.Generator | None = None) -> float:
        """log Z in nats: ``exact``, where a layer has 20 units or fewer, or ``ais``.

        Raises:
            ConfigError: no estimator of this name, or too many units for the sum.
        """
        units = self.units
        machine = ais.RBM(units.weight.detach(), units.visible.detach(), units.hidden.detach())
        if estimator == "exact":
            return ais.exact_log_z(machine)
        if estimator != "ais":
            raise ConfigError(f"log_z: expected 'exact' or 'ais', got {estimator!r}: Z has no other estimator here")
        return ais.annealed_log_z(machine, base=units.visible.detach(), generator=generator).log_z

    @torch.no_grad()
    def log_prob(self, v: Tensor, estimator: Literal["exact", "ais"]) -> Tensor:
        """log p(v) in nats, ``[N]``, with the named estimator of log Z; there is none without it."""
        return -self.units(v).double() - self.log_z(estimator)


def build(sizes: Sizes) -> RBM:
    """An RBM with new weights."""
    units = Units(sizes.visible, sizes.hidden)
    density = Gibbs("p(v)", units, shape=sizes.visible)
    up = Bernoulli("p(h|v)", Up(units), shape=sizes.hidden)
    down = Bernoulli("p(v|h)", Down(units), shape=sizes.visible)
    loss = ContrastiveDivergence(density, steps=sizes.steps, start="v_0", blocks=[up, down]).mean()
    return RBM(density, up, down, loss, sizes.chains)


# ------------------------------------------------------------------------------------------------------------ system

SYSTEM = System(
    name="rbm",
    kind="models",
    paper="Tieleman 2008, ICML; Hinton 2002, Neural Computation 14",
    bibtex="""@inproceedings{tieleman2008training,
  title     = {Training Restricted {Boltzmann} Machines using Approximations to the Likelihood Gradient},
  author    = {Tieleman, Tijmen},
  booktitle = {International Conference on Machine Learning},
  year      = {2008},
}""",
    presets={"paper": paper, "tiny": tiny},
    fits={"tiny": {"steps": 4000, "batch": 128, "lr": 5e-3, "schedule": "cosine"}},
    build=build,
    summary="Binary units in two layers, trained by Gibbs chains; its likelihood is counted or annealed.",
)


if __name__ == "__main__":
    model = build(tiny())
    print(model.loss, model.loss.code, sep="\n\n")
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-2, fused=True)
    pixels = torch.rand(128, tiny().visible).bernoulli()
    before = -model.log_prob(pixels, "exact").mean()
    model.loss(v=pixels, v_0=pixels, seed=0).value.backward()
    optimiser.step()
    after = -model.log_prob(pixels, "exact").mean()
    print(f"one step: {before.item():.3f} -> {after.item():.3f} nats per image, exactly")
