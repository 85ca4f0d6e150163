"""Switches of DreamerV3 around its losses: what the replay learns of the world, scales that are learnt, resets."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from tests.agents.early import COLUMNS, NUMBERS, rows
from worldformula import catalogue
from worldformula.agent.imagination import ImaginationAgent
from worldformula.errors import ConfigError, FormulaError
from worldformula.learners.imagination import ImaginationActorCritic
from worldformula.training.objective import Minimises
from worldformula.training.settings import override

SMALL = ["batch=3", "length=5", "imag_last=3", "imagine=3", "warmup=0"]


def built(*settings: str) -> ImaginationAgent:
    found = catalogue.find("dreamer_v3")
    made: ImaginationAgent = found.build(override(found.sizes("tiny"), [*SMALL, *settings]), COLUMNS, NUMBERS, seed=0)
    return made


def test_the_surprise_of_a_row_is_the_worlds_loss_there() -> None:
    """Its mean is the loss, and a step by hand is the divergence by both weights less the log-densities."""
    agent = built("mixture.priority=1", "world.free_nats=0.3")
    assert agent.surprise is None
    torch.manual_seed(3)
    agent.update(rows())
    found = agent.surprise
    assert found is not None
    assert found.shape == (3, 5)
    again = built("mixture.priority=1", "world.free_nats=0.3")
    torch.manual_seed(3)
    out = again.objective.run(rows(), wanted=["world"])["world"]
    assert found.mean() == pytest.approx(out.value.item(), rel=1e-5)
    h, z, e = (out.samples[k][1, 2].detach()[None] for k in "hze")
    log_q, log_p = (
        (0.99 * net(*given).view(16, 8).softmax(-1) + 0.01 / 8).log()
        for net, given in (
            (again.world.q_z_given_h_e, (h, e)), (again.world.p_z_given_h, (h,)),
        )
    )  # fmt: skip
    kl = (log_q.exp() * (log_q - log_p)).sum().item()
    steps = {title: value[1, 2].item() for title, value in out.steps.items() if title.startswith("log ")}
    assert len(steps) == 3
    assert found[1, 2] == pytest.approx(1.1 * max(kl, 0.3) - sum(steps.values()), rel=1e-4)
    seen = -((out.samples["y"][1, 2] - again.world.heads["y"].net(h, z)[0]) ** 2).sum() - 2 * np.log(np.pi)
    assert steps["log p(y_t|h_t,z_t)"] == pytest.approx(seen.item(), rel=1e-4)


def test_without_priorities_no_surprise_is_kept() -> None:
    agent = built()
    agent.update(rows())
    assert agent.surprise is None


def test_scales_of_the_loss_are_learnt_as_published() -> None:
    """Value and gradient of every s by hand, at scales that are not 0; what is printed; what stays unscaled."""
    agent = built("world.harmony=true", "world.free_nats=0.1", "world.dynamics=0.5")
    scales = agent.world.scales.s
    for s, value in zip(scales, (0.3, -0.4, 0.7), strict=True):
        s.data.fill_(value)
    out = agent.objective.run(rows(), seed=1, wanted=["world"])["world"]
    steps = {title: value.detach().numpy().astype(float) for title, value in out.steps.items()}
    dyn = np.maximum(next(v for k, v in steps.items() if k.startswith("KL(sg(")), 0.1)
    error = -steps["log p(y_t|h_t,z_t)"] - 2 * np.log(np.pi)
    reward, going = -steps["log p(r_t|h_t,z_t)"], -steps["log p(c_t|h_t,z_t)"]
    assert (error > 0).all()
    parts = [(0.3, reward, 1.0), (-0.4, error, 1.0), (0.7, dyn, 0.5 / 0.6)]
    wanted = going.mean() + sum(np.exp(-s) * x.mean() + share * np.log(1 + np.exp(s)) for s, x, share in parts)
    assert out.value.item() == pytest.approx(wanted, rel=1e-5)
    out.value.backward()
    for own, (s, x, share) in zip(scales, parts, strict=True):
        slope = -np.exp(-s) * x.mean() + share / (1 + np.exp(-s))
        assert own.grad.item() == pytest.approx(slope, rel=1e-4)
    assert r"\exp\left( -\hat{s}_{2,t} \right)" in agent.world.loss.latex
    assert sum(k.startswith("world.scales") for k in agent.state_dict()) == 3
    assert not any("scales" in k for k in built().state_dict())


def test_scales_are_weights_of_the_agent_that_move() -> None:
    agent = built("world.harmony=true")
    for _ in range(3):
        metrics = agent.update(rows())
    assert all(s.item() != 0 for s in agent.world.scales.s)
    assert np.isfinite(float(metrics["loss/total"]))
    with pytest.raises(ConfigError, match="expected target=reconstruction"):
        built("world.harmony=true", "world.target=barlow")


@pytest.mark.parametrize("layers", [1, 2])
def test_last_layers_of_actor_and_critic_begin_anew_with_their_slow_copy(layers: int) -> None:
    """At every third update, alone; the optimiser forgets them, and a checkpoint before it draws the same."""
    agent = built("reset_every=3", f"reset_layers={layers}", "behaviour.slow_rate=0.5")
    learner = agent.learner
    assert isinstance(learner, ImaginationActorCritic)
    for _ in range(2):
        agent.update(rows())
    saved, before = copy.deepcopy(agent.checkpoint()), {k: v.clone() for k, v in agent.state_dict().items()}
    torch.manual_seed(8)
    agent.update(rows())
    plain = built("behaviour.slow_rate=0.5")
    plain.restore(copy.deepcopy(saved))
    torch.manual_seed(8)
    plain.update(rows())
    heads = ("head.weight", "head.bias") + (("trunk.1.linear", "trunk.1.norm") if layers == 2 else ())
    own = plain.state_dict()
    found = {k for k, v in agent.state_dict().items() if not torch.equal(v, own[k])}
    assert found == {k for k in before if ("critic." in k or k.startswith("policy")) and any(h in k for h in heads)}
    assert (learner.critic.head.weight == 0).all()  # as it was in the beginning
    assert (learner.slow_critic.head.weight == 0).all()
    actor = agent.policy.net.mlp.head
    assert 0 < actor.weight.std() < 2 * 0.01
    assert (actor.bias == 0).all()
    steps = agent.checkpoint()["optimiser"]["agent"]
    assert not [k for k in steps if "head" in k and ("critic" in k or "π" in k or k.startswith("policy"))]
    other = built("reset_every=3", f"reset_layers={layers}", "behaviour.slow_rate=0.5")
    other.restore(saved)
    torch.manual_seed(8)
    other.update(rows())
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in agent.state_dict().items())


def test_what_is_frozen_or_cannot_begin_anew_does_not() -> None:
    agent = built("reset_every=1")
    head = agent.policy.net.mlp.head
    head.requires_grad_(False)
    before = head.weight.clone()
    agent.update(rows())
    assert torch.equal(head.weight, before)
    own = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(1))])
    with pytest.raises(FormulaError, match="ParameterList cannot begin anew"):
        Minimises({"x": 1.0}, [own], renews=[own], renews_every=1)
    layer = torch.nn.Linear(1, 1)
    with pytest.raises(FormulaError, match="Linear has weights that this player does not move"):
        Minimises({"x": 1.0}, [torch.nn.Linear(1, 1)], renews=[layer], renews_every=1)
    with pytest.raises(ConfigError, match="reset_every ≥ 0"):
        built("reset_every=-1")


@pytest.mark.parametrize("learnt", [True, False])
def test_a_discount_that_is_not_learnt_holds_for_plans_that_end_with_a_value(learnt: bool) -> None:
    agent = built(f"behaviour.discount_learnt={learnt}", "behaviour.horizon=4")
    seen = agent.perception.learn(rows(), agent.device)["c"]
    terminal = torch.as_tensor(rows()["is_terminal"])
    torch.testing.assert_close(seen, (1 - terminal.float()) * (0.75 if learnt else 1.0))
    assert agent.cost.task(lambda states: states["h"].sum(-1)).discount == (1.0 if learnt else 0.75)
    assert agent.cost.discount == (0.75 if learnt else 1.0)  # of a world without a head of going on


@pytest.mark.parametrize("shapes", [True, False])
def test_what_the_reward_and_replayed_values_are_worth_to_the_world(shapes: bool) -> None:
    """Gradients of both reach what makes the states, or their own heads alone."""
    agent = built(f"world.reward_gradient={shapes}", f"behaviour.replay_gradient={shapes}")
    learner = agent.learner
    assert isinstance(learner, ImaginationActorCritic)
    head = agent.world.heads["r"].net
    for one in (head.head, learner.critic.head):  # at zero, as they begin, they pass no gradient
        torch.nn.init.normal_(one.weight)
    outs = agent.objective.run(rows(), seed=2)
    encoder, own = list(agent.world.enc.parameters()), [head.head.weight, learner.critic.head.weight]
    reward = next(value for title, value in outs["world"].steps.items() if title.startswith("log p(r_t")).mean()
    for value, weight in zip((reward, agent.objective.value("replay", outs)), own, strict=True):
        found = torch.autograd.grad(value, [weight, *encoder], retain_graph=True, allow_unused=True)
        assert found[0].abs().sum() > 0
        assert any(g is not None and g.abs().sum() > 0 for g in found[1:]) == shapes


def test_the_rate_falls_and_matrices_decay_as_the_settings_say() -> None:
    """The agent's optimiser has what its settings have; what it does by them stands in `test_optimiser`."""
    agent = built("decay=0.1", "schedule=linear", "anneal=8")
    (group,) = agent.updates.optimisers["agent"].param_groups
    assert (group["decay"], group["schedule"], group["anneal"], group["warmup"]) == (0.1, "linear", 8, 0)
    for wrong, told in (("anneal=8", "constant with anneal=0"), ("schedule=cosine", "anneal above warmup=0")):
        with pytest.raises(ConfigError, match=told):
            built(wrong)
    with pytest.raises(ConfigError, match="decay ≥ 0"):
        built("decay=-1")
