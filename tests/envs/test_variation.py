"""Factors of variation: one thing changes and nothing else, recombinations hold what was seen apart."""

from __future__ import annotations

import numpy as np
import pytest

from worldformula.cli import main
from worldformula.envs import Envs, make
from worldformula.envs.two_rooms import FACTORS, Rooms, free, lying_rooms, two_rooms
from worldformula.envs.variation import arguments, factors_of, one_at_a_time, recombined
from worldformula.errors import ConfigError
from worldformula.metrics.success import wilson
from worldformula.run.config import EnvConfig
from worldformula.run.play import Randomly
from worldformula.run.variation import varied


def picture(**options):
    env = Rooms(size=65, shown=False, **options)
    env.reset(seed=3)
    return env, env.render().astype(int)


def test_each_factor_changes_what_it_says_and_nothing_else():
    plain, usual = picture()
    own, seen = picture(point="blue")
    assert np.array_equal(own.position, plain.position)
    changed = (seen != usual).any(-1)
    orange = (abs(usual - (255, 176, 46)) < 8).all(-1)
    assert changed[orange].all()
    assert np.argwhere(changed).min(0) == pytest.approx(np.argwhere(orange).min(0), abs=1)

    _, larger = picture(radius=4.0)
    area = [(abs(x - (255, 176, 46)) < 8).all(-1).sum() for x in (usual, larger)]
    assert area[1] > 1.7 * area[0]

    thick, _ = picture(thick=7.0)
    upright = [own.layout.walls[4] for own in (plain, thick)]
    assert [w[1] - w[0] for w in upright] == [3.0, 7.0]
    assert sum(upright[0][:2]) == pytest.approx(sum(upright[1][:2]))  # about the same middle
    assert np.array_equal(upright[0][2:], upright[1][2:])  # with the same door


def test_lying_rooms_are_two_rooms_with_x_and_y_exchanged():
    one, other = two_rooms(np.random.default_rng(5)), lying_rooms(np.random.default_rng(5))
    points = np.random.default_rng(0).uniform(0, 65, (500, 2))
    assert np.array_equal(free(one.walls, points), free(other.walls, points[:, ::-1]))
    env = Rooms(layout="lying")
    for seed in range(5):
        env.reset(seed=seed)
        wall = env.layout.walls[4]
        assert (env.position[1] - wall[2]) * (env.goal[1] - wall[2]) < 0  # on either side of a wall that lies


@pytest.mark.parametrize("options", [{"point": "green"}, {"radius": 0.0}, {"thick": 20.0}, {"layout": "three"}])
def test_impossible_values_are_refused(options):
    with pytest.raises(ConfigError, match="expected"):
        Rooms(**options)


def test_one_at_a_time_and_recombined():
    alone = one_at_a_time("two_rooms")
    assert list(alone) == ["same", "colour", "size", "walls", "layout"]
    assert alone["same"] == {}
    assert factors_of("worldformula/TwoRooms-v0") == FACTORS
    pairs = recombined("two_rooms")
    assert len(pairs) == 6
    assert pairs["colour + size"] == {"point": "blue", "radius": 4.0}
    assert all(options not in pairs.values() for options in alone.values())
    assert len(recombined("two_rooms", 4)) == 1
    with pytest.raises(ConfigError, match="expected 2 to 4 factors together, got 5"):
        recombined("two_rooms", 5)
    with pytest.raises(ConfigError, match="pendulum has no factors of variation; two_rooms has some"):
        one_at_a_time("pendulum")


def test_arguments_are_what_an_environment_takes_as_text():
    env = make("two_rooms", args=arguments({"radius": 4.0, "point": "blue", "layout": "lying"}))
    assert (env.unwrapped.radius, env.unwrapped.kind, env.unwrapped.point) == (4.0, "lying", (70, 140, 255))


def test_the_command_lists_them(capsys):
    assert main(["envs", "two_rooms"]) == 0
    said = capsys.readouterr().out
    assert "\nvaries in colour: --env-arg point=blue\n" in said
    assert "varies in layout: --env-arg layout=lying" in said


class Straight:
    """Towards the goal, or away from it."""

    def __init__(self, sign: float) -> None:
        self.sign = sign

    def initial(self, num):
        return {}

    def act(self, rows, state, explore=True):
        assert not explore
        far = rows["vector"][:, 2:4] - rows["vector"][:, :2]
        long = np.maximum(np.linalg.norm(far, axis=1, keepdims=True), 2.45 / 65)
        return (self.sign * far / long).astype(np.float32), {}


def test_success_is_counted_by_variation_at_the_end_and_ever():
    env = EnvConfig("two_rooms", max_steps=60)
    found = varied(Straight(1.0), env, episodes=20, seed=1)
    assert list(found) == ["same", "colour", "size", "walls", "layout"]
    assert found["colour"] == found["same"] == found["size"]  # it sees no picture
    wander = varied(Straight(-1.0), env, episodes=20, seed=1, variations={"away": {}})
    assert wander["away"].final == wilson(0, 20)
    assert 0 < found["same"].final.hits < 20
    assert found["same"].final.hits <= found["same"].ever.hits


def test_environments_without_success_are_refused():
    env = EnvConfig("pendulum", max_steps=5)
    pushed = Randomly(Envs("pendulum").actions, 0)
    with pytest.raises(ConfigError, match="success"):
        varied(pushed, env, episodes=2, variations={"same": {}})
    with pytest.raises(ConfigError, match="at least one episode"):
        varied(Straight(1.0), EnvConfig("two_rooms"), episodes=0)
