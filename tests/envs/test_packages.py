"""Environments of other packages, with stand-ins that answer as they do. ``python -m tests.extras`` plays real ones."""

import sys
from types import ModuleType, SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from worldformula.envs import Envs, make
from worldformula.errors import ConfigError, EnvironmentIdError


def module(name, **attributes):
    found = ModuleType(name)
    found.__dict__.update(attributes)
    return found


# ------------------------------------------------------------------------------------------------------- dm_control


class Task:
    """A point that is pushed: episodes of 5 steps, which end as a failure where it leaves ±1."""

    def __init__(self, random):
        self.random = np.random.RandomState(random)
        self.task, self.physics = self, SimpleNamespace(model=object())

    def action_spec(self):
        return SimpleNamespace(minimum=np.full(2, -2.0), maximum=np.full(2, 2.0), shape=(2,), dtype=np.dtype("float64"))

    def observation_spec(self):
        return {"position": SimpleNamespace(shape=(2,)), "height": SimpleNamespace(shape=())}

    def _found(self, reward, discount):
        seen = {"position": self.place.copy(), "height": np.float64(self.count)}
        over = discount == 0 or self.count == 5
        return SimpleNamespace(observation=seen, reward=reward, discount=discount, last=lambda: over)

    def reset(self):
        self.place, self.count = self.random.uniform(-0.1, 0.1, 2), 0
        return self._found(None, None)

    def step(self, action):
        self.place, self.count = self.place + action, self.count + 1
        return self._found(float(action.sum()), 0.0 if np.abs(self.place).max() > 1 else 1.0)

    def close(self):
        pass


@pytest.fixture
def suite(monkeypatch):
    known = (("walker", "walk"), ("ball_in_cup", "catch"))
    found = module("dm_control.suite", ALL_TASKS=known, load=lambda domain, task, task_kwargs: Task(**task_kwargs))
    monkeypatch.setitem(sys.modules, "dm_control", module("dm_control", suite=found))
    monkeypatch.setitem(sys.modules, "dm_control.suite", found)


def test_a_task_of_the_control_suite(suite):
    env = make("dm_control/walker-walk-v0")
    assert {key: (c.kind, c.shape, c.dtype) for key, c in env.observations.items()} == {
        "position": ("vector", (2,), "float32"),
        "height": ("vector", (1,), "float32"),
    }
    first, again = env.reset(seed=3)[0], env.reset(seed=3)[0]
    np.testing.assert_array_equal(first["position"], again["position"])
    assert (first["position"] != env.reset(seed=4)[0]["position"]).all()
    ends = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(5)]
    assert ends == [(False, False)] * 4 + [(False, True)]  # its limit of time is no failure


def test_what_ends_a_task_for_good_is_terminal(suite):
    env = make("dm_control/ball_in_cup-catch-v0")
    env.reset(seed=0)
    row, reward, terminated, truncated, _ = env.step(np.ones(2, np.float32))  # ±1 is the whole range, here ±2
    assert (terminated, truncated) == (True, False)
    assert reward == 4.0
    assert row["height"] == [1.0]


def test_pictures_without_a_graphics_library(suite, monkeypatch):
    engine = module(
        "dm_control.mujoco.engine", Camera=lambda *_, **__: (_ for _ in ()).throw(ValueError("no OpenGL\nat all"))
    )
    monkeypatch.setitem(sys.modules, "dm_control.mujoco", module("dm_control.mujoco", engine=engine))
    monkeypatch.setitem(sys.modules, "dm_control.mujoco.engine", engine)
    monkeypatch.setitem(sys.modules, "mujoco", module("mujoco"))
    env = make("dm_control/walker-walk-v0", pixels=True)
    env.unwrapped._task.physics.model = SimpleNamespace(vis=SimpleNamespace(quality=SimpleNamespace()))
    with pytest.raises(ConfigError, match=r"MUJOCO_GL=egl or MUJOCO_GL=osmesa.*\(MuJoCo says: no OpenGL\)"):
        env.reset(seed=0)


def test_an_unknown_task_and_a_missing_package(suite, monkeypatch):
    with pytest.raises(EnvironmentIdError, match=r"'dm_control/walker-wolk-v0'.*dm_control/walker-walk-v0"):
        make("dm_control/walker-wolk-v0")
    monkeypatch.setitem(sys.modules, "dm_control", None)
    with pytest.raises(ConfigError, match=r"pip install 'worldformula\[dmc\]'"):
        make("dm_control/walker-walk-v0")


# ---------------------------------------------------------------------------------------------------------- crafter


class Game:
    def __init__(self, size, reward, length, seed):
        self.size, self.seed, self.length, self.count = size, seed, length, 0

    def reset(self):
        return np.full((*self.size, 3), self.seed % 250, np.uint8)

    def step(self, action):
        self.count += 1
        dead = action == 5
        info = {"achievements": {"collect_wood": self.count}, "discount": float(not dead), "inventory": {}}
        return np.full((*self.size, 3), self.count, np.uint8), 0.5, dead or self.count == self.length, info


def test_crafter(monkeypatch):
    monkeypatch.setitem(sys.modules, "crafter", module("crafter", Env=Game))
    env = make("crafter/Crafter-v1", size=32, length=3, labels=("achieved/collect_wood",))
    one, other = env.reset(seed=1)[0]["image"], env.reset(seed=2)[0]["image"]
    assert one.shape == (32, 32, 3)
    assert (one != other).all()
    np.testing.assert_array_equal(one, env.reset(seed=1)[0]["image"])
    row, reward, terminated, truncated, _ = env.step(np.array(0))
    assert (reward, terminated, truncated, row["label/achieved/collect_wood"]) == (0.5, False, False, 1.0)
    assert env.step(np.array(5))[2:4] == (True, False)
    env.reset(seed=1)
    assert [env.step(np.array(0))[2:4] for _ in range(3)][-1] == (False, True)
    with pytest.raises(EnvironmentIdError, match="the game is crafter/Crafter-v1"):
        make("crafter/Crafter-v9")
    monkeypatch.setitem(sys.modules, "crafter", None)
    with pytest.raises(ConfigError, match=r"pip install 'worldformula\[crafter\]'"):
        make("crafter/Crafter-v1")


# --------------------------------------------------------------------------------- what registers once it is imported


class Pair(gymnasium.Env):
    """An observation of two numbers, as a Tuple."""

    def __init__(self):
        self.observation_space = spaces.Tuple((spaces.Discrete(3), spaces.Box(-1, 1, (2,), np.float32)))
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return (2, np.zeros(2, np.float32)), {}

    def step(self, action):
        return (1, np.ones(2, np.float32)), 1.0, False, False, {}


def test_a_package_that_registers_when_it_is_imported(tmp_path, monkeypatch):
    (tmp_path / "popgym.py").write_text(
        "import gymnasium\nfrom tests.envs.test_packages import Pair\n"
        "gymnasium.register('popgym-PairEasy-v0', Pair, max_episode_steps=4)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        envs = Envs("popgym-PairEasy-v0", 2)
        assert {key: (c.kind, c.shape) for key, c in envs.observations.items()} == {
            "0": ("discrete", ()),
            "1": ("vector", (2,)),
        }
        rows = envs.reset()
        assert rows["0"].tolist() == [2, 2]
        rows = envs.step(np.zeros(2, np.int64))
        assert rows["0"].tolist() == [1, 1]
        assert rows["1"].tolist() == [[1, 1], [1, 1]]
    finally:
        gymnasium.registry.pop("popgym-PairEasy-v0", None)
        sys.modules.pop("popgym", None)


def test_a_package_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "minigrid", None)
    with pytest.raises(ConfigError, match=r"needs minigrid: pip install 'worldformula\[envs\]'"):
        make("MiniGrid-Nowhere-5x5-v0")
