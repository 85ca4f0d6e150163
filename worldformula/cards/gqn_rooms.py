"""Measures a GQN on mini-rooms: pictures of unseen rooms from unseen cameras, and what their representation knows."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from worldformula.data.rooms import COLOURS, SHAPES, TEST_SCENES, Rooms, rooms
from worldformula.fitting import fit
from worldformula.models.gqn import GQN, SYSTEM, build, tiny
from worldformula.training.source import Batch


def measure(seed: int) -> dict[str, float]:
    """Train on 2500 scenes, test on 200 others: the last view of each is asked for, given 0 to 5 of the others.

    Returns:
        ``mse_M`` and ``kl_M``: squared error per pixel of one draw, and nats of KL, with M context views;
        ``mse_mean_5``: of the mean of ten draws; ``mean_image`` and ``nearest_view``: the floors. ``order``: relative
        change of the loss when the views come in another order. ``algebra`` and ``algebra_colour``: how often
        r_a − r_b + r_c is nearest to the mean of the right (shape, colour) of eight, and has the right colour;
        ``direct``: the same for r itself. And `margins`.
    """
    torch.manual_seed(seed)
    model = build(tiny())
    known, unseen = rooms(), rooms(TEST_SCENES, seed=1)
    whole = {"x": torch.from_numpy(known.images), "v": torch.from_numpy(known.views)}
    fit(model, whole, seed=seed, progress=False, **SYSTEM.fits["tiny"])
    found: dict[str, float] = {}
    for count in (0, 1, 2, 5):
        found |= {f"{k}_{count}": v for k, v in scored(model, unseen, count, seed).items()}
    last = torch.from_numpy(unseen.images[:, -1])
    asked = given(unseen, 5)
    draws = torch.stack([answer(model, asked, seed + i) for i in range(10)])
    found["mse_mean_5"] = float((draws.mean(0) - last).square().mean())
    found["mean_image"] = float((last - torch.from_numpy(known.images).mean((0, 1))).square().mean())
    found["nearest_view"] = float((nearest(unseen) - last).square().mean())
    found["order"] = reordered(model, asked)
    found |= algebra(model, known, unseen, seed)
    return found | margins(found)


def margins(found: Mapping[str, float]) -> dict[str, float]:
    """What views are worth.

    Returns:
        ``left``: the error given five views over that given none; ``saved``: how much it is less than that of the mean
        image; ``fall``: by how many nats the KL falls from 0 to 1, 2 and 5 views, where it falls least.
    """
    kl = [found[f"kl_{count}"] for count in (0, 1, 2, 5)]
    return {
        "left": found["mse_5"] / found["mse_0"], "saved": found["mean_image"] - found["mse_5"],
        "fall": min(fewer - more for fewer, more in itertools.pairwise(kl)),
    }  # fmt: skip


def given(data: Rooms, count: int) -> Batch:
    """The last view asked for, the first ``count`` of the five others shown."""
    x, v = torch.from_numpy(data.images), torch.from_numpy(data.views)
    flags = (torch.arange(5) < count).float().expand(len(x), 5)
    return {"x": x[:, :5], "v": v[:, :5], "k": flags, "x_prime": x[:, 5], "v_prime": v[:, 5]}


def answer(model: GQN, asked: Batch, seed: int) -> Tensor:
    """One draw of the pictures that are asked for."""
    return model.query(asked["v_prime"], **{k: asked[k] for k in "xvk"}, seed=seed)


@torch.no_grad()
def scored(model: GQN, data: Rooms, count: int, seed: int) -> dict[str, float]:
    """Squared error of a draw, and the KL."""
    asked = given(data, count)
    out = model.loss(**asked, **model.symbols, seed=seed)
    kl = next(float(v) for k, v in out.terms.items() if k.startswith("Σ"))
    return {"mse": float((answer(model, asked, seed) - asked["x_prime"]).square().mean()), "kl": kl}


@torch.no_grad()
def reordered(model: GQN, asked: Batch) -> float:
    """Relative change of the loss when the views are turned round."""
    turned = {**asked, **{k: asked[k].flip(1) for k in "xvk"}}
    one, two = (float(model.loss(**a, **model.symbols, seed=0).value) for a in (asked, turned))
    return abs(one - two) / abs(one)


def nearest(data: Rooms) -> Tensor:
    """The context picture whose camera is nearest to the one asked for."""
    distance = np.linalg.norm(data.views[:, :5, :3] - data.views[:, 5:, :3], axis=-1)
    return torch.from_numpy(data.images[np.arange(len(distance)), distance.argmin(1)])


def algebra(model: GQN, known: Rooms, unseen: Rooms, seed: int, trials: int = 500) -> dict[str, float]:
    """Take the colour of one room and the shape of another: r(s, c') − r(s, c) + r(s', c) should be like (s', c')."""
    r, labels = represented(model, known)
    centres = torch.stack([r[labels == i].mean(0) for i in range(len(SHAPES) * len(COLOURS))])
    test, classes = represented(model, unseen)
    rng = np.random.default_rng(seed)

    def room(shape: int, colour: int) -> Tensor:
        return test[int(rng.choice(np.flatnonzero(classes == shape * len(COLOURS) + colour)))]

    right, colours = [], []
    for _ in range(trials):
        s, other = rng.permutation(len(SHAPES))[:2]
        c, new = rng.permutation(len(COLOURS))[:2]
        made = room(s, new) - room(s, c) + room(other, c)
        guess = int((centres - made).square().sum(-1).argmin())
        right.append(guess == other * len(COLOURS) + new)
        colours.append(guess % len(COLOURS) == new)
    direct = (test[:, None] - centres).square().sum(-1).argmin(1).numpy() == classes
    return {"algebra": float(np.mean(right)), "algebra_colour": float(np.mean(colours)), "direct": float(direct.mean())}


def represented(model: GQN, data: Rooms) -> tuple[Tensor, np.ndarray]:
    """r [N, R] from five views, and which of the eight (shape, colour) [N]."""
    asked = given(data, 5)
    return model.represent(**{k: asked[k] for k in "xvk"}), data.shape * len(COLOURS) + data.colour
