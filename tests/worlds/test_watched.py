"""Latents that nothing decodes: what is logged of them, and how far a copy of the first one is off, by NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

from worldformula import Deterministic, E, Mean, Value, norm2
from worldformula.errors import FormulaError
from worldformula.world import World
from worldformula.worlds import jepa, latent_jepa, lewm, recalling

B, T = 5, 6


class Turn(nn.Module):
    """z + ½ a."""

    def forward(self, z, a):
        return z + 0.5 * a


def world(**options):
    see, step = Deterministic("z_t = e(x_t)", nn.Identity(), shape=2), Turn()
    rolled = Deterministic(r"\hat z_t = f(z_{t-1}, a_{t-1})", step, shape=2)
    off = E(see * rolled, norm2(Value(r"\hat z_t", shape=2) - Value("z_t", shape=2)))
    core = Deterministic("z_t = f(z_{t-1}, a_{t-1})", step, shape=2)
    return World(prior=core, posterior=see, loss=Mean("t", off, reset="first").mean(), **options)


def batch():
    torch.manual_seed(0)
    first = torch.zeros(B, T, dtype=torch.bool)
    first[:, 0] = first[3, 2] = True
    return {"x": torch.randn(B, T, 2), "a": torch.randn(B, T, 2), "first": first}


def test_the_copy_is_that_of_the_first_latent_of_windows_within_one_episode():
    given = batch()
    told = world(embeddings=["z"]).watched(given)
    x, a = given["x"].numpy(), given["a"].numpy()
    own = [b for b in range(B) if b != 3]
    ahead = x[own, 0] + 0.5 * a[own, : T - 1].sum(1)
    right = ((ahead - x[own, -1]) ** 2).mean() / ((x[own, 0] - x[own, -1]) ** 2).mean()
    assert told["codes/z/copy"] == pytest.approx(right, rel=1e-5)
    assert told["codes/z/least"] == pytest.approx(x.reshape(-1, 2).std(0, ddof=1).min(), rel=1e-5)  # all rows
    steps = np.diff(x[own], axis=1)
    lengths = np.linalg.norm(steps, axis=-1)
    cosine = (steps[:, 1:] * steps[:, :-1]).sum(-1) / (lengths[:, 1:] * lengths[:, :-1])
    assert told["codes/z/straightness"] == pytest.approx(cosine.mean(), rel=1e-4)


def test_without_embeddings_nothing_is_told_and_unknown_ones_are_refused():
    assert world().watched(batch()) == {}
    with pytest.raises(FormulaError, match="the posterior declares z, and not s"):
        world(embeddings=["s"])


def test_of_windows_that_all_cross_an_episode_rank_and_deviation_are_told_alone():
    given = batch()
    given["first"][:, 3] = True
    assert world(embeddings=["z"]).watched(given).keys() == {
        f"codes/z/{k}" for k in ("least", "median", "share", "rank")
    }


def test_joint_embedding_worlds_of_the_catalogue_say_what_their_latents_are():
    shapes = {"body": (3,)}
    assert jepa.build(jepa.tiny(), shapes, 1).embeddings == ("z",)
    assert lewm.build(lewm.tiny(), shapes, 1).embeddings == ("z",)
    assert latent_jepa.build(latent_jepa.tiny(), shapes, 1).embeddings == ("s",)
    assert jepa.build(jepa.autoencoder(), {"image": (9, 9, 3)}, 1).embeddings == ()
    assert recalling.build(recalling.tiny()).embeddings == ()


@pytest.mark.parametrize("made", [jepa, lewm, latent_jepa], ids=lambda m: m.SYSTEM.name)
def test_they_can_be_watched_while_they_learn(made):
    torch.manual_seed(0)
    own = made.build(made.tiny(), {"body": (2,)}, 2)
    told = own.watched(batch())
    name = own.embeddings[0]
    assert {f"codes/{name}/{k}" for k in ("rank", "median", "copy", "lidar", "straightness")} <= told.keys()
