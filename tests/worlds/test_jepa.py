"""The joint-embedding world: its loss by hand in NumPy, its laws, and what happens without what keeps latents apart."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from worldformula.errors import ConfigError
from worldformula.testing import check_world
from worldformula.worlds import jepa

B, T, D = 4, 5, 6
SMALL = jepa.JEPAConfig(latent=D, channels=(4, 4), units=8, covariance=0.3)
SHAPES = {"image": (9, 9, 3), "body": (2,)}


def rows(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    first = torch.zeros(B, T, dtype=torch.bool)
    first[:, 0] = first[1, 3] = True
    seen = {"image": torch.rand(B, T, 9, 9, 3, dtype=dtype), "body": torch.randn(B, T, 2, dtype=dtype)}
    return {**seen, "a": torch.rand(B, T, 2, dtype=dtype) * 2 - 1, "first": first}


def by_hand(config, world, given):
    """Everything but the networks themselves, by loops over rows and steps."""
    e, f = world.posterior.factors[0].net, world.dynamics.prior.factors[0].net
    g = dict(world.loss.named_children()).get("g")
    a, first = given["a"], given["first"].numpy()
    z = e(given["image"].flatten(0, 1), given["body"].flatten(0, 1)).unflatten(0, (B, T)).detach().numpy()
    predicted, similar, inverse = np.zeros((3, B, T))
    for b in range(B):
        for t in range(T):
            if first[b, t]:
                rolled = z[b, t]
                continue
            led = f(torch.from_numpy(rolled)[None], a[b, t - 1][None])[0]
            rolled = led.detach().numpy()
            predicted[b, t] = ((rolled - z[b, t]) ** 2).mean()
            similar[b, t] = ((z[b, t] - z[b, t - 1]) ** 2).mean()
            if g is not None:
                guess = g(torch.from_numpy(z[b, t - 1])[None], torch.from_numpy(z[b, t])[None])[0].detach().numpy()
                inverse[b, t] = ((guess - a[b, t - 1].numpy()) ** 2).mean()
    apart = np.mean([np.maximum(0, 1 - np.sqrt(z[:, t].var(0, ddof=1) + 1e-4)).mean() for t in range(T)])
    alike = []
    for t in range(T):
        c = np.cov(z[:, t].T)
        alike.append(((c**2).sum() - (np.diag(c) ** 2).sum()) / D)
    return (
        predicted.mean() + config.deviation * apart + config.covariance * np.mean(alike)
        + config.similarity * similar.mean() + config.inverse * inverse.mean()
    )  # fmt: skip


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, similarity=0.0, inverse=0.0)], ids=["PLDM", "VICReg"])
@pytest.mark.parametrize("path", ["call", "interpret"])
def test_the_loss_is_that_of_loops_over_rows(config, path):
    torch.manual_seed(1)
    world = jepa.build(config, SHAPES, 2).double()
    torch.nn.init.normal_(world.dynamics.prior.factors[0].net.net.head.weight)  # it begins as a copy of the latent
    given = rows()
    loss = world.loss if path == "call" else world.loss.interpret
    assert loss(**given).value.item() == pytest.approx(by_hand(config, world, given), rel=1e-9)


def test_laws():
    torch.manual_seed(0)
    check_world(jepa.build(SMALL, SHAPES, 2), rows(dtype=torch.float32))
    check_world(jepa.build(SMALL, {"body": (3,)}, {"left": 1, "right": 2}), {
        "x": torch.randn(B, T, 3), "left": torch.rand(B, T, 1), "right": torch.rand(B, T, 2),
        "first": rows()["first"],
    })  # fmt: skip


def test_it_begins_by_predicting_no_change():
    world = jepa.build(SMALL, SHAPES, 2)
    start = world.filter(rows(dtype=torch.float32)).last()
    ahead = world.imagine(start, actions=torch.rand(B, 3, 2))["z"]
    torch.testing.assert_close(ahead, start["z"].unsqueeze(1).expand(-1, 4, -1))


def test_a_decoder_adds_the_squared_error_of_its_pictures():
    """Against the mean over rows of the sum over pixels, in NumPy; the constant of a normal is there too."""
    torch.manual_seed(1)
    plain, world = (jepa.build(replace(SMALL, reconstruction=r), SHAPES, 2).double() for r in (0.0, 0.3))
    world.load_state_dict(plain.state_dict(), strict=False)
    given = rows()
    z = world.filter(given)["z"]
    seen = world.decode(world.filter(given))["image"].detach().numpy()
    error = ((seen - given["image"].numpy()) ** 2).sum((2, 3, 4)).mean()
    constant = 0.5 * np.log(np.pi) * seen[0, 0].size
    more = world.loss(**given).value.item() - plain.loss(**given).value.item()
    assert z.shape == (B, T, D)
    assert more == pytest.approx(0.3 * (error + constant), rel=1e-9)
    check_world(jepa.build(replace(SMALL, reconstruction=0.3), SHAPES, 2), rows(dtype=torch.float32))


def test_brightness_and_contrast_of_a_picture_change_nothing():
    torch.manual_seed(0)
    encoder = jepa.build(SMALL, {"image": (9, 9, 3)}, 2).double().posterior.factors[0].net
    picture = torch.rand(2, 9, 9, 3, dtype=torch.float64)
    torch.testing.assert_close(encoder(0.5 * picture + 0.2), encoder(picture), rtol=1e-3, atol=1e-5)


def codes_after(config, steps=200):
    """z ``[N, D]`` after learning from a point that actions move."""
    torch.manual_seed(0)
    world = jepa.build(config, {"x": (2,)}, 2)
    adam = torch.optim.Adam(world.parameters(), lr=3e-3)
    first = torch.zeros(32, 6, dtype=torch.bool)
    first[:, 0] = True
    for _ in range(steps):
        a = torch.rand(32, 6, 2) * 2 - 1
        x = torch.randn(32, 1, 2) + torch.cat((torch.zeros(32, 1, 2), a[:, :-1].cumsum(1)), 1)
        adam.zero_grad()
        world.loss(x=x, a=a, first=first).value.backward()
        adam.step()
    with torch.no_grad():
        return world.posterior.factors[0].net(x.flatten(0, 1))


def test_without_variance_and_covariance_it_collapses_and_with_them_it_does_not():
    small = replace(SMALL, inverse=0.0)
    assert codes_after(replace(small, deviation=0.0, covariance=0.0)).std(0).max() < 0.05
    assert codes_after(small).std(0).min() > 0.3


@pytest.mark.slow
def test_each_term_of_the_regulariser_keeps_what_the_other_does_not():
    """Without variance nothing is far apart; without covariance numbers are, and say the same: the participation ratio
    of the covariance's eigenvalues, by NumPy.
    """
    small = replace(SMALL, inverse=0.0)

    def told(config):
        codes = codes_after(config).numpy().astype(np.float64)
        values = np.linalg.eigvalsh(np.cov(codes.T))
        return np.median(codes.std(0)), values.sum() ** 2 / (values**2).sum()

    whole, flat, same = told(small), told(replace(small, deviation=0.0)), told(replace(small, covariance=0.0))
    assert flat[0] < 0.1 * whole[0]
    assert same[0] > 0.5 * whole[0]
    assert same[1] < 0.8 * whole[1]


def test_refused():
    with pytest.raises(ConfigError, match="channels ≥ 1"):
        jepa.JEPAConfig(channels=())
    with pytest.raises(ConfigError, match="inverse and reconstruction ≥ 0"):
        jepa.JEPAConfig(inverse=-1.0)
    with pytest.raises(ConfigError, match="expected pictures where reconstruction > 0"):
        jepa.build(replace(SMALL, reconstruction=1.0), {"body": (2,)}, 2)
    with pytest.raises(ConfigError, match="action dimension"):
        jepa.build(SMALL, SHAPES, 0)
