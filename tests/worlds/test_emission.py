"""Worlds of vectors whose observations are numbers, and not bits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm

from worldformula.errors import ConfigError
from worldformula.model.config import start
from worldformula.model.run import loaded, sized
from worldformula.testing import check_world
from worldformula.worlds import dmm, hmm, vrnn

B, T, X = 3, 6, 2
SIZES = {
    "vrnn": vrnn.Sizes(pixels=X, latent=3, recurrent=8, features=8, observed="numbers"),
    "dmm": dmm.Sizes(pixels=X, latent=3, recurrent=8, transition=8, emission=8, inference="left", observed="numbers"),
}
BUILD = {"vrnn": vrnn.build, "dmm": dmm.build}


def batch(seed=0):
    g = torch.Generator().manual_seed(seed)
    return {"x": 10 * torch.randn(B, T, X, generator=g), "first": torch.arange(T).expand(B, T) == 0}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("bound", ["elbo", "fivo"])
def test_the_world_keeps_its_laws(name, bound):
    torch.manual_seed(0)
    world = BUILD[name](replace(SIZES[name], bound=bound, samples=1 if bound == "elbo" else 4))
    if bound == "elbo":
        check_world(world, batch())
    value = world.loss(**batch(), seed=0).value
    assert torch.isfinite(value)
    value.backward()
    assert all(p.grad is not None for p in world.loss.parameters())


@pytest.mark.parametrize("name", SIZES)
def test_the_density_is_that_of_independent_normals(name):
    torch.manual_seed(0)
    world, given = BUILD[name](SIZES[name]), batch()
    out = world.loss(**given, seed=0)
    (title,) = [term for term in out.steps if term.startswith("log p(x_t|")]
    net = world.heads["x"].net
    heads, found = [], net.net
    handle = found.register_forward_hook(lambda _, __, made: heads.append(made.detach()))
    again = world.loss(**given, seed=0)
    handle.remove()
    loc, raw = (part.numpy() for part in torch.cat(heads)[: B * T].chunk(2, -1))
    scale = np.log1p(np.exp(raw)) + 1e-3
    orders = given["x"].numpy(), given["x"].numpy().swapaxes(0, 1)  # batches of steps, or a loop over them
    sums = [norm.logpdf(x.reshape(-1, X), loc, scale).sum() for x in orders]
    told = again.steps[title].sum().item()
    assert min(abs(total - told) for total in sums) < 1e-3 * abs(told)


@pytest.mark.parametrize("name", ["vrnn", "dmm", "hmm"])
def test_what_a_file_holds_says_what_is_observed(name, tmp_path):
    numbers, bits = np.random.default_rng(0).normal(3, 2, (8, 12, X)), np.zeros((8, 12, X))
    for array, observed in ((numbers, "numbers"), (bits, "bits")):
        np.savez(tmp_path / "episodes.npz", x=array.astype(np.float32))
        config = start(name, "tiny", str(tmp_path / "episodes.npz"))
        found = sized(config, loaded(config)).sizes
        assert found.observed == observed
        assert found.pixels == X
    asked = sized(config.changed(["observed=numbers"]), loaded(config))
    assert asked.sizes.observed == "numbers"


def test_numbers_of_another_unit_are_told(tmp_path):
    np.savez(tmp_path / "large.npz", x=np.random.default_rng(0).normal(0, 1e6, (8, 12, X)).astype(np.float32))
    config = start("vrnn", "tiny", str(tmp_path / "large.npz"))
    with pytest.raises(ConfigError, match=r"x holds numbers from .*\n.* around 1"):
        sized(config, loaded(config))
    scaled = start("rssm", "tiny", str(tmp_path / "large.npz"))
    assert sized(scaled, loaded(scaled)).columns["x"]["shape"] == [X], "which reads them by symlog"


@pytest.mark.parametrize("sizes", [*SIZES.values(), hmm.Sizes(pixels=2, states=3)])
def test_another_kind_is_told(sizes):
    with pytest.raises(ConfigError, match="observed 'bits' or 'numbers'"):
        replace(sizes, observed="reals")
