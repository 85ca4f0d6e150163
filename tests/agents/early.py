"""PlaNet, Dreamer v1 and v2 in plain PyTorch: networks by their weights, losses, dreams, returns and updates by hand.

Only what was drawn is asked of the agent, and turned back into noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldformula.agent.imagination import ImaginationAgent
from worldformula.envs import ActionSpec, Column

B, T, X, A = 3, 5, 4, 2
COLUMNS = {"body": Column("vector", (X,), "float32")}
NUMBERS, CHOICE = ActionSpec("continuous", A), ActionSpec("discrete", A)
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
elu = torch.nn.functional.elu


def rows(spec: ActionSpec = NUMBERS, seed: int = 0) -> dict[str, Any]:
    """Sequences, one with an end inside."""
    rng = np.random.default_rng(seed)
    first, last = np.zeros((B, T), bool), np.zeros((B, T), bool)
    first[:, 0], last[1, 2], first[1, 3] = True, True, True
    drawn = spec.random(rng, B * T)
    return {
        "body": rng.normal(size=(B, T, X)).astype(np.float32), "action": drawn.reshape(B, T, *drawn.shape[1:]),
        "reward": rng.normal(size=(B, T)).astype(np.float32), "is_first": first, "is_last": last, "is_terminal": last,
    }  # fmt: skip


def double(agent: ImaginationAgent) -> list[Any]:
    """The agent in float64, and a list that holds each dream that it has had."""
    agent.double()
    learn, imagine, dreams = agent.perception.learn, agent.world.imagine, list[Any]()

    def learnt(*given: Any) -> dict[str, Tensor]:
        return {k: v.double() if v.is_floating_point() else v for k, v in learn(*given).items()}

    def imagined(*given: Any, **options: Any) -> Any:
        dreams.append(imagine(*given, **options))
        return dreams[-1]

    agent.perception.learn, agent.world.imagine = learnt, imagined  # type: ignore[method-assign]
    return dreams


class Weights(dict[str, Tensor]):
    """The weights of an agent by name, as leaves of the hand's own."""

    def __init__(self, agent: ImaginationAgent) -> None:
        super().__init__({k: v.detach().clone().requires_grad_() for k, v in agent.named_parameters()})

    def of(self, *prefixes: str) -> list[str]:
        """The names that begin so."""
        return [name for name in self if name.startswith(prefixes)]

    def dense(self, name: str, *inputs: Tensor, bend: Callable[[Tensor], Tensor] = elu, end: bool = True) -> Tensor:
        """Linear layers 0, 2, 4, … with ``bend`` between them, and behind the last one unless it is the ``end``."""
        x, number = torch.cat(inputs, -1), 0
        while f"{name}.{number}.weight" in self:
            x = bend(x) if number else x
            x = x @ self[f"{name}.{number}.weight"].T + self[f"{name}.{number}.bias"]
            number += 2
        return x if end else bend(x)


class Adam:
    """Adam as PyTorch has it, with the norm of all its gradients clipped, and a share of the weights taken away."""

    def __init__(self, weights: Weights, names: list[str], lr: float, eps: float, clip: float, decay: float = 0.0):
        self.weights, self.names, self.lr, self.eps, self.clip, self.decay = weights, names, lr, eps, clip, decay
        self.first, self.second = ({n: torch.zeros_like(weights[n]) for n in names} for _ in range(2))
        self.count = 0

    def gradients(self, loss: Tensor) -> list[Tensor]:
        """Of its own weights."""
        found = torch.autograd.grad(loss, [self.weights[n] for n in self.names], retain_graph=True, allow_unused=True)
        return [torch.zeros_like(self.weights[n]) if g is None else g for n, g in zip(self.names, found, strict=True)]

    @torch.no_grad()
    def step(self, gradients: list[Tensor]) -> None:
        """Moves them."""
        norm = sum(g.square().sum() for g in gradients) ** 0.5
        scale = min(1.0, float(self.clip / (norm + 1e-6)))
        self.count += 1
        for name, gradient in zip(self.names, gradients, strict=True):
            g, w = gradient * scale, self.weights[name]
            self.first[name] = 0.9 * self.first[name] + 0.1 * g
            self.second[name] = 0.999 * self.second[name] + 0.001 * g * g
            m, v = self.first[name] / (1 - 0.9**self.count), self.second[name] / (1 - 0.999**self.count)
            w.mul_(1 - self.decay).sub_(self.lr * m / (v.sqrt() + self.eps))


def normal(x: Tensor, loc: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    """log N(x; loc, scale²) of each element."""
    scale = torch.as_tensor(scale, dtype=x.dtype)
    return -0.5 * ((x - loc) / scale).square() - scale.log() - HALF_LOG_2PI


def kl_normal(q: tuple[Tensor, Tensor], p: tuple[Tensor, Tensor]) -> Tensor:
    """KL of diagonal Normals, summed."""
    (m, s), (n, t) = q, p
    return (t.log() - s.log() + (s.square() + (m - n).square()) / (2 * t.square()) - 0.5).sum(-1)


def spread(head: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, and softplus + 0.1."""
    loc, raw = head.chunk(2, -1)
    return loc, torch.log1p(raw.exp()) + 0.1


def before(x: Tensor, first: Tensor, t: int) -> Tensor:
    """What was at the step before, zeros at a start."""
    old = torch.zeros_like(x[:, 0]) if t == 0 else x[:, t - 1]
    return old * (~first[:, t]).to(x).reshape(-1, *([1] * (old.ndim - 1)))


def lambda_returns(reward: Tensor, proceed: Tensor, value: Tensor, lam: float) -> Tensor:
    """R_t = r_t + c_t·((1 − λ)·V_{t+1} + λ·R_{t+1}) of all states but the last, ``[N, S − 1]``."""
    last, found = value[:, -1], list[Tensor]()
    for t in reversed(range(value.shape[1] - 1)):
        last = reward[:, t] + proceed[:, t] * ((1 - lam) * value[:, t + 1] + lam * last)
        found.insert(0, last)
    return torch.stack(found, 1)


def tensors(batch: Mapping[str, Any], choice: bool = False) -> dict[str, Tensor]:
    """The rows as float64, choices as one-hots; nothing is chosen at an end."""
    found = {k: torch.as_tensor(v) for k, v in batch.items()}
    a = torch.eye(A)[found["action"].long()] * ~found["is_last"][..., None] if choice else found["action"]
    return {
        "x": found["body"].double(), "a": a.double(), "r": found["reward"].double(), "first": found["is_first"],
        "alive": 1 - found["is_terminal"].double(),
    }  # fmt: skip
