"""Ids and spaces: everything that is not supported says so in plain words."""

from __future__ import annotations

import re
import sys
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from tests.envs.counting import Counting, register
from worldformula.envs import Envs, ids, make
from worldformula.envs.actions import action_specs, columns
from worldformula.envs.checked import Checked
from worldformula.envs.columns import row_spec
from worldformula.envs.returns import Score
from worldformula.envs.spaces import observation_parts
from worldformula.envs.wrappers import resize
from worldformula.errors import BrokenEnvironmentError, ConfigError, EnvironmentIdError, NonFiniteError, SpaceError
from worldformula.run.config import EnvConfig
from worldformula.testing import check_env


def test_names_and_ids_lead_to_the_same_environment():
    for name, id in (("pendulum", "worldformula/Pendulum-v0"), ("cartpole_swingup", "worldformula/CartPoleSwingup-v0")):
        assert type(make(name).unwrapped) is type(make(id).unwrapped) is type(gymnasium.make(id).unwrapped)
    assert {"pendulum", "cartpole", "cartpole_swingup", "cartpole_balance", "dodge"} <= set(ids())


@pytest.mark.parametrize(
    ("id", "hint"),
    [("pendulm", "pendulum"), ("Pendulum-v7", "Pendulum-v1"), ("CartPoleSwingUp", "cartpole_swingup")],
)
def test_unknown_ids_list_the_near_misses(id, hint):
    with pytest.raises(EnvironmentIdError, match=f"no environment has the id '{id}'.*{hint}"):
        make(id)


def test_a_limit_must_be_positive():
    with pytest.raises(ConfigError, match="max_steps"):
        make("pendulum", max_steps=0)


@pytest.mark.skipif("ale_py" in sys.modules, reason="ale-py is installed")
def test_atari_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(ConfigError, match=r"pip install 'worldformula\[atari\]'"):
        make("ALE/Pong-v5")


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ('pygame is not installed, run `pip install "gymnasium[classic-control]"`', "'worldformula[envs]'"),
        ("Box2D is not installed, you can install it by run `pip install swig`", "'worldformula[box2d]'"),
        ('MuJoCo is not installed, run `pip install "gymnasium[mujoco]"`', "'worldformula[control]'"),
        ("No module named 'jax'", "it with pip"),
    ],
)
@pytest.mark.parametrize("when", ["make", "render"])
def test_a_missing_package_says_what_to_install(said, advice, when):
    class Needy(Counting):
        metadata: ClassVar = {"render_modes": ["rgb_array"]}

        def __init__(self, render_mode):
            super().__init__()
            self.fail("make")

        def fail(self, now):
            if now == when:
                raise gymnasium.error.DependencyNotInstalled(said)

        def render(self):
            self.fail("render")

    gymnasium.registry.pop(f"tests/Needy{when}-v0", None)
    gymnasium.register(f"tests/Needy{when}-v0", entry_point=Needy)
    with pytest.raises(ConfigError, match=rf"tests/Needy{when}-v0 needs a package.*install {re.escape(advice)}"):
        make(f"tests/Needy{when}-v0", pixels=True).reset(seed=0)


def test_pictures_have_the_size_of_their_protocol_where_none_is_given():
    assert EnvConfig("pendulum", pixels=True).options()["size"] is None
    assert Envs("pendulum", **EnvConfig("pendulum", pixels=True).options()).columns["image"].shape == (32, 32, 3)
    with pytest.raises(ConfigError, match="size expects a whole number of at least 8, got 4"):
        EnvConfig("pendulum", size=4)


def test_a_module_before_the_colon_registers_its_environments(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine.py").write_text("from tests.envs.counting import register\n\nregister()\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    assert make("mine:tests/Counting-v0").observation_space["vector"].shape == (3,)
    with pytest.raises(EnvironmentIdError, match="expected a module to import, got 'absent'"):
        make("absent:tests/Counting-v0")
    with pytest.raises(EnvironmentIdError, match=r"no environment has the id 'mine:tests/Countin-v0'"):
        make("mine:tests/Countin-v0")
    with pytest.raises(BrokenEnvironmentError, match=r"failed at gymnasium.make: ZeroDivisionError"):
        make("broken:tests/Counting-v0")


def answers(**changes):
    """An environment whose second step answers or raises something else."""

    class Odd(Counting):
        def step(self, action):
            observation, reward, *rest = super().step(action)
            if self.step_number == 2:
                observation, reward = changes.get("observation", observation), changes.get("reward", reward)
                if "error" in changes:
                    raise changes["error"]
            return observation, reward, *rest

    env = Checked(Odd(), "odd")
    env.reset(seed=0)
    env.step(1)
    return env


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"observation": np.full(3, np.nan, np.float32)}, NonFiniteError, "observation of odd at step 2 .* not finite"),
        ({"observation": np.zeros(5, np.float32)}, SpaceError, r"odd at step 2 .* Box.*\(3,\).* got .* shape \(5,\)"),
        ({"observation": "text"}, SpaceError, "not what its space declares.*got 'text'"),
        ({"observation": None}, SpaceError, "not what its space declares.*got None"),
        ({"reward": float("nan")}, NonFiniteError, "the reward of odd at step 2 of the episode is not finite: nan"),
        ({"reward": float("-inf")}, NonFiniteError, "the reward of odd at step 2 .* not finite: -inf"),
        ({"reward": 1e39}, NonFiniteError, "the reward of odd at step 2 .* not finite in float32, .*: 1e.39"),
        ({"reward": None}, SpaceError, "the reward of odd at step 2 .* expected one number, got None"),
        ({"reward": np.array([1.0, 2.0])}, SpaceError, r"expected one number, got an array of shape \(2,\); several"),
        ({"reward": "much"}, SpaceError, "the reward of odd at step 2 .* expected one number, got 'much'"),
        ({"error": RuntimeError("it broke")}, BrokenEnvironmentError, "odd failed at step 2 .* RuntimeError: it broke"),
    ],
)
def test_what_an_environment_must_not_answer(changes, error, says):
    with pytest.raises(error, match=says) as caught:
        answers(**changes).step(1)
    assert (caught.value.__cause__ is changes.get("error")) or "error" not in changes


def test_a_reward_may_be_an_array_of_one_number():
    assert answers(reward=np.array([2.5])).step(1)[1] == 2.5


def test_a_picture_is_resized_to_the_mean_of_its_pixels():
    frame = np.zeros((4, 4, 3), np.uint8)
    frame[:2, 2:] = (200, 100, 40)
    frame[2, 2] = (40, 40, 40)
    assert (resize(frame, 2) == [[[0, 0, 0], [200, 100, 40]], [[0, 0, 0], [10, 10, 10]]]).all()


def test_pixels_of_another_environment_come_from_its_render_function():
    class Drawn(Counting):
        metadata: ClassVar = {"render_modes": ["rgb_array"]}

        def __init__(self, render_mode=None):
            super().__init__()
            self.render_mode = render_mode

        def render(self):
            frame = np.zeros((64, 128, 3), np.uint8)
            frame[:, : 12 * self.step_number] = 255
            return frame

    gymnasium.register("tests/Drawn-v0", entry_point=Drawn)
    env = make("tests/Drawn-v0", pixels=True, size=16)
    first = env.reset(seed=0)[0]["image"]
    second = env.step(np.array(0))[0]["image"]
    assert first.shape == second.shape == (16, 16, 3)
    assert first.sum() == 0
    assert (second[:, 0] == 255).all()
    assert (second[:, 2:] == 0).all()


def test_an_environment_without_pictures_is_refused_for_pixels():
    class Blind(Counting):
        metadata: ClassVar = {"render_modes": ["rgb_array"]}

        def __init__(self, render_mode):
            super().__init__()

    gymnasium.register("tests/Blind-v0", entry_point=Blind)
    with pytest.raises(SpaceError, match=r"render\(\) has to return a uint8 array"):
        make("tests/Blind-v0", pixels=True).reset(seed=0)
    with pytest.raises(SpaceError, match="takes no render_mode"), pytest.warns(UserWarning, match="render_modes"):
        make(register(), pixels=True)


SPACES = {
    "image": (spaces.Box(0, 255, (8, 6, 3), np.uint8), "image (8, 6, 3) uint8 0…255"),
    "grey": (spaces.Box(0, 255, (8, 6), np.uint8), "image (8, 6, 1) uint8 0…255"),
    "board": (spaces.Box(0, 1, (8, 8, 2), np.uint8), "image (8, 8, 2) uint8 0…1"),
    "depth": (spaces.Box(0.0, 9.0, (9, 8, 1)), "image (9, 8, 1) float32 0…9"),
    "first": (spaces.Box(0, 255, (3, 64, 64), np.uint8), "image (64, 64, 3) uint8 0…255"),
    "stacked": (spaces.Box(0, 255, (4, 64, 60, 3), np.uint8), "image (64, 60, 12) uint8 0…255"),
    "table": (spaces.Box(-1, 1, (2, 3)), "vector (2, 3) float32 -1…1"),
    "number": (spaces.Box(-np.inf, np.inf, (), np.float64), "vector () float32"),
    "huge": (spaces.Box(-np.finfo(np.float32).max, np.finfo(np.float32).max, (2,)), "vector (2,) float32"),
    "ram": (spaces.Box(0, 255, (4,), np.uint8), "vector (4,) uint8 0…255"),
    "counts": (spaces.Box(0, 9, (2, 2), np.int64), "vector (2, 2) int64 0…9"),
    "room": (spaces.Discrete(3, start=5), "discrete () int64 of 3 classes"),
    "dice": (spaces.MultiDiscrete([2, 3]), "discrete (2,) int64 of 2 × 3 classes"),
    "switches": (spaces.MultiBinary(2), "flag (2,) bool 0…1"),
}


@pytest.mark.parametrize("name", SPACES)
def test_every_space_becomes_a_column_of_its_kind_shape_type_and_range(name):
    space, column = SPACES[name]
    assert str(observation_parts(spaces.Dict({name: space}))[name].column) == column
    assert list(observation_parts(space)) == ["image" if column.startswith("image") else "vector"]


def test_pictures_with_other_axes_are_moved_never_scrambled():
    parts = observation_parts(spaces.Dict({key: SPACES[key][0] for key in ("first", "stacked")}))
    first = np.arange(3 * 64 * 64, dtype=np.int64).reshape(3, 64, 64) % 251
    moved = parts["first"].convert(first)
    assert moved[5, 7, 2] == first[2, 5, 7]
    stacked = np.zeros((4, 64, 60, 3), np.uint8)
    stacked[2, 10, 20, 1] = 9
    assert parts["stacked"].convert(stacked)[10, 20, 2 * 3 + 1] == 9


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (spaces.Graph(spaces.Discrete(2), None), "Graph space; supported are Box"),
        (spaces.Text(5), "Text space.*env.keys"),
        (spaces.Dict(reward=spaces.Discrete(2)), "reserved"),
        (spaces.Dict({"mask/x": spaces.Discrete(2)}), "reserved"),
        (spaces.Dict(), "empty"),
        (spaces.Box(-1, 1, (0,)), "holds no numbers"),
        (spaces.Box(-np.inf, np.inf, (64, 64, 3)), "of a picture, but no range: declare low and high"),
        (spaces.Box(0, 255, (64, 64, 64), np.uint8), "fewer channels than rows"),
    ],
)
def test_observations_that_are_not_supported(space, words):
    with pytest.raises(SpaceError, match=words):
        observation_parts(space)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (spaces.Text(4), "supported are Box .floats., Discrete, MultiDiscrete, MultiBinary"),
        (spaces.Dict(a=spaces.Text(4)), "the action 'a' is Text"),
        (spaces.Dict(), "the action space is empty"),
        (spaces.Box(0, 9, (2,), np.int64), "supported are Box .floats."),
    ],
)
def test_actions_that_are_not_supported(space, words):
    with pytest.raises(SpaceError, match=words):
        action_specs(space)


def test_actions_reach_the_bounds_of_their_space():
    space = spaces.Box(np.array([[0.0, -np.inf, 5.0]], np.float32), np.array([[10.0, np.inf, np.inf]], np.float32))
    spec = action_specs(space)["action"]
    assert (spec.kind, spec.size) == ("continuous", 3)
    for given, stored, expected in (
        ([-1, -7, 0], [-1, -1, 0], [0, -1, 6]),
        ([0.5, 0.25, 1], [0.5, 0.25, 1], [7.5, 0.25, 7]),
        ([9, 0, -9], [1, 0, -1], [10, 0, 5]),
    ):
        kept = spec.executed(np.array([given], np.float32))
        assert kept.tolist() == [stored]
        value = spec.value(kept[0])
        assert value in space
        assert value == pytest.approx(np.array([expected]))
    assert action_specs(spaces.Discrete(3, start=4))["action"].value(np.array(1)) == 5
    far = action_specs(space, reach=3.0)["action"].value(np.array([0, 1, 1], np.float32))
    assert far == pytest.approx(np.array([[5, 3, 11]]))


def test_bounds_that_overflow_float32_are_no_bounds():
    most = np.finfo(np.float32).max
    spec = action_specs(spaces.Box(-most, most, (2,)))["action"]
    assert spec.value(np.array([-1, 0.5], np.float32)).tolist() == [-1, 0.5]


def test_the_row_description_names_every_column():
    env = make(register())
    assert row_spec(env.columns, columns(env.actions)) == {
        "vector": ((3,), "float32"),
        "reward": ((), "float32"),
        "is_first": ((), "bool"),
        "is_last": ((), "bool"),
        "is_terminal": ((), "bool"),
        "action": ((), "int64"),
    }


class Careless(Counting):
    """Forgets its seed and reuses its observation array."""

    fault = "seed"

    def reset(self, *, seed=None, options=None):
        self.kept = super().reset(seed=seed)[0]
        self.noise = np.random.default_rng() if self.fault == "seed" else np.random.default_rng(0)
        return self.kept, {}

    def step(self, action):
        observation, _, *rest = super().step(action)
        if self.fault == "alias":
            self.kept[:] = observation
            observation = self.kept
        return observation, self.noise.random(), *rest


@pytest.mark.parametrize(("fault", "law"), [("seed", "fixes everything: rewards"), ("alias", "stays as it was")])
def test_check_env_finds_careless_environments(fault, law):
    env = Careless()
    env.fault = fault
    with pytest.raises(AssertionError, match=f"{law}.*broken"):
        check_env(env, steps=20)


def test_check_env_finds_observations_outside_their_space():
    class Outside(Counting):
        def step(self, action):
            observation, *rest = super().step(action)
            return observation - 50.0, *rest

    with pytest.raises(AssertionError, match="lie in their space.*broken"):
        check_env(Outside(), steps=5)


class Wrong(gymnasium.Env):
    """An environment of a picture, a number of three and a flag that answers something else in its second step."""

    def __init__(self, **changes):
        self.observation_space = spaces.Dict(
            picture=spaces.Box(0, 255, (6, 5, 3), np.uint8),
            room=spaces.Discrete(3),
            speed=spaces.Box(-1.0, 1.0, (2,)),
            lamps=spaces.MultiBinary(2),
        )
        self.action_space, self.changes = spaces.Discrete(2), changes

    def answer(self):
        found = {
            "picture": np.zeros((6, 5, 3), np.uint8),
            "room": 1,
            "speed": np.zeros(2, np.float32),
            "lamps": np.ones(2, np.int8),
        }
        late = self.count == 2
        return {**found, **{k: v for k, v in self.changes.items() if late and k in found}}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.answer(), {}

    def step(self, action):
        self.count += 1
        late = self.changes if self.count == 2 else {}
        terminated, reward = late.get("terminated", False), late.get("reward", 0.0)
        return self.answer(), reward, terminated, False, late.get("info", {})


FAULTS = [
    ({"picture": np.full((6, 5, 3), 0.5)}, r"'picture' .* step 2 .* from 0.5 to 0.5: float64 for whole numbers"),
    ({"picture": np.zeros((3, 6, 5), np.uint8)}, r"the shape differs: \(3, 6, 5\) for \(6, 5, 3\)"),
    ({"picture": np.full((6, 5, 3), 300)}, "300 lies outside the declared range"),
    ({"room": -1}, r"'room' .* expected Discrete\(3\), got -1: -1 lies outside"),
    ({"room": 3}, "got 3: 3 lies outside"),
    ({"room": 1.0}, "got 1.0: float64 for whole numbers"),
    ({"room": None}, "got None: object for whole numbers"),
    ({"room": np.array([1])}, r"the shape differs: \(1,\) for \(\)"),
    ({"speed": np.array([0.0, 1.1], np.float32)}, "1.1.* lies outside the declared range"),
    ({"speed": np.array([0.0, np.nan], np.float32)}, "'speed' .* step 2 of the episode is not finite"),
    ({"speed": "fast"}, "got 'fast': .* for numbers"),
    ({"lamps": np.array([0, 2], np.int8)}, "2 lies outside"),
    ({"lamps": np.array([0.0, 1.0])}, "float64 for 0 and 1"),
    ({"terminated": None}, "terminated of wrong at step 2 of the episode: expected True or False, got None"),
    ({"terminated": 1}, "expected True or False, got 1; write bool"),
    ({"reward": 1e39}, "the reward of wrong at step 2 of the episode is not finite in float32"),
    ({"reward": np.zeros(2)}, "expected one number, got an array of shape"),
    ({"info": None}, "the info of wrong at step 2 of the episode: expected a dictionary, got None"),
]


@pytest.mark.parametrize(("changes", "says"), FAULTS, ids=lambda v: next(iter(v)) if isinstance(v, dict) else "")
def test_what_is_not_declared_is_refused_before_it_is_converted_and_the_checker_sees_it(changes, says):
    env = Checked(Wrong(**changes), "wrong")
    env.reset(seed=0)
    env.step(0)
    with pytest.raises((SpaceError, NonFiniteError), match=says):
        env.step(0)
    with pytest.raises(AssertionError, match="<- broken"):
        check_env(Wrong(**changes), steps=5)


def test_the_checker_accepts_the_environment_without_the_faults():
    check_env(Wrong(), steps=5)
    assert Envs(register()).reset()["vector"].shape == (1, 3)


def test_a_float_may_lie_a_rounding_beyond_its_bound_and_no_more():
    for value, fits in ((1.000001, True), (1.001, False)):
        env = Checked(Wrong(speed=np.array([0.0, value])), "wrong")
        env.reset(seed=0)
        env.step(0)
        if fits:
            env.step(0)
        else:
            with pytest.raises(SpaceError, match="1.001 lies outside"):
                env.step(0)


@pytest.mark.parametrize(
    ("answer", "got"), [(np.zeros(3), "array of shape"), ((np.zeros(3), None), "an info that is None")]
)
def test_the_reset_of_an_old_environment_is_told_what_to_return(answer, got):
    class Old(Counting):
        def reset(self, *, seed=None, options=None):
            return answer

    with pytest.raises(SpaceError, match=rf"reset of old has to return \(observation, info\).*{got}.*gym before 0.26"):
        Checked(Old(), "old").reset(seed=0)
    with pytest.raises(AssertionError, match="reset returns an info dictionary.*broken"):
        check_env(Old())


def test_of_one_episode_no_standard_error_is_printed():
    """It was printed as 0.0, or as nan."""
    assert str(Score.of([12.0])) == str(Score(12.0, 0.0, 1)) == "12.0 (n = 1)"
    assert str(Score.of([11.0, 13.0])) == "12.0 ± 1.0 (n = 2)"
    assert str(Score.of([])) == "not known"
