r"""A critic that learns from a memory what is to come after a state (LeCun 2022, section 3.2, figure 6).

    V = v(s, g)                                  what is to come after s, where the goal is g
    returns       mean  ρ_τ[ y − V ]             y: a later cost, or the discounted sum of later costs
    transitions   mean  ρ_τ[ sg[c + d W] − V ]   W = \bar v(s', g), n steps later; c = Σ_{k ≤ n} γ^{k−1} IC_k,  d = γ^n

The memory (`worldformula.agent.recollection`) gives y, or c, d and s'. ρ_τ is `Expectile`: the mean at τ = ½, half of
the squared error; with a small τ the critic tells what the better continuations cost (Kostrikov et al. 2021,
arXiv:2110.06169, whose τ is of rewards, 1 − τ). Nothing here reaches an intrinsic cost, which only the memory asks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from torch import Tensor, nn

from worldformula.errors import ConfigError, FormulaError, MissingInputError, ShapeError
from worldformula.formula import Deterministic, E, Expectile, Expression, Value, sg
from worldformula.world import State

OWN = ("V", "W", "y", "c", "d")
"""What the losses call their own: value, later value, return, costs until then, and how much counts after."""


class MemoryCritic(nn.Module):
    """A critic of states, and the loss that it learns by.

    Args:
        net: features of a state ``[N, ...]`` in order, then the goal where there is one, to ``[N]`` or ``[N, 1]``.
        features: the variables of a state that it reads.
        goal: the variable of the goal, of the states of a dream and of the memory.
        learns: from "returns", or from "transitions" with a slow copy of itself.
        share: τ, the expectile of what follows that it learns; ½ is the mean.
        slow_rate: step of the slow copy towards itself after every update.

    Raises:
        ConfigError: no features, τ outside (0, 1), a rate outside (0, 1].
        FormulaError: a feature or a goal with a name of the loss's own.

    Attributes:
        loss: an expression of "y", or of "c", "d" and ``<feature>_prime``, beside the features and the goal.
    """

    loss: Expression

    def __init__(
        self, net: nn.Module, features: Iterable[str], goal: str | None = None, *,
        learns: Literal["returns", "transitions"] = "returns", share: float = 0.5, slow_rate: float = 0.01,
    ) -> None:  # fmt: skip
        super().__init__()
        self.net, self.features, self.goal, self.learns = net, tuple(features), goal, learns
        reads = (*self.features, *(() if goal is None else (goal,)))
        if not self.features or not 0 < share < 1 or not 0 < slow_rate <= 1 or learns not in ("returns", "transitions"):
            raise ConfigError(
                "expected features, share in (0, 1), slow_rate in (0, 1] and learns as 'returns' or 'transitions', got "
                f"{self.features}, {share}, {slow_rate} and {learns!r}"
            )
        if taken := [name for name in reads if name in OWN]:
            raise FormulaError(
                f"the losses of a critic call {', '.join(OWN)} their own; rename the variable {taken[0]}"
            )
        value = Deterministic(f"V = v({', '.join(reads)})", Number(net), shape=())
        if learns == "returns":
            told = E(value, Expectile(Value("y") - Value("V"), share))
        else:
            primed = {name: f"{name}'" for name in self.features}
            self.slow = value.slow(1 - slow_rate)  # in the module tree, so that a state_dict has its weights
            later = self.slow.rename(V="W", **primed)
            target = sg(Value("c") + Value("d") * Value("W"))
            told = E(value * later, Expectile(target - Value("V"), share))
        # Out of the module tree: it holds the same network, which must appear once in the state_dict.
        self.__dict__["loss"] = told.mean()

    def forward(self, states: State) -> Tensor:
        """What is to come after states ``[..., event]`` that hold the features, and the goal: ``[...]``.

        Raises:
            MissingInputError: they lack one.
            ShapeError: they do not say how many leading axes they have.
        """
        reads = (*self.features, *(() if self.goal is None else (self.goal,)))
        if missing := [name for name in reads if name not in states]:
            raise MissingInputError(
                f"the critic reads {', '.join(reads)}, and the states hold {', '.join(states)}, and not {missing[0]}\n"
                f"of a plan, say cost.task(given={{{missing[0]!r}: ...}}), a row for each episode"
            )
        axes = getattr(states, "axes", None)
        if axes is None:
            raise ShapeError("expected a State, whose axes are known: State({...}, axes)")
        lead = states[reads[0]].shape[:axes]
        found: Tensor = self.net(*(states[name].flatten(0, axes - 1) for name in reads))
        return found.view(lead)


class Number(nn.Module):
    """What a network says of each row, ``[N]``, also where it says it as ``[N, 1]``."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *parts: Tensor) -> Tensor:
        """What the network takes."""
        found: Tensor = self.net(*parts)
        return found.squeeze(-1) if found.ndim == 2 and found.shape[1] == 1 else found
