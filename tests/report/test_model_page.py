"""The page of a static model: the right pixels in the right places, for whatever the model can do."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.report.test_report import EVIL, parsed
from worldformula import KL, Bernoulli, E, Expression, Model, Normal, OneHot, catalogue, log
from worldformula.data import DataSet
from worldformula.formula.factors.joint import Factor
from worldformula.report.evidence import written
from worldformula.report.model import Told, page, scatter
from worldformula.report.pictures import COLUMNS, EDGE, GAP, PAIRED_ROWS, SAMPLE_ROWS, Pictures, draw

SHAPE = (4, 4)
TEST = {"x": (torch.arange(48 * 16).reshape(48, 16) % 5 == 0).float()}
DATA = DataSet("dots", {"x": np.eye(16, dtype=np.float32)}, {"x": TEST["x"].numpy()}, SHAPE, "dots")


class Threshold(nn.Module):
    """The code is the first pixel; the head is its mean and a scale."""

    def forward(self, x):
        return torch.stack((x[:, 0], x[:, 1], torch.zeros(len(x)), torch.zeros(len(x))), -1)


class Paint(nn.Module):
    """Logits of a picture whose upper half shows z₁ and whose lower half shows z₂."""

    def forward(self, z):
        return 20.0 * z.repeat_interleave(8, -1)


@dataclass(frozen=True, eq=False)
class Toy(Model):
    prior: Factor
    encode: Factor
    decode: Factor
    loss: Expression


@pytest.fixture
def model() -> Toy:
    prior = Normal("p(z)", shape=2)
    encode = Normal("q(z|x)", Threshold(), shape=2)
    decode = Bernoulli("p(x|z)", Paint(), shape=16)
    return Toy(prior, encode, decode, (KL(encode, prior) - E(encode, log(decode))).mean())


def cells(data: bytes) -> np.ndarray:
    """Every picture of a sheet by row and column, one value per pixel: ``[rows, columns, 4, 4]``."""
    sheet = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
    edge = 4 * round(EDGE / 4)
    rows, columns = ((n + GAP) // (edge + GAP) for n in sheet.shape)
    cut = [
        [
            sheet[y * (edge + GAP) :, x * (edge + GAP) :][:edge, :edge][5 :: edge // 4, 5 :: edge // 4]
            for x in range(columns)
        ]
        for y in range(rows)
    ]
    return np.array(cut)


def test_reconstructions_stand_below_their_originals(model):
    found = cells(draw(model, DATA, TEST, seed=0).reconstructions)
    assert found.shape == (2 * PAIRED_ROWS, COLUMNS, *SHAPE)
    for pair in range(PAIRED_ROWS):
        rows = TEST["x"][pair * COLUMNS : (pair + 1) * COLUMNS].reshape(COLUMNS, *SHAPE)
        assert np.array_equal(found[2 * pair], (255 * rows).numpy().astype(np.uint8))
        made = torch.sigmoid(20.0 * torch.stack((rows[:, 0, 0], rows[:, 0, 1]), -1)).repeat_interleave(8, -1)
        assert np.allclose(found[2 * pair + 1].reshape(COLUMNS, 16), 255 * made.numpy(), atol=1)


def test_samples_are_means_of_draws_from_the_prior(model):
    pictures = draw(model, DATA, TEST, seed=3)
    found = cells(pictures.samples)
    assert found.shape == (SAMPLE_ROWS, COLUMNS, *SHAPE)
    drawn = model.generate(SAMPLE_ROWS * COLUMNS, seed=3, mean=True)["x"]
    assert np.allclose(found.reshape(-1, 16), 255 * drawn.numpy(), atol=1)
    assert pictures.samples == draw(model, DATA, TEST, seed=3).samples != draw(model, DATA, TEST, seed=4).samples


def test_a_traversal_moves_one_latent_and_leaves_the_others(model):
    pictures = draw(model, DATA, TEST, seed=0)
    assert sorted(pictures.traversed) == [("z", 0), ("z", 1)]
    found = cells(pictures.traversals).astype(int)
    for row, (_, latent) in zip(found, pictures.traversed, strict=True):
        halves = row.reshape(COLUMNS, 2, 8)
        assert halves[0, latent].max() == 0
        assert halves[-1, latent].min() == 255
        assert (halves[:, 1 - latent] == halves[0, 1 - latent]).all()


def test_classes_are_not_traversed(model):
    classify, label = OneHot("q(y|x)", nn.Linear(16, 2), shape=2), OneHot("p(y)", shape=2)
    decode = Bernoulli("p(x|y,z)", nn.Bilinear(2, 2, 16), shape=16)
    loss = KL(model.encode, model.prior) - E(model.encode, log(decode)) - log(classify)
    labelled = Toy(label * model.prior, classify * model.encode, decode, loss.mean())
    assert next(iter(labelled.latents(**TEST))) == "y"
    assert {name for name, _ in draw(labelled, DATA, TEST, seed=0).traversed} == {"z"}


def test_modalities_are_shown_given_each_other():
    system = catalogue.find("mvae")
    many = system.build(system.sizes("tiny"))
    test = {"a": torch.rand(20, 64), "b": torch.rand(20, 64), "c": torch.rand(20, 24)}
    data = DataSet("three", {k: np.eye(v.shape[1], dtype=np.float32)[:20] for k, v in test.items()},
                   {k: v.numpy() for k, v in test.items()}, (8, 8), "three")  # fmt: skip
    pictures = draw(many, data, test, seed=0)
    assert pictures.captions == (
        "a", "a given a", "a given b", "a given c", "a given a, b, c",
        "b", "b given a", "b given b", "b given c", "b given a, b, c",
    )  # fmt: skip
    sheet = np.asarray(Image.open(io.BytesIO(pictures.panels)).convert("L"))
    scale = round(EDGE / 8)
    cell = 8 * scale + GAP

    def row(i):
        cut = [sheet[i * cell :, j * cell :][: 8 * scale, : 8 * scale] for j in range(COLUMNS)]
        return np.stack(cut)[:, scale // 2 :: scale, scale // 2 :: scale].reshape(COLUMNS, 64)

    assert np.allclose(row(5), 255 * test["b"][:COLUMNS].numpy(), atol=1)
    made = many.predict({"c": test["c"][:COLUMNS]}, "b", mean=True, seed=0)["b"]
    assert np.allclose(row(8), 255 * made.numpy(), atol=1)
    assert "<span>b given c</span>" in page(told(pictures))


def test_rows_of_several_pictures_are_shown_as_the_model_wants():
    model, views = catalogue.find("gqn"), torch.rand(20, 3, 16, 16, 3)
    test = {"x": views, "v": torch.randn(20, 3, 7)}
    rows = {k: v.numpy() for k, v in test.items()}
    data = DataSet("rooms", rows, rows, (3, 16, 16, 3), "rooms")
    pictures = draw(model.build(model.sizes("tiny")), data, test, seed=0)
    assert pictures.captions == ("a view", "asked for", "given 0", "given 1", "given 2")
    sheet = np.asarray(Image.open(io.BytesIO(pictures.panels)))
    scale = round(EDGE / 16)
    second = sheet[16 * scale + GAP :][: 16 * scale, : 16 * scale][scale // 2 :: scale, scale // 2 :: scale]
    assert np.allclose(second, 255 * views[0, -1].numpy(), atol=1)
    assert pictures.samples is None


def test_a_loss_whose_coefficients_change_says_so():
    assert "may rise" not in page(told(Pictures()))
    assert "It may rise, since beta changed on the way." in page(replace(told(Pictures()), scheduled=("beta",)))


def test_values_are_scaled_by_the_range_of_the_training_data(model):
    wide = replace(DATA, train={"x": np.array([[-1.0] * 16, [3.0] * 16], np.float32)})
    found = cells(draw(model, wide, TEST, seed=0).reconstructions)
    assert set(np.unique(found[0])) == {round(255 / 4), round(255 / 2)}


def test_points_in_the_plane_are_drawn_as_points():
    prior = Normal("p(z)", shape=2)
    decode = Normal("p(x|z)", nn.Linear(2, 2), shape=2, scale=1.0)
    toy = Toy(prior, prior, decode, -E(prior, log(decode)).mean())
    points = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    data = DataSet("points", {"x": points}, {"x": points}, (2,), "points")
    pictures = draw(toy, data, {"x": torch.from_numpy(points)}, seed=0)
    assert np.array_equal(pictures.points[0], points)
    assert pictures.points[1].shape == (30, 2)
    html = page(told(pictures))
    assert html.count('class="dot"') > 40
    assert "Samples" not in html


def test_a_point_lies_where_it_belongs():
    frame = np.array([[-1.0, -1.0], [1.0, 1.0]], np.float32)
    svg = scatter(np.array([[0.0, 0.0], [0.0, 0.5], [9.0, 0.0], [np.nan, 0.0]], np.float32), "p", frame)
    at = [tuple(map(float, p)) for p in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert len(at) == 2, "what lies outside, or nowhere, is left out"
    assert at[0] == (210.0, 210.0)
    assert at[1][1] < at[0][1], "up is up"


def test_data_of_other_shapes_has_no_pictures(model):
    assert draw(model, replace(DATA, shape=(2, 8, 8)), TEST, seed=0) == Pictures()


def test_a_model_that_only_generates_shows_samples_alone():
    @dataclass(frozen=True, eq=False)
    class Blind(Model):
        loss: Expression

        def generate(self, n, *, seed=None, generator=None, mean=False, **given):
            return {"x": torch.ones(n, 16)}

    pictures = draw(Blind(log(Normal("p(x)", shape=16)).mean()), DATA, TEST, seed=0)
    assert set(pictures.files()) == {"samples"}
    html = page(told(pictures))
    assert "Reconstructions" not in html
    assert html.count("image/webp") == 1


def told(pictures: Pictures, **changes) -> Told:
    loss = log(Normal("p(x)", shape=16)).mean()
    metrics = [{"step": 5.0, "loss": 2.0, "loss/KL": 1.0}, {"step": 5.0, "test/loss": 1.25}]
    values = {
        "name": "run", "title": "toy", "config": {"data": "dots"}, "metrics": metrics, "facts": (("updates", "5"),),
        "formulas": {"The loss": written(loss)}, "pictures": pictures, "machine": {"device": "cpu"},
    }  # fmt: skip
    return Told(**(values | changes))


def test_the_page_shows_the_test_value_and_is_safe(model):
    html = page(told(draw(model, DATA, TEST, seed=0)))
    parsed(html)
    assert '<div class="big">1.25</div><p class="what">loss on test data</p>' in html
    assert "<script" not in html
    evil = {"name": EVIL, "title": EVIL, "config": {EVIL: EVIL}, "facts": ((EVIL, EVIL),), "machine": {EVIL: EVIL}}
    hostile = page(told(Pictures(), **evil, metrics=[{"step": 1.0, "loss": 1.0, EVIL: 2.0}]))
    assert "<img src=x" not in hostile


def test_an_untested_run_has_a_page():
    assert "not measured yet" in page(told(Pictures(), metrics=[]))
