"""Alarms of collapse: in what a run says, in its log, and only where something has collapsed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.agent.embedded import Embedded, build
from worldformula.data import DataSet, sequences
from worldformula.model.config import start
from worldformula.model.run import ModelRun, sized
from worldformula.report.codes import alarm, codes
from worldformula.report.model import write_model
from worldformula.run.alarm import Alarm
from worldformula.run.config import EnvConfig, RunConfig
from worldformula.run.folder import read_metrics
from worldformula.run.interact import Interact

WELL = {"codes/z/rank": 0.5, "codes/z/median": 1.0, "codes/z/copy": 2.0}
GONE = {"codes/z/rank": 0.05, "codes/z/median": 1.0, "codes/z/copy": 2.0}


def test_an_alarm_is_told_once_and_so_is_what_recovers():
    said: list[str] = []
    alarm = Alarm(said.append)
    for step, row in enumerate((WELL, GONE, GONE, WELL, GONE), 1):
        alarm.of(row, f"update {step}", ended=False)
    assert said == [
        "alarm at update 2: z has collapsed: RankMe is 0.05 D, below 0.1 D",
        "at update 4 z has recovered",
        "alarm at update 5: z has collapsed: RankMe is 0.05 D, below 0.1 D",
    ]
    alarm.of(WELL, "update 6", ended=True)
    assert said[3:] == [
        "alarm at update 6: z is foretold no better than by a copy of where it begins: 2 of its error",
        "at update 6 z has recovered",
    ]


def episodes(path):
    """Numbers that turn as they are told to: 40 episodes of 20 rows."""
    rng = np.random.default_rng(0)
    turns = rng.uniform(-1, 1, (40, 20, 1)).astype(np.float32)
    angle = rng.uniform(0, 6, (40, 1)) + np.concatenate((np.zeros((40, 1)), turns[:, :-1, 0].cumsum(1)), 1)
    still = np.repeat(rng.normal(size=(40, 1, 2)), 20, 1)
    seen = np.concatenate((np.cos(angle)[..., None], np.sin(angle)[..., None], still), -1).astype(np.float32)
    zeros = np.zeros((40, 20))
    np.savez(path, seen=seen, action=turns, reward=zeros.astype(np.float32), terminated=zeros.astype(bool))
    return str(path)


def fitted(folder, *change):
    said: list[str] = []
    path = episodes(folder.parent / "episodes.npz")
    sizes = ["sizes.latent=8", "sizes.units=32", "data.length=10", "fit.lr=0.003", "fit.steps=40", "fit.batch=16"]
    config = start("jepa", "tiny", path).changed([*sizes, *change])
    data: DataSet = sequences.load(path, config.reading)
    run = ModelRun(sized(config, data), folder, said.append, data)
    run.run()
    write_model(run)
    return said, [row for row in read_metrics(folder / "metrics.jsonl") if "codes/z/rank" in row]


def test_a_fit_without_a_regulariser_alarms_and_one_with_vicreg_does_not(tmp_path):
    free = [f"sizes.{name}=0" for name in ("deviation", "covariance", "similarity", "inverse")]
    said, rows = fitted(tmp_path / "none", *free)
    assert [line.partition(": ")[2][:15] for line in said] == ["z has collapsed"]
    assert rows[-1]["codes/z/median"] < 0.1
    assert rows[-1]["step"] == 40
    assert "z has collapsed" in (tmp_path / "none" / "report.html").read_text()
    said, rows = fitted(tmp_path / "vicreg")
    assert said == []
    assert rows[-1]["codes/z/median"] > 0.3
    assert rows[-1]["codes/z/rank"] > 0.4
    assert "Alarm" not in (tmp_path / "vicreg" / "report.html").read_text()
    assert len(rows) == 10  # at every checkpoint, where the test data are measured


def config(weight, steps=200):
    env = EnvConfig("pendulum", num=2, max_steps=20)
    return RunConfig(
        "embedded", "tiny", env, Embedded(weight), steps=steps, eval_every=100, eval_episodes=1, checkpoint_every=100,
        capacity=2000, tensorboard=False,
    )  # fmt: skip


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_an_agent_that_acts_alarms_where_its_world_has_collapsed(tmp_path, weight):
    said: list[str] = []
    Interact(config(weight), build, tmp_path, say=said.append).run()
    rows = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "eval/return" in row]
    assert [row["step"] for row in rows] == [100, 200]
    assert all("codes/z/rank" in row for row in rows)
    collapsed = [line for line in said if "collapsed" in line]
    assert bool(collapsed) == (weight == 0)
    assert (rows[-1]["codes/z/median"] < 0.1) == (weight == 0)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_what_is_read_of_labels_is_logged_and_stands_beside_an_alarm(tmp_path, weight):
    said: list[str] = []
    own = config(weight)
    labelled = replace(own, env=replace(own.env, labels=("state/angle",)))
    Interact(labelled, build, tmp_path, say=said.append).run()
    rows = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "codes/z/rank" in row]
    told = [row["codes/z/reads.state.angle"] for row in rows]
    assert len(told) == 2
    if weight:
        assert 0.8 < told[-1] <= 1  # sine and cosine are among what is observed
    else:
        (line,) = [line for line in said if "z has collapsed" in line]
        at = rows[0] if "step 100:" in line else rows[1]
        assert line.endswith(f"; a linear map reads state.angle with R² {at['codes/z/reads.state.angle']:.2g}")
    page = codes(rows)
    assert "z: R² of state.angle, read by a linear map" in page
    assert (f"with R² {told[-1]:.2g}" in alarm(rows, "step")) == (weight == 0)


def test_watching_changes_nothing_of_a_run(tmp_path, monkeypatch):
    Interact(config(1.0, 120), build, tmp_path / "watched", say=lambda _: None).run()
    monkeypatch.setattr(Alarm, "watched", lambda *_, **__: {})
    Interact(config(1.0, 120), build, tmp_path / "not", say=lambda _: None).run()
    last = [read_metrics(tmp_path / name / "metrics.jsonl")[-1] for name in ("watched", "not")]
    assert {k: v for k, v in last[0].items() if not k.startswith("codes/")} == last[1]


def test_a_world_with_a_decoder_is_dreamt_with_and_no_alarm_is_asked_of_it(tmp_path):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (8, 12, 9, 9, 1), np.uint8)
    zeros = np.zeros((8, 12))
    np.savez(
        tmp_path / "own.npz", image=pictures, action=zeros[..., None].astype(np.float32),
        reward=zeros.astype(np.float32), terminated=zeros.astype(bool),
    )  # fmt: skip
    path = str(tmp_path / "own.npz")
    config = start("jepa", "autoencoder", path).changed(["data.length=10", "fit.steps=2", "fit.batch=4"])
    data = sequences.load(path, config.reading)
    run = ModelRun(sized(config, data), tmp_path / "run", data=data)
    run.run()
    assert "What it dreams" in write_model(run).read_text()
    assert not any("codes/" in key for row in read_metrics(tmp_path / "run" / "metrics.jsonl") for key in row)
