"""THICK PlaNet: what it does beside PlaNet on the same world, sub-goals by hand, laws, and what it refuses."""

import copy
from dataclasses import replace

import pytest
import torch

from tests.agents.early import CHOICE, COLUMNS, NUMBERS, rows
from worldformula.agent.configurator import Configuration
from worldformula.agents import thick_planet
from worldformula.envs import Envs
from worldformula.errors import ConfigError
from worldformula.planners.cem import CEM
from worldformula.planners.hierarchy import Hierarchy
from worldformula.planners.mcts import MCTS
from worldformula.testing import check_agent
from worldformula.world import State

LOW = CEM(horizon=3, candidates=12, elites=3, iterations=2)
SMALL = replace(
    thick_planet.tiny(), batch=3, length=5, prefill=0, planner=LOW, codes=MCTS(horizon=2, simulations=12, surprise=0.1)
)
GAMMA = 0.98  # of `tiny`


def made(spec=NUMBERS, **changes):
    """An agent whose jumps do not begin near zero."""
    agent = thick_planet.build(replace(SMALL, **changes), COLUMNS, spec)
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in agent.world.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * 0.3)
    return agent


def seen(agent):
    """States after five rows."""
    read = agent.perception.learn(rows(NUMBERS), torch.device("cpu"))
    return agent.world.filter(read, deterministic=True).last()


def planned(agent, state):
    space = agent.search.space
    return agent.search.planner.plan(agent.world, agent.task(), state, space=space)


@pytest.mark.parametrize("env", ["lever_door", "key_corridor"])
def test_it_keeps_the_contract(env):
    envs = Envs(env, 2, seed=0)
    check_agent(thick_planet.build(SMALL, envs.observations, envs.actions), envs, turns=12)


def test_what_a_plan_costs_is_its_reward_and_the_way_to_the_sub_goal_by_hand():
    """By the networks, one after another: h, c and z of each step, the prior's classes, and the reward."""
    agent = made(subgoal=0.7)
    state = seen(agent)
    plan = planned(agent, state)
    (high,) = plan.upper
    own, world = agent.world.own, agent.world
    nets = {f.variable.key: f.net for f in world.high}
    assert high.actions["A"].shape == (3, 2, world.config.codes)
    body = nets["F"](state["z"], state["c"], high.actions["A"][:, 0])
    goal = nets["Y"](body).view(3, own.post.shape[0], -1).softmax(-1)
    read, memory = (f.net for f in own.slow.factors[1:])
    h, c, z = state["h"], state["c"], state["z"]
    costs = torch.zeros(3)
    for t in range(3):
        u = read(z, plan.actions["a"][:, t])
        c, _ = memory(u, c, torch.zeros_like(c))
        h = own.core.net(u, c, h)
        logits = own.fine.net(h, c).view(3, *own.post.shape)
        z = torch.nn.functional.one_hot(logits.argmax(-1), own.post.shape[1]).float()
        likely = logits.softmax(-1)
        cosine = (likely * goal).sum(-1) / likely.norm(dim=-1) / goal.norm(dim=-1)
        costs = costs - own.heads["r"].net(h, z, c)[:, 0] - 0.7 * cosine.mean(-1)
    assert plan.cost.tolist() == pytest.approx(costs.tolist(), rel=1e-4)


@torch.no_grad()
def test_an_end_that_is_predicted_takes_from_rewards_and_not_from_the_way_to_the_sub_goal():
    own = thick_planet.tiny().world
    agent = made(subgoal=0.7, world=replace(own, proceed=1.0))
    plan = planned(agent, seen(agent))
    (high,) = plan.upper
    world, states = agent.world, plan.states.span(1)
    goal = world.before(high.states["z"][:, 0], high.states["c"][:, 0], high.actions["A"][:, 0])
    told = world.decode(states, ("r", "d"))
    weight, total = torch.ones(3), torch.zeros(3)
    for t in range(3):
        likely = world.own.fine.net(states["h"][:, t], states["c"][:, t]).view_as(goal).softmax(-1)
        cosine = ((likely * goal).sum(-1) / likely.norm(dim=-1) / goal.norm(dim=-1)).mean(-1)
        total = total - weight * told["r"][:, t] - 0.7 * cosine
        weight = weight * told["d"][:, t]
    assert (weight < 0.9).all()
    assert plan.cost.tolist() == pytest.approx(total.tolist(), rel=1e-4)


@torch.no_grad()
def test_where_a_jump_leads_to_the_present_the_next_one_gives_the_sub_goal():
    """Plans of three jumps through states that are drawn; cosines to the present by hand."""
    agent = made()
    (high,) = planned(agent, seen(agent)).upper
    B, n, (groups, classes) = 64, agent.world.config.codes, agent.world.own.post.shape
    g = torch.Generator().manual_seed(0)
    z = torch.eye(classes)[torch.randint(classes, (B, 4, groups), generator=g)]
    codes = torch.eye(n)[torch.randint(n, (B, 3), generator=g)]
    drawn = State({"z": z, "c": torch.randn(B, 4, high.states["c"].shape[-1], generator=g)}, 2)
    nets = {f.variable.key: f.net for f in agent.world.high}
    ahead = [nets["Y"](nets["F"](z[:, k], drawn["c"][:, k], codes[:, k])) for k in range(3)]
    ahead = [y.view(B, groups, classes).softmax(-1) for y in ahead]
    cosines = torch.stack([((y * z[:, 0]).sum(-1) / y.norm(dim=-1)).mean(-1) for y in ahead], 1)
    limit = float(cosines.median())
    subgoals, plan = agent.search.planner.above[0].aim.__self__, replace(high, states=drawn, actions={"A": codes})
    chosen = [next((k for k in range(3) if cosines[b, k] < limit), 0) for b in range(B)]
    assert set(chosen) == {0, 1, 2}
    found = replace(subgoals, reached=limit).aim(plan)["Y"]
    torch.testing.assert_close(found, torch.stack([ahead[k][b] for b, k in enumerate(chosen)]))
    torch.testing.assert_close(replace(subgoals, reached=1.0).aim(plan)["Y"], ahead[0])


@torch.no_grad()
def test_codes_are_searched_by_the_reward_of_jumps_discounted_by_their_time():
    """All pairs of codes by the networks: reward on the way and behind, γ^n, and what was improbable; the best wins."""
    agent = made(codes=MCTS(horizon=2, simulations=60, surprise=0.5))
    state = seen(agent)
    (high,) = planned(agent, state).upper
    world, n = agent.world, agent.world.config.codes
    nets, reward = {f.variable.key: f.net for f in world.high}, world.own.heads_coarse["r_coarse"].net
    law = world.high[1].net
    read, memory = (f.net for f in world.own.slow.factors[1:])
    ahead, coarse = world.own.ahead.net, world.own.coarse.net
    shape = world.own.post.shape

    def mode(logits):
        return torch.nn.functional.one_hot(logits.view(-1, *shape).argmax(-1), shape[1]).float()

    best = {}
    for pair in [(i, j) for i in range(n) for j in range(n)]:
        z, c, total, odd, weight = state["z"], state["c"], torch.zeros(3), torch.zeros(3), torch.ones(3)
        for code in pair:
            a = torch.eye(n)[code].expand(3, -1)
            f = nets["F"](z, c, a)
            odd = odd - law(z, c).log_softmax(-1)[:, code]
            y, time = mode(nets["Y"](f)), nets["n"].net(f)[:, 0].relu().clamp_max(50) + 1
            act = nets["B"](f)["loc"]
            way = (nets["G"](f)[:, 0] - reward(z, c)[:, 0]) / GAMMA
            u = read(y, act)
            c, _ = memory(u, c, torch.zeros_like(c))
            z = mode(coarse(y, ahead(y, act, c)))
            total = total - weight * (way + GAMMA ** (time - 1) * reward(z, c)[:, 0])
            weight = weight * GAMMA**time
        best[pair] = total, odd
    found = [tuple(row) for row in high.actions["A"].argmax(-1).tolist()]
    wanted = [min(best, key=lambda pair: float((best[pair][0] + 0.5 * best[pair][1])[b])) for b in range(3)]
    assert found == wanted
    assert high.cost.tolist() == pytest.approx([float(best[p][0][b]) for b, p in enumerate(wanted)], rel=1e-4)
    assert len(set(wanted)) > 1  # the episodes are unlike


def test_without_a_sub_goal_it_is_planet_on_the_same_world_bit_by_bit():
    agent = made(subgoal=0.0)
    plan, state = planned(agent, seen(agent)), seen(agent)
    alone = LOW.plan(agent.world, agent.task(), state, space=agent.search.space)
    assert torch.equal(plan.actions["a"], alone.actions["a"])
    assert plan.upper == ()
    assert thick_planet.flat().subgoal == 0


def test_plans_of_actions_are_imagined_in_so_many_dreams_and_jumps_in_their_modes():
    agent, one = made(samples=3), made()
    plan, alone = planned(agent, seen(agent)), planned(one, seen(one))
    assert (agent.task().samples, one.task().samples) == (3, 0)
    assert torch.equal(plan.upper[0].cost, alone.upper[0].cost)
    task = replace(one.task(), samples=3)
    other = one.search.planner.plan(one.world, task, seen(one), space=one.search.space)
    assert torch.equal(plan.cost, other.cost)
    assert not torch.equal(plan.cost, alone.cost)


def test_with_draws_states_are_samples_where_it_does_not_explore():
    envs = Envs("lever_door", 2, seed=0)
    now, found = envs.reset(0), {}
    for draws in (False, True):
        agent = thick_planet.build(replace(SMALL, draws=draws), envs.observations, envs.actions)
        for seed in (0, 1, 0):
            torch.manual_seed(seed)
            state = agent.act(now, agent.initial(2), explore=False)[1]
            found.setdefault((draws, seed), []).append(state["z"])
    assert torch.equal(found[False, 0][0], found[False, 1][0])
    assert torch.equal(found[True, 0][0], found[True, 0][1])
    assert not torch.equal(found[True, 0][0], found[True, 1][0])


def test_a_copy_plans_in_its_own_world():
    agent = made()
    other = copy.deepcopy(agent)
    level = other.search.planner.above[0]
    assert level.dynamics is other.world.levels["jump"]
    assert level.task.__self__.world is other.world
    assert agent.search.planner.above[0].dynamics is agent.world.levels["jump"]


def test_a_plan_is_the_same_whatever_is_beside_it():
    agent = made()
    state = seen(agent)
    whole = planned(agent, state)
    one = planned(agent, state.select(torch.tensor([0])))  # generators are seeded 0, 1, … in order
    torch.testing.assert_close(one.actions["a"], whole.actions["a"][:1], rtol=0, atol=1e-5)
    assert torch.equal(one.upper[0].actions["A"], whole.upper[0].actions["A"][:1])


def test_rewards_are_learnt_in_a_unit_of_their_own():
    batch = rows(NUMBERS)
    for bounded in (False, True):
        agent = thick_planet.build(replace(SMALL, unit=0.1, bounded=bounded), COLUMNS, NUMBERS)
        wanted = 10 * torch.from_numpy(batch["reward"])
        assert wanted.any()
        found = agent.perception.learn(batch, torch.device("cpu"))["r"]
        torch.testing.assert_close(found, wanted.tanh() if bounded else wanted)


@pytest.mark.parametrize("spec", [CHOICE, NUMBERS], ids=["choice", "numbers"])
def test_both_players_move_their_own_and_dreams_hold_nothing_for_a_critic(spec):
    agent = thick_planet.build(SMALL, COLUMNS, spec)
    parts = {"world": agent.world.low, "jumps": agent.world.high}
    before = {name: [p.detach().clone() for m in own for p in m.parameters()] for name, own in parts.items()}
    for seed in range(2):
        found = agent.update(rows(spec, seed))
    assert {"loss/jumps", "loss/kl_coarse", "loss/gates"} <= set(found)
    for name, own in parts.items():
        after = [p for m in own for p in m.parameters()]
        assert all(not torch.equal(a, b) for a, b in zip(before[name], after, strict=True)), name
    assert "y" not in agent.world.carried  # no critic asks for it


def test_it_may_be_told_to_plan_flat_and_back():
    agent = made()
    usual = agent.habits.usual
    agent.configure(Configuration(planner=LOW, warm=False))
    assert planned(agent, seen(agent)).upper == ()
    agent.configure(usual)
    assert isinstance(agent.search.planner, Hierarchy)
    assert len(planned(agent, seen(agent)).upper) == 1


def test_refused():
    with pytest.raises(ConfigError, match="planet has none"):
        replace(SMALL, world=replace(SMALL.world, jumps=None))
    with pytest.raises(ConfigError, match=r"subgoal, samples, noise, prefill and decay ≥ 0, got -0.1"):
        replace(SMALL, subgoal=-0.1)
    with pytest.raises(ConfigError, match="unit, lr, eps and clip > 0"):
        replace(SMALL, unit=0.0)
