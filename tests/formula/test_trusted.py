"""Whose code runs: torch's and the library's own alone runs in inference mode, and what it makes leaves it."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from worldformula.families import OneHotFamily
from worldformula.formula import Bernoulli, Deterministic, Normal
from worldformula.formula.code.trusted import Trusted, copied, free_of_gradients
from worldformula.nets.mlp import MLP


class Own(nn.Module):
    """Somebody's own network, which keeps a tensor of its first call."""

    def forward(self, x):
        return x


class OwnLinear(nn.Linear):
    """Of torch in all but its name."""


def scaled(x):
    return 2 * x


@pytest.mark.parametrize(
    "thing",
    [
        nn.Sequential(nn.Linear(2, 3), nn.SiLU()), MLP(2, 3, 4, 2), torch.cat, OneHotFamily(unimix=0.1),
        nn.utils.parametrizations.weight_norm(nn.Linear(2, 3)), functools.partial(torch.mul, other=2),
        Normal("p(x|z)", MLP(2, 6, 4, 1), shape=3), Bernoulli("p(x|z)", nn.Linear(2, 3), shape=3),
    ],
)  # fmt: skip
def test_what_is_of_torch_and_of_the_library_is_trusted(thing):
    assert Trusted(thing)()


def replaced():
    net = nn.Linear(2, 2)
    net.forward = scaled
    return net


def hooked():
    net = nn.Sequential(nn.Linear(2, 2))
    net[0].register_forward_hook(lambda *_: None)
    return net


def compiled():
    net = nn.Linear(2, 2)
    net.compile(backend="eager")
    return net


@pytest.mark.parametrize(
    "thing",
    [
        Own(), OwnLinear(2, 3), nn.Sequential(nn.Linear(2, 2), Own()), scaled, lambda x: x, replaced(), hooked(),
        compiled(), functools.partial(scaled), [functools.lru_cache(scaled)], Normal("p(x|z)", Own(), shape=3),
        Normal("p(x|z)", lambda z: {"loc": z, "scale": 1.0}, shape=3), torch.jit.script(nn.Linear(2, 2)),
    ],
)  # fmt: skip
def test_what_somebody_wrote_is_not(thing):
    assert not Trusted(thing)()


def test_a_module_that_is_exchanged_and_a_hook_that_comes_are_seen():
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Tanh()))
    trusted = Trusted(net)
    assert trusted()
    net[1][1] = Own()
    assert not trusted()
    net[1][1] = nn.ReLU()
    assert trusted()
    net[1].append(Own())
    assert not trusted()
    del net[1][2]
    assert trusted()
    net[0].forward = scaled
    assert not trusted()
    del net[0].forward
    assert trusted()
    net[1][0].register_forward_pre_hook(lambda *_: None)
    assert not trusted()


def test_a_function_that_a_module_calls_and_that_is_exchanged_is_seen():
    """As many attributes as before, and another activation, read function, or one where None was."""
    layer, read = nn.TransformerEncoderLayer(4, 1, 8), Deterministic("y = f(x)", torch.tanh, shape=3)
    layer.after = None
    trusted = Trusted(layer, read)
    for module, name in ((layer, "activation"), (read, "net"), (layer, "after")):
        assert trusted()
        before = getattr(module, name)
        setattr(module, name, scaled)
        assert not trusted()
        setattr(module, name, before)
    assert trusted()


def test_a_hook_on_all_modules_is_seen():
    trusted = Trusted(nn.Linear(2, 2))
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert not trusted()
    finally:
        handle.remove()


def test_inference_mode_is_for_what_asks_for_no_gradient_and_nobody_looks_into():
    trusted = Trusted(nn.Linear(2, 2))
    with free_of_gradients(trusted):
        assert not torch.is_inference_mode_enabled()
    with torch.no_grad(), free_of_gradients(trusted):
        assert torch.is_inference_mode_enabled()
    with torch.no_grad(), free_of_gradients(Trusted(Own())):
        assert not torch.is_inference_mode_enabled()
    with torch.no_grad(), torch.autocast("cpu"), free_of_gradients(trusted):
        assert not torch.is_inference_mode_enabled()  # which would keep the weights that it casts for later calls
    seen = []

    def looked_into(x):
        with torch.no_grad(), free_of_gradients(trusted):
            seen.append(torch.is_inference_mode_enabled())
        return x

    torch.func.vmap(looked_into)(torch.ones(2))
    assert seen == [False]


def test_what_leaves_can_be_learnt_through():
    kept = torch.ones(2)
    with torch.inference_mode():
        made = torch.ones(2) * 3
    found = copied({"made": made, "kept": kept})
    assert found["kept"] is kept
    weight = torch.ones(2, requires_grad=True)
    (found["made"] * weight).sum().backward()
    assert weight.grad.tolist() == [3, 3]
