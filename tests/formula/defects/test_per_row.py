"""One number per row among the parameters that a network gives by name, where a batch is as large as an event."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal as Gauss

from tests.formula.defects.both import PATHS, run
from worldformula import E, Normal, Sum, log
from worldformula.errors import HeadError

B = 3


class Net(nn.Module):
    """A location for each element; a scale for each row, with or without the axis of the event, or for each element."""

    def __init__(self, how):
        super().__init__()
        self.layer, self.width, self.s = nn.Linear(2, B), nn.Linear(2, 1), nn.Parameter(torch.randn(B))
        self.how = how

    def forward(self, y):
        scale = {"row": self.width(y).exp()[..., 0], "axis": self.width(y).exp(), "learnt": self.s.exp()}[self.how]
        return {"loc": self.layer(y), "scale": scale}


def told(header):
    return (
        f"{header}: normal: scale is one number per row, and without the axes of the event it would be read as one "
        "event for all rows\n"
        "  parameter | declared      | got\n"
        "  scale     | batch + event | [3]\n"
        "give it an axis for the event: scale[..., None]"
    )


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@PATHS
def test_one_number_per_row_is_refused(path):
    given = {"x": torch.randn(B, B), "y": torch.randn(B, 2)}
    with pytest.raises(HeadError) as refused:
        run(log(Normal("p(x|y)", Net("row"), shape=B)), path, **given)
    assert str(refused.value) == told("p(x|y)")
    with pytest.raises(HeadError, match="scale is one number per row"):
        run(log(Normal("p(x|y)", lambda y: {"scale": y.exp()[:, 0]}, loc=0.0, shape=B)), path, **given)


def test_direct_calls_refuse_it_too():
    p = Normal("p(x|y)", Net("row"), shape=B)
    for call in (lambda: p.log_prob(x=torch.randn(B, B), y=torch.randn(B, 2)), lambda: p.sample(y=torch.randn(B, 2))):
        with pytest.raises(HeadError) as refused:
            call()
        assert str(refused.value) == told("p(x|y)")


@PATHS
@pytest.mark.parametrize("how", ["axis", "learnt"])
def test_what_has_the_axes_of_the_event_is_right(how, path):
    net, x, y = Net(how), torch.randn(B, B), torch.randn(B, 2)
    p = Normal("p(x|y)", net, shape=B)
    scale = net.width(y).exp() if how == "axis" else net.s.exp()
    expected = Gauss(net.layer(y), scale).log_prob(x).sum(-1)
    torch.testing.assert_close(run(log(p), path, x=x, y=y).value, expected)
    torch.testing.assert_close(p.log_prob(x=x, y=y), expected)


@PATHS
def test_through_time_and_over_samples(path):
    """Networks outside of a loop see B·T rows, and those behind K samples K·B."""
    series = {"x": torch.randn(1, B, B), "y": torch.randn(1, B, 2)}
    found = run(Sum("t", log(Normal("p(x_t|y_t)", Net("learnt"), shape=B))), path, **series)
    assert found.value.shape == (1,)
    z = Normal("q(z|y)", nn.Linear(2, 4), shape=2)
    net = Net("row")
    loss = E(z, log(Normal("p(x|z)", net, shape=B)), samples=B)
    with pytest.raises(HeadError, match="scale is one number per row"):
        run(loss, path, x=torch.randn(1, B), y=torch.randn(1, 2))
    net.how = "learnt"
    assert run(loss, path, x=torch.randn(1, B), y=torch.randn(1, 2)).value.shape == (1,)


@PATHS
def test_a_network_that_is_asked_twice_does_not_tell(path):
    """Neither its statistics nor the random numbers behind it are others."""
    net = Net("learnt")
    net.layer = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5), net.layer)
    p = Normal("p(x|y)", net, shape=B)
    x, y = torch.randn(B, B), torch.randn(B, 2)
    torch.manual_seed(1)
    run(log(p), path, x=x, y=y)
    after = torch.rand(3)
    torch.manual_seed(1)
    nn.functional.dropout(torch.ones(B, 2), 0.5)
    assert torch.equal(after, torch.rand(3))
    assert net.layer[0].num_batches_tracked == 1
    assert net.training
