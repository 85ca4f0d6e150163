"""Plans against an adversary: the least of the greatest, by enumeration, by hand and by calculus."""

import itertools
import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from worldformula.errors import ConfigError
from worldformula.formula import Bernoulli, Deterministic, OneHot
from worldformula.planner import ActionSet, Planner, Task
from worldformula.planners.beam import Beam
from worldformula.planners.cem import CEM
from worldformula.planners.gradient import Gradient
from worldformula.planners.grasp import GRASP
from worldformula.planners.minimax import Minimax
from worldformula.world import PriorDynamics

GAME = {"a": ActionSet(2, "choice"), "z": ActionSet(2, "choice", aim="max")}
TABLE = torch.tensor([[0.3, 1.1], [0.9, -0.4]])  # how far a step goes, by action and latent
ODDS = (0.9, 0.1)


class Table(nn.Module):
    """s goes as far as a table says."""

    def forward(self, s, a, z):
        return 0.8 * s + torch.einsum("ni,ij,nj->n", a, TABLE, z)[:, None]


def board():
    law = OneHot("p(z_t|s_{t-1})", lambda s: torch.tensor(ODDS).log().expand(len(s), 2), shape=2)
    return PriorDynamics(law * Deterministic("s_t = f(s_{t-1}, a_{t-1}, z_t)", Table(), shape=1))


TASK = Task(lambda states, actions: (states["s"][..., 0] - 1).square() + 0.1 * actions["a"][..., 1])
STARTS = {"s": torch.tensor([[0.0], [1.5], [-2.0]])}


def by_hand(start, horizon, price, ours=(0, 1), theirs=(0, 1)):
    """min over actions of max over latents of F − λR, and the actions, by loops; these may be the first ones."""
    worst = {}
    for a in (a for a in itertools.product((0, 1), repeat=horizon) if a[0] in ours):
        values = []
        for z in (z for z in itertools.product((0, 1), repeat=horizon) if z[0] in theirs):
            s, f = start, 0.0
            for i, j in zip(a, z, strict=True):
                s = 0.8 * s + TABLE[i, j].item()
                f += (s - 1) ** 2 + 0.1 * i + price * math.log(ODDS[j])
            values.append((f, z))
        worst[a] = max(values)
    best = min(worst, key=lambda a: worst[a][0])
    return worst[best][0], best, worst[best][1]


@pytest.mark.parametrize("price", [0.0, 0.3, 50.0])
def test_against_all_sequences_it_is_the_least_of_the_greatest(price):
    search = Minimax(Beam(horizon=3, width=8), CEM(horizon=3), price=price)
    plan = search.plan(board(), TASK, STARTS, space=GAME)
    for b, start in enumerate(STARTS["s"][:, 0].tolist()):
        value, best, reply = by_hand(start, 3, price)
        assert tuple(plan.actions["a"][b].argmax(-1).tolist()) == best
        assert tuple(plan.actions["z"][b].argmax(-1).tolist()) == reply
        odd = sum(math.log(ODDS[j]) for j in reply)
        assert plan.cost[b].item() == pytest.approx(value - price * odd, abs=1e-4)  # F alone
    assert (plan.actions["z"].argmax(-1) == 0).all() == (price == 50.0)


@pytest.mark.parametrize("most", [256, 1])
def test_masks_hold_for_both_sides(most):
    """By episode: all may be, the adversary's first choice is forbidden, and both sides have one."""
    both, first, second = [True, True], [True, False], [False, True]
    masks = {"a": torch.tensor([both, both, second]), "z": torch.tensor([both, second, first])}
    search = Minimax(Beam(3, 8), Beam(3, 8), most=most, rounds=8)
    plan = search.plan(board(), TASK, STARTS, space=GAME, mask=masks)
    may = [((0, 1), (0, 1)), ((0, 1), (1,)), ((1,), (0,))]
    for b, (start, (ours, theirs)) in enumerate(zip(STARTS["s"][:, 0].tolist(), may, strict=True)):
        value, best, reply = by_hand(start, 3, 0.0, ours, theirs)
        assert plan.cost[b].item() == pytest.approx(value, abs=1e-4)
        assert tuple(plan.actions["a"][b].argmax(-1).tolist()) == best
        assert tuple(plan.actions["z"][b].argmax(-1).tolist()) == reply


@dataclass(frozen=True)
class Still(Planner):
    """Answers with where it is told to begin, or with zeros."""

    horizon: int = 1

    def plan(self, dynamics, task, state, *, space, generators=None, warm=None, proposals=None, mask=None):
        search = CEM(1, 1, 1, 1, std=1e-9)
        return search.plan(dynamics, task, state, space=space, generators=generators, warm=warm)


def test_where_the_adversary_was_is_known():
    """(a + z/2 − 0.3)²: of an adversary who stays at z = 0.8, a = −0.1 is the answer; the second episode is cold."""
    model = PriorDynamics(Deterministic("s_t = f(s_{t-1}, a_{t-1}, z_{t-1})", Push(), shape=1))
    space = {"a": ActionSet(1), "z": ActionSet(1, aim="max")}
    task = Task(lambda states, actions: (states["s"][..., 0] - 0.3).square())
    search = Minimax(CEM(1, 200, 10, 6), Still(), rounds=2)
    warm = {"z": torch.tensor([[[0.8]], [[torch.nan]]])}
    plan = search.plan(model, task, {"s": torch.zeros(2, 1)}, space=space, warm=warm)
    torch.testing.assert_close(plan.actions["z"][:, 0, 0], torch.tensor([0.8, 0.0]), atol=1e-6, rtol=0)
    proposed = {"a": torch.zeros(2, 1, 1, 1), "z": torch.full((2, 1, 1, 1), -0.95)}
    seen = replace(search, rounds=1).plan(model, task, {"s": torch.zeros(2, 1)}, space=space, proposals=proposed)
    for b in range(2):  # against what was drawn and what was proposed, a is between the outermost
        drawn = torch.randn(2, generator=torch.Generator().manual_seed(b)).clamp(-1, 1).tolist()
        right = 0.3 - (max(*drawn, -0.95) + min(*drawn, -0.95)) / 4
        assert seen.actions["a"][b].item() == pytest.approx(right, abs=0.01)
    for what in ("warm", "mask"):
        with pytest.raises(ConfigError, match=f"{what}: the space has no 'q'; it has a, z"):
            search.plan(model, task, {"s": torch.zeros(2, 1)}, space=space, **{what: {"q": torch.zeros(2, 1, 1)}})


def test_replies_that_are_found_one_by_one_lead_to_the_same():
    """CEM finds the reply; of three steps, all latents are tried in effect."""
    found = CEM(horizon=3, candidates=40, elites=5, iterations=3)
    listed = Minimax(found, found).plan(board(), TASK, STARTS, space=GAME)
    replied = Minimax(found, found, most=1, rounds=6).plan(board(), TASK, STARTS, space=GAME)
    torch.testing.assert_close(replied.cost, listed.cost)
    torch.testing.assert_close(replied.actions["a"], listed.actions["a"])


class Push(nn.Module):
    """The adversary pushes half as hard."""

    def forward(self, s, a, z):
        return s + a + 0.5 * z


def test_numbers_are_pushed_by_gradient_ascent():
    """(a + z/2 − 0.3)² with |z| ≤ 1: the worst of a = 0.3 ± d is (½ + d)², so a = 0.3, at ¼."""
    model = PriorDynamics(Deterministic("s_t = f(s_{t-1}, a_{t-1}, z_{t-1})", Push(), shape=1))
    space = {"a": ActionSet(1), "z": ActionSet(1, aim="max")}
    task = Task(lambda states, actions: (states["s"][..., 0] - 0.3).square())
    planner = CEM(horizon=1, candidates=200, elites=10, iterations=6)
    plan = Minimax(planner, Gradient(horizon=1, candidates=4, iterations=60), rounds=5).plan(
        model, task, {"s": torch.zeros(2, 1)}, space=space
    )
    torch.testing.assert_close(plan.actions["a"], torch.full((2, 1, 1), 0.3), atol=0.02, rtol=0)
    torch.testing.assert_close(plan.cost, torch.full((2,), 0.25), atol=0.02, rtol=0)
    assert plan.actions["z"].abs().min() > 0.99


def test_what_is_sampled_what_is_set_and_what_is_feared_differ():
    """A short way that may be blocked: the mode takes it, the adversary never lets it, a dear one does."""
    block = Bernoulli("p(z_t|s_{t-1})", lambda s: torch.full((len(s), 1), math.log(0.1 / 0.9)), shape=1)
    way = PriorDynamics(
        block * Deterministic("s_t = f(s_{t-1}, a_{t-1}, z_t)", lambda s, a, z: 3 * a[:, :1] + a[:, 1:] * (1 + 9 * z),
                              shape=1)
    )  # fmt: skip
    task, start = Task(lambda states, actions: states["s"][..., 0]), {"s": torch.zeros(1, 1)}
    ours, game = {"a": ActionSet(2, "choice")}, {"a": ActionSet(2, "choice"), "z": ActionSet(1, "flags", aim="max")}
    search = Beam(horizon=1)
    assert search.plan(way, task, start, space=ours).cost.item() == 1
    feared = Minimax(search, search).plan(way, task, start, space=game)
    assert (feared.cost.item(), feared.actions["a"][0, 0].tolist()) == (3, [1, 0])
    dear = Minimax(search, search, price=5.0).plan(way, task, start, space=game)  # log 9 · 5 > 9
    assert (dear.cost.item(), dear.actions["a"][0, 0].tolist()) == (1, [0, 1])


def test_refusals():
    search = CEM(horizon=3, candidates=10, elites=2, iterations=1)
    with pytest.raises(ConfigError, match="samples=4"):
        Minimax(search, search).plan(board(), Task(TASK.cost, samples=4), STARTS, space=GAME)
    with pytest.raises(ConfigError, match="guide: an adversary"):
        Minimax(search, search).plan(board(), Task(TASK.cost, guide=TASK.cost), STARTS, space=GAME)
    with pytest.raises(ConfigError, match="undiscounted"):
        Minimax(search, search, price=1.0).plan(board(), Task(TASK.cost, discount=0.9), STARTS, space=GAME)
    with pytest.raises(ConfigError, match="price ≥ 0"):
        Minimax(search, search, price=-1.0)


def test_a_latent_that_a_state_carries_is_seen_by_the_cost():
    """s_t = s_{t-1} + a_{t-1} z_{t-1}: what the adversary sets now counts a step later, and the cost reads it too."""
    law = OneHot("p(z_t|s_t)", lambda s: torch.zeros(len(s), 2), shape=2)
    move = Deterministic(
        "s_t = f(s_{t-1}, z_{t-1}, a_{t-1})", lambda s, z, a: s + (a[:, 1:] - a[:, :1]) * (z[:, 1:] - z[:, :1]), shape=1
    )
    model, horizon = PriorDynamics(move * law), 3
    task = Task(lambda states, actions: states["s"][..., 0] + 0.3 * states["z"][..., 1] + 0.2 * actions["a"][..., 0])
    start = {"s": torch.zeros(2, 1), "z": torch.tensor([[1.0, 0.0], [0.0, 1.0]])}
    plan = Minimax(CEM(horizon, 60, 6, 4), CEM(horizon)).plan(model, task, start, space=GAME)
    for b, begun in enumerate((-1, 1)):
        worst = {}
        for a in itertools.product((-1, 1), repeat=horizon):
            values = []
            for z in itertools.product((-1, 1), repeat=horizon):
                s, f, before = 0.0, 0.0, begun
                for i, j in zip(a, z, strict=True):
                    s, before = s + i * before, j
                    f += s + 0.3 * (j > 0) + 0.2 * (i < 0)
                values.append(f)
            worst[a] = max(values)
        assert plan.cost[b].item() == pytest.approx(min(worst.values()), abs=1e-5)


@pytest.mark.parametrize("most", [256, 1], ids=["all replies", "replies that are found"])
def test_both_sides_know_how_long_a_step_takes(most):
    """By enumeration: the adversary may make a step long, behind which costs weigh little."""
    long, far, gamma = (1.0, 4.0), torch.tensor([[0.6, -0.5], [1.2, 0.7]]), 0.5

    class Slow(nn.Module):
        def forward(self, s, a, z):
            return 0.8 * s + torch.einsum("ni,ij,nj->n", a, far, z)[:, None], (z * z.new_tensor(long)).sum(-1)

    law = OneHot("p(z_t|s_{t-1})", lambda s: torch.zeros(len(s), 2), shape=2)
    model = PriorDynamics(
        law * Deterministic("s_t, k_t = f(s_{t-1}, a_{t-1}, z_t)", Slow(), shape=[1, ()]), duration="k"
    )
    starts = {"s": torch.tensor([[0.2], [-1.5], [2.5]])}
    task = Task(lambda states, actions: (states["s"][..., 0] - 1).square() + 0.1, discount=gamma)
    search = CEM(3, 60, 6, 5)
    plan = Minimax(search, search, most=most, rounds=8).plan(model, task, starts, space=GAME)
    ways = list(itertools.product((0, 1), repeat=3))
    for b, start in enumerate(starts["s"][:, 0].tolist()):
        worst = {}
        for a in ways:
            values = []
            for z in ways:
                s, total, weight = start, 0.0, 1.0
                for i, j in zip(a, z, strict=True):
                    s = 0.8 * s + far[i, j].item()
                    total += weight * ((s - 1) ** 2 + 0.1)
                    weight *= gamma ** long[j]
                values.append((total, z))
            worst[a] = max(values)
        best = min(worst, key=lambda a: worst[a][0])
        assert plan.cost[b].item() == pytest.approx(worst[best][0], abs=1e-4)
        assert tuple(plan.actions["a"][b].argmax(-1).tolist()) == best


def test_searches_that_take_steps_apart_are_refused():
    model = PriorDynamics(Deterministic("s_t = f(s_{t-1}, a_{t-1}, z_{t-1})", Push(), shape=1))
    space = {"a": ActionSet(1), "z": ActionSet(1, aim="max")}
    task = Task(lambda states, actions: (states["s"][..., 0] - 0.3).square())
    with pytest.raises(ConfigError, match=r"steps of a plan apart(.|\n)*write Minimax\(Gradient"):
        Minimax(GRASP(3, 2, 4), CEM(3)).plan(model, task, {"s": torch.zeros(2, 1)}, space=space)
