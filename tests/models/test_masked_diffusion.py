"""Masked diffusion beside a table of three bits, whose conditionals are sums over it."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from worldformula.errors import ConfigError, ShapeError, SupportError
from worldformula.models.masked_diffusion import SYSTEM, Sizes, build, tiny

CELLS = list(itertools.product((0, 1, 2), repeat=3))
TABLE = torch.rand(27, generator=torch.Generator().manual_seed(0)).double().pow(2)
TABLE = TABLE / TABLE.sum()


def conditionals(seen):
    """p(x_i = c | visible) ``[3, 3]`` by summing the table."""
    fits = [all(s in (3, v) for s, v in zip(seen, cell, strict=True)) for cell in CELLS]
    mass = sum(float(p) for p, fit in zip(TABLE, fits, strict=True) if fit)
    held = [(float(p), cell) for p, fit, cell in zip(TABLE, fits, CELLS, strict=True) if fit]
    return [[sum(p for p, cell in held if cell[i] == c) / mass for c in range(3)] for i in range(3)]


class Exact(nn.Module):
    """The logits of the conditionals."""

    def __init__(self):
        super().__init__()
        self.known = {seen: conditionals(seen) for seen in itertools.product(range(4), repeat=3)}

    def forward(self, seen):
        rows = [self.known[tuple(row)] for row in seen.tolist()]
        return torch.tensor(rows).clamp_min(1e-30).log()


@pytest.fixture(scope="module")
def exact():
    return build(Sizes(3, 3, ()), Exact())


def test_with_the_conditionals_of_a_table_the_bound_is_its_log(exact):
    """Along every order the logs add up to log p(x), and their mean over what is named next does on average."""
    rows = torch.arange(27).repeat_interleave(400)
    found = exact.bound(1, seed=0, x=torch.tensor(CELLS)[rows]).view(27, 400)
    error = (found.mean(1) - TABLE.log()).abs() / (found.std(1) / 20)
    assert error.max() < 3.5
    assert found.std(1).max() > 0.1


def test_the_loss_is_that_bound_on_average(exact):
    rows = torch.tensor(CELLS)[torch.multinomial(TABLE, 60_000, replacement=True)]
    out = exact.loss(x=rows, seed=1)
    logits = Exact()(out.samples["tilde_x"])
    picked = torch.log_softmax(logits, -1).gather(-1, rows[..., None]).squeeze(-1)
    each = -(out.samples["w"] * picked).sum(-1)
    assert out.value.item() == pytest.approx(each.mean().item(), rel=1e-5)
    hidden = out.samples["tilde_x"] == 3
    assert torch.equal(out.samples["tilde_x"][~hidden], rows[~hidden])
    assert torch.allclose(out.samples["w"], hidden / out.samples["tau"])
    entropy = -float((TABLE * TABLE.log()).sum())
    assert abs(out.value.item() - entropy) < 3 * each.std().item() / math.sqrt(len(rows)) + 0.01  # τ from .001


@pytest.mark.parametrize("steps", [3, 1])
def test_draws_in_any_order_have_the_table_and_in_one_call_its_margins(exact, steps):
    n = 20_000
    x = exact.generate(n, seed=0, steps=steps)["x"]
    found = torch.bincount(x @ torch.tensor([9, 3, 1]), minlength=27).double() / n
    alone = torch.tensor(conditionals((3, 3, 3))).double()
    apart = torch.stack([alone[0, a] * alone[1, b] * alone[2, c] for a, b, c in CELLS])
    known = TABLE if steps == 3 else apart
    error = (found - known).abs() / (known * (1 - known) / n).sqrt()
    assert error.max() < 4
    assert (apart - TABLE).abs().max() > 0.02


def test_a_step_lowers_the_loss_and_code_is_the_interpreter():
    torch.manual_seed(0)
    model = SYSTEM.build(replace(tiny(), hidden=(32,)))
    rows = {"x": torch.randint(2, (32, 64))}
    model.loss.eval()
    noise = model.loss.noise(**rows)
    before = model.loss(**rows, noise=noise).value
    assert torch.allclose(before, model.loss.interpret(**rows, noise=noise).value)
    before.backward()
    torch.optim.SGD(model.loss.parameters(), lr=1e-3).step()
    assert model.loss(**rows, noise=noise).value < before
    assert model.given({"x": torch.zeros(2, 64)})["x"].dtype == torch.int64


@pytest.mark.parametrize("steps", [0, 65, 2.5])
def test_other_numbers_of_calls_are_refused(steps):
    with pytest.raises(ConfigError, match="between 1 and the 64"):
        build(tiny()).generate(2, steps=steps)


@pytest.mark.parametrize(("wrong", "got"), [(17, "17"), (-1, "-1"), (0.7, "0.7")])
def test_a_bound_of_what_is_no_class_is_refused(wrong, got):
    """K itself is what is hidden, and .7 would be 0."""
    model = build(Sizes(pixels=5, levels=17, hidden=(8,)))
    with pytest.raises(SupportError, match=f"from 0 to 16, got {got}"):
        model.bound(x=torch.full((3, 5), wrong))
    with pytest.raises(SupportError, match=f"from 0 to 16, got {got}"):
        model.given({"x": torch.full((3, 5), wrong)})


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 7])
def test_calls_that_divide_no_row_name_all_its_elements(steps):
    model = build(Sizes(pixels=7, levels=17, hidden=(8,)))
    x = model.generate(50, steps=steps, seed=0)["x"]
    assert x.shape == (50, 7)
    assert int(x.min()) >= 0
    assert int(x.max()) <= 16, "17 is what was never named"


def test_shades_of_grey_do_not_suit_it():
    """Cut to whole numbers they were zeros, and learnt."""
    model = build(Sizes(pixels=3, levels=2, hidden=(8,)))
    with pytest.raises(ShapeError, match=r"own\.npz does not suit this model.*got 0\.5"):
        model.rows({"x": np.full((4, 3), 0.5, dtype="float32")}, "own.npz")
    assert model.rows({"x": np.eye(3, dtype="float32")}, "own.npz")["x"].shape == (3, 3)
