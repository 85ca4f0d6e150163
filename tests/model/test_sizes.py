"""Sizes from the data: what a preset declares for the sets of the package is what the data say."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

from worldformula import data
from worldformula.catalogue import find
from worldformula.cli import main
from worldformula.data import DataSet, arrays, digits, known, local, rooms
from worldformula.errors import MissingInputError, WorldformulaError
from worldformula.model.config import start
from worldformula.model.run import build, sized, suitable, taken, takers
from worldformula.model.sizes import inferred
from worldformula.nets.pictures import PictureDecoder, PictureEncoder


def own(shape, *, classes=0, whole=0, low=0.0, rows=8):
    rng = np.random.default_rng(0)
    x = (
        rng.integers(whole, size=(rows, int(np.prod(shape))))
        if whole
        else rng.random((rows, int(np.prod(shape)))) + low
    )
    if whole:
        x[0, 0] = whole - 1
    arrays = {"x": x.astype(np.int64 if whole else np.float32)}
    if classes:
        arrays["y"] = np.arange(rows) % classes
    return DataSet("own", arrays, arrays, shape, "")


@pytest.mark.parametrize(
    ("model", "preset", "name"),
    [
        ("vae", "tiny", "digits"), ("cvae", "tiny", "digits"), ("factor_vae", "tiny", "sprites"),
        ("draw", "tiny", "digits"), ("ddpm", "guidance", "digits-17"), ("pixel_cnn", "tiny", "digits-17"),
        ("transformer_ar", "tiny", "digits-17"), ("flow", "plane", "ring"), ("vq_vae", "tiny", "digits-grey"),
        ("gan", "tiny", "ring"),
        ("m2", "tiny", "digits"),
    ],
)  # fmt: skip
def test_the_sets_that_a_preset_is_for_change_nothing(model, preset, name):
    assert inferred(find(model).sizes(preset), data.load(name)) == []


@pytest.mark.parametrize(
    ("model", "preset", "found", "expected"),
    [
        ("vae", "tiny", own((3, 5)), {"pixels": 15, "deviation": None}),
        ("vae", "tiny", own((7,), low=-3.0), {"pixels": 7, "deviation": 0.5}),
        ("vae", "pictures", own((5, 9, 3)), {"pixels": 135, "picture": (5, 9, 3)}),
        ("vae", "pictures", own((5, 9)), {"pixels": 45, "picture": (5, 9, 1)}),
        ("cvae", "tiny", own((4, 4), classes=3), {"pixels": 16, "condition": 3}),
        ("ddpm", "tiny", own((4, 4)), {"features": 16, "levels": 0}),
        ("ddpm", "guidance", own((4, 4), whole=5, classes=2), {"features": 16, "levels": 5, "classes": 2}),
        ("pixel_cnn", "tiny", own((4, 6), whole=5), {"height": 4, "width": 6, "levels": 5}),
        ("transformer_ar", "tiny", own((9,), whole=5), {"length": 9, "levels": 5, "width": 64}),
        ("draw", "tiny", own((12, 12)), {"side": 12}),
        ("rbm", "tiny", own((12,)), {"visible": 12}),
        ("rbm", "tiny", own((12,), whole=2), {"visible": 12}),
        ("vae", "tiny", own((6,), whole=2), {"pixels": 6, "deviation": None}),
        ("vae", "tiny", own((6,), whole=9), {"pixels": 6, "deviation": 0.5}),
        ("vib", "tiny", own((6,), whole=9, classes=3), {"inputs": 6, "classes": 3}),
        ("vq_vae", "tiny", own((3, 4)), {"shape": (12,)}),
    ],
)
def test_sizes_come_from_the_data_and_the_model_learns(model, preset, found, expected):
    config = sized(start(model, preset, ""), found)
    assert {name: getattr(config.sizes, name) for name in expected} == expected
    made = build(config)
    rows = taken(made, found, found.train)
    values = {k: v(0) if callable(v) else v for k, v in made.symbols.items()}
    out = made.loss(**made.given(rows), **values)
    out.value.backward()
    assert out.value.isfinite()
    assert any(p.grad is not None and p.grad.any() for p in made.loss.parameters())


def test_what_is_set_stays():
    config = start("vae", "tiny", "").changed(["pixels=4"])
    assert sized(config, own((3, 5))).sizes.pixels == 4


def test_the_models_that_take_data():
    table = takers(own((5,), low=-2.0))
    assert {"vae", "score_sde"} <= set(table)
    assert not {"cvae", "pixel_cnn", "ldm", "transformer_ar"} & set(table)
    assert "transformer_ar" in takers(own((6,), whole=4))


@pytest.mark.parametrize("name", known.ROWS)
def test_what_is_said_of_a_data_set_is_what_it_holds(name):
    found, said = data.load(name), known.like(name)
    assert (found.train.keys(), found.shape) == (said.train.keys(), said.shape)
    for key, array in found.train.items():
        _, kind, low, high = known.ROWS[name][key]
        assert (kind == "bits") == (array.dtype.kind == "f" and bool(np.isin(array, (0, 1)).all()))
        assert (array.dtype, array.shape[1:]) == (said.train[key].dtype, said.train[key].shape[1:])
        assert low <= array.min() <= array.max() <= high
        assert high - low <= 1.1 * float(array.max() - array.min()) + 0.1, "it is said more closely"
        assert array.dtype.kind == "f" or (array.min(), array.max()) == (low, high)


def test_nothing_is_said_of_sets_that_there_are_not():
    assert sorted((*known.ROWS, *local.SOURCES)) == data.names()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vae", "cvae", "gqn", "pixel_cnn", "mopoe", "transformer_ar", "ddpm"])
def test_the_sets_that_suit_a_model_are_those_that_it_takes(model):
    """Against the sets themselves, made and tried one by one."""
    found = []
    for name in known.ROWS:
        with contextlib.suppress(WorldformulaError, ValueError):
            one = data.load(name)
            made = build(sized(start(model, "tiny", ""), one))
            taken(made, one, {k: v[:8] for k, v in one.train.items()})
            found.append(name)
    assert suitable(model, "tiny") == found
    assert found


def test_what_is_set_counts_for_what_would_fit_and_what_follows_from_data_does_not(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez("rows.npz", x=np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32))
    said = []
    for chosen in ([], ["--set", "coupling=given"]):
        assert main(["fit", "flow_matching", "--data", "rows.npz", "--preset", "guidance", *chosen]) == 1
        said.append(capsys.readouterr().err)
    assert "These data sets fit: digits, digits-17" in said[0]
    assert "These data sets fit: none of this package" in said[1]


def test_a_refusal_makes_no_data_set_to_say_which_would_fit(tmp_path, monkeypatch, capsys):
    made = []
    for kind in (rooms, digits):
        for name in kind.DATA:
            monkeypatch.setitem(kind.DATA, name, lambda name=name: made.append(name))
    assert main(["fit", "gqn", "--data", "sprites", "--run", str(tmp_path / "run")]) == 1
    said = capsys.readouterr().err
    assert "These data sets fit: rooms." in said
    assert "These models take sprites: beta_tcvae, ddpm" in said
    assert made == []
    assert not (tmp_path / "run").exists()


def test_a_model_that_looks_for_a_column_by_itself_says_that_it_is_missing():
    model = build(start("ldm", "tiny", ""))
    with pytest.raises(MissingInputError, match="own has no y, which this model reads; it has x"):
        model.rows(own((8, 8)).train, "own")


@pytest.mark.parametrize("shape", [(8, 8, 1), (5, 9, 3), (1, 7, 3)])
def test_convolutions_take_pictures_of_any_size(shape):
    torch.manual_seed(0)
    numbers = int(np.prod(shape))
    encode, decode = PictureEncoder(shape, 6, (4, 8, 8)), PictureDecoder(6, shape, (4, 8, 8))
    x = torch.rand(2, 3, numbers)
    z = encode(x)
    assert z.shape == (2, 3, 6)
    assert decode(z).shape == x.shape
    assert torch.allclose(encode(x[1, 2]), z[1, 2], atol=1e-5)


def test_rows_of_a_picture_are_read_line_by_line_with_channels_last():
    torch.manual_seed(0)
    encode, seen = PictureEncoder((5, 9, 3), 6, (4,)), []
    encode.stages.register_forward_hook(lambda module, given, found: seen.append(found))
    pixels = torch.zeros(5, 9, 3)
    pixels[4, 8] = 1.0
    encode(torch.zeros(1, 135))
    encode(pixels.reshape(1, 135))
    change = (seen[1] - seen[0]).abs().sum((0, 1))
    assert change.nonzero().tolist() == [[2, 4]], "one bright corner moves one corner of the halved picture"


def test_own_scenes_of_several_views_fit_a_gqn():
    """Five views of 12 × 12 pixels from cameras of 5 numbers, as bytes: nothing has to be set."""
    rng = np.random.default_rng(0)
    found = {"x": rng.integers(0, 256, (6, 5, 12, 12, 3), np.uint8), "v": rng.random((6, 5, 5), np.float32)}
    made = arrays.prepared(found, "mine")
    assert made.shape == (5, 12, 12, 3)
    assert made.arrays["x"].shape == (6, 5, 12, 12, 3)
    mine = DataSet("mine", made.arrays, made.arrays, made.shape, "")
    config = sized(start("gqn", "tiny", ""), mine)
    assert (config.sizes.side, config.sizes.camera) == (12, 5)
    assert build(config).rows(mine.train)["x"].shape == (6, 5, 12, 12, 3)
    assert sized(start("gqn", "tiny", "").changed(["side=16"]), mine).sizes.side == 16
