"""Networks behind functions: copies, cycles, batch statistics, and what is refused."""

import copy
import functools
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call

from worldformula import KL, Deterministic, E, Gibbs, Normal, ScoreMatching, Sum, log
from worldformula.errors import FormulaError

B, X, Z = 5, 3, 2


class Both(nn.Module):
    """A module that owns the factor whose network is its method."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(X, 2 * Z)
        self.offset = nn.Parameter(torch.ones(2 * Z))
        self.q = Normal("q(z|x)", self.encode, shape=Z)

    def encode(self, x):
        return self.inner(x) + self.offset


def closed_kl(head):
    loc, raw = head.chunk(2, -1)
    q = torch.distributions.Normal(loc, nn.functional.softplus(raw))
    return torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(-1)


def test_a_module_may_own_the_factor_whose_network_is_its_method():
    module, x = Both().double(), torch.randn(B, X).double()
    loss = KL(module.q, Normal("p(z)", shape=Z))
    torch.testing.assert_close(loss(x=x).value, closed_kl(module.encode(x)))
    assert {id(w) for w in loss.parameters()} == {id(w) for w in module.parameters()}
    assert set(loss.state_dict()) == {"q_z_given_x.inner.weight", "q_z_given_x.inner.bias", "q_z_given_x.offset"}
    loss.eval()
    assert not module.training
    assert not module.inner.training


def test_other_weights_for_one_call_and_pickles():
    module, x = Both(), torch.randn(B, X)
    loss = KL(module.q, Normal("p(z)", shape=Z))
    zeros = {name: torch.zeros_like(w) for name, w in loss.named_parameters()}
    torch.testing.assert_close(functional_call(loss, zeros, (), {"x": x}).value, closed_kl(torch.zeros(B, 2 * Z)))
    torch.testing.assert_close(loss(x=x).value, closed_kl(module.encode(x)))
    again = pickle.loads(pickle.dumps(loss))
    torch.testing.assert_close(again(x=x).value, loss(x=x).value)


def test_a_copy_of_functions_that_hold_one_another():
    inner = nn.Linear(X, 2 * Z)

    def outer(x, times=1):
        return inner(x) if times else outer(x, 1)

    q = Normal("q(z|x)", functools.partial(outer, times=0), shape=Z)
    loss, x = KL(q, Normal("p(z)", shape=Z)), torch.randn(B, X)
    other, value = copy.deepcopy(loss), loss(x=x).value
    with torch.no_grad():
        [w.zero_() for w in other.parameters()]
    torch.testing.assert_close(other(x=x).value, closed_kl(torch.zeros(B, 2 * Z)))
    torch.testing.assert_close(loss(x=x).value, value)


def test_batch_statistics_behind_a_function_keep_their_network_in_the_loop():
    norm = nn.BatchNorm1d(X)
    p = Normal("p(x_t|y_t)", lambda y: norm(y) + 0.0, shape=X, scale=1.0)
    loss, x, y = Sum("t", log(p)), torch.randn(B, 4, X), torch.randn(B, 4, X)
    expected = sum(
        torch.distributions.Normal(nn.BatchNorm1d(X)(y[:, t]), 1.0).log_prob(x[:, t]).sum(-1) for t in range(4)
    )
    torch.testing.assert_close(loss(x=x, y=y).value, expected)


def test_an_energy_that_is_a_method_is_learnt():
    net = nn.Linear(2, 1)
    loss = ScoreMatching(Gibbs("p(x)", lambda x: net(x.tanh()), shape=2), noise=0.1).mean()
    loss(x=torch.randn(B, 2)).value.backward()
    assert {id(w) for w in loss.parameters()} == {id(w) for w in net.parameters()}
    assert net.weight.grad.abs().sum() > 0


def test_a_parameter_of_no_module_is_refused():
    weight = nn.Parameter(torch.randn(X, X))
    with pytest.raises(FormulaError) as caught:
        E(Deterministic("h = f(x)", lambda x: x @ weight, shape=X), log(Normal("p(h)", shape=X)))
    assert str(caught.value) == (
        "h = f(x): its function holds an nn.Parameter of shape [3, 3] that belongs to no module, so it could be "
        "neither registered nor loaded; make the function the forward of an nn.Module that owns it"
    )
