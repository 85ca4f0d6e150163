"""SimCore: the levels by hand, what runs in the loop, the laws, and the constraint."""

from dataclasses import replace

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from worldformula.errors import ConfigError
from worldformula.testing import check_world
from worldformula.worlds.simcore import Sizes, build

B, T = 3, 7
SMALL = Sizes(pixels=6, actions=2, belief=8, core=5, latent=2, hidden=7, horizons=(1, 3))


def batch(dtype=torch.double):
    first = torch.zeros(B, T, dtype=torch.bool)
    first[1, 2] = True
    x, a = torch.rand(B, T, 6).bernoulli(), torch.randn(B, T, 2)
    return {"x": x.to(dtype), "a": a.to(dtype), "first": first}


def test_every_level_simulates_from_the_belief_that_many_steps_before():
    torch.manual_seed(0)
    world, data = build(SMALL).double(), batch()
    data["first"][:] = False
    noise = world.loss.noise(**data)
    out, walked = (run(**data, noise=noise) for run in (world.loss, world.loss.interpret))
    torch.testing.assert_close(out.value, walked.value)
    weights = list(world.parameters())
    pulls = [torch.autograd.grad(v, weights) for v in (out.value, walked.value)]
    torch.testing.assert_close(*pulls)
    nets, b = dict(world.loss.named_children()), out.samples["b"]
    total = torch.zeros(B, dtype=torch.double)
    for t in range(3, T):
        for k in (1, 3):
            s = nets["f"](b[:, t - k])
            for step in range(k):
                s = nets["g"](s, data["a"][:, t - k + step])
            torch.testing.assert_close(out.samples[f"s_{k}"][:, t], s)
            e = nets["enc"](data["x"][:, t])
            q, p = Normal(**nets["q_z_1_given_s_1_e"](s, e)), Normal(**nets["p_z_1_given_s_1"](s))
            z = q.loc + q.scale * noise[f"z_{k}"][:, t]
            image = Bernoulli(logits=nets["p_x_given_z_1_s_1"](z, s)).log_prob(data["x"][:, t])
            total += (kl_divergence(q, p).sum(-1) - image.sum(-1)) / (T - 3) / 2
    torch.testing.assert_close(out.value, total.mean())


def test_only_the_belief_runs_step_by_step():
    loop, after = build(SMALL).loss.code.split("# in the loop")[1].split("# after the loop")
    assert loop.count("self.") == loop.count("lstm = self.lstm\n") == loop.count("b = lstm(") == 1
    assert after.count("self.g(") == 3


def test_laws_and_a_step():
    torch.manual_seed(0)
    world, data = build(SMALL), batch(torch.float32)
    check_world(world, data)
    optimiser = torch.optim.Adam(world.parameters(), lr=1e-3)
    before = world.loss(**data, seed=0).value
    before.backward()
    optimiser.step()
    assert world.loss(**data, seed=0).value < before


def test_the_constraint_weighs_the_error_above_its_target():
    torch.manual_seed(0)
    plain, held = build(SMALL), build(replace(SMALL, target=2.0))
    held.load_state_dict(plain.state_dict())
    data = batch(torch.float32)
    noise = plain.loss.noise(**data)
    one = held.loss(**data, **{"lambda": 1.0}, noise=noise).value
    torch.testing.assert_close(one, plain.loss(**data, noise=noise).value - 2.0)
    assert r"\lambda" in str(held.loss)


def test_horizons_are_checked():
    with pytest.raises(ConfigError, match="horizons"):
        replace(SMALL, horizons=(2, 1))
