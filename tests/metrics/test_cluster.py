"""Clusterings against labels: scikit-learn, all permutations, and clusterings that are worthless."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from sklearn import metrics

from worldformula.errors import ShapeError
from worldformula.metrics.cluster import adjusted_rand, contingency, hungarian_accuracy, normalised_information

RNG = np.random.default_rng(0)
LABELS = RNG.integers(4, size=300)
NOISY = np.where(RNG.random(300) < 0.3, RNG.integers(4, size=300), (LABELS + 1) % 4)


def test_the_best_naming_against_all_namings():
    best = max(np.mean(np.array(order)[NOISY] == LABELS) for order in permutations(range(4)))
    assert hungarian_accuracy(NOISY, LABELS) == pytest.approx(best)


@pytest.mark.parametrize("clusters", [NOISY, RNG.integers(7, size=300), LABELS * 5, np.zeros(300, int)])
def test_indices_against_scikit_learn(clusters):
    assert adjusted_rand(clusters, LABELS) == pytest.approx(metrics.adjusted_rand_score(LABELS, clusters), abs=1e-12)
    expected = metrics.normalized_mutual_info_score(LABELS, clusters)
    assert normalised_information(clusters, LABELS) == pytest.approx(expected, abs=1e-9)


def test_a_renamed_truth_is_perfect_and_a_random_one_worthless():
    renamed = np.array([2, 0, 3, 1])[LABELS]
    scores = [score(renamed, LABELS) for score in (hungarian_accuracy, adjusted_rand, normalised_information)]
    assert scores == pytest.approx([1, 1, 1])
    shuffled = RNG.permutation(LABELS)
    assert hungarian_accuracy(shuffled, LABELS) < 0.36
    assert abs(adjusted_rand(shuffled, LABELS)) < 0.03
    assert normalised_information(shuffled, LABELS) < 0.05


def test_more_clusters_than_labels_leave_some_without_a_name():
    assert hungarian_accuracy([0, 1, 2, 2], [0, 0, 1, 1]) == 0.75
    assert contingency([0, 1, 2, 2], [0, 0, 1, 1]).tolist() == [[1, 0], [1, 0], [0, 2]]


def test_one_cluster_and_one_label_agree():
    assert adjusted_rand([0, 0], [0, 0]) == 1
    assert normalised_information([0, 0], [0, 0]) == 1


def test_wrong_input_is_refused():
    for clusters, labels in (([0, 1], [0]), ([], []), ([-1, 0], [0, 0])):
        with pytest.raises(ShapeError, match="integers ≥ 0"):
            contingency(clusters, labels)
