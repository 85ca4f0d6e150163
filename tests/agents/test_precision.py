"""Networks in bfloat16: what is of float32 all the same, how far results may be off, and what is left behind."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.agents.early import COLUMNS, NUMBERS, B, T, rows
from worldformula import Deterministic, Normal, catalogue
from worldformula.agent.imagination import ImaginationAgent
from worldformula.envs import Column
from worldformula.errors import ConfigError
from worldformula.training.precision import in_bfloat16
from worldformula.training.settings import override

SMALL = ("batch=3", "length=5", "imag_last=3", "imagine=3", "warmup=0")
ROUNDED = 2.0**-9  # of a number of 8 significant bits, relative


def built(*settings: str, columns: Any = COLUMNS, system: str = "dreamer_v3") -> ImaginationAgent:
    found = catalogue.find(system)
    made: ImaginationAgent = found.build(override(found.sizes("tiny"), [*SMALL, *settings]), columns, NUMBERS, seed=0)
    return made


def test_a_linear_layer_is_off_by_what_is_rounded() -> None:
    """|Δy| ≤ (2r + r²) Σ |w x| + r |y| for r = 2⁻⁹: weights and inputs are rounded, and what comes out; sums are exact
    to float32, which the small summand allows for.
    """
    torch.manual_seed(0)
    net = nn.Linear(40, 7)
    x = torch.randn(200, 40)
    exact = net(x).double()
    size = x.double().abs() @ net.weight.double().abs().T + net.bias.double().abs()
    assert in_bfloat16([Deterministic("y = f(x)", net)]) == [net]
    found = net(x)
    assert found.dtype == torch.float32
    off = (found.double() - exact).abs()
    assert (off <= (2 * ROUNDED + ROUNDED**2) * size + ROUNDED * exact.abs() + 1e-5).all()
    assert off.max() > 1e-4  # it is bfloat16 indeed


def test_off_by_default_and_then_the_same_bits() -> None:
    plain, said = built(), built("precision=float32")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in plain.modules())
    for agent in (plain, said):
        torch.manual_seed(1)
        for _ in range(2):
            agent.update(rows())
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), said.state_dict().values(), strict=True))


@pytest.mark.parametrize("system", ["dreamer_v3", "plan2explore"])
@pytest.mark.parametrize("seen", ["numbers", "pictures"])
def test_losses_are_those_of_float32_up_to_what_each_layer_rounds(seen: str, system: str) -> None:
    """Same weights and draws. A layer is off by about 2r of what it reads, and a norm behind each keeps that from
    growing: what a path of n layers is off by is of the order of 2 r n, relative.
    """
    columns, batch = COLUMNS, rows()
    if seen == "pictures":
        columns = {"image": Column("image", (32, 32, 3), "uint8", 0, 255)}
        batch = {k: v for k, v in batch.items() if k != "body"}
        batch["image"] = np.random.default_rng(0).integers(0, 256, (B, T, 32, 32, 3), np.uint8)
    agents = [built(f"precision={word}", columns=columns, system=system) for word in ("float32", "bfloat16")]
    exact, halved = ([agent.objective.value(part, outs).item() for part in agent.objective.parts]
                     for agent in agents for outs in [agent.objective.run(batch, seed=3)])  # fmt: skip
    layers = 3 + 3 * T + 2 + 4  # encoder, a core at each step, posterior, decoder
    for part, a, b in zip(agents[0].objective.parts, exact, halved, strict=True):
        assert np.isfinite(b)
        if part != "actor":  # a difference of returns, which at first is nearly 0
            assert abs(a - b) <= 2 * ROUNDED * layers * abs(a), part
    assert exact != halved


def test_weights_gradients_states_latents_and_losses_stay_of_float32() -> None:
    agent = built("precision=bfloat16")
    outs = agent.objective.run(rows(), seed=0)
    world, dream = outs["world"], outs["dream"]
    tensors = [*world.samples.values(), *world.terms.values(), *dream.samples.values(), *dream.terms.values()]
    assert all(x.dtype == torch.float32 for x in tensors if x.is_floating_point())
    before = {k: v.clone() for k, v in agent.state_dict().items()}
    for _ in range(2):
        metrics = agent.update(rows())
    assert all(np.isfinite(float(v)) for v in metrics.values())
    assert all(p.dtype == torch.float32 for p in agent.parameters())
    assert all(p.grad.dtype == torch.float32 for p in agent.parameters() if p.grad is not None)
    assert any(not torch.equal(v, before[k]) for k, v in agent.state_dict().items())
    one = {k: v[:, 0] for k, v in rows().items()}
    actions, state = agent.act(one, agent.initial(B))
    assert actions.dtype == np.float32
    assert all(x.dtype == torch.float32 for x in state.values())
    post = next(f for f in agent.world.posterior.factors if f.variable.key == "z")
    (logits,) = post.params(torch.randn(2, 128), torch.randn(2, 64))
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(2, 16))  # to float32, not to bfloat16


def test_weights_go_from_one_precision_to_the_other_and_a_copy_has_hooks_of_its_own() -> None:
    plain, halved = built(), built("precision=bfloat16")
    halved.load_state_dict(plain.state_dict())
    other = copy.deepcopy(halved)
    first = [agent.objective.run(rows(), seed=5)["world"].value for agent in (halved, other)]
    assert torch.equal(*first)
    other.update(rows())
    other.update(rows())
    assert torch.equal(halved.objective.run(rows(), seed=5)["world"].value, first[0])


def test_a_network_that_fails_leaves_no_autocast_behind() -> None:
    net = nn.Linear(3, 2)
    factor = Normal("p(z|x)", net, shape=1)
    in_bfloat16([factor])
    with pytest.raises(RuntimeError):
        net(torch.randn(2, 5))
    assert (torch.randn(2, 3) @ torch.randn(3, 2)).dtype == torch.float32
    assert net(torch.randn(2, 3)).dtype == torch.float32


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'bfloat16'"):
        replace(catalogue.find("dreamer_v3").sizes("tiny"), precision="bfloat")
    with pytest.raises(ConfigError, match="precision=float32, or compile=false"):
        built("precision=bfloat16").compile()
