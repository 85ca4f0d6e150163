"""Memory: what a formula makes is freed with it, and a training loop does not grow."""

import gc
import linecache
import tracemalloc
import weakref

import pytest
import torch
from torch import nn

from tests.formula.models import B, X, Z, rssm, sequences, vae
from worldformula import KL, Bernoulli, E, Normal, log


def sources():
    return sum(name.startswith("<formula") for name in linecache.cache)


def test_formulas_that_are_rebuilt_at_each_step_leave_no_source_behind():
    q, p, prior = Normal("q(z|x)", nn.Linear(X, 2 * Z)), Bernoulli("p(x|z)", nn.Linear(Z, X)), Normal("p(z)", shape=Z)
    x = torch.rand(B, X)
    gc.collect()
    before = sources()
    for step in range(50):
        loss = (step * 0.1 * KL(q, prior) - E(q, log(p))).mean()
        loss(x=x).value.backward()
    del loss
    gc.collect()
    assert sources() == before


def test_the_source_stays_while_an_error_may_show_it():
    def fail(_):
        raise KeyError("inside the network")

    with pytest.raises(KeyError) as caught:
        log(Normal("p(x|z)", fail, shape=X))(x=torch.zeros(B, X), z=torch.zeros(B, Z))
    assert any("function_1(z)" in str(entry.statement) for entry in caught.traceback)


@pytest.mark.parametrize("build", [vae, rssm])
def test_modules_tensors_and_results_are_freed(build):
    loss, data = build(), sequences() if build is rssm else {"x": torch.rand(B, X)}
    out = loss(**data)
    out.value.backward()
    loss.interpret(**data).value.backward()
    str(loss), loss.code, loss.explain(), loss.graph()
    alive = [weakref.ref(o) for o in (loss, loss.program, out.value, *loss.children(), *data.values())]
    del loss, out, data
    gc.collect()
    assert [ref() for ref in alive] == [None] * len(alive)


def test_a_network_outlives_the_formulas_that_use_it_and_nothing_else_holds_it():
    net = nn.Linear(X, 2 * Z)
    ref = weakref.ref(net)
    q, prior = Normal("q(z|x)", net), Normal("p(z)", shape=Z)
    losses = [KL(q, prior), KL(q.rename(z="z'"), prior.rename(z="z'")), E(q.fresh(), log(prior))]
    for loss in losses:
        loss(x=torch.rand(B, X))
    del q, net, loss
    losses.clear()
    gc.collect()
    assert ref() is None


@pytest.mark.slow
def test_ten_thousand_steps_do_not_grow():
    torch.manual_seed(0)
    loss, x = vae(), torch.rand(B, X).bernoulli()
    optimiser = torch.optim.SGD(loss.parameters(), lr=1e-3)
    kept = []

    def train(steps):
        for _ in range(steps):
            optimiser.zero_grad(set_to_none=False)
            out = loss(x=x)
            out.value.backward()
            optimiser.step()
            kept[:] = [out.terms]

    train(200)
    gc.collect()
    objects = len(gc.get_objects())
    tracemalloc.start()
    train(100)
    gc.collect()
    first = tracemalloc.get_traced_memory()[0]
    train(200)
    gc.collect()
    second = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert second - first < 20_000, f"{second - first} bytes more after 200 steps"
    train(9_500)
    gc.collect()
    assert len(gc.get_objects()) - objects < 200
