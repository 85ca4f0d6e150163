"""Networks of several actions that share their hidden layers, and what is logged of each."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.agents.test_several_actions import COLUMNS, SPECS, batch
from worldformula.agent.imagination import ImaginationAgent
from worldformula.agents import dreamer_v3
from worldformula.errors import ShapeError
from worldformula.nets.mlp import MLP
from worldformula.training.settings import override


def build(one_trunk: bool) -> ImaginationAgent:
    return dreamer_v3.build(override(dreamer_v3.tiny(), [f"one_trunk={one_trunk}"]), COLUMNS, SPECS, seed=0)


def test_the_hidden_layers_stand_once_and_the_objective_prints_as_before() -> None:
    shared, apart = build(True), build(False)
    assert str(shared.loss) == str(apart.loss)
    assert str(shared.learner.dream) == str(apart.learner.dream)
    trunk = sum(p.numel() for p in apart.learner.policy.factors[0].net.mlp.trunk.parameters())
    count = [sum(p.numel() for p in agent.parameters()) for agent in (apart, shared)]
    assert count[0] - count[1] == 4 * trunk, "five actions, one trunk"
    tensors = [value.data_ptr() for value in shared.state_dict().values() if value.numel()]
    assert len(tensors) == len(set(tensors))
    assert dreamer_v3.official().one_trunk
    assert not dreamer_v3.paper().one_trunk


def test_the_gradient_of_the_trunk_is_the_sum_over_the_actions() -> None:
    agent, N, S = build(True).double(), 3, 4
    learner = agent.learner
    torch.manual_seed(0)
    for factor in learner.policy.factors:
        for weight in factor.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    with torch.no_grad():
        dream = agent.world.imagine(agent.world.initial(N, dtype=torch.float64), learner.policy, horizon=S - 1, seed=1)
    out = learner.dream(**learner.dreamed(dream, dream, torch.randn(N, S).double(), torch.rand(N, S).double()))
    h, z = dream["h"].flatten(0, 1), dream["z"].flatten(0, 1)
    trunk = learner.policy.factors[0].net.mlp.trunk
    hidden = trunk(torch.cat((h.flatten(1), z.flatten(1)), -1))
    likely, entropy = torch.zeros(N * S), torch.zeros(N * S)
    for factor in learner.policy.factors:
        a, head = dream[factor.variable.key].flatten(0, 1), factor.net.mlp.head(hidden)
        if factor.variable.key == "a_2":
            mean, std = head.chunk(2, -1)
            normal = torch.distributions.Normal(mean.tanh(), 0.1 + 0.9 * (std + 2).sigmoid())
            law: torch.distributions.Distribution = torch.distributions.Independent(normal, 1)
        elif factor.variable.key == "a_5":
            law = torch.distributions.Independent(torch.distributions.Bernoulli(logits=head), 1)
        else:
            law = torch.distributions.OneHotCategorical(probs=0.99 * head.softmax(-1) + 0.01 / head.shape[-1])
        likely, entropy = likely + law.log_prob(a), entropy + law.entropy()
        own = law.entropy().view(N, S).mean()
        torch.testing.assert_close(learner.metrics(out)[f"behaviour/entropy/{factor.variable.key}"], own.detach())
    weight, advantage = out.samples["w"].flatten(), out.samples["A"].flatten()
    by_hand = -(weight * (advantage * likely + 3e-4 * entropy)).view(N, S).mean()
    torch.testing.assert_close(out.value["actor"], by_hand)
    weights = list(trunk.parameters())
    for got, right in zip(
        torch.autograd.grad(out.value["actor"], weights), torch.autograd.grad(by_hand, weights), strict=True
    ):
        torch.testing.assert_close(got, right)


def test_an_agent_with_one_trunk_learns_keeps_and_copies_it() -> None:
    agent, rows = build(True), batch()
    before = {k: v.clone() for k, v in agent.state_dict().items()}
    for _ in range(3):
        agent.update(rows)
    assert not [k for k, v in agent.state_dict().items() if torch.equal(v, before[k])]
    first, last = (agent.learner.policy.factors[i].net.mlp for i in (0, 4))
    assert last.trunk is first.trunk
    other = build(True)
    other.restore(agent.checkpoint())
    assert all(torch.equal(v, agent.state_dict()[k]) for k, v in other.state_dict().items())
    copied = copy.deepcopy(agent)
    assert copied.learner.policy.factors[4].net.mlp.trunk is copied.learner.policy.factors[0].net.mlp.trunk
    assert copied.learner.policy.factors[4].net.mlp.trunk is not first.trunk


def test_a_single_action_has_one_entropy_and_layers_of_other_sizes_are_not_shared() -> None:
    single = dreamer_v3.build(dreamer_v3.tiny(), COLUMNS, SPECS["choice"], seed=0)
    rows = {("action" if k == "action/choice" else k): v for k, v in batch().items()}
    assert [k for k in single.update(rows) if "entropy" in k] == ["behaviour/policy_entropy"]
    with pytest.raises(ShapeError, match="dense layers of the same sizes"):
        MLP(4, 2, 8, 2).share(MLP(4, 2, 16, 2))
