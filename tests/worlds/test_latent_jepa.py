"""The joint-embedding world with a latent: its loss by loops in NumPy, its laws, a fork of one number."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from worldformula.errors import ConfigError
from worldformula.nets.observed import Residual
from worldformula.testing import check_world
from worldformula.worlds import latent_jepa
from worldformula.worlds.latent_jepa import LatentJEPAConfig

B, T, D = 4, 5, 6
SMALL = LatentJEPAConfig(codes=3, price=0.7, latent=D, channels=(4, 4), units=8, covariance=0.3)
SHAPES = {"image": (9, 9, 3), "body": (2,)}
KINDS = {
    "none": replace(SMALL, z="none"),
    "codes": replace(SMALL, beta=2.0),
    "least": replace(SMALL, beta=None),
    "free codes": replace(SMALL, price=1e-6),
    "normal": replace(SMALL, z="normal"),
}


def rows(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    first = torch.zeros(B, T, dtype=torch.bool)
    first[:, 0] = first[1, 3] = True
    seen = {"image": torch.rand(B, T, 9, 9, 3, dtype=dtype), "body": torch.randn(B, T, 2, dtype=dtype)}
    return {**seen, "a": torch.rand(B, T, 2, dtype=dtype) * 2 - 1, "first": first}


def awake(world):
    """Networks that begin as zeros say something."""
    for module in world.loss.modules():
        if isinstance(module, latent_jepa.Law | Residual):
            torch.nn.init.normal_(module.net.head.weight)
            torch.nn.init.normal_(module.net.head.bias)
    return world


def by_hand(config, world, given, noise, f=None):
    """Everything but the networks themselves, by loops over rows and steps."""
    e, (net,) = world.posterior.factors[0].net, [p.net for p in world.dynamics.prior.factors if p.family is None]
    f = net if f is None else f
    law = next((p.net for p in world.dynamics.prior.factors if p.family is not None), None)
    inside = dict(world.loss.named_children())
    q = next((m for name, m in inside.items() if name.startswith("q_z")), None)
    a, first, k = given["a"], given["first"].numpy(), config.codes
    s = e(given["image"].flatten(0, 1), given["body"].flatten(0, 1)).unflatten(0, (B, T)).detach()
    energy, similar, inverse = np.zeros((3, B, T))
    for b in range(B):
        for t in range(T):
            if first[b, t]:
                continue
            at, act, to = s[b, t - 1][None], a[b, t - 1][None], s[b, t]
            if config.z == "none":
                energy[b, t] = ((f(at, act)[0] - to) ** 2).mean().item()
            elif config.z == "codes":
                logits = law(at, act)[0].detach().numpy()
                logs = np.log(0.99 * np.exp(logits) / np.exp(logits).sum() + 0.01 / k)
                tried = [f(at, act, torch.eye(k, dtype=s.dtype)[i][None])[0].detach().numpy() for i in range(k)]
                each = np.array([((w - to.numpy()) ** 2).mean() - config.price * logs[i] for i, w in enumerate(tried)])
                soft = config.beta is not None
                energy[b, t] = -np.log(np.exp(-config.beta * each).sum()) / config.beta if soft else each.min()
            else:
                (m, r), (n, u) = (h[0].detach().numpy().reshape(2, k) for h in (q(at, act, to[None]), law(at, act)))
                v, w = np.log1p(np.exp(r)), np.log1p(np.exp(u))
                z = torch.from_numpy(m + v * noise[b, t].numpy())
                kl = (np.log(w / v) + (v**2 + (m - n) ** 2) / (2 * w**2) - 0.5).sum()
                energy[b, t] = ((f(at, act, z[None])[0] - to) ** 2).mean().item() + config.price * kl
            similar[b, t] = ((to - at[0]) ** 2).mean().item()
            inverse[b, t] = ((inside["g"](at, to[None])[0] - act[0]) ** 2).mean().item()
    flat = s.flatten(0, 1).numpy()
    apart = np.maximum(0, 1 - np.sqrt(flat.var(0, ddof=1) + 1e-4)).mean()
    c = np.cov(flat.T)
    alike = ((c**2).sum() - (np.diag(c) ** 2).sum()) / D
    return (
        energy.mean() + config.deviation * apart + config.covariance * alike
        + config.similarity * similar.mean() + config.inverse * inverse.mean()
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["call", "interpret"])
def test_the_loss_is_that_of_loops_over_rows(kind, path):
    torch.manual_seed(1)
    config = KINDS[kind]
    world = awake(latent_jepa.build(config, SHAPES, 2).double())
    given, noise = rows(), torch.randn(B, T, 3, dtype=torch.float64)
    loss = world.loss if path == "call" else world.loss.interpret
    drawn = {"noise": {"z": noise}} if config.z == "normal" else {}
    assert loss(**given, **drawn).value.item() == pytest.approx(by_hand(config, world, given, noise), rel=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_laws(kind):
    torch.manual_seed(0)
    world = latent_jepa.build(KINDS[kind], SHAPES, 2)
    check_world(world, rows(dtype=torch.float32))


def test_one_code_is_a_predictor_without_a_latent():
    torch.manual_seed(0)
    one = awake(latent_jepa.build(replace(SMALL, codes=1), SHAPES, 2).double())
    core = one.dynamics.prior.factors[1].net

    def plain(s, a):
        return core(s, a, torch.ones(len(s), 1, dtype=s.dtype))

    assert one.loss(**rows()).value.item() == pytest.approx(by_hand(KINDS["none"], one, rows(), None, plain), rel=1e-8)


def test_dreams_draw_z_from_its_prior_and_may_be_given_it():
    torch.manual_seed(0)
    world = awake(latent_jepa.build(SMALL, SHAPES, 2))
    assert world.dynamics.choices == ("z",)
    start = world.filter(rows(dtype=torch.float32)).last().only(["s"])
    many, act = start.select(torch.zeros(4000, dtype=torch.long)), torch.zeros(4000, 1, 2)
    ahead = world.imagine(many, actions=act, seed=0)["s"][:, 1]
    law, core = world.dynamics.prior.factors
    share = 0.99 * law.net(many["s"][:1], act[:1, 0]).softmax(-1)[0] + 0.01 / 3
    codes = torch.eye(3)
    each = torch.cat([core.net(many["s"][:1], act[:1, 0], c[None]) for c in codes])
    which = torch.cdist(ahead, each).argmin(1)
    assert torch.cdist(ahead, each).min(1).values.max() < 1e-5
    counts = torch.bincount(which, minlength=3) / 4000
    torch.testing.assert_close(counts, share, atol=0.03, rtol=0)
    told = world.imagine(many, actions={"a": act, "z": codes[1].expand(4000, 1, 3)})["s"][:, 1]
    torch.testing.assert_close(told, each[1].expand(4000, -1))


def learnt(config, steps=300):
    """A world of one number that stays or goes one up or down, as a coin says; its observations are the latent."""
    torch.manual_seed(0)
    world = latent_jepa.build(config, {"x": (1,)}, 1)
    adam = torch.optim.Adam(world.parameters(), lr=3e-3)
    first = torch.zeros(64, 2, dtype=torch.bool)
    first[:, 0] = True
    for _ in range(steps):
        x = torch.zeros(64, 2, 1)
        x[:, 1, 0] = torch.randint(0, 2, (64,)) * 2.0 - 1
        adam.zero_grad()
        world.loss(x=x, a=torch.zeros(64, 2, 1), first=first).value.backward()
        adam.step()
    e = world.posterior.factors[0].net
    with torch.no_grad():
        middle, left, right = e(torch.tensor([[0.0], [-1.0], [1.0]]))
    return world, middle, left, right


@pytest.mark.slow
def test_without_a_latent_the_middle_is_foretold_and_with_two_codes_both_ends():
    """The mean of two futures is δ away from either, where each of them is 2δ away from the other."""
    small = replace(SMALL, latent=2, units=16, codes=2, price=0.05, inverse=0.0, similarity=0.0)
    config = replace(small, z="none")
    world, middle, left, right = learnt(config)
    with torch.no_grad():
        (guess,) = world.imagine({"s": middle[None]}, actions=torch.zeros(1, 1, 1))["s"][:, 1]
    delta = (left - right).norm() / 2
    assert (guess - (left + right) / 2).norm() < 0.15 * delta
    world, middle, left, right = learnt(small)
    with torch.no_grad():
        given = {"a": torch.zeros(2, 1, 1), "z": torch.eye(2)[:, None]}
        guesses = world.imagine({"s": middle.expand(2, -1)}, actions=given)["s"][:, 1]
    gaps = torch.cdist(guesses, torch.stack((left, right)))
    delta = (left - right).norm() / 2
    assert gaps.min(0).values.max() < 0.15 * delta  # each end has a code
    f = latent_jepa.energy(small, world)
    zero = torch.zeros(1, 1)
    far, near = (f(s=middle[None], a=zero, y=y[None]).value for y in ((left + right) / 2, left))
    assert far > near + 0.5 * delta**2 / 2


def test_the_energy_of_a_normal_latent_is_sought():
    torch.manual_seed(0)
    config = KINDS["normal"]
    world = awake(latent_jepa.build(config, SHAPES, 2))
    law, core = world.dynamics.prior.factors
    s, a, y = torch.randn(3, D), torch.zeros(3, 2), torch.randn(3, D)
    found = latent_jepa.energy(config, world, steps=500, step_size=0.05)(s=s, a=a, y=y).value
    torch.manual_seed(1)
    with torch.no_grad():
        z = law.sample(s=s.repeat(2000, 1), a=a.repeat(2000, 1), seed=0)
        cost = (core.net(s.repeat(2000, 1), a.repeat(2000, 1), z) - y.repeat(2000, 1)).square().mean(-1)
        cost = (cost - config.price * law.log_prob(z=z, s=s.repeat(2000, 1), a=a.repeat(2000, 1))).view(2000, 3)
    assert (found <= cost.min(0).values + 3e-3).all()


def test_refused():
    for wrong, message in (
        ({"z": "many"}, "'none', 'codes' or 'normal'"),
        ({"codes": 0}, "codes, latent"),
        ({"price": 0.0}, "prior of z learns"),
        ({"beta": 0.0}, "beta > 0"),
        ({"inverse": -1.0}, "inverse"),
    ):
        with pytest.raises(ConfigError, match=message):
            LatentJEPAConfig(**wrong)
    with pytest.raises(ConfigError, match="action dimension"):
        latent_jepa.build(SMALL, SHAPES, 0)
    with pytest.raises(ConfigError, match="other names"):
        latent_jepa.build(SMALL, {"s": (2,), "body": (2,)}, 1)


def test_beta_that_is_given_is_that_of_the_settings_and_makes_codes_learn_alike_where_it_is_small():
    config = replace(latent_jepa.tiny(), anneals=True)
    torch.manual_seed(0)
    given, fixed = (latent_jepa.build(own, {"body": (3,)}, 2) for own in (config, latent_jepa.tiny()))
    fixed.load_state_dict(given.state_dict())
    batch = {"x": torch.randn(4, 5, 3), "a": torch.randn(4, 5, 2), "first": torch.zeros(4, 5, dtype=torch.bool)}
    torch.testing.assert_close(given.loss(**batch, beta=20.0).value, fixed.loss(**batch).value)
    assert given.loss(**batch, beta=60.0).value != fixed.loss(**batch).value
    for wrong in ({"z": "none"}, {"beta": None}):
        with pytest.raises(ConfigError, match="expected codes and a soft minimum"):
            replace(config, **wrong)
