"""Contrasts of energies: ratio matching of bits against loops and the law of the data, and a margin."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from tests.formula.defects.both import PATHS, run
from tests.formula.models import Join
from worldformula import Deterministic, E, Gibbs, ScoreMatching, Value, maximum
from worldformula.errors import FormulaError, SupportError


class Table(nn.Module):
    """An energy for each of eight triples of bits, and of what is given beside them one more."""

    def __init__(self):
        super().__init__()
        self.e = nn.Parameter(torch.tensor([0.3, -1.0, 2.0, 0.0, 1.1, -0.4, 0.7, -2.0]))

    def forward(self, x, y=None):
        at = (x.flatten(1) @ x.new_tensor([4.0, 2.0, 1.0])).round().long()
        return self.e[at] if y is None else self.e[at] * (1 + y[:, 0])


@pytest.mark.parametrize("shape", [3, (3, 1)])
def test_ratio_matching_by_loops_over_bits(shape):
    net = Table()
    e = net.e.detach().double().numpy()
    bits = np.array(list(itertools.product((0, 1), repeat=3)))
    x = torch.from_numpy(bits).float().reshape(8, *((shape,) if isinstance(shape, int) else shape))
    right = []
    for row in bits:
        flips = [np.where(np.arange(3) == d, 1 - row, row) for d in range(3)]
        ratios = [np.exp(-e[row @ [4, 2, 1]]) / np.exp(-e[flip @ [4, 2, 1]]) for flip in flips]
        right.append(sum((1 / (1 + u)) ** 2 for u in ratios))
    found = ScoreMatching(Gibbs("p(x)", net, shape=shape), "ratio")(x=x).value
    np.testing.assert_allclose(found.detach(), right, rtol=1e-5)


def test_ratio_matching_is_least_at_the_law_of_the_data():
    """Of a known law of three bits, with all rows weighed by it: the slope is none there, whatever the constant is."""
    law = torch.tensor([0.05, 0.2, 0.1, 0.15, 0.02, 0.18, 0.25, 0.05])
    net, x = Table(), torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)))
    loss = ScoreMatching(Gibbs("p(x)", net, shape=3), "ratio")
    with torch.no_grad():
        net.e.copy_(3 - law.log())
    (slope,) = torch.autograd.grad((law * loss(x=x).value).sum(), net.e)
    assert slope.abs().max() < 1e-6
    best = (law * loss(x=x).value).sum().item()
    for i in range(8):
        with torch.no_grad():
            net.e.copy_(3 - law.log() + 0.3 * torch.eye(8)[i])
        assert (law * loss(x=x).value).sum().item() > best + 1e-4


def test_ratio_matching_reads_conditions_and_needs_an_energy():
    net, y = Table(), torch.tensor([[0.5], [2.0]])
    x = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    together = ScoreMatching(Gibbs("p(x|y)", net, shape=3), "ratio")(x=x, y=y).value
    for i, factor in enumerate((1.5, 3.0)):
        alone = Table()
        with torch.no_grad():
            alone.e.mul_(factor)
        one = ScoreMatching(Gibbs("p(x)", alone, shape=3), "ratio")(x=x[i : i + 1]).value
        torch.testing.assert_close(together[i : i + 1], one)
    with pytest.raises(FormulaError, match="of bits there is no slope.*expected a Gibbs factor"):
        ScoreMatching(Deterministic("s = s(x)", Join(3, 3), shape=3), "ratio")


def test_a_margin_between_energies_is_a_maximum():
    """Hinge of LeCun et al. 2006, eq. 11: [m + E(y) − E(ȳ)]₊, of a pair that belongs together and one that does not."""
    close = Deterministic("d = D(x,y)", lambda x, y: (x - y).square().sum(-1), shape=())
    away = Deterministic("f = D(x,w)", lambda x, y: (x - y).square().sum(-1), shape=())
    loss = E(close * away, maximum(1.0 + Value("d", shape=()) - Value("f", shape=()), 0)).mean()
    x, y, w = (torch.randn(50, 3) for _ in range(3))
    hinge = np.maximum(1 + ((x - y) ** 2).sum(-1).numpy() - ((x - w) ** 2).sum(-1).numpy(), 0)
    assert 0 < (hinge == 0).sum() < 50
    assert loss(x=x, y=y, w=w).value.item() == pytest.approx(hinge.mean(), rel=1e-5)


def test_what_is_printed():
    loss = ScoreMatching(Gibbs("p(x)", Table(), shape=3), "ratio")
    assert repr(loss) == "<Expression SM{ratio}[p(x)]>"
    assert str(loss) == r"\mathrm{SM}_{\mathrm{ratio}}\left[ p(x) \right]"


@PATHS
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_ratio_matching_reads_bits_of_every_type(dtype, path):
    """Two triples by hand: σ of what each flip costs, squared; the weights get the same gradients from all types."""
    net, e = Table(), [0.3, -1.0, 2.0, 0.0, 1.1, -0.4, 0.7, -2.0]
    x = torch.tensor([[0, 1, 1], [1, 0, 0]])
    right = [
        sum(1 / (1 + np.exp(e[to] - e[at])) ** 2 for to in flips) for at, flips in ((3, (7, 1, 2)), (4, (0, 6, 5)))
    ]
    found = run(ScoreMatching(Gibbs("p(x)", net, shape=3), "ratio"), path, x=x.to(dtype)).value
    np.testing.assert_allclose(found.detach(), right, rtol=1e-5)
    (slope,) = torch.autograd.grad(found.sum(), net.e)
    (expected,) = torch.autograd.grad(
        ScoreMatching(Gibbs("p(x)", net, shape=3), "ratio")(x=x.float()).value.sum(), net.e
    )
    torch.testing.assert_close(slope, expected)


@PATHS
@pytest.mark.parametrize(("value", "got"), [(0.3, "0.3"), (2, "2"), (-1, "-1")])
def test_ratio_matching_refuses_what_is_no_bit(value, got, path):
    with pytest.raises(SupportError, match=rf"p\(x\): expected a value of whole numbers from 0 to 1, got {got} "):
        run(ScoreMatching(Gibbs("p(x)", Table(), shape=3), "ratio"), path, x=torch.full((2, 3), value))
