"""Networks that compute in bfloat16, while weights, states, distributions and losses stay in float32.

An accelerator multiplies matrices of bfloat16 several times faster, and in it a network keeps less for its gradient. A
number of it has 8 significant bits, which sums over pixels, logits of latents and running states cannot be told by: so
each network alone runs in ``torch.autocast``, what goes in and what comes out is of float32, and optimisers see weights
and gradients of float32. Its range is that of float32, and no scale of the loss is needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError, near
from worldformula.formula.syntax.factor import Factor

Precision = Literal["float32", "bfloat16"]


class InBfloat16:
    """Around every call of a network: autocast before it, float32 behind it."""

    def __init__(self) -> None:
        self.entered: list[Any] = []

    def before(self, net: nn.Module, given: tuple[Any, ...]) -> None:
        """Begins."""
        context = torch.autocast(next(net.parameters()).device.type, torch.bfloat16)
        context.__enter__()
        self.entered.append(context)

    def behind(self, net: nn.Module, given: tuple[Any, ...], found: Any) -> Any:
        """Ends, whether the network has failed or not."""
        self.entered.pop().__exit__(None, None, None)
        return single(found)


def single(found: Any) -> Any:
    """What a network returns, with tensors of bfloat16 as float32."""
    if isinstance(found, Tensor):
        return found.float() if found.dtype == torch.bfloat16 else found
    if isinstance(found, dict):
        return {name: single(value) for name, value in found.items()}
    return type(found)(map(single, found)) if type(found) in (tuple, list) else found


def in_bfloat16(factors: Iterable[Factor]) -> list[nn.Module]:
    """Lets the networks of factors compute so from now on, each once; returns them. Those without weights of float32
    are left as they are.
    """
    found: dict[int, nn.Module] = {}
    for factor in factors:
        for own in factor.family_tree():
            if isinstance(own.net, nn.Module) and any(p.dtype == torch.float32 for p in own.net.parameters()):
                found.setdefault(id(own.net), own.net)
    for net in found.values():
        around = InBfloat16()
        net.register_forward_pre_hook(around.before)
        net.register_forward_hook(around.behind, always_call=True)
    return list(found.values())


def require_precision(word: str) -> None:
    """ConfigError for another word."""
    known = get_args(Precision)
    if word not in known:
        raise ConfigError(f"expected precision as one of {', '.join(known)}, got {word!r}.{near(word, known)}")
