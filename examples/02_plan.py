"""Any planner on any world: a point in the plane as a world in four lines, and CEM that steers it to a goal.

python examples/02_plan.py
"""

import torch
from torch import Tensor, nn

from worldformula import Deterministic, E, Normal, Sum, World, log
from worldformula.planner import ActionSet, Task
from worldformula.planners.cem import CEM


class Move(nn.Module):
    """The point moves by a fifth of the action."""

    def forward(self, s: Tensor, a: Tensor) -> Tensor:
        """s [N, 2], a [N, 2] in [-1, 1]."""
        return s + 0.2 * a


move = Deterministic("s_t = f(s_{t-1}, a_{t-1})", Move(), shape=2)
seen = Normal("p(x_t|s_t)", nn.Identity(), shape=2, scale=0.1)
loss = Sum("t", E(move, -log(seen))).mean()
world = World(prior=move, posterior=move, heads=[seen], loss=loss)

goal = torch.tensor([0.8, -0.4])
state = {"s": torch.zeros(1, 2)}
planner, space = CEM(horizon=5), {"a": ActionSet(2)}
task = Task(lambda states, _: (states["s"] - goal).square().sum(-1))
warm = None

for step in range(8):
    plan = planner.plan(world, task, state, space=space, warm=warm)
    state, warm = plan.states.at(1), plan.shifted()
    x, y = state["s"][0].tolist()
    print(f"step {step + 1}: at ({x:+.2f}, {y:+.2f}), predicted cost {plan.cost.item():.3f}, {plan.calls} model steps")
