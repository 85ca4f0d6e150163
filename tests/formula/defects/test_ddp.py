"""Data-parallel training that looks for unused parameters, in one process."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tests.formula.models import rssm, sequences, vae
from worldformula import KL, E, Normal, log, together


@pytest.fixture
def process(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def with_an_unused_network():
    q = Normal("q(z|x)", nn.Linear(6, 4))
    unused = Normal("p(y|z)", nn.Linear(2, 4))
    return together(
        a=(KL(q, Normal("p(z)", shape=2)) - E(q, log(Normal("p(x|z)", nn.Linear(2, 12))))).mean(),
        b=E(q, log(unused)).mean(),
    )


CASES = {
    "elbo": (vae, lambda: {"x": torch.rand(3, 6)}, lambda out: out.value),
    "through time": (rssm, sequences, lambda out: out.value),
    "a group of which one is used": (
        with_an_unused_network, lambda: {"x": torch.rand(3, 6), "y": torch.rand(3, 2)}, lambda out: out.value["a"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("find", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_the_loss_alone(process, case, find):
    build, data, value = CASES[case]
    if case.startswith("a group") and not find:
        pytest.skip("without find_unused_parameters every parameter must be used")
    torch.manual_seed(0)
    loss, given = build(), data()
    weights = list(loss.parameters())
    wanted = torch.autograd.grad(value(loss(**given, seed=1)), weights, allow_unused=True)
    wrapped = DistributedDataParallel(loss, find_unused_parameters=find)
    for _ in range(2):  # the second step is where a reducer that lost count fails
        wrapped.zero_grad()
        value(wrapped(**given, seed=1)).backward()
        for weight, expected in zip(weights, wanted, strict=True):
            if expected is not None:
                torch.testing.assert_close(weight.grad, expected)


def test_a_vectorised_call_has_terms_and_samples_of_every_slice():
    q = Normal("q(z|x)", nn.Linear(3, 4), shape=2)
    loss = (KL(q, Normal("p(z)", shape=2)) - E(q, log(Normal("p(x|z)", nn.Linear(2, 6), shape=3)))).mean()
    x, noise = torch.randn(4, 5, 3), torch.randn(4, 5, 2)
    found = torch.vmap(lambda x, noise: loss(x=x, noise={"z": noise}))(x, noise)
    for i in range(4):
        alone = loss(x=x[i], noise={"z": noise[i]})
        torch.testing.assert_close(found.value[i], alone.value)
        torch.testing.assert_close({k: v[i] for k, v in found.terms.items()}, alone.terms)
        torch.testing.assert_close({k: v[i] for k, v in found.samples.items()}, alone.samples)
