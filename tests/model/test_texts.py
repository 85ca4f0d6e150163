"""A text as data of a world that reads: what is learnt, what is left alone, and what an agent takes over."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.envs.tokenized import Tokenized  # noqa: F401 - registers it
from worldformula import catalogue
from worldformula.agent.acts import acts_of
from worldformula.cli.main import main
from worldformula.envs import Envs
from worldformula.errors import ConfigError
from worldformula.model.config import start
from worldformula.model.run import ModelRun, loaded, sized
from worldformula.report import dreams
from worldformula.run import transfer
from worldformula.trained import load, save_pretrained
from worldformula.training import settings
from worldformula.worlds import rssm

LINES = ["find the fruit", "open the trash bin", "lift to open the trash bin", "no, turn around"] * 5
WIDTHS = "sizes.deter=16", "sizes.hidden=8", "sizes.classes=4", "sizes.groups=3", "sizes.depth=2", "sizes.units=8"


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(LINES) + "\n\n", encoding="utf-8")
    return path


def run_of(text, folder, *changes, env="home_dynamics", steps=4, model="dynalang"):
    config = start(model, "tiny", str(text))
    config = config.changed([f"data.env={env}", "data.length=6", f"steps={steps}", "fit.batch=4", *WIDTHS, *changes])
    return ModelRun(sized(config, loaded(config)), folder)


def test_every_line_is_an_episode_of_the_words_of_the_environment(text, tmp_path):
    run = run_of(text, tmp_path / "run")
    words = Envs("home_dynamics", 1).vocabulary
    first = run.data.train["is_first"]
    rows = np.split(run.data.train["token"], np.flatnonzero(first)[1:])
    assert {words.text(row) for row in rows} == {line.replace(",", " ,") for line in LINES}
    assert len(rows) + run.data.test["is_first"].sum() == len(LINES)
    assert run.config.columns["token"]["words"] == list(words.words)
    assert run.config.sizes.zeroed == ("view",)
    assert set(run.config.sizes.weights) == {"view=0", "reward=0", "continue=0"}
    assert run.model.words[0] == "token"


def test_only_the_words_and_what_predicts_them_is_learnt(text, tmp_path):
    """With pictures: their network and their head, reward and continuation stay as they were, to the bit."""
    run = run_of(text, tmp_path / "run", "data.env_args=pixels=true,size=16", steps=6)
    before = {name: value.clone() for name, value in run.model.world.state_dict().items()}
    run.run()
    changed = {n for n, v in run.model.world.state_dict().items() if not torch.equal(v, before[n])}
    still = ("e.enc.image", "enc.image", "p_image", "p_r_", "p_c_")
    opened = load(tmp_path / "run")
    assert all(torch.equal(v, run.model.world.state_dict()[n]) for n, v in opened.state_dict().items() if n in changed)
    parts = {name.partition(".")[0] for name in changed}
    assert {"enc", "f", "p_z_given_h", "q_z_given_h_e"} <= parts
    assert not [n for n in changed if n.startswith(still)]
    assert any(n.startswith("enc.image") for n in before)
    terms = json.loads(Path(tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert not [key for key in terms if "log p(r" in key or "log p(c" in key or "image" in key]
    assert [key for key in terms if key.startswith("loss/log p(token")]
    assert terms["words/perplexity"] > 1


def test_what_was_never_learnt_is_not_dreamt(text, tmp_path):
    """A picture, reward and continuation weigh nothing in the loss of a text: their heads are as they were made, and
    what is compared with the truth is the words.
    """
    run = run_of(text, tmp_path / "run", "data.env_args=pixels=true,size=16", steps=2)
    run.run()
    heads = run.model.world.heads
    assert {"r", "c"} < heads.keys()
    found = dreams.dreams(run.model, run.test_rows)
    assert "token" in found.name
    assert found.truth.shape[2:] == (28,)  # one-hot words
    own = {name: torch.nan * value for name, value in run.model.world.state_dict().items() if name.startswith("p_r_")}
    run.model.world.load_state_dict({**run.model.world.state_dict(), **own})
    again = dreams.dreams(run.model, run.test_rows)
    np.testing.assert_array_equal(again.dream, found.dream)


def test_a_picture_that_weighs_nothing_is_not_shown_as_a_dream(tmp_path):
    rng = np.random.default_rng(0)
    zeros = np.zeros((4, 8), np.float32)
    seen = {"image": rng.integers(0, 255, (4, 8, 16, 16, 3), np.uint8), "place": rng.normal(size=(4, 8, 2))}
    np.savez(
        tmp_path / "own.npz", **seen, action=rng.normal(size=(4, 8, 1)), reward=zeros, terminated=zeros.astype(bool)
    )
    for weight, name in ((1, "image"), (0, "symlog of place")):
        config = start("rssm", "tiny", str(tmp_path / "own.npz"))
        config = config.changed(["data.length=6", "steps=1", "fit.batch=2", *WIDTHS, f"sizes.weights=image={weight}"])
        run = ModelRun(sized(config, loaded(config)), tmp_path / f"run{weight}")
        assert dreams.dreams(run.model, run.test_rows).name == name


@pytest.mark.parametrize("env", ["home_dynamics", "lang_room_mini", "home_corrections"])
def test_an_agent_of_that_environment_takes_the_weights_over(text, tmp_path, env):
    if env == "lang_room_mini":
        text.write_text("what color is the ball\nwhat color is the cup\n" * 2, encoding="utf-8")
        words = Envs(env, 1).vocabulary.words
        text.write_text("\n".join([" ".join(words[1:4]), " ".join(words[2:6])] * 2), encoding="utf-8")
    run = run_of(text, tmp_path / "run", env=env)
    run.run()
    envs = Envs(env, 1)
    acts = acts_of(envs.actions)
    shapes = {k: tuple(c["shape"]) for k, c in run.config.columns.items() if k.startswith("action")}
    assert list(shapes.values()) == [(act.size,) for act in acts]
    agent_config = catalogue.find("dynalang").sizes("tiny")
    agent_config = settings.override(agent_config, [f"world.{w}" for w in WIDTHS])
    agent = catalogue.find("dynalang").build(agent_config, envs.observations, envs.actions, 1)
    said = []
    transfer.take(agent, tmp_path / "run", said.append)
    learnt = run.model.loss.state_dict()
    own = agent.world.state_dict()
    assert learnt.keys() <= own.keys()
    assert all(torch.equal(own[name], value) for name, value in learnt.items())
    assert not any(name.startswith(("p_r_", "p_c_")) for name in learnt)
    assert said[0].startswith("init")


def test_ids_of_any_tokenizer_are_words(tmp_path, capsys):
    """Pieces of words with a tokenizer of their own: read from a text, gone on with, and read by an agent."""
    path, folder = tmp_path / "pieces.txt", tmp_path / "run"
    path.write_text("open bin\nshut bin\n" * 6, encoding="utf-8")
    run = run_of(path, folder, env="tests/Tokenized-v0")
    rows = np.split(run.data.train["id"], np.flatnonzero(run.data.train["is_first"])[1:])
    assert {tuple(row) for row in rows} == {(1, 2, 3, 4), (6, 7, 3, 4)}
    run.run()
    assert main(["dream", str(folder), "--text", "shut b", "--steps", "3"]) == 0, capsys.readouterr().err
    assert main(["report", str(folder)]) == 0
    assert re.search(r"<td>(open|shut)</td><td>.*?</td><td> bin</td>", (folder / "report.html").read_text())
    assert main(["dream", str(folder), "--text", "xyz"]) == 1
    assert "no word 'xy'" in capsys.readouterr().err
    train = ["train", "dynalang", "--env", "tests/Tokenized-v0", "--init", str(folder)]
    train += ["--run", str(tmp_path / "agent")]
    small = ["steps=24", "env.num=1", "eval_episodes=0", "env.floor_episodes=0", "agent.prefill=16", "agent.batch=2"]
    small += ["agent.length=4", "agent.imag_last=2", *(f"agent.world.{width}" for width in WIDTHS)]
    assert main([*train, *(word for text in small for word in ("--set", text))]) == 0, capsys.readouterr().err
    assert main(["dream", str(tmp_path / "agent"), "--text", "open b", "--steps", "2"]) == 0, capsys.readouterr().err


def test_words_that_the_environment_does_not_have_are_refused(text, tmp_path):
    text.write_text("find the fruit\nfind the fruits\n", encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"(?s)line 2: no word 'fruits'.+Did you mean 'fruit'.+data\.env=home_dynamics"
    ):
        run_of(text, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"--set data\.env=home_dynamics"):
        loaded(start("dynalang", "tiny", str(text)))
    with pytest.raises(ConfigError, match="pendulum does not speak"):
        run_of(text, tmp_path / "run", env="pendulum")
    text.write_text("find the fruit\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="two lines of words"):
        run_of(text, tmp_path / "run")


def test_weights_of_other_words_are_refused(text, tmp_path):
    run_of(text, tmp_path / "run").run()
    own = Envs("home_dynamics", 1).vocabulary
    transfer.same_words(str(tmp_path / "run"), own)
    other = Envs("messenger", 1).vocabulary
    save_pretrained(load(tmp_path / "run"), tmp_path / "kept")
    transfer.same_words(str(tmp_path / "kept"), own)
    for name in ("run", "kept"):
        with pytest.raises(
            ConfigError, match=r"(?s)learnt 28 words, this environment has .+only there: .+data\.env=ID"
        ):
            transfer.same_words(str(tmp_path / name), other)
    with pytest.raises(ConfigError, match="does not speak"):
        transfer.same_words(str(tmp_path / "run"), None)


def test_the_command_fits_a_text_and_the_agent_begins_with_it(text, tmp_path, capsys):
    small = [f"--set={w}" for w in WIDTHS]
    fit = ["fit", "dynalang", "--data", str(text), "--set", "data.env=home_dynamics", "--set", "data.length=6", *small]
    assert main([*fit, "--steps", "3", "--run", str(tmp_path / "words")]) == 0
    assert "perplexity" in capsys.readouterr().out
    wide = [f"--set=agent.world.{w}" for w in WIDTHS]
    train = ["train", "dynalang", "--env", "messenger", "--init", str(tmp_path / "words"), "--run", str(tmp_path / "a")]
    assert main([*train, *wide]) != 0
    assert "numbers of words do not agree" in capsys.readouterr().err


def test_a_weight_scales_one_term_and_zero_leaves_it_out():
    config = settings.override(rssm.tiny(), list(WIDTHS))
    shapes = {"body": (4,), "token": (5,)}
    torch.manual_seed(0)
    whole = rssm.build(config, shapes, 3, {"token": (5,)})
    torch.manual_seed(0)
    half = rssm.build(settings.override(config, ["weights=reward=0.5,body=0"]), shapes, 3, {"token": (5,)})
    B, T = 2, 3
    g = torch.Generator().manual_seed(1)
    data = {
        "body": torch.randn(B, T, 4, generator=g), "a": torch.zeros(B, T, 3), "r": torch.randn(B, T, generator=g),
        "token": torch.nn.functional.one_hot(torch.randint(5, (B, T), generator=g), 5).float(),
        "c": torch.ones(B, T), "first": torch.arange(T).expand(B, T) == 0,
    }  # fmt: skip
    one, two = whole.loss(**data, seed=3), half.loss(**data, seed=3)
    assert not [t for t in two.terms if "y_t" in t]
    lost = next(v for t, v in one.terms.items() if "p(y_t" in t)
    reward = one.terms["log p(r_t|h_t,z_t)"]
    torch.testing.assert_close(two.value, one.value + lost + 0.5 * reward)


@pytest.mark.parametrize(
    ("text", "said"), [("rewards=0", "Did you mean 'reward'"), ("reward=-1", "at least 0"), ("reward", "key=number")]
)
def test_impossible_weights_are_refused(text, said):
    with pytest.raises(ConfigError, match=said):
        rssm.build(settings.override(rssm.tiny(), [f"weights={text}", *WIDTHS]), {"body": (4,)}, 2)
    with pytest.raises(ConfigError, match="'eyes' is not observed"):
        rssm.build(settings.override(rssm.tiny(), ["zeroed=eyes", *WIDTHS]), {"body": (4,)}, 2)
