"""Disentanglement scores: oracle, rotated oracle and random codes, and small cases counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from worldformula.data.sprites import sprites
from worldformula.errors import ConfigError, ShapeError
from worldformula.metrics.disentangle import controls, dci, factor_vae_score, mig, sap

ALL = sprites().factors
FACTORS = ALL[np.random.default_rng(0).integers(768, size=10_000)]
CODES = controls(FACTORS)


def test_mig_of_the_controls():
    assert mig(CODES["oracle"], FACTORS) == pytest.approx(0.998, abs=0.001)
    rotated = [mig(controls(FACTORS, seed)["rotated"], FACTORS) for seed in range(10)]
    assert 0.15 < np.mean(rotated) < 0.35  # one rotation may have anything from .1 to .5: print several
    assert max(rotated) < 0.6
    assert mig(CODES["random"], FACTORS) < 0.003


def test_mig_against_scikit_learn():
    rng = np.random.default_rng(1)
    codes = ALL @ rng.standard_normal((4, 3)) + rng.standard_normal((768, 3))
    gaps = []
    for factor in ALL.T:
        edges = [np.linspace(c.min(), c.max(), 21)[1:-1] for c in codes.T]
        information = sorted(mutual_info_score(np.digitize(c, e), factor) for c, e in zip(codes.T, edges, strict=True))
        gaps.append((information[-1] - information[-2]) / mutual_info_score(factor, factor))
    assert mig(codes, ALL) == pytest.approx(np.mean(gaps))


def test_a_factor_that_is_coded_twice_has_no_gap():
    twice = np.concatenate([ALL, ALL], 1)
    assert mig(ALL, ALL) == pytest.approx(1)
    assert mig(twice, ALL) == pytest.approx(0, abs=1e-9)


def test_scores_do_not_mind_order_or_scale_of_the_dimensions():
    codes = CODES["rotated"]
    other = codes[:, [2, 0, 3, 1]] * np.array([10.0, -1.0, 0.5, 3.0]) + 7
    assert mig(other, FACTORS) == pytest.approx(mig(codes, FACTORS), abs=0.01)
    assert factor_vae_score(other, FACTORS) == pytest.approx(factor_vae_score(codes, FACTORS))


def test_factor_vae_score_of_the_controls_does_not_tell_a_rotation():
    assert factor_vae_score(CODES["oracle"], FACTORS) == 1
    assert factor_vae_score(CODES["random"], FACTORS) == pytest.approx(0.25, abs=0.04)
    rotated = [factor_vae_score(controls(FACTORS, s)["rotated"], FACTORS, train=2000, test=1000) for s in range(6)]
    assert np.mean(rotated) > 0.7  # why MIG stands beside it


def test_dead_dimensions_take_no_vote():
    dead = np.concatenate([CODES["oracle"], np.full((10_000, 1), 3.0), 1e-3 * CODES["random"][:, :1]], 1)
    assert factor_vae_score(dead, FACTORS) == 1
    with pytest.raises(ConfigError, match="below 0.05"):
        factor_vae_score(np.zeros((10_000, 3)), FACTORS)


def test_dci_tells_the_controls_apart():
    scores = {name: dci(codes[:3000], FACTORS[:3000]) for name, codes in CODES.items()}
    assert scores["oracle"].disentanglement > 0.9 > 0.5 > scores["rotated"].disentanglement
    assert scores["oracle"].completeness > 0.9 > 0.5 > scores["rotated"].completeness
    assert scores["random"].disentanglement < 0.05
    assert scores["oracle"].informativeness > 0.99
    assert scores["rotated"].informativeness > 0.9  # a rotation loses nothing
    assert scores["random"].informativeness < 0.35


def test_a_rotation_keeps_all_distances():
    between = [np.linalg.norm(CODES[name][:50, None] - CODES[name][:50], axis=-1) for name in ("oracle", "rotated")]
    assert np.allclose(*between)


def test_wrong_shapes_are_refused():
    with pytest.raises(ShapeError, match=r"got \(5, 2\) and \(4, 2\)"):
        factor_vae_score(np.zeros((5, 2)), np.zeros((4, 2)))
    with pytest.raises(ShapeError, match="two dimensions or more"):
        mig(np.zeros((5, 1)), np.zeros((5, 2)))


def test_sap_of_the_controls():
    assert sap(CODES["oracle"], FACTORS) == pytest.approx(1.0, abs=0.001)
    rotated = [sap(controls(FACTORS, seed)["rotated"], FACTORS) for seed in range(10)]
    assert 0.15 < np.mean(rotated) < 0.5
    assert sap(CODES["random"], FACTORS) < 0.01
    assert sap(np.concatenate([ALL, ALL], 1), ALL) == pytest.approx(0, abs=1e-9)


def test_sap_is_the_gap_of_squared_correlations_and_of_counts():
    rng = np.random.default_rng(2)
    codes = ALL @ rng.standard_normal((4, 3)) + rng.standard_normal((768, 3))
    gaps = []
    for factor in ALL.T:
        scores = sorted(np.corrcoef(column, factor)[0, 1] ** 2 for column in codes.T)
        gaps.append(scores[-1] - scores[-2])
    assert sap(codes, ALL) == pytest.approx(np.mean(gaps))
    kind = np.array([0, 0, 1, 1, 2, 2])[:, None]
    known = np.stack([[0.0, 0.0, 5.0, 5.0, 10.0, 10.0], [1.0, 1.0, 1.0, 1.0, 1.0, 2.0]], -1)
    assert sap(known, kind, categorical=[0]) == pytest.approx(1 - 3 / 6)  # two of five in the first bin, one of one


def test_sap_of_a_constant_dimension_and_of_wrong_columns():
    dead = np.concatenate([CODES["oracle"], np.full((10_000, 1), 3.0)], 1)
    assert sap(dead, FACTORS) == pytest.approx(1.0, abs=0.001)
    with pytest.raises(ShapeError, match="columns from 0 to 3, got"):
        sap(ALL, ALL, categorical=[4])
    with pytest.raises(ShapeError, match="two dimensions or more"):
        sap(ALL[:, :1], ALL)
