"""A folder of pictures; of subfolders, each is a class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldformula.data.base import Array, DataSet
from worldformula.data.split import split
from worldformula.errors import ConfigError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
PARTS = {"train", "test"}


def picture_folder(folder: Path, resize: int | None, *, grey: bool, crop: bool, test: float) -> DataSet:
    """``x [N, H · W · C]`` float32 in [0, 1], row by row, channels last; ``y [N]`` int64 where there are subfolders.

    Subfolders ``train`` and ``test`` are the parts, with or without classes inside. What is transparent becomes white.

    Raises:
        ConfigError: no pictures, one that cannot be read, or different sizes without ``resize``.
    """
    inside = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")}
    loose = _pictures(folder, deep=False)
    if inside.keys() == PARTS and not loose:
        found = {part: _listed(inside[part]) for part in ("train", "test")}
    else:
        found = {"all": _listed(folder)}
    classes = sorted({label for rows in found.values() for _, label in rows if label is not None})
    files = [file for rows in found.values() for file, _ in rows]
    x, shape = _read(files, resize, grey=grey, crop=crop)
    arrays: dict[str, Array] = {"x": x.reshape(len(x), -1)}
    if classes:
        arrays["y"] = np.array([classes.index(str(label)) for rows in found.values() for _, label in rows], np.int64)
    kinds = (
        f" in {len(classes)} classes ({', '.join(classes[:6])}{', …' if len(classes) > 6 else ''})" if classes else ""
    )
    size = " × ".join(map(str, shape[:2])) + (" grey" if len(shape) == 2 else " colour")
    note = f"{len(files)} pictures of {folder.name}{kinds}, {size}, values in [0, 1]."
    if "all" in found:
        return split(folder.name, arrays, test, shape, note)
    first = len(found["train"])
    learnt, kept = ({k: v[at] for k, v in arrays.items()} for at in (slice(first), slice(first, None)))
    return DataSet(folder.name, learnt, kept, shape, note)


def _pictures(folder: Path, *, deep: bool) -> list[Path]:
    found = folder.rglob("*") if deep else folder.iterdir()
    return sorted(p for p in found if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file())


def _listed(folder: Path) -> list[tuple[Path, str | None]]:
    """The pictures and their classes, None where there are none."""
    loose = _pictures(folder, deep=False)
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    classed = [(file, path.name) for path in inside for file in _pictures(path, deep=True)]
    if loose and classed:
        raise ConfigError(
            f"{folder} has {len(loose)} pictures beside folders with {len(classed)} more; "
            "expected pictures alone, or a folder per class alone"
        )
    if not loose and not classed:
        raise ConfigError(f"{folder} has no pictures ({', '.join(sorted(SUFFIXES))}), nor folders of them")
    return [(file, None) for file in loose] or [*classed]


def _read(files: Sequence[Path], resize: int | None, *, grey: bool, crop: bool) -> tuple[Array, tuple[int, ...]]:
    """``[N, H, W]`` or ``[N, H, W, 3]``, and the shape of one."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    images: list[Any] = []
    for file in files:
        try:
            with Image.open(file) as opened:
                images.append(_plain(ImageOps.exif_transpose(opened)))
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ConfigError(f"{file} cannot be read as a picture: {error}") from error
        if resize is not None:  # at once: many large pictures would not fit into memory
            images[-1] = _sized(images[-1], resize, crop=crop)
    sizes = Counter(image.size for image in images)
    if len(sizes) > 1:
        low, high = min(sizes, key=lambda s: s[0] * s[1]), max(sizes, key=lambda s: s[0] * s[1])
        side = min(64, *(min(size) for size in sizes))
        raise ConfigError(
            f"the {len(files)} pictures have {len(sizes)} sizes, from {low[0]} × {low[1]} to {high[0]} × {high[1]} "
            f"pixels. Bring them to one: --set data.resize={side} (the middle square; data.crop=false squeezes instead)"
        )
    mode = "L" if grey or all(image.mode == "L" for image in images) else "RGB"
    pixels = np.stack([np.asarray(image.convert(mode), np.float32) for image in images]) / np.float32(255)
    return pixels, tuple(pixels.shape[1:])


def _plain(image: Any) -> Any:
    """Grey or RGB, eight bits; a frame of a moving picture is its first."""
    from PIL import Image

    if image.mode == "1":
        return image.convert("L")
    if image.mode.startswith("I"):  # 16 bits of grey: `convert` would cut off what is above 255
        return Image.fromarray((np.asarray(image, np.float64) / 257).clip(0, 255).round().astype(np.uint8))
    if image.mode == "F":
        raise ValueError("pixels are floats; store them as .npz instead")
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        grey = image.mode == "LA"
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("L" if grey else "RGB")
    return image.copy() if image.mode in ("L", "RGB") else image.convert("RGB")


def _sized(image: Any, side: int, *, crop: bool) -> Any:
    from PIL import Image

    width, height = image.size
    least = min(width, height)
    left, top = (width - least) / 2, (height - least) / 2
    box = (left, top, left + least, top + least) if crop else None
    return image.resize((side, side), Image.Resampling.BOX if least >= 2 * side else Image.Resampling.BICUBIC, box=box)
