"""log Z of Boltzmann machines: brute force, closed forms, annealed importance sampling."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from worldformula.errors import ConfigError, ShapeError
from worldformula.metrics.ais import RBM, annealed_log_z, exact_log_z


def machine(visible, hidden, scale, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((visible, hidden), (visible,), (hidden,))
    return RBM(*(scale * torch.randn(shape, generator=generator) for shape in shapes))


@pytest.mark.parametrize(("visible", "hidden"), [(3, 4), (4, 2), (1, 1)])
def test_enumeration_against_all_joint_states(visible, hidden):
    rbm = machine(visible, hidden, 1.5)
    total = 0.0
    for v in product((0.0, 1.0), repeat=visible):
        for h in product((0.0, 1.0), repeat=hidden):
            vt, ht = torch.tensor(v), torch.tensor(h)
            total += math.exp(float(vt @ rbm.weight @ ht + rbm.visible @ vt + rbm.hidden @ ht))
    assert exact_log_z(rbm) == pytest.approx(math.log(total), rel=1e-5)


def test_probabilities_of_all_images_sum_to_one():
    rbm = machine(6, 9, 1.0)
    v = torch.tensor(list(product((0.0, 1.0), repeat=6)))
    assert float((rbm.log_unnormalised(v) - exact_log_z(rbm)).exp().sum()) == pytest.approx(1, rel=1e-4)


def test_without_weights_log_z_is_a_sum_of_softplus():
    rbm = RBM(torch.zeros(30, 40), torch.randn(30), torch.randn(40))
    expected = float(torch.nn.functional.softplus(torch.cat([rbm.visible, rbm.hidden]).double()).sum())
    found = annealed_log_z(rbm, temperatures=500, chains=256)
    assert found.log_z == pytest.approx(expected, abs=4 * found.error + 1e-3)


@pytest.mark.parametrize("seed", [0, 1])
def test_annealing_agrees_with_enumeration(seed):
    rbm = machine(64, 10, 0.5, seed)
    generator = torch.Generator().manual_seed(seed)
    found = annealed_log_z(rbm, temperatures=1000, chains=256, generator=generator)
    assert found.error < 0.05
    assert found.log_z == pytest.approx(exact_log_z(rbm), abs=4 * found.error + 0.01)


def test_a_base_near_the_data_shortens_the_way():
    rbm = machine(64, 10, 0.5)
    likely = rbm.visible + 0.5 * rbm.weight.sum(1)  # pixels given half of every hidden unit
    errors = [annealed_log_z(rbm, temperatures=60, chains=256, base=base).error for base in (None, likely)]
    assert errors[1] < 0.7 * errors[0]


def test_two_temperatures_are_too_few():
    rbm = machine(64, 10, 0.7)
    rough = annealed_log_z(rbm, temperatures=2, chains=256)
    assert rough.error > 0.2
    assert rough.log_z < exact_log_z(rbm) - 1  # the mean weight is missed from below


def test_equal_generators_give_equal_values():
    rbm = machine(8, 3, 1.0)
    draws = [
        annealed_log_z(rbm, temperatures=20, chains=16, generator=torch.Generator().manual_seed(s)).log_z
        for s in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2]


def test_wrong_machines_are_refused():
    with pytest.raises(ShapeError, match=r"got \(3, 4\), \(4,\), \(3,\)"):
        RBM(torch.zeros(3, 4), torch.zeros(4), torch.zeros(3))
    with pytest.raises(ConfigError, match="at most 20 units, got .25, 30.; use annealed_log_z"):
        exact_log_z(machine(25, 30, 0.1))
    with pytest.raises(ConfigError, match="chains ≥ 2"):
        annealed_log_z(machine(2, 2, 0.1), chains=1)
