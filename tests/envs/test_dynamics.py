"""The dynamics: Gymnasium's own where they are claimed to be, and physics for the continuous cart-pole."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from worldformula.envs import ids, make, random_policy_return, reference_return
from worldformula.envs.cartpole import ContinuousCartPole
from worldformula.errors import EnvironmentIdError
from worldformula.testing import check_env


@pytest.mark.parametrize(("mine", "theirs"), [("pendulum", "Pendulum-v1"), ("cartpole", "CartPole-v1")])
def test_dynamics_are_gymnasiums(mine, theirs):
    ours, other = (
        gymnasium.make(f"worldformula/{'Pendulum' if mine == 'pendulum' else 'CartPole'}-v0"),
        gymnasium.make(theirs),
    )
    other.action_space.seed(0)
    a, b = ours.reset(seed=4)[0], other.reset(seed=4)[0]
    over = False
    while not over:
        assert (a == b).all()
        action = other.action_space.sample()
        (a, *mine_rest, _), (b, *their_rest, _) = ours.step(action), other.step(action)
        assert mine_rest == pytest.approx(their_rest)
        over = mine_rest[1] or mine_rest[2]


def energy(state):
    """Total energy of cart and pole (a uniform rod of half-length 0.5 m on a pivot), independent of the step."""
    _, x_velocity, theta, velocity = state
    centre = x_velocity + 0.5 * velocity * np.cos(theta), -0.5 * velocity * np.sin(theta)
    kinetic = 0.5 * x_velocity**2 + 0.05 * (centre[0] ** 2 + centre[1] ** 2) + 0.5 * (0.1 / 12) * velocity**2
    return kinetic + 0.1 * 9.8 * 0.5 * np.cos(theta)


def test_without_force_the_cart_pole_keeps_its_energy():
    env = ContinuousCartPole()
    env.reset(seed=0)
    env.state = np.array([0.0, 0.0, 2.0, 0.0])
    start, energies, momenta = energy(env.state), [], []
    for _ in range(200):
        env.step(np.zeros(1))
        energies.append(energy(env.state))
        _, x_velocity, theta, velocity = env.state
        momenta.append(1.1 * x_velocity + 0.05 * velocity * np.cos(theta))
    assert np.abs(np.array(energies) - start).max() < 0.05  # of 0.49 J: the error of the integrator, without drift
    assert np.mean(energies[-50:]) == pytest.approx(np.mean(energies[:50]), abs=0.01)
    assert np.abs(momenta).max() < 0.03


def test_force_pushes_the_cart_to_its_side_and_the_wall_stops_it():
    env = ContinuousCartPole(start=np.pi)
    env.reset(seed=0)
    env.state = np.array([0.0, 0.0, np.pi, 0.0])
    env.step(np.array([1.0]))
    x, x_velocity, _, _ = env.state
    assert 0 < x < 0.03
    assert x_velocity == pytest.approx(10 / (1.1 - 0.75 * 0.1) * 0.04, rel=0.02)  # F / (M + m − 3/4 m), hanging pole
    for _ in range(60):
        env.step(np.array([1.0]))
    assert env.state[0] == 2.4
    assert env.state[1] == 0.0


@pytest.mark.parametrize(("x", "theta", "reward"), [(0.0, 0.0, 1.0), (0.0, np.pi, 0.0), (1.0, 0.0, 0.684)])
def test_the_reward_wants_the_pole_up_and_the_cart_in_the_middle(x, theta, reward):
    env = ContinuousCartPole()
    env.reset(seed=0)
    env.state = np.array([x, 0.0, theta, 0.0])
    assert env.step(np.zeros(1))[1] == pytest.approx(reward, abs=1e-3)


def test_starts():
    hanging, upright = make("cartpole_swingup"), make("cartpole_balance")
    angles = {env: [env.reset(seed=s)[1]["state"]["angle"][1] for s in range(50)] for env in (hanging, upright)}
    assert max(angles[hanging]) < -0.95
    assert min(angles[upright]) > 0.95
    assert np.std(angles[upright]) > 0


@pytest.mark.parametrize(
    ("id", "floor", "best"),
    [
        ("pendulum", -900, -280),
        ("cartpole", 40, 499),
        ("cartpole_swingup", 40, 195),
        ("cartpole_balance", 140, 240),
        ("dodge", 60, 299),
        ("pendulum_noreset", -600, -40),
        ("sphero_sim", -40, -5),
    ],
)
def test_references_stand_well_above_the_floor(id, floor, best):
    assert random_policy_return(id, 8).mean < floor
    assert reference_return(id, 8).mean > best


def test_a_random_policy_repeats_with_its_seed():
    assert random_policy_return("cartpole", 4, 1) == random_policy_return("cartpole", 4, 1)
    assert random_policy_return("cartpole", 4, 1) != random_policy_return("cartpole", 4, 2)
    with pytest.raises(EnvironmentIdError, match="no reference controller"):
        reference_return("Acrobot-v1")


@pytest.mark.parametrize("id", [*ids(), "CartPole-v1"])
def test_every_environment_keeps_the_laws(id):
    check_env(id)
