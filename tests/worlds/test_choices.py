"""What a prior draws, set by the caller of a dream: against loops by hand, searched by a planner, and in worlds that
remember a past.
"""

from dataclasses import replace

import pytest
import torch

from tests.formula.models import A, B, D, Join, Z
from tests.worlds.sketches import transformer
from tests.worlds.test_dynamics import world
from tests.worlds.test_history_worlds import gpt
from worldformula import Deterministic, Normal, OneHot
from worldformula.errors import ConfigError, FormulaError, ShapeError
from worldformula.planner import ActionSet, Task
from worldformula.planners.cem import CEM
from worldformula.world import PriorDynamics

H = 4


def start(made):
    return made.initial(B) | {"h": torch.randn(B, D), "z": torch.randn(B, Z)}


def test_a_chosen_draw_takes_the_place_of_its_factor():
    made = world()
    assert made.choices == ("z",)
    core = made.prior.factors[0].net
    begin, z, a = start(made), torch.randn(B, H, Z), torch.randn(B, H, A)
    dream = made.imagine(begin, actions={"a": a, "z": z})
    assert dream["z"].shape == (B, H + 1, Z)
    torch.testing.assert_close(dream["z"], torch.cat((begin["z"][:, None], z), 1), rtol=0, atol=0)
    h = begin["h"]
    for t in range(H):
        h = core(h, dream["z"][:, t], a[:, t])
        torch.testing.assert_close(dream["h"][:, t + 1], h, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(dream["a"], a, rtol=0, atol=0)
    assert made.decode(dream)["x"].shape[:2] == (B, H + 1)


def test_choosing_what_was_drawn_is_the_same_dream_in_value_and_gradient():
    made = world()
    begin, a = start(made), torch.randn(B, H, A, requires_grad=True)
    drawn = made.imagine(begin, actions=a, seed=3)
    chosen = made.imagine(begin, actions={"a": a, "z": drawn["z"][:, 1:].detach().requires_grad_()})
    torch.testing.assert_close(chosen["h"], drawn["h"])
    z = drawn["z"].detach().requires_grad_()
    made.imagine(begin, actions={"a": a, "z": z[:, 1:]})["h"][:, 2].sum().backward()
    assert z.grad[:, 1].abs().sum() > 0, "the second state reads the first choice"
    assert (z.grad[:, 2:] == 0).all(), "and no later one"


def test_a_prior_without_actions_and_several_leading_axes():
    p = Normal("p(z_t|z_{t-1})", Join(Z, 2 * Z), shape=Z)
    read = Deterministic("y_t = g(y_{t-1}, z_t)", Join(D + Z, D), shape=D)
    made = PriorDynamics(p * read)
    begin, z = made.initial(6).unflat((2, 3)), torch.randn(2, 3, H, Z)
    dream = made.imagine(begin, actions={"z": z})
    y = torch.zeros(6, D)
    for t in range(H):
        y = read.net(y, z[:, :, t].flatten(0, 1))
        torch.testing.assert_close(dream["y"][:, :, t + 1].flatten(0, 1), y)
    assert made.imagine(begin, horizon=2)["z"].shape == (2, 3, 3, Z)


def test_what_a_transformer_remembers_is_what_was_chosen():
    made, data = transformer.build(), transformer.batch()
    begin = made.filter(data, seed=0).last()
    a = torch.randn(transformer.B, H, transformer.A)
    drawn = made.imagine(begin, actions=a, seed=1)
    chosen = made.imagine(begin, actions={"a": a, "z": drawn["z"][:, 1:]})
    torch.testing.assert_close(chosen["h"], drawn["h"], rtol=1e-4, atol=1e-5)
    nexts = [made.imagine(s.last(), actions=a[:, :1], seed=2)["h"] for s in (drawn, chosen)]
    torch.testing.assert_close(nexts[0], nexts[1], rtol=1e-4, atol=1e-5)


def test_what_remembers_its_own_draws_is_no_choice():
    made = gpt()
    assert made.choices == ()
    with pytest.raises(FormulaError, match="may be chosen too: nothing"):
        made.imagine(made.initial(B), actions={"a": torch.zeros(B, H, A), "z": torch.zeros(B, H, Z)})


def test_a_planner_searches_for_choices():
    """z_t = what is chosen: the cheapest is the one nearest to .5, at every step."""
    made = PriorDynamics(Normal("p(z_t|z_{t-1})", Join(Z, 2 * Z), shape=Z))
    task = Task(lambda states, actions: (states["z"] - 0.5).square().sum(-1))
    torch.manual_seed(0)
    planner = CEM(horizon=3, candidates=300, elites=30, iterations=8)
    plan = planner.plan(made, task, made.initial(2), space={"z": ActionSet(Z)})
    samples = planner.plan(made, replace(task, samples=3), made.initial(2), space={"z": ActionSet(Z)})
    torch.testing.assert_close(samples.actions["z"], torch.full((2, 3, Z), 0.5), rtol=0, atol=0.05)
    torch.testing.assert_close(plan.actions["z"], torch.full((2, 3, Z), 0.5), rtol=0, atol=0.05)


def test_what_may_be_chosen_is_told():
    made = world()
    with pytest.raises(FormulaError, match="expected the actions a by name, got z\nof what the prior draws .*: z"):
        made.imagine(start(made), actions={"z": torch.zeros(B, H, Z)})
    with pytest.raises(FormulaError, match="got a, h\n"):
        made.imagine(start(made), actions={"a": torch.zeros(B, H, A), "h": torch.zeros(B, H, D)})
    with pytest.raises(ShapeError, match="do not fit the start, or one another"):
        made.imagine(start(made), actions={"a": torch.zeros(B, H, A), "z": torch.zeros(B, 2, Z)})
    with pytest.raises(FormulaError, match="has no action"):
        PriorDynamics(Normal("p(z_t|z_{t-1})", Join(Z, 2 * Z), shape=Z)).imagine(
            {"z": torch.zeros(B, Z)}, actions=torch.zeros(B, H, Z)
        )


def test_a_one_hot_is_no_numbers():
    made = PriorDynamics(OneHot("p(k_t|k_{t-1})", Join(3, 3), shape=3))
    task = Task(lambda states, actions: states["k"][..., 0])
    with pytest.raises(ConfigError, match=r"of kind numbers\nwrite ActionSet\(3, 'choice'\)"):
        CEM(horizon=2, candidates=20, elites=4).plan(made, task, made.initial(2), space={"k": ActionSet(3)})
    plan = CEM(horizon=2, candidates=40, elites=4).plan(
        made, task, made.initial(2), space={"k": ActionSet(3, "choice")}
    )
    assert (plan.actions["k"][..., 0] == 0).all()
