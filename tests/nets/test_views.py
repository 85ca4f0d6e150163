"""Views of pictures: what a frame shows of a ramp is known by arithmetic, and shifts by whole pixels are copies."""

import math

import numpy as np
import pytest
import torch

from worldformula.errors import ConfigError, ShapeError
from worldformula.nets.views import Crop, Shift

EDGE = 16


def ramps():
    """Two pictures whose channels are the middle of each pixel, across and down, from 0 to 1."""
    middle = (torch.arange(EDGE) + 0.5) / EDGE
    across, down = middle.expand(EDGE, EDGE), middle[:, None].expand(EDGE, EDGE)
    return torch.stack((across, down), -1).expand(3, EDGE, EDGE, 2).clone()


def test_a_crop_shows_a_part_as_large_as_the_whole():
    """A linear picture interpolated linearly is linear: pixel i lies at l + w (i + ½)/EDGE, from the left edge l on."""
    u = torch.tensor([[0.2, 0.5, 0.5, 0.5], [0.0, 0.9, 0.3, 0.8], [0.4, 0.1, 0.6, 0.4]])
    seen = Crop()(ramps(), u).numpy()
    middle = (np.arange(EDGE) + 0.5) / EDGE
    for row, (area, ratio, across, down) in zip(seen, u.tolist(), strict=True):
        size, shape = 0.25 + 0.75 * area, (4 / 3) ** (2 * ratio - 1)
        width, height = math.sqrt(size * shape), math.sqrt(size / shape)
        left, top = across * (1 - width), down * (1 - height)
        within = slice(1, -1)  # the outermost half pixel of a picture looks like its edge
        np.testing.assert_allclose(row[0, within, 0], (left + width * middle)[within], atol=1e-5)
        np.testing.assert_allclose(row[within, 0, 1], (top + height * middle)[within], atol=1e-5)
        assert width * height == pytest.approx(size)


def test_a_crop_of_all_is_the_picture_and_no_side_is_longer():
    x = torch.rand(4, EDGE, EDGE, 3)
    half = torch.full((4, 1), 0.5)
    torch.testing.assert_close(Crop()(x, torch.cat((torch.ones(4, 1), half, half, half), 1)), x, atol=1e-5, rtol=0)
    wide = Crop()(x, torch.tensor([1.0, 1.0, 0.0, 1.0]).expand(4, 4))  # 4 : 3 of the whole area would be too wide
    height = math.sqrt(3 / 4)
    wanted = (1 - height) + height * (np.arange(EDGE) + 0.5) / EDGE
    down = Crop()(ramps(), torch.tensor([1.0, 1.0, 0.0, 1.0]).expand(3, 4))[0, 1:-1, 0, 1]
    np.testing.assert_allclose(down, wanted[1:-1], atol=1e-5)
    assert wide.shape == x.shape


def test_a_shift_by_whole_pixels_is_a_copy_with_the_edge_behind_it():
    x = torch.rand(3, EDGE, EDGE, 3)
    reach = 4 / EDGE  # four pixels
    u = torch.tensor([[0.5, 0.5], [1.0, 0.5], [0.25, 0.0]])  # none; 4 to the right; 2 to the left, 4 up
    seen = Shift(reach)(x, u)
    places = torch.arange(EDGE)
    for row, (across, down) in enumerate(((0, 0), (4, 0), (-2, -4))):
        columns, lines = (places + across).clamp(0, EDGE - 1), (places + down).clamp(0, EDGE - 1)
        torch.testing.assert_close(seen[row], x[row][lines][:, columns], atol=1e-5, rtol=0)


def test_bytes_are_read_as_shares_and_a_picture_can_be_climbed():
    raw = torch.randint(0, 256, (2, EDGE, EDGE, 3), dtype=torch.uint8)
    u = torch.rand(2, 4)
    torch.testing.assert_close(Crop()(raw, u), Crop()(raw.float() / 255, u))
    x = torch.rand(2, EDGE, EDGE, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: Shift(0.2)(x, u[:, :2].double())[:, ::5, ::5], x, fast_mode=True)


def test_refusals():
    for make in (lambda: Crop(0.0), lambda: Crop(1.5)):
        with pytest.raises(ConfigError, match="least area between 0 and 1"):
            make()
    with pytest.raises(ConfigError, match="reach between 0 and 1"):
        Shift(-0.1)
    with pytest.raises(ShapeError, match=r"pictures \[N, H, W, C\]"):
        Crop()(torch.rand(2, EDGE, EDGE), torch.rand(2, 4))
