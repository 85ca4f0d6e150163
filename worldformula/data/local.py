"""Published data sets from files on this machine: MNIST, Fashion-MNIST, CIFAR-10, CelebA. Nothing is ever fetched.

Files lie in ``data/NAME`` of the working directory, or in ``$WORLDFORMULA_DATA/NAME``, in one of two forms: as their
authors publish them, which needs no package (JPEG pictures need Pillow), or as Parquet files, as the Hugging Face Hub
keeps them, which are read with the package ``datasets`` (extra ``data``). Where both lie there, the first is read.
"""

from __future__ import annotations

import gzip
import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from worldformula.data.base import Array, DataSet, Loader
from worldformula.errors import ConfigError

CELEBA_SIZE, CELEBA_CROP = 64, 148
IDX_IMAGES, IDX_LABELS = 2051, 2049  # magic numbers: unsigned bytes with three axes, with one
CIFAR_RECORD = 1 + 3 * 32 * 32


@dataclass(frozen=True)
class Source:
    """Where a data set comes from and what its columns are called on the Hub.

    Attributes:
        files: what is expected in the folder, for the message when it is missing.
        homepage: who publishes it.
        hub: repository on the Hugging Face Hub.
        columns: names of the picture and of the label or attributes there.
        shape: of one picture.
    """

    files: str
    homepage: str
    hub: str
    columns: tuple[str, str]
    shape: tuple[int, ...]


_IDX = "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte (or each .gz)"
SOURCES = {
    "mnist": Source(_IDX, "Y. LeCun, C. Cortes, C. Burges", "ylecun/mnist", ("image", "label"), (28, 28)),
    "fashion": Source(_IDX, "Zalando Research", "zalando-datasets/fashion_mnist", ("image", "label"), (28, 28)),
    "cifar10": Source(
        "data_batch_1.bin to data_batch_5.bin and test_batch.bin (the binary version, not the pickles)",
        "A. Krizhevsky, Toronto",
        "uoft-cs/cifar10",
        ("img", "label"),
        (32, 32, 3),
    ),
    "celeba": Source(
        "img_align_celeba/*.jpg, list_attr_celeba.txt and list_eval_partition.txt",
        "MMLAB, Hong Kong",
        "flwrlabs/celeba",
        ("image", "attributes"),
        (CELEBA_SIZE, CELEBA_SIZE, 3),
    ),
}


def read(name: str, folder: str | Path | None = None, limit: int | None = None) -> DataSet:
    """One published data set: ``x`` float32 in [0, 1], flat for grey pictures, ``[N, H, W, 3]`` for colour.

    ``y`` is the class, int64 ``[N]``; of CelebA its 40 attributes, float32 ``[N, 40]`` of 0 and 1, and the pictures are
    the inner 148 × 148 pixels at 64 × 64.

    Args:
        name: ``mnist``, ``fashion``, ``cifar10`` or ``celeba``.
        folder: where the files lie; ``$WORLDFORMULA_DATA/NAME`` or ``data/NAME`` if None.
        limit: at most so many rows of each part; all of CelebA at once takes 10 GB.

    Raises:
        ConfigError: no such set, files that are missing or damaged, or a package that is needed to read them. The
            message says what is expected where.
    """
    if name not in SOURCES:
        raise ConfigError(f"expected one of {', '.join(SOURCES)}, got {name!r}")
    root = Path(folder) if folder is not None else Path(os.environ.get("WORLDFORMULA_DATA", "data")) / name
    readers = {"mnist": _idx, "fashion": _idx, "cifar10": _cifar, "celeba": _celeba}
    if any(root.glob("**/*.parquet")) and not _published(name, root):
        train, test = (_parquet(name, root, part, limit) for part in ("train", "test"))
    else:
        train, test = (readers[name](root, part, limit) for part in ("train", "test"))
    source = SOURCES[name]
    return DataSet(name, train, test, source.shape, f"{name} from local files, published by {source.homepage}.")


def _published(name: str, root: Path) -> bool:
    """Whether the first file of the authors' form is there."""
    first = {"cifar10": "data_batch_1.bin", "celeba": "list_attr_celeba.txt"}.get(name, "train-images-idx3-ubyte")
    return (root / first).exists() or (root / f"{first}.gz").exists()


def _missing(path: Path, name: str) -> ConfigError:
    source = SOURCES[name]
    return ConfigError(
        f"{path} does not exist. Expected in {path.parent}: {source.files}; or the Parquet files of {source.hub} on "
        "the Hugging Face Hub, for which: pip install 'worldformula[data]'. worldformula downloads no data; put the "
        "files there, or say where they are: WORLDFORMULA_DATA=FOLDER, with one folder per data set in it."
    )


def _unit(pixels: Array) -> Array:
    return pixels.astype(np.float32) / np.float32(255)


def _idx(root: Path, part: str, limit: int | None) -> dict[str, Array]:
    """The four files of MNIST and its relatives."""
    stem = {"train": "train", "test": "t10k"}[part]
    images = _idx_file(root / f"{stem}-images-idx3-ubyte", IDX_IMAGES, 3, root.name)
    labels = _idx_file(root / f"{stem}-labels-idx1-ubyte", IDX_LABELS, 1, root.name)
    if len(images) != len(labels):
        raise ConfigError(f"{root}: {len(images)} pictures and {len(labels)} labels in the {part} part")
    return {"x": _unit(images[:limit].reshape(len(images[:limit]), -1)), "y": labels[:limit].astype(np.int64)}


def _idx_file(path: Path, magic: int, axes: int, name: str) -> Array:
    packed = path.with_name(path.name + ".gz")
    if not path.exists() and not packed.exists():
        raise _missing(path, name if name in SOURCES else "mnist")
    data = path.read_bytes() if path.exists() else gzip.decompress(packed.read_bytes())
    header = np.frombuffer(data[: 4 * (axes + 1)], ">i4")
    if len(header) != axes + 1 or header[0] != magic or len(data) != 4 * (axes + 1) + int(np.prod(header[1:])):
        raise ConfigError(f"{path} is no complete IDX file of magic number {magic}; fetch it again")
    return np.frombuffer(data, np.uint8, offset=4 * (axes + 1)).reshape(header[1:])


def _cifar(root: Path, part: str, limit: int | None) -> dict[str, Array]:
    """The binary version: one byte of label, then 32 × 32 bytes of each colour."""
    files = ["test_batch.bin"] if part == "test" else [f"data_batch_{i}.bin" for i in range(1, 6)]
    records = []
    for path in (root / file for file in files):
        if not path.exists():
            raise _missing(path, "cifar10")
        data = np.frombuffer(path.read_bytes(), np.uint8)
        if not len(data) or len(data) % CIFAR_RECORD:
            raise ConfigError(f"{path} has {len(data)} bytes, no multiple of {CIFAR_RECORD}; fetch it again")
        records.append(data.reshape(-1, CIFAR_RECORD))
    rows = np.concatenate(records)[:limit]
    pictures = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return {"x": _unit(pictures), "y": rows[:, 0].astype(np.int64)}


def _celeba(root: Path, part: str, limit: int | None) -> dict[str, Array]:
    """Aligned pictures; the official partition: 0 is training, 2 the test."""
    for path in (root / "list_attr_celeba.txt", root / "list_eval_partition.txt", root / "img_align_celeba"):
        if not path.exists():
            raise _missing(path, "celeba")
    wanted = {"train": "0", "test": "2"}[part]
    rows = [line.split() for line in (root / "list_eval_partition.txt").read_text().splitlines()]
    files = [file for file, which in rows if which == wanted][:limit]
    lines = (root / "list_attr_celeba.txt").read_text().splitlines()[2:]  # how many, then the 40 names
    signs = {file: values for file, *values in (line.split() for line in lines)}
    from PIL import Image

    pictures = np.empty((len(files), CELEBA_SIZE, CELEBA_SIZE, 3), np.float32)
    for row, file in enumerate(files):
        with Image.open(root / "img_align_celeba" / file) as image:
            pictures[row] = _unit(_square(image))
    return {"x": pictures, "y": np.array([[v == "1" for v in signs[file]] for file in files], np.float32)}


def _square(image: Any) -> Array:
    """The inner 148 pixels of an aligned face, at 64."""
    left, top = ((side - CELEBA_CROP) // 2 for side in image.size)
    box = (left, top, left + CELEBA_CROP, top + CELEBA_CROP)
    return np.asarray(image.convert("RGB").resize((CELEBA_SIZE, CELEBA_SIZE), box=box, resample=2))


def _parquet(name: str, root: Path, part: str, limit: int | None) -> dict[str, Array]:
    """The Hub's form; the part is the first word of a file's name, as in ``train-00000-of-00001.parquet``."""
    try:
        reader = importlib.import_module("datasets").Dataset
    except ImportError as error:
        raise ConfigError("Parquet files need the package datasets: pip install 'worldformula[data]'") from error
    files = sorted(str(path) for path in root.glob(f"**/{part}*.parquet"))
    if not files:
        raise _missing(root / f"{part}-*.parquet", name)
    picture, label = SOURCES[name].columns
    rows = reader.from_parquet(files, split=part)
    rows = rows.select(range(min(limit, len(rows)))) if limit is not None else rows
    if name == "celeba":
        attributes = [column for column in rows.column_names if column not in {picture, "celeb_id"}]
        y = np.stack([np.asarray(rows[column], np.float32) for column in attributes], -1)
        return {"x": np.stack([_unit(_square(row[picture])) for row in rows]), "y": y}
    x = np.stack([_unit(np.asarray(row[picture])) for row in rows])
    grey = len(SOURCES[name].shape) == 2
    return {"x": x.reshape(len(x), -1) if grey else x, "y": np.asarray(rows[label], np.int64)}


DATA: Mapping[str, Loader] = {name: partial(read, name) for name in SOURCES}
