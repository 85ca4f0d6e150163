"""Worlds without a decoder: a term in its place, which moves the state and leaves its target alone."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from tests.agents.early import COLUMNS, NUMBERS, rows
from tests.formula.defects.both import refused
from worldformula import catalogue
from worldformula.errors import ConfigError
from worldformula.formula import E, Mean, Redundancy, Value, sg
from worldformula.testing import check_world
from worldformula.training.settings import override
from worldformula.training.slow import move_slow
from worldformula.world.embeddings import BARLOW, Target, predicted
from worldformula.world.views import HORIZONS
from worldformula.worlds import rssm

B, T = 3, 5
SHAPES = {"image": (8, 8, 3), "speed": (2,)}


def config(target):
    tiny = rssm.tiny()
    sizes = replace(tiny.sizes, deter=16, hidden=8, classes=3, groups=2, depth=2, units=8)
    return replace(tiny, sizes=sizes, stages=(2,), patch=1, target=target)


def batch(T=T):
    rng = torch.Generator().manual_seed(0)
    flags = torch.zeros(B, T, dtype=torch.bool)
    flags[:, 0] = flags[1, 3] = True
    return {
        "image": torch.rand(B, T, 8, 8, 3, generator=rng), "speed": torch.randn(B, T, 2, generator=rng),
        "a": torch.randn(B, T, 2, generator=rng), "r": torch.randn(B, T, generator=rng), "c": torch.ones(B, T),
        "first": flags,
    }  # fmt: skip


def built(target, shapes=SHAPES):
    torch.manual_seed(0)
    return rssm.build(config(target), shapes, 2)


@pytest.mark.parametrize("target", ["barlow", "info_nce", "next", "cpc", "prototypes", "none"])
def test_the_laws_of_a_world_hold_and_no_observation_is_decoded(target):
    world = built(target)
    assert set(world.heads) == {"r", "c"}
    check_world(world, batch(HORIZONS + 1) if target == "cpc" else batch())


@pytest.mark.parametrize("target", get_args(Target))
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
    draws, _ = predicted("barlow", 16 + 6, encoder.width, {"a": 2})
    loss = Mean(
        "t", E(world.posterior * draws[0], Redundancy(sg(Value(r"\hat e_t")), sg(Value("e_t", shape=encoder.width))))
    ).mean()
    value = loss(**{k: v for k, v in batch().items() if k in loss.program.inputs}, seed=0).value
    assert not value.requires_grad
    world.loss(**batch(), seed=0).value.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_the_next_embedding_is_told_by_the_past_of_its_episode_alone():
    """Rows behind a reset and those before it do not hear of each other; a step without a past does not count."""
    world, given = built("next"), batch()
    one = world.loss(**given, seed=1)
    moved = {**given, "image": given["image"].clone()}
    moved["image"][1, 2] = 1 - moved["image"][1, 2]  # the step before the reset of the second sequence
    other = world.loss(**moved, seed=1)
    a, b = (out.samples["hat_e"].detach().reshape(B, T, -1) for out in (one, other))
    torch.testing.assert_close(a[1, 3:], b[1, 3:])
    torch.testing.assert_close(a[1, :3], b[1, :3])  # it tells the next step, and there is none
    moved["a"] = given["a"].clone()
    moved["a"][1, 1] += 1.0
    c = world.loss(**moved, seed=1).samples["hat_e"].detach().reshape(B, T, -1)
    assert not torch.allclose(a[1, 2], c[1, 2])
    counted = ~given["first"]
    e = one.samples["e"].detach().double().reshape(B, T, -1)[counted].numpy()
    hat = a.double()[counted].numpy()
    e, hat = ((x - x.mean(0)) / (x.std(0, ddof=1) + 1e-8) for x in (e, hat))
    matrix = hat.T @ e / len(e)
    right = ((1 - np.diag(matrix)) ** 2).sum() + 5e-4 * ((matrix**2).sum() - (np.diag(matrix) ** 2).sum())
    (name,) = [name for name in one.terms if name.startswith("Redundancy")]
    assert one.terms[name].item() == pytest.approx(right, rel=1e-3)


def arrays(out, *names):
    return [out.samples[name].detach().double().numpy() for name in names]


def test_cpc_foretells_crops_of_its_episode_from_states_and_the_actions_on_the_way():
    """The term by loops over what was drawn; which rows count by hand."""
    steps = 6
    world, given = built("cpc"), batch(steps)
    out = world.loss(**given, seed=1)
    hat, code, counts = arrays(out, "hat_g", "g_prime", "M_prime")
    first = given["first"].numpy()
    assert hat.shape == code.shape == (B, steps, HORIZONS, 8)
    total = 0.0
    for k in range(HORIZONS):
        rows = []
        for b in range(B):
            for t in range(steps):
                whole = t >= k and not first[b, t - k + 1 : t + 1].any()
                assert counts[b, t, k] == whole
                rows += [(b, t)] if whole else []
        if rows:
            a, c = (np.stack([x[b, t, k] for b, t in rows]) for x in (hat, code))
            scores = a @ c.T
            total += 0.75**k * (np.log(np.exp(scores).sum(1)) - np.diag(scores)).mean()
    total /= sum(0.75**k for k in range(HORIZONS))
    (name,) = [name for name in out.terms if name.startswith("CPC")]
    assert out.terms[name].item() == pytest.approx(total, rel=1e-5)


def test_a_crop_is_foretold_by_the_actions_before_it_alone():
    """F by its networks on the state and the actions of the rows between, one row at a time."""
    world, given = built("cpc"), batch(6)
    out = world.loss(**given, seed=1)
    h, z, hat = out.samples["h"], out.samples["hat_z"].flatten(2), out.samples["hat_g"]
    a = given["a"]
    for b, t, k in ((0, 5, 0), (0, 5, 1), (2, 4, 3), (1, 5, 2)):
        read = torch.cat((h[b, t - k], z[b, t - k], *a[b, t - k : t]))
        torch.testing.assert_close(hat[b, t, k], world.F.nets[k](read[None])[0])
    assert world.F.nets[3].inputs == 16 + 6 + 3 * 2


def test_cpc_moves_the_prior_and_the_encoder_by_both_of_its_sides():
    world = built("cpc")
    out = world.loss(**batch(6), seed=1)
    (name,) = [name for name in out.terms if name.startswith("CPC")]
    prior = next(f for f in world.prior.factors if f.variable.key == "z")
    encoder = next(f for f in world.posterior.factors if f.variable.key == "e")
    for net in (prior.net, encoder.net):
        found = torch.autograd.grad(out.terms[name], list(net.parameters()), retain_graph=True)
        assert all(g.abs().sum() > 0 for g in found)


def test_twister_keeps_the_decoder_beside_it():
    world = built("twister")
    assert {"image", "y"} <= set(world.heads)
    check_world(world, batch(HORIZONS + 1))
    out = world.loss(**batch(), seed=1)
    assert sum(name.startswith("CPC") for name in out.terms) == 1
    assert sum(name.startswith(("log p(image", "log p(y")) for name in out.terms) == 2


def test_prototypes_are_assigned_by_what_the_slow_encoder_says_of_shifted_pictures():
    """The terms of the loss, from what was drawn, by NumPy: cosines, Sinkhorn by products, cross-entropies, lengths."""
    world, given = built("prototypes"), batch()
    out, rest = world.loss(**given, seed=1), sum_of_rest(world, built("none"))
    g, hat, slow = (x.reshape(B * T, -1) for x in arrays(out, "g", "hat_g", "g_prime"))
    directions = world.C.weight.detach().double().numpy()
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    own, said, target = (x / np.linalg.norm(x, axis=1, keepdims=True) @ directions.T for x in (g, hat, slow))

    def assigned(scores, wanted):
        shares = np.exp(wanted / 0.05)
        for _ in range(3):
            shares /= shares.sum(0)
            shares /= shares.sum(1, keepdims=True)
        p = np.exp(scores / 0.1)
        return -(shares * np.log(p / p.sum(1, keepdims=True))).sum(1).mean()

    counts = ~given["first"].numpy().reshape(-1)
    right = assigned(own, target) + assigned(said[counts], target[counts])
    right += sum(((np.linalg.norm(x, axis=1) - 1) ** 2).mean() for x in (g, hat))
    assert (out.value - rest).item() == pytest.approx(right, rel=1e-4)
    shifted = out.samples["image_prime"]
    assert shifted.shape == given["image"].shape
    assert not torch.allclose(shifted, given["image"])


def test_no_gradient_reaches_the_slow_copies_and_they_follow_by_a_twentieth():
    world = built("prototypes")
    optimiser = torch.optim.SGD([p for p in world.parameters() if p.requires_grad], 0.1)
    before = {k: v.clone() for k, v in world.state_dict().items()}
    world.loss(**batch(), seed=1).value.backward()
    slow = [name for name, _ in world.named_parameters() if name.startswith("slow_")]
    assert len(slow) == sum(name.startswith(("enc.", "W.")) for name, _ in world.named_parameters())
    assert all(p.grad is None for name, p in world.named_parameters() if name in slow)
    optimiser.step()
    move_slow(world.loss)
    after = world.state_dict()
    for name in slow:
        fast = name.removeprefix("slow_")
        assert not torch.equal(before[fast], after[fast]), name
        torch.testing.assert_close(after[name], 0.95 * before[name] + 0.05 * after[fast])


@pytest.mark.parametrize("target", ["cpc", "twister", "prototypes"])
@pytest.mark.parametrize(
    "shapes", [{"speed": (2,)}, {"image": (8, 8, 3)}, {"left": (8, 8, 3), "right": (8, 8, 1), "speed": (2,)}]
)
def test_the_order_of_the_sequences_tells_nothing_whatever_is_observed(target, shapes):
    world, given = built(target, shapes), batch(6)
    rng = torch.Generator().manual_seed(1)
    seen = {world.observations[k]: torch.rand(B, 6, *shape, generator=rng) for k, shape in shapes.items()}
    given = seen | {k: v for k, v in given.items() if k not in ("image", "speed")}
    noise = world.loss.noise(**given)
    value = world.loss(**given, noise=noise).value
    order = torch.tensor([2, 0, 1])
    moved = world.loss(**{k: v[order] for k, v in given.items()}, noise={k: v[order] for k, v in noise.items()}).value
    torch.testing.assert_close(moved, value)
    assert ("u" in noise) == any(len(shape) == 3 for shape in shapes.values())
    torch.testing.assert_close(world.loss.interpret(**given, noise=noise).value, value)


@pytest.mark.parametrize("target", ["cpc", "prototypes"])
def test_an_agent_learns_by_it_from_states_that_its_replay_keeps(target):
    small = ["batch=3", "length=5", "imag_last=3", "imagine=3", "warmup=0", "context=1", f"world.target={target}"]
    system = catalogue.find("dreamer_v3")
    agent = system.build(override(system.sizes("tiny"), small), COLUMNS, NUMBERS, seed=0)
    given = rows()
    given |= {f"start/{k}": np.ones((3, *shape), np.float32) for k, shape in agent.latents.items()}
    given |= {"start/action": given["action"][:, 0]}
    before = {k: v.clone() for k, v in agent.state_dict().items()}
    metrics = [agent.update(given) for _ in range(2)]
    assert all(np.isfinite(float(v)) for v in metrics[-1].values())
    slow = [k for k in before if k.startswith("world.slow_") and k.endswith("weight")]
    assert bool(slow) == (target == "prototypes")
    assert all(not torch.equal(agent.state_dict()[k], before[k]) for k in slow)


def test_a_past_that_no_replay_keeps_is_refused_before_anything_is_played():
    system = catalogue.find("dreamer_v3")
    for preset in ("paper", "size1m"):
        with refused("expected context=0, got 1", error=ConfigError):
            override(system.sizes(preset), ["world.target=next"])
        assert override(system.sizes(preset), ["world.target=next", "context=0"]).world.target == "next"
    with refused("two prototypes or more", error=ConfigError):
        override(system.sizes("tiny"), ["world.prototypes=1"])


def test_another_word_is_refused():
    with refused("barlow", "Did you mean 'barlow'", error=ConfigError):
        config("barlo")
