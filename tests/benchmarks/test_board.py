"""The board's book: what is there is not made again, budgets are equal, the page says what was measured."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import agents, board, board_page, model_free
from benchmarks.agents import Filling, settings_of
from benchmarks.board import Book, Budget, Published, Settings, Task, Watch, at, reached
from tests.agent.systems.toy import ToyAgent, config
from worldformula.envs import Envs
from worldformula.errors import NonFiniteError, SpaceError
from worldformula.run.config import EnvConfig
from worldformula.run.evaluate import Evaluation
from worldformula.training import checkpoint

TASK = Task(
    "swing", "A pendulum", EnvConfig("pendulum", max_steps=10), ("quick", "slow"), 400, 2.0, 100, 4,
    published=(Published(90.0, "SAC", 20_000, "a table"),), ceiling=100.0,
)  # fmt: skip


class World:
    """A clock, and agents of known speed whose return is a tenth of their steps."""

    def __init__(self) -> None:
        self.now, self.runs, self.said = 1000.0, list[tuple[str, int]](), list[str]()

    def watch(self, task: Task, seed: int, budget: Budget) -> Watch:
        return Watch(task, seed, budget, clock=lambda: self.now, measure=self.look, say=self.said.append)

    def look(self, task: Task, seed: int, agent: Any) -> Evaluation:
        self.now += 500.0  # a look takes long, and is not counted
        return Evaluation((agent - 1.0, agent + 1.0), (10, 10))

    def learn(self, task: Task, agent: str, seed: int, watch: Watch, folder: Any) -> dict[str, Any]:
        self.runs.append((agent, seed))
        self.now += 77.0  # so does building
        watch.start()
        per_step, steps = {"quick": 0.1, "slow": 1.0}[agent], 0
        while True:
            steps, self.now = steps + 10, self.now + 10 * per_step
            over = watch.spent(steps)
            if over or watch.due(steps):
                watch.look(steps, steps / 10)  # type: ignore[arg-type]
            if over:
                return {"changes": {}, "weights": 7}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(agents, "settings_of", lambda task, agent: Settings({"agent": agent, "every": task.every}))
    return World()


def filling(world: World, path: Any) -> Filling:
    return Filling(Book(path / "agents.json"), path / "runs", world.learn, world.watch, world.said.append)


def test_equal_steps_and_equal_cpu_seconds(world: World, tmp_path: Any) -> None:
    """400 steps are 40 and 400 seconds; two minutes are 1200 and 120 steps, whatever looks and building took."""
    fill = filling(world, tmp_path)
    assert fill.fill(TASK, TASK.agents, [1], Budget(steps=400)) == 0
    rows = {row["agent"]: row for row in fill.book.of("swing")}
    assert {name: (row["steps"], row["cpu_seconds"], row["return"]) for name, row in rows.items()} == {
        "quick": (400, 40.0, 40.0), "slow": (400, 400.0, 40.0),
    }  # fmt: skip
    assert rows["quick"]["curve"] == [[100, 10.0, 10.0, 1.0], [200, 20.0, 20.0, 1.0], [300, 30.0, 30.0, 1.0],
                                      [400, 40.0, 40.0, 1.0]]  # fmt: skip
    assert fill.fill(TASK, TASK.agents, [1], Budget(minutes=2.0)) == 0
    assert world.runs == [("quick", 1), ("slow", 1), ("quick", 1)]  # the slow one's curve tells of two minutes
    rows = {row["agent"]: row for row in fill.book.of("swing")}
    assert {name: (row["steps"], row["cpu_seconds"]) for name, row in rows.items()} == {
        "quick": (1200, 120.0), "slow": (400, 400.0),
    }  # fmt: skip
    assert at(rows["slow"]["curve"], Budget(minutes=2.0)) == [100, 100.0, 10.0, 1.0]
    assert at(rows["quick"]["curve"], Budget(minutes=2.0)) == [1200, 120.0, 120.0, 1.0]
    assert at(rows["quick"]["curve"], Budget(steps=400)) == [400, 40.0, 40.0, 1.0]
    assert at(rows["slow"]["curve"], Budget(steps=500)) is None
    assert reached(rows["slow"]["curve"], 25.0) == [300, 300.0, 30.0, 1.0]
    assert reached(rows["slow"]["curve"], 41.0) is None


def test_a_row_that_is_there_is_not_made_again_unless_settings_change(
    world: World, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    filling(world, tmp_path).fill(TASK, ["quick"], [1, 2], Budget(steps=200))
    filling(world, tmp_path).fill(TASK, ["quick"], [1, 2, 3], Budget(steps=200))
    assert world.runs == [("quick", 1), ("quick", 2), ("quick", 3)]
    assert "swing, quick, seed 1: there already" in world.said
    again = filling(world, tmp_path)
    again.fill(TASK, ["quick"], [1], Budget(steps=400))  # a longer one takes its place
    assert [(row["seed"], row["steps"]) for row in again.book.of("swing")] == [(1, 400), (2, 200), (3, 200)]
    monkeypatch.setattr(agents, "settings_of", lambda task, agent: Settings({"agent": agent, "lr": 1}))
    again.fill(TASK, ["quick"], [1], Budget(steps=200))
    assert [(row["seed"], row["steps"]) for row in again.book.of("swing")] == [(1, 200), (2, 200), (3, 200)]
    assert world.runs[3:] == [("quick", 1), ("quick", 1)]


def test_a_row_is_on_the_disk_before_the_next_run_begins(world: World, tmp_path: Any) -> None:
    """Also where that one is killed; and a file is never half written."""
    fill, seen, whole = filling(world, tmp_path), [], world.learn

    def learn(*given: Any) -> dict[str, Any]:
        seen.append([row["seed"] for row in Book(fill.book.path).rows])
        if given[2] == 3:
            raise KeyboardInterrupt
        return whole(*given)

    fill.learn = learn
    with pytest.raises(KeyboardInterrupt):
        fill.fill(TASK, ["quick"], [1, 2, 3], Budget(steps=100))
    assert seen == [[], [1], [1, 2]]
    assert [path.name for path in fill.book.path.parent.iterdir()] == ["agents.json"]


def test_what_is_missing_or_fails_is_said_and_the_others_go_on(world: World, tmp_path: Any) -> None:
    fill, whole = filling(world, tmp_path), world.learn

    def learn(task: Task, agent: str, *given: Any) -> dict[str, Any]:
        if agent == "absent":
            raise ModuleNotFoundError("No module named 'stable_baselines3'")
        if agent == "broken":
            raise NonFiniteError("loss is nan")
        return whole(task, agent, *given)

    fill.learn = learn
    assert fill.fill(TASK, ["absent", "broken", "quick"], [1], Budget(steps=100)) == 1
    assert [row["agent"] for row in fill.book.of("swing")] == ["quick"]
    assert any("absent" in line and "pip install 'worldformula[bench]'" in line for line in world.said)
    assert "swing, broken, seed 1: FAILED: loss is nan" in world.said
    absent = replace(TASK, name="away", env=EnvConfig("dm_control/no-task-v0"))
    assert fill.fill(absent, ["quick"], [1], Budget(steps=100)) in (0, 1)
    assert not fill.book.of("away")


def test_the_floor_is_measured_once_with_the_options_of_the_task(world: World, tmp_path: Any) -> None:
    book = Book(tmp_path / "agents.json")
    first = book.floor(TASK, episodes=5)
    assert first["n"] == 5
    assert -10 * 17 < first["mean"] < -10 * 1  # ten steps, at most π² + 6.4 + … a step
    book.floors["swing"]["mean"] = -1.0
    book.write()
    assert Book(tmp_path / "agents.json").floor(TASK, episodes=5)["mean"] == -1.0
    assert book.floor(replace(TASK, env=replace(TASK.env, max_steps=20)), episodes=5)["mean"] < -80.0


def test_the_page_shows_every_seed_the_floor_and_what_was_not_reached(
    world: World, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board_page, "RESULTS", tmp_path)
    fill = filling(world, tmp_path)
    fill.fill(TASK, TASK.agents, [1, 2], Budget(steps=400))
    fill.fill(TASK, ["quick"], [2], Budget(minutes=2.0))
    fill.book.floors["swing"] |= {"mean": -10.0, "error": 0.5, "n": 100}
    page = tmp_path / "docs" / "board.md"
    board_page.write(fill.book, [TASK, replace(TASK, name="later", title="Later")], page)
    text = page.read_text()
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert table[0] == (
        "| agent | seeds | after 400 steps | CPU minutes | after 2 CPU minutes | steps | to 89: steps, CPU minutes |"
    )
    assert table[2] == "| `quick` | 1, 2 | 40, 40 | 0.7, 0.7 | –, 120 | –, 1 200 | not reached; 900, 1.5 |"
    assert table[3] == "| `slow` | 1, 2 | 40, 40 | 6.7, 6.7 | 10, 10 | 100, 100 | not reached; not reached |"
    assert "Floor (random actions): −10 ± 0.5, 100 episodes." in text
    assert "Published: SAC 90 (20 000 steps; a table)." in text
    assert text.endswith(
        "## Not run yet\n\n- Later (`later`)\n"
        "- What a state has to tell (`python -m benchmarks.variants representations`)\n"
        "- What makes data go further (`python -m benchmarks.variants switches`)\n"
    )
    for name in ("steps", "minutes"):
        svg = (page.parent / board_page.picture(TASK, name)).read_text()
        assert f"images/board/swing_{name}.svg" in text
        assert svg.startswith('<svg class="wf-chart"')
        assert svg.count('class="line"') == 4


def test_a_run_that_was_first_looked_at_behind_a_budget_does_not_tell_it(tmp_path: Any) -> None:
    """200 s at the first look: one minute is another run, seven are this one; and what was asked for is never twice."""
    book = Book(tmp_path / "agents.json")
    own = Settings({"lr": 1})
    row = {"task": "t", "agent": "a", "seed": 1, "settings": own.digest, "steps": 200, "cpu_seconds": 400.0}
    curve = [[100, 200.0, 0.0, 0.0], [200, 400.0, 1.0, 0.0]]
    book.add({**row, "budget": {"steps": None, "minutes": 2.0}, "curve": curve}, own)
    assert book.covered("t", "a", 1, own, Budget(minutes=1)) is None
    assert book.covered("t", "a", 1, own, Budget(minutes=400 / 60)) is not None
    assert book.covered("t", "a", 1, own, Budget(steps=150)) is not None
    assert book.covered("t", "a", 1, own, Budget(minutes=2)) is not None


def test_the_page_of_the_project_is_that_of_its_rows() -> None:
    page = board_page.text(Book(), list(agents.TASKS.values()))
    assert board_page.PAGE.read_text(encoding="utf-8") == page, "run: python -m benchmarks.agents --write"


# --------------------------------------------------------------------------------------------- what really learns


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Task:
    """A task on which one of our agents, a small one, learns with an ordinary run."""
    asked = config(agents.ENDLESS, checkpoint_every=50, eval_every=60, eval_episodes=2)
    monkeypatch.setattr(agents, "config", lambda task, agent, seed: replace(asked, seed=seed))
    monkeypatch.setattr(agents, "catalogue", SimpleNamespace(find=lambda name: SimpleNamespace(build=ToyAgent)))
    return replace(TASK, every=60, episodes=2, env=asked.env)


def test_a_run_of_ours_that_is_interrupted_goes_on_with_its_curve(toy: Task, tmp_path: Any) -> None:
    """Its checkpoint holds points and seconds; equal seeds give equal curves, but for the time that they took."""

    def run(folder: str, *goals: int) -> list[list[float]]:
        for goal in goals:
            watch = Watch(toy, 1, Budget(steps=goal), say=lambda _: None)
            more = agents.ours(toy, "toy", 1, watch, tmp_path / folder)
        assert more["updates"] > 0
        return watch.points

    whole, parts = run("whole", 240), run("parts", 130, 240)
    assert [point[0] // 60 for point in whole] == [1, 2, 3, 4]
    ends = [point for point in parts if point[0] // 60 * 60 + 3 > point[0]]  # but for where the first part ended
    assert [[p[0], p[2]] for p in ends] == [[p[0], p[2]] for p in whole]
    assert all(one[1] <= other[1] for one, other in itertools.pairwise(parts))
    held = checkpoint.load_latest(tmp_path / "parts" / "checkpoints")
    assert held is not None
    assert [point[0] // 60 for point in held.state["watch"]["points"]][:3] == [1, 2, 2]


def test_minutes_end_a_run_of_ours(toy: Task, tmp_path: Any) -> None:
    """A look is no part of them: here one takes 1000 seconds, and a question for the time takes one."""
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    def look(*_: Any) -> Evaluation:
        now[0] += 1000.0
        return Evaluation((1.0,), (1,))

    watch = Watch(toy, 1, Budget(minutes=2.0), clock=clock, measure=look, say=lambda _: None)
    agents.ours(toy, "toy", 1, watch, tmp_path / "run")
    assert 120 <= watch.points[-1][1] < 130
    assert watch.points[-1][0] > 60
    longer = Watch(toy, 1, Budget(minutes=3.0), clock=clock, measure=look, say=lambda _: None)
    agents.ours(toy, "toy", 1, longer, tmp_path / "run")
    assert 180 <= longer.points[-1][1] < 190
    assert longer.points[0] == watch.points[0]


def test_settings_of_a_run_tell_its_agent_apart_and_not_its_seed() -> None:
    swing = agents.TASKS["pendulum"]
    found = [settings_of(swing, agent).digest for agent in ("dreamer_v3", "tdmpc2", "sac")]
    assert len(set(found)) == 3
    changed = replace(swing, changes={"dreamer_v3": ("lr=0.5",)})
    assert settings_of(changed, "dreamer_v3").digest != found[0]
    assert settings_of(replace(swing, steps=1), "dreamer_v3").digest == found[0]


@pytest.mark.parametrize(
    ("then", "same"),
    [
        ({"run": {"lr": 1, "world": {"units": 8}}}, True),  # ``harmony`` did not exist, and is off
        ({"run": {"lr": 1, "world": {"units": 8, "harmony": False}}}, True),
        ({"run": {"lr": 1, "world": {"units": 8, "harmony": True}}}, False),
        ({"run": {"lr": 2, "world": {"units": 8}}}, False),
        ({"run": {"lr": 1, "world": {}}}, False),  # ``units`` is not at its default
        ({"run": {"lr": 1, "world": {"units": 8}, "gone": 3}}, False),  # an option that is no more
    ],
)
def test_an_option_that_did_not_exist_changes_nothing_at_its_default(then: dict[str, Any], same: bool) -> None:
    now = {"run": {"lr": 1, "world": {"units": 8, "harmony": False}}}
    assert Settings(now, {"run.world.harmony": False, "run.world.units": 16}).are(then) == same


def test_the_recorded_rows_stand_at_the_settings_that_their_names_say() -> None:
    """A name is the hash of the settings; every row of our agents is of today's."""
    book = Book()
    assert {row["settings"] for row in book.rows} == set(book.settings)
    assert all(board.digest(values) == name for name, values in book.settings.items())
    ours = [row for row in book.rows if row["agent"] in agents.OURS]
    old = [row for row in ours if not book.today(row, settings_of(agents.TASKS[row["task"]], row["agent"]))]
    assert ours
    assert not old


# ------------------------------------------------------------------------------------------------------- model-free


def test_peers_see_numbers_side_by_side_and_choices_as_one_hots() -> None:
    env = model_free.Plain(EnvConfig("tests.envs.test_packages:Pair", max_steps=3))
    assert env.observation_space.shape == (5,)
    seen, _ = env.reset(seed=0)
    assert seen.tolist() == [0, 0, 1, 0, 0]
    seen, reward, terminated, truncated, _ = env.step(np.int64(1))
    assert (seen.tolist(), reward, terminated, truncated) == ([0, 1, 0, 1, 1], 1.0, False, False)
    assert [env.step(1)[3] for _ in range(2)] == [False, True]
    with pytest.raises(SpaceError, match="peers read numbers"):
        model_free.Plain(EnvConfig("pendulum", pixels=True))


def test_a_peer_acts_in_rows_and_remembers_what_it_wants_to() -> None:
    """A stand-in for a recurrent model: its memory counts rows, and begins anew with each episode."""

    class Model:
        def predict(self, seen: Any, state: Any, episode_start: Any, deterministic: bool) -> Any:
            before = np.zeros((1, len(seen), 1)) if state is None else state[0]
            count = np.where(episode_start[:, None], 0.0, before[0]) + 1
            return np.clip(count / 100, -1, 1).astype(np.float32), (count[None],)

    envs = Envs("pendulum", 2, seed=0, max_steps=3)
    player = model_free.Player(Model(), envs.observations)
    rows, state, found = envs.reset(0), player.initial(2), []
    for _ in range(6):
        actions, state = player.act(rows, state)
        found.append(round(float(actions[0, 0]) * 100))
        rows = envs.step(actions)
    assert found == [1, 2, 3, 4, 1, 2]  # the fourth is at the last row of the first episode


def test_the_commit_is_that_of_the_start_and_says_whether_code_was_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"rev-parse": "0123456789", "status": ""}
    monkeypatch.setattr(board, "_git", lambda what, *_: answers[what])
    board.commit.cache_clear()
    assert board.commit() == "0123456789"
    answers["rev-parse"] = "later"
    assert board.commit() == "0123456789"
    board.commit.cache_clear()
    answers["status"] = " M worldformula/worlds/rssm.py"
    assert board.commit() == "later+"
    board.commit.cache_clear()
