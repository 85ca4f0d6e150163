"""The shape that a deterministic factor declares, held against what its network returns at the first call."""

import pytest
import torch
from torch import nn

from tests.formula.defects.both import PATHS, refused, run
from worldformula import Deterministic, E, Normal, Sum, Value, log, total
from worldformula.errors import HeadError

WRONG = {
    "too many features": (nn.Linear(4, 5), 3),
    "a lacking axis": (nn.Linear(4, 3), (1, 3)),
    "an axis too many": (nn.Linear(4, 1), ()),
    "a batch of one": (lambda x: x[:1, :3], 3),
    "another batch": (lambda x: torch.cat((x, x[:1]))[:, 0], ()),
}


@PATHS
@pytest.mark.parametrize("wrong", WRONG)
def test_a_network_of_another_shape_is_refused(wrong, path):
    net, shape = WRONG[wrong]
    loss = E(Deterministic("d = D(x)", net, shape=shape), total(Value("d")) if shape else Value("d"))
    with refused("d = D(x)", "declared", "change the network"):
        run(loss, path, x=torch.randn(6, 4))


@PATHS
@pytest.mark.parametrize("wrong", WRONG)
def test_so_it_is_under_samples(wrong, path):
    net, shape = WRONG[wrong]
    d = Deterministic("d = D(z)", net, shape=shape)
    loss = E(Normal("q(z|x)", nn.Linear(2, 8), shape=4) * d, total(Value("d")) if shape else Value("d"), samples=3)
    with refused("d = D(z)", "declared", "change the network"):
        run(loss, path, x=torch.randn(6, 2))


@PATHS
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("header", ["d_t = D(x_t)", "d_t = D(x_t,d_{t-1})"])
def test_and_at_every_step(wrong, header, path):
    net, shape = WRONG[wrong]
    d = Deterministic(header, lambda x, *_: net(x), shape=shape)
    loss = Sum("t", E(d, total(Value("d_t")) if shape else Value("d_t")))
    with refused("declared", "change the network"):
        run(loss, path, x=torch.randn(6, 2, 4))


@PATHS
def test_one_of_two_outputs(path):
    both = Deterministic("a, b = f(x)", lambda x: (x, x[:, :1]), shape=[4, 2])
    with refused("a,b = f(x)", "end in the declared event shape"):
        run(E(both, total(Value("a")) + total(Value("b"))), path, x=torch.randn(6, 4))


@PATHS
@pytest.mark.parametrize("rows", [1, 5])
def test_what_is_right_passes(rows, path):
    torch.manual_seed(0)
    f, g = nn.Linear(4, 3), nn.Linear(3, 1)
    d = Deterministic("d = f(x)", f, shape=3) * Deterministic("e = g(d)", lambda d: g(d).squeeze(-1), shape=())
    x, y = torch.randn(rows, 4), torch.randn(rows, 2)
    found = run(E(d, Value("e") * log(Normal("p(y)", shape=2))), path, x=x, y=y)
    expected = g(f(x)).squeeze(1) * torch.distributions.Normal(0.0, 1.0).log_prob(y).sum(1)
    torch.testing.assert_close(found.value, expected)
    series = torch.randn(rows, 3, 4)
    whole = Deterministic("s = f(x_{1:T})", lambda x: f(x).mean(1), shape=3)
    found = run(E(whole, total(Value("s"))), path, x=series)
    torch.testing.assert_close(found.value, f(series).mean(1).sum(1))


def test_the_check_is_made_once():
    seen = []
    d = Deterministic("d = f(x)", lambda x: seen.append(0) or x, shape=4)
    loss = E(d, total(Value("d")))
    loss(x=torch.zeros(2, 4))
    loss(x=torch.zeros(2, 4))
    assert len(seen) == 2  # no network is run once more


@pytest.mark.parametrize("wrong", WRONG)
def test_a_direct_draw_is_held_against_its_shape_too(wrong):
    net, shape = WRONG[wrong]
    d = Deterministic("d = D(x)", net, shape=shape)
    for whole in (d, d * Normal("p(w)", shape=2)):
        with refused("d = D(x)", "declared", "change the network", error=HeadError):
            whole.sample(x=torch.randn(6, 4))


def test_a_direct_draw_of_several_outputs():
    both = Deterministic("a, b = f(x)", lambda x: (x, x[:, :1]), shape=[4, 2])
    with refused("a,b = f(x)", "b        | [2]      | [6, 1]", error=HeadError):
        both.sample(x=torch.randn(6, 4))
    one = Deterministic("a, b = f(x)", nn.Linear(4, 2), shape=[1, 1])
    with refused("expected a tuple of 2 tensors from its network, got Tensor", error=HeadError):
        one.sample(x=torch.randn(2, 4))
    right = Deterministic("a, b = f(x)", lambda x: (x, x[:, :1]), shape=[4, 1])
    x = torch.randn(6, 4)
    a, b = right.sample(x=x)
    assert torch.equal(a, x)
    assert torch.equal(b, x[:, :1])


@PATHS
@pytest.mark.parametrize("shape", [3, None], ids=["declared", "that of what it begins"])
@pytest.mark.parametrize("wrong", ["one number", "another width", "a batch of one"])
@pytest.mark.parametrize("reset", [None, "first"])
def test_a_start_is_held_against_the_shape_of_what_begins_with_it(reset, wrong, shape, path):
    """A start [B, 1] would be broadcast by the first step that adds to it."""
    nets = {"one number": nn.Linear(4, 1), "another width": nn.Linear(4, 4), "a batch of one": lambda x: x[:1, :3]}
    core = Deterministic("h_t = f(h_{t-1},x_t)", lambda h, x: h + x[:, :3], shape=3)
    begin = Deterministic("h_0 = e(x_1)", nets[wrong], shape=shape)
    loss = Sum("t", E(core, total(Value("h_t"))), initial=begin, reset=reset)
    flags = {} if reset is None else {"first": torch.eye(5)[:2]}
    with refused("h_0 = e(x_1)", "declared", "change the network", error=HeadError):
        run(loss, path, x=torch.randn(2, 5, 4), **flags)
