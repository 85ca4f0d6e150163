"""Every system of the catalogue is fitted by its own recipe: what comes before the first update, and around each."""

from __future__ import annotations

import copy
import dataclasses
import re

import numpy as np
import pytest
import torch

from worldformula import Data, E, Normal, catalogue, log
from worldformula.cli.main import main
from worldformula.errors import CatalogueError, ConfigError
from worldformula.fitting import fit
from worldformula.model import recipe
from worldformula.model.config import start
from worldformula.model.run import ModelRun, build, loaded, open_model, sized
from worldformula.models import ebm, gqn, lda, ldm, m2, rbm
from worldformula.models.flow import SYSTEM as FLOW
from worldformula.run.run import Run
from worldformula.trained import load
from worldformula.training import checkpoint
from worldformula.training.config import FitConfig
from worldformula.training.minimise import Fitting

REFUSED = {
    "mdn_rnn": "worldformula train --model world_models",
    "world_models": "fit expects a model or a world",
    "thick_dreamer": "take a preset without it, or an agent",
    "thick_planet": "take a preset without it, or an agent",
}  # and what the refusal says to write
BITS = ("recalling", "simcore")  # read no pictures
TIMELESS = [s.name for s in catalogue.discover("models")]
THROUGH_TIME = [s.name for kind in ("worlds", "agents") for s in catalogue.discover(kind)]


@pytest.fixture(scope="module")
def episodes(tmp_path_factory):
    """Twelve episodes of 40 small pictures, or of rows of bits, under actions."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("episodes")
    seen = {
        "pictures": rng.integers(0, 256, (12, 40, 16, 16, 3), dtype=np.uint8),
        "bits": rng.integers(0, 2, (12, 40, 8)).astype(np.float32),
    }
    actions, rewards = rng.uniform(-1, 1, (12, 40, 2)).astype(np.float32), rng.normal(size=(12, 40))
    for name, x in seen.items():
        np.savez(folder / f"{name}.npz", x=x, action=actions, reward=rewards.astype(np.float32))
    return folder


def of(name, data, steps=3, changes=()):
    """A run of a few updates, and of as many in what comes before."""
    system = catalogue.find(name)
    config = start(name, "tiny" if "tiny" in system.presets else next(iter(system.presets)), data)
    config = config.changed([f"fit.steps={steps}", *(f"{key}.steps={steps}" for key in config.before), *changes])
    found = loaded(config)
    return sized(config, found), found


def trained(name, data, folder, changes=()):
    config, found = of(name, data, changes=changes)
    run = ModelRun(config, folder, data=found)
    before = {key: value.clone() for key, value in run.model.loss.state_dict().items()}
    run.run()
    assert run.step == 3
    assert any(not torch.equal(value, before[key]) for key, value in run.model.loss.state_dict().items())
    return run


@pytest.mark.parametrize("name", TIMELESS)
def test_every_model_is_fitted_to_its_own_data(name, tmp_path):
    trained(name, catalogue.find(name).data or "digits", tmp_path / "run")


@pytest.mark.parametrize("name", THROUGH_TIME)
def test_every_world_is_fitted_to_episodes_or_says_what_to_write(name, episodes, tmp_path):
    data = catalogue.find(name).data or str(episodes / ("bits.npz" if name in BITS else "pictures.npz"))
    if name in REFUSED:
        with pytest.raises((ConfigError, CatalogueError), match=REFUSED[name]):
            build(of(name, data)[0])
        return
    trained(name, data, tmp_path / "run", ["data.length=10", "batch=2"])


@pytest.mark.parametrize(("name", "more"), [("gan", []), ("ldm", ["--set", "stage.steps=20"])])
def test_the_command_line_trains_it_whole(name, more, tmp_path, capsys):
    folder = tmp_path / "run"
    what = ["--data", catalogue.find(name).data, "--steps", "20", "--out", str(folder), "--device", "cpu", *more]
    assert main(["fit", name, *what]) == 0
    assert "20 steps in" in capsys.readouterr().out
    assert (folder / "report.html").is_file()
    model = load(folder)
    assert len(model.generate(3, seed=0)["x"]) == 3
    if name == "ldm":  # stage 1 is there with its decoder, which stage 2 never reads, and as it was trained
        assert model.rescale.scale != 1.0
        kept = open_model(folder, "cpu").model.stage.loss.state_dict()
        assert all(torch.equal(value, kept[key]) for key, value in model.stage.loss.state_dict().items())
        new = build(start("ldm", "tiny", "digits-grey")).stage.loss.state_dict()
        assert all(not torch.equal(value, new[key]) for key, value in kept.items())


def test_what_can_be_set_of_what_comes_before(capsys):
    assert main(["fit", "ldm", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "stage.steps" in shown
    assert "2694" in shown
    config = start("gqn", "tiny", "rooms").changed(["warm.lr=0.5", "lr=0.25"])
    assert (config.before["warm"].lr, config.fit.lr) == (0.5, 0.25)
    assert start("gqn", "paper", "rooms").before == {"warm": FitConfig()}


# ------------------------------------------------------------------------------------------- rows that were held out


def walk():
    """A mean that learns to lie at 5, where four rows of five are, and passes 1, where the others are."""
    loc = torch.nn.Parameter(torch.zeros(1))
    return loc, E(Data("p_data(x)", shape=1), -log(Normal("p(x)", loc=loc, scale=1.0, shape=1))).mean()


def rows_of(seed=0):
    """Those that are held lie at 1, the others at 5: which they are is told by the generator of the split."""
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    x = torch.full((20, 1), 5.0)
    x[order[-4:]] = 1.0
    return x


def test_the_weights_that_are_best_on_held_rows_are_kept():
    loc, loss = walk()
    history = fit(loss, {"x": rows_of()}, steps=60, batch=16, lr=0.1, held=0.2, judge_every=1, progress=False)
    assert loc.item() == pytest.approx(1.0, abs=0.06)
    nats = 0.5 * np.log(2 * np.pi) + 0.5 * (1.0 - loc.item()) ** 2
    assert history["held"]
    assert min(history["held"]) == pytest.approx(nats, abs=1e-5)
    assert history.rows[-1]["step"] == 60


def test_patience_ends_the_run_and_going_on_finds_its_end(tmp_path):
    loc, loss = walk()
    how = {"batch": 16, "lr": 0.1, "held": 0.2, "judge_every": 1, "patience": 3, "progress": False}
    fit(loss, {"x": rows_of()}, steps=60, run=tmp_path / "run", **how)
    assert loc.item() == pytest.approx(1.0, abs=0.06)
    again, other = walk()
    history = fit(other, {"x": rows_of()}, steps=60, run=tmp_path / "run", resume=True, **how)
    assert torch.equal(again, loc)
    assert history.rows[-1]["step"] < 30


def test_what_cannot_be_held_is_told():
    _, loss = walk()
    with pytest.raises(ConfigError, match="no ema beside it"):
        fit(loss, {"x": rows_of()}, steps=2, held=0.2, ema=0.9)
    with pytest.raises(ConfigError, match=r"held=0.2 expects one loss and arrays"):
        fit(loss, lambda: {"x": rows_of()}, steps=2, held=0.2, progress=False)
    with pytest.raises(ConfigError, match="patience expects a whole number of at least 1, got 0"):
        fit(loss, {"x": rows_of()}, steps=2, held=0.2, patience=0)


# ------------------------------------------------------------------------------------------------ going on exactly


def small(name):
    """A fit of 12 updates of a small model, which is the same each time."""
    torch.manual_seed(0)
    how, before = {}, {}
    points, bits = torch.rand(40, 2), torch.rand(40, 6).round()
    if name == "ebm":
        model, rows = ebm.build(ebm.Sizes(2, (8,), 3, 0.1, 0.1, 0.0, 2.0, buffer=20)), {"x": points}
    elif name == "rbm":
        model, rows = rbm.build(rbm.Sizes(6, 3, chains=10)), {"x": bits}
    elif name == "flow":
        model, rows, how = FLOW.build(FLOW.sizes("plane")), {"x": points}, {"held": 0.2, "judge_every": 2}
    elif name == "m2":
        sizes = m2.Sizes(6, 2, 2, (8,), (8,), torch.nn.SiLU, 0.1, 1.0, 4, flips=0.1)
        model, rows = m2.build(sizes), {"x": bits[:8], "y": torch.eye(2)[torch.arange(8) % 2], "x_prime": bits}
    elif name == "ldm":
        model = ldm.build(ldm.Sizes(6, 3, (16,), deviation=0.1, weight=0.02, steps=8, units=16, blocks=1))
        rows, before = {"x": bits, "y": torch.arange(40) % 10}, {"stage": FitConfig(6, 8)}
    else:
        model = gqn.build(gqn.Sizes(side=8, camera=2, scene=8, latent=1, hidden=4, steps=2, shared=True))
        rows, before = {"x": torch.rand(20, 6, 8, 8, 3), "v": torch.rand(20, 6, 2)}, {"warm": FitConfig(6, 8)}
    config = FitConfig(12, 8, ema=None if how else 0.9, **how)
    return model, recipe.fitting(model, rows, config, before, seed=3, begins=5)


@pytest.mark.parametrize("name", ["ebm", "rbm", "flow", "m2", "ldm", "gqn"])
@pytest.mark.parametrize("stop", [4, 9])
def test_a_fit_that_was_stopped_ends_with_the_same_bits(name, stop):
    """At 4 in what comes before, of those that have it, at 9 behind its beginning."""
    whole, fitting = small(name)
    fitting.advance(12)
    _, half = small(name)
    calls = []
    half.advance(12, callback=lambda step, out: calls.append(step) or len(calls) == stop)
    state = copy.deepcopy(half.state_dict())
    model, other = small(name)
    other.load_state_dict(state)
    other.advance(12)
    assert half.step == (stop if name not in ("ldm", "gqn") else max(0, stop - 6))
    kept = whole.loss.state_dict()
    assert all(torch.equal(value, kept[key]) for key, value in model.loss.state_dict().items())
    with fitting.history.averaged(), other.history.averaged():
        assert all(torch.equal(value, kept[key]) for key, value in model.loss.state_dict().items())


# ---------------------------------------------------------------------------------------------------- what begins


def test_an_rbm_begins_at_the_odds_of_its_pixels_and_keeps_its_chains():
    model, fitting = small("rbm")
    fitting.advance(1)
    shares = np.clip(fitting.source._columns["x"].numpy().mean(0), 0.01, 0.99)
    assert model.units.visible.detach().numpy() == pytest.approx(np.log(shares / (1 - shares)), abs=0.01)
    before = fitting.chains.states.clone()
    fitting.advance(2)
    assert 0 < (fitting.chains.states != before).any(-1).sum() <= 8


def test_a_second_fit_goes_on_from_the_first():
    """Topics do not begin anew, and a stage is not trained twice."""
    torch.manual_seed(0)
    topics = lda.build(lda.Sizes(4, 2, 8, 0.5, 0.5, steps=3))
    rows = {"c": torch.randint(5, (8, 4)).float()}
    fit(topics, rows, steps=1, batch=8, lr=1e-9, progress=False)
    first = topics.words.clone()
    fit(topics, rows, steps=1, batch=8, lr=1e-9, progress=False)
    assert torch.allclose(topics.words, first, atol=1e-6)
    model, fitting = small("ldm")
    fitting.advance(12)
    stage = copy.deepcopy(model.stage.loss.state_dict())
    fit(model, {"x": torch.rand(40, 6), "y": torch.arange(40) % 10}, steps=2, batch=8, progress=False)
    assert all(torch.equal(value, stage[key]) for key, value in model.stage.loss.state_dict().items())


def test_a_model_that_begins_with_all_rows_wants_arrays():
    model, _ = small("rbm")
    with pytest.raises(ConfigError, match="RBM begins with all rows, so it expects arrays, got function"):
        fit(model, lambda: {"x": torch.rand(4, 6).round()}, steps=2, progress=False)


def test_chains_of_batches_that_come_one_by_one_begin_as_the_weights_say():
    model, fitting = small("rbm")
    fitting.advance(12)
    batches = iter([{"x": torch.rand(4, 6).round()} for _ in range(8)])
    assert fit(model, batches, steps=2, progress=False).rows[-1]["step"] == 2
    with torch.no_grad():
        model.units.visible.copy_(torch.tensor([-99.0, 99.0] * 3))
    assert torch.equal(model.chains({}).fresh(5), torch.tensor([[0.0, 1.0] * 3] * 5))


def test_few_labels_and_many_rows_are_drawn_side_by_side():
    """Every labelled row keeps its label, and pixels flip as often as was asked for."""
    sizes = m2.Sizes(6, 2, 2, (8,), (8,), torch.nn.SiLU, 0.0, 1.0, 0, flips=0.1)
    x = torch.tensor([[0.0] * 6, [1.0] * 6])
    draw = m2.build(sizes).source({"x": x, "y": torch.eye(2), "x_prime": torch.zeros(50, 6)}, 4000)
    torch.manual_seed(0)
    batch = draw()
    wrong = (batch["x"] != batch["y"][:, 1:]).double().mean().item()
    assert wrong == pytest.approx(0.1, abs=3 * (0.09 / 24000) ** 0.5)
    assert batch["x_prime"].double().mean().item() == pytest.approx(0.1, abs=3 * (0.09 / 24000) ** 0.5)


def test_an_expression_has_no_recipe():
    _, loss = walk()
    fitting = Fitting(loss, {"x": rows_of()}, FitConfig(2, 4))
    fitting.advance(2)
    assert fitting.state_dict()["chains"] is fitting.state_dict()["best"] is None


@pytest.mark.parametrize("views", [2, 4, 5, 7])
def test_the_view_that_is_asked_for_is_never_shown(views):
    """Each view is filled with its number, so that the one asked for is known among those shown."""
    model = gqn.build(gqn.Sizes(side=8, camera=2, scene=8, latent=1, hidden=4, steps=2, shared=True))
    number = torch.arange(float(views))
    rows = {"x": number[:, None, None, None].expand(3, views, 8, 8, 3), "v": number[:, None].expand(3, views, 2)}
    for _ in range(10):
        found = model.varied(rows)
        shown, asked = found["v"][0, :, 0], found["v_prime"][0, 0]
        assert len(set(shown.tolist())) == len(shown) == min(views - 1, 4)
        assert asked not in shown
        assert torch.equal(found["x"][:, :, 0, 0, 0], found["v"][:, :, 0])


@pytest.mark.parametrize("how", [{"steps": 3, "batch": 8}, FitConfig(3, 8)], ids=["fields", "config"])
def test_what_comes_before_is_said_by_fields_or_as_a_configuration(how):
    model = ldm.build(ldm.Sizes(6, 3, (16,), deviation=0.1, weight=0.02, steps=8, units=16, blocks=1))
    other = copy.deepcopy(model)
    data = {"x": torch.rand(40, 6).round(), "y": torch.arange(40) % 10}
    for each, settings in ((model, how), (other, {"steps": 3, "batch": 8})):
        torch.manual_seed(7)  # what a model begins with comes from torch's generator, as its weights do
        fit(each, data, steps=2, before={"stage": settings}, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(model.loss.parameters(), other.loss.parameters(), strict=True))


@pytest.mark.parametrize(
    ("before", "says"),
    [
        ({"stge": {"steps": 3}}, "before= names 'stge', and what is trained before this loss is stage"),
        ({"stage": {"stps": 3}}, "takes no 'stps'. Did you mean 'steps'"),
        ({"stage": 3}, "expects the fields of FitConfig"),
        (None, "before= expects settings by name"),
    ],
)
def test_what_cannot_come_before(before, says):
    """A name that is none was passed over, and all else an error of Python."""
    model = ldm.build(ldm.Sizes(6, 3, (16,), deviation=0.1, weight=0.02, steps=8, units=16, blocks=1))
    data = {"x": torch.rand(40, 6).round(), "y": torch.arange(40) % 10}
    with pytest.raises(ConfigError, match=re.escape(says)):
        fit(model, data, steps=2, before=before, progress=False)
    with pytest.raises(ConfigError, match="what is trained before this loss is nothing"):
        fit(
            ebm.build(ebm.Sizes(2, (8,), 3, 0.1, 0.1, 0.0, 2.0, buffer=20)), torch.rand(9, 2), steps=1, before={"a": {}}
        )


def test_held_rows_leave_some_to_learn_from():
    model = ebm.build(ebm.Sizes(2, (8,), 3, 0.1, 0.1, 0.0, 2.0, buffer=20))
    with pytest.raises(ConfigError, match=r"held=0\.5 keeps all rows of the data, 1"):
        fit(model, {"x": torch.rand(1, 2)}, steps=1, batch=1, held=0.5, progress=False)


# ------------------------------------------------------------------------------------------- what is stored of it


def stage_of(folder):
    """How far the newest checkpoint is: its step, and the updates of stage 1."""
    found = checkpoint.load_latest(folder / "run" / "checkpoints")
    return found.step, {key: value["step"] for key, value in found.state["fit"]["before"].items()}


def test_what_comes_before_is_stored_on_the_way_and_goes_on_exactly(tmp_path, monkeypatch):
    """Checkpoints every 3 updates, of a stage of 10: stopped at 8 it goes on from there, torn away behind 7 from 6."""
    config, found = of("ldm", "digits", steps=6, changes=["stage.steps=10", "fit.log_every=2"])
    config = dataclasses.replace(config, checkpoints=2)
    whole = ModelRun(config, tmp_path / "whole" / "run", data=found)
    Run(whole, whole.folder, say=str).go()
    half, calls = ModelRun(config, tmp_path / "half" / "run", data=found), []
    with pytest.raises(KeyboardInterrupt, match="interrupted at step 8 of stage; go on after step 8 of stage: "):
        Run(half, half.folder, say=str).go(lambda: calls.append(half.fitting.first.step) or calls[-1] >= 8)
    assert stage_of(tmp_path / "half") == (0, {"stage": 8})
    torn = ModelRun(config, tmp_path / "torn" / "run", data=found)
    tear(monkeypatch, torn, 7)
    with pytest.raises(ZeroDivisionError):
        Run(torn, torn.folder, say=str).go()
    monkeypatch.undo()
    assert stage_of(tmp_path / "torn") == (0, {"stage": 6})
    for name in ("half", "torn"):
        again = ModelRun(config, tmp_path / name / "run", data=found)
        Run(again, again.folder, say=str).go()
        assert again.fitting.step == 6
        kept = again.model.loss.state_dict()
        assert all(torch.equal(value, kept[key]) for key, value in whole.model.loss.state_dict().items())


def tear(monkeypatch, run, updates):
    """Ends a run in the middle of its stage, as a kill does: nothing is stored any more."""
    real = Fitting._update

    def update(self):
        if self is run.fitting.first and self.step == updates:
            raise ZeroDivisionError
        return real(self)

    monkeypatch.setattr(Fitting, "_update", update)


# ------------------------------------------------------------------------------- weights that are put into another


@pytest.mark.parametrize("name", ["rbm", "ldm"])
def test_learnt_weights_do_not_begin_anew_in_another_model(name):
    """A fit of weights that were loaded leaves, at a rate of almost 0, biases and stage as they are."""
    model, fitting = small(name)
    fitting.advance(12)
    stored = copy.deepcopy(model.loss.state_dict())
    assert bool(stored["begun"])
    older = {key: value for key, value in stored.items() if key != "begun"}  # as it was written before
    rows = {"x": torch.rand(40, 6).round(), "y": torch.arange(40) % 10} if name == "ldm" else {"x": torch.rand(40, 6)}
    for state in (stored, older):
        other, _ = small(name)
        other.loss.load_state_dict(state)
        fit(other, {**rows, "x": rows["x"].round()}, steps=2, batch=8, lr=1e-9, progress=False)
        for key, value in other.loss.state_dict().items():
            assert torch.allclose(value.float(), stored[key].float(), atol=1e-6), key


def test_weights_that_have_not_begun_still_do_when_they_are_loaded():
    model, _ = small("rbm")
    other, fitting = small("rbm")
    assert not bool(model.loss.state_dict()["begun"])
    other.loss.load_state_dict(model.loss.state_dict())
    own, again = small("rbm")
    fitting.advance(1)
    again.advance(1)
    assert bool(other.loss.begun)
    assert own.units.visible.abs().max() > 0.1
    assert torch.equal(own.units.visible, other.units.visible)
    with pytest.raises(ConfigError, match=r"patience=3 counts measurements of rows that are held out"):
        fit(other, {"x": torch.rand(8, 6).round()}, steps=2, patience=3, progress=False)
