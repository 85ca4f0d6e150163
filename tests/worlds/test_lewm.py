"""LeWM: its loss by hand in NumPy, its laws, and what SIGReg is there for."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from worldformula.errors import ConfigError
from worldformula.testing import check_world
from worldformula.worlds import lewm

B, T, D, M = 4, 6, 5, 7
SMALL = lewm.LeWMConfig(D, (4, 4), units=8, layers=1, normality=0.7, directions=M)
SHAPES = {"image": (9, 9, 3), "body": (2,)}


def rows(dtype=torch.float64):
    torch.manual_seed(0)
    first = torch.zeros(B, T, dtype=torch.bool)
    first[:, 0] = first[1, 3] = True
    seen = {"image": torch.rand(B, T, 9, 9, 3, dtype=dtype), "body": torch.randn(B, T, 2, dtype=dtype)}
    return {**seen, "a": torch.rand(B, T, 2, dtype=dtype) * 2 - 1, "first": first}


def normality(z, directions):
    """The integral of Epps and Pulley along each direction, by SciPy's own trapezoid rule on both sides of 0."""
    from scipy.integrate import trapezoid

    t = np.linspace(-3, 3, 33)
    found = []
    for theta in directions / np.linalg.norm(directions, axis=-1, keepdims=True):
        phi = np.exp(1j * np.outer(t, z @ theta)).mean(1)
        found.append(trapezoid(np.abs(phi - np.exp(-(t**2) / 2)) ** 2 * np.exp(-(t**2) / 2), t))
    return np.mean(found)


@pytest.mark.parametrize("path", ["call", "interpret"])
def test_the_loss_is_that_of_loops_over_rows(path):
    torch.manual_seed(1)
    world, given = lewm.build(SMALL, SHAPES, 2).double(), rows()
    networks = dict(world.loss.named_children())
    e, f = networks["e"], networks["f"]
    torch.nn.init.normal_(f.head.weight)  # it begins as a copy of the latent
    noise = world.loss.noise(**given, generator=torch.Generator().manual_seed(3))
    z = e(given["image"].flatten(0, 1), given["body"].flatten(0, 1)).unflatten(0, (B, T)).detach()
    error = np.zeros((B, T))
    for b in range(B):
        for t in range(T):
            if given["first"][b, t]:
                past = []
                continue
            past = [*past, torch.cat((z[b, t - 1], given["a"][b, t - 1]))][-3:]
            window = torch.cat([torch.zeros((3 - len(past)) * (D + 2), dtype=z.dtype), *past])
            ahead = z[b, t - 1] + f.head(f.trunk(window[None]))[0]
            error[b, t] = ((ahead - z[b, t]) ** 2).mean().item()
    directions = next(iter(noise.values())).reshape(-1, D)[:M].numpy()
    far = np.mean([normality(z[:, t].numpy(), directions) for t in range(T)])
    loss = world.loss if path == "call" else world.loss.interpret
    assert loss(**given, noise=noise).value.item() == pytest.approx(error.mean() + 0.7 * far, rel=1e-9)


def test_laws():
    torch.manual_seed(0)
    check_world(lewm.build(SMALL, SHAPES, 2), rows(torch.float32))
    check_world(lewm.build(SMALL, {"body": (3,)}, {"left": 1, "right": 2}), {
        "x": torch.randn(B, T, 3), "left": torch.rand(B, T, 1), "right": torch.rand(B, T, 2),
        "first": rows()["first"],
    })  # fmt: skip


def test_a_dream_reads_the_last_three_latents():
    """It differs where the third last latent did, and not where the fourth last did."""
    torch.manual_seed(1)
    world, given = lewm.build(SMALL, {"body": (2,)}, 2), {"x": torch.randn(1, T, 2), "a": torch.rand(1, T, 2)}
    torch.nn.init.normal_(dict(world.loss.named_children())["f"].head.weight)
    given["first"] = torch.arange(T)[None] == 0

    def ahead(changed):
        x = given["x"].clone()
        if changed is not None:
            x[:, changed] += 1
        return world.imagine(world.filter({**given, "x": x}).last(), actions=torch.zeros(1, 1, 2))["z"][:, -1]

    assert not torch.allclose(ahead(T - 3), ahead(None))
    torch.testing.assert_close(ahead(T - 4), ahead(None))


def test_refused():
    with pytest.raises(ConfigError, match="some channels"):
        lewm.LeWMConfig(channels=())
    with pytest.raises(ConfigError, match="normality ≥ 0"):
        replace(SMALL, normality=-1.0)
    with pytest.raises(ConfigError, match="action dimension"):
        lewm.build(SMALL, SHAPES, 0)
