"""Worlds without a decoder: a term in its place, which moves the state and leaves its target alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.formula.defects.both import refused
from worldformula.errors import ConfigError
from worldformula.formula import E, Mean, Redundancy, Value, sg
from worldformula.testing import check_world
from worldformula.world.embeddings import BARLOW, predicted
from worldformula.worlds import rssm

B, T = 3, 5
SHAPES = {"image": (8, 8, 3), "speed": (2,)}


def config(target):
    tiny = rssm.tiny()
    sizes = replace(tiny.sizes, deter=16, hidden=8, classes=3, groups=2, depth=2, units=8)
    return replace(tiny, sizes=sizes, stages=(2,), patch=1, target=target)


def batch():
    rng = torch.Generator().manual_seed(0)
    flags = torch.zeros(B, T, dtype=torch.bool)
    flags[:, 0] = flags[1, 3] = True
    return {
        "image": torch.rand(B, T, 8, 8, 3, generator=rng), "speed": torch.randn(B, T, 2, generator=rng),
        "a": torch.randn(B, T, 2, generator=rng), "r": torch.randn(B, T, generator=rng), "c": torch.ones(B, T),
        "first": flags,
    }  # fmt: skip


def built(target):
    torch.manual_seed(0)
    return rssm.build(config(target), SHAPES, 2)


@pytest.mark.parametrize("target", ["barlow", "info_nce", "none"])
def test_the_laws_of_a_world_hold_and_no_observation_is_decoded(target):
    world = built(target)
    assert set(world.heads) == {"r", "c"}
    check_world(world, batch())


@pytest.mark.parametrize("target", ["reconstruction", "barlow", "info_nce", "none"])
def test_the_rest_of_the_loss_is_that_of_every_target(target):
    """With equal weights and draws, KL, reward and continuation are the same numbers."""
    one, other = built("none"), built(target)
    own = other.state_dict()
    other.load_state_dict({k: v for k, v in one.state_dict().items() if k in own} | {
        k: v for k, v in own.items() if k not in one.state_dict()
    })  # fmt: skip
    first, second = (w.loss(**batch(), seed=1).terms for w in (one, other))
    assert set(first) <= set(second)
    for name, value in first.items():
        torch.testing.assert_close(second[name], value)


def test_barlow_is_the_cross_correlation_of_all_rows():
    world = built("barlow")
    out = world.loss(**batch(), seed=1)
    a, b = (out.samples[k].detach().double().numpy().reshape(B * T, -1) for k in ("hat_e", "e"))
    a, b = ((x - x.mean(0)) / (x.std(0, ddof=1) + 1e-8) for x in (a, b))
    c = a.T @ b / len(a)
    right = ((1 - np.diag(c)) ** 2).sum() + 5e-4 * ((c**2).sum() - (np.diag(c) ** 2).sum())
    (name,) = [name for name in out.terms if name.startswith("Redundancy")]
    assert out.terms[name].item() == pytest.approx(right, rel=1e-4)
    plain = built("none")
    assert BARLOW * right == pytest.approx((out.value - sum_of_rest(world, plain)).item(), rel=1e-4)


def sum_of_rest(world, plain):
    """The loss of the same weights without the term."""
    plain.load_state_dict({k: v for k, v in world.state_dict().items() if k in plain.state_dict()})
    return plain.loss(**batch(), seed=1).value


def test_the_embedding_is_a_target_alone():
    """Nothing of the term reaches the encoder but through the prediction, that is, the posterior's draw."""
    world = built("barlow")
    encoder = next(f.net for f in world.posterior.factors if f.variable.key == "e")
    draws, _ = predicted("barlow", 16 + 6, encoder.width)
    loss = Mean(
        "t", E(world.posterior * draws[0], Redundancy(sg(Value(r"\hat e_t")), sg(Value("e_t", shape=encoder.width))))
    ).mean()
    value = loss(**{k: v for k, v in batch().items() if k in loss.program.inputs}, seed=0).value
    assert not value.requires_grad
    world.loss(**batch(), seed=0).value.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_another_word_is_refused():
    with refused("barlow", "Did you mean 'barlow'", error=ConfigError):
        config("barlo")
