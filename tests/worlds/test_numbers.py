"""Numbers of the call in a world: a mixture density network as dynamics, less or more certain in a dream.

The world of Ha and Schmidhuber (arXiv 1803.10122): V encodes a frame, M is a mixture over the next code with a
temperature τ, at which the dream runs.
"""

import copy

import pytest
import torch
from torch import distributions as td
from torch import nn

from worldformula import Deterministic, E, Mixture, Normal, Sum, Symbol, World, log
from worldformula.errors import ConfigError, MissingInputError

B, T, X, Z, H, A, K = 3, 6, 5, 2, 8, 1, 4


class Joined(nn.Module):
    """A linear map of all conditions."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.map = nn.Linear(inputs, outputs)

    def forward(self, *conditions):
        return self.map(torch.cat(conditions, -1))


def mdn_world(tau=None):
    tau = Symbol("tau") if tau is None else tau
    core = Deterministic("h_t = f(h_{t-1},z_{t-1},a_{t-1})", Joined(H + Z + A, H), shape=H)
    model = Mixture("p(z_t|h_t)", nn.Linear(H, Z * K * 3), components=K, shape=Z, factored=True, temperature=tau)
    encode = Normal("q(z_t|x_t)", nn.Linear(X, 2 * Z), shape=Z)
    image = Normal("p(x_t|z_t)", nn.Linear(Z, X), shape=X, scale=Symbol("sigma"))
    loss = Sum("t", E(core * encode, -log(image) - log(model)), reset="first").mean()
    return World(prior=core * model, posterior=core * encode, heads=[image], loss=loss)


def test_a_dream_runs_at_a_temperature():
    torch.manual_seed(0)
    world = mdn_world()
    batch = {"x": torch.randn(B, T, X), "a": torch.randn(B, T, A), "first": torch.zeros(B, T)}
    states = world.filter(batch)
    last, actions = states.last(), torch.randn(B, 3, A)
    noise = {"z": torch.rand(B, 3, Z, 2)}
    dream = world.imagine(last, actions=actions, noise=noise, tau=1.2)
    h, z = last["h"], last["z"]
    model, core = world.prior.factors[1], world.prior.factors[0]
    for t in range(3):
        h = core.net(h, z, actions[:, t])
        z = Mixture("p(z|h)", model.net, components=K, shape=Z, factored=True, temperature=1.2).sample(
            h=h, noise=noise["z"][:, t]
        )
        torch.testing.assert_close(dream["h"][:, t + 1], h)
        torch.testing.assert_close(dream["z"][:, t + 1], z)
    for tau in (1.2, torch.tensor(1.2)):
        torch.testing.assert_close(world.imagine(last, actions=actions, noise=noise, tau=tau)["z"], dream["z"])
    cold = world.imagine(last.repeat(500), actions=actions.repeat_interleave(500, 0), seed=0, tau=0.2)["z"]
    warm = world.imagine(last.repeat(500), actions=actions.repeat_interleave(500, 0), seed=0, tau=2.0)["z"]
    assert cold[:, 1].view(B, 500, Z).std(1).mean() < 0.7 * warm[:, 1].view(B, 500, Z).std(1).mean()
    with pytest.raises(MissingInputError, match=r"^the formula needs tau; pass tau=\.\.\."):
        world.imagine(last, actions=actions)
    with pytest.raises(ConfigError) as refused:
        world.imagine(last, actions=actions, tau=0.0)
    assert str(refused.value) == "mixture: the temperature must be positive, got 0.0."
    world.decode(states, sigma=0.5)
    with pytest.raises(MissingInputError, match="needs sigma"):
        world.decode(states)


def test_a_loss_at_a_temperature_against_torch():
    torch.manual_seed(0)
    world, tau = mdn_world(), 1.3
    batch = {"x": torch.randn(B, T, X), "a": torch.randn(B, T, A), "first": torch.zeros(B, T)}
    out = world.loss(**batch, tau=tau, sigma=0.5, seed=0)
    z, h = out.samples["z"], out.samples["h"]
    model, image = world.prior.factors[1], world.heads["x"]
    head = model.net(h).unflatten(-1, (Z, -1))
    logits, loc, raw = head[..., :K], *head[..., K:].unflatten(-1, (K, 2)).unbind(-1)
    law = td.MixtureSameFamily(
        td.Categorical(logits=logits / tau), td.Normal(loc, nn.functional.softplus(raw) * tau**0.5)
    )
    expected = -law.log_prob(z).sum((1, 2)) - td.Normal(image.net(z), 0.5).log_prob(batch["x"]).sum((1, 2))
    torch.testing.assert_close(out.value, expected.mean())


def test_the_numbers_of_a_policy_and_of_a_filter():
    torch.manual_seed(0)
    core = Deterministic("h_t = f(h_{t-1},a_{t-1})", Joined(H + A, H), shape=H)
    prior = Normal("p(z_t|h_t)", nn.Linear(H, Z), shape=Z, scale=Symbol("s"))
    post = Normal("q(z_t|h_t,x_t)", Joined(H + X, Z), shape=Z, scale=Symbol("u"))
    image = Normal("p(x_t|h_t,z_t)", Joined(H + Z, X), shape=X, scale=1.0)
    loss = Sum("t", E(core * post, log(post) - log(prior) - log(image))).mean()
    world = World(prior=core * prior, posterior=core * post, heads=[image], loss=loss)
    batch = {"x": torch.randn(B, T, X), "a": torch.randn(B, T, A)}
    noise = world.noise(batch, u=0.3)
    wide, narrow = (world.filter(batch, noise=noise, u=u)["z"] for u in (0.3, 1e-6))
    torch.testing.assert_close(wide - narrow, 0.3 * noise["z"], rtol=1e-3, atol=1e-4)
    state = {**world.initial(B), "a": torch.zeros(B, A)}
    for t in range(T):
        seen = world.observe({"x": batch["x"][:, t]}, state, noise={"z": noise["z"][:, t : t + 1]}, u=0.3)
        torch.testing.assert_close(seen["z"], wide[:, t])
        state = {**seen, "a": batch["a"][:, t]}
    policy = Normal("π(a_t|h_t,z_t)", Joined(H + Z, A), shape=A, scale=Symbol("explore"))
    start = {k: state[k] for k in world.carried}
    drawn = {"z": torch.randn(B, 3, Z), "a": torch.randn(B, 4, A)}
    still = world.imagine(start, policy, horizon=3, noise=drawn, s=0.5, explore=1e-9)
    moved = world.imagine(start, policy, horizon=3, noise=drawn, s=0.5, explore=0.25)
    torch.testing.assert_close(moved["a"][:, 0] - still["a"][:, 0], 0.25 * drawn["a"][:, 0])
    with pytest.raises(MissingInputError, match="needs explore"):
        world.imagine(start, policy, horizon=3, s=0.5)
    copied = copy.deepcopy(world).imagine(start, policy, horizon=3, noise=drawn, s=0.5, explore=0.25)
    torch.testing.assert_close(copied["a"], moved["a"])
