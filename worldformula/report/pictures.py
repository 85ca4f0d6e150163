"""Still pictures of a static model: samples, reconstructions beside originals, traversals of its latents."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldformula.data import DataSet
from worldformula.errors import FormulaError, WorldformulaError
from worldformula.formula.factors.joint import Factor, Joint, as_uses
from worldformula.model import Model
from worldformula.report.rows import Columns, columns_of, lines_of
from worldformula.report.video import Frames, tile, upscale, webp

IMAGE = "x"  # the variable that a data set's `shape` speaks of; of modalities, those of its size are pictures too
COLUMNS, SAMPLE_ROWS, PAIRED_ROWS, TRAVERSED = 16, 6, 2, 8
REACH = 2.5  # standard deviations of the prior, to either side
EDGE = 44  # pixels of one picture on the page, at least
GAP = 2
POINTS = 1500
PAPER = 150  # grey between pictures: lighter than black, darker than white


@dataclass(frozen=True)
class Pictures:
    """What could be drawn of a model; the rest is None.

    Attributes:
        samples: WebP, means of the data given drawn latents.
        reconstructions: WebP, rows in pairs: test data above what the model makes of them.
        paired: how many pairs.
        traversals: WebP, a row per latent, a column per value.
        traversed: which latents those are, variable and place, the most used first.
        panels: WebP, what else the model shows of test rows, one in each column: `Model.panels`.
        captions: of the rows of ``panels``.
        points: of data in the plane: test rows and samples, ``[N, 2]`` each.
        columns: of a table: test rows and samples.
        lines: of a text, by what they are.
    """

    samples: bytes | None = None
    reconstructions: bytes | None = None
    paired: int = 0
    traversals: bytes | None = None
    traversed: tuple[tuple[str, int], ...] = ()
    panels: bytes | None = None
    captions: tuple[str, ...] = ()
    points: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
    columns: Columns | None = None
    lines: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def files(self) -> dict[str, bytes]:
        """The pictures by name."""
        every = {
            "samples": self.samples, "reconstructions": self.reconstructions, "traversals": self.traversals,
            "panels": self.panels,
        }  # fmt: skip
        return {name: data for name, data in every.items() if data is not None}


def draw(model: Model, data: DataSet, test: Mapping[str, Tensor], seed: int) -> Pictures:
    """Everything that can be drawn: a model that cannot generate, or has no encoder, has fewer pictures.

    Args:
        model: the model, in evaluation mode.
        data: says the shape of a row of ``x``, and its range of values.
        test: rows of the test data, as `Model.rows` gives them.
        seed: of all draws.
    """
    if data.columns or data.alphabet:
        points = _points(model, test, seed) if data.shape == (2,) and data.columns else None
        return Pictures(
            points=points, columns=columns_of(model, data, test, seed), lines=lines_of(model, data, test, seed)
        )
    if data.shape == (2,):
        return Pictures(points=_points(model, test, seed))
    shape = data.shape[-3:] if len(data.shape) >= 3 else (*data.shape, 1)
    images = [name for name, v in test.items() if name == IMAGE or v[0].numel() == math.prod(shape)]
    if len(shape) != 3 or shape[-1] not in (1, 3) or not images:
        return Pictures()
    image = IMAGE if IMAGE in images else images[0]
    canvas = _Canvas(image, shape, float(data.train[image].min()), float(data.train[image].max()))
    captions, panels = _panels(model, test, canvas, seed)
    if len(data.shape) > 3:  # a row is several pictures
        return Pictures(panels=panels, captions=captions)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        traversed, traversals = _traversals(model, test, canvas)
        reconstructions, paired = _reconstructions(model, test, canvas)
        samples = _samples(model, test, canvas, seed)
        return Pictures(samples, reconstructions, paired, traversals, traversed, panels, captions)


@dataclass(frozen=True)
class _Canvas:
    """From values of the data, those of ``image``, to one picture of many."""

    image: str
    shape: tuple[int, ...]
    low: float
    high: float

    def frames(self, values: Tensor) -> Frames:
        """``[N, H, W, C]`` uint8."""
        scaled = (values.detach().float().cpu() - self.low) / max(self.high - self.low, 1e-12)
        return (255 * scaled.clamp(0, 1)).round().to(torch.uint8).reshape(-1, *self.shape).numpy()

    def paint(self, frames: Frames, columns: int) -> bytes:
        """A WebP of the frames, row by row."""
        scale = max(1, round(EDGE / self.shape[1]))
        return webp(tile(upscale(frames, scale)[:, None], columns, GAP, PAPER))


def _samples(model: Model, test: Mapping[str, Tensor], canvas: _Canvas, seed: int) -> bytes | None:
    found = generated(model, test, COLUMNS * SAMPLE_ROWS, seed, canvas.image)
    return None if found is None else canvas.paint(canvas.frames(found), COLUMNS)


def generated(model: Model, test: Mapping[str, Tensor], n: int, seed: int, image: str = IMAGE) -> Tensor | None:
    """``n`` means of ``image``; conditions of the model, such as labels, are taken from the test data."""
    conditions = {k: v[:n].to(model.device) for k, v in test.items() if k != image}
    for given in ({}, {k: v for k, v in conditions.items() if k in model.inputs}):
        count = min([n, *(len(v) for v in given.values())])
        with contextlib.suppress(WorldformulaError, NotImplementedError):
            return model.generate(count, seed=seed, generator=None, mean=True, **given).get(image)
    return None


def _reconstructions(model: Model, test: Mapping[str, Tensor], canvas: _Canvas) -> tuple[bytes | None, int]:
    """The picture, and its pairs of rows."""
    rows = {k: v[: COLUMNS * PAIRED_ROWS].to(model.device) for k, v in test.items()}
    with contextlib.suppress(WorldformulaError, NotImplementedError):
        inputs = model.given(rows)
        made = canvas.frames(model.reconstruct(**inputs)[canvas.image])
        given = canvas.frames(inputs.get(canvas.image, rows[canvas.image]))  # a model may read half of the rows
        columns = min(COLUMNS, len(given))
        pairs = zip(_cut(given, columns), _cut(made, columns), strict=True)
        painted = canvas.paint(np.concatenate([row for pair in pairs for row in pair]), columns)
        return painted, len(given) // columns
    return None, 0


def _cut(frames: Frames, columns: int) -> Iterator[Frames]:
    """Whole rows of pictures."""
    for first in range(0, len(frames) - len(frames) % columns, columns):
        yield frames[first : first + columns]


def _traversals(
    model: Model, test: Mapping[str, Tensor], canvas: _Canvas
) -> tuple[tuple[tuple[str, int], ...], bytes | None]:
    """Each of the most used latents of one test row from −2.5 to 2.5, the others as they are encoded.

    A latent is used as much as its mode varies over the test data.
    """
    try:
        inputs = model.given({k: v.to(model.device) for k, v in test.items()})
        found = model.latents(deterministic=True, seed=None, **inputs)
        moving = {k: v for k, v in found.items() if k not in _discrete(model)}
        name, codes = next((k, v) for k, v in moving.items() if v.ndim == 2 and v.is_floating_point())
        used = tuple(codes.var(0).argsort(descending=True)[:TRAVERSED].tolist())
        steps = torch.linspace(-REACH, REACH, COLUMNS, device=codes.device)
        base = {k: v[:1].expand(COLUMNS, *v.shape[1:]) for k, v in {**inputs, **found}.items()}
        rows = []
        for latent in used:
            moved = base[name].clone()
            moved[:, latent] = steps
            rows.append(canvas.frames(model.render(**{**base, name: moved})[canvas.image]))
        return tuple((name, latent) for latent in used), canvas.paint(np.concatenate(rows), COLUMNS)
    except (WorldformulaError, NotImplementedError, StopIteration, KeyError):  # no encoder, or latents of another kind
        return (), None


def _panels(
    model: Model, test: Mapping[str, Tensor], canvas: _Canvas, seed: int
) -> tuple[tuple[str, ...], bytes | None]:
    """What the model shows of a few test rows, as far as it is pictures of this size."""
    try:
        shown = model.panels({k: v[:COLUMNS].to(model.device) for k, v in test.items()}, seed=seed)
    except (WorldformulaError, KeyError):  # rows of another form
        return (), None
    found = {k: canvas.frames(v) for k, v in shown.items() if v[0].numel() == math.prod(canvas.shape)}
    return tuple(found), canvas.paint(np.concatenate([*found.values()]), COLUMNS) if found else None


def _discrete(model: Model) -> set[str]:
    """Latents that are classes, bits or counts: there is nothing between their values to go through."""
    encode = getattr(model, "encode", None)
    uses = as_uses(encode) if isinstance(encode, Factor | Joint) else ()
    return {
        v.key for use in uses for v in use.factor.variables if "score" in getattr(use.factor.family, "gradients", ())
    }


def _points(
    model: Model, test: Mapping[str, Tensor], seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Test rows and as many draws."""
    n = min(POINTS, len(test[IMAGE]))
    try:
        drawn = model.generate(n, seed=seed)[IMAGE]
    except (FormulaError, NotImplementedError):
        return None
    return test[IMAGE][:n].cpu().float().numpy(), drawn.cpu().float().numpy()
