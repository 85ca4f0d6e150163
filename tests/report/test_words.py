"""What a world that reads goes on with, imagines and would say: the command and the page."""

import re

import numpy as np
import pytest
import torch

from worldformula.agents import dynalang
from worldformula.cli.main import main
from worldformula.envs import Envs
from worldformula.errors import ConfigError
from worldformula.model.config import start
from worldformula.model.run import ModelRun, loaded, open_model, sized
from worldformula.report import words
from worldformula.report.evidence import Curve, Heard
from worldformula.run.config import EnvConfig
from worldformula.run.saved import load_agent, open_run

WIDTHS = "deter=16", "hidden=8", "classes=4", "groups=3", "depth=2", "units=8"


@pytest.fixture(scope="module")
def agent_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "reads"
    small = [f"--set=agent.world.sizes.{w}" for w in WIDTHS]
    train = ["train", "dynalang", "--env", "home_dynamics", "--steps", "300", "--run", str(folder), "--seed", "100"]
    fast = ["--set=agent.prefill=200", "--set=agent.train_ratio=8", "--set=env.floor_episodes=2", "--set=agent.batch=4"]
    assert main([*train, *small, *fast]) == 0
    return folder


def text_run(folder, lines, *changes):
    path = folder / "text.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = start("dynalang", "tiny", str(path))
    config = config.changed(["data.env=home_dynamics", "fit.batch=8", *changes])
    return ModelRun(sized(config, loaded(config)), folder / "run")


@pytest.mark.slow
def test_the_page_shows_what_was_read_imagined_and_would_be_said(agent_run):
    page = (agent_run / "report.html").read_text(encoding="utf-8")
    part = page[page.index("What it reads, and what it makes of that") :]
    assert re.search(r"Imagined after “(pedal|grasp|lift) to open the trash bin”; in all -?\d\.\d\d of reward", part)
    told = re.findall(r"Imagined after “(\w+) to open", part)
    assert len(re.findall("<figcaption>Imagined after [^<]+ bin”, with the same actions; in all", part)) == 1
    assert len({*told}) == 2  # the same start after two sentences that contradict each other
    assert part.count('<figure class="words">') == 4
    assert "it would say" in part
    for name in ("read", "true", "swapped"):
        assert (agent_run / "videos" / f"report_words_{name}.webp").is_file()


@pytest.mark.slow
def test_the_rows_of_an_episode_are_those_that_the_environment_said(agent_run):
    run = open_run(agent_run)
    agent, _, _ = load_agent(run)
    heard, strips = words.heard(agent, run.config.env, 3)
    envs = Envs("home_dynamics", 1, seed=3)
    row = envs.reset(0)
    said = []
    for _ in range(6):
        said.append(envs.vocabulary.words[int(row["token"][0])])
        row = envs.step(np.array([0]))
    assert list(heard[0].words[:6]) == said
    assert {"words_read", "words_true", "words_swapped"} <= strips.keys()
    again, _ = words.heard(agent, run.config.env, 3)
    assert again == heard


@pytest.mark.slow
def test_after_a_false_sentence_the_same_actions_are_imagined(agent_run, monkeypatch):
    """The policy acts in the dream after the true one alone; what it did there is done again."""
    run = open_run(agent_run)
    agent, _, _ = load_agent(run)
    dreams, going_on = [], words.saying.going_on

    def watched(world, start, head, **given):
        found = going_on(world, start, head, **given)
        dreams.append((given["actions"], found[0]["a"]))
        return found

    monkeypatch.setattr(words.saying, "going_on", watched)
    words.heard(agent, run.config.env, 3)
    (none, done), (again, same), *_ = dreams
    assert none is None
    assert torch.equal(again["a"], done)
    assert torch.equal(same, done)
    assert done.shape == (1, words.AHEAD, 7)


@pytest.mark.slow
def test_the_command_goes_on_with_a_text_and_says_the_same_for_a_seed(agent_run, capsys):
    ask = ["dream", str(agent_run), "--text", "lift to open", "--steps", "7", "--seed", "4"]
    found = []
    for _ in range(2):
        assert main(ask) == 0
        found.append(capsys.readouterr().out)
    assert found[0] == found[1]
    assert found[0].startswith("read: lift to open\ngoes on: ")
    assert "imagined reward: " in found[0]
    assert (agent_run / "videos/said.webp").is_file()
    assert main(["dream", str(agent_run), "--text", "lifts to open"]) != 0
    assert "Did you mean 'lift'" in capsys.readouterr().err
    assert main(["dream", str(agent_run), "--text", "lift", "--temperature", "-1"]) != 0
    assert "temperature of at least 0" in capsys.readouterr().err
    assert main(["dream", str(agent_run), "--text", ""]) != 0
    assert "--text expects words" in capsys.readouterr().err


def test_an_agent_that_does_not_speak_has_no_such_part():
    class Deaf:
        pass

    assert words.heard(Deaf(), EnvConfig("pendulum"), 0) == ((), {})
    assert words.words_part((), {}) == ""
    with pytest.raises(ConfigError, match="imagines under its policy, got Deaf"):
        words.of_agent(Deaf(), EnvConfig("home_dynamics"), "lift", steps=1, temperature=1.0, seed=0)


def test_a_dream_of_words_is_titled_by_them():
    """The head of the words is the first one of two; what else is dreamt keeps its name."""
    envs = Envs("home_dynamics", 1, seed=0)
    agent = dynalang.build(dynalang.tiny(), envs.observations, envs.actions, 0)
    word = envs.vocabulary.words[4]
    curves = [Curve(name, (0.0,), (1.0,)) for name in ("k_1 5", "k_2 5", "reward")]
    found = words.titled(curves, agent, EnvConfig("home_dynamics"), 0)
    assert [curve.name for curve in found] == [f"“{word}”", "k_2 5", "reward"]
    assert words.titled(curves, agent, EnvConfig("pendulum"), 0) == tuple(curves)
    assert words.titled(curves, object(), EnvConfig("home_dynamics"), 0) == tuple(curves)


def test_rows_without_words_are_dots_and_words_are_escaped():
    part = words.words_part([Heard("said", "a & b", ("<pad>", "<b>"))], {})
    assert "<span>·</span><span>&lt;b&gt;</span>" in part
    assert "a &amp; b" in part


@pytest.mark.slow
def test_a_line_that_was_memorised_comes_back_from_the_run_folder(tmp_path):
    lines = ["lift to open the trash bin"] * 12
    small = ["sizes.deter=32", "sizes.hidden=32", "sizes.classes=4", "sizes.groups=4", "sizes.units=32"]
    run = text_run(tmp_path, lines, "steps=400", "fit.lr=3e-3", *small)
    run.run()
    found = words.of_fit(open_model(tmp_path / "run"), "lift to", steps=4, temperature=0.0, seed=0)
    assert found.text == "open the trash bin"
    assert found.pictures is None


def test_a_run_without_words_is_refused(tmp_path):
    np.savez(tmp_path / "e.npz", x=np.zeros((4, 8, 2), np.float32), action=np.zeros((4, 8, 1), np.float32))
    config = start("rssm", "tiny", str(tmp_path / "e.npz")).changed([f"sizes.{w}" for w in WIDTHS])
    run = ModelRun(sized(config, loaded(config)), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"(?s)learnt no words.+--data text\.txt"):
        words.of_fit(run, "lift", steps=1, temperature=1.0, seed=0)
