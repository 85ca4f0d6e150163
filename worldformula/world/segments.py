"""Where the stretches of a sequence end, and what lies in them: macro steps, cut where something changes.

A boundary τ is a row at which something changes; the stretch of row t ends one row before the next boundary behind t.
No stretch reaches into the next episode.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldformula.errors import ShapeError, table


@dataclass(frozen=True)
class Segments:
    """The stretches of sequences ``[B, T]``.

    Attributes:
        next: τ(t), the next boundary behind each row, ``[B, T]``; of a row without one its own number.
        known: whether there is one, ``[B, T]``.
    """

    next: Tensor
    known: Tensor

    @classmethod
    def of(cls, boundary: Tensor, first: Tensor, terminal: Tensor | None = None) -> Segments:
        """τ(t) = min{τ > t : something changes at τ}, unless an episode begins before or there.

        Args:
            boundary: at which rows something changes, booleans ``[B, T]``.
            first: which rows begin an episode.
            terminal: rows that end one for good, which then count as boundaries.

        Raises:
            ShapeError: other shapes.
        """
        given = {"boundary": boundary, "first": first} | ({} if terminal is None else {"terminal": terminal})
        if boundary.ndim != 2 or any(x.shape != boundary.shape for x in given.values()):
            shown = table(("flags", "shape"), [(name, list(x.shape)) for name, x in given.items()])
            raise ShapeError(f"segments expected flags of one shape [B, T]\n{shown}")
        ends = boundary.bool() if terminal is None else boundary.bool() | terminal.bool()
        T = ends.shape[1]
        change, begin = _following(ends, T), _following(first.bool(), T)
        known = (change < begin) & (change < T)
        return cls(torch.where(known, change, torch.arange(T, device=ends.device)), known)

    def at(self, values: Tensor, before: int = 0) -> Tensor:
        """What a series ``[B, T, ...]`` is at τ(t), or ``before`` rows earlier; where there is no τ, at the row."""
        self._fit("at", values)
        rows = torch.where(self.known, self.next - before, self.next)
        index = rows.view(*rows.shape, *[1] * (values.ndim - 2)).expand(*rows.shape, *values.shape[2:])
        return values.gather(1, index)

    @property
    def elapsed(self) -> Tensor:
        """Rows from t to the one before τ, Δ_t = τ − 1 − t, ``[B, T]``; 0 where there is no τ."""
        rows = torch.arange(self.next.shape[1], device=self.next.device)
        return torch.where(self.known, self.next - 1 - rows, 0)

    def collected(self, reward: Tensor, discount: float) -> Tensor:
        """Σ_{t ≤ k < τ} γ^{k−t} r_k of a reward ``[B, T]``: that of the row itself, and what comes before τ."""
        rows = torch.arange(self.next.shape[1], device=reward.device)
        self._fit("collected", reward)
        ahead = rows - rows[:, None]  # [t, k]
        inside = (ahead >= 0) & (rows < self.next[:, :, None])
        counts = discount ** ahead.clamp_min(0).to(reward.dtype) * reward[:, None]
        return torch.where(inside, counts, 0.0).sum(-1)  # what lies outside is not read, NaN included

    def weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """1 where there is a boundary, over the share of such rows: a mean over all rows is then one over those."""
        known = self.known.to(dtype)
        return known / known.mean().clamp_min(1 / max(known.numel(), 1))

    def _fit(self, what: str, values: Tensor) -> None:
        """Raises `ShapeError` where a series is not one of these rows."""
        if values.shape[:2] != self.next.shape:
            raise ShapeError(
                f"{what}: expected a series [{', '.join(map(str, self.next.shape))}, ...] of the same rows, "
                f"got {list(values.shape)}"
            )


def _following(flags: Tensor, none: int) -> Tensor:
    """The number of the next row behind each that has the flag, ``[B, T]``; ``none`` where there is none."""
    rows = torch.arange(flags.shape[1], device=flags.device).expand_as(flags)
    later = torch.where(flags, rows, none)[:, 1:]
    found = later.flip(1).cummin(1).values.flip(1) if later.shape[1] else later
    return torch.cat((found, torch.full_like(rows[:, :1], none)), 1)
