"""The page of a fit on a table and on a text: columns as histograms, lines beside those of the model."""

from __future__ import annotations

import math
import re
from collections import Counter
from html import unescape

import numpy as np
import pytest
import torch

from worldformula.cli.main import main
from worldformula.data import load
from worldformula.data.own import Reading
from worldformula.model.run import open_model
from worldformula.report.rows import BINS, HEIGHT, histogram, said


def heights(svg):
    """Of the bars, by their left edges."""
    return {float(x): float(h) for x, h in re.findall(r'class="bin" x="([\d.]+)"[^>]*height="([\d.]+)"', svg)}


def test_a_histogram_counts_every_row_once():
    """24 bins of 10 numbers each, but for the last, which has 20: it is as high as the frame, the others half."""
    data = np.repeat(np.arange(BINS + 1), 10).astype(np.float32)  # the last edge belongs to the last bin
    found = heights(histogram("<a>", data, None))
    assert len(found) == BINS
    assert sorted(found.values()) == [HEIGHT / 2] * (BINS - 1) + [HEIGHT]
    assert "&lt;a&gt;" in histogram("<a>", data, None)


def test_draws_beyond_the_data_lie_at_the_edges_and_nan_nowhere():
    """Of four draws one below, one above, one in the second bin, one no number; data fill the outer bins."""
    data = np.array([0.0] * 2 + [24.0] * 2, np.float32)
    svg = histogram("a", data, np.array([-1e9, 1e9, 1.5, np.nan], np.float32))
    points = [tuple(map(float, p.split(","))) for p in re.search(r'points="([^"]+)"', svg).group(1).split()]
    up = [HEIGHT - y for _, y in points[1:-1:2]]
    assert up == [HEIGHT / 2, HEIGHT / 2, *[0.0] * (BINS - 3), HEIGHT / 2]
    assert histogram("a", np.ones(3, np.float32), np.ones(2, np.float32)).count("<rect") == 1, "a constant column"


def test_numbers_are_characters_again():
    assert said(torch.tensor([[0, 1, 2], [2.4, 9.0, -3.0]]), "\nab") == ("↵ab", "bb↵")


def test_the_page_of_a_table_shows_its_columns(tmp_path, capsys):
    rng = np.random.default_rng(0)
    heights = rng.normal(170, 9, size=60)
    rows = [f"{a:.3f},{k}" for a, k in zip(heights, rng.choice(["u", "v"], 60), strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["height,kind", *rows]))
    command = ["fit", "vae", "--data", str(tmp_path / "t.csv"), "--steps", "2", "--batch", "8", "--quiet"]
    assert main([*command, "--set", "hidden=8", "--set", "latent=2", "--run", str(tmp_path / "run")]) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert [name for name in ("height", "kind=u", "kind=v") if f'aria-label="{name}"' in page] == [
        "height", "kind=u", "kind=v",
    ]  # fmt: skip
    assert page.count('class="line c0" points="0,') == 3, "the model draws too"
    assert "in 12 rows of test data, filled, and in 12 draws of the model" in page
    seen = load(str(tmp_path / "t.csv")).test["x"]
    first = page.split('aria-label="height"')[1]
    shown = re.findall(r'text-anchor="(?:start|end)">([^<]+)<', first)[:2]
    assert all(150 < float(v) < 200 for v in shown), "in the units of the file"
    assert abs(seen[:, 0]).max() < 4, "while the model reads numbers around 0"
    assert capsys.readouterr().out.count("\n") == 3


@pytest.mark.parametrize("scale", ["standard", "unit", "none"])
def test_rows_of_a_table_come_back_in_its_units(tmp_path, scale):
    rng = np.random.default_rng(1)
    numbers = np.stack([rng.normal(170, 9, 40), rng.exponential(1e-3, 40), np.full(40, 7.0)], 1).astype(np.float32)
    rows = [",".join([*map(repr, map(float, row)), "uv"[i % 2]]) for i, row in enumerate(numbers)]
    (tmp_path / "t.csv").write_text("\n".join(["height,rate,same,kind", *rows]))
    found = load(str(tmp_path / "t.csv"), Reading(scale=scale))
    back = np.concatenate([found.unscaled(part["x"]) for part in (found.train, found.test)])
    assert set(np.unique(back[:, 3:])) == {0.0, 1.0}
    order = np.lexsort(back[:, :2].T), np.lexsort(numbers[:, :2].T)
    np.testing.assert_allclose(back[order[0], :3], numbers[order[1]], rtol=1e-5)


def test_the_page_of_a_text_shows_lines(tmp_path):
    text = "to be or not\nto be & so on\n" * 8
    (tmp_path / "t.txt").write_text(text)
    sizes = [f"--set={key}" for key in ("data.length=12", "width=8", "layers=1", "heads=2")]
    command = ["fit", "transformer_ar", "--data", str(tmp_path / "t.txt"), "--steps", "2", "--batch", "4", "--quiet"]
    assert main([*command, *sizes, "--run", str(tmp_path / "run")]) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    parts = dict(re.findall(r"<h4>([^<]+)</h4><pre>([^<]+)</pre>", page))
    assert list(parts) == ["test data", "drawn"]
    real, drawn = (unescape(part).split("\n") for part in parts.values())
    assert all(line.replace("↵", "\n") in text for line in real)
    assert {len(line) for line in drawn} == {12}
    assert set("".join(drawn)) <= set(text.replace("\n", "↵"))
    run = open_model(tmp_path / "run")
    seen, held = (Counter(part["x"].flatten().tolist()) for part in (run.data.train, run.data.test))
    whole, letters = sum(seen.values()) + 0.1 * len(run.data.alphabet), sum(held.values())
    floor = -sum(n * math.log2((seen[k] + 0.1) / whole) for k, n in held.items()) / letters
    bits = run.tested()["test/loss"] / (12 * math.log(2))
    assert f"{bits:.4g} on {len(run.test_rows['x'])} rows of test data; {floor:.4g} by frequency" in page
