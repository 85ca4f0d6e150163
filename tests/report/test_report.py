"""The page: measured by an agent, kept in the run folder, built again from it, and safe whatever the folder holds."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.envs.test_robot import Real
from tests.report.dreamer import Dreamer
from worldformula.cli.commands import write_dream
from worldformula.envs import random_policy_return, reference_return
from worldformula.envs.returns import Score
from worldformula.envs.robot import RobotEnv
from worldformula.errors import ConfigError, RunFolderError
from worldformula.metrics.openloop import open_loop_error
from worldformula.report.curves import lines
from worldformula.report.evidence import Curve, Evidence, load
from worldformula.report.gather import CONTEXT, LEFT_OUT, _dream, gather, recorded, windows
from worldformula.report.page import Run, _pictures, _scale, page
from worldformula.report.write import seconds, write
from worldformula.run.config import EnvConfig
from worldformula.run.evaluate import evaluate
from worldformula.run.folder import RunFolder
from worldformula.training.seeding import derived

EVIL = "<img src=x onerror=alert(1)>\"'&"
VOID = {"meta", "img", "br", "circle", "path"}


class Balanced(HTMLParser):
    """Fails on a tag that closes what is not open."""

    def __init__(self):
        super().__init__()
        self.open, self.tags = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def parsed(html):
    parser = Balanced()
    parser.feed(html)
    assert not parser.open
    return parser.tags


def make_run(folder: Path, **changes) -> Path:
    folder.mkdir(parents=True)
    env = {"id": "pendulum", "num": 2, "pixels": True, "size": 16, "action_repeat": 1, "max_steps": None}
    config = {"model": "toy", "preset": "tiny", "env": env, "agent": {"lr": 1e-4}, "steps": 900, "seed": 3} | changes
    (folder / "config.json").write_text(json.dumps(config))
    lines = [
        {"step": s, "updates": s // 2, "loss/kl": 9.0 / s, "grad": 1.0, "episode/return": -s}
        for s in range(100, 1000, 100)
    ]
    lines.append({"step": 900, "eval/return": -876.5, "eval/return_error": 3.0, "eval/episodes": 5.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    clock = [1.0, 2.0, 5.0, 0.5, 3.0]
    (folder / "timing.jsonl").write_text("".join(json.dumps({"step": 1, "seconds": t}) + "\n" for t in clock))
    return folder


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> tuple[Path, Dreamer]:
    torch.manual_seed(0)
    agent = Dreamer()
    run = make_run(tmp_path_factory.mktemp("runs") / "swing <up>")
    write(run, agent, episodes=3)
    return run, agent


def test_the_page_shows_everything_that_was_measured(measured):
    run, agent = measured
    html, evidence = (run / "report.html").read_text(encoding="utf-8"), load(run)
    tags = parsed(html)
    headings = re.findall(r"<h2>(.*?)</h2>", html)
    assert headings == [
        "Learning curve", "What it does, and what it dreams", "Prediction error against horizon",
        "The world model&#x27;s loss", "The graphical model", "The code that runs", "Terms of the loss", "Settings",
    ]  # fmt: skip
    assert "swing &lt;up&gt;" in html
    assert "mean return of 3 evaluation episodes" in html
    assert f"{evidence.open_loop.ratio(15):.2g} times the error" in html
    assert evidence.formula.mathml in html
    assert evidence.formula.code.splitlines()[-1].split()[0] in html
    images = [a["src"] for tag, a in tags if tag == "img"]
    embedded = [base64.b64decode(src.removeprefix("data:image/webp;base64,")) for src in images]
    assert embedded == [evidence.videos[name] for name in ("episode", "dream", "strip")]
    assert "cpu" in evidence.machine["device"]
    assert repr(agent.world.loss) == evidence.formula.text


def test_the_page_loads_nothing_and_runs_nothing(measured):
    html = (measured[0] / "report.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in html
    assert not any(tag in ("script", "link", "iframe", "object") for tag, _ in parsed(html))
    assert set(re.findall(r'(?:src|href)="(\w+):', html)) == {"data"}
    assert "url(" not in html
    assert "@import" not in html


def test_the_page_is_built_again_without_the_agent(measured):
    run, _ = measured
    before = (run / "report.html").read_bytes()
    (run / "report.html").unlink()
    assert write(run) == run / "report.html"
    assert (run / "report.html").read_bytes() == before


def test_measurements_agree_with_their_definitions(measured):
    run, agent = measured
    evidence = load(run)
    seed = derived(3, 2)
    assert evidence.floor == random_policy_return("pendulum", 20, seed)
    assert evidence.best == reference_return("pendulum", 20, seed)
    batch = agent.seen[0]
    found = agent.open_loop(batch, CONTEXT)
    assert evidence.open_loop == open_loop_error(found["truth"], found["dream"], CONTEXT)
    assert evidence.open_loop.horizon == 30
    assert evidence.reached.n == 3
    assert evidence.floor.mean < evidence.best.mean


def test_measuring_leaves_no_trace_in_the_generators_and_repeats(measured):
    run, agent = measured
    before = torch.get_rng_state()
    again = gather(run, agent, episodes=3)
    assert torch.equal(torch.get_rng_state(), before)
    first = load(run)
    assert dataclasses.replace(again, machine={}) == dataclasses.replace(first, machine={})


def test_a_page_says_why_it_shows_no_dream(measured, tmp_path, monkeypatch):
    run, agent = measured
    monkeypatch.setattr("worldformula.report.gather.CONTEXT", 1000)  # longer than every episode
    found = dataclasses.replace(load(run), videos={}, undreamt=_dream(agent, [{"reward": np.zeros(5)}]).undreamt)
    assert found.undreamt.endswith("the longest episode of random actions has 5.")
    found.save(tmp_path)
    assert load(tmp_path).undreamt == found.undreamt
    assert found.undreamt in _pictures(found)
    assert load(run).undreamt == ""


def test_windows_stay_within_an_episode_and_overlap_nowhere():
    recorded = [
        {"reward": np.zeros(n), "time": np.arange(n) + 1000 * e, "is_last": np.arange(n) == n - 1}
        for e, n in enumerate([7, 23, 40])
    ]
    batch = windows(recorded, length=8, most=100)
    assert batch["time"].shape == (7, 8)  # 0 + 2 + 5
    assert len(np.unique(batch["time"])) == 56
    assert (np.diff(batch["time"]) == 1).all()
    assert windows(recorded, length=8, most=3)["time"].shape == (3, 8)


def test_recorded_episodes_are_complete_and_end_without_an_action():
    torch.manual_seed(0)
    env = EnvConfig("pendulum", pixels=True, size=16, max_steps=12)
    found, pictures = recorded(Dreamer(), env, 2, seed=1)
    assert [len(e["reward"]) for e in found] == [13, 13]
    for episode in found:
        assert episode["is_first"].tolist() == [True] + 12 * [False]
        assert episode["is_last"].tolist() == 12 * [False] + [True]
        assert np.abs(episode["action"][:-1]).min() > 0
        assert not episode["action"][-1].any()
    assert np.array_equal(pictures, found[0]["image"])


class Blind:
    """Neither a world model nor pictures: pushes always."""

    config = None

    def initial(self, num):
        return {}

    def act(self, rows, state, explore=True):
        return np.ones((len(rows["reward"]), 1), np.float32), state


def test_an_agent_without_dreams_gets_a_page_without_them(tmp_path):
    env = {"id": "pendulum", "num": 1, "max_steps": 20}
    run = make_run(tmp_path / "blind", env=env)
    write(run, Blind(), episodes=1)
    evidence = load(run)
    assert (evidence.open_loop, evidence.formula, evidence.best) == (None, None, None)
    assert set(evidence.videos) == {"episode"}  # an environment of ours draws itself
    assert math.isnan(evidence.reached.error)
    html = (run / "report.html").read_text(encoding="utf-8")
    parsed(html)
    assert "horizon</h2>" not in html


DRIVERS: list = []


def driver():
    DRIVERS.append(Real())
    return RobotEnv(DRIVERS[-1])


class Idle(Blind):
    """Must not be asked."""

    def act(self, rows, state, explore=True):
        raise AssertionError


@pytest.mark.parametrize("limit", [None, 20])
def test_the_page_of_a_run_on_a_real_robot_is_made_without_acting(tmp_path, limit):
    DRIVERS.clear()
    run = make_run(tmp_path / "robot", env={"id": f"{__name__}:driver", "num": 1, "max_steps": limit})
    write(run, Idle(), episodes=3)
    evidence, html = load(run), (run / "report.html").read_text(encoding="utf-8")
    parsed(html)
    assert (evidence.reached, evidence.floor, evidence.open_loop, evidence.videos) == (None, None, None, {})
    assert evidence.left_out == LEFT_OUT
    assert "<h2>What was not measured</h2><p>This run acted on a robot that is not simulated" in html
    assert len(DRIVERS) == 1
    assert set(DRIVERS[0].told) <= {math.inf}, "paused, and nothing else"
    assert DRIVERS[0].reads == 0


def test_nobody_acts_on_a_real_robot_to_record_episodes():
    DRIVERS.clear()
    with pytest.raises(ConfigError, match="nobody acts on it to record episodes"):
        recorded(None, EnvConfig(f"{__name__}:driver", num=1, max_steps=5), 1, seed=0)
    with pytest.raises(ConfigError, match="expected one stream"):
        recorded(None, EnvConfig(f"{__name__}:driver", num=1, max_steps=5), 4, seed=0)
    assert [set(made.told) for made in DRIVERS] == [{math.inf}, {math.inf}]


def test_an_evaluation_on_a_real_robot_has_one_driver_and_a_limit():
    DRIVERS.clear()
    env = EnvConfig(f"{__name__}:driver", num=1)
    with pytest.raises(ConfigError, match="needs env.max_steps, such as --set env.max_steps=200"):
        evaluate(Idle(), env, episodes=2, seed=0)
    assert set(DRIVERS.pop().told) == {math.inf}
    found = evaluate(Blind(), dataclasses.replace(env, max_steps=5), episodes=2, seed=0)
    assert found.lengths == (5, 5)
    assert len(DRIVERS) == 1
    assert DRIVERS[0].told == 10 * [1.0] + [math.inf]


class Numbers(Blind):
    """Observes three numbers, and dreams that each keeps what it was last."""

    def open_loop(self, batch, context):
        truth = batch["vector"]
        dream = np.concatenate([truth[:, :context], np.repeat(truth[:, context - 1 : context], 30, 1)], 1)
        return {"truth": truth, "dream": dream, "names": np.array(["cos <θ>", "sin", "speed"])}


def test_an_agent_that_observes_numbers_shows_lines_of_truth_and_dream(tmp_path):
    env = {"id": "pendulum", "num": 1, "max_steps": 40}
    run = make_run(tmp_path / "numbers", env=env)
    write(run, Numbers(), episodes=2)
    evidence, html = load(run), (run / "report.html").read_text(encoding="utf-8")
    parsed(html)
    assert set(evidence.videos) == {"episode"}
    played, _ = recorded(None, EnvConfig("pendulum", num=1, max_steps=40), 2, seed=derived(3, 2) + 1)
    first = played[0]["vector"][:35]
    order = np.argsort(-first.std(0))
    assert [curve.name for curve in evidence.curves] == [["cos <θ>", "sin", "speed"][i] for i in order]
    for curve, i in zip(evidence.curves, order, strict=True):
        assert np.allclose(curve.truth, first[:, i])
        assert np.allclose(curve.dream[CONTEXT:], first[CONTEXT - 1, i])
    assert evidence.open_loop.model == pytest.approx(evidence.open_loop.persistence), "it dreams that nothing moves"
    assert "<h2>What it dreams</h2>" in html
    assert "cos &lt;θ&gt;" in html
    assert "3 numbers as the world predicts them" in html
    (run / "report.html").unlink()
    assert write(run).read_text(encoding="utf-8") == html, "again, without the agent"
    with pytest.raises(ConfigError, match=r"what it dreams of numbers stands on its page: worldformula report \S+"):
        write_dream(Numbers(), {key: value[None] for key, value in played[0].items()}, 11, RunFolder(run))


def test_a_line_of_a_dream_begins_at_the_last_row_that_was_seen():
    curve = Curve("x", tuple(map(float, range(8))), tuple(10.0 + t for t in range(8)))
    paths = re.findall(r'class="line" d="M([^"]*)"', lines([curve], 3))
    points = [[float(n) for n in re.findall(r"([\d.]+)[ ,][\d.]+", path)] for path in paths]
    assert [len(path) for path in points] == [8, 6] * 2, "wide and narrow"
    truth, dream = points[:2]
    assert dream[0] == truth[2]


def test_a_run_that_was_never_measured_shows_its_log(tmp_path):
    html = write(make_run(tmp_path / "run")).read_text(encoding="utf-8")
    parsed(html)
    assert re.search(r'class="big">−876.5 <small>± 3.0<', html)
    assert "the last evaluation during training" in html
    assert "Not measured with the agent" in html
    assert "<h2>Terms of the loss" in html


def test_an_empty_run_has_a_page(tmp_path):
    run = tmp_path / "new"
    run.mkdir()
    (run / "config.json").write_text("{}")
    html = write(run).read_text(encoding="utf-8")
    parsed(html)
    assert "No episode has ended yet" in html


def test_hostile_names_settings_and_metrics_are_escaped(tmp_path):
    run = make_run(tmp_path / "run", model=EVIL, preset=EVIL, seed=EVIL, device=EVIL, agent={EVIL: {EVIL: EVIL}})
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 950, EVIL: 1.0, f"loss/{EVIL}": 2.0}) + "\n")
    config = RunFolder(run).config()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    html = page(Run(EVIL, config, lines), Evidence(machine={EVIL: EVIL, "device": EVIL}))
    assert "img" not in {tag for tag, _ in parsed(html)}
    assert not any(name.startswith("on") for _, attributes in parsed(html) for name in attributes)
    assert html.count("&lt;img src=x") > 10


def test_time_adds_up_over_resumptions(tmp_path):
    run = make_run(tmp_path / "run")
    assert seconds(RunFolder(run)) == 8.0
    with (run / "timing.jsonl").open("a") as file:
        file.write('{"step": 2, "sec')
    assert seconds(RunFolder(run)) == 8.0
    (run / "timing.jsonl").unlink()
    assert seconds(RunFolder(run)) is None


def test_evidence_comes_back_as_it_was_saved(tmp_path, measured):
    evidence = dataclasses.replace(load(measured[0]), videos={"strip": b"1"})
    evidence.save(tmp_path)
    assert load(tmp_path) == evidence
    dataclasses.replace(evidence, videos={}).save(tmp_path)
    assert not (tmp_path / "videos" / "report_strip.webp").exists()
    assert load(tmp_path / "elsewhere") is None


def test_errors_say_what_to_do(tmp_path, measured):
    with pytest.raises(RunFolderError, match="not a run folder"):
        write(tmp_path)
    run = make_run(tmp_path / "run")
    (run / "report").mkdir()
    (run / "report" / "evidence.json").write_text('{"formula": 3}')
    with pytest.raises(RunFolderError, match="delete it, and measure again"):
        write(run)
    with pytest.raises(ConfigError, match="got 0"):
        gather(measured[0], measured[1], episodes=0)


@pytest.mark.parametrize(
    ("mean", "error", "said"),
    [(-300.0, 20.0, "<b>83 %</b> of the way"), (-1060.0, 110.0, "No different"), (-1500.0, 30.0, "Worse</b> than")],
)
def test_the_headline_compares_with_a_random_policy(mean: float, error: float, said: str) -> None:
    shown = _scale(Score(mean, error, 10), Score(-1121.0, 48.0, 20), Score(-131.0, 7.0, 20))
    assert said in shown
    assert ("of the way" in shown) == (mean == -300.0)
