"""The recursions of a discrete chain, on tensors of log-probabilities: what emitted code calls.

Legend: B rows (or rows and steps), S states, T steps. All are of logarithms, and what is impossible is −∞: its gradient
is 0, where torch's own log-sum-exp of nothing but −∞ has NaN. A law of zeros stands for "nothing was seen yet": no law
of several states has it, as their probabilities would all be 1.

Reference: Rabiner 1989, "A tutorial on hidden Markov models", section III; the scaled forward variables of its section
V.A are here the normalised logarithms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from worldformula.families.base import Family
from worldformula.families.tensors import IMPOSSIBLE
from worldformula.formula.runtime import along


def log_sum(x: Tensor, axis: int = -1) -> Tensor:
    """log Σ exp over an axis; −∞ with the gradient 0 where all is −∞."""
    top = x.detach().amax(axis, keepdim=True)
    top = torch.where(top.isfinite(), top, 0.0)
    found = (x - top).exp().sum(axis)
    nothing = found == 0
    logarithm = torch.where(nothing, 1.0, found).log() + top.squeeze(axis)
    return torch.where(nothing, -torch.inf, logarithm)


def normalised(joint: Tensor) -> Tensor:
    """log p(z_t, x_t|x_{<t}) [B, S] to log p(z_t|x_{≤t}) [B, S]; all −∞ stays so: what was seen is impossible."""
    total = log_sum(joint).unsqueeze(-1)
    return joint - torch.where(total == -torch.inf, 0.0, total)


def unseen(law: Tensor) -> Tensor:
    """Where the law [B, S] of the step before says that nothing was seen yet: the chain begins, [B]."""
    return (law == 0).all(-1)


def predicted(law: Tensor, start: Tensor, pair: Tensor, *, first: int) -> Tensor:
    """log p(z_t|x_{<t}) [B, S] from the law of the step before, [B, S].

    Args:
        law: log p(z_{t-1}|x_{<t}), or zeros where the chain begins.
        start: log p(z_1) where ``first`` is 1, log p(z_0) where it is 0, [S] or [B, S].
        pair: log p(z_t|z_{t-1}) [S, S] or [B, S, S], the state of the step before first.
        first: the number of the step that ``start`` is of.
    """
    begins, start = unseen(law).unsqueeze(-1), start.to(pair.dtype)
    if first:
        return torch.where(begins, start, log_sum(law.unsqueeze(-1) + pair, -2))
    return log_sum(torch.where(begins, start, law).unsqueeze(-1) + pair, -2)


def joined(law: Tensor, start: Tensor, pair: Tensor, own: Tensor, *, first: int) -> Tensor:
    """log p(z_t, x_t|x_{<t}) [B, S]: `predicted`, and ``own``, log p(x_t|z_t) [B, S]. What is impossible is −∞, where
    tables of probabilities have a number for log 0: less itself, as `normalised` takes it, that would be log 1.
    """
    joint = predicted(law, start, pair, first=first) + own
    return joint.masked_fill(joint < 0.5 * IMPOSSIBLE, -torch.inf)


def _pairs(pair: Tensor, t: int) -> Tensor:
    """The transition into step t: [S, S] where all steps have one."""
    return pair if pair.ndim == 2 else pair[:, t]


def smoothed(laws: Tensor, pair: Tensor, begins: Tensor) -> Tensor:
    """p(z_t|x_{1:T}) [B, T, S] from p(z_t|x_{≤t}), backwards.

    γ_t(i) = α_t(i) Σ_j p(j|i) γ_{t+1}(j) / Σ_k α_t(k) p(j|k). Across a restart nothing is learnt of what was before.

    Args:
        laws: log p(z_t|x_{≤t}) [B, T, S].
        pair: log p(z_t|z_{t-1}), [S, S] or [B, T, S, S].
        begins: whether a sequence begins at the step, [B, T].
    """
    found = [laws[:, -1]]
    for t in range(laws.shape[1] - 2, -1, -1):
        both = laws[:, t].unsqueeze(-1) + _pairs(pair, t + 1)
        ahead = log_sum(both, -2)
        gain = torch.where(ahead == -torch.inf, -torch.inf, found[-1] - torch.where(ahead == -torch.inf, 0.0, ahead))
        later = log_sum(both + gain.unsqueeze(-2), -1)
        found.append(torch.where(begins[:, t + 1, None], laws[:, t], later))
    return torch.stack(found[::-1], 1).exp()


def best_path(own: Tensor, pair: Tensor, start: Tensor, before: Tensor, *, first: int) -> Tensor:
    """The states of the most probable path, [B, T] (Viterbi 1967; Rabiner 1989, eqs. 32-35), of each sequence; of one
    that goes on from a given law, behind the state of the step before that fits it best.

    Args:
        own: log p(x_t|z_t) [B, T, S].
        pair: log p(z_t|z_{t-1}), [S, S] or [B, T, S, S].
        start: log p(z_1) or log p(z_0), as ``first`` says: [S] or [B, T, S].
        before: log p(z_{t-1}|x_{<t}) [B, T, S], zeros where a sequence begins at the step; the first one is read alone.
        first: the number of the step that ``start`` is of.
    """
    start, begins = start.to(own.dtype), unseen(before)
    best, back = before[:, 0].to(own.dtype), []
    for t in range(own.shape[1]):
        begin = start if start.ndim == 1 else start[:, t]
        new, step = begins[:, t, None], _pairs(pair, t)
        if first == 0:
            before = torch.where(new, begin, best)
            value, source = (before.unsqueeze(-1) + step).max(-2)
        else:
            value, source = (best.unsqueeze(-1) + step).max(-2)
            value = torch.where(new, begin, value)
        best = value + own[:, t]
        back.append((source, best))
    state = back[-1][1].argmax(-1)
    path = [state]
    for t in range(own.shape[1] - 1, 0, -1):
        source, _ = back[t]
        go_on = source.gather(-1, path[-1].unsqueeze(-1)).squeeze(-1)
        path.append(torch.where(begins[:, t], back[t - 1][1].argmax(-1), go_on))
    return torch.stack(path[::-1], 1)


def drawn_path(laws: Tensor, pair: Tensor, begins: Tensor, rng: torch.Generator | None) -> Tensor:
    """Numbers of states [B, T] from p(z_{1:T}|x_{1:T}), the last step first: z_t ∝ α_t(i) p(z_{t+1}|i).

    Args:
        laws: log p(z_t|x_{≤t}) [B, T, S].
        pair: log p(z_t|z_{t-1}), [S, S] or [B, T, S, S].
        begins: whether a sequence begins at the step, [B, T].
        rng: where the draws come from.
    """
    path: list[Tensor] = []
    for t in range(laws.shape[1] - 1, -1, -1):
        law = laws[:, t]
        if path:
            table = _pairs(pair, t + 1).expand(len(law), -1, -1)
            into = table.gather(-1, path[-1][:, None, None].expand(-1, law.shape[-1], 1)).squeeze(-1)
            law = torch.where(begins[:, t + 1, None], law, law + into)
        path.append(torch.multinomial(law.softmax(-1), 1, generator=rng).squeeze(-1))
    return torch.stack(path[::-1], 1)


# ------------------------------------------------------------------------------------------------------ tables of laws


DIRECT = {("one_hot", 1), ("categorical", 0)}  # families and ranks whose parameter is the law itself


class Values:
    """All values of a variable, for every row: [S, *batch, *shape], with the batch axes of another value. They have its
    type, or where that is of whole numbers the type of the weights of ``readers``.
    """

    def __init__(self, family: Family, shape: tuple[int, ...], name: str, readers: Sequence[nn.Module]) -> None:
        self.family, self.shape, self.readers, self.__name__ = family, shape, tuple(readers), f"values_of_{name}"

    def __call__(self, like: Tensor, *, rank: int) -> Tensor:
        """``like`` [S, *batch, *event], of ``rank`` event axes."""
        batch = like.shape[1 : like.ndim - rank]
        weights = (p for net in self.readers for p in net.parameters() if p.is_floating_point())
        typed = like if like.is_floating_point() else next(weights, like)
        values = in_type_of(self.family.support(self.shape).to(like.device), typed)
        return values.reshape(-1, *(1,) * len(batch), *self.shape).expand(-1, *batch, *self.shape)


class Every:
    """All values of a variable, once for all rows, [S, *shape], in the type of the weights that read them."""

    def __init__(self, family: Family, shape: tuple[int, ...], name: str) -> None:
        self.family, self.shape, self.__name__ = family, shape, f"every_{name}"

    def __call__(self, net: nn.Module) -> Tensor:
        """``net`` reads them."""
        like = next(p for p in net.parameters() if p.is_floating_point())
        return in_type_of(self.family.support(self.shape).to(like.device), like)


class Law:
    """log p of every value of a variable, from its parameters: [*batch, S], in the order of the family's support."""

    def __init__(self, family: Family, shape: tuple[int, ...], name: str) -> None:
        self.family, self.shape, self.__name__ = family, shape, f"law_of_{name}"

    def __call__(self, params: Any) -> Tensor:
        """Parameters of any batch axes."""
        if (self.family.name, len(self.shape)) in DIRECT and isinstance(params[0], Tensor):
            return params[0]  # normalised log-probabilities already, and those of what is impossible −∞
        rank = len(self.shape)
        batch, _ = self.family.shapes(params, rank)
        like = next((p for p in params if isinstance(p, Tensor)), torch.empty(0, dtype=torch.float64))
        values = in_type_of(self.family.support(self.shape).to(like.device), like)
        values = values.reshape(-1, *(1,) * len(batch), *self.shape).expand(-1, *batch, *self.shape)
        return self.family.log_prob(along(params, len(values)), values, rank).movedim(0, -1)


class Transition:
    """log p(z_t|z_{t-1}) [S, S] of a network that reads the state of the step before alone: it sees S rows, once."""

    def __init__(self, law: Law, stopped: bool) -> None:
        self.law, self.stopped, self.__name__ = law, stopped, f"transition{law.__name__.removeprefix('law')}"

    def __call__(self, net: nn.Module) -> Tensor:
        """The network on every value, in the type of its weights."""
        family, shape, like = self.law.family, self.law.shape, next(net.parameters())
        head = net(in_type_of(family.support(shape).to(like.device), like))
        table = self.law(family.params(head, shape, {}))
        return table.detach() if self.stopped else table


def in_type_of(values: Tensor, like: Tensor) -> Tensor:
    """Values of floating point in the type of another tensor, where that has one; class numbers stay whole."""
    return values.to(like.dtype) if values.is_floating_point() and like.is_floating_point() else values


def nothing(values: Tensor, *, rank: int) -> Tensor:
    """log 1 for every value of a variable of ``rank`` event axes: what data say that do not read it."""
    return torch.zeros(values.shape[: values.ndim - rank], dtype=values.dtype, device=values.device)


def last(x: Tensor, *, place: int, to: int = -1) -> Tensor:
    """A value whose sample axis of states becomes an axis of its event."""
    return x.movedim(place, to)


def apart(x: Tensor, *, place: int) -> Tensor:
    """An event axis as a sample axis again: of a value that is seen with that axis too, where both are the same."""
    return x.diagonal(0, place, -1).movedim(-1, place)


def paired(x: Tensor, *, froms: int, tos: int) -> Tensor:
    """[…, S₁ … S_n, S₁ … S_m] to […, S, S]: the states of several variables as one; ``tos`` alone to […, S]."""
    lead = x.shape[: x.ndim - froms - tos]
    return x.reshape(*lead, -1, x.shape[x.ndim - tos :].numel()) if froms else x.reshape(*lead, -1)
