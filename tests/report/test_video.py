"""Videos: decoded again, pixel by pixel."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from worldformula.errors import ConfigError, ShapeError
from worldformula.report import video
from worldformula.report.video import DREAMING, LOOKING, dream_video, filmstrip, stills, tile, upscale, webp
from worldformula.run.folder import MetricsLog, RunFolder

RNG = np.random.default_rng(0)


def frames(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def decoded(data):
    return np.stack([np.array(f.convert("RGB")) for f in ImageSequence.Iterator(Image.open(io.BytesIO(data)))])


def test_an_animation_comes_back_frame_by_frame():
    clip = frames(5, 6, 7, 3)
    data = webp(clip, fps=10, scale=3)
    assert np.array_equal(decoded(data), clip.repeat(3, 1).repeat(3, 2))
    image = Image.open(io.BytesIO(data))
    image.load()
    assert (image.n_frames, image.info["duration"], image.info["loop"]) == (5, 100, 0)


def test_grey_frames_become_colour():
    clip = frames(2, 4, 4, 1)
    assert np.array_equal(decoded(webp(clip)), clip.repeat(3, -1))


def test_large_animations_are_compressed_with_loss(monkeypatch):
    clip = frames(3, 32, 32, 3)
    exact = webp(clip)
    monkeypatch.setattr(video, "LOSSLESS_BYTES", 100)
    lossy = webp(clip)
    assert len(lossy) < len(exact)
    assert decoded(lossy).shape == clip.shape
    assert len(webp(clip, quality=5)) < len(lossy)


def test_enlarging_keeps_every_pixel():
    large = upscale(frames(2, 3, 4, 3), 4)
    assert large.shape == (2, 12, 16, 3)
    assert np.array_equal(large[:, 3::4, 3::4], large[:, ::4, ::4])


def test_tiles_stand_row_by_row_with_gaps_between():
    clips = frames(3, 2, 4, 5, 3)
    out = tile(clips, columns=2, gap=1, background=7)
    assert out.shape == (2, 9, 11, 3)
    assert np.array_equal(out[:, :4, :5], clips[0])
    assert np.array_equal(out[:, :4, 6:], clips[1])
    assert np.array_equal(out[:, 5:, :5], clips[2])
    assert (out[:, 4] == 7).all()
    assert (out[:, 5:, 5:] == 7).all()


def test_a_dream_shows_truth_dream_and_error_and_turns_red_when_it_begins():
    truth, dream = frames(2, 4, 6, 5, 3), frames(2, 4, 6, 5, 3)
    out = dream_video(truth, dream, context=3)
    assert out.shape == (4, 3 * 8, 2 * 7, 3)
    for b in range(2):
        columns = slice(7 * b + 1, 7 * b + 6)
        assert np.array_equal(out[:, 1:7, columns], truth[b])
        assert np.array_equal(out[:, 9:15, columns], dream[b])
        signed = (dream[b].astype(int) - truth[b] + 255) // 2
        assert np.array_equal(out[:, 17:23, columns], signed)
    borders = out[:, 0, :].reshape(4, -1, 3)
    assert (borders[:3] == LOOKING).all()
    assert (borders[3] == DREAMING).all()


def test_no_error_is_mid_grey():
    truth = frames(1, 2, 3, 3, 1)
    assert set(np.unique(dream_video(truth, truth, 1)[:, 11:14, 1:4])) == {127}


def test_a_filmstrip_picks_steps():
    truth, dream = frames(6, 4, 4, 3), frames(6, 4, 4, 3)
    out = filmstrip(truth, dream, [0, 5])
    assert out.shape == (1, 9, 9, 3)
    assert np.array_equal(out[0, :4, 5:], truth[5])
    assert np.array_equal(out[0, 5:, :4], dream[0])


def test_bad_input_is_refused():
    with pytest.raises(ShapeError, match="float64"):
        webp(np.zeros((2, 4, 4, 3)))
    with pytest.raises(ShapeError, match=r"\(0, 4, 4, 3\)"):
        webp(np.zeros((0, 4, 4, 3), np.uint8))
    with pytest.raises(ConfigError, match="fps=0"):
        webp(frames(1, 4, 4, 3), fps=0)
    with pytest.raises(ShapeError, match="one shape"):
        dream_video(frames(1, 4, 4, 4, 3), frames(1, 3, 4, 4, 3), 2)
    with pytest.raises(ShapeError, match=r"\[B, T, H, W, C\]"):
        tile(frames(2, 4, 4, 3), 2)
    with pytest.raises(ConfigError, match="columns=0"):
        tile(frames(1, 2, 4, 4, 3), 0)


def test_pictures_become_images_of_tensorboard(tmp_path: Path) -> None:
    """Beside the numbers, at the last step of the log; a run without events gets none."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, frame = RunFolder(tmp_path / "run"), np.zeros((1, 8, 6, 3), np.uint8)
    frame[0, :4] = (200, 30, 10)
    folder.create({})
    stills(folder, {"samples": webp(frame)})
    assert not folder.tensorboard.exists()
    with MetricsLog(folder) as metrics:
        metrics.write(7, {"loss": 0.5})
    stills(folder, {"samples": webp(frame)})
    found = EventAccumulator(str(folder.tensorboard), size_guidance={"images": 0}).Reload()
    (shown,) = found.Images("report/samples")
    assert shown.step == 7
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(shown.encoded_image_string))), frame[0])
    assert [event.value for event in found.Scalars("loss")] == [0.5]
