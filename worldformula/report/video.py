"""Moving pictures: animated WebP from frames, and the dream beside the truth.

Frames are uint8 ``[T, H, W, C]`` with one or three channels. Pictures are enlarged without smoothing, so that a pixel
of the model stays a pixel.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldformula.errors import ConfigError, ShapeError
from worldformula.run.folder import RunFolder, events, read_metrics

Frames = NDArray[np.uint8]

LOOKING, DREAMING = (46, 160, 103), (214, 69, 80)  # border colours: the model sees the frame, it no longer does
LOSSLESS_BYTES = 1_000_000


def webp(frames: Frames, fps: float = 15.0, scale: int = 1, quality: int | None = None) -> bytes:
    """An endless animated WebP; a single frame becomes a still.

    Args:
        frames: ``[T, H, W, C]``.
        fps: frames per second.
        scale: enlargement of every pixel.
        quality: 0–100, lossy. By default lossless, or 80 where that would take more than 1 MB.

    Raises:
        ShapeError: not uint8 frames.
        ConfigError: impossible fps or scale.
    """
    from PIL import Image

    if not (fps > 0 and scale >= 1):
        raise ConfigError(f"expected fps > 0 and scale ≥ 1, got {fps=}, {scale=}")
    first, *rest = [Image.fromarray(frame) for frame in upscale(_colour(frames), scale)]
    duration = round(1000 / fps)

    def encode(**how: Any) -> bytes:
        out = io.BytesIO()
        first.save(out, "WEBP", save_all=True, append_images=rest, duration=duration, loop=0, **how)
        return out.getvalue()

    if quality is not None:
        return encode(quality=quality, method=4)
    lossless = encode(lossless=True, quality=20, method=2)
    return lossless if len(lossless) <= LOSSLESS_BYTES else encode(quality=80, method=4)


def upscale(frames: Frames, scale: int) -> Frames:
    """Every pixel as a square of ``scale`` × ``scale``: ``[T, H, W, C]`` -> ``[T, scale·H, scale·W, C]``."""
    return frames.repeat(scale, axis=-3).repeat(scale, axis=-2)


def tile(videos: Frames, columns: int, gap: int = 2, background: int = 128) -> Frames:
    """Several videos as one: ``[B, T, H, W, C]`` -> ``[T, H', W', C]``, row by row.

    Raises:
        ShapeError: not a batch of uint8 videos.
        ConfigError: no columns.
    """
    if videos.ndim != 5 or videos.dtype != np.uint8 or not len(videos):
        raise ShapeError(f"expected uint8 videos [B, T, H, W, C] with B ≥ 1, got {videos.shape} {videos.dtype}")
    if columns < 1 or gap < 0:
        raise ConfigError(f"expected columns ≥ 1 and gap ≥ 0, got {columns=}, {gap=}")
    batch, steps, height, width, channels = videos.shape
    columns = min(columns, batch)
    rows = -(-batch // columns)
    size = rows * (height + gap) - gap, columns * (width + gap) - gap
    canvas = np.full((steps, *size, channels), background, np.uint8)
    for i, video in enumerate(videos):
        y, x = (i // columns) * (height + gap), (i % columns) * (width + gap)
        canvas[:, y : y + height, x : x + width] = video
    return canvas


def dream_video(truth: Frames, dream: Frames, context: int, border: int = 1) -> Frames:
    """Truth, dream and error in three rows, one column per sequence.

    The error is drawn around mid-grey (no error): brighter where the dream is brighter than the truth. The border is
    green while the model sees the truth, red from the first frame on that it dreams.

    Args:
        truth: uint8 ``[B, T, H, W, C]``.
        dream: same shape.
        context: frames that the model sees.
        border: width of the border in pixels.

    Returns:
        uint8 ``[T, H', W', 3]``.

    Raises:
        ShapeError: the shapes differ.
    """
    _same(truth, dream)
    signed = (dream.astype(np.int16) - truth.astype(np.int16) + 255) // 2
    rows = np.concatenate([_colour(truth), _colour(dream), _colour(signed.astype(np.uint8))])
    framed = np.empty((*rows.shape[:2], rows.shape[2] + 2 * border, rows.shape[3] + 2 * border, 3), np.uint8)
    framed[:, :context] = LOOKING
    framed[:, context:] = DREAMING
    framed[:, :, border : border + rows.shape[2], border : border + rows.shape[3]] = rows
    return tile(framed, columns=len(truth), gap=0)


def filmstrip(truth: Frames, dream: Frames, steps: Sequence[int]) -> Frames:
    """One sequence as a still: truth above dream, a column per step; ``[T, H, W, C]`` -> ``[1, H', W', 3]``.

    Raises:
        ShapeError: the shapes differ.
    """
    _same(truth[None], dream[None])
    chosen = np.concatenate([_colour(truth)[list(steps)], _colour(dream)[list(steps)]])
    return tile(chosen[:, None], columns=len(steps), gap=1)


def _same(truth: Frames, dream: Frames) -> None:
    if truth.shape != dream.shape or truth.ndim != 5 or not truth.dtype == dream.dtype == np.uint8:
        raise ShapeError(
            "expected truth and dream as uint8 of one shape [B, T, H, W, C], got "
            f"truth {truth.shape} {truth.dtype} and dream {dream.shape} {dream.dtype}"
        )


def _colour(frames: Frames) -> Frames:
    """Three channels, also for grey frames; any number of leading axes."""
    if frames.dtype != np.uint8 or frames.ndim < 4 or frames.shape[-1] not in (1, 3) or not frames.size:
        raise ShapeError(f"expected uint8 frames [T, H, W, 1 or 3] with T ≥ 1, got {frames.shape} {frames.dtype}")
    return frames if frames.shape[-1] == 3 else frames.repeat(3, axis=-1)


def stills(folder: RunFolder, pictures: Mapping[str, bytes]) -> None:
    """WebP pictures as images of TensorBoard, ``report/<name>`` at the last step of the log; none without events."""
    if not pictures or not folder.tensorboard.is_dir() or (writer := events(folder.tensorboard, 0)) is None:
        return
    from PIL import Image

    lines = read_metrics(folder.metrics_file) if folder.metrics_file.is_file() else []
    step = int(lines[-1]["step"]) if lines else 0
    with writer:
        for name, data in pictures.items():
            with Image.open(io.BytesIO(data)) as picture:
                writer.add_image(f"report/{name}", np.asarray(picture.convert("RGB")), step, dataformats="HWC")
