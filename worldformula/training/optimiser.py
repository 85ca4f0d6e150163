"""DreamerV3's optimiser: LaProp with adaptive gradient clipping, one for all losses (Hafner et al. 2025).

LaProp: Ziyin, Wang & Ueda 2020, arXiv 2002.04839 · AGC: Brock et al. 2021, arXiv 2102.06171.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from worldformula.errors import ConfigError

Schedule = Literal["constant", "linear", "cosine"]
LEAST = 0.1  # of the step size, where a schedule ends


@dataclass(frozen=True)
class ClipUnits:
    """What adaptive clipping takes as one tensor, where that is not the parameter itself.

    A module whose parameters hold what a paper keeps apart, or keep apart what it holds as one, says so in an attribute
    ``clip_units``: parameter name -> the rows of its parts, or -> a label that the parameters of one unit share.

    apart: parameter -> rows of its parts. together: parameter -> its unit.
    """

    apart: Mapping[Tensor, tuple[int, ...]] = field(default_factory=dict)
    together: Mapping[Tensor, object] = field(default_factory=dict)

    @classmethod
    def of(cls, *modules: nn.Module) -> ClipUnits:
        """What these modules, and all in them, say."""
        apart, together = dict[Tensor, tuple[int, ...]](), dict[Tensor, object]()
        for owner in (part for module in modules for part in module.modules()):
            for name, unit in getattr(owner, "clip_units", {}).items():
                if isinstance(unit, str):
                    together[owner.get_parameter(name)] = (id(owner), unit)
                else:
                    apart[owner.get_parameter(name)] = tuple(unit)
        return cls(apart, together)


class LaProp(Optimizer):
    """Clip each tensor's gradient relative to its weights, divide by its running size, then apply momentum.

    With n = number of updates of the tensor, this one included:

        g ← g · min(1, clip · max(min_norm, ‖w‖) / ‖g‖)              (norms over the whole tensor)
        ν ← β₂ν + (1 − β₂)g²        s = g / (√(ν / (1 − β₂ⁿ)) + eps)
        m ← β₁m + (1 − β₁)s         w ← w − lr_n · m / (1 − β₁ⁿ)

    Unlike Adam, the momentum averages gradients that are already scaled. lr_n = lr · min(1, (n − 1) / warmup): linear
    from zero, so the first update changes nothing when ``warmup`` > 0; see `learning_rate`. A parameter without a
    gradient is left alone. With ``decay`` d, a weight of two axes or more moves by − lr_n · d · w besides.

    lr: step size. betas: momentum and size. eps: guard of the division. clip: ratio of the clipping, 0 switches it off.
    min_norm: smallest ‖w‖ that counts. warmup: updates until the full step size. units: what counts as one tensor.
    decay: 0 switches it off. schedule, anneal: how, and until which update, the step size falls to a tenth.
    """

    def __init__(
        self, params: ParamsT, lr: float = 4e-5, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-20,
        clip: float = 0.3, min_norm: float = 1e-3, warmup: int = 1000, units: ClipUnits | None = None,
        decay: float = 0.0, schedule: Schedule = "constant", anneal: int = 0,
    ) -> None:  # fmt: skip
        if lr < 0 or not all(0 <= b < 1 for b in betas) or clip < 0 or warmup < 0:
            raise ConfigError(
                "LaProp expected lr ≥ 0, betas in [0, 1), clip ≥ 0 and warmup ≥ 0, "
                f"got lr={lr}, betas={betas}, clip={clip}, warmup={warmup}."
            )
        require_schedule(decay, schedule, warmup, anneal)
        defaults = {"lr": lr, "betas": betas, "eps": eps, "clip": clip, "min_norm": min_norm, "warmup": warmup}
        defaults |= {"decay": decay, "schedule": schedule, "anneal": anneal}
        super().__init__(params, defaults)
        self.units = units or ClipUnits()

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes: torch's optimisers name what they know, and know no units."""
        return {**super().__getstate__(), "units": self.units}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; returns the closure's value when one is given."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        for group in self.param_groups:
            # Parameters that have had equally many updates, usually all, share the scalars of the formula.
            by_step: dict[int, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_step.setdefault(self._count(p), []).append(p)
            for n, params in by_step.items():
                self._update(group, params, n)
        return value

    def _count(self, p: Tensor) -> int:
        state = self.state[p]
        if not state:
            state.update(step=torch.tensor(0.0), size=torch.zeros_like(p), momentum=torch.zeros_like(p))
        state["step"] += 1
        return int(state["step"].item())

    def _update(self, group: dict[str, Any], params: list[Tensor], n: int) -> None:
        beta1, beta2 = group["betas"]
        grads: list[Tensor] = [p.grad for p in params if p.grad is not None]
        sizes = [self.state[p]["size"] for p in params]
        momenta = [self.state[p]["momentum"] for p in params]
        if group["clip"]:
            grads = clip_to_weights(grads, params, group["clip"], group["min_norm"], self.units)
        torch._foreach_mul_(sizes, beta2)
        torch._foreach_addcmul_(sizes, grads, grads, 1 - beta2)
        # g / (√(ν/c) + eps) = √c · g / (√ν + eps·√c): the correction costs scalars, not a pass over the tensors.
        correction = math.sqrt(1 - beta2**n)
        divisors = torch._foreach_sqrt(sizes)
        torch._foreach_add_(divisors, group["eps"] * correction)
        torch._foreach_mul_(momenta, beta1)
        torch._foreach_addcdiv_(momenta, grads, divisors, (1 - beta1) * correction)
        rate = learning_rate(group["lr"], n, group["warmup"], group["schedule"], group["anneal"])
        if group["decay"] and (kernels := [p for p in params if p.ndim > 1]):
            torch._foreach_mul_(kernels, 1 - rate * group["decay"])
        torch._foreach_add_(params, momenta, alpha=-rate / (1 - beta1**n))


def trainable(parameters: Iterable[nn.Parameter]) -> int:
    """How many numbers of them are learnt."""
    return sum(p.numel() for p in parameters if p.requires_grad)


def learning_rate(lr: float, n: int, warmup: int, schedule: Schedule = "constant", anneal: int = 0) -> float:
    """Step size of update ``n`` (counted from 1): linear from 0 at n = 1, ``lr`` from n = warmup + 1 on; by ``linear``
    or ``cosine`` it falls from there to a tenth at n = anneal + 1, where it stays.
    """
    if n <= warmup:
        return lr * min(1.0, (n - 1) / warmup)
    if schedule == "constant":
        return lr
    part = min(1.0, (n - 1 - warmup) / (anneal - warmup))
    left = 1 - part if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * part))
    return lr * (LEAST + (1 - LEAST) * left)


def require_schedule(decay: float, schedule: str, warmup: int, anneal: int) -> None:
    """Raises ConfigError for a decay or a schedule that cannot be."""
    if decay < 0:
        raise ConfigError(f"expected decay ≥ 0, got {decay}")
    if schedule not in get_args(Schedule):
        raise ConfigError(f"expected schedule of {', '.join(get_args(Schedule))}, got {schedule!r}")
    if (schedule == "constant") != (anneal == 0) or (anneal and anneal <= warmup):
        raise ConfigError(
            f"expected schedule=constant with anneal=0, or linear or cosine with anneal above warmup={warmup}, the "
            f"update until which the step size falls; got schedule={schedule} and anneal={anneal}"
        )


@torch.no_grad()
def clip_to_weights(
    grads: list[Tensor], weights: list[Tensor], clip: float, min_norm: float, units: ClipUnits | None = None
) -> list[Tensor]:
    """New gradients with ``‖g‖ ≤ clip · max(min_norm, ‖w‖)`` per unit, else per tensor; nothing leaves the device."""
    units = units or ClipUnits()
    rows = [units.apart.get(w, ()) for w in weights]
    owners = [units.together.get(w) for w in weights]
    g = [part for grad, cut in zip(grads, rows, strict=True) for part in (grad.split(cut) if cut else (grad,))]
    w = [part for weight, cut in zip(weights, rows, strict=True) for part in (weight.split(cut) if cut else (weight,))]
    names = [owner for owner, cut in zip(owners, rows, strict=True) for _ in (cut or (0,))]
    sizes, norms = (_joint(torch._foreach_norm(side), names) for side in (w, g))
    limits = torch._foreach_clamp_min(sizes, min_norm)
    torch._foreach_mul_(limits, clip)
    # A gradient of zero gives limit / 0 = inf, which the upper bound of 1 removes.
    factors = torch._foreach_div(limits, norms)
    clipped = iter(torch._foreach_mul(g, torch._foreach_clamp_max(factors, 1.0)))
    return [torch.cat([next(clipped) for _ in cut]) if cut else next(clipped) for cut in rows]


def _joint(norms: tuple[Tensor, ...], names: list[object]) -> list[Tensor]:
    """The norm of the whole unit in the place of each of its members."""
    members: dict[object, list[Tensor]] = {}
    for norm, name in zip(norms, names, strict=True):
        if name is not None:
            members.setdefault(name, []).append(norm)
    whole = {name: torch.stack(found).norm() for name, found in members.items()}
    return [norm if name is None else whole[name] for norm, name in zip(norms, names, strict=True)]
