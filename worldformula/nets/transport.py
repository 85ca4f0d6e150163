r"""Transport: from noise at τ = 0 to data at τ = 1 along a velocity, as an invertible network and in its parts.

    y_τ = α_τ x + σ_τ ε,    u = α̇_τ x + σ̇_τ ε            interpolant, and the velocity of one pair
    dy/dτ = v_θ(y, τ, c)                                  of all pairs that pass through y: v = E[u|y_τ = y]
    log p(x|c) = log p_0(y_0) − ∫_0^1 tr ∂v/∂y dτ         instantaneous change of variables

(Lipman et al. 2023, arXiv:2210.02747; Albergo & Vanden-Eijnden 2023, 2209.15571; Chen et al. 2018, 1806.07366,
theorem 1.) Time runs as there: 0 is noise, 1 is data. Vectors ``[..., D]``, times ``[..., 1]``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError, ShapeError
from worldformula.nets.diffusion import Denoiser

Field = Callable[[Tensor, Tensor], Tensor]  # (y, τ) -> dy/dτ
Of = Callable[[Tensor], Tensor]
Predicts = Literal["velocity", "data", "noise"]
Solver = Literal["euler", "midpoint", "heun", "rk4"]
CALLS: Mapping[Solver, int] = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}
EDGE = 1e-3  # from an end where a prediction tells no velocity: 1/σ of data at τ = 1, 1/α of noise at τ = 0


# ------------------------------------------------------------------------------------------------------- interpolant


@dataclass(frozen=True)
class Interpolant:
    """α_τ and σ_τ with their derivatives by τ: how data and noise are mixed on the way.

    α_0 = σ_1 = 0 and α_1 = σ_0 = 1, so that the way begins at noise and ends at data.
    """

    alpha: Of
    sigma: Of
    alpha_rate: Of
    sigma_rate: Of

    def at(self, x: Tensor, noise: Tensor, tau: Tensor) -> Tensor:
        """y_τ."""
        return self.alpha(tau) * x + self.sigma(tau) * noise

    def rate(self, x: Tensor, noise: Tensor, tau: Tensor) -> Tensor:
        """u = dy_τ/dτ."""
        return self.alpha_rate(tau) * x + self.sigma_rate(tau) * noise

    def ends(self, y: Tensor, tau: Tensor, told: Tensor, predicts: Predicts) -> Ends:
        """Data, noise and velocity at y_τ, from one of them.

        Raises:
            ConfigError: ``predicts`` is none of the three.
        """
        a, s, da, ds = self.alpha(tau), self.sigma(tau), self.alpha_rate(tau), self.sigma_rate(tau)
        if predicts == "velocity":
            both = da * s - ds * a
            return Ends((s * told - ds * y) / both, (da * y - a * told) / both, told)
        if predicts == "data":
            noise = (y - a * told) / s
            return Ends(told, noise, da * told + ds * noise)
        if predicts == "noise":
            x = (y - s * told) / a
            return Ends(x, told, da * x + ds * told)
        raise ConfigError(f"expected predicts to be one of {', '.join(get_args(Predicts))}, got {predicts!r}")


@dataclass(frozen=True)
class Ends:
    """What is at both ends of the ways through a point, on average, and the velocity there."""

    x: Tensor
    noise: Tensor
    velocity: Tensor


def _turn(tau: Tensor) -> Tensor:
    return tau * (math.pi / 2)


INTERPOLANTS: Mapping[str, Interpolant] = {
    "linear": Interpolant(lambda t: t, lambda t: 1 - t, torch.ones_like, lambda t: -torch.ones_like(t)),
    "trigonometric": Interpolant(
        lambda t: _turn(t).sin(),
        lambda t: _turn(t).cos(),
        lambda t: math.pi / 2 * _turn(t).cos(),
        lambda t: -math.pi / 2 * _turn(t).sin(),
    ),
}
"""``linear``: the straight way, of Lipman et al. and of rectified flow. ``trigonometric``: of unit variance on the way
where data have it; the cosine schedule of diffusions (Albergo & Vanden-Eijnden 2023).
"""


def interpolant(name: str) -> Interpolant:
    """By name; raises ConfigError where there is none."""
    if name not in INTERPOLANTS:
        raise ConfigError(f"expected an interpolant among {', '.join(INTERPOLANTS)}, got {name!r}")
    return INTERPOLANTS[name]


# ---------------------------------------------------------------------------------------------------------- coupling


@torch.no_grad()
def optimal(noise: Tensor, x: Tensor, label: Tensor | None = None) -> Tensor:
    """The rows of the noise ``[N, D]``, each beside the row of x that it goes to at the least sum of ‖x − ε‖².

    Minibatch optimal transport (Tong et al. 2024, arXiv:2302.00482; Pooladian et al. 2023, 2304.14772), by SciPy's
    solver of assignments, in N³ at worst: .3 s for 1,000 rows. With a ``label`` ``[N, C]``, rows change places among
    those of one label alone: otherwise the noise of a label were not p_0, where its draws begin (Cheng & Schwing 2025,
    arXiv:2503.10636).

    Raises:
        ShapeError: other shapes than these.
        ConfigError: SciPy is not installed; a value that is no finite number.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise ConfigError("optimal transport needs SciPy: pip install 'worldformula[eval]'") from error
    if noise.shape != x.shape or x.ndim < 2 or (label is not None and label.shape[:1] != x.shape[:1]):
        also = "" if label is None else f" and label {list(label.shape)}"
        raise ShapeError(
            f"optimal transport pairs as many rows [N, D] of each: expected one shape, got noise {list(noise.shape)} "
            f"and x {list(x.shape)}{also}"
        )
    cost = torch.cdist(x.flatten(1).double(), noise.flatten(1).double()).square()
    if not cost.isfinite().all():
        raise ConfigError("optimal transport needs finite numbers: expected no NaN and no infinity, got some in x or ε")
    found = torch.arange(len(x))
    kinds = torch.zeros_like(found) if label is None else label.flatten(1).unique(dim=0, return_inverse=True)[1].cpu()
    for kind in kinds.unique():
        rows = (kinds == kind).nonzero().squeeze(-1)
        block = cost.cpu()[rows][:, rows]
        found[rows] = rows[torch.as_tensor(linear_sum_assignment(block.numpy())[1])]
    return noise[found.to(noise.device)]


# ------------------------------------------------------------------------------------------------------------ solver


def integrate(field: Field, y: Tensor, steps: int, solver: Solver = "heun", *, back: bool = False) -> Tensor:
    """y at τ = 1 from y at τ = 0, or the other way round where ``back``: ``steps`` equal steps of a Runge–Kutta method.

    Raises:
        ConfigError: no step, or a solver that is none.
    """
    if solver not in CALLS or not _count(steps):
        raise ConfigError(
            f"expected steps >= 1, a whole number, and a solver among {', '.join(CALLS)}, got {steps!r} and {solver!r}"
        )
    grid = [i / steps for i in range(steps + 1)]
    for now, after in pairwise(reversed(grid) if back else grid):
        y = y + (after - now) * _slope(field, y, now, after, solver)
    return y


def _count(n: object) -> bool:
    return isinstance(n, int) and not isinstance(n, bool) and n >= 1


def _shape_of(rate: Tensor, y: Tensor) -> ShapeError:
    return ShapeError(
        f"a velocity has the shape of the point where it is: expected {list(y.shape)}, got {list(rate.shape)}; make "
        "the network return one number for each feature"
    )


def _slope(field: Field, y: Tensor, now: float, after: float, solver: Solver) -> Tensor:
    """The mean rate from ``now`` to ``after``."""

    def rate(y: Tensor, tau: float) -> Tensor:
        found = field(y, torch.full_like(y[..., :1], tau))
        if found.shape != y.shape:
            raise _shape_of(found, y)
        return found

    h, middle, first = after - now, (now + after) / 2, rate(y, now)
    if solver == "euler":
        return first
    if solver == "midpoint":
        return rate(y + h / 2 * first, middle)
    if solver == "heun":
        return (first + rate(y + h * first, after)) / 2
    second = rate(y + h / 2 * first, middle)
    third = rate(y + h / 2 * second, middle)
    return (first + 2 * second + 2 * third + rate(y + h * third, after)) / 6


# ---------------------------------------------------------------------------------------------------------- networks


class Way(nn.Module):
    """y_τ of data, noise and τ, or its rate."""

    def __init__(self, way: Interpolant, rate: bool = False) -> None:
        super().__init__()
        self.read = way.rate if rate else way.at

    def forward(self, x: Tensor, noise: Tensor, tau: Tensor) -> Tensor:
        """Vectors of one batch."""
        return self.read(x, noise, tau)


class Dequantise(nn.Module):
    """Levels l = 0 … L−1 and noise w in [0, 1) to numbers 2(l + w)/L − 1 from −1 to 1."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Both of one shape."""
        return (x + w) * (2.0 / self.levels) - 1.0

    def back(self, x: Tensor) -> Tensor:
        """The levels, int64, of numbers; the outermost ones of what lies beyond."""
        return ((x + 1) * (self.levels / 2)).floor().clamp(0, self.levels - 1).long()


class Velocity(nn.Module):
    """v_θ(y, τ, c) for vectors: residual blocks that are told τ and c; the last layer starts at zero.

    features: D. context: width of c, 0 for none. units, blocks, dropout: of the residual network.
    """

    def __init__(
        self, features: int, context: int = 0, units: int = 128, blocks: int = 2, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.features, self.context = features, context
        self.net = Denoiser(features, 1, units, blocks, dropout, context, fastest=30.0)

    def forward(self, y: Tensor, tau: Tensor, context: Tensor | None = None) -> Tensor:
        """y ``[..., D]``, τ ``[..., 1]``, c ``[..., C]``; to ``[..., D]``."""
        if context is not None and context.shape[-1] != self.context:
            raise ShapeError(
                f"Velocity: expected a context of {self.context} numbers, got {context.shape[-1]}; "
                f"write Velocity({self.features}, {context.shape[-1]})"
            )
        found: Tensor = self.net(y, tau.squeeze(-1), context)
        return found


class AsVelocity(nn.Module):
    """The velocity of a network that predicts data or noise: of ``y_τ`` and what it tells of them.

    Within `EDGE` of an end it takes the network's word there, where both ends differ by no more.
    """

    def __init__(self, net: nn.Module, way: Interpolant, predicts: Predicts) -> None:
        super().__init__()
        self.net, self.way, self.predicts = net, way, predicts

    def forward(self, y: Tensor, tau: Tensor, context: Tensor | None = None) -> Tensor:
        """As of `Velocity`."""
        if self.predicts != "velocity":
            tau = tau.clamp(EDGE, 1 - EDGE)
        told = self.net(y, tau) if context is None else self.net(y, tau, context)
        return self.way.ends(y, tau, told, self.predicts).velocity


class Transport(nn.Module):
    """The flow along a velocity as an invertible network: ``Flow("p(x|c)", Transport(Velocity(2, 3)), shape=2)``.

    Drawing from such a factor integrates dy/dτ = v(y, τ, c) from τ = 0 to 1, its density from 1 to 0 with the trace of
    ∂v/∂y, D derivatives: exact up to the steps of the solver, so look whether more steps change it. It is trained
    by flow matching (`worldformula.models.flow_matching`), or by its density, which is slow.
    A velocity with dropout is another one at every call: evaluate it, or draws and densities belong to no single flow.

    Args:
        velocity: called as ``velocity(y, tau)``, or ``velocity(y, tau, context)`` where the factor has conditions.
        steps: of the solver.
        solver: ``heun`` and ``midpoint`` call the velocity twice a step, ``rk4`` four times, ``euler`` once.
        group: how many of the D derivatives are computed at once.

    Raises:
        ConfigError: no step, or a solver that is none, or a network that does not take a time.
    """

    def __init__(self, velocity: nn.Module, steps: int = 16, solver: Solver = "heun", group: int = 16) -> None:
        super().__init__()
        if not _takes_a_time(velocity):
            raise ConfigError(
                f"Transport: expected a velocity that is called as velocity(y, tau), with tau [...] of y [..., D], got "
                f"{type(velocity).__name__}\nVelocity(D) is one, or a module whose forward takes both"
            )
        if not _count(steps) or not _count(group) or solver not in CALLS:
            raise ConfigError(
                f"Transport: expected steps >= 1, group >= 1, whole numbers, and a solver among {', '.join(CALLS)}, "
                f"got {steps!r}, {group!r} and {solver!r}"
            )
        self.velocity, self.steps, self.solver, self.group = velocity, steps, solver, group

    def field(self, context: Tensor | None = None) -> Field:
        """The velocity under a context ``[..., C]``."""
        return lambda y, tau: self.velocity(y, tau) if context is None else self.velocity(y, tau, context)

    def inverse(self, u: Tensor, context: Tensor | None = None) -> Tensor:
        """x of the noise u: ``[..., D]``."""
        return integrate(self.field(context), u, self.steps, self.solver)

    def forward(self, x: Tensor, context: Tensor | None = None, probe: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The noise of x ``[..., D]``, and log |det ∂u/∂x| ``[...]``.

        ``probe`` ``[..., D]`` of independent ±1 estimates the trace by one derivative (Skilling–Hutchinson; FFJORD,
        Grathwohl et al. 2019, arXiv:1810.01367): the log-density is then right on average.
        """
        field = self.field(context)

        def both(state: Tensor, tau: Tensor) -> Tensor:
            rate, trace = divergence(field, state[..., :-1], tau, probe, self.group)
            return torch.cat((rate, trace.unsqueeze(-1)), -1)

        ends = integrate(both, torch.cat((x, torch.zeros_like(x[..., :1])), -1), self.steps, self.solver, back=True)
        return ends[..., :-1], ends[..., -1]


def _takes_a_time(velocity: nn.Module) -> bool:
    """Whether it can be called with y and tau, as far as its signature tells."""
    try:
        inspect.signature(velocity.forward).bind(None, None)
    except TypeError:
        return False
    return True


def divergence(
    field: Field, y: Tensor, tau: Tensor, probe: Tensor | None = None, group: int = 16
) -> tuple[Tensor, Tensor]:
    """The velocity ``[..., D]`` at y, and tr ∂v/∂y ``[...]``: exact, or estimated along ``probe``."""
    # Backwards, not forwards: a gradient of what forward mode finds through nn.LayerNorm takes its mean and deviation
    # for constants, and is wrong (pytorch/pytorch#196700).
    found: Any = torch.func.vjp(lambda y: field(y, tau), y)
    rate, pull = found
    if rate.shape != y.shape:
        raise _shape_of(rate, y)

    def along(direction: Tensor) -> Tensor:
        trace: Tensor = (pull(direction.expand_as(rate))[0] * direction).sum(-1)
        return trace

    if probe is not None:
        return rate, along(probe)
    axes = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
    several: Any = torch.func.vmap(along, chunk_size=group)
    return rate, several(axes).sum(0)
