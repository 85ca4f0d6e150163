"""Anti-aliased rods, discs and boxes on small pictures, in NumPy alone.

Coordinates run from -1 to 1 over the picture, x to the right and y *up*; row 0 of the array is the top. Every shape
returns its *coverage*: the part of each pixel, between 0 and 1, that the shape covers, approximated by the signed
distance of the pixel's centre from the outline. All shapes are batched: positions ``[N]`` give coverages ``[N, S·S]``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldformula.errors import ConfigError

Frames = NDArray[np.uint8]
Floats = NDArray[np.float32]
Colour = tuple[int, int, int]

SMALLEST, LARGEST = 8, 512
CHUNK = 16  # frames drawn at once by in_chunks: their float buffers then stay in the processor's cache


class Canvas:
    """A square picture of ``size`` × ``size`` pixels over a background colour or picture.

    >>> canvas = Canvas(32, background=(0, 0, 0))
    >>> canvas.frames([(canvas.disc([0.0], [0.5], 0.2), (255, 0, 0))]).shape
    (1, 32, 32, 3)
    """

    def __init__(self, size: int, background: Colour | Frames) -> None:
        if not isinstance(size, int) or not SMALLEST <= size <= LARGEST:
            raise ConfigError(f"expected a picture size between {SMALLEST} and {LARGEST} pixels, got {size!r}")
        self.size = size
        self.pixel = 2.0 / size
        centres = (np.arange(size, dtype=np.float32) + 0.5) * self.pixel - 1.0
        self.x: Floats = np.tile(centres, size)
        self.y: Floats = np.repeat(-centres, size)
        plain = np.asarray(background, np.float32).reshape(-1, 3)
        self.background: Floats = np.broadcast_to(plain, (size * size, 3)).T.copy()  # planes: the fast order in NumPy

    def _coverage(self, inside: Floats) -> Floats:
        """Coverage from the signed distance to the outline (positive inside)."""
        return np.clip(inside * np.float32(1.0 / self.pixel) + np.float32(0.5), 0.0, 1.0)

    def disc(self, x: ArrayLike, y: ArrayLike, radius: float) -> Floats:
        """A filled circle around (x, y)."""
        dx, dy = self.x - _column(x), self.y - _column(y)
        return self._coverage(np.float32(radius) - np.sqrt(dx * dx + dy * dy))

    def rod(self, x0: ArrayLike, y0: ArrayLike, x1: ArrayLike, y1: ArrayLike, radius: float) -> Floats:
        """A straight rod with round ends from (x0, y0) to (x1, y1); ``radius`` is half of its width."""
        x0, y0 = _column(x0), _column(y0)
        dx, dy = _column(x1) - x0, _column(y1) - y0
        px, py = self.x - x0, self.y - y0
        along = np.clip((px * dx + py * dy) / np.maximum(dx * dx + dy * dy, np.float32(1e-12)), 0.0, 1.0)
        px, py = px - along * dx, py - along * dy
        return self._coverage(np.float32(radius) - np.sqrt(px * px + py * py))

    def box(self, x: ArrayLike, y: ArrayLike, half_width: float, half_height: float) -> Floats:
        """An upright rectangle around (x, y)."""
        across = self._coverage(np.float32(half_width) - np.abs(self.x - _column(x)))
        return across * self._coverage(np.float32(half_height) - np.abs(self.y - _column(y)))

    def frames(self, layers: list[tuple[Floats, Colour]]) -> Frames:
        """Paint the layers over the background, first layer lowest.

        Returns:
            uint8 ``[N, S, S, 3]``.
        """
        painted = np.repeat(self.background[None] + np.float32(0.5), max(len(c) for c, _ in layers), axis=0)
        for coverage, colour in layers:
            # The 0.5 rounds when the float is cut off; it is part of every colour, so it survives the blending.
            painted += coverage[:, None] * (np.array(colour, np.float32)[:, None] + np.float32(0.5) - painted)
        planes = painted.astype(np.uint8).reshape(-1, 3, self.size, self.size)
        return np.ascontiguousarray(planes.transpose(0, 2, 3, 1))


def _column(values: ArrayLike) -> Floats:
    return np.asarray(values, np.float32).reshape(-1, 1)


def in_chunks(draw: Callable[[NDArray[np.floating]], Frames], states: ArrayLike) -> Frames:
    """``draw`` applied to ``CHUNK`` states at a time: ``[N, D]`` states give ``[N, S, S, 3]`` frames."""
    rows = np.asarray(states, np.float64)
    return np.concatenate([draw(rows[i : i + CHUNK]) for i in range(0, len(rows), CHUNK)])
