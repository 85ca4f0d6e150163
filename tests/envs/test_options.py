"""Options of environments: pictures of any size, arguments, wrappers, keys, one instance, no end, info."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from tests.agent.systems.toy import ToyAgent, config
from tests.envs.counting import Counting, register
from tests.envs.rich import register as rich
from worldformula import cli
from worldformula.agents import dreamer_v3
from worldformula.envs import ActionSpec, Column, Envs, make, random_policy_return
from worldformula.envs.factory import argument
from worldformula.errors import ConfigError, EnvironmentIdError, RunFolderError, SpaceError
from worldformula.report.gather import recorded
from worldformula.report.yardsticks import Yardsticks, floor, measured, yardsticks
from worldformula.run.config import EnvConfig
from worldformula.run.evaluate import tried
from worldformula.run.folder import RunFolder, read_metrics
from worldformula.run.interact import Interact
from worldformula.run.play import Randomly
from worldformula.run.saved import open_run


class Film(gymnasium.Env):
    """Pictures of 9 × 12 pixels whose red is the step, and floats of 8 × 8."""

    def __init__(self, floats=False):
        low, high = (0.0, 1.0) if floats else (0, 255)
        self.floats, kind = floats, np.float32 if floats else np.uint8
        shape = (8, 8, 3) if floats else (9, 12, 3)
        self.observation_space = spaces.Box(low, high, shape, kind)
        self.action_space = spaces.Discrete(2)

    def frame(self):
        space = self.observation_space
        picture = np.zeros(space.shape, space.dtype)
        picture[:, :, 0] = self.count / 10 if self.floats else 10 * self.count
        picture[0, 0, 1] = 1 if self.floats else 100
        return picture

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.frame(), {}

    def step(self, action):
        self.count += 1
        return self.frame(), 1.0, False, self.count == 6, {}


gymnasium.register("tests/Film-v0", entry_point=Film)


def film(**options):
    env = make("tests/Film-v0", **options)
    rows = [env.reset(seed=0)[0]["image"]]
    return env.columns["image"], rows + [env.step(np.array(0))[0]["image"] for _ in range(4)]


def test_a_stack_holds_the_last_pictures_as_channels_the_newest_last():
    column, frames = film(stack=3)
    assert (column.shape, column.dtype) == ((9, 12, 9), "uint8")
    assert [frame[4, 4, 0::3].tolist() for frame in frames] == [
        [0, 0, 0], [0, 0, 10], [0, 10, 20], [10, 20, 30], [20, 30, 40]
    ]  # fmt: skip


def test_grey_is_the_luma_of_the_colours():
    column, frames = film(grey=True)
    assert column.shape == (9, 12, 1)
    assert frames[3][4, 4, 0] == round(0.299 * 30)
    assert frames[3][0, 0, 0] == round(0.299 * 30 + 0.587 * 100)


def test_a_crop_comes_before_the_size():
    column, frames = film(crop=(0, 0, 8, 8), size=8)
    assert column.shape == (8, 8, 3)
    assert frames[0][0, 0, 1] == 100
    column, frames = film(crop=(1, 0, 8, 12), size=8)
    assert column.shape == (8, 8, 3)
    assert frames[0].max() == 0
    with pytest.raises(SpaceError, match=r"crop=\(2, 0, 8, 12\) .* leaves the picture '' \(9, 12, 3\)"):
        film(crop=(2, 0, 8, 12))


def test_float_pictures_stay_floats():
    column, frames = film(floats=True, grey=True, stack=2)
    assert str(column) == "image (8, 8, 2) float32 0…1"
    assert frames[3][4, 4] == pytest.approx([0.299 * 0.2, 0.299 * 0.3])


def test_options_of_pictures_need_a_picture_and_a_size_alone_does_not():
    with pytest.raises(SpaceError, match="crop, grey, size and stack change pictures, and there are none"):
        make(register(), stack=2)
    assert "vector" in make(register(), size=16).columns


def test_keys_keep_some_observations_and_leave_out_what_is_not_supported():
    assert list(make(rich(), keys=("word", "body/heat")).observations) == ["body/heat", "word"]
    with pytest.raises(SpaceError, match="tests/Rich-v0 observes no 'wort'. Did you mean 'word'"):
        make(rich(), keys=("wort",))

    class Mission(Counting):
        def __init__(self):
            super().__init__()
            self.observation_space = spaces.Dict(mission=spaces.Text(9), place=spaces.Box(-1.0, 1e6, (3,)))

        def _observe(self, action):
            return {"mission": "go", "place": super()._observe(action)}

    gymnasium.registry.pop("tests/Mission-v0", None)
    gymnasium.register("tests/Mission-v0", entry_point=Mission)
    with pytest.raises(SpaceError, match="'mission' is a Text space.*--set env.keys"):
        make("tests/Mission-v0")
    assert Envs("tests/Mission-v0", keys=("place",)).reset()["place"].shape == (1, 3)


def test_the_floor_of_an_environment_in_pixels_asks_for_no_observation_of_its_own():
    class Strange(Film):
        metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (Gymnasium's form)

        def __init__(self, render_mode=None):
            super().__init__()
            self.render_mode = render_mode
            self.observation_space = spaces.Text(3)

        def frame(self):
            return "abc"

        def render(self):
            return np.zeros((16, 16, 3), np.uint8)

    gymnasium.registry.pop("tests/Strange-v0", None)
    gymnasium.register("tests/Strange-v0", entry_point=Strange)
    score = floor(EnvConfig("tests/Strange-v0", pixels=True, floor_episodes=2), seed=0)
    assert score is not None
    assert (score.mean, score.n) == (6.0, 2)


# -------------------------------------------------------------------------------------------- arguments and wrappers


def test_arguments_are_read_as_what_they_look_like():
    given = ["length=9", "ends=truncated", "flag=true", "nothing=none", "rate=1e-3", "sides=(1, 2)"]
    assert dict(map(argument, given)) == {
        "length": 9, "ends": "truncated", "flag": True, "nothing": None, "rate": 1e-3, "sides": (1, 2)
    }  # fmt: skip
    with pytest.raises(ConfigError, match="expected key=value for an argument of the environment, got 'length'"):
        argument("length")
    env = make(register(), args=("length=2", "choices=7"))
    env.reset(seed=0)
    assert env.actions["action"].size == 7
    assert [env.step(np.array(6))[2] for _ in range(2)] == [False, True]


MODULE = """
import gymnasium
from tests.envs.counting import Counting

class Mine(Counting):
    pass

class Doubled(gymnasium.RewardWrapper):
    def reward(self, reward):
        return 2 * reward

gymnasium.register("Mine-v0", entry_point=Mine)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module, as the current one, outside sys.path as for a console script."""
    (tmp_path / "my_own_envs.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    monkeypatch.delitem(sys.modules, "my_own_envs", raising=False)
    gymnasium.registry.pop("Mine-v0", None)
    return tmp_path


@pytest.mark.parametrize("id", ["my_own_envs:Mine-v0", "my_own_envs:Mine"])
def test_a_module_of_the_current_folder_is_found(folder: Path, id: str) -> None:
    env = make(id, args=("length=2",), wrap=("my_own_envs:Doubled",))
    env.reset(seed=0)
    assert env.step(np.array(3))[1] == 2 * (10 + 3)


def test_a_wrapper_or_class_that_is_not_there_is_told(folder: Path) -> None:
    with pytest.raises(ConfigError, match="--wrap expects module:Wrapper, got 'my_own_envs:Double'. Did you mean"):
        make("my_own_envs:Mine", wrap=("my_own_envs:Double",))
    with pytest.raises(ConfigError, match="--wrap expects module:Wrapper, got 'absent:Double'"):
        make("my_own_envs:Mine", wrap=("absent:Double",))
    with pytest.raises(EnvironmentIdError, match="no environment has the id 'my_own_envs:Mein'"):
        make("my_own_envs:Mein")


def test_an_own_environment_trains_from_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "--env", "my_own_envs:Mine-v0", "--run", str(folder / "run"), "--env-arg", "length=4"]
    command += ["--wrap", "my_own_envs:Doubled", "--steps", "60", "--set", "agent.prefill=40", "--set", "env.num=2"]
    command += ["--set", "agent.length=4", "--set", "agent.batch=2", "--set", "agent.train_ratio=8", "--device", "cpu"]
    command += ["--set", "agent.imag_last=2", "--set", "eval_episodes=1", "--set", "env.floor_episodes=3"]
    assert cli.main(command) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "vector vector (3,) float32 -1…1e+06; action: one of 4 choices" in out
    assert cli.main(["eval", str(folder / "run"), "--episodes", "2"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("more", [["--set", "env.stack=3"], ["--set", "env.grey=true", "--set", "env.stack=2"]])
def test_stacked_pictures_are_learnt_and_dreamt(tmp_path: Path, capsys: pytest.CaptureFixture[str], more: Any) -> None:
    command = ["train", "--env", "pendulum", "--pixels", "--run", str(tmp_path / "run"), "--steps", "60", *more]
    for setting in (
        "agent.prefill=40",
        "env.num=2",
        "env.max_steps=20",
        "env.size=16",
        "agent.length=4",
        "agent.batch=2",
    ):
        command += ["--set", setting]
    for setting in ("agent.train_ratio=8", "agent.imag_last=2", "eval_episodes=1", "env.floor_episodes=1"):
        command += ["--set", setting]
    assert cli.main([*command, "--device", "cpu"]) == 0, capsys.readouterr().err
    assert cli.main(["dream", str(tmp_path / "run"), "--length", "10"]) == 0, capsys.readouterr().err


def test_pictures_that_do_not_fit_the_networks_name_the_option_that_resizes_them() -> None:
    for shape, says in (((84, 84, 3), "--set env.size=80"), ((64, 48, 3), "--set env.size=64")):
        with pytest.raises((ConfigError, SpaceError), match=f"expected .*{says}"):
            dreamer_v3.build(
                dreamer_v3.tiny(), {"image": Column("image", shape, "uint8", 0, 255)}, ActionSpec("discrete", 2)
            )


def test_the_folder_of_a_fitted_model_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"command": "fit", "model": "vae"}')
    with pytest.raises(RunFolderError, match="holds a model or a world on data, and this expects an agent"):
        open_run(tmp_path)


# ------------------------------------------------------------------------------------ single, endless, slow, floors


class Only(Counting):
    """Cannot be made twice in one process."""

    made = 0

    def __init__(self):
        super().__init__()
        Only.made += 1
        if Only.made > 1:
            raise RuntimeError("the port is taken")
        self.observation_space = spaces.Box(-1.0, 1e6, (3,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def step(self, action):
        return super().step(float(action[0]))


gymnasium.register("tests/Only-v0", entry_point=Only)


def test_an_environment_that_cannot_be_made_twice_trains_evaluates_and_has_a_floor(tmp_path: Path) -> None:
    env = EnvConfig("tests/Only-v0", num=1, single=True, floor_episodes=3)
    settings = config(200, eval_every=0, eval_episodes=2)
    result = Interact(type(settings)(**{**vars(settings), "env": env}), ToyAgent, tmp_path / "run").run()
    assert result.evaluation is not None
    assert result.evaluation.lengths == (5, 5)
    score = floor(env, 0)
    assert score is not None
    assert score.n == 3
    assert Only.made == 1
    with pytest.raises(ConfigError, match="env.single makes one environment in this process: set env.num=1"):
        EnvConfig("tests/Only-v0", num=4, single=True)
    midway = type(settings)(**{**vars(settings), "env": env, "eval_every": 100})
    with pytest.raises(ConfigError, match="cannot be made twice .*set eval_every=0, got 100"):
        Interact(midway, ToyAgent, tmp_path / "other")


class Endless(Counting):
    """Never ends."""

    def __init__(self):
        super().__init__(length=-1)


gymnasium.register("tests/Endless-v0", entry_point=Endless)


@pytest.mark.parametrize("id", ["Only", "Endless"])
def test_the_command_trains_reports_and_plans_in_one_that_is_single_or_endless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], id: str
) -> None:
    monkeypatch.setattr("worldformula.run.play.ENDLESS", 60)
    single = id == "Only"
    folder = tmp_path / "run"
    command = ["train", "--env", f"tests/{id}-v0", "--run", str(folder), "--steps", "40"]
    for setting in (
        "env.num=1", f"env.single={single}", "agent.prefill=16", "agent.batch=2", "agent.length=4", "agent.imag_last=2",
        "eval_episodes=2", f"env.floor_episodes={2 * single}",
    ):  # fmt: skip
        command += ["--set", setting]
    assert cli.main([*command, "--device", "cpu"]) == 0, capsys.readouterr().err
    out, page = capsys.readouterr().out, (folder / "report.html").read_text()
    if single:
        assert Only.made == 1
        assert re.search(r"reached: return [\d.]+ ± [\d.]+ \(n = 10\); floor \(random policy\) [\d.]+ ", out)
    else:
        assert "warning: not evaluated: no episode of tests/Endless-v0 has ended within 60 actions; set env.max" in out
        assert "reached: not measured; floor (random policy) not known" in out
        assert "No episode has ended yet" in page
    assert "horizon" in page
    assert cli.main(["plan", str(folder), "--planner", "cem", "--steps", "4"]) == 0, capsys.readouterr().err
    assert cli.main(["eval", str(folder), "--episodes", "2"]) == (0 if single else 1)


def test_a_limit_is_waited_for_however_long_and_nothing_else_that_is_refused_is_passed_over(monkeypatch):
    monkeypatch.setattr("worldformula.run.play.ENDLESS", 60)
    bare, told = EnvConfig("tests/Endless-v0", num=2), list[str]()
    limited = EnvConfig("tests/Endless-v0", num=2, max_steps=80)
    agent = Randomly(Envs("tests/Endless-v0", 1).actions, 0)
    assert tried(told.append, agent, bare, episodes=2, seed=0) is None
    assert "no episode of tests/Endless-v0 has ended within 60 actions" in told[0]
    found = tried(told.append, agent, limited, episodes=2, seed=0)
    assert found is not None
    assert found.lengths == (80, 80)
    episodes, _ = recorded(None, limited, 2, 0)
    assert [int(episode["is_last"].sum()) for episode in episodes] == [1, 1]
    with pytest.raises(ConfigError, match="expected at least one episode"):
        tried(told.append, agent, bare, episodes=0, seed=0)
    assert len(told) == 1


def test_the_floor_of_an_endless_environment_is_not_known_and_a_limit_gives_it_one():
    assert random_policy_return("tests/Endless-v0", 3, most=500).n == 0
    assert str(random_policy_return("tests/Endless-v0", 3, most=500)) == "not known"
    assert random_policy_return("tests/Endless-v0", 3, max_steps=10).n == 3


def test_a_slow_environment_is_measured_for_as_long_as_allowed_and_none_at_all_where_none_is_wanted(monkeypatch):
    assert 1 <= random_policy_return(register(), 10**7, most=10**9, seconds=0.5).n < 10**7
    monkeypatch.setattr("worldformula.report.yardsticks.random_policy_return", None)
    assert floor(EnvConfig(register(), floor_episodes=0), 0) is None
    assert str(Yardsticks(None, None)) == "return: floor not known; best known not known"


def test_yardsticks_are_measured_once_for_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env, folder = EnvConfig(register(), floor_episodes=4), RunFolder(tmp_path)
    assert measured(env, 0, folder) is None
    first = yardsticks(env, 0, folder)
    assert first.floor is not None
    assert first.floor == random_policy_return(register(), 4, first_seed())
    monkeypatch.setattr("worldformula.report.yardsticks.random_policy_return", None)
    assert yardsticks(env, 0, folder) == measured(env, 0, folder) == first
    assert measured(EnvConfig(register(), floor_episodes=5), 0, folder) is None
    (tmp_path / "yardsticks.json").write_text("{")
    assert measured(env, 0, folder) is None


def first_seed() -> int:
    from worldformula.report.yardsticks import REPORT
    from worldformula.training.seeding import derived

    return derived(0, REPORT)


# ------------------------------------------------------------------------------------------------------------- info


def test_numbers_of_info_at_the_end_of_episodes_are_logged(tmp_path: Path) -> None:
    class Goal(gymnasium.Wrapper):
        def step(self, action: Any) -> Any:
            *answer, info = self.env.step(action)
            return *answer, {**info, "success": answer[3], "note": "text"}

    gymnasium.registry.pop("tests/Goal-v0", None)
    gymnasium.register("tests/Goal-v0", entry_point=lambda: Goal(gymnasium.make("Pendulum-v1", max_episode_steps=9)))
    env = EnvConfig("tests/Goal-v0", num=2, log_info=("success", "note", "absent"))
    envs = Envs("tests/Goal-v0", 2, log_info=env.log_info)
    rows, found = envs.reset(), []
    for _ in range(12):
        rows = envs.step(envs.random(np.random.default_rng(0), rows))
        found += [episode.info for episode in envs.finished]
    assert found == [{"success": 1.0}] * 2
    settings = config(200, eval_episodes=0)
    Interact(type(settings)(**{**vars(settings), "env": env}), ToyAgent, tmp_path / "run").run()
    logged = [line["episode/success"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in line]
    assert logged
    assert set(logged) == {1.0}
