"""Mode-2 as LeCun 2022 has it: the energy of a plan is the sum over its steps, its first action is done, its states and
what they cost are stored, and from those a critic learns that judges plans which it was not shown.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.agents.test_tokens import N, Watched, agent_of
from worldformula.agent.cost import Cost
from worldformula.agent.recollection import Recollection
from worldformula.agent.terms import Distance, Effort
from worldformula.formula import Deterministic
from worldformula.learners.critics import MemoryCritic
from worldformula.planner import ActionSet, Plan
from worldformula.planners.cem import CEM
from worldformula.training.fit import fit
from worldformula.world import PriorDynamics

B, T = 40, 6
DYNAMICS = PriorDynamics(Deterministic("s_t = f(s_{t-1}, a_{t-1})", lambda s, a: s + 0.3 * a, shape=2))
COST = Cost(DYNAMICS, {"far": Distance("s"), "effort": Effort()}, weights={"far": 1.0, "effort": 0.05})


def planned(seed: int) -> Plan:
    start = 2 * torch.rand(B, 2, generator=torch.Generator().manual_seed(seed)) - 1
    task = COST.task(given={"goal": torch.zeros(B, 2)})
    return CEM(T, 60, 8, 3).plan(DYNAMICS, task, {"s": start}, space={"a": ActionSet(2)})


def test_the_energy_of_a_plan_is_the_sum_of_what_its_latents_and_actions_cost() -> None:
    plan = planned(0)
    s, a = plan.states["s"].double().numpy(), plan.actions["a"].double().numpy()
    by_hand = sum((s[:, t + 1] ** 2).sum(-1) + 0.05 * (a[:, t] ** 2).sum(-1) for t in range(T))
    np.testing.assert_allclose(plan.cost, by_hand, rtol=1e-5)
    np.testing.assert_allclose(s[:, -1], s[:, 0] + 0.3 * a.sum(1), atol=1e-5)


def test_the_first_action_of_a_plan_is_what_is_done() -> None:
    planner = Watched()
    agent = agent_of(planner, tokens={"wind": torch.zeros(1, 2)})
    rows = {"place": np.random.default_rng(0).uniform(-1, 1, (N, 2)).astype(np.float32), "is_first": np.ones(N, bool)}
    action, _ = agent.act(rows, agent.initial(N), explore=False)
    np.testing.assert_array_equal(action, planner.found[-1].actions["a"][:, 0].numpy())
    assert not np.array_equal(action, planner.found[-1].actions["a"][:, 1].numpy())


def stored(memory: Recollection, plan: Plan) -> None:
    """The states that a plan arrives at, with what each costs."""
    states = plan.states.span(1)
    memory.write(states.only(("s",)), COST(states, plan.actions))


def test_the_memory_grows_by_the_steps_of_every_plan_and_a_critic_of_it_judges_others() -> None:
    shown, held_out = Recollection(), Recollection()
    for seed in range(6):
        stored(shown, planned(seed))
        assert len(shown) == (seed + 1) * B * T
    stored(held_out, planned(100))
    torch.manual_seed(0)
    critic = MemoryCritic(nn.Sequential(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 1)), ["s"])
    judged = held_out.returns(400, discount=0.9, generator=torch.Generator().manual_seed(1))
    drawn = torch.Generator().manual_seed(2)
    losses = [critic.loss(**judged).value.item()]
    for _ in range(2):
        fit(critic.loss, lambda: shown.returns(128, discount=0.9, generator=drawn), batch=128, steps=150, lr=3e-3)
        losses.append(critic.loss(**judged).value.item())
    spread = 0.5 * judged["y"].var(correction=0).item()  # of whoever says the mean; an expectile of one half halves
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] < 0.5 * spread


@pytest.mark.parametrize("delta", [1, 3])
def test_pairs_are_of_what_a_state_costs_so_many_steps_later(delta: int) -> None:
    """LeCun's critic: (s_τ, IC_{τ+δ}) of one plan, whatever is stored beside it."""
    memory, plan = Recollection(), planned(7)
    stored(memory, plan)
    known = COST(plan.states.span(1), plan.actions).double().numpy()
    s = plan.states["s"][:, 1:].double().numpy()
    pairs = memory.pairs(50, delta, generator=torch.Generator().manual_seed(0))
    for state, later in zip(pairs["s"].double().numpy(), pairs["y"].double().numpy(), strict=True):
        b, t = np.argwhere(np.abs(s - state).max(-1) < 1e-6)[0]
        assert later == pytest.approx(known[b, t + delta], rel=1e-5)
