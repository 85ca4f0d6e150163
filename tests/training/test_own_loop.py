"""`fit` on what users have: loaders, Datasets, rows, arrays, models; epochs, optimisers, validation, run folders."""

from __future__ import annotations

import os
import signal
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from worldformula import Normal, log
from worldformula.catalogue import find
from worldformula.data import load
from worldformula.errors import ConfigError, RunFolderError
from worldformula.fitting import fit
from worldformula.run.folder import read_metrics
from worldformula.run.saved import open_run
from worldformula.training.fit import fit as plain
from worldformula.training.minimise import Fitting

X = torch.linspace(-1, 1, 30).reshape(10, 3)
Y = X.sum(1, keepdim=True)
QUIET = {"progress": False, "log_every": 1}


def regression():
    torch.manual_seed(0)
    return -log(Normal("p(y|x)", nn.Linear(3, 1), shape=1, scale=1.0)).mean()


class Pairs(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return X[i], Y[i]


class Table:
    """Rows as Hugging Face has them: columns, texts among them."""

    column_names = ("x", "y", "text")

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return {"x": X[i].tolist(), "y": Y[i].tolist(), "text": "words"}


KINDS = {
    "dict": {"x": X, "y": Y},
    "arrays": {"x": X.numpy().astype(np.float64), "y": Y.numpy()},
    "tuple": (X, Y.numpy()),
    "TensorDataset": TensorDataset(X, Y),
    "Dataset": Pairs(),
    "rows": [Table()[i] for i in range(10)],
    "columns": Table(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_of_rows_are_the_same_rows(kind):
    reference, loss = regression(), regression()
    expected = plain(reference, KINDS["dict"], epochs=2, batch=4, log_every=1)
    found = fit(loss, KINDS[kind], epochs=2, batch=4, **QUIET)
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)


@pytest.mark.parametrize("batch", [(4, 3), (10, 1), (3, 4), (20, 1)])
def test_an_epoch_is_every_row_once(batch):
    size, steps = batch
    seen = []

    def watch(rows):
        seen.append(rows["x"][:, 0].tolist())
        return rows

    history = plain(regression(), {"x": X, "y": Y}, epochs=3, batch=size, inputs=watch, log_every=1)
    assert history.rows[-1]["step"] == 3 * steps
    per_epoch = [sorted(v for part in seen[i : i + steps] for v in part) for i in range(0, 3 * steps, steps)]
    assert per_epoch == [sorted(X[:, 0].tolist())] * 3
    assert len(seen[steps - 1]) == (10 % size or min(size, 10))


def test_a_batch_of_more_rows_than_there_are_is_told(capsys):
    told = "warning: a batch of 25 rows, of 10 to learn from, holds each of them 2.5 times; with a batch of 10 or fewer"
    for data in ({"x": X, "y": Y}, Pairs()):
        fit(regression(), data, steps=1, batch=25)
        assert told in capsys.readouterr().out
    fit(regression(), (X, Y), steps=1, batch=25, held=0.2)
    assert "of 8 to learn from" in capsys.readouterr().out
    fit(regression(), (X, Y), steps=1, batch=10)
    fit(regression(), (X, Y), epochs=1, batch=25)  # an epoch ends in a short batch: each row once
    fit(regression(), DataLoader(Pairs(), batch_size=10), steps=1, batch=25)
    assert "warning" not in capsys.readouterr().out
    fit(regression(), (X, Y), steps=1, batch=25, progress=False)
    assert not capsys.readouterr().out


@pytest.mark.parametrize("rows", [TensorDataset(X, Y), [{"x": X[i], "y": Y[i]} for i in range(10)]])
def test_loaders_of_tuples_and_of_dicts(rows):
    history = fit(regression(), DataLoader(rows, batch_size=4), epochs=2, **QUIET)
    assert history.rows[-1]["step"] == 6


def test_the_optimiser_is_the_users():
    """Against a loop in plain PyTorch: SGD with momentum on all rows, 5 steps."""
    net = regression()
    twin = nn.Linear(3, 1)
    twin.load_state_dict(dict(zip(("weight", "bias"), [p.detach() for p in net.parameters()], strict=True)))
    optimiser = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.5)
    for _ in range(5):
        optimiser.zero_grad()
        (0.5 * (twin(X) - Y).square().mean()).backward()
        optimiser.step()
    fit(net, {"x": X, "y": Y}, epochs=5, batch=10, lr=0.1, optimizer=partial(torch.optim.SGD, momentum=0.5), **QUIET)
    for own, other in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(own, other, atol=1e-6)


def test_validation_has_its_own_value_and_keeps_the_best():
    loss = regression()
    history = fit(loss, {"x": X, "y": Y}, epochs=4, batch=5, lr=0.1, validation=(X[:3], Y[:3]), **QUIET)
    measured = history["validation/loss"]
    assert len(measured) == 4
    assert history.best.value == min(measured)
    history.best.restore()
    with torch.no_grad():
        assert float(loss(x=X[:3], y=Y[:3]).value) == pytest.approx(history.best.value, rel=1e-6)
    assert "validation/loss" in history.plot().svg
    assert history.plot("loss")._repr_svg_().startswith('<svg class="wf-chart"')


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": 3}, "either steps= .* or epochs="),
        ({"epochs": 0}, "epochs expects"),
        ({"data": iter([{"x": X, "y": Y}])}, "needs data with a length"),
        ({"data": (X, Y, X)}, "name them all"),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS evaluates the loss several times"),
        ({"optimizer": torch.optim.SGD, "weight_decay": 0.1}, "weight_decay and betas are AdamW's"),
        ({"optimizer": torch.optim.SGD([nn.Parameter(torch.zeros(1))])}, "the optimiser moves 1 tensors"),
        ({"optimizer": lambda p: 3}, "a class of torch.optim"),
        ({"validation": iter([])}, "need an end"),
        ({"momentum": 0.9}, "fit takes no 'momentum'"),
        ({"callback": print}, r"fit takes no 'callback'; that of worldformula.training.fit, the loop alone, does"),
    ],
)
def test_what_cannot_be_is_said(change, says):
    arguments = {"data": {"x": X, "y": Y}, "epochs": 1, "batch": 4, "progress": False} | change
    with pytest.raises(ConfigError, match=says):
        fit(regression(), **arguments)


@pytest.mark.usefixtures("terminal")
def test_a_run_folder_goes_on_exactly_after_ctrl_c(tmp_path, monkeypatch):
    settings = {"data": {"x": X, "y": Y}, "epochs": 5, "batch": 4, "validation": (X, Y), **QUIET}
    whole = regression()
    fit(whole, run=tmp_path / "whole", **settings)
    update = Fitting._update

    def interrupted(self):
        if self.step == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return update(self)

    monkeypatch.setattr(Fitting, "_update", interrupted)
    with pytest.raises(KeyboardInterrupt, match="after step 8: .* resume=True"):
        fit(regression(), run=tmp_path / "parts", **settings)
    monkeypatch.setattr(Fitting, "_update", update)
    with pytest.raises(RunFolderError, match="pass resume=True"):
        fit(regression(), run=tmp_path / "parts", **settings)
    with pytest.raises(RunFolderError, match="seed"):
        fit(regression(), run=tmp_path / "parts", resume=True, seed=3, **settings)
    fewer = {"epochs": 1, "steps": None}
    with pytest.raises(ConfigError, match=r"parts stands at step 8, and steps=\d is less: nothing would be learnt"):
        fit(regression(), run=tmp_path / "parts", resume=True, **{**settings, **fewer})
    parts = regression()
    history = fit(parts, run=tmp_path / "parts", resume=True, **settings)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))
    assert read_metrics(tmp_path / "parts" / "metrics.jsonl") == read_metrics(tmp_path / "whole" / "metrics.jsonl")
    assert len(history["validation/loss"]) == 5
    with pytest.raises(RunFolderError, match=r"holds a fit in Python, and this expects an agent"):
        open_run(tmp_path / "parts")
    page = (tmp_path / "parts" / "report.html").read_text()
    for part in ("loss on validation data", "best on validation data", "The code that runs"):
        assert part in page


def test_a_loader_is_not_gone_on_with(tmp_path):
    loader = DataLoader(TensorDataset(X, Y), batch_size=5)
    fit(regression(), loader, epochs=1, run=tmp_path / "run", **QUIET)
    with pytest.raises(ConfigError, match="DataLoader .* cannot be resumed exactly"):
        fit(regression(), loader, epochs=2, run=tmp_path / "run", resume=True, **QUIET)


def test_a_model_reads_data_in_its_shapes_and_shows_its_pictures(tmp_path):
    system = find("cvae")
    model = system.build(system.sizes("tiny"))
    digits = load("digits")
    small = DataLoader(
        TensorDataset(torch.from_numpy(digits.train["x"])[:40], torch.from_numpy(digits.train["y"])[:40])
    )
    history = fit(model, small, steps=2, **QUIET)  # a label becomes one-hot, as the model declares
    assert len(history.rows) == 2
    fit(model, "digits", steps=3, batch=8, run=tmp_path / "run", progress=False)
    assert "data:image/webp" in (tmp_path / "run" / "report.html").read_text()
