"""What holds for every data set that is made here, and how one is found by name."""

from __future__ import annotations

import numpy as np
import pytest

from worldformula import data
from worldformula.data.base import DataSet, digest
from worldformula.errors import CatalogueError, ConfigError

LOCAL = {"mnist", "fashion", "cifar10", "celeba"}
MADE = sorted(set(data.names()) - LOCAL)
EXACT = {  # made of integers and correctly rounded arithmetic alone: equal on every machine
    "digits": "1bf8cc8207e07a9f",
    "rolling": "2f20c14880c826cf",
    "moving": "c3e21952941b17de",
    "sprites": "5463fd64e3cc644b",
    "gridworld": "b74210581ebb5913",
}


def rows(part):
    return [array.reshape(len(array), -1).astype(np.float64) for array in part.values()]


def test_the_folder_is_the_catalogue():
    assert set(data.names()) >= LOCAL | {
        "digits",
        "sprites",
        "rolling",
        "moving",
        "rooms",
        "speech",
        "trimodal",
        "ring",
        "gridworld",
    }


@pytest.mark.parametrize("name", MADE)
def test_a_set_is_complete_repeatable_and_its_parts_are_apart(name):
    one, again = data.load(name), data.load(name)
    assert one.name == name
    assert one.note.endswith(".")
    assert one.digest() == again.digest()
    assert one.train["x"].shape[1:] == one.test["x"].shape[1:]
    assert int(np.prod(one.train["x"].shape[1:])) == int(np.prod(one.shape))
    for array in (*one.train.values(), *one.test.values()):
        assert array.dtype in (np.float32, np.int64)
        assert np.isfinite(array).all()
    train, test = (
        set(map(bytes, np.ascontiguousarray(np.concatenate(rows(part), 1)))) for part in (one.train, one.test)
    )
    assert len(train & test) <= 0.01 * len(one.test["x"])  # a few different ones are equal in binary pixels


@pytest.mark.parametrize("name", EXACT)
def test_the_digest_in_the_docstring_is_that_of_the_arrays(name):
    assert data.load(name).digest() == EXACT[name]
    module = __import__(f"worldformula.data.{name}", fromlist=["x"])
    assert EXACT[name] in module.__doc__


def test_another_value_type_or_name_has_another_digest():
    x = np.arange(6.0)
    found = {digest({"x": x}), digest({"y": x}), digest({"x": x.astype(np.float32)}), digest({"x": x.reshape(2, 3)})}
    assert len(found | {digest({"x": x + 1e-12})}) == 5


def test_a_misspelt_name_is_answered_with_the_near_one():
    with pytest.raises(
        CatalogueError, match="no data set is called 'rollling', nor a file or a folder. Did you mean 'rolling'"
    ):
        data.load("rollling")
    assert data.load("DIGITS_17").name == "digits-17"


def test_a_misspelt_folder_is_answered_with_the_one_that_is_there(tmp_path, monkeypatch):
    (tmp_path / "pngs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CatalogueError, match="'pngz', nor a file or a folder. Did you mean 'pngs'"):
        data.load("pngz")


def test_batches_see_every_row_once_a_pass():
    x = np.arange(10)
    small = DataSet("small", {"x": x, "y": 2 * x}, {"x": x[:1], "y": x[:1]}, (), "Ten numbers.")
    stream = small.batches(3, seed=1)
    one_pass = [next(stream) for _ in range(3)]
    seen = np.concatenate([batch["x"] for batch in one_pass])
    assert len(set(seen)) == 9
    assert all((batch["y"] == 2 * batch["x"]).all() for batch in one_pass)
    other = np.concatenate([next(stream)["x"] for _ in range(3)])
    assert (other != seen).any()
    with pytest.raises(ConfigError, match="batch of 1 to 10"):
        next(small.batches(11))


def test_parts_that_do_not_fit_are_refused():
    x = np.zeros(3)
    with pytest.raises(ConfigError, match=r"train has the arrays \['x'\], test \['y'\]"):
        DataSet("odd", {"x": x}, {"y": x}, (), "")
    with pytest.raises(ConfigError, match="one number of rows"):
        DataSet("odd", {"x": x, "y": x[:2]}, {"x": x, "y": x}, (), "")
