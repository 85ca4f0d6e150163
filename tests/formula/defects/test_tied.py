"""Weights that stand in several places of a formula are one weight."""

import copy
import gc

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from tests.formula.defects.both import PATHS, refused, run
from worldformula import Normal, log, positive


@PATHS
@pytest.mark.parametrize("write", ["twice", "once"])
def test_a_positive_scale(write, path):
    torch.manual_seed(0)
    p = nn.Parameter(torch.tensor(0.5))
    first = positive(p)
    second = first if write == "once" else positive(p)
    a, b = Normal("p(y)", shape=2, scale=first), Normal("r(y)", shape=2, scale=second)
    loss, y = (log(a) - 2 * log(b)).mean(), torch.randn(4, 2)
    (raw,) = loss.parameters()
    (found,) = torch.autograd.grad(run(loss, path, y=y).value, [raw])
    weight = raw.detach().clone().requires_grad_()
    density = torch.distributions.Normal(0.0, softplus(weight)).log_prob(y).sum(1)
    (expected,) = torch.autograd.grad(-density.mean(), [weight])
    torch.testing.assert_close(found, expected)
    with torch.no_grad():
        raw.add_(1.0)
    twin = copy.deepcopy(loss)
    assert len(list(twin.parameters())) == 1
    torch.testing.assert_close(run(twin, path, y=y).value, run(loss, path, y=y).value)


def test_a_parameter_that_has_changed_since():
    p = nn.Parameter(torch.tensor(0.5))
    positive(p)
    with torch.no_grad():
        p.fill_(2.0)
    with refused("positive", "changed since", "a new one"):
        positive(p)


def test_other_parameters_are_others():
    p, q = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(0.5))
    assert positive(p).raw is not positive(q).raw
    for start in (1.0, 3.0):  # the second may take the place in memory of the first
        made = positive(nn.Parameter(torch.tensor(start)))
        torch.testing.assert_close(made.value.item(), start)
        gc.collect()
