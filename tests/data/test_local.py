"""Readers of local files: small files in the published formats, written here byte by byte; nothing is downloaded."""

from __future__ import annotations

import gzip
import struct
import sys
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from worldformula import data
from worldformula.data.local import read
from worldformula.errors import ConfigError

RNG = np.random.default_rng(0)


def write_idx(folder, *, packed):
    kept = {}
    for stem, count in (("train", 6), ("t10k", 3)):
        images, labels = RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8), np.arange(count, dtype=np.uint8)
        files = {
            "images-idx3-ubyte": struct.pack(">4i", 2051, count, 28, 28) + images.tobytes(),
            "labels-idx1-ubyte": struct.pack(">2i", 2049, count) + labels.tobytes(),
        }
        for name, content in files.items():
            path = folder / f"{stem}-{name}{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(content) if packed else content)
        kept[stem] = images
    return kept


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["mnist", "fashion"])
def test_idx_files(tmp_path, monkeypatch, name, packed):
    monkeypatch.setenv("WORLDFORMULA_DATA", str(tmp_path))
    (tmp_path / name).mkdir()
    kept = write_idx(tmp_path / name, packed=packed)
    found = data.load(name)
    assert found.shape == (28, 28)
    assert np.allclose(found.train["x"].reshape(6, 28, 28) * 255, kept["train"])
    assert np.allclose(found.test["x"].reshape(3, 28, 28) * 255, kept["t10k"])
    assert found.test["y"].tolist() == [0, 1, 2]
    assert len(read(name, limit=2).train["x"]) == 2


def test_cifar_is_red_green_blue(tmp_path):
    for file in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        pixels = np.zeros((2, 3, 32, 32), np.uint8)
        pixels[1, 0, 0, 5] = 255  # red in the top row, column 5
        records = np.concatenate([np.array([[7], [8]], np.uint8), pixels.reshape(2, -1)], 1)
        (tmp_path / file).write_bytes(records.tobytes())
    found = read("cifar10", tmp_path)
    assert found.train["x"].shape == (10, 32, 32, 3)
    assert found.test["y"].tolist() == [7, 8]
    assert np.argwhere(found.test["x"]).tolist() == [[1, 0, 5, 0]]


def test_celeba_takes_the_inner_square_and_the_official_parts(tmp_path):
    pictures = tmp_path / "img_align_celeba"
    pictures.mkdir()
    lines, parts = ["4", " ".join(f"a{i}" for i in range(40))], []
    for i, part in enumerate((0, 1, 2, 0)):
        image = np.zeros((218, 178, 3), np.uint8)
        image[35:183, 15:163] = (200, 100, 50)
        Image.fromarray(image).save(pictures / f"{i}.jpg", quality=100)
        lines.append(f"{i}.jpg " + " ".join("1" if a == i else "-1" for a in range(40)))
        parts.append(f"{i}.jpg {part}")
    (tmp_path / "list_attr_celeba.txt").write_text("\n".join(lines))
    (tmp_path / "list_eval_partition.txt").write_text("\n".join(parts))
    found = read("celeba", tmp_path)
    assert found.train["x"].shape == (2, 64, 64, 3)
    inner = found.train["x"][:, 1:-1, 1:-1] * 255  # the outermost pixels touch what JPEG blurs
    assert np.abs(inner - [200, 100, 50]).max() < 12  # none of the black frame
    assert [row.argmax() for row in found.train["y"]] == [0, 3]
    assert found.test["y"].argmax() == 2


class Column(list):
    """A column of the stand-in below."""


def stand_in(monkeypatch):
    """The three calls of the package ``datasets`` that the reader makes, over rows that are kept in the file."""

    class Dataset:
        def __init__(self, rows):
            self.rows, self.column_names = rows, list(rows[0])

        @classmethod
        def from_parquet(cls, files, split):
            assert all(split in file for file in files)
            return cls([{"image": np.full((28, 28), 51 * len(files), np.uint8), "label": n} for n in range(4)])

        def select(self, index):
            return Dataset([self.rows[i] for i in index])

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, name):
            return Column(row[name] for row in self.rows)

        def __iter__(self):
            return iter(self.rows)

    module = ModuleType("datasets")
    module.Dataset = Dataset
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_parquet_files_go_to_the_package_datasets(tmp_path, monkeypatch):
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        (tmp_path / f"{name}.parquet").touch()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'worldformula\[data\]'"):
        read("mnist", tmp_path)
    stand_in(monkeypatch)
    found = read("mnist", tmp_path, limit=3)
    assert found.train["x"].shape == (3, 784)
    assert np.allclose(found.train["x"], 0.4)  # two files
    assert np.allclose(found.test["x"], 0.2)
    assert found.test["y"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["mnist", "fashion", "cifar10", "celeba"])
def test_missing_files_are_named_with_where_to_put_them(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLDFORMULA_DATA", raising=False)
    with pytest.raises(ConfigError, match=rf"data/{name}/.* does not exist. Expected in data/{name}: ") as caught:
        data.load(name)
    assert "WORLDFORMULA_DATA=FOLDER" in str(caught.value)
    assert "Hub" in str(caught.value)


def test_damaged_files_and_unknown_names_are_refused(tmp_path):
    write_idx(tmp_path, packed=False)
    whole = tmp_path / "train-images-idx3-ubyte"
    whole.write_bytes(whole.read_bytes()[:-1])
    with pytest.raises(ConfigError, match="no complete IDX file of magic number 2051"):
        read("mnist", tmp_path)
    with pytest.raises(ConfigError, match="expected one of mnist, fashion, cifar10, celeba, got 'svhn'"):
        read("svhn", tmp_path)
    for i in range(1, 6):
        (tmp_path / f"data_batch_{i}.bin").write_bytes(b"abc")
    with pytest.raises(ConfigError, match="3 bytes, no multiple of 3073"):
        read("cifar10", tmp_path)
