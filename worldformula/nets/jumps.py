"""Networks of jumps: from a state and a code to what lies before the next change, how far away it is, what it earns."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldformula.nets.plain import Plain


class Body(nn.Module):
    """Three dense layers with ELU behind each."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.net = Plain(inputs, units, units, 2)

    def forward(self, *given: Tensor) -> Tensor:
        """z, c and A, to ``[N, U]``."""
        return nn.functional.elu(self.net(*given))


class Span(nn.Module):
    """The steps until the change, ``Normal(relu μ, elu(s) + 1.1)``."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.net = Plain(inputs, 2, units, 2)

    def forward(self, f: Tensor) -> dict[str, Tensor]:
        """F ``[N, U]``, to ``[N]`` each."""
        mean, raw = self.net(f).unbind(-1)
        return {"loc": mean.relu(), "scale": nn.functional.elu(raw) + 1.1}


class Elapsed(nn.Module):
    """The time that a jump takes: its steps until the change, at most ``longest``, and one more."""

    span: nn.Module

    def __init__(self, span: nn.Module, longest: float) -> None:
        super().__init__()
        self.__dict__["span"], self.longest = span, longest  # what is borrowed stands in no second state_dict

    def forward(self, f: Tensor) -> Tensor:
        """F ``[N, U]``, to ``[N]``."""
        found: Tensor = self.span(f)["loc"].clamp(0, self.longest) + 1
        return found


class Collected(nn.Module):
    """The mean reward on the way."""

    net: nn.Module

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.__dict__["net"] = net

    def forward(self, f: Tensor) -> Tensor:
        """F ``[N, U]``, to ``[N]``."""
        found: Tensor = self.net(f)[..., 0]
        return found


class Here(nn.Module):
    """The mean reward of the state that a jump begins at, by the coarse head."""

    reward: nn.Module

    def __init__(self, reward: nn.Module) -> None:
        super().__init__()
        self.__dict__["reward"] = reward

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        """z ``[N, G, K]`` and c ``[N, C]``, to ``[N]``."""
        found: Tensor = self.reward(z, c)[..., 0]
        return found


class Arrived(nn.Module):
    """The mean reward of a jump, (R − r_t)/γ + γ^Δ r_τ, by the coarse head of r_τ; n = Δ + 1."""

    reward: nn.Module

    def __init__(self, reward: nn.Module, discount: float) -> None:
        super().__init__()
        self.__dict__["reward"], self.discount = reward, discount

    def forward(self, z: Tensor, c: Tensor, collected: Tensor, here: Tensor, time: Tensor) -> Tensor:
        """z ``[N, G, K]``, c ``[N, C]``, G, b and n ``[N]``; ``[N, 1]``."""
        way = (collected - here)[..., None] / self.discount
        found: Tensor = way + self.discount ** (time - 1)[..., None] * self.reward(z, c)
        return found


def nothing(c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of a state that no jump led to: nothing was collected, there or where it began, and no time has passed."""
    return torch.zeros_like(c[..., 0]), torch.zeros_like(c[..., 0]), torch.zeros_like(c[..., 0])
