"""The Normal distribution squashed into −1 < x < 1: x = tanh u, u ~ N(loc, scale²); independent over an event's axes.

    log p(x) = log N(u; loc, scale²) − log(1 − x²),  u = artanh x

summed over the event, with log(1 − x²) = 2·(log 2 − |u| − log(1 + e^(−2|u|))), which is exact where x is rounded to 1.
The KL of two such distributions is that of the Normals. Entropy and mean have no closed form. The mode solves
u = loc + 2·scale²·tanh u, by Newton's method from the side of loc; of a wide one it lies close to an end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from worldformula.errors import NoClosedFormError
from worldformula.families.base import Parameter, Params, Shape, total
from worldformula.families.closed import register_kl
from worldformula.families.domains import Domain
from worldformula.families.loc_scale import LocScaleFamily
from worldformula.families.normal import kl_normal
from worldformula.families.special import (
    HALF_LOG_2PI,
    log,
    precise,
    precise_value,
    rounded,
)
from worldformula.families.writing import Sign

BETWEEN = Domain("between -1 and 1", lambda x: (x >= -1.0) & (x <= 1.0))
NEWTON_STEPS = 20  # of the mode: from above they never overshoot


@dataclass(frozen=True)
class TanhNormalFamily(LocScaleFamily):
    """tanh of a Normal, with its parameters ``loc`` and ``scale``; of a head, scale = softplus(·) + ``min_scale``.

    A value that rounding has put onto an end is scored as the nearest one inside.
    """

    name: ClassVar[str] = "tanh_normal"
    symbol: ClassVar[Sign] = Sign("TanhNormal", r"\mathrm{TanhNormal}")
    values: ClassVar[Domain | None] = BETWEEN

    def noise(
        self, shape: Shape, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Standard normal noise."""
        return torch.randn(shape, dtype=dtype, device=device, generator=generator)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """tanh(loc + scale·noise)."""
        loc, scale = params
        return torch.tanh(loc + scale * noise)

    def mode(self, params: Params) -> Parameter:
        """The most probable value; of two that tie, the positive one."""
        tensors = any(isinstance(p, Tensor) for p in params)
        loc, scale = (torch.as_tensor(p, dtype=torch.float64) for p in precise(params))
        far, twice = loc.abs(), 2.0 * scale.square()
        u = far + twice
        for _ in range(NEWTON_STEPS):
            bent = torch.tanh(u)
            slope = (1.0 - twice * (1.0 - bent.square())).clamp_min(1e-3)
            u = torch.maximum(u - (u - far - twice * bent) / slope, far)
        found = torch.where(loc < 0.0, -1.0, 1.0) * torch.tanh(u)
        return rounded(found, *params) if tensors else float(found)

    def mean(self, params: Params) -> Parameter:
        """None in closed form."""
        raise NoClosedFormError("tanh_normal: the mean has no closed form. Use the mode, or the mean of samples.")

    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """The log-density, summed over the last ``rank`` axes; -∞ where the value lies outside."""
        loc, scale = precise(params)
        x = precise_value(self, params, value)
        most = 1.0 - 0.5 * torch.finfo(value.dtype if value.is_floating_point() else torch.float32).eps
        u = torch.atanh(x.clamp(-most, most))
        squash = 2.0 * (math.log(2.0) - u.abs() - torch.log1p(torch.exp(-2.0 * u.abs())))
        z = (u - loc) / scale
        each = 0.5 * z * z + squash + (log(scale) + HALF_LOG_2PI)
        return rounded(-total(torch.where(x.abs() > 1.0, math.inf, each), rank), value, *params)

    def kl(self, q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """`kl_normal`, as tanh is one to one."""
        return kl_normal(q_params, p_params, rank, shape)


tanh_normal = TanhNormalFamily()


register_kl(TanhNormalFamily, TanhNormalFamily)(kl_normal)
