r"""Mode-2 teaches Mode-1: what a search has found becomes what a policy does at once (LeCun 2022, section 3.1.3).

    D ← {(s_t, g, ã_t)},   ã of plans from s_t              mean −log π(ã_t|s_t, g)
    rounds: the policy acts, plans from its own states join D (DAgger; Ross et al. 2011, arXiv:1011.0686)

A policy that has seen the states of its teacher alone drifts to where it knows nothing; hence the rounds. The same
policy, rolled through the world, is where the next search begins: `rehearsed`, as ``warm`` or ``proposals`` of a plan.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError, FormulaError, NonFiniteError, ShapeError, table
from worldformula.formula import Expression, Factor, Joint, Mean, log
from worldformula.planner import Plan
from worldformula.world import Dynamics, State, Values
from worldformula.world.dynamics import joint
from worldformula.world.policies import acting


class Distillation(nn.Module):
    """What a policy learns from plans, and the plans that it has been shown: its ``state_dict`` holds both.

    Args:
        policy: π(a_t|s_t), or π(a_t|s_t,g) of a goal, a factor or a product of one for each action.
        capacity: how many states are kept; the oldest are forgotten first.

    Raises:
        ConfigError: a capacity below 1.
        FormulaError: a policy without a time.

    Attributes:
        loss: the mean of −log π over what is kept, an expression of the policy's conditions and actions.
    """

    loss: Expression

    def __init__(self, policy: Factor | Joint, capacity: int | None = None) -> None:
        super().__init__()
        if capacity is not None and capacity < 1:
            raise ConfigError(f"expected a capacity of at least 1 state, got {capacity}")
        self.factors, self.capacity = joint(policy).factors, capacity
        declared = [factor.variable for factor in self.factors]
        index = declared[0].index
        if index is None:
            raise FormulaError(f"{policy} acts at no time: write π(a_t|s_t), or π(a_t|s_t,g) of a goal g")
        read = [c for factor in self.factors for c in factor.conditions if c not in declared]
        self.actions = tuple(v.key for v in declared)
        self.timed = tuple(dict.fromkeys(v.key for v in read if v.index == index))
        self.held = tuple(dict.fromkeys(v.key for v in read if v.key not in self.timed))
        self.nets = nn.ModuleList([f.net for f in self.factors if isinstance(f.net, nn.Module)])
        told = [-log(factor) for factor in self.factors]
        # Out of the module tree: it holds the same networks, which must appear once in the state_dict.
        self.__dict__["loss"] = Mean(index, sum(told[1:], told[0])).mean()
        self._rows: dict[str, Tensor] = {}

    def get_extra_state(self) -> dict[str, Tensor]:
        """What is kept, for ``state_dict``."""
        return dict(self._rows)

    def set_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Keeps that from now on, where the weights are.

        Raises:
            ShapeError: rows of another policy.
        """
        wanted = {*self.timed, *self.held, *self.actions}
        if state and {*state} != wanted:
            rows = [(name, name in wanted, name in state) for name in sorted(wanted | {*state})]
            raise ShapeError("expected rows of this policy\n" + table(("variable", "expected", "got"), rows))
        device = next((p.device for p in self.parameters()), None)
        self._rows = {name: value.to(device) for name, value in state.items()}

    def __len__(self) -> int:
        """How many states are kept."""
        return len(next(iter(self._rows.values()))) if self._rows else 0

    def write(self, states: Values, actions: Mapping[str, Tensor]) -> None:
        """Keeps states ``[N, ...]``, the goal among them where the policy reads one, and what a plan does there,
        ``[N, size]`` by action.

        Raises:
            ShapeError: something that the policy reads or does is missing, or has other rows or another shape than
                before.
            NonFiniteError: a state or an action that is no finite number.
        """
        wanted = (*self.timed, *self.held)
        given = {k: states[k] for k in wanted if k in states} | {k: actions[k] for k in self.actions if k in actions}
        rows = {len(v) for v in given.values()}
        if len(given) != len(wanted) + len(self.actions) or len(rows) != 1:
            shown = [
                (k, "[N, ...]", list(given[k].shape) if k in given else "missing") for k in (*wanted, *self.actions)
            ]
            raise ShapeError(
                "expected what the policy reads, and does\n" + table(("variable", "expected", "got"), shown)
            )
        kept = {k: v.detach().clone() for k, v in given.items()}
        if self._rows and (off := [k for k, v in kept.items() if v.shape[1:] != self._rows[k].shape[1:]]):
            known = [(k, ["N", *self._rows[k].shape[1:]], list(kept[k].shape)) for k in off]
            raise ShapeError("expected rows as those before\n" + table(("variable", "expected", "got"), known))
        if wrong := [k for k, v in kept.items() if v.is_floating_point() and not bool(v.isfinite().all())]:
            raise NonFiniteError(
                f"{wrong[0]} holds NaN or infinity: expected finite numbers, of which a policy can learn"
            )
        self._rows = {k: torch.cat((self._rows[k], v)) for k, v in kept.items()} if self._rows else kept
        if self.capacity is not None:
            self._rows = {k: v[-self.capacity :] for k, v in self._rows.items()}

    def keep(self, plan: Plan, given: Values | None = None, steps: int = 1) -> None:
        """`write` of the first so many steps of plans, each action at the state that the plan goes through; ``given``
        are goals ``[B, ...]`` by name.
        """
        many = steps if steps <= next(iter(plan.actions.values())).shape[1] else -1
        if many < 1:
            raise ConfigError(f"expected steps from 1 to those of the plan, got {steps}")
        along = plan.states.span(0, many)
        held = {k: v.repeat_interleave(many, 0) for k, v in (given or {}).items() if k in self.held}
        flat = {k: v.flatten(0, 1) for k, v in along.series.items() if k in self.timed}
        self.write(flat | held, {k: v[:, :many].flatten(0, 1) for k, v in plan.actions.items()})

    def draw(self, batch: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """A batch for the loss: rows of what is kept, as sequences of one step."""
        if not len(self):
            raise ConfigError("nothing has been kept yet: distillation.keep(plan), or write(states, actions)")
        at = torch.randint(len(self), (batch,), generator=generator)
        return {k: v[at] if k in self.held else v[at].unsqueeze(1) for k, v in self._rows.items()}

    @torch.no_grad()
    def act(self, states: Values, *, explore: bool = False) -> dict[str, Tensor]:
        """Mode-1: what the policy does at states ``[N, ...]``, the goal among them: ``[N, size]`` by action.

        Its modes, or with ``explore`` draws of torch's generator. Between two ways that plans take the mode may stand
        still for ever, where a draw goes on.
        """
        known = State(states)
        for factor in acting(Joint.of(*self.factors), self.actions, known):
            seen = [known[c.key] for c in factor.conditions]
            known = known | {factor.variable.key: factor.draw(seen, deterministic=not explore)}
        return {name: known[name] for name in self.actions}

    @torch.no_grad()
    def rehearsed(
        self, dynamics: Dynamics, state: Values, horizon: int, given: Values | None = None
    ) -> dict[str, Tensor]:
        """The actions ``[B, H, size]`` of the policy rolled through a world from states ``[B, ...]``: modes, held in
        [−1, 1] where they are numbers. What a search begins with: ``warm=``, or with an axis more, ``proposals=``.
        """
        held = {k: v for k, v in (given or {}).items() if k in self.held}
        dream = dynamics.imagine(
            State({k: v for k, v in state.items() if k not in self.actions}), Joint.of(*self.factors),
            horizon=max(horizon - 1, 1), given=held or None, deterministic=True,
        )  # fmt: skip
        return {name: dream[name][:, :horizon].clamp(-1, 1) for name in self.actions}
