"""Event shapes whose leading axes are all 1: a head is flat or has them, and a batch of one row is none of them."""

import math

import pytest
import torch
from torch import distributions, nn

from tests.formula.defects.both import PATHS, refused, run
from worldformula import (
    KL,
    Bernoulli,
    Categorical,
    ContrastiveDivergence,
    E,
    Gibbs,
    Mixture,
    MultivariateNormal,
    Normal,
    Sum,
    Value,
    log,
    total,
)

SHAPES = pytest.mark.parametrize("shape", [(1, 3), (1, 1, 3), (1, 1)])
ROWS = pytest.mark.parametrize("rows", [1, 2, 4])


class Shaped(nn.Module):
    """A linear map into rows of a shape."""

    def __init__(self, features, *shape):
        super().__init__()
        self.linear, self.shape = nn.Linear(features, math.prod(shape)), shape

    def forward(self, x):
        return self.linear(x).reshape(*x.shape[:-1], *self.shape)


def event(shape, k=1):
    """The end of a head that has the event's axes, and that of a flat one."""
    return [(*shape[:-1], k * shape[-1]), (k * math.prod(shape),)]


@PATHS
@ROWS
@SHAPES
@pytest.mark.parametrize("flat", [False, True])
def test_a_location_alone(shape, rows, path, flat):
    torch.manual_seed(0)
    net = Shaped(4, *event(shape)[flat])
    q, x, noise = Normal("q(z|x)", net, shape=shape, scale=1.0), torch.randn(rows, 4), torch.randn(rows, *shape)
    z = net(x).reshape(rows, *shape) + noise
    found = run(E(q, total(Value("z", shape=shape))), path, x=x, noise={"z": noise})
    torch.testing.assert_close(found.value, z.reshape(rows, -1).sum(1))
    torch.testing.assert_close(q.sample(x=x, noise=noise), z)
    expected = 0.5 * net(x).reshape(rows, -1).square().sum(1)
    torch.testing.assert_close(run(KL(q, Normal("p(z)", shape=shape)), path, x=x).value, expected)
    expected = distributions.Normal(net(x).reshape(rows, *shape), 1.0).log_prob(z).reshape(rows, -1).sum(1)
    torch.testing.assert_close(run(log(q), path, x=x, z=z).value, expected)
    torch.testing.assert_close(q.log_prob(x=x, z=z), expected)


@PATHS
@ROWS
@pytest.mark.parametrize("flat", [False, True])
def test_samples(rows, path, flat):
    """With one row, a flat head [K, 1, n] of K samples looks as if it had the axes of the event."""
    torch.manual_seed(0)
    net, back = Shaped(4, *event((1, 3), 2)[flat]), nn.Linear(3, 2)
    q = Normal("q(z|x)", net, shape=(1, 3))
    p = Normal("p(y|z)", lambda z: back(z.flatten(1)).reshape(-1, *event((1, 2))[flat]), shape=(1, 2), scale=1.0)
    x, y, noise = torch.randn(rows, 4), torch.randn(rows, 1, 2), torch.randn(5, rows, 1, 3)
    loc, raw = net(x).reshape(rows, 6).chunk(2, -1)
    z = loc + nn.functional.softplus(raw) * noise.squeeze(2)
    expected = distributions.Normal(back(z), 1.0).log_prob(y.squeeze(1)).sum(-1).mean(0)
    found = run(E(q, log(p), samples=5), path, x=x, y=y, noise={"z": noise})
    torch.testing.assert_close(found.value, expected)


@PATHS
@ROWS
@pytest.mark.parametrize("flat", [False, True])
def test_steps(rows, path, flat):
    """With one step too."""
    torch.manual_seed(0)
    for steps in (1, 3):
        net = Shaped(4, *event((1, 3))[flat])
        x = torch.randn(rows, steps, 4)
        loss = Sum("t", E(Normal("q(z_t|x_t)", net, shape=(1, 3), scale=1.0), total(Value("z_t", shape=(1, 3)))))
        found = run(loss, path, x=x, noise={"z": torch.zeros(rows, steps, 1, 3)})
        torch.testing.assert_close(found.value, net(x).reshape(rows, -1).sum(1))


@PATHS
@ROWS
def test_bernoullis_classes_and_correlated_normals(rows, path):
    torch.manual_seed(0)
    x, bits = torch.randn(rows, 4), torch.randint(2, (rows, 1, 3)).float()
    net = Shaped(4, 1, 3)
    expected = distributions.Bernoulli(logits=net(x)).log_prob(bits).sum((1, 2))
    torch.testing.assert_close(run(log(Bernoulli("p(y|x)", net, shape=(1, 3))), path, x=x, y=bits).value, expected)

    kind = torch.randint(3, (rows, 1))
    expected = distributions.Categorical(logits=net(x)).log_prob(kind).sum(1)
    for classes in (3, None):
        p = Categorical("p(c|x)", net, shape=1, classes=classes)
        torch.testing.assert_close(run(log(p), path, x=x, c=kind).value, expected)

    net, y = Shaped(4, 1, 5), torch.randn(rows, 1, 2)  # a location of 2, a triangle of 3
    p, flat = (MultivariateNormal("p(y|x)", head, shape=(1, 2)) for head in (net, nn.Sequential(net, nn.Flatten(1))))
    found, expected = (run(log(f), path, x=x, y=y).value for f in (p, flat))
    assert expected.shape == (rows,)
    torch.testing.assert_close(found, expected)


@PATHS
@ROWS
def test_the_components_of_a_mixture(rows, path):
    """One component of events (1, 3): its axis is none of the event's."""
    torch.manual_seed(0)
    net, x, y = nn.Linear(4, 3), torch.randn(rows, 4), torch.randn(rows, 1, 3)
    p = Mixture("p(y|x)", net, components=1, shape=(1, 3), scale=1.0, weights=torch.ones(1))
    expected = distributions.Normal(net(x), 1.0).log_prob(y.squeeze(1)).sum(-1)
    torch.testing.assert_close(run(log(p), path, x=x, y=y).value, expected)


def test_batch_axes_of_one_row_in_a_direct_call():
    """The density is told by its value how many batch axes there are; a draw is not told, and says so."""
    torch.manual_seed(0)
    net, x = nn.Linear(4, 3), torch.randn(5, 1, 4)
    q, z = Normal("q(z|x)", net, shape=(1, 3), scale=1.0), torch.randn(5, 1, 1, 3)
    expected = distributions.Normal(net(x), 1.0).log_prob(z.squeeze(2)).sum(-1)
    torch.testing.assert_close(q.log_prob(x=x, z=z), expected)
    with refused("axes of size 1", "of the batch or of the event", "one batch axis"):
        q.sample(x=x)
    assert q.sample(x=x.squeeze(1)).shape == (5, 1, 3)
    assert q.sample(x=x[0]).shape == (1, 1, 3)


@PATHS
@ROWS
@pytest.mark.parametrize("steps", [1, 2])
def test_contrastive_divergence(rows, path, steps):
    """Its noise is an event (steps, n)."""
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)), torch.randn(rows, 3)
    noise = torch.randn(rows, steps, 3)
    y = x.clone()
    for eps in noise.unbind(1):
        y = y.detach().requires_grad_()
        (slope,) = torch.autograd.grad(net(y).sum(), y)
        y = (y - 0.1 * slope + math.sqrt(0.2) * eps).detach()
    loss = ContrastiveDivergence(Gibbs("p(x)", net, shape=3), steps=steps, step_size=0.1)
    found = run(loss, path, x=x, noise={"hat_x": noise})
    torch.testing.assert_close(found.value, (net(x) - net(y)).squeeze(1))


@PATHS
def test_a_flat_head_beside_a_batch_of_the_size_of_an_event_axis(path):
    """Two rows, two components of an event (2, 3): features of a whole event are no event axis."""
    torch.manual_seed(0)
    net, x, y = nn.Linear(4, 12), torch.randn(2, 4), torch.randn(2, 2, 3)
    p = Mixture("p(y|x)", net, components=2, shape=(2, 3), scale=1.0, weights=torch.tensor([0.3, 0.7]))
    each = distributions.Normal(net(x).reshape(2, 2, 2, 3), 1.0).log_prob(y[:, None]).sum((2, 3))
    expected = (each + torch.tensor([0.3, 0.7]).log()).logsumexp(1)
    torch.testing.assert_close(run(log(p), path, x=x, y=y).value, expected)
