"""The worlds of PlaNet and of Dreamer v1 and v2: laws of every variant, published widths, free nats, balancing."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from worldformula.errors import ConfigError
from worldformula.testing import check_world
from worldformula.world import World
from worldformula.worlds import discrete_rssm, gaussian_rssm

B, T = 2, 5
GAUSSIAN = gaussian_rssm.tiny()
SMALL = {"deter": 6, "hidden": 7, "depth": 2, "units": 8}
VARIANTS = {
    "ssm": replace(GAUSSIAN, state="ssm", **SMALL), "deterministic": replace(GAUSSIAN, state="deterministic", **SMALL),
    "overshooting": replace(GAUSSIAN, overshooting=3, **SMALL), "continuation": replace(GAUSSIAN, proceed=2.0, **SMALL),
    "dreamer": replace(gaussian_rssm.dreamer(), **SMALL),
}  # fmt: skip
PICTURE = {"image": (16, 16, 3)}
SEEN = {"one": PICTURE, "several": {**PICTURE, "depth": (16, 16, 1), "speed": (3,), "far": ()}}


def data(world: World, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    g = torch.Generator().manual_seed(0)
    batch: dict[str, Any] = {"a": torch.rand(B, T, 2, generator=g), "r": torch.rand(B, T, generator=g)}
    batch |= {"c": torch.rand(B, T, generator=g), "first": torch.zeros(B, T, dtype=torch.bool)}
    batch["first"][0, 2] = True
    for key, word in world.observations.items():
        shape = shapes[key] if len(shapes[key]) == 3 else (math.prod(shapes[key]),)
        batch[word] = torch.rand(B, T, *shape, generator=g)
    return {k: v for k, v in batch.items() if k in world.loss.program.inputs}


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_keeps_the_laws_of_a_world(name: str, seen: str) -> None:
    torch.manual_seed(0)
    world = gaussian_rssm.build(VARIANTS[name], SEEN[seen], 2)
    check_world(world, data(world, SEEN[seen]))
    assert world.carried == (("z",) if name == "ssm" else ("h", "z"))


def test_a_discrete_world_with_a_continuation_and_several_observations_keeps_them_too() -> None:
    torch.manual_seed(0)
    config = replace(discrete_rssm.tiny(), proceed=1.0, **SMALL)
    world = discrete_rssm.build(config, SEEN["several"], {"a": 2})
    check_world(world, data(world, SEEN["several"]))


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def linear(*widths: int) -> int:
    return sum(i * o + o for i, o in itertools.pairwise(widths))


IMAGES_32, DECODER_32 = 690_144, lambda inputs: linear(inputs, 1024) + 3_795_555 - linear(230, 1024)


@pytest.mark.parametrize(
    ("config", "cell", "reward"),
    [
        (gaussian_rssm.paper(), 3 * 400 * 200 + 3 * 200, linear(230, 300, 300, 300, 1)),
        (gaussian_rssm.dreamer(), 3 * 400 * 200 + 6 * 200, linear(230, 400, 400, 1)),
    ],
    ids=["planet", "dreamer_v1"],
)
def test_the_published_gaussian_worlds_have_the_weights_of_their_layers(config: Any, cell: int, reward: int) -> None:
    """By the layer list of the authors' code for 64 × 64 × 3 pixels and 6 actions."""
    own = linear(36, 200) + cell + linear(200, 200, 60) + linear(1224, 200, 60)
    world = gaussian_rssm.build(config, {"image": (64, 64, 3)}, 6)
    assert count(world) == IMAGES_32 + own + DECODER_32(230) + reward


def test_the_published_discrete_world_has_as_many_weights_as_its_layers() -> None:
    """Atari: 48 channels at first, one grey picture, 18 choices; heads of 4 × 400. The paper tells of 20 million."""
    S, D, F = 1024, 600, 1624
    pairs = [(1, 48), (48, 96), (96, 192), (192, 384)]
    back = [(1536, 192, 5), (192, 96, 5), (96, 48, 6), (48, 1, 6)]
    core = linear(S + 18, D) + linear(2 * D, 3 * D) + 2 * 3 * D
    latent = linear(D, D, S) + linear(D + 1536, D, S)
    images = sum(16 * i * o + o for i, o in pairs) + linear(F, 1536) + sum(k * k * i * o + o for i, o, k in back)
    heads = 2 * linear(F, 400, 400, 400, 400, 1)
    world = discrete_rssm.build(discrete_rssm.paper(), {"image": (64, 64, 1)}, 18)
    assert count(world) == core + latent + images + heads
    assert 18e6 < count(world) < 22e6


def test_free_nats_of_a_step_and_of_the_mean_are_two_things() -> None:
    """As many are free as there are on average: of the mean nothing is held back, of the steps some is."""
    losses, between = {}, 0.0

    def value(free: Any, nats: float) -> Any:
        torch.manual_seed(0)
        world = gaussian_rssm.build(replace(GAUSSIAN, free=free, bits=0, free_nats=nats, **SMALL), PICTURE, 2)
        return world.loss(**data(world, PICTURE), seed=0)

    for free in ("step", "mean"):
        base = value(free, 0.0)
        between = between or base.terms["KL(q(z_t|h_t,e_t) ‖ p(z_t|h_t))"].item()  # the mean over steps
        losses[free] = base.value - value(free, between).value
    torch.testing.assert_close(losses["mean"], torch.tensor(0.0), atol=1e-5, rtol=0)  # max(mean, mean) is the mean
    # Σ max(0, k) − Σ max(0, k − m) is more than nothing, and less than m: some steps lie above, some below.
    assert 0 < losses["step"].item() < between


def test_the_balance_shares_the_gradient_between_prior_and_posterior() -> None:
    """The KL's value is the same for every α; the prior's gradient grows with α, the posterior's falls."""
    found = {}
    for balance in (0.5, 0.8):
        torch.manual_seed(0)
        config = replace(discrete_rssm.tiny(), balance=balance, free_nats=0.0, **SMALL)
        world = discrete_rssm.build(config, {"speed": (3,)}, 2)
        out = world.loss(**data(world, {"speed": (3,)}), seed=0)
        prior = next(f for f in world.prior.factors if f.variable.key == "z").net
        found[balance] = out.value, torch.autograd.grad(out.value, list(prior.parameters()))
    torch.testing.assert_close(found[0.5][0], found[0.8][0])
    for one, two in zip(found[0.5][1], found[0.8][1], strict=True):
        torch.testing.assert_close(one * 1.6, two)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"state": "gru"}, "expected state of rssm, ssm, deterministic, got 'gru'"),
        ({"bits": 9}, "bits between 0 and 8"),
        ({"overshooting": 4, "state": "ssm"}, "overshooting=4 rolls the prior of an RSSM"),
        ({"stoch": 0}, "expected deter, stoch"),
        ({"free_nats": -1.0}, "free_nats"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        replace(GAUSSIAN, **wrong)


def test_a_discrete_world_refuses_an_impossible_balance() -> None:
    with pytest.raises(ConfigError, match="expected balance in"):
        replace(discrete_rssm.tiny(), balance=1.5)
