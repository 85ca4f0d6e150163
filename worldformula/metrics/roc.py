"""How well numbers tell two kinds apart: the area under the curve of true against false alarms."""

from __future__ import annotations

from torch import Tensor


def auroc(high: Tensor, low: Tensor) -> float:
    """How probably one of ``high`` ``[N]`` is above one of ``low`` ``[M]``, ties counted half: the area under the ROC
    curve (Hanley and McNeil 1982, Radiology 143).
    """
    gap = high[:, None] - low[None]
    return float(((gap > 0).double() + 0.5 * (gap == 0).double()).mean())
