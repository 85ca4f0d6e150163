"""Environments in processes of their own: the same rows, and none of them can stop the run."""

from __future__ import annotations

import time

import numpy as np
import pytest

from tests.envs.rich import Rich  # noqa: F401 (what the processes serve)
from worldformula.envs import Envs, make
from worldformula.envs.stream import episode_seed
from worldformula.errors import BrokenEnvironmentError, EnvironmentIdError, NonFiniteError

HANGING = "tests.envs.hanging:tests/Hanging-v0"


def play(envs, steps):
    rng, rows, found = np.random.default_rng(0), envs.reset(), []
    for _ in range(steps):
        found.append(rows)
        rows = envs.step(envs.random(rng, rows))
    return {key: np.stack([row[key] for row in found]) for key in found[0]}


def test_rows_from_processes_are_those_from_here():
    here, there = Envs("tests.envs.rich:Rich", 2), Envs("tests.envs.rich:Rich", 2, timeout=30.0)
    one, two = play(here, 20), play(there, 20)
    assert here.row_spec == there.row_spec
    assert one.keys() == two.keys()
    assert all((one[key] == two[key]).all() for key in one)
    there.close()


def test_one_that_hangs_or_dies_is_killed_made_anew_and_counted():
    envs = Envs(HANGING, 2, seed=1, timeout=3.0, recover=True)
    started = time.perf_counter()
    rows = play(envs, 14)
    seconds = time.perf_counter() - started
    reasons = [failure.reason for failure in envs.failures]
    expected = 0
    for stream in range(2):
        t = episode = 0
        while t < 14:
            seed = episode_seed(1, stream, episode)
            length = 3 if seed % 2 == 0 else 4 if seed % 4 == 1 else 6
            expected += length < 6 and t + length < 14
            t, episode = t + length, episode + 1
    assert len(reasons) == expected == 3
    hung = [reason for reason in reasons if "did not answer within 3 s (step) and was killed" in reason]
    assert hung
    assert seconds < 60 * len(hung)  # so long they would have slept
    assert any("ended by itself (exit code 7)" in reason for reason in reasons)
    assert (rows["is_first"] == (rows["vector"][..., 0] == 0)).all()
    assert (rows["reward"][rows["is_first"]] == 0).all()
    envs.close()


def test_without_recovery_the_error_is_raised():
    envs = Envs(HANGING, 4, timeout=0.5)
    with pytest.raises(BrokenEnvironmentError, match=r"Hanging-v0 did not answer within 0.5 s|exit code 7"):
        play(envs, 30)
    envs.close()


def test_after_an_error_every_stream_answers_what_it_is_asked_now():
    envs = Envs("tests.envs.hanging:Unlike", 2, timeout=30.0)
    here = Envs("tests.envs.hanging:Unlike", 2)
    for both in (envs, here):
        both.reset()
        with pytest.raises(BrokenEnvironmentError, match="not this one"):
            both.step(np.array([3, 2]))
    assert all((one == two).all() for one, two in zip(envs.reset(4).values(), here.reset(4).values(), strict=True))
    one, two = (both.step(np.array([1, 2])) for both in (envs, here))
    assert one["reward"].tolist() == two["reward"].tolist() == [11, 12]
    envs.close()


def test_errors_come_across_as_what_they_are():
    with pytest.raises(EnvironmentIdError, match="no environment has the id 'tests.envs.hanging:tests/Hangin-v0'"):
        Envs("tests.envs.hanging:tests/Hangin-v0", timeout=30.0)
    envs = Envs("pendulum", timeout=30.0)
    envs.reset()
    with pytest.raises(NonFiniteError, match="the action for stream 0 is not finite"):
        envs.step(np.array([[np.nan]]))
    envs.close()


def test_a_module_without_such_an_environment_says_what_it_has():
    """It answered with the environments of this package, and with Gymnasium's near misses."""
    says = r"tests.envs.counting registers no id 'Countin', and .* Did you mean 'Counting'.* environments: Counting"
    with pytest.raises(EnvironmentIdError, match=says):
        make("tests.envs.counting:Countin")
    with pytest.raises(EnvironmentIdError, match=r"math registers no id 'Pi', .* Its environments: none"):
        make("math:Pi")
