"""Masked networks: which element reads which, by automatic differentiation, and what a bad call is told."""

import pytest
import torch

from worldformula.errors import ConfigError, ShapeError
from worldformula.nets.masked import CausalTransformer, GatedPixelCNN, MaskedMLP


def dependence(net, x, *context):
    """Whether output element i changes with input element j, ``[D, D]``; x is one row."""
    D = x.numel()

    def sums(row):
        return net(row, *context).reshape(D, -1).square().sum(-1)

    return torch.autograd.functional.jacobian(sums, x).reshape(D, D).abs()


@pytest.mark.parametrize("context", [0, 3])
@pytest.mark.parametrize("net", ["mlp", "pixels"])
def test_nothing_reads_itself_or_what_follows_and_everything_else_is_read(net, context):
    torch.manual_seed(0)
    given = (torch.randn(1, 3).double(),) if context else ()
    if net == "mlp":
        found, x = MaskedMLP(16, 3, (500, 500), context=context, classes=True), torch.randn(1, 16).double()
    else:
        found, x = GatedPixelCNN(3, 8, blocks=2, context=context), torch.randn(1, 4, 4).double()
    reads = dependence(found.double(), x, *given)
    assert reads.triu().max() == 0
    assert (reads.tril(-1) > 0).sum() == 16 * 15 / 2  # 2 blocks of 3 × 3 reach all of 4 × 4: no blind spot


def test_a_transformer_reads_what_came_before():
    torch.manual_seed(0)
    net = CausalTransformer(6, 5, width=16, layers=2, heads=2, context=2).eval()
    x, y = torch.randint(5, (1, 6)), torch.randn(1, 2)
    before = net(x, y)
    for i in range(6):
        other = x.clone()
        other[0, i] = (other[0, i] + 1) % 5
        changed = (net(other, y) - before).abs().amax((0, 2))
        assert (changed[: i + 1] == 0).all()
        assert (changed[i + 1 :] > 0).all()
    assert ((net(x, y + 1) - before).abs().amax((0, 2)) > 0).all(), "the context reaches every element"


def test_a_masked_mlp_of_classes_is_causal_in_blocks():
    net = MaskedMLP(4, 3, (64,), inputs=3, classes=True).double()
    jacobian = torch.autograd.functional.jacobian(net, torch.randn(1, 12).double()).reshape(4, 3, 4, 3)
    assert jacobian.abs().amax((1, 3)).triu().max() == 0


def test_the_numbers_of_one_parameter_stand_side_by_side():
    jacobian = torch.autograd.functional.jacobian(MaskedMLP(4, 3, (200,)).double(), torch.randn(1, 4).double())
    assert jacobian.reshape(3, 4, 4).abs().amax(0).triu().max() == 0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MaskedMLP(1), "2 features or more"),
        (lambda: CausalTransformer(4, 2, width=10, heads=4), "multiple of heads"),
    ],
)
def test_sizes_that_cannot_be_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_a_missing_context_and_a_wrong_length_are_told():
    with pytest.raises(ShapeError, match="context of 2 numbers, got 0"):
        MaskedMLP(4, context=2)(torch.zeros(1, 4))
    with pytest.raises(ShapeError, match="rows of 4 elements, got 5"):
        CausalTransformer(4, 2, width=8, heads=2)(torch.zeros(1, 5))
