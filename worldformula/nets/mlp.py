"""Trunks and heads on vectors: MLP, the vector encoder and the vector decoder of DreamerV3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldformula.errors import ShapeError
from worldformula.nets.layers import Dense, Linear, flattened, join


class MLP(nn.Module):
    """``layers`` dense layers of ``units``, then one linear output layer scaled by ``outscale``.

    inputs: total width of all conditions, event axes flattened. outputs: width of the head.
    The conditions are flattened and concatenated in the order of the call, which is the order of the factor's header:
    ``p(r_t|h_t,z_t)`` calls ``net(h, z)`` and the first layer reads ``[h, z]``. stopped: no gradient reaches them.
    """

    def __init__(
        self, inputs: int, outputs: int, units: int, layers: int, outscale: float = 1.0, stopped: bool = False
    ) -> None:
        super().__init__()
        self.inputs, self.stopped = inputs, stopped
        self.trunk = nn.Sequential(*(Dense(inputs if i == 0 else units, units) for i in range(layers)))
        self.head = Linear(units if layers else inputs, outputs, outscale)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Conditions ``[N, ...]`` to the head ``[N, outputs]``."""
        first, *others = (*self.trunk, self.head)
        given = flattened(inputs, self.inputs, "MLP")
        x: Tensor = first(*((part.detach() for part in given) if self.stopped else given))
        for layer in others:
            x = layer(x)
        return x

    def last(self, layers: int) -> list[nn.Module]:
        """The last so many layers, at most all, the output layer among them."""
        hidden = list(self.trunk)
        return [*hidden[max(0, len(hidden) - layers + 1) :], self.head]

    def share(self, other: MLP) -> None:
        """Take the dense layers of another one, of the same sizes: they stay weights of the other alone."""
        if self.inputs != other.inputs or [p.shape for p in self.trunk.parameters()] != [
            p.shape for p in other.trunk.parameters()
        ]:
            raise ShapeError("share: expected dense layers of the same sizes")
        del self.trunk
        self.__dict__["trunk"] = other.trunk  # out of the module tree, or it would stand in a state_dict twice


def symlog(x: Tensor) -> Tensor:
    """``sign(x) · ln(1 + |x|)``."""
    return torch.sign(x) * torch.log1p(torch.abs(x))


@dataclass(frozen=True)
class VectorKey:
    """One vector observation: ``width`` numbers, or ``width`` integers below ``classes`` when ``classes`` > 0.

    encoded: the ``width`` numbers are one-hots already, which are read as they are.
    """

    width: int
    classes: int = 0
    encoded: bool = False

    @property
    def inputs(self) -> int:
        """Width after encoding."""
        return self.width * max(self.classes, 1)


class VectorEncoder(nn.Module):
    """Vector observations to a token ``[N, units]``: three dense layers on the squashed concatenation.

    keys: one VectorKey (or plain width) per observation, in the order of the call; agents sort them by name.
    Numbers pass symlog, integers become one-hot. A missing entry is written as −inf (numbers) or −1 (integers), and the
    whole key of that row then reads as zero.
    """

    def __init__(self, keys: Sequence[VectorKey | int], units: int, layers: int = 3) -> None:
        super().__init__()
        self.keys = tuple(VectorKey(k) if isinstance(k, int) else k for k in keys)
        widths = [sum(k.inputs for k in self.keys)] + [units] * (layers - 1)
        self.trunk = nn.Sequential(*(Dense(width, units) for width in widths))

    def forward(self, *observations: Tensor) -> Tensor:
        """Observations ``[N, width]`` (``[N]`` for width 1), one per key, to ``[N, units]``."""
        if len(observations) != len(self.keys):
            raise ShapeError(f"VectorEncoder expected {len(self.keys)} observations, got {len(observations)}.")
        dtype = next(self.trunk.parameters()).dtype
        encoded = [encode_key(x, key, dtype) for x, key in zip(observations, self.keys, strict=True)]
        return self.trunk(encoded[0] if len(encoded) == 1 else torch.cat(encoded, -1))


def encode_key(x: Tensor, key: VectorKey, dtype: torch.dtype) -> Tensor:
    """One observation ``[N, width]`` to symlog ``[N, width]`` or one-hot ``[N, width·classes]``; zero if missing."""
    x = join((x,), key.width, "VectorEncoder")
    if key.encoded:
        return x.to(dtype)
    if key.classes:
        missing = (x < 0).any(-1, keepdim=True)
        x = F.one_hot(x.long().clamp(min=0), key.classes).flatten(1).to(dtype)
    else:
        missing = torch.isneginf(x).any(-1, keepdim=True)
        x = symlog(x.to(dtype))
    return torch.where(missing, 0.0, x)


class VectorDecoder(nn.Module):
    """``(h, z)`` to the predicted observations ``[N, outputs]``: three dense layers on ``[z, h]``, one linear layer.

    The output is in symlog space: score it against ``symlog(x)`` with a squared error summed over the entries. Several
    keys decoded by one network are slices of the output in the order in which they were concatenated; integer keys take
    ``width · classes`` logits.

    outputs: the width of each key, or of all together.
    """

    def __init__(self, deter: int, stoch: int, outputs: int | Sequence[int], units: int, layers: int = 3) -> None:
        super().__init__()
        widths = (outputs,) if isinstance(outputs, int) else tuple(outputs)
        self.mlp = MLP(stoch + deter, sum(widths), units, layers)
        # Every key has an output layer of its own in the authors' code.
        self.clip_units = dict.fromkeys(("mlp.head.weight", "mlp.head.bias"), widths)

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        """h ``[N, D]``, z ``[N, G, K]`` or ``[N, S]``; returns ``[N, outputs]``."""
        return self.mlp(z, h)
