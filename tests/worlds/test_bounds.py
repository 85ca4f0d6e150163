"""Bounds of sequence models by K particles, as losses of worlds."""

import math
from dataclasses import replace

import pytest
import torch

from worldformula import E, Sum, log
from worldformula.errors import ConfigError
from worldformula.testing import check_world
from worldformula.world.bounds import weighed
from worldformula.worlds import dmm, vrnn

B, T, K = 3, 5, 4
MODELS = {"vrnn": vrnn, "dmm": dmm}


def data(size=8):
    torch.manual_seed(0)
    first = torch.zeros(B, T, dtype=torch.bool)
    return {"x": torch.rand(B, T, size).bernoulli(), "first": first}


def parts(world):
    """p(x_t|…) p(z_t|…), q(z_t|…), and what a sequence begins with."""
    post, prior = (next(f for f in p.factors if f.variable.key == "z") for p in (world.posterior, world.prior))
    initial = getattr(world.loss, "initial_state", None)
    return world.heads["x"] * prior, post, None if initial is None else {"z": initial.z}


@pytest.mark.parametrize("name", MODELS)
def test_a_bound_of_whole_sequences_is_that_of_more_rows(name):
    """The same noise as K times the rows, one draw each, and a log-mean-exp by hand."""
    world = MODELS[name].build(MODELS[name].tiny())
    p, q, start = parts(world)
    given = data()
    one = Sum("t", E(world.posterior, log(p) - log(q)), reset="first", initial=start)
    many = {key: value.repeat(K, *[1] * (value.ndim - 1)) for key, value in given.items()}
    weights = one(**many, seed=3).value.view(K, B)
    expected = {"elbo": weights.mean(0), "iwae": weights.logsumexp(0) - math.log(K)}
    for bound, value in expected.items():
        found = weighed(bound, world.posterior, p, q, K, reset="first", initial=start)
        torch.testing.assert_close(found(**given, seed=3).value, value)


@pytest.mark.parametrize("bound", ["iwae", "fivo"])
@pytest.mark.parametrize("name", MODELS)
def test_a_world_is_trained_by_a_bound(name, bound):
    torch.manual_seed(0)
    module = MODELS[name]
    sizes = replace(module.tiny(), bound=bound, samples=K, **({"inference": "left"} if name == "dmm" else {}))
    world = module.build(sizes)
    check_world(world, data())
    p, q, start = parts(world)
    value = weighed(bound, world.posterior, p, q, K, reset="first", initial=start)(**data(), seed=0).value
    torch.testing.assert_close(world.loss(**data(), seed=0).value, -value.mean())


def test_a_filter_is_no_looser_than_its_particles_are_many():
    """A bound by more particles is higher on average, of the same model and proposals."""
    world = vrnn.build(vrnn.tiny())
    p, q, _ = parts(world)
    given = {key: value.repeat(100, *[1] * (value.ndim - 1)) for key, value in data().items()}
    with torch.no_grad():
        means = [
            weighed("fivo", world.posterior, p, q, k, reset="first")(**given, seed=0).value.mean() for k in (1, 64)
        ]
    assert means[1] > means[0]


@pytest.mark.parametrize("wrong", [{"bound": "fvo"}, {"samples": 0}])
def test_no_bound_is_refused(wrong):
    with pytest.raises(ConfigError, match="expected bound= as one of elbo, iwae, fivo and samples ≥ 1"):
        replace(vrnn.tiny(), **wrong)
