"""Acting takes no gradient: in inference mode where all code is the library's, and nothing of it is left behind."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from itertools import islice

import pytest
import torch
from torch import nn

from worldformula import catalogue
from worldformula.agent.actor import policy
from worldformula.agent.acts import Act
from worldformula.data.replay import Replay
from worldformula.envs import Envs
from worldformula.formula import KL, Deterministic, E, Normal, Sum, log
from worldformula.formula.code import straight
from worldformula.formula.code.trusted import _reached
from worldformula.nets.gru import BlockGRU
from worldformula.nets.mlp import MLP
from worldformula.nets.sizes import Sizes
from worldformula.run.play import play
from worldformula.world import State, World

ENVIRONMENTS = {"dynalang": "lang_room_mini"}


def made(name, num=2):
    system = catalogue.find(name, "agents")
    envs = Envs(ENVIRONMENTS.get(name, "pendulum"), num, seed=0)
    return system.build(system.presets["tiny"](), envs.observations, envs.actions, seed=0), envs


def played(agent, envs, turns, *, explore=True):
    torch.manual_seed(3)
    return list(islice(play(envs, agent, explore=explore), turns))


def of_inference(thing):
    return [v for v in _reached((thing,)) if isinstance(v, torch.Tensor) and v.is_inference()]


def test_networks_of_the_library_act_in_inference_mode_once_a_step_was_checked(monkeypatch):
    agent, envs = made("dreamer_v3")
    modes, forward = [], BlockGRU.forward

    def seen(self, *given):
        modes.append(torch.is_inference_mode_enabled())
        return forward(self, *given)

    monkeypatch.setattr(BlockGRU, "forward", seen)
    played(agent, envs, 4)
    assert not modes[0]  # the first step looks at everything
    assert modes[-2:] == [True, True]


@pytest.mark.parametrize("name", ["dreamer_v3", "thick_dreamer", "tdmpc2", "dreamer_v1", "world_models"])
@pytest.mark.parametrize("explore", [True, False])
def test_what_is_done_is_the_same_to_the_bit(name, explore, monkeypatch):
    quick = played(*made(name), 6, explore=explore)
    monkeypatch.setattr(straight, "free_of_gradients", lambda trusted: nullcontext())
    slow = played(*made(name), 6, explore=explore)
    for one, other in zip(quick, slow, strict=True):
        assert (one.actions == other.actions).all()
        assert one.state.keys() == other.state.keys()
        assert all(torch.equal(one.state[k], other.state[k]) for k in one.state)


def test_an_acting_state_can_be_dreamt_and_learnt_from():
    agent, envs = made("dreamer_v3")
    state = played(agent, envs, 5)[-1].state
    assert not any(value.is_inference() for value in state.values())
    start = State({k: state[k].requires_grad_() for k in ("h", "z")})
    dream, rewards, _ = agent.imagined(start, None)
    (dream["h"].square().sum() + rewards.sum()).backward()
    assert start["h"].grad.abs().sum() > 0
    assert agent.world.prior.factors[0].net.shared.grad.abs().sum() > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [system.name for system in catalogue.discover("agents")])
def test_after_acting_an_agent_learns_and_holds_no_tensor_of_inference_mode(name):
    agent, envs = made(name)
    length, batch, latents = agent.config.length, agent.config.batch, getattr(agent, "latents", None) or None
    replay = Replay(4 * length, envs.row_spec, streams=envs.num, seed=0, latents=latents)
    for turn in islice(play(envs, agent), length + 4):
        replay.add(turn.rows, envs.stored(turn.actions), agent.stored(turn.state) if latents else None)
        assert not any(isinstance(v, torch.Tensor) and v.is_inference() for v in turn.state.values())
    agent.update(replay.sample(batch, length, context=int(latents is not None)))
    assert of_inference(agent) == []


D, Z, X, A = 8, 2, 3, 1


class Keeping(nn.Module):
    """A core of somebody's own, which makes a table at its third call, and keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls, self.table = nn.Linear(D + Z + A, D), 0, None

    def forward(self, h, z, a):
        self.calls += 1
        if self.calls == 3:
            self.table = torch.full((D,), 0.5)
        scale = 1.0 if self.table is None else self.table
        return torch.tanh(self.layer(torch.cat((h, z, a), -1)) * scale)


def own_world(core, read):
    y = Deterministic("y_t = n(x_t)", read, shape=X)
    h = Deterministic("h_t = f(h_{t-1},z_{t-1},a_{t-1})", core, shape=D)
    q = Normal("q(z_t|h_t,y_t)", MLP(D + X, 2 * Z, 8, 1), shape=Z)
    p = Normal("p(z_t|h_t)", MLP(D, 2 * Z, 8, 1), shape=Z)
    seen = Normal("p(y_t|h_t,z_t)", MLP(D + Z, 2 * X, 8, 1), shape=X)
    loss = Sum("t", E(y * h * q, KL(q, p) - log(seen)), reset="first").mean()
    return World(posterior=y * h * q, prior=h * p, heads=[seen], loss=loss)


def walked(world, steps=6):
    torch.manual_seed(1)
    pi = policy([Act("a", "action", "numbers", A)], Sizes(D, 8, 1, 4, 8, Z))
    state = world.initial(3) | {"a": torch.zeros(3, A)}
    for step in range(steps):
        drawn = torch.randn(3, X, generator=torch.Generator().manual_seed(step))
        with torch.no_grad():
            state = world.act({"x": drawn, "first": torch.arange(3) == step}, state, pi)
    return state


def learnt(world):
    data = {"x": torch.randn(2, 4, X), "a": torch.randn(2, 4, A), "first": torch.zeros(2, 4, dtype=torch.bool)}
    world.loss(**data).value.backward()
    return sum(float(p.grad.abs().sum()) for p in world.posterior.factors[1].net.parameters())


def test_a_network_of_somebodys_own_may_keep_what_it_makes_while_it_acts():
    world = own_world(Keeping(), nn.Identity())
    walked(world)
    assert world.posterior.factors[1].net.table is not None
    assert of_inference(world) == []
    assert learnt(world) > 0


def test_a_norm_that_counts_while_it_acts_counts_as_it_did(monkeypatch):
    torch.manual_seed(0)
    one = own_world(MLP(D + Z + A, D, 8, 1), nn.BatchNorm1d(X))
    other = copy.deepcopy(one)
    modes, forward = [], nn.BatchNorm1d.forward

    def seen(self, x):
        modes.append(torch.is_inference_mode_enabled())
        return forward(self, x)

    monkeypatch.setattr(nn.BatchNorm1d, "forward", seen)
    quick = walked(one)
    assert modes[-1]
    monkeypatch.setattr(straight, "free_of_gradients", lambda trusted: nullcontext())
    slow = walked(other)
    assert not modes[-1]
    assert all(torch.equal(quick[k], slow[k]) for k in quick)
    norms = [world.posterior.factors[0].net for world in (one, other)]
    assert int(norms[0].num_batches_tracked) == int(norms[1].num_batches_tracked) > 5
    assert torch.equal(norms[0].running_mean, norms[1].running_mean)
    assert of_inference(one) == []
    assert learnt(one) > 0
