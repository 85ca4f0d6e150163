"""Networks of TD-MPC2: dense layers with a layer norm and Mish, latents on simplices, an ensemble of Q-functions.

Hansen, Su & Wang 2024 (arXiv:2310.16828); layer lists of the authors' code. Weights begin as Normal(0, 0.02²), biases
at zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling

from worldformula.errors import ConfigError
from worldformula.nets.layers import join

STD = 0.02  # of weights at the start; the authors truncate at ±2, a hundred deviations


class SimNorm(nn.Module):
    """A softmax within each group of ``group`` neighbours: ``[..., L]`` as L / group points on simplices."""

    def __init__(self, width: int, group: int = 8) -> None:
        super().__init__()
        if group < 1 or width % group:
            raise ConfigError(f"expected a width of whole groups of {group}, got {width}")
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        """``[..., L]`` to the same shape."""
        return x.unflatten(-1, (-1, self.group)).softmax(-1).flatten(-2)


class Mish(nn.Module):
    """x·tanh(softplus x) of each element (Misra 2019, arXiv:1908.08681)."""

    def forward(self, x: Tensor) -> Tensor:
        """``[...]`` to the same shape."""
        return mish(x)


def mish(x: Tensor) -> Tensor:
    """x·tanh(softplus x). Searches on a CPU spend half their time here, so there it is x·n/(n + 2), n = eˣ(eˣ + 2)."""
    if torch.is_grad_enabled() or x.device.type != "cpu" or is_compiling():
        return F.mish(x)
    w = x.clamp(max=20.0).exp_()
    n = (w + 2).mul_(w)
    return n.div_(n + 2).mul_(x)


class Normed(nn.Module):
    """Dense layers with a layer norm and Mish, on all conditions side by side, then a linear layer.

    Args:
        inputs: width of the conditions together.
        outputs: width of the result.
        hidden: widths of the layers before the last one.
        simplices: numbers of a simplex: the last layer has a norm too, and `SimNorm`; 0 is a linear one.
        silent: the last layer's weights begin at zero.
    """

    def __init__(
        self, inputs: int, outputs: int, hidden: Sequence[int], *, simplices: int = 0, silent: bool = False
    ) -> None:
        super().__init__()
        self.inputs, layers, width = inputs, list[nn.Module](), inputs
        for units in hidden:
            layers += [dense(width, units), nn.LayerNorm(units), Mish()]
            width = units
        layers.append(dense(width, outputs, 0.0 if silent else STD))
        if simplices:
            layers += [nn.LayerNorm(outputs), SimNorm(outputs, simplices)]
        self.layers = nn.Sequential(*layers)

    def forward(self, *conditions: Tensor) -> Tensor:
        """Conditions ``[N, ...]`` in the order of the header to ``[N, outputs]``."""
        found: Tensor = self.layers(join(conditions, self.inputs, "Normed"))
        return found


def dense(inputs: int, outputs: int, std: float = STD) -> nn.Linear:
    """A linear layer as it begins."""
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer


class Ensemble(nn.Module):
    """``members`` networks like `Normed` with two hidden layers, side by side: conditions to ``[N, members, outputs]``.

    Args:
        inputs, outputs: widths of one network.
        units: of both hidden layers.
        members: how many networks.
        kept: the share of the first hidden layer that a mask keeps, where the last condition is one, zeros and ones
            ``[N, members, units]``. What is kept is divided by it, as dropout does, before the norm.
    """

    def __init__(self, inputs: int, outputs: int, units: int, members: int, kept: float = 1.0) -> None:
        super().__init__()
        self.inputs, self.kept = inputs, kept
        widths = ((inputs, units), (units, units), (units, outputs))
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(members, i, o)) for i, o in widths)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(members, 1, o)) for _, o in widths)
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(members, 1, units)) for _ in range(2))
        self.shifts = nn.ParameterList(nn.Parameter(torch.zeros(members, 1, units)) for _ in range(2))
        for weight in self.weights[:-1]:
            nn.init.normal_(weight, std=STD)
        nn.init.zeros_(self.weights[-1])

    def forward(self, *conditions: Tensor) -> Tensor:
        """Conditions ``[N, n]`` in the order of the header, a mask last where there is one, to
        ``[N, members, outputs]``.
        """
        mask = conditions[-1] if conditions[-1].ndim == 3 else None
        read = conditions if mask is None else conditions[:-1]
        x = join(read, self.inputs, "Ensemble").expand(len(self.weights[0]), -1, -1)
        for i in range(2):
            x = torch.baddbmm(self.biases[i], x, self.weights[i])
            if mask is not None and not i:
                x = x * mask.transpose(0, 1) / self.kept
            x = mish(F.layer_norm(x, x.shape[-1:]) * self.scales[i] + self.shifts[i])
        return torch.baddbmm(self.biases[2], x, self.weights[2]).transpose(0, 1)


class Regressed(nn.Module):
    """symexp of the mean bin: logits ``[..., bins]`` of the symlog of a number as the number ``[...]``.

    The bins stand evenly between −reach and reach.
    """

    def __init__(self, bins: int, reach: float) -> None:
        super().__init__()
        self.bins, self.reach = bins, reach

    def forward(self, logits: Tensor) -> Tensor:
        """``[..., bins]`` to ``[...]``."""
        grid = torch.linspace(-self.reach, self.reach, self.bins, dtype=logits.dtype, device=logits.device)
        mean = (logits.softmax(-1) * grid).sum(-1)
        return torch.copysign(torch.expm1(mean.abs()), mean)


def symlog(x: Tensor) -> Tensor:
    """sign(x)·log(1 + |x|)."""
    return torch.copysign(torch.log1p(x.abs()), x)
