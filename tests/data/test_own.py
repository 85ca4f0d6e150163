"""Your own pictures, arrays, tables and texts, as models get them; and what is refused, in words."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from worldformula import data
from worldformula.data import Reading
from worldformula.errors import CatalogueError, ConfigError


def save(path, pixels, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **more)


def flat(value, height=4, width=6, channels=3):
    return np.full((height, width, channels) if channels > 1 else (height, width), value, np.uint8)


def test_a_folder_of_pictures_has_classes_channels_last_and_values_from_0_to_1(tmp_path):
    for i in range(5):
        save(tmp_path / "cat" / f"{i}.png", flat((255, 0, 51)))
        save(tmp_path / "dog" / f"{i}.jpg", flat(0))
    found = data.load(f"{tmp_path}/")
    assert found.shape == (4, 6, 3)
    assert found.train["x"].shape == (8, 72)
    assert np.bincount(found.train["y"]).tolist() == [4, 4], "of every class its share"
    cat = found.train["x"][found.train["y"] == 0][0]
    assert cat.reshape(4, 6, 3)[2, 5].tolist() == pytest.approx([1.0, 0.0, 0.2])
    assert found.digest() == data.load(str(tmp_path)).digest()
    assert "2 classes (cat, dog), 4 × 6 colour" in found.note


def test_pictures_keep_their_orientation_their_depth_and_stand_on_white(tmp_path):
    upright = np.zeros((2, 4), np.uint8)
    upright[0] = 255  # the upper edge is bright
    turned = Image.fromarray(np.rot90(upright).copy())
    exif = Image.Exif()
    exif[274] = 6  # shown after a quarter turn to the right
    turned.save(tmp_path / "a.png", exif=exif)
    Image.fromarray(np.full((2, 4), 40000, np.uint16)).save(tmp_path / "b.png")
    Image.fromarray(np.zeros((2, 4, 4), np.uint8), "RGBA").save(tmp_path / "c.png")
    x, shape = data.picture_folder._read(sorted(tmp_path.iterdir()), None, grey=True, crop=True)
    assert shape == (2, 4)
    assert np.unique(x[0], axis=1).T.tolist() == [[1.0, 0.0]]
    assert x[1].min() == pytest.approx(40000 / 65535, abs=1 / 255)
    assert x[2].min() == 1.0


def test_pictures_of_different_sizes_say_how_to_make_them_one(tmp_path):
    picture = np.zeros((20, 40), np.uint8)
    picture[:, 10:30] = 200  # the middle square
    save(tmp_path / "a.png", picture)
    save(tmp_path / "b.png", np.full((16, 16), 200))
    with pytest.raises(ConfigError, match=r"2 sizes, from 16 × 16 to 40 × 20 pixels.*data.resize=16"):
        data.load(str(tmp_path))
    cut = data.load(str(tmp_path), Reading(resize=8))
    assert cut.train["x"].shape[1:] == (64,)
    assert np.concatenate([cut.train["x"], cut.test["x"]]) == pytest.approx(200 / 255)
    squeezed = data.load(str(tmp_path), Reading(resize=8, crop=False))
    assert min(squeezed.train["x"].min(), squeezed.test["x"].min()) == 0.0


def test_folders_called_train_and_test_are_the_parts(tmp_path):
    for part, kind, count in (("train", "a", 3), ("train", "b", 2), ("test", "b", 1)):
        for i in range(count):
            save(tmp_path / part / kind / f"{i}.png", flat(0))
    found = data.load(str(tmp_path))
    assert found.train["y"].tolist() == [0, 0, 0, 1, 1]
    assert found.test["y"].tolist() == [1]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: None, "has no pictures"),
        (lambda p: (p / "a.png").write_bytes(b"no picture"), "a.png cannot be read as a picture"),
        (lambda p: (save(p / "a.png", flat(0)), save(p / "b" / "c.png", flat(0))), "1 pictures beside folders with 1"),
        (lambda p: save(p / "a.png", flat(0)), "two rows or more"),
    ],
)
def test_folders_that_are_refused(tmp_path, make, says):
    make(tmp_path)
    with pytest.raises(ConfigError, match=says):
        data.load(str(tmp_path))


def test_a_table_has_scaled_numbers_and_a_column_per_text(tmp_path):
    lines = ["age;city;old", *(f"{i};{'Rome' if i % 2 else 'Oslo'};{'yes' if i > 5 else 'no'}" for i in range(10))]
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    found = data.load(str(tmp_path / "t.csv"), Reading(label="old"))
    assert found.columns == ("age", "city=Oslo", "city=Rome")
    age = found.train["x"][:, 0]
    assert (age.mean(), age.std()) == (pytest.approx(0, abs=1e-6), pytest.approx(1, abs=1e-6))
    assert (found.train["x"][:, 1:].sum(1) == 1).all()
    raw = data.load(str(tmp_path / "t.csv"), Reading(label="old", scale="none"))
    whole = {part: raw.train if part == "train" else raw.test for part in ("train", "test")}
    for rows in whole.values():
        assert rows["y"].tolist() == [int(a > 5) for a in rows["x"][:, 0]]
        assert rows["x"][:, 2].tolist() == [a % 2 for a in rows["x"][:, 0]]
    unit = data.load(str(tmp_path / "t.csv"), Reading(scale="unit", skip=("city", "old")))
    assert (unit.train["x"].min(), unit.train["x"].max()) == (0.0, 1.0)


def test_empty_cells_are_refused_dropped_or_filled_in(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,x\n3,\nNA,y\n5,x\n3,y\n")
    with pytest.raises(ConfigError, match=r"2 empty cells: a \(1\), b \(1\).*data.missing=drop"):
        data.load(str(path))
    dropped = data.load(str(path), Reading(missing="drop", scale="none"))
    assert sorted(np.concatenate([dropped.train["x"], dropped.test["x"]])[:, 0]) == [1, 3, 5]
    filled = data.load(str(path), Reading(missing="fill", scale="none"))
    assert sorted(np.concatenate([filled.train["x"], filled.test["x"]])[:, 0]) == [1, 3, 3, 3, 5]
    assert filled.columns == ("a", "b=missing", "b=x", "b=y")


@pytest.mark.parametrize(
    ("text", "how", "says"),
    [
        ("a,b\n1,2\n3\n", Reading(), "row 2 has 1 cells, and there are 2 columns"),
        ("a,a\n1,2\n", Reading(), "first row of different names"),
        ("", Reading(), "is empty"),
        ("a,b\n1,2\n", Reading(label="c"), "has no column 'c'"),
        ("a,b\n1,2\n3,4\n", Reading(skip=("a", "b")), "no column left"),
        ("n\n" + "\n".join(f"name {i}" for i in range(60)), Reading(), "60 different texts.*data.skip=n"),
    ],
)
def test_tables_that_are_refused(tmp_path, text, how, says):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ConfigError, match=says):
        data.load(str(tmp_path / "t.csv"), how)


def test_a_table_of_numbers_alone_needs_no_header(tmp_path):
    (tmp_path / "t.csv").write_text("1,2\n3,4\n5,6\n")
    found = data.load(str(tmp_path / "t.csv"), Reading(scale="none"))
    assert found.columns == ("column1", "column2")
    assert len(found.train["x"]) + len(found.test["x"]) == 3


def test_arrays_keep_their_names_and_pictures_put_channels_last(tmp_path):
    pixels = np.arange(10 * 3 * 4 * 5, dtype=np.uint8).reshape(10, 3, 4, 5)
    np.savez(tmp_path / "x.npz", images=pixels, y=np.array(["b", "a"] * 5), mass=np.ones(10))
    found = data.load(str(tmp_path / "x.npz"), Reading(names=("x=images",)))
    assert found.shape == (4, 5, 3)
    assert set(found.train) == {"x", "y", "mass"}
    first = found.train["x"][0].reshape(4, 5, 3)
    assert any(np.allclose(first, p.transpose(1, 2, 0) / 255) for p in pixels)
    assert sorted(np.concatenate([found.train["y"], found.test["y"]])) == [0] * 5 + [1] * 5
    assert "bytes, divided by 255" in found.note


def test_parts_that_are_there_stay_and_share_their_classes(tmp_path):
    np.savez(
        tmp_path / "m.npz", x_train=np.zeros((3, 2)), y_train=np.array(["a", "c", "c"]), x_test=np.ones((2, 2)),
        y_test=np.array(["b", "c"]),
    )  # fmt: skip
    found = data.load(str(tmp_path / "m.npz"))
    assert (found.train["y"].tolist(), found.test["y"].tolist()) == ([0, 2, 2], [1, 2])
    assert found.test["x"].dtype == np.float32


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": np.array([[1.0], [np.nan]])}, "not finite in 1 rows, the first is 1"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(2, int)}, "one number of rows in all arrays"),
        ({"x": np.zeros((3, 2)), "y": np.array([0, -1, 2])}, "the class -1"),
        ({"x": np.array([["a"], ["b"]])}, "expected numbers"),
        ({"x": np.array([object(), None])}, "cannot be read as arrays of numbers"),
    ],
)
def test_arrays_that_are_refused(tmp_path, arrays, says):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ConfigError, match=says):
        data.load(str(tmp_path / "x.npz"))


@pytest.mark.parametrize("name", ["x.npz", "x.npy"])
def test_a_file_that_numpy_did_not_write_is_told(tmp_path, name):
    """NumPy takes it for a pickle, and advises to allow that."""
    (tmp_path / name).write_bytes(b"a,b\n1,2\n")
    with pytest.raises(
        ConfigError, match=rf"{name} is no file of NumPy, whatever its name ends in; np.savez"
    ) as caught:
        data.load(str(tmp_path / name))
    assert "pickle" not in str(caught.value)


def test_a_text_is_rows_of_characters_and_its_end_is_the_test(tmp_path):
    text = "abcd" * 20 + "dcba" * 5
    (tmp_path / "t.txt").write_text(text)
    found = data.load(str(tmp_path / "t.txt"), Reading(length=4))
    assert found.alphabet == "abcd"
    assert found.train["x"].tolist() == [[0, 1, 2, 3]] * 20
    assert found.test["x"].tolist() == [[3, 2, 1, 0]] * 5
    with pytest.raises(ConfigError, match="data.length"):
        data.load(str(tmp_path / "t.txt"), Reading(length=64))


def test_a_function_of_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    source = "import numpy as np\ndef one():\n    return np.arange(12.).reshape(6, 2)\n"
    source += "def two():\n    return {'x': np.zeros((2, 3))}, {'x': np.ones((1, 3))}\ndef none():\n    return 3\n"
    (tmp_path / "own_maker.py").write_text(source)
    one = data.load("own_maker:one")
    assert sorted(np.concatenate([one.train["x"], one.test["x"]]).ravel()) == list(range(12))
    assert data.load("own_maker:two").test["x"].tolist() == [[1.0, 1.0, 1.0]]
    for text, says in (
        ("own_maker:none", "returned int; expected a dict of arrays"),
        ("own_maker:four", "own_maker has no four"),
        ("own_makr:one", "no module 'own_makr'"),
    ):
        with pytest.raises(ConfigError, match=says):
            data.load(text)


@pytest.mark.parametrize(
    ("name", "says"),
    [("./nowhere", "does not exist. Data of your own are"), ("x.mat", "does not exist"), ("digit", "Did you mean")],
)
def test_nothing_there(name, says):
    with pytest.raises((ConfigError, CatalogueError), match=says):
        data.load(name)


def test_options_are_for_own_data():
    with pytest.raises(ConfigError, match="for data of your own"):
        data.load("digits", Reading(resize=4))
