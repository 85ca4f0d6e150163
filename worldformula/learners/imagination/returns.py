"""Returns that mix bootstrapped values and later returns: in imagination and on replayed experience.

Sequences are batch-first ``[B, T]``. A reward and a continuation belong to the *arriving* step: entry t + 1 is what
leaving state t brought, and entry 0 is never read. Both functions give the T − 1 returns R_0 … R_{T−2}.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldformula.errors import ShapeError, table


def lambda_return(reward: Tensor, cont: Tensor, value: Tensor, lam: float = 0.95) -> Tensor:
    """``R_t = r_{t+1} + c_{t+1}·((1 − λ)·V_{t+1} + λ·R_{t+1})``, ``R_{T−1} = V_{T−1}`` (Hafner et al. 2025, eq. 7).

    reward, cont, value: ``[B, T]``; cont is the probability of going on, discount included. Returns ``[B, T − 1]``.
    """
    require_shape(tuple(value.shape), value=value, reward=reward, cont=cont)
    reward, cont, ahead = reward[:, 1:], cont[:, 1:], value[:, 1:]
    return accumulate(reward + cont * ahead * (1 - lam), cont * lam, value[:, -1])


def state_return(reward: Tensor, cont: Tensor, value: Tensor, lam: float = 0.95) -> Tensor:
    """``R_t = r_t + c_t·((1 − λ)·V_{t+1} + λ·R_{t+1})``, ``R_{T−1} = V_{T−1}`` (Hafner et al. 2020, 2021).

    The reward is that of the state itself, so that entry 0 counts and the last one does not. All ``[B, T]``; returns
    ``[B, T − 1]``.
    """
    require_shape(tuple(value.shape), value=value, reward=reward, cont=cont)
    reward, cont = reward[:, :-1], cont[:, :-1]
    return accumulate(reward + cont * value[:, 1:] * (1 - lam), cont * lam, value[:, -1])


def replay_return(
    reward: Tensor, is_terminal: Tensor, is_last: Tensor, boot: Tensor, discount: float = 1 - 1 / 333, lam: float = 0.95
) -> Tensor:
    """The return along replayed experience, bootstrapped with imagined returns (DreamerV3, replay critic).

        R_t = r_{t+1} + γ·(1 − terminal_{t+1})·((1 − λ_{t+1})·boot_{t+1} + λ_{t+1}·R_{t+1})
        λ_{t+1} = λ·(1 − last_{t+1}),   R_{T−1} = boot_{T−1}

    So a step that ends an episode without being terminal bootstraps fully, and nothing leaks across episodes.
    reward, boot: ``[B, T]`` floats; is_terminal, is_last: ``[B, T]`` bools. Returns ``[B, T − 1]``.
    """
    require_shape(tuple(boot.shape), boot=boot, reward=reward, is_terminal=is_terminal, is_last=is_last)
    live = discount * (1 - is_terminal[:, 1:].to(boot.dtype))
    mix = lam * (1 - is_last[:, 1:].to(boot.dtype))
    return accumulate(reward[:, 1:] + live * (1 - mix) * boot[:, 1:], live * mix, boot[:, -1])


def reach(proceed: Tensor) -> Tensor:
    """``w_t = Π_{k ≤ t} c_k``, how far a dream is real at t. ``[N, S]``.

    The last state only bootstraps: its weight is 0, and the others make up for it in a mean over all S.
    """
    return until_last_state(proceed.cumprod(1))


class Reach(nn.Module):
    """`reach` where continuations hold no discount: ``w_t = γ^t Π_{k ≤ t} c_k``."""

    def __init__(self, discount: float) -> None:
        super().__init__()
        self.discount = discount

    def forward(self, proceed: Tensor) -> Tensor:
        """``[N, S]``."""
        return until_last_state((self.discount * proceed).cumprod(1) / self.discount)


def reached(proceed: Tensor, dropped: int = 1) -> Tensor:
    """``w_t = Π_{i < t} c_i``, how far a dream is real before t, and 0 at the last ``dropped`` states. ``[N, S]``.

    The others make up for these in a mean over all S.
    """
    steps = proceed.shape[1]
    before = torch.cat((torch.ones_like(proceed[:, :1]), proceed[:, : steps - dropped - 1]), 1).cumprod(1)
    return torch.cat((before * (steps / (steps - dropped)), proceed.new_zeros(len(proceed), dropped)), 1)


def until_last(last: Tensor) -> Tensor:
    """1 at the rows ``[B, T]`` that have a next one in their episode, and in the sequence; scaled as in `reach`."""
    return until_last_state(1 - last)


def until_last_state(weight: Tensor) -> Tensor:
    """Weights ``[N, S]`` of the first S − 1, so that their mean over S is that of S − 1."""
    steps = weight.shape[1]
    return torch.cat((weight[:, :-1] * (steps / (steps - 1)), weight.new_zeros(len(weight), 1)), 1)


def accumulate(gain: Tensor, decay: Tensor, end: Tensor) -> Tensor:
    """``R_t = gain_t + decay_t · R_{t+1}`` from ``R_T = end`` back. gain, decay, result ``[B, T]``; end ``[B]``."""
    returns = []
    for g, d in zip(reversed(gain.unbind(1)), reversed(decay.unbind(1)), strict=True):
        end = torch.addcmul(g, d, end)
        returns.append(end)
    return torch.stack(returns[::-1], 1)


def require_shape(shape: tuple[int, ...], **tensors: Tensor) -> None:
    """ShapeError unless every tensor has ``shape``, which must be ``[B, T]`` with T ≥ 2."""
    if len(shape) == 2 and shape[1] >= 2 and all(tuple(x.shape) == shape for x in tensors.values()):
        return
    rows = [(name, list(x.shape)) for name, x in tensors.items()]
    raise ShapeError(
        "returns expected batch-first sequences of one shape [B, T ≥ 2].\n"
        + table(("variable", "shape"), rows)
        + "\nDrop trailing axes of width 1 (x.squeeze(-1)), and give at least two steps."
    )


class StateReturns(nn.Module):
    """λ-returns of a dream ``[N, S]`` whose rewards are those of the states; at its last state the value there."""

    def __init__(self, lam: float) -> None:
        super().__init__()
        self.lam = lam

    def forward(self, reward: Tensor, proceed: Tensor, value: Tensor) -> Tensor:
        """``[N, S]`` each."""
        return torch.cat((state_return(reward, proceed, value, self.lam), value[:, -1:]), 1)


class Reached(nn.Module):
    """`reached`, with so many states dropped at the end."""

    def __init__(self, dropped: int) -> None:
        super().__init__()
        self.dropped = dropped

    def forward(self, proceed: Tensor) -> Tensor:
        """``[N, S]``."""
        return reached(proceed, self.dropped)
