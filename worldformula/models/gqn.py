r"""Generative query network (Eslami et al. 2018, Science 360, "Neural scene representation and rendering").

    r = Σ_k ψ(x_k, v_k)                                              the scene, from any number of views in any order
    Σ_{l=1}^{L} KL[q(z_l|e_l) ‖ π(z_l|h_{l-1})] − E_q[log N(x'|η(u_L), σ²)]          eq. 3 of the supplement

    h_l, m_l = ConvLSTM(h_{l-1}, m_{l-1}, v', r, z_l)                generation core
    e_l, n_l = ConvLSTM(e_{l-1}, n_{l-1}, x', v', r, h_{l-1}, u_{l-1})   inference core: it also sees the picture x'
    u_l = u_{l-1} + Up(h_l)                                          the canvas

    x_k  [B, M, S, S, 3] pictures in [0, 1], v_k [B, M, V] their cameras, k_k [B, M] 1 where a view is given
    x', v'  the query picture [B, S, S, 3] and its camera [B, V]      r  [B, R]
    z_l  [B, C, S/4, S/4]

σ is an input of each call, as it falls while it is trained. ``warm`` is the same bound with q tied to π, whose KL is 0,
and 10·‖x' − η(u_L)‖² (a σ of √0.05): `fit` runs it first, with means instead of draws (``deterministic=True``). At this
size the query's own posterior otherwise carries the picture, and r is ignored. Nats per picture.

Deviations     paper               here                    why
cores          12, or one shared   L, or one shared        ``shared``
size           64 × 64             16 × 16 in ``tiny``     a laptop
r              a map, or pooled    pooled                  the scene algebra needs a vector
warm-up        none                ``warm``                see above
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from worldformula import KL, Deterministic, E, Expression, Factor, Normal, Sum, Symbol, log
from worldformula.catalogue import System
from worldformula.model import Model
from worldformula.nets.conv_lstm import ConvLSTM

SHOWN = 4  # views of a room, of which an update sees the first few

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """side S, camera V, scene R; latent C and hidden channels of the cores; steps L; whether they share one core."""

    side: int
    camera: int
    scene: int
    latent: int
    hidden: int
    steps: int
    shared: bool


def paper() -> Sizes:
    """Rooms, 64 × 64; twelve cores."""
    return Sizes(side=64, camera=7, scene=256, latent=3, hidden=128, steps=12, shared=False)


def tiny() -> Sizes:
    """Mini-rooms, 16 × 16."""
    return Sizes(side=16, camera=7, scene=96, latent=3, hidden=48, steps=4, shared=True)


# ---------------------------------------------------------------------------------------------------------- networks


class Scene(nn.Module):
    """Pictures with their cameras to the sum of their representations; a view whose flag is 0 is not there."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.scene
        self.see = nn.Sequential(nn.Conv2d(3, 32, 2, 2), nn.ReLU(), nn.Conv2d(32, 64, 2, 2), nn.ReLU())
        self.join = nn.Sequential(
            nn.Conv2d(64 + sizes.camera, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip

    def forward(self, x: Tensor, v: Tensor, k: Tensor) -> Tensor:
        """[B, M, S, S, 3], [B, M, V], [B, M] to [B, R]."""
        seen = self.see(x.flatten(0, 1).movedim(-1, 1))
        r = self.join(torch.cat((seen, spread(v.flatten(0, 1), seen)), 1)).unflatten(0, x.shape[:2])
        return (r * k.unsqueeze(-1)).sum(1)


class Generation(nn.Module):
    """h_l and its memory from those before, the camera, the scene and z_l."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.cell = ConvLSTM(sizes.camera + sizes.scene + sizes.latent, sizes.hidden)

    def forward(self, h: Tensor, m: Tensor, v: Tensor, r: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Maps [B, ·, S/4, S/4]; v [B, V] and r [B, R] are the same everywhere."""
        found: tuple[Tensor, Tensor] = self.cell(h, m, spread(v, h), spread(r, h), z)
        return found


class Inference(nn.Module):
    """e_l and its memory, which see the query picture too."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.see = nn.Conv2d(3, 32, 4, 4)
        self.canvas = nn.Conv2d(sizes.hidden, 16, 4, 4)
        self.cell = ConvLSTM(32 + 16 + sizes.camera + sizes.scene + sizes.hidden, sizes.hidden)

    def forward(
        self, e: Tensor, n: Tensor, x: Tensor, v: Tensor, r: Tensor, h: Tensor, u: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Maps, the picture [B, S, S, 3] and the canvas [B, hidden, S, S]."""
        picture = self.see(x.movedim(-1, 1))
        found: tuple[Tensor, Tensor] = self.cell(e, n, picture, self.canvas(u), spread(v, e), spread(r, e), h)
        return found


class Moments(nn.Module):
    """A map [B, hidden, s, s] to location and scale [B, C, s, s]."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.net = nn.Conv2d(sizes.hidden, 2 * sizes.latent, 3, padding=1)

    def forward(self, h: Tensor) -> dict[str, Tensor]:
        """Scale = softplus + 10⁻²."""
        loc, raw = self.net(h).chunk(2, 1)
        return {"loc": loc, "scale": nn.functional.softplus(raw) + 1e-2}


class Canvas(nn.Module):
    """u_l = u_{l-1} + Up(h_l)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(sizes.hidden, sizes.hidden, 4, 4)

    def forward(self, u: Tensor, h: Tensor) -> Tensor:
        """[B, hidden, S, S] and [B, hidden, S/4, S/4]."""
        return u + torch.as_tensor(self.up(h))


class CanvasToPicture(nn.Module):
    """η: the canvas to a picture [B, S, S, 3]."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.net = nn.Conv2d(sizes.hidden, 3, 1)

    def forward(self, u: Tensor) -> Tensor:
        """[B, hidden, S, S]."""
        return torch.as_tensor(self.net(u)).movedim(1, -1)


def spread(vector: Tensor, like: Tensor) -> Tensor:
    """[N, C] to a map [N, C, s, s] of the size of ``like``."""
    return vector[:, :, None, None].expand(-1, -1, *like.shape[-2:])


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class GQN(Model):
    """``loss(x=, v=, k=, x_prime=, v_prime=, precision=1/(2σ²))`` is −ELBO; ``warm`` its deterministic beginning."""

    sizes: Sizes
    scene: Factor
    picture: Factor
    warm: Expression
    loss: Expression

    @property
    def symbols(self) -> Mapping[str, float]:
        """The σ that the training ends with."""
        return {"sigma": 0.1}

    @property
    def before(self) -> Mapping[str, Model]:
        """The same networks with means and no posterior."""
        return {"warm": Warm(**{f.name: getattr(self, f.name) for f in fields(self)} | {"loss": self.warm})}

    def varied(self, rows: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Rows of rooms with a view that is asked for, and of up to four others the first few of each, at random."""
        order = torch.randperm(rows["x"].shape[1])
        shown, query = order[:-1][:SHOWN], order[-1]
        k = torch.arange(len(shown)) < torch.randint(len(shown) + 1, (len(rows["x"]), 1))
        asked = {f"{name}_prime": rows[name][:, query] for name in "xv"}
        return {**{name: rows[name][:, shown] for name in "xv"}, "k": k.to(rows["x"]), **asked}

    def given(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rows of rooms, ``x [N, M, S, S, 3]`` and ``v [N, M, V]``: the last view is asked for, some others shown."""
        if "x_prime" in rows or not {"x", "v"} <= rows.keys():
            return super().given(rows)
        x, v = rows["x"], rows["v"]
        shown = torch.arange(x.shape[1] - 1) < torch.randint(x.shape[1], (len(x), 1))
        return {"x": x[:, :-1], "v": v[:, :-1], "k": shown.to(x), "x_prime": x[:, -1], "v_prime": v[:, -1]}

    def panels(self, rows: Mapping[str, Tensor], *, seed: int | None = None) -> dict[str, Tensor]:
        """Rows of rooms: the last view is asked for; what is drawn given none, one and all of the others."""
        x, v = rows["x"], rows["v"]
        others = x.shape[1] - 1
        shown = {"a view": x[:, 0], "asked for": x[:, -1]}
        for count in (0, 1, others):
            k = (torch.arange(others, device=x.device) < count).to(x).expand(len(x), -1)
            shown[f"given {count}"] = self.query(v[:, -1], seed=seed, x=x[:, :-1], v=v[:, :-1], k=k)
        return shown

    @torch.no_grad()
    def represent(self, x: Tensor, v: Tensor, k: Tensor) -> Tensor:
        """The scene r [B, R] from its views."""
        return torch.as_tensor(self.scene.head(x, v, k))

    @torch.no_grad()
    def query(self, v_prime: Tensor, *, seed: int | None = None, **views: Tensor) -> Tensor:
        """Pictures [B, S, S, 3] as they might look from the cameras v' [B, V]: one draw of the latents."""
        blank = views["x"].new_zeros(len(v_prime), self.sizes.side, self.sizes.side, 3)
        samples = self.warm(**views, x_prime=blank, v_prime=v_prime, seed=seed).samples
        return torch.as_tensor(self.picture.head(samples[f"u_{self.sizes.steps}"]))


class Warm(GQN):
    """How a GQN begins: ``loss`` is its ``warm``, of means alone."""

    before: Mapping[str, Model] = {}
    symbols: Mapping[str, float] = {}

    def given(self, rows: Mapping[str, Tensor]) -> dict[str, Any]:
        """Nothing is drawn."""
        return {**super().given(rows), "deterministic": True}


def build(sizes: Sizes) -> GQN:
    """A GQN with new weights."""
    H, s, S = sizes.hidden, sizes.side // 4, sizes.side

    def cores(kind: type[nn.Module]) -> nn.Module:
        return kind(sizes) if sizes.shared else nn.ModuleList(kind(sizes) for _ in range(sizes.steps))

    scene = Deterministic("r = scene(x_{1:M}, v_{1:M}, k_{1:M})", Scene(sizes), shape=sizes.scene)
    see = Deterministic("e_l, n_l = inf(e_{l-1}, n_{l-1}, x', v', r, h_{l-1}, u_{l-1})", cores(Inference),
                        shape=[(H, s, s), (H, s, s)])  # fmt: skip
    core = Deterministic("h_l, m_l = gen(h_{l-1}, m_{l-1}, v', r, z_l)", cores(Generation), shape=[(H, s, s)] * 2)
    canvas = Deterministic("u_l = up(u_{l-1}, h_l)", Canvas(sizes), shape=(H, S, S))
    latent = (sizes.latent, s, s)
    prior, q = (
        Normal("π(z_l|h_{l-1})", Moments(sizes), shape=latent),
        Normal("q(z_l|e_l)", Moments(sizes), shape=latent),
    )
    picture = CanvasToPicture(sizes)
    decode = Normal("p(x'|u_L)", picture, shape=(S, S, 3), scale=1.0)
    error = -log(decode) - 0.5 * math.log(2 * math.pi) * 3 * S * S  # ½ ‖x' − η‖²
    steps = Sum("l", E(see * q * core * canvas, KL(q, prior)), steps=sizes.steps)
    sigma = Symbol("sigma")
    constant = 3 * S * S * (log(sigma) + 0.5 * math.log(2 * math.pi))
    loss = E(scene, steps + error / sigma**2 + constant).mean()
    free = Sum("l", E(prior * core * canvas, KL(prior, prior)), steps=sizes.steps)
    warm = E(scene, free + 20 * error).mean()
    return GQN(sizes, scene, decode, warm, loss)


# ------------------------------------------------------------------------------------------------------------ system

FITS = {
    "tiny": {
        "steps": 1000, "batch": 32, "lr": 5e-4, "clip": 100.0, "schedule": "cosine",
        "before": {"warm": {"steps": 3000, "batch": 32, "clip": 100.0}},
    }
}  # fmt: skip
SYSTEM = System(
    name="gqn",
    kind="models",
    paper="Eslami et al. 2018, Science 360:1204",
    bibtex="""@article{eslami2018gqn,
  title   = {Neural scene representation and rendering},
  author  = {Eslami, S. M. Ali and Jimenez Rezende, Danilo and Besse, Frederic and Viola, Fabio and others},
  journal = {Science},
  volume  = {360},
  number  = {6394},
  pages   = {1204--1210},
  year    = {2018},
}""",
    presets={"paper": paper, "tiny": tiny},
    fits=FITS,
    build=build,
    data="rooms",
    summary="A scene from any views of it, and pictures of it from any other camera.",
)


if __name__ == "__main__":
    model = build(tiny())
    print(model.loss, model.loss.code, sep="\n\n")
    views = {"x": torch.rand(8, 5, 16, 16, 3), "v": torch.randn(8, 5, 7), "k": torch.ones(8, 5)}
    asked = {"x_prime": torch.rand(8, 16, 16, 3), "v_prime": torch.randn(8, 7), "sigma": 0.6}
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-3)
    before = model.loss(**views, **asked, seed=0).value
    before.backward()
    optimiser.step()
    after = model.loss(**views, **asked, seed=0).value
    print(f"one step: {before.item():.2f} -> {after.item():.2f} nats per picture")
