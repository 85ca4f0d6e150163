"""Beam search: a wide frontier is a search of all plans, and to a narrow one a tenth of their leaves is enough."""

import itertools

import pytest
import torch
from torch import nn

from worldformula.errors import ConfigError, FormulaError, NonFiniteError
from worldformula.formula import Bernoulli, Deterministic, Normal, OneHot
from worldformula.planner import ActionSet, CVaR, Task
from worldformula.planners.beam import Beam
from worldformula.planners.cem import CEM
from worldformula.score import Score
from worldformula.world import PriorDynamics

SWITCH = {"u": ActionSet(2, "choice")}


class Turn(nn.Module):
    """A point that steps by ±1 along a direction that turns with every step, and forgets a little."""

    def forward(self, s, u):
        return torch.stack((0.9 * s[:, 0] + (u[:, 1] - u[:, 0]) * s[:, 2].cos(),
                            0.9 * s[:, 1] + (u[:, 1] - u[:, 0]) * s[:, 2].sin(), s[:, 2] + 0.7), -1)  # fmt: skip


def turning():
    return PriorDynamics(Deterministic("s_t = f(s_{t-1}, u_{t-1})", Turn(), shape=3))


def near(goal):
    return Task(lambda states, actions: (states["s"][..., :2] - goal).square().sum(-1))


def all_plans(horizon, size=2):
    """Every sequence of choices, ``[k^H, H, k]``, by itertools."""
    codes = list(itertools.product(range(size), repeat=horizon))
    return torch.nn.functional.one_hot(torch.tensor(codes), size).float()


def least_of_all(goal, starts, horizon):
    """The least cost of every episode by a loop over all plans and steps, without the library."""
    best = []
    for s in starts.tolist():
        costs = []
        for plan in itertools.product((-1.0, 1.0), repeat=horizon):
            x, y, angle, cost = *s, 0.0
            for step in plan:
                x = 0.9 * x + step * torch.tensor(angle).cos().item()
                y = 0.9 * y + step * torch.tensor(angle).sin().item()
                angle += 0.7
                cost += (x - goal[0]) ** 2 + (y - goal[1]) ** 2
            costs.append(cost)
        best.append(min(costs))
    return torch.tensor(best)


GOAL = torch.tensor([1.0, -0.5])
STARTS = torch.tensor([[0.0, 0.0, 0.0], [1.5, -1.0, 2.0], [-2.0, 0.5, 4.0]])


def test_the_best_of_256_plans_is_found_with_a_tenth_of_the_leaves():
    """Two choices, eight steps: of 256 plans, 16 are tried to their end, and 120 steps of 2048 are imagined."""
    plan = Beam(horizon=8, width=8).plan(turning(), near(GOAL), {"s": STARTS}, space=SWITCH)
    torch.testing.assert_close(plan.cost, least_of_all(GOAL.tolist(), STARTS, 8), atol=1e-4, rtol=1e-4)
    leaves = 8 * 2
    assert leaves <= 0.1 * 2**8
    tried = 2 + 4 + 8 + 16 * 5  # options behind 1, 2, 4, 8, … beginnings
    assert plan.calls == tried + 8
    assert plan.calls <= 0.1 * 8 * 2**8


def test_a_frontier_as_wide_as_all_beginnings_is_a_search_of_all():
    torch.manual_seed(0)
    rough = torch.randn(1, 4, 2)  # costs without any order: what is best later says nothing of what is best now
    task = Task(lambda states, actions: (states["s"][..., :2] * rough).sum(-1) * 5)
    everything = Score(turning(), task, {"s": STARTS}, SWITCH, 4, [torch.Generator() for _ in range(3)])
    cost = everything({"u": all_plans(4).expand(3, -1, -1, -1)})
    task_of = {t: Task(lambda states, a, t=t: (states["s"][..., :2] * rough[:, :t]).sum(-1) * 5) for t in range(1, 5)}
    whole = Task(lambda states, a: task_of[states["s"].shape[1]].cost(states, a))
    plan = Beam(horizon=4, width=8).plan(turning(), whole, {"s": STARTS}, space=SWITCH)
    torch.testing.assert_close(plan.cost, cost.min(1).values)


def test_a_value_at_the_end_ranks_beginnings():
    """With a cost that only the last state has, W = 1 finds the way where the value says how far it is."""
    far = Task(lambda states, a: 0 * states["s"][..., 0], value=lambda s: (s["s"][:, 0] - 6).abs())
    walk = PriorDynamics(Deterministic("s_t = f(s_{t-1}, u_{t-1})", Walk(), shape=1))
    plan = Beam(horizon=6, width=1).plan(walk, far, {"s": torch.zeros(2, 1)}, space=SWITCH)
    assert plan.cost.tolist() == [0.0, 0.0]
    assert (plan.actions["u"][..., 1] == 1).all()


class Walk(nn.Module):
    """A step down or up."""

    def forward(self, s, u):
        return s + u[:, 1:] - u[:, :1]


def test_states_that_are_one_are_kept_once():
    """After three steps up or down a walk has four places: W = 4 is then enough."""
    task = Task(lambda states, a: -(states["s"][..., 0] == 4).float() * 100 + states["s"][..., 0].abs())
    walk = PriorDynamics(Deterministic("s_t = f(s_{t-1}, u_{t-1})", Walk(), shape=1))
    start = {"s": torch.zeros(1, 1)}
    kept, merged = (Beam(horizon=4, width=4, merge=m).plan(walk, task, start, space=SWITCH) for m in (None, 0.1))
    best = Score(walk, task, start, SWITCH, 4, [torch.Generator()])({"u": all_plans(4)[None]}).min()
    assert merged.cost.item() == best.item() == -90.0
    assert kept.cost.item() > merged.cost.item()


def branching(tilt=0.9):
    """z_t, improbable to be 1, which is where the cost is low: a plan that sets z has to believe in it."""
    law = OneHot("p(z_t|s_{t-1})", lambda s: torch.log(torch.tensor([tilt, 1 - tilt])).expand(len(s), 2), shape=2)
    move = Deterministic("s_t = f(s_{t-1}, z_t)", lambda s, z: s + z[:, 1:], shape=1)
    return PriorDynamics(law * move)


def test_an_improbable_latent_costs_what_its_law_says():
    """Three steps, each −1 where z is 1, with −log p at the price 1/β: by hand from k · (−log .1) − k and so on."""
    task = Task(lambda states, a: -states["s"][..., 0])
    start, space = {"s": torch.zeros(1, 1)}, {"z": ActionSet(2, "choice")}
    for price in (0.0, 0.5, 1.0, 5.0):
        plan = Beam(horizon=3, width=8, surprise=price).plan(branching(), task, start, space=space)
        chosen = plan.actions["z"][0, :, 1].tolist()
        by_hand = min(
            itertools.product((0, 1), repeat=3),
            key=lambda z: (
                -sum(sum(z[: t + 1]) for t in range(3))
                - price * sum(float(torch.log(torch.tensor(0.1 if i else 0.9))) for i in z)
            ),
        )
        assert tuple(chosen) == by_hand
        hand = torch.tensor([-sum(sum(by_hand[: t + 1]) for t in range(3))], dtype=torch.float32)
        torch.testing.assert_close(plan.cost, hand)


def test_what_is_chosen_has_the_probability_that_the_prior_says():
    model = PriorDynamics(
        OneHot("p(z_t|s_{t-1},u_{t-1})", Both(5, 3), shape=3)
        * Bernoulli("p(w_t|z_t)", Both(3, 1), shape=1)
        * Deterministic("s_t = f(s_{t-1}, z_t, w_t)", lambda s, z, w: s + z * w, shape=3)
    )
    torch.manual_seed(1)
    N, H = 4, 5
    acts = {
        "u": torch.nn.functional.one_hot(torch.randint(2, (N, H)), 2).float(),
        "z": torch.nn.functional.one_hot(torch.randint(3, (N, H)), 3).float(),
        "w": torch.randint(2, (N, H, 1)).float(),
    }
    dream = model.imagine({"s": torch.randn(N, 3)}, actions=acts)
    got = model.log_prob_of(dream, acts)
    z_net, w_net = model.prior.factors[0].net, model.prior.factors[1].net
    for n in range(N):
        s = dream["s"][n]
        for t in range(H):
            logits = z_net(s[t][None], acts["u"][n, t][None])
            hand = torch.distributions.OneHotCategorical(logits=logits).log_prob(acts["z"][n, t][None])
            flag = torch.distributions.Bernoulli(logits=w_net(acts["z"][n, t][None])[:, 0])
            hand = hand + flag.log_prob(acts["w"][n, t])
            torch.testing.assert_close(got[n, t], hand[0])
    alone = model.log_prob_of(
        model.imagine({"s": torch.randn(N, 3)}, actions={"u": acts["u"]}, seed=0), {"u": acts["u"]}
    )
    assert (alone == 0).all()


class Both(nn.Module):
    """A linear layer of all conditions."""

    def __init__(self, inputs, outputs):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(inputs, outputs)

    def forward(self, *conditions):
        return self.layer(torch.cat(conditions, -1))


def test_risk_over_samples_is_that_of_the_whole_search():
    """The noise of the samples is shared, so a wide beam and a search of all agree."""
    move = Normal("p(s_t|s_{t-1},u_{t-1})", Gusty(), shape=1)
    model, start = PriorDynamics(move), {"s": torch.zeros(2, 1)}
    task = Task(lambda states, a: (states["s"][..., 0] - 1.5).square(), samples=6, risk=CVaR(0.3))
    plan = Beam(horizon=4, width=16).plan(
        model, task, start, space=SWITCH, generators=[torch.Generator().manual_seed(i) for i in (5, 6)]
    )
    score = Score(model, task, start, SWITCH, 4, [torch.Generator().manual_seed(i) for i in (5, 6)])
    cost = score({"u": all_plans(4).expand(2, -1, -1, -1)})
    torch.testing.assert_close(plan.cost, cost.min(1).values)


class Gusty(nn.Module):
    """Up is less certain than down: loc, and a deviation by softplus."""

    def forward(self, s, u):
        return torch.cat((s + u[:, 1:] - u[:, :1], 2 * u[:, 1:] - 1), -1)


def test_costs_read_what_they_are_given():
    line = PriorDynamics(Deterministic("s_t = f(s_{t-1}, a_{t-1})", lambda s, a: s + a[:, 1:], shape=1))
    task = Task(
        lambda states, _: (states["s"] - states["goal"])[..., 0].square(), given={"goal": torch.tensor([[1.0], [3.0]])}
    )
    plan = Beam(3, 4).plan(line, task, {"s": torch.zeros(2, 1)}, space={"a": ActionSet(2, "choice")})
    assert plan.actions["a"][:, :, 1].tolist() == [[1, 0, 0], [1, 1, 1]]


def test_refusals():
    start = {"s": torch.zeros(1, 1)}
    walk = PriorDynamics(Deterministic("s_t = f(s_{t-1}, u_{t-1})", Walk(), shape=1))
    task = Task(lambda states, a: states["s"][..., 0])
    with pytest.raises(ConfigError, match="of numbers"):
        Beam().plan(walk, task, start, space={"u": ActionSet(2)})
    with pytest.raises(ConfigError, match="ways to take a step"):
        Beam().plan(walk, task, start, space={"u": ActionSet(13, "flags")})
    with pytest.raises(ConfigError, match="horizon and width"):
        Beam(width=0)
    with pytest.raises(ConfigError, match="adversary"):
        Beam().plan(walk, task, start, space={"u": ActionSet(2, "choice", aim="max")})
    hidden = PriorDynamics(
        Deterministic("h_t = g(s_{t-1}, u_{t-1})", lambda s, u: s, shape=1)
        * OneHot("p(z_t|h_t)", Both(1, 2), shape=2)
        * Deterministic("s_t = f(s_{t-1}, z_t)", lambda s, z: s + z[:, 1:], shape=1)
    )
    acts = {"u": torch.eye(2)[None], "z": torch.eye(2)[None]}
    with pytest.raises(FormulaError, match="a dream does not hold it"):
        hidden.log_prob_of({k: v for k, v in hidden.imagine(start, actions=acts).items() if k != "h"}, acts)


def test_it_beats_a_search_by_sampling_at_as_many_calls():
    """At no more imagined steps, on the turning point."""
    beam = Beam(horizon=8, width=8).plan(turning(), near(GOAL), {"s": STARTS}, space=SWITCH)
    cem = CEM(horizon=8, candidates=5, elites=2, iterations=2).plan(turning(), near(GOAL), {"s": STARTS}, space=SWITCH)
    assert cem.calls <= beam.calls
    assert (beam.cost <= cem.cost + 1e-4).all()
    assert (beam.cost < cem.cost - 1e-3).any()


def test_a_plan_without_a_cost_is_no_result_where_the_frontier_holds_all() -> None:
    """A frontier that is wider than there are plans keeps those of NaN too."""

    def cost(states, actions):
        return torch.where(actions["u"][..., 0] > 0, torch.nan, 1.0)

    plan = Beam(horizon=2, width=16).plan(turning(), Task(cost), {"s": STARTS}, space=SWITCH)
    assert plan.actions["u"].argmax(-1).tolist() == [[1, 1]] * 3
    assert plan.cost.tolist() == [2.0] * 3
    assert plan.discarded.tolist() == [1 + 3] * 3  # of two beginnings one, of four plans three


def test_what_is_forbidden_is_behind_what_costs_infinity() -> None:
    task = Task(lambda states, actions: torch.full_like(states["s"][..., 0], torch.inf))
    mask, proposal = {"u": torch.tensor([[False, True]] * 3)}, torch.eye(2)[[0, 0]].expand(3, 1, 2, 2)
    for proposals in (None, {"u": proposal}):
        plan = Beam(horizon=2, width=1).plan(
            turning(), task, {"s": STARTS}, space=SWITCH, mask=mask, proposals=proposals
        )
        assert plan.first["u"].argmax(-1).tolist() == [1] * 3
    lost = Task(lambda states, actions: torch.where(actions["u"][..., :1, 1] > 0, torch.nan, 1.0).expand(-1, 2))
    with pytest.raises(NonFiniteError, match="every candidate"):
        CEM(horizon=2, candidates=8, elites=2, iterations=2).plan(
            turning(), lost, {"s": STARTS}, space=SWITCH, mask=mask, proposals={"u": proposal}
        )
