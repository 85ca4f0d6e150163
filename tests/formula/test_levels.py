"""Data that have levels: what a call gives is held against them where no density is taken of it."""

import pytest
import torch
from torch import nn

from tests.formula.defects.both import PATHS, run
from worldformula import Data, Deterministic, E, Sum, Value, norm2
from worldformula.errors import FormulaError, SupportError
from worldformula.models import ddpm, flow, flow_matching, ldm, shortcut, transformer_ar


def regression(**options):
    """‖x/4‖² of data x, whose density nobody asks for."""
    scaled = Deterministic("y = f(x)", lambda x: x / 4, shape=3)
    return E(Data("p_data(x)", shape=3, **options) * scaled, norm2(Value("y"))).mean()


@PATHS
@pytest.mark.parametrize(("value", "got"), [(5, "5"), (-1, "-1"), (255, "255"), (0.5, "0.5")])
def test_other_numbers_than_levels_are_refused_at_the_first_call(value, got, path):
    with pytest.raises(SupportError, match=rf"p_data\(x\): expected a value of whole numbers from 0 to 4, got {got} "):
        run(regression(levels=5), path, x=torch.full((2, 3), value))


def test_tokens_beyond_the_table_of_a_network_are_told_before_it_is_read():
    """A network would end in an index that is out of range."""
    model = transformer_ar.build(transformer_ar.Sizes(length=4, levels=5, width=8, layers=1, heads=2))
    with pytest.raises(SupportError) as caught:
        model.loss(x=torch.tensor([[0, 4, 5, 1]]))
    assert str(caught.value) == (
        "p_data(x): expected a value of whole numbers from 0 to 4, got 5 in the tensor\nsay how many levels the data "
        "have: levels= of p_data(x), which is a size of a model of the catalogue, --set levels=256; or number their "
        "values from 0 to 4"
    )
    assert model.loss(x=torch.tensor([[0, 4, 3, 1]])).value.isfinite()
    text = ldm.build(ldm.Sizes(6, 3, (16,), deviation=0.1, weight=0.02, steps=8, units=16, blocks=1))
    with pytest.raises(SupportError, match=r"p_data\(c\): expected a value of whole numbers from 0 to \d+, got 9999"):
        text.loss(x=torch.rand(2, 6), c=torch.full((2, text.sizes.length), 9999))


@PATHS
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_levels_pass_in_every_type(dtype, path):
    x = torch.tensor([[0, 4, 2], [1, 3, 0]])
    found = run(regression(levels=5), path, x=x.to(dtype)).value
    assert found.item() == pytest.approx((x.double() / 4).square().sum(-1).mean().item())


def test_data_without_levels_may_be_anything_and_another_name_keeps_them():
    assert regression()(x=torch.full((2, 3), -7.5)).value.item() == pytest.approx(3 * (7.5 / 4) ** 2)
    renamed = Data("p_data(x)", shape=3, levels=5).rename(x="x'")
    loss = E(renamed * Deterministic("y = f(x')", nn.Identity(), shape=3), norm2(Value("y"))).mean()
    with pytest.raises(SupportError, match="from 0 to 4, got 9"):
        loss(x_prime=torch.full((2, 3), 9.0))


@PATHS
def test_steps_that_a_sum_leaves_out_hold_any_numbers(path):
    def loss():
        return Sum("t", E(Data("p_data(x_t)", shape=3, levels=5), norm2(Value("x_t"))), mask="valid").mean()

    x, valid = torch.full((1, 3, 3), 2.0), torch.tensor([[True, True, False]])
    x[0, 2] = -1
    assert run(loss(), path, x=x, valid=valid).value.item() == 2 * 3 * 4
    with pytest.raises(SupportError, match="from 0 to 4, got -1 "):
        run(loss(), path, x=x, valid=valid.flip(1))


@pytest.mark.parametrize("levels", [0, -2, 2.5, True, "many"])
def test_what_are_no_levels(levels):
    with pytest.raises(FormulaError, match="expected levels= as a whole number of at least 1"):
        Data("p_data(x)", shape=3, levels=levels)


@pytest.mark.parametrize("model", [ddpm, flow, flow_matching, shortcut], ids=lambda m: m.__name__.rpartition(".")[2])
@pytest.mark.parametrize(("value", "got"), [(17, "17"), (255, "255"), (0.5, "0.5"), (-3, "-3")])
def test_models_of_levels_refuse_other_numbers_in_training_too(model, value, got):
    """A loss by regression would go on with them: 255 of 17 levels is x_1 = 29."""
    x = torch.zeros(4, 64)
    x[2, 7] = value
    with pytest.raises(SupportError, match=f"from 0 to 16, got {got} "):
        model.build(model.tiny()).loss(x=x, seed=0)
