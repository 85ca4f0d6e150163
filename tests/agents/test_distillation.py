"""Plans become what a policy does: what is kept, what is learnt, and what a search begins with."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from worldformula.agent.distillation import Distillation
from worldformula.errors import ConfigError, FormulaError, NonFiniteError, ShapeError
from worldformula.formula import Deterministic, Joint, Normal, OneHot
from worldformula.planner import ActionSet, Task
from worldformula.planners.cem import CEM
from worldformula.training.fit import fit
from worldformula.world import PriorDynamics


class Step(nn.Module):
    def forward(self, s: Tensor, a: Tensor) -> Tensor:
        return s + 0.1 * a


class Net(nn.Module):
    """tanh of a small network of all that is given."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, outputs))

    def forward(self, *given: Tensor) -> Tensor:
        return torch.tanh(self.net(torch.cat(given, -1)))


DYNAMICS = PriorDynamics(Deterministic("s_t = f(s_{t-1}, a_{t-1})", Step(), shape=2))
SPACE, PLANNER = {"a": ActionSet(2)}, CEM(horizon=6, candidates=64, elites=8, iterations=4)


def student() -> Distillation:
    torch.manual_seed(0)
    return Distillation(Normal("π(a_t|s_t,g)", Net(4, 2), shape=2, scale=0.3))


def task(goals: Tensor) -> Task:
    return Task(lambda states, _: (states["s"] - states["g"]).square().sum(-1), given={"g": goals})


def plans(n: int = 40):
    drawn = torch.Generator().manual_seed(3)
    s, g = torch.randn(n, 2, generator=drawn), torch.randn(n, 2, generator=drawn)
    return s, g, PLANNER.plan(DYNAMICS, task(g), {"s": s}, space=SPACE)


def test_the_loss_is_the_mean_of_the_negative_log_density() -> None:
    own = student()
    s, g, a = torch.randn(7, 2), torch.randn(7, 2), torch.rand(7, 2) * 2 - 1
    own.write({"s": s, "g": g}, {"a": a})
    batch = own.draw(50, torch.Generator().manual_seed(1))
    with torch.no_grad():
        loc = own.nets[0](batch["s"][:, 0], batch["g"]).double().numpy()
    far = (batch["a"][:, 0].double().numpy() - loc) / 0.3
    right = (0.5 * far**2 + math.log(0.3) + 0.5 * math.log(2 * math.pi)).sum(-1).mean()
    assert own.loss(**batch).value.item() == pytest.approx(right, rel=1e-5)
    assert "g" in str(own.loss)
    assert sorted(map(tuple, batch["a"][:, 0].tolist())) != sorted(map(tuple, a.tolist()))  # drawn, not handed out


def test_actions_are_kept_beside_the_states_that_the_plan_goes_through() -> None:
    own = student()
    s, g, plan = plans(3)
    own.keep(plan, {"g": g}, steps=4)
    assert len(own) == 12
    at = s.double().numpy()[:, None] + 0.1 * np.concatenate(
        (np.zeros((3, 1, 2)), plan.actions["a"][:, :3].double().numpy().cumsum(1)), 1
    )
    rows = own._rows
    assert np.allclose(rows["s"].numpy(), at.reshape(-1, 2), atol=1e-6)
    assert torch.equal(rows["a"], plan.actions["a"][:, :4].flatten(0, 1))
    assert torch.equal(rows["g"], g.repeat_interleave(4, 0))


def test_the_oldest_are_forgotten_first() -> None:
    own = Distillation(Normal("π(a_t|s_t)", Net(1, 1), shape=1, scale=1.0), capacity=5)
    for k in range(4):
        own.write({"s": torch.full((2, 1), float(k))}, {"a": torch.zeros(2, 1)})
    assert own._rows["s"][:, 0].tolist() == [1.0, 2.0, 2.0, 3.0, 3.0]


def test_a_policy_comes_to_do_what_plans_say_and_searches_begin_there() -> None:
    own = student()
    _, g, plan = plans(200)
    own.keep(plan, {"g": g}, steps=3)
    drawn = torch.Generator().manual_seed(2)
    fit(own.loss, lambda: own.draw(128, drawn), batch=128, steps=600, lr=3e-3)
    new, goals = torch.randn(50, 2), torch.randn(50, 2)
    toward = torch.nn.functional.cosine_similarity(own.act({"s": new, "g": goals})["a"], goals - new)
    assert toward.mean() > 0.9
    begun = own.rehearsed(DYNAMICS, {"s": new}, 6, {"g": goals})
    assert begun["a"].shape == (50, 6, 2)
    cold, warm = (
        PLANNER.plan(DYNAMICS, task(goals), {"s": new}, space=SPACE, warm=w).trace[0].mean() for w in (None, begun)
    )
    assert warm < cold


def test_several_actions_and_choices() -> None:
    arm = Normal("π(m_t|s_t)", Net(2, 2), shape=2, scale=0.5)
    word = OneHot("π(w_t|s_t,m_t)", Net(4, 3), shape=3)
    own = Distillation(Joint.of(arm, word))
    chosen = torch.nn.functional.one_hot(torch.tensor([0, 2, 1]), 3).float()
    own.write({"s": torch.randn(3, 2)}, {"m": torch.zeros(3, 2), "w": chosen})
    assert own.loss(**own.draw(8)).value.isfinite()
    found = own.act({"s": torch.randn(4, 2)})
    assert found["m"].shape == (4, 2)
    assert torch.equal(found["w"].sum(-1), torch.ones(4))


def test_draws_are_of_the_law_of_the_policy_and_modes_are_its_middle() -> None:
    own = student()
    s = torch.zeros(20_000, 2)
    modes, drawn = (own.act({"s": s, "g": s}, explore=explore)["a"].double().numpy() for explore in (False, True))
    assert np.ptp(modes, 0).max() == 0
    np.testing.assert_allclose(drawn.mean(0), modes[0], atol=4 * 0.3 / math.sqrt(len(s)))
    np.testing.assert_allclose(drawn.std(0), 0.3, rtol=0.03)


def test_what_is_missing_is_named() -> None:
    own = student()
    with pytest.raises(ConfigError, match="nothing has been kept"):
        own.draw(3)
    with pytest.raises(ShapeError, match="missing"):
        own.write({"s": torch.zeros(3, 2)}, {"a": torch.zeros(3, 2)})
    with pytest.raises(ShapeError, match="expected what the policy reads"):
        own.write({"s": torch.zeros(3, 2), "g": torch.zeros(1, 2)}, {"a": torch.zeros(3, 2)})
    _, g, plan = plans(3)
    with pytest.raises(ConfigError, match="steps from 1"):
        own.keep(plan, {"g": g}, steps=7)
    with pytest.raises(FormulaError, match="no time"):
        Distillation(Normal("π(a|s)", Net(2, 2), shape=2, scale=1.0))
    with pytest.raises(ConfigError, match="capacity"):
        Distillation(Normal("π(a_t|s_t)", Net(2, 2), shape=2, scale=1.0), capacity=0)


def test_what_was_shown_is_in_the_state_dict_so_that_a_resumed_student_ends_with_the_same_bits(tmp_path) -> None:
    _, g, plan = plans(20)

    def learnt(own: Distillation, updates: int, drawn: torch.Generator) -> None:
        adam = torch.optim.SGD(own.parameters(), 1e-2)
        for _ in range(updates):
            adam.zero_grad()
            own.loss(**own.draw(8, drawn)).value.backward()
            adam.step()

    whole = student()
    whole.keep(plan, {"g": g}, steps=2)
    drawn = torch.Generator().manual_seed(5)
    learnt(whole, 5, drawn)
    torch.save(whole.state_dict(), tmp_path / "half.pt")
    position = drawn.get_state()
    learnt(whole, 5, drawn)

    again = student()
    again.load_state_dict(torch.load(tmp_path / "half.pt", weights_only=True))
    assert len(again) == 40
    drawn.set_state(position)
    learnt(again, 5, drawn)
    assert all(torch.equal(p, q) for p, q in zip(again.parameters(), whole.parameters(), strict=True))
    assert not torch.equal(next(again.parameters()), next(student().parameters()))


def test_rows_of_another_policy_are_refused() -> None:
    own, other = student(), Distillation(Normal("π(a_t|s_t)", Net(2, 2), shape=2, scale=0.3))
    own.write({"s": torch.randn(3, 2), "g": torch.randn(3, 2)}, {"a": torch.rand(3, 2)})
    with pytest.raises(ShapeError, match=r"expected rows of this policy\n(.|\n)*g +[|] False +[|] True"):
        other.set_extra_state(own.get_extra_state())


def test_what_no_policy_can_learn_is_not_kept() -> None:
    own = Distillation(Normal("π(a_t|s_t)", nn.Linear(2, 2), shape=2, scale=0.3))
    own.write({"s": torch.zeros(3, 2)}, {"a": torch.zeros(3, 2)})
    with pytest.raises(NonFiniteError, match="a holds NaN"):
        own.write({"s": torch.zeros(1, 2)}, {"a": torch.tensor([[0.0, torch.nan]])})
    with pytest.raises(ShapeError, match=r"a +\| \['N', 2\] +\| \[1, 3\]"):
        own.write({"s": torch.zeros(1, 2)}, {"a": torch.zeros(1, 3)})
    assert len(own) == 3
