"""Measures what keeps joint-embedding latents of two rooms apart, and whether they know where the point is.

No `worldformula fit` trains them so: the size of a step grows at first, stays, and falls to 0 in the second half.
"""

from __future__ import annotations

import functools
import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from worldformula.envs import two_rooms
from worldformula.envs.two_rooms import canvas, pictures, wander
from worldformula.formula import Expression
from worldformula.metrics.collapse import rank_me, spread
from worldformula.metrics.probe import Split, ridge_r2
from worldformula.nets import pictures as nets
from worldformula.training.fit import fit
from worldformula.training.seeding import continued
from worldformula.world import World
from worldformula.worlds import jepa, lewm

SIZE, CLIPS, FRAMES, UNSEEN, AHEAD = 33, 3000, 17, 400, 8
UPDATES, BATCH, RATE = 300, 64, 3e-3
MODELS: dict[str, jepa.JEPAConfig | lewm.LeWMConfig] = {
    "none": replace(jepa.tiny(), deviation=0.0, covariance=0.0, similarity=0.0, inverse=0.0),
    "pldm": jepa.tiny(),
    "sigreg": lewm.tiny(),
    "no_idm": replace(jepa.tiny(), inverse=0.0),
    "decoder": jepa.autoencoder(),
}


@dataclass(frozen=True)
class Clips:
    """Clips of points that wander, each in rooms of its own, N of T frames.

    Attributes:
        images: ``[N, T, 33, 33, 3]``, uint8.
        actions: ``[N, T, 2]``, taken at each frame.
        positions: ``[N, T, 2]``, in pixels of the map.
        layouts: ``[N, 2]``, where the wall is and where its door begins.
    """

    images: Tensor
    actions: Tensor
    positions: NDArray[np.floating]
    layouts: NDArray[np.floating]

    @classmethod
    def of(cls, seed: int, count: int) -> Clips:
        """So many clips of `worldformula.envs.two_rooms.wander`."""
        layouts, positions, actions = wander(seed, count, FRAMES)
        images = [pictures(canvas(own, SIZE), own.edge, at, False) for own, at in zip(layouts, positions, strict=True)]
        doors = np.array([[own.walls[4][0], own.walls[4][3]] for own in layouts])
        return cls(torch.from_numpy(np.stack(images)), torch.from_numpy(actions), positions, doors)

    def batch(self, rows: Tensor | slice = slice(None)) -> dict[str, Tensor]:
        """Some of them as the series of a world."""
        images = self.images[rows].float() / 255
        first = torch.zeros(images.shape[:2], dtype=torch.bool)
        first[:, 0] = True
        return {"x": images, "a": self.actions[rows], "first": first}


def measure(seed: int) -> dict[str, float]:
    """Trains a world with each loss and reads it on clips in rooms that it has not seen.

    Returns:
        Of each world, and of an encoder that learnt nothing (``random``): ``rank``, RankMe over D; ``least``, the
        smallest deviation of a number of the latent; ``position`` and ``wall``, ``door``, the R² of a ridge regression
        that reads them; ``copy``, the squared error eight steps ahead over that of the latent of the first frame.
        ``lost``: of the R² of the position, what is lost without the term of the action.
    """
    unseen, found = Clips.of(10_000 + seed, UNSEEN), dict[str, dict[str, float]]()
    for name in ("none", "pldm", "sigreg", "no_idm"):
        found[name] = read(trained(name, seed), unseen)
    torch.manual_seed(seed)
    found["random"] = read(made("pldm"), unseen)
    named = {f"{k}_{name}": value for name, own in found.items() for k, value in own.items()}
    return {"lost": found["pldm"]["position"] - found["no_idm"]["position"], **named}


def made(name: str) -> World:
    """An untrained world, with torch's generator."""
    config = MODELS[name]
    shapes = {"image": (SIZE, SIZE, 3)}
    return jepa.build(config, shapes, 2) if isinstance(config, jepa.JEPAConfig) else lewm.build(config, shapes, 2)


def trained(name: str, seed: int) -> World:
    """The world of this name and seed; trained once, and kept in the cache folder of the user until code changes."""
    torch.manual_seed(seed)
    world = made(name)
    file = kept(name, seed)
    if file.exists():
        world.load_state_dict(load_file(file))
        return world
    learn(world.loss, seed)
    keep(world, file)
    return world


@functools.lru_cache(1)
def known(seed: int) -> Clips:
    """What all models of a seed learn from."""
    return Clips.of(seed, CLIPS)


def learn(loss: Expression, seed: int, updates: int = UPDATES, clips: Clips | None = None) -> None:
    """Adam on these clips, or on those of this seed; its step size grows for 50 updates, and falls to 0 in the second
    half.
    """
    clips = known(seed) if clips is None else clips
    count, rows, noise = len(clips.images), torch.Generator().manual_seed(seed), continued()
    adam = torch.optim.Adam(loss.parameters(), RATE, fused=True)
    shape = torch.optim.lr_scheduler.LambdaLR(
        adam, lambda i: min(1, (i + 1) / 50, max(0.02, 2 * (updates - i) / updates))
    )
    read = loss.program.inputs
    fit(
        loss, lambda: clips.batch(torch.randint(count, (BATCH,), generator=rows)), batch=BATCH, steps=updates,
        seed=seed, inputs=lambda given: {**{name: given[name] for name in read}, "generator": noise}, optimizer=adam,
        callback=lambda *_: shape.step(),
    )  # fmt: skip


def kept(name: str, seed: int) -> Path:
    """Where weights lie: by name, seed, and the code of this card, its worlds and its environment."""
    files = [__file__, *(module.__file__ or "" for module in (jepa, lewm, nets, two_rooms))]
    sources = [Path(file).read_bytes() for file in files]
    key = hashlib.sha256(b"".join(sources) + torch.__version__.encode()).hexdigest()[:12]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "worldformula" / "cards" / f"two_rooms_{name}_{seed}_{key}.safetensors"


def keep(model: nn.Module, file: Path) -> None:
    """At once or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}")
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, part)
    part.replace(file)


@torch.no_grad()
def read(world: World, clips: Clips) -> dict[str, float]:
    """What latents of these clips tell; see `measure`."""
    batch = clips.batch()
    z = world.filter(batch)["z"]
    start = world.filter({key: value[:, :1] for key, value in batch.items()}).last()
    ahead = world.imagine(start, actions=batch["a"][:, :AHEAD], deterministic=True)["z"][:, -1]
    error, copied = (ahead - z[:, AHEAD]).square().mean(), (z[:, 0] - z[:, AHEAD]).square().mean()
    places = {
        "position": clips.positions,
        "wall": np.repeat(clips.layouts[:, None, :1], FRAMES, 1),
        "door": np.repeat(clips.layouts[:, None, 1:], FRAMES, 1),
    }
    return {
        "rank": rank_me(z) / z.shape[-1],
        "least": spread(z).least,
        **{key: probed(z.numpy(), value) for key, value in places.items()},
        "copy": float(error / copied),
    }


def probed(codes: NDArray[np.floating], values: NDArray[np.floating]) -> float:
    """R² on a fourth of the clips, of a regression fitted to the others."""
    cut = 3 * len(codes) // 4
    halves = [x.reshape(-1, x.shape[-1]) for x in (codes[:cut], values[:cut], codes[cut:], values[cut:])]
    return ridge_r2(Split(*halves))
